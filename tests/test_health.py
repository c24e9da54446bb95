"""Whether a process and its streams are well, by a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bmf_trt_seg import feed_states, metrics
from bmf_trt_seg.health import Health


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(feed_states, "_feeds", {})


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_no_streams_are_ready(clock: Clock) -> None:
    assert Health(clock=clock).ready() == (True, {"ready": True, "limit_seconds": 10.0, "streams": []})


def test_a_stream_is_ready_while_its_last_frame_is_young(clock: Clock) -> None:
    health = Health(["door"], ready_seconds=2.0, clock=clock)
    ready, content = health.ready()
    assert not ready
    assert content["streams"] == [
        {"stream": "door", "ready": False, "state": "starting", "last_frame_age_seconds": None}
    ]
    counts = metrics.open_stream("door", "source")
    counts.state = "connecting"
    assert health.ready()[1]["streams"][0]["state"] == "connecting"
    counts.state, counts.last_frame_at = "up", clock.now
    clock.now += 2.0
    assert health.ready() == (
        True,
        {
            "ready": True,
            "limit_seconds": 2.0,
            "streams": [{"stream": "door", "ready": True, "state": "up", "last_frame_age_seconds": 2.0}],
        },
    )
    clock.now += 0.1
    ready, content = health.ready()
    assert not ready
    assert content["streams"][0]["last_frame_age_seconds"] == 2.1
    counts.last_frame_at = clock.now
    assert health.ready()[0]


@pytest.mark.parametrize("state", ["away", "ended", "connecting"])
def test_a_young_frame_is_not_enough_of_a_camera_that_is_gone(clock: Clock, state: metrics.State) -> None:
    source, segment = metrics.open_stream("door", "source"), metrics.open_stream("door")
    source.last_frame_at = segment.last_frame_at = clock.now
    source.state, segment.state = state, "up"
    source.last_error = "rtsp://anna:s3cret@host/clip: refused"
    ready, content = Health(["door"], clock=clock).ready()
    assert not ready
    assert content["streams"][0]["state"] == state
    assert content["streams"][0].get("last_error") == ("rtsp://***@host/clip: refused" if state == "away" else None)


def test_one_that_is_not_ready_makes_all_unready_and_others_do_not_matter(clock: Clock) -> None:
    for name in ("door", "yard", "extra"):
        metrics.open_stream(name, "source").state = "up"
    door, yard = metrics.stream("door"), metrics.stream("yard")
    assert door is not None
    assert yard is not None
    door.last_frame_at = yard.last_frame_at = clock.now
    health = Health(["door", "yard", "door"], clock=clock)
    assert health.ready()[0], "nobody expects 'extra'"
    yard.last_frame_at = clock.now - 11
    ready, content = health.ready()
    assert not ready
    assert [(one["stream"], one["ready"]) for one in content["streams"]] == [("door", True), ("yard", False)]
    health.expect(["door"])
    assert health.ready()[0]


def test_it_works_while_it_beats(clock: Clock) -> None:
    health = Health(beat_seconds=30.0, clock=clock)
    clock.now += 1e6
    assert health.working() == (True, {"status": "starting"})
    health.beat()
    clock.now += 30.0
    assert health.working() == (True, {"status": "ok"})
    clock.now += 1.0
    assert health.working() == (False, {"status": "stuck", "last_beat_age_seconds": 31.0})
    health.beat()
    assert health.working()[0]


def test_a_name_that_is_an_address_shows_no_password(clock: Clock) -> None:
    name = "rtsp://anna:s3cret@host/clip"
    metrics.open_stream(name, "source").state = "up"
    _, content = Health([name], clock=clock).ready()
    assert content["streams"][0]["stream"] == "rtsp://***@host/clip"
    assert content["streams"][0]["state"] == "up"


def test_what_a_supervisor_knows_goes_before_what_frames_tell(clock: Clock) -> None:
    health = Health(["door"], clock=clock)
    feed = feed_states.open_feed("door", ("door",))
    counts = metrics.open_stream("door", "source")
    counts.state, counts.last_frame_at = "up", clock.now
    feed.state = "running"
    (found,) = health.ready()[1]["streams"]
    assert (found["ready"], found["state"], found["restarts"]) == (True, "up", 0)
    feed.state, feed.restarts, feed.reason = "restarting", 2, "rtsp://anna:s3cret@camera/clip broke"
    is_ready, content = health.ready()
    assert not is_ready
    assert content["streams"] == [
        {
            "stream": "door", "ready": False, "state": "restarting", "last_frame_age_seconds": 0.0, "restarts": 2,
            "last_error": "rtsp://***@camera/clip broke",
        }
    ]  # fmt: skip
