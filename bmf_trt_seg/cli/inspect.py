"""`bmf-trt-seg inspect`: what is in an engine or an ONNX file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli.progress import size_text
from bmf_trt_seg.engine.inspection import Inspection, inspect
from bmf_trt_seg.models import catalog

__all__ = ["command"]

_SHOWN_LAYERS = 40


@click.command(name="inspect")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
@click.option("--layers", is_flag=True, help=f"List every layer of an engine, not only the first {_SHOWN_LAYERS}.")
@click.option("--device", default="auto", show_default=True, help="GPU to load an engine on: auto, cuda or cuda:N.")
def command(file: Path, as_json: bool, layers: bool, device: str) -> None:
    """Show the tensors, profiles, layers and origin of a TensorRT engine or an ONNX file."""
    found = inspect(catalog.find(str(file)), device)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    click.echo(f"file       {found.file}, {size_text(found.bytes)}, {found.kind}")
    for name, value in found.facts.items():
        if value not in (None, ""):
            click.echo(f"{_padded(name)}{_shown(name, value)}")
    _show_manifest(found.manifest)
    _show_tensors(found)
    _show_layers(found, layers)
    if found.note:
        click.echo(f"\n{found.note}")


def _padded(name: str) -> str:
    return f"{name:10} "


def _shown(name: str, value: Any) -> str:
    if name.endswith(" bytes"):
        return size_text(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {content}" for key, content in value.items())
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _show_manifest(manifest: dict[str, Any] | None) -> None:
    if manifest is None:
        return
    library = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[manifest["library"]]
    where = f"on {manifest['gpu']} ({manifest['compute_capability']})" if manifest["gpu"] else "without a GPU"
    click.echo(f"built by   {library} {manifest['version']} {where}, in {manifest['build_seconds']:.1f} s")
    click.echo(f"built from {manifest['onnx']}, sha256 {manifest['onnx_sha256'][:16]}")
    click.echo(f"precision  {manifest['precision']}")
    options = {
        name: value
        for name, value in manifest["options"].items()
        if name not in ("precision", "shapes", "tf32") and value is not None and value is not False
    }
    if not manifest["options"]["tf32"]:
        options["tf32"] = "off"
    if options:
        click.echo(f"options    {', '.join(f'{name} {value}' for name, value in options.items())}")
    if manifest["calibration"]:
        click.echo(f"calibrated on up to {manifest['calibration_frames']} pictures of {manifest['calibration_source']}")
    if manifest["spec"]:
        click.echo(f"classes    {', '.join(manifest['spec']['labels'])}")


def _show_tensors(found: Inspection) -> None:
    if not found.tensors:
        return
    click.echo(f"\n{'tensor':8} {'name':24} {'type':10} shape")
    for tensor in found.tensors:
        click.echo(f"{tensor.mode:8} {tensor.name:24} {tensor.dtype or '?':10} {_dimensions(tensor.shape)}")
        for number, profile in enumerate(tensor.profiles):
            click.echo(f"{'':8} {f'profile {number}':24} {'':10} {' / '.join(_dimensions(shape) for shape in profile)}")


def _dimensions(shape: list[Any]) -> str:
    return "x".join("?" if size == -1 else str(size) for size in shape) or "scalar"


def _show_layers(found: Inspection, every: bool) -> None:
    if found.operators:
        counts = ", ".join(f"{name} {count}" for name, count in found.operators.items())
        click.echo(f"\n{'operators' if found.kind == 'ONNX' else 'layers by kind'}: {counts}")
    if not found.layers:
        return
    precisions: dict[str, int] = {}
    for layer in found.layers:
        precisions[layer.precision or "unknown"] = precisions.get(layer.precision or "unknown", 0) + 1
    click.echo(f"layers by precision: {', '.join(f'{name} {count}' for name, count in precisions.items())}")
    click.echo(f"\n{'precision':10} {'kind':20} layer")
    shown = found.layers if every else found.layers[:_SHOWN_LAYERS]
    for layer in shown:
        name = layer.name if len(layer.name) <= 80 else layer.name[:77] + "..."
        click.echo(f"{layer.precision or '?':10} {layer.kind or '?':20} {name}")
    if len(shown) < len(found.layers):
        click.echo(f"... {len(found.layers) - len(shown)} more: --layers")
