"""The way of a picture through a network that draws no classes: its output is a picture, or is handed on as it is."""

from __future__ import annotations

import abc
import copy
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.colors import rgb_to_ycbcr_matrix
from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.records import Outputs
from bmf_trt_seg.segmentation import Drawn, Finished, Timestamp
from bmf_trt_seg.spec import NO_CLASS

if TYPE_CHECKING:
    import torch

__all__ = ["ImagePipeline", "RawPipeline", "write_rgb"]

_OF_CLASSES = (
    "alpha", "background_color", "classes", "legend", "output", "palette", "smoothing", "style", "threshold",
)  # fmt: skip
_log = logging.getLogger(__name__)


class _TensorPipeline(abc.ABC):
    """What both have in common: no classes, pictures in host memory, batches that are done at once."""

    device: torch.device | None = None
    background = NO_CLASS

    def __init__(self, backend: Backend, options: SegmentOptions, metrics: StreamMetrics) -> None:
        """The backend is open; it is closed by `close`. ConfigError for options that are about classes."""
        self.labels: dict[int, str] = {}
        self.colors: dict[int, str] = {}
        self.batch_size = options.batch_size
        self.network, self._metrics = backend, metrics
        self._preprocess = Preprocess(backend.spec.input)
        self._set(options)

    def _set(self, options: SegmentOptions) -> None:
        self._interval, self._first = options.interval, 0
        spec, model = self.network.spec, self.network.model
        useless = [name for name in _OF_CLASSES if name in options.model_fields_set and _is_said(options, name)]
        if useless:
            raise ConfigError(
                f"option '{useless[0]}' is for networks of task 'segmentation'; "
                f"the task of '{model.name}' is '{spec.task}'"
            )

    def changed(self, options: SegmentOptions) -> Self:
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

    def submit(
        self,
        frames: Sequence[FramePlanes],
        numbers: Sequence[int],
        timestamps: Sequence[Timestamp],
        targets: Sequence[FramePlanes],
        *,
        wants_maps: bool,
    ) -> Finished:
        """Make `targets` of consecutive pictures of one size; done when this returns. Raises EngineError."""
        return Finished(self._made(frames, numbers, targets))

    @abc.abstractmethod
    def _made(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], targets: Sequence[FramePlanes]
    ) -> list[Drawn]: ...

    def describe(self) -> str:
        """What runs where, in a few words."""
        return f"{self.network.model.name}, {self.network.describe()}"

    def close(self) -> None:
        """Free the network."""
        self.network.close()

    def _empty_batch(self, count: int) -> npt.NDArray[np.generic]:
        spec = self.network.spec.input
        size = (spec.height, spec.width)
        return np.zeros((count, 3, *size) if spec.layout == "nchw" else (count, *size, 3), spec.dtype)


def _is_said(options: SegmentOptions, name: str) -> bool:
    return bool(getattr(options, name) != SegmentOptions.model_fields[name].default)


class RawPipeline(_TensorPipeline):
    """All outputs of every Nth picture, held between; pictures stay as they are."""

    def __init__(self, backend: Backend, options: SegmentOptions, metrics: StreamMetrics) -> None:
        super().__init__(backend, options, metrics)
        self._held: Outputs = {}
        # the first frame is not late, and what cannot be divided among pictures is found now
        backend.infer_all(self._empty_batch(backend.batch_size))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what leaves for a picture of this size."""
        return width, height

    def _made(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], targets: Sequence[FramePlanes]
    ) -> list[Drawn]:
        due = [frame for frame, number in zip(frames, numbers, strict=True) if self.is_due(number)]
        facts = {"frame": numbers[0], "frames": len(due)}
        fresh: Iterator[Outputs] = iter(())
        if due:
            with self._metrics.stage("preprocess", **facts):
                batch = self._preprocess(due)
            with self._metrics.stage("infer", **facts):
                fresh = iter(self.network.infer_all(batch))
        drawn = []
        for frame, number, target in zip(frames, numbers, targets, strict=True):
            inferred = self.is_due(number)
            if inferred:
                self._held = next(fresh)
            target.copy_from(frame)
            drawn.append(Drawn(None, inferred, self._held))
        self._metrics.inferred += len(due)
        self._metrics.held += len(frames) - len(due)
        return drawn


class ImagePipeline(_TensorPipeline):
    """The network's output in the place of each picture, as much larger than that as it is larger than its input."""

    def __init__(self, backend: Backend, options: SegmentOptions, metrics: StreamMetrics) -> None:
        super().__init__(backend, options, metrics)
        self._is_told = False
        height, width = self._output_size(backend.infer(self._empty_batch(backend.batch_size)).shape)
        self._scale = width / backend.spec.input.width, height / backend.spec.input.height

    def _set(self, options: SegmentOptions) -> None:
        super()._set(options)
        if options.interval > 1:
            raise ConfigError(
                f"option 'interval': got {options.interval}; '{self.network.model.name}' makes a new picture of each"
            )

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is made of a picture of this size."""
        return max(1, round(width * self._scale[0])), max(1, round(height * self._scale[1]))

    def _made(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], targets: Sequence[FramePlanes]
    ) -> list[Drawn]:
        facts = {"frame": numbers[0], "frames": len(frames)}
        self._tell_of_scaling(frames[0])
        with self._metrics.stage("preprocess", **facts):
            batch = self._preprocess(frames)
        with self._metrics.stage("infer", **facts):
            made = self.network.infer(batch)
        with self._metrics.stage("postprocess", **facts):
            for frame, one, target in zip(frames, made, targets, strict=True):
                size = self.size(frame.width, frame.height)
                write_rgb(self._picture(one, frame, size), target)
                target.repeat_edge(*size)
        self._metrics.inferred += len(frames)
        return [Drawn(None, True) for _ in frames]

    def _picture(
        self, made: npt.NDArray[np.generic], frame: FramePlanes, size_wh: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        """(H, W, 3) float32 R'G'B', 0 to 1, without the borders of a letterboxed picture, and of this size."""
        spec = self.network.spec
        rgb = made.transpose(1, 2, 0) if spec.output.layout == "nchw" else made
        rgb = rgb[..., ::-1] if spec.input.channel_order == "bgr" else rgb
        left, top, width, height = spec.input.placement(frame.width, frame.height)
        rows = slice(round(top * self._scale[1]), round((top + height) * self._scale[1]))
        columns = slice(round(left * self._scale[0]), round((left + width) * self._scale[0]))
        values = np.nan_to_num(rgb[rows, columns].astype(np.float32) / spec.white, posinf=1.0)
        picture = np.clip(np.ascontiguousarray(values), 0.0, 1.0)
        if picture.shape[1::-1] != size_wh:
            picture = cv2.resize(picture, size_wh, interpolation=cv2.INTER_LINEAR)
        return picture

    def _tell_of_scaling(self, frame: FramePlanes) -> None:
        spec = self.network.spec.input
        if not self._is_told and (frame.width, frame.height) != (spec.width, spec.height):
            _log.warning(
                "stream '%s': frames of %dx%d are scaled to the %dx%d that '%s' takes, and its pictures back; option "
                "'input_shapes' sets another size where the network leaves it open",
                self._metrics.name, frame.width, frame.height, spec.width, spec.height, self.network.model.name,
            )  # fmt: skip
        self._is_told = True

    def _output_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        output = self.network.spec.output
        wanted = "(N, 3, H, W)" if output.layout == "nchw" else "(N, H, W, 3)"
        if len(shape) != 4 or shape[1 if output.layout == "nchw" else 3] != 3:
            raise ModelError(
                f"output '{output.name}' of model '{self.network.model.name}' has the shape {list(shape)}; a picture "
                f"is {wanted} ({output.layout})"
            )
        height, width = shape[2:] if output.layout == "nchw" else shape[1:3]
        return height, width


def write_rgb(rgb_hwc: npt.NDArray[np.float32], target: FramePlanes) -> None:
    """Write a picture, (H, W, 3) float32 R'G'B' of 0 to 1, into the upper left of a target in its matrix and range.

    A chroma sample of 4:2:0 is the mean of its pixels.
    """
    height, width = rgb_hwc.shape[:2]
    if not target.is_subsampled:
        target.planes[0][:height, :width] = np.rint(rgb_hwc * 255.0)
        return
    weights, bias = rgb_to_ycbcr_matrix(target.matrix, target.value_range)
    codes = cv2.transform(rgb_hwc, np.column_stack([weights, bias]).astype(np.float32))
    luma, chroma = target.planes[0], target.planes[1:]
    luma[:height, :width] = np.clip(np.rint(codes[..., 0]), 0, 255)
    even = cv2.copyMakeBorder(codes[..., 1:], 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    half = ((width + 1) // 2, (height + 1) // 2)
    halved = np.clip(np.rint(cv2.resize(even, half, interpolation=cv2.INTER_AREA)), 0, 255).astype(np.uint8)
    if len(chroma) == 1:
        chroma[0][: half[1], : half[0]] = halved
    else:
        for index, plane in enumerate(chroma):
            plane[: half[1], : half[0]] = halved[..., index]
