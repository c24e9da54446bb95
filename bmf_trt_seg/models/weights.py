"""Files of weights: reading them without running what is in them, and fitting them to a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bmf_trt_seg.errors import ConfigError, ModelError, StreamError
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.models.architecture import imported

__all__ = ["classes_in", "fill", "labels_beside", "read_weights"]

_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "ema")
_PREFIXES = ("module.", "_orig_mod.", "network.")
_AUXILIARY = "aux_classifier."
"""A second head that helps in training only."""


def read_weights(path: Path) -> Mapping[str, Any]:
    """Names and tensors of a .pth or .safetensors file, or of a folder as Hugging Face keeps them.

    Pickled files are read without running code in them. A dictionary within which a training loop has put the weights
    is opened, and the prefixes of wrapped networks are taken off. Raises StreamError or ModelError.
    """
    if path.is_dir():
        file = next((path / name for name in _FOLDER_FILES if (path / name).is_file()), None)
        if file is None:
            raise StreamError(f"'{path}' holds no weights: expected {' or '.join(_FOLDER_FILES)} in it")
        path = file
    if not path.is_file():
        raise StreamError(f"weights '{path}' do not exist")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    for name in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    torch = imported("torch")
    if not isinstance(found, Mapping) or not any(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelError(f"'{path}' holds no weights: expected names and tensors, as torch.save(net.state_dict()) does")
    return {_plain(str(name)): value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _safetensors(path: Path) -> Any:
    try:
        return imported("safetensors.torch").load_file(str(path))
    except OSError as error:
        raise StreamError(f"weights '{path}' cannot be read: {error.strerror or error}") from error
    except Exception as error:  # safetensors' own, derived from Exception
        raise ModelError(f"weights '{path}' are damaged, or no safetensors file: {error}") from error


def _pickled(path: Path) -> Any:
    try:
        return imported("torch").load(str(path), map_location="cpu", weights_only=True)
    except OSError as error:
        raise StreamError(f"weights '{path}' cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # PyTorch's text goes over many lines and recommends to run whatever the file says
        whole = "holds more than tensors, whose code is not run here; save its state_dict() alone"
        damaged = "are damaged, or no file of weights"
        raise ModelError(f"weights '{path}' {whole if 'global' in str(error).lower() else damaged}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"weights '{path}' are damaged, or no file of weights") from error


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def labels_beside(path: Path) -> list[str] | None:
    """The class names in the config.json of a Hugging Face folder; None if there are none of the user's own."""
    file = path / "config.json"
    if not path.is_dir() or not file.is_file():
        return None
    try:
        named = parsed(file.read_text(encoding="utf-8")).get("id2label") or {}
        labels = [" ".join(str(named[key]).split()) for key in sorted(named.keys(), key=int)]
    except OSError as error:
        raise StreamError(f"'{file}' cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"'{file}' is no configuration of a network: {error}") from error
    return None if not labels or labels[0] == "LABEL_0" else labels


def classes_in(weights: Mapping[str, Any], layer: str) -> int | None:
    """How many classes weights are for: the channels of the layer of this name; None if it is not among them."""
    found = weights.get(f"{layer}.weight")
    return None if found is None else int(found.shape[0])


def fill(network: Any, weights: Mapping[str, Any], name: str, source: str) -> None:
    """Put weights into a network; ModelError, saying what does not fit, unless every tensor has its place.

    `name` is the network's and `source` the weights', for messages. Weights of an auxiliary head are left out.
    """
    given = {key: value for key, value in weights.items() if not key.startswith(_AUXILIARY)}
    expected = network.state_dict()
    problems = []
    # a counter of training, which files of old do not have and inference does not use
    missing = [key for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in expected]
    shapes = [key for key, value in given.items() if key in expected and value.shape != expected[key].shape]
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} tensors are missing, as '{missing[0]}'")
    if unknown:
        problems.append(f"{len(unknown)} are not of this network, as '{unknown[0]}'")
    if shapes:
        key = shapes[0]
        got, want = tuple(given[key].shape), tuple(expected[key].shape)
        problems.append(f"{len(shapes)} have another shape, as '{key}': {got}, expected {want}")
    if problems:
        raise ModelError(f"weights '{source}' do not fit {name}: {'; '.join(problems)}")
    network.load_state_dict(given, strict=False)
