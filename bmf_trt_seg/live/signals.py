"""Signals that are waited for in the place of being handled."""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Any

from typing_extensions import Self

__all__ = ["HeldSignals", "Interrupted", "has_terminal"]

_ENDING = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = (*_ENDING, signal.SIGHUP)


class Interrupted(Exception):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def has_terminal() -> bool:
    """Whether this process can be ended from a terminal; not any more once that is gone."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class HeldSignals:
    """Holds SIGINT, SIGTERM and SIGHUP back while inside; for the main thread, before others are started.

    BMF installs handlers of its own with every graph, which would end all graphs as if their videos were over. Threads
    inherit what is held back, so none of them ever runs such a handler; `wait` takes the signals instead.
    """

    def __enter__(self) -> Self:
        self._before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        return self

    def wait(self, seconds: float) -> int | None:
        """The next signal, if one comes in this time."""
        found = signal.sigtimedwait(_SIGNALS, seconds)
        return None if found is None else found.si_signo

    def interrupted(self) -> bool:
        """False, or Interrupted if a signal that ends came: for long work before there is anything to end well.

        A SIGHUP goes on waiting: the work that it asks for comes later.
        """
        found = signal.sigtimedwait(_ENDING, 0)
        if found is None:
            return False
        raise Interrupted(found.si_signo)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # BMF's are there now
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
