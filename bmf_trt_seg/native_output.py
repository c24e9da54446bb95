"""Keeping what C and C++ libraries print away from the terminal, and at hand for when something fails."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

__all__ = ["CapturedOutput", "captured_output"]


class CapturedOutput:
    """What was written to descriptors 1 and 2 so far."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file

    def text(self) -> str:
        """Everything captured; empty if nothing is."""
        if self._file is None:
            return ""
        ctypes.CDLL(None).fflush(None)
        self._file.seek(0)
        return self._file.read().decode("utf-8", "replace")


@contextmanager
def captured_output(capture: bool = True) -> Iterator[CapturedOutput]:
    """Send descriptors 1 and 2 to a file; Python's sys.stdout and sys.stderr go on to the terminal.

    BMF, FFmpeg and x264 write to the descriptors themselves, so replacing Python's streams would not silence them.
    With `capture` false nothing is changed.
    """
    if not capture:
        yield CapturedOutput(None)
        ctypes.CDLL(None).fflush(None)  # in order with what Python prints afterwards
        return
    sys.stdout.flush()
    sys.stderr.flush()
    terminal = os.dup(1), os.dup(2)
    python_streams = sys.stdout, sys.stderr
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            with (
                os.fdopen(terminal[0], "w", buffering=1, closefd=False) as out,
                os.fdopen(terminal[1], "w", buffering=1, closefd=False) as err,
            ):
                # a stream that was replaced already (by a test, by a notebook) does not write to the descriptors
                sys.stdout = out if python_streams[0] is sys.__stdout__ else python_streams[0]
                sys.stderr = err if python_streams[1] is sys.__stderr__ else python_streams[1]
                yield CapturedOutput(file)
        finally:
            # what C libraries printed may wait in a buffer of theirs, to come out at the exit
            ctypes.CDLL(None).fflush(None)
            sys.stdout, sys.stderr = python_streams
            for number, saved in zip((1, 2), terminal, strict=True):
                os.dup2(saved, number)
                os.close(saved)
