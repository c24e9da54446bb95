"""BMF's memory, shown to PyTorch.

There is no way back: BMF 0.2.0 never lets go of a tensor that it was given through DLPack.
"""

from __future__ import annotations

import bmf.hmp as hmp
import torch

from bmf_trt_seg.cuda_memory import bytes_at

__all__ = ["device_bytes", "device_planes", "shared"]


def device_bytes(count: int, device: torch.device) -> torch.Tensor:
    """`count` bytes of device memory, (count,) uint8 undefined, aligned for every element type.

    They come from BMF's allocator, as a node's own tensors do, through DLPack and without a copy; from PyTorch's where
    BMF was built without CUDA. The memory is freed with the last tensor that shows it. RuntimeError if there is none.
    """
    if hmp.device_count(hmp.kCUDA) <= (device.index or 0):  # asked first: a refused allocation prints a stack trace
        return torch.empty(count, dtype=torch.uint8, device=device)
    return shared(hmp.empty([count], dtype=hmp.uint8, device=f"cuda:{device.index or 0}"))


def shared(tensor: hmp.Tensor) -> torch.Tensor:
    """A BMF tensor as a PyTorch tensor of the same memory.

    The capsule is asked for here, because BMF cannot take the handle of a stream that PyTorch would pass: whoever reads
    the tensor on another stream than BMF's wrote it on has to order the two.
    """
    return torch.from_dlpack(tensor.__dlpack__())


def device_planes(frame: hmp.Frame) -> tuple[torch.Tensor, ...]:
    """The planes of a frame on a GPU, of shapes (H, W) or (H, W, C); they do not keep the memory, the frame does.

    Frames come from a pool, so the same few places come again and again: their tensors are made once, and the same
    tuple is given for them.
    """
    planes = frame.data()
    key = frame.width(), frame.height(), int(frame.format()), *((at.data_ptr(), at.stride(0)) for at in planes)
    found = _views.get(key)
    if found is not None:
        return found
    if frame.device().type() != hmp.kCUDA:
        return tuple(_without_single_component(shared(plane)) for plane in planes)
    if len(_views) >= _MOST_VIEWS:
        _views.clear()
    found = _views[key] = tuple(_without_single_component(_view(plane)) for plane in planes)
    return found


_views: dict[tuple[object, ...], tuple[torch.Tensor, ...]] = {}
_MOST_VIEWS = 4096


def _view(plane: hmp.Tensor) -> torch.Tensor:
    """A tensor of the same memory that does not keep it."""
    like = shared(plane)
    elements = 1 + sum((size - 1) * step for size, step in zip(like.shape, like.stride(), strict=True))
    memory = bytes_at(plane.data_ptr(), elements * like.element_size(), like.device)
    return memory.view(like.dtype).as_strided(like.shape, like.stride())


def _without_single_component(plane: torch.Tensor) -> torch.Tensor:
    return plane[..., 0] if plane.ndim == 3 and plane.shape[2] == 1 else plane
