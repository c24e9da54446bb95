"""The way of a picture: preprocess, infer, postprocess, overlay, one after the other on the CPU.

Between batches it keeps only what smoothing, held masks and the legend need. `pipeline_cuda` is the way on a GPU.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.looks import look_of, shown_classes
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.networks import backend_for
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.overlay import Look, Overlay
from bmf_trt_seg.pipeline_tensors import ImagePipeline, RawPipeline
from bmf_trt_seg.postprocess import Postprocess, check_smoothing
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.replay import RecordedMasks
from bmf_trt_seg.segmentation import (
    Batch,
    Drawn,
    Finished,
    MaskSource,
    PicturePipeline,
    Segmentation,
    Timestamp,
)
from bmf_trt_seg.spec import ModelSpec

if TYPE_CHECKING:
    import torch

    from bmf_trt_seg.pipeline_cuda import CudaPipeline

__all__ = ["NetworkMasks", "Pipeline", "open_pipeline"]

_log = logging.getLogger(__name__)


@dataclass
class _Past:
    """Scores of the pictures so far, smoothed; of the network, whoever has asked it."""

    scores: npt.NDArray[np.float32] | None = None


class NetworkMasks:
    """Class maps by a network: of every Nth picture, held between."""

    def __init__(self, backend: Backend, options: SegmentOptions, metrics: StreamMetrics) -> None:
        """The backend is open; it is run once on an empty picture here, and closed by `close`."""
        self.network = backend
        self.batch_size = options.batch_size
        self._metrics = metrics
        self._preprocess = Preprocess(backend.spec.input)
        self._past = _Past()
        self._set(options)
        self._check_output(backend.spec)

    def _set(self, options: SegmentOptions) -> None:
        spec = self.network.spec
        check_smoothing(spec, options.smoothing)
        self.labels, self.colors = shown_classes(spec, options)
        self._interval, self._smoothing = options.interval, options.smoothing
        self._postprocess = Postprocess(spec, list(self.labels), options.threshold)
        self.background = self._postprocess.background
        self._held: npt.NDArray[np.uint8] | None = None
        self._first = 0

    def changed(self, options: SegmentOptions) -> NetworkMasks:
        """The same network with other options; see `PicturePipeline.changed`."""
        other = copy.copy(self)
        other._set(options)
        return other

    def begin(self, number: int) -> None:
        """The next picture is `number`, and is due."""
        self._first = number

    def is_due(self, number: int) -> bool:
        """Whether the picture of this number, from 0, is one for the network."""
        return (number - self._first) % self._interval == 0

    def segment(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], timestamps: Sequence[Timestamp]
    ) -> list[Segmentation]:
        """A class map for each of consecutive pictures of one size."""
        due = [frame for frame, number in zip(frames, numbers, strict=True) if self.is_due(number)]
        fresh = iter(self._infer(due, {"frame": numbers[0], "frames": len(due)}) if due else [])
        result = []
        for number in numbers:
            inferred = self.is_due(number)
            if inferred:
                self._held = next(fresh)
            assert self._held is not None, "the first picture, and the first after a change, is always due"
            result.append(Segmentation(self._held, inferred))
        return result

    def _infer(self, frames: Sequence[FramePlanes], facts: dict[str, int]) -> list[npt.NDArray[np.uint8]]:
        with self._metrics.stage("preprocess", **facts):
            batch = self._preprocess(frames)
        with self._metrics.stage("infer", **facts):
            scores = self.network.infer(batch)
        with self._metrics.stage("postprocess", **facts):
            return [
                self._postprocess(self._smooth(one), (frame.width, frame.height))
                for one, frame in zip(scores, frames, strict=True)
            ]

    def _smooth(self, scores: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        past = self._past
        if not self._smoothing:
            past.scores = None
            return scores
        fresh = scores.astype(np.float32)
        if past.scores is not None:
            fresh = self._smoothing * past.scores + (1.0 - self._smoothing) * fresh
        past.scores = fresh
        return fresh

    def _check_output(self, spec: ModelSpec) -> None:
        """Run once on black pictures: only the run tells the output's shape, and the first frame is not late."""
        size = (spec.input.height, spec.input.width)
        count = self.network.batch_size
        shape = (count, 3, *size) if spec.input.layout == "nchw" else (count, *size, 3)
        scores = self.network.infer(np.zeros(shape, spec.input.dtype))
        self._postprocess.check(scores.shape)

    def describe(self) -> str:
        return f"{self.network.model.name}, {self.network.describe()}"

    def close(self) -> None:
        self.network.close()


class Pipeline:
    """Drawn pictures from pictures and masks, in host memory."""

    device: torch.device | None = None
    """Where pictures best lie: in host memory."""

    def __init__(self, masks: MaskSource, look: Look, metrics: StreamMetrics) -> None:
        self._metrics = metrics
        self._seen: set[int] = set()
        self._set(masks, look)

    def _set(self, masks: MaskSource, look: Look) -> None:
        self._masks, self.network = masks, masks.network
        self.labels, self.colors = look.labels, look.colors
        self.background, self.batch_size = masks.background, masks.batch_size
        self._overlay = Overlay(look, self._seen)

    def changed(self, options: SegmentOptions) -> Pipeline:
        """The same network, or records, with other options; see `PicturePipeline.changed`."""
        masks = self._masks.changed(options)
        other = copy.copy(self)
        other._set(masks, look_of(options, masks.labels, masks.colors))
        return other

    def begin(self, number: int) -> None:
        """The next picture is `number`, and is due."""
        self._masks.begin(number)

    def is_due(self, number: int) -> bool:
        """Whether the picture of this number, from 0, costs an inference."""
        return self._masks.is_due(number)

    def describe(self) -> str:
        return self._masks.describe()

    def submit(
        self,
        frames: Sequence[FramePlanes],
        numbers: Sequence[int],
        timestamps: Sequence[Timestamp],
        targets: Sequence[FramePlanes],
        *,
        wants_maps: bool,
    ) -> Batch:
        """Segment consecutive pictures of one size and draw them into `targets`; done when this returns.

        Numbers count from the first picture of the stream, 0. Raises EngineError.
        """
        segmentations = self.segment(frames, numbers, timestamps)
        for frame, segmentation, target in zip(frames, segmentations, targets, strict=True):
            self.draw(frame, segmentation, target)
        return Finished([Drawn(one.map_hw, one.inferred) for one in segmentations])

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what `draw` writes for a picture of this size."""
        return self._overlay.size(width, height)

    def segment(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], timestamps: Sequence[Timestamp]
    ) -> list[Segmentation]:
        """A class map for each of consecutive pictures; numbers count from the first picture of the stream, 0."""
        results = self._masks.segment(frames, numbers, timestamps)
        self._metrics.inferred += sum(result.inferred for result in results)
        self._metrics.held += sum(not result.inferred for result in results)
        return results

    def draw(self, frame: FramePlanes, segmentation: Segmentation, target: FramePlanes) -> None:
        """Write the picture with its class map drawn on it into `target`."""
        with self._metrics.stage("overlay"):
            self._overlay.draw(frame, segmentation.map_hw, target)

    def close(self) -> None:
        """Free the network."""
        self._masks.close()


def open_pipeline(
    options: SegmentOptions, metrics: StreamMetrics, cancelled: Callable[[], bool] = lambda: False
) -> PicturePipeline:
    """Load everything that `options` name: on a GPU, if the network takes its batches there and draws classes.

    cancelled: asked while an engine is built, which takes minutes; it stops as well when the stream is to end. Raises
    ConfigError, ModelError, EngineError, BackendUnavailable or StreamError.
    """
    pipeline: PicturePipeline
    if options.replay:
        masks = RecordedMasks(Path(options.replay), options.classes)
        pipeline = Pipeline(masks, look_of(options, masks.labels, masks.colors), metrics)
    else:
        backend, options = backend_for(options, cancelled=lambda: metrics.stop_requested or cancelled())
        backend.open()
        try:
            pipeline = _of_network(backend, options, metrics)
        except BaseException:
            backend.close()
            raise
    _log.info("stream '%s': %s", options.name, pipeline.describe())
    return pipeline


def _of_network(backend: Backend, options: SegmentOptions, metrics: StreamMetrics) -> PicturePipeline:
    """What the task of an open network asks for."""
    if backend.spec.task == "raw":
        return RawPipeline(backend, options, metrics)
    if backend.spec.task == "image":
        return ImagePipeline(backend, options, metrics)
    look = look_of(options, *shown_classes(backend.spec, options))
    if backend.stream is None:
        return Pipeline(NetworkMasks(backend, options, metrics), look, metrics)
    return _on_gpu(backend, options, look, metrics)


def _on_gpu(backend: Backend, options: SegmentOptions, look: Look, metrics: StreamMetrics) -> CudaPipeline:
    from bmf_trt_seg.cuda_kernels import kernels_for
    from bmf_trt_seg.cuda_queue import CudaQueue
    from bmf_trt_seg.pipeline_cuda import CudaPipeline

    queue = CudaQueue(backend.stream)
    return CudaPipeline(backend, options, look, metrics, queue, kernels_for(queue.device))
