"""The CUDA streams of a pipeline: one for its kernels and its network, one each for copies to the GPU and from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bmf_trt_seg.cuda_streams import give_back, take

__all__ = ["CudaQueue", "Mark"]


class Mark:
    """A place in the work of a queue."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self._event = event

    def is_reached(self) -> bool:
        """Whether everything before it is done; never waits."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Sleep until everything before it is done. Raises RuntimeError if any of it failed."""
        self._event.synchronize()


class CudaQueue:
    """Puts work on a stream, in order, and copies beside it; only `drain` and `close` wait for the GPU."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """`stream`: where kernels and network run."""
        self.device: torch.device = stream.device
        self.handle: int = stream.cuda_stream
        self.stream = stream
        self.uploads, self.downloads = take(self.device), take(self.device)

    @contextmanager
    def working(self) -> Iterator[None]:
        """PyTorch's operators inside go onto the stream, behind what other nodes gave the default stream before."""
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            self.stream.wait_stream(torch.cuda.default_stream(self.device))
            yield

    def upload(self, plane: npt.NDArray[np.uint8]) -> torch.Tensor:
        """A contiguous copy on the GPU, for work that comes after this; the plane may change when this returns."""
        staged = torch.empty(plane.shape, dtype=torch.uint8, pin_memory=True)
        np.copyto(staged.numpy(), plane)
        with torch.cuda.stream(self.uploads):
            copied = staged.to(self.device, non_blocking=True)
        copied.record_stream(self.stream)
        self.stream.wait_stream(self.uploads)
        return copied

    def download(self, sources: list[torch.Tensor], targets: list[npt.NDArray[Any]]) -> None:
        """Copy tensors that work before `before_downloads` wrote into page-locked arrays of the same shapes.

        None has padding.
        """
        with torch.cuda.stream(self.downloads):
            for source, target in zip(sources, targets, strict=True):
                torch.from_numpy(target).copy_(source, non_blocking=True)
                source.record_stream(self.downloads)

    def before_downloads(self) -> None:
        """Downloads after this come after all work so far."""
        self.downloads.wait_stream(self.stream)

    @contextmanager
    def afterwards(self) -> Iterator[None]:
        """PyTorch's operators inside go behind the downloads so far, beside the work on the next pictures."""
        with torch.cuda.device(self.device), torch.cuda.stream(self.downloads):
            yield

    def page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> npt.NDArray[Any]:
        """Host memory to download into; its values undefined."""
        array: npt.NDArray[Any] = torch.empty(shape, dtype=dtype, pin_memory=True).numpy()
        return array

    def mark(self) -> Mark:
        """The end of what is on the stream of downloads so far."""
        event = torch.cuda.Event(blocking=True)  # who waits for it sleeps and leaves the core to the encoder
        event.record(self.downloads)
        return Mark(event)

    def drain(self) -> None:
        """Wait until the GPU is done with everything, so that memory may be given up."""
        for stream in (self.uploads, self.stream, self.downloads):
            with suppress(RuntimeError):  # the GPU has failed, and that was told
                stream.synchronize()

    def close(self) -> None:
        """Wait for everything and give up the streams of copies."""
        self.drain()
        give_back(self.uploads, self.downloads)
