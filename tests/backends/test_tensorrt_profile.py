"""The order of things in a profiled run of TensorRT, on a context that only notes them; tests/gpu has the real one."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bmf_trt_seg.backends.tensorrt import TensorRTBackend
from bmf_trt_seg.errors import EngineError

trt = pytest.importorskip("tensorrt_rtx")  # its classes are there without a GPU

BATCH = np.zeros((1, 3, 8, 8), np.float32)


class Context:
    """What is used of an execution context."""

    profiler = None


class Network(TensorRTBackend):
    """Has no engine; a run reports two layers to the context's profiler."""

    def __init__(self, fails=False):
        self.fails = fails
        self.fixed_batch, self._is_open, self._device = None, True, torch.device("cpu")
        self._loaded = SimpleNamespace(library=SimpleNamespace(trt=trt))
        self._stream = SimpleNamespace(synchronize=lambda: self.order.append("wait"))
        self._graphs, self._refused, self._last_kind, self._prepared = {(1, 0): "graph"}, {(2, 0)}, (1, 0), 1
        self._context, self.order = Context(), []
        self.given = [self._context]

    def _new_context(self):
        self.order.append("context")
        assert self._context is None, "an engine may have its profile for one context only"
        self.given.append(Context())
        return self.given[-1]

    def _run(self, batch):
        self.order.append("run")
        assert not self.use_cuda_graphs
        assert not self._graphs
        if self.fails:
            raise EngineError("it failed")
        for name in ("first", "second"):
            self._context.profiler.report_layer_time(f"{name} {self.order.count('run')}", 0.5)
        return batch

    def _close(self):
        pass


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


def test_second_run_counts_and_a_new_context_follows():
    network = Network()
    run = network.profile(BATCH)
    assert [(layer.name, layer.seconds) for layer in run.layers] == [("first 2", 0.0005), ("second 2", 0.0005)]
    assert run.begin_ns <= run.end_ns
    assert network.order == ["wait", "run", "run", "wait", "context"]
    old, new = network.given
    assert isinstance(old.profiler, trt.IProfiler)
    assert (network._context, new.profiler) == (new, None)
    assert network.use_cuda_graphs
    assert (network._prepared, network._graphs, network._refused, network._last_kind) == (0, {}, set(), None)


def test_the_network_goes_on_after_a_failed_run():
    network = Network(fails=True)
    with pytest.raises(EngineError, match="it failed"):
        network.profile(BATCH)
    assert network.order == ["wait", "run", "wait", "context"]
    assert network._context.profiler is None
    assert network.use_cuda_graphs
