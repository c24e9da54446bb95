"""Compiling and launching the kernels, as far as it goes without a GPU."""

from __future__ import annotations

import ctypes
import sys
import types
from enum import IntEnum

import numpy as np
import pytest
import torch
from emulated_kernels import EmulatedKernels
from factories import complaint

from bmf_trt_seg import cuda_kernels
from bmf_trt_seg.cuda_kernels import BATCH, CudaKernels, compiled, kernel_names, kernel_source, kernels_for
from bmf_trt_seg.errors import BackendUnavailable, EngineError

BINARY = b"\x7fELF"


class Status(IntEnum):
    SUCCESS = 0
    INVALID = 1
    COMPILATION = 6


class FakeNvrtc:
    """A compiler that knows what it was given, and refuses it if it is told to."""

    def __init__(self, log=""):
        self.log = log
        self.options = self.source = None
        self.destroyed = 0

    def nvrtcCreateProgram(self, source, name, count, headers, names):  # noqa: N802
        self.source = source.decode()
        return Status.SUCCESS, "program"

    def nvrtcCompileProgram(self, program, count, options):  # noqa: N802
        assert (program, count) == ("program", len(options))
        self.options = [option.decode() for option in options]
        return (Status.COMPILATION if self.log else Status.SUCCESS,)

    def nvrtcGetProgramLogSize(self, program):  # noqa: N802
        return Status.SUCCESS, len(self.log) + 1

    def nvrtcGetProgramLog(self, program, text):  # noqa: N802
        ctypes.memmove(text, self.log.encode() + b"\0", len(self.log) + 1)
        return (Status.SUCCESS,)

    def nvrtcGetCUBINSize(self, program):  # noqa: N802
        return Status.SUCCESS, len(BINARY)

    def nvrtcGetCUBIN(self, program, binary):  # noqa: N802
        ctypes.memmove(binary, BINARY, len(BINARY))
        return (Status.SUCCESS,)

    def nvrtcDestroyProgram(self, program):  # noqa: N802
        self.destroyed += 1
        return (Status.SUCCESS,)


class FakeDriver:
    """A driver with one device, of architecture 9.0, that keeps the arguments of launches."""

    class CUdevice_attribute:  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 9
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 0

    def __init__(self):
        self.launches = []
        self.current = []
        self.next_status = Status.SUCCESS

    def cuInit(self, flags):  # noqa: N802
        return (Status.SUCCESS,)

    def cuDeviceGet(self, index):  # noqa: N802
        return (Status.SUCCESS, f"device {index}") if index < 2 else (Status.INVALID, None)

    def cuDeviceGetAttribute(self, attribute, device):  # noqa: N802
        return Status.SUCCESS, attribute

    def cuDevicePrimaryCtxRetain(self, device):  # noqa: N802
        return Status.SUCCESS, f"context of {device}"

    def cuCtxPushCurrent(self, context):  # noqa: N802
        self.current.append(context)
        return (Status.SUCCESS,)

    def cuCtxPopCurrent(self):  # noqa: N802
        return Status.SUCCESS, self.current.pop()

    def cuModuleLoadData(self, binary):  # noqa: N802
        assert self.current
        assert binary == BINARY
        return Status.SUCCESS, "module"

    def cuModuleGetFunction(self, module, name):  # noqa: N802
        return Status.SUCCESS, f"{module}.{name.decode()}"

    def cuLaunchKernel(self, function, *arguments):  # noqa: N802
        *sizes, shared, stream, parameters, extra = arguments
        address = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))[0]
        self.launches.append((function, sizes, shared, stream, ctypes.string_at(address, 8), extra))
        return (self.next_status,)


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """nvrtc and driver, in the place of cuda.bindings', and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nvrtc, driver = FakeNvrtc(), FakeDriver()
    bindings = types.ModuleType("cuda.bindings")
    bindings.nvrtc, bindings.driver = nvrtc, driver
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setattr(cuda_kernels, "_kernels", {})
    monkeypatch.setattr(cuda_kernels, "_preload_nvrtc", lambda: None)
    return nvrtc, driver


class Pair(ctypes.Structure):
    _fields_ = [("first", ctypes.c_int), ("second", ctypes.c_int)]


def test_the_source_is_one_text_without_headers():
    source = kernel_source()
    assert "#include" not in source
    assert f"const int FRAMES = {BATCH};" in source
    assert {"preprocess_any", "narrow", "draw_held", "contour_draw", "blur_draw"} <= set(kernel_names())
    assert source.count("__global__") == len(kernel_names()) == len(set(kernel_names()))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_takes_the_source(architecture):
    pytest.importorskip("cuda.bindings")
    try:
        binary = compiled(architecture)
    except BackendUnavailable:
        pytest.skip("libnvrtc cannot be loaded: it comes with the CUDA wheels of PyTorch")
    assert binary.startswith(BINARY)
    for name in kernel_names():
        assert name.encode() in binary


def test_a_device_gets_code_of_its_own_kind(fakes):
    nvrtc, driver = fakes
    kernels = CudaKernels(1)
    assert nvrtc.source == kernel_source()
    assert "--gpu-architecture=sm_90" in nvrtc.options
    assert nvrtc.destroyed == 1
    assert not driver.current
    kernels.launch("narrow", (1, 2, 3), (4, 5, 6), Pair(7, 8), 1234)
    function, sizes, shared, stream, parameters, extra = driver.launches[0]
    assert (function, sizes, shared, stream, extra) == ("module.narrow", [1, 2, 3, 4, 5, 6], 0, 1234, 0)
    assert np.frombuffer(parameters, np.int32).tolist() == [7, 8]


def test_kernels_are_loaded_once_for_a_device(fakes):
    first = kernels_for(torch.device("cuda", 0))
    assert kernels_for(torch.device("cuda", 0)) is first
    assert kernels_for(torch.device("cuda", 1)) is not first


def test_kernels_are_compiled_once_for_an_architecture(fakes, tmp_path, monkeypatch):
    nvrtc, _ = fakes
    for _ in range(3):
        CudaKernels(0)
    assert nvrtc.destroyed == 1
    (kept,) = tmp_path.rglob("*.cubin")
    assert kept.name.startswith("sm_90.")
    monkeypatch.setattr(cuda_kernels, "_OPTIONS", ("--std=c++17", "--use_fast_math"))
    CudaKernels(0)
    assert nvrtc.destroyed == 2
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    (tmp_path / "cache").write_text("no folder")
    CudaKernels(0)
    assert nvrtc.destroyed == 3


def test_what_the_compiler_says_is_passed_on(fakes):
    fakes[0].log = (
        'kernels.cu(7): error: identifier "x" is undefined\n      x = 1;\n\n1 error detected.\n' + "more\n" * 50
    )
    text = complaint(EngineError, CudaKernels, 0)
    assert text.startswith(
        "the CUDA kernels cannot be compiled for sm_90: "
        'kernels.cu(7): error: identifier "x" is undefined x = 1; 1 error detected.'
    )
    assert len(text) < 300
    assert fakes[0].destroyed == 1


def test_no_such_device(fakes):
    assert complaint(EngineError, CudaKernels, 2) == "there is no CUDA device 2: INVALID"


def test_a_launch_that_fails(fakes):
    kernels = CudaKernels(0)
    fakes[1].next_status = Status.INVALID
    text = complaint(EngineError, kernels.launch, "narrow", (1, 1, 1), (1, 1, 1), Pair(), 0)
    assert text == "CUDA kernel 'narrow' cannot be started: INVALID"


def test_without_cuda_bindings(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    text = "drawing on the GPU needs cuda.bindings, which is not installed: pip install cuda-bindings"
    assert complaint(BackendUnavailable, compiled, "sm_90") == text
    assert complaint(BackendUnavailable, CudaKernels, 0) == text


def test_without_nvrtc(fakes, monkeypatch):
    def missing(*arguments):
        raise RuntimeError("Failure finding libnvrtc.so\n looked here\n and there")

    monkeypatch.setattr(fakes[0], "nvrtcCreateProgram", missing)
    assert complaint(BackendUnavailable, compiled, "sm_90") == (
        "the CUDA compiler NVRTC cannot be loaded; it comes with the CUDA wheels of PyTorch: pip install torch"
    )


def test_halves_of_the_emulation_are_numpys():
    """The tests' own conversion, which stands where a GPU has an instruction."""
    library = EmulatedKernels().library
    library.half_of.argtypes, library.half_of.restype = [ctypes.c_float], ctypes.c_ushort
    library.float_of.argtypes, library.float_of.restype = [ctypes.c_ushort], ctypes.c_float
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    found = np.array([library.float_of(int(one)) for one in bits], np.float32)
    np.testing.assert_array_equal(found, halves.astype(np.float32))
    numbers = np.random.default_rng(0).normal(size=5000).astype(np.float32) * np.logspace(-9, 5, 5000, dtype=np.float32)
    numbers = np.concatenate(
        [numbers, halves[np.isfinite(halves)].astype(np.float32), [65519.9, 65520.0, np.inf, -0.0]]
    )
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float32).astype(np.float16)
    found = np.array([library.half_of(float(one)) for one in numbers], np.uint16)
    np.testing.assert_array_equal(found, expected.view(np.uint16))
