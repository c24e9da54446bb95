"""Whether the process works, and whether its streams do: what a supervisor of containers asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bmf_trt_seg import metrics
from bmf_trt_seg.feed_states import feed_state
from bmf_trt_seg.metrics import StreamView
from bmf_trt_seg.sources.urls import masked

__all__ = ["READY_SECONDS", "Health"]

READY_SECONDS = 10.0
"""How old the last frame of a stream may be."""
_BEAT_SECONDS = 60.0


@dataclass
class Health:
    """Judges the open streams at the time of the question.

    Whoever supervises calls `beat` again and again. If it stops doing so it hangs, which a look at its thread would
    not tell: that would still be alive.
    """

    streams: Iterable[str] = ()
    """Names of those that should run; `expect` sets others."""
    ready_seconds: float = READY_SECONDS
    beat_seconds: float = _BEAT_SECONDS
    clock: Callable[[], float] = time.monotonic
    _beaten: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.expect(self.streams)

    def expect(self, names: Iterable[str]) -> None:
        """These streams should run, from now on."""
        self.streams = tuple(dict.fromkeys(names))

    def beat(self) -> None:
        """The supervisor is at work. Before the first time it is starting, however long that takes."""
        self._beaten = self.clock()

    def working(self) -> tuple[bool, dict[str, Any]]:
        """Whether the process works, and the answer in words."""
        if self._beaten is None:
            return True, {"status": "starting"}
        age = self.clock() - self._beaten
        if age <= self.beat_seconds:
            return True, {"status": "ok"}
        return False, {"status": "stuck", "last_beat_age_seconds": round(age, 3)}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether every stream that should run delivered a frame not long ago, and how each of them is."""
        open_now = {view.name: view for view in metrics.views()}
        streams = [(masked(name), self._of_stream(name, open_now.get(name))) for name in self.streams]
        is_ready = all(found["ready"] for _, found in streams)
        return is_ready, {
            "ready": is_ready,
            "limit_seconds": self.ready_seconds,
            "streams": [{"stream": name, **found} for name, found in streams],
        }

    def _of_stream(self, name: str, view: StreamView | None) -> dict[str, Any]:
        found = self._by_frames(view)
        feed = feed_state(name)
        if feed is not None:
            found["restarts"] = feed.restarts
            if feed.state not in ("starting", "running"):
                found |= {"ready": False, "state": feed.state}
                if feed.reason:
                    found["last_error"] = masked(feed.reason)
        return found

    def _by_frames(self, view: StreamView | None) -> dict[str, Any]:
        if view is None:
            return {"ready": False, "state": "starting", "last_frame_age_seconds": None}
        age = None if view.last_frame_at is None else max(0.0, self.clock() - view.last_frame_at)
        found: dict[str, Any] = {
            "ready": view.state == "up" and age is not None and age <= self.ready_seconds,
            "state": view.state or "starting",
            "last_frame_age_seconds": None if age is None else round(age, 3),
        }
        if view.state == "away" and view.parts[0].last_error:
            found["last_error"] = masked(view.parts[0].last_error)
        return found
