"""When frames came into the process, for whoever sees them last.

A frame loses everything but its time on its way through a graph, so its arrival is looked up by that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["arrived_at", "forget", "note_arrival"]

_MOST_FRAMES = 1024  # of a stream; those that were dropped on the way are never asked for
_lock = threading.Lock()
_arrivals: dict[str, OrderedDict[int, float]] = {}


def note_arrival(stream: str, pts: int, moment: float) -> None:
    """The frame of this time (units of 1/90000 s) of the stream of this name came at `moment` (`time.monotonic`)."""
    with _lock:
        frames = _arrivals.setdefault(stream, OrderedDict())
        frames[pts] = moment
        if len(frames) > _MOST_FRAMES:
            frames.popitem(last=False)


def arrived_at(stream: str, pts: int) -> float | None:
    """When that frame came; None if nobody noted it, or it has been asked for before."""
    with _lock:
        frames = _arrivals.get(stream)
        return frames.pop(pts, None) if frames else None


def forget(stream: str) -> None:
    """The stream begins anew, or is over."""
    with _lock:
        _arrivals.pop(stream, None)
