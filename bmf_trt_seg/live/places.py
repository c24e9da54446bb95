"""A feed that may run on one of several devices: where it is, where it should be, and its counts over all of that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bmf_trt_seg.feed_states import open_feed
from bmf_trt_seg.live.device_names import without_numbers
from bmf_trt_seg.live.feeds import Feed
from bmf_trt_seg.live.graphs import LiveGraph
from bmf_trt_seg.live.messages import Message, content_of_feed, state_of, totals_of
from bmf_trt_seg.live.placement import LoadMeter, Placed, weighed
from bmf_trt_seg.live.supervisor import Report, Totals, collide
from bmf_trt_seg.metrics import OutputMetrics
from bmf_trt_seg.options import read_options

__all__ = ["DeviceReport", "FeedPlace", "feed_content", "placed", "planned_feeds"]


@dataclass(frozen=True)
class DeviceReport(Report):
    """A report from another process."""

    runs_on: str = ""
    seen_camera: str | None = None
    seen_outputs: tuple[OutputMetrics, ...] = ()

    @property
    def device(self) -> str:
        return self.runs_on

    @property
    def camera(self) -> str | None:
        return self.seen_camera

    @property
    def outputs(self) -> list[OutputMetrics]:
        return list(self.seen_outputs)


@dataclass(eq=False)
class FeedPlace:
    """One feed. All times are of `time.monotonic`."""

    feed: Feed
    pinned: str | None
    """The only device that it may run on."""
    at: str | None = None
    """The device whose process has it, also while it is on its way out there."""
    target: str | None = None
    """The device that it should be on."""
    is_over: bool = False
    """Whether it has ended or failed for good."""
    is_told: bool = False
    """Whether the process that has it has said something of it."""
    failures: int = 0
    """How often in a row it could not be started where it should be."""
    retry_at: float = 0.0
    moves: int = 0
    meter: LoadMeter = field(default_factory=LoadMeter)
    sent: Message = field(default_factory=dict)
    """As the process that has it was told."""
    _before: Totals = field(default_factory=Totals)
    _restarts_before: int = 0
    _now: Totals = field(default_factory=Totals)
    _camera: str | None = None
    _outputs: tuple[OutputMetrics, ...] = ()
    _changed: dict[str, Any] = field(default_factory=dict)
    """Options that were changed where it is, by stream, whole."""
    _carried: dict[str, Any] = field(default_factory=dict)
    """The same, from where it was before."""
    _last: str | None = None

    def __post_init__(self) -> None:
        self.state = open_feed(self.feed.name, self.feed.graph.streams)

    @property
    def is_on_its_way(self) -> bool:
        """Whether it does not run yet where it should, and nothing keeps it from that."""
        if self.is_over or self.target is None or self.failures:
            return False
        return self.at != self.target or not self.is_told

    def replace(self, feed: Feed, pinned: str | None) -> None:
        """The feeds file says this now; what was changed otherwise goes."""
        if self.is_over and (self.state.state == "failed" or feed != self.feed):
            self.is_over, self.state.state = False, "starting"
        self.feed, self.pinned, self._changed, self._carried = feed, pinned, {}, {}
        self.retry_at, self.failures = 0.0, 0
        self.state.streams = feed.graph.streams

    def content(self) -> Message:
        """What a process needs to run it, with what was changed while it ran elsewhere."""
        subject, graph = f"feed '{self.feed.name}', SegmentModule", self.feed.graph
        changed = {**self._carried, **self._changed}
        if changed:
            graph = graph.with_segments({name: read_options(options, subject) for name, options in changed.items()})
        return feed_content(self.feed, graph)

    def send_to(self, device: str) -> Message:
        """It is at that device from now on."""
        self.sent = self.content()
        self._carried, self._changed = {**self._carried, **self._changed}, {}
        if self.at != device:
            self.moves += self._last not in (None, device)
            self.at, self._last, self.is_told = device, device, False
            if self.state.state not in ("ended", "failed"):
                self.state.state = "starting"
        return self.sent

    def heard(self, report: Message, now: float) -> None:
        """What the process that has it says."""
        state = state_of(report["state"])
        self.is_told = True
        self.state.state, self.state.reason = state.state, state.reason
        self.state.restarts = self._restarts_before + state.restarts
        self.is_over = state.state in ("ended", "failed")
        self._now = totals_of(report["totals"])
        self._camera = report["camera"]
        self._outputs = tuple(OutputMetrics(name, "", how) for name, how in report["outputs"])
        self._changed = report["changed"]
        self.failures = 0
        self.meter.add(now, report["infer_seconds"])

    def left(self, reason: str) -> None:
        """Its process has it no more; frames that were on their way there are dropped."""
        self._before += self._now.all_accounted_for()
        self._now, self._camera, self._outputs = Totals(), None, ()
        self.at, self.is_told = None, False
        if not self.is_over:
            self.state.restarts += 1
            self._restarts_before = self.state.restarts
            self.wait(reason)

    def wait(self, reason: str) -> None:
        """It runs nowhere."""
        self.state.state, self.state.reason = "waiting", reason

    def begin_anew(self) -> None:
        """Another feed of that name is there from now on, and its counts begin at 0."""
        self._before, self._now, self._restarts_before = Totals(), Totals(), 0

    def report(self, is_leaving: bool = False) -> DeviceReport:
        totals = self._before + self._now
        return DeviceReport(self.state, totals, is_leaving, self.at or "", self._camera, self._outputs)

    def collides(self, other: FeedPlace) -> bool:
        return self is not other and collide(self.feed, other.feed)


def placed(places: Iterable[FeedPlace]) -> list[Placed]:
    """Those that are not over, as the placement wants them."""
    there = [place for place in places if not place.is_over]
    loads = weighed({place.feed.name: place.meter.load for place in there})
    return [
        Placed(place.feed.name, loads[place.feed.name], place.pinned, _network(place.feed), place.target)
        for place in there
    ]


def planned_feeds(
    feeds: Iterable[Feed], pins: Mapping[str, str | None], known: Mapping[str, FeedPlace]
) -> list[Placed]:
    """`placed` for feeds that should run; those of them that are known stay where they are."""
    feeds = list(feeds)
    loads = weighed({feed.name: known[feed.name].meter.load if feed.name in known else None for feed in feeds})
    return [
        Placed(
            feed.name,
            loads[feed.name],
            pins[feed.name],
            _network(feed),
            known[feed.name].target if feed.name in known else None,
        )
        for feed in feeds
    ]


def feed_content(feed: Feed, graph: LiveGraph | None = None) -> Message:
    """What a process needs to run a feed, or this graph in the place of its own."""
    return content_of_feed(feed, without_numbers((graph or feed.graph).content))


def _network(feed: Feed) -> str:
    return json.dumps([[options.get("model"), options.get("backend")] for options in feed.graph.segments])
