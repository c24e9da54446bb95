"""How good a network is: its class maps of pictures against masks that say what the pictures show."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.confusion import ConfusionMatrix
from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.masks import MaskReader
from bmf_trt_seg.pictures import read_picture
from bmf_trt_seg.postprocess import Postprocess, chosen_classes
from bmf_trt_seg.preprocess import Preprocess

__all__ = ["Evaluation", "evaluate"]

_SHAPE_TOLERANCE = 0.02  # of width / height: what rounding makes of a picture that was scaled down


@dataclass(frozen=True)
class Evaluation:
    """What became of the pictures, and the confusion matrix of all that were scored."""

    counts: npt.NDArray[np.int64]
    """Pixels, (C + 1, C + 1); see `ConfusionMatrix.counts`."""
    pictures: int
    """How many were scored."""
    resized: int
    """How many of them have a mask of another size, in which they were scored."""
    ignored_pixels: int
    """How many pixels of their masks did not count."""
    failures: tuple[StreamError, ...]
    """Why the others were passed over."""


@dataclass(frozen=True)
class _Item:
    picture: FramePlanes
    truth_hw: npt.NDArray[np.int16]


def evaluate(
    pairs: Sequence[tuple[Path, Path]],
    backend: Backend,
    reader: MaskReader,
    *,
    batch_size: int = 1,
    threshold: float | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run an open network on pictures, and count its class maps against their masks (picture, mask).

    A class map has the size of its mask: scores are enlarged to it, as they are to a video's frames. A pair that
    cannot be read, or whose shapes differ, is passed over. `report` is called with the number of pairs done. No more
    than a batch of pictures is in memory. Raises EngineError, ModelError; BackendUnavailable without torchmetrics.
    """
    spec = backend.spec
    matrix = ConfusionMatrix(len(spec.labels))
    preprocess = Preprocess(spec.input)
    # pixels of no other class are the background; with all classes chosen they would be of none
    postprocess = Postprocess(spec, chosen_classes(spec.labels, spec.background, None), threshold)
    failures: list[StreamError] = []
    scored = resized = ignored = done = 0
    left = iter(pairs)
    while batch := list(itertools.islice(left, batch_size)):
        items = []
        for picture, mask in batch:
            try:
                items.append(_read(picture, mask, reader))
            except StreamError as error:
                failures.append(error)
        if items:
            scores = backend.infer(preprocess([item.picture for item in items]))
            postprocess.check(scores.shape)
            for item, of_picture in zip(items, scores, strict=True):
                height, width = item.truth_hw.shape
                matrix.add(item.truth_hw, postprocess(of_picture, (width, height)))
                resized += (width, height) != (item.picture.width, item.picture.height)
                ignored += int(np.count_nonzero(item.truth_hw < 0))
        scored += len(items)
        done += len(batch)
        report(done)
    return Evaluation(matrix.counts, scored, resized, ignored, tuple(failures))


def _read(picture: Path, mask: Path, reader: MaskReader) -> _Item:
    frame = read_picture(picture)
    truth_hw = reader.read(mask)
    height, width = truth_hw.shape
    if abs(width * frame.height / (height * frame.width) - 1) > _SHAPE_TOLERANCE and (
        abs(width * frame.height / frame.width - height) >= 1  # a mask of few pixels is rounded more
    ):
        raise StreamError(
            f"'{mask}' is {width}x{height}, its picture '{picture.name}' {frame.width}x{frame.height}: it is of "
            "another shape, so it cannot be the mask of it"
        )
    return _Item(frame, truth_hw)
