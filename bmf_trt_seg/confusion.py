"""How well class maps agree with the truth: one confusion matrix over any number of pictures, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.models.torchvision_package import import_torchvision
from bmf_trt_seg.spec import NO_CLASS

__all__ = ["IGNORED", "ClassScore", "ConfusionMatrix", "Scores", "scores_of", "selected"]

IGNORED = -1
"""The value of a pixel of the truth that does not count."""
_STRIP_PIXELS = 1 << 22  # counted at once: bounds what a large picture takes


class ConfusionMatrix:
    """Counts pixels by what they are and what they were found to be; it takes the same memory for any number of them.

    torchmetrics counts, in 64-bit integers.
    """

    def __init__(self, classes: int) -> None:
        """Raises BackendUnavailable without torchmetrics."""
        with suppress(BackendUnavailable):
            import_torchvision()  # torchmetrics imports it where it is, and it may need some help
        try:
            from torchmetrics.classification import MulticlassConfusionMatrix
        except ImportError as error:
            raise BackendUnavailable(
                "scores are computed by torchmetrics, which is not installed: pip install 'bmf-trt-seg[eval]'"
            ) from error
        self._classes = classes
        # one more than there are classes: no class at all
        self._metric = MulticlassConfusionMatrix(classes + 1, ignore_index=IGNORED, validate_args=False)

    def add(self, truth_hw: npt.NDArray[np.int16], found_hw: npt.NDArray[np.uint8]) -> None:
        """Count a picture. truth_hw: class indices, NO_CLASS, or IGNORED; found_hw: class indices, or NO_CLASS.

        Both are (H, W), else ValueError; all other values must have been dealt with.
        """
        import torch

        if truth_hw.shape != found_hw.shape:
            raise ValueError(f"the truth is {truth_hw.shape}, the class map {found_hw.shape}; both should be (H, W)")

        rows = max(1, _STRIP_PIXELS // max(1, truth_hw.shape[1]))
        for top in range(0, len(truth_hw), rows):
            truth = truth_hw[top : top + rows].astype(np.int64)
            found = found_hw[top : top + rows].astype(np.int64)
            truth[truth == NO_CLASS] = self._classes
            found[found == NO_CLASS] = self._classes
            self._metric.update(torch.from_numpy(found), torch.from_numpy(truth))

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Pixels, (C + 1, C + 1): rows are the truth, columns what was found, the last of each is no class."""
        counts: npt.NDArray[np.int64] = self._metric.confmat.numpy().copy()
        return counts


@dataclass(frozen=True)
class ClassScore:
    """A line of the table of classes; a ratio is None where there is nothing to divide by."""

    index: int
    label: str
    iou: float | None
    """Pixels that are of the class and were found to be, of all that are or were found to be."""
    accuracy: float | None
    """Of the pixels of the class, the share that was found to be."""
    pixels: int
    """How many are of this class."""
    found_pixels: int
    """How many were found to be."""


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says of some of its classes; a mean is None if no class has a value."""

    mean_iou: float | None
    """Mean over the classes that there are, or that were found."""
    pixel_accuracy: float | None
    """Of the pixels of these classes, the share that was found to be what it is."""
    mean_accuracy: float | None
    """Mean over the classes that there are."""
    classes: tuple[ClassScore, ...]


def scores_of(counts: npt.NDArray[np.int64], labels: Sequence[str], chosen: Sequence[int] | None = None) -> Scores:
    """The scores of the classes `chosen` (all by default) from `ConfusionMatrix.counts`, rows being the truth.

    Pixels of classes that are not chosen, or of none, count where they were found to be of a chosen one.
    """
    right, truth, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    classes = []
    for index in chosen if chosen is not None else range(len(labels)):
        union = int(truth[index] + found[index] - right[index])
        classes.append(
            ClassScore(
                index=index,
                label=labels[index],
                iou=_ratio(right[index], union),
                accuracy=_ratio(right[index], truth[index]),
                pixels=int(truth[index]),
                found_pixels=int(found[index]),
            )
        )
    indices = [row.index for row in classes]
    return Scores(
        mean_iou=_mean([row.iou for row in classes]),
        pixel_accuracy=_ratio(right[indices].sum(), truth[indices].sum()),
        mean_accuracy=_mean([row.accuracy for row in classes]),
        classes=tuple(classes),
    )


def selected(counts: npt.NDArray[np.int64], indices: Sequence[int]) -> npt.NDArray[np.int64]:
    """A confusion matrix of some of its classes; the last row and column take all others, and no class."""
    order = [*indices, *(index for index in range(len(counts)) if index not in set(indices))]
    sorted_counts = counts[np.ix_(order, order)]
    edges = [*range(len(indices)), len(indices)]
    by_row = np.add.reduceat(sorted_counts, edges, axis=0)
    folded: npt.NDArray[np.int64] = np.add.reduceat(by_row, edges, axis=1)
    return folded


def _ratio(part: int | np.int64, whole: int | np.int64) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
