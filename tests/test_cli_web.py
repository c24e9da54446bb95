"""`run --web`: a real graph, asked while it runs."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clips
import pytest
import rtsp
from commands import Cli, runner
from prometheus_client.parser import text_string_to_metric_families
from web_runs import ask, live_graph, running, until

from bmf_trt_seg import metrics
from bmf_trt_seg.cli.web import add_pages
from bmf_trt_seg.health import Health
from bmf_trt_seg.http_server import HttpServer
from bmf_trt_seg.prometheus import Exposition


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


def value(text: str, name: str, **labels: str) -> float | None:
    return next(
        (
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"bmf_trt_seg_{name}" and labels.items() <= sample.labels.items()
        ),
        None,
    )


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, which a live source plays in four seconds."""
    return clips.write_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=100)


def test_a_graph_is_scraped_while_it_runs(tmp_path: Path, bright: Path, long_clip: Path) -> None:
    graph = live_graph(tmp_path / "graph.json", str(long_clip), bright)
    with running(tmp_path, graph, "--log-format", "json") as run:
        early = until(lambda: (text := ask(f"{run.url}/metrics")[1]) and value(text, "frames_out_total") and text)
        assert value(early, "stream_up", stream="door") == 1
        status, text = ask(f"{run.url}/readyz")
        assert status == 200
        (door,) = json.loads(text)["streams"]
        assert (door["stream"], door["state"], door["ready"]) == ("door", "up", True)
        assert door["last_frame_age_seconds"] < 10
        assert ask(f"{run.url}/healthz")[0] == 200
        time.sleep(1.0)
        late = ask(f"{run.url}/metrics")[1]
        assert run.process.wait(30) == 0
    for name in ("frames_in_total", "frames_out_total", "frames_inferred_total"):
        assert 0 < (value(early, name, stream="door") or 0) < (value(late, name, stream="door") or 0) <= 100, name
    for stage in ("decode", "queue", "preprocess", "infer", "postprocess", "overlay"):
        count = value(late, "stage_seconds_count", stream="door", stage=stage)
        assert count, stage
        assert value(late, "stage_seconds_bucket", stream="door", stage=stage, le="+Inf") == count
    assert value(late, "batch_size_bucket", stream="door", le="1.0") == value(late, "frames_inferred_total")
    assert value(late, "reconnects_total", stream="door") == 0
    assert value(late, "frames_dropped_total", stream="door", reason="late") is not None
    said = [json.loads(line) for line in run.said().splitlines()]
    assert {one["stream"] for one in said if "stream" in one} == {"door"}
    assert said[0]["port"] == int(run.url.rpartition(":")[2])


def test_a_camera_that_goes_and_comes_back(tmp_path: Path, bright: Path) -> None:
    if rtsp.missing():
        pytest.skip(rtsp.missing())
    with rtsp.RtspServer(user="anna", password="s3cret", size_wh=clips.SIZE_WH) as camera:
        graph = live_graph(tmp_path / "graph.json", camera.url, bright, read_timeout=0.6, backoff=0.1, backoff_max=0.2)
        with running(tmp_path, graph, "--web-ready", "5", "--log-format", "json") as run:
            answers = []

            def ready(expected: int) -> Callable[[], dict[str, Any] | None]:
                def asked() -> dict[str, Any] | None:
                    status, text = ask(f"{run.url}/readyz")
                    answers.append(text)
                    return json.loads(text)["streams"][0] if status == expected else None

                return asked

            assert until(ready(200))["state"] == "up"
            camera.kill()
            gone = until(ready(503))
            assert gone["state"] == "away"
            assert gone["last_error"]
            text = ask(f"{run.url}/metrics")[1]
            answers.append(text)
            assert value(text, "stream_up", stream="door") == 0
            camera.start()
            assert until(ready(200))["state"] == "up"
            text = ask(f"{run.url}/metrics")[1]
            assert value(text, "reconnects_total", stream="door") == 1
            assert value(text, "stream_up", stream="door") == 1
            assert value(text, "frames_repeated_total", stream="door") > 0
        assert run.process.returncode == 1, "SIGTERM"
    said = [json.loads(line) for line in run.said().splitlines()]
    of_feed = [(one["stream"], one["state"]) for one in said if "state" in one]
    assert of_feed == [("door", "away"), ("door", "up")]
    for secret in ("anna", "s3cret"):
        assert secret not in run.said() + "".join(answers)


def test_a_token_from_the_environment(tmp_path: Path, bright: Path, long_clip: Path) -> None:
    graph = live_graph(tmp_path / "graph.json", str(long_clip), bright)
    with running(tmp_path, graph, web="0.0.0.0:0", BMF_TRT_SEG_WEB_TOKEN="s3cret") as run:
        url = run.url.replace("0.0.0.0", "127.0.0.1")
        for page in ("metrics", "healthz", "readyz", "nowhere"):
            assert ask(f"{url}/{page}")[0] == 401
        assert ask(f"{url}/healthz", "s3cret")[0] == 200
        assert ask(f"{url}/healthz?token=s3cret")[0] == 200
    assert "s3cret" not in run.said()


def test_a_stop_is_not_kept_waiting_by_clients(tmp_path: Path, bright: Path, long_clip: Path) -> None:
    import socket

    graph = live_graph(tmp_path / "graph.json", str(long_clip), bright)
    with running(tmp_path, graph) as run:
        host, _, port = run.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as idle:
            until(lambda: value(ask(f"{run.url}/metrics")[1], "frames_out_total"))
            idle.sendall(b"GET /")
            begin = time.monotonic()
            run.process.send_signal(signal.SIGTERM)
            assert run.process.wait(20) == 1
            assert time.monotonic() - begin < 10
    assert "Traceback" not in run.said()


# --- wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--web", "9090"], 2, "address '9090': expected HOST:PORT or :PORT"),
        (["--web", "0.0.0.0:0"], 2, "so a token is needed: --web-token, or BMF_TRT_SEG_WEB_TOKEN"),
        (["--web", ":0", "--web-token", "a b"], 2, "should be one word"),
        (["--web", ":0", "--web-ready", "0"], 2, "--web-ready"),
    ],
)
def test_what_cannot_be_served_ends_it(
    cli: Cli, tmp_path: Path, bright: Path, long_clip: Path, flags: list[str], code: int, message: str
) -> None:
    ended = cli("run", live_graph(tmp_path / "graph.json", str(long_clip), bright), *flags)
    assert ended.code == code
    assert message in ended.err.splitlines()[-1]
    assert not (tmp_path / "graph.mkv").exists()


def test_a_port_in_use_ends_it(cli: Cli, tmp_path: Path, bright: Path, long_clip: Path) -> None:
    with HttpServer(":0") as other:
        ended = cli("run", live_graph(tmp_path / "graph.json", str(long_clip), bright), "--web", f":{other.port}")
        assert ended.code == 1
        assert ended.err == (f"bmf-trt-seg: the web server cannot listen on ':{other.port}': Address already in use\n")


def test_without_the_library_it_ends(
    cli: Cli, tmp_path: Path, bright: Path, long_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "prometheus_client", missing)
    ended = cli("run", live_graph(tmp_path / "graph.json", str(long_clip), bright), "--web", ":0")
    assert ended.code == 1
    assert ended.err == "bmf-trt-seg: metrics need prometheus-client: pip install prometheus-client\n"


# --- the pages, with a clock of the test --------------------------------------------------------------------------


def test_readiness_and_health_turn_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    now = [100.0]
    health = Health(["door"], ready_seconds=3.0, beat_seconds=5.0, clock=lambda: now[0])
    with HttpServer(":0") as server:
        add_pages(server, health, Exposition(lambda: health.streams))

        def statuses() -> tuple[int, int]:
            return ask(f"{server.url}/healthz")[0], ask(f"{server.url}/readyz")[0]

        assert statuses() == (200, 503)
        counts = metrics.open_stream("door", "source")
        counts.state, counts.last_frame_at = "up", 100.0
        health.beat()
        assert statuses() == (200, 200)
        now[0] = 104.0
        assert statuses() == (200, 503)
        assert json.loads(ask(f"{server.url}/readyz")[1])["streams"][0]["last_frame_age_seconds"] == 4.0
        now[0] = 106.0
        assert statuses() == (503, 503)
        counts.last_frame_at = 106.0
        assert statuses() == (503, 200)
        health.beat()
        assert statuses() == (200, 200)
        assert value(ask(f"{server.url}/metrics")[1], "stream_up", stream="door") == 1


def test_many_scrapes_at_a_time_while_frames_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    stop = threading.Event()

    def count() -> None:
        counts = metrics.open_stream("door")
        while not stop.is_set():
            with counts.at_work(), counts.stage("infer", frames=2):
                counts.frames_in += 2
                counts.frames_out += 2

    seen: list[list[float]] = []

    def scrape() -> None:
        mine = [value(ask(f"{server.url}/metrics")[1], "frames_out_total", stream="door") or 0.0 for _ in range(8)]
        seen.append(mine)

    with HttpServer(":0") as server:
        add_pages(server, Health(), Exposition())
        writer = threading.Thread(target=count)
        writer.start()
        until(lambda: metrics.stream("door"))
        readers = [threading.Thread(target=scrape) for _ in range(6)]
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join(60)
        stop.set()
        writer.join(10)
    assert len(seen) == 6
    for mine in seen:
        assert mine == sorted(mine)
        assert mine[0] < mine[-1]
