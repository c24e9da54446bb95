"""Traces: what is collected, what is left out, and the file that a run leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import pytest
from commands import Cli, runner
from jobs import left_in, read_records

from bmf_trt_seg import metrics, trace
from bmf_trt_seg.trace import Trace

TEMPLATES = Path(__file__).parents[1] / "graphs"
STAGES = {"preprocess", "infer", "postprocess", "overlay"}
MS = 1_000_000  # nanoseconds


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "_streams", {})
    trace.stop()
    yield
    assert trace.current() is None, "a trace was left running"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


class Gpu:
    """A GPU with a clock of its own, and streams that get to what was put on them when `reach` is called."""

    def __init__(self, clock_ms: float = 5000.0) -> None:
        self.clock_ms = clock_ms
        self.queued: list[FakeEvent] = []
        self.fails = False

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def stream(self, device: Any) -> SimpleNamespace:
        return SimpleNamespace(device=device, is_empty=True)

    def reach(self, after_ms: float = 0.0) -> None:
        """Let the oldest event that waits be passed, this long after the last one."""
        self.clock_ms += after_ms
        self.queued.pop(0).at_ms = self.clock_ms


class FakeEvent:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.at_ms: float | None = None

    def record(self, stream: Any) -> None:
        if self.gpu.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if getattr(stream, "is_empty", False):
            self.at_ms = self.gpu.clock_ms
        else:
            self.gpu.queued.append(self)

    def query(self) -> bool:
        if self.gpu.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return self.at_ms is not None

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert self.at_ms is not None
        assert end_event.at_ms is not None
        return end_event.at_ms - self.at_ms


STREAM = SimpleNamespace(device="cuda:0")


def written(collected: Trace, path: Path) -> dict[str, Any]:
    collected.write(path)
    return read(path)


def read(path: Path) -> dict[str, Any]:
    """A trace file, checked for what every viewer needs."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    events = content["traceEvents"]
    needed = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
        "C": {"name", "pid", "ts", "args"},
        "b": {"name", "cat", "id", "pid", "tid", "ts", "args"},
        "e": {"name", "cat", "id", "pid", "tid", "ts"},
    }
    for event in events:
        assert needed[event["ph"]] <= set(event), event
        assert all(isinstance(event[key], int) for key in ("pid", "tid") if key in event)
    timed = [event["ts"] for event in events if event["ph"] != "M"]
    assert timed == sorted(timed)
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")
    spans = rows(content)
    assert all(row[0] and row[1] for row in spans), "a span without a named row"
    for found in spans.values():
        for before, after in zip(found, found[1:], strict=False):
            assert after["ts"] >= before["ts"] + before["dur"] - 0.001, "spans of one row overlap"
    return content


def rows(content: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Spans by the names of their stream and row, in the order in which a viewer shows them."""
    events = content["traceEvents"]
    named = {
        (kind, event["pid"], event["tid"]): event["args"]["name"]
        for kind in ("process_name", "thread_name")
        for event in events
        if event["name"] == kind
    }
    place = {
        (event["pid"], event["tid"]): event["args"]["sort_index"]
        for event in events
        if event["name"] == "thread_sort_index"
    }
    found = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append(event)
    order = sorted(found, key=lambda key: (key[0], place[key]))
    return {(named["process_name", key[0], 0], named["thread_name", key[0], key[1]]): found[key] for key in order}


# --- collecting ----------------------------------------------------------------------------------------------------


def test_a_row_for_each_stage_of_each_stream(tmp_path: Path) -> None:
    collected = Trace()
    begun = collected.begun_ns
    for stream in ("camera", "door"):
        collected.span(stream, "overlay", begun + 5 * MS, begun + 6 * MS)
        collected.span(stream, "own stage", begun + 6 * MS, begun + 7 * MS)
        collected.span(stream, "infer", begun + 2 * MS, begun + 5 * MS, frame=7, frames=4)
        collected.span(stream, "preprocess", begun + 1 * MS, begun + 2 * MS)
    found = rows(written(collected, tmp_path / "t.json"))
    stages = ["preprocess", "infer", "overlay", "own stage"]
    assert list(found) == [(stream, stage) for stream in ("camera", "door") for stage in stages]
    (infer,) = found["door", "infer"]
    assert (infer["ts"], infer["dur"], infer["args"]) == (2000.0, 3000.0, {"frame": 7, "frames": 4})


def test_a_span_of_what_failed_is_there(tmp_path: Path) -> None:
    collected = Trace()
    with suppress(KeyError), collected.timed("camera", "infer", frame=1):
        raise KeyError
    assert [span.stage for span in collected.spans()] == ["infer"]


def test_what_overlaps_goes_on_in_another_row(tmp_path: Path) -> None:
    collected = Trace()
    begun = collected.begun_ns
    for begin, end in ((0, 10), (5, 15), (10, 20), (6, 7), (15, 16)):
        collected.span("camera", "infer", begun + begin * MS, begun + end * MS)
    found = {row: [event["ts"] / 1e3 for event in spans] for (_, row), spans in
             rows(written(collected, tmp_path / "t.json")).items()}  # fmt: skip
    assert found == {"infer": [0, 10], "infer 2": [5, 15], "infer 3": [6]}


def test_a_queue_is_one_stacked_row(tmp_path: Path) -> None:
    collected = Trace()
    begun = collected.begun_ns
    for frame, (begin, end) in enumerate(((0, 10), (5, 15), (10, 20))):
        collected.span("camera", "encode queue", begun + begin * MS, begun + end * MS, frame=frame)
    content = written(collected, tmp_path / "t.json")
    assert rows(content) == {}
    events = content["traceEvents"]
    begins, ends = ({e["id"]: e["ts"] / 1e3 for e in events if e["ph"] == phase} for phase in "be")
    assert [(begins[key], ends[key]) for key in begins] == [(0, 10), (5, 15), (10, 20)]


def test_counters(tmp_path: Path) -> None:
    collected = Trace()
    for value in (1, 3, 0):
        collected.count("camera", "frames waiting", value)
    events = written(collected, tmp_path / "t.json")["traceEvents"]
    assert [event["args"]["frames waiting"] for event in events if event["ph"] == "C"] == [1, 3, 0]
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == ["camera"]


def test_threads_add_at_the_same_time_and_nothing_is_lost(tmp_path: Path) -> None:
    collected = Trace()

    def work(number: int) -> None:
        for frame in range(2000):
            with collected.timed(f"stream {number}", "infer", frame=frame):
                pass
            collected.count(f"stream {number}", "frames", frame)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    collected.events()  # while they add
    for thread in threads:
        thread.join()
    found = rows(written(collected, tmp_path / "t.json"))
    assert len(found) == 6
    for spans in found.values():
        assert [event["args"]["frame"] for event in spans] == list(range(2000))
    assert collected.dropped == 0


def test_memory_is_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    collected = Trace(limit=100)
    for frame in range(350):
        collected.span("camera", "infer", frame * MS, frame * MS + 1, frame=frame)
        if frame < 120:
            collected.count("camera", "frames", frame)
    content = written(collected, tmp_path / "t.json")
    assert [event["args"]["frame"] for event in rows(content)["camera", "infer"]] == list(range(250, 350))
    assert content["otherData"]["dropped"] == 250 + 20


def test_a_name_of_any_kind_is_valid_json(tmp_path: Path) -> None:
    collected = Trace()
    collected.span('Tür "1"\n', "infer", 0, 1, file=Path("ä.mp4"))
    assert list(rows(written(collected, tmp_path / "t.json"))) == [('Tür "1"\n', "infer")]


# --- GPU -----------------------------------------------------------------------------------------------------------


def test_times_of_a_gpu_are_told_by_the_hosts_clock(tmp_path: Path) -> None:
    gpu = Gpu()
    collected = Trace(cuda=gpu)
    before = time.perf_counter_ns()
    begin = collected.moment(STREAM)  # the reference is passed at once, at the clock's 5000 ms
    after = time.perf_counter_ns()
    collected.device_span("camera", "infer", begin, collected.moment(STREAM), frame=3)
    assert collected.spans() == [], "it is not done, and nobody waits for it"
    gpu.reach(20.0)
    assert collected.spans() == []
    gpu.reach(4.5)
    (span,) = collected.spans()
    assert before + 20 * MS <= span.begin_ns <= after + 20 * MS
    assert span.end_ns - span.begin_ns == 4.5 * MS
    collected.span("camera", "infer", before, after)
    found = rows(written(collected, tmp_path / "t.json"))
    assert list(found) == [("camera", "infer"), ("camera", "infer (GPU)")]
    (event,) = found["camera", "infer (GPU)"]
    assert (event["args"], event["cat"]) == ({"frame": 3, "device": "cuda:0"}, "cuda:0")


def test_events_of_a_gpu_are_given_back_while_it_runs() -> None:
    gpu = Gpu()
    collected = Trace(cuda=gpu)
    for _ in range(1000):
        collected.device_span("camera", "infer", collected.moment(STREAM), collected.moment(STREAM))
        gpu.reach(1)
        gpu.reach(1)
    assert len(collected._pending) <= 65
    assert len(collected.spans()) == 1000
    assert collected.unread == 0


def test_a_gpu_that_is_behind_is_neither_waited_for_nor_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_PENDING_LIMIT", 200)
    monkeypatch.setattr(trace, "_PATIENCE_SECONDS", 0.05)
    collected = Trace(cuda=Gpu())
    for _ in range(300):
        collected.device_span("camera", "infer", collected.moment(STREAM), collected.moment(STREAM))
    assert len(collected._pending) == 200
    assert collected.events() == []
    assert collected.unread == 300


def test_the_writer_gives_the_gpu_time_to_finish(tmp_path: Path) -> None:
    gpu = Gpu()
    collected = Trace(cuda=gpu)
    collected.device_span("camera", "infer", collected.moment(STREAM), collected.moment(STREAM))

    def finish() -> None:
        time.sleep(0.05)
        gpu.reach(1)
        gpu.reach(1)

    thread = threading.Thread(target=finish)
    thread.start()
    content = written(collected, tmp_path / "t.json")
    thread.join()
    assert list(rows(content)) == [("camera", "infer (GPU)")]


def test_a_gpu_that_failed_costs_its_own_times_only(tmp_path: Path) -> None:
    gpu = Gpu()
    collected = Trace(cuda=gpu)
    collected.device_span("camera", "infer", collected.moment(STREAM), collected.moment(STREAM))
    gpu.fails = True
    collected.device_span("camera", "infer", collected.moment(STREAM), collected.moment(STREAM))
    collected.span("camera", "infer", 0, 1)
    content = written(collected, tmp_path / "t.json")
    assert list(rows(content)) == [("camera", "infer")]
    assert content["otherData"]["unread_gpu_times"] == 3


def test_the_reference_is_renewed_before_float32_grows_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    collected = Trace(cuda=Gpu())
    first, second = collected.moment(STREAM), collected.moment(STREAM)
    monkeypatch.setattr(trace, "_REFERENCE_NS", 0)
    third = collected.moment(STREAM)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.reference is second.reference
    assert third.reference is not second.reference


# --- the stages of the pipeline ------------------------------------------------------------------------------------


def test_stages_of_a_stream_are_traced(tmp_path: Path) -> None:
    collected = trace.start()
    counts = metrics.open_stream("camera")
    counts.frames_in = 4
    with counts.stage("infer", frame=0, frames=4):
        time.sleep(0.002)
    counts.frames_out = 4
    with suppress(KeyError), counts.stage("overlay"):
        raise KeyError
    assert trace.stop() is collected
    content = written(collected, tmp_path / "t.json")
    found = rows(content)
    assert list(found) == [("camera", "infer"), ("camera", "overlay")]
    (infer,) = found["camera", "infer"]
    assert infer["args"] == {"frame": 0, "frames": 4}
    assert infer["dur"] / 1e6 == pytest.approx(counts.stage_seconds["infer"], abs=1e-8)
    waiting = [event["args"] for event in content["traceEvents"] if event["ph"] == "C"]
    assert waiting == [{"frames in the module": 4}, {"frames in the module": 0}]


def test_a_stage_on_a_gpu_has_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    collected = Trace(cuda=gpu)
    monkeypatch.setattr(trace, "_current", collected)
    with metrics.open_stream("camera").stage("infer", on=STREAM, frame=0):
        pass
    assert [span.row for span in collected.spans()] == ["infer"]
    gpu.reach(1)
    gpu.reach(2)
    assert sorted(span.row for span in collected.spans()) == ["infer", "infer (GPU)"]
    trace.stop()


def test_input_wait_is_the_time_between_two_calls() -> None:
    collected = trace.start()
    counts = metrics.open_stream("camera")
    for _ in range(3):
        with counts.at_work():
            time.sleep(0.002)
        time.sleep(0.01)
    trace.stop()
    waits = collected.spans()
    assert [span.stage for span in waits] == ["input wait"] * 2
    assert all(10 * MS <= span.end_ns - span.begin_ns < 500 * MS for span in waits)


def test_one_frame_in_eight_is_followed_through_the_encoder() -> None:
    collected = trace.start()
    counts = metrics.open_stream("camera")
    waiting = []
    for frame in range(20):
        gone = counts.departure(frame)
        counts.frames_out += 1
        if gone is not None:
            waiting.append(gone)
    assert len(waiting) == 3
    for gone in waiting:
        thread = threading.Thread(target=gone)
        thread.start()
        thread.join()
    trace.stop()
    assert [span.facts["frame"] for span in collected.spans()] == [0, 8, 16]
    counted = [event["args"] for event in collected.events() if event["ph"] == "C"]
    assert [args["frames in the encode queue"] for args in counted] == [19, 11, 3]


def test_nothing_is_recorded_when_off() -> None:
    collected = trace.start()
    trace.stop()
    counts = metrics.open_stream("camera")
    with counts.at_work(), counts.stage("infer", on=STREAM), trace.timed("camera", "video"):
        counts.frames_in += 1
    assert counts.departure(0) is None
    assert collected.spans() == []
    assert collected.events() == []
    assert trace.current() is None
    assert set(counts.stage_seconds) == {"infer"}


# --- the command line ----------------------------------------------------------------------------------------------


def test_segment_writes_a_trace_of_all_stages(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    target, path, records = tmp_path / "out.mp4", tmp_path / "t.json", tmp_path / "r.jsonl"
    ended = cli("segment", plain_clip, "-o", target, "-m", bright, "--interval", 2, "--json", records, "--trace", path)
    assert ended.code == 0
    assert f"{path}: a trace; open it at ui.perfetto.dev or chrome://tracing\n" in ended.err
    content = read(path)
    found = rows(content)
    stream = metrics.stream("segment")
    assert stream is not None
    assert {name for name, _ in found} == {"segment"}
    assert {row for _, row in found} >= STAGES | {"video"}
    inferred = sum(record["inferred"] for record in read_records(records))
    assert len(found["segment", "infer"]) == inferred == stream.inferred == 15
    assert len(found["segment", "overlay"]) == 30
    (video,) = found["segment", "video"]
    assert video["args"] == {"file": plain_clip.name}
    for spans in found.values():
        for event in spans:
            assert video["ts"] <= event["ts"]
            assert event["ts"] + event["dur"] <= video["ts"] + video["dur"] + 0.001
    assert content["otherData"] == {"dropped": 0, "unread_gpu_times": 0}
    assert left_in(tmp_path) == {"out.mp4", "t.json", "r.jsonl"}


def test_inferences_of_batches(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    path = tmp_path / "t.json"
    arguments = ["segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", bright, "--batch-size", 4, "-q"]
    assert cli(*arguments, "--trace", path).code == 0
    assert len(rows(read(path))["segment", "infer"]) == 8  # 7 of 4, and what is left


def test_several_videos_are_in_one_trace(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    second = clips.write_clip(tmp_path / "second.mp4", frames=5)
    path = tmp_path / "t.json"
    ended = cli("segment", plain_clip, second, "-o", tmp_path / "out", "-m", bright, "--trace", path, "-q")
    assert (ended.code, ended.err) == (0, "")
    found = rows(read(path))
    assert [event["args"]["file"] for event in found["segment", "video"]] == [plain_clip.name, "second.mp4"]
    assert len(found["segment", "infer"]) == 35


def test_a_run_that_fails_writes_its_trace(cli: Cli, tmp_path: Path, plain_clip: Path) -> None:
    model = clips.failing_model(tmp_path / "failing.onnx")
    path = tmp_path / "t.json"
    ended = cli("segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", model, "--trace", path)
    assert ended.code == 1
    assert "open it at ui.perfetto.dev" in ended.err
    assert len(rows(read(path))["segment", "infer"]) == 1
    assert not (tmp_path / "out.mp4").exists()


def test_a_run_that_is_interrupted_writes_its_trace(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=900, size_wh=(320, 180), crf=28)
    path = tmp_path / "t.json"
    running = subprocess.Popen(
        [sys.executable, "-c", "from bmf_trt_seg.cli.main import main; main()", "segment", source, "-m", bright,
         "-o", tmp_path / "out.mp4", "--preset", "slower", "--masks", tmp_path / "masks", "--trace", path],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while not any(tmp_path.glob(".masks.*/00000020.png")):
            assert time.monotonic() < until
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=20)[1]
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 1
    assert "stopped by SIGINT" in said
    assert "Traceback" not in said
    assert 0 < len(rows(read(path))["segment", "infer"]) < 900
    assert left_in(tmp_path) == {"in.mp4", "t.json"}


def test_run_traces_a_graph(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    path = tmp_path / "t.json"
    arguments: list[object] = ["run", TEMPLATES / "transcode_overlay.json", "--trace", path]
    for name, value in {"INPUT": plain_clip, "OUTPUT": tmp_path / "out.mp4", "MODEL": bright}.items():
        arguments += ["--set", f"{name}={value}"]
    assert cli(*arguments).code == 0
    found = rows(read(path))
    assert {row for _, row in found} >= STAGES
    before = path.read_text()
    ended = cli(*arguments)
    assert ended.code == 2
    assert f"Error: '{path}' exists; give -y to replace it\n" in ended.err
    assert path.read_text() == before
    assert cli(*arguments, "-y").code == 0
    assert path.read_text() != before


def test_render_traces_too(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    records, path = tmp_path / "r.jsonl", tmp_path / "t.json"
    assert cli("segment", plain_clip, "-o", tmp_path / "a.mp4", "-m", bright, "--json", records, "-q").code == 0
    ended = cli("render", plain_clip, "--json", records, "-o", tmp_path / "b.mp4", "--trace", path)
    assert ended.code == 0
    assert {row for _, row in rows(read(path))} >= {"video", "overlay"}


def test_a_trace_replaces_nothing_that_it_should_not(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    target = tmp_path / "out.mp4"
    arguments = ["segment", plain_clip, "-o", target, "-m", bright, "-q"]
    (tmp_path / "mine.json").write_text("mine")
    for path, words in {
        tmp_path / "mine.json": f"'{tmp_path / 'mine.json'}' exists; give -y to replace it",
        target: f"'{target}' would be written twice; choose another name for one of the outputs",
        plain_clip: f"'{plain_clip}' is the input; choose another name for the output",
        tmp_path: f"'{tmp_path}' is a folder; give the name of a file in it",
        tmp_path / "no" / "t.json": f"the folder '{tmp_path / 'no'}' does not exist",
    }.items():
        ended = cli(*arguments, "--trace", path)
        assert ended.code in (1, 2)
        assert words in ended.err
        assert left_in(tmp_path) == {"mine.json"}
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert cli(*arguments, "-y", "--trace", tmp_path / "mine.json").code == 0
    read(tmp_path / "mine.json")


def test_a_full_disk_does_not_hide_why_the_run_failed(
    cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Trace, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Trace, "write", fail)
    path = tmp_path / "t.json"
    arguments = ["segment", plain_clip, "-o", tmp_path / "out.mp4", "--trace", path, "-q", "-m"]
    problem = f"bmf-trt-seg: the trace '{path}' cannot be written: No space left on device\n"
    ended = cli(*arguments, bright)
    assert (ended.code, ended.err) == (1, problem)
    ended = cli(*arguments, clips.failing_model(tmp_path / "failing.onnx"), "-y")
    assert ended.code == 1
    assert ended.err.startswith(problem)
    assert len(ended.err.splitlines()) > 1
