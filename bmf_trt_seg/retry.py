"""How long to wait before something is tried again."""

from __future__ import annotations

import random

__all__ = ["backoff_seconds"]

_MOST_DOUBLINGS = 30


def backoff_seconds(failures: int, first: float, longest: float) -> float:
    """Time to wait after so many failures in a row (at least one): doubled each time, up to `longest` seconds.

    Up to half of it is left off by chance, so that many streams that broke off together do not come back together.
    """
    return min(longest, first * 2 ** min(failures - 1, _MOST_DOUBLINGS)) * random.uniform(0.5, 1.0)
