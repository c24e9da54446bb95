"""How many feeds are: a table that is drawn again and again on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from typing_extensions import Self

from bmf_trt_seg.live.supervisor import Report
from bmf_trt_seg.sources.urls import masked

__all__ = ["LiveStatus"]

_TABLE_SECONDS, _LINE_SECONDS = 1.0, 10.0
_RATE_SECONDS = 5.0  # over which frames a second are counted
_HEAD = ("feed", "state", "fps", "in", "out", "dropped", "repeated", "reconnects", "restarts", "outputs")


class LiveStatus:
    """Shows on standard error how feeds are, unless quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._drawn = 0  # lines of the table that stand on the terminal
        self._shown_at = time.monotonic()
        self._history: dict[str, deque[tuple[float, int]]] = {}  # when a feed had sent how many frames
        self._eraser = _Eraser(self)

    def __enter__(self) -> Self:
        logging.getLogger("bmf_trt_seg").handlers.insert(0, self._eraser)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.erase()
        logging.getLogger("bmf_trt_seg").removeHandler(self._eraser)

    def update(self, feeds: Sequence[Report]) -> None:
        """Show this state if it is time to."""
        now = time.monotonic()
        rates = [self._rate(one, now) for one in feeds]
        is_terminal = sys.stderr.isatty()
        if self._quiet or now - self._shown_at < (_TABLE_SECONDS if is_terminal else _LINE_SECONDS):
            return
        self._shown_at = now
        if is_terminal:
            self._draw(feeds, rates)
        else:
            print(_line(feeds, rates), file=sys.stderr)

    def erase(self) -> None:
        """Take the table off the terminal."""
        if self._drawn:
            drawn, self._drawn = self._drawn, 0
            sys.stderr.write(f"\x1b[{drawn}A\r\x1b[J")
            sys.stderr.flush()

    def _draw(self, feeds: Sequence[Report], rates: Sequence[float]) -> None:
        size = shutil.get_terminal_size()
        shown = max(1, size.lines - 3)
        rows = [_HEAD, *(_row(one, rate) for one, rate in zip(feeds[:shown], rates, strict=False))]
        words = 2  # columns that are no numbers
        if any(one.device for one in feeds):
            devices = ["device", *(one.device or "none" for one in feeds[:shown])]
            rows = [(*row[:words], device, *row[words:]) for row, device in zip(rows, devices, strict=True)]
            words += 1
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [_aligned(row, widths, words)[: size.columns - 1] for row in rows]
        if len(feeds) > shown:
            lines.append(f"and {len(feeds) - shown} more")
        self.erase()
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        self._drawn = len(lines)

    def _rate(self, feed: Report, now: float) -> float:
        """Frames a second of late."""
        history = self._history.setdefault(feed.state.name, deque())
        if history and feed.totals.frames_out < history[-1][1]:
            history.clear()  # another feed of that name
        history.append((now, feed.totals.frames_out))
        while len(history) > 2 and now - history[1][0] >= _RATE_SECONDS:
            history.popleft()
        (then, before), (_, frames) = history[0], history[-1]
        return (frames - before) / (now - then) if now > then else 0.0


class _Eraser(logging.Handler):
    """Makes room for each line of the log; the table comes again after it."""

    def __init__(self, status: LiveStatus) -> None:
        super().__init__()
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        self._status.erase()


def _state(feed: Report) -> str:
    """That of the camera, while the graph runs."""
    if feed.state.state != "running":
        return feed.state.state
    return feed.camera or "starting"


def _row(feed: Report, rate: float) -> tuple[str, ...]:
    totals = feed.totals
    counts = (totals.frames_in, totals.frames_out, totals.dropped, totals.repeated, totals.reconnects)
    outputs = feed.outputs
    working = f"{sum(one.state == 'up' for one in outputs)}/{len(outputs)}"
    return feed.state.name, _state(feed), f"{rate:.1f}", *map(str, counts), str(feed.state.restarts), working


def _aligned(row: Sequence[str], widths: Sequence[int], words: int) -> str:
    cells = [f"{cell:{'<' if index < words else '>'}{widths[index]}}" for index, cell in enumerate(row)]
    return "  ".join(cells).rstrip()


def _line(feeds: Sequence[Report], rates: Sequence[float]) -> str:
    states = [_state(one) for one in feeds]
    others = "".join(
        f", '{one.state.name}' is {state}" for one, state in zip(feeds, states, strict=True) if state != "up"
    )
    others += "".join(
        f", '{masked(output.name)}' of '{one.state.name}' is {output.state}"
        for one in feeds
        for output in one.outputs
        if output.state == "away"
    )
    frames, dropped = sum(one.totals.frames_out for one in feeds), sum(one.totals.dropped for one in feeds)
    return (
        f"{states.count('up')} of {len(feeds)} feeds up{others}; {sum(rates):.1f} frames a second, {frames} in all, "
        f"{dropped} dropped"
    )
