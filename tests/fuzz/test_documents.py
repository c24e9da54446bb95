"""Documents that are wrong in every way: read, or refused in one line. benchmarks/fuzz.py tries more of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.documents import hostile_texts
from fuzz.readers import READERS, verdict


@pytest.mark.parametrize("kind", READERS)
def test_a_good_document_is_read(kind: str, tmp_path: Path) -> None:
    """Else nothing would be found behind the first check."""
    assert verdict(READERS[kind], tmp_path, json.dumps(READERS[kind].document).encode()) == "read"


@pytest.mark.parametrize("kind", READERS)
def test_a_bad_one_is_refused_in_one_line(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(kind)
    found = set()

    @given(hostile_texts(READERS[kind].document))
    def check(content: bytes) -> None:
        found.add(verdict(READERS[kind], folder, content))

    check()
    assert "told" in found


@given(counts=st.text(st.characters(min_codepoint=0x2F, max_codepoint=0x70), max_size=40))
def test_run_lengths_never_reach_beyond_the_picture(counts: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """pycocotools would write past its memory: the process would end by a signal, here or later."""
    records = json.loads(json.dumps(READERS["records"].document))
    records[1]["classes"][0]["rle"]["counts"] = counts
    folder = tmp_path_factory.getbasetemp()
    assert verdict(READERS["records"], folder, json.dumps(records).encode()) in {"read", "told"}
