"""TensorRT, whichever edition is installed, and everything in which its editions differ.

Written against 8.6, 10, 11 and TensorRT-RTX: what a library can do is asked of the library, not of its version. 8.6 and
10 choose precisions by builder flags; RTX and 11 take them from the network's own types ("strongly typed").
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import re
from dataclasses import dataclass, field
from typing import Any

from bmf_trt_seg.errors import BackendUnavailable, ConfigError

__all__ = ["INSTALL", "MODULES", "NO_GPU", "Gpu", "Library", "find_gpu", "has_cuda", "load_library"]

MODULES = ("tensorrt", "tensorrt_rtx")
NO_GPU = "TensorRT engines run on a CUDA GPU, and PyTorch finds none here; the backend 'onnxruntime' needs none"
INSTALL = "pip install tensorrt, or tensorrt-rtx-cu13 for GPUs of the RTX series"
_EDITIONS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_SHARES_PROFILES = 10  # the first TensorRT of which contexts share profiles without having been told
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its number, name, and compute capability, as in '9.0'."""

    index: int
    name: str
    compute_capability: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    trt: Any
    """The module itself."""
    module: str
    """'tensorrt' or 'tensorrt_rtx'."""
    messages: Messages = field(compare=False)
    """What it logged lately."""
    logger: Any = field(compare=False)

    def __str__(self) -> str:
        return f"{_EDITIONS[self.module]} {self.version}"

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def is_strongly_typed(self) -> bool:
        """Whether a network's own types are the only way to choose precisions."""
        return not hasattr(self.trt.BuilderFlag, "FP16")

    @property
    def calibrates(self) -> bool:
        """Whether it quantizes to INT8 by itself, from a calibrator."""
        return hasattr(self.trt, "IInt8EntropyCalibrator2") and not self.is_strongly_typed

    @property
    def reports_progress(self) -> bool:
        """Whether a build tells how far it is, and can be cancelled."""
        return hasattr(self.trt, "IProgressMonitor")

    @property
    def keeps_timings(self) -> bool:
        """Whether a timing cache makes later builds faster; RTX chooses its kernels when the engine is loaded."""
        return self.module == "tensorrt"

    def builder_flag(self, name: str, option: str) -> Any:
        """A builder flag by name; ConfigError names our option if this edition has no such flag."""
        flag = getattr(self.trt.BuilderFlag, name, None)
        if flag is None:
            raise ConfigError(f"option '{option}': {self} has no such engines; leave it out")
        return flag

    def network_flags(self) -> int:
        """For `create_network`: explicit batch, which later editions have always, or strong types."""
        flags = self.trt.NetworkDefinitionCreationFlag
        if self.is_strongly_typed:
            return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
        return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0

    @property
    def shares_profiles(self) -> bool:
        """Whether several contexts run any engine at once; else only one that was built for it."""
        return self.module != "tensorrt" or int(self.version.partition(".")[0]) >= _SHARES_PROFILES

    def let_contexts_share_profiles(self, config: Any) -> None:
        """So that several contexts run one engine. Later editions than 8.6 need not be told."""
        feature = getattr(self.trt.PreviewFeature, "PROFILE_SHARING_0806", None)
        if feature is not None:
            config.set_preview_feature(feature, True)

    def element_type(self, data_type: Any) -> str:
        """NumPy's name of a data type, and 'bfloat16'; what neither has is named as TensorRT does, in lower case."""
        name = str(data_type).rpartition(".")[2]
        return _ELEMENT_TYPES.get(name, name.lower())

    def context_memory_bytes(self, engine: Any) -> int:
        """Device memory that a context of an engine takes for intermediate tensors."""
        newer = getattr(engine, "device_memory_size_v2", None)  # the older one is deprecated where this exists
        return int(engine.device_memory_size if newer is None else newer)


_ELEMENT_TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip


class Messages:
    """What TensorRT logged: errors are kept for the message of what failed, the rest goes to our log."""

    _KEPT = 20

    def __init__(self) -> None:
        self._errors: list[str] = []

    def add(self, severity: int, text: str) -> None:
        """severity: TensorRT's, 0 internal error, 1 error, 2 warning, 3 information, 4 everything."""
        if severity <= 1:
            self._errors = [*self._errors[1 - self._KEPT :], text]
        if severity <= 3:
            _log.debug("TensorRT: %s", text)

    def take_errors(self) -> list[str]:
        """The errors since the last call, oldest first."""
        errors, self._errors = self._errors, []
        return errors


def load_library(module: str = "") -> Library:
    """Import TensorRT: `module`, or the first of MODULES that is installed. BackendUnavailable says how to get it."""
    wanted = (module,) if module else MODULES
    name = next((name for name in wanted if importlib.util.find_spec(name)), "")
    if not name:
        raise BackendUnavailable(f"{_EDITIONS[wanted[0]]} is not installed: {INSTALL}")
    return _imported(name)


@functools.cache
def _imported(name: str) -> Library:
    try:
        trt = importlib.import_module(name)
    except Exception as error:  # an ImportError, or what its bindings raise without their libraries
        raise BackendUnavailable(f"{_EDITIONS[name]} is installed, but cannot be loaded: {error}") from error
    messages = Messages()
    return Library(trt, name, messages, _logger(trt, messages))


def _logger(trt: Any, messages: Messages) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            messages.add(int(severity), text.strip())

    return Logger()


def has_cuda() -> bool:
    """Whether PyTorch is a build with CUDA, GPU or not."""
    import torch

    return torch.version.cuda is not None


def find_gpu(device: str = "auto") -> Gpu | None:
    """The device of an option ('auto', 'cuda', 'cuda:N'), or None if PyTorch finds no GPU here.

    Raises BackendUnavailable if there are GPUs, but not this one, or no PyTorch.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device '{device}' is none; allowed are 'auto', 'cpu', 'cuda' and 'cuda:N'")
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable("TensorRT engines want PyTorch beside them: pip install torch") from error
    if not torch.cuda.is_available():
        return None
    index, count = int(device.partition(":")[2] or 0), torch.cuda.device_count()
    if index >= count:
        there = "cuda:0 only" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise BackendUnavailable(f"device '{device}' does not exist: this machine has {there}")
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(index, torch.cuda.get_device_name(index), f"{major}.{minor}")
