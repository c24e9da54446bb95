"""`bmf-trt-seg infer`: one picture through one network, with its class map, its times and those of its layers."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bmf_trt_seg.cli.engines import build_engine
from bmf_trt_seg.cli.options import given, module_flags, set_messages
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.media import check_readable
from bmf_trt_seg.options import read_options
from bmf_trt_seg.outputs import check_distinct, check_folder

if TYPE_CHECKING:
    from bmf_trt_seg.picture_inference import Inference

__all__ = ["command"]

_SLOWEST = 5
_MOST_CLASSES = 10


@click.command(name="infer")
@click.option("-m", "--model", required=True, metavar="MODEL", help="Engine, ONNX file, or a name of 'models list'.")
@click.option(
    "-i", "--image", "source", type=click.Path(path_type=Path), required=True, metavar="PICTURE",
    help="The picture; JPEG, PNG and what else Pillow reads.",
)  # fmt: skip
@click.option(
    "-o", "--out", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR",
    help="Folder for classes.png, overlay.png and profiling.json; it is made if it is not there.",
)  # fmt: skip
@click.option(
    "-r", "--runs", type=click.IntRange(1, 100_000), default=11, show_default=True, metavar="N",
    help="How often the network is run: the first time counts on its own.",
)  # fmt: skip
@module_flags("backend", "device", "build", "input_shapes", "threads", "classes", "style", "alpha", "threshold")
@click.option("-y", "--overwrite", is_flag=True, help="Replace the files if they exist.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TensorRT says, too.")
def command(
    source: Path, folder: Path, runs: int, overwrite: bool, quiet: bool, verbose: bool, **flags: Any
) -> None:  # fmt: skip
    """Run a network on one picture; write what it sees, and print how long that takes.

    classes.png holds a class index a pixel (it looks black), overlay.png shows the classes, and profiling.json is for
    ui.perfetto.dev or chrome://tracing: each stage and, as far as the backend tells, each layer.
    """
    set_messages(quiet, verbose)
    options = read_options({**given(flags), "name": "infer"}, "infer")
    if source.is_dir():
        raise StreamError(f"'{source}' is a folder; 'infer' takes one picture, 'images' takes folders")
    check_readable(source)
    targets = _targets(source, folder, overwrite)
    build_engine(options, quiet)
    from bmf_trt_seg.picture_inference import infer_picture, write_inference

    inference = infer_picture(source, options, runs)
    write_inference(inference, folder)
    if not quiet:
        click.echo(f"network      {inference.described}")
        click.echo(f"picture      {source}, {inference.size_wh[0]}x{inference.size_wh[1]}")
        _show_times(inference)
        _show_layers(inference)
        click.echo(f"classes      {_shares(inference)}")
        click.echo(f"written      {', '.join(map(str, targets))}")


def _targets(source: Path, folder: Path, overwrite: bool) -> list[Path]:
    """The files to write. Raises StreamError, ConfigError or UsageError before anything is run."""
    from bmf_trt_seg.picture_inference import FILES

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file; -o names a folder for {', '.join(FILES)}")
    targets = [folder / name for name in FILES]
    check_distinct([source], targets)
    there = [target for target in targets if target.exists()]
    if there and not overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise click.UsageError(f"'{there[0]}' exists{more}; give -y to replace it")
    if folders := [target for target in there if target.is_dir()]:
        raise ConfigError(f"'{folders[0]}' is a folder, and would be the name of a result")
    check_folder(folder)
    return targets


def _show_times(inference: Inference) -> None:
    times = inference.times
    load, imported = times.seconds("load")[0], times.seconds("import")[0]
    click.echo(f"load         {_milliseconds(load)}, after {_milliseconds(imported)} for its library")
    click.echo(f"preprocess   {_milliseconds(times.seconds('preprocess')[0])}")
    first, *others = times.seconds("infer")
    line = f"infer        first {_milliseconds(first)}"
    if len(others) == 1:
        line += f", second {_milliseconds(others[0])}"
    elif others:
        line += f", median {_milliseconds(statistics.median(others))} of {len(others)} more"
        line += f" ({_milliseconds(min(others))} to {_milliseconds(max(others))})"
    click.echo(line)
    click.echo(f"postprocess  {_milliseconds(times.seconds('postprocess')[0])}")
    click.echo(f"draw         {_milliseconds(times.seconds('draw')[0])}")


def _show_layers(inference: Inference) -> None:
    if not inference.layers:
        click.echo("layers       this backend does not tell their times")
        return
    whole = sum(layer.seconds for layer in inference.layers)
    click.echo(f"layers       {len(inference.layers)}, {_milliseconds(whole)} in a run with each timed; the slowest:")
    for layer in sorted(inference.layers, key=lambda layer: -layer.seconds)[:_SLOWEST]:
        name = layer.name if len(layer.name) <= 60 else layer.name[:57] + "..."
        kind = f" ({layer.kind})" if layer.kind else ""
        click.echo(f"{'':13}{layer.seconds / (whole or 1.0):6.1%} {_milliseconds(layer.seconds):>10}  {name}{kind}")


def _shares(inference: Inference) -> str:
    shown = [f"{label} {share:.1%}" for label, share in inference.shares[:_MOST_CLASSES]]
    left = len(inference.shares) - len(shown)
    return ", ".join([*shown, *([f"{left} more"] if left else [])])


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
