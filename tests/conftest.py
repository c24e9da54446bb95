"""Real networks and a real picture, out of published wheels and kept in tests/.cache between runs; made-up ones."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import clips
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bmf_trt_seg.models.catalog import CATALOG
from bmf_trt_seg.models.packages import file_from_wheel

_CACHE = Path(__file__).parent / ".cache"

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell has it for what runs behind it: that is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _cached(requirement: str, member: str, sha256: str) -> bytes:
    path = _CACHE / f"{sha256[:12]}-{Path(member).name}"
    if not path.exists():
        content = file_from_wheel(requirement, member, sha256)
        _CACHE.mkdir(exist_ok=True)
        (_CACHE / ".gitignore").write_text("*\n")
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(content)
        part.replace(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def tflite_files() -> dict[str, bytes]:
    """The TFLite file of each network of the catalog, by name."""
    return {model.name: _cached(model.requirement, model.member, model.sha256) for model in CATALOG.values()}


@pytest.fixture(scope="session")
def astronaut() -> npt.NDArray[np.uint8]:
    """A person before a background: (512, 512, 3) RGB, read-only (NASA, public domain)."""
    content = _cached(
        "scikit-image==0.26.0",
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    )
    picture = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    picture.setflags(write=False)
    return picture


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny networks of `clips`: bright.onnx, three.onnx, index.onnx, classifier.onnx."""
    folder = tmp_path_factory.mktemp("networks")
    clips.bright_model(folder / "bright.onnx")
    clips.three_class_model(folder / "three.onnx")
    clips.index_model(folder / "index.onnx")
    clips.classifier_model(folder / "classifier.onnx")
    return folder


@pytest.fixture(scope="session")
def bright(networks: Path) -> Path:
    """The network that finds the box of every generated frame."""
    return networks / "bright.onnx"


@pytest.fixture(scope="session")
def plain_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of 160x90 in MP4, 25 a second, with B-frames and one audio track."""
    return clips.write_clip(tmp_path_factory.mktemp("clips") / "plain.mp4", b_frames=2, audio=("aac",))
