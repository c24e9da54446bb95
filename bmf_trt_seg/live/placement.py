"""Which feed runs on which device: decided from loads alone, without starting anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Balance", "LoadMeter", "Placed", "better_move", "imbalance", "place", "weighed"]

_NEARLY = 0.1  # of the mean load of a device: so near to each other, loads count as equal
_WORTH_A_MOVE = 0.2  # of the mean load: so much lower the highest has to become
_MOST_IMBALANCE = 0.5
_PATIENCE_SECONDS = 60.0
_LOAD_SECONDS = 30.0  # over which a load is measured
_LEAST_LOAD_SECONDS = 10.0


@dataclass(frozen=True)
class Placed:
    """A feed as far as its place goes."""

    name: str
    load: float = 1.0
    """Seconds of inference a second, or anything else in the same unit for all feeds."""
    pinned: str | None = None
    """The only device that it may run on."""
    network: str = ""
    """Feeds of which this is the same share batches where they run together."""
    device: str | None = None
    """Where it is; None if it has no place yet."""

    def may_run_on(self, device: str) -> bool:
        return self.pinned in (None, device)


def place(feeds: Iterable[Placed], devices: Sequence[str]) -> dict[str, str]:
    """A device for every feed that has none, or whose device is not among these; by the feed's name.

    The largest goes first, onto the device with the least load; of those that are nearly equal, onto one that has its
    network. A feed that is pinned to a device that is not there is left out.
    """
    feeds = list(feeds)
    found: dict[str, str] = {}
    at = {feed.name: feed.device for feed in feeds if feed.device in devices and feed.pinned in (None, feed.device)}
    waiting = [feed for feed in feeds if feed.name not in at]
    loads = _loads(feeds, at, devices)
    networks = {device: {feed.network for feed in feeds if at.get(feed.name) == device} for device in devices}
    nearly = _NEARLY * sum(feed.load for feed in feeds) / max(1, len(devices))
    # those without a choice first, so that the others find their places around them
    for feed in sorted(waiting, key=lambda feed: (feed.pinned is None, -feed.load, feed.network)):
        allowed = [device for device in devices if feed.may_run_on(device)]
        if not allowed:
            continue
        least = min(loads[device] for device in allowed)
        near = [device for device in allowed if loads[device] <= least + nearly]
        chosen = min(near, key=lambda device: (feed.network not in networks[device], loads[device]))
        found[feed.name] = chosen
        loads[chosen] += feed.load
        networks[chosen].add(feed.network)
    return found


def imbalance(feeds: Iterable[Placed], devices: Sequence[str]) -> float:
    """By what part of the mean load the highest one is above it: 0 if all are equal."""
    feeds = list(feeds)
    loads = _loads(feeds, {feed.name: feed.device for feed in feeds}, devices).values()
    mean = sum(loads) / len(loads) if loads else 0.0
    return max(loads) / mean - 1.0 if mean > 0 else 0.0


def better_move(feeds: Iterable[Placed], devices: Sequence[str]) -> tuple[str, str] | None:
    """The one feed whose move to another device takes most off the highest load, and that device.

    None if no move is worth the interruption.
    """
    feeds = list(feeds)
    loads = _loads(feeds, {feed.name: feed.device for feed in feeds}, devices)
    if len(loads) < 2:
        return None
    highest, lowest = max(devices, key=loads.__getitem__), min(devices, key=loads.__getitem__)
    movable = [feed for feed in feeds if feed.device == highest and feed.may_run_on(lowest)]

    def higher_after(feed: Placed) -> float:
        return max(loads[highest] - feed.load, loads[lowest] + feed.load)

    best = min(movable, key=higher_after, default=None)
    worth = _WORTH_A_MOVE * sum(loads.values()) / len(loads)
    if best is None or loads[highest] - higher_after(best) < max(worth, 1e-9):
        return None
    return best.name, lowest


def weighed(measured: Mapping[str, float | None]) -> dict[str, float]:
    """Loads by name, where those that are not known yet are taken for the mean of the others."""
    known = [load for load in measured.values() if load is not None]
    usual = sum(known) / len(known) if sum(known) > 0 else 1.0
    return {name: usual if load is None else load for name, load in measured.items()}


class LoadMeter:
    """The load of a feed over the last half minute, from how long its network has worked for it in all."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()
        self.load: float | None = None
        """Seconds of inference a second; None until it is known. It stays while the feed is away from any device."""

    def add(self, now: float, seconds: float) -> None:
        """`seconds` of inference so far; less than before if counting has begun anew."""
        samples = self._samples
        if samples and seconds < samples[-1][1]:
            samples.clear()
        if samples and now - samples[-1][0] < 1.0:
            return
        samples.append((now, seconds))
        while len(samples) > 2 and now - samples[1][0] >= _LOAD_SECONDS:
            samples.popleft()
        if now - samples[0][0] >= _LEAST_LOAD_SECONDS:
            self.load = (seconds - samples[0][1]) / (now - samples[0][0])


class Balance:
    """Whether loads have been uneven for so long that a feed should move."""

    def __init__(self) -> None:
        self._since: float | None = None

    def is_lost(self, uneven: float, now: float) -> bool:
        """`uneven`: the `imbalance` of this moment. To be called again and again."""
        if uneven <= _MOST_IMBALANCE:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= _PATIENCE_SECONDS

    def begin_anew(self) -> None:
        """After a move."""
        self._since = None


def _loads(feeds: Iterable[Placed], at: Mapping[str, str | None], devices: Sequence[str]) -> dict[str, float]:
    loads = dict.fromkeys(devices, 0.0)
    for feed in feeds:
        device = at.get(feed.name)
        if device in loads:
            loads[device] += feed.load
    return loads
