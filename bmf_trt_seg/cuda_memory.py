"""Device memory that somebody else owns: as a PyTorch tensor, and copied by its address."""

from __future__ import annotations

import ctypes
import functools

import torch

__all__ = ["bytes_at", "copy_bytes"]


def bytes_at(address: int, count: int, device: torch.device) -> torch.Tensor:
    """(count,) uint8 at this address of a GPU; the tensor does not keep the memory."""
    return torch.as_tensor(_Memory(address, count), device=device)


def copy_bytes(target: int, source: int, count: int, stream: int) -> None:
    """Copy between two addresses of the current device, on a CUDA stream (its handle). RuntimeError if CUDA refuses."""
    status = _driver().cuMemcpyDtoDAsync_v2(
        ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(count), ctypes.c_void_p(stream)
    )
    if status:
        raise RuntimeError(f"CUDA refuses to copy {count} bytes on the GPU (error {status})")


@functools.cache
def _driver() -> ctypes.PyDLL:
    """CUDA's driver, for calls that return at once.

    They keep Python's lock: with many threads, giving it away and waiting for it takes longer than they do.
    """
    return ctypes.PyDLL("libcuda.so.1")


class _Memory:
    """Memory as CUDA's array interface shows it."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (count,), "strides": None, "typestr": "|u1", "data": (address, False), "version": 3,
        }  # fmt: skip
