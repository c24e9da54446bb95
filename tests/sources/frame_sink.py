"""A BMF module that keeps what reaches it. BMF imports this file as the tests do, so both have the same lists."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import bmf.hmp as hmp
import numpy as np
import numpy.typing as npt
from bmf import Module, ProcessResult, Task, Timestamp, VideoFrame


@dataclass(frozen=True)
class Kept:
    """A frame that came, its planes copied to host memory as they were, and as YUV420P by `picture_of`."""

    pts: int
    time_base: Fraction
    timestamp: int
    pixel_format: Any
    matrix: Any
    value_range: Any
    on_gpu: bool
    planes: list[npt.NDArray[Any]]
    as_yuv420p: list[npt.NDArray[np.uint8]]

    @property
    def seconds(self) -> Fraction:
        return self.pts * self.time_base


kept: dict[str, list[Kept]] = {}
"""By the sink's option "name". With the option "count" it keeps only how many there were, as `counted`."""
counted: dict[str, int] = {}


class KeepingSink(Module):
    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._name = (option or {})["name"]
        self._only_counts = bool((option or {}).get("count"))
        kept[self._name] = []
        counted[self._name] = 0

    def process(self, task: Task) -> ProcessResult:
        source = task.get_inputs()[0]
        while not source.empty():
            packet = source.get()
            if packet.timestamp == Timestamp.EOF:
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                counted[self._name] += 1
                if not self._only_counts:
                    kept[self._name].append(_kept(packet.get(VideoFrame), packet.timestamp))
        return ProcessResult.OK


def _kept(frame: VideoFrame, timestamp: int) -> Kept:
    from bmf_trt_seg.bmf_frames import picture_of

    inner = frame.frame()
    on_gpu = inner.device().type() == hmp.kCUDA
    host = frame.cpu() if on_gpu else frame
    eight_bits = inner.format() in (hmp.kPF_YUV420P, hmp.kPF_NV12) or not on_gpu
    return Kept(
        pts=frame.pts,
        time_base=Fraction(frame.time_base.num, frame.time_base.den),
        timestamp=timestamp,
        pixel_format=inner.format(),
        matrix=inner.pix_info().space,
        value_range=inner.pix_info().range,
        on_gpu=on_gpu,
        planes=[host.frame().plane(index).numpy().copy() for index in range(host.frame().nplanes())]
        if inner.format() in (hmp.kPF_YUV420P, hmp.kPF_NV12, hmp.kPF_P010LE)
        else [],
        as_yuv420p=[plane.copy() for plane in picture_of(frame).planes.planes] if eight_bits else [],
    )


def graph_to_sink(source: dict[str, Any], name: str, **options: Any) -> dict[str, Any]:
    """A graph from a source, as its 'module_info' and 'option', to a sink of this name."""
    from pathlib import Path

    sink = {
        "name": "KeepingSink",
        "type": "python",
        "path": str(Path(__file__).parent),
        "entry": "frame_sink.KeepingSink",
    }
    base = {"input_manager": "immediate", "input_streams": [], "output_streams": []}
    return {
        "mode": "Normal", "option": {"scheduler_count": 2}, "input_streams": [], "output_streams": [],
        "nodes": [
            {**base, **source, "id": 0, "scheduler": 0, "output_streams": [{"identifier": "video:frames"}]},
            {**base, "id": 1, "scheduler": 1, "module_info": sink, "option": {"name": name, **options},
             "input_streams": [{"identifier": "video:frames"}]},
        ],
    }  # fmt: skip


def nvdec(path: Any, **options: Any) -> dict[str, Any]:
    """NvDecSource as a node."""
    info = {"name": "NvDecSource", "type": "python", "path": "", "entry": "bmf_trt_seg.sources.NvDecSource"}
    return {"module_info": info, "option": {"path": str(path), **options}}


def ffmpeg(path: Any) -> dict[str, Any]:
    """BMF's own decoder as a node, with the file's own times."""
    option = {"input_path": str(path), "copyts": 1, "loglevel": "error"}
    return {"module_info": {"name": "c_ffmpeg_decoder"}, "option": option}


def frames_of(source: dict[str, Any], name: str = "frames") -> list[Kept]:
    """Run a source into a sink; what came."""
    from bmf_trt_seg.graph import check_graph, run_graph

    graph = graph_to_sink(source, name)
    assert check_graph(graph) == []
    run_graph(graph)
    return kept[name]
