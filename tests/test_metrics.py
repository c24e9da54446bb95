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
