"""Scrapes, read by Prometheus' own parser."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from bmf_trt_seg import feed_states, metrics, prometheus
from bmf_trt_seg.backends.shared import SharedCounts
from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.prometheus import Exposition, families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(feed_states, "_feeds", {})


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, f"{key} comes twice"
            found[key] = sample.value
    return found


def scraped(exposition: Exposition | None = None) -> Samples:
    return samples((exposition or Exposition()).scrape()[0].decode())


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((f"bmf_trt_seg_{name}", tuple(sorted(labels.items()))))


def two_parts() -> tuple[metrics.StreamMetrics, metrics.StreamMetrics]:
    source, segment = metrics.open_stream("door", "source"), metrics.open_stream("door")
    source.frames_in, source.frames_out, source.held, source.reconnects = 100, 95, 3, 2
    source.dropped_for.update(late=7, closed=1)
    source.state = "up"
    source.last_frame_at, segment.last_frame_at = 50.0, 52.0
    segment.frames_in, segment.frames_out, segment.inferred, segment.held = 95, 94, 48, 46
    return source, segment


def test_the_counts_of_a_stream() -> None:
    two_parts()
    found = scraped()
    for name, expected in {
        "frames_in_total": 100, "frames_out_total": 94, "frames_repeated_total": 3, "frames_inferred_total": 48,
        "reconnects_total": 2, "stream_up": 1,
    }.items():  # fmt: skip
        assert value(found, name, stream="door") == expected, name
    assert value(found, "frames_dropped_total", stream="door", reason="late") == 7
    assert value(found, "frames_dropped_total", stream="door", reason="closed") == 1


def test_the_outputs_of_a_sink() -> None:
    two_parts()
    sink = metrics.open_stream("door", "sink")
    sink.frames_in, sink.frames_out, sink.sound_in, sink.sound_dropped = 94, 93, 40, 2
    file = metrics.OutputMetrics("out/door.mp4", "file", "up", packets_in=133, packets_out=130, packets_dropped=3)
    away = metrics.OutputMetrics("rtmp://anna:s3cret@server/live", "push", "away", packets_dropped=133, reconnects=2)
    sink.outputs = [file, away, metrics.OutputMetrics("rtmp://eve:other@server/live", "push")]
    found = scraped()
    assert value(found, "frames_out_total", stream="door") == 93
    of_file = {"stream": "door", "kind": "file", "output": "out/door.mp4"}
    of_server = {"stream": "door", "kind": "push", "output": "rtmp://***@server/live"}
    assert value(found, "output_up", **of_file) == 1
    assert value(found, "output_packets_total", **of_file) == 130
    assert value(found, "output_packets_dropped_total", **of_file) == 3
    assert value(found, "output_up", **of_server) == 0
    assert value(found, "output_packets_dropped_total", **of_server) == 133
    assert value(found, "output_reconnects_total", **of_server) == 2
    assert value(found, "output_up", **{**of_server, "output": "rtmp://***@server/live #2"}) == 0
    assert value(found, "sound_packets_total", stream="door") == 40
    assert value(found, "sound_packets_dropped_total", stream="door") == 2


def test_feeds_under_a_supervisor() -> None:
    feed_states.open_feed("door", ("door",)).state = "running"
    yard = feed_states.open_feed("yard", ("yard",))
    yard.state, yard.restarts = "restarting", 3
    found = scraped()
    assert [value(found, "feed_running", feed=name) for name in ("door", "yard")] == [1, 0]
    assert [value(found, "feed_restarts_total", feed=name) for name in ("door", "yard")] == [0, 3]


def test_networks_that_streams_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(sizes: dict[int, int]) -> SharedCounts:
        pictures = sum(size * times for size, times in sizes.items())
        waiting = (("door", 1), ("yard", 2), ("door", 0))
        return SharedCounts("person.onnx", 4, sum(sizes.values()), 1, pictures, sizes, waiting)

    monkeypatch.setattr(prometheus, "shared_counts", lambda: [counts({1: 5, 3: 10**9}), counts({4: 2})])
    found = scraped()
    first = {"model": "person.onnx"}
    assert value(found, "shared_batch_size_bucket", **first, le="1.0") == 5
    assert value(found, "shared_batch_size_bucket", **first, le="2.0") == 5
    assert value(found, "shared_batch_size_bucket", **first, le="4.0") == 10**9 + 5
    assert value(found, "shared_batch_size_sum", **first) == 3 * 10**9 + 5
    assert value(found, "shared_batches_failed_total", **first) == 1
    assert value(found, "shared_streams", **first) == 2
    assert value(found, "shared_frames_waiting", **first) == 3
    assert value(found, "shared_batch_size_count", model="person.onnx #2") == 2


def test_the_age_is_that_of_the_oldest_last_frame() -> None:
    source, _ = two_parts()

    def ages() -> list[float]:
        return [
            sample.value
            for family in families(clock=lambda: 60.5)
            for sample in family.samples
            if sample.name == "bmf_trt_seg_last_frame_age_seconds"
        ]

    assert ages() == [10.5]
    source.last_frame_at = None
    assert ages() == []


def test_histograms_are_cumulated_and_whole() -> None:
    counts = metrics.open_stream("door")
    for seconds in (0.0003, 0.001, 0.004, 20.0):
        counts.took("infer", seconds)
    for frames in (1, 4, 4):
        counts.batch_sizes.add(frames)
    found = scraped()

    def bucket(bound: str) -> float | None:
        return value(found, "stage_seconds_bucket", stream="door", stage="infer", le=bound)

    bounds = ["0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "10.0", "+Inf"]
    assert [bucket(bound) for bound in bounds] == [0, 0, 1, 2, 2, 3, 3, 4]
    assert value(found, "stage_seconds_count", stream="door", stage="infer") == 4
    assert value(found, "stage_seconds_sum", stream="door", stage="infer") == pytest.approx(20.0053)
    assert value(found, "batch_size_bucket", stream="door", le="2.0") == 1
    assert value(found, "batch_size_bucket", stream="door", le="4.0") == 3
    assert value(found, "batch_size_sum", stream="door") == 9


@pytest.mark.parametrize(("state", "up"), [("connecting", 0), ("away", 0), ("ended", 0), ("up", 1), (None, None)])
def test_up_is_what_the_source_says(state: metrics.State | None, up: float | None) -> None:
    metrics.open_stream("door", "source").state = state
    assert value(scraped(), "stream_up", stream="door") == up


def test_a_stream_that_should_be_there_and_is_not_is_down() -> None:
    metrics.open_stream("door", "source").state = "up"
    found = scraped(Exposition(lambda: ["door", "rtsp://anna:s3cret@yard/"]))
    assert value(found, "stream_up", stream="door") == 1
    assert value(found, "stream_up", stream="rtsp://***@yard/") == 0


def test_what_only_a_source_or_only_a_network_counts_is_left_out_elsewhere() -> None:
    metrics.open_stream("file")
    found = scraped()
    assert value(found, "frames_in_total", stream="file") == 0
    assert value(found, "reconnects_total", stream="file") is None
    assert value(found, "batch_size_count", stream="file") == 0


def test_names_are_escaped_and_show_no_password() -> None:
    metrics.open_stream('a "b"\\c\nd').frames_in = 1
    metrics.open_stream("rtsp://anna:s3cret@host/clip").frames_in = 2
    metrics.open_stream("rtsp://bert:0ther@host/clip").frames_in = 3
    text = Exposition().scrape()[0].decode()
    found = samples(text)
    assert value(found, "frames_in_total", stream='a "b"\\c\nd') == 1
    assert value(found, "frames_in_total", stream="rtsp://***@host/clip") == 2
    assert value(found, "frames_in_total", stream="rtsp://***@host/clip #2") == 3
    for secret in ("anna", "s3cret", "bert", "0ther"):
        assert secret not in text


def test_openmetrics_for_whoever_wants_it() -> None:
    two_parts()[1].took("infer", 0.1)
    body, content_type = Exposition().scrape("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}
    assert {"bmf_trt_seg_frames_in", "bmf_trt_seg_stage_seconds", "bmf_trt_seg_stream_up"} <= names
    assert Exposition().scrape()[1].startswith("text/plain")


def test_every_metric_has_a_help_text_and_follows_the_naming_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(families())) == 12
    feed_states.open_feed("door", ("door",))
    metrics.open_stream("door", "sink").outputs = [metrics.OutputMetrics("a.mp4", "file")]
    monkeypatch.setattr(prometheus, "shared_counts", lambda: [SharedCounts("a.onnx", 1, 0, 0, 0, {}, ())])
    found = list(families())
    assert len(found) == 12 + 6 + 2 + 4
    for family in found:
        assert family.documentation.endswith(".")
        assert family.name.startswith("bmf_trt_seg_")


def test_scrapes_while_streams_come_and_go_and_count() -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    exposition = Exposition()

    def write(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            counts = metrics.open_stream(f"s{number}.{turn % 5}", "source" if turn % 2 else "segment")
            for index in range(6):
                counts.took(f"stage{index}", 0.001)
                counts.drop(f"reason{index}")
                counts.frames_in += 1
            metrics.close_stream(f"s{number}.{(turn + 2) % 5}")

    def read() -> None:
        try:
            for _ in range(15):
                for (name, labels), count in scraped(exposition).items():
                    if name.endswith("_bucket"):
                        assert count <= 6 or "batch" in name, labels
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (*writers, *readers):
            thread.start()
        for thread in readers:
            thread.join(60)
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in writers:
            thread.join(10)
    assert failures == []


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "prometheus_client", missing)
    with pytest.raises(BackendUnavailable, match=r"^metrics need prometheus-client: pip install prometheus-client$"):
        Exposition()
