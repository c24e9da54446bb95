"""SoundGate: a BMF module that holds sound back until the pictures it belongs to have come."""

from __future__ import annotations

import collections
from typing import Any

from bmf import Packet, Task, Timestamp

from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.options import SoundGateOptions
from bmf_trt_seg.validation import validated

__all__ = ["SoundGate"]


class SoundGate(OurModule):
    """Pictures and sound in, the same packets out; for sound that another node than the pictures' decoder reads.

    BMF's encoder forgets sound that is over before its first picture comes, as it is where a network works on the
    pictures. Here sound goes no further than the pictures have come, and ends after them.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        options = validated(SoundGateOptions, option or {}, "options of SoundGate")
        self._lead = round(options.lead_seconds * 1_000_000)
        self._waiting: collections.deque[Packet] = collections.deque()
        self._reached: int | None = None  # microseconds, of the newest picture

    def work(self, task: Task) -> None:
        pictures, sound = (task.get_inputs()[index] for index in range(2))
        self._waiting.extend(packet for packet in packets(sound) if packet.timestamp != Timestamp.EOF)
        for packet in packets(pictures):
            if packet.timestamp == Timestamp.EOF:
                self._end(task)
                return
            task.get_outputs()[0].put(packet)
            self._reached = packet.timestamp
        while self._waiting and self._reached is not None and self._waiting[0].timestamp <= self._reached + self._lead:
            task.get_outputs()[1].put(self._waiting.popleft())

    def _end(self, task: Task) -> None:
        outputs = task.get_outputs()
        while self._waiting:
            outputs[1].put(self._waiting.popleft())
        for output in outputs.values():
            output.put(Packet.generate_eof_packet())
        task.timestamp = Timestamp.DONE
