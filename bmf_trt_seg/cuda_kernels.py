"""The project's own CUDA kernels, compiled for the GPU in use by NVRTC.

The sources lie in `kernels/`. cuda.bindings, a dependency of PyTorch's CUDA wheels, brings the compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import re
import site
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bmf_trt_seg.errors import BackendUnavailable, EngineError

if TYPE_CHECKING:
    import torch

__all__ = ["BATCH", "CudaKernels", "Kernels", "compiled", "kernel_names", "kernel_source", "kernels_for"]

Dimensions = tuple[int, int, int]

BATCH = 32
"""Pictures of one launch (FRAMES in common.cu)."""

_FOLDER = Path(__file__).with_name("kernels")
_FILES = ("common", "preprocess", "narrow", "decide", "overlay", "contour", "blur")  # each uses those before it
_OPTIONS = ("--std=c++17",)
_LOG_LINES = 4


class Kernels(Protocol):
    """Whatever can run the kernels of `kernels/`."""

    def launch(
        self, name: str, grid: Dimensions, block: Dimensions, parameters: ctypes.Structure, stream: int
    ) -> None: ...


class CudaKernels:
    """The kernels, loaded in the primary context of one device, which is PyTorch's."""

    def __init__(self, device_index: int) -> None:
        """Compile, which takes seconds. BackendUnavailable without cuda.bindings or NVRTC; EngineError if it fails."""
        driver = _cuda("driver")
        _checked(driver.cuInit(0), "the CUDA driver cannot be used")
        device = _checked(driver.cuDeviceGet(device_index), f"there is no CUDA device {device_index}")
        attribute = driver.CUdevice_attribute
        major, minor = (
            _checked(driver.cuDeviceGetAttribute(kind, device), "the CUDA device cannot be asked for its architecture")
            for kind in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        binary = _kept(f"sm_{major}{minor}")
        # kept for as long as the process lives, like PyTorch's own hold on it
        self._context = _checked(driver.cuDevicePrimaryCtxRetain(device), "the CUDA device's context is not to be had")
        self._driver = driver
        _checked(driver.cuCtxPushCurrent(self._context), "the CUDA device's context cannot be made current")
        try:
            self._module = _checked(driver.cuModuleLoadData(binary), "the compiled CUDA kernels cannot be loaded")
            self._functions = {
                name: _checked(driver.cuModuleGetFunction(self._module, name.encode()), f"no CUDA kernel '{name}'")
                for name in kernel_names()
            }
        finally:
            driver.cuCtxPopCurrent()

    def launch(self, name: str, grid: Dimensions, block: Dimensions, parameters: ctypes.Structure, stream: int) -> None:
        """Start a kernel on a CUDA stream (its handle) of the current context, which has to be the device's.

        parameters: the kernel's only argument; it is copied before this returns. EngineError if it cannot be started.
        """
        arguments = ctypes.c_void_p(ctypes.addressof(parameters))  # an array of one address
        (error,) = self._driver.cuLaunchKernel(
            self._functions[name], *grid, *block, 0, stream, ctypes.addressof(arguments), 0
        )
        if error:
            raise EngineError(f"CUDA kernel '{name}' cannot be started: {error.name}")


_kernels: dict[int, CudaKernels] = {}
_lock = threading.Lock()


def kernels_for(device: torch.device) -> CudaKernels:
    """The kernels on a CUDA device, compiled when they are first asked for; errors as `CudaKernels` has them."""
    import torch

    index = torch.cuda.current_device() if device.index is None else device.index
    with _lock:
        if index not in _kernels:
            _kernels[index] = CudaKernels(index)
        return _kernels[index]


def kernel_source() -> str:
    """The source of all kernels, as one text."""
    return "\n".join((_FOLDER / f"{name}.cu").read_text(encoding="utf-8") for name in _FILES)


def kernel_names() -> list[str]:
    """The names that can be launched."""
    return re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*?\) )?(\w+)\(', kernel_source())


def _kept(architecture: str) -> bytes:
    """`compiled`, once for each source and architecture, because it takes seconds."""
    text = "\n".join([architecture, *_OPTIONS, kernel_source()])
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home folder
        return compiled(architecture)
    path = cache / "bmf_trt_seg" / "kernels" / f"{architecture}.{hashlib.sha256(text.encode()).hexdigest()[:16]}.cubin"
    with contextlib.suppress(OSError):
        return path.read_bytes()
    binary = compiled(architecture)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(binary)
        partial.replace(path)
    return binary


def compiled(architecture: str) -> bytes:
    """The kernels as machine code for an architecture such as 'sm_90'; no GPU is needed.

    BackendUnavailable without cuda.bindings or NVRTC, EngineError if the compiler refuses the source.
    """
    nvrtc = _cuda("nvrtc")
    _preload_nvrtc()
    try:
        program = _checked(nvrtc.nvrtcCreateProgram(kernel_source().encode(), b"kernels.cu", 0, [], []), "NVRTC failed")
    except RuntimeError as error:  # of cuda.pathfinder, in several lines
        if isinstance(error, EngineError):
            raise
        raise BackendUnavailable(
            "the CUDA compiler NVRTC cannot be loaded; it comes with the CUDA wheels of PyTorch: pip install torch"
        ) from error
    options = [option.encode() for option in (f"--gpu-architecture={architecture}", *_OPTIONS)]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status:
            raise EngineError(f"the CUDA kernels cannot be compiled for {architecture}: {_log(nvrtc, program)}")
        binary = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program), "NVRTC gave no machine code")
        _checked(nvrtc.nvrtcGetCUBIN(program, binary), "NVRTC gave no machine code")
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _log(nvrtc: Any, program: Any) -> str:
    """The first lines of what the compiler said, as one."""
    text = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program), "NVRTC gave no log")
    _checked(nvrtc.nvrtcGetProgramLog(program, text), "NVRTC gave no log")
    lines = text.decode(errors="replace").strip("\0 \n").splitlines()
    return " ".join(line.strip() for line in lines[:_LOG_LINES] if line.strip()) or "no reason given"


def _cuda(module: str) -> Any:
    try:
        if module == "nvrtc":
            from cuda.bindings import nvrtc

            return nvrtc
        from cuda.bindings import driver

        return driver
    except ImportError as error:
        raise BackendUnavailable(
            "drawing on the GPU needs cuda.bindings, which is not installed: pip install cuda-bindings"
        ) from error


def _preload_nvrtc() -> None:
    """Load NVRTC from beside PyTorch: not every cuda.pathfinder looks there, nor NVRTC itself for its second half."""
    torch = importlib.util.find_spec("torch")
    beside = [str(Path(torch.origin).parents[1])] if torch is not None and torch.origin else []
    for packages in [*beside, *site.getsitepackages()]:
        for library in sorted(Path(packages).glob("nvidia/*/lib/libnvrtc.so.1[23]"), reverse=True):
            builtins = library.parent.glob("libnvrtc-builtins.so*")
            with contextlib.suppress(OSError):  # cuda.pathfinder may know better
                for part in (*builtins, library):
                    ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
                return


def _checked(result: tuple[Any, ...], failure: str) -> Any:
    """What a call of cuda.bindings gave beside its status; EngineError unless that is success."""
    error, *values = result
    if error:
        raise EngineError(f"{failure}: {error.name}")
    return values[0] if values else None
