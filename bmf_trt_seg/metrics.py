"""What happened to the frames of a stream, and where the time went; read while it runs."""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from bmf_trt_seg import trace

__all__ = [
    "BATCH_SIZES",
    "STAGE_SECONDS",
    "WATCHED_EVERY",
    "Histogram",
    "OutputMetrics",
    "Role",
    "State",
    "StreamMetrics",
    "StreamView",
    "close_stream",
    "open_stream",
    "request_stop",
    "stream",
    "view",
    "views",
]

Role = Literal["source", "segment", "sink"]
State = Literal["connecting", "up", "away", "ended"]
_WAY: tuple[Role, ...] = ("source", "segment", "sink")


WATCHED_EVERY = 8
"""Of how many frames the trace follows one through the encoder's queue, which has to wait for Python's lock for it."""
STAGE_SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the times of a stage that are told apart, 0.1 ms to 10 s."""
BATCH_SIZES = tuple(float(2**power) for power in range(9))


class Histogram:
    """How many values were at most as large as each of a few bounds; it takes the same room however many come."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values between two bounds, the upper one included; the last entry is of those above all."""
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def __repr__(self) -> str:
        return f"Histogram({sum(self.counts)} values, {self.total:g} in all)"


@dataclass(eq=False)
class OutputMetrics:
    """Counts of one output of a sink: a file, a playlist or a server. Packets are encoded pictures and pieces of sound.

    packets_in = packets_out + packets_dropped + those waiting.
    """

    name: str
    """Path or address, without credentials."""
    kind: str
    state: State = "connecting"
    packets_in: int = 0
    packets_out: int = 0
    packets_dropped: int = 0
    reconnects: int = 0
    last_error: str = ""


@dataclass(eq=False)
class StreamMetrics:
    """Counts of one node of a stream. Each is written by one thread or under one lock, and any thread may read.

    stop_requested is the one thing that goes the other way: set, it ends the stream in good order after the frame
    that is being worked on, which BMF itself cannot do from outside.
    """

    name: str
    role: Role = "segment"
    frames_in: int = 0
    frames_out: int = 0
    inferred: int = 0
    held: int = 0
    """Frames that show something older: the mask of one before, or, out of a source, the whole picture."""
    rescaled: int = 0
    changes: int = 0
    """Times that options changed between two frames."""
    changes_refused: int = 0
    dropped_for: dict[str, int] = field(default_factory=dict)
    """Frames that came and went no further, by the reason."""
    state: State | None = None
    """None: whoever counts here says nothing of it."""
    reconnects: int = 0
    last_error: str = ""
    last_frame_at: float | None = None
    """`time.monotonic` of the last frame: for a source when it came in, else when it was sent on."""
    sound_in: int = 0
    """Packets of sound that came."""
    sound_dropped: int = 0
    outputs: list[OutputMetrics] = field(default_factory=list)
    """Of a sink; all there are from the start."""
    stop_requested: bool = False
    ended_for: str = ""
    """Why a source ended in good order that wants to be started again."""
    started_seconds: float = field(default_factory=time.monotonic)
    stages: dict[str, Histogram] = field(default_factory=dict)
    batch_sizes: Histogram = field(default_factory=lambda: Histogram(BATCH_SIZES))
    _left_ns: int | None = field(default=None, repr=False)
    _waiting_traced: int = field(default=-1, repr=False)
    _sent: int = field(default=0, repr=False)

    @property
    def dropped(self) -> int:
        """Frames that went no further, for whatever reason."""
        return sum(list(self.dropped_for.values()))

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Time spent in each stage so far."""
        return {name: times.total for name, times in list(self.stages.items())}

    def drop(self, reason: str, frames: int = 1) -> None:
        """Count frames that go no further."""
        self.dropped_for[reason] = self.dropped_for.get(reason, 0) + frames

    def took(self, stage: str, seconds: float) -> None:
        """Count one time of a stage; each stage belongs to one thread."""
        times = self.stages.get(stage)
        if times is None:
            times = self.stages[stage] = Histogram(STAGE_SECONDS)
        times.add(seconds)

    @contextmanager
    def stage(self, name: str, *, on: Any = None, **facts: Any) -> Iterator[None]:
        """Add the time spent inside to a stage, and to the trace, if one runs.

        on: the torch.cuda.Stream that the work is put on: what the GPU takes for it gets a row of its own in the trace.
        facts: shown there, such as frame=0, frames=4; the 'frames' of the stage 'infer' are the size of a batch.
        """
        tracing = trace.current()
        moment = tracing.moment(on) if tracing is not None and on is not None else None
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            end = time.perf_counter_ns()
            self.took(name, (end - start) / 1e9)
            if name == "infer" and "frames" in facts:
                self.batch_sizes.add(facts["frames"])
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
            if self.frames_out != self._sent:
                self._sent = self.frames_out
                self.last_frame_at = time.monotonic()
                self.state = "up"
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


@dataclass(frozen=True)
class StreamView:
    """All that is counted under one name, along the way of the frames: source, segmentation, sink."""

    name: str
    parts: tuple[StreamMetrics, ...]
    """At least one."""

    @property
    def frames_in(self) -> int:
        return self.parts[0].frames_in

    @property
    def frames_out(self) -> int:
        return self.parts[-1].frames_out

    @property
    def state(self) -> State | None:
        """The source's, which alone knows whether its pictures are new ones."""
        return self.parts[0].state

    @property
    def last_frame_at(self) -> float | None:
        """`time.monotonic` of the last frame, where the last is oldest; None if there was none somewhere.

        A camera that is gone shows in its source, though frames go on that repeat its last one; a network that hangs
        shows behind it, though the camera goes on.
        """
        times = [part.last_frame_at for part in self.parts]
        return min((moment for moment in times if moment is not None), default=None) if None not in times else None


_streams: dict[tuple[str, Role], StreamMetrics] = {}
_open: weakref.WeakSet[StreamMetrics] = weakref.WeakSet()
_opening = threading.Lock()  # a set that grows cannot be gone through


def open_stream(name: str, role: Role = "segment") -> StreamMetrics:
    """New counts under this name, in the place of older ones of the same role."""
    _streams[name, role] = opened = StreamMetrics(name, role)
    with _opening:
        _open.add(opened)
    return opened


def stream(name: str, role: Role | None = None) -> StreamMetrics | None:
    """The counts under this name, if a stream was opened with it: of a role, or of the segmentation if there is one."""
    if role is not None:
        return _streams.get((name, role))
    found = (_streams.get((name, known)) for known in ("segment", "source", "sink"))
    return next((metrics for metrics in found if metrics is not None), None)


def close_stream(name: str) -> None:
    """Forget a stream that will not come again. Whoever still counts for it may go on."""
    for role in _WAY:
        _streams.pop((name, role), None)


def view(name: str) -> StreamView | None:
    """What is counted under this name, if anything is."""
    parts = [part for role in _WAY if (part := _streams.get((name, role))) is not None]
    return StreamView(name, tuple(parts)) if parts else None


def views() -> list[StreamView]:
    """Every open stream, in the order of their names."""
    parts: dict[str, list[StreamMetrics]] = {}
    for metrics in sorted(_streams.values(), key=lambda metrics: (metrics.name, _WAY.index(metrics.role))):
        parts.setdefault(metrics.name, []).append(metrics)
    return [StreamView(name, tuple(found)) for name, found in parts.items()]


def request_stop(names: Container[str] | None = None, role: Role | None = None) -> None:
    """Ask streams to end: those of these names and this role, or all; also where another has taken the name since."""
    with _opening:
        found = list(_open)
    for metrics in found:
        if (names is None or metrics.name in names) and role in (None, metrics.role):
            metrics.stop_requested = True
