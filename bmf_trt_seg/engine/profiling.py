"""Times of an engine's layers, as TensorRT measures them."""

from __future__ import annotations

from typing import Any

__all__ = ["layer_profiler"]


def layer_profiler(trt: Any) -> Any:
    """A profiler for one execution context; trt: the imported TensorRT, of whichever edition.

    Its attribute `layers` has a pair (name, milliseconds) for each layer of each run since it was last cleared, in
    order. While a context has it, every run waits for its end, and none can be recorded as a CUDA graph.
    """

    class LayerProfiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 wants it said
            self.layers: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers.append((" ".join(layer_name.split()), float(ms)))  # some names have line breaks

    return LayerProfiler()
