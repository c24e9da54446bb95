"""Which part of a stream's picture each class took, over the last minutes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["SECONDS", "STEP_SECONDS", "Shares", "Table"]

SECONDS = 300
"""What is remembered."""
STEP_SECONDS = 5
"""What one point of a table stands for."""
_SAMPLES = SECONDS + STEP_SECONDS  # one a second, and the step that is just going on
_LEAST_WH = (320, 180)  # of a larger class map, about so many pixels are counted: more would tell shares no better


@dataclass(frozen=True)
class Table:
    """Mean shares of steps of time, the oldest first; None where there was no picture."""

    classes: tuple[int, ...]
    """Indices of those with the largest shares, in ascending order, so that they keep their places."""
    points: tuple[tuple[float | None, ...], ...]
    """For each of `classes`, 0 to 1."""
    others: tuple[float | None, ...]
    """All classes that are not in `classes`, together."""


class Shares:
    """Samples of the last minutes, at most one a second; of a fixed size whatever comes. Any thread may read."""

    def __init__(self, classes: Iterable[int]) -> None:
        """classes: those that are shown, by index."""
        self._classes = np.array(sorted(classes), int)
        self._lock = threading.Lock()
        # one place after the other is written, round and round; there is no memory for them before the first
        self._seconds = np.zeros(0, int)
        self._shares = np.zeros((0, len(self._classes)), np.float32)
        self._count = 0

    def is_due(self, now: float) -> bool:
        """Whether this second has no sample yet; `now` is `time.monotonic`."""
        return not self._count or self._seconds[(self._count - 1) % _SAMPLES] < math.floor(now)

    def add(self, map_hw: npt.NDArray[np.uint8], now: float) -> None:
        """Count a class map (H, W)."""
        height, width = map_hw.shape
        part = max(1, min(width // _LEAST_WH[0], height // _LEAST_WH[1]))
        if part > 1:
            map_hw = cv2.resize(map_hw, (width // part, height // part), interpolation=cv2.INTER_NEAREST)
        counts = cv2.calcHist([map_hw], [0], None, [256], [0, 256]).ravel()
        with self._lock:
            if not self._count:
                self._seconds = np.full(_SAMPLES, math.floor(now) - 2 * _SAMPLES)
                self._shares = np.zeros((_SAMPLES, len(self._classes)), np.float32)
            place = self._count % _SAMPLES
            self._seconds[place] = math.floor(now)
            self._shares[place] = counts[self._classes] / np.float32(map_hw.size)
            self._count += 1

    def latest(self) -> dict[int, float]:
        """The shares of the last sample, by class index; of those that there were."""
        with self._lock:
            if not self._count:
                return {}
            shares = self._shares[(self._count - 1) % _SAMPLES].copy()
        return {int(self._classes[place]): float(shares[place]) for place in np.flatnonzero(shares)}

    def table(self, now: float, most_classes: int) -> Table:
        """The last SECONDS in steps, which begin at multiples of STEP_SECONDS: points do not change once they are past.

        most_classes: how many of the largest classes are told apart.
        """
        with self._lock:
            seconds, shares = self._seconds.copy(), self._shares.copy()
        steps = SECONDS // STEP_SECONDS
        order = np.argsort(seconds, kind="stable")
        step_of = seconds[order] // STEP_SECONDS - math.floor(now) // STEP_SECONDS + steps - 1
        running = np.zeros((len(order) + 1, shares.shape[1]))
        np.cumsum(shares[order], axis=0, dtype=float, out=running[1:])
        begin, end = (np.searchsorted(step_of, np.arange(steps), side) for side in ("left", "right"))
        counts = end - begin
        means = (running[end] - running[begin]) / np.maximum(counts, 1)[:, None]
        total = means.sum(axis=0)
        largest = sorted(place for place in np.argsort(-total, kind="stable")[:most_classes] if total[place] > 0)
        rest = means.sum(axis=1) - means[:, largest].sum(axis=1)

        def points(values: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
            rounded = np.maximum(values, 0.0).round(4).tolist()
            return tuple(value if has_some else None for value, has_some in zip(rounded, counts.tolist(), strict=True))

        return Table(
            tuple(int(self._classes[place]) for place in largest),
            tuple(points(means[:, place]) for place in largest),
            points(rest),
        )
