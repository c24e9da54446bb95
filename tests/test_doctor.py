"""The doctor: what it looks at, what it advises, and its exit code."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from bmf_trt_seg.backends import BACKENDS
from bmf_trt_seg.cli import doctor
from bmf_trt_seg.cli.main import main


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMF_TRT_SEG_MODELS", str(tmp_path))
    return tmp_path


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str], str]:
    """Exit code, the finding of each subject, and the last line."""
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    out, err = capsys.readouterr()
    assert err == ""
    *lines, blank, last = out.splitlines()
    assert blank == ""
    return int(end.value.code or 0), {line[:24].strip(): line[25:].strip() for line in lines}, last


def test_this_machine_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, findings, last = examine(capsys)
    assert code == 0
    assert last == "Videos can be segmented here."
    assert findings["FFmpeg 4"] == "ok       libraries found"
    assert findings["BMF"] == f"ok       BabitMF {importlib.metadata.version('BabitMF')}"
    assert findings["codec libx264"].startswith("ok ")
    assert findings["backend onnxruntime"].startswith("ok ")
    assert importlib.metadata.version("onnxruntime") in findings["backend onnxruntime"]
    assert {f"backend {name}" for name in BACKENDS} <= set(findings)
    assert findings["model person"] == "no       bmf-trt-seg models fetch person"


def test_a_backend_that_is_missing_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    code, findings, _ = examine(capsys)
    assert code == 0, "one backend is enough"
    assert findings["backend pytorch"].startswith("no ")
    assert "pip install torch" in findings["backend pytorch"]


def test_without_ffmpeg_4_nothing_works(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loads = doctor._loads
    monkeypatch.setattr(doctor, "_loads", lambda name: name != "libswscale.so.5" and loads(name))
    code, findings, last = examine(capsys)
    assert code == 1
    assert findings["FFmpeg 4"] == "MISSING  libswscale.so.5 not found: sudo scripts/install-ffmpeg4"
    assert findings["BMF"] == "MISSING  installed, but cannot be loaded without FFmpeg 4"
    assert "codec libx264" not in findings, "nothing is to be found out about codecs"
    assert last == "Videos cannot be segmented here: FFmpeg 4, BMF."


def test_without_bmf_nothing_works(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "bmf" else find(name))
    code, findings, last = examine(capsys)
    assert code == 1
    assert findings["BMF"] == "MISSING  pip install BabitMF==0.2.0"
    assert last == "Videos cannot be segmented here: BMF."


def test_a_fetched_model_is_found(capsys: pytest.CaptureFixture[str], models: Path) -> None:
    for name in ("person.onnx", "person.json"):
        (models / name).write_text("{}")
    _, findings, _ = examine(capsys)
    assert findings["model person"] == f"ok       {models / 'person.onnx'}"
    assert findings["model person-landscape"].startswith("no ")


def test_a_codec_that_this_ffmpeg_lacks() -> None:
    finding = doctor._codec("no_such_codec", "nothing")
    assert not finding.works
    assert finding.detail == "nothing: not in this build of FFmpeg"
