"""Values that may be written as text, because a variable of a graph is always a string."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic
from pydantic_core import CoreSchema, core_schema

__all__ = ["FromText", "text_pattern"]

_PATTERN = "bmf_trt_seg.text_pattern"


@dataclass(frozen=True)
class FromText:
    """Annotation of a field: `read` turns text into what is checked then, and leaves anything else as it is.

    `pattern` is a regular expression of JSON Schema for texts that can be read, for editors. It may let wrong ones
    through.
    """

    read: Callable[[Any], Any]
    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            self.read, handler(source), metadata={_PATTERN: self.pattern}
        )


def text_pattern(schema: Any) -> str | None:
    """The pattern of a core schema that FromText made; None of any other."""
    return (schema.get("metadata") or {}).get(_PATTERN)
