"""A BMF module that notes what reaches it. BMF imports this file as the tests do, so both have the same lists."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rtsp
from bmf import Module, Packet, ProcessResult, Task, Timestamp, VideoFrame


@dataclass(frozen=True)
class Seen:
    """A frame that came, and when (`time.monotonic`)."""

    pts: int
    timestamp: int
    time_base: tuple[int, int]
    size_wh: tuple[int, int]
    number: int
    is_marked: bool
    at: float


@dataclass
class Collected:
    """What came to one sink so far."""

    frames: list[Seen] = field(default_factory=list)
    has_ended: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so; looked at when a frame comes, and 50 times a second."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not condition():
                if time.monotonic() > deadline:
                    return False
                self.changed.wait(0.02)
        return True


collected: dict[str, Collected] = {}
"""By the sink's option "name"."""


class CollectingSink(Module):
    """Notes its frames; with the option "seconds" it takes so long for each."""

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        options = option or {}
        self._collected = collected[options["name"]]
        self._seconds = float(options.get("seconds", 0.0))

    def process(self, task: Task) -> ProcessResult:
        source = task.get_inputs()[0]
        while not source.empty():
            packet = source.get()
            if packet.timestamp == Timestamp.EOF:
                self._collected.has_ended = True
                task.timestamp = Timestamp.DONE
            elif packet.is_(VideoFrame):
                with self._collected.changed:
                    self._collected.frames.append(_seen(packet))
                    self._collected.changed.notify_all()
                time.sleep(self._seconds)
        return ProcessResult.OK


def _seen(packet: Packet) -> Seen:
    frame = packet.get(VideoFrame)
    luma = frame.frame().plane(0).numpy()[..., 0]
    return Seen(
        pts=frame.pts,
        timestamp=packet.timestamp,
        time_base=(frame.time_base.num, frame.time_base.den),
        size_wh=(frame.width, frame.height),
        number=rtsp.number_of(luma),
        is_marked=rtsp.is_marked(luma),
        at=time.monotonic(),
    )
