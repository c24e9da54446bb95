"""When every stage of every stream worked, as a file for ui.perfetto.dev or chrome://tracing.

While a trace runs it only collects: adding a span is an append to a list, without a lock, a file or a wait for the
GPU. Times of the host are `time.perf_counter_ns`. Times of a GPU are CUDA events: two around the work, and a third one
that was recorded together with a time of the host. They are read when the GPU has passed them.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

__all__ = ["LIMIT", "QUEUES", "ROWS", "Moment", "Span", "Trace", "current", "start", "stop", "timed"]

LIMIT = 300_000
"""Spans that a trace keeps, and readings of counters: the newest. 180 MB, or 8 minutes at 100 frames a second."""

ROWS = (
    "video",
    "decode",
    "input wait",
    "upload",
    "preprocess",
    "infer",
    "postprocess",
    "overlay",
    "copy",
    "wait",
    "output",
    "encode queue",
)
"""Stages in the order of their rows; any other stage has its row below them."""

QUEUES = ("encode queue",)
"""Stages that several frames are in at once: one row, in which spans are stacked."""

_PENDING_LIMIT = 10_000  # pairs of CUDA events
_PENDING_USUAL = 64  # what the GPU may be behind before anybody looks whether it has passed the oldest
_REFERENCE_NS = 10 * 10**9  # CUDA tells times in milliseconds as float32: 1 µs after 16 s, 0.25 ms after an hour
_PATIENCE_SECONDS = 2.0  # for what the GPU still does when the trace is written


class Event(Protocol):
    """What is used of torch.cuda.Event(enable_timing=True)."""

    def record(self, stream: Any) -> None: ...
    def query(self) -> bool: ...
    def elapsed_time(self, end_event: Any) -> float: ...


class Cuda(Protocol):
    """Where events and streams come from."""

    def event(self) -> Event: ...
    def stream(self, device: Any) -> Any: ...


class _TorchCuda:
    def event(self) -> Event:
        import torch

        return torch.cuda.Event(enable_timing=True)

    def stream(self, device: Any) -> Any:
        import torch

        return torch.cuda.Stream(device)


class Span(NamedTuple):
    """One thing that was done; times in nanoseconds of `time.perf_counter_ns`. device: '' for the host."""

    stream: str
    stage: str
    begin_ns: int
    end_ns: int
    facts: dict[str, Any]
    device: str = ""
    serial: int = 0

    @property
    def row(self) -> str:
        """The name of the row that shows it."""
        return f"{self.stage} (GPU)" if self.device else self.stage


@dataclass(frozen=True)
class _Reference:
    """An event, and what the host's clock said when it was recorded."""

    event: Event
    at_ns: int


@dataclass(frozen=True)
class Moment:
    """A place in the work of a CUDA stream; its time is known when the GPU gets there."""

    event: Event
    reference: _Reference
    device: str


class _Reading(NamedTuple):
    """What a counter said."""

    stream: str
    name: str
    at_ns: int
    value: float
    serial: int


class _Pending(NamedTuple):
    stream: str
    stage: str
    begin: Moment
    end: Moment
    facts: dict[str, Any]


class Trace:
    """Spans of streams and stages. Any thread may add to it at any time, and none ever waits.

    At most `limit` spans are kept, and as many readings of counters; the oldest go first and are counted in `dropped`.
    cuda: where CUDA events come from, PyTorch if nothing is given.
    """

    def __init__(self, limit: int = LIMIT, cuda: Cuda | None = None) -> None:
        self.begun_ns = time.perf_counter_ns()
        self._cuda: Cuda = cuda or _TorchCuda()
        self._spans: deque[Span] = deque(maxlen=limit)
        self._readings: deque[_Reading] = deque(maxlen=limit)
        self._pending: deque[_Pending] = deque(maxlen=min(limit, _PENDING_LIMIT))
        self._span_serials, self._reading_serials = itertools.count(1), itertools.count(1)  # next() is atomic, += not
        self._references: dict[str, _Reference] = {}
        self._streams: dict[str, Any] = {}
        self._unread = 0
        self._device_lock = threading.Lock()

    @property
    def dropped(self) -> int:
        """How many spans and readings were more than this keeps."""
        return sum(
            max((item.serial for item in items), default=0) - len(items)
            for items in (_copy(self._spans), _copy(self._readings))
        )

    @property
    def unread(self) -> int:
        """How many times of a GPU could not be read: it failed, or was not done when the trace was written."""
        return self._unread

    def span(self, stream: str, stage: str, begin_ns: int, end_ns: int, **facts: Any) -> None:
        """Add what a stage of a stream did from one time of `time.perf_counter_ns` to another.

        facts are shown with it: text, numbers or truth values.
        """
        self._spans.append(Span(stream, stage, begin_ns, end_ns, facts, "", next(self._span_serials)))

    @contextmanager
    def timed(self, stream: str, stage: str, **facts: Any) -> Iterator[None]:
        """Add a span for what is done inside, also if it fails."""
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self.span(stream, stage, begin, time.perf_counter_ns(), **facts)

    def count(self, stream: str, name: str, value: float) -> None:
        """Add what a counter of a stream says now; it says so until the next reading."""
        self._readings.append(_Reading(stream, name, time.perf_counter_ns(), value, next(self._reading_serials)))

    def moment(self, cuda_stream: Any) -> Moment | None:
        """Mark where `cuda_stream` (a torch.cuda.Stream) is now, without waiting for it; None if the GPU has failed."""
        try:
            reference = self._reference(cuda_stream.device)
            event = self._cuda.event()
            event.record(cuda_stream)
        except RuntimeError:  # the work itself fails with it, too, and says it better
            self._unread += 1
            return None
        return Moment(event, reference, str(cuda_stream.device))

    def device_span(self, stream: str, stage: str, begin: Moment | None, end: Moment | None, **facts: Any) -> None:
        """Add what a GPU did for a stage between two moments of one CUDA stream; nothing if one of them is None."""
        if begin is None or end is None:
            return
        if len(self._pending) == self._pending.maxlen:
            self._unread += 1
        self._pending.append(_Pending(stream, stage, begin, end, facts))
        if len(self._pending) > _PENDING_USUAL:
            self._read_passed(2)

    def spans(self) -> list[Span]:
        """All spans that are known by now, in the order of their beginnings."""
        self._read_passed(len(self._pending))
        return sorted(_copy(self._spans), key=lambda span: span.begin_ns)

    def events(self) -> list[dict[str, Any]]:
        """The events of the Trace Event Format: names of the rows, then everything in the order of time (µs)."""
        self._await_device()
        spans, readings = self.spans(), _copy(self._readings)
        streams = {name: number for number, name in enumerate(_names(spans, readings), 1)}
        rows = _Rows(streams)
        timed: list[dict[str, Any]] = [
            {
                "ph": "X", "name": span.stage, "cat": span.device or "host", "pid": streams[span.stream],
                "tid": rows.number(span), "ts": self._micros(span.begin_ns),
                "dur": round((span.end_ns - span.begin_ns) / 1e3, 3),
                "args": {**span.facts, **({"device": span.device} if span.device else {})},
            }
            for span in spans
            if span.stage not in QUEUES
        ]  # fmt: skip
        timed += self._queue_events([span for span in spans if span.stage in QUEUES], streams)
        timed += [
            {
                "ph": "C", "name": reading.name, "pid": streams[reading.stream], "ts": self._micros(reading.at_ns),
                "args": {reading.name: reading.value},
            }
            for reading in readings
        ]  # fmt: skip
        timed.sort(key=lambda event: event["ts"])
        return rows.names() + timed

    def write(self, path: Path) -> None:
        """Write the trace as JSON, a line an event. Raises OSError; see `outputs.write_whole` for all or nothing."""
        events = self.events()
        encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
        about = {"dropped": self.dropped, "unread_gpu_times": self.unread}
        with path.open("w", encoding="utf-8") as file:
            file.write(f'{{"displayTimeUnit": "ms", "otherData": {encode(about)}, "traceEvents": [\n')
            for number, event in enumerate(events):
                file.write((",\n" if number else "") + encode(event))
            file.write("\n]}\n")

    def _queue_events(self, spans: Iterable[Span], streams: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Beginnings and ends of spans that overlap."""
        for span in spans:
            of = {"name": span.stage, "cat": span.stage, "id": span.serial, "pid": streams[span.stream], "tid": 0}
            yield {"ph": "b", **of, "ts": self._micros(span.begin_ns), "args": span.facts}
            yield {"ph": "e", **of, "ts": self._micros(span.end_ns)}

    def _micros(self, at_ns: int) -> float:
        return round((at_ns - self.begun_ns) / 1e3, 3)

    def _reference(self, device: Any) -> _Reference:
        """A young reference of a GPU, recorded in a stream with nothing in it, so that it is passed at once."""
        name = str(device)
        reference = self._references.get(name)
        if reference is None or time.perf_counter_ns() - reference.at_ns > _REFERENCE_NS:
            with self._device_lock:
                if name not in self._streams:
                    self._streams[name] = self._cuda.stream(device)
                event = self._cuda.event()
                before = time.perf_counter_ns()
                event.record(self._streams[name])
                reference = _Reference(event, (before + time.perf_counter_ns()) // 2)
                self._references[name] = reference
        return reference

    def _read_passed(self, most: int) -> None:
        """Read the oldest pairs of events that the GPU has passed, `most` at most; a thread that is at it is enough."""
        if not self._device_lock.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(IndexError):  # the limit pushed it out in between
                for _ in range(most):
                    if not self._pending or not self._read(self._pending[0]):
                        break
                    self._pending.popleft()
        finally:
            self._device_lock.release()

    def _read(self, pair: _Pending) -> bool:
        """Whether a pair is done with: read, or of a GPU that failed."""
        begin, end, reference = pair.begin, pair.end, pair.begin.reference
        try:
            if not (reference.event.query() and end.event.query()):
                return False
            begin_ns = reference.at_ns + round(reference.event.elapsed_time(begin.event) * 1e6)
            end_ns = begin_ns + round(begin.event.elapsed_time(end.event) * 1e6)
        except RuntimeError:  # of CUDA: after an error nothing of this process can be read any more
            self._unread += 1
            return True
        serial = next(self._span_serials)
        self._spans.append(Span(pair.stream, pair.stage, begin_ns, end_ns, pair.facts, begin.device, serial))
        return True

    def _await_device(self) -> None:
        """Give the GPU some time to finish what was marked; what is not done then stays out."""
        until = time.monotonic() + _PATIENCE_SECONDS
        self._read_passed(len(self._pending))
        while self._pending and time.monotonic() < until:
            time.sleep(0.005)
            self._read_passed(len(self._pending))
        while self._pending:
            self._pending.popleft()
            self._unread += 1


class _Rows:
    """Numbers and names of rows. What overlaps in a row goes on in another one: 'infer', 'infer 2'."""

    def __init__(self, streams: dict[str, int]) -> None:
        self._streams = streams
        self._free_ns: dict[tuple[str, str], list[int]] = {}  # for each row and its sequels, when they are free again
        self._numbers: dict[tuple[str, str, int], int] = {}
        self._stages: dict[str, int] = {name: number for number, name in enumerate(ROWS)}

    def number(self, span: Span) -> int:
        """The row of a span; spans have to come in the order of their beginnings."""
        free = self._free_ns.setdefault((span.stream, span.row), [])
        lane = next((lane for lane, free_ns in enumerate(free) if free_ns <= span.begin_ns), len(free))
        free[lane : lane + 1] = [span.end_ns]
        self._stages.setdefault(span.stage, len(self._stages))
        return self._numbers.setdefault((span.stream, span.row, lane), len(self._numbers) + 1)

    def names(self) -> list[dict[str, Any]]:
        """The events that name streams and rows and put them in order."""
        found = [
            event
            for stream, pid in self._streams.items()
            for event in (_name("process", pid, 0, stream), _order("process", pid, 0, pid))
        ]
        for (stream, row, lane), tid in self._numbers.items():
            pid, on_device = self._streams[stream], row.endswith(" (GPU)")
            place = self._stages[row.removesuffix(" (GPU)")] * 2 + on_device
            found.append(_name("thread", pid, tid, f"{row} {lane + 1}" if lane else row))
            found.append(_order("thread", pid, tid, place * 100 + min(lane, 99)))
        return found


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": f"{kind}_name", "pid": pid, "tid": tid, "args": {"name": name}}


def _order(kind: str, pid: int, tid: int, place: int) -> dict[str, Any]:
    return {"ph": "M", "name": f"{kind}_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": place}}


def _names(spans: Iterable[Span], readings: Iterable[_Reading]) -> list[str]:
    return list(dict.fromkeys([*(span.stream for span in spans), *(reading.stream for reading in readings)]))


def _copy(items: deque[Any]) -> list[Any]:
    """What is in a deque that others may add to meanwhile."""
    while True:
        try:
            return list(items)
        except RuntimeError:  # it grew while it was read
            continue


_current: Trace | None = None


def current() -> Trace | None:
    """The trace that runs, or None."""
    return _current


def timed(stream: str, stage: str, **facts: Any) -> AbstractContextManager[None]:
    """`Trace.timed` of the trace that runs; nothing if there is none."""
    return nullcontext() if _current is None else _current.timed(stream, stage, **facts)


def start(limit: int = LIMIT) -> Trace:
    """Run a new trace, in the place of one that runs."""
    global _current
    _current = Trace(limit)
    return _current


def stop() -> Trace | None:
    """End the trace that runs and give it; None if there is none."""
    global _current
    ended, _current = _current, None
    return ended
