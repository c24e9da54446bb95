"""Pictures in batches: many files, or one file many times, through one pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.frames import FramePlanes, allocate_planes
from bmf_trt_seg.gpu_jpeg import open_gpu_jpeg
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.pictures import color_profile, read_picture, write_picture
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.segmentation import PicturePipeline

__all__ = ["Finished", "Job", "segment_in_batches"]

Job = tuple[Path, Path]
"""A picture, and where its result goes."""


@dataclass
class Finished:
    """What came of a run."""

    failures: list[tuple[Path, StreamError]] = field(default_factory=list)
    """Pictures that could not be read, or whose result could not be written, and why."""
    written: int = 0
    """Files."""
    batches: int = 0
    inferred: int = 0
    """Pictures that the network was given: more than files, if one stood in for many."""
    differing: int = 0
    """Of one picture many times, results that are not bit by bit the first one."""
    stage_seconds: dict[str, float] = field(default_factory=dict)


def segment_in_batches(
    jobs: Sequence[Job], options: SegmentOptions, report: Callable[[Sequence[Path], int], None]
) -> Finished:
    """Segment and draw pictures, `options.batch_size` at a time, and write each result when its batch is done.

    Pictures may differ in size. One that cannot be read is passed over, and the batch filled with the next ones; the
    last batch has as many as are left. A single picture fills its batch by being there `batch_size` times, and is
    written once. After each batch `report` is called with the names of its pictures and the number of jobs done.

    Raises ConfigError, ModelError, EngineError, BackendUnavailable or StreamError for what concerns all pictures.
    """
    metrics = StreamMetrics(options.name)
    # what ties a frame to the one before has no meaning here
    pipeline = open_pipeline(options.model_copy(update={"interval": 1, "smoothing": 0.0}), metrics)
    finished = Finished()
    try:
        readable = _readable(jobs, pipeline, metrics, finished)
        if len(jobs) == 1:
            readable = (one for found in readable for one in [found] * pipeline.batch_size)
        while batch := list(itertools.islice(readable, pipeline.batch_size)):
            drawn = _drawn([frame for frame, _ in batch], pipeline, finished.inferred)
            if len(jobs) == 1:
                finished.differing = sum(not _is_same(one, drawn[0]) for one in drawn)
            finished.batches += 1
            finished.inferred += len(batch)
            results = {job: picture for (_, job), picture in zip(batch, drawn, strict=True)}
            with metrics.stage("write"):
                for (source, target), picture in results.items():
                    _write(source, target, picture, finished)
            report([source for _, (source, _) in batch], finished.written + len(finished.failures))
    finally:
        pipeline.close()
    finished.stage_seconds = metrics.stage_seconds
    return finished


def _readable(
    jobs: Sequence[Job], pipeline: PicturePipeline, metrics: StreamMetrics, finished: Finished
) -> Iterator[tuple[FramePlanes, Job]]:
    """The pictures that can be read; the others are noted."""
    gpu = open_gpu_jpeg(pipeline.device)
    for job in jobs:
        source = job[0]
        try:
            with metrics.stage("read"):
                frame = (gpu.read(source) if gpu is not None else None) or read_picture(source)
        except StreamError as error:
            finished.failures.append((source, error))
            continue
        yield frame, job


def _drawn(frames: Sequence[FramePlanes], pipeline: PicturePipeline, first: int) -> list[FramePlanes]:
    """What is drawn for a batch, in host memory."""
    targets = [allocate_planes(frame, *pipeline.size(frame.width, frame.height)) for frame in frames]
    numbers = range(first, first + len(frames))
    times = [(number, Fraction(1)) for number in numbers]
    pipeline.submit(frames, numbers, times, targets, wants_maps=False).finish()
    return targets


def _write(source: Path, target: Path, picture: FramePlanes, finished: Finished) -> None:
    try:
        write_picture(picture, target, color_profile(source))
    except StreamError as error:
        finished.failures.append((source, error))
    else:
        finished.written += 1


def _is_same(one: FramePlanes, other: FramePlanes) -> bool:
    return all(np.array_equal(ours, theirs) for ours, theirs in zip(one.planes, other.planes, strict=True))
