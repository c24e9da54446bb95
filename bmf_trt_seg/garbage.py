"""Memory of closed containers of PyAV's: a few hundred kB each, of which Python's collector sees some small objects.

A container and its streams refer to each other, so they go when the collector comes, and for what grows old it hardly
ever does: a program that writes a file a minute would grow for weeks.
"""

from __future__ import annotations

import gc
import threading
import time

__all__ = ["collect_containers"]

_EVERY_SECONDS = 60.0
_lock = threading.Lock()
_collected_at = time.monotonic()


def collect_containers() -> None:
    """Called after a container was closed: collects all that are left, at most once a minute; some 30 ms."""
    global _collected_at
    with _lock:
        now = time.monotonic()
        if now - _collected_at < _EVERY_SECONDS:
            return
        _collected_at = now
    gc.collect()
