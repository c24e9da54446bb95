"""How long calls take, compared fairly: all ways in turn, several times, so that drift hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

__all__ = ["Timing", "Work", "measure", "warm_up"]

_LEAST_CALLS = 3
_WARM_UP_SECONDS = 0.2

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Work:
    """Something to be timed."""

    pictures: int
    """How many one call is for."""
    start: Callable[[], object]
    """A call. Without `wait`, all is done when it returns."""
    wait: Callable[[], object] | None = None
    """Returns when all that was started is done."""

    def run(self) -> None:
        """One call, done."""
        self.start()
        if self.wait is not None:
            self.wait()


@dataclass(frozen=True)
class Timing:
    """What was measured: medians over the turns."""

    p50_ms: float
    """Half of the calls took no longer, from the call until all is done."""
    p90_ms: float
    p99_ms: float
    pictures_per_second: float
    """One call after the other; where calls can be started before the last is done, they are."""
    slowest_turn: float
    """Pictures a second in the slowest turn, and in the fastest."""
    fastest_turn: float
    calls: int
    """How many were timed for the percentiles."""
    turns: int


@dataclass(frozen=True)
class _Turn:
    taken_ms: list[float]
    pictures_per_second: float


def warm_up(work: Work) -> None:
    """Some calls that are not timed: caches fill, kernels are chosen, CUDA graphs recorded."""
    end = time.perf_counter() + _WARM_UP_SECONDS
    count = 0
    while count < _LEAST_CALLS or time.perf_counter() < end:
        work.run()
        count += 1


def measure(
    works: Mapping[Key, Work],
    seconds: float,
    turns: int = 5,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> dict[Key, Timing]:
    """Time each work for about `seconds` in all, in `turns` turns over all of them, each turn in the reverse order.

    Everything must have been warmed up. A work gets three calls a turn at least. `report` is told the works done and
    how many there are, counted over all turns.
    """
    taken: dict[Key, list[_Turn]] = {key: [] for key in works}
    done = 0
    for turn in range(turns):
        order = list(works)
        for key in order if turn % 2 == 0 else reversed(order):
            taken[key].append(_turn(works[key], seconds / turns))
            done += 1
            report(done, turns * len(works))
    return {key: _summary(each) for key, each in taken.items()}


def _turn(work: Work, seconds: float) -> _Turn:
    share = seconds if work.wait is None else seconds / 2
    taken: list[float] = []
    work.run()  # not timed: what it takes to switch to this work is not its own
    begin = time.perf_counter()
    while len(taken) < _LEAST_CALLS or time.perf_counter() - begin < share:
        start = time.perf_counter()
        work.run()
        taken.append((time.perf_counter() - start) * 1e3)
    if work.wait is None:
        return _Turn(taken, work.pictures * len(taken) / (sum(taken) / 1e3))
    count = max(_LEAST_CALLS, round(share * 1e3 / statistics.median(taken)))
    begin = time.perf_counter()
    for _ in range(count):
        work.start()
    work.wait()
    return _Turn(taken, work.pictures * count / (time.perf_counter() - begin))


def _summary(turns: list[_Turn]) -> Timing:
    percentiles = np.median([np.percentile(turn.taken_ms, (50, 90, 99)) for turn in turns], axis=0)
    rates = [turn.pictures_per_second for turn in turns]
    return Timing(
        p50_ms=float(percentiles[0]),
        p90_ms=float(percentiles[1]),
        p99_ms=float(percentiles[2]),
        pictures_per_second=statistics.median(rates),
        slowest_turn=min(rates),
        fastest_turn=max(rates),
        calls=sum(len(turn.taken_ms) for turn in turns),
        turns=len(turns),
    )
