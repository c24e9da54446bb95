"""Device memory that somebody else owns, as a PyTorch tensor."""

from __future__ import annotations

import torch

__all__ = ["bytes_at"]


def bytes_at(address: int, count: int, device: torch.device) -> torch.Tensor:
    """(count,) uint8 at this address of a GPU; the tensor does not keep the memory."""
    return torch.as_tensor(_Memory(address, count), device=device)


class _Memory:
    """Memory as CUDA's array interface shows it."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,), "strides": None, "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip
