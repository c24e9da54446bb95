"""Masks that say what a picture shows: finding the mask of each picture, and reading class indices from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from bmf_trt_seg.colors import parse_hex
from bmf_trt_seg.confusion import IGNORED
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.spec import NO_CLASS

__all__ = ["MASK_SUFFIXES", "MaskReader", "Pairs", "pair_files", "parse_colors", "parse_map"]

MASK_SUFFIXES = {".bmp", ".gif", ".png", ".tif", ".tiff"}
"""Endings of files that keep values as they are; JPEG does not."""
_VALUES = 1 << 16
_OUTSIDE = -2
_EVERYTHING_ELSE = -1
_SHOWN = 8
_MOST_COLORS = 256
"""Colours that mean nothing, above which a picture is no mask but a photograph."""


@dataclass(frozen=True)
class Pairs:
    """Pictures with their masks, in order of their names, and the files that were left over."""

    pairs: tuple[tuple[Path, Path], ...]
    without_mask: tuple[Path, ...]
    without_picture: tuple[Path, ...]


def pair_files(images: Path, masks: Path, image_suffixes: set[str], image_end: str = "", mask_end: str = "") -> Pairs:
    """The picture and the mask of each name; names are compared without their endings, `image_end` and `mask_end`.

    Files whose names end otherwise are passed over. Raises StreamError for a folder that cannot be read, ConfigError
    if a name stands for two files, or if there is no pair.
    """
    pictures = _by_name(images, image_suffixes, image_end, "picture")
    truths = _by_name(masks, MASK_SUFFIXES, mask_end, "mask")
    for found, folder, what, suffixes, end in (
        (pictures, images, "pictures", image_suffixes, image_end),
        (truths, masks, "masks", MASK_SUFFIXES, mask_end),
    ):
        if not found:
            names = f"*{end}.* with " if end else ""
            raise ConfigError(f"'{folder}' has no {what} in it; looked for {names}{', '.join(sorted(suffixes))}")
    pairs = tuple((pictures[name], truths[name]) for name in sorted(pictures) if name in truths)
    if not pairs:
        raise ConfigError(
            f"no picture of '{images}' has a mask in '{masks}': names should be the same but for their endings, got "
            f"'{pictures[min(pictures)].name}' and '{truths[min(truths)].name}'; --image-suffix and --mask-suffix say "
            "what to leave out of them"
        )
    return Pairs(
        pairs,
        tuple(pictures[name] for name in sorted(pictures) if name not in truths),
        tuple(truths[name] for name in sorted(truths) if name not in pictures),
    )


def _by_name(folder: Path, suffixes: set[str], end: str, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        wrong = "is no folder" if folder.exists() else "does not exist"
        raise StreamError(f"'{folder}' {wrong}; give a folder of {what}s")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    except OSError as error:
        raise StreamError(f"'{folder}' cannot be read: {error.strerror}") from error
    found: dict[str, Path] = {}
    for path in files:
        if not path.stem.endswith(end) or path.name.startswith("."):
            continue
        name = path.stem.removesuffix(end)
        if name in found:
            raise ConfigError(
                f"'{found[name].name}' and '{path.name}' in '{folder}' could both be the {what} of '{name}'; leave "
                "one of them"
            )
        found[name] = path
    return found


def parse_map(text: str, labels: Sequence[str]) -> dict[int, int]:
    """'24:11,26:car,0:none,*:ignore': what values of masks mean, by value; -1 stands for all others.

    A class is an index or a name; 'none' is no class, 'ignore' does not count. Raises ConfigError.
    """
    meanings: dict[int, int] = {}
    for part in (part.strip() for part in text.split(",") if part.strip()):
        value, colon, wanted = (piece.strip() for piece in part.partition(":"))
        if not colon or not (value == "*" or (value.isdecimal() and int(value) < _VALUES)):
            raise ConfigError(
                f"--map: '{part}' is not VALUE:CLASS, as in 24:11 or 24:person; values go from 0 to {_VALUES - 1}, * "
                "is every other one"
            )
        number = _EVERYTHING_ELSE if value == "*" else int(value)
        if number in meanings:
            raise ConfigError(f"--map: '{value}' is named twice")
        meanings[number] = _class_index(wanted, labels, "--map")
    if not meanings:
        raise ConfigError("--map is empty; write it as 24:11,25:12")
    return meanings


def parse_colors(text: str, labels: Sequence[str]) -> dict[tuple[int, int, int], int]:
    """'road=#804080,ignore=#000000' as class indices by colour. Raises ConfigError."""
    colors: dict[tuple[int, int, int], int] = {}
    for part in (part.strip() for part in text.split(",") if part.strip()):
        wanted, equals, code = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise ConfigError(f"--mask-colors: '{part}' is not CLASS=#RRGGBB")
        try:
            color = parse_hex(code)
        except ValueError as error:
            raise ConfigError(f"--mask-colors: '{part}': {error}") from error
        if color in colors:
            raise ConfigError(f"--mask-colors: {code} stands twice")
        colors[color] = _class_index(wanted, labels, "--mask-colors")
    if not colors:
        raise ConfigError("--mask-colors is empty; write it as road=#804080,person=#dc143c")
    return colors


def _class_index(text: str, labels: Sequence[str], option: str) -> int:
    if text in labels:
        return labels.index(text)
    if text.isdecimal() and int(text) < len(labels):
        return int(text)
    if text in ("ignore", "none"):
        return IGNORED if text == "ignore" else NO_CLASS
    shown = ", ".join(f"{index} {label}" for index, label in enumerate(labels[:30]))
    more = f", ... {len(labels) - 30} more" if len(labels) > 30 else ""
    raise ConfigError(f"{option}: the model has no class '{text}'; it has {shown}{more}; beside them: ignore, none")


@dataclass
class MaskReader:
    """Reads masks as class indices, and remembers the values in them that are none."""

    labels: Sequence[str]
    ignore: int = 255
    """A value that does not count."""
    meanings: Mapping[int, int] = field(default_factory=dict)
    """As `parse_map` gives it; values that are not in it are class indices."""
    colors: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    """What the colours of RGB masks mean, as `parse_colors` gives it."""
    outside: dict[str, tuple[int, Path]] = field(default_factory=dict)
    """Values that are no class: how many pixels had them, and the first mask that did. They do not count."""

    def __post_init__(self) -> None:
        classes = len(self.labels)
        table = np.full(_VALUES, self.meanings.get(_EVERYTHING_ELSE, _OUTSIDE), np.int16)
        if _EVERYTHING_ELSE not in self.meanings:
            table[:classes] = np.arange(classes)
        if 0 <= self.ignore < _VALUES:
            table[self.ignore] = IGNORED
        for value, meaning in self.meanings.items():
            if value != _EVERYTHING_ELSE:
                table[value] = meaning
        self._table = table

    def read(self, path: Path) -> npt.NDArray[np.int16]:
        """Class indices, NO_CLASS or IGNORED, (H, W), from indices of 8 or 16 bits, a palette's indices, or colours.

        Raises StreamError for a file that cannot be read or is no mask.
        """
        try:
            with Image.open(path) as image:
                mode, values = image.mode, np.asarray(image)
        except UnidentifiedImageError as error:
            raise StreamError(f"'{path}' is no picture") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise StreamError(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if mode in ("RGB", "RGBA"):
            return self._from_colors(values[..., :3], path)
        if values.ndim != 2 or values.dtype.kind not in "bui":
            raise StreamError(f"'{path}' is no mask: its pixels are {mode}, expected indices of 8 or 16 bits, or RGB")
        if values.dtype.kind == "i" and (values.min() < 0 or values.max() >= _VALUES):
            raise StreamError(f"'{path}' is no mask: its values go from {values.min()} to {values.max()}")
        truth: npt.NDArray[np.int16] = self._table[values.astype(np.uint16)]
        wrong = truth == _OUTSIDE
        if wrong.any():
            self._note(values[wrong], path, str)
            truth[wrong] = IGNORED
        return truth

    def _from_colors(self, rgb: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.int16]:
        if not self.colors:
            raise StreamError(
                f"'{path}' is coloured, and the model's description has no palette; say what the colours mean with "
                "--mask-colors CLASS=#RRGGBB,..."
            )
        codes = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        truth = np.full(codes.shape, _OUTSIDE, np.int16)
        for (red, green, blue), index in self.colors.items():
            truth[codes == (red << 16 | green << 8 | blue)] = index
        wrong = truth == _OUTSIDE
        if wrong.any():
            unknown = len(np.unique(codes[wrong]))
            if unknown > _MOST_COLORS:
                raise StreamError(f"'{path}' is no mask: {unknown} of its colours mean no class")
            self._note(codes[wrong], path, lambda code: f"#{code:06x}")
            truth[wrong] = IGNORED
        return truth

    def _note(self, values: npt.NDArray[Any], path: Path, name: Any) -> None:
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            before, first = self.outside.get(name(value), (0, path))
            self.outside[name(value)] = (before + int(count), first)

    def complaint(self) -> str | None:
        """One line about values that are no class; None if there were none."""
        if not self.outside:
            return None
        ranked = sorted(self.outside.items(), key=lambda item: -item[1][0])
        shown = ", ".join(f"{value} ({count} pixels)" for value, (count, _) in ranked[:_SHOWN])
        more = f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
        option = "--mask-colors CLASS=#RRGGBB" if ranked[0][0].startswith("#") else f"--map {ranked[0][0]}:CLASS"
        return (
            f"masks have values that are no class and were not counted: {shown}{more}, first in "
            f"'{ranked[0][1][1]}'; classes are 0 to {len(self.labels) - 1}: say what they mean with {option} "
            "(CLASS may be 'ignore')"
        )
