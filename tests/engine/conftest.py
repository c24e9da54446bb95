"""A tiny network, and a folder of its own for the engines that a test builds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import save_onnx

WEIGHTS = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """(N, 3, 8, 8) to (N, 2, 8, 8): a convolution and a sigmoid."""
    return save_onnx(tmp_path / "net.onnx", WEIGHTS, then="Sigmoid")


@pytest.fixture
def open_file(tmp_path: Path) -> Path:
    """The same for pictures of any size."""
    return save_onnx(tmp_path / "open.onnx", WEIGHTS, then="Sigmoid", size_hw=("H", "W"))


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines are kept: no folder yet."""
    folder = tmp_path / "engines"
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(folder))
    return folder
