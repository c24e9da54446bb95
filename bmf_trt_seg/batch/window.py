"""FrameWindow: a BMF module that lets the frames of a span of time through, and no others."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pydantic
from bmf import Packet, Task, Timestamp, VideoFrame

from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.validation import Strict, validated

__all__ = ["FrameWindow"]


class _Options(Strict):
    first: int = pydantic.Field(description="Time of the first frame that goes through.")
    last: int = pydantic.Field(description="Time of the last one.")
    time_base: tuple[int, int] = pydantic.Field(description="Seconds that a unit of both lasts, as a fraction.")


class FrameWindow(OurModule):
    """Passes on those frames whose times are from `first` to `last`, both included, as they are."""

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        options = validated(_Options, option or {}, "options of FrameWindow")
        unit = Fraction(*options.time_base)
        self._first, self._last = options.first * unit, options.last * unit

    def work(self, task: Task) -> None:
        output = task.get_outputs()[0]
        for packet in packets(task.get_inputs()[0]):
            if packet.timestamp == Timestamp.EOF:
                output.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
                return
            if packet.is_(VideoFrame) and self._first <= _seconds(packet.get(VideoFrame)) <= self._last:
                output.put(packet)

    def close(self) -> None:
        """Nothing is held."""


def _seconds(frame: VideoFrame) -> Fraction:
    return frame.pts * Fraction(frame.time_base.num, frame.time_base.den)
