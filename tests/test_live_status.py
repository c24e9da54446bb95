"""What a supervisor of feeds shows meanwhile, on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import pytest

from bmf_trt_seg import feed_states, metrics
from bmf_trt_seg.cli import live_status, redrawn
from bmf_trt_seg.cli.live_status import LiveStatus
from bmf_trt_seg.feed_states import FeedState
from bmf_trt_seg.live.supervisor import Report, Totals
from bmf_trt_seg.metrics import OutputMetrics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time; the test moves it."""
    now = [100.0]
    for module in (live_status, redrawn):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(feed_states, "_feeds", {})
    monkeypatch.setattr(logging.getLogger("bmf_trt_seg"), "handlers", [])
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    return now


def feeds(frames: int) -> list[Report]:
    metrics.open_stream("door", "source").state = "up"
    metrics.open_stream("yard", "source").state = "away"
    metrics.open_stream("door", "sink").outputs = [
        OutputMetrics("door.mp4", "file", "up"),
        OutputMetrics("rtmp://192.0.2.1/live/key", "push", "away"),
    ]
    running = [FeedState(name, (name,), "running") for name in ("door", "yard")]
    return [
        Report(running[0], Totals(frames + 5, frames, 5)),
        Report(running[1], Totals(10, 10, repeated=3, reconnects=2)),
        Report(FeedState("gate", ("gate",), "restarting", 4), Totals()),
    ]


def test_a_table_that_is_drawn_over_itself(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with LiveStatus(quiet=False) as status:
        for frames in range(0, 60, 5):
            status.update(feeds(frames))
            clock[0] += 0.2
        shown = terminal.getvalue()
        assert shown.count("feed  state") == 2, "once a second"
        rows = shown.rpartition("\x1b[J")[2].splitlines()
        assert [row.split() for row in rows] == [
            ["feed", "state", "fps", "in", "out", "dropped", "repeated", "reconnects", "restarts", "outputs"],
            ["door", "up", "25.0", "55", "50", "5", "0", "0", "0", "1/2"],
            ["yard", "away", "0.0", "10", "10", "0", "3", "2", "0", "0/0"],
            ["gate", "restarting", "0.0", "0", "0", "0", "0", "0", "4", "0/0"],
        ]
        assert shown.count("\x1b[4A\r\x1b[J") == 1
        with caplog.at_level("WARNING", "bmf_trt_seg"):
            logging.getLogger("bmf_trt_seg").warning("feed 'yard': back")
        assert terminal.getvalue().endswith("\x1b[4A\r\x1b[J"), "room for the line"
    assert not any(isinstance(one, redrawn._Eraser) for one in logging.getLogger("bmf_trt_seg").handlers)


def test_more_feeds_than_lines(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("COLUMNS", "20")
    with LiveStatus(quiet=False) as status:
        clock[0] += 2
        status.update(feeds(5))
        rows = terminal.getvalue().splitlines()
    assert rows[3] == "and 1 more"
    assert all(len(row) < 20 for row in rows[:4])


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with LiveStatus(quiet=False) as status:
        for second in range(25):
            status.update(feeds(25 * second))
            clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"1 of 3 feeds up, 'yard' is away, 'gate' is restarting, 'rtmp://192.0.2.1/live/***' of 'door' is away; "
        f"25.0 frames a second, {frames} in all, 5 dropped"
        for frames in (260, 510)
    ]


def test_quiet(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with LiveStatus(quiet=True) as status:
        clock[0] += 100
        status.update(feeds(5))
    assert capsys.readouterr().err == ""
