"""`bmf-trt-seg graph`: graph files, begun, looked at and checked before they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.options import Style
from bmf_trt_seg.outputs import check_writable, write_whole

if TYPE_CHECKING:
    from bmf_trt_seg.graph_schema import Kind

__all__ = ["checked_graph", "command", "given_variables", "variables_flag"]

variables_flag = click.option(
    "-s", "--set", "variables", multiple=True, metavar="NAME=VALUE", help="Value of ${NAME} in the graph; repeatable."
)


@click.group(name="graph")
def command() -> None:
    """Begin, check and draw graph files."""


@command.command(name="check")
@click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH.json")
@variables_flag
@click.option(
    "--print", "show", is_flag=True, help="Print the graph that BMF would get, variables and paths filled in."
)
def check(graph: Path, variables: tuple[str, ...], show: bool) -> None:
    """Check a graph without running it: JSON, modules, streams and our modules' options."""
    content = checked_graph(graph, variables)
    if show:
        click.echo(json.dumps(content, indent=2))
    else:
        click.echo(f"{graph}: {len(content['nodes'])} nodes, nothing wrong")


@command.command(name="new")
@click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH.json")
@click.option("-i", "--input", "source", metavar="INPUT", help="A video file, or the address of a camera.")
@click.option(
    "-o",
    "--out",
    "target",
    metavar="OUTPUT",
    help="The file to write; of a camera also a folder, for HLS, or the address of a server.",
)
@click.option("--style", type=click.Choice(get_args(Style)), help="How the classes are drawn.  [default: blend]")
@click.option("-m", "--model", default="person", show_default=True, help="Model file, or a name of 'models list'.")
@click.option("-y", "--overwrite", is_flag=True, help="Replace a graph that exists.")
def new(graph: Path, source: str | None, target: str | None, style: str | None, model: str, overwrite: bool) -> None:
    """Write a graph with comments, for a video file or a camera. Prints its path.

    What INPUT, OUTPUT and style are to be is asked on a terminal, unless flags say it. They become defaults of
    variables: 'run GRAPH.json --set INPUT=other.mp4' takes another video.
    """
    from bmf_trt_seg.graph_new import as_text, new_graph

    _check_target(graph, overwrite)
    source = source or _asked("--input", "Video file, or address of a camera")
    target = target or _asked("--out", "File to write; of a camera also a folder (HLS) or an address")
    if style is None:
        style = _asked("--style", "Style", "blend", get_args(Style)) if _is_answered() else "blend"
    _write(graph, as_text(new_graph(source, target, style, model)) + "\n")
    click.echo(graph)


@command.command(name="show")
@click.argument("graph", type=click.Path(path_type=Path), metavar="GRAPH.json")
@click.option(
    "-o",
    "--out",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE.svg",
    help="Where the picture goes.  [default: standard output]",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace a picture that exists.")
@variables_flag
def show(graph: Path, target: Path | None, overwrite: bool, variables: tuple[str, ...]) -> None:
    """Draw the nodes and streams of a graph as SVG.

    The graph need not be right, nor need its variables have values: those of the environment are not put in. Logins and
    keys of addresses are left out.
    """
    from bmf_trt_seg.graph import filled, read_object
    from bmf_trt_seg.graph_boxes import boxes_of
    from bmf_trt_seg.graph_drawing import drawing

    if target is not None:
        if target.suffix.lower() != ".svg":
            raise click.UsageError(f"'{target}': the picture is SVG, so its name should end in .svg")
        _check_target(target, overwrite)
    subject = f"graph '{graph}'"
    content = filled(read_object(graph, subject, "nodes"), given_variables(variables), subject)
    try:
        picture = drawing(boxes_of(content), graph.name)
    except ConfigError as error:
        raise ConfigError(f"{subject}: {error}") from None
    if target is None:
        click.echo(picture, nl=False)
    else:
        _write(target, picture)


@command.command(name="schema")
@click.option(
    "--for",
    "kind",
    type=click.Choice(["graph", "feeds"]),
    default="graph",
    show_default=True,
    help="Which files it is for: graphs, or the feeds of 'live'.",
)
def schema(kind: Kind) -> None:
    """Print the JSON Schema of graph files, for editors.

    It is of draft 2020-12, and knows options, their types and limits; 'graph check' also knows files, modules and
    streams.
    """
    from bmf_trt_seg.graph_schema import json_schema

    click.echo(json.dumps(json_schema(kind), indent=2))


def _check_target(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise click.UsageError(f"'{target}' exists; give -y to replace it")
    check_writable(target)


def _write(target: Path, text: str) -> None:
    try:
        write_whole(target, lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise StreamError(f"'{target}' cannot be written: {error.strerror}") from error


def _is_answered() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _asked(flag: str, question: str, default: str | None = None, choices: Sequence[str] = ()) -> str:
    if not _is_answered():
        raise click.UsageError(f"{flag} is missing: {question[0].lower()}{question[1:]}")
    answer: str = click.prompt(question, default=default, err=True, type=click.Choice(choices) if choices else None)
    return answer


def given_variables(pairs: Sequence[str]) -> dict[str, str]:
    """What --set says; UsageError for what is no NAME=VALUE."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise click.UsageError(f"--set takes NAME=VALUE, not '{pair}'")
        values[name] = value
    return values


def checked_graph(path: Path, variables: Sequence[str]) -> dict[str, Any]:
    """The graph in a file with its variables put in; ConfigError lists everything that is wrong with it."""
    from bmf_trt_seg.graph import check_graph, load_graph

    content = load_graph(path, given_variables(variables))
    problems = check_graph(content)
    if problems:
        raise ConfigError(f"graph '{path}': " + "; ".join(problems))
    return content
