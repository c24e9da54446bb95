"""ONNX files: what is compared with their descriptions, and how broken ones are told."""

from __future__ import annotations

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from factories import make_spec, save_onnx

from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend, tensors_of
from bmf_trt_seg.errors import BackendUnavailable, ModelError

WEIGHTS = np.ones((2, 3, 1, 1), np.float32)


@pytest.fixture
def model(tmp_path):
    return save_onnx(tmp_path / "net.onnx", WEIGHTS)


def opened(path, spec=None, **options):
    return OnnxRuntimeBackend(path, spec or make_spec(activation="softmax"), **options).open()


@pytest.mark.parametrize("kind", ["input", "output"])
def test_wrong_tensor_name_lists_those_there_are(model, kind):
    with pytest.raises(ModelError) as caught:
        opened(model, make_spec(activation="softmax", **{kind: {"name": "pixels"}}))
    assert str(caught.value) == (
        f"model 'net.onnx' has no {kind} 'pixels', which its description names; it has: '{kind}'"
    )


@pytest.mark.parametrize(
    ("input", "said"),
    [
        ({"width": 9}, "['N', 3, 8, 9] (nchw)"),
        ({"height": 16}, "['N', 3, 16, 8] (nchw)"),
        ({"layout": "nhwc"}, "['N', 8, 8, 3] (nhwc)"),
    ],
)
def test_wrong_size(model, input, said):
    with pytest.raises(ModelError) as caught:
        opened(model, make_spec(activation="softmax", input=input))
    assert str(caught.value) == (
        f"input 'input' of model 'net.onnx' has the shape ['N', 3, 8, 8], its description says {said}"
    )


def save_identity(path, element, shape):
    tensors = [onnx.helper.make_tensor_value_info(name, element, shape) for name in ("input", "output")]
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    graph = onnx.helper.make_graph([node], "identity", tensors[:1], tensors[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_wrong_number_of_dimensions(tmp_path):
    path = save_identity(tmp_path / "net.onnx", onnx.TensorProto.FLOAT, ["N", 192])
    with pytest.raises(ModelError, match=r"has the shape \['N', 192\], its description says \['N', 3, 8, 8\] \(nchw\)"):
        opened(path)


@pytest.mark.parametrize(("there", "said"), [("float32", "float16"), ("float16", "float32"), ("float32", "uint8")])
def test_wrong_element_type(tmp_path, there, said):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS.astype(there))
    with pytest.raises(ModelError) as caught:
        opened(path, make_spec(activation="softmax", input={"dtype": said}))
    assert str(caught.value) == f"input 'input' of model 'net.onnx' takes {there}, its description says {said}"


def test_element_types_that_no_description_can_name(tmp_path):
    path = save_identity(tmp_path / "net.onnx", onnx.TensorProto.DOUBLE, ["N", 3, 8, 8])
    with pytest.raises(ModelError, match=r"takes float64, its description says float32"):
        opened(path)


def test_half_precision_runs(tmp_path):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS.astype(np.float16))
    with opened(path, make_spec(activation="softmax", input={"dtype": "float16"})) as backend:
        scores = backend.infer(np.full((2, 3, 8, 8), 0.5, np.float16))
    assert scores.dtype == np.float16
    assert (scores == 1.5).all()


def test_networks_of_any_size_take_the_one_described(tmp_path):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS, size_hw=("H", "W"))
    with opened(path, make_spec(activation="softmax", input={"height": 5, "width": 7})) as backend:
        assert backend.fixed_batch is None
        assert backend.infer(np.zeros((1, 3, 5, 7), np.float32)).shape == (1, 2, 5, 7)


def test_more_than_a_picture_is_wanted(tmp_path):
    model = onnx.load(save_onnx(tmp_path / "net.onnx", WEIGHTS))
    model.graph.input.append(onnx.helper.make_tensor_value_info("prompt", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError) as caught:
        opened(tmp_path / "net.onnx")
    assert str(caught.value) == (
        "model 'net.onnx' wants more inputs than a picture: prompt; its description can say what they hold: "
        '"constants": {"prompt": 0}'
    )


@pytest.mark.parametrize("content", ["text", "", "half", "nothing"])
def test_files_that_are_no_networks(tmp_path, content, capfd):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS)
    if content == "nothing":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes({"text": b"hello", "": b"", "half": whole[: len(whole) // 2]}[content])
    for load in (opened, tensors_of):
        with pytest.raises(ModelError) as caught:
            load(path)
        assert str(caught.value).startswith(f"model '{path}' cannot be loaded by ONNX Runtime: ")
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_operator_that_onnx_runtime_does_not_know(tmp_path):
    model = onnx.load(save_onnx(tmp_path / "net.onnx", WEIGHTS))
    model.graph.node[1].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="Frobnicate"):
        opened(tmp_path / "net.onnx")


def test_warnings_of_onnx_runtime_are_not_shown(tmp_path, capfd):
    model = onnx.load(save_onnx(tmp_path / "net.onnx", WEIGHTS))
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS, "unused"))
    onnx.save(model, tmp_path / "net.onnx")
    tensors_of(tmp_path / "net.onnx")
    opened(tmp_path / "net.onnx").infer(np.zeros((1, 3, 8, 8), np.float32))
    assert capfd.readouterr() == ("", "")


def test_tensors_of_a_file(model):
    assert tensors_of(model) == [
        ("input", "input", "tensor(float)", ["N", 3, 8, 8]),
        ("output", "output", "tensor(float)", ["N", 2, 8, 8]),
    ]


@pytest.mark.parametrize(
    ("threads", "text"),
    [(1, "1 thread"), (3, "3 threads"), (0, f"{os.cpu_count()} thread{'s' * (os.cpu_count() > 1)}")],
)
def test_threads(model, threads, text):
    with opened(model, threads=threads) as backend:
        assert backend.describe() == f"onnxruntime on the CPU, {text}"
        assert backend._session.get_session_options().intra_op_num_threads == (threads or os.cpu_count())


def test_cuda_without_cuda(model, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable) as caught:
        opened(model, device="cuda:1")
    assert str(caught.value) == (
        "device 'cuda:1': this ONNX Runtime has no CUDA: pip install onnxruntime-gpu, or device 'cpu'"
    )


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:3", 3)])
def test_cuda_device_is_passed_on(model, monkeypatch, device, number):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    backend = OnnxRuntimeBackend(model, make_spec(), device=device)
    assert backend._providers() == [("CUDAExecutionProvider", {"device_id": number}), "CPUExecutionProvider"]


def with_inputs(path, **others):
    """The network with more inputs: 'offset' is added to the result, the others have no effect."""
    model = onnx.load(save_onnx(path, WEIGHTS))
    for name, (element, shape) in others.items():
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, element, shape))
        cast = onnx.helper.make_node("Cast", [name], [f"{name}_float"], to=onnx.TensorProto.FLOAT)
        total = onnx.helper.make_node("ReduceMean", [f"{name}_float"], [f"{name}_mean"], keepdims=0)
        model.graph.node.extend([cast, total])
    means = [f"{name}_mean" for name in others]
    model.graph.node.append(onnx.helper.make_node("Sum", ["output", *means], ["shifted"]))
    shifted = onnx.helper.make_tensor_value_info("shifted", onnx.TensorProto.FLOAT, ["N", 2, 8, 8])
    model.graph.output.append(shifted)
    onnx.save(model, path)
    return path


def test_further_inputs_hold_constants(tmp_path):
    path = with_inputs(
        tmp_path / "net.onnx",
        offset=(onnx.TensorProto.FLOAT, []),
        prompt=(onnx.TensorProto.INT64, ["N", 4]),
        size=(onnx.TensorProto.FLOAT, ["K", "M"]),
    )
    spec = make_spec(activation="none", output={"name": "shifted"}, constants={"offset": 0.5, "prompt": 3, "size": 1})
    batch = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
    with opened(save_onnx(tmp_path / "plain.onnx", WEIGHTS)) as plain:
        expected = plain.infer(batch) + 4.5
    for shapes in (None, {"size": (2, 5)}):
        with OnnxRuntimeBackend(path, spec, input_shapes=shapes) as backend:
            np.testing.assert_allclose(backend.infer(batch), expected, rtol=1e-5)


def test_constants_of_inputs_that_are_not_there(tmp_path):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS)
    with pytest.raises(ModelError, match=r"^model 'net\.onnx' has no input 'offset', which"):
        OnnxRuntimeBackend(path, make_spec(activation="none", constants={"offset": 1})).open()
