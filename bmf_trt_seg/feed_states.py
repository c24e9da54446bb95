"""What a supervisor of feeds knows of each: whether it runs, waits for a start or a device, hangs, or is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FeedState", "State", "close_feed", "feed_state", "feed_states", "open_feed"]

State = Literal["starting", "running", "restarting", "waiting", "stuck", "ended", "stopped", "failed"]
"""waiting: for a device that it can run on."""


@dataclass(eq=False)
class FeedState:
    """One feed. It is written by who supervises it, and any thread may read."""

    name: str
    streams: tuple[str, ...]
    """Names under which its graph counts frames."""
    state: State = "starting"
    restarts: int = 0
    reason: str = ""
    """Why it is not running, or last was not."""


_feeds: dict[str, FeedState] = {}


def open_feed(name: str, streams: tuple[str, ...]) -> FeedState:
    """A new state under this name, in the place of an older one."""
    _feeds[name] = opened = FeedState(name, streams)
    return opened


def close_feed(state: FeedState) -> None:
    """Forget a feed that will not come again, unless another one has its name by now."""
    if _feeds.get(state.name) is state:
        del _feeds[state.name]


def feed_states() -> list[FeedState]:
    """Every supervised feed, in the order in which they were opened."""
    return list(_feeds.values())


def feed_state(stream: str) -> FeedState | None:
    """The feed whose graph counts under this name, if one is supervised."""
    return next((feed for feed in list(_feeds.values()) if stream in feed.streams), None)
