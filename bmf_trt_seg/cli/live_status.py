"""How many feeds are: a table that is drawn again and again on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence

from bmf_trt_seg.cli.redrawn import Redrawn
from bmf_trt_seg.cli.reports import table
from bmf_trt_seg.live.supervisor import Report
from bmf_trt_seg.sources.urls import masked

__all__ = ["LiveStatus"]

_RATE_SECONDS = 5.0  # over which frames a second are counted
_HEAD = ("feed", "state", "fps", "in", "out", "dropped", "repeated", "reconnects", "restarts", "outputs")


class LiveStatus(Redrawn):
    """Shows on standard error how feeds are, unless quiet."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(quiet)
        self._history: dict[str, deque[tuple[float, int]]] = {}  # when a feed had sent how many frames

    def update(self, feeds: Sequence[Report]) -> None:
        """Show this state if it is time to."""
        now = time.monotonic()
        rates = [self._rate(one, now) for one in feeds]
        if not self.is_due:
            return
        if sys.stderr.isatty():
            self.draw(self._lines(feeds, rates))
        else:
            print(_line(feeds, rates), file=sys.stderr)

    def _lines(self, feeds: Sequence[Report], rates: Sequence[float]) -> list[str]:
        shown = max(1, self.room - 3)
        head: tuple[str, ...] = _HEAD
        rows = [_row(one, rate) for one, rate in zip(feeds[:shown], rates, strict=False)]
        words = 2  # columns that are no numbers
        if any(one.device for one in feeds):
            head = (*head[:words], "device", *head[words:])
            rows = [(*row[:words], one.device or "none", *row[words:]) for row, one in zip(rows, feeds, strict=False)]
            words += 1
        lines = table(head, rows, left=words).splitlines()
        if len(feeds) > shown:
            lines.append(f"and {len(feeds) - shown} more")
        return lines

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
