"""The times that a feed gives, where those of the stream itself leap."""

from __future__ import annotations

import threading
import time
from fractions import Fraction

import av
import pytest

from bmf_trt_seg.sources import feed

STEP = 3600
HOUR = 3600 * 90000


def frame(pts: int) -> av.VideoFrame:
    made = av.VideoFrame(16, 16, "yuv420p")
    made.pts, made.time_base = pts, feed.CLOCK
    return made


@pytest.mark.parametrize("leap", [HOUR, -HOUR, 26 * HOUR, -2 * 90000])
def test_times_go_on_where_an_encoder_begins_anew_behind_the_same_connection(leap: int) -> None:
    clock = feed._Clock()
    clock.start_over(0.04)
    before = [clock.stamp(frame(10 * HOUR + STEP * number)) for number in range(3)]
    ahead = Fraction(10 * HOUR + leap + 2 * STEP, 90000)
    assert clock.of_sound(ahead) is None, "sound waits for the first frame after a leap"
    after = [clock.stamp(frame(10 * HOUR + leap + STEP * number)) for number in range(3, 6)]
    assert [later - earlier for earlier, later in zip(after, after[1:], strict=False)] == [STEP, STEP]
    assert STEP <= after[0] - before[-1] < 90000
    assert clock.of_sound(Fraction(10 * HOUR + leap + 5 * STEP, 90000)) == after[-1]


def test_frames_that_are_far_apart_or_come_late_together_keep_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = feed._Clock()
    clock.start_over(30.0)
    assert clock.stamp(frame(0)) == 0
    now[0] = 30.0
    assert clock.stamp(frame(30 * 90000)) == 30 * 90000
    now[0] = 45.0  # a stall, after which comes all that was sent meanwhile
    assert [clock.stamp(frame(30 * 90000 + STEP * number)) for number in (1, 2)] == [
        30 * 90000 + STEP, 30 * 90000 + 2 * STEP
    ]  # fmt: skip


@pytest.mark.parametrize("leap", [26 * HOUR, -HOUR])
def test_a_file_whose_times_leap_goes_on_in_real_time(leap: int) -> None:
    pace, stop = feed._Pace(), threading.Event()
    times = [10 * HOUR, 10 * HOUR + STEP, 10 * HOUR + leap, 10 * HOUR + leap + 5 * STEP]
    began = time.monotonic()
    assert all(pace.wait(frame(pts), stop) for pts in times)
    assert 0.2 <= time.monotonic() - began < 2


@pytest.mark.parametrize("connections", [1, 2])
def test_the_rate_is_that_of_the_frames_and_not_what_the_camera_says(connections: int) -> None:
    clock, seconds = feed._Clock(), 0.04
    for _ in range(connections):
        clock.start_over(0.04)
        for number in range(20):
            clock.stamp(frame(10 * HOUR + 90000 * number))
            seconds += feed._RATE_WEIGHT * (clock.step_seconds(seconds) - seconds)
            if number:
                assert seconds > 0.2, "so that ten frames' time is longer than a second"
    assert seconds == pytest.approx(1, rel=0.05)


def test_a_flood_does_not_fill_the_memory() -> None:
    """However long frames may wait, few do."""
    flooded = feed.Feed(feed.Settings("rtsp://127.0.0.1:9/none", "flooded", max_latency=60.0, backoff=30.0))
    try:
        for number in range(1000):
            flooded._deliver(frame(number * STEP), time.monotonic())
        assert len(flooded._waiting) == 64
        assert flooded.counts.dropped_for["late"] == 936
        newest = flooded._waiting[-1].frame
        assert newest.pts == 999 * STEP
    finally:
        flooded.close()
