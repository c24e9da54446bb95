"""What the user named: videos, folders of them and patterns, local or in an object store; and what becomes of each."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bmf_trt_seg.batch.storage import Stored, is_remote, storage_of
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.pictures import PICTURE_SUFFIXES

__all__ = ["Film", "find_films", "place"]

VIDEO_SUFFIXES = {
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv",
    ".ts", ".vob", ".webm", ".wmv",
}  # fmt: skip
_KEPT_CONTAINERS = {".mp4", ".m4v", ".mov", ".mkv", ".ts"}


@dataclass(frozen=True)
class Film:
    """A video to segment."""

    source: Stored
    name: str
    """Of its output: a path below the output folder."""

    @property
    def records_name(self) -> str:
        """Of its records, beside the output."""
        return f"{self.name}.jsonl"


def place(text: str) -> str:
    """A path or address as all workers can use it."""
    return text.rstrip("/") if is_remote(text) else str(Path(text).absolute())


def find_films(names: Sequence[str], target: str) -> tuple[list[Film], int]:
    """The videos that `names` stand for, each once, and how many other files were left out of folders.

    Below a folder or the fixed beginning of a pattern, paths are kept; what lies in `target` is no input. A video named
    by itself need not exist: that is found out when its turn comes, lest it keep others waiting. Raises StreamError for
    a folder or pattern without videos, ConfigError for pictures, for `target` itself, and for two outputs of one name.
    """
    films: dict[str, Film] = {}
    left_out = 0
    for name in names:
        base, found, is_named = _expanded(name)
        if place(name) == target:
            raise ConfigError(f"'{name}' is the folder for the outputs as well; choose another one for them")
        inside = [stored for stored in found if is_named or not _is_below(stored.path, target)]
        videos = [stored for stored in inside if is_named or _is_video(stored.path)]
        left_out += sum(not _is_hidden(stored.path, base) for stored in inside) - len(videos)
        pictures = [stored.path for stored in videos if Path(stored.path).suffix.lower() in PICTURE_SUFFIXES]
        if pictures:
            raise ConfigError(f"'{pictures[0]}' is a picture, and 'batch' takes videos; 'images' takes pictures")
        if not videos:
            endings = ", ".join(sorted(VIDEO_SUFFIXES))
            kind = "pattern" if glob.has_magic(name) else "folder"
            raise StreamError(f"the {kind} '{name}' names no videos ({endings})")
        for stored in videos:
            films.setdefault(stored.path, Film(stored, _output_name(stored.path.removeprefix(base).lstrip("/"))))
    _check_names(list(films.values()))
    return list(films.values()), left_out


def _expanded(name: str) -> tuple[str, list[Stored], bool]:
    """The folder above, the files, and whether it is a file that was named by itself."""
    path, storage = place(name), storage_of(name)
    if glob.has_magic(name) and storage.stat(path) is None:
        fixed = path.split("/")
        depth = next(index for index, part in enumerate(fixed) if glob.has_magic(part))
        base = "/".join(fixed[:depth])
        return base, [found for found in storage.matches(path) if not _is_hidden(found.path, base)], False
    stored = storage.stat(path)
    if stored is not None and not storage.is_folder(path):
        return path.rpartition("/")[0], [stored], True
    if storage.is_folder(path):
        return path, [found for found in storage.files(path) if not _is_hidden(found.path, path)], False
    return path.rpartition("/")[0], [Stored(path, 0, "")], True


def _is_hidden(path: str, base: str) -> bool:
    return any(part.startswith(".") for part in path.removeprefix(base).split("/"))


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _is_video(path: str) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def _output_name(name: str) -> str:
    """A container that we do not write becomes MP4."""
    path = Path(name)
    return name if path.suffix.lower() in _KEPT_CONTAINERS else str(path.with_suffix(".mp4"))


def _check_names(films: Sequence[Film]) -> None:
    taken: dict[str, Film] = {}
    for film in films:
        other = taken.setdefault(film.name, film)
        if other is not film:
            raise ConfigError(
                f"'{other.source.path}' and '{film.source.path}' would both be written to '{film.name}'; name a folder "
                "above both, or run them into two output folders"
            )
