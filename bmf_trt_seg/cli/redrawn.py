"""What stands below a log: lines that are drawn again and again on a terminal, one now and then elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from typing_extensions import Self

__all__ = ["Redrawn"]

_TABLE_SECONDS, _LINE_SECONDS = 1.0, 10.0


class Redrawn:
    """Shows on standard error how something is, unless quiet. Lines of the log make room for themselves."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._drawn = 0  # lines that stand on the terminal
        self._shown_at = time.monotonic()
        self._eraser = _Eraser(self)

    def __enter__(self) -> Self:
        logging.getLogger("bmf_trt_seg").handlers.insert(0, self._eraser)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.erase()
        logging.getLogger("bmf_trt_seg").removeHandler(self._eraser)

    @property
    def is_due(self) -> bool:
        """Whether it is time to show something again; it counts as shown then."""
        now = time.monotonic()
        if self._quiet or now - self._shown_at < (_TABLE_SECONDS if sys.stderr.isatty() else _LINE_SECONDS):
            return False
        self._shown_at = now
        return True

    @property
    def room(self) -> int:
        """How many lines a terminal has."""
        return shutil.get_terminal_size().lines

    def draw(self, lines: Sequence[str]) -> None:
        """Put lines in the place of those drawn last, cut to the terminal's width."""
        columns = shutil.get_terminal_size().columns
        self.erase()
        sys.stderr.write("".join(f"{line[: columns - 1]}\n" for line in lines))
        sys.stderr.flush()
        self._drawn = len(lines)

    def erase(self) -> None:
        """Take the lines off the terminal."""
        if self._drawn:
            drawn, self._drawn = self._drawn, 0
            sys.stderr.write(f"\x1b[{drawn}A\r\x1b[J")
            sys.stderr.flush()


class _Eraser(logging.Handler):
    """Makes room for each line of the log; what stood there comes again after it."""

    def __init__(self, status: Redrawn) -> None:
        super().__init__()
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        self._status.erase()
