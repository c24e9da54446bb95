"""Servers that LiveSink sends to, and that come and go."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import av.error
import pytest
import rtsp
from sink_runs import (
    Camera,
    Listener,
    Running,
    file_output,
    files,
    numbers,
    push_output,
    running,
    sink_graph,
    until,
)

from bmf_trt_seg.errors import StreamError


def test_rtmp_server_that_is_killed_and_started_again(long_clip: Path, tmp_path: Path) -> None:
    port = rtsp.free_port()
    outputs = [push_output(f"rtmp://127.0.0.1:{port}/live/door"), file_output(tmp_path / "files")]
    first = Listener(port, tmp_path / "first.mkv")
    with running("pushed", str(long_clip), outputs, sound=True, sink_gop_seconds=0.4) as run:
        push = run.outputs[0]
        until(lambda: first.file.exists() and first.file.stat().st_size > 8_000, 15)
        assert push.state == "up"
        first.kill()
        until(lambda: push.state == "away")
        assert push.last_error
        second = Listener(port, tmp_path / "second.mkv")
        until(lambda: second.file.exists() and second.file.stat().st_size > 8_000, 15)
        assert push.state == "up"
        assert push.reconnects == 1
        run.stop()
        second.process.wait(5)
    for server in (first, second):
        found = numbers(server.file)
        assert len(found) > 5
        assert found == list(range(found[0], found[0] + len(found))), "from a key frame on, and whole"
    with av.open(str(second.file)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert numbers(*files(tmp_path / "files")) == list(range(run.counts.frames_in)), "the other output lost nothing"
    assert push.packets_dropped > 0
    assert run.outputs[1].packets_dropped == 0


def test_rtsp_server_that_is_killed_and_started_again(camera: Camera, long_clip: Path, tmp_path: Path) -> None:
    server = camera(record=tmp_path / "first.h264")
    with running("announced", str(long_clip), [push_output(server.url)], sink_gop_seconds=0.4) as run:
        push = run.outputs[0]
        until(lambda: push.packets_out > 30, 15)
        server.kill()
        shutil.copy(tmp_path / "first.h264", tmp_path / "before.h264")
        until(lambda: push.state == "away")
        server.start()
        until(lambda: push.reconnects == 1, 10)
        run.gets(25)
        run.stop()
    server.kill()
    for name in ("before.h264", "first.h264"):
        found = numbers(tmp_path / name)
        assert len(found) > 10
        assert found == list(range(found[0], found[0] + len(found)))


def test_what_this_ffmpeg_cannot_send_is_told_before_the_first_frame(tmp_path: Path) -> None:
    try:
        av.open("srt://")
    except av.error.ProtocolNotFoundError:
        run = Running("srt", sink_graph("srt", str(tmp_path), [push_output("srt://anna:s3cret@127.0.0.1:1")]))
        run.ends()
        assert isinstance(run.failure, StreamError)
        assert "'srt://***@127.0.0.1:1' cannot be sent to" in str(run.failure)
    except av.error.FFmpegError:
        pytest.skip("this FFmpeg has SRT")


@pytest.mark.parametrize("scheme", ["rtmp", "rtsp", "tcp"])
def test_a_server_that_says_nothing_holds_up_nobody(long_clip: Path, tmp_path: Path, scheme: str) -> None:
    with rtsp.odd_peer("silent") as port:
        outputs = [
            push_output(f"{scheme}://anna:s3cret@127.0.0.1:{port}/live", connect_timeout=60, write_timeout=60),
            file_output(tmp_path),
        ]
        with running("silent", str(long_clip), outputs) as run:
            run.gets(40)
            assert run.stop() < (4.0 if scheme == "tcp" else 2.5), "what is not open is not waited for"
    assert run.counts.stages["encode"].total < 2.0
    assert numbers(*files(tmp_path)) == list(range(run.counts.frames_in))
    push = run.outputs[0]
    assert push.packets_out == 0 or scheme == "tcp"


def test_time_outs_are_kept_and_told(long_clip: Path) -> None:
    with rtsp.odd_peer("silent") as port:
        url = f"rtmp://127.0.0.1:{port}/live"
        with running("patient", str(long_clip), [push_output(url, connect_timeout=0.4)]) as run:
            until(lambda: run.outputs[0].state == "away")
            assert "0.4 s" in run.outputs[0].last_error
            run.stop()


def test_addresses_are_told_without_the_password(
    long_clip: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    port = rtsp.free_port()
    urls = [f"{scheme}://anna:s3cret@127.0.0.1:{port}/live?token=s3cret" for scheme in ("rtmp", "rtsp", "http")]
    with running("secret", str(long_clip), [push_output(url) for url in urls]) as run:
        until(lambda: all(output.last_error for output in run.outputs), 15)
        run.stop()
    captured = capfd.readouterr()
    for text in (caplog.text, repr(run.outputs), captured.out, captured.err):
        assert "s3cret" not in text
        assert "anna" not in text
    assert "127.0.0.1" in caplog.text
    assert all("refused" in output.last_error.lower() for output in run.outputs), run.outputs
