"""Pydantic's complaints as one line."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import pytest

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.validation import Strict, allowed_values, validated


class Inner(Strict):
    height: int = pydantic.Field(ge=1, le=9)
    triple: tuple[float, float, float] = (0, 0, 0)


class Model(Strict):
    count: int = pydantic.Field(1, ge=1)
    share: float = pydantic.Field(0, ge=0, lt=1)
    above: float = pydantic.Field(1, gt=0)
    most: float = pydantic.Field(1, le=5)
    kind: Literal["one", "two"] = "one"
    only: Literal[3] = 3
    flag: bool = False
    names: Annotated[list[str], pydantic.Field(min_length=1, max_length=4)] = ["a"]  # noqa: RUF012 (pydantic copies it)
    either: list[str | int] | dict[str, float] | None = None
    inner: Inner = Inner(height=2)

    @pydantic.field_validator("count")
    @classmethod
    def _not_thirteen(cls, value: int) -> int:
        if value == 13:
            raise ValueError("thirteen brings bad luck")
        return value

    @pydantic.model_validator(mode="after")
    def _together(self) -> Model:
        if self.flag and self.kind == "two":
            raise ValueError("'flag' does not go with kind 'two'")
        return self


def complaint(values):
    with pytest.raises(ConfigError) as caught:
        validated(Model, values, "the thing")
    text = str(caught.value)
    assert text.startswith("the thing: ")
    assert "\n" not in text
    assert caught.value.__cause__ is None  # pydantic's own text would stand above a traceback
    return text.removeprefix("the thing: ")


def test_good_values_come_out_typed():
    model = validated(Model, {"count": "3", "inner": {"height": 4}}, "the thing")
    assert model.count == 3
    assert model.inner.height == 4


def test_result_cannot_be_changed():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        validated(Model, {}, "the thing").count = 4


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"count": "x"}, "option 'count': got \"x\", allowed is a whole number of at least 1"),
        ({"count": 0}, "option 'count': got 0, allowed is a whole number of at least 1"),
        ({"count": True}, "option 'count': got true, allowed is a whole number of at least 1"),
        ({"count": 13}, "option 'count': got 13; thirteen brings bad luck"),
        ({"share": 1}, "option 'share': got 1, allowed is a number from 0 to 1 (1 excluded)"),
        ({"share": False}, "option 'share': got false, allowed is a number from 0 to 1 (1 excluded)"),
        ({"above": 0}, "option 'above': got 0, allowed is a number above 0"),
        ({"most": 6}, "option 'most': got 6, allowed is a number of at most 5"),
        ({"kind": "three"}, "option 'kind': got \"three\", allowed is 'one' or 'two'"),
        ({"only": 4}, "option 'only': got 4, allowed is 3"),
        ({"flag": "maybe"}, "option 'flag': got \"maybe\", allowed is true or false"),
        ({"names": []}, "option 'names': got [], allowed is a list of 1 to 4, each a string"),
        (
            {"either": 3},
            "option 'either': got 3, allowed is a list, each a string or a whole number, or an object, each value a "
            "number, or null",
        ),
        ({"inner": 3}, "option 'inner': got 3, allowed is an object of height, triple"),
        ({"inner": {"height": 10}}, "option 'inner.height': got 10, allowed is a whole number from 1 to 9"),
        ({"inner": {}}, "option 'inner.height' is missing; it takes a whole number from 1 to 9"),
        (
            {"inner": {"height": 1, "triple": [1, 2]}},
            "option 'inner.triple': got [1, 2], allowed is 3 values, each a number",
        ),
        (
            {"inner": {"height": 1, "triple": [1, "x", 2]}},
            "option 'inner.triple': got [1, \"x\", 2], allowed is 3 values, each a number",
        ),
        ({"cuont": 2}, "unknown option 'cuont' (given: 2); did you mean 'count'?"),
        ({"inner": {"hieght": 2, "height": 2}}, "unknown option 'inner.hieght' (given: 2); did you mean 'height'?"),
        (
            {"zzzz": None},
            "unknown option 'zzzz' (given: null); there are: count, share, above, most, kind, only, flag, names, "
            "either, inner",
        ),
        ({"flag": True, "kind": "two"}, "'flag' does not go with kind 'two'"),
        ({"count": 0, "zzzt": 1, "share": 2}, None),
    ],
)
def test_complaint_says_what_was_given_and_what_is_allowed(values, text):
    found = complaint(values)
    if text is None:  # one sentence an option
        assert [part.split("'")[1] for part in found.split("; ") if "option '" in part] == ["count", "share", "zzzt"]
    else:
        assert found == text


@pytest.mark.parametrize("values", [[1], "text", None, 3])
def test_only_objects_hold_options(values):
    assert complaint(values).startswith("expected a JSON object, got ")


def test_long_values_are_cut():
    found = complaint({"kind": "x" * 500})
    assert 'got "xxx' in found
    assert "xxx..., allowed" in found
    assert len(found) < 150


def test_values_that_are_no_json_are_shown():
    assert "Inner" in complaint({"count": Inner})


@pytest.mark.parametrize(
    ("prop", "text"),
    [
        ({"type": "string"}, "a string"),
        ({"type": "string", "pattern": "x", "examples": ["an x"]}, "an x"),
        ({"type": "null"}, "null"),
        ({"type": "number"}, "a number"),
        ({"type": "array", "items": {"type": "integer"}}, "a list, each a whole number"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "true or false or null"),
        ({"$ref": "#/$defs/X"}, "'x'"),
        ({}, "another value"),
    ],
)
def test_schema_in_words(prop, text):
    assert allowed_values(prop, {"X": {"const": "x"}}) == text
