"""What the user named: one video, several, pictures, a folder of them, or a pattern."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.media import check_readable
from bmf_trt_seg.pictures import PICTURE_SUFFIXES

__all__ = ["Inputs", "collect"]


@dataclass(frozen=True)
class Inputs:
    """Pairs of source and target."""

    videos: list[tuple[Path, Path]]
    pictures: list[tuple[Path, Path]]
    folder: Path | None
    """Where all targets are to be, if that is a folder; it need not be there yet."""


def collect(names: Sequence[str], target: Path, overwrite: bool) -> Inputs:
    """Resolve folders and patterns, and give every input its output.

    One input is written to `target` itself, unless that is a folder; several go into the folder `target` under their
    own names. Raises StreamError for inputs that are not there, ConfigError for outputs that would overwrite something.
    """
    sources = [path for name in names for path in _expanded(name)]
    if len(sources) == 1:  # of several, a bad one does not stop the rest
        check_readable(sources[0])
    named_folder = any(Path(name).is_dir() for name in names)
    into_folder = len(sources) > 1 or named_folder or target.is_dir()
    if into_folder and target.exists() and not target.is_dir():
        raise ConfigError(f"'{target}' is a file, but several inputs need a folder to go to")
    pairs = [(source, target / _output_name(source) if into_folder else target) for source in sources]
    _check_targets(pairs, overwrite)
    return Inputs(
        [pair for pair in pairs if not _is_picture(pair[0])],
        [pair for pair in pairs if _is_picture(pair[0])],
        target if into_folder else None,
    )


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _expanded(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not found:
            endings = ", ".join(sorted(PICTURE_SUFFIXES))
            raise StreamError(f"the folder '{path}' has no pictures ({endings}); name videos, as in '{path}/*.mp4'")
        return found
    if not path.exists() and glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(name))
        if not matches:
            raise StreamError(f"no file matches '{name}'")
        return matches
    return [path]


def _output_name(source: Path) -> str:
    """Pictures keep their format; videos of a container we do not write become MP4."""
    if source.suffix.lower() in {*PICTURE_SUFFIXES, ".mp4", ".m4v", ".mov", ".mkv", ".ts"}:
        return source.name
    return source.stem + ".mp4"


def _check_targets(pairs: list[tuple[Path, Path]], overwrite: bool) -> None:
    seen: dict[Path, Path] = {}
    for source, target in pairs:
        if target in seen:
            raise ConfigError(f"'{source}' and '{seen[target]}' would both be written to '{target}'")
        seen[target] = source
        if target.exists() and target.samefile(source):
            raise ConfigError(f"'{target}' is an input as well; choose another output")
        if target.exists() and not overwrite:
            raise click.UsageError(f"'{target}' exists; give -y to replace it")
        if _is_picture(source) and target.suffix.lower() not in PICTURE_SUFFIXES:
            endings = ", ".join(sorted(PICTURE_SUFFIXES))
            raise ConfigError(f"'{target}': a picture is written to {endings}, not '{target.suffix}'")
