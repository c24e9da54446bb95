"""`bmf-trt-seg eval`: a network's class maps against masks that say what the pictures show."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli.engines import build_engine
from bmf_trt_seg.cli.options import given, module_flags, set_messages
from bmf_trt_seg.cli.progress import Progress
from bmf_trt_seg.cli.reports import check_report, percent, report_flags, table, versions, write_report
from bmf_trt_seg.confusion import ConfusionMatrix, Scores, scores_of, selected
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.masks import MaskReader, Pairs, pair_files, parse_colors, parse_map
from bmf_trt_seg.models import catalog
from bmf_trt_seg.networks import backend_for, description
from bmf_trt_seg.options import read_options
from bmf_trt_seg.outputs import check_writable, write_whole
from bmf_trt_seg.postprocess import chosen_classes
from bmf_trt_seg.spec import ModelSpec

__all__ = ["command"]

_FILES = ("eval.json", "classes.csv", "confusion.csv")
_PLOT = "confusion.png"
_NAMED = 5


@click.command(name="eval")
@click.option("-m", "--model", default="person", show_default=True, help="Model file, or a name of 'models list'.")
@click.option(
    "--images", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Pictures; those that have a mask."
)
@click.option(
    "--masks", type=click.Path(path_type=Path), required=True, metavar="DIR",
    help="What each shows, in files of the same names: PNG, TIFF, BMP or GIF of class indices (8 or 16 bits, or those "
    "of a palette), or of colours.",
)  # fmt: skip
@click.option("--image-suffix", default="", metavar="TEXT", help="What names of pictures end in, as in _leftImg8bit.")
@click.option("--mask-suffix", default="", metavar="TEXT", help="What names of masks end in, as in _gtFine_labelIds.")
@click.option(
    "--ignore", type=click.IntRange(-1, 65535), default=255, show_default=True,
    help="Value of masks that does not count; -1: none.",
)  # fmt: skip
@click.option(
    "--map", "meanings", metavar="VALUE:CLASS,...",
    help="What values of masks mean, where they are no indices of the model's classes: 24:11,25:person,*:ignore. * is "
    "every other value; a class may be 'ignore', or 'none' for what is of no class.",
)  # fmt: skip
@click.option(
    "--mask-colors", metavar="CLASS=#RRGGBB,...",
    help="What colours of RGB masks mean; by default the palette of the model's description.",
)  # fmt: skip
@click.option(
    "--classes", metavar="NAME,...",
    help="Classes to score, by name or index; means are over these.  [default: all]",
)  # fmt: skip
@module_flags("threshold", "backend", "device", "build", "input_shapes", "batch_size", "threads")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write all as JSON.")
@report_flags
def command(
    images: Path,
    masks: Path,
    image_suffix: str,
    mask_suffix: str,
    ignore: int,
    meanings: str | None,
    mask_colors: str | None,
    classes: str | None,
    json_path: Path | None,
    folder: Path | None,
    plot: bool,
    overwrite: bool,
    quiet: bool,
    **flags: Any,
) -> int:
    """Score a network on pictures with masks: IoU and accuracy of every class, and the confusion matrix.

    A class map is made in the size of the mask, as scores are enlarged to a video's frames. Pairs that cannot be read
    are told and left out, and the exit code is 1 then.

    Needs pip install 'bmf-trt-seg[eval]', and for the diagram 'bmf-trt-seg[plots]'.
    """
    from bmf_trt_seg.evaluation import evaluate
    from bmf_trt_seg.pictures import PICTURE_SUFFIXES
    from bmf_trt_seg.plots import check_plots, plot_confusion

    set_messages(quiet, False)
    options = read_options(given(flags), "eval")
    wants_plot = folder is not None and plot
    _check_outputs(folder, json_path, overwrite, wants_plot)
    if wants_plot:
        check_plots()
    spec = description(catalog.find(options.model))
    if spec.task != "segmentation":
        raise ConfigError(f"model '{options.model}': its task is '{spec.task}'; only class maps can be scored")
    chosen = _chosen(classes, spec)
    reader = MaskReader(
        spec.labels,
        ignore,
        parse_map(meanings, spec.labels) if meanings is not None else {},
        _colors(mask_colors, spec),
    )
    ConfusionMatrix(len(spec.labels))  # is torchmetrics there? Rather now than when an engine has been built
    files = pair_files(images, masks, PICTURE_SUFFIXES, image_suffix, mask_suffix)
    _tell_of_leftovers(files, quiet)
    build_engine(options, quiet)
    backend, options = backend_for(options, lambda: False)
    with backend, Progress("pictures", quiet) as progress:
        done = evaluate(
            files.pairs, backend, reader, batch_size=options.batch_size, threshold=options.threshold,
            report=lambda count: progress.update(count, len(files.pairs)),
        )  # fmt: skip
        ran_on = backend.describe()
        if done.pictures:
            progress.say(f"{done.pictures} picture{_s(done.pictures)} in {progress.seconds:.1f} s with {ran_on}")
    for failure in done.failures:
        print(f"bmf-trt-seg: {failure}", file=sys.stderr)
    if done.resized and not quiet:
        print(
            f"{done.resized} of {done.pictures} masks have another size than their picture; the scores were enlarged "
            "to the mask's",
            file=sys.stderr,
        )
    complaint = reader.complaint()
    if complaint:
        print(f"bmf-trt-seg: {complaint}", file=sys.stderr)
    if not done.counts.any():
        raise StreamError(
            "nothing was scored: no picture could be read with its mask"
            if not done.pictures
            else "nothing was scored: no pixel of the masks is of a class"
        )

    scores = scores_of(done.counts, spec.labels, chosen)
    left_out = {
        "pictures_without_mask": [path.name for path in files.without_mask],
        "masks_without_picture": [path.name for path in files.without_picture],
        "failures": [str(failure) for failure in done.failures],
        "values_outside": {value: count for value, (count, _) in reader.outside.items()},
    }
    report = {
        "model": options.model,
        "backend": ran_on,
        "threshold": options.threshold,
        "images": str(images),
        "masks": str(masks),
        "ignore": ignore,
        "map": meanings,
        "pictures": done.pictures,
        "pictures_scored_in_the_size_of_their_mask": done.resized,
        "pixels": int(done.counts.sum()),
        "pixels_ignored": done.ignored_pixels,
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "classes": [dataclasses.asdict(row) for row in scores.classes],
        "confusion": {"labels": [*spec.labels, None], "rows": "truth", "pixels": done.counts.tolist()},
        "left_out": left_out,
        "versions": versions("torchmetrics", "torch", "onnxruntime", "numpy"),
    }
    click.echo(_shown(scores))
    if folder is not None:
        writers: dict[str, Callable[[Path], object]] = {
            "eval.json": lambda path: path.write_text(_json(report), encoding="utf-8"),
            "classes.csv": lambda path: _write_classes(path, scores),
            "confusion.csv": lambda path: _write_confusion(path, done.counts, spec),
        }
        if wants_plot:
            title = f"{Path(options.model).name} on {done.pictures} picture{_s(done.pictures)} of '{images.name}'"
            counts = selected(done.counts, [row.index for row in scores.classes])
            others = "no class" if chosen is None else "others"
            writers[_PLOT] = lambda path: plot_confusion(path, title, counts, scores, no_class=others)
        write_report(folder, writers)
        if not quiet:
            print(f"{folder}: {', '.join(writers)}", file=sys.stderr)
    if json_path is not None:
        try:
            write_whole(json_path, lambda path: path.write_text(_json(report), encoding="utf-8"))
        except OSError as error:
            raise StreamError(f"'{json_path}' cannot be written: {error.strerror}") from error
    return 1 if done.failures or complaint else 0


def _check_outputs(folder: Path | None, json_path: Path | None, overwrite: bool, wants_plot: bool) -> None:
    check_report(folder, [*_FILES, *([_PLOT] if wants_plot else [])], overwrite)
    if json_path is None:
        return
    if json_path.is_dir():
        raise StreamError(f"'{json_path}' is a folder; give the name of a file in it")
    if json_path.exists() and not overwrite:
        raise click.UsageError(f"'{json_path}' exists; give -y to replace it")
    check_writable(json_path)


def _chosen(text: str | None, spec: ModelSpec) -> list[int] | None:
    if text is None:
        return None
    return chosen_classes(spec.labels, None, [part.strip() for part in text.split(",") if part.strip()])


def _colors(text: str | None, spec: ModelSpec) -> dict[tuple[int, int, int], int]:
    if text is None:  # colours of ours, where the description has none, are in nobody's masks
        text = ",".join(f"{index}={color}" for index, color in enumerate(spec.palette))
        if len(set(spec.palette)) < len(spec.palette):
            return {}  # it does not tell classes apart
    elif not text.strip():
        raise ConfigError("--mask-colors is empty; write it as road=#804080,person=#dc143c")
    return parse_colors(text, spec.labels) if text else {}


def _tell_of_leftovers(files: Pairs, quiet: bool) -> None:
    if quiet:
        return
    for paths, what, lack in (
        (files.without_mask, "picture", "mask"),
        (files.without_picture, "mask", "picture"),
    ):
        if paths:
            names = ", ".join(path.name for path in paths[:_NAMED])
            more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
            have = "has" if len(paths) == 1 else "have"
            print(
                f"left out, {len(paths)} {what}{_s(len(paths))} that {have} no {lack}: {names}{more}", file=sys.stderr
            )


def _shown(scores: Scores) -> str:
    rows = [
        [f"{row.index} {row.label}", percent(row.iou), percent(row.accuracy), str(row.pixels), str(row.found_pixels)]
        for row in scores.classes
    ]
    means = (
        f"mean IoU        {percent(scores.mean_iou):>8}\n"
        f"pixel accuracy  {percent(scores.pixel_accuracy):>8}\n"
        f"mean accuracy   {percent(scores.mean_accuracy):>8}"
    )
    return f"{table(['class', 'IoU', 'accuracy', 'pixels', 'found'], rows)}\n\n{means}"


def _json(report: dict[str, Any]) -> str:
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    # a row of the matrix is a line, not as many lines as there are classes
    return re.sub(r"\[\s+((?:\d+,\s+)*\d+)\s+\]", lambda row: f"[{' '.join(row[1].split())}]", text)


def _write_classes(path: Path, scores: Scores) -> None:
    names = ["index", "label", "iou", "accuracy", "pixels", "found_pixels"]
    _write_csv(path, [names, *([getattr(row, name) for name in names] for row in scores.classes)])


def _write_confusion(path: Path, counts: Any, spec: ModelSpec) -> None:
    labels = [*spec.labels, ""]  # of no class
    _write_csv(
        path,
        [["truth \\ found", *labels], *([label, *row] for label, row in zip(labels, counts.tolist(), strict=True))],
    )


def _write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _s(count: int) -> str:
    return "" if count == 1 else "s"
