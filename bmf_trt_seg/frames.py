"""FramePlanes: one picture as planes, without a copy, in host memory or on a GPU.

It knows pixel formats, sizes and colour spaces; it does not know where the picture came from or what is done with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.colors import Matrix, Range, rgb_to_ycbcr
from bmf_trt_seg.errors import FrameError

__all__ = ["FramePlanes", "PixelFormat", "allocate_planes", "chroma_size", "plane_shapes"]

PixelFormat = Literal["yuv420p", "nv12", "p010", "rgb24"]
"""p010, NV12 of 10 bits in the upper ones of 16, exists on GPUs only: it is narrowed before anything else is done."""


def chroma_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of a 4:2:0 chroma plane: half, rounded up."""
    return (width + 1) // 2, (height + 1) // 2


def plane_shapes(pixel_format: PixelFormat, width: int, height: int) -> list[tuple[int, ...]]:
    """The shape of every plane's array: (H, W) for one component, (H, W, C) for interleaved ones."""
    chroma_width, chroma_height = chroma_size(width, height)
    if pixel_format == "yuv420p":
        return [(height, width), (chroma_height, chroma_width), (chroma_height, chroma_width)]
    if pixel_format in ("nv12", "p010"):
        return [(height, width), (chroma_height, chroma_width, 2)]
    return [(height, width, 3)]


@dataclass(frozen=True)
class FramePlanes:
    """One picture.

    planes: of the shapes `plane_shapes` gives, uint8 (p010: uint16), rows possibly padded, components contiguous within
    a row; arrays in host memory, or PyTorch tensors on a GPU. They are views: whoever made the frame owns the memory,
    and must outlive it; `owner`, if that is more than nobody, keeps it.
    """

    pixel_format: PixelFormat
    width: int
    height: int
    planes: tuple[Any, ...]
    matrix: Matrix = "bt709"
    value_range: Range = "limited"
    owner: Any = None

    def __post_init__(self) -> None:
        expected = plane_shapes(self.pixel_format, self.width, self.height)
        found = [tuple(plane.shape) for plane in self.planes]
        if found != expected:
            raise FrameError(
                f"a {self.pixel_format} picture of {self.width}x{self.height} has planes {expected}, got {found}"
            )

    def __str__(self) -> str:
        return f"{self.pixel_format} {self.width}x{self.height} {self.matrix} {self.value_range}"

    def owned_by(self, owner: Any) -> FramePlanes:
        """The same with another owner; it is not checked again."""
        other = object.__new__(FramePlanes)
        other.__dict__.update(self.__dict__, owner=owner)
        return other

    @property
    def is_on_device(self) -> bool:
        """Whether the planes are tensors on a GPU."""
        return not isinstance(self.planes[0], np.ndarray)

    @property
    def is_subsampled(self) -> bool:
        """Whether planes after the first hold one sample for 2x2 pixels."""
        return self.pixel_format != "rgb24"

    def plane_colors(self, rgb: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """An R'G'B' colour as code values of each plane's components."""
        if self.pixel_format == "rgb24":
            return [rgb]
        y, cb, cr = rgb_to_ycbcr(rgb, self.matrix, self.value_range)
        return [(y,), (cb, cr)] if self.pixel_format == "nv12" else [(y,), (cb,), (cr,)]

    def resized(self, width: int, height: int) -> FramePlanes:
        """A copy of another size (bilinear), where this one is."""
        shapes = plane_shapes(self.pixel_format, width, height)
        resize = _resized_tensor if self.is_on_device else _resized
        planes = tuple(resize(plane, shape[0], shape[1]) for plane, shape in zip(self.planes, shapes, strict=True))
        return replace(self, width=width, height=height, planes=planes)

    def copy_from(self, source: FramePlanes, left: int = 0) -> None:
        """Copy a picture of the same format into this one, `left` (even) columns from its left border.

        Where this picture has one more row or column than the source, the source's last is repeated: 4:2:0 video
        wants even sizes.
        """
        for index, (target, plane) in enumerate(zip(self.planes, source.planes, strict=True)):
            offset = left // 2 if index and self.is_subsampled else left
            height, width = plane.shape[:2]
            target[:height, offset : offset + width] = plane
        self.repeat_edge(left + source.width, source.height)

    def repeat_edge(self, width: int, height: int) -> None:
        """If this picture is one column or row larger than width and height, fill that with the one before it."""
        for index, plane in enumerate(self.planes):
            if index == 0 or not self.is_subsampled:  # chroma planes of both sizes are the same
                if width % 2 and plane.shape[1] > width:
                    plane[:, width] = plane[:, width - 1]
                if height % 2 and plane.shape[0] > height:
                    plane[height] = plane[height - 1]


def allocate_planes(like: FramePlanes, width: int, height: int) -> FramePlanes:
    """A new picture in host memory of the format and colour space of `like`, its pixels undefined."""
    shapes = plane_shapes(like.pixel_format, width, height)
    planes = tuple(np.empty(shape, np.uint8) for shape in shapes)
    return replace(like, width=width, height=height, planes=planes)


def _resized(plane: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    return cv2.resize(plane, (width, height))


def _resized_tensor(plane: Any, height: int, width: int) -> Any:
    import torch

    nchw = (plane[None, None] if plane.ndim == 2 else plane.permute(2, 0, 1)[None]).float()
    resized = torch.nn.functional.interpolate(nchw, (height, width), mode="bilinear", align_corners=False)[0].round_()
    return (resized[0] if plane.ndim == 2 else resized.permute(1, 2, 0)).to(plane.dtype).contiguous()
