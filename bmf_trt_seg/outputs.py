"""Files that appear under their names when they are complete: temporary names, checks, publishing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bmf_trt_seg.errors import ConfigError, StreamError

__all__ = [
    "check_distinct",
    "check_folder",
    "check_writable",
    "folder_made",
    "make_folder",
    "publish",
    "temporary_path",
    "with_final_names",
    "write_whole",
]


def temporary_path(target: Path, mark: str = "part") -> Path:
    """A name in the folder of `target` for what is not complete yet; its ending still tells the container."""
    return target.with_name(f".{target.stem}.{os.getpid()}.{mark}{target.suffix}")


def with_final_names(text: str, names: Iterable[tuple[Path | None, Path | None]]) -> str:
    """A message about temporary files as one about the files that the user asked for."""
    for temporary, final in names:
        text = text.replace(f"'{temporary}'", f"'{final}'")
    return text


def check_writable(path: Path) -> None:
    """Raise StreamError unless a file of this name can be made: now, and not after an hour of encoding."""
    folder = path.parent
    if not folder.is_dir():
        problem = "is no folder" if folder.exists() else "does not exist"
        raise StreamError(f"'{path}' cannot be written: the folder '{folder}' {problem}")
    probe = temporary_path(path)
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StreamError(f"'{path}' cannot be written: {error.strerror}") from error


def check_distinct(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise ConfigError if an output is an input or another output."""
    taken = {path.resolve() for path in inputs}
    written: set[Path] = set()
    for path in outputs:
        if path.resolve() in taken:
            raise ConfigError(f"'{path}' is the input; choose another name for the output")
        if path.resolve() in written:
            raise ConfigError(f"'{path}' would be written twice; choose another name for one of the outputs")
        written.add(path.resolve())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises StreamError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StreamError(f"the folder '{folder}' cannot be made: {error.strerror}") from error


@contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; what is still empty of them in the end goes again. Raises StreamError."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    make_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # there is something in it
            for one in new:
                one.rmdir()


def check_folder(folder: Path) -> None:
    """Raise StreamError if files could not be written to a folder, which need not be there yet and is not made."""
    there = folder
    while not there.exists():
        there = there.parent
    check_writable(there / "file")


def publish(names: Mapping[Path, Path]) -> None:
    """Give complete files their names, one after the other; a temporary file that does not exist is passed over.

    A folder gives its files to the folder of its final name. Raises StreamError.
    """
    try:
        for temporary, target in names.items():
            if temporary.is_dir():
                target.mkdir(exist_ok=True)
                for file in temporary.iterdir():
                    file.replace(target / file.name)
            elif temporary.exists():
                temporary.replace(target)
    except OSError as error:
        raise StreamError(f"'{error.filename2 or error.filename}' cannot be written: {error.strerror}") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name beside `path`, then give it its name. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
