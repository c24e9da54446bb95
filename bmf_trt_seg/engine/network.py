"""The ONNX file that an engine is built from: digest, shapes, and other precisions for strongly typed builders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.engine.options import BuildOptions, ShapeRange
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, EngineError, ModelError
from bmf_trt_seg.spec import ModelSpec

__all__ = ["NetworkTensor", "OnnxNetwork", "check_description", "check_parsed", "profiles_for", "refused"]


@dataclass(frozen=True)
class NetworkTensor:
    """An input or output: NumPy's name of its type, and its shape; a size that is not fixed is its name, or '?'."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def is_dynamic(self) -> bool:
        return any(isinstance(size, str) for size in self.shape)

    def __str__(self) -> str:
        return f"'{self.name}' {self.dtype} ({', '.join(map(str, self.shape))})"


class OnnxNetwork:
    """A network in an ONNX file, its weights in the file or beside it."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError if the file cannot be read or is no ONNX."""
        try:
            import onnx
        except ImportError as error:
            raise BackendUnavailable("reading ONNX files wants a package: pip install onnx") from error
        self.path = path
        try:
            self.proto: Any = onnx.load(str(path), load_external_data=False)
        except OSError as error:
            raise ModelError(f"model '{path}' cannot be read: {error.strerror or error}") from error
        except Exception as error:  # protobuf's DecodeError, which has moved between its versions
            raise ModelError(
                f"model '{path}' is broken, or no ONNX file: {str(error) or type(error).__name__}"
            ) from error
        if not self.proto.graph.node:
            raise ModelError(f"model '{path}' is broken, or no ONNX file: there are no operators in it")
        if not all(isinstance(name, str) for name in _names(self.proto)):  # protobuf gives the others as bytes
            raise ModelError(f"model '{path}' is broken: a name in it is no UTF-8 text")

    @property
    def inputs(self) -> list[NetworkTensor]:
        """What it takes; weights that are listed as inputs, as old files do, are none."""
        weights = {weight.name for weight in self.proto.graph.initializer}
        return [_tensor(value) for value in self.proto.graph.input if value.name not in weights]

    @property
    def outputs(self) -> list[NetworkTensor]:
        return [_tensor(value) for value in self.proto.graph.output]

    @property
    def is_quantized(self) -> bool:
        """Whether it says itself where it is quantized (Q/DQ)."""
        return any(node.op_type == "QuantizeLinear" for node in self.proto.graph.node)

    def sha256(self) -> str:
        """Digest of the file and of the files that hold its weights."""
        digest = hashlib.sha256()
        for path in (self.path, *self.weight_files()):
            try:
                with path.open("rb") as file:
                    while part := file.read(1 << 22):
                        digest.update(part)
            except OSError as error:
                raise ModelError(f"model '{self.path}' lacks its weights '{path.name}': {error.strerror}") from error
        return digest.hexdigest()

    def node(self, index: int) -> tuple[str, str]:
        """Name and operator of a node."""
        nodes = self.proto.graph.node
        return (nodes[index].name, nodes[index].op_type) if 0 <= index < len(nodes) else ("", "")

    def in_half_precision(self) -> bytes:
        """The network with float16 weights and layers; inputs and outputs keep their types."""
        try:
            from onnxruntime.transformers.float16 import convert_float_to_float16
        except ImportError as error:
            raise BackendUnavailable("networks are converted to fp16 by a package: pip install onnxruntime") from error
        with _quiet():  # it tells of weights below float16's range, which become its smallest
            converted = convert_float_to_float16(self._with_weights(), keep_io_types=True)
        content: bytes = converted.SerializeToString()
        return content

    def quantized(
        self,
        batches: Iterator[dict[str, npt.NDArray[np.generic]]],
        method: Literal["Entropy", "MinMax"] = "Entropy",
    ) -> bytes:
        """The network with Q/DQ operators around its convolutions and matrix products.

        Symmetric for activations and weights, as TensorRT wants it; weights with a scale for each channel. Scales come
        from the entropy of what the layers give, all of which is kept in memory for all batches, or from its range.
        """
        try:
            from onnxruntime import quantization
        except ImportError as error:
            raise BackendUnavailable("networks are quantized by a package: pip install onnxruntime") from error

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
                return next(batches, None)

        with tempfile.TemporaryDirectory() as folder, _quiet():
            target = Path(folder, "quantized.onnx")
            quantization.quantize_static(
                self._with_weights(),
                str(target),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[method],
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "DedicatedQDQPair": True,
                },
            )
            return target.read_bytes()

    def _with_weights(self) -> Any:
        import onnx

        try:
            return onnx.load(str(self.path))
        except Exception as error:  # ValueError, OSError, onnx's own
            raise ModelError(f"model '{self.path}' cannot be read with its weights: {error}") from error

    def weight_files(self) -> list[Path]:
        """The files beside it that hold its weights, if it does not hold them itself. Raises ModelError."""
        from onnx.external_data_helper import ExternalDataInfo, uses_external_data

        names = {
            ExternalDataInfo(weight).location for weight in _tensors(self.proto.graph) if uses_external_data(weight)
        }
        return [self._beside(name) for name in sorted(names)]

    def _beside(self, name: str) -> Path:
        """A file that the network names, which must lie in its folder: TensorRT's parser would read any other, too."""
        path = self.path.parent / name
        try:
            real, folders = path.resolve(), (self.path.parent.resolve(), self.path.resolve().parent)
        except (OSError, ValueError, RuntimeError) as error:  # a name that is none, links in a circle
            raise ModelError(f"model '{self.path}' has weights in '{name}', which is no file: {error}") from error
        if not any(real.is_relative_to(folder) for folder in folders):
            raise ModelError(
                f"model '{self.path}' has weights in '{name}', which is not in its folder; weights are read from there "
                "alone"
            )
        if path.exists() and not path.is_file():
            raise ModelError(f"model '{self.path}' has weights in '{name}', which is no file")
        return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what ONNX Runtime's tools print and log of their progress."""
    root = logging.getLogger()

    def drop(record: logging.LogRecord) -> bool:
        return False

    root.addFilter(drop)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(drop)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every constant tensor of a graph: its weights, those in its operators' attributes, and those of inner graphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)


def _names(proto: Any) -> Iterator[Any]:
    """Every name in a network that is shown or compared."""
    yield from (proto.producer_name, proto.producer_version, *(entry.domain for entry in proto.opset_import))
    for value in (*proto.graph.input, *proto.graph.output):
        yield value.name
        yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
    for node in proto.graph.node:
        yield from (node.name, node.op_type)
    yield from (weight.name for weight in proto.graph.initializer)


def _tensor(value: Any) -> NetworkTensor:
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    dtype = (
        "bfloat16" if kind.elem_type == TensorProto.BFLOAT16
        else "undefined" if kind.elem_type not in TensorProto.DataType.values() or not kind.elem_type
        else str(np.dtype(tensor_dtype_to_np_dtype(kind.elem_type)))
    )  # fmt: skip
    sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in kind.shape.dim]
    return NetworkTensor(value.name, dtype, tuple(sizes))


def profiles_for(
    network: OnnxNetwork, options: BuildOptions, spec: ModelSpec | None, batch: tuple[int, int, int]
) -> dict[str, ShapeRange]:
    """The range of shapes of every input.

    A dynamic size comes from the options; else the first one is the batch, in the range `batch` (min, opt, max), and
    height and width of the picture's input come from the spec. ConfigError if a size remains open, or does not fit.
    """
    if list(batch) != sorted(batch) or batch[0] < 1:
        raise ConfigError(f"batches go from small to large and from 1, got {batch}")
    inputs = {tensor.name: tensor for tensor in network.inputs}
    given = dict(options.shapes or {})
    if "" in given:
        if len(inputs) != 1:
            raise ConfigError(f"option 'shapes': say of which input: {', '.join(inputs)}; as in NAME:1x3x256x256")
        given = {next(iter(inputs)): given[""]}
    unknown = [name for name in given if name not in inputs]
    if unknown:
        raise ConfigError(
            f"option 'shapes': '{network.path.name}' has no input '{unknown[0]}'; it has {', '.join(inputs)}"
        )
    return {name: _range(tensor, given.get(name), spec, batch) for name, tensor in inputs.items()}


def _range(
    tensor: NetworkTensor, given: ShapeRange | None, spec: ModelSpec | None, batch: tuple[int, int, int]
) -> ShapeRange:
    if given is not None:
        if len(given.min) != len(tensor.shape) or any(
            isinstance(size, int) and (low, high) != (size, size)
            for size, low, high in zip(tensor.shape, given.min, given.max, strict=False)
        ):
            raise ConfigError(f"option 'shapes': {given} does not fit the input {tensor}")
        return given
    sizes: list[int | str] = list(tensor.shape)
    if spec is not None and spec.input.name == tensor.name and len(sizes) == 4:
        rows = 2 if spec.input.layout == "nchw" else 1
        for index, size in ((rows, spec.input.height), (rows + 1, spec.input.width)):
            sizes[index] = size if isinstance(sizes[index], str) else sizes[index]
        channels = 3 if rows == 1 else 1
        sizes[channels] = 3 if isinstance(sizes[channels], str) else sizes[channels]
    open_sizes = [size for size in sizes[1:] if isinstance(size, str)]
    if open_sizes:
        raise ConfigError(
            f"input {tensor} leaves sizes open: give their range with --shapes "
            f"{tensor.name}:MIN/OPT/MAX, where each is a shape as {'x'.join(['1', *_example(sizes[1:])])}"
        )
    rest = tuple(size for size in sizes[1:] if isinstance(size, int))
    counts = batch if sizes and isinstance(sizes[0], str) else (sizes[0],) * 3 if sizes else None
    shapes = [(int(count), *rest) for count in counts] if counts else [()] * 3
    return ShapeRange(min=shapes[0], opt=shapes[1], max=shapes[2])


def _example(sizes: list[int | str]) -> list[str]:
    return ["512" if isinstance(size, str) else str(size) for size in sizes]


def check_description(network: OnnxNetwork, spec: ModelSpec) -> None:
    """ModelError unless the network has the tensors that its description names, of that type, layout and size."""
    inputs = {tensor.name: tensor for tensor in network.inputs}
    outputs = {tensor.name: tensor for tensor in network.outputs}
    for kind, name, tensors in (
        ("input", spec.input.name, inputs),
        *(("output", name, outputs) for name in spec.wanted_outputs(list(outputs))),
    ):
        if name not in tensors:
            raise ModelError(
                f"model '{network.path.name}' has no {kind} '{name}', which its description names; it has: "
                + ", ".join(f"'{other}'" for other in tensors)
            )
    missing = [name for name in inputs if name not in (spec.input.name, *spec.constants)]
    if missing:
        raise ModelError(
            f"model '{network.path.name}' wants more inputs than a picture: {', '.join(missing)}; its description can "
            f'say what they hold: "constants": {{"{missing[0]}": 0}}'
        )
    tensor, size = inputs[spec.input.name], (spec.input.height, spec.input.width)
    expected: tuple[int | str, ...] = ("N", 3, *size) if spec.input.layout == "nchw" else ("N", *size, 3)
    if len(tensor.shape) != 4 or any(
        isinstance(have, int) and have != want for have, want in zip(tensor.shape[1:], expected[1:], strict=True)
    ):
        raise ModelError(
            f"input {tensor} of model '{network.path.name}' has another shape than its description says: "
            f"{list(expected)} ({spec.input.layout})"
        )
    if tensor.dtype != spec.input.dtype:
        raise ModelError(
            f"input '{tensor.name}' of model '{network.path.name}' takes {tensor.dtype}, its description says "
            f"{spec.input.dtype}"
        )


def check_parsed(parsed: bool, parser: Any, network: OnnxNetwork) -> None:
    """Raise ModelError with every error of TensorRT's ONNX parser, each with its node and operator."""
    if parsed:
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = []
    for error in errors:
        name, operator = network.node(error.node())
        if hasattr(error, "node_name"):
            name, operator = error.node_name() or name, error.node_operator() or operator
        where = f"operator {operator}" if operator else "the file"
        where += f" (node '{name}')" if name else f" (node {error.node()})" if operator else ""
        lines.append(f"{where}: {_reason(error.desc())}")
    reasons = "; ".join(lines) or "the parser did not say why"
    raise ModelError(f"model '{network.path}' cannot be built by TensorRT: {reasons}")


def _reason(text: str) -> str:
    """A parser's complaint without the C++ around it."""
    if "creator &&" in text or "No importer registered" in text:
        return "it is not known to this TensorRT, and there is no plugin for it"
    return " ".join(text.split()) or "no reason given"


def refused(messages: list[str], subject: str) -> EngineError:
    """What TensorRT logged about a failure, as one line."""
    reasons = "; ".join(" ".join(message.split())[:300] for message in messages[:3])
    return EngineError(f"{subject}: {reasons or 'TensorRT did not say why'}")
