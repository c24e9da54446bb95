"""`bmf-trt-seg live --devices`: a process a device, of which some are killed, stopped, or find no feed to run."""

from __future__ import annotations

import io
import json
import queue
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import rtsp
from commands import runner
from live_runs import Live, frames_of, live, recording, until, write_feeds
from test_cli_live import files, needs_cameras, own_graph
from test_live_supervisor import Signals

from bmf_trt_seg.cli import redrawn
from bmf_trt_seg.cli.live_status import LiveStatus
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.feed_states import FeedState
from bmf_trt_seg.live.device_names import chosen_devices, environment, pinned_to, without_numbers
from bmf_trt_seg.live.devices import Fleet, supervise_devices
from bmf_trt_seg.live.feeds import Feed, read_feeds
from bmf_trt_seg.live.graphs import LiveGraph
from bmf_trt_seg.live.places import DeviceReport
from bmf_trt_seg.live.supervisor import Limits, Report, Totals
from bmf_trt_seg.live.worker import Probe
from bmf_trt_seg.metrics import OutputMetrics

Entry = dict[str, Any]
TOKEN = {"BMF_TRT_SEG_WEB_TOKEN": "s3cret"}
DEVICES = "--devices", "cpu:0,cpu:1"


@pytest.fixture
def defaults(bright: Path, tmp_path: Path) -> Entry:
    return recording(tmp_path, bright)


@contextmanager
def cameras(*names: str) -> Iterator[dict[str, Entry]]:
    """Feeds of one camera, by their names."""
    needs_cameras()
    with rtsp.RtspServer() as camera:
        yield {name: {"name": name, "url": camera.url} for name in names}


def ready(run: Live) -> dict[str, Entry]:
    return {one["stream"]: one for one in json.loads(run.ask("readyz"))["streams"]}


def devices(run: Live) -> dict[str, str | None]:
    """Where each stream runs."""
    return {name: one["device"] for name, one in ready(run).items()}


def worker(run: Live, device: str) -> psutil.Process:
    """The process of a device, told from the others by when it was started."""
    number = int(device.partition(":")[2])
    return sorted(psutil.Process(run.process.pid).children(), key=lambda one: one.create_time())[number]


def said(run: Live, text: str) -> list[str]:
    return [one["message"] for one in run.log() if text in one.get("message", "")]


def settled(run: Live) -> bool:
    """Whether all feeds run, as many on the one device as on the other, or nearly."""
    found = ready(run).values()
    first, second = (sum(one["device"] == device for one in found) for device in ("cpu:0", "cpu:1"))
    return all(one["ready"] for one in found) and abs(first - second) <= 1


def check_accounts(run: Live, folder: Path, name: str, kills: int = 0) -> None:
    """Every frame went out or was dropped; what went out is kept, but for what a killed process had not written yet.

    That is up to a key frame, and the other way round it wrote a little more than it could tell.
    """
    told = run.summary(name)
    assert told["frames_in"] + told["repeated"] == told["frames_out"] + told["dropped"], told
    begun = [path for path in files(folder, name) if b"moof" not in path.read_bytes()]
    assert len(begun) <= kills, "a file of which no key frame was written whole"
    kept = frames_of([path for path in files(folder, name) if path not in begun])
    assert told["frames_out"] - 20 * kills <= kept <= told["frames_out"] + 15 * kills


def test_feeds_of_a_killed_process_move_and_come_back(tmp_path: Path, defaults: Entry) -> None:
    with cameras("door", "yard", "gate") as feeds:  # noqa: SIM117
        with live(tmp_path, list(feeds.values()), *DEVICES, defaults=defaults) as run:
            until(lambda: settled(run))
            before = devices(run)
            moving = [name for name, device in before.items() if device == "cpu:0"]
            until(lambda: all(run.value("frames_out_total", stream=name) > 30 for name in before))
            worker(run, "cpu:0").kill()
            until(lambda: set(devices(run).values()) == {"cpu:1"})
            until(lambda: said(run, "works again"))
            until(lambda: settled(run))
            assert run.value("device_up", device="cpu:0") == run.value("device_up", device="cpu:1") == 1
            assert all(run.value("feed_moves_total", feed=name) >= 1 for name in moving)
            assert run.value("feed_running", feed="door") == 1
            assert run.value("shared_streams", device="cpu:0") > 0
            log = run.log()

            for device in (worker(run, "cpu:0"), worker(run, "cpu:1")):
                device.kill()
            waiting = until(lambda: (found := ready(run))["door"]["state"] == "waiting" and found)
            assert waiting["door"]["last_error"].endswith("its process was ended by SIGKILL")
            assert [run.send(page)[0] for page in ("readyz", "healthz", "options/door")] == [503, 200, 409]
            assert run.value("stream_up", stream="door") == run.value("feed_running", feed="door") == 0
            assert json.loads(run.ask("streams.json"))["streams"][0]["state"] == "away"
            until(lambda: run.send("readyz")[0] == 200)
            assert run.stop() == 128 + signal.SIGTERM
    failed = next(number for number, one in enumerate(log) if "is tried again" in one.get("message", ""))
    again = next(number for number, one in enumerate(log) if "works again" in one.get("message", ""))
    assert log[failed]["message"].endswith(f"its process was ended by SIGKILL; its feeds: {', '.join(moving)}"), (
        "and one line says so"
    )
    assert {one["stream"] for one in log[failed:again] if "stream" in one} <= set(moving), "the others do not notice"
    for name in before:
        check_accounts(run, tmp_path, name, kills=2 if name in moving else 1)
        assert run.summary(name)["reconnects"] == 0


def test_changes_go_to_where_a_feed_runs_and_along_with_it(tmp_path: Path, defaults: Entry) -> None:
    with cameras("door", "yard", "gate") as feeds:
        door, yard, gate = feeds.values()
        with live(tmp_path, [door, yard], *DEVICES, defaults=defaults, **TOKEN) as run:
            until(lambda: settled(run))
            before = devices(run)
            assert run.send("options/door", {"style": "contour"})[0] == 200
            status, answer = run.send("options/door", {"style": "loud"})
            assert (status, "style" in json.loads(answer)["error"]) == (422, True)
            assert run.send("options/none", {})[0] == 404
            unknown = Live(run.process, run.errors, run.url, "wrong")
            assert unknown.send("options/door", {"style": "blur"})[0] == 401
            for name in before:
                assert picture(run, f"preview/{name}.jpg").startswith(b"\xff\xd8")
            parts = pictures(run, "previews", 4)
            assert {part.partition(b"X-Stream: ")[2][:4] for part in parts} == {b"door", b"yard"}

            worker(run, before["door"] or "").kill()
            until(lambda: devices(run)["door"] not in (None, before["door"]) and ready(run)["door"]["ready"])
            assert options(run, "door")["style"] == "contour", "what was changed moves with it"

            until(lambda: settled(run))
            kept = devices(run)
            write_feeds(tmp_path, [gate, door, {**yard, "encoder": {"crf": 40}}], defaults)
            run.process.send_signal(signal.SIGHUP)
            until(lambda: said(run, "feeds file read again"))
            until(lambda: all(one["ready"] for one in ready(run).values()) and len(ready(run)) == 3)
            assert list(ready(run)) == ["gate", "door", "yard"]
            assert {name: devices(run)[name] for name in kept} == kept, "who runs stays where it is"
            assert options(run, "door")["style"] == "blend"
            broken = [{**gate, "segment": {"classes": ["cat"]}}, yard]
            write_feeds(tmp_path, broken, defaults)
            run.process.send_signal(signal.SIGHUP)
            until(lambda: said(run, "the feeds go on as they are"))
            write_feeds(tmp_path, [gate, door], defaults)
            run.process.send_signal(signal.SIGHUP)
            until(lambda: len([one for one in run.log() if one.get("stream") == "yard" and "frames_in" in one]) == 2)
            assert list(ready(run)) == ["gate", "door"]

            children = psutil.Process(run.process.pid).children()
            run.process.kill()
            assert not psutil.wait_procs(children, 15)[1], "none outlives its parent"
    assert said(run, "feeds file read again") == [
        "feeds file read again: 3 feeds; added: gate; removed: none; changed: yard",
        "feeds file read again: 2 feeds; added: none; removed: yard; changed: none",
    ]
    assert said(run, "the feeds go on as they are") == [
        "the feeds go on as they are: feed 'gate': option 'classes': the model has no class 'cat'; it has "
        "0 background, 1 box"
    ]
    assert frames_of(files(tmp_path, "gate")) > 20


def options(run: Live, stream: str) -> Entry:
    found: Entry = json.loads(run.send(f"options/{stream}")[1])["options"]
    return found


def opened(run: Live, page: str) -> Any:
    headers = {"Authorization": f"Bearer {run.token}"}
    return urllib.request.urlopen(urllib.request.Request(f"{run.url}/{page}", headers=headers), timeout=20)


def picture(run: Live, page: str) -> bytes:
    with opened(run, page) as answer:
        found: bytes = answer.read()
    return found


def pictures(run: Live, page: str, count: int) -> list[bytes]:
    """The first parts of an answer without an end."""
    parts: list[bytes] = []
    with opened(run, page) as answer:
        content = b""
        while len(parts) <= count:
            content += answer.read1(1 << 16)
            parts = content.split(b"--picture")[1:]
    return parts[:count]


def test_a_feed_that_hangs_for_good_fails_alone_and_a_process_that_stands_still_is_ended(
    tmp_path: Path, defaults: Entry
) -> None:
    with cameras("door", "yard") as feeds:
        graph = own_graph(tmp_path / "own.json", hang_at=10)
        bad = {"name": "bad", "graph": graph, "set": {"URL": feeds["door"]["url"]}}
        limits = "--stuck-seconds", 2, "--stop-seconds", 1
        with live(tmp_path, [bad, *feeds.values()], *DEVICES, *limits, defaults=defaults) as run:
            until(lambda: said(run, "hangs for good"))
            until(lambda: said(run, "device 'cpu:0': works again"))
            until(lambda: sorted(devices(run)[name] or "" for name in feeds) == ["cpu:0", "cpu:1"])
            until(lambda: all(ready(run)[name]["ready"] for name in feeds))
            assert ready(run)["bad"]["state"] == "failed"
            (still,) = (name for name in feeds if devices(run)[name] == "cpu:1")
            restarts = ready(run)[still]["restarts"]
            psutil.Process(run.process.pid).children()[0].suspend()  # that of cpu:1: the other one is younger
            until(lambda: devices(run)[still] == "cpu:0" and ready(run)[still]["ready"], 60)
            assert ready(run)[still]["restarts"] == restarts + 1
            assert run.stop() == 1
    assert "could not be stopped in 1 s" in run.summary("bad")["message"]
    assert "its process has said nothing for 2 s" in said(run, "device 'cpu:1': failed")[0]
    for name in feeds:
        check_accounts(run, tmp_path, name, kills=int(name == still))


def test_a_gpu_that_is_not_there_any_more(
    tmp_path: Path, defaults: Entry, plain_clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its feeds run elsewhere, and not on the CPU in its place; one that is to run nowhere else waits."""
    caplog.set_level("INFO", "bmf_trt_seg")
    feeds = [{"name": name, "url": str(plain_clip), "policy": "all"} for name in ("one", "two")]
    feeds.append({**feeds[0], "name": "pinned", "segment": {"device": "cuda:99"}})
    ended: list[Report] = []
    fleet = Fleet(("cuda:99", "cpu:0"), Limits(), ended.append)
    signals: Any = Signals(lambda: all(one.state.state == "ended" for one in fleet.reports()[:2]), signal.SIGHUP)
    all_feeds = read_feeds(write_feeds(tmp_path, feeds, defaults))
    reports, number = supervise_devices(fleet, all_feeds, signals, read=lambda: all_feeds[:2])
    assert number is None, "without the one that waits, all are over"
    assert [(one.state.name, one.totals.frames_out) for one in reports] == [("one", 30), ("two", 30)]
    (waited,) = ended
    assert (waited.state.state, waited.state.reason) == ("stopped", "waits for device 'cuda:99'")
    assert "device 'cuda:99': failed" in caplog.text
    assert "CUDA finds no GPU" in caplog.text
    assert not list((tmp_path / "out").glob("pinned*"))


def test_a_table_tells_where_feeds_run(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(redrawn, "_TABLE_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    outputs = (OutputMetrics("door.mp4", "file", "up"), OutputMetrics("rtmp://192.0.2.1/live/key", "push", "away"))
    with LiveStatus(quiet=False) as status:
        running = DeviceReport(FeedState("door", ("door",), "running"), Totals(5, 4), False, "cuda:1", "up", outputs)
        status.update([running, DeviceReport(FeedState("yard", ("yard",), "waiting"), Totals())])
        rows = [row.split() for row in terminal.getvalue().splitlines()]
    assert [(*row[:3], row[-1]) for row in rows[:3]] == [
        ("feed", "state", "device", "outputs"),
        ("door", "up", "cuda:1", "1/2"),
        ("yard", "waiting", "none", "0/0"),
    ]


def test_a_gpu_that_fails_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=synchronize)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
    Probe(reasons.put).ask()
    assert reasons.get(timeout=5) == "CUDA error: an illegal memory access was encountered"


def test_what_is_wrong_is_said_before_anything_runs(
    tmp_path: Path, defaults: Entry, plain_clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cli = runner(capfd)
    wrong = {"name": "one", "url": str(plain_clip), "segment": {"classes": ["cat"]}}
    path = write_feeds(tmp_path, [wrong], defaults)
    ended = cli("live", path, *DEVICES, "-q")
    assert (ended.code, ended.err) == (
        2, "bmf-trt-seg: feed 'one': option 'classes': the model has no class 'cat'; it has 0 background, 1 box\n",
    )  # fmt: skip
    pinned = {"name": "one", "url": str(plain_clip), "segment": {"device": "cuda:1"}}
    ended = cli("live", write_feeds(tmp_path, [pinned], defaults), *DEVICES, "-q")
    assert (ended.code, ended.err) == (
        2, "bmf-trt-seg: feed 'one': option 'device': got 'cuda:1'; --devices has cpu:0, cpu:1\n",
    )  # fmt: skip
    nowhere = {"name": "one", "url": str(plain_clip), "outputs": [{"kind": "file", "path": "/proc/none/one.mp4"}]}
    ended = cli("live", write_feeds(tmp_path, [nowhere], defaults), *DEVICES, "-q")
    assert ended.code == 1
    assert ended.err.startswith("bmf-trt-seg: feed 'one': ")
    assert ended.err.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cpu:0,gpu:1", "got 'gpu:1'; expected auto, or names as in cuda:0,cuda:1 or cpu:0,cpu:1"),
        ("cpu,cpu", "'cpu' comes twice; several processes without a GPU are cpu:0,cpu:1"),
        ("cuda:0,cuda:99", "there is no 'cuda:99' here"),
    ],
)
def test_devices_that_are_none(names: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_devices(names)


def test_a_process_sees_one_device() -> None:
    assert environment("cuda:1", {})["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment("cuda:1", {"CUDA_VISIBLE_DEVICES": "2, GPU-5"})["CUDA_VISIBLE_DEVICES"] == "GPU-5"
    assert environment("cpu:1", {"CUDA_VISIBLE_DEVICES": "2"})["CUDA_VISIBLE_DEVICES"] == ""


def test_the_parent_loads_no_library_that_a_gpu_could_take_along() -> None:
    program = (
        "import sys; import bmf_trt_seg.cli.live; "
        "print([name for name in ('bmf', 'torch', 'onnxruntime', 'tensorrt', 'cuda') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- a number that a feed gives to its GPU -------------------------------------------------------------------------


def feed_on(*names: str) -> Feed:
    """A feed with a node for each of these values of the option `device`."""
    nodes = [{"id": number, "option": {"device": name}} for number, name in enumerate(names)]
    return Feed("door", LiveGraph({"nodes": nodes}, ("door",), (), True, False))


def test_a_feed_is_pinned_by_the_number_of_its_gpu() -> None:
    devices = "cuda:0", "cuda:1"
    assert pinned_to(feed_on("auto", "cpu", "cuda"), devices) is None
    assert pinned_to(feed_on("cuda:1", "auto", "cuda:1"), devices) == "cuda:1"
    with pytest.raises(ConfigError, match="feed 'door': option 'device': got 'cuda:2'; --devices has cuda:0, cuda:1"):
        pinned_to(feed_on("cuda:2"), devices)
    with pytest.raises(ConfigError, match="runs on one device, and its options name cuda:0, cuda:1"):
        pinned_to(feed_on("cuda:0", "cuda:1"), devices)
    graph = without_numbers(feed_on("cuda:1", "auto").graph.content)
    assert [node["option"]["device"] for node in graph["nodes"]] == ["cuda:0", "auto"]
