"""Whether the threads in which BMF runs a graph's nodes are all still there.

A node that fails while it is closed leaves BMF's lock on it locked: BMF then waits for that lock for ever, and tells
nobody. What can be seen from outside is that the node's thread is gone.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

__all__ = ["SchedulerThreads"]

_NAME = "schedule_queue"  # BMF's, followed by the node's 'scheduler'
_LONGEST_NAME = 15  # of a thread; BMF's names for more than ten of them are longer, and are not set
_THREADS = Path("/proc/self/task")
_lock = threading.Lock()
_graphs = 0  # that run in this process: their threads cannot be told apart


class SchedulerThreads:
    """Looks after the threads of the one graph that runs in this process; of several, it sees nothing.

    Entered before the graph starts. Threads that a node starts have the name of the thread that it runs in, and come
    later.
    """

    def __init__(self, count: int) -> None:
        """count: the graph's scheduler_count."""
        names = (f"{_NAME}{number}" for number in range(count))
        self._names = {name for name in names if len(name) <= _LONGEST_NAME}
        self._before: set[int] = set()
        self._first: dict[str, int] = {}
        self._lost_since: float | None = None

    def __enter__(self) -> SchedulerThreads:
        global _graphs
        with _lock:
            _graphs += 1
        self._before = {int(thread.name) for thread in _THREADS.glob("*")}  # what earlier graphs left may end any time
        return self

    def __exit__(self, *_: object) -> None:
        global _graphs
        with _lock:
            _graphs -= 1

    def seconds_lost(self) -> float:
        """For how long a thread has been missing, as far as this was called often enough; 0 if none is."""
        found = _named(but=self._before)
        for name in self._names & found.keys():
            self._first.setdefault(name, min(found[name]))
        complete = all(self._first.get(name) in found.get(name, ()) for name in self._names)
        if _graphs > 1 or complete or not self._first:  # none was ever seen: another BMF names them otherwise
            self._lost_since = None
            return 0.0
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        return now - self._lost_since


def _named(but: set[int]) -> dict[str, list[int]]:
    """The numbers of this process's other threads by their names."""
    found: dict[str, list[int]] = {}
    for thread in _THREADS.glob("*"):
        if int(thread.name) in but:
            continue
        try:
            name = (thread / "comm").read_text().strip()
        except OSError:  # it has just ended
            continue
        found.setdefault(name, []).append(int(thread.name))
    return found
