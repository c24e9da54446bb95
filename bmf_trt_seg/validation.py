"""Pydantic's complaints as one line that a stranger understands: which option, what was given, what is allowed."""

from __future__ import annotations

import difflib
import json
from typing import Any, TypeVar

import pydantic
import pydantic_core

from bmf_trt_seg.errors import ConfigError

__all__ = ["Strict", "allowed_values", "validated"]


class Strict(pydantic.BaseModel):
    """Base of every checked model here: immutable, and a key it does not know is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Python takes true for 1; JSON does not."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise pydantic_core.PydanticCustomError("truth_value", "a truth value")
        return value


Model = TypeVar("Model", bound=pydantic.BaseModel)


def validated(model: type[Model], values: Any, subject: str) -> Model:
    """Check `values` against `model`.

    `subject` opens the message and says whose values these are, as in "model 'fcn.json'".
    Raises ConfigError naming each wrong option, what was given for it and what is allowed.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{subject}: expected a JSON object, got {_shown(values)}")
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        schema = model.model_json_schema()
        complaints: dict[str, str] = {}  # a union complains once per member; one line per option is enough
        for detail in error.errors():
            name, text = _complaint(detail, schema, values)
            complaints.setdefault(name, text)
        # what was given may have line breaks in it, of which Unicode knows many
        raise ConfigError(" ".join(f"{subject}: {'; '.join(complaints.values())}".split())) from None


def allowed_values(prop: dict[str, Any], definitions: dict[str, Any] | None = None) -> str:
    """What a property of a JSON schema allows, in words: "a number from 0 to 1", "'a' or 'b'"."""
    definitions = definitions or {}
    if "$ref" in prop:
        prop = definitions[prop["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in prop:
        members = [allowed_values(member, definitions) for member in prop["anyOf"]]
        return (", or " if any("," in member for member in members) else " or ").join(members)
    if "enum" in prop:
        return " or ".join(_quoted(value) for value in prop["enum"])
    if "const" in prop:
        return _quoted(prop["const"])
    kind = prop.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _bounds(prop)
    if kind == "array":
        if "prefixItems" in prop:
            return f"{len(prop['prefixItems'])} values, each {allowed_values(prop['prefixItems'][0], definitions)}"
        size = f" of {prop['minItems']} to {prop['maxItems']}" if "minItems" in prop and "maxItems" in prop else ""
        return f"a list{size}, each {allowed_values(prop.get('items', {}), definitions)}"
    if kind == "object" and "properties" in prop:
        return f"an object of {', '.join(prop['properties'])}"
    value = prop.get("additionalProperties")
    if kind == "object" and value and isinstance(value, dict):
        return f"an object, each value {allowed_values(value, definitions)}"
    if kind == "string" and "pattern" in prop:
        return prop.get("examples", ["a matching string"])[0]
    names = {"string": "a string", "boolean": "true or false", "null": "null", "object": "an object"}
    return names.get(str(kind), "another value")


def _bounds(prop: dict[str, Any]) -> str:
    low = prop.get("minimum", prop.get("exclusiveMinimum"))
    high = prop.get("maximum", prop.get("exclusiveMaximum"))
    if low is not None and high is not None:
        text = f" from {low:g} to {high:g}"
        return text + (f" ({high:g} excluded)" if "exclusiveMaximum" in prop else "")
    if low is not None:
        return f" of at least {low:g}" if "minimum" in prop else f" above {low:g}"
    return f" of at most {high:g}" if high is not None else ""


def _complaint(detail: Any, schema: dict[str, Any], values: Any) -> tuple[str, str]:
    """The option's dotted name and the sentence about it."""
    definitions = schema.get("$defs", {})
    level, given = schema, values
    path: list[str] = []
    prop: dict[str, Any] | None = None
    for key in detail["loc"]:
        properties = level.get("properties", {})
        if key not in properties and detail["type"] == "extra_forbidden":
            name = ".".join([*path, str(key)])
            close = difflib.get_close_matches(str(key), properties, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "there are: " + ", ".join(properties)
            value = given[key] if isinstance(given, dict) else given  # an object may be written as text
            return name, f"unknown option '{name}' (given: {_shown(value)}); {hint}"
        if key not in properties:
            break  # an index into a list, or a member of a union: the option itself is named
        prop = properties[key]
        path.append(str(key))
        given = given.get(key) if isinstance(given, dict) else given
        level = definitions.get(prop.get("$ref", "").rsplit("/", 1)[-1], {})
    name = ".".join(path)
    if prop is None:  # a check over several options
        return "", str(detail["msg"]).removeprefix("Value error, ")
    allowed = allowed_values(prop, definitions)
    if detail["type"] == "missing" and len(path) == len(detail["loc"]):
        return name, f"option '{name}' is missing; it takes {allowed}"
    if detail["type"] == "value_error":
        reason = str(detail["msg"]).removeprefix("Value error, ")
        return name, f"option '{name}': got {_shown(given)}; {reason}"
    return name, f"option '{name}': got {_shown(given)}, allowed is {allowed}"


def _shown(value: Any) -> str:
    """The value as JSON, since that is how it was written, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else text[:77] + "..."


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)
