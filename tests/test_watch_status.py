"""The state of streams as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from factories import make_picture

from bmf_trt_seg import feed_states, metrics
from bmf_trt_seg.watch import streams
from bmf_trt_seg.watch.status import Status


@pytest.fixture(autouse=True)
def _nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(streams, "_streams", {})
    monkeypatch.setattr(feed_states, "_feeds", {})


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def only(status: Status) -> dict[str, Any]:
    (stream,) = status.content()["streams"]
    return stream


def test_without_streams() -> None:
    assert Status().content() == {"late_seconds": 10.0, "chart_seconds": 300, "step_seconds": 5, "streams": []}


def test_a_stream_that_should_run_and_is_not_there_is_connecting() -> None:
    assert only(Status(lambda: ["door"])) == {
        "stream": "door",
        "state": "connecting",
        "is_late": False,
        "last_error": "",
        "fps_in": None,
        "fps_out": None,
        "latency_ms": None,
        "frames_in": 0,
        "frames_out": 0,
        "dropped": 0,
        "dropped_for": {},
        "reconnects": 0,
        "restarts": 0,
        "last_frame_age_seconds": None,
        "outputs": [],
        "size": None,
        "shares": {"classes": [], "others": None},
    }


def test_everything_there_is_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    source, network = metrics.open_stream("door", "source"), metrics.open_stream("door")
    source.state, source.last_frame_at, network.last_frame_at = "up", 999.75, 999.9
    source.frames_in, network.frames_out, source.reconnects = 120, 100, 2
    source.drop("late", 3)
    network.drop("late", 1)
    network.drop("closed", 4)
    source.last_error = "rtsp://anna:s3cret@camera/1 timed out"
    watched = streams.open_stream("door", {1: "person", 2: "car"}, {1: "#00c853", 2: "#2979ff"})
    map_hw = np.zeros((4, 4), np.uint8)
    map_hw[0] = 1
    watched.shares.add(map_hw, clock.now)
    watched.preview.offer(make_picture(width=64, height=48), 1.0)
    content = Status(clock=clock).content()
    text = json.dumps(content)
    assert "anna" not in text
    assert "s3cret" not in text
    (door,) = content["streams"]
    (person,) = door.pop("shares")["classes"]
    assert len(person["points"]) == 60
    assert person["points"][-1] == 0.25
    assert {key: person[key] for key in ("index", "label", "color", "share")} == {
        "index": 1, "label": "person", "color": "#00c853", "share": 0.25,
    }  # fmt: skip
    assert door == {
        "stream": "door",
        "state": "up",
        "is_late": False,
        "last_error": "rtsp://***@camera/1 timed out",
        "fps_in": None,
        "fps_out": None,
        "latency_ms": None,
        "frames_in": 120,
        "frames_out": 100,
        "dropped": 8,
        "dropped_for": {"late": 4, "closed": 4},
        "reconnects": 2,
        "restarts": 0,
        "last_frame_age_seconds": 0.25,
        "outputs": [],
        "size": (64, 48),
    }


def test_rates_are_those_of_the_last_seconds() -> None:
    clock, counts = Clock(), metrics.open_stream("door")
    status = Status(clock=clock)
    counts.frames_in, counts.frames_out = 10_000, 9_000
    found = []
    for second in range(20):
        stream = only(status)
        found.append((stream["fps_in"], stream["fps_out"]))
        fps = 25 if second < 10 else 5
        clock.now += 1.0
        counts.frames_in += fps
        counts.frames_out += fps - 1
    assert found[0] == (None, None)
    assert found[1:11] == [(25.0, 24.0)] * 10
    assert found[16:] == [(5.0, 4.0)] * 4
    assert 5.0 < found[13][0] < 25.0


def test_many_who_ask_do_not_shorten_the_time_that_rates_are_of() -> None:
    clock, counts = Clock(), metrics.open_stream("door")
    status = Status(clock=clock)
    for _ in range(1000):
        clock.now += 0.02
        counts.frames_out += 1
        fps = only(status)["fps_out"]
    assert fps == pytest.approx(50.0, abs=0.1)
    assert len(status._rates["door"]._taken) <= 12
    clock.now += 3600.0
    assert only(status)["fps_out"] is None, "an hour in which nobody looked"


def test_rates_begin_anew_with_the_stream() -> None:
    clock = Clock()
    status = Status(clock=clock)
    metrics.open_stream("door").frames_out = 5000
    only(status)
    clock.now += 1.0
    counts = metrics.open_stream("door")
    counts.frames_out = 10
    assert only(status)["fps_out"] is None
    clock.now += 1.0
    counts.frames_out = 20
    assert only(status)["fps_out"] == 10.0


def test_latency_is_of_the_last_frames_from_their_arrival() -> None:
    clock = Clock()
    source = metrics.open_stream("door", "source")
    metrics.open_stream("door")
    watched = streams.open_stream("door", {}, {})
    status = Status(clock=clock)
    source.state = "up"
    source.took("queue", 0.5)
    watched._seconds.extend([0.02, 0.04])
    only(status)
    for _ in range(5):
        clock.now += 1.0
        source.took("queue", 0.01)
    assert only(status)["latency_ms"] == pytest.approx(40.0), "10 ms of the last seconds, not 500 of before"
    sink = metrics.open_stream("door", "sink")
    sink.took("end_to_end", 0.125)
    assert only(status)["latency_ms"] == pytest.approx(125.0), "of the whole way, where that is seen"
    source.state = "away"
    assert only(status)["latency_ms"] is None


def test_outputs_of_a_sink() -> None:
    sink = metrics.open_stream("door", "sink")
    sink.outputs.append(metrics.OutputMetrics("rtmp://a:b@host/live", "rtmp", "away", packets_dropped=7, reconnects=1))
    sink.outputs[0].last_error = "rtmp://a:b@host/live: refused"
    assert only(Status())["outputs"] == [
        {
            "kind": "rtmp",
            "name": "rtmp://***@host/live",
            "state": "away",
            "packets_dropped": 7,
            "reconnects": 1,
            "last_error": "rtmp://***@host/live: refused",
        }
    ]


@pytest.mark.parametrize(
    ("state", "age", "is_late"), [("up", 1.0, False), ("up", 3.1, True), ("away", 60.0, False), ("up", None, False)]
)
def test_a_stream_that_is_up_and_gives_nothing_is_late(state: Any, age: float | None, is_late: bool) -> None:
    clock, counts = Clock(), metrics.open_stream("door", "source")
    counts.state = state
    counts.last_frame_at = None if age is None else clock.now - age
    assert only(Status(late_seconds=3.0, clock=clock))["is_late"] is is_late


@pytest.mark.parametrize(
    ("of_feed", "of_stream", "shown"),
    [
        ("running", "up", "up"),
        ("running", "away", "away"),
        ("starting", None, "connecting"),
        ("restarting", "up", "away"),
        ("stuck", "up", "away"),
        ("failed", "up", "ended"),
        ("ended", None, "ended"),
        ("stopped", "up", "ended"),
    ],
)
def test_what_a_supervisor_knows_counts_where_the_graph_does_not_run(of_feed: Any, of_stream: Any, shown: str) -> None:
    feed = feed_states.open_feed("front door", ("door",))
    feed.state, feed.reason, feed.restarts = of_feed, "http://a:b@c/ gave up", 3
    metrics.open_stream("door", "source").state = of_stream
    stream = only(Status())
    assert stream["state"] == shown
    assert stream["restarts"] == 3
    is_running = of_feed in ("running", "starting")
    assert stream["last_error"] == ("" if is_running else "http://***@c/ gave up")


def test_those_that_should_run_come_first_and_labels_differ() -> None:
    for name in ("zoo", "rtsp://a:1@cam/", "rtsp://b:2@cam/"):
        metrics.open_stream(name)
    status = Status(lambda: ["zoo", "yard", "zoo"])
    assert status.names() == {
        "zoo": "zoo",
        "yard": "yard",
        "rtsp://***@cam/": "rtsp://a:1@cam/",
        "rtsp://***@cam/ #2": "rtsp://b:2@cam/",
    }
    assert [one["stream"] for one in status.content()["streams"]] == list(status.names())


def test_many_classes_are_a_few_and_others() -> None:
    clock, labels = Clock(), {index: f"class {index}" for index in range(20)}
    metrics.open_stream("door")
    watched = streams.open_stream("door", labels, dict.fromkeys(labels, "#123456"))
    watched.shares.add(np.repeat(np.arange(20, dtype=np.uint8), np.arange(1, 21)).reshape(-1, 1), clock.now)
    shares = only(Status(clock=clock))["shares"]
    assert [one["index"] for one in shares["classes"]] == [14, 15, 16, 17, 18, 19]
    assert sum(one["share"] for one in shares["classes"]) + shares["others"]["share"] == pytest.approx(1.0, abs=0.001)
    assert shares["others"]["points"][-1] == shares["others"]["share"]
