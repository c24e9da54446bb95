"""How failures end: each in a process of its own, with one line, in time. And what `inspect` shows of engines."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import clips
import pytest
from gpu.networks import (
    QUICK,
    TACTICS,
    contract_network,
    engine,
    foreign_engine,
    unknown_operator,
    wide_network,
)

from bmf_trt_seg.engine.inspection import inspect
from bmf_trt_seg.engine.manifest import manifest_path, plan_header, read_manifest
from bmf_trt_seg.spec import ModelSpec, spec_path

torch = pytest.importorskip("torch")

SECONDS = 120
ROOT = Path(__file__).resolve().parents[2]
BUILD = json.dumps({"tactic_sources": TACTICS, "opt_level": QUICK, "tf32": False})
FLAGS = ["--tactic-sources", ",".join(TACTICS), "--no-tf32", "--opt-level", str(QUICK)]


@dataclass
class Ended:
    """How a process ended; code is None if it had to be killed."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The only line of the error."""
        lines = self.stderr.strip().splitlines()
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0]


def started(*arguments, **environment) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        # a shell that started these tests in the background may have had them ignore Ctrl-C
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def command(*arguments, **environment) -> subprocess.Popen:
    return started("-m", "bmf_trt_seg.cli.main", *arguments, **environment)


def ended(process: subprocess.Popen, seconds: float = SECONDS) -> Ended:
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        return Ended(None, stdout, stderr)
    return Ended(process.returncode, stdout, stderr)


def changed(path: Path, source: Path, content: bytes) -> Path:
    """A plan of this content, with the manifest of another."""
    path.write_bytes(content)
    shutil.copy(manifest_path(source), manifest_path(path))
    return path


def of_other_version(plan: bytes) -> bytes:
    """A plan as TensorRT 10.7.0.23 marks it. 8.6 goes by the number behind the second mark, not by the first header."""
    patched = bytearray(plan)
    patched[24:28] = bytes([10, 7, 0, 23])
    where = plan.index(b"ptrt", 28, 256) + 8
    (number,) = struct.unpack_from("<I", plan, where)
    assert 200 < number < 300, "this is not where the plan has the version of its format"
    struct.pack_into("<I", patched, where, number + 3)
    return bytes(patched)


OPEN = """
    import sys
    from pathlib import Path
    import torch
    from bmf_trt_seg.backends.tensorrt import TensorRTBackend
    from bmf_trt_seg.errors import SegError
    from bmf_trt_seg.spec import ModelSpec

    free, total = torch.cuda.mem_get_info()
    hog = torch.empty(free - (700 << 20), dtype=torch.uint8, device="cuda")
    backend = TensorRTBackend(Path(sys.argv[1]), ModelSpec.read(Path(sys.argv[2])))
    try:
        backend.open()
    except SegError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory, bright, engines):
    """Every process that is to fail, by name; they run side by side."""
    folder = tmp_path_factory.mktemp("failures")
    clip = clips.write_clip(folder / "clip.mp4", frames=10)
    good = engine(bright).path
    plan, spec = good.read_bytes(), ModelSpec.read(spec_path(bright))
    other_version = of_other_version(plan)
    middle = len(plan) // 2

    bad = {
        "cut short": changed(folder / "cut.engine", good, plan[: len(plan) // 2]),
        "cut to its header": changed(folder / "header.engine", good, plan[:64]),
        "damaged": changed(folder / "damaged.engine", good, plan[:middle] + b"\x5a\xa5" * 32 + plan[middle + 64 :]),
        "other version": folder / "version.engine",
        "other version and GPU": changed(folder / "gpu.engine", good, other_version),
        "text": folder / "text.engine",
        "empty": folder / "empty.plan",
    }
    bad["other version"].write_bytes(other_version)
    bad["text"].write_text("This is no engine.\n" * 100)
    bad["empty"].write_bytes(b"")
    for name in ("other version", "text", "empty"):
        spec.write(spec_path(bad[name]))
    manifest = json.loads(manifest_path(bad["other version and GPU"]).read_text())
    manifest.update(version="10.7.0", gpu="NVIDIA A10", compute_capability="8.6")
    manifest["plan_sha256"] = hashlib.sha256(other_version).hexdigest()
    manifest_path(bad["other version and GPU"]).write_text(json.dumps(manifest))

    larger = folder / "larger.engine"
    shutil.copy(good, larger)
    wrong = spec.model_copy(update={"input": spec.input.model_copy(update={"height": 180, "width": 320})})
    wrong.write(spec_path(larger))

    def segment(model, *flags):
        return command("segment", clip, "-o", folder / f"{len(processes)}.mp4", "-m", model, "-q", *flags)

    unknown = unknown_operator(folder / "unknown.onnx")
    processes: dict[str, subprocess.Popen] = {}
    for name, path in bad.items():
        processes[name] = segment(path)
    processes["wrong shapes"] = segment(larger)
    processes["batch too large"] = segment(good, "--batch-size", "16")
    processes["no such device"] = segment(good, "--device", "cuda:99")
    processes["on the CPU"] = segment(good, "--device", "cpu")
    processes["unknown operator"] = command("build", unknown, "-q", *FLAGS, "-o", folder / "unknown.engine")
    processes["unknown operator, first use"] = segment(unknown, "--backend", "tensorrt", "--build", BUILD)
    processes["unknown tactic"] = command("build", bright, "-q", "--tactic-sources", "MAGIC")
    processes["no bf16"] = command("build", bright, "-q", "--bf16", "-o", folder / "bf16.engine")
    results = {name: ended(process) for name, process in processes.items()}
    assert not list(folder.glob("[0-9]*.mp4")), "a failed run left a video"
    assert not (folder / "unknown.engine").exists()
    assert not (folder / "bf16.engine").exists()
    return results


HERE = r"this is TensorRT 8\.\S+ on .* \(compute capability \d+\.\d\)"


@pytest.mark.parametrize(
    ("name", "code", "pattern"),
    [
        ("cut short", 1, r"engine '.*cut\.engine' is cut short: \d+ of \d+ bytes are missing; .*bmf-trt-seg build "),
        ("cut to its header", 1, r"engine '.*header\.engine' is cut short: \d+ of \d+ bytes are missing; "),
        (
            "damaged", 1,
            r"engine '.*damaged\.engine' is not the one that its manifest 'damaged\.engine\.json' describes: it is "
            r"damaged, or another took its place; rebuild it: bmf-trt-seg build .*bright\.onnx .* --force, or delete ",
        ),
        ("text", 1, r"'.*text\.engine' is no TensorRT engine: it begins with b'This is '; build one: bmf-trt-seg "),
        ("empty", 1, r"'.*empty\.plan' is no TensorRT engine: it is empty; build one: bmf-trt-seg build "),
        ("other version", 1, rf"engine '.*' was built for TensorRT 10\.7\.0\.23; {HERE}.*; rebuild it here: bmf"),
        (
            "other version and GPU", 1,
            rf"engine '.*' was built for TensorRT 10\.7\.0 on NVIDIA A10 \(compute capability 8\.6\); {HERE}; "
            r"rebuild it here: bmf-trt-seg build .*bright\.onnx .*--no-tf32 ",
        ),
        ("wrong shapes", 1, r"input 'input' of model 'larger\.engine' has the shape .*90, 160\], .* says .*180, 320"),
        ("batch too large", 2, r"engine '.*' takes batches of at most 8, batch_size is 16: choose 8, or rebuild"),
        ("no such device", 1, r"device 'cuda:99' does not exist: this machine has cuda:0 (only|to cuda:\d+)$"),
        ("on the CPU", 2, r"device 'cpu': TensorRT has GPUs only; choose 'cuda', or the backend 'onnxruntime'"),
        ("unknown operator", 1, r".*strange_one.*Frobnicate|.*Frobnicate.*strange_one"),
        ("unknown operator, first use", 1, r".*strange_one.*Frobnicate|.*Frobnicate.*strange_one"),
        ("unknown tactic", 2, r"option 'tactic_sources': got 'MAGIC', allowed are "),
        ("no bf16", 2, r"option 'precision': TensorRT 8\.\S* has no such engines; leave it out"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(failures, name, code, pattern):
    import re

    found = failures[name]
    print(found.stderr)
    assert found.code == code
    assert re.match(rf"bmf-trt-seg: (?:{pattern})", found.line), found.line
    assert found.stdout == ""


@pytest.mark.parametrize("where", ["between layers", "for the output"])
def test_no_memory_on_the_device(tmp_path, engines, where):
    model = wide_network(tmp_path / "wide.onnx", where)
    path = engine(model, target=tmp_path / "wide.engine").path
    found = ended(started("-c", textwrap.dedent(OPEN), path, spec_path(model)))
    print(found.stderr)
    assert found.code == 1
    assert "Traceback" not in found.stderr
    line = found.stderr.strip().splitlines()[-1]
    assert line.startswith("EngineError: engine 'wide.engine'") or line.startswith(f"EngineError: engine '{path}'")
    assert " MiB" in line
    assert "are free" in line


def test_header_of_a_plan(bright, engines):
    path = engine(bright).path
    content = path.read_bytes()
    header = plan_header(content, "plan")
    assert header.version.split(".")[:2] == read_manifest(path).version.split(".")[:2]  # the rest may differ
    assert not header.is_rtx
    assert header.missing_bytes == 0
    assert plan_header(content[:-1], "plan").missing_bytes == 1


def test_three_processes_build_once(bright, tmp_path):
    """The first use of an ONNX file, by three at once."""
    made, clip = tmp_path / "engines", clips.write_clip(tmp_path / "clip.mp4", frames=10)
    processes = [
        command(
            "segment", clip, "-o", tmp_path / f"{number}.mp4", "-m", bright, "--backend", "tensorrt",
            "--build", BUILD, BMF_TRT_SEG_ENGINES=str(made),
        )
        for number in range(3)
    ]  # fmt: skip
    results = [ended(process) for process in processes]
    for found in results:
        print(found.stderr)
    assert [found.code for found in results] == [0, 0, 0]
    assert [path.suffix for path in made.glob("*.engine")] == [".engine"]
    assert sum("was built in" in found.stderr for found in results) == 1
    assert not [path.name for path in made.iterdir() if "part" in path.name or path.name.endswith(".tmp")]
    contents = {(tmp_path / f"{number}.mp4").stat().st_size for number in range(3)}
    assert len(contents) == 1, "they drew from different engines"


def test_three_builds_at_once(bright, tmp_path):
    target = tmp_path / "shared.engine"
    results = [ended(process) for process in [command("build", bright, *FLAGS, "-o", target) for _ in range(3)]]
    assert [found.code for found in results] == [0, 0, 0]
    assert sum("built for" in found.stderr and "is there already" not in found.stderr for found in results) == 1
    assert sum("is there already" in found.stderr for found in results) == 2
    assert {found.stdout.strip() for found in results} == {str(target)}


@pytest.mark.parametrize("verb", ["build", "segment"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_can_be_stopped(request, person, portrait_clip, tmp_path, verb, number):
    """A long one; it ends within seconds and leaves no plan."""
    if (verb, number) == ("segment", signal.SIGTERM):
        pytest.skip("as with SIGINT")
    folder = os.environ.get("BMF_TRT_SEG_NETWORKS")
    model = request.getfixturevalue("exported") / "fcn_resnet101.onnx" if folder else person
    made = tmp_path / "engines"
    if verb == "build":
        flags = ["--fp16", "--opt-level", "5", "--tactic-sources", ",".join(TACTICS)]
        process = command("build", model, *flags, BMF_TRT_SEG_ENGINES=str(made))
    else:
        build = json.dumps({"precision": "fp16", "opt_level": 5, "tactic_sources": TACTICS})
        process = command(
            "segment", portrait_clip, "-o", tmp_path / "out.mp4", "-m", model, "--backend", "tensorrt",
            "--build", build, BMF_TRT_SEG_ENGINES=str(made),
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(made.glob(".*.lock")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(4)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    begin = time.monotonic()
    found = ended(process, 30)
    seconds = time.monotonic() - begin
    print(f"{seconds:.1f} s", found.stderr)
    assert found.code == 1
    assert seconds < 8
    assert "Traceback" not in found.stderr
    assert "stopped" in found.stderr.strip().splitlines()[-1]
    assert not [path.name for path in made.iterdir() if not path.name.endswith(".lock")]
    assert not (tmp_path / "out.mp4").exists()


# -------------------------------------------------------------------------------------------------------------- inspect


def test_inspect_our_engine(person, person_fp16):
    found = inspect(person_fp16)
    assert found.kind == "TensorRT engine"
    assert found.bytes == person_fp16.stat().st_size
    assert [(row.mode, row.name, row.dtype) for row in found.tensors] == [
        ("input", "input", "float32"),
        ("output", "output", "float32"),
    ]
    assert found.tensors[0].shape == [-1, 3, 256, 256]
    assert found.tensors[0].profiles == [[[1, 3, 256, 256], [4, 3, 256, 256], [8, 3, 256, 256]]]
    assert found.tensors[1].shape[0] == -1
    assert len(found.layers) > 10
    assert found.facts["layers"] > 10
    assert {"fp16"} <= {part for layer in found.layers for part in layer.precision.split("/")}
    assert sum(found.operators.values()) > 10
    assert found.facts["context memory bytes"] > 0
    assert found.manifest["precision"] == "fp16"
    assert found.manifest["onnx"] == str(person.absolute())
    assert found.note == ""


def test_inspect_fp32_engine(person_fp32):
    precisions = {part for layer in inspect(person_fp32).layers for part in layer.precision.split("/")}
    assert "fp32" in precisions
    assert "fp16" not in precisions


def test_inspect_engines_of_others(person_fp16, tmp_path, engines):
    lone = tmp_path / "lone.engine"
    shutil.copy(person_fp16, lone)
    shapes = ((1, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8)), ((3, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
    foreign = foreign_engine(
        contract_network(tmp_path / "net.onnx"), tmp_path / "foreign.plan", [{"input": each} for each in shapes]
    )
    kinds = {path: command("inspect", path, *flags) for path, flags in [(lone, ["--json"]), (foreign, ["--json"])]}
    table = command("inspect", foreign)
    for path, process in kinds.items():
        shown = ended(process)
        assert (shown.code, shown.stderr) == (0, "")
        values = json.loads(shown.stdout)
        assert values["manifest"] is None
        assert values["kind"] == "TensorRT engine"
        assert values["facts"]["written by"].startswith("TensorRT 8.6")
        assert values["layers"]
        assert values["tensors"][0]["profiles"] == (
            [[list(shape) for shape in each] for each in shapes]
            if path == foreign
            else [[[1, 3, 256, 256], [4, 3, 256, 256], [8, 3, 256, 256]]]
        )
    shown = ended(table)
    assert (shown.code, shown.stderr) == (0, "")
    assert "profile 1" in shown.stdout
    assert "3x3x8x8 / 4x3x8x8 / 8x3x8x8" in shown.stdout
