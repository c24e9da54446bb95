"""The counts of all open streams as Prometheus metrics, made when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.metrics import Histogram, StreamView
from bmf_trt_seg.sources.urls import masked

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

__all__ = ["Exposition", "families"]

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


def _labelled(views: Iterable[StreamView]) -> Iterator[tuple[str, StreamView]]:
    """Each with its name as it may be shown; a second one that looks the same then gets a number.

    Prometheus throws away a whole scrape in which a label comes twice.
    """
    seen: dict[str, int] = {}
    for view in views:
        label = masked(view.name)
        seen[label] = seen.get(label, 0) + 1
        yield label if seen[label] == 1 else f"{label} #{seen[label]}", view


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

    def __init__(self, expected: Callable[[], Iterable[str]] = tuple) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise BackendUnavailable("metrics need prometheus-client: pip install prometheus-client") from error

        class Streams:
            def collect(self) -> Iterator[Metric]:
                return families(expected())

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
