"""What happened to the frames of a stream, and where the time went; read while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["StreamMetrics", "open_stream", "request_stop", "stream"]


@dataclass
class StreamMetrics:
    """Counts of one stream. One thread writes, any thread may read.

    stop_requested is the one thing that goes the other way: set, it ends the stream in good order after the frame
    that is being worked on, which BMF itself cannot do from outside.
    """

    name: str
    frames_in: int = 0
    frames_out: int = 0
    inferred: int = 0
    held: int = 0
    rescaled: int = 0
    stop_requested: bool = False
    started_seconds: float = field(default_factory=time.monotonic)
    stage_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + time.perf_counter() - start


_streams: dict[str, StreamMetrics] = {}


def open_stream(name: str) -> StreamMetrics:
    """New counts under this name, in the place of older ones."""
    _streams[name] = StreamMetrics(name)
    return _streams[name]


def stream(name: str) -> StreamMetrics | None:
    """The counts under this name, if a stream was opened with it."""
    return _streams.get(name)


def request_stop() -> None:
    """Ask every open stream to end."""
    for metrics in _streams.values():
        metrics.stop_requested = True
