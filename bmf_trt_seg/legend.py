"""The legend: names and colours of classes, as a box in a picture's corner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from bmf_trt_seg.colors import parse_hex
from bmf_trt_seg.frames import FramePlanes

__all__ = ["Legend"]


class Legend:
    """Lists the classes seen so far, by index, so that it grows but never flickers."""

    def __init__(self, labels: dict[int, str], colors: dict[int, str], seen: set[int] | None = None) -> None:
        """labels and colors ('#rrggbb') by class index; seen: a set that others add to, or go on with, too."""
        self._labels = labels
        self._colors = colors
        self._seen: set[int] = set() if seen is None else seen
        self._box: _Box | None = None
        self._box_is_for: object = None

    def draw(self, target: FramePlanes, left: int, present: list[int]) -> None:
        """Draw into the top left corner of `target`, `left` columns in; `present`: the classes in this picture."""
        self._seen.update(present)
        shown = tuple(sorted(self._seen & self._labels.keys()))
        if not shown:
            return
        key = shown, target.width, target.height, target.pixel_format, target.matrix, target.value_range
        if self._box is None or self._box_is_for != key:
            self._box, self._box_is_for = self._new_box(shown, target, left), key
        self._box.draw(target, left)

    def _new_box(self, shown: tuple[int, ...], target: FramePlanes, left: int) -> _Box:
        size = max(10, target.height // 32)
        font = ImageFont.load_default(size)
        margin, row, swatch = size // 2, size * 3 // 2, size
        rows = max(1, min(len(shown), (target.height - 3 * margin) // row))
        listed = [self._labels[index] for index in shown[:rows]]
        if rows < len(shown):
            listed[-1] = f"... {len(shown) - rows + 1} more"
        text_width = round(max(font.getlength(label) for label in listed))
        width = max(2, min(text_width + swatch + 3 * margin, target.width - left - 2 * margin))
        image = Image.new("RGBA", (_even(width), _even(rows * row + margin)), (0, 0, 0, 160))
        draw = ImageDraw.Draw(image)
        for number, label in enumerate(listed):
            top = margin + number * row
            if number < rows - 1 or rows == len(shown):
                color = parse_hex(self._colors[shown[number]])
                draw.rectangle((margin, top, margin + swatch - 1, top + swatch - 1), fill=(*color, 255))
            draw.text((2 * margin + swatch, top - size // 8), label, fill=(255, 255, 255, 255), font=font)
        return _Box.of(np.asarray(image), target, _even(margin))


@dataclass(frozen=True)
class _Box:
    """A picture with opacity, ready for planes of one format: colour times opacity, and what is let through."""

    margin: int
    paint: tuple[npt.NDArray[np.float32], ...]
    through: tuple[npt.NDArray[np.float32], ...]
    _tensors: dict[tuple[int, Any], tuple[Any, Any]] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, rgba: npt.NDArray[np.uint8], target: FramePlanes, margin: int) -> _Box:
        paint, through = [], []
        opacity = rgba[..., 3:].astype(np.float32) / 255.0
        for index, codes in enumerate(_plane_codes(rgba[..., :3], target)):
            shrink = index > 0 and target.is_subsampled
            alpha = _halved(opacity) if shrink else opacity
            color = _halved(codes) if shrink else codes
            shape = color.shape[:2] if target.planes[index].ndim == 2 else color.shape
            paint.append((color * alpha).reshape(shape))
            through.append(np.broadcast_to(1.0 - alpha, color.shape).reshape(shape))
        return cls(margin, tuple(paint), tuple(through))

    def draw(self, target: FramePlanes, left: int) -> None:
        for index, (plane, paint, through) in enumerate(zip(target.planes, self.paint, self.through, strict=True)):
            part = 2 if index > 0 and target.is_subsampled else 1
            y, x = self.margin // part, (self.margin + left) // part
            area = plane[y : y + paint.shape[0], x : x + paint.shape[1]]
            height, width = area.shape[:2]
            if target.is_on_device:
                factor, added = (values[:height, :width] for values in self._on_device(index, plane.device))
                area.copy_((area * factor + added).round_())
            else:
                area[...] = np.rint(area * through[:height, :width] + paint[:height, :width])

    def _on_device(self, index: int, device: Any) -> tuple[Any, Any]:
        """A plane's `through` and `paint` as tensors there."""
        import torch

        if (index, device) not in self._tensors:
            is_cuda = device.type == "cuda"  # from page-locked memory, so that nothing is waited for
            arrays = (torch.from_numpy(np.array(values)) for values in (self.through[index], self.paint[index]))
            factor, added = ((one.pin_memory() if is_cuda else one).to(device, non_blocking=True) for one in arrays)
            self._tensors[index, device] = factor, added
        return self._tensors[index, device]


def _plane_codes(rgb: npt.NDArray[np.uint8], target: FramePlanes) -> list[npt.NDArray[np.float32]]:
    """An (H, W, 3) picture as (H, W, components) code values for each plane, all of full size."""
    colors, where = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    codes = [target.plane_colors((int(red), int(green), int(blue))) for red, green, blue in colors]
    return [
        np.array([code[plane] for code in codes], np.float32)[where.ravel()].reshape(*rgb.shape[:2], -1)
        for plane in range(len(target.planes))
    ]


def _halved(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    height, width, components = values.shape
    mean: npt.NDArray[np.float32] = values.reshape(height // 2, 2, width // 2, 2, components).mean(axis=(1, 3))
    return mean


def _even(value: int) -> int:
    return value + value % 2
