"""`bmf-trt-seg live`: real processes with real cameras, of which some go away, send nonsense, or send too much."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import pytest
import rtsp
from commands import runner
from live_runs import Live, frames_of, graph_file, live, recording, until

from bmf_trt_seg.cli import live as cli_live
from bmf_trt_seg.no_signal import mark_no_signal

HERE = Path(__file__).parent
Entry = dict[str, Any]


@pytest.fixture
def defaults(bright: Path, tmp_path: Path) -> Entry:
    return recording(tmp_path, bright)


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second, which a live source plays in a second."""
    return clips.write_clip(tmp_path_factory.mktemp("short") / "short.mp4", frames=25)


def needs_cameras() -> None:
    if rtsp.missing():
        pytest.skip(rtsp.missing())


def files(folder: Path, name: str) -> list[Path]:
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith(".")], "nothing half-written"
    return sorted((folder / "out").glob(f"{name}-*.mp4"))


def own_graph(path: Path, **trouble: int) -> str:
    """From a feed to a module that makes trouble; the file's name."""

    def node(number: int, path: str, entry: str, option: Entry, takes: list[str], gives: list[str]) -> Entry:
        return {
            "id": number, "scheduler": number, "input_manager": "immediate", "option": option,
            "module_info": {"name": entry.rpartition(".")[2], "type": "python", "path": path, "entry": entry},
            "meta_info": {"queue_length_limit": 1},
            "input_streams": [{"identifier": stream} for stream in takes],
            "output_streams": [{"identifier": stream} for stream in gives],
        }  # fmt: skip

    nodes = [
        node(0, "", "bmf_trt_seg.sources.LiveSource", {"url": "${URL}"}, [], ["live"]),
        node(1, str(HERE), "live_trouble.Trouble", trouble, ["live"], []),
    ]
    graph = {"option": {"scheduler_count": 2}, "input_streams": [], "output_streams": [], "nodes": nodes}
    path.write_text(json.dumps(graph))
    return path.name


def check_accounts(run: Live, folder: Path, name: str) -> None:
    """Every frame that came in or was repeated went out or was dropped, and what went out is in the files."""
    told = run.summary(name)
    assert told["frames_in"] + told["repeated"] == told["frames_out"] + told["dropped"], told
    assert frames_of(files(folder, name)) == told["frames_out"] > 0


# --- before it starts ---------------------------------------------------------------------------------------------


def test_a_build_is_ended_by_a_signal_that_none_of_its_threads_takes(
    tmp_path: Path, defaults: Entry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held: list[bool] = []

    def build(options: Any, quiet: bool, cancelled: Callable[[], bool]) -> None:
        def look() -> None:
            held.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))

        thread = threading.Thread(target=look)  # threads of TensorRT and CUDA outlive a build, and BMF's handlers come
        thread.start()
        thread.join()
        assert not cancelled()
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # threads of other tests may not hold it back
        cancelled()

    monkeypatch.setattr(cli_live, "build_engine", build)
    defaults["segment"]["backend"] = "tensorrt"
    feeds = tmp_path / "feeds.json"
    feeds.write_text(json.dumps({"defaults": defaults, "feeds": [{"name": "door", "url": "rtsp://127.0.0.1:9/door"}]}))
    ended = runner(capfd)("live", feeds)
    assert (ended.code, ended.err) == (128 + signal.SIGTERM, "bmf-trt-seg: stopped by SIGTERM\n")
    assert held == [True]


# --- cameras that come and go -------------------------------------------------------------------------------------


def test_the_mark_is_over_all_that_is_drawn(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    defaults["segment"] |= {"output": "mask", "classes": ["background"]}
    with rtsp.RtspServer() as door, live(tmp_path, [{"name": "door", "url": door.url}], defaults=defaults) as run:
        until(lambda: run.is_up("door"))
        door.kill()
        until(lambda: run.value("frames_repeated_total", stream="door") >= 5)
        run.stop()
    told = run.summary("door")
    lumas = [shown.planes[0] for path in files(tmp_path, "door") for shown in clips.read_clip(path)]
    drawn, marked = lumas[-told["repeated"] - 1].copy(), lumas[-1]
    mark_no_signal(drawn)
    assert np.abs(marked.astype(int) - drawn).mean() < 4


def test_another_size_begins_new_files(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    with rtsp.RtspServer() as door:
        feeds = [{"name": "door", "url": door.url, "new_size": "restart", "absence": "pause"}]
        with live(tmp_path, feeds, defaults=defaults) as run:
            until(lambda: run.is_up("door"))
            door.restart((320, 192))
            until(lambda: run.ready("door").get("restarts") == 1)
            until(lambda: run.is_up("door"))
            assert run.stop() == 128 + signal.SIGTERM
    sizes = []
    for path in files(tmp_path, "door"):
        with av.open(str(path)) as container:
            sizes.append((container.streams.video[0].width, container.streams.video[0].height))
    assert sorted(set(sizes)) == [(160, 96), (320, 192)]
    assert run.summary("door")["restarts"] == 1
    assert any("pictures are 320x192 now, and were 160x96" in one.get("message", "") for one in run.log())
    check_accounts(run, tmp_path, "door")


def test_one_camera_goes_away_and_comes_back_and_the_other_does_not_notice(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    with rtsp.RtspServer() as door, rtsp.RtspServer() as yard:
        feeds = [{"name": "door", "url": door.url}, {"name": "yard", "url": yard.url}]
        with live(tmp_path, feeds, defaults=defaults) as run:
            until(lambda: run.is_up("door") and run.is_up("yard"))
            assert run.value("shared_streams", model="bright.onnx") == 2
            assert run.value("shared_streams", model="bright.onnx #2") == -1, "loaded once"
            door.kill()
            until(lambda: run.ready("door")["state"] == "away")
            assert run.ready("yard")["ready"]
            before = run.value("frames_out_total", stream="yard")
            until(lambda: run.value("frames_out_total", stream="yard") > before + 10)
            door.start()
            until(lambda: run.value("reconnects_total", stream="door") == 1)
            until(lambda: run.ready("door")["ready"])
            assert run.value("shared_batch_size_count", model="bright.onnx") > 20
            begin = time.monotonic()
            assert run.stop() == 128 + signal.SIGTERM
            assert time.monotonic() - begin < 8
    assert run.states("door")[-4:] == ["up", "away", "up", "stopped"]
    assert run.states("yard")[-2:] == ["up", "stopped"]
    assert (run.summary("yard")["reconnects"], run.summary("yard")["restarts"]) == (0, 0)
    assert "stopped by SIGTERM" in run.summary("yard")["message"]
    for name in ("door", "yard"):
        check_accounts(run, tmp_path, name)
        assert len(files(tmp_path, name)) >= 2


def test_absent_at_the_start_and_a_wrong_password(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    with rtsp.RtspServer(user="anna", password="right-one") as door, rtsp.RtspServer(started=False) as yard:
        feeds = [
            {"name": "door", "url": door.url},
            {"name": "wrong", "url": door.url.replace("right-one", "${PASSWORD}")},
            {"name": "yard", "url": yard.url},
        ]
        with live(tmp_path, feeds, defaults=defaults, PASSWORD="wr0ng-one") as run:
            until(lambda: run.is_up("door"))
            wrong = until(lambda: (found := run.ready("wrong"))["state"] == "away" and found)
            assert "401" in wrong["last_error"]
            until(lambda: run.ready("yard")["state"] == "away")
            assert run.value("stream_up", stream="yard") == 0
            assert run.value("feed_running", feed="yard") == 1
            yard.start()
            until(lambda: run.is_up("yard"))
            assert run.ready("wrong")["state"] == "away"
            assert run.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert run.states("yard") == ["away", "up", "stopped"]
    for name in ("door", "yard"):
        check_accounts(run, tmp_path, name)
    assert run.summary("wrong")["frames_in"] == 0
    for secret in ("anna", "right-one", "wr0ng-one"):
        assert secret not in run.said() + "".join(run.answers)


def test_one_sends_nonsense_and_one_too_much_and_others_keep_their_rate(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    flood = clips.write_clip(tmp_path / "flood.mp4", frames=1800, rate=Fraction(300))
    with rtsp.RtspServer() as door, rtsp.RtspServer(garbage=True) as noise:
        feeds = [
            {"name": "door", "url": door.url},
            {"name": "noise", "url": noise.url, "connect_timeout": 0.6},
            {"name": "flood", "url": str(flood), "max_latency_ms": 100, "segment": {"style": "blur"}},
        ]
        with live(tmp_path, feeds, defaults=defaults) as run:
            until(lambda: run.is_up("door", 10) and run.is_up("flood", 10))
            came, went = (run.value(f"frames_{way}_total", stream="door") for way in ("in", "out"))
            until(lambda: run.value("frames_in_total", stream="door") >= came + 60)
            assert run.value("frames_out_total", stream="door") >= went + 60 * 0.8
            assert run.value("frames_out_total", stream="noise") <= 0
            assert run.ready("noise")["state"] in ("away", "connecting")
            assert run.stop() == 128 + signal.SIGTERM
    for name in ("door", "flood"):
        check_accounts(run, tmp_path, name)
    assert run.summary("door")["dropped"] <= 0.2 * run.summary("door")["frames_in"]
    assert run.summary("flood")["frames_in"] > 3 * run.summary("door")["frames_in"]


# --- graphs that fail and hang ------------------------------------------------------------------------------------


def test_a_graph_that_fails_is_started_again_alone(tmp_path: Path, defaults: Entry, short_clip: Path) -> None:
    needs_cameras()
    graph = own_graph(tmp_path / "own.json", fail_at=5)
    with rtsp.RtspServer() as camera:
        feeds = [
            {"name": "door", "url": camera.url},
            {"name": "bad", "graph": graph, "set": {"URL": camera.url}, "restart_backoff": 0.2},
        ]
        with live(tmp_path, feeds, defaults=defaults) as run:
            until(lambda: run.value("feed_restarts_total", feed="bad") >= 3)
            until(lambda: run.is_up("door"))
            begin = time.monotonic()
            assert run.stop() == 128 + signal.SIGTERM
            assert time.monotonic() - begin < 8
    failed = [one for one in run.log() if one.get("state") == "restarting"]
    waits = [float(one["message"].split("starts again in ")[1].split(" s")[0]) for one in failed]
    assert len(waits) >= 3
    for number, wait in enumerate(waits):
        assert 0.1 * 2**number - 0.06 <= wait <= 0.2 * 2**number + 0.06
    assert all("node 1 (Trouble) failed: ValueError: that was one frame too many" in one["message"] for one in failed)
    assert run.states("door")[-2:] == ["up", "stopped"]
    check_accounts(run, tmp_path, "door")
    assert run.summary("bad")["restarts"] >= 3


def test_feeds_that_end_by_themselves(tmp_path: Path, defaults: Entry, short_clip: Path) -> None:
    feeds = [{"name": "one", "url": str(short_clip)}, {"name": "two", "url": str(short_clip), "policy": "all"}]
    with live(tmp_path, feeds, defaults=defaults) as run:
        assert run.process.wait(20) == 0
    for name in ("one", "two"):
        check_accounts(run, tmp_path, name)
        assert run.states(name)[-1] == "ended"
    assert run.summary("two")["frames_out"] == 25


def test_a_graph_of_its_own_beside_another_feed(tmp_path: Path, defaults: Entry, bright: Path) -> None:
    needs_cameras()
    graph = graph_file(tmp_path / "own.json", bright, shared=True, batch_size=1)
    with rtsp.RtspServer() as camera:
        values = {"URL": camera.url, "OUT": str(tmp_path / "out" / "gate.mkv")}
        feeds = [{"name": "door", "url": camera.url}, {"name": "gate", "graph": graph.name, "set": values}]
        with live(tmp_path, feeds, defaults=defaults) as run:
            until(lambda: run.is_up("door") and run.is_up("gate"))
            assert run.value("shared_streams") == 2, "as many frames in a batch, so one network"
            assert run.stop() == 128 + signal.SIGTERM
    check_accounts(run, tmp_path, "door")
    told = run.summary("gate")
    assert told["frames_in"] == told["frames_out"] == frames_of([tmp_path / "out" / "gate.mkv"])


def test_a_feed_that_is_not_started_again_fails_for_good(tmp_path: Path, defaults: Entry, short_clip: Path) -> None:
    nowhere = f"rtsp://127.0.0.1:{rtsp.free_port()}/clip"
    feeds = [
        {"name": "good", "url": str(short_clip)},
        {"name": "gone", "url": nowhere, "max_retries": 1, "restart": False},
    ]
    with live(tmp_path, feeds, defaults=defaults) as run:
        assert run.process.wait(20) == 1
    check_accounts(run, tmp_path, "good")
    assert run.states("gone") == ["away", "failed", "failed"]
    assert "refused" in run.summary("gone")["message"]


def test_a_graph_that_hangs_for_good_ends_the_process(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    graph = own_graph(tmp_path / "own.json", hang_at=10)
    with rtsp.RtspServer() as camera:
        feeds = [
            {"name": "door", "url": camera.url},
            {"name": "bad", "graph": graph, "set": {"URL": camera.url}},
        ]
        with live(tmp_path, feeds, "--stuck-seconds", 1, "--stop-seconds", 1.5, defaults=defaults) as run:
            stuck = until(lambda: (found := run.ready("bad"))["state"] == "stuck" and found)
            assert not stuck["ready"]
            assert "no frame came out in 1 s" in stuck["last_error"]
            assert run.process.wait(15) == 1
    last = run.log()[-1]
    assert last["level"] == "error"
    assert last["message"].startswith("feed 'bad': it hangs: no frame came out in 1 s, though its camera sends")
    assert "could not be stopped in 1.5 s" in last["message"]
    assert run.states("door")[-2:] == ["up", "stopped"]
    check_accounts(run, tmp_path, "door")


def test_a_signal_while_it_starts(tmp_path: Path, defaults: Entry, short_clip: Path) -> None:
    with live(tmp_path, [{"name": "door", "url": str(short_clip)}], defaults=defaults) as run:
        assert run.stop() == 128 + signal.SIGTERM
    assert run.states("door")[-1] == "stopped"
    files(tmp_path, "door")


def test_a_stop_has_a_bound(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    graph = own_graph(tmp_path / "own.json", hang_at=10)
    with rtsp.RtspServer() as camera:
        feeds = [{"name": "door", "url": camera.url}, {"name": "bad", "graph": graph, "set": {"URL": camera.url}}]
        with live(tmp_path, feeds, "--stop-seconds", 1.5, defaults=defaults) as run:
            until(lambda: run.is_up("door") and run.value("frames_out_total", stream="bad") >= 10)
            begin = time.monotonic()
            assert run.stop() == 1
            assert time.monotonic() - begin < 8
    said = [one["message"] for one in run.log()[-2:]]
    assert said == ["feed 'bad': it could not be stopped in 1.5 s", "stopped by SIGTERM"]
    check_accounts(run, tmp_path, "door")


def test_a_second_signal_ends_it_at_once(tmp_path: Path, defaults: Entry) -> None:
    needs_cameras()
    graph = own_graph(tmp_path / "own.json", hang_at=10)
    with rtsp.RtspServer() as camera:
        feeds = [{"name": "bad", "graph": graph, "set": {"URL": camera.url}}]
        with live(tmp_path, feeds, "--stop-seconds", 60, defaults=defaults) as run:
            until(lambda: run.value("frames_out_total", stream="bad") >= 10)
            run.process.send_signal(signal.SIGTERM)
            with pytest.raises(Exception, match="timed out"):
                run.process.wait(1.5)
            assert run.stop(seconds=5) == 1
    said = [one["message"] for one in run.log()[-2:]]
    assert said == ["feed 'bad': it had not ended yet when a second signal came", "stopped by SIGTERM"]
