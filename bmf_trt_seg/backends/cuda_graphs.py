"""What a stream was given, recorded once and replayed: CUDA graphs through the driver.

PyTorch has them too, but where CUDA refuses to record, torch.cuda.CUDAGraph leaves the allocator sending memory of that
thread to a pool that nobody frees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from cuda.bindings import driver
except ImportError:  # pip install 'bmf-trt-seg[tensorrt]' brings it; all works without, a little slower
    driver = None

__all__ = ["RecordedWork", "record"]


class RecordedWork:
    """Work that CUDA has prepared; each replay hands it to the stream in one call."""

    def __init__(self, executable: Any, stream: int) -> None:
        self._executable, self._stream = executable, driver.CUstream(stream)

    def replay(self) -> bool:
        """Enqueue it, without waiting. False if CUDA refuses."""
        (status,) = driver.cuGraphLaunch(self._executable, self._stream)
        return bool(status == driver.CUresult.CUDA_SUCCESS)

    def __del__(self) -> None:
        driver.cuGraphExecDestroy(self._executable)


def record(stream: int, work: Callable[[], None]) -> RecordedWork | None:
    """Call `work`, which gives the stream of this handle something to do, and keep that instead of doing it.

    None if it cannot be kept: `work` failed, it waits for the GPU, or the driver's Python binding is missing. The
    stream is then as before. Other threads may use CUDA meanwhile.
    """
    if driver is None:
        return None
    only_this_thread = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    if driver.cuStreamBeginCapture(stream, only_this_thread)[0] != driver.CUresult.CUDA_SUCCESS:
        return None
    worked = False
    try:
        work()
        worked = True
    except RuntimeError:
        pass
    finally:
        status, graph = driver.cuStreamEndCapture(stream)
    if status != driver.CUresult.CUDA_SUCCESS:
        return None
    try:
        if not worked:
            return None
        status, executable = driver.cuGraphInstantiate(graph, 0)
        return RecordedWork(executable, stream) if status == driver.CUresult.CUDA_SUCCESS else None
    finally:
        driver.cuGraphDestroy(graph)
