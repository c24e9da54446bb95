"""Memory shared between BMF and PyTorch."""

from __future__ import annotations

from typing import Any

import bmf.hmp as hmp
import torch

__all__ = ["device_bytes", "given", "shared"]


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


def given(tensor: torch.Tensor) -> hmp.Tensor:
    """A PyTorch tensor as a BMF tensor of the same memory, which is PyTorch's again when BMF lets go of it.

    Nothing is ordered: what was written to it has to be done before BMF reads it.
    """
    return hmp.from_dlpack(_Given(tensor))


class _Given:
    """BMF passes `__dlpack__` a stream by position, which PyTorch does not take."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, *arguments: Any) -> Any:
        return torch.utils.dlpack.to_dlpack(self._tensor)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()
