"""A feeds file that is read again while its feeds run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from bmf_trt_seg.errors import SegError
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.sources.urls import masked

__all__ = ["Reread", "Rereading"]

Reread = Callable[[Sequence[Feed]], "Sequence[Feed] | None"]
"""From the feeds that run to all that should: read and checked whole, or a SegError. None: those that run should."""
_log = logging.getLogger(__name__)


class Rereading:
    """Has it read in a thread of its own, since networks are loaded for that, and one time after the other."""

    def __init__(self, reread: Reread) -> None:
        self._reread = reread
        self._is_asked = False
        self._thread: threading.Thread | None = None
        self._found: Sequence[Feed] | None = None

    def ask(self) -> None:
        """Have it read; once more, if that is being done: it may have changed since."""
        self._is_asked = True

    @property
    def is_busy(self) -> bool:
        return self._is_asked or self._thread is not None

    def result(self, running: Callable[[], Sequence[Feed]]) -> Sequence[Feed] | None:
        """The feeds that should run, once, when they are known; to be called again and again.

        running: asked for those that run when reading begins. A file that is wrong gives nothing but a line in the log.
        """
        found = None
        if self._thread is not None and not self._thread.is_alive():
            found, self._found, self._thread = self._found, None, None
        if self._is_asked and self._thread is None:
            self._is_asked = False
            self._thread = threading.Thread(target=self._read, args=(running(),), name="reread", daemon=True)
            self._thread.start()
        return found

    def close(self, seconds: float) -> None:
        """Wait for what is being read, so long at most, and forget it."""
        self._is_asked = False
        if self._thread is not None:
            self._thread.join(seconds)

    def _read(self, running: Sequence[Feed]) -> None:
        try:
            self._found = self._reread(running)
        except Exception as error:  # feeds go on whatever it is
            reason = str(error) if isinstance(error, SegError) else f"{type(error).__name__}: {error}"
            _log.error("the feeds go on as they are: %s", masked(reason))
