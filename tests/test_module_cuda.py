"""SegmentModule over an emulated GPU: batches in flight, their order, the end of the stream; and whole graphs."""

from __future__ import annotations

import gc

import clips
import jobs
import numpy as np
import pytest
from emulated_device import emulate
from test_module import Run, frame_packet, luma_of

from bmf_trt_seg.errors import EngineError


@pytest.fixture
def queues(monkeypatch):
    return emulate(monkeypatch)


def numbers(run):
    return [packet.timestamp // 40_000 for packet in run.frames]


def test_frames_leave_when_they_are_done(bright, queues):
    run = Run(model=str(bright), output="mask")
    for number in range(3):
        run.put(frame_packet(number))
        assert len(run.frames) == number + 1
    run.end()
    assert run.ended == [True]


def test_so_many_batches_are_in_flight(bright, queues):
    run = Run(outputs=2, model=str(bright), batch_size=2, max_in_flight=3, output="mask")
    queues[0].is_slow = True
    sent = []
    for number in range(12):
        run.put(frame_packet(number))
        sent.append(len(run.frames))
    assert sent == [0] * 7 + [2, 2, 4, 4, 6]  # a batch leaves when the fourth after it is submitted
    run.end()
    assert numbers(run) == list(range(12))
    assert [record.get(dict)["frame"] for record in run.records] == list(range(12))
    for number, packet in enumerate(run.frames):
        rows, columns = clips.box(number, *clips.SIZE_WH)
        drawn = luma_of(packet)
        assert drawn[rows, columns].mean() > 200
        assert drawn.mean() < 120
    assert run.ended == [True, True]


def test_held_frames_join_the_batch_that_is_on_its_way(bright, queues):
    run = Run(model=str(bright), batch_size=2, interval=3, max_in_flight=2)
    queues[0].is_slow = True
    sent = []
    for number in range(24):
        run.put(frame_packet(number))
        sent.append(len(run.frames))
    # batches end with frames 3, 9, 15, 21, and the first leaves with the third after it
    assert sent == [0] * 15 + [4] * 6 + [10] * 3
    run.end()
    assert numbers(run) == list(range(24))


def test_what_is_in_flight_is_waited_for_at_the_close(bright, queues):
    run = Run(model=str(bright), max_in_flight=4)
    queues[0].is_slow = True
    for number in range(3):
        run.put(frame_packet(number))
    before = queues[0].drained
    run.module.close()
    assert queues[0].drained == before + 1
    run.module.close()
    assert queues[0].drained == before + 1


def test_a_module_that_is_never_closed_waits_for_what_is_in_flight(bright, queues):
    run = Run(model=str(bright), max_in_flight=4)
    queues[0].is_slow = True
    for number in range(3):
        run.put(frame_packet(number))
    waits = queues[0].waits
    del run
    gc.collect()
    assert queues[0].waits == waits + 3


def test_live_frames_do_not_wait_for_the_next(bright, queues):
    run = Run(model=str(bright), batch_size=1, max_latency_ms=100)
    queues[0].is_slow = True
    for number in range(3):
        run.put(frame_packet(number))
        assert len(run.frames) == number + 1


def test_a_batch_that_does_not_fill_goes_in_time(bright, queues, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("bmf_trt_seg.module.time.monotonic", lambda: now[0])
    run = Run(model=str(bright), batch_size=8, max_latency_ms=100)
    counts = []
    for number in range(6):
        run.put(frame_packet(number))
        counts.append(len(run.frames))
        now[0] += 0.04
    assert counts == [0, 0, 0, 4, 4, 4]
    run.end()
    assert numbers(run) == list(range(6))


def test_a_failure_ends_the_stream(bright, queues):
    run = Run(model=str(bright), max_in_flight=1)
    queues[0].is_slow = True
    run.put(frame_packet(0))
    queues[0].failure = "CUDA error: unspecified launch failure"
    with pytest.raises(EngineError, match="failed on pictures on the GPU: CUDA error: unspecified launch failure"):
        run.put(frame_packet(1))
    with pytest.raises(EngineError):
        run.end()


@pytest.mark.parametrize("options", [{}, {"batch_size": 4, "style": "contour"}, {"interval": 3, "batch_size": 2}])
def test_whole_videos_as_on_the_cpu(bright, tmp_path, monkeypatch, options):
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=30, b_frames=2)
    jobs.segment(clip, tmp_path / "cpu.mp4", bright, records=tmp_path / "cpu.jsonl", **options)
    queues = emulate(monkeypatch)
    finished = jobs.segment(clip, tmp_path / "gpu.mp4", bright, records=tmp_path / "gpu.jsonl", **options)
    assert finished.frames == 30
    assert queues[0].upload_count
    assert clips.times(tmp_path / "gpu.mp4") == clips.times(clip)
    ours, theirs = (clips.read_clip(tmp_path / f"{name}.mp4") for name in ("gpu", "cpu"))
    for our, their in zip(ours, theirs, strict=True):
        for plane, wanted in zip(our.planes, their.planes, strict=True):
            assert (np.abs(plane.astype(int) - wanted) <= 1).mean() >= 0.995
    ours, theirs = (jobs.read_records(tmp_path / f"{name}.jsonl") for name in ("gpu", "cpu"))
    assert [one["inferred"] for one in ours] == [one["inferred"] for one in theirs]
    assert [one["pts"] for one in ours] == [one["pts"] for one in theirs]
