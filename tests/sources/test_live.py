"""LiveSource in BMF graphs, against a real RTSP server that is killed, frozen, restarted and replaced by nonsense."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clips
import live_sink
import pytest
import rtsp
from live_sink import Seen

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.sources.feed import feed
from bmf_trt_seg.sources.urls import masked

RATE = 25
STEP = 90000 // RATE
LONGEST_WAIT = 0.5  # seconds: the default of max_latency_ms, after which frames are dropped
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUICK = {"connect_timeout": 3.0, "read_timeout": 0.6, "backoff": 0.1, "backoff_max": 0.2}
_names = (f"live{number}" for number in itertools.count())
Camera = Callable[..., rtsp.RtspServer]


def live_graph(name: str, url: str, sink_seconds: float, **options: Any) -> dict[str, Any]:
    def node(number: int, entry: str, path: Path, option: dict[str, Any], takes: list[str], gives: list[str]) -> Any:
        return {
            "id": number, "scheduler": number, "input_manager": "immediate", "option": option,
            "module_info": {"name": entry.rpartition(".")[2], "type": "python", "path": str(path), "entry": entry},
            "input_streams": [{"identifier": stream} for stream in takes],
            "output_streams": [{"identifier": stream} for stream in gives],
        }  # fmt: skip

    source = {"url": url, "name": name, **QUICK, **options}
    nodes = [
        node(0, "bmf_trt_seg.sources.LiveSource", ROOT, source, [], ["live"]),
        node(1, "live_sink.CollectingSink", HERE, {"name": name, "seconds": sink_seconds}, ["live"], []),
    ]
    # by itself BMF lets some 30 frames wait between two nodes: with this, at most 2
    nodes[1]["meta_info"] = {"queue_length_limit": 1}
    return {
        "mode": "Normal", "option": {"scheduler_count": 2}, "input_streams": [], "output_streams": [],
        "nodes": nodes,
    }  # fmt: skip


class Running:
    """A graph from a feed to a sink, in a thread of its own."""

    def __init__(self, name: str, graph: dict[str, Any]) -> None:
        self.sink = live_sink.collected[name] = live_sink.Collected()
        self.failure: BaseException | None = None
        self._name, self._graph = name, graph
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.until(lambda: feed(name) is not None or not self._thread.is_alive(), 10)

    def _run(self) -> None:
        from bmf.lib import _bmf

        try:
            graph = _bmf.engine.Graph(json.dumps(self._graph), False, True)
            graph.start()
            graph.close()
        except BaseException as error:
            self.failure = error

    @property
    def frames(self) -> list[Seen]:
        return self.sink.frames

    @property
    def counts(self) -> StreamMetrics:
        counts = feed(self._name)
        assert counts is not None
        return counts

    @property
    def real(self) -> list[Seen]:
        """Frames that are no repetition."""
        return [frame for frame in self.frames if not frame.is_marked]

    def until(self, condition: Callable[[], bool], seconds: float = 8.0) -> bool:
        return self.sink.until(condition, seconds)

    def gets(self, frames: int, seconds: float = 8.0) -> None:
        """Wait for so many more real frames."""
        wanted = len(self.real) + frames
        assert self.until(lambda: len(self.real) >= wanted, seconds), f"{self.counts}, {len(self.frames)} frames"

    def ends(self, seconds: float = 8.0) -> float:
        """Wait for the end of the graph; how long that took."""
        begin = time.monotonic()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still running: {self.counts}"
        return time.monotonic() - begin

    def stop(self) -> float:
        """End it in good order; how long that took. Every frame must be accounted for."""
        metrics.request_stop()
        took = self.ends()
        assert self.failure is None
        assert self.sink.has_ended
        self.check_accounts()
        return took

    def check_accounts(self) -> None:
        counts = self.counts
        assert counts.state == "ended"
        assert counts.frames_out == len(self.frames)
        assert counts.frames_in == counts.frames_out - counts.held + counts.dropped, counts
        assert counts.held == len(self.frames) - len(self.real)
        assert all(later.pts > earlier.pts for earlier, later in itertools.pairwise(self.frames))
        assert {frame.time_base for frame in self.frames} <= {(1, 90000)}
        assert len({frame.size_wh for frame in self.frames}) <= 1


@contextmanager
def running(url: str, sink_seconds: float = 0.0, **options: Any) -> Iterator[Running]:
    name = next(_names)
    run = Running(name, live_graph(name, url, sink_seconds, **options))
    try:
        yield run
    finally:
        metrics.request_stop()
        run.ends()


def steps(frames: list[Seen]) -> list[int]:
    return [later.pts - earlier.pts for earlier, later in itertools.pairwise(frames)]


def numbers(frames: list[Seen]) -> list[int]:
    """The numbers of frames from the first one on, past the largest that fits into a picture."""
    return [(frame.number - frames[0].number) % rtsp.NUMBERS for frame in frames]


def drift_seconds(frames: list[Seen]) -> float:
    """By how much pts and the clock went apart between the first frame and the last."""
    return abs((frames[-1].at - frames[0].at) - (frames[-1].pts - frames[0].pts) / 90000)


@pytest.fixture(scope="module")
def striped_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, a key frame every 5."""
    return clips.write_clip(
        tmp_path_factory.mktemp("clips") / "striped.mp4",
        size_wh=rtsp.SIZE_WH, draw=rtsp.striped, options=(("g", "5"),), b_frames=0,
    )  # fmt: skip


# --- a camera that works ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("policy", ["latest", "all"])
def test_every_frame_comes_once_in_order_at_its_time(camera: Camera, transport: str, policy: str) -> None:
    with running(camera().url, transport=transport, policy=policy) as run:
        run.gets(30)
        assert run.counts.state == "up"
        run.stop()
    assert numbers(run.frames) == list(range(len(run.frames)))
    assert steps(run.frames) == pytest.approx([STEP] * (len(run.frames) - 1), abs=2)
    assert run.frames[0].size_wh == rtsp.SIZE_WH
    assert all(abs(frame.timestamp - frame.pts * 1_000_000 / 90000) <= 1 for frame in run.frames)
    assert (run.counts.dropped, run.counts.held, run.counts.reconnects) == (0, 0, 0)
    assert run.counts.last_error == ""


def test_two_feeds_do_not_disturb_each_other(camera: Camera) -> None:
    first, second = camera(), camera(size_wh=(320, 192))
    with running(first.url, absence="pause") as one, running(second.url, policy="all") as other:
        one.gets(3)
        other.gets(3)
        first.kill()
        assert one.until(lambda: one.counts.state == "away")
        other.gets(15)
        other.stop()
        one.ends()
        one.check_accounts()
    assert numbers(other.frames) == list(range(len(other.frames)))
    assert (other.counts.reconnects, other.counts.held) == (0, 0)
    assert {frame.size_wh for frame in other.frames} == {(320, 192)}


# --- a camera that goes away and comes back -----------------------------------------------------------------------


def test_killed_and_restarted_with_the_last_frame_held(camera: Camera) -> None:
    server = camera()
    with running(server.url, absence="hold") as run:
        run.gets(10)
        server.kill()
        assert run.until(lambda: run.counts.held >= 15), "frames come in the meantime"
        assert run.counts.state == "away"
        assert run.counts.last_error
        server.start()
        run.gets(10)
        run.stop()
    assert run.counts.reconnects == 1
    held = [index for index, frame in enumerate(run.frames) if frame.is_marked]
    last = next(index for index, frame in enumerate(run.frames) if frame.is_marked) - 1
    assert held == list(range(last + 1, last + 1 + len(held))), "all at one place"
    assert {run.frames[index].number for index in held} == {run.frames[last].number}
    assert drift_seconds(run.frames) < LONGEST_WAIT, "the times follow the clock"
    assert max(steps(run.frames[: held[-1] + 1])[1:]) < 90000 * 0.6, "no gap"


def test_killed_and_restarted_with_a_pause(camera: Camera) -> None:
    server = camera()
    with running(server.url, absence="pause") as run:
        run.gets(10)
        server.kill()
        assert run.until(lambda: run.counts.state == "away")
        assert run.until(lambda: len(run.frames) == run.counts.frames_in - run.counts.dropped), "those on their way"
        before = len(run.frames)
        assert not run.until(lambda: len(run.frames) > before, 0.8)
        server.start()
        run.gets(10)
        run.stop()
    assert (run.counts.reconnects, run.counts.held) == (1, 0)
    gaps = [step for step in steps(run.frames) if step > 2 * STEP]
    assert len(gaps) == 1
    assert gaps[0] > 0.8 * 90000
    assert drift_seconds(run.frames) < LONGEST_WAIT


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frozen_and_thawed(camera: Camera, transport: str) -> None:
    server = camera()
    with running(server.url, transport=transport, connect_timeout=0.6) as run:
        run.gets(10)
        server.freeze()
        assert run.until(lambda: run.counts.state == "away"), "the read time-out"
        assert run.until(lambda: run.counts.held >= 5)
        server.thaw()
        run.gets(10)
        run.stop()
    assert run.counts.reconnects == 1
    assert drift_seconds(run.frames) < LONGEST_WAIT


def test_a_short_hiccup_is_no_reconnect(camera: Camera) -> None:
    server = camera()
    with running(server.url, read_timeout=3.0, absence="pause") as run:
        run.gets(5)
        server.freeze()
        run.until(lambda: False, 0.4)
        server.thaw()
        run.gets(10)
        run.stop()
    assert run.counts.reconnects == 0


def test_absent_at_the_start(camera: Camera) -> None:
    server = camera(started=False)
    with running(server.url) as run:
        assert run.until(lambda: bool(run.counts.last_error))
        assert run.counts.state in ("connecting", "away")
        assert run.frames == [], "there is no frame that could be held"
        server.start()
        run.gets(10)
        assert run.counts.state == "up"
        run.stop()
    assert run.counts.held == 0


@pytest.mark.parametrize("size_wh", [(320, 192), (80, 64)])
def test_another_size_after_a_reconnect_is_scaled_to_the_first(camera: Camera, size_wh: tuple[int, int]) -> None:
    server = camera()
    with running(server.url, absence="pause") as run:
        run.gets(5)
        server.restart(size_wh)
        run.gets(10)
        run.stop()
    assert {frame.size_wh for frame in run.frames} == {rtsp.SIZE_WH}
    assert run.counts.reconnects == 1
    gaps = steps(run.frames)
    after = run.frames[gaps.index(max(gaps)) + 1 :]
    assert numbers(after) == list(range(len(after))), "the pictures are whole"


def test_another_size_after_a_reconnect_may_end_the_stream(camera: Camera) -> None:
    server = camera()
    with running(server.url, absence="pause", new_size="restart") as run:
        run.gets(5)
        server.restart((320, 192))
        run.ends()
    assert run.failure is None
    assert {frame.size_wh for frame in run.frames} == {rtsp.SIZE_WH}
    assert run.counts.ended_for == "the camera's pictures are 320x192 now, and were 160x96"
    assert run.counts.dropped_for["resized"] == 1
    assert run.counts.frames_in == run.counts.frames_out + run.counts.dropped


def test_a_served_file_begins_again_when_it_is_over(camera: Camera, striped_clip: Path) -> None:
    with running(camera(file=striped_clip).url, absence="pause") as run:
        assert run.until(lambda: run.counts.reconnects >= 1 and run.counts.state == "up", 12), run.counts
        run.stop()
    assert any(later.number < earlier.number for earlier, later in itertools.pairwise(run.frames))


# --- a camera that never comes ------------------------------------------------------------------------------------


def failed(url: str, **options: Any) -> tuple[Running, str]:
    """Run a feed that gives up; its message."""
    with running(url, **{"max_retries": 2, **options}) as run:
        run.ends()
    assert isinstance(run.failure, StreamError), run.failure
    message = str(run.failure)
    assert "\n" not in message
    assert run.counts.state == "ended"
    assert run.counts.last_error
    return run, message


def test_a_wrong_password_is_told_without_the_password(camera: Camera, caplog: pytest.LogCaptureFixture) -> None:
    server = camera(user="anna", password="right-one")
    url = server.url.replace("right-one", "wr0ng-one")
    run, message = failed(url)
    assert "401" in message
    assert run.frames == []
    for text in (message, run.counts.last_error, caplog.text, repr(run.counts)):
        assert "wr0ng-one" not in text
        assert "anna" not in text
    with running(server.url) as good:
        good.gets(3)
        good.stop()


_PROGRAM = """
import json, os, sys
sys.path.append(sys.argv[2])
import live_sink
from bmf_trt_seg.errors import SegError
from bmf_trt_seg.graph import run_graph
live_sink.collected["failing"] = live_sink.Collected()
try:
    run_graph(json.loads(sys.argv[1]))
except SegError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)  # as the command line does: FFmpeg, still reading from the camera, would outlive the interpreter
"""


def in_a_process(graph: dict[str, Any]) -> subprocess.Popen[str]:
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests"))
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(graph), str(HERE)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


@pytest.mark.parametrize(("path", "code"), [("clip", "401"), ("nowhere", "404")])
def test_the_process_ends_with_one_line(camera: Camera, path: str, code: str) -> None:
    server = camera(user="anna", password="right-one")
    url = server.url.replace("/clip", f"/{path}")
    url = url.replace("right-one", "wr0ng-one") if path == "clip" else url
    process = in_a_process(live_graph("failing", url, 0.0, max_retries=2))
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    lines = [line for line in err.splitlines() if line.startswith("StreamError:")]
    assert len(lines) == 1
    assert code in lines[0]
    for secret in ("wr0ng-one", "right-one", "anna"):
        assert secret not in out + err


def test_nobody_there_gives_up_after_the_retries() -> None:
    begin = time.monotonic()
    run, message = failed(f"rtsp://anna:s3cret@127.0.0.1:{rtsp.free_port()}/clip", backoff=0.2, backoff_max=5.0)
    assert 0.2 < time.monotonic() - begin < 3.0, "two waits: up to 0.2 and 0.4 s"
    assert "refused" in message.lower()
    assert "s3cret" not in message + run.counts.last_error


def test_a_peer_that_speaks_nonsense() -> None:
    with rtsp.odd_peer("garbage") as port:
        run, _ = failed(f"rtsp://127.0.0.1:{port}/clip", connect_timeout=0.5)
    assert run.frames == []


def test_a_peer_that_says_nothing() -> None:
    with rtsp.odd_peer("silent") as port:
        run, _ = failed(f"rtsp://127.0.0.1:{port}/clip", connect_timeout=0.3)
    assert run.frames == []


def test_rtsp_with_nonsense_for_h264_fails_and_does_not_hang(camera: Camera) -> None:
    run, _ = failed(camera(garbage=True).url, max_retries=0, connect_timeout=1.0)
    assert run.frames == []


def test_a_file_that_is_not_there_is_no_reason_to_wait(tmp_path: Path) -> None:
    run, message = failed(str(tmp_path / "missing.mp4"), max_retries=None)
    assert "missing.mp4" in message
    assert run.frames == []


# --- a consumer that is too slow ----------------------------------------------------------------------------------


def lateness(frames: list[Seen]) -> list[float]:
    """By how much each frame came later than its number says, against the promptest one, in seconds."""
    since = [frame.at - number / RATE for frame, number in zip(frames, numbers(frames), strict=True)]
    return [one - min(since) for one in since]


def test_a_slow_consumer_gets_the_latest_frames(camera: Camera) -> None:
    with running(camera().url, sink_seconds=0.12, policy="latest", max_latency_ms=300) as run:
        run.gets(35, 12)
        run.stop()
    counts = run.counts
    assert counts.dropped > 20
    assert counts.held == 0
    ages = lateness(run.real)
    assert max(ages) < 0.3 + 0.12 * 4, "the longest wait in the feed, and what BMF and the sink have in hand"
    assert max(ages[20:]) < max(ages[:20]) + 0.2, "it does not grow"
    assert all(later > earlier for earlier, later in itertools.pairwise(numbers(run.real)))


def test_with_policy_all_nothing_is_dropped(camera: Camera) -> None:
    with running(camera().url, sink_seconds=0.06, policy="all") as run:
        run.gets(30, 12)
        assert run.counts.dropped == 0
        frames = list(run.frames)
    assert numbers(frames) == list(range(len(frames)))
    assert steps(frames) == pytest.approx([STEP] * (len(frames) - 1), abs=2)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_file_plays_in_real_time_and_ends(striped_clip: Path, form: str) -> None:
    with running(form.format(striped_clip)) as run:
        run.ends()
    assert run.failure is None
    assert run.sink.has_ended
    run.check_accounts()
    assert [frame.number for frame in run.frames] == list(range(30))
    assert steps(run.frames) == [STEP] * 29
    assert run.frames[-1].at - run.frames[0].at == pytest.approx(29 / RATE, abs=0.15)


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absence", ["hold", "pause"])
@pytest.mark.parametrize("situation", ["up", "away", "frozen"])
def test_a_stop_ends_it_within_a_second(camera: Camera, situation: str, absence: str) -> None:
    server = camera()
    with running(server.url, absence=absence, read_timeout=5.0, backoff=10.0, backoff_max=10.0) as run:
        run.gets(3)
        if situation == "away":
            server.kill()
            assert run.until(lambda: run.counts.state == "away")
        elif situation == "frozen":
            server.freeze()
            seen = len(run.real)
            run.until(lambda: len(run.frames) > seen + 3, 0.7)
        assert run.stop() < 1.0


def test_a_stop_while_connecting_ends_it_within_a_second() -> None:
    with rtsp.odd_peer("silent") as port, running(f"rtsp://127.0.0.1:{port}/clip", connect_timeout=30.0) as run:
        run.until(lambda: False, 0.3)
        assert run.counts.state == "connecting"
        assert run.stop() < 1.0


def test_a_stop_while_a_slow_consumer_waits_with_policy_all(camera: Camera) -> None:
    with running(camera(fps=100).url, sink_seconds=0.1, policy="all") as run:
        assert run.until(lambda: run.counts.frames_in > 75, 12), "the feed's buffer is full"
        assert run.stop() < 2.0, "what waits between the nodes is not lost"


def test_sigterm_ends_the_process_though_the_camera_is_frozen(camera: Camera) -> None:
    server = camera()
    process = in_a_process(live_graph("failing", server.url, 0.0, read_timeout=20.0))
    try:
        time.sleep(2.5)
        server.freeze()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        _, err = process.communicate(timeout=20)
        assert time.monotonic() - begin < 2.5
        assert process.returncode == 1
        assert "GraphStopped" in err
    finally:
        process.kill()
        process.wait()


# --- addresses and options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://anna:s3cret@camera.example:554/stream1",
        "rtsp://anna:s3cret@127.0.0.1/a?b=c",
        "rtmp://anna:s3cret@host/app/key",
        "http://anna:s3cret@[::1]:8080/live.m3u8",
        "rtsp://anna:s3cret@with@at@host/clip",
        "rtsp://anna:s3cret/slash@host/clip",
        "rtsp://anna:s3cret%40x@host/clip",
        "rtsp://:s3cret@host/clip",
        "RTSP://anna:s3cret@host/clip",
        "https://host/live.m3u8?user=x&password=s3cret&n=1",
        "https://host/live.m3u8?n=1&token=s3cret",
        "[Errno 5] Input/output error: 'rtsp://anna:s3cret@host/clip'",
        "rtsp://a:s3cret@host/1 and rtsp://b:s3cret@host/2",
        "rtsp:/anna:s3cret@host/clip",
        "rtmp://host/live2/s3cret",
        "rtmps://host/app/instance/s3cret?x=1",
        "rtsp://host/user=x_password=s3cret_channel=1_stream=0.sdp",
        "srt://host:9000?mode=caller&passphrase=s3cret",
        "https://host/x?access_token=s3cret&api_key=s3cret&X-Amz-Signature=s3cret&loginpas=s3cret",
    ],
)
def test_addresses_are_shown_without_credentials(url: str) -> None:
    shown = masked(url)
    assert "s3cret" not in shown
    assert "anna" not in shown
    if "://" in url and "host" in url:
        assert "host" in shown


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://host:554/a", "rtsp://host/cam?channel=1&subtype=0", "rtmp://host/live", "http://[::1]/x?n=1",
        "clip.mp4", "/a/b@c.mp4", "mail a@b.c",
    ],
)  # fmt: skip
def test_what_has_no_credentials_is_shown_as_it_is(url: str) -> None:
    assert masked(url) == url


@pytest.mark.parametrize(
    "option",
    [
        {}, {"url": ""}, {"transport": "tpc"}, {"read_timeout": 0}, {"max_retries": -1}, {"policy": "newest"},
        {"absence": "wait"}, {"max_latency_ms": 0}, {"backof": 1.0},
    ],
)  # fmt: skip
def test_wrong_options_are_refused(option: dict[str, Any]) -> None:
    from bmf_trt_seg.sources.live import LiveSource

    url = {} if not option or "url" in option else {"url": "rtsp://127.0.0.1:1/x"}
    with pytest.raises(ConfigError) as raised:
        LiveSource(0, {**url, **option})
    assert "\n" not in str(raised.value)
