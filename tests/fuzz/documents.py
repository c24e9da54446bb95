"""Hostile documents: JSON as nobody would write it, and good documents with something wrong in them."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from fuzz.damage import members

set_hypothesis_home_dir(Path(tempfile.gettempdir(), "hypothesis"))  # else it makes a folder in the working directory

__all__ = ["hostile_texts", "hostile_values", "mutated"]

_EDGES = [
    0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.0, float("nan"), float("inf"), True, False, None, "", " ", "0",
    "-1", "1e999", "²", "nan", "null", "../../etc/passwd", "/dev/null", "/dev/zero", "~root", "a\nb", "a\0b", "\ud800",
    "\x1b[2J", "%s%n", "{name}", "${HOME}", "${", "x" * 5000, "rtsp://", "file:///etc/passwd", "http://[", "1x3x8x8",
    "a:1x3x8x8,a:1", "cuda:99999999999999999999", "#zzzzzz", [], {}, [[]], [None], {"": None},
]  # fmt: skip

hostile_values = st.one_of(
    st.sampled_from(_EDGES),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(_EDGES)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
        max_leaves=8,
    ),
)
"""Values that are no good anywhere, or only by chance."""


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A good document of which a few members are changed, taken out, doubled, renamed or moved."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = members(found)
        holder, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["value", "value", "value", "delete", "rename", "swap", "nest"]))
        if how == "value":
            holder[key] = copy.deepcopy(draw(hostile_values))  # of the edges, the lists are the same each time
        elif how == "delete":
            del holder[key]
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=12))] = holder.pop(key)
        elif how == "swap":
            other, other_key = draw(st.sampled_from(places))
            holder[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(holder[key])
        else:
            holder[key] = [holder[key]]
    return found


@st.composite
def hostile_texts(draw: st.DrawFn, document: Any) -> bytes:
    """The file of such a document; some are no JSON, or no text."""
    how = draw(st.sampled_from(["mutated"] * 12 + ["cut", "flipped", "deep", "digits", "bytes"]))
    if how == "mutated":
        return _written(draw(mutated(document)))
    if how == "deep":
        levels = draw(st.sampled_from([50, 99, 101, 400, 990, 100_000]))
        opening, closing = draw(st.sampled_from([("[", "]"), ('{"nodes":', "}"), ('{"input":', "}")]))
        return (opening * levels + "1" + closing * levels).encode()
    if how == "digits":
        return _written(document).replace(b"1", b"1" * 5000)
    if how == "bytes":
        return draw(st.binary(max_size=200))
    content = bytearray(_written(document))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "cut":
        return bytes(content[:place])
    content[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def _written(document: Any) -> bytes:
    return json.dumps(document).encode()
