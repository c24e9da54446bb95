"""ONNX files through ONNX Runtime, on the CPU or a CUDA device."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bmf_trt_seg.backends import Backend, LayerTime, ProfiledRun
from bmf_trt_seg.errors import BackendUnavailable, EngineError, ModelError

__all__ = ["OnnxRuntimeBackend", "tensors_of"]

_ELEMENT_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int32)": "int32",
    "tensor(int64)": "int64", "tensor(bool)": "bool", "tensor(double)": "float64", "tensor(int8)": "int8",
}  # fmt: skip
_FATAL = 4  # ONNX Runtime's own log level: what matters is raised as well


def tensors_of(model: Path) -> list[tuple[str, str, str, list[Any]]]:
    """Kind ('input' or 'output'), name, element type and shape of every tensor an ONNX file takes and gives.

    A dimension that is not fixed is its name, or None. Raises ModelError if the file cannot be loaded.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    session = _session(model, options, ["CPUExecutionProvider"])
    return [
        (kind, tensor.name, tensor.type, tensor.shape)
        for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs()))
        for tensor in tensors
    ]


def _session(model: Path, options: Any, providers: list[Any]) -> Any:
    try:
        return ort.InferenceSession(str(model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but Exception
        reason = str(error).splitlines()[0].removeprefix("[ONNXRuntimeError] : ")
        raise ModelError(f"model '{model}' cannot be loaded by ONNX Runtime: {reason}") from error


class OnnxRuntimeBackend(Backend):
    """An ONNX Runtime session."""

    _session: Any = None

    def _open(self) -> None:
        self._session = _session(self.model, self._options(), self._providers())
        self._check_tensors()

    def _options(self) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = self.threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        # A thread that spins while it waits for work takes a core from the decoder and the encoder
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def describe(self) -> str:
        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        threads = self.threads or os.cpu_count() or 1
        where = f"the CPU, {threads} thread{'s' if threads > 1 else ''}" if provider == "CPU" else provider
        return f"onnxruntime on {where}"

    def _providers(self) -> list[Any]:
        has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
        if self.device == "cpu" or (self.device == "auto" and not has_cuda):
            return ["CPUExecutionProvider"]
        if not has_cuda:
            raise BackendUnavailable(
                f"device '{self.device}': this ONNX Runtime has no CUDA: pip install onnxruntime-gpu, or device 'cpu'"
            )
        number = int(self.device.partition(":")[2] or 0)
        return [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]

    def _check_tensors(self) -> None:
        name, inputs = self.spec.input.name, {tensor.name: tensor for tensor in self._session.get_inputs()}
        outputs = [tensor.name for tensor in self._session.get_outputs()]
        if name not in inputs:
            raise self._missing_tensor("input", name, list(inputs))
        self._outputs = self._wanted_outputs(outputs)
        tensor = inputs[name]
        self._check_input(name, tensor.shape, _ELEMENT_TYPES.get(tensor.type, tensor.type))
        others = [other for other in inputs if other != name]
        self._check_constants(others)
        self._others = {other: inputs[other] for other in others}

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return self._given(self._outputs[:1], batch)[0]

    def _run_all(self, batch: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
        return dict(zip(self._outputs, self._given(self._outputs, batch), strict=True))

    def _given(self, outputs: list[str], batch: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
        try:
            values = {self.spec.input.name: batch, **self._constants(len(batch))}
            found: list[npt.NDArray[np.generic]] = self._session.run(outputs, values)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise EngineError(
                f"ONNX Runtime failed on '{self.model.name}' with a batch of {len(batch)}: {reason}"
            ) from error
        return found

    def _profiled_run(self, batch: npt.NDArray[np.generic]) -> ProfiledRun:
        own = self._session
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True  # which is for all runs of a session
            options.profile_file_prefix = str(Path(folder) / "profile")
            self._session = _session(self.model, options, self._providers())
            try:
                self._run(batch)  # the first one allocates
                begin_ns = time.perf_counter_ns()
                self._run(batch)
                end_ns = time.perf_counter_ns()
            finally:
                written = Path(self._session.end_profiling())
                self._session = own
            return ProfiledRun(begin_ns, end_ns, _last_layers(json.loads(written.read_text(encoding="utf-8"))))

    def _constants(self, count: int) -> dict[str, npt.NDArray[np.generic]]:
        """The inputs beside the picture; sizes that are open come from the option, else the first one is the batch."""
        values: dict[str, npt.NDArray[np.generic]] = {}
        for name, tensor in self._others.items():
            shape = self.input_shapes.get(name) or [
                size if isinstance(size, int) else count if index == 0 else 1 for index, size in enumerate(tensor.shape)
            ]
            values[name] = np.full(shape, self.spec.constants[name], _ELEMENT_TYPES[tensor.type])
        return values

    def _close(self) -> None:
        self._session = None


def _last_layers(events: Iterable[Mapping[str, Any]]) -> list[LayerTime]:
    """The layers of the last run in ONNX Runtime's profile, whose times are microseconds."""
    timed = sorted((event for event in events if "dur" in event), key=lambda event: event["ts"])
    begin = max((event["ts"] for event in timed if event["name"] == "model_run"), default=0)
    mark = "_kernel_time"
    return [
        LayerTime(
            name=event["name"].removesuffix(mark),
            seconds=event["dur"] / 1e6,
            kind=str(event.get("args", {}).get("op_name", "")),
            begin_seconds=(event["ts"] - begin) / 1e6,
        )
        for event in timed
        if event.get("cat") == "Node" and event["name"].endswith(mark) and event["ts"] >= begin
    ]
