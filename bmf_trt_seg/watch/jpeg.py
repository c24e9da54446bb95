"""A picture's planes as a small JPEG file."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.colors import ycbcr_to_rgb_matrix
from bmf_trt_seg.frames import FramePlanes

__all__ = ["MOST_WIDTH", "jpeg_of"]

MOST_WIDTH = 640
"""In pixels; a wider picture is scaled down to it."""
_QUALITY = 80


def jpeg_of(picture: FramePlanes, most_width: int = MOST_WIDTH) -> bytes:
    """The picture as JPEG, in the colours that its matrix and range say.

    A picture on a GPU is copied to the host for it, beside what else the GPU does; it has to be finished.
    """
    width = min(picture.width, most_width)
    height = max(1, round(picture.height * width / picture.width))
    planes = _on_host(picture.planes) if picture.is_on_device else picture.planes
    scaled = [_scaled(plane, width, height) for plane in planes]
    if picture.is_subsampled:
        weights, bias = ycbcr_to_rgb_matrix(picture.matrix, picture.value_range)
        to_rgb = 255.0 * np.concatenate([weights, bias[:, None]], axis=1)
        bgr = cv2.transform(cv2.merge(scaled), to_rgb[::-1])
    else:
        bgr = cv2.cvtColor(scaled[0], cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes()


def _scaled(plane: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """A plane of that size: chroma grows to the size of luma, or shrinks less."""
    is_smaller = plane.shape[1] > width
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR)


def _on_host(planes: tuple[Any, ...]) -> tuple[npt.NDArray[np.uint8], ...]:
    if not planes[0].is_cuda:
        return tuple(plane.numpy() for plane in planes)
    import torch

    from bmf_trt_seg import cuda_streams

    # on the default stream, others' work would wait for the copy
    stream = cuda_streams.take(planes[0].device)
    try:
        with torch.cuda.stream(stream):
            return tuple(plane.cpu().numpy() for plane in planes)
    finally:
        cuda_streams.give_back(stream)
