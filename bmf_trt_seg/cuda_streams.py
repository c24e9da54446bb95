"""CUDA streams that nobody else has.

PyTorch lends its streams out of a pool of 32, round and round: with a few modules in a process two of them would share
one, wait for each other, and record each other's work in a CUDA graph.
"""

from __future__ import annotations

import threading

import torch

__all__ = ["give_back", "take"]

_lock = threading.Lock()
_free: dict[tuple[int, int], list[torch.cuda.Stream]] = {}
"""By device and priority. A stream is never destroyed: PyTorch's allocator goes on to refer to it."""


def take(device: torch.device, *, is_urgent: bool = False) -> torch.cuda.Stream:
    """A stream of this device that nobody uses, until `give_back`. RuntimeError if CUDA makes none.

    is_urgent: what is on it goes before what waits on streams that are not. For short work that others wait for.
    """
    index, priority = device.index or 0, -1 if is_urgent else 0
    with _lock:
        if _free.get((index, priority)):
            return _free[index, priority].pop()
    try:
        from cuda.bindings import driver
    except ImportError:  # one of PyTorch's: shared at worst
        return torch.cuda.Stream(device, priority=priority)
    with torch.cuda.device(index):
        torch.cuda.current_stream().query()  # makes the device's context current
        status, handle = driver.cuStreamCreateWithPriority(driver.CUstream_flags.CU_STREAM_NON_BLOCKING, priority)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA makes no stream on GPU {index}: {status.name}")
    return torch.cuda.ExternalStream(int(handle), device=torch.device("cuda", index))


def give_back(*streams: torch.cuda.Stream) -> None:
    """Streams without work, for others to take."""
    with _lock:
        for stream in streams:
            _free.setdefault((stream.device.index or 0, stream.priority), []).append(stream)
