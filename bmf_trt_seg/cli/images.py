"""`bmf-trt-seg images`: pictures with everything blurred but one class, in batches."""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bmf_trt_seg.cli.engines import build_engine
from bmf_trt_seg.cli.logs import log_format_flag
from bmf_trt_seg.cli.options import given, module_flags, set_messages
from bmf_trt_seg.cli.progress import Progress
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.media import check_readable
from bmf_trt_seg.models import catalog
from bmf_trt_seg.networks import description
from bmf_trt_seg.options import SegmentOptions, read_options
from bmf_trt_seg.outputs import check_writable, folder_made
from bmf_trt_seg.pictures import PICTURE_SUFFIXES
from bmf_trt_seg.spec import ModelSpec

if TYPE_CHECKING:
    from bmf_trt_seg.still_pictures import Finished

__all__ = ["command"]

_PREFIX = "out_"
_BACKGROUND = "__background__"
"""What TorchVision calls it: the background, whatever this network's description calls it."""
_VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm",
    ".wmv", ".y4m",
}  # fmt: skip


@click.command(
    name="images",
    # --batch_size is how NVIDIA's sample writes it, --batch-size how every other verb does
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
)
@click.option(
    "-i", "--input_path", "source", type=click.Path(path_type=Path), required=True, metavar="FILE_OR_FOLDER",
    help="A picture, or a folder of pictures; JPEG, PNG and what else Pillow reads.",
)  # fmt: skip
@click.option(
    "-o", "--output_dir", "folder", type=click.Path(path_type=Path), required=True, metavar="DIR",
    help=f"Folder for the results, {_PREFIX}NAME each; it is made if it is not there.",
)  # fmt: skip
@click.option(
    "-c", "--class_name", metavar="CLASS",
    help=f"The class that stays sharp, by name; {_BACKGROUND} for the background.  [default: all but the background]",
)  # fmt: skip
@click.option(
    "-th", "--target_img_height", "height", type=click.IntRange(1, 16384), metavar="H",
    help="Height of the network's input, where the network leaves it open.  [default: the description's]",
)  # fmt: skip
@click.option(
    "-tw", "--target_img_width", "width", type=click.IntRange(1, 16384), metavar="W",
    help="Width of the network's input, likewise.",
)  # fmt: skip
@click.option(
    "-b", "--batch_size", type=click.IntRange(1, 256), default=1, show_default=True, metavar="B",
    help="Pictures in one inference. A single picture is inferred so many times.",
)  # fmt: skip
@click.option(
    "-d", "--device_id", "device", default="auto", show_default=True, metavar="DEVICE",
    help="The number of a GPU, or auto, cpu, cuda, cuda:N.",
)  # fmt: skip
@click.option(
    "-bk", "--backend", type=click.Choice(["auto", "pytorch", "tensorrt", "onnxruntime"]), default="auto",
    show_default=True, help="What runs the network; auto goes by the ending of its file.",
)  # fmt: skip
@click.option("-m", "--model", default="person", show_default=True, help="Model file, or a name of 'models list'.")
@module_flags("threshold", "build", "threads")
@click.option("-y", "--overwrite", is_flag=True, help="Replace results that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show each batch, what decodes the pictures, and where time goes.")
@log_format_flag
def command(
    source: Path,
    folder: Path,
    class_name: str | None,
    height: int | None,
    width: int | None,
    batch_size: int,
    device: str,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    **flags: Any,
) -> int:
    """Blur pictures but for one class, which stays as it is.

    A picture that cannot be read is left out; all such are named at the end, and the exit code is 1.
    """
    set_messages(quiet, verbose)
    found = _find(source, folder)
    _check_targets(found.jobs, folder, overwrite)
    model = catalog.find(flags["model"])
    spec = description(model)
    if spec.task != "segmentation":
        raise ConfigError(
            f"model '{model.name}' is described as of task '{spec.task}', which has no classes to keep sharp"
        )
    values = {
        **given(flags),
        "name": "images",
        "style": "blur",
        "classes": [_class_of(class_name, spec, model)] if class_name is not None else None,
        "device": f"cuda:{device}" if device.isdecimal() else device,
        "batch_size": batch_size,
    }
    if height or width:
        size_hw = height or spec.input.height, width or spec.input.width
        values["input_shapes"] = _input_shapes(batch_size, size_hw, spec, model)
    options = read_options(values, "images")
    build_engine(options, quiet)
    with folder_made(folder):
        check_writable(folder / "probe")
        return _segment(found, options, quiet, verbose)


def _segment(found: _Found, options: SegmentOptions, quiet: bool, verbose: bool) -> int:
    from bmf_trt_seg.still_pictures import segment_in_batches

    number = itertools.count(1)
    with Progress("pictures", quiet) as progress:

        def report(names: Sequence[Path], done: int) -> None:
            if verbose:
                many = f", {len(names)} times" if len(found.jobs) == 1 < len(names) else ""
                progress.say(f"batch {next(number)}: {', '.join(dict.fromkeys(name.name for name in names))}{many}")
            progress.update(done, len(found.jobs))

        finished = segment_in_batches(found.jobs, options, report)
        _tell(finished, found, progress, verbose)
    for _, error in finished.failures:
        print(f"bmf-trt-seg: {error}", file=sys.stderr)
    if finished.failures:
        names = ", ".join(source.name for source, _ in finished.failures)
        print(
            f"bmf-trt-seg: {len(finished.failures)} of {_counted(len(found.jobs), 'picture')} left out: {names}",
            file=sys.stderr,
        )
    return 1 if finished.failures else 0


def _tell(finished: Finished, found: _Found, progress: Progress, verbose: bool) -> None:
    """What was done."""
    folder = found.jobs[0][1].parent
    if finished.written:
        done, batches = _counted(finished.written, "picture"), _counted(finished.batches, "batch")
        progress.say(f"{folder}: {done} in {batches} and {progress.seconds:.1f} s")
    if verbose:
        progress.say(", ".join(f"{name} {1e3 * took:.1f} ms" for name, took in finished.stage_seconds.items()))
    if len(found.jobs) == 1 < finished.inferred:
        same = "all the same, bit by bit"
        if finished.differing:
            same = f"not all the same: {finished.differing} differ from the first; the last one was written"
        progress.say(f"{found.jobs[0][0].name} was inferred {finished.inferred} times; the results are {same}")
    if found.videos:
        progress.say(f"{_counted(len(found.videos), 'video')} left out: {_names(found.videos)}; 'segment' takes videos")


# --------------------------------------------------------------------------------------------------- what goes in


@dataclass(frozen=True)
class _Found:
    jobs: list[tuple[Path, Path]]
    """Pictures, each with its result; at least one."""
    videos: list[Path]


def _find(source: Path, folder: Path) -> _Found:
    """What there is to do. Raises StreamError or ConfigError if that is nothing."""
    if not source.is_dir():
        check_readable(source)
        if source.suffix.lower() in _VIDEO_SUFFIXES:
            raise ConfigError(f"'{source}' is a video, and 'images' takes pictures: {_segment_command(str(source))}")
        if source.suffix.lower() not in PICTURE_SUFFIXES:
            raise ConfigError(f"'{source}' is no picture by its name; pictures end in {_endings()}")
        return _Found([(source, folder / f"{_PREFIX}{source.name}")], [])
    try:
        files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise StreamError(f"the folder '{source}' cannot be read: {error.strerror}") from error
    videos = [path for path in files if path.suffix.lower() in _VIDEO_SUFFIXES]
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if folder.exists() and folder.samefile(source):  # results of a run before are no pictures to do
        results = {f"{_PREFIX}{path.name}" for path in pictures}
        pictures = [path for path in pictures if path.name not in results]
    if not pictures:
        hint = f"; its videos are for 'segment': {_segment_command(f'{source}/*{videos[0].suffix}')}" if videos else ""
        raise StreamError(f"the folder '{source}' has no pictures ({_endings()}){hint}")
    return _Found([(path, folder / f"{_PREFIX}{path.name}") for path in pictures], videos)


def _segment_command(inputs: str) -> str:
    return f"bmf-trt-seg segment {inputs} -o OUT --style blur"


def _endings() -> str:
    return ", ".join(sorted(PICTURE_SUFFIXES))


def _check_targets(jobs: Sequence[tuple[Path, Path]], folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file; -o names a folder for the results")
    there = [target for _, target in jobs if target.exists()]
    if there and not overwrite:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise click.UsageError(f"'{there[0]}' exists{more}; give -y to replace it")
    if folders := [target for target in there if target.is_dir()]:
        raise ConfigError(f"'{folders[0]}' is a folder, and would be the name of a result")


# --------------------------------------------------------------------------------------------------- the network


def _class_of(name: str, spec: ModelSpec, model: Path) -> str:
    """The label that a name means. Raises ConfigError."""
    if name in spec.labels:
        return name
    if name == _BACKGROUND and spec.background is not None:
        return spec.labels[spec.background]
    if name.isdecimal() and int(name) < len(spec.labels):
        return spec.labels[int(name)]
    close = difflib.get_close_matches(name.lower(), spec.labels, n=1)
    if name == _BACKGROUND:
        hint = "its description names no background"
    else:
        hint = f"did you mean '{close[0]}'?" if close else f"it has {_listed(spec.labels)}"
    raise ConfigError(f"-c {name}: model '{model.name}' has no such class; {hint}")


def _listed(labels: Sequence[str], most: int = 30) -> str:
    more = f", ... {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def _input_shapes(count: int, size_hw: tuple[int, int], spec: ModelSpec, model: Path) -> dict[str, list[int]]:
    """The option 'input_shapes'. Raises ConfigError if the network's own size is another one, and fixed."""
    is_nchw = spec.input.layout == "nchw"
    if model.suffix.lower() == ".onnx":
        shape = next((tensor.shape for tensor in OnnxNetwork(model).inputs if tensor.name == spec.input.name), ())
        fixed = shape[2:] if is_nchw else shape[1:3]
        if any(isinstance(size, int) and size != wanted for size, wanted in zip(fixed, size_hw, strict=False)):
            raise ConfigError(
                f"-th {size_hw[0]} -tw {size_hw[1]}: the input of model '{model.name}' is {fixed[0]} high and "
                f"{fixed[1]} wide, which cannot be chosen; leave both out (pictures of any size are resized to it)"
            )
    return {spec.input.name: [count, 3, *size_hw] if is_nchw else [count, *size_hw, 3]}


def _counted(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _names(paths: Sequence[Path], most: int = 5) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(path.name for path in paths[:most]) + more
