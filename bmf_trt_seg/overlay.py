"""Drawing class maps on the planes of a picture, in the styles of `options.Style`.

Code values of a class's pixels come from one table per plane component, so a colour is blended the same way
everywhere. Chroma of 4:2:0 pictures is drawn only where all four pixels of a sample belong to one class: a pixel that
no mask touches keeps all its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.colors import parse_hex
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.legend import Legend
from bmf_trt_seg.options import Style

__all__ = ["Look", "Overlay"]

Mask = npt.NDArray[np.uint8]  # (H, W), 255 where something is to be drawn, else 0
_Table = npt.NDArray[np.uint8]  # (1, 256, components): a plane's code value before → after


@dataclass(frozen=True)
class Look:
    """How class maps are drawn. Colours are '#rrggbb'; `colors` maps the index of each class to show to its own."""

    colors: dict[int, str]
    labels: dict[int, str]
    style: Style = "blend"
    output: Literal["overlay", "mask"] = "overlay"
    alpha: float = 0.5
    background_color: str = "#00b140"
    legend: bool = False


class Overlay:
    """Draws class maps. Keeps nothing of a picture, but the classes seen so far for the legend."""

    def __init__(self, look: Look, seen: set[int] | None = None) -> None:
        """seen: as `Legend` takes it."""
        self._look = look
        self._tables: dict[object, list[_Table]] = {}
        self._legend = Legend(look.labels, look.colors, seen) if look.legend else None
        self._scratch = np.empty((2, 0, 0), np.uint8)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is drawn for a picture of this size."""
        if self._look.output == "overlay" and self._look.style == "sidebyside":
            return 2 * (width + width % 2), height
        return width, height

    def draw(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        """Write the picture, drawn on, into `target`: same format, `size` pixels or one more in each direction.

        frame is left as it is. map_hw: (H, W) uint8, class indices; an index without a colour is not drawn.
        """
        legend_left = 0
        if self._look.output == "mask":
            self._draw_mask(frame, map_hw, target)
        else:
            target.copy_from(frame)
            if self._look.style == "sidebyside":
                legend_left = target.width // 2
                self._draw_beside(frame, map_hw, target)
            elif self._look.style == "contour":
                self._draw_contour(frame, map_hw, target)
            elif self._look.style == "cutout":
                self._draw_cutout(frame, map_hw, target)
            elif self._look.style == "blur":
                self._draw_blur(frame, map_hw, target)
            else:
                self._draw_blend(frame, map_hw, target)
        if not legend_left:
            target.repeat_edge(frame.width, frame.height)  # as it is now that it is drawn on
        if self._legend is not None:
            self._legend.draw(target, legend_left, self._present(map_hw))

    def _present(self, map_hw: npt.NDArray[np.uint8]) -> list[int]:
        """Indices of the shown classes that occur in a map."""
        counts = cv2.calcHist([map_hw], [0], None, [256], [0, 256]).ravel()
        return [index for index in self._look.colors if counts[index]]

    def _draw_blend(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        for index, mask, window in self._masks(map_hw):
            tables = self._color_tables(frame, self._look.colors[index], self._look.alpha)
            _apply(tables, frame, target, mask, _covered(mask), window)

    def _draw_beside(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        drawn = replace(frame, planes=tuple(plane.copy() for plane in frame.planes))
        self._draw_blend(frame, map_hw, drawn)
        target.copy_from(drawn, target.width // 2)

    def _draw_contour(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        thickness = max(2, round(min(frame.width, frame.height) / 240))
        kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
        for index, mask, window in self._masks(map_hw):
            # inside the class, so that nothing beyond it is touched; none where the picture itself ends
            line = cv2.subtract(mask, self._inner(mask, kernel, window, map_hw.shape))
            chroma = cv2.bitwise_and(_covered(mask), _touched(line))
            _apply(self._color_tables(frame, self._look.colors[index], 1.0), frame, target, line, chroma, window)

    def _draw_cutout(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        outside = self._outside(map_hw)
        tables = self._color_tables(frame, self._look.background_color, 1.0)
        _apply(tables, frame, target, outside, _covered(outside), _whole(map_hw))

    def _draw_blur(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        outside = self._outside(map_hw)
        masks = [outside] + [_covered(outside) if frame.is_subsampled else outside] * (len(frame.planes) - 1)
        for plane, canvas, mask in zip(frame.planes, target.planes, masks, strict=True):
            height, width = plane.shape[:2]
            sigma = min(frame.width, frame.height) / 60 * width / frame.width
            cv2.copyTo(_blurred(plane, sigma), mask, canvas[:height, :width])

    def _draw_mask(self, frame: FramePlanes, map_hw: npt.NDArray[np.uint8], target: FramePlanes) -> None:
        for plane, codes in zip(target.planes, frame.plane_colors((0, 0, 0)), strict=True):
            plane[...] = codes if plane.ndim == 3 else codes[0]
        for index, mask, window in self._masks(map_hw):
            color = "#ffffff" if len(self._look.colors) == 1 else self._look.colors[index]
            _apply(self._color_tables(frame, color, 1.0), target, target, mask, _covered(mask), window)

    def _masks(self, map_hw: npt.NDArray[np.uint8]) -> Iterator[tuple[int, Mask, tuple[slice, slice]]]:
        """Each shown class that occurs, with its mask inside the window around it (even corners) and the window.

        A mask is valid until the next one is asked for.
        """
        indices = list(self._look.colors) if len(self._look.colors) == 1 else self._present(map_hw)
        for index in indices:
            mask = self._mask_of(map_hw, np.equal, index)
            left, top, width, height = cv2.boundingRect(mask)
            if width:
                left, right = left - left % 2, min(left + width + (left + width) % 2, map_hw.shape[1])
                top, bottom = top - top % 2, min(top + height + (top + height) % 2, map_hw.shape[0])
                window = slice(top, bottom), slice(left, right)
                yield index, mask[window], window

    def _outside(self, map_hw: npt.NDArray[np.uint8]) -> Mask:
        """Where no shown class is."""
        if len(self._look.colors) == 1:
            return self._mask_of(map_hw, np.not_equal, next(iter(self._look.colors)))
        table = np.full(256, 255, np.uint8)
        table[list(self._look.colors)] = 0
        return cv2.LUT(map_hw, table)

    def _mask_of(self, map_hw: npt.NDArray[np.uint8], comparison: np.ufunc, index: int) -> Mask:
        """Where the map compares to the index so. In memory that is kept: fresh memory costs twenty times the rest."""
        if self._scratch.shape[1:] != map_hw.shape:
            self._scratch = np.empty((2, *map_hw.shape), np.uint8)
        condition, mask = self._scratch
        comparison(map_hw, np.uint8(index), out=condition.view(np.bool_))
        return np.negative(condition, out=mask)  # 1 becomes 255

    def _inner(self, mask: Mask, kernel: Mask, window: tuple[slice, slice], shape: tuple[int, ...]) -> Mask:
        """The mask without its border; beyond the window lies nothing of the class, beyond the picture the unknown."""
        reach = kernel.shape[0] // 2
        rows, columns = window
        pads = (
            reach if rows.start > 0 else 0,
            reach if rows.stop < shape[0] else 0,
            reach if columns.start > 0 else 0,
            reach if columns.stop < shape[1] else 0,
        )
        padded = cv2.copyMakeBorder(mask, *pads, cv2.BORDER_CONSTANT, value=0)
        height, width = mask.shape
        return cv2.erode(padded, kernel)[pads[0] : pads[0] + height, pads[2] : pads[2] + width]

    def _color_tables(self, frame: FramePlanes, color: str, alpha: float) -> list[_Table]:
        """One table per plane that mixes a colour in: round((1 - alpha) * before + alpha * colour)."""
        key = color, alpha, frame.pixel_format, frame.matrix, frame.value_range
        if key not in self._tables:
            before = np.arange(256)[None, :, None]
            self._tables[key] = [
                np.rint((1.0 - alpha) * before + alpha * np.array(codes)).astype(np.uint8)
                for codes in frame.plane_colors(parse_hex(color))
            ]
        return self._tables[key]


def _whole(map_hw: npt.NDArray[np.uint8]) -> tuple[slice, slice]:
    return slice(0, map_hw.shape[0]), slice(0, map_hw.shape[1])


def _apply(
    tables: Sequence[_Table],
    frame: FramePlanes,
    target: FramePlanes,
    mask: Mask,
    chroma_mask: Mask,
    window: tuple[slice, slice],
) -> None:
    """Write each plane's table values into `target` where the mask (luma) or chroma mask is set within the window."""
    for index, (table, plane, canvas) in enumerate(zip(tables, frame.planes, target.planes, strict=True)):
        halved = index > 0 and frame.is_subsampled
        area = _chroma_window(window) if halved else window
        cv2.copyTo(cv2.LUT(plane[area], table), chroma_mask if halved else mask, canvas[area])


def _chroma_window(window: tuple[slice, slice]) -> tuple[slice, slice]:
    rows, columns = window
    return slice(rows.start // 2, (rows.stop + 1) // 2), slice(columns.start // 2, (columns.stop + 1) // 2)


def _halved(mask: Mask) -> Mask:
    """The mean of every 2x2 pixels; an odd last row or column counts twice."""
    height, width = mask.shape
    if height % 2 or width % 2:
        mask = cv2.copyMakeBorder(mask, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return cv2.resize(mask, (mask.shape[1] // 2, mask.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _covered(mask: Mask) -> Mask:
    """Chroma samples all of whose pixels are in the mask."""
    return cv2.threshold(_halved(mask), 254, 255, cv2.THRESH_BINARY)[1]


def _touched(mask: Mask) -> Mask:
    """Chroma samples any of whose pixels are in the mask."""
    return cv2.threshold(_halved(mask), 0, 255, cv2.THRESH_BINARY)[1]


def _blurred(plane: npt.NDArray[np.uint8], sigma: float) -> npt.NDArray[np.uint8]:
    """A wide Gaussian blur of `sigma` pixels.

    Done at a quarter of the size, where a small kernel is as wide: a tenth of the time, and not to be told apart.
    """
    height, width = plane.shape[:2]
    small = cv2.resize(plane, (max(1, width // 4), max(1, height // 4)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), max(1.0, sigma / 4)), (width, height))
