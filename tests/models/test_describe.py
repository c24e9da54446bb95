"""What an ONNX file says of itself, and the descriptions that come of it; the command that writes them."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import Cli, runner
from factories import make_spec, save_onnx
from onnx import TensorProto, helper

from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.models.datasets import CITYSCAPES
from bmf_trt_seg.models.describe import infer
from bmf_trt_seg.spec import ModelSpec

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody is there to answer
    return tmp_path


def weights(classes: int) -> np.ndarray:
    return np.ones((classes, 3, 3, 3), np.float32)


def save(nodes: list[Any], input_shape: list[Any], output: str, name: str = "net.onnx", **others: Any) -> Path:
    inputs = [helper.make_tensor_value_info("pixels", others.pop("dtype", TensorProto.FLOAT), input_shape)]
    inputs += [helper.make_tensor_value_info(other, TensorProto.FLOAT, [1]) for other in others.pop("inputs", [])]
    outputs = [helper.make_empty_tensor_value_info(name) for name in others.pop("outputs", [output])]
    graph = helper.make_graph(nodes, "network", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = Path(name)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    return path


# --- what is read off a file ------------------------------------------------------------------------------------------


def test_scores_nchw():
    found = infer(save_onnx(Path("net.onnx"), weights(4), size_hw=(8, 12)))
    assert (found.input_name, found.input_layout, found.dtype, found.size_hw) == ("input", "nchw", "float32", (8, 12))
    assert (found.output_name, found.output_layout, found.channels, found.activation) == ("output", "nchw", 4, None)


@pytest.mark.parametrize(
    ("operator", "attributes", "activation", "channels"),
    [
        ("Softmax", {"axis": 1}, "none", 4),
        ("Sigmoid", {}, "none", 4),
        ("ArgMax", {"axis": 1, "keepdims": 0}, "index", 0),
    ],
)
def test_last_operator_tells_the_activation(operator, attributes, activation, channels):
    found = infer(save_onnx(Path("net.onnx"), weights(4), then=operator, **attributes))
    assert (found.activation, found.channels) == (activation, channels)


def test_indices_of_four_dimensions_and_operators_that_change_nothing():
    nodes = [
        helper.make_node("ArgMax", ["pixels"], ["raw"], axis=1, keepdims=1),
        helper.make_node("Cast", ["raw"], ["classes"], to=TensorProto.INT32),
    ]
    found = infer(save(nodes, ["N", 3, 8, 8], "classes"))
    assert (found.activation, found.channels, found.output_shape) == ("index", 0, (1, 1, 8, 8))


def test_bytes_nhwc():
    nodes = [
        helper.make_node("Cast", ["pixels"], ["scores"], to=TensorProto.FLOAT),
    ]
    found = infer(save(nodes, [1, 8, 12, 3], "scores", dtype=TensorProto.UINT8))
    assert (found.input_layout, found.output_layout, found.dtype, found.channels) == ("nhwc", "nhwc", "uint8", 3)


def test_open_size_wants_to_be_said():
    path = save_onnx(Path("net.onnx"), weights(2), size_hw=("H", "W"))
    with pytest.raises(ConfigError, match=r"leaves the size of pictures open: give --size HxW, as in --size 512x512$"):
        infer(path)
    assert infer(path, size_hw=(32, 64)).output_shape == (1, 2, 32, 64)
    fixed = save_onnx(Path("fixed.onnx"), weights(2))
    with pytest.raises(ConfigError, match=r"--size 32x64 does not fit the input 'input' float32 \(N, 3, 8, 8\)"):
        infer(fixed, size_hw=(32, 64))


def test_inputs_beside_the_picture():
    nodes = [helper.make_node("Mul", ["pixels", "gain"], ["scores"])]
    path = save(nodes, ["N", 3, 8, 8], "scores", inputs=["gain"])
    with pytest.raises(
        ConfigError, match=r"more inputs than a picture: gain; say what they hold, as in --constant gain=0"
    ):
        infer(path)
    assert infer(path, constants={"gain": 2.0}).constants == {"gain": 2.0}


def test_one_of_several_outputs():
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Identity", ["pixels"], ["scores"]),
    ]
    path = save(nodes, ["N", 3, 8, 8], "", outputs=["mean", "scores"])
    with pytest.raises(
        ModelError, match=r"'mean' of model 'net\.onnx' is \(\), .*; --output takes another one: scores$"
    ):
        infer(path)
    assert infer(path, output_name="scores").channels == 3
    with pytest.raises(ConfigError, match=r"has no output 'nosuch'; it has mean, scores$"):
        infer(path, output_name="nosuch")


def test_what_takes_no_pictures():
    path = save([helper.make_node("Identity", ["pixels"], ["out"])], ["N", 4, 8, 8], "out")
    with pytest.raises(
        ModelError, match=r"has no input for pictures: expected \(N, 3, H, W\) or .*it has 'pixels' float32"
    ):
        infer(path)


# --- the command ------------------------------------------------------------------------------------------


def test_description_comes_back(cli):
    """What the file and the flags say is what was described before."""
    spec = make_spec(("background", "cat", "dog"), "softmax", input=IMAGENET, source="a friend", license="MIT")
    save_onnx(Path("net.onnx"), weights(3), spec=spec)
    before = ModelSpec.read(Path("net.json"))
    Path("net.json").unlink()
    flags = ["--labels", "background,cat,dog", "--normalize", "imagenet", "--activation", "softmax"]
    ended = cli("models", "describe", "net.onnx", *flags, "--source", "a friend", "--license", "MIT")
    assert (ended.code, ended.out) == (0, "net.json\n")
    assert ended.err == "net.onnx: 'input' takes 8x8 float32 nchw, 'output' gives 3 channels, 1x3x8x8\n"
    assert ModelSpec.read(Path("net.json")) == before


def test_labels_of_a_data_set_and_numbers(cli):
    save_onnx(Path("net.onnx"), weights(19), then="Softmax", axis=1)
    flags = ["--labels", "cityscapes", "--normalize", "0.1,0.2,0.3/1,2,3", "--channel-order", "bgr"]
    assert cli("models", "describe", "net.onnx", *flags).code == 0
    spec = ModelSpec.read(Path("net.json"))
    assert (spec.labels, spec.colors) == (list(CITYSCAPES.labels), list(CITYSCAPES.palette))
    assert (spec.background, spec.output.activation) == (None, "none")
    assert (spec.input.mean, spec.input.std, spec.input.channel_order) == ((0.1, 0.2, 0.3), (1, 2, 3), "bgr")


def test_background(cli):
    save_onnx(Path("net.onnx"), weights(3))
    flags = ["--labels", "cat,dog,rest", "--normalize", "unit", "--activation", "softmax", "-y"]
    assert cli("models", "describe", "net.onnx", *flags, "--background", "rest").code == 0
    assert ModelSpec.read(Path("net.json")).background == 2
    assert cli("models", "describe", "net.onnx", *flags).code == 0
    assert json.loads(Path("net.json").read_text())["background"] is None
    ended = cli("models", "describe", "net.onnx", *flags, "--background", "sky")
    assert (ended.code, ended.err.splitlines()[-1]) == (
        2,
        "bmf-trt-seg: --background 'sky' is none of the labels: cat, dog, rest",
    )


class Somebody(io.StringIO):
    """A terminal at which these answers are typed."""

    def isatty(self) -> bool:
        return True


def test_what_is_missing_is_asked(cli, monkeypatch):
    save_onnx(Path("net.onnx"), weights(2), size_hw=("H", "W"))
    monkeypatch.setattr(sys, "stdin", Somebody("32x64\nbackground,cat\n\nwhatever\nsigmoid\n"))
    ended = cli("models", "describe", "net.onnx")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "net.json")
    for question in (
        "height and width",
        "names of its 2 classes",
        "normalization: imagenet",
        "softmax or sigmoid",
        "'whatever' is not one of",
    ):
        assert question in ended.err + ended.out
    spec = ModelSpec.read(Path("net.json"))
    assert (spec.input.height, spec.input.width, spec.labels) == (32, 64, ["background", "cat"])
    assert (spec.input.mean, spec.output.activation) == (IMAGENET["mean"], "sigmoid")


ALL = ["--labels", "a,b", "--normalize", "unit", "--activation", "softmax"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "the 2 classes have no names: give --labels (names of its 2 classes: a,b,..."),
        (ALL[:2], "how it wants its pictures is not known: give --normalize (normalization: imagenet, unit (0 to 1)"),
        (ALL[:4], "what its scores are is not known: give --activation (activation: softmax or sigmoid"),
        (["--labels", "a,b,c", *ALL[2:]], "--labels names 3 classes, the network has 2 channels"),
        (["--labels", "a,a", *ALL[2:]], "description of 'net.onnx': label 'a' stands twice"),
        ([*ALL[:2], "--normalize", "1,2", *ALL[4:]], "--normalize takes imagenet, unit, symmetric, or mean and"),
        ([*ALL, "--constant", "x"], "--constant takes NAME=NUMBER, not 'x'"),
        ([*ALL, "--size", "big"], "--size takes HEIGHTxWIDTH in pixels, from 32 to 8192 each, as 512x512; got 'big'"),
        ([*ALL, "--input", "nosuch"], "has no input 'nosuch' for pictures"),
        ([*ALL[:4], "--activation", "index"], "expected class indices"),
    ],
)
def test_wrong_usage_writes_nothing(cli, flags, words):
    save_onnx(Path("net.onnx"), weights(2))
    ended = cli("models", "describe", "net.onnx", *flags)
    assert ended.code in (1, 2)
    assert words in ended.err
    assert [path.name for path in Path().iterdir()] == ["net.onnx"]


def test_files_that_cannot_be_described(cli):
    for name, words in (
        ("nosuch.onnx", "model file 'nosuch.onnx' does not exist"),
        ("net.pt", "'net.pt': only .onnx files say enough of themselves"),
        ("broken.onnx", "is broken, or no ONNX file"),
    ):
        if name != "nosuch.onnx":
            Path(name).write_bytes(b"hello")
        ended = cli("models", "describe", name)
        assert words in ended.err
        assert ended.code in (1, 2)


def test_existing_description_stays(cli):
    save_onnx(Path("net.onnx"), weights(2))
    Path("net.json").write_text("mine")
    ended = cli("models", "describe", "net.onnx", *ALL)
    assert re.search("'net.json' exists; give -y to replace it", ended.err)
    assert Path("net.json").read_text() == "mine"
