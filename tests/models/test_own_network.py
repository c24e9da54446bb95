"""Networks of the user's own: finding the function, and what it may return."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.models.own_network import network_from

CODE = """
import torch
class Net(torch.nn.Conv2d): pass
def make(): return Net(3, 2, 1)
def number(): return 3
def fails(): raise OSError("no weights\\nhere")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with modules of a user in it."""
    (tmp_path / "own_nets.py").write_text(CODE)
    (tmp_path / "needs_more.py").write_text("import nosuchpackage\n")
    (tmp_path / "broken_code.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_nets", "needs_more", "broken_code"):
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


@pytest.mark.parametrize("entry", ["own_nets:make", "own_nets.py:make"])
def test_function_is_called(entry):
    network = network_from(entry)
    assert type(network).__name__ == "Net"
    assert not network.training


@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        ("own_nets", ConfigError, "--from takes MODULE:FUNCTION or FILE.py:FUNCTION, not 'own_nets'"),
        ("own_nets:", ConfigError, "--from takes MODULE:FUNCTION or FILE.py:FUNCTION, not 'own_nets:'"),
        ("nosuch:make", ConfigError, "--from nosuch:make: module 'nosuch' is not found"),
        ("a/nosuch.py:make", ConfigError, "--from a/nosuch.py:make: module 'a/nosuch.py' is not found"),
        (
            "needs_more:make",
            ConfigError,
            "--from needs_more:make: module 'needs_more' lacks the package 'nosuchpackage'",
        ),
        ("own_nets:other", ConfigError, "module 'own_nets' has no function 'other'; it has Net, fails, make, number"),
        ("own_nets:number", ModelError, "number() returns int, expected a torch.nn.Module"),
        ("own_nets:fails", ModelError, "--from own_nets:fails: fails() fails: OSError: no weights"),
        ("broken_code:make", ModelError, "module 'broken_code' fails: SyntaxError: invalid syntax"),
    ],
)
def test_what_is_no_such_function(entry, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        network_from(entry)
    assert "\n" not in str(caught.value)
