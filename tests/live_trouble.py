"""BMF modules that fail or hang, for graphs of live feeds. BMF imports this file in the process of a test's program."""

from __future__ import annotations

import math
import threading
from typing import Any

from bmf import Module, Packet, ProcessResult, Task, Timestamp


class Trouble(Module):
    """Passes frames on, if there is an output, up to frame "swallow_from".

    Raises an error at frame "fail_at"; never comes back from frame "hang_at".
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._options = option or {}
        self._frames = 0

    def process(self, task: Task) -> ProcessResult:
        source = task.get_inputs()[0]
        while not source.empty():
            packet = source.get()
            if packet.timestamp == Timestamp.EOF:
                for stream in task.get_outputs().values():
                    stream.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
                return ProcessResult.OK
            self._frames += 1
            if self._frames < self._options.get("swallow_from", math.inf):
                for stream in task.get_outputs().values():
                    stream.put(packet)
            if self._frames == self._options.get("fail_at"):
                raise ValueError("that was one frame too many")
            if self._frames == self._options.get("hang_at"):
                threading.Event().wait()
        return ProcessResult.OK
