"""`bmf-trt-seg build`: what is said where, what is written, and how it ends; with TensorRT-RTX, which wants no GPU."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import numpy as np
import onnx
import pytest
from commands import Cli, Ended, runner
from factories import make_spec, save_onnx
from jobs import left_in
from PIL import Image

from bmf_trt_seg.cli import progress

pytest.importorskip("tensorrt_rtx")
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT builds on a GPU"),
    pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="it is about machines without a GPU"),
]

PROGRAM = str(Path(sys.executable).with_name("bmf-trt-seg"))
WEIGHTS = np.random.default_rng(3).normal(size=(2, 3, 3, 3)).astype(np.float32)
BUILT = r"built for TensorRT-RTX [\d.]+ in \d+\.\d s, \d+\.\d [kM]B"
IS_THERE = r"is there already, built for TensorRT-RTX [\d.]+; --force builds it again"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: net.onnx for pictures of 8x8, its batch open, and its description."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BMF_TRT_SEG_ENGINES", raising=False)
    save_onnx(Path("net.onnx"), WEIGHTS, spec=make_spec(activation="none"))
    return tmp_path


@pytest.fixture
def open_net() -> Path:
    """Height and width are open, too, and there is no description."""
    return save_onnx(Path("open.onnx"), WEIGHTS, size_hw=("H", "W"))


@pytest.fixture
def pictures() -> Path:
    folder = Path("pictures")
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (12, 9), (50 * number, 100, 30)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def slow_net(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes networks of as many layers as wanted; 500 build in about 2 seconds."""
    folder = tmp_path_factory.mktemp("slow")

    def make(layers: int) -> Path:
        path = folder / f"slow{layers}.onnx"
        nodes, weights, channels, last = [], [], 3, "input"
        for index in range(layers):
            more = 8 + index % 23
            weights.append(onnx.numpy_helper.from_array(np.full((more, channels, 3, 3), 0.01, np.float32), f"w{index}"))
            nodes.append(onnx.helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1] * 4))
            last = "output" if index == layers - 1 else f"a{index}"
            nodes.append(onnx.helper.make_node(("Sigmoid", "Relu", "Tanh")[index % 3], [f"c{index}"], [last]))
            channels = more
        tensor = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes, "slow", [tensor("input", 1, ["N", 3, 32, 32])], [tensor("output", 1, ["N", channels, 32, 32])],
            weights,
        )  # fmt: skip
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        return path

    return make


def program(*arguments: object) -> Ended:
    """Runs the console script in a process of its own."""
    run = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    return Ended(run.returncode, run.stdout, run.stderr)


def manifest_of(engine: str | Path) -> dict[str, Any]:
    return json.loads(Path(f"{engine}.json").read_text(encoding="utf-8"))


def built(cli: Cli, *arguments: object) -> tuple[Path, dict[str, Any]]:
    """An engine that the command line built, and what its manifest says."""
    ended = cli("build", *arguments)
    assert ended.code == 0, ended.err
    path = Path(ended.out.removesuffix("\n"))
    assert path.is_file()
    return path, manifest_of(path)


def profile_of(manifest: dict[str, Any], name: str = "input") -> str:
    shapes = manifest["profiles"][name]
    return "/".join("x".join(map(str, shapes[kind])) for kind in ("min", "opt", "max"))


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def visible(folder: Path) -> set[str]:
    """What is in a folder, the locks of builds aside, which stay."""
    return {name for name in left_in(folder) if not name.endswith(".lock")} if folder.exists() else set()


def refused(ended: Ended, code: int, *words: str) -> None:
    """Ended with one line that has these words in it, and left no engine."""
    assert (ended.code, ended.out) == (code, ""), ended
    assert re.fullmatch(r"bmf-trt-seg: [^\n]+\n", ended.err)
    for word in words:
        assert word in ended.err
    assert visible(Path("engines")) == set()


# --- what it says, and where -----------------------------------------------------------------------------------------


def test_help_is_quick_and_fits_a_terminal(cli: Cli) -> None:
    ended = cli("build", "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: bmf-trt-seg build [OPTIONS] MODEL.onnx\n")
    assert max(map(len, ended.out.splitlines())) <= 110
    code = (
        "import sys\nfrom bmf_trt_seg.cli.main import main\n"
        "try: main(['build', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'tensorrt_rtx', 'onnx', 'onnxruntime', 'bmf', 'av') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


def test_prints_the_path_of_the_engine_and_builds_it_once(cli: Cli) -> None:
    first = cli("build", "net.onnx")
    assert first.code == 0
    assert re.fullmatch(r"engines/net\.fp32\.[0-9a-f]{12}\.engine\n", first.out)
    assert re.fullmatch(rf"net\.onnx fp32: {BUILT}\n", first.err)
    path = Path(first.out.strip())
    assert visible(Path("engines")) == {path.name, f"{path.name}.json"}
    of_the_first = identity(path)
    second = cli("build", "net.onnx")
    assert (second.code, second.out) == (0, first.out)
    assert re.fullmatch(rf"net\.onnx fp32: {IS_THERE}\n", second.err)
    assert identity(path) == of_the_first
    third = cli("build", "net.onnx", "--force")
    assert (third.code, third.out) == (0, first.out)
    assert re.fullmatch(rf"net\.onnx fp32: {BUILT}\n", third.err)
    assert identity(path) != of_the_first


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_prints_the_path_only(flag: str, cli: Cli) -> None:
    first = cli("build", "net.onnx", flag)
    assert (first.code, first.err) == (0, "")
    assert Path(first.out.removesuffix("\n")).is_file()
    assert cli("build", "net.onnx", flag) == first
    assert cli("build", "net.onnx", flag, "--int8").err.startswith("bmf-trt-seg: ")  # but errors, too


def test_verbose_shows_what_tensorrt_says_and_the_path_stays_alone(cli: Cli) -> None:
    ended = cli("build", "net.onnx", "-v")
    assert ended.code == 0
    assert Path(ended.out.removesuffix("\n")).is_file()
    *said, last = ended.err.splitlines()
    assert len(said) > 5
    assert all(line.startswith("TensorRT: ") for line in said)
    assert re.fullmatch(rf"net\.onnx fp32: {BUILT}", last)


def test_nobody_else_prints(bright: Path, plain_clip: Path) -> None:
    """In a process of its own: ONNX Runtime, FFmpeg and TensorRT write to descriptors, or as they are imported."""
    ended = program("build", bright, "--int8", "--calibrate", plain_clip, "--calibrate-frames", 8)
    assert ended.code == 0
    assert re.fullmatch(r"engines/bright\.int8\.[0-9a-f]{12}\.engine\n", ended.out)
    assert re.fullmatch(rf"bright\.onnx int8: {BUILT}\n", ended.err)


def test_reader_that_has_left_is_no_error() -> None:
    run = subprocess.run(
        ["bash", "-c", f"{PROGRAM} build net.onnx -q | true"], capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""


# --- where it writes -------------------------------------------------------------------------------------------------


def test_engine_under_a_name_of_ones_own(cli: Cli, here: Path) -> None:
    ended = cli("build", "net.onnx", "-o", "mine.engine")
    assert (ended.code, ended.out) == (0, "mine.engine\n")
    assert visible(here) == {"net.onnx", "net.json", "mine.engine", "mine.engine.json"}
    again = cli("build", "net.onnx", "-o", "mine.engine")
    assert (again.code, again.out) == (0, "mine.engine\n")
    assert re.fullmatch(rf"net\.onnx fp32: {IS_THERE}\n", again.err)
    other = cli("build", "net.onnx", "-o", "mine.engine", "--fp16")
    assert re.fullmatch(rf"net\.onnx fp16: {BUILT}\n", other.err)
    assert manifest_of("mine.engine")["precision"] == "fp16"


def test_missing_folder(cli: Cli, here: Path) -> None:
    ended = cli("build", "net.onnx", "-o", "nosuch/mine.engine")
    refused(ended, 1, "'nosuch/mine.engine' cannot be written: the folder 'nosuch' does not exist")
    assert left_in(here) == {"net.onnx", "net.json"}


def test_folder_as_the_engine(cli: Cli, here: Path) -> None:
    Path("folder").mkdir()
    ended = cli("build", "net.onnx", "-o", "folder")
    refused(ended, 1, "'folder' cannot be written: it is a folder\n")  # and not that of BMF_TRT_SEG_ENGINES
    assert left_in(here) == {"net.onnx", "net.json", "folder"}


@pytest.mark.parametrize("target", ["net.onnx", "./net.onnx", "net.json"])
@pytest.mark.parametrize("flags", [[], ["--force"]], ids=str)
def test_engine_does_not_replace_what_it_is_built_from(flags: list[str], target: str, cli: Cli, here: Path) -> None:
    before = {name: Path(name).read_bytes() for name in ("net.onnx", "net.json")}
    ended = cli("build", "net.onnx", "-o", target, *flags)
    refused(ended, 2, f"'{Path(target)}' is the input; choose another name")
    assert {name: Path(name).read_bytes() for name in left_in(here)} == before


@pytest.mark.parametrize("content", [b"notes of mine\n", b""], ids=["text", "empty"])
def test_engine_replaces_what_is_none_when_forced_only(content: bytes, cli: Cli, here: Path) -> None:
    Path("notes.txt").write_bytes(content)
    ended = cli("build", "net.onnx", "-o", "notes.txt")
    assert (ended.code, ended.out) == (2, "")
    assert "Error: 'notes.txt' exists and is no engine; give --force to replace it\n" in ended.err
    assert Path("notes.txt").read_bytes() == content
    assert left_in(here) == {"net.onnx", "net.json", "notes.txt"}
    forced = cli("build", "net.onnx", "-o", "notes.txt", "--force")
    assert (forced.code, forced.out) == (0, "notes.txt\n")
    assert Path("notes.txt").read_bytes().startswith(b"vtrt")
    assert cli("build", "net.onnx", "-o", "notes.txt").code == 0  # it is an engine now


def test_engine_of_unknown_origin_is_replaced_by_force(cli: Cli) -> None:
    """As trtexec writes them."""
    plan = b"ftrt" + bytes(60)
    Path("mine.engine").write_bytes(plan)
    refused(
        cli("build", "net.onnx", "-o", "mine.engine"), 2, "'mine.engine' is an engine of a network that is not known"
    )
    assert Path("mine.engine").read_bytes() == plan
    assert cli("build", "net.onnx", "-o", "mine.engine", "--force").code == 0
    assert Path("mine.engine").read_bytes().startswith(b"vtrt")


def test_engine_of_another_network_is_replaced_by_force(cli: Cli) -> None:
    save_onnx(Path("other.onnx"), WEIGHTS * 2)
    built(cli, "other.onnx", "-o", "mine.engine")
    before = Path("mine.engine").read_bytes()
    ended = cli("build", "net.onnx", "-o", "mine.engine")
    refused(ended, 2, "'mine.engine' is an engine of", "other.onnx", "give --force to replace it")
    assert Path("mine.engine").read_bytes() == before
    built(cli, "net.onnx", "-o", "mine.engine", "--force")


def test_least_level_is_a_level(cli: Cli) -> None:
    built(cli, "net.onnx", "--opt-level", "0", "-o", "mine.engine")
    assert json.loads(Path("mine.engine.json").read_text())["options"]["opt_level"] == 0
    assert "opt_level 0" in cli("inspect", "mine.engine").out


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"input": {"name": "pixels"}}, ["has no input 'pixels', which its description names; it has: 'input'"]),
        ({"output": {"name": "scores"}}, ["has no output 'scores', which its description names; it has: 'output'"]),
        ({"input": {"height": 9}}, ["has another shape than its description says: ['N', 3, 9, 8] (nchw)"]),
        ({"input": {"layout": "nhwc"}}, ["has another shape than its description says"]),
        ({"input": {"dtype": "float16"}}, ["takes float32, its description says float16"]),
    ],
    ids=str,
)
def test_description_that_is_not_the_networks(description: dict[str, Any], words: list[str], cli: Cli) -> None:
    make_spec(activation="none", **description).write(Path("net.json"))
    refused(cli("build", "net.onnx"), 1, "net.onnx", *words)
    assert not Path("engines").exists()


def test_manifest_does_not_replace_the_description(cli: Cli, here: Path) -> None:
    """FILE.json of `-o net` is the description of net.onnx."""
    before = Path("net.json").read_bytes()
    ended = cli("build", "net.onnx", "-o", "net")
    refused(ended, 2, "'net.json'")
    assert Path("net.json").read_bytes() == before


def test_engine_does_not_replace_the_video_it_is_calibrated_on(cli: Cli, plain_clip: Path) -> None:
    video = Path("clip.mp4")
    video.write_bytes(plain_clip.read_bytes())
    ended = cli("build", "net.onnx", "--int8", "--calibrate", video, "-o", video)
    refused(ended, 2, "clip.mp4", "choose another name")
    assert video.read_bytes() == plain_clip.read_bytes()


def test_folder_of_engines(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(here / "kept" / "here"))
    path, _ = built(cli, "net.onnx")
    assert path.parent == here / "kept" / "here"
    assert not Path("engines").exists()
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", "")
    path, _ = built(cli, "net.onnx")
    assert path.parent == Path("engines")


@pytest.mark.parametrize("below", ["", "/below"])
def test_folder_of_engines_that_is_a_file(below: str, cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", f"file{below}")
    ended = cli("build", "net.onnx")
    refused(ended, 1, f"'file{below}/net.fp32.", "cannot be written", "BMF_TRT_SEG_ENGINES to another folder")
    assert left_in(here) == {"net.onnx", "net.json", "file"}


def test_damaged_engine_is_built_again(cli: Cli) -> None:
    path, _ = built(cli, "net.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    ended = cli("build", "net.onnx")
    assert ended.code == 0
    assert re.fullmatch(rf"net\.onnx fp32: {BUILT}\n", ended.err)


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("persn", ["model file 'persn' does not exist; did you mean 'person'?"]),
        ("nosuch.onnx", ["model file 'nosuch.onnx' does not exist"]),
        (".", ["model file '.' is a folder"]),
        ("net.json", ["model 'net.json': engines are built from .onnx files"]),
    ],
)
def test_what_is_no_model(model: str, words: list[str], cli: Cli) -> None:
    refused(cli("build", model), 2, *words)


@pytest.mark.parametrize("content", [b"", b"no network\n" * 20, None], ids=["empty", "text", "cut"])
def test_broken_file(content: bytes | None, cli: Cli) -> None:
    Path("bad.onnx").write_bytes(Path("net.onnx").read_bytes()[:300] if content is None else content)
    refused(cli("build", "bad.onnx"), 1, "model 'bad.onnx' is broken, or no ONNX file")


def _with_foo(path: Path, **attributes: str) -> Path:
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Foo", ["input"], ["output"], **attributes)],
        "foo",
        [tensor("input", 1, ["N", 3, 8, 8])],
        [tensor("output", 1, ["N", 3, 8, 8])],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("mine", 1)]
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("domain", ["", "mine"])
def test_operator_that_tensorrt_does_not_know_is_named(domain: str, cli: Cli) -> None:
    ended = cli("build", _with_foo(Path("foo.onnx"), name="strange", domain=domain))
    refused(ended, 1, "model 'foo.onnx' cannot be built by TensorRT: operator Foo (node 'strange'): it is not known")
    assert not list(Path("engines").glob("*.part"))


# --- options ---------------------------------------------------------------------------------------------------------


def test_fp16(cli: Cli) -> None:
    path, manifest = built(cli, "net.onnx", "--fp16")
    assert re.fullmatch(r"net\.fp16\.[0-9a-f]{12}\.engine", path.name)
    assert (manifest["precision"], manifest["options"]["precision"]) == ("fp16", "fp16")
    assert manifest["spec"]["labels"] == ["background", "person"]


def test_options_reach_the_manifest(cli: Cli) -> None:
    _, manifest = built(
        cli, "net.onnx", "--opt-level", 5, "--workspace", 64, "--no-tf32", "--hardware-compatible",
        "--tactic-sources", "JIT_CONVOLUTIONS,edge_mask_convolutions",
    )  # fmt: skip
    chosen = manifest["options"]
    assert (chosen["opt_level"], chosen["workspace_mib"], chosen["tf32"]) == (5, 64, False)
    assert (chosen["hardware_compatible"], chosen["version_compatible"], chosen["strip"]) == (True, False, False)
    assert chosen["tactic_sources"] == ["JIT_CONVOLUTIONS", "edge_mask_convolutions"]


def test_bf16_of_a_network_without_bfloat16(cli: Cli) -> None:
    refused(cli("build", "net.onnx", "--bf16"), 2, "'net.onnx' has none; export it in bfloat16, or choose fp16")


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ("2x3x16x16", "2x3x16x16/2x3x16x16/2x3x16x16"),
        ("input:2x3x16x16", "2x3x16x16/2x3x16x16/2x3x16x16"),
        ("1x3x8x8/2x3x16x16/4x3x32x32", "1x3x8x8/2x3x16x16/4x3x32x32"),
        ("input:1x3x8x8/2x3x16x16/4x3x32x32", "1x3x8x8/2x3x16x16/4x3x32x32"),
        (" input:1X3X8X8 / 2x3x16x16 / 4x3x32x32 ", "1x3x8x8/2x3x16x16/4x3x32x32"),
    ],
)
def test_shapes(shapes: str, expected: str, cli: Cli, open_net: Path) -> None:
    _, manifest = built(cli, open_net, "--shapes", shapes)
    assert profile_of(manifest) == expected


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ("1x3x8x8/2x3x8x8", ["--shapes: '1x3x8x8/2x3x8x8' has 2 shapes; give one, or three as min/opt/max"]),
        ("axb", ["--shapes: 'axb' is no shape; write it as 1x3x256x256"]),
        ("input:", ["is no shape"]),
        ("1x3x-8x8", ["'1x3x-8x8' is no shape"]),
        ("picture:1x3x8x8", ["shapes", "'open.onnx' has no input 'picture'; it has input"]),
        ("3x8x8", ["shapes", "3x8x8 does not fit the input 'input' float32 (N, 3, H, W)"]),
        ("1x4x8x8", ["shapes", "1x4x8x8 does not fit the input 'input' float32 (N, 3, H, W)"]),
        (
            "1x3x8x8/4x3x8x8/2x3x8x8",
            ["--shapes: '1x3x8x8/4x3x8x8/2x3x8x8' must go from small to large in every dim"],
        ),
        ("1x3x8x8,1x3x9x9", ["--shapes: '1x3x8x8,1x3x9x9' does not say of which inputs; write sizes as 1x3x256x256"]),
        ("1,3,512,512", ["--shapes: '1,3,512,512' does not say of which inputs; write sizes as 1x3x256x256"]),
        ("input:1x3x8x8,input:1x3x9x9", ["--shapes: 'input:1x3x9x9' follows another for the same input"]),
        ("1x3x8x8,input:1x3x9x9", ["does not say of which inputs"]),
        ("0x3x8x8", ["--shapes: '0x3x8x8' must go from small to large in every dimension, and from 1"]),
        ("", ["--shapes: '' has no shape in it; write it as 1x3x256x256"]),
        (",", ["--shapes: ',' has no shape in it"]),
    ],
)
def test_wrong_shapes(shapes: str, words: list[str], cli: Cli, open_net: Path) -> None:
    ended = cli("build", open_net, "--shapes", shapes)
    refused(ended, 2, *words)
    assert "{" not in ended.err  # what was given is shown as it was given, not as we keep it


def test_sizes_left_open_are_asked_for(cli: Cli, open_net: Path) -> None:
    refused(
        cli("build", open_net), 2, "input 'input' float32 (N, 3, H, W) leaves sizes open",
        "--shapes input:MIN/OPT/MAX, where each is a shape as 1x3x512x512",
    )  # fmt: skip


def test_description_says_height_and_width(cli: Cli, open_net: Path) -> None:
    make_spec(activation="none", input={"height": 24, "width": 40}).write(Path("open.json"))
    _, manifest = built(cli, open_net)
    assert profile_of(manifest) == "1x3x24x40/4x3x24x40/8x3x24x40"


def test_shapes_of_several_inputs(cli: Cli) -> None:
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["a", "b"], ["output"])],
        "two",
        [tensor("a", 1, ["N", "M"]), tensor("b", 1, ["N", "M"])],
        [tensor("output", 1, ["N", "M"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    Path("two.onnx").write_bytes(model.SerializeToString())
    refused(cli("build", "two.onnx", "--shapes", "1x3"), 2, "say of which input: a, b; as in NAME:1x3x256x256")
    refused(cli("build", "two.onnx", "--shapes", "a:1x3"), 2, "input 'b' float32 (N, M) leaves sizes open")
    _, manifest = built(cli, "two.onnx", "--shapes", "a:1x3/2x4/3x5, b:1x3/2x4/3x5")
    assert profile_of(manifest, "a") == profile_of(manifest, "b") == "1x3/2x4/3x5"


@pytest.mark.parametrize(("size", "expected"), [(1, "1/1/1"), (2, "1/1/2"), (5, "1/2/5"), (16, "1/8/16")])
def test_batch_size(size: int, expected: str, cli: Cli) -> None:
    _, manifest = built(cli, "net.onnx", "--batch-size", size)
    assert profile_of(manifest).replace("x3x8x8", "") == expected


def test_batch_size_is_for_what_the_shapes_leave_open(cli: Cli) -> None:
    _, manifest = built(cli, "net.onnx", "--batch-size", 4, "--shapes", "1x3x8x8/2x3x8x8/16x3x8x8")
    assert profile_of(manifest) == "1x3x8x8/2x3x8x8/16x3x8x8"
    save_onnx(Path("fixed.onnx"), WEIGHTS, batch=2)
    _, manifest = built(cli, "fixed.onnx", "--batch-size", 4)
    assert profile_of(manifest) == "2x3x8x8/2x3x8x8/2x3x8x8"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Error: Missing argument 'MODEL.onnx'."),
        (["net.onnx", "--opt-level", "9"], "Error: Invalid value for '--opt-level': 9 is not in the range 0<=x<=5."),
        (["net.onnx", "--opt-level", "high"], "Error: Invalid value for '--opt-level'"),
        (["net.onnx", "--batch-size", "0"], "0 is not in the range 1<=x<=256."),
        (["net.onnx", "--batch-size", "257"], "257 is not in the range 1<=x<=256."),
        (["net.onnx", "--workspace", "0"], "Error: Invalid value for '--workspace'"),
        (["net.onnx", "--calibrate-frames", "0"], "Error: Invalid value for '--calibrate-frames'"),
        (["net.onnx", "--int4"], "Error: No such option"),
        (["net.onnx", "--fp16", "--int8"], "Error: --fp16 and --int8: choose one"),
        (["net.onnx", "--int8", "--bf16", "--calibrate", "nosuch"], "Error: --bf16 and --int8: choose one"),
        (["net.onnx", "--fp16", "--bf16"], "Error: --fp16 and --bf16: choose one"),
        (["net.onnx", "net.onnx"], "Error: Got unexpected extra argument (net.onnx)"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, cli: Cli) -> None:
    ended = cli("build", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert not Path("engines").exists()


def test_unknown_sources_of_tactics(cli: Cli) -> None:
    refused(
        cli("build", "net.onnx", "--tactic-sources", "JIT_CONVOLUTIONS,CUBLASS"), 2,
        "got 'CUBLASS', allowed are EDGE_MASK_CONVOLUTIONS, JIT_CONVOLUTIONS",
    )  # fmt: skip


def test_what_wants_a_gpu_says_so(cli: Cli) -> None:
    refused(
        cli("build", "net.onnx", "--strip"), 1, "option 'strip': TensorRT-RTX ",
        " wants a GPU for this, and PyTorch finds none here\n",
    )  # fmt: skip


def test_engines_for_other_versions_are_not_those_of_rtx(cli: Cli) -> None:
    ended = cli("build", "net.onnx", "--version-compatible")
    refused(ended, 2, "option 'version_compatible': TensorRT-RTX ", " has no such engines; leave it out\n")


@pytest.mark.parametrize("device", ["gpu7", "cuda:", "cuda:x", ""])
def test_wrong_device(device: str, cli: Cli) -> None:
    words = f"device '{device}' is none; allowed are 'auto', 'cpu', 'cuda' and 'cuda:N'\n"
    refused(cli("build", "net.onnx", "--device", device), 2, words)


def test_engines_for_the_cpu(cli: Cli) -> None:
    refused(cli("build", "net.onnx", "--device", "cpu"), 2, "device 'cpu': TensorRT has GPUs only")


# --- INT8 ------------------------------------------------------------------------------------------------------------


def test_int8_wants_pictures(cli: Cli) -> None:
    refused(
        cli("build", "net.onnx", "--int8"), 2, "'net.onnx' does not say how it is quantized (Q/DQ)",
        "--int8 --calibrate VIDEO_OR_FOLDER",
    )  # fmt: skip


def test_int8_calibrated_on_a_video(cli: Cli, plain_clip: Path) -> None:
    path, manifest = built(cli, "net.onnx", "--int8", "--calibrate", plain_clip, "--calibrate-frames", 6)
    assert re.fullmatch(r"net\.int8\.[0-9a-f]{12}\.engine", path.name)
    assert manifest["precision"] == "int8"
    assert re.fullmatch("[0-9a-f]{64}", manifest["calibration"])
    assert (manifest["calibration_source"], manifest["calibration_frames"]) == (str(plain_clip), 6)
    again = cli("build", "net.onnx", "--int8", "--calibrate", plain_clip, "--calibrate-frames", 6)
    assert re.fullmatch(rf"net\.onnx int8: {IS_THERE}\n", again.err)
    other, _ = built(cli, "net.onnx", "--int8", "--calibrate", plain_clip, "--calibrate-frames", 7)
    assert other != path


def test_int8_calibrated_on_a_folder(cli: Cli, pictures: Path) -> None:
    path, manifest = built(cli, "net.onnx", "--int8", "--calibrate", pictures)
    assert (manifest["calibration_source"], manifest["calibration_frames"]) == (str(pictures), 128)
    ended = cli("build", "net.onnx", "--int8", "--calibrate", pictures, "--batch-size", 2)  # batches that are full
    assert ended.code == 0
    Image.new("RGB", (12, 9)).save(pictures / "5.png")
    other, changed = built(cli, "net.onnx", "--int8", "--calibrate", pictures)
    assert other != path
    assert changed["calibration"] != manifest["calibration"]
    absolute, _ = built(cli, "net.onnx", "--int8", "--calibrate", pictures.absolute())
    assert absolute == other  # the same pictures, by another path


def test_another_way_to_prepare_pictures_is_another_calibration(cli: Cli, pictures: Path) -> None:
    """The scales of INT8 depend on mean and std; those of the description, which is no part of other engines."""
    path, _ = built(cli, "net.onnx", "--int8", "--calibrate", pictures)
    make_spec(activation="none", input={"mean": [0.5] * 3, "std": [0.01] * 3}).write(Path("net.json"))
    ended = cli("build", "net.onnx", "--int8", "--calibrate", pictures)
    assert re.fullmatch(rf"net\.onnx int8: {BUILT}\n", ended.err)
    assert ended.out != f"{path}\n"


@pytest.mark.parametrize("flags", [[], ["--fp16"]], ids=str)
def test_calibration_is_for_int8(flags: list[str], cli: Cli, pictures: Path) -> None:
    refused(cli("build", "net.onnx", *flags, "--calibrate", pictures), 2, "--calibrate is for --int8")


def test_calibration_wants_a_description(cli: Cli, open_net: Path, pictures: Path) -> None:
    ended = cli("build", open_net, "--int8", "--calibrate", pictures, "--shapes", "1x3x8x8")
    refused(ended, 2, "'open.json' should lie beside the model")


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nothing", 2, "'nothing' has no pictures to calibrate on; pictures end in .bmp, .jpeg"),
        ("spoilt", 1, "'spoilt/a.png' is no picture"),
        ("text.mp4", 1, "'text.mp4' is no video that FFmpeg can read"),
        ("empty.mp4", 1, "'empty.mp4' is empty (0 bytes)"),
        ("sound.mp4", 1, "'sound.mp4' has no video stream"),
        ("nosuch", 1, "'nosuch' does not exist"),
    ],
)
def test_nothing_to_calibrate_on(name: str, code: int, words: str, cli: Cli) -> None:
    Path("nothing").mkdir()
    Path("nothing", "a.txt").touch()
    Path("spoilt").mkdir()
    Path("spoilt", "a.png").write_text("no picture")
    clips.text_file(Path("text.mp4"))
    Path("empty.mp4").touch()
    clips.audio_only(Path("sound.mp4"))
    refused(cli("build", "net.onnx", "--int8", "--calibrate", name), code, words)
    assert not list(Path("engines").glob(".*.part"))


# --- progress --------------------------------------------------------------------------------------------------------


def test_lines_where_there_is_no_terminal_come_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    said: list[tuple[float, str]] = []
    with progress.BuildProgress("net.onnx fp32", quiet=False) as shown:
        for step in range(70):
            now = 100.0 + step / 2
            shown.update("Building", None if step == 40 else step / 70)
            out, err = capsys.readouterr()
            assert out == ""
            said += [(now - 100, err)] if err else []
        shown.say("done")
    assert said == [
        (10.0, "net.onnx fp32: 29 % done, 10 s, Building\n"),
        (20.0, "net.onnx fp32: 20 s, Building\n"),
        (30.0, "net.onnx fp32: 86 % done, 30 s, Building\n"),
    ]
    assert capsys.readouterr().err == "net.onnx fp32: done\n"
    with progress.BuildProgress("net.onnx fp32", quiet=True) as shown:
        now += 60
        shown.update("Building", 0.5)
        shown.say("done")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., tuple[subprocess.Popen[str], Callable[[str], str]]]]:
    """Starts the program with a terminal of 100 columns as its standard error; and a function that reads it."""
    started: list[tuple[subprocess.Popen[str], int]] = []

    def start(*arguments: object) -> tuple[subprocess.Popen[str], Callable[[str], str]]:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        command = [PROGRAM, *map(str, arguments)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
        os.close(theirs)
        started.append((running, ours))
        return running, lambda pattern: _read(ours, pattern)

    yield start
    for running, ours in started:
        running.kill()
        running.communicate()
        os.close(ours)


def _read(descriptor: int, pattern: str) -> str:
    """What a terminal gets until the pattern has come, or the other end is closed."""
    seen = ""
    deadline = time.monotonic() + 40
    while not re.search(pattern, seen):
        assert time.monotonic() < deadline, f"no {pattern!r} in {seen!r}"
        if select.select([descriptor], [], [], 0.5)[0]:
            try:
                seen += os.read(descriptor, 4096).decode("utf-8", "replace")
            except OSError:
                break
    return seen


def screen(text: str) -> list[str]:
    """The lines that a terminal shows after this."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def test_bar_on_a_terminal(on_terminal: Any, slow_net: Callable[[int], Path]) -> None:
    running, read = on_terminal("build", slow_net(250))
    said = read("(?!)")  # all of it
    assert running.wait(20) == 0
    assert Path(running.stdout.read().removesuffix("\n")).is_file()
    drawn = [part for part in said.split("\r") if part.startswith("slow250.onnx fp32: ")]
    assert len(drawn) > 3
    assert all(len(part.partition("\n")[0].rstrip()) <= 100 for part in drawn), "messages may be longer"
    *_, last = screen(said)
    assert re.fullmatch(rf"slow250\.onnx fp32: {BUILT}", last)
    assert len(screen(said)) <= 2  # the bar is drawn over itself


def test_no_bar_for_the_quiet(on_terminal: Any) -> None:
    running, read = on_terminal("build", "net.onnx", "-q")
    assert read("(?!)") == ""
    assert running.wait(20) == 0


# --- signals, and several at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_in_the_middle_of_a_build(
    number: signal.Signals, on_terminal: Any, slow_net: Callable[[int], Path], here: Path
) -> None:
    running, read = on_terminal("build", slow_net(2500))
    read(r"slow2500\.onnx fp32: [^\r]*(?<!reading the network)\r[^\r]*\r[^\r]*\r")
    signalled = time.monotonic()
    running.send_signal(number)
    said = read("(?!)")
    assert running.wait(20) == 1
    assert time.monotonic() - signalled < 5
    assert screen(said)[-1] == "bmf-trt-seg: stopped"
    assert "Traceback" not in said
    assert running.stdout.read() == ""
    assert visible(Path("engines")) == set()
    assert visible(here) == {"net.onnx", "net.json", "engines"}


def test_signal_in_the_middle_of_calibration(bright: Path, plain_clip: Path, tmp_path: Path) -> None:
    """Stopped where a picture is read, and it does not wait for the rest of them."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(400):
        (frames / f"{number:03d}.png").symlink_to(frames / "000.png") if number else Image.effect_noise(
            (1500, 1000), 50
        ).save(frames / "000.png")
    command = [PROGRAM, "build", str(bright), "--int8", "--calibrate", str(frames), "--calibrate-frames", "400"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not list(Path("engines").glob(".*.lock")):  # taken when the build begins
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(1.0)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        signalled = time.monotonic()
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert time.monotonic() - signalled < 4
    assert (running.returncode, out, err.strip()) == (1, "", "bmf-trt-seg: stopped")
    assert visible(Path("engines")) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_late_in_a_build_leaves_the_engine_that_was_there(
    number: signal.Signals, slow_net: Callable[[int], Path], here: Path, cli: Cli
) -> None:
    """TensorRT-RTX compiles in one step, which can take minutes: nobody waits for that."""
    built(cli, "net.onnx", "-o", "mine.engine")
    before = Path("mine.engine").read_bytes(), Path("mine.engine.json").read_bytes()
    command = [PROGRAM, "build", str(slow_net(2500)), "-o", "mine.engine", "-v", "--force"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        for line in running.stderr:
            if "Compiler backend is used during engine build" in line:
                break
        time.sleep(0.3)
        assert running.poll() is None
        running.send_signal(number)
        signalled = time.monotonic()
        out, err = running.communicate(timeout=40)
        took = time.monotonic() - signalled
    finally:
        running.kill()
    assert (running.returncode, out) == (1, "")
    assert err.endswith("bmf-trt-seg: stopped\n")
    assert "Traceback" not in err
    assert (Path("mine.engine").read_bytes(), Path("mine.engine.json").read_bytes()) == before
    assert visible(here) == {"net.onnx", "net.json", "mine.engine", "mine.engine.json"}
    assert took < 5


def test_two_at_once_build_one_engine(slow_net: Callable[[int], Path]) -> None:
    command = [PROGRAM, "build", str(slow_net(500))]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        said = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][0] == said[1][0]
    path = Path(said[0][0].removesuffix("\n"))
    assert visible(Path("engines")) == {path.name, f"{path.name}.json"}
    errors = sorted(
        "\n".join(line for line in err.splitlines() if not line.startswith("another process")) for _, err in said
    )
    assert re.fullmatch(rf"slow500\.onnx fp32: {BUILT}", errors[0])
    assert re.fullmatch(rf"slow500\.onnx fp32: {IS_THERE}", errors[1])


def test_manifest_does_not_replace_the_description_of_another(cli: Cli) -> None:
    save_onnx(Path("other.onnx"), WEIGHTS, spec=make_spec(activation="none"))
    before = Path("other.json").read_bytes()
    ended = cli("build", "net.onnx", "-o", "other")
    assert (ended.code, Path("other.json").read_bytes()) == (2, before)
    assert "'other.json' exists and is no manifest; give --force to replace it" in ended.err


@pytest.mark.parametrize("flags", [[], ["--force"]], ids=str)
def test_engine_does_not_replace_weights(flags: list[str], cli: Cli) -> None:
    onnx.save(onnx.load("net.onnx"), "ext.onnx", save_as_external_data=True, location="ext.weights", size_threshold=0)
    before = Path("ext.weights").read_bytes()
    refused(cli("build", "ext.onnx", "-o", "ext.weights", *flags), 2, "'ext.weights' is the input")
    assert Path("ext.weights").read_bytes() == before
