"""Keeping what C and C++ libraries print away from the terminal, and at hand for when something fails."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CapturedOutput", "captured_output"]


_LONGEST_TEXT = 64 * 1024
_LONGEST_FILE = 16 * 1024 * 1024


class CapturedOutput:
    """What was written to descriptors 1 and 2 lately."""

    def __init__(self, descriptor: int | None, start: int = 0) -> None:
        self._descriptor, self._start = descriptor, start

    def text(self) -> str:
        """The last 64 KiB captured since the start, of whoever printed meanwhile; empty if nothing is captured."""
        if self._descriptor is None:
            return ""
        ctypes.CDLL(None).fflush(None)
        size = os.fstat(self._descriptor).st_size
        start = max(self._start if self._start <= size else 0, size - _LONGEST_TEXT)
        return os.pread(self._descriptor, size - start, start).decode("utf-8", "replace")

    def trim(self) -> None:
        """Forget everything once it is much: a graph may print for months."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_size > _LONGEST_FILE:
            os.ftruncate(self._descriptor, 0)
            self._start = 0


class _Redirection:
    """Descriptors 1 and 2 to a file, Python's streams to where these led before."""

    def __init__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (`end` closes it)
        # appending, so that what is written after `trim` goes to the file's new end
        fcntl.fcntl(self.file, fcntl.F_SETFL, fcntl.fcntl(self.file, fcntl.F_GETFL) | os.O_APPEND)
        self._terminal = os.dup(1), os.dup(2)
        self._python_streams = sys.stdout, sys.stderr
        os.dup2(self.file.fileno(), 1)
        os.dup2(self.file.fileno(), 2)
        self._direct = [os.fdopen(number, "w", buffering=1, closefd=False) for number in self._terminal]
        # a stream that was replaced already (by a test, by a notebook) does not write to the descriptors
        if sys.stdout is sys.__stdout__:
            sys.stdout = self._direct[0]
        if sys.stderr is sys.__stderr__:
            sys.stderr = self._direct[1]

    def end(self) -> None:
        # what C libraries printed may wait in a buffer of theirs, to come out at the exit
        ctypes.CDLL(None).fflush(None)
        for stream in self._direct:
            stream.close()
        sys.stdout, sys.stderr = self._python_streams
        for number, saved in zip((1, 2), self._terminal, strict=True):
            os.dup2(saved, number)
            os.close(saved)
        self.file.close()


_lock = threading.Lock()
_redirection: _Redirection | None = None
_users = 0  # graphs that run at once share one redirection: each of its own would restore another's


@contextmanager
def captured_output(capture: bool = True) -> Iterator[CapturedOutput]:
    """Send descriptors 1 and 2 to a file; Python's sys.stdout and sys.stderr go on to the terminal.

    BMF, FFmpeg and x264 write to the descriptors themselves, so replacing Python's streams would not silence them.
    With `capture` false nothing is changed. Several threads may be inside at once.
    """
    if not capture:
        yield CapturedOutput(None)
        ctypes.CDLL(None).fflush(None)  # in order with what Python prints afterwards
        return
    redirection = _enter()
    try:
        descriptor = redirection.file.fileno()
        yield CapturedOutput(descriptor, os.fstat(descriptor).st_size)
    finally:
        _leave()


def _enter() -> _Redirection:
    global _redirection, _users
    with _lock:
        if _redirection is None:
            _redirection = _Redirection()
        _users += 1
        return _redirection


def _leave() -> None:
    global _redirection, _users
    with _lock:
        _users -= 1
        if not _users and _redirection is not None:
            _redirection.end()
            _redirection = None
