"""SoundGate: a BMF module that holds sound back until the pictures it belongs to have come."""

from __future__ import annotations

import collections
import math
from typing import Any

from bmf import Packet, Task, Timestamp

from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.options import SoundGateOptions
from bmf_trt_seg.validation import validated

__all__ = ["SoundGate"]


class SoundGate(OurModule):
    """Pictures and sound in, the same packets out; for sound that another node than the pictures' decoder reads.

    BMF's encoder forgets sound that is over before its first picture comes, as it is where a network works on the
    pictures. Here sound goes no further than the pictures have come; what is left when they end follows at once.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        options = validated(SoundGateOptions, option or {}, "options of SoundGate")
        self._lead = round(options.lead_seconds * 1_000_000)
        self._waiting: collections.deque[Packet] = collections.deque()
        self._reached: float | None = None  # microseconds, of the newest picture
        self._is_sound_over = False

    def work(self, task: Task) -> None:
        outputs = task.get_outputs()
        for packet in packets(task.get_inputs()[1]):
            if packet.timestamp == Timestamp.EOF:
                self._is_sound_over = True
            else:
                self._waiting.append(packet)
        for packet in packets(task.get_inputs()[0]):
            if packet.timestamp == Timestamp.EOF:
                self._reached = math.inf
                outputs[0].put(Packet.generate_eof_packet())
            else:
                outputs[0].put(packet)
                self._reached = packet.timestamp
        while self._waiting and self._reached is not None and self._waiting[0].timestamp <= self._reached + self._lead:
            outputs[1].put(self._waiting.popleft())
        if self._is_sound_over and self._reached == math.inf:
            outputs[1].put(Packet.generate_eof_packet())
            task.timestamp = Timestamp.DONE
