"""Flags that say what cannot be read off a network: labels, normalization, size, resizing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.models.architecture import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["labels_flag", "normalize_flag", "parsed_normalization", "parsed_size", "resize_flag"]

Function = TypeVar("Function", bound=Callable[..., Any])
Triple = tuple[float, float, float]

NORMALIZATIONS: dict[str, tuple[Triple, Triple]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation by name: as ImageNet's pictures have them, from 0 to 1, from -1 to 1."""

labels_flag = click.option(
    "--labels", metavar="NAME,...",
    help="Classes, by index: voc, ade20k, cityscapes, a file with one a line, or names separated by commas.",
)  # fmt: skip

resize_flag = click.option(
    "--resize", type=click.Choice(["stretch", "letterbox"]), default="stretch", show_default=True,
    help="How pictures of another shape fit: stretched, or whole with borders.",
)  # fmt: skip


def normalize_flag(text: str = "") -> Callable[[Function], Function]:
    """--normalize; `text` ends its help."""
    return click.option(
        "--normalize", metavar="HOW",
        help="How it wants its pictures: imagenet, unit (from 0 to 1), symmetric (from -1 to 1), or mean and deviation "
        f"R,G,B/R,G,B.{text}",
    )  # fmt: skip


def parsed_size(text: str) -> tuple[int, int]:
    """'HxW' as (height, width), in pixels. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
    if found is None or not all(32 <= int(size) <= 8192 for size in found.groups()):
        raise ConfigError(f"--size takes HEIGHTxWIDTH in pixels, from 32 to 8192 each, as 512x512; got '{text}'")
    return int(found[1]), int(found[2])


def parsed_normalization(text: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation of red, green and blue, pictures being 0 to 1. Raises ConfigError."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean = std = ()
    if len(mean) != 3 or len(std) != 3:
        raise ConfigError(
            f"--normalize takes {', '.join(NORMALIZATIONS)}, or mean and standard deviation of pictures from 0 to 1 as "
            f"0.5,0.5,0.5/0.25,0.25,0.25; got '{text}'"
        )
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
