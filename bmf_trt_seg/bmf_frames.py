"""BMF's VideoFrame and our FramePlanes: views of one as the other, conversion, allocation, properties."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, replace
from typing import Any

import bmf.hmp as hmp
import numpy as np
import numpy.typing as npt
from bmf import VideoFrame
from bmf.lib._bmf.sdk import ffmpeg

from bmf_trt_seg.colors import Matrix, Range
from bmf_trt_seg.errors import FrameError
from bmf_trt_seg.frames import FramePlanes, PixelFormat, plane_shapes

__all__ = ["Picture", "new_picture", "picture_of"]

_NATIVE: dict[int, PixelFormat] = {int(hmp.kPF_YUV420P): "yuv420p", int(hmp.kPF_NV12): "nv12"}
# FFmpeg's old formats that say "full range" themselves; BMF hands their numbers through without a name
_YUVJ420P = 12
_FULL_RANGE_FORMATS = {_YUVJ420P, 13, 14, 32}
_HAS_PALETTE, _IS_RGB = 1 << 1, 1 << 5  # AV_PIX_FMT_FLAG_PAL, AV_PIX_FMT_FLAG_RGB
_MATRICES: dict[Any, Matrix] = {
    hmp.kCS_BT709: "bt709",
    hmp.kCS_SMPTE240M: "bt709",
    hmp.kCS_BT470BG: "bt601",
    hmp.kCS_SMPTE170M: "bt601",
    hmp.kCS_FCC: "bt601",
    hmp.kCS_BT2020_NCL: "bt2020",
    hmp.kCS_BT2020_CL: "bt2020",
}
_HD_HEIGHT = 720  # an untagged stream of this height or more is BT.709, as players have it


@dataclass(frozen=True)
class Picture:
    """A BMF frame in host memory with its planes, which are views and live as long as the frame.

    Of a frame that came in the memory of a GPU, this is a copy; `planes.on_device` are views of the original.
    """

    frame: VideoFrame
    planes: FramePlanes
    info: Any  # hmp.PixelInfo for frames that are drawn from this one


def picture_of(frame: VideoFrame) -> Picture:
    """The planes of a decoded frame; without a copy if it is YUV420P, YUVJ420P or NV12.

    Any other format is converted to YUV420P of 8 bits by swscale: 4:2:2 and 4:4:4 lose chroma samples, 10 bits are
    rounded to 8; matrix and range stay. RGB becomes BT.601, and grey what it is, in limited range. Raises FrameError
    for a format that cannot be converted.
    """
    if frame.frame().device().type() == hmp.kCUDA:
        host = frame.cpu()
        host.copy_props(frame)
        copied = picture_of(host)
        return replace(copied, planes=replace(copied.planes, on_device=_on_device(frame, copied.planes)))
    picture = frame.frame()
    source, number = picture.pix_info(), int(picture.format())
    is_full = source.range == hmp.kCR_JPEG
    if number in _NATIVE or number == _YUVJ420P:
        pixel_format = _NATIVE.get(number, "yuv420p")
        is_full = is_full or number == _YUVJ420P
        info = source if number in _NATIVE else hmp.PixelInfo(hmp.kPF_YUV420P, source.space, hmp.kCR_JPEG)
        return Picture(frame, _planes(frame, pixel_format, source.space, is_full), info)

    is_rgb, is_grey = _is_rgb(number), _format_name(number).startswith("gray")
    is_full = (is_full or number in _FULL_RANGE_FORMATS) and not is_rgb and not is_grey
    name = "pc" if is_full else "tv"
    # swscale is told both ranges: by itself it takes some formats for full range, and some tags for nothing
    ranges = f"in_range={name}:out_range={name}"
    if is_rgb:
        ranges = "out_range=tv:out_color_matrix=bt601"
    elif is_grey:
        ranges = "in_range=pc:out_range=tv"
    try:
        converted = ffmpeg.siso_filter(frame, f"scale={ranges},format=yuv420p")
    except RuntimeError as error:
        raise FrameError(
            f"pictures of pixel format {_format_name(number)} cannot be converted to yuv420p: {error}"
        ) from error
    converted.copy_props(frame)
    space = hmp.kCS_SMPTE170M if is_rgb else source.space
    info = hmp.PixelInfo(hmp.kPF_YUV420P, space, hmp.kCR_JPEG if is_full else hmp.kCR_MPEG)
    return Picture(converted, _planes(converted, "yuv420p", space, is_full), info)


def new_picture(like: Picture, width: int, height: int) -> Picture:
    """A frame in host memory of the format, colour space, pts and time base of `like`; its pixels undefined."""
    frame = VideoFrame(hmp.Frame(width, height, like.info))
    frame.copy_props(like.frame)
    planes = _planes(frame, like.planes.pixel_format, like.info.space, like.planes.value_range == "full")
    return Picture(frame, planes, like.info)


def _planes(frame: VideoFrame, pixel_format: PixelFormat, space: Any, is_full: bool) -> FramePlanes:
    matrix = _MATRICES.get(space, "bt709" if frame.height >= _HD_HEIGHT else "bt601")
    value_range: Range = "full" if is_full else "limited"
    shapes = plane_shapes(pixel_format, frame.width, frame.height)
    planes = tuple(_plane(frame.frame().plane(index), shape) for index, shape in enumerate(shapes))
    return FramePlanes(pixel_format, frame.width, frame.height, planes, matrix, value_range)


def _plane(tensor: Any, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    view: npt.NDArray[np.uint8] = tensor.numpy()
    if view.shape[:2] != shape[:2]:
        # BMF rounds the size of chroma planes down; FFmpeg, whose buffer a decoded frame is, rounds it up
        if view.strides[0] < shape[1] * view.shape[2]:
            raise FrameError(
                f"a frame of odd size that did not come from a decoder has chroma of {view.shape[:2]} only"
            )
        view = np.lib.stride_tricks.as_strided(view, (*shape[:2], view.shape[2]), view.strides)
    return view if len(shape) == 3 else view[..., 0]


def _on_device(frame: VideoFrame, planes: FramePlanes) -> tuple[Any, ...] | None:
    """The planes of a CUDA frame for PyTorch, through DLPack, without a copy; None if they are of other shapes."""
    try:
        from bmf_trt_seg.bmf_tensors import shared
    except ImportError:  # no PyTorch: the copy in host memory does
        return None
    views = [shared(frame.frame().plane(index)) for index in range(frame.frame().nplanes())]
    views = [view[..., 0] if view.ndim == 3 and view.shape[2] == 1 else view for view in views]
    return tuple(views) if [tuple(view.shape) for view in views] == [plane.shape for plane in planes.planes] else None


def _format_name(number: int) -> str:
    """FFmpeg's name of a pixel format; BMF has names for a few of them only."""
    name: bytes | None = _libavutil().av_get_pix_fmt_name(number)
    return name.decode() if name else f"number {number}"


def _is_rgb(number: int) -> bool:
    return bool(_flags(number) & (_IS_RGB | _HAS_PALETTE))


def _flags(number: int) -> int:
    descriptor = _libavutil().av_pix_fmt_desc_get(number)
    return int(descriptor.contents.flags) if descriptor else 0


class _PixelFormatDescriptor(ctypes.Structure):
    """The beginning of AVPixFmtDescriptor of libavutil 56."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("components", ctypes.c_uint8),
        ("log2_chroma_width", ctypes.c_uint8),
        ("log2_chroma_height", ctypes.c_uint8),
        ("flags", ctypes.c_uint64),
    )


@functools.cache
def _libavutil() -> ctypes.CDLL:
    """The libavutil that BMF itself is linked with."""
    library = ctypes.CDLL("libavutil.so.56")
    library.av_get_pix_fmt_name.restype = ctypes.c_char_p
    library.av_pix_fmt_desc_get.restype = ctypes.POINTER(_PixelFormatDescriptor)
    return library
