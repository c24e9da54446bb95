"""What tests on a GPU share. Without a GPU or TensorRT they are skipped; with BMF_TRT_SEG_NEEDS_GPU=1 they fail.

BMF_TRT_SEG_ENGINES    where engines are kept, so that a second run need not build them; default: a new folder
BMF_TRT_SEG_NETWORKS   what benchmarks/export_networks.py wrote; tests that want it are skipped without
BMF_TRT_SEG_PICTURE    a picture of a person; default: picture.png of that folder, else a drawn figure
BMF_TRT_SEG_FIGURES    a JSON file to which the tests add what they measured
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_NEEDED = os.environ.get("BMF_TRT_SEG_NEEDS_GPU", "") not in ("", "0")


def _missing() -> str:
    """Why these tests cannot run here; '' if they can."""
    if importlib.util.find_spec("torch") is None:
        return "there is no PyTorch here"
    import torch

    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU here"
    return "" if importlib.util.find_spec("tensorrt") else "there is no TensorRT here"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(400))  # fixtures build engines
            item.add_marker(pytest.mark.filterwarnings("default"))  # CUDA libraries warn of each other


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = _missing()
    if missing and _HERE in item.path.parents:
        pytest.fail(missing) if _NEEDED else pytest.skip(missing)


@pytest.fixture(scope="session", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of engines, for this process and those it starts."""
    chosen = os.environ.setdefault("BMF_TRT_SEG_ENGINES", str(tmp_path_factory.mktemp("engines")))
    Path(chosen).mkdir(parents=True, exist_ok=True)
    return Path(chosen)


@pytest.fixture(scope="session")
def person() -> Path:
    """The person model's ONNX file."""
    from bmf_trt_seg.models import catalog

    return catalog.find("person")


@pytest.fixture(scope="session")
def person_fp32(person: Path, engines: Path) -> Path:
    """The person model without TF32."""
    from gpu.networks import engine

    return engine(person).path


@pytest.fixture(scope="session")
def person_fp16(person: Path, engines: Path) -> Path:
    from gpu.networks import build_of, engine

    return engine(person, build=build_of("person", "fp16")).path


@pytest.fixture(scope="session")
def exported() -> Path:
    """The folder that export_networks.py wrote."""
    folder = os.environ.get("BMF_TRT_SEG_NETWORKS")
    if not folder or not Path(folder, "fcn_resnet101.onnx").is_file():
        pytest.skip("BMF_TRT_SEG_NETWORKS names no folder that benchmarks/export_networks.py wrote")
    return Path(folder)


@pytest.fixture(scope="session")
def portrait_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of a person, 640x360, 29.97 a second, with B-frames."""
    from fractions import Fraction

    from gpu.networks import write_portrait

    path = tmp_path_factory.mktemp("portrait") / "portrait.mp4"
    return write_portrait(path, 40, (640, 360), rate=Fraction(30000, 1001), b_frames=2)
