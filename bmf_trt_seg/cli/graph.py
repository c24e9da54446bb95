"""`bmf-trt-seg graph`: graph files, looked at before they run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.errors import ConfigError

__all__ = ["checked_graph", "command", "given_variables", "variables_flag"]

variables_flag = click.option(
    "-s", "--set", "variables", multiple=True, metavar="NAME=VALUE", help="Value of ${NAME} in the graph; repeatable."
)


@click.group(name="graph")
def command() -> None:
    """Look at graph files."""


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
