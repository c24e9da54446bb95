"""What is kept of each stream for those who watch; modules fill it in, and nothing is kept while no one could look."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.watch.preview import Preview
from bmf_trt_seg.watch.shares import Shares

__all__ = [
    "Pictures",
    "ShownClasses",
    "WatchedStream",
    "close_stream",
    "open_stream",
    "pictures_of",
    "stream",
    "watching",
]

_LATENCIES = 10
_MAP_SECONDS = 1.0
_servers = 0
_streams: dict[str, WatchedStream] = {}


class Pictures(Protocol):
    """The pictures of a stream, as a `Preview` has them."""

    def want(self) -> None:
        """Somebody watches."""

    @property
    def number(self) -> int:
        """Of the latest picture; 0 if there is none yet."""

    def jpeg(self) -> tuple[int, bytes] | None:
        """The latest picture, with its number."""


@dataclass(frozen=True)
class ShownClasses:
    """Labels and colours ('#rrggbb') of the classes that are shown, by index, and their shares of the picture."""

    labels: Mapping[int, str]
    colors: Mapping[int, str]
    shares: Shares


class WatchedStream:
    """The picture, the class shares and the latency of one stream. A module's thread writes, any may read."""

    def __init__(self, name: str, labels: Mapping[int, str], colors: Mapping[int, str]) -> None:
        """labels and colors ('#rrggbb') of the classes that are shown, by index."""
        self.name = name
        self.classes = ShownClasses(labels, colors, Shares(labels))
        """All of one moment: they are replaced together."""
        self.preview = Preview()
        self._map_at = float("-inf")
        self._seconds: deque[float] = deque(maxlen=_LATENCIES)

    def show_classes(self, labels: Mapping[int, str], colors: Mapping[int, str]) -> None:
        """Other classes or colours are shown from now on; shares go on if the classes are the same."""
        before = self.classes
        shares = before.shares if before.labels == labels else Shares(labels)
        self.classes = ShownClasses(labels, colors, shares)

    def wants_map(self) -> bool:
        """Whether the class maps of the batch that is just begun are wanted: of one batch a second, if at all."""
        if not _servers:
            return False
        now = time.monotonic()
        if now - self._map_at < _MAP_SECONDS:
            return False
        self._map_at = now
        return True

    def show(self, picture: FramePlanes, map_hw: npt.NDArray[np.uint8] | None, since: float) -> None:
        """Called with every picture that is drawn, most of which are passed over.

        map_hw: its class map, if there is one. since: `time.monotonic` of when it came in.
        """
        if not _servers:
            return
        now = time.monotonic()
        shares = self.classes.shares
        if map_hw is not None and shares.is_due(now):
            shares.add(map_hw, now)
        if self.preview.is_due(now):
            self.preview.offer(picture, now)
            self._seconds.append(now - since)

    @property
    def labels(self) -> Mapping[int, str]:
        return self.classes.labels

    @property
    def colors(self) -> Mapping[int, str]:
        return self.classes.colors

    @property
    def shares(self) -> Shares:
        return self.classes.shares

    @property
    def latency_seconds(self) -> float | None:
        """From when a picture came in to when it was drawn, a mean of the last ones."""
        seconds = list(self._seconds)
        return sum(seconds) / len(seconds) if seconds else None


def open_stream(name: str, labels: Mapping[int, str], colors: Mapping[int, str]) -> WatchedStream:
    """A new stream of that name, in the place of an older one."""
    _streams[name] = opened = WatchedStream(name, labels, colors)
    return opened


def close_stream(name: str) -> None:
    """Forget a stream that will not come again."""
    _streams.pop(name, None)


def stream(name: str) -> WatchedStream | None:
    """The stream that was opened last under this name."""
    return _streams.get(name)


def pictures_of(name: str) -> Pictures | None:
    """Those of the stream that was opened last under this name."""
    found = stream(name)
    return found.preview if found is not None else None


@contextmanager
def watching() -> Iterator[None]:
    """Pictures and class maps are kept inside."""
    global _servers
    _servers += 1
    try:
        yield
    finally:
        _servers -= 1
        if not _servers:
            for one in list(_streams.values()):
                one.preview.forget()
