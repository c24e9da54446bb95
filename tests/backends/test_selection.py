"""Which backend runs a file, and what is said if none does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from bmf_trt_seg.backends import BACKENDS, select_backend
from bmf_trt_seg.errors import BackendUnavailable, ConfigError


@pytest.fixture
def missing(monkeypatch):
    """missing(libraries): as if they were not installed."""

    def missing(libraries):
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in libraries else found(name, *rest)
        )

    return missing


@pytest.mark.parametrize(
    ("model", "backend"),
    [
        ("net.onnx", "OnnxRuntimeBackend"),
        ("net.ONNX", "OnnxRuntimeBackend"),
        ("net.pt", "PyTorchBackend"),
        ("net.pth", "PyTorchBackend"),
        ("net.ts", "PyTorchBackend"),
        ("net.v2.pt2", "PyTorchBackend"),
    ],
)
def test_auto_goes_by_the_ending(model, backend):
    assert select_backend("auto", Path(model)).__name__ == backend


def test_no_backend_runs_this():
    with pytest.raises(ConfigError) as caught:
        select_backend("auto", Path("net.tflite"))
    assert str(caught.value) == (
        "model 'net.tflite': no backend runs files ending in '.tflite'; known are .onnx, .pt, .pth, .ts, .pt2, "
        ".engine, .plan, .trt"
    )


def test_chosen_backend_does_not_run_this():
    with pytest.raises(ConfigError) as caught:
        select_backend("onnxruntime", Path("net.pt"))
    assert str(caught.value) == "model 'net.pt': backend 'onnxruntime' runs files ending in .onnx"


@pytest.mark.parametrize(
    ("backend", "ending"), [("onnxruntime", ".onnx"), ("pytorch", ".pt2"), ("tensorrt", ".engine")]
)
@pytest.mark.parametrize("asked", ["auto", "by name"])
def test_library_that_is_not_installed(missing, backend, ending, asked):
    missing(BACKENDS[backend].requires)
    assert BACKENDS[backend].library is None
    with pytest.raises(BackendUnavailable) as caught:
        select_backend("auto" if asked == "auto" else backend, Path(f"net{ending}"))
    library = {"onnxruntime": "onnxruntime", "pytorch": "torch", "tensorrt": "tensorrt torch"}[backend]
    assert str(caught.value) == f"backend '{backend}' is not installed: pip install {library}"


@pytest.mark.parametrize(("backend", "ending"), [("onnxruntime", ".onnx"), ("pytorch", ".pt2")])
def test_library_that_cannot_be_loaded(tmp_path, monkeypatch, backend, ending):
    library = tmp_path / f"{BACKENDS[backend].requires[0]}.py"
    library.write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    code = (
        "from pathlib import Path; from bmf_trt_seg.backends import select_backend\n"
        f"try: select_backend('auto', Path('net{ending}'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(sys.modules['bmf_trt_seg'].__file__).parents[1]}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"BackendUnavailable backend '{backend}' cannot be loaded: libcudart.so.12: cannot open shared object file\n"
    )


def test_installed_is_found_without_an_import():
    assert BACKENDS["onnxruntime"].library == "onnxruntime"
    assert BACKENDS["pytorch"].library == "torch"
    assert BACKENDS["tensorrt"].library in ("tensorrt", "tensorrt_rtx")
