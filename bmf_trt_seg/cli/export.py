"""`bmf-trt-seg models export`: a network of PyTorch as an ONNX file with its description."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from bmf_trt_seg.cli.network_flags import labels_flag, normalize_flag, parsed_normalization, parsed_size, resize_flag
from bmf_trt_seg.cli.progress import size_text
from bmf_trt_seg.engine.calibration import CalibrationData
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.models.architecture import imported
from bmf_trt_seg.models.export import Made, Settings, architecture, default_name, export, made_by_name, own_network
from bmf_trt_seg.models.labels import Labels
from bmf_trt_seg.outputs import check_distinct, check_writable
from bmf_trt_seg.spec import InputSpec, spec_path

__all__ = ["command"]


@click.command(name="export")
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--from", "entry", metavar="MODULE:FUNCTION",
    help="In the place of NAME: a function of yours (also FILE.py:FUNCTION) that returns a torch.nn.Module.",
)  # fmt: skip
@click.option(
    "--weights", metavar="default|none|FILE",
    help="default: the published ones, downloaded if they are not here; none: random ones, for trying and measuring; a "
    ".pth or .safetensors file, or a Hugging Face folder.  [default: default]",
)  # fmt: skip
@click.option("--size", metavar="HxW", help="Height and width of its pictures.  [default: those it was trained on]")
@click.option("--dynamic", is_flag=True, help="Leave the size of batches open; else it is 1.")
@click.option("--dynamic-size", is_flag=True, help="Leave the size of pictures open.")
@click.option("--softmax", is_flag=True, help="Let the network give probabilities.")
@click.option("--argmax", is_flag=True, help="Let the network give class indices, in the size of its pictures.")
@click.option("--fp16", is_flag=True, help="16-bit weights and layers; input and output stay 32 bits.")
@click.option(
    "--qdq", type=click.Path(path_type=Path), metavar="VIDEO_OR_FOLDER",
    help="8-bit layers, as Q/DQ operators, with scales from these pictures.",
)  # fmt: skip
@click.option("--qdq-frames", type=click.IntRange(1), default=64, show_default=True, help="How many of them.")
@labels_flag
@normalize_flag("  [only with --from; default: imagenet]")
@click.option(
    "--activation", type=click.Choice(["softmax", "sigmoid", "none"]),
    help="What turns --from's scores into probabilities; none if they are.  [default: softmax; sigmoid of one channel]",
)  # fmt: skip
@resize_flag
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE",
    help="Compare with PyTorch on this picture or video, too.  [default: the first of --qdq]",
)  # fmt: skip
@click.option(
    "--least-agreement", type=click.FloatRange(0, 100), metavar="PERCENT",
    help="Pixels that must get PyTorch's class with --fp16 or --qdq, or nothing is written.  [default: 98, 90]",
)  # fmt: skip
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), metavar="FILE", help="[default: NAME.onnx]")
@click.option("-y", "--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors and warnings, and the file's path.")
def command(
    name: str | None, entry: str | None, weights: str | None, labels: str | None, normalize: str | None,
    target: Path | None, overwrite: bool, quiet: bool, picture: Path | None, qdq: Path | None, qdq_frames: int,
    **flags: Any,
) -> None:  # fmt: skip
    """Write a network of PyTorch as FILE.onnx and its description as FILE.json. Prints the file's path.

    NAME is fcn_resnet50, fcn_resnet101, deeplabv3_resnet50, deeplabv3_resnet101 or lraspp_mobilenet_v3_large
    (torchvision, Pascal VOC's classes), segformer-b0 to segformer-b5 (ADE20K), or segformer-b0-cityscapes to
    segformer-b5-cityscapes.

    The file is run by ONNX Runtime and compared with PyTorch before it gets its name.
    """
    size = None if flags["size"] is None else parsed_size(flags["size"])
    settings = _settings(flags, qdq)
    _check_usage(name, entry, weights, normalize, flags["activation"], size)
    chosen = None if labels is None else Labels.parsed(labels)
    plain_name = name or str(entry).rpartition(":")[2]
    target = target or Path(default_name(plain_name, settings.head, settings.precision))
    given = Path(weights) if weights not in (None, "default", "none") else None
    _check_target(target, [path for path in (picture, qdq, given) if path is not None], overwrite)
    torch = imported("torch")
    torch.set_num_threads(os.cpu_count() or 1)  # `main` has set one, for the sake of decoder and encoder

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    made = _made(name, entry, weights, chosen, size, normalize, say)
    if made.warning:
        print(f"warning: {made.warning}", file=sys.stderr)
    shown = picture or qdq
    result = export(
        made,
        target,
        settings,
        picture=None if shown is None else lambda spec: _batch(shown, spec),
        picture_name="" if shown is None else f"'{shown}'",
        calibration=None if qdq is None else lambda spec: _calibration(qdq, spec, qdq_frames),
        report=say,
    )
    for compared, found in result.agreements.items():
        say(f"on {compared}: {found}")
    say(
        f"{target}: {size_text(target.stat().st_size)}, {len(result.spec.labels)} classes; described in "
        f"{spec_path(target).name}"
    )
    click.echo(target)


def _settings(flags: dict[str, Any], qdq: Path | None) -> Settings:
    if flags["softmax"] and flags["argmax"]:
        raise click.UsageError("--softmax and --argmax: choose one")
    if flags["fp16"] and qdq is not None:
        raise click.UsageError("--fp16 and --qdq: choose one")
    percent = flags["least_agreement"]
    return Settings(
        head="softmax" if flags["softmax"] else "argmax" if flags["argmax"] else "none",
        activation=flags["activation"],
        precision="fp16" if flags["fp16"] else "fp32" if qdq is None else "qdq",
        dynamic_batch=flags["dynamic"],
        dynamic_size=flags["dynamic_size"],
        resize=flags["resize"],
        least_agreement=None if percent is None else percent / 100,
    )


def _check_usage(
    name: str | None, entry: str | None, weights: str | None, normalize: str | None, activation: str | None, size: Any
) -> None:
    if (name is None) == (entry is None):
        raise click.UsageError("give either the NAME of a network or --from MODULE:FUNCTION")
    if entry is not None and weights is not None:
        raise click.UsageError("--weights is for a NAME; the function of --from loads its own")
    if entry is not None and size is None:
        raise click.UsageError("--from wants --size HxW, as in --size 512x512")
    for flag, value in (("--normalize", normalize), ("--activation", activation)):
        if entry is None and value is not None:
            raise click.UsageError(f"{flag} is for --from; of a NAME it is known")


def _check_target(target: Path, inputs: list[Path], overwrite: bool) -> None:
    if target.suffix.lower() != ".onnx":
        raise ConfigError(f"-o '{target}': the name of an ONNX file ends in .onnx")
    for path in (target, spec_path(target)):
        check_distinct(inputs, [path])
        if path.exists() and not overwrite:
            raise click.UsageError(f"'{path}' exists; give -y to replace it")
        check_writable(path)
    for path in inputs:
        if not path.exists():
            raise ConfigError(f"'{path}' does not exist")


def _made(
    name: str | None, entry: str | None, weights: str | None, labels: Labels | None, size: tuple[int, int] | None,
    normalize: str | None, say: Any,
) -> Made:  # fmt: skip
    if name is None:
        mean, std = parsed_normalization(normalize or "imagenet")
        return own_network(str(entry), labels, size or (0, 0), mean, std)
    architecture(name)
    if weights in (None, "default"):
        say(f"{name}: getting the published weights, unless they are here")
    return made_by_name(name, weights or "default", labels, size)


def _batch(source: Path, spec: InputSpec) -> npt.NDArray[np.float32]:
    """One picture, as the network takes it, (1, 3, H, W)."""
    from bmf_trt_seg.pictures import PICTURE_SUFFIXES, read_picture
    from bmf_trt_seg.preprocess import Preprocess

    if source.suffix.lower() in PICTURE_SUFFIXES:
        return Preprocess(spec)([read_picture(source)]).astype(np.float32)
    first = next(_calibration(source, spec, 1).batches(1), None)
    if first is None:
        raise ConfigError(f"'{source}' has no pictures")
    return first.astype(np.float32)


def _calibration(source: Path, spec: InputSpec, count: int) -> CalibrationData:
    from bmf_trt_seg.calibration_frames import calibration_data

    return calibration_data(source, spec, count)
