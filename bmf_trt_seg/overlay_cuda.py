"""`Postprocess` and `Overlay` for pictures in the memory of a GPU: classes are decided where they are drawn.

For the styles that look at single pixels, one kernel reads scores and pictures once and writes what is drawn.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.colors import parse_hex
from bmf_trt_seg.cuda_kernels import BATCH, Kernels
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.overlay import Look
from bmf_trt_seg.spec import ModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["CudaOverlay", "Drawing"]

_FORMATS = {"yuv420p": 0, "nv12": 1, "rgb24": 2}
_ELEMENTS = {"float32": 0, "float16": 1, "bfloat16": 2, "int32": 3, "int64": 4, "uint8": 5}
_ACTIVATIONS = {"softmax": 0, "sigmoid": 1, "none": 2, "index": 2}
_BLEND, _CUTOUT, _MASK, _SIDEBYSIDE, _MAP_ONLY, _CONTOUR, _BLUR = range(7)
_STYLES = {"blend": _BLEND, "cutout": _CUTOUT, "sidebyside": _SIDEBYSIDE}

# as decide.cu has them
_TILES = ((128, 72), (128, 48), (128, 32), (128, 16), (64, 16), (64, 8), (32, 8))  # pixels of a block, the best first
_MAX_CELLS = 2048  # scores that a block has room for
_THREADS = 384, 1, 1  # most read four scores each, once, under a tile of a large picture

_FIXED_TILE = 128, 16  # of the kernels that read maps
_BLUR_TILE = 256
_MAP_THREADS = 384, 1, 1


_Key = tuple[object, ...]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_void_p * 3),
        ("target", ctypes.c_void_p * 3),
        *((name, ctypes.c_void_p) for name in ("scores", "map", "scratch", "present")),
        ("source_strides", ctypes.c_int * 3),
        ("target_strides", ctypes.c_int * 3),
    ]


_PACKED_FRAME = struct.Struct("10Q6i")  # a _Frame: filling it field by field takes ten times as long


class _Overlay(ctypes.Structure):
    _fields_ = [
        ("frames", _Frame * BATCH),
        *((name, ctypes.c_void_p) for name in ("tables", "nearest_column", "nearest_row")),
        *((name, ctypes.c_longlong) for name in ("channel_stride", "row_stride", "column_stride")),
        *((name, ctypes.c_int) for name in ("element", "channels", "labels", "activation")),
        *((name, ctypes.c_int) for name in ("cells_wide", "cells_high")),
        *((name, ctypes.c_float) for name in ("x_scale", "y_scale")),
        ("has_threshold", ctypes.c_int),
        ("threshold", ctypes.c_float),
        *((name, ctypes.c_int) for name in ("has_cells", "is_vector", "quads_shift", "tile_high")),
        *((name, ctypes.c_int) for name in ("format", "style", "width", "height", "drawn_wide", "drawn_high", "left")),
        *((name, ctypes.c_int) for name in ("is_aligned", "is_map_aligned", "is_wide", "reach")),
        ("alpha", ctypes.c_float),
        ("keep", ctypes.c_float),
        ("ground", ctypes.c_ubyte * 4),
        *((name, ctypes.c_ubyte) for name in ("positive", "negative", "background", "has_map")),
        *((name, ctypes.c_int * 3) for name in ("small_wide", "small_high", "radius")),
        *((name, ctypes.c_longlong * 3) for name in ("small_offset", "rows_offset")),
        ("kernels", ctypes.c_void_p * 3),
    ]


@dataclass
class _Kind:
    """What a launch for pictures of one kind needs, but for where they lie."""

    parameters: _Overlay
    name: str = "draw_held"
    tile: tuple[int, int] = _TILES[0]
    blocks: tuple[int, int] = (0, 0)
    """Of a picture."""
    scores_offset: int = 0
    """In bytes, to the first score that the picture covers."""
    vector_bytes: int = 0
    """To what scores have to be aligned so that four can be read at once; 0 if they cannot."""
    width: int = 0
    left: int = 0
    has_map: bool = False
    is_subsampled: bool = False
    """This and the three before: what is read for each launch, of `parameters` and the pictures."""


@dataclass
class Drawing:
    """One picture to draw on. All tensors are on one device.

    frame, target: as `Overlay.draw` has them; their planes are tensors.
    scores: what the network gave for this picture, (C, h, w), (h, w, C) or (h, w), of any strides; float32, float16,
    bfloat16, int32, int64 or uint8. None: `map_hw` is drawn as it is.
    map_hw: the class map, (H, W) uint8, contiguous. Written if there are scores (None if nobody wants it), else read;
    it may be one that another picture of the same call writes.
    present: eight 32-bit words, zeroed; bit c is set where class c is shown and occurs. None if nobody wants them.
    """

    frame: FramePlanes
    target: FramePlanes
    scores: torch.Tensor | None = None
    map_hw: torch.Tensor | None = None
    present: torch.Tensor | None = None


class CudaOverlay:
    """Decides the classes of pictures and draws them; the legend is the caller's.

    Equal to `Postprocess` and `Overlay` but for one grey level, and for classes that win by less than float32 can tell.
    Keeps scratch memory between calls: one stream at a time may use it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        chosen: list[int],
        background: int,
        threshold: float | None,
        look: Look,
        kernels: Kernels,
    ) -> None:
        """chosen, threshold: as `Postprocess` takes them; background: its attribute."""
        self._spec = spec
        self._look = look
        self._kernels = kernels
        self._background = background
        self._threshold = spec.output.threshold if threshold is None else threshold
        self._visible = np.full(256, background, np.uint8)
        self._visible[chosen] = chosen
        self._is_mask = look.output == "mask"
        self._tables: dict[object, torch.Tensor] = {}
        self._blur_kernels: dict[object, torch.Tensor] = {}
        self._nearest_of: dict[object, torch.Tensor] = {}
        self._kinds: dict[int, dict[_Key, _Kind]] = {}
        self._scratch: dict[str, torch.Tensor] = {}

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is drawn for a picture of this size."""
        if not self._is_mask and self._look.style == "sidebyside":
            return 2 * (width + width % 2), height
        return width, height

    def draw(self, items: Sequence[Drawing], stream: int) -> None:
        """Draw all pictures on the CUDA stream `stream` (its handle), which has to be PyTorch's current one.

        Up to 32 pictures of one kind take one launch, contours two or three, blurs four or five.
        """
        for key, group in _groups(items):
            if self._is_mask or self._look.style not in ("contour", "blur"):
                self._launch(key, group, self._style(), stream)
            elif self._look.style == "contour":
                self._draw_contour(key, self._with_maps(group, stream), stream)
            else:
                self._draw_blur(key, self._with_maps(group, stream), stream)

    def _style(self) -> int:
        return _MASK if self._is_mask else _STYLES[self._look.style]

    # ------------------------------------------------------------------------------------------------ single pixels

    def _launch(self, key: _Key, group: Sequence[Drawing], style: int, stream: int) -> None:
        """Decide and draw, in one kernel; or decide only."""
        kind = self._kind(key, group[0], style)
        self._set_frames(kind, group)
        self._kernels.launch(kind.name, (*kind.blocks, len(group)), _THREADS, kind.parameters, stream)

    def _set_scores(self, kind: _Kind, frame: FramePlanes, scores: torch.Tensor) -> None:
        """Tell the kernel about scores like these, and choose it."""
        spec, parameters = self._spec, kind.parameters
        covered = self._covered_chw(scores, frame)
        kind.scores_offset = covered.data_ptr() - scores.data_ptr()
        high, wide = covered.shape[1:]
        parameters.element = _ELEMENTS[str(scores.dtype).removeprefix("torch.")]
        parameters.channels, parameters.labels = covered.shape[0], len(spec.labels)
        parameters.activation = _ACTIVATIONS[spec.output.activation]
        parameters.channel_stride, parameters.row_stride, parameters.column_stride = covered.stride()
        parameters.cells_high, parameters.cells_wide = high, wide
        parameters.y_scale, parameters.x_scale = high / frame.height, wide / frame.width
        if spec.output.activation == "index":
            parameters.nearest_column = self._nearest(wide, frame.width, scores.device).data_ptr()
            parameters.nearest_row = self._nearest(high, frame.height, scores.device).data_ptr()
            kind.name = "draw_index"
        elif len(covered) == 1:
            self._set_binary(parameters)
            kind.name = "draw_binary"
        else:
            parameters.has_threshold = bool(self._threshold)
            parameters.threshold = self._threshold or 0.0
            fitting = [
                tile for tile in _TILES if _cells_under(tile, parameters.x_scale, parameters.y_scale) <= _MAX_CELLS
            ]
            parameters.has_cells = bool(fitting)
            kind.tile = [*fitting, _FIXED_TILE][0]
            kind.name = {0: "draw_float32", 1: "draw_float16"}.get(parameters.element, "draw_any")
            strides = parameters.channel_stride | parameters.row_stride | wide
            if kind.name != "draw_any" and parameters.column_stride == 1 and strides % 4 == 0:
                kind.vector_bytes = 4 * scores.element_size()

    def _nearest(self, source: int, target: int, device: torch.device) -> torch.Tensor:
        """On the device: which of `source` values OpenCV takes for each of `target`, int32."""
        key = source, target, device
        if key not in self._nearest_of:
            indices = np.arange(source, dtype=np.uint16)[None]  # how ties are rounded depends on OpenCV's version
            taken = cv2.resize(indices, (target, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
            self._nearest_of[key] = _uploaded(taken.astype(np.int32), device)
        return self._nearest_of[key]

    def _set_binary(self, parameters: _Overlay) -> None:
        limit = 0.5 if self._threshold is None else self._threshold
        if self._spec.output.activation == "sigmoid":
            limit = -math.inf if limit <= 0 else math.inf if limit >= 1 else math.log(limit / (1 - limit))
        parameters.threshold = limit
        labels = len(self._spec.labels)
        parameters.positive = int(self._visible[labels - 1])
        parameters.negative = int(self._visible[0]) if labels == 2 else self._background

    def _covered_chw(self, scores: Any, frame: FramePlanes) -> Any:
        """The part of the scores that the picture covers, as (C, h, w): a letterbox's borders are cut off."""
        if scores.ndim == 2:
            scores = scores[None]
        elif self._spec.output.layout == "nhwc":
            scores = scores.permute(2, 0, 1)
        network = self._spec.input
        left, top, width, height = network.placement(frame.width, frame.height)
        if (width, height) == (network.width, network.height):
            return scores
        y_scale, x_scale = scores.shape[1] / network.height, scores.shape[2] / network.width
        rows = slice(round(top * y_scale), max(round((top + height) * y_scale), round(top * y_scale) + 1))
        columns = slice(round(left * x_scale), max(round((left + width) * x_scale), round(left * x_scale) + 1))
        return scores[:, rows, columns]

    # ------------------------------------------------------------------------------------------------ contour, blur

    def _with_maps(self, group: Sequence[Drawing], stream: int) -> list[Drawing]:
        """The pictures with maps that are decided already."""
        frame, first = group[0].frame, group[0]
        pixels = frame.width * frame.height
        maps = self._memory("maps", len(group) * pixels, frame) if first.map_hw is None else None
        drawings = [
            Drawing(
                item.frame,
                item.target,
                item.scores,
                item.map_hw if maps is None else maps[index * pixels : (index + 1) * pixels],
                item.present,
            )
            for index, item in enumerate(group)
        ]
        if first.scores is not None or first.present is not None:
            self._launch(_key(drawings[0]), drawings, _MAP_ONLY, stream)
        return drawings

    def _draw_contour(self, key: _Key, group: Sequence[Drawing], stream: int) -> None:
        frame, kind = group[0].frame, self._kind(key, group[0], _CONTOUR)
        kind.parameters.reach = max(2, round(min(frame.width, frame.height) / 240))
        self._set_scratched_frames(kind, group, frame.width * frame.height)
        for name in ("contour_runs", "contour_draw"):
            self._kernels.launch(name, _grid(frame, len(group)), _MAP_THREADS, kind.parameters, stream)

    def _draw_blur(self, key: _Key, group: Sequence[Drawing], stream: int) -> None:
        frame, kind = group[0].frame, self._kind(key, group[0], _BLUR)
        parameters = kind.parameters
        needed = largest = 0
        for number, plane in enumerate(frame.planes):
            height, width = plane.shape[:2]
            wide, high = max(1, width // 4), max(1, height // 4)
            samples = wide * high * (plane.shape[2] if plane.ndim == 3 else 1)
            parameters.small_wide[number], parameters.small_high[number] = wide, high
            parameters.small_offset[number] = needed
            parameters.rows_offset[number] = needed + samples + samples % 2
            needed += 3 * (samples + samples % 2)
            largest = max(largest, samples)
            sigma = max(1.0, min(frame.width, frame.height) / 60 * width / frame.width / 4)
            weights = self._blur_kernel(sigma, plane.device)
            parameters.radius[number], parameters.kernels[number] = len(weights) // 2, weights.data_ptr()
        self._set_scratched_frames(kind, group, needed)
        grid = -(-largest // _BLUR_TILE), len(frame.planes), len(group)
        for name in ("blur_shrink", "blur_rows", "blur_columns"):
            self._kernels.launch(name, grid, _MAP_THREADS, parameters, stream)
        self._kernels.launch("blur_draw", _grid(frame, len(group)), _MAP_THREADS, parameters, stream)

    def _set_scratched_frames(self, kind: _Kind, group: Sequence[Drawing], bytes_each: int) -> None:
        bytes_each += -bytes_each % 16
        scratch = self._memory("scratch", bytes_each * len(group), group[0].frame).data_ptr()
        self._set_frames(kind, group, scratch, bytes_each)

    def _blur_kernel(self, sigma: float, device: torch.device) -> torch.Tensor:
        """The Gaussian that OpenCV blurs 8-bit pictures with: in 1/256, int16."""
        key = sigma, device
        if key not in self._blur_kernels:
            size = round(sigma * 3 * 2 + 1) | 1
            exact = cv2.getGaussianKernel(size, sigma).ravel() * 256.0
            # what rounding one weight loses goes to the next; the one in the middle makes the sum whole
            side, rest = [], 0.0
            for weight in exact[: size // 2]:
                side.append(round(weight + rest))
                rest += weight - side[-1]
            weights = [*side, 256 - 2 * sum(side), *reversed(side)]
            self._blur_kernels[key] = _uploaded(np.array(weights, np.int16), device)
        return self._blur_kernels[key]

    # ------------------------------------------------------------------------------------------------- what is told

    def _kind(self, key: _Key, item: Drawing, style: int) -> _Kind:
        """What a kernel is told about pictures like this one, but for where they lie; made once."""
        of_style = self._kinds.setdefault(style, {})
        kind = of_style.get(key)
        if kind is None:
            parameters = self._parameters(item, style)
            kind = of_style[key] = _Kind(parameters)
            kind.width, kind.left, kind.has_map = parameters.width, parameters.left, bool(parameters.has_map)
            kind.is_subsampled = item.frame.is_subsampled
            if item.scores is not None:
                self._set_scores(kind, item.frame, item.scores)
            width, height = kind.tile
            kind.blocks = -(-item.frame.width // width), -(-item.frame.height // height)
            kind.parameters.quads_shift, kind.parameters.tile_high = (width // 4).bit_length() - 1, height
        return kind

    def _parameters(self, item: Drawing, style: int) -> _Overlay:
        frame, target = item.frame, item.target
        look, parameters = self._look, _Overlay()
        parameters.tables = self._table(frame).data_ptr()
        parameters.format, parameters.style = _FORMATS[frame.pixel_format], style
        parameters.width, parameters.height = frame.width, frame.height
        parameters.drawn_wide, parameters.drawn_high = frame.width, frame.height
        if style == _SIDEBYSIDE:
            parameters.left = target.width // 2
        # an odd picture's edge is repeated where there is room
        if frame.width % 2 and target.width > parameters.left + frame.width:
            parameters.drawn_wide += 1
        if frame.height % 2 and target.height > frame.height:
            parameters.drawn_high += 1
        parameters.has_map = item.map_hw is not None and item.scores is not None
        parameters.background = self._background
        alpha = 1.0 if style in (_CUTOUT, _MASK, _CONTOUR) else look.alpha
        parameters.alpha, parameters.keep = alpha, 1.0 - alpha
        ground = (0, 0, 0) if style == _MASK else parse_hex(look.background_color)
        parameters.ground[:3] = _codes(frame, ground)
        return parameters

    def _set_frames(self, kind: _Kind, group: Sequence[Drawing], scratch: int = 0, bytes_each: int = 0) -> None:
        """Tell the kernel where the pictures lie, and their part of the scratch memory.

        It takes a good part of the host's time for a picture: hence as few calls and containers as can be.
        """
        parameters, offset = kind.parameters, 0
        planes_bits = maps_bits = scores_bits = 0
        for item in group:
            bits, addresses, strides = _places(item.frame.planes)
            target_bits, target_addresses, target_strides = _places(item.target.planes)
            scores, map_hw, present = item.scores, item.map_hw, item.present
            scores_at = 0 if scores is None else scores.data_ptr() + kind.scores_offset
            map_at = 0 if map_hw is None else map_hw.data_ptr()
            present_at = 0 if present is None else present.data_ptr()
            planes_bits |= bits | target_bits
            maps_bits |= map_at
            scores_bits |= scores_at
            _PACKED_FRAME.pack_into(
                parameters, offset, *addresses, *target_addresses, scores_at, map_at, scratch, present_at,
                *strides, *target_strides,
            )  # fmt: skip
            offset += _PACKED_FRAME.size
            scratch += bytes_each
        planes_bits |= kind.left
        maps_bits |= kind.width
        parameters.is_aligned = planes_bits % 4 == 0
        parameters.is_map_aligned = maps_bits % 4 == 0
        parameters.is_wide = kind.is_subsampled and (planes_bits | maps_bits * kind.has_map) % 16 == 0
        parameters.is_vector = kind.vector_bytes > 0 and scores_bits % kind.vector_bytes == 0

    def _table(self, frame: FramePlanes) -> torch.Tensor:
        """On the device: 256 times the codes of a class's colour and whether it is shown, then what it counts as."""
        device = frame.planes[0].device
        key = frame.pixel_format, frame.matrix, frame.value_range, device
        if key not in self._tables:
            inks = np.zeros((256, 4), np.uint8)
            for index, color in self._look.colors.items():
                if self._is_mask and len(self._look.colors) == 1:
                    color = "#ffffff"
                inks[index] = (*_codes(frame, parse_hex(color)), 1)
            self._tables[key] = _uploaded(np.concatenate([inks.ravel(), self._visible]), device)
        return self._tables[key]

    def _memory(self, name: str, count: int, frame: FramePlanes) -> torch.Tensor:
        """So many bytes on the frame's device; kept, and replaced by more when more are needed."""
        import torch

        device = frame.planes[0].device
        kept = self._scratch.get(name)
        if kept is None or len(kept) < count or kept.device != device:
            kept = self._scratch[name] = torch.empty(count, dtype=torch.uint8, device=device)
        return kept


def _key(item: Drawing) -> _Key:
    """What pictures of one launch have in common."""
    frame, target, scores = item.frame, item.target, item.scores
    of_scores = (None, None, None) if scores is None else (scores.dtype, scores.shape, scores.stride())
    return (
        frame.pixel_format, frame.width, frame.height, frame.matrix, frame.value_range, target.width, target.height,
        *of_scores, item.map_hw is None, item.present is None,
    )  # fmt: skip


def _groups(items: Iterable[Drawing]) -> Iterator[tuple[_Key, list[Drawing]]]:
    """The pictures that can be drawn by one launch each; those with scores first: others may read their maps."""
    groups: dict[_Key, list[Drawing]] = {}
    last: _Key | None = None
    group: list[Drawing] = []
    for item in items:
        key = _key(item)
        if key != last:  # to compare takes less time than to look up
            group = groups.setdefault(key, [])
            last = key
        group.append(item)
    for key, group in sorted(groups.items(), key=lambda pair: pair[1][0].scores is None):
        for start in range(0, len(group), BATCH):
            yield key, group[start : start + BATCH]


_Three = tuple[int, int, int]


def _places(planes: Sequence[torch.Tensor]) -> tuple[int, _Three, _Three]:
    """Addresses and strides of up to three planes; first, the bits that are zero where all of them are aligned.

    Where there are two planes of chroma, their pieces are half as large as luma's.
    """
    luma = planes[0]
    address, stride = luma.data_ptr(), luma.stride(0)
    if len(planes) == 2:
        chroma = planes[1]
        other, other_stride = chroma.data_ptr(), chroma.stride(0)
        return address | stride | other | other_stride, (address, other, 0), (stride, other_stride, 0)
    if len(planes) == 1:
        return address | stride, (address, 0, 0), (stride, 0, 0)
    cb, cr = planes[1].data_ptr(), planes[2].data_ptr()
    cb_stride, cr_stride = planes[1].stride(0), planes[2].stride(0)
    bits = address | stride | (cb | cr | cb_stride | cr_stride) << 1
    return bits, (address, cb, cr), (stride, cb_stride, cr_stride)


def _uploaded(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """On the device; the host does not wait for it, which it would for memory that is not page-locked."""
    import torch

    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _codes(frame: FramePlanes, rgb: tuple[int, int, int]) -> tuple[int, ...]:
    """A colour's code values, of all planes' components."""
    return tuple(code for codes in frame.plane_colors(rgb) for code in codes)


def _cells_under(tile: tuple[int, int], x_scale: float, y_scale: float) -> int:
    """The most scores that pixels of a tile may lie between, with what is read beside them to read four at once."""
    return (math.floor(tile[0] * x_scale) + 9) * (math.floor(tile[1] * y_scale) + 3)


def _grid(frame: FramePlanes, count: int) -> tuple[int, int, int]:
    return -(-frame.width // _FIXED_TILE[0]), -(-frame.height // _FIXED_TILE[1]), count
