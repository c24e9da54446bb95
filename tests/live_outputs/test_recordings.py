"""Recordings of LiveSink: whole, in pieces, left behind, deleted."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import av
import av.error
import beeps
import pytest
import rtsp
from sink_runs import (
    Camera,
    Running,
    file_output,
    files,
    hidden,
    hls_output,
    in_a_process,
    numbers,
    push_output,
    running,
    segments,
    sink_graph,
    until,
)

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import StreamError


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_every_frame_is_in_one_of_the_files(clip: Path, tmp_path: Path, ending: str) -> None:
    with running("files", str(clip), [file_output(tmp_path, ending, segment_seconds=1)]) as run:
        run.ends()
    assert run.failure is None
    run.check_accounts()
    assert run.counts.frames_in == run.counts.frames_out == 75
    found = [numbers(path) for path in files(tmp_path)]
    assert [len(part) for part in found] == [25, 25, 25]
    assert list(itertools.chain(*found)) == list(range(75))
    assert hidden(tmp_path) == []


def test_each_file_begins_at_its_own_zero_with_a_key_frame(clip: Path, tmp_path: Path) -> None:
    with running("zero", str(clip), [file_output(tmp_path, segment_seconds=1)], sink_gop_seconds=0.4) as run:
        run.ends()
    for path in files(tmp_path):
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            assert [packet.is_keyframe for packet in packets] == [index % 10 == 0 for index in range(25)]
            times = [float(packet.pts * packet.time_base) for packet in packets]
            assert times == pytest.approx([index / beeps.RATE for index in range(25)], abs=1e-4)


def test_a_stop_in_the_middle_of_a_file_completes_it(long_clip: Path, tmp_path: Path) -> None:
    outputs = [file_output(tmp_path / "files"), hls_output(tmp_path / "hls", segment_seconds=1)]
    with running("stopped", str(long_clip), outputs, sound=True) as run:
        run.gets(30)
        assert run.stop() < 3.0
    (path,) = files(tmp_path / "files")
    assert numbers(path) == list(range(run.counts.frames_in))
    assert hidden(tmp_path / "files") == []
    assert (tmp_path / "hls" / "index.m3u8").read_text().endswith("#EXT-X-ENDLIST\n")
    assert sum(len(numbers(part)) for part, _ in segments(tmp_path / "hls" / "index.m3u8")) == run.counts.frames_in


def test_sigterm_completes_everything(long_clip: Path, tmp_path: Path) -> None:
    outputs = [file_output(tmp_path / "files", "mkv"), hls_output(tmp_path / "hls")]
    with in_a_process(sink_graph("terminated", str(long_clip), outputs)) as process:
        until(lambda: (tmp_path / "hls" / "index.m3u8").exists(), 20)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=8)[1]
    assert "GraphStopped: stopped by SIGTERM" in error
    assert process.returncode == 1
    (path,) = files(tmp_path / "files")
    found = numbers(path)
    assert len(found) > 40
    assert found == list(range(len(found)))
    assert hidden(tmp_path / "files") == []
    assert "#EXT-X-ENDLIST" in (tmp_path / "hls" / "index.m3u8").read_text()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_killed_process_leaves_a_file_that_plays_and_gets_its_name_later(
    clip: Path, long_clip: Path, tmp_path: Path, ending: str
) -> None:
    graph = sink_graph("killed", str(long_clip), [file_output(tmp_path, ending)], sink_gop_seconds=0.4)
    with in_a_process(graph) as process:
        until(lambda: [path for path in hidden(tmp_path) if len(numbers(path, is_whole=False)) >= 30], 20)
        process.kill()
        process.wait()
    (left,) = hidden(tmp_path)
    found = numbers(left, is_whole=False)
    assert len(found) >= 30
    assert found == list(range(len(found)))
    with running("next", str(clip), [file_output(tmp_path, ending)]) as run:
        run.ends()
    rescued, new = files(tmp_path)
    assert numbers(rescued, is_whole=False) == found
    assert len(numbers(new)) == 75
    assert hidden(tmp_path) == []


def test_a_file_that_another_process_writes_is_left_alone(clip: Path, long_clip: Path, tmp_path: Path) -> None:
    with running("first", str(long_clip), [file_output(tmp_path, segment_seconds=600)]) as first:
        until(lambda: hidden(tmp_path))
        (writing,) = hidden(tmp_path)
        graph = sink_graph("second", str(clip), [file_output(tmp_path)])
        with in_a_process(graph) as process:
            process.communicate(timeout=20)
        assert writing.exists()
        first.stop()
    assert sorted(len(numbers(path)) for path in files(tmp_path)) == [75, first.counts.frames_in]


def test_only_the_newest_files_are_kept(clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "door-of-the-house.mp4"
    other.write_text("not ours")
    (tmp_path / "door-20200101T000000.mp4").write_text("from an earlier run")
    with running("kept", str(clip), [file_output(tmp_path, segment_seconds=1, keep_segments=2)]) as run:
        run.ends()
    assert [numbers(path)[0] for path in files(tmp_path, "door-2*")] == [25, 50]
    assert other.exists()


def test_old_files_are_deleted(clip: Path, tmp_path: Path) -> None:
    old = tmp_path / "door-20200101T000000.mp4"
    old.write_text("old")
    with running("young", str(clip), [file_output(tmp_path, segment_seconds=1, keep_seconds=3600)]) as run:
        run.ends()
    assert not old.exists()
    assert len(files(tmp_path)) == 3


def test_a_folder_that_cannot_be_is_told_before_the_first_frame(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for output in (file_output(tmp_path / "taken" / "x"), hls_output(tmp_path / "taken")):
        run = Running("nowhere", sink_graph("nowhere", str(clip), [output]))
        run.ends()
        assert isinstance(run.failure, StreamError)
        assert "cannot be made" in str(run.failure)
        assert str(tmp_path / "taken") in str(run.failure)
        assert "\n" not in str(run.failure)
        assert metrics.stream("nowhere", "sink") is None


def test_a_camera_that_never_comes_leaves_nothing(tmp_path: Path) -> None:
    outputs = [file_output(tmp_path / "files"), hls_output(tmp_path / "hls"), push_output("rtmp://127.0.0.1:1/x")]
    with running("never", f"rtsp://127.0.0.1:{rtsp.free_port()}/x", outputs, sound=True) as run:
        source = metrics.stream("never", "source")
        assert source is not None
        until(lambda: source.last_error)
        assert run.stop() < 2.0
    assert run.counts.frames_in == 0
    assert list((tmp_path / "files").iterdir()) == list((tmp_path / "hls").iterdir()) == []


def test_a_camera_that_is_given_up_leaves_whole_files(camera: Camera, tmp_path: Path) -> None:
    server = camera()
    with running("given up", server.url, [file_output(tmp_path)], max_retries=0) as run:
        run.gets(30)
        server.kill()
        run.ends()
        assert isinstance(run.failure, StreamError)
        until(lambda: files(tmp_path))
    assert numbers(*files(tmp_path)) == list(range(run.counts.frames_in))
    assert hidden(tmp_path) == []
