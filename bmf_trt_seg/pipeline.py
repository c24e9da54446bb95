"""The way of a picture: preprocess, infer, postprocess, overlay.

Between batches it keeps only what smoothing, held masks and the legend need.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.errors import ConfigError, EngineError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.networks import backend_for
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.overlay import Look, Overlay
from bmf_trt_seg.postprocess import Postprocess, chosen_classes
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.preprocess_cuda import CudaPreprocess
from bmf_trt_seg.replay import RecordedMasks
from bmf_trt_seg.segmentation import MaskSource, Segmentation, Timestamp
from bmf_trt_seg.spec import ModelSpec

__all__ = ["NetworkMasks", "Pipeline"]

_log = logging.getLogger(__name__)


class NetworkMasks:
    """Class maps by a network: of every Nth picture, held between."""

    def __init__(self, spec: ModelSpec, backend: Backend, options: SegmentOptions, metrics: StreamMetrics) -> None:
        """The backend is opened here, run once on an empty picture, and closed by `close`."""
        chosen = chosen_classes(spec.labels, spec.background, options.classes)
        self.labels = {index: spec.labels[index] for index in chosen}
        self.colors = {index: spec.colors[index] for index in chosen}
        self.batch_size = options.batch_size
        self._interval = options.interval
        self._smoothing = options.smoothing
        if options.smoothing and spec.output.activation == "index":
            raise ConfigError("option 'smoothing' needs scores, but this network gives class indices; set it to 0")
        self._metrics = metrics
        self._preprocess = Preprocess(spec.input)
        self._backend = backend.open()
        self._cuda_preprocess = CudaPreprocess(spec.input)
        self._postprocess = Postprocess(spec, chosen, options.threshold)
        self.background = self._postprocess.background
        self._smoothed: npt.NDArray[np.float32] | None = None
        self._held: npt.NDArray[np.uint8] | None = None
        try:
            self._check_output(spec)
        except BaseException:
            self._backend.close()
            raise

    def is_due(self, number: int) -> bool:
        """Whether the picture of this number, from 0, is one for the network."""
        return number % self._interval == 0

    def segment(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], timestamps: Sequence[Timestamp]
    ) -> list[Segmentation]:
        """A class map for each of consecutive pictures of one size."""
        due = [frame for frame, number in zip(frames, numbers, strict=True) if self.is_due(number)]
        fresh = iter(self._infer(due) if due else [])
        result = []
        for number in numbers:
            inferred = self.is_due(number)
            if inferred:
                self._held = next(fresh)
            assert self._held is not None, "the first picture of a stream is always due"
            result.append(Segmentation(self._held, inferred))
        return result

    def _infer(self, frames: Sequence[FramePlanes]) -> list[npt.NDArray[np.uint8]]:
        if all(frame.on_device and self._backend.takes_batches_on(frame.on_device[0].device) for frame in frames):
            scores = self._infer_on_device(frames)
        else:
            with self._metrics.stage("preprocess"):
                batch = self._preprocess(frames)
            with self._metrics.stage("infer"):
                scores = self._backend.infer(batch)
        with self._metrics.stage("postprocess"):
            return [
                self._postprocess(self._smooth(one), (frame.width, frame.height))
                for one, frame in zip(scores, frames, strict=True)
            ]

    def _infer_on_device(self, frames: Sequence[FramePlanes]) -> npt.NDArray[np.generic]:
        """The way of pictures in the memory of a GPU: only the scores come to the host."""
        try:
            with self._metrics.stage("preprocess"):
                batch = self._cuda_preprocess(frames)
            with self._metrics.stage("infer"):
                scores = self._backend.infer_on_device(batch)
                scores = scores.float() if scores.is_floating_point() else scores
                on_host: npt.NDArray[np.generic] = scores.cpu().numpy()
            return on_host
        except EngineError:
            raise
        except RuntimeError as error:  # PyTorch's, and what went wrong on the GPU meanwhile
            reason = str(error).strip().splitlines()[0]
            raise EngineError(
                f"network '{self._backend.model.name}' failed on pictures on the GPU: {reason}"
            ) from error

    def _smooth(self, scores: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        if not self._smoothing:
            return scores
        fresh = scores.astype(np.float32)
        if self._smoothed is not None:
            fresh = self._smoothing * self._smoothed + (1.0 - self._smoothing) * fresh
        self._smoothed = fresh
        return fresh

    def _check_output(self, spec: ModelSpec) -> None:
        """Run once on black pictures: only the run tells the output's shape, and the first frame is not late."""
        size = (spec.input.height, spec.input.width)
        count = self._backend.batch_size
        shape = (count, 3, *size) if spec.input.layout == "nchw" else (count, *size, 3)
        scores = self._backend.infer(np.zeros(shape, spec.input.dtype))
        self._postprocess.check(scores.shape)

    def describe(self) -> str:
        return f"{self._backend.model.name}, {self._backend.describe()}"

    def close(self) -> None:
        self._backend.close()


class Pipeline:
    """From options to drawn pictures."""

    def __init__(self, options: SegmentOptions, metrics: StreamMetrics) -> None:
        """Load everything that `options` name. Raises ConfigError, ModelError, BackendUnavailable or StreamError."""
        self._metrics = metrics
        self.masks = _masks(options, metrics)
        self.labels = self.masks.labels
        self.colors = {**self.masks.colors, **_own_palette(options, self.masks.labels)}
        self._overlay = Overlay(
            Look(
                colors=self.colors,
                labels=self.labels,
                style=options.style,
                output=options.output,
                alpha=options.alpha,
                background_color=options.background_color,
                legend=options.legend,
            )
        )
        _log.info("stream '%s': %s", options.name, self.masks.describe())

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what `draw` writes for a picture of this size."""
        return self._overlay.size(width, height)

    def segment(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], timestamps: Sequence[Timestamp]
    ) -> list[Segmentation]:
        """A class map for each of consecutive pictures; numbers count from the first picture of the stream, 0."""
        results = self.masks.segment(frames, numbers, timestamps)
        self._metrics.inferred += sum(result.inferred for result in results)
        self._metrics.held += sum(not result.inferred for result in results)
        return results

    def draw(self, frame: FramePlanes, segmentation: Segmentation, target: FramePlanes) -> None:
        """Write the picture with its class map drawn on it into `target`."""
        with self._metrics.stage("overlay"):
            self._overlay.draw(frame, segmentation.map_hw, target)

    def close(self) -> None:
        """Free the network."""
        self.masks.close()


def _masks(options: SegmentOptions, metrics: StreamMetrics) -> MaskSource:
    if options.replay:
        return RecordedMasks(Path(options.replay), options.classes)
    backend, options = backend_for(options, cancelled=lambda: metrics.stop_requested)
    return NetworkMasks(backend.spec, backend, options, metrics)


def _own_palette(options: SegmentOptions, labels: dict[int, str]) -> dict[int, str]:
    """Colours by class index from the option 'palette'."""
    palette = options.palette
    if palette is None:
        return {}
    if isinstance(palette, list):
        last = max(labels, default=-1)
        if len(palette) <= last:
            raise ConfigError(
                f"option 'palette' has {len(palette)} colours; one is needed for each class up to {last}: "
                'give a list that long, or name classes: {"person": "#00ff00"}'
            )
        return {index: palette[index] for index in labels}
    by_label = {label: index for index, label in labels.items()}
    unknown = [label for label in palette if label not in by_label]
    if unknown:
        raise ConfigError(f"option 'palette': no class '{unknown[0]}' is shown; there are {', '.join(by_label)}")
    return {by_label[label]: color for label, color in palette.items()}
