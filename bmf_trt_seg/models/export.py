"""Networks of PyTorch as the project runs them: an ONNX file, checked against PyTorch, and its description.

made_by_name ─┐
              ├──► Made ──► export ──► NAME.onnx, NAME.json
own_network ──┘            (head, ONNX, precision, check)
"""

from __future__ import annotations

import dataclasses
import difflib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.engine.calibration import CalibrationData
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.errors import ConfigError, ModelError, SegError, StreamError
from bmf_trt_seg.models.architecture import IMAGENET_MEAN, IMAGENET_STD, Architecture, imported
from bmf_trt_seg.models.check import Agreement, Precision, check
from bmf_trt_seg.models.labels import Labels
from bmf_trt_seg.models.own_network import network_from
from bmf_trt_seg.models.segformer import SEGFORMER
from bmf_trt_seg.models.torchvision_networks import TORCHVISION
from bmf_trt_seg.models.weights import classes_in, fill, labels_beside, read_weights
from bmf_trt_seg.outputs import publish
from bmf_trt_seg.spec import InputSpec, ModelSpec, spec_path
from bmf_trt_seg.validation import validated

if TYPE_CHECKING:
    from bmf_trt_seg.models.scores import Head

__all__ = [
    "ARCHITECTURES",
    "Exported",
    "Made",
    "Settings",
    "architecture",
    "default_name",
    "export",
    "made_by_name",
    "own_network",
]

ARCHITECTURES: dict[str, Architecture] = {**TORCHVISION, **SEGFORMER}
"""Every network that can be made by name."""

_RANDOM = "a random picture"
_SETTLE_SIZE = 256
_SETTLE_BATCHES = 2
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Made:
    """A network in PyTorch, and what is known of it."""

    name: str
    network: Any
    """A torch.nn.Module: pictures (N, 3, H, W) float32 to scores, in whatever wrapping."""
    labels: Labels | None
    """None if they are not known: then there must be as many as the network has channels, and they are numbered."""
    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    license: str = ""
    warning: str = ""
    """What a user must know before using it, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a network is exported."""

    head: Head = "none"
    activation: str | None = None
    """What turns its own scores into probabilities; None: softmax for several channels, sigmoid for one."""
    precision: Precision = "fp32"
    dynamic_batch: bool = False
    dynamic_size: bool = False
    resize: str = "stretch"
    least_agreement: float | None = None
    """Of fp16 and qdq, the share of the pixels that must get PyTorch's class, 0 to 1; None: LEAST_AGREEMENT."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was made."""

    model: Path
    spec: ModelSpec
    exporter: str
    agreements: Mapping[str, Agreement]
    """With PyTorch, by what was compared."""


def architecture(name: str) -> Architecture:
    """The network of this name; ConfigError, with those that there are, if there is none."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    close = difflib.get_close_matches(name, ARCHITECTURES, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise ConfigError(
        f"there is no network '{name}' to export; {hint}there are {', '.join(TORCHVISION)}, segformer-b0 to "
        "segformer-b5 (ADE20K) and the same with -cityscapes; --from takes one of your own"
    )


def made_by_name(name: str, weights: str, labels: Labels | None = None, size_hw: tuple[int, int] | None = None) -> Made:
    """A network of ARCHITECTURES.

    `weights` is 'default' for the published ones, 'none' for random ones, or a file or folder. `labels` name the
    classes of weights that were trained on other ones than the published. Raises ConfigError, ModelError, StreamError,
    BackendUnavailable.
    """
    known = architecture(name)
    torch = imported("torch")
    size_hw = size_hw or known.size_hw
    torch.manual_seed(_SEED)
    if weights == "none":
        labels = labels or Labels.of(known.data_set)
        network = known.create(len(labels.names)).eval()
        _settle(network, known, size_hw)
        warning = f"'{name}' has random weights: it is for trying and measuring, what it segments has no meaning"
        source, license_ = f"{known.library}'s {name} with RANDOM WEIGHTS: for trying and measuring only", ""
    else:
        given = None if weights == "default" else Path(weights)
        tensors = known.published() if given is None else read_weights(given)
        network, labels = _filled(known, tensors, labels, given)
        warning, source, license_ = "", known.weights, known.license
        if given is not None:
            source, license_ = f"{known.library}'s {name}, weights '{given.name}'", ""
        elif "non-commercial" in known.license:
            warning = f"licence of these weights: {known.license}"
    return Made(name, network, labels, size_hw, IMAGENET_MEAN, IMAGENET_STD, source, license_, warning)


def _filled(
    known: Architecture, tensors: Mapping[str, Any], labels: Labels | None, given: Path | None
) -> tuple[Any, Labels]:
    """The network with these weights, for as many classes as they have, and its labels."""
    source = known.weights if given is None else str(given)
    network = known.create(len(known.data_set.labels)).eval()
    last = known.last_layer(network)
    layer = next(name for name, module in network.named_modules() if module is last)
    classes = classes_in(tensors, layer)
    if labels is None and given is not None and (beside := labels_beside(given)) is not None:
        labels = Labels.listed(beside)
        if len(beside) == len(known.data_set.labels):
            labels = dataclasses.replace(labels, palette=known.data_set.palette, background=known.data_set.background)
    if classes is not None and classes != len(known.data_set.labels):
        network = known.create(classes).eval()
    fill(network, known.renamed(network, tensors), known.name, source)
    count = len(known.data_set.labels) if classes is None else classes
    labels = labels or (Labels.of(known.data_set) if count == len(known.data_set.labels) else None)
    if labels is None:
        raise ConfigError(f"weights '{source}' are for {count} classes: name them, as in --labels background,cat")
    _check_count(labels, count)
    return network, labels


def _check_count(labels: Labels, channels: int) -> None:
    if len(labels.names) != channels and not (channels == 1 and len(labels.names) <= 2):
        raise ConfigError(f"--labels names {len(labels.names)} classes, the network has {channels}")


def _settle(network: Any, known: Architecture, size_hw: tuple[int, int]) -> None:
    from bmf_trt_seg.models.random_weights import settle

    height, width = (max(64, min(size, _SETTLE_SIZE)) for size in size_hw)
    settle(network, known.last_layer(network), _SETTLE_BATCHES, (height, width))


def own_network(
    entry: str,
    labels: Labels | None,
    size_hw: tuple[int, int],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Made:
    """A network of the user's own, of 'module:function'. Raises what `network_from` does."""
    imported("torch")
    network = network_from(entry)
    name = entry.rpartition(":")[2]
    return Made(name, network, labels, size_hw, mean, std, source=f"{Path(entry).name}, exported from PyTorch")


def export(
    made: Made,
    target: Path,
    settings: Settings,
    *,
    picture: Callable[[InputSpec], npt.NDArray[np.float32]] | None = None,
    picture_name: str = "the picture",
    calibration: Callable[[InputSpec], CalibrationData] | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Write `target` (.onnx) and its description beside it, when both are whole and checked.

    `picture` gives a batch of one real picture to compare on; `calibration`, for the precision 'qdq', pictures to
    quantize with. `report` is told what is being done. Files that were there are replaced. Raises ModelError if the
    network cannot be exported or comes out another one, ConfigError, StreamError, BackendUnavailable.
    """
    imported("torch")
    from bmf_trt_seg.models.onnx_export import export_onnx
    from bmf_trt_seg.models.scores import Scores

    network = Scores(made.network, settings.head).eval()
    spec = _spec(made, settings)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
            model = Path(folder, target.name)
            height, width = made.size_hw
            report(f"{made.name}: exporting for {width}x{height} pixels")
            exporter = export_onnx(
                network, model, made.size_hw, dynamic_batch=settings.dynamic_batch, dynamic_size=settings.dynamic_size
            )
            report(f"{made.name}: comparing with PyTorch")
            reference = _reference(network)
            shown = {} if picture is None else {picture_name: picture(spec.input)}
            size = (spec.input.height, spec.input.width)
            found = check(model, spec, reference, {_RANDOM: _random_picture(size, 1), **shown}, "fp32")
            found.update(_checked_dynamic(model, spec, settings, reference))
            if settings.precision != "fp32":
                _convert(model, spec, settings, calibration, report)
                inputs = _judges(settings.precision, size, shown)
                found.update(check(model, spec, reference, inputs, settings.precision, settings.least_agreement))
            spec.write(spec_path(model))
            publish({spec_path(model): spec_path(target), model: target})
    except OSError as error:
        if isinstance(error, SegError):
            raise
        raise StreamError(f"'{target}' cannot be written: {error.strerror or error}") from error
    return Exported(target, spec, exporter, found)


def _reference(network: Any) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]]:
    torch = imported("torch")
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))

    def run(batch: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        with torch.inference_mode():
            result: npt.NDArray[np.generic] = network(torch.from_numpy(batch).to(device)).cpu().numpy()
            return result

    return run


def _spec(made: Made, settings: Settings) -> ModelSpec:
    """The description of what will be exported: the network is run once to see what it gives."""
    from bmf_trt_seg.models.onnx_export import INPUT, OUTPUT

    torch = imported("torch")
    from bmf_trt_seg.models.scores import unwrapped

    height, width = made.size_hw
    try:
        with torch.inference_mode():
            device = next((weight.device for weight in made.network.parameters()), torch.device("cpu"))
            result = unwrapped(made.network.eval()(torch.zeros(1, 3, height, width, device=device)))
    except Exception as error:  # the user's own code, or a size that the network cannot take
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"'{made.name}' does not run on pictures of {width}x{height}: {lines[0][:200]}") from error
    shape = tuple(result.shape)
    if len(shape) == 3 and not result.is_floating_point():
        if settings.head != "none":
            raise ConfigError(f"'{made.name}' gives class indices already: leave --{settings.head} out")
        channels, activation = 0, "index"
    elif len(shape) == 4 and shape[0] == 1:
        channels = shape[1]
        activation = settings.activation or ("softmax" if channels > 1 else "sigmoid")
    else:
        raise ModelError(f"'{made.name}' gives {shape}; expected scores (1, C, h, w) or class indices (1, H, W)")
    if settings.head == "argmax" and channels == 1:
        raise ConfigError(f"--argmax: '{made.name}' has one channel; --softmax makes it a probability")
    if settings.head != "none" and activation not in ("softmax", "sigmoid"):
        raise ConfigError(
            f"--{settings.head} is for scores that are no probabilities yet, not activation '{activation}'"
        )
    activation = {"none": activation, "softmax": "none", "argmax": "index"}[settings.head]
    labels = made.labels or _numbered(made, channels)
    if channels:
        _check_count(labels, channels)
    values = {
        "labels": list(labels.names),
        "background": labels.background,
        "palette": list(labels.palette),
        "input": {
            "name": INPUT,
            "height": height,
            "width": width,
            "mean": list(made.mean),
            "std": list(made.std),
            "resize": settings.resize,
        },
        "output": {"name": OUTPUT, "activation": activation},
        "source": made.source,
        "license": made.license,
    }
    return validated(ModelSpec, values, f"description of '{made.name}'")


def _numbered(made: Made, channels: int) -> Labels:
    if not channels:
        raise ConfigError(f"'{made.name}' gives class indices: name the classes with --labels")
    if channels == 1:
        return Labels(("background", "foreground"))
    return Labels(tuple(f"class {index}" for index in range(channels)), (), None)


def _convert(
    model: Path,
    spec: ModelSpec,
    settings: Settings,
    calibration: Callable[[InputSpec], CalibrationData] | None,
    report: Callable[[str], None],
) -> None:
    """Give the ONNX file the precision asked for; its input and output keep their types, so every backend runs it."""
    if settings.precision == "fp16":
        report(f"{model.stem}: converting to fp16")
        model.write_bytes(OnnxNetwork(model).in_half_precision())
    elif settings.precision == "qdq":
        if calibration is None:
            raise ConfigError("quantizing wants pictures like those to come: give --qdq VIDEO")
        data = calibration(spec.input)
        report(f"{model.stem}: quantizing, with scales from {data.source}")
        batches = ({spec.input.name: batch} for batch in data.batches(1))
        model.write_bytes(OnnxNetwork(model).quantized(_at_least_one(batches, data.source), "MinMax"))


def _at_least_one(batches: Iterator[dict[str, Any]], source: str) -> Iterator[dict[str, Any]]:
    count = 0
    for batch in batches:
        count += 1
        yield batch
    if not count:
        raise StreamError(f"'{source}' has no pictures to quantize with")


def _judges(
    precision: Precision, size_hw: tuple[int, int], shown: Mapping[str, npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    """What a converted network is compared on.

    A quantized one is made for pictures like those of its calibration: a random one says nothing of it.
    """
    judges = dict(shown)
    if precision != "qdq" or not shown:
        judges[_RANDOM] = _random_picture(size_hw, 1)
    return {f"{name}, {precision}": batch for name, batch in judges.items()}


def _random_picture(size_hw: tuple[int, int], count: int) -> npt.NDArray[np.float32]:
    from bmf_trt_seg.models.random_weights import pictures

    batch: npt.NDArray[np.float32] = pictures(count, 1, size_hw).numpy()
    return batch


def _checked_dynamic(
    model: Path,
    spec: ModelSpec,
    settings: Settings,
    reference: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]],
) -> dict[str, Agreement]:
    """Agreement where open sizes are other ones than in the export: an exporter may have taken them for constants."""
    inputs: dict[str, tuple[int, tuple[int, int]]] = {}
    size = (spec.input.height, spec.input.width)
    if settings.dynamic_batch:
        inputs["a batch of 3"] = (3, size)
    if settings.dynamic_size:
        inputs["another size"] = (1, (size[0] + 32, size[1] + 96))
    found: dict[str, Agreement] = {}
    for name, (count, (height, width)) in inputs.items():
        resized = spec.input.model_copy(update={"height": height, "width": width})
        batch = _random_picture((height, width), count)
        try:
            found.update(check(model, spec.model_copy(update={"input": resized}), reference, {name: batch}, "fp32"))
        except SegError as error:
            flag = "--dynamic" if settings.dynamic_batch and "batch" in name else "--dynamic-size"
            raise ModelError(f"the network does not run on {name} ({flag}): {error}") from error
    return found


def default_name(made_name: str, head: Head, precision: Precision) -> str:
    """The name of the file where none is given: 'fcn_resnet50.softmax.fp16.onnx'."""
    marks = [mark for mark in (head, precision) if mark not in ("none", "fp32")]
    return ".".join([made_name, *marks, "onnx"])
