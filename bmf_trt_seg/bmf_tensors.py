"""BMF's memory, shown to PyTorch.

There is no way back: BMF 0.2.0 never lets go of a tensor that it was given through DLPack.
"""

from __future__ import annotations

import bmf.hmp as hmp
import torch

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
    """The planes of a frame on a GPU, of shapes (H, W) or (H, W, C); views that keep the memory."""
    views = (shared(frame.plane(index)) for index in range(frame.nplanes()))
    return tuple(view[..., 0] if view.ndim == 3 and view.shape[2] == 1 else view for view in views)
