"""What runs networks: one file a library, imported only when it is chosen.

A backend is opened, infers batches, is closed. It knows tensors; it knows nothing of frames or overlays.
"""

from __future__ import annotations

import abc
import contextlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from bmf_trt_seg.errors import BackendUnavailable, ConfigError, EngineError, ModelError
from bmf_trt_seg.spec import ModelSpec

__all__ = ["BACKENDS", "Backend", "BackendEntry", "LayerTime", "ProfiledRun", "select_backend"]


@dataclass(frozen=True)
class LayerTime:
    """How long a layer of a network took, or several that run as one."""

    name: str
    seconds: float
    kind: str = ""
    """Its operator, where that is known."""
    begin_seconds: float | None = None
    """When it began, after the run did; None where only times are known, which follow one another."""


@dataclass(frozen=True)
class ProfiledRun:
    """A run of a network whose layers were timed; begin and end in nanoseconds of `time.perf_counter_ns`."""

    begin_ns: int
    end_ns: int
    layers: Sequence[LayerTime]


class Backend(abc.ABC):
    """A network, ready to run.

    Subclasses fill in `_open`, `_run` and `_close`. Batches of any size may be given; a network of fixed batch size
    gets them in parts of that size, the last one padded.
    """

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        *,
        device: str = "auto",
        threads: int = 1,
        batch_size: int = 1,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """threads: CPU threads; 0 for one a core. device: 'auto', 'cpu', 'cuda' or 'cuda:N'.

        batch_size: the largest batch that is likely to come. input_shapes: of inputs beside the picture, by name.
        """
        self.model = model
        self.spec = spec
        self.device = device
        self.threads = threads
        self.batch_size = batch_size
        self.input_shapes = dict(input_shapes or {})
        self.fixed_batch: int | None = None
        self._is_open = False

    def open(self) -> Self:
        """Load the network; ModelError if it is not what the spec says, BackendUnavailable if it cannot run here."""
        if not self._is_open:
            self._open()
            self._is_open = True
        return self

    @property
    def lasting(self) -> object:
        """What to hold on to, of an open network, for the next one of the same file to open at once; None: nothing."""
        return None

    def infer(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Run the network on a batch as the spec's input describes it, N pictures.

        Returns the spec's output tensor, N first; the caller owns it. Raises EngineError if the run fails.
        """
        if not self._is_open:
            raise EngineError(f"network '{self.model.name}' is not open: call open() before infer()")
        if self.fixed_batch in (None, len(batch)):
            return self._run(batch)
        return np.concatenate([self._run(part)[:count] for part, count in self._parts(batch)])

    def infer_all(self, batch: npt.NDArray[np.generic]) -> list[dict[str, npt.NDArray[np.generic]]]:
        """`infer` for all outputs that the spec wants: of each picture, its own by name, the first size being 1.

        Raises EngineError; ModelError if an output of several pictures is not divided among them by its first size.
        """
        if not self._is_open:
            raise EngineError(f"network '{self.model.name}' is not open: call open() before infer_all()")
        if self.fixed_batch in (None, len(batch)):
            return self._each(self._run_all(batch), len(batch), len(batch))
        found = []
        for part, count in self._parts(batch):
            found += self._each(self._run_all(part), len(part), count)
        return found

    def profile(self, batch: npt.NDArray[np.generic]) -> ProfiledRun | None:
        """Run the network on a batch, as `infer` takes it, with its layers timed, which makes it slower.

        Of a network of fixed batch size, only the first part of the batch is run. None if the backend cannot tell.
        Raises EngineError if the run fails.
        """
        if not self._is_open:
            raise EngineError(f"network '{self.model.name}' is not open: call open() before profile()")
        part, _ = next(self._parts(batch))
        return self._profiled_run(part)

    def _parts(self, batch: npt.NDArray[np.generic]) -> Iterator[tuple[npt.NDArray[np.generic], int]]:
        """The batch in parts of the fixed size, and how many pictures of each are no padding."""
        size = self.fixed_batch or len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            padding = np.zeros((size - len(part), *batch.shape[1:]), batch.dtype)
            yield (np.concatenate([part, padding]) if len(padding) else part), len(part)

    def _each(
        self, outputs: dict[str, npt.NDArray[np.generic]], size: int, count: int
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        """The outputs of each of the first `count` of `size` pictures."""
        if size == 1:
            return [outputs]
        for name, values in outputs.items():
            if not values.ndim or len(values) != size:
                raise ModelError(
                    f"output '{name}' of model '{self.model.name}' has the shape {list(values.shape)} for {size} "
                    "pictures, which tells nobody what is whose: set batch_size to 1"
                )
        return [{name: values[index : index + 1] for name, values in outputs.items()} for index in range(count)]

    @property
    def stream(self) -> Any:
        """The CUDA stream (torch.cuda.Stream) that the open network runs on; None if it takes no batches on a GPU."""
        return None

    def infer_on_device(self, batch: Any) -> Any:
        """`infer` for a CUDA tensor, with a CUDA tensor as the result; only where there is a `stream`."""
        raise EngineError(f"network '{self.model.name}': its backend takes batches in host memory only")

    def close(self) -> None:
        """Free what the network holds; harmless if it is closed already."""
        if self._is_open:
            self._is_open = False
            self._close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the process, anything may be gone
            self.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abc.abstractmethod
    def describe(self) -> str:
        """Where the open network runs, in a few words: 'onnxruntime on the CPU, 1 thread'."""

    @abc.abstractmethod
    def _open(self) -> None: ...

    @abc.abstractmethod
    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]: ...

    def _run_all(self, batch: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
        """Every output that the spec wants, by name."""
        raise EngineError(f"network '{self.model.name}': its backend gives one output only")

    @abc.abstractmethod
    def _close(self) -> None: ...

    def _profiled_run(self, batch: npt.NDArray[np.generic]) -> ProfiledRun | None:
        return None

    def _check_input(self, name: str, shape: Sequence[Any], element_type: str) -> None:
        """ModelError unless the network's input is what the spec says; a dimension that is not fixed is no int.

        Notes the batch size, if it is fixed.
        """
        wanted = self.spec.input
        size = (wanted.height, wanted.width)
        expected = ["N", 3, *size] if wanted.layout == "nchw" else ["N", *size, 3]
        if len(shape) != 4 or any(
            isinstance(have, int) and have != want for want, have in zip(expected[1:], shape[1:], strict=True)
        ):
            is_option = bool(self.input_shapes.keys() & {wanted.name, ""})
            said_by = "the option 'input_shapes'" if is_option else "its description"
            raise ModelError(
                f"input '{name}' of model '{self.model.name}' has the shape {list(shape)}, {said_by} "
                f"says {expected} ({wanted.layout})"
            )
        if element_type != wanted.dtype:
            raise ModelError(
                f"input '{name}' of model '{self.model.name}' takes {element_type}, its description says {wanted.dtype}"
            )
        self.fixed_batch = shape[0] if isinstance(shape[0], int) else None

    def _check_constants(self, others: list[str]) -> None:
        """ModelError unless the description says what the inputs beside the picture hold, and names no others."""
        missing = [name for name in others if name not in self.spec.constants]
        if missing:
            raise ModelError(
                f"model '{self.model.name}' wants more inputs than a picture: {', '.join(missing)}; its description "
                f'can say what they hold: "constants": {{"{missing[0]}": 0}}'
            )
        existing = [self.spec.input.name, *others]
        unknown = [name for name in self.spec.constants if name not in others]
        if unknown:
            raise self._missing_tensor("input", unknown[0], existing)
        self._check_named_shapes(existing)

    def _check_named_shapes(self, existing: list[str]) -> None:
        """ConfigError if the option 'input_shapes' names an input that there is not."""
        unknown = [name for name in self.input_shapes if name and name not in existing]
        if unknown:
            raise ConfigError(
                f"option 'input_shapes': model '{self.model.name}' has no input '{unknown[0]}'; it has: "
                + ", ".join(f"'{name}'" for name in existing)
            )

    def _wanted_outputs(self, existing: list[str]) -> list[str]:
        """ModelError if the spec wants an output that the network does not have."""
        wanted = self.spec.wanted_outputs(existing)
        missing = [name for name in wanted if name not in existing]
        if missing:
            raise self._missing_tensor("output", missing[0], existing)
        return wanted

    def _missing_tensor(self, kind: str, name: str, existing: list[str]) -> ModelError:
        return ModelError(
            f"model '{self.model.name}' has no {kind} '{name}', which its description names; it has: "
            + ", ".join(f"'{other}'" for other in existing)
        )


@dataclass(frozen=True)
class BackendEntry:
    """A backend before anything is imported: its module and class, the files it runs, and how to install it."""

    module: str
    class_name: str
    requires: tuple[str, ...]
    """Libraries, one of which it needs."""
    suffixes: tuple[str, ...]
    install: str
    builds_from: tuple[str, ...] = ()
    """Endings of files that it runs after something was built from them, if it is chosen by name."""

    @property
    def library(self) -> str | None:
        """The library that it runs on, which is not imported for this; None if there is none."""
        return next((name for name in self.requires if importlib.util.find_spec(name) is not None), None)


BACKENDS: dict[str, BackendEntry] = {
    "onnxruntime": BackendEntry(
        "bmf_trt_seg.backends.onnxruntime",
        "OnnxRuntimeBackend",
        ("onnxruntime",),
        (".onnx",),
        "pip install onnxruntime",
    ),
    "pytorch": BackendEntry(
        "bmf_trt_seg.backends.pytorch",
        "PyTorchBackend",
        ("torch",),
        (".pt", ".pth", ".ts", ".pt2"),
        "pip install torch",
    ),
    "tensorrt": BackendEntry(
        "bmf_trt_seg.backends.tensorrt",
        "TensorRTBackend",
        ("tensorrt", "tensorrt_rtx"),
        (".engine", ".plan", ".trt"),
        "pip install tensorrt torch",
        builds_from=(".onnx",),
    ),
}


def select_backend(name: str, model: Path) -> type[Backend]:
    """The class of the backend `name`, or with 'auto' of the one that runs this kind of file.

    Raises ConfigError if no backend, or not this one, runs such a file; BackendUnavailable if its library is missing.
    """
    suffix = model.suffix.lower()
    if name == "auto":
        name = next((known for known, entry in BACKENDS.items() if suffix in entry.suffixes), "")
        if not name:
            known = ", ".join(ending for entry in BACKENDS.values() for ending in entry.suffixes)
            raise ConfigError(f"model '{model.name}': no backend runs files ending in '{suffix}'; known are {known}")
    entry = BACKENDS[name]
    if suffix not in entry.suffixes + entry.builds_from:
        endings = ", ".join(entry.suffixes + entry.builds_from)
        raise ConfigError(f"model '{model.name}': backend '{name}' runs files ending in {endings}")
    if entry.library is None:
        raise BackendUnavailable(f"backend '{name}' is not installed: {entry.install}")
    try:
        backend: type[Backend] = getattr(importlib.import_module(entry.module), entry.class_name)
    except ImportError as error:  # installed, and still lacks something
        raise BackendUnavailable(f"backend '{name}' cannot be loaded: {error}") from error
    return backend
