"""`bmf-trt-seg build`: a TensorRT engine from an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli.logs import log_format_flag
from bmf_trt_seg.cli.options import set_messages
from bmf_trt_seg.cli.progress import BuildProgress, size_text
from bmf_trt_seg.engine.builder import EngineFromOnnx
from bmf_trt_seg.engine.manifest import is_plan, manifest_path, read_manifest
from bmf_trt_seg.engine.options import BuildOptions, parse_shapes
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.models import catalog
from bmf_trt_seg.outputs import check_distinct, check_writable
from bmf_trt_seg.spec import ModelSpec, spec_path
from bmf_trt_seg.validation import validated

__all__ = ["command"]


@click.command(name="build")
@click.argument("model", metavar="MODEL.onnx")
@click.option("--fp16", is_flag=True, help="16-bit floating point.")
@click.option("--bf16", is_flag=True, help="16-bit floating point with the range of 32 bits.")
@click.option("--int8", is_flag=True, help="8-bit integers; needs --calibrate, or a network with Q/DQ operators.")
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
@click.option("-f", "--force", is_flag=True, help="Build even if the engine is there; with -o, replace what is there.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors, and the engine's path.")
@click.option("-v", "--verbose", is_flag=True, help="Show what TensorRT says, too.")
@log_format_flag
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
    batch = (1, max(1, batch_size // 2), batch_size)
    engine = EngineFromOnnx(path, options, spec=spec, batch=batch, calibration=data, device=device, target=target)
    if target is not None:
        inputs = [path, *engine.network.weight_files(), description, *([calibrate] if calibrate else [])]
        _check_target(target, inputs, engine.manifest.onnx_sha256, force)
    with BuildProgress(f"{path.name} {options.precision}", quiet) as progress:
        if engine.build(progress.update, force=force):
            manifest = engine.manifest
            progress.say(
                f"built for {manifest.built_for} in {manifest.build_seconds:.1f} s, {size_text(manifest.plan_bytes)}"
            )
        else:
            progress.say(f"is there already, built for {engine.manifest.built_for}; --force builds it again")
    click.echo(engine.path)


def _check_target(target: Path, inputs: list[Path], onnx_sha256: str, force: bool) -> None:
    """Neither the engine nor its manifest may take the place of what it is built from, or of what is no engine."""
    for path in (target, manifest_path(target)):
        check_distinct(inputs, [path])
        check_writable(path)
    if force:
        return
    if target.is_file():
        with target.open("rb") as file:
            if not is_plan(file.read(4)):
                raise click.UsageError(f"'{target}' exists and is no engine; give --force to replace it")
        there = read_manifest(target)
        if there is None or there.onnx_sha256 != onnx_sha256:
            origin = f"another network, '{there.onnx}' as it was then" if there else "a network that is not known"
            raise ConfigError(f"'{target}' is an engine of {origin}; give --force to replace it")
        return
    try:
        read_manifest(target)
    except ConfigError:
        manifest = manifest_path(target)
        raise click.UsageError(f"'{manifest}' exists and is no manifest; give --force to replace it") from None


def _options(flags: dict[str, Any], shapes: str | None) -> BuildOptions:
    chosen = [name for name in ("fp16", "bf16", "int8") if flags.pop(name)]
    if len(chosen) > 1:
        raise click.UsageError(f"--{chosen[0]} and --{chosen[1]}: choose one")
    flags["precision"] = chosen[0] if chosen else "fp32"
    values = {
        name: value for name, value in flags.items() if (value is not None and value is not False) or name == "tf32"
    }
    if shapes is not None:
        try:
            values["shapes"] = parse_shapes(shapes)
        except ValueError as error:
            raise ConfigError(f"--shapes: {error}") from error
    return validated(BuildOptions, values, "build")
