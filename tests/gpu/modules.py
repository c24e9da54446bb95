"""BMF modules that the tests put into graphs. BMF imports this file by its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bmf.hmp as hmp
import numpy as np
from bmf import Module, Packet, ProcessResult, Task, Timestamp, VideoFrame


class ToNv12(Module):
    """YUV420P frames as NV12 ones, in the memory of the GPU with the option {"cuda": 1}."""

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        self._on_gpu = bool((option or {}).get("cuda"))

    def process(self, task: Task) -> ProcessResult:
        source, target = task.get_inputs()[0], task.get_outputs()[0]
        while not source.empty():
            packet = source.get()
            if packet.timestamp == Timestamp.EOF:
                target.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                converted = Packet(self._converted(packet.get(VideoFrame)))
                converted.timestamp = packet.timestamp
                target.put(converted)
        return ProcessResult.OK

    def _converted(self, given: VideoFrame) -> VideoFrame:
        info = given.frame().pix_info()
        made = VideoFrame(hmp.Frame(given.width, given.height, hmp.PixelInfo(hmp.kPF_NV12, info.space, info.range)))
        luma, cb, cr = (given.frame().plane(index).numpy()[..., 0] for index in range(3))
        made.frame().plane(0).numpy()[..., 0] = luma
        made.frame().plane(1).numpy()[:] = np.stack([cb, cr], -1)
        if self._on_gpu:
            made = made.cuda()
            assert made.frame().device().type() == hmp.kCUDA
        made.copy_props(given)
        return made


class Collect(Module):
    """Writes the pts of its frames, and their first planes, to the file of the option "path" (.npz)."""

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        self._path = Path((option or {})["path"])
        self._pts: list[int] = []
        self._planes: list[Any] = []

    def process(self, task: Task) -> ProcessResult:
        source = task.get_inputs()[0]
        while not source.empty():
            packet = source.get()
            if packet.timestamp == Timestamp.EOF:
                np.savez(self._path, pts=np.array(self._pts), planes=np.stack(self._planes))
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                frame = packet.get(VideoFrame)
                self._pts.append(frame.pts)
                picture = frame if frame.frame().device().type() == hmp.kCPU else frame.cpu()
                self._planes.append(picture.frame().plane(0).numpy()[..., 0].copy())
        return ProcessResult.OK
