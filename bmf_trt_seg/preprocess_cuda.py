"""`Preprocess` for pictures in the memory of a GPU: one kernel for many pictures."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bmf_trt_seg.colors import ycbcr_to_rgb_matrix
from bmf_trt_seg.cuda_kernels import BATCH, Kernels
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.preprocess import from_rgb_matrix
from bmf_trt_seg.spec import InputSpec

if TYPE_CHECKING:
    import torch

__all__ = ["CudaPreprocess", "narrowed"]

_FORMATS = {"yuv420p": 0, "nv12": 1, "rgb24": 2}
_ELEMENTS = {"float32": 0, "float16": 1, "uint8": 5}
_ALIGNED_NV12 = {(0, 0): (1, 2), (1, 0): (2, 2), (2, 1): (4, 4)}
"""Halvings of luma and chroma that have a kernel of their own, and to what it wants rows aligned, in bytes."""


class _Frame(ctypes.Structure):
    _fields_ = [("planes", ctypes.c_void_p * 3), ("strides", ctypes.c_int * 3), ("slot", ctypes.c_int)]


class _Halved(ctypes.Structure):
    _fields_ = [
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("halvings", ctypes.c_int),
        ("x_scale", ctypes.c_float),
        ("y_scale", ctypes.c_float),
    ]


class _Preprocess(ctypes.Structure):
    _fields_ = [
        ("frames", _Frame * BATCH),
        ("batch", ctypes.c_void_p),
        ("luma", _Halved),
        ("chroma", _Halved),
        *((name, ctypes.c_int) for name in ("width", "height", "left", "top", "fitted_width", "fitted_height")),
        *((name, ctypes.c_int) for name in ("format", "element", "is_nhwc", "is_paired", "has_same_taps")),
        ("weights", ctypes.c_float * 9),
        *((name, ctypes.c_float * 3) for name in ("bias", "scale", "offset", "border")),
    ]


class _NarrowPlane(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("source_stride", "target_stride", "samples", "rows", "is_aligned")),
    ]


class _Narrow(ctypes.Structure):
    _fields_ = [("planes", _NarrowPlane * 3)]


class CudaPreprocess:
    """Turns pictures whose planes are tensors into the batch that an `InputSpec` describes, on the same device.

    Equal to what `Preprocess` makes of them but for its roundings: half a code value for each resizing step.
    """

    def __init__(self, spec: InputSpec, kernels: Kernels) -> None:
        self._spec = spec
        self._kernels = kernels
        self._prepared: dict[object, tuple[str, int, _Preprocess]] = {}

    def __call__(self, frames: Sequence[FramePlanes], batch: torch.Tensor, stream: int) -> None:
        """Fill batch[:len(frames)]: (N, 3, h, w) or (N, h, w, 3), contiguous, of the spec's element type.

        The kernel runs on the CUDA stream `stream` (its handle); the planes must live until it is through. One launch
        for up to 32 pictures of one kind.
        """
        groups: dict[object, list[int]] = {}
        for index, frame in enumerate(frames):
            key = frame.pixel_format, frame.width, frame.height, frame.matrix, frame.value_range
            groups.setdefault(key, []).append(index)
        for kind, members in groups.items():
            if kind not in self._prepared:
                self._prepared[kind] = self._prepare(frames[members[0]])
            for start in range(0, len(members), BATCH):
                self._launch(*self._prepared[kind], frames, members[start : start + BATCH], batch, stream)

    def _launch(
        self,
        name: str,
        alignment: int,
        parameters: _Preprocess,
        frames: Sequence[FramePlanes],
        members: Sequence[int],
        batch: torch.Tensor,
        stream: int,
    ) -> None:
        misaligned = 0
        for entry, index in zip(parameters.frames, members, strict=False):
            entry.slot = index
            for number, plane in enumerate(frames[index].planes):
                address, stride = plane.data_ptr(), plane.stride(0)
                entry.planes[number], entry.strides[number] = address, stride
                misaligned |= address | stride
        spec, parameters.batch = self._spec, batch.data_ptr()
        parameters.is_paired = not (spec.width % 2 or parameters.batch % 8)
        grid = -(-spec.width // 64), -(-spec.height // 8), len(members)
        aligned = name if misaligned % alignment == 0 else "preprocess_any"
        self._kernels.launch(aligned, grid, (32, 8, 1), parameters, stream)

    def _prepare(self, frame: FramePlanes) -> tuple[str, int, _Preprocess]:
        """For pictures like this one: the kernel, how its rows have to be aligned, and what it is to be told."""
        spec, parameters = self._spec, _Preprocess()
        left, top, width, height = spec.placement(frame.width, frame.height)
        parameters.width, parameters.height = spec.width, spec.height
        parameters.left, parameters.top, parameters.fitted_width, parameters.fitted_height = left, top, width, height
        parameters.format, parameters.element = _FORMATS[frame.pixel_format], _ELEMENTS[spec.dtype]
        parameters.is_nhwc = spec.layout == "nhwc"
        luma, chroma = _halved(frame.planes[0], width, height), _halved(frame.planes[-1], width, height)
        parameters.luma, parameters.chroma = luma, chroma
        parameters.has_same_taps = (luma.width, luma.height) == (chroma.width, chroma.height)
        self._set_colors(frame, parameters)

        halvings = luma.halvings, chroma.halvings
        smallest = min(luma.width, luma.height, chroma.width, chroma.height)
        if frame.pixel_format != "nv12" or halvings not in _ALIGNED_NV12 or smallest < 2:
            return "preprocess_any", 1, parameters
        alignment = max(_ALIGNED_NV12[halvings])
        return f"preprocess_nv12_{halvings[0]}_{halvings[1]}", alignment, parameters

    def _set_colors(self, frame: FramePlanes, parameters: _Preprocess) -> None:
        spec = self._spec
        weights, bias = np.eye(3) / 255.0, np.zeros(3)
        if frame.is_subsampled:
            weights, bias = ycbcr_to_rgb_matrix(frame.matrix, frame.value_range)
        # the kernel adds up what is halved: the mean is left to the weights
        areas = [4.0**parameters.luma.halvings] + [
            4.0 ** (parameters.chroma if frame.is_subsampled else parameters.luma).halvings
        ] * 2
        from_rgb = from_rgb_matrix(spec)
        affine = np.eye(3, 4) if from_rgb is None else from_rgb.astype(np.float64)
        order = np.abs(affine[:, :3]).argmax(axis=1)  # one colour channel for each of the network's
        scale, offset, border = affine[np.arange(3), order], affine[:, 3], np.zeros(3)
        if spec.dtype == "uint8":
            scale, border = scale * 255.0, np.array(spec.mean) * 255.0
        parameters.weights[:] = (weights / areas)[order].ravel().tolist()
        parameters.bias[:] = bias[order].tolist()
        parameters.scale[:], parameters.offset[:], parameters.border[:] = (
            values.tolist() for values in (scale, offset, border)
        )


def _halved(plane: Any, width: int, height: int) -> _Halved:
    """How `Preprocess` resizes a plane: halved while it is twice too large in both directions, an odd rest cut off."""
    plane_height, plane_width = plane.shape[:2]
    halvings = 0
    while plane_height >= 2 * height and plane_width >= 2 * width:
        plane_height, plane_width, halvings = plane_height // 2, plane_width // 2, halvings + 1
    return _Halved(plane_width, plane_height, halvings, plane_width / width, plane_height / height)


def narrowed(source: FramePlanes, target: FramePlanes, kernels: Kernels, stream: int) -> None:
    """P010 to NV12: fill the planes of `target` with those of `source`, rounded from ten bits to eight.

    source: samples of 16 bits (any torch type of that size) that hold their ten bits in the high ones; target: uint8,
    of the same size. One launch on the CUDA stream `stream` (its handle).
    """
    parameters = _Narrow()
    for entry, plane, narrow in zip(parameters.planes, source.planes, target.planes, strict=False):
        entry.source, entry.target = plane.data_ptr(), narrow.data_ptr()
        entry.source_stride, entry.target_stride = plane.stride(0), narrow.stride(0)
        entry.rows, entry.samples = plane.shape[0], plane[0].numel()
        starts = entry.source | 2 * entry.source_stride
        entry.is_aligned = starts % 16 == 0 and (entry.target | entry.target_stride) % 8 == 0
    samples = max(plane[0].numel() for plane in source.planes)  # an odd width has one more of chroma
    grid = -(-samples // 1024), -(-source.height // 4), len(source.planes)
    kernels.launch("narrow", grid, (128, 4, 1), parameters, stream)
