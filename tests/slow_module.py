"""A BMF module that takes its time, as a network on a slow machine does."""

from __future__ import annotations

import time
from typing import Any

from bmf import Module, Packet, ProcessResult, Task, Timestamp


class SlowModule(Module):
    """Hands frames on, each after "seconds"."""

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._seconds = float((option or {})["seconds"])

    def process(self, task: Task) -> ProcessResult:
        frames, drawn = task.get_inputs()[0], task.get_outputs()[0]
        while not frames.empty():
            packet = frames.get()
            if packet.timestamp == Timestamp.EOF:
                drawn.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
            else:
                time.sleep(self._seconds)
                drawn.put(packet)
        return ProcessResult.OK
