"""From a network's scores to a class map of the picture's size.

Scores are enlarged bilinearly and decided afterwards, so that the borders of masks are smooth.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import cv2
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.spec import NO_CLASS, ModelSpec

__all__ = ["Postprocess", "check_smoothing", "chosen_classes"]

_CHUNK_PIXELS = 1 << 15  # of a class border, decided at once: bounds the memory of networks with many classes


def chosen_classes(labels: list[str], background: int | None, classes: Collection[str | int] | None) -> list[int]:
    """Indices of the classes to show, in ascending order, from names or indices; default all but the background.

    Raises ConfigError for a class the model does not have.
    """
    if classes is None:
        return [index for index in range(len(labels)) if index != background]
    if not classes:
        raise ConfigError("option 'classes' is empty: name at least one of " + ", ".join(labels))
    chosen = set()
    for wanted in classes:
        text = str(wanted)
        if text in labels:
            chosen.add(labels.index(text))
        elif text.isdecimal() and int(text) < len(labels):
            chosen.add(int(text))
        else:
            shown = ", ".join(f"{index} {label}" for index, label in enumerate(labels[:30]))
            more = f", ... {len(labels) - 30} more" if len(labels) > 30 else ""
            raise ConfigError(f"option 'classes': the model has no class '{text}'; it has {shown}{more}")
    return sorted(chosen)


def check_smoothing(spec: ModelSpec, smoothing: float) -> None:
    """Raise ConfigError if a network's output is to be smoothed and holds no scores."""
    if smoothing and spec.output.activation == "index":
        raise ConfigError("option 'smoothing' needs scores, but this network gives class indices; set it to 0")


class Postprocess:
    """Decides the class of every pixel.

    A pixel of the resulting map, (H, W) uint8, holds the index of one of the chosen classes; any other pixel holds the
    background's index, or NO_CLASS where the model has no background or the background itself was chosen.
    """

    def __init__(self, spec: ModelSpec, chosen: list[int], threshold: float | None = None) -> None:
        """`threshold`, 0 to 1, takes the place of the spec's.

        The attribute `background` is the value of pixels of no chosen class.
        """
        self._spec = spec
        self._is_nhwc = spec.output.layout == "nhwc"
        self._threshold = spec.output.threshold if threshold is None else threshold
        background = spec.background
        self.background = NO_CLASS if background is None or background in chosen else background
        self._enlarged: npt.NDArray[np.float32] | None = None
        self._visible = np.full(256, self.background, np.uint8)
        self._visible[chosen] = chosen

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ModelError unless an output of this shape is what the spec says."""
        spec = self._spec
        name, labels = spec.output.name, len(spec.labels)
        if spec.output.activation == "index":
            if len(shape) == 3 or (len(shape) == 4 and self._channels(shape) == 1):
                return
            understood = "class indices (N, H, W), as activation 'index' says"
        elif len(shape) == 4 and self._channels(shape) == 1 and labels <= 2:
            if spec.output.activation != "softmax":
                return
            understood = "several channels, as activation 'softmax' says; for one channel it is 'sigmoid' or 'none'"
        elif len(shape) == 4 and self._channels(shape) == labels:
            return
        else:
            layout = "(N, H, W, C)" if self._is_nhwc else "(N, C, H, W)"
            understood = f"scores {layout} with C = {labels}, the number of labels"
            understood += ", or C = 1" if labels == 2 else ""
            understood += "; with activation 'index', class indices (N, H, W)"
        raise ModelError(
            f"output '{name}' of the network has the shape {shape}, which is no segmentation as its description "
            f"has it: expected {understood}"
        )

    def __call__(self, scores: npt.NDArray[np.generic], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The class map, (H, W), of one picture of this size from its scores (C, h, w), (h, w, C) or (h, w)."""
        if self._spec.output.activation == "index":
            indices = scores if scores.ndim == 2 else scores[..., 0] if self._is_nhwc else scores[0]
            return self._from_indices(self._covered(indices, size_wh), size_wh)
        if self._is_nhwc:
            scores = scores.transpose(2, 0, 1)
        covered = self._covered(scores, size_wh).astype(np.float32, copy=False)
        return self._binary(covered[0], size_wh) if len(covered) == 1 else self._multiclass(covered, size_wh)

    def indices(self, output: npt.NDArray[np.generic], size_wh: tuple[int, int]) -> npt.NDArray[np.uint16]:
        """What a network that gives class indices says of one picture of this size, (H, W), also where it is no class.

        output: (h, w), (1, h, w) or (h, w, 1). An index that 16 bits do not hold becomes 65535.
        """
        flat = output if output.ndim == 2 else output[..., 0] if self._is_nhwc else output[0]
        covered = self._covered(flat, size_wh)
        most = np.iinfo(np.uint16).max
        small = np.where((covered >= 0) & (covered < most), covered, most).astype(np.uint16)  # type: ignore[operator]
        enlarged: npt.NDArray[np.uint16] = cv2.resize(small, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
        return enlarged

    def _channels(self, shape: tuple[int, ...]) -> int:
        return shape[-1] if self._is_nhwc else shape[1]

    def _covered(self, scores: npt.NDArray[np.generic], size_wh: tuple[int, int]) -> npt.NDArray[np.generic]:
        """The part of the scores that the picture covers: a letterbox's borders are cut off."""
        network = self._spec.input
        left, top, width, height = network.placement(*size_wh)
        if (width, height) == (network.width, network.height):
            return scores
        y_scale, x_scale = scores.shape[-2] / network.height, scores.shape[-1] / network.width
        rows = slice(round(top * y_scale), max(round((top + height) * y_scale), round(top * y_scale) + 1))
        columns = slice(round(left * x_scale), max(round((left + width) * x_scale), round(left * x_scale) + 1))
        return scores[..., rows, columns]

    def _from_indices(self, indices: npt.NDArray[np.generic], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
        valid = (indices >= 0) & (indices < len(self._spec.labels))  # type: ignore[operator]
        small = np.where(valid, indices, NO_CLASS).astype(np.uint8)
        return cv2.LUT(cv2.resize(small, size_wh, interpolation=cv2.INTER_NEAREST_EXACT), self._visible)

    def _binary(self, scores_hw: npt.NDArray[np.float32], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
        limit = 0.5 if self._threshold is None else self._threshold
        if self._spec.output.activation == "sigmoid":
            limit = -math.inf if limit <= 0 else math.inf if limit >= 1 else math.log(limit / (1 - limit))
        # the largest array of all: a new one for every picture would cost more than filling it
        self._enlarged = cv2.resize(np.ascontiguousarray(scores_hw), size_wh, dst=self._enlarged)
        mask = self._enlarged >= np.float32(limit)
        positive = int(self._visible[len(self._spec.labels) - 1])
        negative = int(self._visible[0]) if len(self._spec.labels) == 2 else self.background
        # what np.where(mask, positive, negative) gives, in a hundredth of its time
        return mask.view(np.uint8) * np.uint8(positive ^ negative) ^ np.uint8(negative)

    def _multiclass(self, scores_chw: npt.NDArray[np.float32], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
        classes = cv2.LUT(_argmax_of_bilinear(scores_chw, size_wh), self._visible)
        if self._threshold:
            certainty = cv2.resize(self._best_probability(scores_chw), size_wh)
            classes[certainty < self._threshold] = self.background
        return classes

    def _best_probability(self, scores_chw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        best: npt.NDArray[np.float32] = scores_chw.max(axis=0)
        if self._spec.output.activation == "softmax":
            return np.reciprocal(np.exp(scores_chw - best).sum(axis=0))
        return np.reciprocal(1.0 + np.exp(-best)) if self._spec.output.activation == "sigmoid" else best


def _argmax_of_bilinear(scores_chw: npt.NDArray[np.float32], size_wh: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """`argmax` over channels of the bilinear enlargement of (C, h, w) scores to size_wh, as (H, W) uint8.

    Pixel centres are at half coordinates, as in OpenCV and in PyTorch with align_corners=False. Where the four scores
    around a pixel have their maximum in the same class, so has every mix of them: only pixels along class borders
    are interpolated.
    """
    channels, height, width = scores_chw.shape
    best = np.pad(scores_chw.argmax(axis=0).astype(np.uint8), 1, mode="edge")
    corners = best[:-1, :-1], best[:-1, 1:], best[1:, :-1], best[1:, 1:]
    settled = (corners[0] == corners[1]) & (corners[0] == corners[2]) & (corners[0] == corners[3])

    y_cell, y_weight = _cells(height, size_wh[1])
    x_cell, x_weight = _cells(width, size_wh[0])
    classes = corners[0][y_cell][:, x_cell]
    y_open, x_open = np.nonzero(~settled[y_cell][:, x_cell])

    by_pixel = np.ascontiguousarray(scores_chw.reshape(channels, -1).T)
    for start in range(0, len(y_open), _CHUNK_PIXELS):
        y, x = y_open[start : start + _CHUNK_PIXELS], x_open[start : start + _CHUNK_PIXELS]
        y0, y1 = np.clip(y_cell[y] - 1, 0, None) * width, np.clip(y_cell[y], None, height - 1) * width
        x0, x1 = np.clip(x_cell[x] - 1, 0, None), np.clip(x_cell[x], None, width - 1)
        wy, wx = y_weight[y][:, None], x_weight[x][:, None]
        upper = by_pixel[y0 + x0] * (1 - wx) + by_pixel[y0 + x1] * wx
        lower = by_pixel[y1 + x0] * (1 - wx) + by_pixel[y1 + x1] * wx
        classes[y, x] = (upper * (1 - wy) + lower * wy).argmax(axis=1)
    return classes


def _cells(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """For each target pixel: between which source pixels it lies (cell n: n - 1 and n), and how far along."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    lower = np.floor(position)
    return np.clip(lower.astype(np.intp) + 1, 0, source), (position - lower).astype(np.float32)
