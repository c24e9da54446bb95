"""Engines are built once, by TensorRT-RTX, which wants no GPU for it; kept with their manifests, and found again."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import clips
import filelock
import numpy as np
import onnx
import pytest
from factories import complaint, make_spec, save_onnx
from jobs import left_in

from bmf_trt_seg.engine.builder import BUILD_THREAD, EngineFromOnnx
from bmf_trt_seg.engine.calibration import CalibrationData
from bmf_trt_seg.engine.library import Library, find_gpu, load_library
from bmf_trt_seg.engine.manifest import manifest_path, plan_header, read_manifest
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, EngineError, ModelError, StreamError
from bmf_trt_seg.validation import validated

pytest.importorskip("tensorrt_rtx")
SPEC = make_spec(activation="none")
WEIGHTS = np.random.default_rng(2).normal(size=(2, 3, 3, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _rtx(monkeypatch):
    """The edition that builds anywhere, if others are installed, too."""
    library = load_library("tensorrt_rtx")
    monkeypatch.setattr("bmf_trt_seg.engine.builder.load_library", lambda: library)
    monkeypatch.setattr("bmf_trt_seg.engine.builder.find_gpu", lambda device: None)


def engine(path, *, spec=SPEC, batch=(1, 4, 8), calibration=None, device="auto", target=None, **options):
    chosen = validated(BuildOptions, options, "build")
    return EngineFromOnnx(path, chosen, spec=spec, batch=batch, calibration=calibration, device=device, target=target)


def built(path, **options):
    made = engine(path, **options)
    assert made.build()
    return made


def identity(path):
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def whole(path):
    """What is in a folder after a build: plan, manifest and lock."""
    return {path.name, f"{path.name}.json", f".{path.name}.lock"}


def test_builds_plan_and_manifest(onnx_file, engines):
    made = engine(onnx_file)
    assert not made.is_built
    assert made.build()
    assert made.is_built
    assert made.path.parent == engines
    assert left_in(engines) == whole(made.path)
    header = plan_header(made.path.read_bytes(), made.path.name)
    assert (header.is_rtx, header.missing_bytes) == (True, 0)
    manifest = read_manifest(made.path)
    assert manifest == made.manifest
    assert (manifest.library, manifest.version) == ("tensorrt_rtx", load_library("tensorrt_rtx").version)
    assert (manifest.gpu, manifest.compute_capability, manifest.calibration) == (None, None, None)
    assert (manifest.onnx, manifest.onnx_sha256) == (str(onnx_file), OnnxNetwork(onnx_file).sha256())
    assert {name: str(shapes) for name, shapes in manifest.profiles.items()} == {"input": "1x3x8x8/4x3x8x8/8x3x8x8"}
    assert (manifest.precision, manifest.options, manifest.spec) == ("fp32", BuildOptions(), SPEC)
    assert manifest.build_seconds > 0
    assert manifest.plan_bytes == made.path.stat().st_size


def test_name_tells_network_and_precision(onnx_file):
    made = engine(onnx_file, precision="fp16")
    assert made.path.name == f"net.fp16.{made.manifest.key[:12]}.engine"


@pytest.mark.parametrize(
    "network", [clips.bright_model, clips.three_class_model, clips.index_model, clips.classifier_model]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_small_networks_build(network, precision, tmp_path):
    built(network(tmp_path / "net.onnx"), spec=None, precision=precision)


def test_engines_are_in_the_working_directory_by_default(onnx_file, monkeypatch):
    monkeypatch.delenv("BMF_TRT_SEG_ENGINES")
    assert engine(onnx_file).path.parent == Path("engines")
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", "~/kept")
    assert engine(onnx_file).path.parent == Path.home() / "kept"


def test_second_build_finds_the_first(onnx_file):
    first = built(onnx_file)
    before = identity(first.path), identity(manifest_path(first.path))
    second = engine(onnx_file)
    assert second.is_built
    assert not second.build()
    assert second.path == first.path
    assert second.manifest == first.manifest
    assert (identity(first.path), identity(manifest_path(first.path))) == before


def test_touched_network_is_the_same(onnx_file):
    built(onnx_file)
    os.utime(onnx_file, (1, 1))
    assert not engine(onnx_file).build()


def test_network_of_another_name_is_the_same(onnx_file, tmp_path):
    first = built(onnx_file, target=tmp_path / "net.engine")
    moved = onnx_file.rename(tmp_path / "moved.onnx")
    second = engine(moved, target=first.path)
    assert not second.build()
    assert read_manifest(first.path).onnx == str(moved)


def test_changed_network_is_another_engine(onnx_file):
    first = built(onnx_file)
    save_onnx(onnx_file, WEIGHTS, then="Sigmoid")
    second = engine(onnx_file)
    assert second.path != first.path
    assert second.build()


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"opt_level": 1},
        {"workspace_mib": 16},
        {"tf32": False},
        {"hardware_compatible": True},
        {"batch": (1, 1, 1)},
        {"shapes": "1x3x8x8/2x3x8x8/8x3x8x8"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_options_are_another_engine(onnx_file, options):
    first = built(onnx_file)
    second = engine(onnx_file, **options)
    assert second.path != first.path
    assert not second.is_built
    assert second.build()
    assert first.is_built


def test_same_shapes_in_other_words_are_the_same_engine(onnx_file):
    first = engine(onnx_file)
    assert engine(onnx_file, shapes="1x3x8x8/4x3x8x8/8x3x8x8").path == first.path
    assert engine(onnx_file, shapes="input:1x3x8x8/4x3x8x8/8x3x8x8").path == first.path


def test_another_version_of_the_library_is_another_engine(onnx_file, monkeypatch):
    first = built(onnx_file, target=onnx_file.with_suffix(".engine"))
    default = engine(onnx_file).path
    monkeypatch.setattr(Library, "version", "99.1.0")
    assert engine(onnx_file).path != default
    assert not engine(onnx_file, target=first.path).is_built
    assert built(onnx_file, target=first.path).manifest.version == "99.1.0"


def test_changed_description_renews_the_manifest_only(onnx_file, engines):
    first = built(onnx_file)
    before = identity(first.path)
    spec = make_spec(["nothing", "dog"], activation="none")
    second = engine(onnx_file, spec=spec)
    assert not second.build()
    assert identity(first.path) == before
    assert read_manifest(first.path) == second.manifest == first.manifest.model_copy(update={"spec": spec})
    assert left_in(engines) == whole(first.path)


@pytest.mark.parametrize("content", [None, "", "{", '{"precision": "fp8"}', "[]"])
def test_engine_with_a_damaged_manifest_is_built_again(onnx_file, content, engines):
    first = built(onnx_file)
    if content is None:
        manifest_path(first.path).unlink()
    else:
        manifest_path(first.path).write_text(content)
    second = engine(onnx_file)
    assert not second.is_built
    assert second.build()
    assert read_manifest(first.path) == second.manifest
    assert left_in(engines) == whole(first.path)


def test_engine_that_is_cut_off_is_built_again(onnx_file):
    first = built(onnx_file)
    clips.cut(first.path, first.path, 0.5)
    assert built(onnx_file).path.stat().st_size == first.manifest.plan_bytes


def test_missing_plan_is_built_again(onnx_file):
    first = built(onnx_file)
    first.path.unlink()
    assert built(onnx_file).path == first.path


def test_forced_build(onnx_file, engines):
    first = built(onnx_file)
    before = identity(first.path)
    assert engine(onnx_file).build(force=True)
    assert identity(first.path) != before
    assert left_in(engines) == whole(first.path)


def test_engine_under_a_name_of_ones_own(onnx_file, tmp_path, engines):
    target = tmp_path / "new" / "folder" / "mine.plan"
    assert built(onnx_file, target=target).path == target
    assert left_in(target.parent) == whole(target)
    assert not engines.exists()
    assert not engine(onnx_file, target=target).build()
    assert engine(onnx_file, target=target, opt_level=1).build()


@pytest.mark.parametrize("name", ["text/mine.engine", "text/folder/mine.engine"])
def test_places_that_cannot_be_written(onnx_file, tmp_path, name):
    (tmp_path / "text").write_text("x")
    before = left_in(tmp_path)
    target = tmp_path / name
    message = complaint(StreamError, engine(onnx_file, target=target).build)
    assert message.startswith(f"engine '{target}' cannot be written: ")
    assert left_in(tmp_path) == before


def test_folder_as_the_engine(onnx_file, tmp_path):
    (tmp_path / "folder").mkdir()
    before = left_in(tmp_path)
    message = complaint(StreamError, engine(onnx_file, target=tmp_path / "folder").build)
    assert message == f"'{tmp_path / 'folder'}' cannot be written: it is a folder"
    assert left_in(tmp_path) == before


@contextlib.contextmanager
def small_disk(limit=20_000):
    """No file may grow beyond 20 kB, as on a disk that is full: a manifest fits, a plan does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_nothing(onnx_file, engines):
    made = engine(onnx_file)
    with small_disk():
        message = complaint(StreamError, made.build)
    assert message.startswith(f"engine '{made.path}' cannot be written: File too large")
    assert left_in(engines) == {f".{made.path.name}.lock"}


def test_full_disk_does_not_pass_an_old_engine_off_as_the_new_one(onnx_file, tmp_path):
    target = tmp_path / "mine.engine"
    old = built(onnx_file, target=target)
    content = target.read_bytes()
    save_onnx(onnx_file, WEIGHTS, then="Sigmoid")  # trained again: a plan of the same size
    new = engine(onnx_file, target=target)
    with small_disk():
        complaint(StreamError, new.build)
    assert not new.is_built
    assert not old.is_built or target.read_bytes() == content


def test_full_disk_when_the_description_changed(onnx_file):
    built(onnx_file)
    changed = engine(onnx_file, spec=make_spec(["nothing", "dog"], activation="none"))
    with small_disk(100):
        assert not changed.build()
    assert changed.manifest.spec.labels == ["nothing", "dog"]
    assert read_manifest(changed.path).spec.labels != ["nothing", "dog"]  # the engine is the right one all the same


def test_calibration_without_pictures(onnx_file):
    nothing = CalibrationData("ab" * 32, lambda size: iter(()), "an empty film", 8)
    message = complaint(ConfigError, engine(onnx_file, precision="int8", calibration=nothing).build)
    assert message == "there are no pictures to calibrate on in 'an empty film'"


def test_calibration_on_pictures_of_another_size(onnx_file):
    large = CalibrationData("a film", lambda size: iter([np.zeros((size, 3, 9, 8), np.float32)]))
    message = complaint(ConfigError, engine(onnx_file, precision="int8", calibration=large).build)
    assert message.startswith("pictures to calibrate on are 4x3x9x8, as the model's description says; the usual shape")


def test_calibration_for_other_precisions(onnx_file):
    data = CalibrationData("a film", lambda size: iter(()))
    message = complaint(ConfigError, engine, onnx_file, precision="fp16", calibration=data)
    assert message == "pictures to calibrate on are for int8, the precision is fp16"


def test_engines_for_the_cpu(onnx_file):
    assert complaint(ConfigError, engine, onnx_file, device="cpu").startswith("device 'cpu': TensorRT has GPUs only")


@pytest.mark.parametrize("device", ["gpu7", "cuda:", "cuda:x", "cuda0", "", "CUDA", "cuda:-1", " cuda"])
def test_devices_that_are_none(device):
    message = complaint(ConfigError, find_gpu, device)
    assert message == f"device '{device}' is none; allowed are 'auto', 'cpu', 'cuda' and 'cuda:N'"


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "cuda:7"])
def test_devices_where_there_is_none(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert find_gpu(device) is None


def test_device_of_a_build_is_checked(onnx_file, monkeypatch):
    monkeypatch.setattr("bmf_trt_seg.engine.builder.find_gpu", find_gpu)
    assert complaint(ConfigError, engine, onnx_file, device="gpu7").startswith("device 'gpu7' is none; ")


def test_stripping_wants_a_gpu(onnx_file):
    message = complaint(BackendUnavailable, engine, onnx_file, strip=True)
    library = load_library("tensorrt_rtx")
    assert message == f"option 'strip': {library} wants a GPU for this, and PyTorch finds none here"


def test_engines_for_other_versions(onnx_file):
    message = complaint(ConfigError, engine, onnx_file, version_compatible=True)
    library = load_library("tensorrt_rtx")
    assert message == f"option 'version_compatible': {library} has no such engines; leave it out"


def test_fp16_is_the_network_in_half_precision(onnx_file, tmp_path):
    half = tmp_path / "half.onnx"
    half.write_bytes(OnnxNetwork(onnx_file).in_half_precision())
    plan = built(onnx_file, precision="fp16").path.read_bytes()
    assert plan == built(half).path.read_bytes()
    assert plan != built(onnx_file).path.read_bytes()


@pytest.mark.parametrize("domain", ["", "my.operators"])
def test_unknown_operators_are_named(tmp_path, engines, domain):
    path = save_onnx(tmp_path / "net.onnx", WEIGHTS, name="the odd one")
    model = onnx.load(str(path))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Frobnicate", domain
    if domain:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    onnx.save(model, str(path))
    assert complaint(ModelError, engine(path).build) == (
        f"model '{path}' cannot be built by TensorRT: operator Frobnicate (node 'the odd one'): it is not known to "
        "this TensorRT, and there is no plugin for it"
    )
    assert all(name.startswith(".") for name in left_in(engines))


def with_weights_outside(path):
    options = {"save_as_external_data": True, "location": "net.weights", "size_threshold": 0}
    onnx.save(onnx.load(str(path)), str(path), **options)
    return path.with_name("net.weights")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_outside_belong_to_the_network(onnx_file, precision):
    weights = with_weights_outside(onnx_file)
    first = built(onnx_file, precision=precision)
    weights.write_bytes(WEIGHTS.tobytes())
    second = built(onnx_file, precision=precision)
    assert second.path != first.path
    assert second.path.read_bytes() != first.path.read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_outside_that_are_cut_off(onnx_file, precision):
    weights = with_weights_outside(onnx_file)
    weights.write_bytes(weights.read_bytes()[:10])

    def build():
        engine(onnx_file, precision=precision).build()

    assert str(onnx_file) in complaint(ModelError, build)


def test_bf16_wants_a_network_in_bf16(onnx_file):
    message = complaint(ConfigError, engine, onnx_file, precision="bf16")
    assert "'net.onnx' has none; export it in bfloat16, or choose fp16" in message


def test_unknown_sources_of_tactics(onnx_file):
    message = complaint(ConfigError, engine, onnx_file, tactic_sources="frob")
    assert message.startswith("option 'tactic_sources': got 'frob', allowed are ")


def calibration(identity="ab" * 32, batches=None, source="noise", count=4):
    def noise(size):
        rng = np.random.default_rng(1)
        for _ in range(4):
            yield rng.random((size, 3, 8, 8), np.float32) * 2 - 1

    return CalibrationData(identity, batches or noise, source, count)


def test_int8_wants_pictures(onnx_file):
    message = complaint(ConfigError, engine, onnx_file, precision="int8")
    assert "does not say how it is quantized" in message
    assert "--int8 --calibrate" in message


def test_int8_is_calibrated(onnx_file, engines):
    sizes = []

    def noted(size):
        sizes.append(size)
        return calibration().batches(size)

    made = built(onnx_file, precision="int8", calibration=calibration(batches=noted))
    assert sizes == [4]  # the usual batch
    manifest = read_manifest(made.path)
    assert (manifest.calibration, manifest.calibration_source, manifest.calibration_frames) == ("ab" * 32, "noise", 4)
    assert manifest.command.endswith(" --shapes input:1x3x8x8/4x3x8x8/8x3x8x8 --calibrate noise --calibrate-frames 4")
    assert left_in(engines) == whole(made.path)
    assert made.path.read_bytes() != built(onnx_file).path.read_bytes()
    assert engine(onnx_file, precision="int8", calibration=calibration("cd" * 32)).path != made.path
    assert not engine(onnx_file, precision="int8", calibration=calibration()).build()
    moved = calibration(source="elsewhere")
    assert not engine(onnx_file, precision="int8", calibration=moved).build()  # the same pictures


def with_offset(path):
    """A network with a second input, which is added to the result."""
    model = onnx.load(save_onnx(path, WEIGHTS))
    model.graph.input.append(onnx.helper.make_tensor_value_info("offset", onnx.TensorProto.FLOAT, [1, 2, 1, 1]))
    model.graph.node.append(onnx.helper.make_node("Add", ["output", "offset"], ["shifted"]))
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("shifted", onnx.TensorProto.FLOAT, ["N", 2, 8, 8])
    )
    onnx.save(model, path)
    return path


def test_calibration_of_a_network_with_more_inputs_than_the_picture(tmp_path):
    path = with_offset(tmp_path / "two.onnx")
    spec = make_spec(activation="none", output={"name": "shifted"}, constants={"offset": 0.5})
    assert engine(path, spec=spec, precision="int8", calibration=calibration()).build()
    undescribed = make_spec(activation="none", output={"name": "shifted"})
    message = complaint(ModelError, engine, path, spec=undescribed)
    assert message.endswith('offset; its description can say what they hold: "constants": {"offset": 0}')


def test_translated_networks_keep_their_weights(onnx_file):
    message = complaint(ConfigError, engine, onnx_file, precision="fp16", strip=True)
    assert "builds fp16 from a translation of 'net.onnx'" in message


def test_engine_that_goes_while_it_is_looked_for(onnx_file):
    made = built(onnx_file)
    made.path.unlink()
    assert not engine(onnx_file).is_built
    assert engine(onnx_file).build()


def test_quantized_networks_want_no_pictures(onnx_file, tmp_path):
    path = tmp_path / "quantized.onnx"
    path.write_bytes(OnnxNetwork(onnx_file).quantized({"input": batch} for batch in calibration().batches(4)))
    built(path, precision="int8")
    message = complaint(ConfigError, engine, path, precision="int8", calibration=calibration())
    assert message.endswith("says itself how it is quantized (Q/DQ): leave --calibrate out")


def test_failure_in_reading_pictures_comes_out(onnx_file, engines):
    def broken(size):
        yield np.zeros((size, 3, 8, 8), np.float32)
        raise StreamError("picture 'two.png' cannot be read")

    made = engine(onnx_file, precision="int8", calibration=calibration(batches=broken))
    assert complaint(StreamError, made.build) == "picture 'two.png' cannot be read"
    assert left_in(engines) == {f".{made.path.name}.lock"}


def builds_running():
    return [thread.name for thread in threading.enumerate() if thread.name == BUILD_THREAD]


def test_cancelled_build_leaves_nothing(onnx_file, engines):
    began, asked, told_after = threading.Event(), threading.Event(), []

    def report(phase, fraction):
        if asked.is_set():
            told_after.append(phase)
            time.sleep(0.01)
        elif fraction is not None:
            began.set()
            asked.wait(10)  # until the build has been asked to end

    def cancelled():
        if began.is_set():
            asked.set()
        return began.is_set()

    made = engine(onnx_file)
    message = complaint(EngineError, made.build, report, cancelled)
    assert message == f"the build of '{made.path}' was cancelled; nothing was written"
    assert left_in(engines) == {f".{made.path.name}.lock"}
    assert builds_running() == []
    assert len(told_after) < 40  # of some 70
    assert engine(onnx_file).build()


def test_cancelling_ends_calibration(onnx_file):
    asked, read_after = threading.Event(), []

    def cancelled():
        asked.set()
        return True

    def pictures(size):
        yield np.ones((size, 3, 8, 8), np.float32)
        asked.wait(10)
        for index in range(50):
            read_after.append(index)
            yield np.ones((size, 3, 8, 8), np.float32)

    made = engine(onnx_file, precision="int8", calibration=calibration(batches=pictures))
    assert "was cancelled" in complaint(EngineError, made.build, cancelled=cancelled)
    assert len(read_after) < 50


def test_progress_goes_from_0_to_1_and_never_back(onnx_file):
    told = []
    engine(onnx_file).build(lambda phase, fraction: told.append((phase, fraction)))
    assert told[0] == ("reading the network", None)
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert len(fractions) > 10
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert fractions == sorted(fractions)


@pytest.mark.parametrize("when", [None, 0])
def test_failure_of_the_report_comes_out(onnx_file, engines, when, capfd):
    def report(phase, fraction):
        if fraction == when:
            raise KeyError("no terminal")

    made = engine(onnx_file)
    with pytest.raises(KeyError, match="no terminal"):
        made.build(report)
    assert left_in(engines) == {f".{made.path.name}.lock"}
    assert capfd.readouterr() == ("", "")


def test_waiting_for_another_build_can_be_cancelled(onnx_file, engines):
    made = engine(onnx_file)
    engines.mkdir()
    with filelock.FileLock(engines / f".{made.path.name}.lock"):
        message = complaint(EngineError, made.build, cancelled=lambda: True)
    assert message == f"the build of '{made.path}' was cancelled; nothing was written"
    assert made.build()


def test_who_waited_has_the_manifest_of_who_built(onnx_file, engines):
    other, mine = engine(onnx_file), engine(onnx_file, spec=make_spec(["nothing", "dog"], activation="none"))
    engines.mkdir()
    lock = filelock.FileLock(engines / f".{mine.path.name}.lock")
    lock.acquire()

    def report(phase, fraction):
        assert phase == "waiting for another process that builds it"
        lock.release()
        assert other.build()

    assert not mine.build(report)
    assert mine.manifest.plan_bytes == mine.path.stat().st_size
    assert read_manifest(mine.path) == mine.manifest


def test_lock_is_free_after_a_build(onnx_file):
    made = engine(onnx_file)
    made.build()
    filelock.FileLock(made.path.with_name(f".{made.path.name}.lock")).acquire(timeout=0)


# A build that says "building" or "waiting" and, at `hold`, goes on only when it is told to.
CHILD = """
import signal, sys, threading
from pathlib import Path
from bmf_trt_seg.engine import builder
from bmf_trt_seg.engine.library import load_library
from bmf_trt_seg.engine.options import BuildOptions

hold, model = sys.argv[1], Path(sys.argv[2])
builder.load_library = lambda: load_library("tensorrt_rtx")
builder.find_gpu = lambda device: None
interrupted, polled, said = threading.Event(), threading.Event(), set()

def interrupt(*values):
    interrupted.set()
    raise KeyboardInterrupt

def report(phase, fraction):
    word = "waiting" if phase.startswith("waiting") else "building" if fraction is not None else ""
    if not word or word in said:
        return
    said.add(word)
    if word == "building":
        polled.wait()  # until the main thread waits for this one
    print(word, flush=True)
    if word == "building" and hold == "interrupt":
        interrupted.wait()
        threading.Event().wait(0.5)  # TensorRT's next step takes a while, and the process has to outlast it
        print("stopped", flush=True)
    elif word == "building":
        sys.stdin.readline()

signal.signal(signal.SIGINT, interrupt)
engine = builder.EngineFromOnnx(model, BuildOptions())
print("ready", flush=True)
sys.stdin.readline()
print(engine.build(report, polled.set), engine.path.is_file(), flush=True)
"""


@pytest.fixture
def child(onnx_file):
    """Starts processes that build, and leaves none behind."""
    started = []

    def start(hold="line"):
        command = [sys.executable, "-c", CHILD, hold, str(onnx_file)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def says(process):
    return process.stdout.readline().strip()


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("count", [2, 4])
def test_of_several_processes_one_builds(child, onnx_file, engines, count):
    processes = [child() for _ in range(count)]
    assert [says(process) for process in processes] == ["ready"] * count
    for process in processes:
        go_on(process)
    words = [says(process) for process in processes]
    assert sorted(words) == ["building", *["waiting"] * (count - 1)]
    go_on(processes[words.index("building")])
    ends = {word: [] for word in words}
    for word, process in zip(words, processes, strict=True):
        ends[word].append(says(process))
    assert ends == {"building": ["True True"], "waiting": ["False True"] * (count - 1)}
    assert [process.wait(20) for process in processes] == [0] * count
    assert left_in(engines) == whole(engine(onnx_file, spec=None).path)


def test_interrupted_build_leaves_nothing(child, onnx_file, engines):
    process = child("interrupt")
    go_on(process)
    assert [says(process), says(process)] == ["ready", "building"]
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert output == "stopped\n"
    assert errors.strip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT  # as Python ends; not aborted in TensorRT
    assert left_in(engines) == {f".{engine(onnx_file, spec=None).path.name}.lock"}


def test_killed_build_leaves_no_engine_and_no_lock(child, onnx_file, engines):
    process = child()
    go_on(process)
    assert [says(process), says(process)] == ["ready", "building"]
    process.kill()
    process.wait(20)
    made = engine(onnx_file, spec=None)
    assert not made.path.exists()
    assert not manifest_path(made.path).exists()
    assert made.build(lambda phase, fraction: None, cancelled=lambda: False)
    assert left_in(engines) == whole(made.path)
