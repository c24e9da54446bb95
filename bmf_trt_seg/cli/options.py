"""Flags that verbs share, and the flags of the module's options, made from their schema."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from bmf_trt_seg import trace
from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.outputs import check_distinct, check_writable, write_whole
from bmf_trt_seg.validation import allowed_values

__all__ = [
    "check_trace",
    "encoding_flags",
    "given",
    "message_flags",
    "module_flags",
    "output_flags",
    "set_messages",
    "trace_flag",
    "tracing",
]

Function = TypeVar("Function", bound=Callable[..., Any])


def module_flags(*names: str) -> Callable[[Function], Function]:
    """A flag `--some-name` for each of these options of the module."""

    def decorate(function: Function) -> Function:
        schema = SegmentOptions.model_json_schema()
        for name in reversed(names):
            prop = schema["properties"][name]
            function = click.option(*_declaration(name, prop), **_attributes(prop, schema))(function)
        return function

    return decorate


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Those flags of the module's options that were given, as values for them."""
    return {name: value for name, value in flags.items() if name in SegmentOptions.model_fields and value is not None}


def _declaration(name: str, prop: dict[str, Any]) -> list[str]:
    flag = "--" + name.replace("_", "-")
    return [f"{flag}/--no-{flag[2:]}" if prop.get("type") == "boolean" else flag, name]


def _attributes(prop: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    default = prop.get("default")
    text = str(prop.get("description", ""))
    if default not in (None, "", False) and not isinstance(default, dict):
        text += f"  [default: {default}]"
    if prop.get("type") == "boolean":
        return {"default": None, "help": text}
    if "enum" in prop:
        return {"type": click.Choice(prop["enum"]), "help": text}
    kinds = {"integer": "N", "number": "X"}
    members = prop.get("anyOf", [prop])
    metavar = next((kinds[str(member.get("type"))] for member in members if member.get("type") in kinds), "TEXT")
    if any(member.get("type") == "array" for member in members):
        metavar = "NAME=#RRGGBB,..." if any(member.get("type") == "object" for member in members) else "NAME,..."
    elif "$ref" in prop:
        metavar = "NAME=VALUE,..."
    elif any(member.get("type") == "object" for member in members):
        metavar = "NAME:SHAPE,..."
    elif metavar in kinds.values() and "anyOf" not in prop:
        text += f"  [{allowed_values(prop, schema.get('$defs'))}]"
    return {"metavar": metavar, "help": text}


def encoding_flags(function: Function) -> Function:
    """--decoder, --codec, --preset, --crf."""
    function = click.option(
        "--crf", type=click.IntRange(0, 51), default=23, show_default=True, help="Quality; lower is better and larger."
    )(function)
    function = click.option(
        "--preset",
        type=click.Choice(
            ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
        ),
        default="veryfast",
        show_default=True,
        help="Speed of the encoder against the size of the file.",
    )(function)
    function = click.option(
        "--codec",
        type=click.Choice(["libx264", "libx265", "h264_nvenc", "hevc_nvenc", "auto"]),
        default="libx264",
        show_default=True,
        help="Encoder; auto: h264_nvenc where GPU and FFmpeg have it, else libx264.",
    )(function)
    return click.option(
        "--decoder",
        type=click.Choice(["auto", "nvdec", "ffmpeg"]),
        default="auto",
        show_default=True,
        help="auto: the GPU's NVDEC if the network runs on it and it can; nvdec: an error if it cannot.",
    )(function)


def message_flags(function: Function) -> Function:
    """--quiet, --verbose."""
    function = click.option("-v", "--verbose", is_flag=True, help="Show what BMF, FFmpeg and x264 print, too.")(
        function
    )
    return click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")(function)


def output_flags(function: Function) -> Function:
    """-o, -y, --quiet, --verbose."""
    function = message_flags(function)
    function = click.option("-y", "--overwrite", is_flag=True, help="Replace an output that exists.")(function)
    return click.option(
        "-o", "--out", "target", type=click.Path(path_type=Path), required=True, metavar="PATH",
        help="Video or picture to write; a folder for several inputs.",
    )(function)  # fmt: skip


trace_flag = click.option(
    "--trace", "trace_path", type=click.Path(path_type=Path), metavar="FILE",
    help="Write when each stage worked, as a trace for ui.perfetto.dev or chrome://tracing.",
)  # fmt: skip


def check_trace(
    path: Path | None, overwrite: bool, inputs: Iterable[Path] = (), outputs: Iterable[Path | None] = ()
) -> None:
    """Raise before the run what would keep a trace from being written: UsageError, ConfigError, StreamError."""
    if path is None:
        return
    check_distinct(inputs, [path])
    check_distinct([], [*(output for output in outputs if output is not None), path])
    if path.is_dir():
        raise StreamError(f"'{path}' is a folder; give the name of a file in it")
    if path.exists() and not overwrite:
        raise click.UsageError(f"'{path}' exists; give -y to replace it")
    check_writable(path)


@contextmanager
def tracing(path: Path | None, quiet: bool) -> Iterator[None]:
    """Trace what happens inside, and write it to `path` at the end, also if that is a failure. Raises StreamError."""
    if path is None:
        yield
        return
    collected = trace.start()
    failed = True
    try:
        yield
        failed = False
    finally:
        trace.stop()
        try:
            write_whole(path, collected.write)
        except OSError as error:
            problem = f"the trace '{path}' cannot be written: {error.strerror}"
            if not failed:
                raise StreamError(problem) from error
            print(f"bmf-trt-seg: {problem}", file=sys.stderr)  # what ended the run is the failure to report
        else:
            _tell_of_trace(path, collected, quiet)


def _tell_of_trace(path: Path, collected: trace.Trace, quiet: bool) -> None:
    if quiet:
        return
    print(f"{path}: a trace; open it at ui.perfetto.dev or chrome://tracing", file=sys.stderr)
    if collected.dropped:
        print(f"{path}: its beginning is missing: the oldest {collected.dropped} entries did not fit", file=sys.stderr)
    if collected.unread:
        print(f"{path}: {collected.unread} times of the GPU are missing: they could not be read", file=sys.stderr)


def set_messages(quiet: bool, verbose: bool) -> None:
    """How much our own log says."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    logging.getLogger("bmf_trt_seg").setLevel(level)
