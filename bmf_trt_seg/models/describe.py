"""The description of an ONNX file that somebody else made: what the file says itself, and what has to be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bmf_trt_seg.backends import select_backend
from bmf_trt_seg.engine.network import NetworkTensor, OnnxNetwork
from bmf_trt_seg.errors import ConfigError, EngineError, ModelError
from bmf_trt_seg.models.labels import Labels
from bmf_trt_seg.postprocess import Postprocess
from bmf_trt_seg.spec import ModelSpec
from bmf_trt_seg.validation import validated

__all__ = ["Inferred", "described", "has_open_size", "infer", "picture_input"]

Layout = Literal["nchw", "nhwc"]

_DTYPES = ("float32", "float16", "uint8")
_PASSED_THROUGH = {
    "Cast",
    "DequantizeLinear",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Resize",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_TELLING = {"ArgMax": "index", "Sigmoid": "none", "HardSigmoid": "none", "Softmax": "none"}


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What an ONNX file says of itself, and what it gave when it was run."""

    path: Path
    input_name: str
    input_layout: Layout
    dtype: str
    size_hw: tuple[int, int]
    output_name: str
    output_layout: Layout
    output_shape: tuple[int, ...]
    channels: int
    """Of the scores; 0 where the output holds class indices."""
    activation: str | None
    """As the last operator tells; None if it does not."""
    constants: Mapping[str, float]


def picture_input(path: Path, name: str | None = None) -> NetworkTensor:
    """The input that takes pictures; ModelError if there is none, or no input `name`."""
    inputs = OnnxNetwork(path).inputs
    fitting = [tensor for tensor in inputs if _layout_of(tensor) is not None and name in (None, tensor.name)]
    if not fitting:
        there = "; ".join(map(str, inputs))
        raise ModelError(
            f"model '{path}' has no input {f'{name!r} ' if name else ''}for pictures: expected (N, 3, H, W) or "
            f"(N, H, W, 3) in {', '.join(_DTYPES)}; it has {there}"
        )
    return fitting[0]


def _layout_of(tensor: NetworkTensor) -> Layout | None:
    if len(tensor.shape) != 4 or tensor.dtype not in _DTYPES:
        return None
    if tensor.shape[1] == 3:
        return "nchw"
    if tensor.shape[3] == 3:
        return "nhwc"
    return "nchw" if isinstance(tensor.shape[1], str) and isinstance(tensor.shape[3], str) else None


def has_open_size(tensor: NetworkTensor) -> bool:
    """Whether the pictures that this input takes may have any height or width."""
    return any(isinstance(size, str) for size in _sizes(tensor, _layout_of(tensor) or "nchw"))


def _sizes(tensor: NetworkTensor, layout: Layout) -> tuple[int | str, ...]:
    return tensor.shape[2:] if layout == "nchw" else tensor.shape[1:3]


def infer(
    path: Path,
    *,
    size_hw: tuple[int, int] | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    constants: Mapping[str, float] | None = None,
) -> Inferred:
    """Read the file and run it once, on a black picture.

    `size_hw` is for a network whose size is open; `constants` are what inputs beside the picture hold. Raises
    ConfigError if one of these is missing or contradicts the file, ModelError if it is no segmentation network.
    """
    tensor, network = picture_input(path, input_name), OnnxNetwork(path)
    layout = _layout_of(tensor) or "nchw"
    size = _size(tensor, layout, size_hw)
    others = [other.name for other in network.inputs if other.name != tensor.name]
    constants = dict(constants or {})
    missing = [name for name in others if name not in constants]
    if missing:
        raise ConfigError(
            f"model '{path.name}' wants more inputs than a picture: {', '.join(missing)}; say what they hold, as in "
            f"--constant {missing[0]}=0"
        )
    outputs = {output.name: output for output in network.outputs}
    chosen = output_name or next(iter(outputs))
    if chosen not in outputs:
        raise ConfigError(f"model '{path.name}' has no output '{chosen}'; it has {', '.join(outputs)}")
    shape = _ran(path, tensor, layout, size, chosen, constants)
    activation = _last_activation(network.proto.graph, chosen)
    if len(shape) == 3:
        channels, output_layout, activation = 0, layout, "index"
    elif len(shape) == 4:
        output_layout = _output_layout(shape, size, layout)
        channels = shape[1] if output_layout == "nchw" else shape[3]
        channels = 0 if activation == "index" and channels == 1 else channels
    else:
        raise ModelError(
            f"output '{chosen}' of model '{path.name}' is {shape}, which is no segmentation: expected scores "
            f"(N, C, H, W) or class indices (N, H, W)" + _other_outputs(outputs, chosen)
        )
    return Inferred(
        path, tensor.name, layout, tensor.dtype, size, chosen, output_layout, shape, channels, activation, constants
    )


def _other_outputs(outputs: Mapping[str, NetworkTensor], chosen: str) -> str:
    others = [name for name in outputs if name != chosen]
    return f"; --output takes another one: {', '.join(others)}" if others else ""


def _size(tensor: NetworkTensor, layout: Layout, given: tuple[int, int] | None) -> tuple[int, int]:
    sizes = _sizes(tensor, layout)
    if given is None:
        if has_open_size(tensor):
            raise ConfigError(f"input {tensor} leaves the size of pictures open: give --size HxW, as in --size 512x512")
        return int(sizes[0]), int(sizes[1])
    if any(isinstance(size, int) and size != wanted for size, wanted in zip(sizes, given, strict=True)):
        raise ConfigError(f"--size {given[0]}x{given[1]} does not fit the input {tensor}, whose size is fixed")
    return given


def _ran(
    path: Path, tensor: NetworkTensor, layout: Layout, size_hw: tuple[int, int], output: str, constants: Any
) -> tuple[int, ...]:
    """The shape that the output has for one picture."""
    height, width = size_hw
    provisional = ModelSpec.model_validate(
        {
            "labels": ["0", "1"],
            "input": {"name": tensor.name, "layout": layout, "height": height, "width": width, "dtype": tensor.dtype},
            "output": {"name": output, "activation": "none"},
            "constants": constants,
        }
    )
    black = np.zeros((1, 3, height, width) if layout == "nchw" else (1, height, width, 3), tensor.dtype)
    with select_backend("onnxruntime", path)(path, provisional, device="cpu", threads=0) as backend:
        try:
            return tuple(backend.infer(black).shape)
        except EngineError as error:
            raise ModelError(f"model '{path.name}' does not run on pictures of {width}x{height}: {error}") from error


def _output_layout(shape: tuple[int, ...], size_hw: tuple[int, int], layout: Layout) -> Layout:
    """The one in which height and width have the proportions of the picture; the input's if both or neither do."""
    candidates: tuple[tuple[Layout, tuple[int, ...]], ...] = (("nchw", shape[2:]), ("nhwc", shape[1:3]))
    fitting = [name for name, sizes in candidates if abs(sizes[0] * size_hw[1] - sizes[1] * size_hw[0]) <= max(size_hw)]
    return fitting[0] if len(fitting) == 1 else layout


def _last_activation(graph: Any, output: str) -> str | None:
    """What the operators before an output say of it, as the description's 'activation' has it."""
    made_by = {name: node for node in graph.node for name in node.output}
    for _ in range(20):
        node = made_by.get(output)
        if node is None:
            return None
        if node.op_type in _TELLING:
            return _TELLING[node.op_type]
        if node.op_type not in _PASSED_THROUGH:
            return None
        output = node.input[0]
    return None


def described(
    found: Inferred,
    labels: Labels,
    activation: str,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    channel_order: str = "rgb",
    resize: str = "stretch",
    source: str = "",
    license: str = "",
) -> ModelSpec:
    """The description of a network, checked against what it gave. Raises ConfigError or ModelError."""
    height, width = found.size_hw
    values = {
        "labels": list(labels.names),
        "background": labels.background,
        "palette": list(labels.palette),
        "input": {
            "name": found.input_name,
            "layout": found.input_layout,
            "height": height,
            "width": width,
            "dtype": found.dtype,
            "channel_order": channel_order,
            "mean": list(mean),
            "std": list(std),
            "resize": resize,
        },
        "output": {"name": found.output_name, "layout": found.output_layout, "activation": activation},
        "constants": dict(found.constants),
        "source": source,
        "license": license,
    }
    spec = validated(ModelSpec, values, f"description of '{found.path.name}'")
    Postprocess(spec, []).check(found.output_shape)
    return spec
