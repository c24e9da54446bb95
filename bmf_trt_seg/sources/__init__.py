"""BMF modules that bring frames into a graph: cameras and streams, files decoded on a GPU, and their sound."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["LiveSource", "NvDecSource", "SoundGate"]

_MODULES = {"LiveSource": "live", "NvDecSource": "nvdec", "SoundGate": "sound"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    # not before it is asked for: each wants BMF
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
