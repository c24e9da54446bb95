"""Colours: hex notation, a default palette, and RGB to Y'CbCr as a stream's matrix and range say."""

from __future__ import annotations

import colorsys
import re
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "Matrix",
    "Range",
    "default_palette",
    "parse_hex",
    "rgb_to_ycbcr",
    "rgb_to_ycbcr_matrix",
    "ycbcr_to_rgb_matrix",
]

Matrix = Literal["bt601", "bt709", "bt2020"]
Range = Literal["limited", "full"]

# Kr and Kb of ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance)
_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


def parse_hex(text: str) -> tuple[int, int, int]:
    """'#rrggbb' as (red, green, blue), 0 to 255 each; ValueError for anything else."""
    if not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise ValueError(f"a colour is written #rrggbb, not {text!r}")
    value = int(text[1:], 16)
    return value >> 16, value >> 8 & 255, value & 255


def default_palette(count: int) -> list[str]:
    """`count` colours '#rrggbb' that are far apart: the golden angle around the hue circle, index 0 black."""
    palette = ["#000000"]
    for index in range(1, count):
        hue = (0.36 + index * 0.6180339887) % 1.0
        value = 0.95 if index % 2 else 0.75
        red, green, blue = (round(channel * 255) for channel in colorsys.hsv_to_rgb(hue, 0.8, value))
        palette.append(f"#{red:02x}{green:02x}{blue:02x}")
    return palette[:count]


def _ycbcr_scale_offset(value_range: Range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scale and offset from Y' in 0..1 and Cb, Cr in -0.5..0.5 to 8-bit code values."""
    if value_range == "limited":
        return np.array([219.0, 224.0, 224.0]), np.array([16.0, 128.0, 128.0])
    return np.array([255.0, 255.0, 255.0]), np.array([0.0, 128.0, 128.0])


def _rgb_to_ypbpr(matrix: Matrix) -> npt.NDArray[np.float64]:
    kr, kb = _LUMA_WEIGHTS[matrix]
    luma = np.array([kr, 1.0 - kr - kb, kb])
    blue = (np.array([0.0, 0.0, 1.0]) - luma) / (2.0 * (1.0 - kb))
    red = (np.array([1.0, 0.0, 0.0]) - luma) / (2.0 * (1.0 - kr))
    return np.stack([luma, blue, red])


def rgb_to_ycbcr(rgb: tuple[int, int, int], matrix: Matrix, value_range: Range) -> tuple[int, int, int]:
    """One 8-bit R'G'B' colour as 8-bit Y'CbCr code values (ITU-R BT.601, BT.709, BT.2020)."""
    scale, offset = _ycbcr_scale_offset(value_range)
    codes = np.rint(_rgb_to_ypbpr(matrix) @ (np.array(rgb) / 255.0) * scale + offset)
    y, cb, cr = np.clip(codes, 0, 255).astype(int)
    return int(y), int(cb), int(cr)


def rgb_to_ycbcr_matrix(matrix: Matrix, value_range: Range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The affine map from R'G'B' in 0..1 to 8-bit Y'CbCr code values: `ycbcr = weights @ rgb + bias`.

    Returns weights (3, 3) and bias (3,), float64.
    """
    scale, offset = _ycbcr_scale_offset(value_range)
    return _rgb_to_ypbpr(matrix) * scale[:, None], offset


def ycbcr_to_rgb_matrix(matrix: Matrix, value_range: Range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The affine map from 8-bit Y'CbCr code values to R'G'B' in 0..1: `rgb = weights @ ycbcr + bias`.

    Returns weights (3, 3) and bias (3,), float64.
    """
    scale, offset = _ycbcr_scale_offset(value_range)
    weights = np.linalg.inv(_rgb_to_ypbpr(matrix)) / scale
    return weights, -weights @ offset
