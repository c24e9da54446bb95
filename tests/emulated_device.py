"""A GPU made of the CPU, for tests: the kernels' own source, PyTorch's CPU tensors, and a queue that says when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from emulated_kernels import EmulatedKernels

from bmf_trt_seg import pipeline
from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.pipeline_cuda import CudaPipeline


class EmulatedMark:
    def __init__(self, queue: EmulatedQueue) -> None:
        self._queue = queue

    def is_reached(self) -> bool:
        self._check()
        return not self._queue.is_slow

    def wait(self) -> None:
        self._queue.waits += 1
        self._check()

    def _check(self) -> None:
        if self._queue.failure:
            raise RuntimeError(self._queue.failure)


class EmulatedQueue:
    """CudaQueue's methods, done at once; while `is_slow`, nothing seems done before it is waited for."""

    device = torch.device("cpu")
    handle = 0
    stream = uploads = downloads = None

    def __init__(self) -> None:
        self.is_slow = False
        self.waits = self.upload_count = self.drained = 0
        self.failure = ""

    @contextmanager
    def working(self) -> Iterator[None]:
        yield

    def upload(self, plane: Any) -> torch.Tensor:
        self.upload_count += 1
        return torch.from_numpy(np.array(plane))

    def download(self, sources: Any, targets: Any) -> None:
        for source, target in zip(sources, targets, strict=True):
            target[...] = source.numpy()

    def page_locked(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        return torch.empty(shape, dtype=dtype).numpy()

    def before_downloads(self) -> None:
        pass

    @contextmanager
    def afterwards(self) -> Iterator[None]:
        yield

    def drain(self) -> None:
        self.drained += 1

    def close(self) -> None:
        self.drain()

    def mark(self) -> EmulatedMark:
        return EmulatedMark(self)


def emulate(monkeypatch: Any) -> list[EmulatedQueue]:
    """Have networks of ONNX Runtime taken for ones that run on a GPU; the queues that pipelines get, as they come."""
    queues: list[EmulatedQueue] = []

    def on_gpu(backend: Any, options: Any, look: Any, counts: Any) -> CudaPipeline:
        queues.append(EmulatedQueue())
        backend.infer_on_device = lambda batch: torch.from_numpy(backend.infer(batch.numpy()))
        return CudaPipeline(backend, options, look, counts, queues[-1], EmulatedKernels())  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "_on_gpu", on_gpu)
    monkeypatch.setattr(OnnxRuntimeBackend, "stream", object())
    return queues
