"""files_from_wheel with wheels made here, through the real pip, without a network."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.models.packages import file_from_wheel, files_from_wheel

CONTENT = b"weights, say"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
METADATA = "Metadata-Version: 2.1\nName: demo-net\nVersion: 1.0\nRequires-Dist: a-package-that-is-nowhere\n"


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows of; it holds demo_net 1.0. Temporary folders go to tmp_path/temporary."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "demo_net-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo_net/a.tflite", CONTENT)
        wheel.writestr("demo_net/b.tflite", CONTENT[::-1])
        wheel.writestr("demo_net-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("demo_net-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("demo_net-1.0.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return folder


def test_file_comes_out_of_the_wheel_and_nothing_else_is_left(tmp_path, capfd):
    assert file_from_wheel("demo-net==1.0", "demo_net/a.tflite", SHA256) == CONTENT
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_several_files_come_out_of_one_wheel():
    wanted = {"demo_net/a.tflite": SHA256, "demo_net/b.tflite": hashlib.sha256(CONTENT[::-1]).hexdigest()}
    assert files_from_wheel("demo-net==1.0", wanted) == {
        "demo_net/a.tflite": CONTENT,
        "demo_net/b.tflite": CONTENT[::-1],
    }


@pytest.mark.parametrize(
    ("requirement", "member", "sha256", "message"),
    [
        pytest.param(
            "demo-net==1.0",
            "demo_net/a.tflite",
            "0" * 64,
            "'demo_net/a.tflite' of wheel 'demo_net-1.0-py3-none-any.whl' is not the expected file: "
            f"its SHA-256 is {SHA256}, expected {'0' * 64}",
            id="hash",
        ),
        pytest.param(
            "demo-net==1.0",
            "demo_net/c.tflite",
            SHA256,
            "wheel 'demo_net-1.0-py3-none-any.whl' has no file 'demo_net/c.tflite'",
            id="member",
        ),
        pytest.param(
            "demo-net==2.0",
            "demo_net/a.tflite",
            SHA256,
            "package 'demo-net==2.0' cannot be downloaded: the package index has other versions only: 1.0",
            id="version",
        ),
        pytest.param(
            "other-net==1.0",
            "other_net/a.tflite",
            SHA256,
            "package 'other-net==1.0' cannot be downloaded: the package index has nothing by that name; "
            "check the network and pip's settings (pip config list)",
            id="package",
        ),
    ],
)
def test_failure_is_one_clear_line(requirement, member, sha256, message, tmp_path, capfd):
    with pytest.raises(StreamError, match=f"^{re.escape(message)}$"):
        file_from_wheel(requirement, member, sha256)
    assert capfd.readouterr() == ("", "")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_index_out_of_reach(monkeypatch, capfd):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # the port tcpmux, which nothing serves
    monkeypatch.setenv("PIP_RETRIES", "1")
    message = (
        r"^package 'demo-net==1\.0' cannot be downloaded: the package index cannot be reached \(NewConnectionError\)"
    )
    with pytest.raises(StreamError, match=message):
        file_from_wheel("demo-net==1.0", "demo_net/a.tflite", SHA256)
    assert capfd.readouterr() == ("", "")


def test_wheel_that_pip_refuses(index):
    wheel = index / "demo_net-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:300])
    with pytest.raises(StreamError, match=r"^package 'demo-net==1\.0' cannot be downloaded: .*invalid"):
        file_from_wheel("demo-net==1.0", "demo_net/a.tflite", SHA256)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_file_in_a_wheel_that_pip_accepts(index, compression):
    wheel = index / "demo_net-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a", compression) as archive:
        archive.writestr("demo_net/z.tflite", bytes(range(256)))
        start = archive.getinfo("demo_net/z.tflite").header_offset + 30 + len("demo_net/z.tflite")
    content = bytearray(wheel.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    wheel.write_bytes(content)
    with pytest.raises(
        StreamError, match=r"^wheel 'demo_net-1\.0-py3-none-any\.whl' is damaged: .*; download it again$"
    ):
        file_from_wheel("demo-net==1.0", "demo_net/z.tflite", SHA256)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo /usr/bin/python3: No module named pip >&2; exit 1", "has no pip; install it: .* -m ensurepip$"),
        ("echo ERROR: first >&2; echo ERROR: disk full >&2; exit 2", ": disk full$"),
        ("exit 1", ": pip failed without a message$"),
        ("exit 0", ": pip gave 0 wheels, expected one$"),
    ],
)
def test_pip_fails(tmp_path, monkeypatch, script, message):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(StreamError, match=f"^package 'demo-net==1.0' cannot be downloaded: .*{message.lstrip(': ')}"):
        file_from_wheel("demo-net==1.0", "demo_net/a.tflite", SHA256)


def test_python_cannot_be_started(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(StreamError, match=r"/gone: No such file or directory$"):
        file_from_wheel("demo-net==1.0", "demo_net/a.tflite", SHA256)
