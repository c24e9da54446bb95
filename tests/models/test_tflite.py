"""onnx_from_tflite against the TFLite interpreter: whole networks, single operators, and what it refuses."""

from __future__ import annotations

import random
import struct
import sys
from typing import Any

import flatbuffers
import numpy as np
import onnx
import onnxruntime
import pytest
import tflite
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from bmf_trt_seg.errors import BackendUnavailable, ModelError
from bmf_trt_seg.models.catalog import CATALOG
from bmf_trt_seg.models.tflite import onnx_from_tflite

VARIANTS = sorted(CATALOG)
SAME, VALID = 0, 1
NO_ACTIVATION, RELU, RELU6, TANH = 0, 1, 3, 4


def interpreted(data: bytes, picture_nhwc: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture_nhwc)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).transpose(0, 3, 1, 2)


def translated(model: onnx.ModelProto, picture_nhwc: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch_nchw = np.ascontiguousarray(picture_nhwc.transpose(0, 3, 1, 2))
    return session.run(["output"], {"input": batch_nchw})[0]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def pictures(astronaut: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Three pictures that differ, (3, H, W, 3) in 0 to 1: the astronaut, mirrored, and without the upper half."""
    height, width = size_hw
    whole = np.asarray(Image.fromarray(astronaut).resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    cut = whole.copy()
    cut[: height // 2] = 0
    return np.stack([whole, whole[:, ::-1], cut])


# ------------------------------------------------------------------------------------------------------ whole networks


@pytest.fixture(scope="module", params=VARIANTS)
def network(request: pytest.FixtureRequest, tflite_files: dict[str, bytes]) -> tuple[str, bytes, onnx.ModelProto]:
    data = tflite_files[request.param]
    return request.param, data, onnx_from_tflite(data, request.param)


def test_network_agrees_with_the_interpreter(network, astronaut):
    name, data, model = network
    picture = pictures(astronaut, CATALOG[name].size_hw)[:1]
    expected, got = interpreted(data, picture), translated(model, picture)

    assert got.dtype == np.float32
    assert got.shape == expected.shape == (1, 1, *CATALOG[name].size_hw)
    assert np.abs(got - expected).mean() < 1e-5
    mask, expected_mask = got > 0.5, expected > 0.5
    assert (mask & expected_mask).sum() / (mask | expected_mask).sum() > 0.999
    assert 0.2 < mask.mean() < 0.8  # a person is seen at all


def test_batch_gives_what_its_pictures_give_alone(network, astronaut):
    name, _, model = network
    batch = pictures(astronaut, CATALOG[name].size_hw)
    alone = np.concatenate([translated(model, batch[index : index + 1]) for index in range(3)])

    assert np.abs(alone[0] - alone[2]).mean() > 0.01
    np.testing.assert_allclose(translated(model, batch), alone, atol=1e-5)


def test_network_is_described_as_promised(network):
    name, _, model = network
    height, width = CATALOG[name].size_hw

    def described(value: Any) -> tuple[str, int, list[Any]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]

    assert [described(value) for value in model.graph.input] == [
        ("input", onnx.TensorProto.FLOAT, ["N", 3, height, width])
    ]
    assert [described(value) for value in model.graph.output] == [
        ("output", onnx.TensorProto.FLOAT, ["N", 1, height, width])
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version == 8


def test_network_has_nothing_left_that_costs_time(network):
    _, _, model = network
    assert set(kinds(model)) == {
        "Add", "Conv", "ConvTranspose", "GlobalAveragePool", "HardSwish", "Mul", "Relu", "Resize", "Sigmoid"
    }  # fmt: skip
    assert {constant.data_type for constant in model.graph.initializer} == {onnx.TensorProto.FLOAT}
    nodes = list(model.graph.node)
    for resize in (node for node in nodes if node.op_type == "Resize"):
        (writer,) = [node for node in nodes if resize.input[0] in node.output]
        assert writer.op_type in ("Conv", "Add")
        assert not any(node.op_type == "Conv" and resize.output[0] in node.input for node in nodes)


# ---------------------------------------------------------------------------------------------------- single operators


def _table(builder: flatbuffers.Builder, kind: str, **fields: Any) -> int:
    getattr(tflite, f"{kind}Start")(builder)
    for field, value in fields.items():
        getattr(tflite, f"{kind}Add{field}")(builder, value)
    return getattr(tflite, f"{kind}End")(builder)


def _references(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def _numbers(builder: flatbuffers.Builder, values: Any) -> int:
    return builder.CreateNumpyVector(np.asarray(values, np.int32))


def tiny(tensors: list[Any], *operators: tuple[Any, ...], inputs: tuple[int, ...] = (0,), output: int = -1) -> bytes:
    """A TFLite file. A tensor is a shape (float32), (shape, type) or a constant array.

    An operator is (name, inputs, outputs), and its options: a table's name and fields, or the bytes of a custom one.
    """
    builder = flatbuffers.Builder()
    buffers, described = [_table(builder, "Buffer")], []
    for tensor in tensors:
        shape, kind = tensor if isinstance(tensor, tuple) and isinstance(tensor[0], tuple) else (tensor, "FLOAT32")
        number = 0
        if isinstance(tensor, np.ndarray):
            shape, kind, number = tensor.shape, tensor.dtype.name.upper(), len(buffers)
            content = builder.CreateByteVector(tensor.tobytes())
            buffers.append(_table(builder, "Buffer", Data=content))
        shape_vector = _numbers(builder, shape)
        described.append(
            _table(builder, "Tensor", Shape=shape_vector, Type=getattr(tflite.TensorType, kind), Buffer=number)
        )
    codes, calls = [], []
    for index, (name, sources, results, *options) in enumerate(operators):
        builtin = getattr(tflite.BuiltinOperator, name, None)
        custom = None if builtin is not None else builder.CreateString(name)
        number = tflite.BuiltinOperator.CUSTOM if builtin is None else builtin
        # as converters write it: the new field only for operators that the old one is too small for
        fields = {"DeprecatedBuiltinCode": min(number, 127), **({"BuiltinCode": number} if number > 127 else {})}
        codes.append(_table(builder, "OperatorCode", **fields, **({"CustomCode": custom} if custom else {})))
        call: dict[str, Any] = {"OpcodeIndex": index}
        call |= {"Inputs": _numbers(builder, sources), "Outputs": _numbers(builder, results)}
        if options and isinstance(options[0], bytes):
            call["CustomOptions"] = builder.CreateByteVector(options[0])
        elif options:
            call["BuiltinOptions"] = _table(builder, options[0], **options[1])
            call["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, options[0])
        calls.append(_table(builder, "Operator", **call))
    parts = {"Tensors": _references(builder, described), "Operators": _references(builder, calls)}
    ends = {"Inputs": _numbers(builder, inputs), "Outputs": _numbers(builder, [output % len(tensors)])}
    graph = _table(builder, "SubGraph", **parts, **ends)
    parts = {"OperatorCodes": _references(builder, codes), "Subgraphs": _references(builder, [graph])}
    model = _table(builder, "Model", Version=3, **parts, Buffers=_references(builder, buffers))
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def conv_options(
    padding: int, stride: int = 1, dilation: int = 1, activation: int = NO_ACTIVATION, **more: int
) -> dict[str, int]:
    options = {"Padding": padding, "StrideH": stride, "StrideW": stride, "FusedActivationFunction": activation}
    return options | {"DilationHFactor": dilation, "DilationWFactor": dilation} | more


def convolution(out_hw: tuple[int, int], options: dict[str, int], kernel: int = 3) -> bytes:
    tensors = [(1, 9, 6, 2), noise(4, kernel, kernel, 2), noise(4), (1, *out_hw, 4)]
    return tiny(tensors, ("CONV_2D", [0, 1, 2], [3], "Conv2DOptions", options))


def pool(out_hw: tuple[int, int], padding: int, size_hw: tuple[int, int], stride: int, activation: int = 0) -> bytes:
    options = {"Padding": padding, "StrideH": stride, "StrideW": stride, "FusedActivationFunction": activation}
    options |= {"FilterHeight": size_hw[0], "FilterWidth": size_hw[1]}
    return tiny([(1, 9, 6, 2), (1, *out_hw, 2)], ("AVERAGE_POOL_2D", [0], [1], "Pool2DOptions", options))


def resize(out_hw: tuple[int, int], **flags: bool) -> bytes:
    size = np.array(out_hw, np.int32)
    return tiny([(1, 3, 6, 2), size, (1, *out_hw, 2)], ("RESIZE_BILINEAR", [0, 1], [2], "ResizeBilinearOptions", flags))


def elementwise(name: str) -> bytes:
    return tiny([(1, 4, 5, 3), (1, 4, 5, 3)], (name, [0], [1]))


def with_constant(name: str, options: str, constant: np.ndarray, activation: int = NO_ACTIVATION) -> bytes:
    call = (name, [0, 1], [2], options, {"FusedActivationFunction": activation})
    return tiny([(1, 4, 5, 3), constant, (1, 4, 5, 3)], call)


def mean(axes: list[int], keep: bool = True) -> bytes:
    shape = (1, 1, 1, 3) if keep else (1, 3)
    call = ("MEAN", [0, 1], [2], "ReducerOptions", {"KeepDims": keep})
    return tiny([(1, 4, 5, 3), np.array(axes, np.int32), shape], call)


def transposed_convolution(stride: int = 2) -> bytes:
    tensors = [(1, 3, 4, 5), noise(2, 2, 2, 5), noise(2), (1, 3 * stride, 4 * stride, 2)]
    return tiny(tensors, ("Convolution2DTransposeBias", [0, 1, 2], [3], struct.pack("<3i", 1, stride, stride)))


def half_weights() -> bytes:
    tensors = [(1, 9, 6, 2), noise(4, 1, 1, 2).astype(np.float16), (4, 1, 1, 2), noise(4), (1, 9, 6, 4)]
    call = ("CONV_2D", [0, 2, 3], [4], "Conv2DOptions", conv_options(SAME))
    return tiny(tensors, ("DEQUANTIZE", [1], [2]), call)


def depthwise(inputs: list[int]) -> bytes:
    tensors = [(1, 9, 6, 2), noise(1, 3, 5, 6), noise(6), (1, 5, 3, 6)]
    options = conv_options(SAME, stride=2, DepthMultiplier=3)
    return tiny(tensors, ("DEPTHWISE_CONV_2D", inputs, [3], "DepthwiseConv2DOptions", options))


OPERATORS = {
    "conv same": (convolution((9, 6), conv_options(SAME)), ["Conv"]),
    "conv same, stride, odd and even size": (convolution((5, 3), conv_options(SAME, stride=2)), ["Conv"]),
    "conv same, even kernel": (convolution((9, 6), conv_options(SAME), kernel=2), ["Conv"]),
    "conv valid": (convolution((7, 4), conv_options(VALID)), ["Conv"]),
    "conv dilated": (convolution((9, 6), conv_options(SAME, dilation=2)), ["Conv"]),
    "conv with relu": (convolution((9, 6), conv_options(SAME, activation=RELU)), ["Conv", "Relu"]),
    "conv with relu6": (convolution((9, 6), conv_options(SAME, activation=RELU6)), ["Conv", "Clip"]),
    "conv of half-precision weights": (half_weights(), ["Conv"]),
    "depthwise conv, 3 outputs per channel": (depthwise([0, 1, 2]), ["Conv"]),
    "average pool of everything": (pool((1, 1), VALID, (9, 6), 1), ["GlobalAveragePool"]),
    "average pool, borders not counted": (pool((5, 3), SAME, (3, 3), 2), ["AveragePool"]),
    "average pool with relu": (pool((4, 3), VALID, (2, 2), 2, RELU), ["AveragePool", "Relu"]),
    "mean": (mean([1, 2]), ["GlobalAveragePool"]),
    "mean, axes from the end": (mean([-2, -3]), ["GlobalAveragePool"]),
    "resize, corners aligned": (resize((6, 12), AlignCorners=True), ["Resize"]),
    "resize, pixel centres": (resize((6, 12), HalfPixelCenters=True), ["Resize"]),
    "resize, neither": (resize((6, 12)), ["Resize"]),
    "resize by a broken factor": (resize((7, 10), HalfPixelCenters=True), ["Resize"]),
    "hard swish": (elementwise("HARD_SWISH"), ["HardSwish"]),
    "logistic": (elementwise("LOGISTIC"), ["Sigmoid"]),
    "relu": (elementwise("RELU"), ["Relu"]),
    "relu6": (elementwise("RELU6"), ["Clip"]),
    "add a number per channel": (with_constant("ADD", "AddOptions", noise(3)), ["Add"]),
    "multiply by a picture, relu6": (with_constant("MUL", "MulOptions", noise(1, 4, 5, 3), RELU6), ["Mul", "Clip"]),
    "transposed convolution": (transposed_convolution(), ["ConvTranspose"]),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_operator_agrees_with_the_interpreter(case):
    data, expected_kinds = OPERATORS[case]
    model = onnx_from_tflite(data, case)
    shape = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0).Tensors(0).ShapeAsNumpy()
    picture = 4 * noise(*(int(size) for size in shape))

    assert kinds(model) == expected_kinds
    np.testing.assert_allclose(translated(model, picture), interpreted(data, picture), atol=1e-5)


@pytest.mark.parametrize("inputs", [[0, 1], [0, 1, -1]])
def test_bias_may_be_left_out(inputs):
    # the format allows it, but the interpreter crashes on such a file, so the same network with a bias is the measure
    picture = noise(1, 9, 6, 2)
    with_bias, without = (onnx_from_tflite(depthwise(given), "net") for given in ([0, 1, 2], inputs))
    difference = translated(with_bias, picture) - translated(without, picture)
    np.testing.assert_allclose(difference, np.broadcast_to(noise(6)[:, None, None], difference.shape), atol=1e-5)


def enlarged_convolution(
    out_hw: tuple[int, int] = (6, 8), channels: int = 2, activation: int = 0, kernel: int = 1
) -> bytes:
    tensors = [
        (1, 3, 4, 3),
        np.array(out_hw, np.int32),
        (1, *out_hw, 3),
        noise(channels, kernel, kernel, 3),
        noise(channels),
    ]
    return tiny(
        [*tensors, (1, *out_hw, channels)],
        ("RESIZE_BILINEAR", [0, 1], [2], "ResizeBilinearOptions", {"HalfPixelCenters": True}),
        ("CONV_2D", [2, 3, 4], [5], "Conv2DOptions", conv_options(SAME, activation=activation)),
    )


def enlarged_for_two() -> bytes:
    size = np.array((6, 8), np.int32)
    return tiny(
        [(1, 3, 4, 3), size, (1, 6, 8, 3), noise(3, 1, 1, 3), noise(3), (1, 6, 8, 3), (1, 6, 8, 3)],
        ("RESIZE_BILINEAR", [0, 1], [2], "ResizeBilinearOptions", {"HalfPixelCenters": True}),
        ("CONV_2D", [2, 3, 4], [5], "Conv2DOptions", conv_options(SAME)),
        ("ADD", [2, 5], [6], "AddOptions", {}),
    )


@pytest.mark.parametrize(
    ("data", "expected_kinds"),
    [
        pytest.param(enlarged_convolution(), ["Conv", "Resize"], id="moved"),
        pytest.param(enlarged_convolution(channels=5), ["Resize", "Conv"], id="more channels after"),
        pytest.param(enlarged_convolution((2, 3)), ["Resize", "Conv"], id="made smaller"),
        pytest.param(enlarged_convolution(activation=RELU), ["Resize", "Conv", "Relu"], id="activation"),
        pytest.param(enlarged_convolution(kernel=3), ["Resize", "Conv"], id="3x3"),
        pytest.param(enlarged_for_two(), ["Resize", "Conv", "Add"], id="read twice"),
    ],
)
def test_enlarging_moves_behind_a_pointwise_convolution_where_that_changes_nothing(data, expected_kinds):
    model = onnx_from_tflite(data, "tiny")
    picture = noise(1, 3, 4, 3)

    assert kinds(model) == expected_kinds
    np.testing.assert_allclose(translated(model, picture), interpreted(data, picture), atol=1e-5)


# ------------------------------------------------------------------------------------------------------------- refusals


PICTURE = (1, 4, 5, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            tiny([PICTURE, PICTURE, PICTURE], ("RELU", [0], [1]), ("TANH", [1], [2])),
            "TFLite network 'net': operator 1 is TANH, which is not supported; supported are ADD, AVERAGE_POOL_2D, "
            "CONV_2D, Convolution2DTransposeBias, DEPTHWISE_CONV_2D, DEQUANTIZE, HARD_SWISH, LOGISTIC, MEAN, MUL, "
            "RELU, RELU6, RESIZE_BILINEAR",
            id="operator",
        ),
        pytest.param(
            tiny([PICTURE, PICTURE], ("BROADCAST_TO", [0], [1])),
            "operator 0 is BROADCAST_TO, which is not supported",
            id="operator above 127",
        ),
        pytest.param(
            tiny([PICTURE, PICTURE], ("MaxPoolingWithArgmax2D", [0], [1], b"")),
            "operator 0 is MaxPoolingWithArgmax2D, which is not supported",
            id="custom operator",
        ),
        pytest.param(
            convolution((9, 6), conv_options(SAME, activation=TANH)),
            "operator 0 (CONV_2D) has TANH fused into it; supported are none, RELU, RELU6",
            id="activation",
        ),
        pytest.param(mean([3]), "operator 0 (MEAN) averages over axes [3]; supported are height and width", id="axes"),
        pytest.param(mean([1, 2], keep=False), "(MEAN) averages over axes [1, 2]; supported", id="dims not kept"),
        pytest.param(
            transposed_convolution(stride=1),
            "has strides [1, 1] for a kernel of [2, 2]; supported are equal ones",
            id="overlap",
        ),
        pytest.param(
            tiny([PICTURE, PICTURE, PICTURE], ("ADD", [0, 1], [2], "AddOptions", {}), inputs=(0, 1)),
            "has 2 inputs and 1 outputs; one of each is supported",
            id="two inputs",
        ),
        pytest.param(
            tiny([(PICTURE, "INT8"), PICTURE], ("RELU", [0], [1])),
            "tensor 0 is INT8 of shape (1, 4, 5, 3); supported are FLOAT32",
            id="quantized",
        ),
        pytest.param(
            tiny([PICTURE, np.ones(PICTURE, np.int8), PICTURE], ("DEQUANTIZE", [1], [2])),
            "operator 0 (DEQUANTIZE) turns INT8 into floats; supported is FLOAT16",
            id="quantized weights",
        ),
        pytest.param(
            tiny([(4, 3), (4, 3)], ("RELU", [0], [1])),
            "tensor 0 is FLOAT32 of shape (4, 3); supported",
            id="no picture",
        ),
        pytest.param(
            tiny([PICTURE, noise(1, 1, 1, 1, 3), PICTURE], ("ADD", [0, 1], [2], "AddOptions", {})),
            "operator 0 (ADD) reads a constant of shape (1, 1, 1, 1, 3); supported are up to 4 dimensions",
            id="five dimensions",
        ),
        pytest.param(
            tiny([PICTURE, PICTURE, PICTURE], ("MUL", [0, 1], [2], "MulOptions", {})),
            "operator 0 (MUL) reads tensor 1, which nothing before it has written",
            id="no writer",
        ),
        pytest.param(
            tiny([PICTURE, PICTURE, PICTURE], ("RELU", [0], [1])),
            "no operator writes its output, tensor 2",
            id="no output",
        ),
        pytest.param(convolution((8, 8), conv_options(SAME)), "network 'net' contradicts itself: ", id="wrong shape"),
        pytest.param(
            convolution((9, 6), conv_options(SAME, stride=0)),
            "operator 0 (CONV_2D) has impossible options",
            id="stride 0",
        ),
        pytest.param(b"", "'net' is not a TFLite file: its bytes 4 to 7 are b'', expected b'TFL3'", id="empty"),
        pytest.param(b"PK\x03\x04 a zip, say", "'net' is not a TFLite file: its bytes 4 to 7 are b' a z'", id="zip"),
        pytest.param(b"\x18\0\0\0TFL3" + b"\xff" * 64, "TFLite file 'net' is truncated or damaged (", id="garbage"),
    ],
)
def test_refusal_names_what_is_wrong(data, message):
    with pytest.raises(ModelError) as caught:
        onnx_from_tflite(data, "net")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [12, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tflite_files, kept):
    data = tflite_files["person"]
    length = kept if isinstance(kept, int) else int(kept * len(data))
    with pytest.raises(ModelError, match=r"TFLite file 'person\.tflite' is truncated or damaged"):
        onnx_from_tflite(data[:length], "person.tflite")


def test_damaged_bytes_end_in_a_model_error_or_not_at_all():
    data = enlarged_convolution()
    chance = random.Random(1)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(data)
        damaged[chance.randrange(8, len(data))] = chance.choice((0, 1, 127, 128, 255))
        try:
            onnx_from_tflite(bytes(damaged), "damaged")
        except ModelError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("package", ["tflite", "onnx"])
def test_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendUnavailable, match=f"needs the package {package}; install it: pip install tflite onnx"):
        onnx_from_tflite(elementwise("RELU"), "net")
