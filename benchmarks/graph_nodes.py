"""BMF modules for the GPU benchmark. BMF imports this file by its path, in the process of the benchmark."""

from __future__ import annotations

import time
from typing import Any

from bmf import Module, Packet, ProcessResult, Task, Timestamp, VideoFrame

ARRIVALS: dict[str, list[float]] = {}
"""When each frame reached the sink of a name (time.perf_counter)."""


class CountingSink(Module):
    """Notes when frames come and lets them go."""

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        self._times = ARRIVALS.setdefault((option or {})["name"], [])

    def process(self, task: Task) -> ProcessResult:
        stream = task.get_inputs()[0]
        while not stream.empty():
            packet = stream.get()
            if packet.timestamp == Timestamp.EOF:
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                self._times.append(time.perf_counter())
        return ProcessResult.OK


class PassingBy(CountingSink):
    """Notes when frames come and hands them on."""

    def process(self, task: Task) -> ProcessResult:
        source, target = task.get_inputs()[0], task.get_outputs()[0]
        while not source.empty():
            packet = source.get()
            if packet.timestamp == Timestamp.EOF:
                target.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                self._times.append(time.perf_counter())
                target.put(packet)
        return ProcessResult.OK


class Keeping(CountingSink):
    """Keeps the frames for `FromMemory`."""

    def process(self, task: Task) -> ProcessResult:
        stream, kept = task.get_inputs()[0], []
        while not stream.empty():
            packet = stream.get()
            if packet.timestamp == Timestamp.EOF:
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                self._times.append(time.perf_counter())
                kept.append(packet.get(VideoFrame))
        FromMemory.frames += tuple(kept)
        return ProcessResult.OK


class FromMemory(Module):
    """Plays `frames`, which `Keeping` put here, over and over, as many as the option "count" says.

    They keep their times, since x264 spends more on a picture that is shown longer.
    """

    frames: tuple[VideoFrame, ...] = ()

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        self._left = int((option or {})["count"])
        self._sent = 0

    def process(self, task: Task) -> ProcessResult:
        target = task.get_outputs()[0]
        for _ in range(min(8, self._left)):
            turn, place = divmod(self._sent, len(self.frames))
            kept = self.frames[place]
            frame = VideoFrame(kept.frame())
            frame.copy_props(kept)
            frame.pts = kept.pts + turn * len(self.frames) * (self.frames[1].pts - self.frames[0].pts)
            packet = Packet(frame)
            packet.timestamp = frame.pts * 1_000_000 * kept.time_base.num // kept.time_base.den
            target.put(packet)
            self._sent, self._left = self._sent + 1, self._left - 1
        if not self._left:
            target.put(Packet.generate_eof_packet())
            task.timestamp = Timestamp.DONE
        return ProcessResult.OK
