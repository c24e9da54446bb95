"""Playlists of LiveSink, and outputs that do not disturb each other."""

from __future__ import annotations

import functools
import itertools
import shutil
import signal
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import av.error
import browser
import pytest
import rtsp
from sink_runs import (
    file_output,
    files,
    hls_output,
    in_a_process,
    numbers,
    running,
    segments,
    sink_graph,
    until,
)

# --- HLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mpegts", "fmp4"])
def test_the_playlist_names_segments_that_play(clip: Path, tmp_path: Path, kind: str) -> None:
    output = hls_output(tmp_path, segment_seconds=1, list_size=0, segment_type=kind)
    with running("hls", str(clip), [output], sound=True) as run:
        run.ends()
    playlist = tmp_path / "index.m3u8"
    found = segments(playlist)
    assert [length for _, length in found] == pytest.approx([1.0, 1.0, 1.0], abs=0.05)
    assert playlist.read_text().endswith("#EXT-X-ENDLIST\n")
    assert numbers(playlist) == list(range(75))
    if kind == "mpegts":
        assert list(itertools.chain(*(numbers(path) for path, _ in found))) == list(range(75))
        assert all(len(numbers(path)) == 25 for path, _ in found)
    with av.open(str(playlist)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is one")
@pytest.mark.parametrize("kind", ["mpegts", "fmp4"])
def test_a_browser_plays_it_to_its_end(clip: Path, tmp_path: Path, kind: str) -> None:
    output = hls_output(tmp_path, segment_seconds=1, list_size=0, segment_type=kind)
    with running("played", str(clip), [output], sound=True) as run:
        run.ends()
    (tmp_path / "page.html").write_text('<video src="index.m3u8" muted autoplay></video>')
    answer = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server, browser.Browser() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            page.open(f"http://127.0.0.1:{server.server_port}/page.html")
            page.until("document.querySelector('video')?.ended || document.querySelector('video')?.error")
            video = "document.querySelector('video')"
            shown = page.ask(f"[{video}.error && {video}.error.message, {video}.videoWidth, {video}.currentTime]")
        finally:
            server.shutdown()
    assert shown == [None, rtsp.SIZE_WH[0], pytest.approx(3.0, abs=0.2)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_segments_that_have_left_the_playlist_are_deleted(clip: Path, long_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.ts").write_text("not ours")
    with running("moving", str(long_clip), [hls_output(tmp_path, segment_seconds=1, list_size=2)]) as run:
        run.gets(130)
        run.stop()
    listed = {path.name for path, _ in segments(tmp_path / "index.m3u8")}
    assert len(listed) == 2
    stored = {path.name for path in tmp_path.glob("segment*.ts")}
    assert listed <= stored
    assert len(stored) <= 4, "FFmpeg keeps one more for players that are late, and the one that was written at the end"
    with running("again", str(clip), [hls_output(tmp_path, segment_seconds=1, list_size=0)]) as run:
        run.ends()
    assert {path.name for path in tmp_path.glob("segment*.ts")}.isdisjoint(stored), "what was left is gone"
    assert (tmp_path / "mine.ts").exists()


# --- outputs do not disturb each other -------------------------------------------------------------------------------


def test_a_folder_that_goes_and_comes_back(long_clip: Path, tmp_path: Path) -> None:
    outputs = [
        hls_output(tmp_path / "hls", segment_seconds=1),
        file_output(tmp_path / "gone", segment_seconds=1),
        file_output(tmp_path / "files"),
    ]
    with running("moved", str(long_clip), outputs) as run:
        run.gets(30)
        for name in ("hls", "gone"):
            shutil.rmtree(tmp_path / name)
            (tmp_path / name).write_text("in the way")
        until(lambda: all(run.outputs[index].state == "away" for index in (0, 1)))
        for name in ("hls", "gone"):
            (tmp_path / name).unlink()
        (tmp_path / "gone").mkdir()
        until(lambda: all(run.outputs[index].reconnects == 1 for index in (0, 1)))
        run.gets(40)
        run.stop()
    assert numbers(*files(tmp_path / "files")) == list(range(run.counts.frames_in))
    assert run.outputs[2].packets_dropped == 0
    assert files(tmp_path / "gone")
    assert (tmp_path / "hls" / "index.m3u8").exists()


def test_a_full_disk_is_told_once_and_tried_again(long_clip: Path, tmp_path: Path) -> None:
    outputs = [
        file_output(tmp_path / "large", segment_seconds=600),
        file_output(tmp_path / "small", "mkv", segment_seconds=1),
    ]
    graph = sink_graph("full", str(long_clip), outputs, sink_gop_seconds=0.4)
    with in_a_process(graph, tmp_path / "log", largest_file=8_000) as process:
        until(lambda: len(files(tmp_path / "large")) >= 2, 25)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=8)
    log = (tmp_path / "log").read_text()
    assert "door.mp4': away: [Errno 27] File too large" in log
    assert log.count("away: ") - log.count("back") <= 1
    small = list(itertools.chain(*(numbers(path) for path in files(tmp_path / "small"))))
    assert small == list(range(len(small)))
    large = [numbers(path, is_whole=False) for path in files(tmp_path / "large")]
    assert all(part and part == list(range(part[0], part[0] + len(part))) for part in large), "as far as they go"
