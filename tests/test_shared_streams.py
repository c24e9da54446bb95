"""Several graphs in one process, one network: the same pictures as with a network each."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bmf.hmp as hmp
import clips
import jobs
import numpy as np
import pytest
from bmf import Packet, Task, Timestamp, VideoFrame
from bmf.lib._bmf.sdk import Rational

from bmf_trt_seg.backends.fair_queue import FairQueue
from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.backends.shared import SharedCounts, shared_counts
from bmf_trt_seg.errors import EngineError
from bmf_trt_seg.module import SegmentModule

WIDTH, HEIGHT = clips.SIZE_WH


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that ONNX Runtime has run, after a 0 for each network that it has loaded."""
    log: list[int] = []
    open_, run = OnnxRuntimeBackend._open, OnnxRuntimeBackend._run
    monkeypatch.setattr(OnnxRuntimeBackend, "_open", lambda self: (log.append(0), open_(self))[1])
    monkeypatch.setattr(OnnxRuntimeBackend, "_run", lambda self, batch: (log.append(len(batch)), run(self, batch))[1])
    return log


def feed(name: str, model: Path, **options: Any) -> SegmentModule:
    return SegmentModule(0, {"model": str(model), "output": "mask", "shared": True, "name": name, **options})


def put(module: SegmentModule, number: int) -> list[clips.Plane]:
    """Lumas of the frames that leave when this one comes; 235 where the box is."""
    frame = VideoFrame(hmp.Frame(WIDTH, HEIGHT, hmp.PixelInfo(hmp.kPF_YUV420P, hmp.kCS_BT470BG, hmp.kCR_MPEG)))
    planes = [frame.frame().plane(index).numpy() for index in range(3)]
    planes[0][..., 0] = clips.luma(number, WIDTH, HEIGHT)
    for plane in planes[1:]:
        plane[...] = 128
    frame.pts, frame.time_base = number, Rational(1, 25)
    packet = Packet(frame)
    packet.timestamp = number
    task = Task(0, [0], [0])
    task.get_inputs()[0].put(packet)
    module.process(task)
    queue, lumas = task.get_outputs()[0], []
    while not queue.empty():
        gone = queue.get()
        assert gone.timestamp != Timestamp.EOF
        lumas.append(gone.get(VideoFrame).frame().plane(0).numpy()[..., 0].copy())
    return lumas


def is_box(lumas: list[clips.Plane], number: int) -> bool:
    return len(lumas) == 1 and bool(((lumas[0] == 235) == clips.box_mask(number, WIDTH, HEIGHT)).all())


OPTIONS: list[dict[str, Any]] = [
    {},
    {"style": "contour", "interval": 3},
    {"output": "mask", "smoothing": 0.5},
    {"style": "blur", "threshold": 0.4, "legend": True},
]


@pytest.mark.parametrize("max_latency_ms", [0, 1000])
def test_four_graphs_share_a_network_and_give_what_they_gave_alone(
    bright: Path, tmp_path: Path, loaded: list[int], max_latency_ms: int
) -> None:
    sources = [
        clips.write_clip(
            tmp_path / f"{index}.mp4", frames=24 + index, numbers=range(100 * index, 100 * index + 24 + index)
        )
        for index in range(4)
    ]

    def run(index: int, kind: str, **options: Any) -> tuple[Path, list[dict[str, Any]]]:
        target, records = tmp_path / f"{kind}{index}.mp4", tmp_path / f"{kind}{index}.jsonl"
        name = f"{kind}{index}"
        jobs.segment(sources[index], target, bright, records=records, name=name, **OPTIONS[index], **options)
        return target, jobs.read_records(records)

    alone = [run(index, "alone") for index in range(4)]
    assert loaded.count(0) == 4
    loaded.clear()
    keeper = feed("keeper", bright, batch_size=4)  # stands still all the time
    with ThreadPoolExecutor(4) as pool:
        shared = list(
            pool.map(
                lambda index: run(index, "shared", shared=True, batch_size=4, max_latency_ms=max_latency_ms), range(4)
            )
        )
    assert loaded.count(0) == 1
    if max_latency_ms:
        assert max(loaded) > 1, "no two streams met in a batch"
    (counts,) = shared_counts()
    assert counts.waiting == (("keeper", 0),)
    assert counts.pictures == sum(loaded)
    keeper.close()
    assert shared_counts() == []
    for (video, records), (other_video, other_records) in zip(alone, shared, strict=True):
        assert records == other_records
        frames, others = clips.read_clip(video), clips.read_clip(other_video)
        assert len(frames) == len(others) >= 24
        for one, other in zip(frames, others, strict=True):
            for plane, other_plane in zip(one.planes, other.planes, strict=True):
                np.testing.assert_array_equal(plane, other_plane)


def test_frames_leave_as_they_come_whatever_the_size_of_common_batches(bright: Path) -> None:
    module = feed("camera", bright, batch_size=8, max_latency_ms=60_000, interval=2)
    for number in range(6):
        assert is_box(put(module, number), number - number % 2)
    module.close()


def test_feeds_wait_for_each_other(bright: Path, loaded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """For a minute, if it had to: the black picture of the second goes with the first frame of the first."""
    first = feed("first", bright, batch_size=8, max_latency_ms=60_000)
    arrived, put_ = threading.Event(), FairQueue.put
    monkeypatch.setattr(FairQueue, "put", lambda *args: (put_(*args), arrived.set())[0])
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(feed, "second", bright, batch_size=8, max_latency_ms=60_000)
        assert arrived.wait(30)
        assert is_box(put(first, 5), 5)
        second = opening.result(30)
    assert loaded == [0, 1, 2]
    second.close()
    first.close()


def test_a_stream_that_fails_ends_alone(bright: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, healthy = feed("broken", bright), feed("healthy", bright)
    assert is_box(put(broken, 0), 0)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise EngineError("no more")

        patch.setattr(OnnxRuntimeBackend, "_run", fail)
        with pytest.raises(EngineError, match="no more"):
            put(broken, 1)
    assert counts_of_only().waiting == (("healthy", 0),)
    assert is_box(put(healthy, 3), 3)
    healthy.close()
    assert shared_counts() == []


def counts_of_only() -> SharedCounts:
    (counts,) = shared_counts()
    return counts


def test_feeds_of_different_sizes_share_a_network(bright: Path, tmp_path: Path) -> None:
    """What they share are batches in the size of the network's input."""
    source = clips.write_clip(tmp_path / "large.mp4", frames=5, size_wh=(320, 180))
    module = feed("small", bright)
    jobs.segment(source, tmp_path / "out.mp4", bright, shared=True, output="mask")
    assert is_box(put(module, 7), 7)
    assert counts_of_only().pictures == 5 + 1 + 2  # each stream is tried with a black picture
    module.close()


def test_the_stream_says_that_it_shares(bright: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "bmf_trt_seg"):
        feed("camera 7", bright, batch_size=8).close()
    assert caplog.messages == [
        "stream 'camera 7': bright.onnx, onnxruntime on the CPU, 1 thread, shared by 1 stream in batches of up to 8"
    ]
