"""SegmentModule by itself, without a graph; and in plain graphs that BMF runs, without our runner."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bmf.hmp as hmp
import clips
import numpy as np
import pytest
from bmf import Packet, ProcessResult, Task, Timestamp, VideoFrame
from bmf.lib._bmf.sdk import Rational

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import ConfigError, EngineError
from bmf_trt_seg.module import SegmentModule

WIDTH, HEIGHT = clips.SIZE_WH
ROOT = Path(__file__).parents[1]


def frame_packet(number: int, pixel_format: Any = hmp.kPF_YUV420P, size_wh: tuple[int, int] = clips.SIZE_WH) -> Packet:
    width, height = size_wh
    info = hmp.PixelInfo(pixel_format, hmp.kCS_BT470BG, hmp.kCR_MPEG)
    frame = VideoFrame(hmp.Frame(width, height, info))
    planes = [frame.frame().plane(index).numpy() for index in range(frame.frame().nplanes())]
    planes[0][..., 0] = clips.luma(number, width, height)
    for plane in planes[1:]:
        plane[...] = 128
    frame.pts, frame.time_base = 3600 * number + 100, Rational(1, 90000)
    packet = Packet(frame)
    packet.timestamp = 40_000 * number + 1
    return packet


class Run:
    """One module, fed by hand."""

    def __init__(self, outputs: int = 1, **option: Any) -> None:
        self.module = SegmentModule(0, option)
        self._outputs = list(range(outputs))
        self.frames: list[Packet] = []
        self.records: list[Packet] = []
        self.ended: list[bool] = []

    def put(self, *packets: Packet) -> Task:
        task = Task(0, [0], self._outputs)
        for packet in packets:
            task.get_inputs()[0].put(packet)
        assert self.module.process(task) == ProcessResult.OK
        for stream, found in zip(self._outputs, (self.frames, self.records), strict=False):
            queue = task.get_outputs()[stream]
            while not queue.empty():
                packet = queue.get()
                if packet.timestamp == Timestamp.EOF:
                    self.ended.append(True)
                else:
                    found.append(packet)
        return task

    def end(self) -> Task:
        return self.put(Packet.generate_eof_packet())


def luma_of(packet: Packet) -> clips.Plane:
    plane: clips.Plane = packet.get(VideoFrame).frame().plane(0).numpy()[..., 0]
    return plane


def test_a_frame_out_for_each_frame_in(bright: Path) -> None:
    run = Run(model=str(bright), output="mask")
    for number in range(5):
        run.put(frame_packet(number))
        assert len(run.frames) == number + 1
    assert run.end().timestamp == Timestamp.DONE
    assert run.ended == [True]
    for number, packet in enumerate(run.frames):
        frame = packet.get(VideoFrame)
        assert packet.timestamp == 40_000 * number + 1
        assert frame.pts == 3600 * number + 100
        assert (frame.time_base.num, frame.time_base.den) == (1, 90000)
        np.testing.assert_array_equal(luma_of(packet) == 235, clips.box_mask(number, WIDTH, HEIGHT))


def test_batches_wait_until_they_are_full(bright: Path) -> None:
    run = Run(model=str(bright), batch_size=3)
    sent = []
    for number in range(8):
        run.put(frame_packet(number))
        sent.append(len(run.frames))
    assert sent == [0, 0, 3, 3, 3, 6, 6, 6]
    run.end()
    assert [packet.get(VideoFrame).pts for packet in run.frames] == [3600 * number + 100 for number in range(8)]


def test_held_frames_do_not_wait_for_a_batch(bright: Path) -> None:
    """Frames 0, 3 and 6 are inferred, in batches of two; those behind a full batch leave at once."""
    run = Run(model=str(bright), batch_size=2, interval=3)
    sent = []
    for number in range(9):
        run.put(frame_packet(number))
        sent.append(len(run.frames))
    assert sent == [0, 0, 0, 4, 5, 6, 6, 6, 6]
    run.end()
    assert len(run.frames) == 9


def test_several_packets_in_one_call(bright: Path) -> None:
    run = Run(model=str(bright), batch_size=4)
    task = run.put(*(frame_packet(number) for number in range(6)), Packet.generate_eof_packet())
    assert task.timestamp == Timestamp.DONE
    assert len(run.frames) == 6


def test_packets_that_are_no_frames_are_passed_over(bright: Path) -> None:
    run = Run(model=str(bright))
    run.put(Packet({"not": "a frame"}), frame_packet(0))
    assert len(run.frames) == 1


def test_end_without_any_frame(bright: Path) -> None:
    run = Run(outputs=2, model=str(bright), batch_size=4)
    assert run.end().timestamp == Timestamp.DONE
    assert run.frames == run.records == []
    assert run.ended == [True, True]


def test_records_leave_by_the_second_stream(bright: Path) -> None:
    run = Run(outputs=2, model=str(bright), interval=2)
    for number in range(3):
        run.put(frame_packet(number))
    run.end()
    records = [packet.get(dict) for packet in run.records]
    assert [packet.timestamp for packet in run.records] == [1, 40_001, 80_001]
    assert [record["pts"] for record in records] == [100, 3700, 7300]
    assert [record["inferred"] for record in records] == [True, False, True]
    assert records[0]["time_base"] == [1, 90000]
    assert json.loads(json.dumps(records)) == records


@pytest.mark.parametrize("style", ["blend", "contour", "cutout"])
def test_nv12_stays_nv12_and_untouched_beyond_the_mask(style: str, bright: Path) -> None:
    run = Run(model=str(bright), style=style, alpha=1.0, background_color="#ff0000")
    sent = frame_packet(3, hmp.kPF_NV12)
    before = [sent.get(VideoFrame).frame().plane(index).numpy().copy() for index in range(2)]
    run.put(sent)
    frame = run.frames[0].get(VideoFrame).frame()
    assert int(frame.format()) == int(hmp.kPF_NV12)
    box = clips.box_mask(3, WIDTH, HEIGHT)
    touched = ~box if style == "cutout" else box
    luma, chroma = frame.plane(0).numpy()[..., 0], frame.plane(1).numpy()
    np.testing.assert_array_equal(luma[~touched], before[0][..., 0][~touched])
    covered = touched.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).all(axis=(1, 3))
    np.testing.assert_array_equal(chroma[~covered], before[1][~covered])
    if style != "contour":
        assert (luma[touched] == 81).all()
        assert (chroma[covered] == (90, 240)).all()


@pytest.mark.parametrize("style", ["blend", "blur", "contour", "cutout", "sidebyside"])
def test_input_frames_are_left_as_they_were(style: str, bright: Path) -> None:
    """The decoder may still need them as reference pictures."""
    run = Run(model=str(bright), style=style, legend=True)
    packets = [frame_packet(number) for number in range(3)]
    frames = [packet.get(VideoFrame) for packet in packets]
    before = [[frame.frame().plane(index).numpy().copy() for index in range(3)] for frame in frames]
    run.put(*packets)
    for frame, planes in zip(frames, before, strict=True):
        for index, plane in enumerate(planes):
            np.testing.assert_array_equal(frame.frame().plane(index).numpy(), plane)
    assert not any(
        np.shares_memory(packet.get(VideoFrame).frame().plane(0).numpy(), frame.frame().plane(0).numpy())
        for packet, frame in zip(run.frames, frames, strict=True)
    )


def test_frames_of_another_size_are_scaled_to_the_first(bright: Path) -> None:
    run = Run(model=str(bright), name="sizes", batch_size=2)
    run.put(frame_packet(0), frame_packet(1, size_wh=(320, 180)), frame_packet(2), Packet.generate_eof_packet())
    assert [luma_of(packet).shape for packet in run.frames] == [(HEIGHT, WIDTH)] * 3
    assert [clips.number_of(luma_of(packet)) for packet in run.frames] == [0, 1, 2]
    counts = metrics.stream("sizes")
    assert counts is not None
    assert counts.rescaled == 1


def test_counts(bright: Path) -> None:
    run = Run(model=str(bright), name="counted", interval=2, batch_size=2)
    run.put(*(frame_packet(number) for number in range(5)))
    counts = metrics.stream("counted")
    assert counts is not None
    assert (counts.frames_in, counts.frames_out) == (5, 4)
    run.end()
    assert (counts.frames_out, counts.inferred, counts.held) == (5, 3, 2)
    assert set(counts.stage_seconds) == {"preprocess", "infer", "postprocess", "overlay", "wait", "output"}


def test_a_stop_from_outside_ends_the_stream_in_good_order(bright: Path) -> None:
    run = Run(model=str(bright), batch_size=4)
    run.put(frame_packet(0), frame_packet(1))
    assert run.frames == []
    metrics.request_stop()
    task = run.put(frame_packet(2), frame_packet(3))
    assert task.timestamp == Timestamp.DONE
    assert len(run.frames) == 2, "what had come before the stop is not lost"
    assert run.ended == [True]


def test_wrong_options_end_the_module_before_its_first_frame(bright: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'stile' \(given: \"blend\"\); did you mean 'style'\?"):
        SegmentModule(0, {"model": str(bright), "stile": "blend"})
    with pytest.raises(ConfigError, match="option 'model' is missing"):
        SegmentModule(0, {})


def test_the_first_failure_is_the_one_that_is_told(tmp_path: Path) -> None:
    """BMF goes on calling a module that failed, and reports what it raised last."""
    run = Run(model=str(clips.failing_model(tmp_path / "failing.onnx")))
    with pytest.raises(EngineError) as first:
        run.put(frame_packet(0))
    with pytest.raises(EngineError) as second:
        run.put(frame_packet(1))
    assert second.value is first.value


def test_frames_are_let_go(bright: Path) -> None:
    """Nothing but the batch that waits is kept."""
    run = Run(model=str(bright), batch_size=2)
    for number in range(41):
        run.put(frame_packet(number))
        run.frames.clear()
    gc.collect()
    live = [thing for thing in gc.get_objects() if type(thing).__name__ == "_Waiting"]
    assert len(live) == 1


# --- in graphs that BMF runs by itself ---------------------------------------------------------------------------

_PLAIN = """
import sys
from bmf.lib import _bmf
graph = _bmf.engine.Graph(open(sys.argv[1]).read(), False, True)
graph.start()
graph.close()
"""


def plain_graph(source: Path, target: Path, module_info: dict[str, str], option: dict[str, Any]) -> dict[str, Any]:
    def node(number: int, module: dict[str, str], options: dict[str, Any], takes: list[str], gives: list[str]) -> Any:
        return {
            "id": number, "scheduler": number, "module_info": module, "input_manager": "immediate", "option": options,
            "input_streams": [{"identifier": name} for name in takes],
            "output_streams": [{"identifier": name} for name in gives],
        }  # fmt: skip

    video = {"codec": "libx264", "crf": 0, "preset": "veryfast"}
    return {
        "mode": "Normal",
        "option": {"scheduler_count": 3},
        "input_streams": [],
        "output_streams": [],
        "nodes": [
            node(0, {"name": "c_ffmpeg_decoder"}, {"input_path": str(source)}, [], ["video:decoded"]),
            node(1, module_info, option, ["decoded"], ["drawn"]),
            node(2, {"name": "c_ffmpeg_encoder"}, {"output_path": str(target), "video_params": video}, ["drawn"], []),
        ],
    }


@pytest.mark.parametrize(
    "module_info",
    [
        {"name": "SegmentModule", "type": "python", "path": str(ROOT), "entry": "bmf_trt_seg.module.SegmentModule"},
        {"name": "SegmentModule", "type": "python", "path": str(ROOT / "bmf_trt_seg"), "entry": "module.SegmentModule"},
    ],
    ids=["package", "folder"],
)
def test_bmf_runs_the_module_without_us(module_info: dict[str, str], tmp_path: Path, bright: Path) -> None:
    """Both forms that the documentation shows; from another working directory, in a process of its own."""
    source, target = clips.write_clip(tmp_path / "in.mp4", frames=8, crf=0), tmp_path / "out.mp4"
    graph = plain_graph(source, target, module_info, {"model": str(bright), "output": "mask"})
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    run = subprocess.run(
        [sys.executable, "-c", _PLAIN, "graph.json"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert [seconds for seconds, _ in clips.times(source)] == [shown.seconds for shown in clips.read_clip(target)]
    for number, shown in enumerate(clips.read_clip(target)):
        np.testing.assert_array_equal(shown.planes[0] == 235, clips.box_mask(number, WIDTH, HEIGHT))


def test_bmf_raises_what_the_module_says(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    info = {"name": "SegmentModule", "type": "python", "path": str(ROOT), "entry": "bmf_trt_seg.module.SegmentModule"}
    graph = plain_graph(plain_clip, tmp_path / "out.mp4", info, {"model": str(bright), "classes": ["dog"]})
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    run = subprocess.run(
        [sys.executable, "-c", _PLAIN, "graph.json"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert "the model has no class 'dog'; it has 0 background, 1 box" in run.stderr
