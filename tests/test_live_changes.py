"""`bmf-trt-seg live` while options and its feeds file change: what goes on, what begins again, what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import clips
import psutil
import pytest
import rtsp
from live_runs import PROGRAM, Live, frames_of, live, recording, until, write_feeds
from test_cli_live import files, needs_cameras
from test_live_supervisor import Signals, feed
from web_runs import live_graph, running

from bmf_trt_seg import changes, feed_states, metrics
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.supervisor import Limits, Report, supervise

Entry = dict[str, Any]
TOKEN = {"BMF_TRT_SEG_WEB_TOKEN": "s3cret"}


@pytest.fixture
def defaults(bright: Path, tmp_path: Path) -> Entry:
    """Light stripes are painted white."""
    return recording(tmp_path, bright, alpha=1.0, palette={"box": "#ffffff"})


def hang_up(run: Live) -> None:
    run.process.send_signal(signal.SIGHUP)


def said(run: Live, text: str) -> list[str]:
    return [one["message"] for one in run.log() if text in one.get("message", "")]


def options(run: Live, stream: str) -> Entry:
    found: Entry = json.loads(run.send(f"options/{stream}")[1])["options"]
    return found


def check_accounts(run: Live, folder: Path, name: str) -> None:
    """Over all starts: every frame that came in or was repeated went out or was dropped, and what went out is kept."""
    told = [one for one in run.log() if one.get("stream") == name and "frames_in" in one]
    for one in told:
        assert one["frames_in"] + one["repeated"] == one["frames_out"] + one["dropped"], one
    assert frames_of(files(folder, name)) == sum(one["frames_out"] for one in told) > 0


def brightest(paths: Sequence[Path]) -> list[int]:
    """The brightest luma of each picture."""
    found = []
    for path in sorted(paths, key=lambda path: path.stem):
        with av.open(str(path)) as container:
            found += [int(clips.plane_of(frame.planes[0]).max()) for frame in container.decode(video=0)]
    return found


def test_a_feeds_file_that_changes(tmp_path: Path, defaults: Entry, bright: Path) -> None:
    needs_cameras()
    with rtsp.RtspServer() as camera:
        door, yard, gate, mill = ({"name": name, "url": camera.url} for name in ("door", "yard", "gate", "mill"))
        with live(tmp_path, [door, yard, mill], defaults=defaults) as run:
            until(lambda: all(run.is_up(name) for name in ("door", "yard", "mill")))
            black = {**door, "segment": {"palette": {"box": "#000000"}}}
            coarse = {**mill, "encoder": {"crf": 40}}
            write_feeds(tmp_path, [gate, black, coarse], defaults)
            hang_up(run)
            until(lambda: said(run, "feeds file read again"))
            assert said(run, "feeds file read again") == [
                "feeds file read again: 3 feeds; added: gate; removed: yard; started again: mill"
            ]
            until(lambda: run.states("yard")[-1:] == ["stopped"] and run.is_up("gate") and run.is_up("mill"))
            assert [one["stream"] for one in json.loads(run.ask("readyz"))["streams"]] == ["gate", "door", "mill"]
            assert {one["stream"] for one in json.loads(run.ask("streams.json"))["streams"]} == {"gate", "door", "mill"}
            assert run.value("frames_out_total", stream="yard") == -1
            assert run.value("feed_running", feed="yard") == -1
            assert run.value("option_changes_total", stream="door") == 1
            assert run.value("shared_streams", model="bright.onnx") == 3, "yard's place is free"
            assert frames_of([path for path in (tmp_path / "out").iterdir() if "yard-" in path.name]) > 5
            assert not list((tmp_path / "out").glob(".yard-*")), "its files are complete"

            (tmp_path / "feeds.json").write_text('{"feeds": [')
            hang_up(run)
            until(lambda: said(run, "the feeds go on as they are"))
            broken = [{**gate, "segment": {"classes": ["cat"]}}, {"name": "new", "url": camera.url}]
            write_feeds(tmp_path, broken, defaults)
            hang_up(run)
            until(lambda: len(said(run, "the feeds go on as they are")) == 2)
            first, second = said(run, "the feeds go on as they are")
            assert first.endswith("feeds.json' is no JSON: line 1, column 12: Expecting value")
            assert second == (
                "the feeds go on as they are: feed 'gate': option 'classes': the model has no class 'cat'; it has "
                "0 background, 1 box"
            )
            assert "\n" not in first + second
            assert options(run, "gate")["classes"] is None
            frames = {name: run.value("frames_out_total", stream=name) for name in ("gate", "door", "mill")}
            until(lambda: all(run.value("frames_out_total", stream=name) > frames[name] + 30 for name in frames))
            assert run.stop() == 128 + signal.SIGTERM
    assert not said(run, "'new'")
    assert run.states("door") == ["up", "stopped"], "it ran all the time"
    assert run.states("mill") == ["up", "stopped", "up", "stopped"]
    for name in ("door", "yard", "gate", "mill"):
        check_accounts(run, tmp_path, name)
    assert run.summary("door")["restarts"] == run.summary("door")["reconnects"] == 0
    changed = next(one["message"] for one in run.log() if one.get("message", "").startswith("from frame"))
    first = int(changed.split()[2])
    assert changed == f'from frame {first} on: palette {{"box": "#000000"}}'
    lumas = brightest(files(tmp_path, "door"))
    assert min(lumas[1:first]) > 200, "the first may show stripes of no light at all"
    assert max(lumas[first : first + 10]) < 80
    assert sum(luma > 80 for luma in lumas[first:]) < len(lumas[first:]) / 20, "the camera's clip begins anew"


def test_options_over_http_hold_until_the_file_says_otherwise(
    tmp_path: Path, defaults: Entry, bright: Path, networks: Path
) -> None:
    needs_cameras()
    with rtsp.RtspServer() as camera:
        feeds = [
            {"name": "door", "url": camera.url, "new_size": "restart", "absence": "pause"},
            {"name": "yard", "url": camera.url, "absence": "pause"},
        ]
        with live(tmp_path, feeds, defaults=defaults, **TOKEN) as run:
            until(lambda: run.is_up("door") and run.is_up("yard"))
            status, answer = run.send("options/door", {"palette": {"box": "#000000"}, "style": "contour"})
            assert (status, json.loads(answer)["options"]["style"]) == (200, "contour")
            status, answer = run.send("options/door", {"palette": {"dog": "#000000"}, "alpha": 0.1})
            assert (status, json.loads(answer)) == (
                422, {"error": "option 'palette': no class 'dog' is shown; there are box"},
            )  # fmt: skip
            wanted = {"model": str(networks / "three.onnx"), "classes": ["light"], "palette": None}
            assert run.send("options/door", wanted)[0] == 200
            until(lambda: said(run, "from frame") and "contour" in options(run, "door")["style"])
            assert 1 <= run.value("option_changes_total", stream="door") <= 2
            assert run.value("option_changes_refused_total", stream="door") == 1
            assert run.value("shared_streams", model="three.onnx") == 1
            assert options(run, "yard")["model"] == str(bright), "each feed has its own"
            assert run.states("door") == run.states("yard") == ["up"]

            camera.restart((320, 192))
            until(lambda: run.ready("door").get("restarts") == 1 and run.is_up("door"))
            assert options(run, "door")["style"] == "contour"
            assert options(run, "door")["classes"] == ["light"]
            hang_up(run)
            until(lambda: said(run, "feeds file read again"))
            until(lambda: options(run, "door")["style"] == "blend" and options(run, "door")["model"] == str(bright))
            until(lambda: run.value("option_changes_total", stream="door") == 1)
            until(lambda: run.value("shared_streams", model="three.onnx") == -1)
            assert run.stop() == 128 + signal.SIGTERM
    assert run.summary("door")["restarts"] == 1
    for name in ("door", "yard"):
        check_accounts(run, tmp_path, name)
    assert "s3cret" not in run.said() + "".join(run.answers)


def test_options_of_a_graph_that_run_runs(tmp_path: Path, bright: Path) -> None:
    clip = clips.write_clip(tmp_path / "long.mp4", frames=100)
    graph = live_graph(tmp_path / "graph.json", str(clip), bright)
    with running(tmp_path, graph, **TOKEN) as program:
        run = Live(program.process, program.errors, program.url, TOKEN["BMF_TRT_SEG_WEB_TOKEN"])
        until(lambda: run.value("frames_out_total", stream="door") > 5)
        status, answer = run.send("options/door", {"output": "mask"})
        assert (status, json.loads(answer)["options"]["output"]) == (200, "mask")
        until(lambda: run.value("option_changes_total", stream="door") == 1)
        assert program.process.wait(20) == 0
    frames = clips.read_clip(tmp_path / "graph.mkv")
    assert len(frames) == 100
    assert int(frames[-1].planes[0].max()) > 230
    assert int(frames[0].planes[0].max()) < 225


def test_without_its_terminal_it_ends(tmp_path: Path, defaults: Entry) -> None:
    """SIGHUP has two meanings: the file has changed, or nobody sits there any more."""
    clip = clips.write_clip(tmp_path / "long.mp4", frames=500)
    path = write_feeds(tmp_path, [{"name": "door", "url": str(clip)}], defaults)
    ours, theirs = pty.openpty()
    errors = tmp_path / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [PROGRAM, "live", str(path), "--log-format", "json"],
            stdin=theirs, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
    os.close(theirs)
    try:
        until(lambda: '"state": "up"' in errors.read_text())
        process.send_signal(signal.SIGHUP)
        until(lambda: "feeds file read again" in errors.read_text())
        os.close(ours)
        assert process.wait(20) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert "stopped by SIGHUP" in errors.read_text()
    frames_of(files(tmp_path, "door"))


@pytest.fixture
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((metrics, "_streams"), (feed_states, "_feeds"), (changes, "_streams")):
        monkeypatch.setattr(module, name, {})


def test_feeds_that_come_and_go_leave_nothing_behind(tmp_path: Path, bright: Path, no_streams: None) -> None:
    """One stays, one comes and goes ten times, one is changed each time; all in the process of the test."""
    clip = str(clips.write_clip(tmp_path / "long.mp4", frames=1500))
    stays, comes = feed("stays", clip, bright), feed("comes", clip, bright)
    process = psutil.Process()
    seen: list[tuple[int, int]] = []
    left: list[Report] = []

    def is_up(name: str) -> bool:
        counts = metrics.stream(name)
        return counts is not None and counts.frames_out > 3

    def due() -> bool:
        """Whether what was asked for last is so."""
        if "comes" in now:
            return is_up("stays") and is_up("comes")
        if not is_up("stays") or feed_states.feed_state("comes") is not None:
            return False
        seen.append((threading.active_count(), process.num_fds()))
        return True

    def reread(running: Sequence[Feed]) -> list[Feed]:
        now[:] = ["stays"] if "comes" in now else ["stays", "comes"]
        read[0] += 1
        alpha = (len(left) % 10) / 10
        found = changes.stream("stays")
        assert found is not None
        changed = stays.graph.with_segments({"stays": found.options.model_copy(update={"alpha": alpha})})
        return [Feed("stays", changed, stays.restarts), *([comes] if "comes" in now else [])]

    class Hangups(Signals):
        """One after the other, when the one before is done with; and SIGTERM."""

        asked = 0

        def wait(self, seconds: float) -> int | None:
            time.sleep(0.02)
            assert time.monotonic() < self._deadline + 20
            if self.asked > read[0] or self.asked > 20 or not due():
                return None
            self.asked += 1
            return signal.SIGTERM if self.asked > 20 else signal.SIGHUP

    held: Any = Hangups()
    now, read = ["stays"], [0]
    ended, number = supervise([stays], held, Limits(), reread=reread, over=left.append)
    assert number == signal.SIGTERM
    assert [one.state.name for one in ended] == ["stays"]
    assert [(one.state.name, one.state.state) for one in left] == [("comes", "stopped")] * 10
    assert all(one.totals.frames_in == one.totals.frames_out + one.totals.dropped for one in [*left, *ended])
    assert ended[0].state.restarts == 0
    middle, last = seen[4], seen[-1]
    assert last[0] <= middle[0]
    assert last[1] <= middle[1]
