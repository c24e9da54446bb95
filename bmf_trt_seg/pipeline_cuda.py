"""`Pipeline` on a GPU: preprocess, infer, postprocess and overlay in its memory, in order, without waiting."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.errors import EngineError
from bmf_trt_seg.frames import FramePlanes, plane_shapes
from bmf_trt_seg.legend import Legend
from bmf_trt_seg.looks import look_of, shown_classes
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.overlay import Look
from bmf_trt_seg.overlay_cuda import CudaOverlay, Drawing
from bmf_trt_seg.postprocess import Postprocess, check_smoothing
from bmf_trt_seg.preprocess_cuda import CudaPreprocess, narrowed
from bmf_trt_seg.segmentation import Drawn, Timestamp

if TYPE_CHECKING:
    import torch

    from bmf_trt_seg.cuda_kernels import CudaKernels
    from bmf_trt_seg.cuda_queue import CudaQueue, Mark

__all__ = ["CudaPipeline", "DrawnOnDevice"]

_PRESENT_WORDS = 8  # of 32 bits: one for each class that a map of bytes can hold


@dataclass
class _Carried:
    """What goes on over a change of options; only the thread that submits touches it."""

    batch: torch.Tensor
    """The network's input, always at the same address, so that its CUDA graph holds."""
    smoothed: torch.Tensor | None = None
    seen: set[int] = field(default_factory=set)
    is_closed: bool = False


class CudaPipeline:
    """From options to drawn pictures, all on one GPU.

    Pictures may lie there already or come from host memory; they are drawn there or into page-locked host memory.
    """

    def __init__(
        self,
        backend: Backend,
        options: SegmentOptions,
        look: Look,
        metrics: StreamMetrics,
        queue: CudaQueue,
        kernels: CudaKernels,
    ) -> None:
        """`backend` is open, with a stream; it is closed by `close`."""
        self.network, self._metrics = backend, metrics
        self.batch_size = options.batch_size
        self._queue, self._kernels = queue, kernels
        self._preprocess = CudaPreprocess(backend.spec.input, kernels)
        with self._in_queue():
            self._carried = _Carried(self._new_batch(backend.batch_size))
            postprocess = self._set(options, look)
            backend.infer_on_device(self._carried.batch)
            # the second time it may be recorded, which takes so long that a live stream would stand still
            postprocess.check(tuple(backend.infer_on_device(self._carried.batch).shape))

    def _set(self, options: SegmentOptions, look: Look) -> Postprocess:
        """Take over options; how classes would be decided on the CPU."""
        spec, chosen = self.network.spec, list(look.labels)
        check_smoothing(spec, options.smoothing)
        postprocess = Postprocess(spec, chosen, options.threshold)
        self.labels, self.colors, self.background = look.labels, look.colors, postprocess.background
        self._interval, self._smoothing, self._first = options.interval, options.smoothing, 0
        self._overlay = CudaOverlay(spec, chosen, self.background, options.threshold, look, self._kernels)
        self._legend = Legend(look.labels, look.colors, self._carried.seen) if look.legend else None
        self._is_beside = look.output == "overlay" and look.style == "sidebyside"
        self._held: torch.Tensor | None = None
        return postprocess

    def changed(self, options: SegmentOptions) -> CudaPipeline:
        """The same network and queue with other options; see `PicturePipeline.changed`."""
        other = copy.copy(self)
        other._set(options, look_of(options, *shown_classes(self.network.spec, options)))
        return other

    def begin(self, number: int) -> None:
        """The next picture is `number`, and is due."""
        self._first = number

    @property
    def device(self) -> torch.device:
        """Where pictures best lie."""
        return self._queue.device

    def is_due(self, number: int) -> bool:
        """Whether the picture of this number, from 0, is one for the network."""
        return (number - self._first) % self._interval == 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is drawn for a picture of this size."""
        return self._overlay.size(width, height)

    def describe(self) -> str:
        return f"{self.network.model.name}, {self.network.describe()}"

    def submit(
        self,
        frames: Sequence[FramePlanes],
        numbers: Sequence[int],
        timestamps: Sequence[Timestamp],
        targets: Sequence[FramePlanes],
        *,
        wants_maps: bool,
    ) -> DrawnOnDevice:
        """Have consecutive pictures of one size segmented and drawn into `targets`, which are undefined until then.

        The result keeps `frames` and `targets` until the GPU is done with them. Numbers count from the first picture of
        the stream, 0. Raises EngineError.
        """
        with self._in_queue():
            facts = {"frame": numbers[0], "frames": len(frames)}
            pictures = [
                _interleaved(picture) if target.pixel_format == "nv12" else picture
                for picture, target in zip(self._uploaded(frames, facts), targets, strict=True)
            ]
            due = [picture for picture, number in zip(pictures, numbers, strict=True) if self.is_due(number)]
            scores: Iterator[Any] = iter(())
            if due:
                with self._metrics.stage("preprocess", on=self._queue.stream, **facts):
                    batch = self._filled(due)
                with self._metrics.stage("infer", on=self._queue.stream, frame=numbers[0], frames=len(due)):
                    scores = iter(_for_drawing(self.network.infer_on_device(batch)))
            with self._metrics.stage("overlay", on=self._queue.stream, **facts):
                drawings = [
                    self._drawing(picture, target, next(scores) if self.is_due(number) else None, wants_maps)
                    for picture, target, number in zip(pictures, targets, numbers, strict=True)
                ]
                self._overlay.draw(drawings, self._queue.handle)
            self._queue.before_downloads()
            return self._leaving(drawings, frames, targets, numbers, wants_maps)

    def close(self) -> None:
        """Wait for what is on its way, and free the network."""
        if not self._carried.is_closed:
            self._carried.is_closed = True
            self._queue.close()
            self.network.close()

    # -------------------------------------------------------------------------------------------------- the four steps

    def _uploaded(self, frames: Sequence[FramePlanes], facts: dict[str, int]) -> list[FramePlanes]:
        """The pictures on the GPU, of 8 bits."""
        if all(frame.is_on_device for frame in frames):
            return [self._narrowed(frame) for frame in frames]
        with self._metrics.stage("upload", on=self._queue.uploads, **facts):
            return [
                self._narrowed(frame)
                if frame.is_on_device
                else replace(frame, planes=tuple(self._queue.upload(plane) for plane in frame.planes))
                for frame in frames
            ]

    def _narrowed(self, frame: FramePlanes) -> FramePlanes:
        if frame.pixel_format != "p010":
            return frame
        narrow = self._new_planes(replace(frame, pixel_format="nv12"), frame.width, frame.height)
        narrowed(frame, narrow, self._kernels, self._queue.handle)
        return narrow

    def _filled(self, due: Sequence[FramePlanes]) -> torch.Tensor:
        """The network's input."""
        carried = self._carried
        if len(due) > len(carried.batch):
            carried.batch = self._new_batch(len(due))
        batch = carried.batch[: len(due)]
        self._preprocess(due, batch, self._queue.handle)
        return batch

    def _drawing(
        self, picture: FramePlanes, target: FramePlanes, scores: torch.Tensor | None, wants_maps: bool
    ) -> Drawing:
        import torch

        is_held = self._interval > 1
        map_hw = None
        if scores is None:
            map_hw = self._held
        elif wants_maps or is_held:
            map_hw = torch.empty((picture.height, picture.width), dtype=torch.uint8, device=self.device)
        if scores is not None:
            scores = self._smooth(scores)
        if is_held:
            self._held = map_hw
        canvas = target if target.is_on_device else self._new_planes(target, target.width, target.height)
        present = None
        if self._legend is not None:
            present = torch.zeros(_PRESENT_WORDS, dtype=torch.int32, device=self.device)
        return Drawing(picture, canvas, scores, map_hw, present)

    def _smooth(self, scores: torch.Tensor) -> torch.Tensor:
        carried = self._carried
        if not self._smoothing:
            carried.smoothed = None
            return scores
        fresh = scores.float()
        if carried.smoothed is not None:
            fresh = self._smoothing * carried.smoothed + (1.0 - self._smoothing) * fresh
        elif fresh is scores:
            fresh = scores.clone()  # the network writes its next scores there
        carried.smoothed = fresh
        return fresh

    def _leaving(
        self,
        drawings: list[Drawing],
        frames: Sequence[FramePlanes],
        targets: Sequence[FramePlanes],
        numbers: Sequence[int],
        wants_maps: bool,
    ) -> DrawnOnDevice:
        """Have everything that is wanted in host memory copied there."""
        import torch

        sources: list[torch.Tensor] = []
        arrays: list[npt.NDArray[Any]] = []
        for drawing, target in zip(drawings, targets, strict=True):
            if not target.is_on_device:
                sources += drawing.target.planes
                arrays += target.planes
        present: list[npt.NDArray[np.int32]] = []
        if self._legend is not None:
            present = [self._queue.page_locked((_PRESENT_WORDS,), torch.int32) for _ in drawings]
            sources += [drawing.present for drawing in drawings if drawing.present is not None]
            arrays += present
        maps: list[npt.NDArray[np.uint8]] = []
        if wants_maps:
            drawn_maps = [drawing.map_hw for drawing in drawings if drawing.map_hw is not None]
            maps = [self._queue.page_locked(tuple(one.shape), torch.uint8) for one in drawn_maps]
            sources += drawn_maps
            arrays += maps
        if sources:
            with self._metrics.stage("copy", on=self._queue.downloads, frame=numbers[0], frames=len(frames)):
                self._queue.download(sources, arrays)
        inferred = [self.is_due(number) for number in numbers]
        self._metrics.inferred += sum(inferred)
        self._metrics.held += len(inferred) - sum(inferred)
        kept = [*frames, *targets, *drawings]
        return DrawnOnDevice(self, self._queue.mark(), kept, list(targets), inferred, present, maps)

    def _finish_legend(self, targets: Sequence[FramePlanes], present: Sequence[npt.NDArray[np.int32]]) -> None:
        """Draw what depends on all pictures so far; the classes in each are known on the host now."""
        assert self._legend is not None
        for target, words in zip(targets, present, strict=True):
            bits = np.unpackbits(words.view(np.uint8), bitorder="little")
            left = target.width // 2 if self._is_beside else 0
            with self._queue.afterwards():
                self._legend.draw(target, left, [index for index in self.colors if bits[index]])
        if any(target.is_on_device for target in targets):
            self._queue.mark().wait()

    # ------------------------------------------------------------------------------------------------------- the queue

    @contextmanager
    def _in_queue(self) -> Iterator[None]:
        """PyTorch's operators inside go onto the pipeline's stream; what fails there becomes an EngineError."""
        try:
            with self._queue.working():
                yield
        except EngineError:
            self._queue.drain()  # what was begun uses memory that goes now
            raise
        except RuntimeError as error:  # PyTorch's
            self._queue.drain()
            raise self._failed(error) from error

    def _failed(self, error: RuntimeError) -> EngineError:
        reason = str(error).strip().splitlines()[0]
        return EngineError(f"network '{self.network.model.name}' failed on pictures on the GPU: {reason}")

    def _new_planes(self, like: FramePlanes, width: int, height: int) -> FramePlanes:
        import torch

        shapes = plane_shapes(like.pixel_format, width, height)
        planes = tuple(torch.empty(shape, dtype=torch.uint8, device=self.device) for shape in shapes)
        return replace(like, width=width, height=height, planes=planes)

    def _new_batch(self, count: int) -> torch.Tensor:
        import torch

        spec = self.network.spec.input
        size = (spec.height, spec.width)
        shape = (count, 3, *size) if spec.layout == "nchw" else (count, *size, 3)
        return torch.zeros(shape, dtype=getattr(torch, spec.dtype), device=self.device)


@dataclass
class DrawnOnDevice:
    """Pictures on their way through a GPU."""

    _pipeline: CudaPipeline
    _mark: Mark
    _kept: list[Any]
    """Everything that the GPU still reads or writes."""
    _targets: list[FramePlanes]
    _inferred: list[bool]
    _present: list[npt.NDArray[np.int32]]
    _maps: list[npt.NDArray[np.uint8]]

    def is_done(self) -> bool:
        """Whether `finish` would return at once."""
        try:
            return self._mark.is_reached()
        except RuntimeError:  # the GPU has failed, as `finish` will say
            return True

    def finish(self) -> list[Drawn]:
        """Wait until the targets are drawn. Raises EngineError."""
        pipeline = self._pipeline
        try:
            self._mark.wait()
            if self._present:
                pipeline._finish_legend(self._targets, self._present)
        except RuntimeError as error:
            raise pipeline._failed(error) from error
        self._kept.clear()
        maps: Sequence[npt.NDArray[np.uint8] | None] = self._maps or [None] * len(self._inferred)
        return [Drawn(one, inferred) for one, inferred in zip(maps, self._inferred, strict=True)]

    def __del__(self) -> None:
        if self._kept:  # never finished: the memory must outlive the GPU's use of it
            with suppress(Exception):
                self._mark.wait()


def _interleaved(picture: FramePlanes) -> FramePlanes:
    """A picture of three planes as NV12, which has the same samples."""
    import torch

    if picture.pixel_format != "yuv420p":
        return picture
    luma, *chroma = picture.planes
    return replace(picture, pixel_format="nv12", planes=(luma, torch.stack(chroma, dim=-1)))


def _for_drawing(scores: torch.Tensor) -> torch.Tensor:
    """Scores of a type that the kernels read."""
    import torch

    if scores.dtype == torch.bool:
        return scores.view(torch.uint8)
    if scores.dtype in (torch.int8, torch.int16):
        return scores.int()
    return scores.float() if scores.dtype == torch.float64 else scores
