"""What lies beside an engine, and what the first bytes of a plan tell."""

from __future__ import annotations

import json
import shlex
import struct
from pathlib import Path

import pytest
from factories import make_spec

from bmf_trt_seg.engine.manifest import Manifest, is_plan, manifest_path, plan_header, read_manifest
from bmf_trt_seg.engine.options import BuildOptions, ShapeRange
from bmf_trt_seg.errors import ConfigError, EngineError, StreamError

RANGE = ShapeRange(min=(1, 3, 8, 8), opt=(4, 3, 8, 8), max=(8, 3, 8, 8))
MANIFEST = Manifest(
    library="tensorrt", version="10.9.0", gpu="NVIDIA H200", compute_capability="9.0", precision="fp16",
    profiles={"input": RANGE}, onnx="nets/person.onnx", onnx_sha256="ab" * 32, calibration=None,
    options=BuildOptions(precision="fp16", opt_level=2), spec=make_spec(),
)  # fmt: skip


def changed(**values):
    return MANIFEST.model_copy(update=values)


@pytest.mark.parametrize("task", ["segmentation", "raw", "image"])
def test_a_manifest_is_read_as_it_was_written(tmp_path, task):
    spec = make_spec() if task == "segmentation" else make_spec((), "none", task=task, background=None)
    written = changed(spec=spec)
    plan = tmp_path / "net.engine"
    manifest_path(plan).write_text(written.text())
    assert read_manifest(plan) == written


@pytest.mark.parametrize(
    "values",
    [
        {"library": "tensorrt_rtx"},
        {"version": "10.9.1"},
        {"gpu": None},
        {"compute_capability": "8.9"},
        {"precision": "fp32"},
        {"profiles": {"input": RANGE.model_copy(update={"max": (9, 3, 8, 8)})}},
        {"profiles": {"picture": RANGE}},
        {"onnx_sha256": "cd" * 32},
        {"calibration": "ef" * 32},
        {"options": BuildOptions(precision="fp16", opt_level=3)},
        {"options": BuildOptions(precision="fp16", opt_level=2, tf32=False)},
        {"options": BuildOptions(precision="fp16", opt_level=2, strip=True)},
    ],
    ids=lambda values: next(iter(values)),
)
def test_key_changes_with_all_that_makes_another_engine(values):
    assert changed(**values).key != MANIFEST.key


@pytest.mark.parametrize(
    "values",
    [
        {"onnx": "elsewhere.onnx"},
        {"spec": None},
        {"build_seconds": 3.5},
        {"plan_bytes": 7},
        {"plan_sha256": "ef" * 32},
        {"calibration_source": "clip.mp4"},
        {"calibration_frames": 64},  # the digest says it
        {"options": MANIFEST.options.model_copy(update={"shapes": {"": RANGE}})},  # the profiles say it
    ],
    ids=lambda values: next(iter(values)),
)
def test_key_stays_with_the_rest(values):
    assert changed(**values).key == MANIFEST.key


def test_key_is_the_same_for_the_same():
    assert MANIFEST.key == Manifest.model_validate_json(MANIFEST.text()).key


def test_written_and_read(tmp_path):
    plan = tmp_path / "net.fp16.engine"
    assert manifest_path(plan) == tmp_path / "net.fp16.engine.json"
    assert read_manifest(plan) is None
    manifest_path(plan).write_text(MANIFEST.text(), encoding="utf-8")
    assert read_manifest(plan) == MANIFEST
    assert json.loads(MANIFEST.text())["profiles"]["input"]["opt"] == [4, 3, 8, 8]


def complaint(kind, plan):
    with pytest.raises(kind) as caught:
        read_manifest(plan)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", MANIFEST.text().encode()[:-20]])
def test_manifest_that_is_no_json(tmp_path, content):
    path = manifest_path(tmp_path / "net.engine")
    path.write_bytes(content)
    assert complaint(ConfigError, tmp_path / "net.engine").startswith(f"manifest '{path}' is no JSON: ")


def test_manifest_that_says_something_impossible(tmp_path):
    path = manifest_path(tmp_path / "net.engine")
    path.write_text(json.dumps({**json.loads(MANIFEST.text()), "precision": "fp8"}))
    assert complaint(ConfigError, tmp_path / "net.engine") == (
        f"manifest '{path}': option 'precision': got \"fp8\", allowed is 'fp32' or 'fp16' or 'bf16' or 'int8'"
    )


def test_manifest_that_cannot_be_read(tmp_path):
    path = manifest_path(tmp_path / "net.engine")
    path.mkdir()
    assert complaint(StreamError, tmp_path / "net.engine") == f"manifest '{path}' cannot be read: Is a directory"


def test_what_it_was_built_for():
    assert MANIFEST.built_for == "TensorRT 10.9.0 on NVIDIA H200 (compute capability 9.0)"
    rtx = changed(library="tensorrt_rtx", version="1.7.1", gpu=None, compute_capability=None)
    assert rtx.built_for == "TensorRT-RTX 1.7.1"


def test_command_that_builds_it_again():
    shapes = " --shapes input:1x3x8x8/4x3x8x8/8x3x8x8"
    assert MANIFEST.command == f"bmf-trt-seg build nets/person.onnx --fp16 --opt-level 2{shapes}"
    quantized = changed(
        options=BuildOptions(precision="int8"),
        calibration="ef" * 32,
        calibration_source="clip.mp4",
        calibration_frames=64,
    )
    calibrate = " --calibrate clip.mp4 --calibrate-frames 64"
    assert quantized.command == f"bmf-trt-seg build nets/person.onnx --int8{shapes}{calibrate}"
    fixed = {"input": ShapeRange(min=(2, 3, 8, 8), opt=(2, 3, 8, 8), max=(2, 3, 8, 8))}
    fixed_command = "bmf-trt-seg build nets/person.onnx --shapes input:2x3x8x8"
    assert changed(options=BuildOptions(), profiles=fixed).command == fixed_command
    given = BuildOptions(shapes={"": RANGE})
    assert changed(options=given, profiles=fixed).command == fixed_command
    two = {"input": RANGE, "mask": fixed["input"]}
    assert changed(options=BuildOptions(), profiles=two).command.endswith(f"{shapes},mask:2x3x8x8")


def test_command_can_be_pasted_into_a_shell():
    spaced = changed(onnx="my nets/person.onnx", options=BuildOptions())
    assert shlex.split(spaced.command)[:3] == ["bmf-trt-seg", "build", "my nets/person.onnx"]
    calibrated = changed(calibration="ef" * 32, calibration_source="my films; all", calibration_frames=8)
    assert shlex.split(calibrated.command)[-4:] == ["--calibrate", "my films; all", "--calibrate-frames", "8"]


def plan(mark=b"ftrt", size=100, version=(10, 9, 0, 34), length=100):
    return (struct.pack("<4s12xQ4B", mark, size, *version) + bytes(length))[:length]


@pytest.mark.parametrize(("mark", "is_rtx"), [(b"ftrt", False), (b"vtrt", True)])
def test_header_of_a_plan(mark, is_rtx):
    header = plan_header(plan(mark), "net.engine")
    assert (header.version, header.is_rtx, header.missing_bytes) == ("10.9.0.34", is_rtx, 0)


def test_plan_that_is_cut_off():
    assert plan_header(plan(length=60), "net.engine").missing_bytes == 40
    assert plan_header(plan(length=120), "net.engine").missing_bytes == 0  # whatever follows


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b"This is no plan. It is a text.", "begins with b'This is '"),
        (bytes(40), "begins with b'"),
    ],
)
def test_what_is_no_plan(content, found):
    with pytest.raises(EngineError) as caught:
        plan_header(content, "net.engine")
    assert str(caught.value).startswith(f"'net.engine' is no TensorRT engine: it {found}")
    assert str(caught.value).endswith("; build one: bmf-trt-seg build MODEL.onnx")


@pytest.mark.parametrize("mark", [b"ftrt", b"vtrt"])
@pytest.mark.parametrize("length", [4, 10, 27])
def test_plan_that_is_cut_in_its_header(mark, length):
    with pytest.raises(EngineError) as caught:
        plan_header(plan(mark, length=length), "net.engine")
    assert str(caught.value) == f"engine 'net.engine' is cut short: there are {length} bytes of it; copy it again"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(plan(), True), (plan(b"vtrt"), True), (plan(length=4), True), (plan(length=3), False), (b"", False)],
)
def test_what_a_plan_begins_with(content, expected):
    assert is_plan(content) is expected


def test_paths_keep_their_whole_name():
    assert manifest_path(Path("a/b.c.plan")) == Path("a/b.c.plan.json")


def test_command_with_odd_inputs():
    scalar = ShapeRange(min=(), opt=(), max=())
    shapes = MANIFEST.profiles["input"]
    odd = changed(options=BuildOptions(), profiles={"in put; x": shapes, "factor": scalar})
    assert shlex.split(odd.command)[-2:] == ["--shapes", "in put; x:1x3x8x8/4x3x8x8/8x3x8x8"]
