"""`bmf-trt-seg models describe`: the description of an ONNX file, asked for where the file does not say it."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bmf_trt_seg.cli.network_flags import labels_flag, normalize_flag, parsed_normalization, parsed_size, resize_flag
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.models.datasets import DATA_SETS
from bmf_trt_seg.models.describe import Inferred, described, has_open_size, infer, picture_input
from bmf_trt_seg.models.labels import Labels
from bmf_trt_seg.outputs import check_writable, write_whole
from bmf_trt_seg.spec import ModelSpec, spec_path

__all__ = ["command"]


@click.command(name="describe")
@click.argument("model", type=click.Path(path_type=Path), metavar="FILE.onnx")
@labels_flag
@click.option("--background", metavar="LABEL", help="The class that is not drawn; 'none' if all are.")
@normalize_flag()
@click.option(
    "--activation", type=click.Choice(["softmax", "sigmoid", "none", "index"]),
    help="What turns its output into probabilities; none if they are, index if it holds class indices.",
)  # fmt: skip
@click.option("--size", metavar="HxW", help="Height and width of its pictures, if the file leaves them open.")
@click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True)
@resize_flag
@click.option("--input", "input_name", metavar="NAME", help="The input that takes pictures, if there are several.")
@click.option("--output", "output_name", metavar="NAME", help="The output to use.  [default: the first]")
@click.option("--constant", "constants", multiple=True, metavar="NAME=NUMBER", help="What another input holds.")
@click.option("--source", default="", help="Where the network comes from.")
@click.option("--license", default="", help="Its licence.")
@click.option("-y", "--overwrite", is_flag=True, help="Replace a description that exists.")
def command(
    model: Path, labels: str | None, background: str | None, normalize: str | None, activation: str | None,
    size: str | None, input_name: str | None, output_name: str | None, constants: tuple[str, ...], overwrite: bool,
    **rest: Any,
) -> None:  # fmt: skip
    """Write the description of an ONNX file beside it, as FILE.json. Prints its path.

    Tensors, sizes and the number of classes are read off the file. The rest is asked on a terminal, unless flags say
    it.
    """
    target = spec_path(model)
    _check_files(model, target, overwrite)
    asker = _Asker(sys.stdin is not None and sys.stdin.isatty())
    if size is None and has_open_size(picture_input(model, input_name)):
        size = asker.ask("--size", "height and width of its pictures, as 512x512", "the size of its pictures is open")
    found = infer(
        model, size_hw=None if size is None else parsed_size(size), input_name=input_name, output_name=output_name,
        constants=dict(_constant(text) for text in constants),
    )  # fmt: skip
    _show(found)
    spec = _spec(found, asker, labels, background, normalize, activation, rest)
    try:
        write_whole(target, spec.write)
    except OSError as error:
        raise StreamError(f"'{target}' cannot be written: {error.strerror}") from error
    click.echo(target)


class _Asker:
    """Asks where somebody is there to answer; else says which flag is missing."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def ask(
        self, flag: str, question: str, problem: str, default: str | None = None, choices: Sequence[str] = ()
    ) -> str:
        if not self._is_terminal:
            raise click.UsageError(f"{problem}: give {flag} ({question})")
        answer: str = click.prompt(
            question, default=default, err=True, type=click.Choice(choices) if choices else None, show_choices=False
        )
        return answer


def _check_files(model: Path, target: Path, overwrite: bool) -> None:
    if not model.is_file():
        raise ConfigError(f"model file '{model}' {'is a folder' if model.is_dir() else 'does not exist'}")
    if model.suffix.lower() != ".onnx":
        raise ConfigError(f"'{model}': only .onnx files say enough of themselves; README, 'Your own network'")
    if target.exists() and not overwrite:
        raise click.UsageError(f"'{target}' exists; give -y to replace it")
    check_writable(target)


def _constant(text: str) -> tuple[str, float]:
    found = re.fullmatch(r"([^=]+)=([-+.\deE]+)", text)
    try:
        if found is not None:
            return found[1], float(found[2])
    except ValueError:
        pass
    raise click.UsageError(f"--constant takes NAME=NUMBER, not '{text}'")


def _show(found: Inferred) -> None:
    height, width = found.size_hw
    what = f"{found.channels} channel{'s' if found.channels > 1 else ''}" if found.channels else "class indices"
    print(
        f"{found.path}: '{found.input_name}' takes {width}x{height} {found.dtype} {found.input_layout}, "
        f"'{found.output_name}' gives {what}, {'x'.join(map(str, found.output_shape))}",
        file=sys.stderr,
    )


def _spec(
    found: Inferred, asker: _Asker, labels: str | None, background: str | None, normalize: str | None,
    activation: str | None, rest: dict[str, Any],
) -> ModelSpec:  # fmt: skip
    if labels is None:
        count = "classes" if not found.channels else f"{max(2, found.channels)} classes"
        fitting = next((name for name, known in DATA_SETS.items() if len(known.labels) == found.channels), None)
        labels = asker.ask(
            "--labels", f"names of its {count}: a,b,..., a file with one a line, {', '.join(DATA_SETS)}",
            f"the {count} have no names", fitting,
        )  # fmt: skip
    named = _with_background(Labels.parsed(labels), background)
    expected = 2 if found.channels == 1 else found.channels
    if expected and len(named.names) != expected and not (found.channels == 1 and len(named.names) == 1):
        raise ConfigError(f"--labels names {len(named.names)} classes, the network has {found.channels} channels")
    if normalize is None:
        normalize = "unit" if found.dtype == "uint8" else asker.ask(
            "--normalize", "normalization: imagenet, unit (0 to 1), symmetric (-1 to 1), or mean/deviation R,G,B/R,G,B",
            "how it wants its pictures is not known", "imagenet",
        )  # fmt: skip
    if activation is None:
        activation = found.activation or asker.ask(
            "--activation", "activation: softmax or sigmoid of scores, none if they are probabilities",
            "what its scores are is not known", "sigmoid" if found.channels == 1 else "softmax",
            ("softmax", "sigmoid", "none"),
        )  # fmt: skip
    mean, std = parsed_normalization(normalize)
    return described(found, named, activation, mean=mean, std=std, **rest)


def _with_background(labels: Labels, background: str | None) -> Labels:
    if background is None:
        return labels
    if background == "none":
        return dataclasses.replace(labels, background=None)
    if background not in labels.names:
        raise ConfigError(f"--background '{background}' is none of the labels: {', '.join(labels.names[:30])}")
    return dataclasses.replace(labels, background=labels.names.index(background))
