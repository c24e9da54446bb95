"""How an engine is to be built, from text and back to text."""

from __future__ import annotations

import pytest

from bmf_trt_seg.engine.options import BuildOptions, ShapeRange, options_from_text, parse_shape, parse_shapes
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.validation import validated


def options(**values):
    return validated(BuildOptions, values, "build")


def complaint(**values):
    with pytest.raises(ConfigError) as caught:
        options(**values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "shape"), [("1x3x256x128", (1, 3, 256, 128)), ("7", (7,)), (" 1X3 ", (1, 3)), ("0x2", (0, 2))]
)
def test_shape_from_text(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "1x", "x3", "1x-3", "1,3", "1x3.5", "axb", "1 x 3"])
def test_what_is_no_shape_is_shown_with_an_example(text):
    with pytest.raises(ValueError, match=rf"^'{text}' is no shape; write it as 1x3x256x256$"):
        parse_shape(text)


def test_shapes_from_text():
    first, second, third = (1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)
    assert parse_shapes("in:1x3x8x8/2x3x8x8/4x3x8x8") == {"in": {"min": first, "opt": second, "max": third}}
    assert parse_shapes("in:2x3x8x8") == {"in": {"min": second, "opt": second, "max": second}}
    assert parse_shapes("a:1x2, b:3") == {"a": dict.fromkeys(("min", "opt", "max"), (1, 2))} | {
        "b": dict.fromkeys(("min", "opt", "max"), (3,))
    }
    assert list(parse_shapes("1x3x8x8")) == [""]
    assert list(parse_shapes("module/in:0:1x3x8x8")) == ["module/in:0"]  # as TensorFlow names tensors


@pytest.mark.parametrize("text", ["1x3/2x3", "a:1/2/3/4"])
def test_one_shape_or_three(text):
    count = text.count("/") + 1
    with pytest.raises(ValueError, match=rf"^'{text}' has {count} shapes; give one, or three as min/opt/max$"):
        parse_shapes(text)


def test_shape_range_as_text():
    assert str(ShapeRange(min=(1, 3), opt=(2, 3), max=(4, 3))) == "1x3/2x3/4x3"
    assert str(ShapeRange(min=(2, 3), opt=(2, 3), max=(2, 3))) == "2x3"
    assert str(ShapeRange(min=(1, 3), opt=(1, 3), max=(4, 3))) == "1x3/1x3/4x3"


@pytest.mark.parametrize(
    "shapes", ["4x3/2x3/8x3", "1x3/9x3/8x3", "1x3/2x2/8x3", "1x3/2x3x1/8x3", "1/2x3/8x3", "0x3", "in:0/1/2"]
)
def test_shapes_go_from_small_to_large(shapes):
    words = f"'{shapes}' must go from small to large in every dimension, and from 1"
    assert complaint(shapes=shapes) == f"build: option 'shapes': got \"{shapes}\"; {words}"
    with pytest.raises(ValueError, match=rf"^{words}$"):
        parse_shapes(shapes)


@pytest.mark.parametrize("shapes", [[(4, 3), (2, 3), (8, 3)], [(1,), (2, 3), (8, 3)]])
def test_shapes_that_are_no_text_go_from_small_to_large(shapes):
    with pytest.raises(ValueError, match="shapes must go from small to large in every dimension, got "):
        ShapeRange(**dict(zip(("min", "opt", "max"), shapes, strict=True)))


@pytest.mark.parametrize("text", ["a:1x3,a:1x3", "a:1x3, a:2x3", "a:1,b:1,a:1"])
def test_shapes_of_an_input_are_given_once(text):
    last = text.split(",")[-1]
    with pytest.raises(ValueError, match=rf"^'{last}' follows another for the same input; name each input once$"):
        parse_shapes(text)


@pytest.mark.parametrize("text", ["1x3,2x3", "a:1x3,2x3", "1x3,a:2x3", "1,3,8,8"])
def test_shapes_of_several_inputs_have_names(text):
    with pytest.raises(ValueError, match=rf"^'{text}' does not say of which inputs; write sizes as 1x3x256x256"):
        parse_shapes(text)


@pytest.mark.parametrize("text", ["", ",", ",,"])
def test_no_shape_at_all(text):
    with pytest.raises(ValueError, match=rf"^'{text}' has no shape in it; write it as 1x3x256x256$"):
        parse_shapes(text)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"precision": "fp8"}, "option 'precision': got \"fp8\", allowed is 'fp32' or 'fp16' or 'bf16' or 'int8'"),
        ({"opt_level": 6}, "option 'opt_level': got 6, allowed is a whole number from 0 to 5 or null"),
        ({"workspace_mib": 0}, "option 'workspace_mib': got 0, allowed is a whole number of at least 1 or null"),
        ({"shapes": "a:1xb"}, "option 'shapes': got \"a:1xb\"; '1xb' is no shape; write it as 1x3x256x256"),
        ({"stripped": True}, "unknown option 'stripped' (given: true); did you mean 'strip'?"),
    ],
)
def test_wrong_options(values, text):
    assert complaint(**values) == f"build: {text}"


def test_sources_of_tactics_from_text():
    assert options(tactic_sources="CUBLAS, CUDNN").tactic_sources == ["CUBLAS", "CUDNN"]
    assert options(tactic_sources="").tactic_sources is None


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({}, ""),
        ({"precision": "int8"}, " --int8"),
        ({"precision": "fp16", "workspace_mib": 64, "opt_level": 5}, " --fp16 --workspace 64 --opt-level 5"),
        ({"tf32": False, "strip": True}, " --no-tf32 --strip"),
        ({"version_compatible": True, "hardware_compatible": True}, " --version-compatible --hardware-compatible"),
        ({"tactic_sources": "CUBLAS,CUDNN"}, " --tactic-sources CUBLAS,CUDNN"),
        ({"shapes": "1x3x8x8"}, " --shapes 1x3x8x8"),
        ({"shapes": "in:1x3/2x3/4x3,mask:1"}, " --shapes in:1x3/2x3/4x3,mask:1"),
    ],
)
def test_flags_of_the_command_line(values, flags):
    assert options(**values).flags() == flags


@pytest.mark.parametrize("shapes", ["1x3x8x8/2x3x8x8/4x3x8x8", "in:1x3x8x8", "a:1/2/3,b:4x4"])
def test_shapes_survive_being_written(shapes):
    given = options(shapes=shapes)
    assert options(shapes=given.flags().removeprefix(" --shapes ")) == given
    assert BuildOptions.model_validate_json(given.model_dump_json()) == given


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("precision=fp16,opt_level=5", {"precision": "fp16", "opt_level": "5"}),
        (" precision = fp16 ", {"precision": "fp16"}),
        ('{"precision": "fp16", "strip": true}', {"precision": "fp16", "strip": True}),
        ("", {}),
    ],
)
def test_options_from_text(text, values):
    assert options_from_text(text) == values
    options(**values)


@pytest.mark.parametrize("value", [None, {"precision": "fp16"}, 3])
def test_options_that_are_no_text_stay(value):
    assert options_from_text(value) is value


def test_options_in_broken_json():
    with pytest.raises(ValueError, match=r"^it is no JSON: "):
        options_from_text('{"precision": ')
