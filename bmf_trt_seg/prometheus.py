"""The counts of all open streams as Prometheus metrics, made when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from bmf_trt_seg import metrics
from bmf_trt_seg.backends.shared import SharedCounts, shared_counts
from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.feed_states import feed_states
from bmf_trt_seg.metrics import BATCH_SIZES, Histogram, StreamView
from bmf_trt_seg.sources.urls import masked

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

__all__ = ["Exposition", "families", "families_of_devices"]

Item = TypeVar("Item")
_PREFIX = "bmf_trt_seg"
_COUNTERS: tuple[tuple[str, str, Callable[[StreamView], int | None]], ...] = (
    ("frames_in", "Frames that came into the stream.", lambda view: view.frames_in),
    ("frames_out", "Frames that the stream sent on.", lambda view: view.frames_out),
    (
        "frames_repeated",
        "Frames sent in the place of a camera's while it was away.",
        lambda view: _of_role(view, "source", "held"),
    ),
    ("frames_inferred", "Frames that the network saw.", lambda view: _of_role(view, "segment", "inferred")),
    ("option_changes", "Times that options changed while it ran.", lambda view: _of_role(view, "segment", "changes")),
    (
        "option_changes_refused",
        "Changes of options that were refused.",
        lambda view: _of_role(view, "segment", "changes_refused"),
    ),
    (
        "reconnects",
        "Times that a camera came back.",
        lambda view: _of_role(view, "source", "reconnects"),
    ),
)


def _of_role(view: StreamView, role: str, name: str) -> int | None:
    return next((getattr(part, name) for part in view.parts if part.role == role), None)


def families(expected: Iterable[str] = (), clock: Callable[[], float] = time.monotonic) -> Iterator[Metric]:
    """Every metric with its values of this moment. `expected`: streams that are down (0) if they are not there."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    views = list(_labelled(metrics.views()))
    for name, text, value_of in _COUNTERS:
        counter = CounterMetricFamily(f"{_PREFIX}_{name}", text, labels=["stream"])
        for label, view in views:
            value = value_of(view)
            if value is not None:
                counter.add_metric([label], value)
        yield counter
    dropped = CounterMetricFamily(
        f"{_PREFIX}_frames_dropped", "Frames that came and went no further.", labels=["stream", "reason"]
    )
    up = GaugeMetricFamily(f"{_PREFIX}_stream_up", "1 while frames come, 0 while they do not.", labels=["stream"])
    age = GaugeMetricFamily(
        f"{_PREFIX}_last_frame_age_seconds", "Time since the last frame; none before the first.", labels=["stream"]
    )
    stages = HistogramMetricFamily(
        f"{_PREFIX}_stage_seconds", "Time that a stage took for a frame or a batch.", labels=["stream", "stage"]
    )
    sizes = HistogramMetricFamily(f"{_PREFIX}_batch_size", "Frames in an inference.", labels=["stream"])
    now = clock()
    for label, view in views:
        for part in view.parts:
            for reason, frames in list(part.dropped_for.items()):
                dropped.add_metric([label, reason], frames)
            for stage, times in list(part.stages.items()):
                stages.add_metric([label, stage], *_buckets(times))
            if part.role == "segment":
                sizes.add_metric([label], *_buckets(part.batch_sizes))
        if view.state is not None:
            up.add_metric([label], view.state == "up")
        if view.last_frame_at is not None:
            age.add_metric([label], max(0.0, now - view.last_frame_at))
    told = {view.name for _, view in views if view.state is not None}
    for name in expected:
        if name not in told:
            up.add_metric([masked(name)], 0)
    yield from (dropped, up, age, stages, sizes)
    yield from _of_outputs(views)
    yield from _of_feeds()
    yield from _of_shared_networks()


def _of_outputs(views: Iterable[tuple[str, StreamView]]) -> Iterator[Metric]:
    """Of files, playlists and servers that sinks write to; nothing where there is no sink."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    sinks = [(label, part) for label, view in views for part in view.parts if part.role == "sink"]
    if not sinks:
        return
    labels = ["stream", "kind", "output"]
    up = GaugeMetricFamily(f"{_PREFIX}_output_up", "1 while an output takes what it gets, else 0.", labels=labels)
    sent = CounterMetricFamily(f"{_PREFIX}_output_packets", "Packets that an output has taken.", labels=labels)
    dropped = CounterMetricFamily(
        f"{_PREFIX}_output_packets_dropped", "Packets that an output was away for, or too slow.", labels=labels
    )
    reconnects = CounterMetricFamily(
        f"{_PREFIX}_output_reconnects", "Times that an output worked again after it had failed.", labels=labels
    )
    sound = CounterMetricFamily(f"{_PREFIX}_sound_packets", "Packets of sound that came.", labels=["stream"])
    lost = CounterMetricFamily(f"{_PREFIX}_sound_packets_dropped", "Those that went no further.", labels=["stream"])
    for label, sink in sinks:
        sound.add_metric([label], sink.sound_in)
        lost.add_metric([label], sink.sound_dropped)
        for name, output in _distinct(sink.outputs, lambda output: masked(output.name)):
            values = [label, output.kind, name]
            up.add_metric(values, output.state == "up")
            sent.add_metric(values, output.packets_out)
            dropped.add_metric(values, output.packets_dropped)
            reconnects.add_metric(values, output.reconnects)
    yield from (up, sent, dropped, reconnects, sound, lost)


def _of_feeds() -> Iterator[Metric]:
    """Of feeds under a supervisor; nothing where there is none."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    feeds = feed_states()
    if not feeds:
        return
    restarts = CounterMetricFamily(
        f"{_PREFIX}_feed_restarts", "Times that a feed's graph was started again.", labels=["feed"]
    )
    running = GaugeMetricFamily(
        f"{_PREFIX}_feed_running", "1 while a feed's graph runs, 0 while it waits, hangs or is over.", labels=["feed"]
    )
    for feed in feeds:
        restarts.add_metric([feed.name], feed.restarts)
        running.add_metric([feed.name], feed.state == "running")
    yield from (restarts, running)


def _of_shared_networks() -> Iterator[Metric]:
    """Of networks that streams share; nothing where they do not."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    networks = shared_counts()
    if not networks:
        return
    sizes = HistogramMetricFamily(
        f"{_PREFIX}_shared_batch_size", "Frames of all streams in a run of a shared network.", labels=["model"]
    )
    failed = CounterMetricFamily(f"{_PREFIX}_shared_batches_failed", "Runs of it that failed.", labels=["model"])
    streams = GaugeMetricFamily(f"{_PREFIX}_shared_streams", "Streams that share it.", labels=["model"])
    waiting = GaugeMetricFamily(f"{_PREFIX}_shared_frames_waiting", "Frames that wait for it.", labels=["model"])
    for label, network in _distinct(networks, lambda network: network.model):
        sizes.add_metric([label], *_buckets(_histogram(network)))
        failed.add_metric([label], network.failed)
        streams.add_metric([label], len({name for name, _ in network.waiting}))
        waiting.add_metric([label], sum(frames for _, frames in network.waiting))
    yield from (sizes, failed, streams, waiting)


def families_of_devices(
    own: Iterable[Metric],
    texts: Mapping[str, str],
    loads: Mapping[str, float],
    up: Callable[[str], bool],
    moves: Mapping[str, int],
) -> Iterator[Metric]:
    """The metrics of processes that each have a device, with a label for that, and those of their parent.

    own: of this process, which is who knows of the feeds. texts: what the others expose, by device.
    """
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.parser import text_string_to_metric_families

    found = {family.name: family for family in own}
    for device, text in texts.items():
        for family in text_string_to_metric_families(text):
            if family.name.startswith(f"{_PREFIX}_feed_"):
                continue
            joined = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            joined.samples += [one._replace(labels={**one.labels, "device": device}) for one in family.samples]
    yield from found.values()
    working = GaugeMetricFamily(f"{_PREFIX}_device_up", "1 while a device takes feeds, else 0.", labels=["device"])
    load = GaugeMetricFamily(
        f"{_PREFIX}_device_load", "Seconds of inference a second, of all feeds of a device.", labels=["device"]
    )
    moved = CounterMetricFamily(f"{_PREFIX}_feed_moves", "Times that a feed went to another device.", labels=["feed"])
    for device, seconds in loads.items():
        working.add_metric([device], up(device))
        load.add_metric([device], seconds)
    for feed, times in moves.items():
        moved.add_metric([feed], times)
    yield from (working, load, moved)


def _histogram(network: SharedCounts) -> Histogram:
    histogram = Histogram(BATCH_SIZES)
    for size, times in network.sizes.items():
        histogram.add(size, times)
    return histogram


def _labelled(views: Iterable[StreamView]) -> Iterator[tuple[str, StreamView]]:
    """Each with its name as it may be shown."""
    return _distinct(views, lambda view: masked(view.name))


def _distinct(items: Iterable[Item], name_of: Callable[[Item], str]) -> Iterator[tuple[str, Item]]:
    """Each with its name; a second one of the same gets a number.

    Prometheus throws away a whole scrape in which a label comes twice.
    """
    seen: dict[str, int] = {}
    for item in items:
        name = name_of(item)
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} #{seen[name]}", item


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulated counts by upper bound, as text, and the sum."""
    total, counts = histogram.total, list(histogram.counts)
    running, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), counts, strict=True):
        running += count
        buckets.append((bound, float(running)))
    return buckets, total


class Exposition:
    """Answers scrapes. Raises BackendUnavailable if prometheus-client is not installed."""

    def __init__(
        self, expected: Callable[[], Iterable[str]] = tuple, collect: Callable[[], Iterable[Metric]] | None = None
    ) -> None:
        """expected: as of `families`. collect: asked for the metrics in the place of that."""
        try:
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise BackendUnavailable("metrics need prometheus-client: pip install prometheus-client") from error

        class Streams:
            def collect(self) -> Iterable[Metric]:
                return families(expected()) if collect is None else collect()

            def describe(self) -> Iterable[Metric]:
                return ()  # else registering would collect once

        streams: Any = Streams()
        self._registry: Collector = CollectorRegistry(auto_describe=False)
        self._registry.register(streams)

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """The text in the best of the formats that an Accept header names, and its content type."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
