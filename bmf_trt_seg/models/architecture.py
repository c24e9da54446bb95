"""What has to be known of a network that can be made by name, before it is made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bmf_trt_seg.errors import BackendUnavailable
from bmf_trt_seg.models.datasets import DataSet

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Architecture", "imported"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pictures, R'G'B' from 0 to 1: what nearly all networks are trained with."""


@dataclass(frozen=True)
class Architecture:
    """A network of a library: how to make it, and what its published weights are."""

    name: str
    library: str
    """The package that makes it."""
    data_set: DataSet
    """What the published weights were trained on."""
    size_hw: tuple[int, int]
    """Height and width of the pictures that they were trained or measured on."""
    weights: str
    """What the published weights are called, for people."""
    license: str
    """Their licence."""
    create: Callable[[int], Any]
    """The network (torch.nn.Module) for so many classes, with random weights; nothing is downloaded."""
    published: Callable[[], Mapping[str, Any]]
    """Names and tensors of the published weights; StreamError, with what to do, if they cannot be had."""
    renamed: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
    """Given such a network and weights, the weights under the names that the network has for them."""
    last_layer: Callable[[Any], Any]
    """The convolution (torch.nn.Conv2d) of such a network that makes scores of features."""


def imported(module: str) -> Any:
    """A module of an optional library; BackendUnavailable, with what to install, if it is not here or is broken."""
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise BackendUnavailable(f"package '{library}' lacks '{error.name}': pip install {error.name}") from error
        raise BackendUnavailable(
            f"exporting networks wants the package '{library}': pip install 'bmf-trt-seg[export]'"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendUnavailable(f"package '{library}' cannot be loaded: {reason}") from error
