"""JSON that others wrote: read, or refused in one line before anything in it can do harm."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["parsed"]

_DEEPEST = 100
"""Levels of lists and objects within one another; Python's own limit depends on who asks."""
_IN_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_IN_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises json.JSONDecodeError for what is no JSON, and ValueError for what no file of ours holds and what Python, a
    path or a terminal would stumble over: nesting without end, numbers of thousands of digits, control characters,
    halves of characters.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep") from None
    except ValueError:
        raise ValueError("a number in it has thousands of digits") from None
    _check(value)
    return value


def _check(value: Any) -> None:
    waiting = [(value, 0)]
    while waiting:
        part, level = waiting.pop()
        if isinstance(part, str):
            if _IN_NO_TEXT.search(part):
                raise ValueError(f"the text {json.dumps(part)[:60]} in it has a character that no text has")
        elif isinstance(part, dict | list):
            if level == _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
            for name in part if isinstance(part, dict) else ():
                if _IN_NO_NAME.search(name):
                    raise ValueError(f"the name {json.dumps(name)[:60]} in it has a character that no name has")
            inner = part.values() if isinstance(part, dict) else part
            waiting += [(one, level + 1) for one in inner]
