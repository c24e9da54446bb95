"""The state of all streams as JSON, which the page asks for each second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bmf_trt_seg import metrics
from bmf_trt_seg.feed_states import feed_state
from bmf_trt_seg.metrics import StreamView
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.watch import streams
from bmf_trt_seg.watch.shares import SECONDS, STEP_SECONDS
from bmf_trt_seg.watch.streams import WatchedStream

__all__ = ["Status"]

_RATE_SECONDS = 5.0
_LEAST_RATE_SECONDS = 0.5
_MOST_CLASSES = 6


class Status:
    """Tells how the streams are: those that should run, in their order, then any others that are open."""

    def __init__(
        self,
        expected: Callable[[], Iterable[str]] = tuple,
        late_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """late_seconds: the age of a last frame from which a stream that is up counts as late."""
        self._expected, self._late_seconds, self._clock = expected, late_seconds, clock
        self._lock = threading.Lock()
        self._rates: dict[str, _Rates] = {}

    def names(self) -> dict[str, str]:
        """The name of each stream by its label: the name as it may be shown, with a number if that is not unique."""
        open_now = [view.name for view in metrics.views()]
        found: dict[str, str] = {}
        for name in dict.fromkeys([*self._expected(), *open_now]):
            label, number = masked(name), 2
            while label in found:
                label, number = f"{masked(name)} #{number}", number + 1
            found[label] = name
        return found

    def content(self) -> dict[str, Any]:
        """What there is to tell; see `_of_stream` for a stream."""
        names, views, now = self.names(), {view.name: view for view in metrics.views()}, self._clock()
        with self._lock:
            self._rates = {name: self._rates.get(name) or _Rates() for name in names.values()}
            return {
                "late_seconds": self._late_seconds,
                "chart_seconds": SECONDS,
                "step_seconds": STEP_SECONDS,
                "streams": [
                    {"stream": label, **self._of_stream(name, views.get(name), now)} for label, name in names.items()
                ],
            }

    def _of_stream(self, name: str, view: StreamView | None, now: float) -> dict[str, Any]:
        """Times in milliseconds or seconds as the keys say; null where it is not known (yet)."""
        watched = streams.stream(name)
        rates = self._rates[name].of(view, now)
        parts = view.parts if view is not None else ()
        last_frame_at = view.last_frame_at if view is not None else None
        age = None if last_frame_at is None else max(0.0, now - last_frame_at)
        state, error = _state(name, view)
        feed = feed_state(name)
        dropped: dict[str, int] = {}
        for part in parts:
            for reason, frames in list(part.dropped_for.items()):
                dropped[reason] = dropped.get(reason, 0) + frames
        return {
            "state": state,
            "is_late": state == "up" and age is not None and age > self._late_seconds,
            "last_error": masked(error),
            "fps_in": _rounded(rates.fps_in, 1),
            "fps_out": _rounded(rates.fps_out, 1),
            "latency_ms": _latency_ms(rates, watched) if state == "up" else None,
            "frames_in": view.frames_in if view is not None else 0,
            "frames_out": view.frames_out if view is not None else 0,
            "dropped": sum(dropped.values()),
            "dropped_for": dropped,
            "reconnects": sum(part.reconnects for part in parts),
            "restarts": feed.restarts if feed is not None else 0,
            "last_frame_age_seconds": _rounded(age, 2),
            "outputs": [
                {
                    "kind": output.kind,
                    "name": masked(output.name),
                    "state": output.state,
                    "packets_dropped": output.packets_dropped,
                    "reconnects": output.reconnects,
                    "last_error": masked(output.last_error),
                }
                for part in parts
                for output in list(part.outputs)
            ],
            "size": watched.preview.size_wh if watched is not None else None,
            "shares": _shares(watched, now),
        }


def _state(name: str, view: StreamView | None) -> tuple[metrics.State, str]:
    """What a stream says of itself, or, where its graph does not run, what its supervisor does; and the last error."""
    state = view.state if view is not None else None
    error = view.parts[0].last_error if view is not None else ""
    feed = feed_state(name)
    if feed is None or feed.state in ("starting", "running"):
        return state or "connecting", error
    return "away" if feed.state in ("restarting", "waiting", "stuck") else "ended", feed.reason or error


def _latency_ms(rates: _Rates, watched: WatchedStream | None) -> float | None:
    """From a frame's arrival to where it leaves the graph, if that is seen; else to its being drawn."""
    seconds = rates.end_to_end
    if seconds is None and watched is not None and watched.latency_seconds is not None:
        seconds = watched.latency_seconds + (rates.queue or 0.0)
    return None if seconds is None else round(1000 * seconds, 1)


def _shares(watched: WatchedStream | None, now: float) -> dict[str, Any]:
    """Classes with their shares, 0 to 1: now, and a point for each step of the last minutes; `others` as well."""
    if watched is None:
        return {"classes": [], "others": None}
    shown = watched.classes
    table, latest = shown.shares.table(now, _MOST_CLASSES), shown.shares.latest()
    classes = [
        {
            "index": index,
            "label": shown.labels[index],
            "color": shown.colors[index],
            "share": round(latest.pop(index, 0.0), 4),
            "points": points,
        }
        for index, points in zip(table.classes, table.points, strict=True)
    ]
    has_others = any(table.others)
    return {
        "classes": classes,
        "others": {"share": round(sum(latest.values()), 4), "points": table.others} if has_others else None,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class _Rates:
    """Counts of the last seconds, taken when somebody asks."""

    def __init__(self) -> None:
        self._taken: deque[_Counts] = deque()
        self._parts: tuple[metrics.StreamMetrics, ...] = ()
        self.fps_in: float | None = None
        self.fps_out: float | None = None
        """Frames a second; None before the second look."""
        self.queue: float | None = None
        self.end_to_end: float | None = None
        """Mean seconds of a frame in these stages; None where there is no such stage."""

    def of(self, view: StreamView | None, now: float) -> _Rates:
        """Itself, up to date."""
        parts = view.parts if view is not None else ()
        if parts != self._parts:  # opened anew, and counts begin at 0
            self._taken.clear()
            self._parts = parts
        while self._taken and now - self._taken[0].at > _RATE_SECONDS:
            self._taken.popleft()
        counts = _Counts.of(view, now)
        before = self._taken[0] if self._taken else None
        self.fps_in = self.fps_out = None
        if before is not None and now - before.at >= _LEAST_RATE_SECONDS:
            self.fps_in = (counts.frames_in - before.frames_in) / (now - before.at)
            self.fps_out = (counts.frames_out - before.frames_out) / (now - before.at)
        self.queue = counts.queue.mean_since(before.queue if before is not None else _Stage())
        self.end_to_end = counts.end_to_end.mean_since(before.end_to_end if before is not None else _Stage())
        if not self._taken or now - self._taken[-1].at >= _LEAST_RATE_SECONDS:
            self._taken.append(counts)
        return self


@dataclass(frozen=True)
class _Stage:
    """How often a stage was passed, and the seconds of that in all."""

    times: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, parts: Iterable[metrics.StreamMetrics]) -> _Stage:
        found = next((part.stages[name] for part in parts if name in part.stages), None)
        return cls() if found is None else cls(sum(found.counts), found.total)

    def mean_since(self, before: _Stage) -> float | None:
        """Of those passed since then, or of all if there were none."""
        if self.times > before.times:
            return (self.seconds - before.seconds) / (self.times - before.times)
        return self.seconds / self.times if self.times else None


@dataclass(frozen=True)
class _Counts:
    """What is counted at a moment."""

    at: float
    frames_in: int
    frames_out: int
    queue: _Stage
    end_to_end: _Stage

    @classmethod
    def of(cls, view: StreamView | None, now: float) -> _Counts:
        if view is None:
            return cls(now, 0, 0, _Stage(), _Stage())
        stages = _Stage.of("queue", view.parts[:1]), _Stage.of("end_to_end", view.parts)
        return cls(now, view.frames_in, view.frames_out, *stages)
