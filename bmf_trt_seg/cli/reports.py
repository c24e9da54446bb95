"""What the verbs that measure have in common: tables on the terminal, and a folder for their files."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bmf_trt_seg import __version__
from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.outputs import check_folder, write_whole

__all__ = ["check_report", "percent", "report_flags", "table", "versions", "write_report"]

Function = TypeVar("Function", bound=Callable[..., Any])


def report_flags(function: Function) -> Function:
    """-o, --no-plot, -y, --quiet."""
    function = click.option("-q", "--quiet", is_flag=True, help="Show nothing but the table and errors.")(function)
    function = click.option("-y", "--overwrite", is_flag=True, help="Replace files that exist.")(function)
    function = click.option("--plot/--no-plot", default=True, help="Whether a diagram is among them.  [default: plot]")(
        function
    )
    return click.option(
        "-o", "--out", "folder", type=click.Path(path_type=Path), metavar="DIR",
        help="Folder for the report's files; it is made if need be.",
    )(function)  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of columns as wide as they must be; the first `left` of them are flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def percent(share: float | None, digits: int = 2) -> str:
    """'98.76 %', or '-' for what is not known. All but all is not rounded up to all."""
    if share is None:
        return "-"
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) >= 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def check_report(folder: Path | None, names: Sequence[str], overwrite: bool) -> None:
    """Raise before the work what would keep files from being written: UsageError, StreamError."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise StreamError(f"'{folder}' is a file; give a folder")
    for name in names:
        if (folder / name).exists() and not overwrite:
            raise click.UsageError(f"'{folder / name}' exists; give -y to replace it")
    check_folder(folder)


def write_report(folder: Path, files: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files into a folder, each whole or not at all. Raises StreamError."""
    for name, write in files.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, write)
        except OSError as error:
            raise StreamError(f"'{folder / name}' cannot be written: {error.strerror or error}") from error


def versions(*packages: str) -> dict[str, str]:
    """This program, Python, the machine, and those of these packages that are installed."""
    found = {"bmf_trt_seg": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "machine": platform.machine(), "cpu_cores": str(os.cpu_count())}
