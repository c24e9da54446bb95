"""Memory stays flat however long a video is."""

from __future__ import annotations

import gc
from pathlib import Path

import clips
import psutil
import pytest
from jobs import segment

from bmf_trt_seg import metrics, module
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video

MIB = 1 << 20


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=2000, crf=30)


def test_2000_frames_in_flat_memory(
    long_clip: Path, tmp_path: Path, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame of 160x90 is 21 KiB, so keeping each would be seen three times over."""
    process = psutil.Process()
    seen: list[tuple[int, int]] = []

    class Watched(metrics.StreamMetrics):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "frames_out" and isinstance(value, int) and value % 100 == 0 and value:
                seen.append((value, process.memory_info().rss))

    monkeypatch.setattr(metrics, "StreamMetrics", Watched)
    options = SegmentOptions(model=str(bright), batch_size=2, interval=2, style="blur", legend=True)
    job = VideoJob(long_clip, tmp_path / "out.mp4", options, Encoding(preset="ultrafast", crf=35), tmp_path / "r.jsonl")
    assert segment_video(job).frames == 2000
    by_frame = dict(seen)
    assert set(by_frame) == set(range(100, 2001, 100))
    assert by_frame[2000] - by_frame[500] < 10 * MIB
    assert sum(1 for thing in gc.get_objects() if type(thing) is module._Waiting) == 0


def test_many_videos_in_one_process(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    process = psutil.Process()
    sizes, threads = [], []
    for _ in range(30):
        segment(plain_clip, tmp_path / "out.mp4", bright)
        sizes.append(process.memory_info().rss)
        threads.append(process.num_threads())
    assert sizes[-1] - sizes[9] < 10 * MIB
    assert threads[-1] <= threads[9]
    assert process.num_fds() < 100
