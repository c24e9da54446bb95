"""What our BMF modules share: how they fail, and reading a stream."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from typing import Any

from bmf import Module, Packet, ProcessResult, Task

__all__ = ["OurModule", "packets"]


class OurModule(Module):  # type: ignore[misc]
    """A BMF module whose first failure is the one that is reported; subclasses fill in `work`.

    BMF calls `process` again after it has failed, and reports what it raised last.
    """

    _failure: Exception | None = None

    def process(self, task: Task) -> ProcessResult:
        if self._failure is not None:
            raise self._failure
        try:
            self.work(task)
        except Exception as error:
            self._failure = error
            self.close()
            raise
        return ProcessResult.OK

    def __del__(self) -> None:
        """When a node of a graph fails, BMF closes none of the others; it only lets go of them."""
        with contextlib.suppress(Exception):  # it may be half made, and at the end of the process anything may be gone
            self.close()

    @abc.abstractmethod
    def work(self, task: Task) -> None:
        """Take what the task brings and put out what is ready."""


def packets(stream: Any) -> Iterator[Packet]:
    """The packets that wait in an input stream."""
    while not stream.empty():
        yield stream.get()
