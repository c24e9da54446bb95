"""TFLite to ONNX, for the small convolutional segmentation networks that MediaPipe ships.

    bytes ── _read ──► _Network ── _resize_last ──► _Network ── _Translation ──► ONNX
             (the flatbuffer,      (1x1 convolutions before
              as plain data)        they are enlarged)

TFLite keeps activations NHWC with a batch of one; the ONNX network is NCHW with any batch, has its weights as float32
constants and its biases inside the convolutions, and holds no transpose. An operator without a line in `_TRANSLATORS`
is refused by name: a network is translated whole or not at all.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from bmf_trt_seg.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["onnx_from_tflite"]

_OPSET = 17
_IR_VERSION = 8  # the format that came with opset 17, so that a runtime of that age opens the file


def onnx_from_tflite(data: bytes, name: str) -> onnx.ModelProto:
    """Translate a TFLite network of one input and one output to ONNX opset 17.

    `data` is the content of the .tflite file, `name` what messages and the graph call it.

    The result takes 'input' (N, C, H, W) and gives 'output' (N, K, H', W'), both float32, N free; value ranges are
    those of the TFLite network. For a segmentation network of MediaPipe C is 3, RGB from 0 to 1, and K is 1, the
    probability of the foreground at the input's size. The result has passed ONNX's own checker, shapes included.

    Raises ModelError if `data` is no readable TFLite file, or holds an operator, an element type or an option that is
    not supported (the message names it); BackendUnavailable without the packages onnx and tflite.
    """
    network = _resize_last(_read(data, name))
    translation = _Translation(network)
    for operator in network.operators:
        _TRANSLATORS[operator.name](translation, operator)
    return translation.finished()


# -------------------------------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]  # NHWC where it has four dimensions
    dtype: str
    constant: npt.NDArray[Any] | None


@dataclasses.dataclass(frozen=True)
class _Operator:
    index: int  # where it stands in the file
    name: str
    inputs: tuple[int, ...]  # tensor numbers; -1 for an input left out
    outputs: tuple[int, ...]
    options: dict[str, int]

    def __str__(self) -> str:
        return f"operator {self.index} ({self.name})"


@dataclasses.dataclass(frozen=True)
class _Network:
    name: str
    tensors: list[_Tensor]
    operators: list[_Operator]
    input: int
    output: int

    def refuse(self, operator: _Operator, reason: str) -> NoReturn:
        raise ModelError(f"TFLite network '{self.name}': {operator} {reason}")


_TRANSPOSED_CONVOLUTION = "Convolution2DTransposeBias"

# operator: its table in the TFLite schema, and the fields of it that matter here
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": (
        "Pool2DOptions",
        ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "CONV_2D": (
        "Conv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", ("AlignCorners", "HalfPixelCenters")),
}

# all but these take one input; a convolution's third, the bias, may be missing
_INPUTS_NEEDED = dict.fromkeys(
    ("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "MUL", "RESIZE_BILINEAR", _TRANSPOSED_CONVOLUTION), 2
)

_DTYPES: dict[str, npt.DTypeLike] = {"FLOAT32": "<f4", "FLOAT16": "<f2", "INT32": "<i4"}


def _read(data: bytes, name: str) -> _Network:
    """The flatbuffer as plain data; ModelError if it is none, or has an operator that has no translation."""
    try:
        import tflite
    except ImportError as error:
        raise BackendUnavailable(
            "reading a TFLite network needs the package tflite; install it: pip install tflite onnx"
        ) from error
    if data[4:8] != b"TFL3":
        raise ModelError(f"'{name}' is not a TFLite file: its bytes 4 to 7 are {data[4:8]!r}, expected b'TFL3'")
    try:
        model = tflite.Model.GetRootAsModel(data, 0)
        if model.SubgraphsLength() != 1:
            raise ModelError(f"TFLite network '{name}' has {model.SubgraphsLength()} subgraphs; one is supported")
        graph = model.Subgraphs(0)
        if graph.InputsLength() != 1 or graph.OutputsLength() != 1:
            raise ModelError(
                f"TFLite network '{name}' has {graph.InputsLength()} inputs and {graph.OutputsLength()} outputs; "
                "one of each is supported"
            )
        tensors = [_read_tensor(tflite, model, graph.Tensors(index)) for index in range(graph.TensorsLength())]
        operators = [
            _read_operator(tflite, model, graph.Operators(index), index, name)
            for index in range(graph.OperatorsLength())
        ]
        network = _Network(name, tensors, operators, int(graph.Inputs(0)), int(graph.Outputs(0)))
        _check_tensor_numbers(network)
    except ModelError:
        raise
    except Exception as error:
        # flatbuffers follows the offsets it finds without a check, so bytes that are wrong surface as any exception
        raise ModelError(f"TFLite file '{name}' is truncated or damaged ({type(error).__name__}: {error})") from error
    return network


def _check_tensor_numbers(network: _Network) -> None:
    """ValueError if an operator or an end of the network names a tensor that does not exist."""
    needed = {network.input, network.output}
    for operator in network.operators:
        needed.update(operator.inputs[: _INPUTS_NEEDED.get(operator.name, 1)], operator.outputs)
        if len(operator.inputs) < _INPUTS_NEEDED.get(operator.name, 1) or len(operator.outputs) != 1:
            raise ValueError(f"{operator} has {len(operator.inputs)} inputs and {len(operator.outputs)} outputs")
        if max(operator.inputs) >= len(network.tensors):
            raise ValueError(f"{operator} reads tensor {max(operator.inputs)} of {len(network.tensors)}")
    if min(needed) < 0 or max(needed) >= len(network.tensors):
        raise ValueError(f"tensors {min(needed)} to {max(needed)} are used, there are {len(network.tensors)}")


def _read_tensor(tflite: Any, model: Any, tensor: Any) -> _Tensor:
    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    types = {value: key for key, value in vars(tflite.TensorType).items() if isinstance(value, int)}
    dtype = types[tensor.Type()]
    buffer = model.Buffers(tensor.Buffer())
    if not buffer.DataLength() or dtype not in _DTYPES:
        return _Tensor(shape, dtype, None)
    return _Tensor(shape, dtype, np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[dtype]).reshape(shape))


def _read_operator(tflite: Any, model: Any, operator: Any, index: int, network: str) -> _Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    number = code.BuiltinCode()
    names = {value: key for key, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    name = names.get(number, f"builtin operator {number}")
    if name == "CUSTOM":
        name = (code.CustomCode() or b"a custom operator without a name").decode(errors="replace")
    if name not in _TRANSLATORS:
        known = ", ".join(sorted(_TRANSLATORS))
        raise ModelError(
            f"TFLite network '{network}': operator {index} is {name}, which is not supported; supported are {known}"
        )
    options: dict[str, int] = {}
    if name in _OPTIONS:
        kind, fields = _OPTIONS[name]
        table = getattr(tflite, kind)()
        table.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
        options = {field: int(getattr(table, field)()) for field in fields}
    elif name == _TRANSPOSED_CONVOLUTION:
        # MediaPipe writes the struct TfLiteTransposeConvParams as it lies in memory: padding and two strides
        raw = bytes(operator.CustomOptions(position) for position in range(operator.CustomOptionsLength()))
        _, stride_w, stride_h = struct.unpack("<3i", raw)
        options = {"StrideH": stride_h, "StrideW": stride_w}
    inputs = tuple(int(operator.Inputs(position)) for position in range(operator.InputsLength()))
    outputs = tuple(int(operator.Outputs(position)) for position in range(operator.OutputsLength()))
    return _Operator(index, name, inputs, outputs, options)


# ---------------------------------------------------------------------------------------------------------- rearranging


def _resize_last(network: _Network) -> _Network:
    """The network with each enlargement that feeds only a 1x1 convolution moved behind that convolution.

    Bilinear weights sum to 1 and a 1x1 convolution mixes channels only, so the two commute; the convolution then works
    on the small picture and the enlargement on the fewer channels.
    """
    tensors, operators = list(network.tensors), list(network.operators)
    for resize in [operator for operator in operators if operator.name == "RESIZE_BILINEAR"]:
        readers = [operator for operator in operators if resize.outputs[0] in operator.inputs]
        source, enlarged = tensors[resize.inputs[0]], tensors[resize.outputs[0]]
        if len(readers) != 1 or not _is_pointwise(readers[0], tensors):
            continue
        if resize.outputs[0] == network.output or math.prod(enlarged.shape) < math.prod(source.shape):
            continue
        convolution = readers[0]
        between = len(tensors)
        tensors.append(dataclasses.replace(source, shape=source.shape[:3] + tensors[convolution.outputs[0]].shape[3:]))
        at = operators.index(convolution)
        operators[at : at + 1] = [
            dataclasses.replace(convolution, inputs=(resize.inputs[0], *convolution.inputs[1:]), outputs=(between,)),
            dataclasses.replace(resize, inputs=(between, *resize.inputs[1:]), outputs=convolution.outputs),
        ]
        operators.remove(resize)
    return dataclasses.replace(network, tensors=tensors, operators=operators)


def _is_pointwise(operator: _Operator, tensors: list[_Tensor]) -> bool:
    """Whether an operator is a 1x1 convolution without activation that gives no more channels than it takes."""
    if operator.name != "CONV_2D":
        return False
    kernel, options = tensors[operator.inputs[1]].shape, operator.options  # (out, h, w, in)
    strides_and_activation = (options["StrideH"], options["StrideW"], options["FusedActivationFunction"])
    if len(kernel) != 4 or kernel[1:3] != (1, 1) or strides_and_activation != (1, 1, 0):
        return False
    return kernel[0] <= kernel[3]


# ---------------------------------------------------------------------------------------------------------- translating

_NCHW_FROM_NHWC = (0, 3, 1, 2)
_SAME, _VALID = 0, 1  # tflite.Padding
_ACTIVATIONS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}  # tflite.ActivationFunctionType


class _Translation:
    """The ONNX graph while it grows: nodes, constants, and the ONNX name of each TFLite tensor so far."""

    def __init__(self, network: _Network) -> None:
        try:
            import onnx
        except ImportError as error:
            raise BackendUnavailable(
                "writing an ONNX network needs the package onnx; install it: pip install tflite onnx"
            ) from error
        self._onnx = onnx
        self.network = network
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._names: dict[int, str] = {network.input: "input"}
        self._dequantized: dict[int, npt.NDArray[Any]] = {}

    def shape(self, tensor: int) -> tuple[int, int, int, int]:
        """(N, H, W, C) of an activation."""
        found = self.network.tensors[tensor]
        if len(found.shape) != 4 or found.shape[0] != 1 or min(found.shape) < 1 or found.dtype != "FLOAT32":
            raise ModelError(
                f"TFLite network '{self.network.name}': tensor {tensor} is {found.dtype} of shape {found.shape}; "
                "supported are FLOAT32 pictures of shape (1, height, width, channels)"
            )
        batch, height, width, channels = found.shape
        return batch, height, width, channels

    def constant(self, operator: _Operator, position: int) -> npt.NDArray[Any]:
        """An input that has to be known now: a constant of the file, or one that was dequantized; floats as float32."""
        tensor = operator.inputs[position]
        value = self._dequantized.get(tensor, self.network.tensors[tensor].constant)
        if value is None:
            self.network.refuse(operator, f"computes its input {position}; supported is a constant there")
        return value.astype(np.float32) if value.dtype.kind == "f" else value

    def value(self, operator: _Operator, position: int) -> str:
        """The ONNX name of an input, which may be a constant that is broadcast against a picture."""
        tensor = operator.inputs[position]
        if tensor in self._names:
            self.shape(tensor)
            return self._names[tensor]
        if tensor not in self._dequantized and self.network.tensors[tensor].constant is None:
            self.network.refuse(operator, f"reads tensor {tensor}, which nothing before it has written")
        picture = self.constant(operator, position)
        if picture.ndim > 4:
            self.network.refuse(
                operator, f"reads a constant of shape {picture.shape}; supported are up to 4 dimensions"
            )
        picture = picture.reshape((1,) * (4 - picture.ndim) + picture.shape).transpose(_NCHW_FROM_NHWC)
        return self.add_constant(f"tensor_{tensor}", picture)

    def add_constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self._initializers[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def dequantize(self, operator: _Operator) -> None:
        """Keep a constant as floats; there is nothing left to do when the network runs."""
        dtype = self.network.tensors[operator.inputs[0]].dtype
        if dtype != "FLOAT16":
            self.network.refuse(operator, f"turns {dtype} into floats; supported is FLOAT16")
        self._dequantized[operator.outputs[0]] = self.constant(operator, 0)

    def emit(self, operator: _Operator, kind: str, *inputs: str, **attributes: Any) -> None:
        """Add a node; its value is from now on what the operator's output is.

        Called again for the same operator, the new node takes the place of the one before it at the output.
        """
        name = f"{kind}_{operator.index}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        self._names[operator.outputs[0]] = name

    def emit_activation(self, operator: _Operator) -> None:
        """Add the activation that TFLite has fused into an operator, if any."""
        number = operator.options["FusedActivationFunction"]
        activation = _ACTIVATIONS.get(number, f"activation {number}")
        if activation == "RELU":
            self.emit(operator, "Relu", self._names[operator.outputs[0]])
        elif activation == "RELU6":
            self.emit_clip(operator, self._names[operator.outputs[0]])
        elif number != 0:
            self.network.refuse(operator, f"has {activation} fused into it; supported are none, RELU, RELU6")

    def emit_clip(self, operator: _Operator, source: str) -> None:
        """Add ReLU6, which ONNX has as a clip."""
        low, high = (self.add_constant(f"clip_{value}", np.array(value, np.float32)) for value in (0, 6))
        self.emit(operator, "Clip", source, low, high)

    def finished(self) -> onnx.ModelProto:
        """The ONNX network, checked; ModelError if what the file says does not fit together."""
        helper, network = self._onnx.helper, self.network
        if network.output not in self._names or not self._nodes:
            raise ModelError(f"TFLite network '{network.name}': no operator writes its output, tensor {network.output}")
        last = self._names[network.output]
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = ["output" if name == last else name for name in names]
        ends = []
        for tensor, name in ((network.input, "input"), (network.output, "output")):
            _, height, width, channels = self.shape(tensor)
            ends.append(
                helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, ["N", channels, height, width])
            )
        graph = helper.make_graph(self._nodes, network.name, ends[:1], ends[1:], list(self._initializers.values()))
        model: onnx.ModelProto = helper.make_model(
            graph,
            producer_name="bmf_trt_seg",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET)],
        )
        try:
            self._onnx.checker.check_model(model, full_check=True)
        except (self._onnx.checker.ValidationError, self._onnx.shape_inference.InferenceError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"TFLite network '{network.name}' contradicts itself: {reason}") from error
        return model


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What TensorFlow's padding SAME puts before and after a line of pixels: the odd pixel comes after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _window(translation: _Translation, operator: _Operator, kernel_hw: tuple[int, int]) -> dict[str, list[int]]:
    """ONNX's attributes for a window that slides as the operator's options say."""
    options = operator.options
    strides = [options["StrideH"], options["StrideW"]]
    dilations = [options.get("DilationHFactor", 1), options.get("DilationWFactor", 1)]
    if min([*strides, *dilations, *kernel_hw]) < 1 or options["Padding"] not in (_SAME, _VALID):
        translation.network.refuse(operator, f"has impossible options: {options}")
    pads = [0, 0, 0, 0]
    if options["Padding"] == _SAME:
        _, height, width, _ = translation.shape(operator.inputs[0])
        spans = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(dilations, kernel_hw, strict=True)]
        top, bottom = _same_padding(height, spans[0], strides[0])
        left, right = _same_padding(width, spans[1], strides[1])
        pads = [top, left, bottom, right]
    window = {"kernel_shape": list(kernel_hw), "strides": strides, "pads": pads}
    return window | ({"dilations": dilations} if dilations != [1, 1] else {})


def _weights(translation: _Translation, operator: _Operator, axes: tuple[int, ...]) -> npt.NDArray[Any]:
    """A convolution's kernel, its axes put into the order given."""
    kernel: npt.NDArray[Any] = translation.constant(operator, 1)
    if kernel.ndim != 4:
        translation.network.refuse(operator, f"has a kernel of shape {kernel.shape}; supported are four dimensions")
    transposed: npt.NDArray[Any] = kernel.transpose(axes)
    return transposed


def _bias(translation: _Translation, operator: _Operator) -> list[str]:
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return []
    return [translation.add_constant(f"bias_{operator.index}", translation.constant(operator, 2))]


def _conv_2d(translation: _Translation, operator: _Operator) -> None:
    kernel = _weights(translation, operator, (0, 3, 1, 2))  # (out, h, w, in) to (out, in, h, w)
    _, _, _, channels = translation.shape(operator.inputs[0])
    _emit_convolution(translation, operator, kernel, channels // kernel.shape[1])


def _depthwise_conv_2d(translation: _Translation, operator: _Operator) -> None:
    kernel = _weights(translation, operator, (3, 0, 1, 2))  # (1, h, w, out) to (out, 1, h, w)
    _, _, _, channels = translation.shape(operator.inputs[0])
    _emit_convolution(translation, operator, kernel, channels)


def _emit_convolution(translation: _Translation, operator: _Operator, kernel: npt.NDArray[Any], groups: int) -> None:
    window = _window(translation, operator, (kernel.shape[2], kernel.shape[3]))
    weights = translation.add_constant(f"weights_{operator.index}", kernel)
    bias = _bias(translation, operator)
    translation.emit(operator, "Conv", translation.value(operator, 0), weights, *bias, group=groups, **window)
    translation.emit_activation(operator)


def _convolution_2d_transpose_bias(translation: _Translation, operator: _Operator) -> None:
    kernel = _weights(translation, operator, (3, 0, 1, 2))  # (out, h, w, in) to (in, out, h, w)
    strides = [operator.options["StrideH"], operator.options["StrideW"]]
    kernel_hw = [kernel.shape[2], kernel.shape[3]]
    if strides != kernel_hw:
        # no network at hand has windows that overlap, so nothing says how MediaPipe would place them
        translation.network.refuse(
            operator, f"has strides {strides} for a kernel of {kernel_hw}; supported are equal ones"
        )
    weights = translation.add_constant(f"weights_{operator.index}", kernel)
    source, bias = translation.value(operator, 0), _bias(translation, operator)
    translation.emit(operator, "ConvTranspose", source, weights, *bias, kernel_shape=kernel_hw, strides=strides)


def _average_pool_2d(translation: _Translation, operator: _Operator) -> None:
    kernel_hw = (operator.options["FilterHeight"], operator.options["FilterWidth"])
    window = _window(translation, operator, kernel_hw)
    if kernel_hw == translation.shape(operator.inputs[0])[1:3] and not any(window["pads"]):
        translation.emit(operator, "GlobalAveragePool", translation.value(operator, 0))
    else:
        translation.emit(operator, "AveragePool", translation.value(operator, 0), **window)
    translation.emit_activation(operator)


def _mean(translation: _Translation, operator: _Operator) -> None:
    axes = sorted(int(axis) % 4 for axis in translation.constant(operator, 1).reshape(-1))
    if axes != [1, 2] or not operator.options["KeepDims"]:
        translation.network.refuse(operator, f"averages over axes {axes}; supported are height and width, both kept")
    translation.emit(operator, "GlobalAveragePool", translation.value(operator, 0))


def _resize_bilinear(translation: _Translation, operator: _Operator) -> None:
    _, height, width, _ = translation.shape(operator.inputs[0])
    _, out_height, out_width, _ = translation.shape(operator.outputs[0])
    if operator.options["AlignCorners"]:
        mode = "align_corners"
    else:
        mode = "half_pixel" if operator.options["HalfPixelCenters"] else "asymmetric"
    scales = np.array([1.0, 1.0, _scale(height, out_height), _scale(width, out_width)], np.float32)
    name = translation.add_constant(f"scales_{operator.index}", scales)
    translation.emit(
        operator,
        "Resize",
        translation.value(operator, 0),
        "",
        name,
        mode="linear",
        coordinate_transformation_mode=mode,
    )


def _scale(size: int, wanted: int) -> float:
    """The float32 factor for a Resize to `wanted` pixels: ONNX takes floor(size * factor), so it is never too small."""
    scale = np.float32(wanted / size)
    return float(scale if float(scale) * size >= wanted else np.nextafter(scale, np.float32(np.inf)))


def _elementwise(kind: str) -> Callable[[_Translation, _Operator], None]:
    """A translator for an operator of one picture that ONNX has too, under the name `kind`."""

    def translate(translation: _Translation, operator: _Operator) -> None:
        translation.emit(operator, kind, translation.value(operator, 0))

    return translate


def _relu6(translation: _Translation, operator: _Operator) -> None:
    translation.emit_clip(operator, translation.value(operator, 0))


def _binary(kind: str) -> Callable[[_Translation, _Operator], None]:
    """A translator for an operator of two pictures, one of which may be broadcast."""

    def translate(translation: _Translation, operator: _Operator) -> None:
        translation.emit(operator, kind, translation.value(operator, 0), translation.value(operator, 1))
        translation.emit_activation(operator)

    return translate


_TRANSLATORS: dict[str, Callable[[_Translation, _Operator], None]] = {
    "ADD": _binary("Add"),
    "AVERAGE_POOL_2D": _average_pool_2d,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEQUANTIZE": _Translation.dequantize,
    "HARD_SWISH": _elementwise("HardSwish"),
    "LOGISTIC": _elementwise("Sigmoid"),
    "MEAN": _mean,
    "MUL": _binary("Mul"),
    "RELU": _elementwise("Relu"),
    "RELU6": _relu6,
    "RESIZE_BILINEAR": _resize_bilinear,
    _TRANSPOSED_CONVOLUTION: _convolution_2d_transpose_bias,
}
