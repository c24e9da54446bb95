"""The module's options: defaults, strings for everything, and the sentences about wrong ones."""

from __future__ import annotations

import pydantic
import pytest

from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.options import RecordSinkOptions, SegmentOptions, option_table, read_options
from bmf_trt_seg.validation import validated


def read(**values):
    return read_options({"model": "person", **values})


def complaint(**values):
    with pytest.raises(ConfigError) as caught:
        read(**values)
    return str(caught.value).removeprefix("options of SegmentModule: ")


def test_defaults():
    assert read_options({"model": "person"}).model_dump() == {
        "model": "person",
        "replay": "",
        "backend": "auto",
        "device": "auto",
        "build": BuildOptions().model_dump(),
        "input_shapes": None,
        "batch_size": 1,
        "threads": 1,
        "classes": None,
        "style": "blend",
        "alpha": 0.5,
        "palette": None,
        "background_color": "#00b140",
        "legend": False,
        "threshold": None,
        "interval": 1,
        "smoothing": 0.0,
        "output": "overlay",
        "max_in_flight": 2,
        "max_latency_ms": 0,
        "shared": False,
        "frames_out": "host",
        "name": "segment",
    }


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("batch_size", "4", 4),
        ("threads", "0", 0),
        ("alpha", "0.25", 0.25),
        ("threshold", "1", 1.0),
        ("threshold", None, None),
        ("smoothing", "0.9", 0.9),
        ("legend", "true", True),
        ("legend", "false", False),
        ("classes", "person, 2,,dog ", ["person", "2", "dog"]),
        ("classes", ["person", 2], ["person", 2]),
        ("classes", [], []),
        ("classes", "", None),
        ("palette", "person=#00FF00, traffic light = #ff0000", {"person": "#00ff00", "traffic light": "#ff0000"}),
        ("palette", ["#ABCDEF"], ["#abcdef"]),
        ("background_color", "#FFFFFF", "#ffffff"),
        ("device", "cuda", "cuda"),
        ("device", "cuda:12", "cuda:12"),
    ],
)
def test_values_are_taken(name, given, taken):
    found = getattr(read(**{name: given}), name)
    assert found == taken
    assert type(found) is type(taken)


WRONG = [
    ("model", 5, "a string"),
    ("replay", 5, "a string"),
    ("backend", "ort", "'auto' or 'onnxruntime' or 'pytorch' or 'tensorrt'"),
    ("device", "gpu", "'auto', 'cpu', 'cuda' or 'cuda:N'"),
    ("device", "cuda:", "'auto', 'cpu', 'cuda' or 'cuda:N'"),
    ("batch_size", 0, "a whole number from 1 to 256"),
    ("batch_size", 257, "a whole number from 1 to 256"),
    ("batch_size", 1.5, "a whole number from 1 to 256"),
    ("batch_size", True, "a whole number from 1 to 256"),
    ("threads", -1, "a whole number from 0 to 256"),
    ("classes", 3, "a list, each a string or a whole number, or null"),
    ("classes", [True], "a list, each a string or a whole number, or null"),
    ("classes", [1.5], "a list, each a string or a whole number, or null"),
    (
        "build",
        5,
        "an object of precision, shapes, workspace_mib, opt_level, tf32, version_compatible, hardware_compatible, "
        "strip, tactic_sources",
    ),
    ("input_shapes", {"input": 5}, "an object, each value a list, each a whole number of at least 1, or null"),
    ("style", "blured", "'blend' or 'blur' or 'contour' or 'cutout' or 'sidebyside'"),
    ("alpha", 1.01, "a number from 0 to 1"),
    ("alpha", -0.01, "a number from 0 to 1"),
    ("alpha", float("nan"), "a number from 0 to 1"),
    ("alpha", None, "a number from 0 to 1"),
    ("palette", ["red"], "a list, each a colour '#rrggbb', or an object, each value a colour '#rrggbb', or null"),
    ("palette", "person", "a list, each a colour '#rrggbb', or an object, each value a colour '#rrggbb', or null"),
    ("background_color", "#12345", "a colour '#rrggbb'"),
    ("legend", "maybe", "true or false"),
    ("threshold", 2, "a number from 0 to 1 or null"),
    ("interval", 0, "a whole number from 1 to 10000"),
    ("smoothing", 1, "a number from 0 to 1 (1 excluded)"),
    ("output", "picture", "'overlay' or 'mask'"),
    ("max_in_flight", 0, "a whole number from 1 to 16"),
    ("max_latency_ms", -1, "a whole number from 0 to 60000"),
    ("shared", "perhaps", "true or false"),
    ("frames_out", "gpu", "'host' or 'device'"),
    ("name", 3, "a string"),
]


@pytest.mark.parametrize(("name", "given", "allowed"), WRONG)
def test_wrong_values_are_told(name, given, allowed):
    text = complaint(**{name: given})
    assert text.startswith(f"option '{name}': got ")
    assert text.endswith(f", allowed is {allowed}")


def test_every_option_has_a_wrong_value_above():
    assert {name for name, _, _ in WRONG} == set(SegmentOptions.model_fields)


def test_wording():
    assert complaint(devise="cpu") == "unknown option 'devise' (given: \"cpu\"); did you mean 'device'?"
    assert complaint(alpha=3) == "option 'alpha': got 3, allowed is a number from 0 to 1"
    assert complaint(model="") == "option 'model' is missing"
    assert complaint(replay="masks.jsonl") == "give 'model' or 'replay', not both"
    assert complaint(xyz=1).startswith("unknown option 'xyz' (given: 1); there are: model, replay, backend, device")


@pytest.mark.parametrize(
    "text", ["precision=fp16,opt_level=2,tf32=false", '{"precision": "fp16", "opt_level": 2, "tf32": false}']
)
def test_build_options_may_be_text(text):
    assert read_options({"model": "net", "build": text}).build == BuildOptions(
        precision="fp16", opt_level=2, tf32=False
    )
    assert read_options({"model": "net", "build": ""}).build == BuildOptions()


def test_wrong_build_options():
    assert complaint(build="precision=fp17") == (
        "option 'build.precision': got \"precision=fp17\", allowed is 'fp32' or 'fp16' or 'bf16' or 'int8'"
    )
    assert "'fp16' is not NAME=VALUE, as precision=fp16 is; lists want JSON" in complaint(build="fp16")
    assert complaint(build="precison=1").endswith("did you mean 'precision'?")
    assert complaint(build={"precison": 1}).endswith("did you mean 'precision'?")
    assert "it is no JSON" in complaint(build="{precision")


def test_input_shapes_may_be_text():
    shapes = read_options({"model": "net", "input_shapes": "input:1x3x64x96,size:2"}).input_shapes
    assert shapes == {"input": (1, 3, 64, 96), "size": (2,)}
    assert read_options({"model": "net", "input_shapes": ""}).input_shapes is None
    assert "'axb' is no shape; write it as 1x3x256x256" in complaint(input_shapes="input:axb")


def test_masks_come_from_a_model_or_from_records():
    assert read_options({"replay": "masks.jsonl"}).model == ""
    with pytest.raises(ConfigError, match="option 'model' is missing"):
        read_options({})


def test_subject_opens_the_message():
    with pytest.raises(ConfigError, match=r"^node 3: option 'alpha'"):
        read_options({"model": "person", "alpha": 2}, "node 3")


def test_options_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        read().alpha = 1


def test_table_describes_every_option():
    table = {name: rest for name, *rest in option_table()}
    assert list(table) == list(SegmentOptions.model_fields)
    assert table["alpha"] == ["0.5", "a number from 0 to 1", "Opacity of the class colours."]
    assert all(allowed != "another value" and meaning for _, allowed, meaning in table.values())


def test_record_sink_is_told_by_the_names_of_the_flags():
    options = validated(RecordSinkOptions, {"json": "a.jsonl", "masks": "b"}, "options of RecordSink")
    assert (options.json_lines, options.masks) == ("a.jsonl", "b")
    with pytest.raises(ConfigError, match=r"unknown option 'jsn' \(given: 3\); did you mean 'json'\?"):
        validated(RecordSinkOptions, {"jsn": 3}, "options of RecordSink")
