"""`bmf-trt-seg build`: a TensorRT engine from an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli.options import set_messages
from bmf_trt_seg.cli.progress import BuildProgress
from bmf_trt_seg.engine.builder import EngineFromOnnx
from bmf_trt_seg.engine.options import BuildOptions, parse_shapes
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.models import catalog
from bmf_trt_seg.outputs import check_writable
from bmf_trt_seg.spec import ModelSpec, spec_path
from bmf_trt_seg.validation import validated

__all__ = ["command"]


@click.command(name="build")
@click.argument("model", metavar="MODEL.onnx")
@click.option("--fp16", "precision", flag_value="fp16", help="16-bit floating point.")
@click.option("--bf16", "precision", flag_value="bf16", help="16-bit floating point with the range of 32 bits.")
@click.option(
    "--int8",
    "precision",
    flag_value="int8",
    help="8-bit integers; needs --calibrate, or a network with Q/DQ operators.",
)
@click.option(
    "--calibrate", type=click.Path(path_type=Path), metavar="VIDEO_OR_FOLDER",
    help="Pictures like those to come, for --int8.",
)  # fmt: skip
@click.option("--calibrate-frames", type=click.IntRange(1), default=128, show_default=True, help="How many of them.")
@click.option(
    "--shapes", metavar="[NAME:]MIN/OPT/MAX",
    help="Shapes of a dynamic input, as in 1x3x512x512/4x3x512x512/8x3x512x512; several are separated by commas.",
)  # fmt: skip
@click.option(
    "--batch-size", type=click.IntRange(1, 256), default=8, show_default=True,
    help="Largest batch, where --shapes does not say it.",
)  # fmt: skip
@click.option("--workspace", "workspace_mib", type=click.IntRange(1), metavar="MIB", help="Most memory for one layer.")
@click.option("--opt-level", type=click.IntRange(0, 5), help="How long to search for fast kernels.  [default: 3]")
@click.option("--tf32/--no-tf32", default=True, help="Whether fp32 layers may round their inputs.  [default: tf32]")
@click.option("--version-compatible", is_flag=True, help="Let later versions of TensorRT run it.")
@click.option("--hardware-compatible", is_flag=True, help="Let GPUs of other generations, from Ampere on, run it.")
@click.option("--strip", is_flag=True, help="Leave the weights out; they are read from MODEL.onnx when it is loaded.")
@click.option("--tactic-sources", metavar="NAME,...", help="Libraries to take kernels from, as TensorRT names them.")
@click.option("--device", default="auto", show_default=True, help="GPU to build on and for: auto, cuda or cuda:N.")
@click.option(
    "-o", "--out", "target", type=click.Path(path_type=Path), metavar="FILE",
    help="Engine to write.  [default: one in engines/, named after all it depends on]",
)  # fmt: skip
@click.option("-f", "--force", is_flag=True, help="Build even if the engine is there.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors, and the engine's path.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TensorRT says, too.")
def command(
    model: str, calibrate: Path | None, calibrate_frames: int, batch_size: int, shapes: str | None, device: str,
    target: Path | None, force: bool, quiet: bool, verbose: bool, **flags: Any,
) -> None:  # fmt: skip
    """Build a TensorRT engine for this GPU, unless it is there. Prints its path.

    Beside the engine lies a manifest, FILE.json: what it was built from, for what, and how.
    """
    set_messages(quiet, verbose)
    path = catalog.find(model)
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"model '{model}': engines are built from .onnx files")
    options = _options(flags, shapes)
    description = spec_path(path)
    spec = ModelSpec.read(description) if description.exists() else None
    data = None
    if calibrate is not None:
        if options.precision != "int8":
            raise ConfigError("--calibrate is for --int8")
        if spec is None:
            raise ConfigError(
                f"--calibrate: '{description.name}' should lie beside the model and say how a picture becomes its input"
            )
        from bmf_trt_seg.calibration_frames import calibration_data

        data = calibration_data(calibrate, spec.input, calibrate_frames)
    if target is not None:
        check_writable(target)
    batch = (1, max(1, batch_size // 2), batch_size)
    engine = EngineFromOnnx(path, options, spec=spec, batch=batch, calibration=data, device=device, target=target)
    with BuildProgress(f"{path.name} {options.precision}", quiet) as progress:
        if engine.build(progress.update, force=force):
            manifest = engine.manifest
            progress.say(
                f"built for {manifest.built_for} in {manifest.build_seconds:.1f} s, {manifest.plan_bytes / 1e6:.1f} MB"
            )
        else:
            progress.say(f"was there: built for {engine.manifest.built_for}; --force builds it again")
    click.echo(engine.path)


def _options(flags: dict[str, Any], shapes: str | None) -> BuildOptions:
    values = {name: value for name, value in flags.items() if value not in (None, False) or name == "tf32"}
    if shapes is not None:
        try:
            values["shapes"] = parse_shapes(shapes)
        except ValueError as error:
            raise ConfigError(f"--shapes: {error}") from error
    return validated(BuildOptions, values, "build")
