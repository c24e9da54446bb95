"""`bmf-trt-seg inspect`, and engines on a machine that has no GPU to run them."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from commands import Cli, Ended, runner
from factories import make_spec, save_onnx
from jobs import left_in
from PIL import Image

from bmf_trt_seg.cli.main import main

pytest.importorskip("tensorrt_rtx")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT builds on a GPU"),
    pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="it is about machines without a GPU"),
]

PROGRAM = str(Path(sys.executable).with_name("bmf-trt-seg"))
WEIGHTS = np.random.default_rng(3).normal(size=(2, 3, 3, 3)).astype(np.float32)
KEYS = {"file", "kind", "bytes", "facts", "tensors", "operators", "layers", "manifest", "note"}
NO_GPU = "TensorRT engines run on a CUDA GPU, and PyTorch finds none here; the backend 'onnxruntime' needs none"
NOT_SHOWN = f"types and layers are not shown: {NO_GPU}"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.onnx, its description, and engines of it, whose manifests name it 'net.onnx'."""
    folder = tmp_path_factory.mktemp("made")
    save_onnx(folder / "net.onnx", WEIGHTS, spec=make_spec(activation="none"))
    (folder / "pictures").mkdir()
    Image.new("RGB", (12, 9), (90, 100, 30)).save(folder / "pictures" / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, *flags in (
            ("plain.engine",),
            ("odd.engine", "--fp16", "--no-tf32", "--workspace", "64", "--shapes", "1x3x8x8/2x3x8x8/5x3x8x8"),
            ("int8.engine", "--int8", "--calibrate", "pictures", "--calibrate-frames", "6"),
            ("one.engine", "--batch-size", "1"),
        ):
            with pytest.raises(SystemExit) as end:
                main(["build", "net.onnx", "-q", "-o", name, *flags])
            assert not end.value.code
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of what was made."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BMF_TRT_SEG_ENGINES", raising=False)
    return folder


def rows(text: str) -> dict[str, str]:
    """The first part of what is shown, by its names."""
    return {line[:10].strip(): line[10:].strip() for line in text.split("\n\n")[0].splitlines()}


def table(text: str) -> list[list[str]]:
    """The words of the lines of the table of tensors."""
    part = next(part for part in text.split("\n\n") if part.startswith("tensor "))
    return [line.split() for line in part.splitlines()]


def refused(ended: Ended, code: int, *words: str) -> None:
    """Ended with one line that has these words in it."""
    assert (ended.code, ended.out) == (code, ""), ended
    assert re.fullmatch(r"bmf-trt-seg: [^\n]+\n", ended.err)
    for word in words:
        assert word in ended.err


def test_help(cli: Cli) -> None:
    ended = cli("inspect", "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: bmf-trt-seg inspect [OPTIONS] FILE\n")
    assert max(map(len, ended.out.splitlines())) <= 110


# --- ONNX ------------------------------------------------------------------------------------------------------------


def test_onnx(cli: Cli) -> None:
    ended = cli("inspect", "net.onnx")
    assert (ended.code, ended.err) == (0, "")
    facts = rows(ended.out)
    assert re.fullmatch(r"net\.onnx, .*B, ONNX", facts["file"])
    assert (facts["opset"], facts["operators"], facts["quantized"]) == ("ai.onnx 17", "2", "no")
    assert re.fullmatch("[0-9a-f]{64}", facts["sha256"])
    assert "producer" not in facts  # it has none
    assert table(ended.out) == [
        ["tensor", "name", "type", "shape"],
        ["input", "input", "float32", "Nx3x8x8"],
        ["output", "output", "float32", "Nx2x8x8"],
    ]
    assert "\noperators: Conv 1, Identity 1\n" in ended.out


def test_small_file_is_not_nothing(cli: Cli) -> None:
    assert "0.0 MB" not in cli("inspect", "net.onnx").out


def test_onnx_as_json(cli: Cli) -> None:
    ended = cli("inspect", "net.onnx", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert set(found) == KEYS
    assert (found["file"], found["kind"], found["bytes"]) == ("net.onnx", "ONNX", Path("net.onnx").stat().st_size)
    assert found["facts"]["opset"] == {"ai.onnx": 17}
    assert found["operators"] == {"Conv": 1, "Identity": 1}
    assert found["tensors"] == [
        {"mode": "input", "name": "input", "dtype": "float32", "shape": ["N", 3, 8, 8], "profiles": []},
        {"mode": "output", "name": "output", "dtype": "float32", "shape": ["N", 2, 8, 8], "profiles": []},
    ]
    assert (found["layers"], found["manifest"], found["note"]) == ([], None, "")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "model 'bad.onnx' is broken, or no ONNX file: there are no operators in it"),
        (b"no network\n" * 20, "model 'bad.onnx' is broken, or no ONNX file"),
    ],
)
def test_bad_onnx(content: bytes, words: str, cli: Cli) -> None:
    Path("bad.onnx").write_bytes(content)
    refused(cli("inspect", "bad.onnx"), 1, words)
    refused(cli("inspect", "bad.onnx", "--json"), 1, words)


# --- engines ---------------------------------------------------------------------------------------------------------


def test_engine_without_a_gpu(cli: Cli) -> None:
    ended = cli("inspect", "plain.engine")
    assert (ended.code, ended.err) == (0, "")
    facts = rows(ended.out)
    assert re.fullmatch(r"plain\.engine, \d+\.\d kB, TensorRT-RTX engine", facts["file"])
    assert re.fullmatch(r"TensorRT-RTX \d+\.\d+\.\d+\.\d+", facts["written by"])
    assert re.fullmatch(r"TensorRT-RTX \d+\.\d+\.\d+\.\d+ without a GPU, in \d+\.\d s", facts["built by"])
    assert re.fullmatch(r"/.*/net\.onnx, sha256 [0-9a-f]{16}", facts["built from"])
    assert (facts["precision"], facts["classes"]) == ("fp32", "background, person")
    assert "options" not in facts
    assert "calibrated" not in facts
    assert ["profile", "0", "1x3x8x8", "/", "4x3x8x8", "/", "8x3x8x8"] in table(ended.out)
    assert ended.out.endswith(f"\n\n{NOT_SHOWN}\n")


def test_batch_that_is_open_is_not_shown_as_one(cli: Cli) -> None:
    """What is not known is better left out than wrong; here it is known: the profile says that the batch is open."""
    assert ["input", "input", "?", "?x3x8x8"] in table(cli("inspect", "plain.engine").out)
    (tensor,) = json.loads(cli("inspect", "plain.engine", "--json").out)["tensors"]
    assert tensor["shape"] == [-1, 3, 8, 8]
    assert ["input", "input", "?", "1x3x8x8"] in table(cli("inspect", "one.engine").out)
    (tensor,) = json.loads(cli("inspect", "one.engine", "--json").out)["tensors"]
    assert tensor["shape"] == [1, 3, 8, 8]


def test_what_was_chosen_is_shown(cli: Cli) -> None:
    ended = cli("inspect", "odd.engine")
    facts = rows(ended.out)
    assert facts["precision"] == "fp16"
    assert facts["options"] == "workspace_mib 64, tf32 off"
    assert ["profile", "0", "1x3x8x8", "/", "2x3x8x8", "/", "5x3x8x8"] in table(ended.out)
    facts = rows(cli("inspect", "int8.engine").out)
    assert facts["precision"] == "int8"
    assert facts["calibrated"] == "on up to 6 pictures of pictures"


def test_engine_as_json(cli: Cli) -> None:
    ended = cli("inspect", "odd.engine", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert set(found) == KEYS
    assert (found["file"], found["kind"]) == ("odd.engine", "TensorRT-RTX engine")
    assert found["bytes"] == Path("odd.engine").stat().st_size
    assert found["manifest"] == json.loads(Path("odd.engine.json").read_text(encoding="utf-8"))
    assert found["facts"]["written by"] == f"TensorRT-RTX {found['manifest']['version']}"
    (tensor,) = found["tensors"]
    assert (tensor["mode"], tensor["name"]) == ("input", "input")
    assert tensor["profiles"] == [[[1, 3, 8, 8], [2, 3, 8, 8], [5, 3, 8, 8]]]
    assert (found["operators"], found["layers"], found["note"]) == ({}, [], NOT_SHOWN)


def test_engine_without_a_manifest(cli: Cli) -> None:
    Path("plain.engine.json").unlink()
    ended = cli("inspect", "plain.engine")
    assert (ended.code, ended.err) == (0, "")
    assert set(rows(ended.out)) == {"file", "written by"}
    assert ended.out.count("\n\n") == 1
    assert ended.out.endswith(f"\n\n{NOT_SHOWN}\n")
    found = json.loads(cli("inspect", "plain.engine", "--json").out)
    assert (found["tensors"], found["manifest"]) == ([], None)
    assert re.fullmatch(r"TensorRT-RTX \d+\.\d+\.\d+\.\d+", found["facts"]["written by"])


def test_nobody_else_prints() -> None:
    run = subprocess.run([PROGRAM, "inspect", "plain.engine", "--json"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert set(json.loads(run.stdout)) == KEYS


def test_reader_that_has_left_is_no_error() -> None:
    run = subprocess.run(
        ["bash", "-c", f"{PROGRAM} inspect net.onnx | true"], capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "text.engine",
            b"hello\n" * 30,
            "'text.engine' is no TensorRT engine: it begins with b'hello\\nhe'; build",
        ),
        ("text.txt", b"hello\n" * 30, "'text.txt' is no TensorRT engine: it begins with b'hello\\nhe'; build"),
        ("empty.engine", b"", "'empty.engine' is no TensorRT engine: it is empty; build one: bmf-trt-seg build"),
    ],
)
def test_what_is_no_engine(name: str, content: bytes, words: str, cli: Cli) -> None:
    Path(name).write_bytes(content)
    refused(cli("inspect", name), 1, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch.engine", "model file 'nosuch.engine' does not exist; "),
        ("nosuch.onnx", "model file 'nosuch.onnx' does not exist; "),
        ("persn", "model file 'persn' does not exist; did you mean 'person'?"),
        (".", "model file '.' is a folder, expected a file; "),
        ("pictures", "model file 'pictures' is a folder, expected a file; "),
    ],
)
def test_what_is_no_file(name: str, words: str, cli: Cli) -> None:
    refused(cli("inspect", name), 2, words)
    refused(cli("inspect", name, "--json"), 2, words)


def test_network_known_by_name(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMF_TRT_SEG_MODELS", str(here / "models"))
    refused(cli("inspect", "person"), 2, "run 'bmf-trt-seg models fetch person'")
    Path("models").mkdir()
    shutil.copy("net.onnx", "models/person.onnx")
    shutil.copy("net.json", "models/person.json")
    ended = cli("inspect", "person")
    assert ended.code == 0
    assert rows(ended.out)["file"].startswith(f"{here / 'models' / 'person.onnx'}, ")


def test_engine_that_is_cut_short(cli: Cli) -> None:
    path = Path("plain.engine")
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    words = f"engine 'plain.engine' is cut short: {len(content) - 1000} of {len(content)} bytes are missing"
    refused(cli("inspect", "plain.engine"), 1, words, "rebuild it: bmf-trt-seg build /", "/net.onnx --shapes")
    Path("plain.engine.json").unlink()
    refused(cli("inspect", "plain.engine"), 1, words, "rebuild it: bmf-trt-seg build MODEL.onnx")


def test_engine_that_is_cut_in_its_header(cli: Cli) -> None:
    """It begins as an engine does: that it 'is no TensorRT engine: it begins with vtrt' would not help anybody."""
    path = Path("plain.engine")
    path.write_bytes(path.read_bytes()[:10])
    words = "engine 'plain.engine' is cut short: there are 10 bytes of it; copy it again\n"
    refused(cli("inspect", "plain.engine"), 1, words)


@pytest.mark.parametrize("where", ["middle", "end", "longer"])
def test_engine_that_is_damaged(where: str, cli: Cli) -> None:
    path = Path("plain.engine")
    content = bytearray(path.read_bytes())
    if where == "longer":
        content += b"more"
    else:
        content[len(content) // 2 if where == "middle" else -1] ^= 255
    path.write_bytes(content)
    refused(
        cli("inspect", "plain.engine"), 1, "engine 'plain.engine' is not the one that its manifest 'plain.engine.json'",
        "it is damaged, or another took its place",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["plain.engine", "odd.engine", "int8.engine", "one.engine"])
def test_advice_to_rebuild_helps(name: str, cli: Cli) -> None:
    """The command in the message puts this very engine right: its place, its shapes, its calibration."""
    before = json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))
    path = Path(name)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = re.search(r"rebuild it: bmf-trt-seg (build [^;]*?)(?:, or|;|\n)", cli("inspect", name).err)
    assert found is not None
    assert cli(*shlex.split(found[1])).code == 0
    assert cli("inspect", name).code == 0
    after = json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))
    for key in ("precision", "profiles", "calibration", "calibration_source", "calibration_frames"):
        assert after[key] == before[key]


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is no JSON"), ("[]", "expected a JSON object"), ('{"library": 1}', "option 'library'")],
)
def test_manifest_that_is_damaged(content: str, words: str, cli: Cli) -> None:
    Path("plain.engine.json").write_text(content)
    ended = cli("inspect", "plain.engine")
    refused(ended, 2, "manifest 'plain.engine.json'", words)


def test_device(cli: Cli) -> None:
    refused(cli("inspect", "plain.engine", "--device", "cpu"), 2, "device 'cpu': TensorRT has GPUs only")


@pytest.mark.parametrize("device", ["gpu7", "cuda:x", "cuda:"])
def test_wrong_device(device: str, cli: Cli) -> None:
    words = f"device '{device}' is none; allowed are 'auto', 'cpu', 'cuda' and 'cuda:N'\n"
    refused(cli("inspect", "plain.engine", "--device", device), 2, words)


# --- running them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "net.onnx", "--backend", "tensorrt"],
        ["-m", "net.onnx", "--backend", "tensorrt", "--build", "precision=fp16"],
        ["-m", "plain.engine"],
        ["-m", "plain.engine", "--backend", "tensorrt"],
    ],
    ids=" ".join,
)
def test_segment_without_a_gpu(
    flags: list[str], cli: Cli, here: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bmf_trt_seg.engine.builder.EngineFromOnnx.build", lambda *values, **named: pytest.fail("built in vain")
    )
    before = left_in(here)
    started = time.monotonic()
    ended = cli("segment", plain_clip, "-o", "out.mp4", "--json", "out.jsonl", "--masks", "masks", *flags)
    refused(ended, 1, f"bmf-trt-seg: {NO_GPU}\n")
    assert time.monotonic() - started < 5
    assert left_in(here) == before


def test_segment_without_a_gpu_as_a_user_meets_it(here: Path, plain_clip: Path) -> None:
    before = left_in(here)
    started = time.monotonic()
    run = subprocess.run(
        [PROGRAM, "segment", str(plain_clip), "-o", "out.mp4", "-m", "net.onnx", "--backend", "tensorrt"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (1, "", f"bmf-trt-seg: {NO_GPU}\n")
    assert time.monotonic() - started < 15
    assert left_in(here) == before


def test_segment_with_pictures_and_no_gpu(cli: Cli, here: Path) -> None:
    before = left_in(here)
    refused(cli("segment", "pictures/a.png", "-o", "out.png", "-m", "plain.engine"), 1, NO_GPU)
    assert left_in(here) == before


def test_segment_with_an_engine_that_nobody_described(cli: Cli, here: Path, plain_clip: Path) -> None:
    Path("plain.engine.json").unlink()
    before = left_in(here)
    ended = cli("segment", plain_clip, "-o", "out.mp4", "-m", "plain.engine")
    refused(ended, 2, "model 'plain.engine' has no description: 'plain.json' should lie beside it")
    assert left_in(here) == before


@pytest.mark.parametrize("content", [b"hello\n" * 30, b""])
def test_segment_with_what_is_no_engine(content: bytes, cli: Cli, here: Path, plain_clip: Path) -> None:
    Path("bad.engine").write_bytes(content)
    shutil.copy("net.json", "bad.json")
    before = left_in(here)
    refused(cli("segment", plain_clip, "-o", "out.mp4", "-m", "bad.engine"), 1, "'bad.engine' is no TensorRT engine")
    assert left_in(here) == before


def test_build_options_are_for_onnx_files(cli: Cli, here: Path, tmp_path: Path) -> None:
    """A build that cannot be is refused before the video is looked at, with what is wrong in the option."""
    clip: Any = clips.write_clip(tmp_path / "clip.mp4", frames=2)
    ended = cli("segment", clip, "-o", "out.mp4", "-m", "net.onnx", "--backend", "tensorrt", "--build", "precisio=fp16")
    refused(ended, 2, "precisio")
    assert not Path("out.mp4").exists()
