"""Counts of streams."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from bmf_trt_seg import metrics


@pytest.fixture(autouse=True)
def no_streams(monkeypatch):
    monkeypatch.setattr(metrics, "_streams", {})


def test_a_new_stream_counts_from_zero_and_is_found_by_name():
    opened = metrics.open_stream("camera")
    assert metrics.stream("camera") is opened
    assert (opened.name, opened.frames_in, opened.frames_out, opened.inferred, opened.held) == ("camera", 0, 0, 0, 0)
    assert opened.stage_seconds == {}
    assert abs(time.monotonic() - opened.started_seconds) < 5


def test_a_stream_replaces_the_older_one_of_its_name():
    metrics.open_stream("camera").frames_in = 5
    metrics.open_stream("camera")
    assert metrics.stream("camera").frames_in == 0


def test_unknown_stream():
    assert metrics.stream("nobody") is None


def test_streams_share_nothing():
    first, second = metrics.open_stream("a"), metrics.open_stream("b")
    with first.stage("infer"):
        pass
    assert second.stage_seconds == {}


def test_time_of_a_stage_adds_up_even_if_it_fails():
    counts = metrics.open_stream("camera")
    with counts.stage("infer"):
        time.sleep(0.02)
    with suppress(KeyError), counts.stage("infer"):
        time.sleep(0.02)
        raise KeyError
    with counts.stage("overlay"):
        pass
    assert 0.04 <= counts.stage_seconds["infer"] < 1
    assert counts.stage_seconds["overlay"] < 0.02


def test_every_stream_is_asked_to_stop():
    streams = [metrics.open_stream(name) for name in "ab"]
    assert not any(counts.stop_requested for counts in streams)
    metrics.request_stop()
    assert all(counts.stop_requested for counts in streams)
    assert not metrics.open_stream("a").stop_requested


def test_a_histogram_counts_values_up_to_each_bound_and_those_above():
    histogram = metrics.Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 4.0, 4.1, 100.0):
        histogram.add(value)
    assert histogram.counts == [2, 1, 1, 2]
    assert histogram.total == pytest.approx(111.1)


def test_times_of_a_stage_are_kept_in_bounded_room():
    counts = metrics.open_stream("camera")
    for _ in range(10_000):
        counts.took("infer", 0.003)
    counts.took("infer", 99.0)
    times = counts.stages["infer"]
    assert times.counts[metrics.STAGE_SECONDS.index(5e-3)] == 10_000
    assert times.counts[-1] == 1
    assert len(times.counts) == len(metrics.STAGE_SECONDS) + 1
    assert counts.stage_seconds == {"infer": pytest.approx(129.0)}


def test_frames_of_an_inference_are_the_size_of_a_batch():
    counts = metrics.open_stream("camera")
    for frames in (4, 4, 1):
        with counts.stage("preprocess", frame=0, frames=frames), counts.stage("infer", frame=0, frames=frames):
            pass
    assert (sum(counts.batch_sizes.counts), counts.batch_sizes.total) == (3, 9)
    assert counts.batch_sizes.counts[metrics.BATCH_SIZES.index(4.0)] == 2


def test_dropped_frames_are_counted_by_reason():
    counts = metrics.open_stream("camera")
    counts.drop("late")
    counts.drop("late")
    counts.drop("closed", 5)
    assert counts.dropped_for == {"late": 2, "closed": 5}
    assert counts.dropped == 7


def test_a_node_that_sends_a_frame_is_up_since_then():
    counts = metrics.open_stream("camera")
    with counts.at_work():
        counts.frames_in += 1
    assert (counts.state, counts.last_frame_at) == (None, None), "nothing has left yet"
    with counts.at_work():
        counts.frames_out += 1
    first = counts.last_frame_at
    assert counts.state == "up"
    assert abs(time.monotonic() - first) < 5
    with counts.at_work():
        counts.frames_in += 1
    assert counts.last_frame_at == first


def test_a_source_and_a_segmentation_of_one_name_live_side_by_side():
    segment, source = metrics.open_stream("door"), metrics.open_stream("door", "source")
    assert metrics.stream("door") is segment
    assert metrics.stream("door", "source") is source
    assert metrics.stream("door", "segment") is segment
    (view,) = metrics.views()
    assert view.parts == (source, segment)
    source.frames_in, source.frames_out, segment.frames_in, segment.frames_out = 10, 8, 8, 7
    assert (view.frames_in, view.frames_out) == (10, 7)
    source.state, segment.state = "away", "up"
    assert view.state == "away"
    metrics.request_stop()
    assert source.stop_requested
    assert segment.stop_requested
    metrics.close_stream("door")
    assert metrics.views() == []
    metrics.close_stream("door")


@pytest.mark.parametrize(
    ("source_at", "segment_at", "expected"),
    [(5.0, 7.0, 5.0), (7.0, 5.0, 5.0), (None, 5.0, None), (5.0, None, None), (None, None, None)],
)
def test_the_last_frame_is_the_oldest_of_the_last(source_at, segment_at, expected):
    metrics.open_stream("door", "source").last_frame_at = source_at
    metrics.open_stream("door").last_frame_at = segment_at
    (view,) = metrics.views()
    assert view.last_frame_at == expected


def test_streams_of_one_name_are_all_stopped():
    first, second = metrics.open_stream("twice"), metrics.open_stream("twice")
    metrics.request_stop()
    assert first.stop_requested
    assert second.stop_requested
