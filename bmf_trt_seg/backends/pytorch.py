"""TorchScript files and exported programs (torch.export) through PyTorch."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.errors import BackendUnavailable, EngineError, ModelError

__all__ = ["PyTorchBackend"]

_SAFE_LOADS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class PyTorchBackend(Backend):
    """A PyTorch module. Its output is a tensor, or a mapping with the spec's output name as a key.

    All outputs are asked for by their keys; a tensor alone is 'output', and those of a tuple 'output0' and so on.
    """

    _module: Any = None
    _device = torch.device("cpu")

    def _open(self) -> None:
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable(f"device '{self.device}': PyTorch finds no CUDA device here; use device 'cpu'")
        wants_cuda = self.device.startswith("cuda") or (self.device == "auto" and torch.cuda.is_available())
        self._device = torch.device(("cuda" if self.device == "auto" else self.device) if wants_cuda else "cpu")
        self._check_named_shapes([self.spec.input.name])
        torch.set_num_threads(self.threads or os.cpu_count() or 1)
        if not zipfile.is_zipfile(self.model):  # PyTorch would say so in a traceback on the terminal
            raise self._not_loaded(
                "no such file" if not self.model.exists() else "the file is broken or of another kind"
            )
        try:
            self._module = self._loaded()
        except ModelError:
            raise
        except pickle.UnpicklingError as error:
            raise self._not_loaded("a part of it holds more than tensors, whose code is not run") from error
        except Exception as error:  # what PyTorch raises here goes from RuntimeError to zipfile's own
            raise self._not_loaded((str(error).strip() or type(error).__name__).splitlines()[0]) from error

    def describe(self) -> str:
        return f"pytorch on {'the CPU' if self._device.type == 'cpu' else self._device}"

    def _loaded(self) -> Any:
        if self.model.suffix.lower() == ".pt2":
            with _tensors_alone(), _without_its_log():
                program = torch.export.load(str(self.model))
            name = program.graph_signature.user_inputs[0]
            value = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
            self._check_input(name, value.shape, str(value.dtype).removeprefix("torch."))
            return program.module().to(self._device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is old, and what people have
            module = torch.jit.load(str(self.model), map_location=self._device)
        return module.eval()

    def _not_loaded(self, reason: str) -> ModelError:
        reason = reason.partition(". ")[0]  # PyTorch goes on with guesses
        return ModelError(f"model '{self.model}' cannot be loaded by PyTorch (TorchScript or torch.export): {reason}")

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        output = self._result(batch)
        return _on_host(output if isinstance(output, torch.Tensor) else self._named(output))

    def _run_all(self, batch: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
        output = self._result(batch)
        if isinstance(output, torch.Tensor):
            output = {self.spec.output.name: output}
        elif isinstance(output, tuple | list):
            output = {f"{self.spec.output.name}{index}": one for index, one in enumerate(output)}
        tensors = {name: one for name, one in dict(output).items() if isinstance(one, torch.Tensor)}
        return {name: _on_host(tensors[name]) for name in self._wanted_outputs(list(tensors))}

    def _result(self, batch: npt.NDArray[np.generic]) -> Any:
        try:
            with torch.inference_mode():
                return self._module(torch.from_numpy(batch).to(self._device))
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(
                f"PyTorch failed on '{self.model.name}' with a batch of {len(batch)}: {reason}"
            ) from error

    def _named(self, output: Any) -> torch.Tensor:
        name = self.spec.output.name
        if isinstance(output, dict) and isinstance(output.get(name), torch.Tensor):
            tensor: torch.Tensor = output[name]
            return tensor
        if isinstance(output, dict):
            raise self._missing_tensor("output", name, [str(key) for key in output])
        raise ModelError(
            f"model '{self.model.name}' returns a {type(output).__name__}; expected a tensor or a dict of them"
        )

    def _close(self) -> None:
        self._module = None


@contextlib.contextmanager
def _tensors_alone() -> Iterator[None]:
    """Without what torch.export does if a pickled part of a file holds more than tensors: it unpickles that all the
    same, which runs whatever code the part names."""
    before = os.environ.get(_SAFE_LOADS)
    os.environ[_SAFE_LOADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_LOADS]
        else:
            os.environ[_SAFE_LOADS] = before


@contextlib.contextmanager
def _without_its_log() -> Iterator[None]:
    """Without the tracebacks that torch.export logs beside what it raises."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _on_host(output: torch.Tensor) -> npt.NDArray[np.generic]:
    if output.dtype == torch.bfloat16:  # which NumPy does not have
        output = output.float()
    values: npt.NDArray[np.generic] = output.cpu().numpy()
    return values
