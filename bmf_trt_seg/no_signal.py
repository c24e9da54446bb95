"""The mark on a frame that is repeated because its camera is away."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["mark_no_signal"]


def mark_no_signal(luma_hw: npt.NDArray[np.uint8]) -> None:
    """Write 'no signal' over a darkened band at the top of a picture, (H, W) uint8."""
    band = luma_hw[: max(12, len(luma_hw) // 12)]
    band[:] = band // 4
    scale = band.shape[0] / 40
    cv2.putText(
        luma_hw, "no signal", (band.shape[0] // 3, int(band.shape[0] * 0.75)), cv2.FONT_HERSHEY_SIMPLEX, scale, 235,
        max(1, round(scale * 2)), cv2.LINE_AA,
    )  # fmt: skip
