"""Options that change while a stream runs: which frame is the first with the new ones, and what is refused."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clips
import numpy as np
import psutil
import pytest
from bmf import Packet, VideoFrame
from emulated_device import emulate
from factories import complaint
from test_module import ROOT, Run, frame_packet, luma_of, plain_graph
from test_pipeline_tensors import detector, doubling
from web_runs import until

from bmf_trt_seg import changes, metrics
from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.backends.shared import shared_counts
from bmf_trt_seg.changes import Changes
from bmf_trt_seg.errors import ConfigError, ModelError, StreamError
from bmf_trt_seg.module import SegmentModule
from bmf_trt_seg.options import changeable_options, read_options
from bmf_trt_seg.records import OutputRecord
from bmf_trt_seg.watch import streams

WIDTH, HEIGHT = clips.SIZE_WH
Option = dict[str, Any]


@pytest.fixture(params=["cpu", "emulated gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "cpu":
        emulate(monkeypatch)
    return str(request.param)


@pytest.fixture
def three(networks: Path) -> Path:
    """Classes dark, middle and light."""
    return networks / "three.onnx"


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Networks that are opened from now on are loaded when it is set; `gate.reached` tells that one waits there."""
    opened: Any = threading.Event()
    opened.reached = threading.Event()
    opened.set()
    open_ = OnnxRuntimeBackend._open

    def slow(backend: OnnxRuntimeBackend) -> None:
        opened.reached.set()
        assert opened.wait(20)
        open_(backend)

    monkeypatch.setattr(OnnxRuntimeBackend, "_open", slow)
    yield opened
    opened.set()


def changing(run: Run) -> Changes:
    found = changes.stream(run.module._options.name)
    assert found is run.module._changes
    return found


def pixels(packets: list[Packet]) -> list[bytes]:
    """Everything of each picture."""
    frames = [packet.get(VideoFrame).frame() for packet in packets]
    return [
        b"".join(np.ascontiguousarray(frame.plane(index).numpy()).tobytes() for index in range(frame.nplanes()))
        for frame in frames
    ]


def drawn(count: int, *turns: tuple[int, Option], **option: Any) -> Run:
    """A run of so many frames; each turn says before which frame something is changed."""
    run = Run(outputs=2, **option)
    at = dict(turns)
    for number in range(count):
        if number in at:
            changing(run).change(at[number]).result(20)
        run.put(frame_packet(number))
    run.end()
    assert [packet.timestamp for packet in run.frames] == [40_000 * number + 1 for number in range(count)]
    assert [packet.get(VideoFrame).pts for packet in run.frames] == [3600 * number + 100 for number in range(count)]
    assert [packet.get(dict)["frame"] for packet in run.records] == list(range(count))
    return run


def inferred(run: Run) -> list[int]:
    return [number for number, packet in enumerate(run.records) if packet.get(dict)["inferred"]]


# --- between two frames -------------------------------------------------------------------------------------------

CHANGES: list[Option] = [
    {"style": "contour"},
    {"style": "blur"},
    {"style": "cutout", "background_color": "#ff00ff", "classes": ["light"]},
    {"alpha": 0.9},
    {"palette": {"light": "#ffffff"}},
    {"classes": "light,dark"},
    {"threshold": 0.9},
    {"output": "mask"},
    {"legend": True},
]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_frames_before_are_as_before_and_frames_after_as_if_it_had_always_been_so(
    three: Path, device: str, change: Option, batch_size: int
) -> None:
    option = {"model": str(three), "classes": ["middle", "light"], "batch_size": batch_size}
    before, after = drawn(9, **option), drawn(9, **{**option, **change})
    run = drawn(9, (4, change), **option)
    assert pixels(run.frames)[:4] == pixels(before.frames)[:4]
    assert pixels(run.frames)[4:] == pixels(after.frames)[4:]
    records = [packet.get(dict) for packet in run.records]
    assert records[:4] == [packet.get(dict) for packet in before.records][:4]
    assert records[4].pop("shown") == after.records[0].get(dict)["shown"]
    assert records[4:] == [packet.get(dict) for packet in after.records][4:]
    assert all(one != other for one, other in zip(pixels(before.frames), pixels(after.frames), strict=True))


def test_batches_in_flight_are_drawn_as_they_were_begun(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = emulate(monkeypatch)
    option = {"model": str(three), "max_in_flight": 3, "legend": True}
    run = Run(outputs=2, **option)
    queues[0].is_slow = True
    for number in range(3):
        run.put(frame_packet(number))
    assert run.frames == [], "all three are on their way"
    changing(run).change({"style": "contour", "classes": ["light"]}).result(0)
    for number in range(3, 8):
        run.put(frame_packet(number))
    assert len(run.frames) == 5
    run.end()
    assert len(queues) == 1, "the queue and the network are the same"
    before = drawn(3, **option)
    after = drawn(8, **option, style="contour", classes=["light"])
    assert pixels(run.frames) == pixels(before.frames) + pixels(after.frames)[3:]
    records = [packet.get(dict) for packet in run.records]
    shown = {record["frame"]: [one["label"] for one in record["shown"]] for record in records if "shown" in record}
    assert shown == {0: ["middle", "light"], 3: ["light"]}
    assert [{one["label"] for one in record["classes"]} for record in records[3:]] == [{"light"}] * 5


def test_the_interval_counts_from_a_change(three: Path, device: str) -> None:
    """Frame 5 shows no mask of before, which may be one of classes that are not shown any more."""
    option = {"model": str(three), "interval": 4}
    run = drawn(16, (5, {"classes": ["light"]}), (11, {"interval": 2}), **option)
    assert inferred(run) == [0, 4, 5, 9, 11, 13, 15]
    fresh = drawn(6, model=str(three), classes=["light"], name="fresh")
    assert pixels(run.frames)[5] == pixels(fresh.frames)[5]
    counts = metrics.stream("segment")
    assert counts is not None
    assert (counts.frames_in, counts.frames_out, counts.inferred, counts.held) == (16, 16, 7, 9)
    assert (counts.changes, counts.changes_refused) == (2, 0)


def test_a_longer_interval_while_a_batch_waits(three: Path) -> None:
    run = Run(model=str(three), interval=3, batch_size=2)
    run.put(*(frame_packet(number) for number in range(3)))
    assert not run.frames, "one of a batch of two"
    changing(run).change({"interval": 1})
    run.put(frame_packet(3))
    assert len(run.frames) == 3
    run.put(frame_packet(4))
    assert len(run.frames) == 5
    run.end()


def test_smoothing_goes_on(three: Path, device: str) -> None:
    """The past is the network's: another look does not make the masks jump, nor does another weight forget it."""
    option = {"model": str(three), "smoothing": 0.8}
    through = drawn(10, **option)
    assert pixels(drawn(10, (5, {"alpha": 0.6}), **option).frames)[:5] == pixels(through.frames)[:5]
    run = drawn(10, (5, {"style": "contour"}), **option)
    assert [packet.get(dict)["classes"] for packet in run.records] == [
        packet.get(dict)["classes"] for packet in through.records
    ]
    off_and_on = drawn(10, (5, {"smoothing": 0.0}), (6, {"smoothing": 0.8}), **option)
    fresh = Run(outputs=2, **option)
    fresh.put(*(frame_packet(number) for number in range(6, 10)))
    assert pixels(off_and_on.frames)[6:] == pixels(fresh.frames), "nothing is left of what was smoothed before"
    fresh.end()


def test_a_legend_keeps_the_classes_that_it_has_seen(three: Path, device: str) -> None:

    def six_frames(change: Option) -> list[bytes]:
        """The last three are dark all over."""
        run = Run(model=str(three), legend=True, style="contour")
        for number in range(6):
            if number == 3:
                changing(run).change(change)
            packet = frame_packet(number)
            if number >= 3:
                packet.get(VideoFrame).frame().plane(0).numpy()[...] = 30
            run.put(packet)
        run.end()
        return pixels(run.frames)

    assert six_frames({"alpha": 0.2}) == six_frames({"alpha": 0.5}), "contours have no opacity"
    assert six_frames({"legend": False})[3:] != six_frames({"alpha": 0.2})[3:]


def test_the_watch_page_follows(three: Path) -> None:
    run = Run(model=str(three), classes=["light"], name="door")
    run.put(frame_packet(0))
    watched = streams.stream("door")
    assert watched is not None
    assert watched.labels == {2: "light"}
    shares = watched.shares
    changing(run).change({"palette": {"light": "#123456"}})
    run.put(frame_packet(1))
    assert watched.colors == {2: "#123456"}
    assert watched.shares is shares, "the chart goes on"
    changing(run).change({"classes": ["dark", "light"]})
    assert watched.labels == {2: "light"}, "not before the next frame"
    run.put(frame_packet(2))
    assert watched.labels == {0: "dark", 2: "light"}
    assert watched.shares is not shares
    run.end()


def test_of_two_changes_before_a_frame_both_hold(three: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(model=str(three), name="door")
    run.put(frame_packet(0))
    with caplog.at_level(logging.INFO, "bmf_trt_seg"):
        logging.getLogger("bmf_trt_seg").propagate = True
        changing(run).change({"style": "contour"})
        changing(run).change({"alpha": "0.25", "palette": "light=#ffffff"})
        changing(run).change({"alpha": 0.25})
        run.put(frame_packet(1))
    assert [record.getMessage() for record in caplog.records if "from frame" in record.getMessage()] == [
        'stream \'door\': from frame 1 on: style "contour", alpha 0.25, palette {"light": "#ffffff"}'
    ]
    assert changing(run).state()["options"]["style"] == "contour"
    counts = metrics.stream("door")
    assert counts is not None
    assert counts.changes == 1
    run.end()


def test_marks_of_the_options() -> None:
    assert set(changeable_options()) == {
        "alpha", "background_color", "backend", "batch_size", "build", "classes", "device", "input_shapes", "interval",
        "legend", "model", "output", "palette", "smoothing", "style", "threads", "threshold",
    }  # fmt: skip


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"alpha": 2}, "option 'alpha': got 2, allowed is a number from 0 to 1"),
        ({"style": "blurr"}, "option 'style': got \"blurr\", allowed is 'blend' or 'blur' or "),
        ({"alpha": 0.3, "classes": ["cat"]}, "option 'classes': the model has no class 'cat'; it has 0 dark, 1 middle"),
        ({"alpha": 0.3, "palette": ["#ffffff"]}, "option 'palette' has 1 colours; one is needed for each class up to "),
        ({"stile": "blur"}, "unknown option 'stile' (given: \"blur\"); did you mean 'style'?"),
        (
            {"style": "sidebyside"},
            "frames would leave in another size, as 2560x720 instead of 1280x720 if they come in 1280x720; ",
        ),
        ({"max_latency_ms": 5}, "option 'max_latency_ms' cannot change while the graph runs; these can"),
        ({"name": "yard", "alpha": 0.1}, "option 'name' cannot change while the graph runs; these can"),
        ({"replay": "x.jsonl"}, "give 'model' or 'replay', not both"),
        ({}, 'expected an object of options, such as {"alpha": 0.3}'),
        ([1], 'expected an object of options, such as {"alpha": 0.3}'),
    ],
)
def test_what_is_wrong_is_refused_whole(three: Path, device: str, wanted: Any, said: str) -> None:
    run = Run(model=str(three), name="door", classes=["light", "middle"])
    run.put(frame_packet(0))
    assert complaint(ConfigError, changing(run).change, wanted).startswith(said)
    run.put(frame_packet(1))
    run.end()
    assert pixels(run.frames) == pixels(drawn(2, model=str(three), name="other", classes=["light", "middle"]).frames)
    counts = metrics.stream("door")
    assert counts is not None
    assert (counts.changes, counts.changes_refused) == (0, 1)


def test_networks_of_other_tasks_take_what_is_theirs(tmp_path: Path) -> None:
    run = Run(model=str(detector(tmp_path / "boxes.onnx")), name="boxes", outputs=2)
    run.put(frame_packet(0))
    said = complaint(ConfigError, changing(run).change, {"style": "contour"})
    assert "option 'style' is for networks of task 'segmentation'" in said
    changing(run).change({"interval": 3})
    run.put(*(frame_packet(number) for number in range(1, 6)))
    assert [packet.get(OutputRecord).inferred for packet in run.records] == [True, True, False, False, True, False]
    run.end()
    run = Run(model=str(doubling(tmp_path / "larger.onnx")), name="larger")
    assert "makes a new picture of each" in complaint(ConfigError, changing(run).change, {"interval": 2})
    run.end()


def test_a_stream_that_is_over_takes_nothing(three: Path) -> None:
    run = Run(model=str(three), name="door")
    found = changing(run)
    run.put(frame_packet(0))
    run.end()
    run.module.close()
    assert complaint(StreamError, found.change, {"alpha": 0.1}) == "stream 'door' does not run"
    assert found.options.alpha == 0.5


def test_recorded_masks_are_drawn_otherwise(three: Path, tmp_path: Path) -> None:
    recorded = drawn(8, model=str(three))
    path = tmp_path / "masks.jsonl"
    path.write_text("".join(json.dumps(packet.get(dict)) + "\n" for packet in recorded.records))
    change = {"classes": ["light"], "style": "cutout"}
    run = drawn(8, (3, change), replay=str(path))
    assert pixels(run.frames)[:3] == pixels(drawn(8, replay=str(path)).frames)[:3]
    assert pixels(run.frames)[3:] == pixels(drawn(8, replay=str(path), **change).frames)[3:]
    assert len(set(pixels(run.frames))) == 8
    run = Run(replay=str(path), name="again")
    for wanted in ({"threshold": 0.2}, {"interval": 2}, {"threads": 2}):
        said = complaint(ConfigError, changing(run).change, wanted)
        assert said == f"option '{next(iter(wanted))}' is for a network, and the masks come from records"
    run.end()


# --- another model ------------------------------------------------------------------------------------------------


def test_frames_go_on_while_a_model_is_loaded(bright: Path, three: Path, device: str, gate: threading.Event) -> None:
    option = {"model": str(bright), "batch_size": 2, "output": "mask"}
    run = Run(outputs=2, **option)
    gate.clear()
    gate.reached.clear()  # type: ignore[attr-defined]
    change = {"model": str(three), "classes": ["light"]}
    loaded = changing(run).change(change)
    assert gate.reached.wait(20)  # type: ignore[attr-defined]
    run.put(*(frame_packet(number) for number in range(5)))
    assert len(run.frames) == 4, "the fifth waits for its batch"
    assert changing(run).state()["loading"] == str(three)
    said = complaint(ConfigError, changing(run).change, {"model": str(bright), "threads": 2})
    assert said.endswith("is being loaded; wait for that, then ask again")
    changing(run).change({"output": "overlay"}).result(0)
    run.put(frame_packet(5))
    gate.set()
    loaded.result(20)
    assert changing(run).state()["loading"] is None
    old = run.module._pipeline
    run.put(*(frame_packet(number) for number in range(6, 9)))
    assert run.module._pipeline.network is not old.network
    run.end()
    before = drawn(5, **option)
    between = drawn(6, **{**option, "output": "overlay"})
    after = drawn(9, **{**option, **change, "output": "overlay"})
    expected = pixels(before.frames) + pixels(between.frames)[5:] + pixels(after.frames)[6:]
    assert pixels(run.frames) == expected
    run.module.close()
    assert not old.network._is_open, "the old network is freed"  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("load ", "free "))]


@pytest.mark.parametrize(
    ("wanted", "kind", "said"),
    [
        ({"model": "no.onnx"}, ConfigError, "model file 'no.onnx' does not exist"),
        ({"model": "{three}", "classes": ["box"]}, ConfigError, "the model has no class 'box'; it has 0 dark"),
        ({"model": "{classifier}", "classes": None}, ModelError, "which is no segmentation as its description has it"),
        ({"model": "{broken}", "classes": None}, ModelError, "broken.onnx"),
        ({"threads": 2, "palette": ["#ffffff"]}, ConfigError, "option 'palette' has 1 colours"),
    ],
)
def test_a_model_that_cannot_be_loaded_leaves_the_old_one(
    bright: Path, networks: Path, tmp_path: Path, device: str, wanted: Option, kind: type[Exception], said: str
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    broken.with_suffix(".json").write_text((networks / "three.json").read_text())
    files = {"three": networks / "three.onnx", "classifier": networks / "classifier.onnx", "broken": broken}
    if "model" in wanted:
        wanted = {**wanted, "model": wanted["model"].format(**files)}
    run = Run(model=str(bright), name="door", classes=["box"])
    run.put(frame_packet(0))
    before = set(threading.enumerate())
    loaded = changing(run).change(wanted)
    failure = loaded.exception(20)
    assert isinstance(failure, kind)
    assert said in str(failure)
    assert changing(run).state()["last_error"] == str(failure)
    run.put(frame_packet(1))
    assert changing(run).options == read_options({"model": str(bright), "name": "door", "classes": ["box"]})
    changing(run).change({"model": str(bright), "threads": 2}).result(20)
    assert changing(run).state()["last_error"] == ""
    run.put(frame_packet(2))
    run.end()
    assert pixels(run.frames) == pixels(drawn(3, model=str(bright), name="other").frames)
    run.module.close()
    assert set(threading.enumerate()) <= before
    counts = metrics.stream("door")
    assert counts is not None
    assert (counts.changes, counts.changes_refused) == (1, 1)


def test_a_stream_that_ends_while_a_model_is_loaded(bright: Path, three: Path, gate: threading.Event) -> None:
    run = Run(model=str(bright), name="door")
    run.put(frame_packet(0))
    gate.clear()
    loaded = changing(run).change({"model": str(three)})
    run.end()
    closing = threading.Thread(target=run.module.close)
    closing.start()
    gate.set()
    closing.join(20)
    assert isinstance(loaded.exception(20), StreamError)
    assert not [thread for thread in threading.enumerate() if thread.name == "load door"]


def test_a_network_that_was_never_used_is_freed(bright: Path, three: Path) -> None:
    run = Run(model=str(bright), name="door")
    run.put(frame_packet(0))
    found = changing(run)
    found.change({"model": str(three)}).result(20)
    unused: Any = found._next
    found.change({"alpha": 0.1})
    assert found._next is not None
    assert found._next.network is unused.network
    found.change({"model": str(bright)}).result(20)
    run.put(frame_packet(1))
    run.end()
    run.module.close()
    assert not unused.network._is_open


def test_streams_that_share_a_network(bright: Path, three: Path) -> None:
    option = {"model": str(bright), "shared": True, "batch_size": 2, "output": "mask"}
    door, yard = Run(**option, name="door"), Run(**option, name="yard")
    changing(door).change({"output": "overlay"})
    for number in range(2):
        door.put(frame_packet(number))
        yard.put(frame_packet(number))
    assert len(shared_counts()) == 1
    changing(door).change({"model": str(three), "classes": ["light"], "output": "mask"}).result(20)
    door.put(frame_packet(2))
    yard.put(frame_packet(2))
    door.module._changes.retire(yard.module._pipeline.changed(read_options(option)))  # a late one frees no others'
    assert pixels(door.frames)[2] != pixels(door.frames)[1]
    assert luma_of(yard.frames[2]).max() == 235
    counts = {one.model: [name for name, _ in one.waiting] for one in shared_counts()}
    assert counts["three.onnx"] == ["door"]
    for run in (door, yard):
        run.end()
        run.module.close()
    assert shared_counts() == []


# --- many ---------------------------------------------------------------------------------------------------------


def test_two_hundred_changes_leave_nothing_behind(bright: Path, three: Path) -> None:
    process = psutil.Process()
    run = Run(model=str(three), name="door", legend=True)
    found = changing(run)

    def round_of_changes(count: int) -> tuple[int, int, int]:
        for number in range(count):
            if number % 20 == 19:
                model, classes = (bright, ["box"]) if number % 40 == 19 else (three, ["light"])
                found.change({"model": str(model), "classes": classes, "palette": None}).result(20)
            else:
                found.change({"alpha": (number % 10) / 10, "interval": 1 + number % 3, "smoothing": number % 2 / 2})
            run.put(frame_packet(number))
            run.frames.clear()
        gc.collect()
        until(lambda: not any(thread.name.startswith("free") for thread in threading.enumerate()))
        return process.memory_info().rss, threading.active_count(), process.num_fds()

    before = round_of_changes(80)
    after = round_of_changes(200)
    assert after[1:] == before[1:]
    assert after[0] - before[0] < 12e6
    run.end()
    run.module.close()
    counts = metrics.stream("door")
    assert counts is not None
    assert (counts.frames_in, counts.frames_out) == (280, 280)
    assert counts.changes >= 270


# --- through BMF --------------------------------------------------------------------------------------------------


def reset(graph: Any, **option: Any) -> None:
    """What `bmf.graph().dynamic_reset` and `update` do."""
    node = {
        "id": 0, "alias": "look", "action": "reset", "module_info": {"name": ""}, "option": option, "scheduler": 0,
        "input_streams": [], "output_streams": [],
    }  # fmt: skip
    update = {"input_streams": [], "output_streams": [], "nodes": [node], "option": {}}
    graph.update(json.dumps(update), False)


def test_dynamic_reset_of_a_running_graph(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each frame once, at its time, and with the look that it should have; the last one is another network's."""
    from bmf.lib import _bmf

    source = clips.write_clip(tmp_path / "in.mp4", frames=90, crf=0, b_frames=2)
    target = tmp_path / "out.mp4"
    info = {"name": "SegmentModule", "type": "python", "path": str(ROOT), "entry": "bmf_trt_seg.module.SegmentModule"}
    white: Option = {"classes": ["light"], "palette": ["#ffffff"] * 3, "alpha": 1.0}
    option = {"model": str(networks / "three.onnx"), "name": "reset", "batch_size": 2, **white}
    content = plain_graph(source, target, info, option)
    content["nodes"][1]["alias"] = "look"
    black = {"model": str(networks / "bright.onnx"), "classes": ["box"], "palette": "box=#000000", "alpha": 1}
    resets = {20: {"alpha": 0}, 40: {"classes": ["nothing"], "alpha": 0.5}, 50: black}
    first: list[int] = []
    take, take_frame = Changes.take, SegmentModule._take

    def remembered(self: Changes, number: int) -> Any:
        first.append(number)
        return take(self, number)

    def at_some_frames(self: SegmentModule, packet: Packet) -> None:
        number = self._metrics.frames_in
        if number in resets:
            other = threading.Thread(target=reset, args=(graph,), kwargs=resets[number])
            other.start()
            other.join(20)
            assert not other.is_alive()
        if number == 75:
            until(lambda: self._changes.ready or len(first) == 2)
        take_frame(self, packet)

    monkeypatch.setattr(Changes, "take", remembered)
    monkeypatch.setattr(SegmentModule, "_take", at_some_frames)
    monkeypatch.setattr(logging.getLogger("bmf_trt_seg"), "propagate", True)
    with caplog.at_level(logging.WARNING, "bmf_trt_seg"):
        graph = _bmf.engine.Graph(json.dumps(content), False, True)
        graph.start()
        graph.close()
    assert [record.getMessage() for record in caplog.records] == [
        "stream 'reset': not changed: option 'classes': the model has no class 'nothing'; it has 0 dark, 1 middle, "
        "2 light"
    ]
    shown = clips.read_clip(target)
    assert [one.number for one in shown] == list(range(90))
    assert [one.seconds for one in shown] == [seconds for seconds, _ in clips.times(source)]
    assert 20 < first[0] <= 40 < 50 < first[1] <= 76
    for number, one in enumerate(shown):
        box = one.planes[0][clips.box(number, WIDTH, HEIGHT)]
        luma = 235 if number < first[0] else 220 if number < first[1] else 16
        assert (np.abs(box.astype(int) - luma) <= 2).all(), number
