"""The latest drawn picture of a stream, for whoever wants to see it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.watch.jpeg import jpeg_of

__all__ = ["PICTURE_SECONDS", "Preview"]

PICTURE_SECONDS = 0.1
"""Between two pictures, at least, while somebody watches."""
_UNWATCHED_SECONDS = 1.0  # a page that is opened finds a picture, also of a camera that went away before
_WANTED_SECONDS = 2.0  # for how long somebody watches who has just asked


class Preview:
    """Holds on to a picture now and then, as it is; scaling and compressing it is the work of who asks for it.

    `is_due` and `offer` belong to the thread that makes pictures, all else may be called by any.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wanted_until = 0.0
        self._taken_at = float("-inf")
        # replaced as a whole, so that no lock is needed where pictures are made
        self._latest: tuple[int, FramePlanes] | None = None
        self._lock = threading.Lock()
        self._encoded: tuple[int, bytes] = (0, b"")

    def is_due(self, now: float) -> bool:
        """Whether a picture would be taken."""
        return now - self._taken_at >= (PICTURE_SECONDS if now < self._wanted_until else _UNWATCHED_SECONDS)

    def offer(self, picture: FramePlanes, now: float) -> None:
        """A finished picture, which nobody draws on any more; its owner, if it has one, keeps its memory."""
        self._taken_at = now
        self._latest = (self.number + 1, picture)

    def want(self) -> None:
        """Somebody watches: for a while there are more pictures."""
        self._wanted_until = self._clock() + _WANTED_SECONDS

    @property
    def number(self) -> int:
        """Of the latest picture, from 1; 0 if there is none yet."""
        latest = self._latest
        return 0 if latest is None else latest[0]

    @property
    def size_wh(self) -> tuple[int, int] | None:
        """Of the latest picture, before it is scaled."""
        latest = self._latest
        return None if latest is None else (latest[1].width, latest[1].height)

    def jpeg(self) -> tuple[int, bytes] | None:
        """The latest picture as JPEG, with its number; None if there is none yet. It is made once for all who ask."""
        latest = self._latest
        if latest is None:
            return None
        with self._lock:
            number, picture = latest
            if self._encoded[0] < number:
                self._encoded = (number, jpeg_of(picture))
            return self._encoded

    def forget(self) -> None:
        """Let go of the picture and its memory."""
        with self._lock:
            self._latest = None
            self._encoded = (0, b"")
