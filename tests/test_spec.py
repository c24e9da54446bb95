"""ModelSpec: written and read again, what it refuses, and where a picture lies in the input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bmf_trt_seg.colors import default_palette
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.spec import InputSpec, ModelSpec, spec_path
from bmf_trt_seg.validation import validated

SMALL = {
    "labels": ["background", "person"],
    "input": {"height": 4, "width": 6},
    "output": {"activation": "softmax"},
}
FULL = {
    "task": "segmentation",
    "labels": ["road", "car", "sky"],
    "background": None,
    "palette": ["#000000", "#ff0000", "#0000ff"],
    "input": {
        "name": "pixels",
        "layout": "nhwc",
        "height": 512,
        "width": 1024,
        "dtype": "float16",
        "channel_order": "bgr",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": "letterbox",
    },
    "output": {"name": "classes", "layout": "nhwc", "activation": "sigmoid", "threshold": 0.25},
    "source": "https://example.com",
    "license": "MIT",
}


def changed(values, **changes):
    merged = {**values, **changes}
    for name in ("input", "output"):
        if isinstance(changes.get(name), dict):
            merged[name] = {**values[name], **changes[name]}
    return {name: value for name, value in merged.items() if value != "none at all"}


@pytest.mark.parametrize("values", [SMALL, FULL])
def test_round_trip(tmp_path, values):
    path = tmp_path / "net.json"
    spec = validated(ModelSpec, values, "this")
    spec.write(path)
    assert ModelSpec.read(path) == spec


def test_only_what_differs_from_the_defaults_is_written(tmp_path):
    path = tmp_path / "net.json"
    validated(ModelSpec, SMALL, "this").write(path)
    assert json.loads(path.read_text()) == {"task": "segmentation", **SMALL}
    validated(ModelSpec, FULL, "this").write(path)
    written = json.loads(path.read_text())
    assert {name: written[name] for name in FULL} == FULL


def test_description_lies_beside_the_model():
    assert spec_path(Path("a/person.v2.onnx")) == Path("a/person.v2.json")


def test_colors_are_the_palette_or_ours():
    assert validated(ModelSpec, FULL, "this").colors == FULL["palette"]
    assert validated(ModelSpec, SMALL, "this").colors == default_palette(2)


def test_colors_are_in_small_letters():
    spec = validated(ModelSpec, changed(SMALL, palette=["#00FF00", "#AbCdEf"]), "this")
    assert spec.colors == ["#00ff00", "#abcdef"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": "none at all"}, "'labels' is missing; it takes a list of 1 to 255 names of classes, by index"),
        ({"labels": []}, "option 'labels': got [], allowed is a list of 1 to 255, each a string"),
        ({"labels": [str(number) for number in range(256)]}, "allowed is a list of 1 to 255, each a string"),
        ({"labels": [1, 2]}, "option 'labels': got [1, 2], allowed is a list of 1 to 255, each a string"),
        ({"labels": ["a", "b", "a"]}, "label 'a' stands twice"),
        (
            {"labels": ["person"]},
            "the only label, 'person', is the background: name a class beside it, or set background to null",
        ),
        ({"background": 2}, "background is class 2, but there are 2 labels"),
        ({"background": -1}, "option 'background': got -1, allowed is a whole number of at least 0 or null"),
        ({"palette": ["#000000"]}, "palette has 1 colours for 2 labels; give one each"),
        ({"palette": ["red", "#000000"]}, "allowed is a list, each a colour '#rrggbb'"),
        ({"task": "detection"}, "option 'task': got \"detection\", allowed is 'segmentation'"),
        ({"input": "none at all"}, "option 'input' is missing; it takes an object"),
        ({"input": {"height": 0}}, "option 'input.height': got 0, allowed is a whole number from 1 to 16384"),
        ({"input": {"width": 16385}}, "option 'input.width': got 16385, allowed is a whole number from 1 to 16384"),
        ({"input": {"layout": "hwc"}}, "option 'input.layout': got \"hwc\", allowed is 'nchw' or 'nhwc'"),
        ({"input": {"dtype": "int8"}}, "allowed is 'float32' or 'float16' or 'uint8'"),
        ({"input": {"channel_order": "gbr"}}, "allowed is 'rgb' or 'bgr'"),
        ({"input": {"resize": "crop"}}, "allowed is 'stretch' or 'letterbox'"),
        ({"input": {"mean": [1, 2]}}, "option 'input.mean': got [1, 2], allowed is 3 values, each a number"),
        ({"input": {"mean": [0, float("nan"), 0]}}, "option 'input.mean': got [0, NaN, 0], allowed is 3 values"),
        ({"input": {"std": [1, 0, 1]}}, "option 'input.std': got [1, 0, 1]; a standard deviation cannot be 0"),
        ({"input": {"std": [1, 1, float("inf")]}}, "option 'input.std': got [1, 1, Infinity], allowed is 3 values"),
        ({"input": {"hieght": 4}}, "unknown option 'input.hieght' (given: 4); did you mean 'height'?"),
        ({"output": "none at all"}, "option 'output' is missing; it takes an object"),
        ({"output": {"activation": "relu"}}, "allowed is 'softmax' or 'sigmoid' or 'none' or 'index'"),
        ({"output": {"layout": "nhw"}}, "allowed is 'nchw' or 'nhwc'"),
        ({"output": {"threshold": 1.5}}, "option 'output.threshold': got 1.5, allowed is a number from 0 to 1 or null"),
        ({"lables": []}, "unknown option 'lables' (given: []); did you mean 'labels'?"),
    ],
)
def test_impossible_descriptions_are_refused(tmp_path, changes, text):
    path = tmp_path / "net.json"
    path.write_text(json.dumps(changed(SMALL, **changes)))
    with pytest.raises(ConfigError) as caught:
        ModelSpec.read(path)
    assert str(caught.value).startswith(f"model description '{path}': ")
    assert text in str(caught.value)


def test_one_label_without_background_is_fine():
    assert validated(ModelSpec, changed(SMALL, labels=["person"], background=None), "this").labels == ["person"]


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe"])
def test_broken_json_is_told(tmp_path, content):
    path = tmp_path / "net.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no JSON: "):
        ModelSpec.read(path)


def test_unreadable_file_is_told(tmp_path):
    with pytest.raises(StreamError, match=r"net.json' cannot be read: No such file"):
        ModelSpec.read(tmp_path / "net.json")


@pytest.mark.parametrize(
    ("resize", "size", "place"),
    [
        ("stretch", (1920, 1080), (0, 0, 64, 32)),
        ("letterbox", (64, 32), (0, 0, 64, 32)),
        ("letterbox", (640, 160), (0, 8, 64, 16)),
        ("letterbox", (100, 100), (16, 0, 32, 32)),
        ("letterbox", (16, 64), (28, 0, 8, 32)),
        ("letterbox", (1, 1), (16, 0, 32, 32)),
        ("letterbox", (10000, 1), (0, 15, 64, 1)),
        ("letterbox", (1, 10000), (31, 0, 1, 32)),
    ],
)
def test_placement(resize, size, place):
    assert InputSpec(height=32, width=64, resize=resize).placement(*size) == place
