"""Which pictures go into the next batch, and when it starts: fair to all streams; without threads or a clock."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["Call", "FairQueue", "Lane", "Part"]

Array = npt.NDArray[np.generic]


@dataclass(eq=False)
class Call:
    """Pictures that a caller gave at once; not finished before all of them have a result."""

    pictures: Array
    """N first."""
    deadline_seconds: float
    """When a batch with the first of them starts at the latest."""
    result: Future[Array] = field(default_factory=Future)
    taken: int = 0
    """How many were put into a batch."""
    _parts: list[Array] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """How many wait for a batch."""
        return len(self.pictures) - self.taken

    def add(self, scores: Array) -> None:
        """The results of the next pictures."""
        self._parts.append(scores)
        if sum(map(len, self._parts)) == len(self.pictures):
            self.result.set_result(self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts))


@dataclass(eq=False)
class Lane:
    """What one stream has given and has no results for yet, oldest first."""

    name: str
    calls: deque[Call] = field(default_factory=deque)
    is_awaited: bool = False
    """Whether a batch is held open for it: it gave a picture, and did not let one wait in vain since."""

    @property
    def waiting(self) -> int:
        """How many of its pictures wait for a batch."""
        return sum(call.waiting for call in self.calls)

    @property
    def next_call(self) -> Call | None:
        """Whose picture is next."""
        return next((call for call in self.calls if call.waiting), None)


@dataclass(frozen=True)
class Part:
    """Consecutive pictures of one call, in one batch."""

    lane: Lane
    call: Call
    start: int
    stop: int

    @property
    def pictures(self) -> Array:
        return self.call.pictures[self.start : self.stop]


class FairQueue:
    """The pictures of several streams, each in a lane of its own. Not for several threads at once; who owns it locks.

    A batch starts when it is full, when its oldest picture has waited as long as it may, or when nothing is gained by
    waiting: every stream that is awaited has a picture in it. A stream that stands still is waited for once, and then
    not before its next picture.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.lanes: list[Lane] = []
        self._turns: deque[Lane] = deque()
        """All lanes; the first is the next to give a picture."""

    def join(self, name: str) -> Lane:
        lane = Lane(name)
        self.lanes.append(lane)
        self._turns.append(lane)
        return lane

    def leave(self, lane: Lane) -> list[Call]:
        """Forget a lane; returns its calls without results, of which some may be in a batch."""
        if lane not in self.lanes:
            return []
        self.lanes.remove(lane)
        self._turns.remove(lane)
        calls = list(lane.calls)
        lane.calls.clear()
        return calls

    def put(self, lane: Lane, pictures: Array, deadline_seconds: float) -> Call:
        call = Call(pictures, deadline_seconds)
        lane.calls.append(call)
        lane.is_awaited = True
        return call

    def withdraw(self, lane: Lane, call: Call) -> None:
        """Forget a call, finished or not; harmless if that is done."""
        if call in lane.calls:
            lane.calls.remove(call)

    def seconds_left(self, now_seconds: float) -> float | None:
        """How long until the next batch starts if nothing else comes; None if nothing waits."""
        waiting = sum(lane.waiting for lane in self.lanes)
        if not waiting:
            return None
        if waiting >= self.batch_size or all(lane.waiting for lane in self.lanes if lane.is_awaited):
            return 0.0
        oldest = min(call.deadline_seconds for lane in self.lanes if (call := lane.next_call) is not None)
        return max(0.0, oldest - now_seconds)

    def take(self) -> list[Part]:
        """The next batch: a picture of each stream in turn until it is full, beginning behind who was last served."""
        idle = [lane for lane in self.lanes if not lane.waiting]
        starts: dict[Call, tuple[Lane, int]] = {}
        count = passed_over = 0
        while count < self.batch_size and passed_over < len(self._turns):
            lane = self._turns[0]
            self._turns.rotate(-1)
            call = lane.next_call
            if call is None:
                passed_over += 1
                continue
            starts.setdefault(call, (lane, call.taken))
            call.taken += 1
            count, passed_over = count + 1, 0
        if count < self.batch_size:
            for lane in idle:
                lane.is_awaited = False
        return [Part(lane, call, start, call.taken) for call, (lane, start) in starts.items()]
