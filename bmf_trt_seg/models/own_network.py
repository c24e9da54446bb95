"""A network of the user's own: a Python function that returns one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.models.architecture import imported

__all__ = ["network_from"]


def network_from(entry: str) -> Any:
    """Call what `entry` names, 'module:function' or 'path/file.py:function', and return its torch.nn.Module.

    Modules are looked for in the working directory, too. The function takes no arguments. Raises ConfigError if there
    is no such function, ModelError if it fails or returns something else.
    """
    place, colon, name = entry.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise ConfigError(f"--from takes MODULE:FUNCTION or FILE.py:FUNCTION, not '{entry}'")
    try:
        module = _module(place)
    except ModuleNotFoundError as error:
        is_itself = error.name in (place, place.partition(".")[0])
        problem = "is not found" if is_itself else f"lacks the package '{error.name}'"
        raise ConfigError(f"--from {entry}: module '{place}' {problem}") from error
    except Exception as error:  # the user's own code
        raise ModelError(f"--from {entry}: module '{place}' fails: {_told(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        named = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        there = f"; it has {', '.join(named[:8])}" if named else ""
        raise ConfigError(f"--from {entry}: module '{place}' has no function '{name}'{there}")
    try:
        network = function()
    except Exception as error:
        raise ModelError(f"--from {entry}: {name}() fails: {_told(error)}") from error
    if not isinstance(network, imported("torch.nn").Module):
        raise ModelError(f"--from {entry}: {name}() returns {type(network).__name__}, expected a torch.nn.Module")
    return network.eval()


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        return importlib.import_module(place)
    path = Path(place)
    if not path.is_file():
        raise ModuleNotFoundError(name=place)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(name=place)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))  # where the file's own imports lie
    spec.loader.exec_module(module)
    return module


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
