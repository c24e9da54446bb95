"""Flags that verbs share, and the flags of the module's options, made from their schema."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.validation import allowed_values

__all__ = ["encoding_flags", "given", "module_flags", "output_flags", "set_messages"]

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
    """--codec, --preset, --crf."""
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
    return click.option(
        "--codec", type=click.Choice(["libx264", "libx265"]), default="libx264", show_default=True, help="Encoder."
    )(function)


def output_flags(function: Function) -> Function:
    """-o, -y, --quiet, --verbose."""
    function = click.option("-v", "--verbose", is_flag=True, help="Show what BMF, FFmpeg and x264 print, too.")(
        function
    )
    function = click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")(function)
    function = click.option("-y", "--overwrite", is_flag=True, help="Replace an output that exists.")(function)
    return click.option(
        "-o", "--out", "target", type=click.Path(path_type=Path), required=True, metavar="PATH",
        help="Video or picture to write; a folder for several inputs.",
    )(function)  # fmt: skip


def set_messages(quiet: bool, verbose: bool) -> None:
    """How much our own log says."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    logging.getLogger("bmf_trt_seg").setLevel(level)
