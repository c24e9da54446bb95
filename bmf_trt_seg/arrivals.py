"""When frames came into the process, and which are only repeated, for whoever sees them last.

A frame loses everything but its time on its way through a graph, so it is looked up by that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["arrived_at", "behind_seconds", "forget", "note_arrival", "note_held", "note_taken", "was_held"]

_MOST_FRAMES = 1024  # of a stream; those that were dropped on the way are never asked for
_CALMING = 0.9  # of what the slowest frame took is believed of the next one
_lock = threading.Lock()


@dataclass
class _Stream:
    arrivals: OrderedDict[int, float] = field(default_factory=OrderedDict)
    taken: OrderedDict[int, float] = field(default_factory=OrderedDict)
    held: OrderedDict[int, float] = field(default_factory=OrderedDict)
    behind: float = 0.0


_streams: dict[str, _Stream] = {}


def note_arrival(stream: str, pts: int, moment: float) -> None:
    """The frame of this time (units of 1/90000 s) of the stream of this name came at `moment` (`time.monotonic`)."""
    with _lock:
        _note(_streams.setdefault(stream, _Stream()).arrivals, pts, moment)


def note_taken(stream: str, pts: int, moment: float) -> None:
    """That frame waits no longer, and is on its way through the graph."""
    with _lock:
        _note(_streams.setdefault(stream, _Stream()).taken, pts, moment)


def note_held(stream: str, pts: int) -> None:
    """The frame of this time repeats the last one, because the camera is away."""
    with _lock:
        _note(_streams.setdefault(stream, _Stream()).held, pts, 0.0)


def was_held(stream: str, pts: int) -> bool:
    """Whether `note_held` was told of this frame, and nobody has asked before."""
    with _lock:
        known = _streams.get(stream)
        return known is not None and known.held.pop(pts, None) is not None


def arrived_at(stream: str, pts: int, now: float) -> float | None:
    """When a frame that has come to the end of its way came; None if nobody noted it, or it was asked for before."""
    with _lock:
        known = _streams.get(stream)
        if known is None:
            return None
        taken = known.taken.pop(pts, None)
        if taken is not None:
            known.behind = max(now - taken, _CALMING * known.behind)
        return known.arrivals.pop(pts, None)


def behind_seconds(stream: str) -> float:
    """How long a frame of this stream takes through the graph, as the slowest of the last ones did; 0: not known."""
    with _lock:
        known = _streams.get(stream)
        return 0.0 if known is None else known.behind


def forget(stream: str) -> None:
    """The stream begins anew, or is over."""
    with _lock:
        _streams.pop(stream, None)


def _note(moments: OrderedDict[int, float], pts: int, moment: float) -> None:
    moments[pts] = moment
    if len(moments) > _MOST_FRAMES:
        moments.popitem(last=False)
