"""Progress of a job: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm
from typing_extensions import Self

__all__ = ["BuildProgress", "Progress", "size_text"]

_LINE_SECONDS = 10.0


tqdm.monitor_interval = 0  # no thread of its own: a signal is to find none that has not blocked it


def size_text(count: int) -> str:
    """Bytes for people: '4.7 MB'."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


class _StandardError:
    """The standard error stream of the moment: a captured run replaces it, and the bar outlives the run."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _Shown:
    """A bar on a terminal; a line now and then where standard error is something else."""

    def __init__(self, name: str, quiet: bool) -> None:
        self._name = name
        self._quiet = quiet
        self._bar: tqdm[None] | None = None
        self._started = self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        return self

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def say(self, text: str) -> None:
        """A line for the user, unless quiet."""
        self._close_bar()
        if not self._quiet:
            print(text, file=sys.stderr)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()

    def _is_time_for_a_line(self) -> bool:
        if time.monotonic() - self._spoken < _LINE_SECONDS:
            return False
        self._spoken = time.monotonic()
        return True

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Progress(_Shown):
    """Shows frames done, frames a second and the time left on standard error."""

    def update(self, frames: int, expected: int | None) -> None:
        """frames: done so far; expected: in all, if that is known."""
        if self._quiet or not frames:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(
                    desc=self._name, total=expected, unit=" frames", file=_StandardError(), dynamic_ncols=True
                )
            self._bar.total = expected if expected is None or expected >= frames else frames
            self._bar.update(frames - self._bar.n)
        elif self._is_time_for_a_line():
            rate = frames / self.seconds
            of, left = "", ""
            if expected:
                of, left = f" of {expected}", f", {max(0, expected - frames) / rate:.0f} s left"
            print(f"{self._name}: {frames}{of} frames, {rate:.1f} a second{left}", file=sys.stderr)


class BuildProgress(_Shown):
    """Shows how far the build of an engine is, on standard error."""

    def update(self, phase: str, fraction: float | None) -> None:
        """phase: what it is at; fraction: how much is done, 0 to 1, if that is known."""
        if self._quiet:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(
                    desc=self._name, total=100, file=_StandardError(), dynamic_ncols=True,
                    bar_format="{desc}: {bar} {elapsed} {postfix}",
                )  # fmt: skip
            if fraction is not None:
                self._bar.n = max(self._bar.n, round(100 * fraction))
            self._bar.set_postfix_str(phase[:40])
        elif self._is_time_for_a_line():
            done = f"{100 * fraction:.0f} % done, " if fraction is not None else ""
            print(f"{self._name}: {done}{self.seconds:.0f} s, {phase}", file=sys.stderr)

    def say(self, text: str) -> None:
        """A line for the user with the build's name before it, unless quiet."""
        super().say(f"{self._name}: {text}")
