"""The supervisor of feeds in the process of the test, with graphs that fail when they are told to."""

from __future__ import annotations

import itertools
import json
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import clips
import pytest
import rtsp

from bmf_trt_seg import changes, feed_states, metrics, module
from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.backends.shared import shared_counts
from bmf_trt_seg.live import supervisor
from bmf_trt_seg.live.feeds import Feed, Restarts, read_feeds
from bmf_trt_seg.live.graphs import own_graph
from bmf_trt_seg.live.networks import loaded_networks
from bmf_trt_seg.live.signals import HeldSignals, Interrupted
from bmf_trt_seg.live.supervisor import Limits, Report, supervise
from bmf_trt_seg.live_outputs.encoder import Encoder
from bmf_trt_seg.sources.live import LiveSource

HERE = Path(__file__).parent
QUICK = Restarts(backoff=0.05, backoff_max=0.1)


class Signals:
    """Sends a signal when a condition is met, or after a while."""

    def __init__(self, until: Callable[[], bool] = lambda: False, number: int = 15) -> None:
        self._until, self._number = until, number
        self._deadline = time.monotonic() + 20

    def wait(self, seconds: float) -> int | None:
        time.sleep(min(seconds, 0.05))
        assert time.monotonic() < self._deadline
        if not self._until():
            return None
        self._until = lambda: False
        return self._number


@pytest.fixture(autouse=True)
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(feed_states, "_feeds", {})
    monkeypatch.setattr(logging.getLogger("bmf_trt_seg"), "propagate", True)  # the command line sets it off


def feed(name: str, url: str, model: Path | None = None, restarts: Restarts = QUICK, **trouble: int) -> Feed:
    """From LiveSource to a module that makes trouble, and on to a network, if there is one."""

    def node(number: int, path: str, entry: str, option: dict[str, Any], takes: list[str], gives: list[str]) -> Any:
        return {
            "id": number, "scheduler": number, "input_manager": "immediate", "option": option,
            "module_info": {"name": entry.rpartition(".")[2], "type": "python", "path": path, "entry": entry},
            "input_streams": [{"identifier": stream} for stream in takes],
            "output_streams": [{"identifier": stream} for stream in gives],
        }  # fmt: skip

    nodes = [
        node(0, "", "bmf_trt_seg.sources.LiveSource", {"url": url}, [], ["live"]),
        node(1, str(HERE), "live_trouble.Trouble", trouble, ["live"], ["left"] if model else []),
    ]
    if model is not None:
        nodes += [
            node(2, "", "bmf_trt_seg.module.SegmentModule", {"model": str(model)}, ["left"], ["drawn"]),
            node(3, str(HERE), "live_trouble.Trouble", {}, ["drawn"], []),
        ]
    content = {"option": {"scheduler_count": 4}, "input_streams": [], "output_streams": [], "nodes": nodes}
    graph = own_graph(content, name)
    assert not graph.problems
    return Feed(name, graph, restarts)


def run(feeds: Sequence[Feed], signals: Signals | None = None, **limits: float) -> tuple[list[Report], int | None]:
    held: Any = signals or Signals()
    return supervise(feeds, held, Limits(**limits))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds."""
    return clips.write_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=250)


def restarts_of(name: str) -> int:
    return next((one.restarts for one in feed_states.feed_states() if one.name == name), 0)


def test_counts_go_on_over_restarts_and_nothing_of_a_failed_graph_stays(clip: Path) -> None:
    (ended,), number = run([feed("bad", str(clip), fail_at=5)], Signals(lambda: restarts_of("bad") >= 3))
    assert number == 15
    assert ended.state.state in ("stopped", "failed")
    assert ended.totals.frames_out >= 4 * 5 - 1
    assert not [thread for thread in threading.enumerate() if thread.name in ("feed bad", "live bad")]


def test_frames_that_are_on_their_way_when_a_graph_fails_are_counted(
    clip: Path, bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = Encoder.encode, itertools.count(1)

    def failing(encoder: Encoder, frame: Any, *, is_key: bool) -> Any:
        if next(calls) == 20:
            raise RuntimeError("no more")
        return encode(encoder, frame, is_key=is_key)

    monkeypatch.setattr(Encoder, "encode", failing)
    entry = {"name": "torn", "url": str(clip), "segment": {"model": str(bright)}, "restart": False}
    outputs = [{"kind": "file", "path": str(tmp_path / "torn.mp4")}]
    path = tmp_path / "feeds.json"
    path.write_text(json.dumps({"feeds": [{**entry, "outputs": outputs}]}))
    (ended,), _ = run(read_feeds(path))
    totals = ended.totals
    assert ended.state.state == "failed"
    assert totals.frames_out >= 10
    assert totals.dropped
    assert totals.frames_in == totals.frames_out + totals.dropped


def test_feeds_go_on_when_nobody_reads_what_is_told_of_them(clip: Path) -> None:
    calls: list[int] = []

    def watch(_: Sequence[Report]) -> None:
        calls.append(1)
        raise BrokenPipeError

    held: Any = Signals(lambda: len(calls) >= 3)
    (ended,), number = supervise([feed("unread", str(clip))], held, Limits(), watch=watch)
    assert (ended.state.state, number) == ("stopped", 15)


def test_a_stop_does_not_wait_for_the_next_start(clip: Path) -> None:
    states = feed_states.feed_states
    waits = Restarts(backoff=60, backoff_max=60)
    begin = time.monotonic()
    signals = Signals(lambda: any(one.state == "restarting" for one in states()))
    (ended,), _ = run([feed("bad", str(clip), restarts=waits, fail_at=1)], signals)
    assert time.monotonic() - begin < 10
    assert ended.state.state == "stopped"
    assert "one frame too many" in ended.state.reason


def test_waits_grow_until_it_has_run_well(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def backoff_seconds(failures: int, first: float, longest: float) -> float:
        seen.append(failures)
        if len(seen) == 3:
            monkeypatch.setattr(supervisor, "_RAN_WELL_SECONDS", 0.0)
        return 0.01

    monkeypatch.setattr(supervisor, "backoff_seconds", backoff_seconds)
    run([feed("bad", str(clip), fail_at=1)], Signals(lambda: len(seen) >= 4))
    assert seen[:4] == [1, 2, 3, 1]


def test_a_graph_that_ends_though_its_camera_does_not_is_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "run_graph", lambda *_, **__: None)
    run([feed("camera", "rtsp://127.0.0.1:1/clip")], Signals(lambda: restarts_of("camera") >= 2))
    assert caplog.text.count("its graph came to an end, though its input has none") >= 2


def test_what_hangs_and_can_be_ended_is_started_again(bright: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A graph in which frames get lost between two nodes; that hangs for good in `test_cli_live` only."""
    if rtsp.missing():
        pytest.skip(rtsp.missing())
    with rtsp.RtspServer() as camera:
        feeds = [feed("bad", camera.url, bright, swallow_from=5)]
        (ended,), _ = run(feeds, Signals(lambda: restarts_of("bad") >= 1), stuck=0.5)
    assert "it hangs: no frame came out in 0.5 s, though its camera sends" in caplog.text
    assert ended.state.state == "stopped"


def test_a_feed_that_is_slow_or_away_does_not_hang(clip: Path) -> None:
    if rtsp.missing():
        pytest.skip(rtsp.missing())
    with rtsp.RtspServer() as camera:
        since: list[float] = []

        def is_away_for_long() -> bool:
            counts = metrics.stream("camera", "source")
            if not since and counts is not None and counts.frames_out > 5:
                camera.kill()
                since.append(time.monotonic())
            return bool(since) and time.monotonic() - since[0] > 4

        feeds = [feed("camera", camera.url)]
        feeds[0].graph.content["nodes"][0]["option"]["absence"] = "pause"
        (ended,), number = run(feeds, Signals(is_away_for_long), stuck=1.0)
    assert number == 15
    assert (ended.state.state, ended.state.restarts, ended.state.reason) == ("stopped", 0, "")


def test_networks_stay_loaded_while_feeds_are_started_again(
    bright: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded: list[str] = []
    open_ = OnnxRuntimeBackend._open
    monkeypatch.setattr(OnnxRuntimeBackend, "_open", lambda self: (loaded.append(self.model.name), open_(self))[1])
    feeds = [feed(name, str(clip), bright, fail_at=3) for name in ("one", "two")]
    for one in feeds:
        one.graph.content["nodes"][2]["option"]["shared"] = True
    with caplog.at_level("INFO", "bmf_trt_seg"), loaded_networks(feeds):
        assert not caplog.messages, "each feed says what it runs when it starts"
        run(feeds, Signals(lambda: restarts_of("one") >= 2 and restarts_of("two") >= 2))
    assert loaded == ["bright.onnx"]
    assert shared_counts() == []


def test_a_network_that_takes_long_to_load_does_not_hang(
    bright: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_, loaded, since = module.open_pipeline, threading.Event(), []

    def slow(*given: Any, **named: Any) -> Any:
        loaded.wait(20)
        return open_(*given, **named)

    def is_drawn() -> bool:
        counts = metrics.stream("slow", "source")
        if not since and counts is not None and counts.frames_in:
            since.append(time.monotonic())
        if since and time.monotonic() - since[0] > 1.0:  # five times as long as it may hang
            loaded.set()
        drawn = metrics.stream("slow")
        return drawn is not None and drawn.frames_out > 5

    monkeypatch.setattr(module, "open_pipeline", slow)
    (ended,), _ = run([feed("slow", str(clip), bright)], Signals(is_drawn), stuck=0.2)
    assert (ended.state.state, ended.state.restarts) == ("stopped", 0)
    assert "it hangs" not in caplog.text


@pytest.mark.parametrize(("number", "is_worker"), [(signal.SIGHUP, False), (signal.SIGTERM, True)])
def test_signals_that_come_twice_of_themselves_do_not_hurry(clip: Path, number: int, is_worker: bool) -> None:
    class Twice:
        def __init__(self) -> None:
            self._left = 0

        def wait(self, seconds: float) -> int | None:
            counts = metrics.stream("calm", "source")
            if not self._left and counts is not None and counts.frames_out > 3:
                self._left = 3
            if self._left > 1:  # one after the other, before anything can have ended
                self._left -= 1
                return number
            time.sleep(min(seconds, 0.05))
            return None

    held: Any = Twice()
    (ended,), found = supervise([feed("calm", str(clip))], held, Limits(), is_worker=is_worker)
    assert (ended.state.state, ended.state.reason, found) == ("stopped", "", number)


def test_options_of_the_file_hold_though_a_start_fails_early(
    bright: Path, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source of the second start cannot be made, before there is a SegmentModule that has the options."""
    begin, encode, starts, calls = LiveSource.__init__, Encoder.encode, itertools.count(1), itertools.count(1)

    def failing(source: Any, *given: Any) -> None:
        if next(starts) == 2:
            raise RuntimeError("can't start new thread")
        begin(source, *given)

    def torn(encoder: Encoder, frame: Any, *, is_key: bool) -> Any:
        if next(calls) == 5:
            raise RuntimeError("no more")
        return encode(encoder, frame, is_key=is_key)

    def feeds(alpha: float) -> list[Feed]:
        entry = {"name": "cam", "url": str(clip), "segment": {"model": str(bright), "alpha": alpha}}
        outputs = [{"kind": "file", "path": str(tmp_path / "cam.mp4")}]
        waits = {"restart_backoff": 0.2, "restart_backoff_max": 0.2}
        path = tmp_path / "feeds.json"
        path.write_text(json.dumps({"feeds": [{**entry, **waits, "outputs": outputs}]}))
        return read_feeds(path)

    class Hup(Signals):
        is_sent = False

        def wait(self, seconds: float) -> int | None:
            if not self.is_sent and any(one.state == "restarting" for one in feed_states.feed_states()):
                self.is_sent = True
                return signal.SIGHUP
            return super().wait(seconds)

    def is_third() -> bool:
        found = changes.stream("cam") if restarts_of("cam") >= 2 else None
        if found is not None:
            seen.append(found.options.alpha)
        return found is not None

    seen: list[float] = []
    monkeypatch.setattr(LiveSource, "__init__", failing)
    monkeypatch.setattr(Encoder, "encode", torn)
    monkeypatch.setattr(supervisor, "has_terminal", lambda: True)
    held: Any = Hup(is_third)
    supervise(feeds(0.2), held, Limits(), reread=lambda _: feeds(0.9))
    assert seen == [0.9]


def test_what_lasts_of_networks_that_are_not_shared_is_held_as_long_as_a_feed_has_them(
    bright: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []

    class Lasting:
        pass

    def lasting(_: OnnxRuntimeBackend) -> Lasting:
        one = Lasting()
        made.append(weakref.ref(one))
        return one

    monkeypatch.setattr(OnnxRuntimeBackend, "lasting", property(lasting))
    feeds = [feed("one", str(clip), bright)]
    with loaded_networks(feeds) as networks:
        networks.keep(feeds)
        assert [one() is not None for one in made] == [True]
        networks.keep([])
        assert [one() for one in made] == [None]


def test_signals_are_held_until_they_are_waited_for() -> None:
    handled: list[int] = []
    held_in_thread: list[bool] = []

    def send(number: int) -> None:
        signal.pthread_kill(threading.get_ident(), number)

    def look() -> None:
        held_in_thread.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))

    before = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    try:
        with HeldSignals() as held:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            send(signal.SIGTERM)
            assert handled == []
            assert held.wait(5) == signal.SIGTERM
            assert held.wait(0.01) is None
            assert not held.interrupted()
            send(signal.SIGHUP)
            assert not held.interrupted()
            assert held.wait(5) == signal.SIGHUP
            send(signal.SIGTERM)
            with pytest.raises(Interrupted, match="stopped by SIGTERM"):
                held.interrupted()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as BMF puts its own in their place
        assert handled == []
        send(signal.SIGTERM)
        assert handled == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert held_in_thread == [True]
