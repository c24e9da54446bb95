"""Sound of LiveSource in outputs of LiveSink."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import av.error
import beeps
import clips
import pytest
import rtsp
from sink_runs import (
    Camera,
    Listener,
    between,
    file_output,
    files,
    numbers,
    push_output,
    running,
    running_graph,
    sink_graph,
    until,
)

from bmf_trt_seg import metrics


@pytest.mark.parametrize(("codec", "made", "ending"), [
    ("aac", "aac", "mp4"), ("libopus", "opus", "mkv"), ("mp2", "mp2", "ts"), ("pcm_s16le", "aac", "mp4"),
])  # fmt: skip
def test_sound_is_taken_as_it_is_or_made_aac(tmp_path: Path, codec: str, made: str, ending: str) -> None:
    suffix = ".mov" if codec.startswith("pcm") else ".mp4"
    clip = beeps.write_clip(tmp_path / f"clip{suffix}", frames=75, codec=codec)
    with running("sound", str(clip), [file_output(tmp_path, ending)], sound=True) as run:
        run.ends()
    run.check_accounts()
    (path,) = files(tmp_path)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == made
    found = beeps.offsets([path])
    assert len(found) >= 3
    assert found == pytest.approx(beeps.offsets([clip])[: len(found)], abs=0.01)
    assert run.counts.sound_dropped == 0
    assert len(numbers(path)) == 75


@pytest.mark.parametrize("sound", ["alaw", "aac", "opus"])
def test_sound_keeps_to_the_pictures_over_a_reconnect(camera: Camera, tmp_path: Path, sound: str) -> None:
    server = camera(sound=sound)
    with running("steps", server.url, [file_output(tmp_path, "mkv")], sound=True, absence="hold") as run:
        run.gets(60)
        server.kill()
        source = metrics.stream("steps", "source")
        assert source is not None
        until(lambda: source.held > 10)
        server.start()
        until(lambda: source.reconnects == 1)
        run.gets(60)
        run.stop()
    found = beeps.offsets(files(tmp_path))
    assert len(found) >= 4
    assert all(abs(offset) < 0.08 for offset in found), found
    with av.open(str(files(tmp_path)[0])) as container:
        times = [float(packet.pts * packet.time_base) for packet in container.demux(audio=0) if packet.size]
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(step > 0 for step in steps)
    assert max(steps) > 0.3, "no sound while the camera is away"


def test_sound_keeps_to_the_pictures_where_frames_are_dropped(camera: Camera, tmp_path: Path) -> None:
    server = camera(sound="alaw")
    options = {"policy": "latest", "max_latency_ms": 100}
    graph = sink_graph("dropping", server.url, [file_output(tmp_path, "mkv")], sound=True, **options)
    module = {
        "name": "slow",
        "type": "python",
        "path": str(Path(__file__).parents[1]),
        "entry": "slow_module.SlowModule",
    }
    graph = between(graph, module, {"seconds": 0.06})
    graph["nodes"][1]["meta_info"] = {"queue_length_limit": 1}
    with running_graph("dropping", graph) as run:
        run.gets(70, 15)
        run.stop()
    source = metrics.stream("dropping", "source")
    assert source is not None
    assert source.dropped_for["late"] > 10
    found = beeps.offsets(files(tmp_path))
    assert len(found) >= 2
    assert all(abs(offset) < 0.08 for offset in found), found
    assert run.counts.sound_dropped == 0


def test_frames_go_through_a_network_and_sound_past_it(tmp_path: Path) -> None:
    clip = beeps.write_clip(tmp_path / "clip.mp4", frames=75)
    clips.bright_model(tmp_path / "bright.onnx")
    graph = sink_graph("drawn", str(clip), [file_output(tmp_path, "mkv")], sound=True)
    module = {"name": "segment", "entry": "bmf_trt_seg.module.SegmentModule"}
    options = {"model": str(tmp_path / "bright.onnx"), "name": "drawn", "batch_size": 4, "max_latency_ms": 200}
    with running_graph("drawn", between(graph, module, options)) as run:
        run.ends()
    assert run.failure is None
    run.check_accounts()
    (path,) = files(tmp_path)
    assert len(numbers(path)) == run.counts.frames_in == 75
    assert beeps.offsets([path]) == pytest.approx([0.0] * 3, abs=0.02)
    assert run.counts.sound_dropped == 0
    assert sum(run.counts.stages["end_to_end"].counts) == 75
    (view,) = (view for view in metrics.views() if view.name == "drawn")
    assert [part.role for part in view.parts] == ["source", "segment", "sink"]


def test_a_camera_without_sound(camera: Camera, tmp_path: Path) -> None:
    with running("mute", camera().url, [file_output(tmp_path)], sound=True) as run:
        run.gets(20)
        run.stop()
    with av.open(str(files(tmp_path)[0])) as container:
        assert not container.streams.audio
    assert len(numbers(*files(tmp_path))) == run.counts.frames_in


def test_sound_that_a_server_cannot_take_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = beeps.write_clip(tmp_path / "clip.ts", frames=200, codec="mp2")
    listener = Listener(rtsp.free_port(), tmp_path / "received.mkv")
    with running("unfit", str(clip), [push_output(listener.url)], sound=True, sink_gop_seconds=0.4) as run:
        until(lambda: listener.file.exists() and listener.file.stat().st_size > 4_000, 15)
        run.stop()
    listener.process.wait(5)
    assert len(numbers(listener.file)) > 2
    assert "no sound: 'flv' format does not support 'mp2" in caplog.text
    assert caplog.text.count("no sound") == 1


def test_sound_may_be_left_out(clip: Path, tmp_path: Path) -> None:
    with running("off", str(clip), [file_output(tmp_path)], sound=True, sink_sound="off") as run:
        run.ends()
    with av.open(str(files(tmp_path)[0])) as container:
        assert not container.streams.audio
