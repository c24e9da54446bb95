"""`bmf-trt-seg bench`: one network in several precisions and sizes of batch, side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from bmf_trt_seg.cli.options import set_messages
from bmf_trt_seg.cli.progress import BuildProgress, size_text
from bmf_trt_seg.cli.reports import check_report, percent, report_flags, table, versions, write_report
from bmf_trt_seg.engine.options import BuildOptions, Precision, ShapeRange, parse_shapes
from bmf_trt_seg.errors import ConfigError, EngineError
from bmf_trt_seg.models import catalog
from bmf_trt_seg.networks import description
from bmf_trt_seg.options import read_options
from bmf_trt_seg.validation import validated

if TYPE_CHECKING:
    from bmf_trt_seg.comparison import Candidate, Comparison, Pictures, Setup
    from bmf_trt_seg.timing import Timing, Work

__all__ = ["command"]

_FILE, _PLOT = "bench.json", "bench.png"
_MOST = 256
_PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@click.command(name="bench")
@click.argument("model", metavar="MODEL")
@click.option(
    "--precisions", metavar="NAME,...",
    help=f"Of {', '.join(_PRECISIONS)}.  [default: fp32; with TensorRT fp16, too; int8 if it can be made]",
)  # fmt: skip
@click.option("--batches", default="1,4,8", show_default=True, metavar="N,...", help="Pictures in one inference.")
@click.option(
    "--backend", type=click.Choice(["auto", "onnxruntime", "pytorch", "tensorrt"]), default="auto", show_default=True,
    help="auto: TensorRT for an .onnx file where there is a GPU, else by the kind of file.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Where it runs: auto, cpu, cuda or cuda:N.")
@click.option(
    "--threads", type=click.IntRange(0, 256), default=1, show_default=True, help="CPU threads; 0 takes one a core."
)
@click.option(
    "--pictures", type=click.Path(path_type=Path), metavar="DIR_OR_VIDEO",
    help="Pictures to run on, and to compare the class maps of.  [default: noise]",
)  # fmt: skip
@click.option("--picture-count", type=click.IntRange(1, 1000), default=16, show_default=True, help="How many, at most.")
@click.option(
    "--seconds", type=click.FloatRange(0.01, 3600), default=3.0, show_default=True,
    help="Time for each precision and size of batch, over all turns.",
)  # fmt: skip
@click.option("--turns", type=click.IntRange(1, 100), default=5, show_default=True, help="How often each has its turn.")
@click.option(
    "--calibration", type=click.Path(path_type=Path), metavar="VIDEO_OR_FOLDER",
    help="Pictures to calibrate int8 on, like those to come.",
)  # fmt: skip
@click.option("--calibration-frames", type=click.IntRange(1), default=128, show_default=True, help="How many of them.")
@click.option(
    "--quantized", type=click.Path(path_type=Path), metavar="FILE.onnx",
    help="The network with Q/DQ operators, to be int8.",
)  # fmt: skip
@click.option(
    "--shapes", metavar="[NAME:]MIN/OPT/MAX",
    help="Shapes of a dynamic input, as in 1x3x512x512/4x3x512x512/8x3x512x512; pictures have the size of OPT.",
)  # fmt: skip
@click.option(
    "--workspace", "workspace_mib", type=click.IntRange(1), metavar="MIB",
    help="Most memory for one layer of an engine.",
)  # fmt: skip
@click.option("--opt-level", type=click.IntRange(0, 5), help="How long TensorRT searches for kernels.  [default: 3]")
@click.option("--tf32/--no-tf32", default=True, help="Whether fp32 layers may round their inputs.  [default: tf32]")
@click.option("--tactic-sources", metavar="NAME,...", help="Libraries to take kernels from, as TensorRT names them.")
@report_flags
def command(
    model: str,
    precisions: str | None,
    batches: str,
    backend: str,
    device: str,
    threads: int,
    pictures: Path | None,
    picture_count: int,
    seconds: float,
    turns: int,
    shapes: str | None,
    folder: Path | None,
    plot: bool,
    overwrite: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Compare precisions of a network: latency, throughput, size, memory, and how alike their class maps are.

    MODEL is a file, or a name of 'models list'. TensorRT engines are built as by 'build', and kept. A precision that
    cannot be made is told, and the others are compared.
    """
    from bmf_trt_seg.calibration_frames import calibration_data
    from bmf_trt_seg.comparison import (
        Comparison,
        Setup,
        compared_backend,
        is_quantized,
        noise,
        read_pictures,
        resized,
    )
    from bmf_trt_seg.plots import check_plots
    from bmf_trt_seg.timing import measure

    set_messages(quiet, False)
    wants_plot = folder is not None and plot
    check_report(folder, [_FILE, *([_PLOT] if wants_plot else [])], overwrite)
    if wants_plot:
        check_plots()
    read_options({"model": model, "backend": backend, "device": device, "threads": threads}, "bench")
    path = catalog.find(model)
    calibration, quantized = flags.pop("calibration"), flags.pop("quantized")
    calibration_frames = flags.pop("calibration_frames")
    sizes = _batches(batches)
    spec = description(path)
    chosen = compared_backend(backend, path, device)
    wanted = _precisions(precisions, chosen, bool(calibration or quantized))
    build = _build_options(flags, shapes)
    if quantized is not None:
        _check_quantized(quantized)
    if calibration is not None and (quantized is not None or is_quantized(path)):
        raise ConfigError(
            "--calibration is for networks that do not say themselves how they are quantized (Q/DQ), as "
            f"'{quantized or path}' does; leave it out"
        )
    for option, value in (("--calibration", calibration), ("--quantized", quantized)):
        if value is not None and "int8" not in wanted:
            raise ConfigError(f"{option} is for int8, which is not among --precisions {','.join(wanted)}")
    input_shapes: dict[str, tuple[int, ...]] = {}
    for name, given in (build.shapes or {}).items():
        if name not in ("", spec.input.name):
            input_shapes[name] = given.opt
            continue
        spec = resized(spec, given.opt)
        _check_range(given, sizes)
    if calibration is not None:
        calibration_data(calibration, spec.input, calibration_frames)  # rather now than when engines have been built
    shown = noise(spec) if pictures is None else read_pictures(pictures, spec, picture_count)
    setup = Setup(
        model=path, spec=spec, backend=chosen, batches=sizes, build=build, device=device, threads=threads,
        input_shapes=input_shapes, quantized=quantized, calibration=calibration,
        calibration_frames=calibration_frames,
    )  # fmt: skip
    with Comparison(setup, shown) as comparison:
        for precision in wanted:
            with BuildProgress(f"{path.name} {precision}", quiet) as progress:
                comparison.add(precision, progress.update)
        works: dict[tuple[str, int], Work] = {
            (candidate.precision, size): work
            for candidate in comparison.candidates
            for size, work in candidate.works.items()
        }
        if not works:
            raise EngineError(f"nothing could be measured: {_problems(comparison.candidates)[0]}")
        with BuildProgress("class maps", quiet) as progress:
            progress.update("comparing", None)
            comparison.compare()
        with BuildProgress("timing", quiet) as progress:
            timings = measure(works, seconds, turns, lambda done, of: progress.update(f"{done} of {of}", done / of))
        heading = _heading(setup, comparison)
        click.echo(f"{heading}\n{_about(shown, comparison, seconds, turns)}\n")
        click.echo(_shown(comparison.candidates, timings, sizes))
        for line in (*_problems(comparison.candidates), *comparison.notes):
            click.echo(line)
        if folder is not None:
            report = _report(setup, comparison, shown, timings, {"seconds": seconds, "turns": turns})
            _write(folder, heading, report, comparison.candidates, timings, wants_plot)
            if not quiet:
                print(f"{folder}: {_FILE}{f', {_PLOT}' if wants_plot else ''}", file=sys.stderr)
    return 0


def _precisions(text: str | None, backend: str, has_int8: bool) -> list[Precision]:
    if text is None:
        return ["fp32", *(["fp16"] if backend == "tensorrt" else []), *(["int8"] if has_int8 else [])]  # type: ignore[list-item]
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in _PRECISIONS:
            raise ConfigError(f"--precisions: '{name}' is none; allowed are {', '.join(_PRECISIONS)}")
    if not names:
        raise ConfigError(f"--precisions is empty; name some of {', '.join(_PRECISIONS)}")
    return [precision for precision in _PRECISIONS if precision in names]


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and 1 <= int(part) <= _MOST for part in parts):
        raise ConfigError(f"--batches: got '{text}'; expected numbers from 1 to {_MOST}, as in 1,4,8")
    return tuple(sorted({int(part) for part in parts}))


def _build_options(flags: dict[str, Any], shapes: str | None) -> BuildOptions:
    values = {name: value for name, value in flags.items() if value is not None}
    if shapes is not None:
        try:
            values["shapes"] = parse_shapes(shapes)
        except ValueError as error:
            raise ConfigError(f"--shapes: {error}") from error
    return validated(BuildOptions, values, "bench")


def _check_quantized(path: Path) -> None:
    from bmf_trt_seg.comparison import is_quantized

    if not path.is_file() or path.suffix.lower() != ".onnx":
        raise ConfigError(f"--quantized: '{path}' {'is no .onnx file' if path.exists() else 'does not exist'}")
    if not is_quantized(path):
        raise ConfigError(f"--quantized: '{path}' has no Q/DQ operators (QuantizeLinear); --calibration makes them")


def _check_range(given: ShapeRange, sizes: tuple[int, ...]) -> None:
    least, most = given.min[0], given.max[0]
    outside = [size for size in sizes if not least <= size <= most]
    if outside:
        raise ConfigError(
            f"--shapes is for batches of {least} to {most}, --batches has {', '.join(map(str, outside))}; change one "
            "of them"
        )


def _heading(setup: Setup, comparison: Comparison) -> str:
    size = f"{setup.spec.input.width}x{setup.spec.input.height}"
    where = next(candidate.ran_on for candidate in comparison.candidates if candidate.works)
    if setup.backend == "tensorrt":
        where = where.partition(",")[0]  # the rest is of one engine
    return f"{setup.model.name}, {size}, {where}"


def _about(shown: Pictures, comparison: Comparison, seconds: float, turns: int) -> str:
    count = len(shown.sizes_wh)
    pictures = f"{count} picture{'' if count == 1 else 's'} of '{shown.source}'"
    if not shown.source:
        pictures = "noise, which says little about class maps: give --pictures"
    compared = f"; class maps against {comparison.reference}" if comparison.reference else ""
    return f"on {pictures}{compared}; {seconds:g} s each, medians of {turns} turn{'' if turns == 1 else 's'}"


def _shown(candidates: list[Candidate], timings: dict[tuple[str, int], Timing], sizes: tuple[int, ...]) -> str:
    rows = []
    for candidate in candidates:
        for size in sizes if candidate.backend is not None else ():
            timing = timings.get((candidate.precision, size))
            if timing is None:
                rows.append([candidate.precision, str(size), *["-"] * 8])
                continue
            rows.append([
                candidate.precision, str(size), *map(_number, (timing.p50_ms, timing.p90_ms, timing.p99_ms)),
                _number(timing.pictures_per_second), _bytes(candidate.file_bytes), _bytes(candidate.device_bytes),
                percent(candidate.agreement), percent(candidate.mean_iou),
            ])  # fmt: skip
        if candidate.backend is None:
            rows.append([candidate.precision, *["-"] * 9])
    head = ["precision", "batch", "p50 ms", "p90 ms", "p99 ms", "pictures/s", "size", "memory", "agreement", "mIoU"]
    return table(head, rows)


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else size_text(count)


def _problems(candidates: list[Candidate]) -> list[str]:
    lines = []
    for candidate in candidates:
        if candidate.problem:
            lines.append(f"{candidate.precision}: {candidate.problem}")
        lines += [f"{candidate.precision}, batch {size}: {why}" for size, why in candidate.batch_problems.items()]
    return lines


def _report(
    setup: Setup,
    comparison: Comparison,
    shown: Pictures,
    timings: dict[tuple[str, int], Timing],
    settings: dict[str, Any],
) -> dict[str, Any]:
    rows = []
    for candidate in comparison.candidates:
        row = {
            "precision": candidate.precision,
            "problem": candidate.problem or None,
            "ran_on": candidate.ran_on or None,
            "file": candidate.file.name if candidate.file else None,
            "file_bytes": candidate.file_bytes,
            "device_bytes": candidate.device_bytes,
            "build_seconds": candidate.build_seconds,
            "agreement": candidate.agreement,
            "mean_iou": candidate.mean_iou,
            "batches": [
                {"batch": size, **dataclasses.asdict(timings[candidate.precision, size])}
                if size in candidate.works
                else {"batch": size, "problem": candidate.batch_problems[size]}
                for size in setup.batches
                if candidate.backend is not None
            ],
        }
        rows.append(row)
    return {
        "model": str(setup.model),
        "backend": setup.backend,
        "input": {"width": setup.spec.input.width, "height": setup.spec.input.height},
        "device": setup.device,
        "threads": setup.threads,
        "build": setup.build.model_dump(mode="json", exclude={"precision"}) if setup.backend == "tensorrt" else None,
        "pictures": {"source": shown.source or None, "noise": not shown.source, "count": len(shown.sizes_wh)},
        "compared_with": comparison.reference or None,
        **settings,
        "precisions": rows,
        "notes": comparison.notes,
        "versions": versions("tensorrt", "tensorrt_rtx_cu13", "torch", "onnxruntime", "numpy"),
    }


def _write(
    folder: Path,
    heading: str,
    report: dict[str, Any],
    candidates: list[Candidate],
    timings: dict[tuple[str, int], Timing],
    wants_plot: bool,
) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    files: dict[str, Callable[[Path], object]] = {_FILE: lambda path: path.write_text(text, encoding="utf-8")}
    if wants_plot:
        from bmf_trt_seg.plots import plot_comparison

        notes: dict[str, str] = {candidate.precision: _note(candidate) for candidate in candidates}
        files[_PLOT] = lambda path: plot_comparison(path, heading, timings, notes)
    write_report(folder, files)


def _note(candidate: Candidate) -> str:
    parts = [size_text(candidate.file_bytes)] if candidate.file_bytes else []
    if candidate.agreement is not None and candidate.precision != "fp32":
        parts.append(f"{percent(candidate.agreement)} of the pixels as in fp32")
    return ", ".join(parts)
