"""The ONNX file an engine is built from: its tensors, its digest, its profiles, itself in other precisions."""

from __future__ import annotations

import re

import clips
import numpy as np
import onnx
import onnxruntime
import pytest
from factories import complaint, make_spec, save_onnx

from bmf_trt_seg.engine.network import NetworkTensor, OnnxNetwork, profiles_for
from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.validation import validated

SPEC = make_spec(activation="none")


def batches(count=4, size=4):
    rng = np.random.default_rng(1)
    return [rng.random((size, 3, 8, 8), np.float32) * 2 - 1 for _ in range(count)]


def session(network):
    source = network if isinstance(network, bytes) else str(network)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def result(network, batch):
    return session(network).run(None, {"input": batch})[0]


def with_weights_outside(path):
    """The same network in a folder of its own, its weights in a second file."""
    folder = path.parent / "outside"
    folder.mkdir()
    options = {"save_as_external_data": True, "location": "net.weights", "size_threshold": 0}
    onnx.save(onnx.load(str(path)), str(folder / "net.onnx"), **options)
    return folder / "net.onnx"


def profiles(path, spec=SPEC, batch=(1, 4, 8), **options):
    found = profiles_for(OnnxNetwork(path), validated(BuildOptions, options, "build"), spec, batch)
    return {name: str(shapes) for name, shapes in found.items()}


def test_tensors(onnx_file):
    network = OnnxNetwork(onnx_file)
    assert network.inputs == [NetworkTensor("input", "float32", ("N", 3, 8, 8))]
    assert network.outputs == [NetworkTensor("output", "float32", ("N", 2, 8, 8))]
    assert str(network.inputs[0]) == "'input' float32 (N, 3, 8, 8)"
    assert network.inputs[0].is_dynamic
    assert not NetworkTensor("x", "float32", (1, 3)).is_dynamic


def test_output_of_class_indices(tmp_path):
    (output,) = OnnxNetwork(clips.index_model(tmp_path / "net.onnx")).outputs
    assert (output.dtype, output.shape[0]) == ("int64", "N")


def test_weights_listed_as_inputs_are_none(onnx_file):
    model = onnx.load(str(onnx_file))
    model.graph.input.append(onnx.helper.make_tensor_value_info("weights", onnx.TensorProto.FLOAT, [2, 3, 3, 3]))
    onnx.save(model, str(onnx_file))
    assert [tensor.name for tensor in OnnxNetwork(onnx_file).inputs] == ["input"]


def test_bfloat16_and_sizes_without_a_name(onnx_file):
    model = onnx.load(str(onnx_file))
    del model.graph.input[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("input", onnx.TensorProto.BFLOAT16, [None, 3, 8, 8]))
    onnx.save(model, str(onnx_file))
    assert str(OnnxNetwork(onnx_file).inputs[0]) == "'input' bfloat16 (?, 3, 8, 8)"


def test_nodes_by_number(onnx_file):
    network = OnnxNetwork(onnx_file)
    assert network.node(1)[1] == "Sigmoid"
    assert network.node(-1) == network.node(2) == ("", "")


@pytest.mark.parametrize(
    "broken",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"no network\n" * 9],
    ids=["cut off", "empty", "text"],
)
def test_broken_files(onnx_file, broken):
    onnx_file.write_bytes(broken(onnx_file.read_bytes()))
    assert complaint(ModelError, OnnxNetwork, onnx_file).startswith(f"model '{onnx_file}' is broken, or no ONNX file: ")


def test_files_that_cannot_be_read(tmp_path):
    assert complaint(ModelError, OnnxNetwork, tmp_path / "no.onnx") == (
        f"model '{tmp_path / 'no.onnx'}' cannot be read: No such file or directory"
    )
    assert complaint(ModelError, OnnxNetwork, tmp_path) == f"model '{tmp_path}' cannot be read: Is a directory"


def test_digest_is_of_the_content(onnx_file, tmp_path):
    digest = OnnxNetwork(onnx_file).sha256()
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(onnx_file.read_bytes())
    assert OnnxNetwork(copy).sha256() == digest
    save_onnx(copy, np.zeros((2, 3, 3, 3), np.float32), then="Sigmoid")
    assert OnnxNetwork(copy).sha256() != digest


def test_digest_is_of_weights_outside_too(onnx_file):
    path = with_weights_outside(onnx_file)
    digest = OnnxNetwork(path).sha256()
    weights = path.with_name("net.weights")
    content = weights.read_bytes()
    weights.write_bytes(content[::-1])
    assert OnnxNetwork(path).sha256() != digest
    weights.write_bytes(content)
    assert OnnxNetwork(path).sha256() == digest


def test_weights_that_are_missing(onnx_file):
    path = with_weights_outside(onnx_file)
    path.with_name("net.weights").unlink()
    assert complaint(ModelError, OnnxNetwork(path).sha256) == (
        f"model '{path}' lacks its weights 'net.weights': No such file or directory"
    )


def test_half_precision_keeps_inputs_and_outputs(onnx_file):
    half = OnnxNetwork(onnx_file).in_half_precision()
    (given,), (made,) = session(half).get_inputs(), session(half).get_outputs()
    assert (given.name, given.type, given.shape) == ("input", "tensor(float)", ["N", 3, 8, 8])
    assert (made.name, made.type, made.shape) == ("output", "tensor(float)", ["N", 2, 8, 8])


def test_half_precision_computes_in_half_precision(onnx_file):
    half = OnnxNetwork(onnx_file).in_half_precision()
    (weights,) = onnx.load_from_string(half).graph.initializer
    assert weights.data_type == onnx.TensorProto.FLOAT16
    difference = np.abs(result(half, batches()[0]) - result(onnx_file, batches()[0]))
    assert 0 < difference.max() < 1e-2


def test_half_precision_with_weights_outside(onnx_file):
    half = OnnxNetwork(with_weights_outside(onnx_file)).in_half_precision()
    np.testing.assert_allclose(result(half, batches()[0]), result(onnx_file, batches()[0]), atol=1e-2)


def test_half_precision_leaves_the_file_alone(onnx_file):
    content = onnx_file.read_bytes()
    network = OnnxNetwork(onnx_file)
    first = network.in_half_precision()
    assert network.in_half_precision() == first
    assert onnx_file.read_bytes() == content


@pytest.fixture
def quantized(onnx_file):
    return OnnxNetwork(onnx_file).quantized({"input": batch} for batch in batches())


def test_quantized_network_agrees_on_what_it_was_calibrated_with(onnx_file, quantized):
    for batch in batches():
        difference = np.abs(result(quantized, batch) - result(onnx_file, batch))
        assert 0 < difference.max() < 0.05


def test_quantized_network_says_so(onnx_file, quantized, tmp_path):
    (tmp_path / "quantized.onnx").write_bytes(quantized)
    network = OnnxNetwork(tmp_path / "quantized.onnx")
    assert network.is_quantized
    assert not OnnxNetwork(onnx_file).is_quantized
    assert network.inputs == OnnxNetwork(onnx_file).inputs
    assert network.outputs == OnnxNetwork(onnx_file).outputs


def test_quantization_is_symmetric_and_per_channel(quantized):
    graph = onnx.load_from_string(quantized).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {node.op_type for node in nodes} == {"QuantizeLinear", "DequantizeLinear"}
    zero_points = [values[node.input[2]] for node in nodes]
    assert {points.dtype for points in zero_points} == {np.dtype(np.int8)}
    assert not any(points.any() for points in zero_points)
    (weights,) = [node for node in nodes if values.get(node.input[0], np.empty(0)).ndim == 4]
    assert len(values[weights.input[1]]) == 2  # a scale for each output channel


def test_quantizing_is_silent(onnx_file, capfd, caplog):
    OnnxNetwork(onnx_file).quantized({"input": batch} for batch in batches())
    assert caplog.messages == []  # with a logger's handlers missing, Python would write them to the terminal
    assert capfd.readouterr() == ("", "")


def test_failure_in_reading_pictures_comes_out(onnx_file):
    def pictures():
        yield {"input": batches()[0]}
        raise KeyError("a picture")

    with pytest.raises(KeyError, match="a picture"):
        OnnxNetwork(onnx_file).quantized(pictures())


def test_open_batch_is_a_range(onnx_file):
    assert profiles(onnx_file) == {"input": "1x3x8x8/4x3x8x8/8x3x8x8"}
    assert profiles(onnx_file, batch=(2, 2, 2)) == {"input": "2x3x8x8"}


def test_fixed_batch_stays(tmp_path):
    path = save_onnx(tmp_path / "net.onnx", np.zeros((2, 3, 3, 3), np.float32), batch=2)
    assert profiles(path) == {"input": "2x3x8x8"}


def test_open_height_and_width_come_from_the_description(open_file):
    spec = make_spec(input={"height": 16, "width": 24})
    assert profiles(open_file, spec) == {"input": "1x3x16x24/4x3x16x24/8x3x16x24"}


def test_open_height_and_width_of_nhwc(tmp_path):
    path = tmp_path / "net.onnx"
    given = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", "H", "W", "C"])
    made = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["N", "H", "W", "C"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["input"], ["output"])], "g", [given], [made])
    onnx.save(onnx.helper.make_model(graph), str(path))
    spec = make_spec(input={"height": 16, "width": 24, "layout": "nhwc"})
    assert profiles(path, spec, (1, 1, 1)) == {"input": "1x16x24x3"}


def test_shapes_of_the_options_come_first(open_file):
    shapes = "1x3x8x8/2x3x16x16/4x3x32x32"
    assert profiles(open_file, shapes=shapes) == profiles(open_file, None, shapes=f"input:{shapes}")
    assert profiles(open_file, shapes=shapes) == {"input": shapes}


def test_sizes_that_remain_open(open_file):
    message = complaint(ConfigError, profiles, open_file, None)
    assert message.startswith("input 'input' float32 (N, 3, H, W) leaves sizes open: give their range with --shapes ")
    assert message.endswith("input:MIN/OPT/MAX, where each is a shape as 1x3x512x512")


def test_unknown_inputs(onnx_file):
    assert complaint(ConfigError, profiles, onnx_file, shapes="picture:1x3x8x8") == (
        "option 'shapes': 'net.onnx' has no input 'picture'; it has input"
    )


@pytest.mark.parametrize("shapes", ["1x3x8", "1x3x8x8x1", "1x4x8x8", "1x3x8x8/1x3x8x8/1x3x8x9"])
def test_shapes_that_do_not_fit(onnx_file, shapes):
    assert complaint(ConfigError, profiles, onnx_file, shapes=shapes) == (
        f"option 'shapes': {shapes} does not fit the input 'input' float32 (N, 3, 8, 8)"
    )


@pytest.mark.parametrize("batch", [(4, 2, 8), (1, 9, 8), (8, 8, 4)])
def test_batches_go_from_small_to_large(onnx_file, batch):
    assert "from small to large" in complaint(ConfigError, profiles, onnx_file, batch=batch)


def test_shapes_without_a_name_for_several_inputs(tmp_path):
    path = tmp_path / "net.onnx"
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 3]) for name in "abc"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["a", "b"], ["c"])], "g", tensors[:2], tensors[2:])
    onnx.save(onnx.helper.make_model(graph), str(path))
    assert complaint(ConfigError, profiles, path, shapes="1x3") == (
        "option 'shapes': say of which input: a, b; as in NAME:1x3x256x256"
    )
    assert profiles(path, shapes="b:2x3") == {"a": "1x3/4x3/8x3", "b": "2x3"}


def test_weights_outside_that_are_an_operators_own(tmp_path):
    """As exporters write constants; the digest is of their files, too."""
    path = tmp_path / "net.onnx"
    constant = onnx.helper.make_node(
        "Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.ones(300, np.float32))
    )
    inner = onnx.helper.make_graph(
        [constant], "inner", [], [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [300])]
    )
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    branch = onnx.helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [300])
    model = onnx.helper.make_model(onnx.helper.make_graph([branch], "net", [], [output], [yes]))
    for attribute in model.graph.node[0].attribute:
        tensor = attribute.g.node[0].attribute[0].t
        onnx.external_data_helper.set_external_data(tensor, f"{attribute.name}.bin")
        (tmp_path / f"{attribute.name}.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    network = OnnxNetwork(path)
    assert [file.name for file in network.weight_files()] == ["else_branch.bin", "then_branch.bin"]
    before = network.sha256()
    (tmp_path / "then_branch.bin").write_bytes(bytes(1200))
    assert network.sha256() != before
