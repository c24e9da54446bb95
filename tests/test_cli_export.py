"""`models export`, as a user meets it: a network of one's own in PyTorch, on to a segmented clip."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import clips
import pytest
from commands import Cli, runner
from jobs import left_in, read_records

from bmf_trt_seg.spec import ModelSpec

NETS = """
import torch

class Bright(torch.nn.Module):
    \"\"\"Two classes: dark and bright.\"\"\"

    def forward(self, input):
        bright = 20 * (input.mean(dim=1, keepdim=True) - 0.65)
        return torch.cat([-bright, bright], dim=1)

def bright():
    return Bright()

def too_small():
    return torch.nn.Conv2d(3, 2, 64)
"""
SIZE = f"{clips.SIZE_WH[1]}x{clips.SIZE_WH[0]}"
FROM = ["models", "export", "--from", "nets.py:bright", "--size", SIZE, "--normalize", "unit"]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    yield tmp_path
    sys.modules.pop("nets", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


@pytest.mark.parametrize(
    "head", [[], ["--softmax"], ["--argmax"], ["--fp16"]], ids=lambda flags: "".join(flags) or "plain"
)
def test_network_of_ones_own_segments_a_clip(head: list[str], cli: Cli, plain_clip: Path) -> None:
    ended = cli(*FROM, "--labels", "background,box", *head, "--dynamic", "--picture", plain_clip, "-o", "net.onnx")
    assert (ended.code, ended.out) == (0, "net.onnx\n")
    for words in ("on a random picture: ", f"on '{plain_clip}': ", "100.000% of the pixels", "net.onnx: ", "2 classes"):
        assert words in ended.err
    assert ModelSpec.read(Path("net.json")).labels == ["background", "box"]
    assert cli("segment", plain_clip, "-o", "out.mp4", "-m", "net.onnx", "--json", "out.jsonl").code == 0
    records = read_records(Path("out.jsonl"))
    assert len(records) == 30
    shares = [record["classes"][0]["share"] if record["classes"] else 0 for record in records]
    expected = [clips.box_mask(number, *clips.SIZE_WH).mean() for number in range(30)]
    assert max(abs(one - other) for one, other in zip(shares, expected, strict=True)) < 0.03


def test_quantized_with_a_clip(cli: Cli, plain_clip: Path) -> None:
    Path("nets.py").write_text(
        NETS + "\ndef conv():\n    torch.manual_seed(0)\n    return torch.nn.Conv2d(3, 2, 3, padding=1)\n"
    )
    ended = cli(
        "models",
        "export",
        "--from",
        "nets.py:conv",
        "--size",
        "64x64",
        "--qdq",
        plain_clip,
        "--qdq-frames",
        "4",
        "--least-agreement",
        "50",
    )
    assert (ended.code, ended.out) == (0, "conv.qdq.onnx\n"), ended.err
    assert f"quantizing, with scales from {plain_clip}" in ended.err
    assert f"on '{plain_clip}': largest difference" in ended.err
    assert left_in(Path()) == {"nets.py", "conv.qdq.onnx", "conv.qdq.json"}


def test_nothing_is_replaced_unasked(cli: Cli) -> None:
    Path("net.json").write_text("mine")
    ended = cli(*FROM, "-o", "net.onnx")
    assert (ended.code, ended.out) == (2, "")
    assert "'net.json' exists; give -y to replace it" in ended.err
    assert left_in(Path()) == {"nets.py", "net.json"}
    assert cli(*FROM, "-o", "net.onnx", "-y", "-q").err == ""
    assert ModelSpec.read(Path("net.json")).labels == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["models", "export"], 2, "give either the NAME of a network or --from MODULE:FUNCTION"),
        (["models", "export", "fcn_resnet50", "--from", "nets:bright"], 2, "give either the NAME of a network or"),
        (["models", "export", "--from", "nets.py:bright"], 2, "--from wants --size HxW, as in --size 512x512"),
        ([*FROM, "--weights", "none"], 2, "--weights is for a NAME"),
        ([*FROM, "--softmax", "--argmax"], 2, "--softmax and --argmax: choose one"),
        ([*FROM, "--fp16", "--qdq", "nets.py"], 2, "--fp16 and --qdq: choose one"),
        ([*FROM, "--labels", "a,b,c"], 2, "--labels names 3 classes, the network has 2"),
        ([*FROM, "--qdq", "nosuch.mp4"], 2, "'nosuch.mp4' does not exist"),
        ([*FROM, "--picture", "nets.py"], 1, "nets.py"),
        ([*FROM, "-o", "net.engine"], 2, "-o 'net.engine': the name of an ONNX file ends in .onnx"),
        ([*FROM, "-o", "nosuch/net.onnx"], 1, "the folder 'nosuch' does not exist"),
        ([*FROM[:3], "nets.py:too_small", "--size", "32x32"], 1, "'too_small' does not run on pictures of 32x32"),
        (["models", "export", "fcn_resnet50", "--size", "9x9"], 2, "--size takes HEIGHTxWIDTH in pixels"),
        (["models", "export", "fcn_resnet50", "--activation", "none"], 2, "--activation is for --from"),
        (["models", "export", "fcn_resnet5"], 2, "there is no network 'fcn_resnet5' to export; did you mean"),
        (["models", "export", "fcn_resnet50", "--weights", "nosuch.pth"], 2, "'nosuch.pth' does not exist"),
    ],
)  # fmt: skip
def test_wrong_usage_writes_nothing(flags: list[str], code: int, words: str, cli: Cli) -> None:
    ended = cli(*flags)
    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err
    assert left_in(Path()) == {"nets.py"}


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision not installed")
@pytest.mark.timeout(300)
def test_random_weights_are_said_loudly(cli: Cli, plain_clip: Path) -> None:
    ended = cli("models", "export", "lraspp_mobilenet_v3_large", "--weights", "none", "--size", "64x96", "-q")
    assert (ended.code, ended.out) == (0, "lraspp_mobilenet_v3_large.onnx\n")
    assert ended.err == (
        "warning: 'lraspp_mobilenet_v3_large' has random weights: it is for trying and measuring, what it segments has "
        "no meaning\n"
    )
    assert "RANDOM WEIGHTS" in cli("models", "show", "lraspp_mobilenet_v3_large.onnx").out
    assert cli("segment", plain_clip, "-o", "out.mp4", "-m", "lraspp_mobilenet_v3_large.onnx").code == 0
