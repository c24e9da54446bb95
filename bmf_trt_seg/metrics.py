"""What happened to the frames of a stream, and where the time went; read while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bmf_trt_seg import trace

__all__ = ["WATCHED_EVERY", "StreamMetrics", "open_stream", "request_stop", "stream"]


WATCHED_EVERY = 8
"""Of how many frames the trace follows one through the encoder's queue, which has to wait for Python's lock for it."""


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
    _left_ns: int | None = field(default=None, repr=False)
    _waiting_traced: int = field(default=-1, repr=False)

    @contextmanager
    def stage(self, name: str, *, on: Any = None, **facts: Any) -> Iterator[None]:
        """Add the time spent inside to a stage, and to the trace, if one runs.

        on: the torch.cuda.Stream that the work is put on: what the GPU takes for it gets a row of its own in the trace.
        facts: shown there, such as frame=0, frames=4.
        """
        tracing = trace.current()
        moment = tracing.moment(on) if tracing is not None and on is not None else None
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            end = time.perf_counter_ns()
            self.stage_seconds[name] = self.stage_seconds.get(name, 0.0) + (end - start) / 1e9
            if tracing is not None:
                if moment is not None:
                    tracing.device_span(self.name, name, moment, tracing.moment(on), **facts)
                tracing.span(self.name, name, start, end, **facts)
                self._trace_waiting(tracing)

    @contextmanager
    def at_work(self, **facts: Any) -> Iterator[None]:
        """Around each call by the graph: the time from one to the next is the stage 'input wait' of the trace.

        It is the decoder that is waited for, or, while what comes behind is full, the encoder: BMF does not say which.
        """
        tracing = trace.current()
        if tracing is not None and self._left_ns is not None:
            tracing.span(self.name, "input wait", self._left_ns, time.perf_counter_ns(), **facts)
        try:
            yield
        finally:
            if tracing is not None:
                self._left_ns = time.perf_counter_ns()
                self._trace_waiting(tracing)

    def departure(self, frame: int) -> Callable[[], None] | None:
        """What to call, in any thread, when whoever gets frame number `frame` now has let go of it.

        That is the stage 'encode queue' of the trace. None: nobody wants to know, as without a trace.
        """
        tracing = trace.current()
        if tracing is None or frame % WATCHED_EVERY:
            return None
        put_ns = time.perf_counter_ns()

        def gone() -> None:
            tracing.span(self.name, "encode queue", put_ns, time.perf_counter_ns(), frame=frame)
            tracing.count(self.name, "frames in the encode queue", max(0, self.frames_out - frame - 1))

        return gone

    def _trace_waiting(self, tracing: trace.Trace) -> None:
        waiting = self.frames_in - self.frames_out
        if waiting != self._waiting_traced:
            self._waiting_traced = waiting
            tracing.count(self.name, "frames in the module", waiting)


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
