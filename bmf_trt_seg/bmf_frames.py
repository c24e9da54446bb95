"""BMF's VideoFrame and our FramePlanes: views of one as the other, conversion, allocation, properties."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import bmf.hmp as hmp
import numpy as np
import numpy.typing as npt
from bmf import VideoFrame
from bmf.lib._bmf.sdk import ffmpeg

from bmf_trt_seg.colors import Matrix, Range
from bmf_trt_seg.errors import FrameError
from bmf_trt_seg.frames import FramePlanes, PixelFormat, plane_shapes

if TYPE_CHECKING:
    import torch

__all__ = ["Picture", "new_device_picture", "new_picture", "picture_of", "watched"]

_NATIVE: dict[int, PixelFormat] = {int(hmp.kPF_YUV420P): "yuv420p", int(hmp.kPF_NV12): "nv12"}
_ON_DEVICE: dict[int, PixelFormat] = {**_NATIVE, int(hmp.kPF_P010LE): "p010"}
# FFmpeg's old formats that say "full range" themselves; BMF hands their numbers through without a name
_YUVJ420P = 12
_FULL_RANGE_FORMATS = {_YUVJ420P, 13, 14, 32}
_HAS_PALETTE, _IS_RGB = 1 << 1, 1 << 5  # AV_PIX_FMT_FLAG_PAL, AV_PIX_FMT_FLAG_RGB
_MATRICES: dict[int, Matrix] = {
    int(hmp.kCS_BT709): "bt709",
    int(hmp.kCS_SMPTE240M): "bt709",
    int(hmp.kCS_BT470BG): "bt601",
    int(hmp.kCS_SMPTE170M): "bt601",
    int(hmp.kCS_FCC): "bt601",
    int(hmp.kCS_BT2020_NCL): "bt2020",
    int(hmp.kCS_BT2020_CL): "bt2020",
}
_CUDA, _FULL = int(hmp.kCUDA), int(hmp.kCR_JPEG)  # on the way of every frame: BMF's enumerations compare slowly
_HD_HEIGHT = 720  # an untagged stream of this height or more is BT.709, as players have it


class Picture(NamedTuple):
    """A BMF frame with its planes, which are views and live as long as the frame."""

    frame: VideoFrame
    planes: FramePlanes
    info: Any  # hmp.PixelInfo for frames that are drawn from this one


def picture_of(frame: VideoFrame, device: torch.device | None = None) -> Picture:
    """The planes of a frame, in host memory; without a copy if it is YUV420P, YUVJ420P or NV12.

    A frame of YUV420P, NV12 or P010 on the GPU `device` stays there; from another place it is copied to the host. Any
    other format is converted to YUV420P of 8 bits by swscale: 4:2:2 and 4:4:4 lose chroma samples, 10 bits are rounded
    to 8; matrix and range stay. RGB becomes BT.601, and grey what it is, in limited range. Raises FrameError for a
    format that cannot be converted.
    """
    if int(frame.frame().device().type()) == _CUDA:
        picture = _device_picture(frame, device) if device is not None else None
        if picture is not None:
            return picture
        copied = frame.cpu()
        copied.copy_props(frame)
        return picture_of(copied)
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


def new_picture(like: Picture, width: int, height: int, *, pinned: bool = False) -> Picture:
    """A frame in host memory of the format, colour space, pts and time base of `like`; its pixels undefined.

    pinned: in page-locked memory, which a GPU can copy to while the program goes on; its planes have no padding.
    """
    pixel_format: PixelFormat = "nv12" if like.planes.pixel_format == "p010" else like.planes.pixel_format
    shapes = plane_shapes(pixel_format, width, height)
    if pinned:
        memory = [hmp.empty([*shape, 1][:3], dtype=hmp.uint8, pinned_memory=True) for shape in shapes]
        frame = VideoFrame(hmp.Frame(memory, width, height, like.info))
    else:
        frame = VideoFrame(hmp.Frame(width, height, like.info))
    frame.copy_props(like.frame)
    planes = tuple(_plane(frame.frame().plane(index), shape) for index, shape in enumerate(shapes))
    return Picture(frame, _like(like, frame, pixel_format, planes), like.info)


def new_device_picture(like: Picture, width: int, height: int, device: torch.device) -> Picture:
    """An NV12 frame in the memory of a GPU, which is what NVENC takes, otherwise as `new_picture`.

    It comes from BMF's pool, which orders nothing between streams.
    """
    from bmf_trt_seg.bmf_tensors import device_planes

    planes, info = like.planes, like.info
    if planes.pixel_format not in ("nv12", "p010"):  # of which `info` is NV12's
        info = hmp.PixelInfo(hmp.kPF_NV12, info.space, info.range)
    native = hmp.Frame(width, height, info, device=f"cuda:{device.index or 0}")
    frame = VideoFrame(native)
    frame.copy_props(like.frame)
    return Picture(frame, _viewed(frame, "nv12", device_planes(native), planes.matrix, planes.value_range), info)


def watched(frame: VideoFrame, gone: Callable[[], None]) -> VideoFrame:
    """A frame in host memory as another of the same memory; `gone` is called, in any thread, when that is let go of.

    A frame on a GPU is given back as it is, and `gone` is never called.
    """
    picture = frame.frame()
    if picture.device().type() != hmp.kCPU:
        return frame
    witness = picture.plane(0).numpy().view(_Witness)
    weakref.finalize(witness, gone).atexit = False
    planes = [hmp.from_numpy(witness), *(picture.plane(index) for index in range(1, picture.nplanes()))]
    made = VideoFrame(hmp.Frame(planes, picture.width(), picture.height(), picture.pix_info()))
    made.copy_props(frame)
    return made


class _Witness(np.ndarray[Any, np.dtype[np.uint8]]):
    """Memory whose end can be seen: plain arrays take no weak references."""


def _like(like: Picture, frame: VideoFrame, pixel_format: PixelFormat, planes: tuple[Any, ...]) -> FramePlanes:
    colors = like.planes.matrix, like.planes.value_range
    return FramePlanes(pixel_format, frame.width, frame.height, planes, *colors, frame)


def _device_picture(frame: VideoFrame, device: torch.device) -> Picture | None:
    """A CUDA frame without a copy; None if its format or shape is not handled there."""
    from bmf_trt_seg.bmf_tensors import device_planes

    native = frame.frame()
    info, pixel_format = native.pix_info(), _ON_DEVICE.get(int(native.format()))
    if pixel_format is None:
        return None
    planes = device_planes(native)
    if planes[0].device != device or frame.width % 2 or frame.height % 2:
        return None  # BMF rounds the size of chroma down
    matrix, value_range = _colors(info.space, int(info.range) == _FULL, frame.height)
    view = _viewed(frame, pixel_format, planes, matrix, value_range)
    if pixel_format == "p010":
        info = hmp.PixelInfo(hmp.kPF_NV12, info.space, info.range)
    return Picture(frame, view, info)


def _viewed(
    frame: VideoFrame, pixel_format: PixelFormat, planes: tuple[Any, ...], matrix: Matrix, value_range: Range
) -> FramePlanes:
    """A frame on a GPU, of whose planes `device_planes` gives the same tuple again and again: it is checked once."""
    key = id(planes), pixel_format, matrix, value_range
    found = _views.get(key)
    if found is None:
        if len(_views) >= _MOST_VIEWS:
            _views.clear()
        found = _views[key] = FramePlanes(pixel_format, frame.width, frame.height, planes, matrix, value_range)
    return found.owned_by(frame)


_views: dict[tuple[int, str, str, str], FramePlanes] = {}
"""By the identity of their tuples of planes, which are other tuples' only after an entry has gone."""
_MOST_VIEWS = 4096


def _planes(frame: VideoFrame, pixel_format: PixelFormat, space: Any, is_full: bool) -> FramePlanes:
    shapes = plane_shapes(pixel_format, frame.width, frame.height)
    planes = tuple(_plane(frame.frame().plane(index), shape) for index, shape in enumerate(shapes))
    return _described(frame, pixel_format, space, is_full, planes)


def _described(
    frame: VideoFrame, pixel_format: PixelFormat, space: Any, is_full: bool, planes: tuple[Any, ...]
) -> FramePlanes:
    return FramePlanes(pixel_format, frame.width, frame.height, planes, *_colors(space, is_full, frame.height), frame)


def _colors(space: Any, is_full: bool, height: int) -> tuple[Matrix, Range]:
    matrix = _MATRICES.get(int(space), "bt709" if height >= _HD_HEIGHT else "bt601")
    return matrix, "full" if is_full else "limited"


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
