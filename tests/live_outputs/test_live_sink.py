"""LiveSink: its counts and options, and the graphs it is in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import rtsp
from sink_runs import (
    Camera,
    between,
    file_output,
    hls_output,
    push_output,
    running,
    running_graph,
    sink_graph,
)

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.graph import check_graph


def test_latency_is_measured_from_the_packets_arrival(camera: Camera, tmp_path: Path) -> None:
    with running("latency", camera().url, [file_output(tmp_path)]) as run:
        run.gets(30)
        run.stop()
    times = run.counts.stages["end_to_end"]
    assert sum(times.counts) == run.counts.frames_in
    assert 0 < times.total / run.counts.frames_in < 0.2
    (view,) = (view for view in metrics.views() if view.name == "latency")
    assert [part.role for part in view.parts] == ["source", "sink"]


def test_what_the_graph_takes_counts_towards_the_longest_latency(camera: Camera, tmp_path: Path) -> None:
    """Frames that would come too late at the encoder are dropped before they go into a graph that is too slow."""
    options = {"policy": "latest", "max_latency_ms": 400}
    module = {
        "name": "slow",
        "type": "python",
        "path": str(Path(__file__).parents[1]),
        "entry": "slow_module.SlowModule",
    }
    graph = between(sink_graph("late", camera().url, [file_output(tmp_path)], **options), module, {"seconds": 0.1})
    for node in graph["nodes"]:
        node["meta_info"] = {"queue_length_limit": 1}
    with running_graph("late", graph) as run:
        run.gets(40, 15)
        run.stop()
    times = run.counts.stages["end_to_end"]
    in_time = sum(count for bound, count in zip(times.bounds, times.counts, strict=False) if bound <= 0.5)
    assert in_time >= 0.7 * sum(times.counts), times.counts
    source = metrics.stream("late", "source")
    assert source is not None
    assert source.dropped_for["late"] > 20
    assert source.frames_in == run.counts.frames_in + source.dropped


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({}, "'outputs' should be a list"),
        ({"outputs": []}, "'outputs' should be a list"),
        ({"outputs": [{"kind": "tape"}]}, "output 1 should be an object with 'kind'"),
        ({"outputs": [{"kind": "file", "path": "a.avi"}]}, "ends in .mp4, .mkv or .ts"),
        ({"outputs": [{"kind": "hls", "path": "a"}, {"kind": "hls", "path": "./a"}]}, "the same path"),
        ({"outputs": [{"kind": "hls", "path": "a", "segmentseconds": 1}]}, "did you mean 'segment_seconds'"),
        ({"outputs": [{"kind": "push", "url": "ftp://anna:s3cret@host/x"}]}, "'url': got"),
        ({"outputs": [{"kind": "push", "url": "rtmp://anna:s3cret@host/x", "backof": 1}]}, "did you mean 'backoff'"),
        ({"outputs": [{"kind": "hls", "path": "a"}], "codec": "vp9"}, "'libx264'"),
        ({"outputs": [{"kind": "hls", "path": "a"}], "crf": 60}, "from 0 to 51"),
        ({"outputs": [{"kind": "hls", "path": "a"}], "preset": "quickest"}, "encoder libx264 cannot be opened"),
        ({"outputs": [{"kind": "hls", "path": "a"}], "encoder_options": {"tun": "x"}}, "libx264 has no option 'tun'"),
    ],
)
def test_wrong_options_are_refused(option: dict[str, Any], text: str) -> None:
    from bmf_trt_seg.live_sink import LiveSink

    with pytest.raises(ConfigError) as raised:
        LiveSink(0, option)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_graphs_are_checked(tmp_path: Path) -> None:
    graph = sink_graph("checked", "rtsp://host/x", [hls_output(tmp_path)], sound=True)
    graph["nodes"][1]["output_streams"] = [{"identifier": "more"}]
    (problem,) = check_graph(graph)
    assert "LiveSink has an input stream for pictures" in problem
    graph = sink_graph("checked", "rtsp://host/x", [hls_output(tmp_path)])
    graph["nodes"][1]["option"]["outputs"] = []
    (problem,) = check_graph(graph)
    assert "'outputs'" in problem


def is_child(process: Path) -> bool:
    try:
        return f"PPid:\t{os.getpid()}\n" in (process / "status").read_text()
    except OSError:  # it has just ended
        return False


def test_nothing_is_left_running(clip: Path) -> None:
    port = rtsp.free_port()
    with running("childless", str(clip), [push_output(f"rtmp://127.0.0.1:{port}/x")]) as run:
        run.ends()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if is_child(path.parent)]
    assert not [command for command in commands if b"pusher" in command]
