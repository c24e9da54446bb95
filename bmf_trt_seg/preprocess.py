"""From pictures to a network's input: resize the planes, then convert the few pixels that are left.

Resizing first makes the colour conversion work on the network's 256² pixels and not on the video's millions.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.colors import ycbcr_to_rgb_matrix
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.spec import InputSpec

__all__ = ["Preprocess", "from_rgb_matrix"]


class Preprocess:
    """Turns pictures into the batch that an `InputSpec` describes."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self._from_rgb = from_rgb_matrix(spec)
        self._buffers: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None

    def __call__(self, frames: Sequence[FramePlanes]) -> npt.NDArray[np.generic]:
        """One batch, (N, 3, h, w) or (N, h, w, 3) in the spec's element type; it is valid until the next call."""
        spec = self._spec
        batch_nhwc, batch_nchw = self._batch_buffers(len(frames))
        for picture, frame in zip(batch_nhwc, frames, strict=True):
            left, top, width, height = spec.placement(frame.width, frame.height)
            if (width, height) != (spec.width, spec.height):
                picture[:] = self._border()
            picture[top : top + height, left : left + width] = self._converted(frame, width, height)
        if spec.layout == "nchw":
            for planes, picture in zip(batch_nchw, batch_nhwc, strict=True):
                cv2.split(picture, list(planes))
        batch = batch_nchw if spec.layout == "nchw" else batch_nhwc
        if spec.dtype == "uint8":
            return np.rint(batch * 255.0).astype(np.uint8)
        return batch.astype(spec.dtype, copy=False)

    def _batch_buffers(self, count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Room for a batch in both layouts, kept: fresh memory costs more than what is computed into it."""
        size = (self._spec.height, self._spec.width)
        if self._buffers is None or len(self._buffers[0]) < count:
            self._buffers = np.empty((count, *size, 3), np.float32), np.empty((count, 3, *size), np.float32)
        return self._buffers[0][:count], self._buffers[1][:count]

    def _converted(self, frame: FramePlanes, width: int, height: int) -> npt.NDArray[np.float32]:
        """The picture resized, (height, width, 3) float32, normalized and in the network's channel order."""
        codes = _stacked([_resized(plane, width, height) for plane in frame.planes]).astype(np.float32)
        if frame.is_subsampled:
            weights, bias = ycbcr_to_rgb_matrix(frame.matrix, frame.value_range)
        else:
            weights, bias = np.eye(3) / 255.0, np.zeros(3)
        rgb = cv2.transform(codes, np.column_stack([weights, bias]).astype(np.float32))
        # Y'CbCr holds colours that R'G'B' cannot: a network was trained on pictures without them
        np.clip(rgb, 0.0, 1.0, out=rgb)
        return rgb if self._from_rgb is None else cv2.transform(rgb, self._from_rgb)

    def _border(self) -> npt.NDArray[np.float32]:
        """What stands around a letterboxed picture: the mean colour, which is 0 once normalized."""
        return np.array(self._spec.mean if self._spec.dtype == "uint8" else (0.0, 0.0, 0.0), np.float32)


def from_rgb_matrix(spec: InputSpec) -> npt.NDArray[np.float32] | None:
    """What puts R'G'B' into the network's channel order and normalizes it, affine (3, 4); None if nothing does."""
    order = np.eye(3)[::-1] if spec.channel_order == "bgr" else np.eye(3)
    mean, std = (np.zeros(3), np.ones(3)) if spec.dtype == "uint8" else (np.array(spec.mean), np.array(spec.std))
    matrix = np.column_stack([order / std[:, None], -mean / std])
    return None if (matrix == np.eye(3, 4)).all() else matrix.astype(np.float32)


def _resized(plane: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Bilinear, after halving while the plane is more than twice too large in both directions.

    Plain bilinear would look at four pixels of dozens and shimmer from frame to frame; averaging over the whole
    area costs ten times as much as this.
    """
    while plane.shape[0] >= 2 * height and plane.shape[1] >= 2 * width:
        half = (plane.shape[1] // 2, plane.shape[0] // 2)
        if plane.shape[0] % 2 or plane.shape[1] % 2:  # the fast path of OpenCV is for exact halves
            plane = plane[: half[1] * 2, : half[0] * 2]
        plane = cv2.resize(plane, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)


def _stacked(planes: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Planes of one size, of one or several components, as one (H, W, 3)."""
    return planes[0] if len(planes) == 1 else cv2.merge(planes)
