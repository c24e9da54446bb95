"""`bmf-trt-seg bench` on the CPU: the whole command, with networks whose agreement is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import numpy as np
import onnx
import pytest
from commands import Cli, Ended, runner
from factories import make_spec, save_onnx
from PIL import Image

from bmf_trt_seg.errors import BackendUnavailable, ConfigError

LABELS = ("red", "green", "blue")
WEIGHTS = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
SPEC = make_spec(LABELS, "softmax", background=None)
QUICK = ("--seconds", "0.02", "--turns", "2")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: net.onnx, in which the largest channel of a pixel is its class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BMF_TRT_SEG_ENGINES", raising=False)
    save_onnx(Path("net.onnx"), WEIGHTS, spec=SPEC)
    return tmp_path


@pytest.fixture
def pictures() -> Path:
    """Two of them: blue but for three rows, which are more green than red, though both more than half."""
    folder = Path("pictures")
    folder.mkdir()
    for name in "ab":
        rgb = np.zeros((8, 8, 3), np.uint8)
        rgb[..., 2] = 255
        rgb[:3] = [160, 200, 0]
        Image.fromarray(rgb).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def coarse() -> Path:
    """The network with scores rounded to whole numbers, in which it cannot tell 160 from 200: the first class wins."""
    model = onnx.load("net.onnx")
    nodes = model.graph.node
    nodes[-1].output[0] = "exact"
    make = onnx.helper.make_node
    nodes.append(make("QuantizeLinear", ["exact", "scale", "zero"], ["whole"]))
    nodes.append(make("DequantizeLinear", ["whole", "scale", "zero"], ["output"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "scale"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int8(0), "zero"))
    onnx.save(model, "coarse.onnx")
    return Path("coarse.onnx")


def bench(cli: Cli, *arguments: object, code: int = 0) -> tuple[dict[str, Any], Ended]:
    """What the report says, and how it ended."""
    ended = cli("bench", *arguments, *QUICK, "-o", "out", "-y", "--no-plot")
    assert ended.code == code, ended.err
    return json.loads(Path("out/bench.json").read_text(encoding="utf-8")), ended


def rows_of(out: str) -> list[list[str]]:
    """The cells of the table below its heading."""
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("precision"))
    assert re.split(r"\s{2,}", lines[start]) == [
        "precision", "batch", "p50 ms", "p90 ms", "p99 ms", "pictures/s", "size", "memory", "agreement", "mIoU"
    ]  # fmt: skip
    rows = [re.split(r"\s{2,}", line) for line in lines[start + 1 :]]
    return [row for row in rows if len(row) == 10]


def test_a_network_on_the_cpu(cli, pictures):
    report, ended = bench(cli, "net.onnx", "--pictures", pictures, "--batches", "2,1")
    assert ended.out.splitlines()[:2] == [
        "net.onnx, 8x8, onnxruntime on the CPU, 1 thread",
        "on 2 pictures of 'pictures'; class maps against fp32; 0.02 s each, medians of 2 turns",
    ]
    rows = rows_of(ended.out)
    assert [row[:2] for row in rows] == [["fp32", "1"], ["fp32", "2"]]
    assert [row[6:] for row in rows] == [["0.3 kB", "-", "100.00 %", "100.00 %"]] * 2
    assert report["precisions"][0]["file_bytes"] == Path("net.onnx").stat().st_size
    for timing in report["precisions"][0]["batches"]:
        assert 0 < timing["p50_ms"] <= timing["p90_ms"] <= timing["p99_ms"]
        assert 0 < timing["slowest_turn"] <= timing["pictures_per_second"] <= timing["fastest_turn"]
        assert timing["turns"] == 2
        assert timing["calls"] >= 6
    assert report["pictures"] == {"source": "pictures", "noise": False, "count": 2}
    assert report["compared_with"] == "fp32"
    assert "onnxruntime" in report["versions"]
    assert ended.err == "out: bench.json\n"


def test_agreement_with_fp32_is_that_computed_by_hand(cli, pictures, coarse):
    """Three of eight rows differ: of three classes, red is found where it is not, green is lost, blue is the same."""
    pytest.importorskip("torchmetrics")
    report, ended = bench(cli, "net.onnx", "--pictures", pictures, "--batches", "1", "--quantized", coarse)
    assert [row["precision"] for row in report["precisions"]] == ["fp32", "int8"]
    assert report["precisions"][1]["agreement"] == pytest.approx(5 / 8)
    assert report["precisions"][1]["mean_iou"] == pytest.approx((0 + 0 + 1) / 3)
    assert rows_of(ended.out)[1][8:] == ["62.50 %", "33.33 %"]


def test_without_fp32_onnx_runtime_is_what_is_compared_with(cli, pictures, coarse):
    report, ended = bench(
        cli, "net.onnx", "--pictures", pictures, "--batches", "1", "--quantized", coarse, "--precisions", "int8"
    )
    assert "class maps against fp32 of onnxruntime on the CPU" in ended.out
    assert report["precisions"][0]["agreement"] == pytest.approx(5 / 8)


def test_int8_is_calibrated_on_a_folder(cli, pictures):
    report, _ = bench(cli, "net.onnx", "--pictures", pictures, "--batches", "1", "--calibration", pictures)
    made = report["precisions"][1]
    assert (made["precision"], made["file"]) == ("int8", "net.int8.onnx")
    assert made["agreement"] == 1.0


def test_noise_is_said_to_be_noise(cli):
    report, ended = bench(cli, "net.onnx", "--batches", "1")
    assert "on noise, which says little about class maps: give --pictures" in ended.out
    assert report["pictures"]["noise"] is True
    assert report["precisions"][0]["agreement"] == 1.0


def test_frames_of_a_video(cli, tmp_path):
    clips.write_clip(tmp_path / "clip.mp4", frames=12)
    report, _ = bench(cli, "net.onnx", "--batches", "1", "--pictures", "clip.mp4", "--picture-count", 5)
    assert report["pictures"]["count"] == 5


def test_precisions_that_cannot_be_are_lines_of_the_table(cli):
    report, ended = bench(cli, "net.onnx", "--batches", "1", "--precisions", "int8,fp32,bf16,fp16")
    assert [row[0] for row in rows_of(ended.out)] == ["fp32", "fp16", "bf16", "int8"]
    assert [row[2] == "-" for row in rows_of(ended.out)] == [False, True, True, True]
    assert ended.out.splitlines()[-3:] == [
        "fp16: onnxruntime runs the network in the types it has; only TensorRT changes them",
        "bf16: onnxruntime runs the network in the types it has; only TensorRT changes them",
        "int8: it wants pictures to calibrate on: --calibration VIDEO_OR_FOLDER; or a network with Q/DQ operators: "
        "--quantized FILE.onnx",
    ]
    assert [bool(row["problem"]) for row in report["precisions"]] == [False, True, True, True]


def test_a_network_of_fixed_batch(cli):
    save_onnx(Path("two.onnx"), WEIGHTS, batch=2, spec=SPEC)
    report, ended = bench(cli, "two.onnx", "--batches", "1,2")
    assert "fp32, batch 1: the network takes batches of 2 only" in ended.out
    assert rows_of(ended.out)[0][2:] == ["-"] * 8
    assert report["precisions"][0]["batches"][0] == {
        "batch": 1,
        "problem": "the network takes batches of 2 only",
    }
    assert report["precisions"][0]["agreement"] == 1.0


def test_open_sizes_are_those_of_opt(cli):
    save_onnx(Path("open.onnx"), WEIGHTS, size_hw=("H", "W"), spec=SPEC)
    report, ended = bench(cli, "open.onnx", "--batches", "1,4", "--shapes", "1x3x8x8/2x3x16x24/4x3x32x32")
    assert ended.out.startswith("open.onnx, 24x16, onnxruntime")
    assert report["input"] == {"width": 24, "height": 16}


@pytest.mark.filterwarnings("ignore:.torch.jit")  # it is old, and what people have
def test_torchscript(cli):
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv2d(3, 3, 1)
    torch.jit.trace(module.eval(), torch.zeros(1, 3, 8, 8)).save("net.pt")
    report, ended = bench(cli, "net.pt", "--batches", "1,2", "--precisions", "fp32,fp16")
    assert ended.out.startswith("net.pt, 8x8, pytorch on the CPU")
    assert len(report["precisions"][0]["batches"]) == 2
    assert "fp16: pytorch runs the network in the types it has" in ended.out


def test_networks_without_classes_are_timed(cli):
    Path("net.json").write_text(json.dumps({"task": "raw", "input": {"height": 8, "width": 8}, "output": {}}))
    report, ended = bench(cli, "net.onnx", "--batches", "1")
    assert "no class maps are compared: the network's task is 'raw'" in ended.out
    assert rows_of(ended.out)[0][8:] == ["-", "-"]
    assert report["compared_with"] is None


def test_without_torchmetrics_there_is_no_miou(cli, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.classification", None)
    report, ended = bench(cli, "net.onnx", "--batches", "1")
    assert ended.out.splitlines()[-1].startswith("no mIoU: scores are computed by torchmetrics, which is not installed")
    assert (report["precisions"][0]["agreement"], report["precisions"][0]["mean_iou"]) == (1.0, None)


def test_the_diagram(cli, pictures, coarse):
    pytest.importorskip("matplotlib")
    ended = cli("bench", "net.onnx", "--quantized", coarse, "--pictures", pictures, *QUICK, "-o", "a/b", "-q")
    assert (ended.code, ended.err) == (0, "")
    assert sorted(path.name for path in Path("a/b").iterdir()) == ["bench.json", "bench.png"]
    with Image.open("a/b/bench.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
    again = cli("bench", "net.onnx", "-o", "a/b")
    assert (again.code, again.out) == (2, "")
    assert "'a/b/bench.json' exists; give -y to replace it" in again.err


def test_matplotlib_is_missed_before_the_work(cli, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else found(name, *more)
    )
    ended = cli("bench", "net.onnx", "-o", "out")
    assert (ended.code, ended.out) == (1, "")
    assert "pip install 'bmf-trt-seg[plots]', or give --no-plot" in ended.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("code", "arguments", "pattern"),
    [
        (2, ["nothing.onnx"], r"model file 'nothing.onnx' does not exist"),
        (2, ["net.onnx", "--precisions", "fp8"], r"--precisions: 'fp8' is none; allowed are fp32, fp16, bf16, int8"),
        (2, ["net.onnx", "--precisions", ","], r"--precisions is empty"),
        (2, ["net.onnx", "--batches", "0,4"], r"--batches: got '0,4'; expected numbers from 1 to 256, as in 1,4,8"),
        (2, ["net.onnx", "--batches", "x"], r"--batches: got 'x'"),
        (2, ["net.onnx", "--quantized", "net.onnx"], r"--quantized: 'net.onnx' has no Q/DQ operators"),
        (2, ["net.onnx", "--quantized", "no.onnx"], r"--quantized: 'no.onnx' does not exist"),
        (2, ["net.onnx", "--device", "gpu"], r"option 'device': got \"gpu\", allowed is 'auto', 'cpu', 'cuda' or"),
        (1, ["net.onnx", "--calibration", "no.mp4"], r"'no.mp4' does not exist"),
        (2, ["coarse.onnx", "--calibration", "."], r"how they are quantized \(Q/DQ\), as 'coarse.onnx' does; leave it"),
        (2, ["net.onnx", "--quantized", "coarse.onnx", "--calibration", "."], r"as 'coarse.onnx' does; leave it out"),
        (2, ["net.onnx", "--calibration", ".", "--precisions", "fp32"], r"--calibration is for int8, which is not"),
        (2, ["net.onnx", "--pictures", "."], r"'.' has no pictures in it; pictures end in .bmp"),
        (1, ["net.onnx", "--pictures", "no.mp4"], r"'no.mp4' does not exist"),
        (2, ["net.onnx", "--shapes", "1x3x8"], r"--shapes: 'input' is the picture, got 1x3x8; expected"),
        (2, ["net.onnx", "--shapes", "1x3x8x8/2x3x8x8/4x3x8x8"], r"--shapes is for batches of 1 to 4, --batches has 8"),
        (2, ["net.onnx", "--shapes", "8x"], r"--shapes: '8x' is no shape"),
        (1, ["net.onnx", "--precisions", "fp16"], r"nothing could be measured: fp16: onnxruntime runs the network in"),
        (2, ["net.onnx", "--backend", "pytorch"], r"backend 'pytorch' runs files ending in"),
        (2, ["net.engine"], r"'net.engine' is an engine, which has one precision: give the .onnx file"),
    ],
)
def test_wrong_usage(cli, coarse, code, arguments, pattern):
    SPEC.write(coarse.with_suffix(".json"))
    Path("net.engine").write_bytes(b"ftrt")
    Path("net.engine.json").write_text("{}")
    (Path("net.engine").with_suffix(".json")).write_text(Path("net.json").read_text())
    Path("net.json").write_text(SPEC.model_dump_json())
    ended = cli("bench", *arguments, "-o", "out", "--no-plot")
    assert (ended.code, ended.out) == (code, ""), ended
    assert re.fullmatch(rf"bmf-trt-seg: [^\n]*{pattern}[^\n]*\n", ended.err), ended.err
    assert not Path("out").exists()


@pytest.fixture
def setup_of_tensorrt():
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("torch")
    from bmf_trt_seg.comparison import Setup

    return Setup(Path("net.onnx"), SPEC, "tensorrt", (1, 2))


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="it is about machines without a GPU")
def test_what_tensorrt_cannot_build_is_a_problem_of_that_precision(setup_of_tensorrt, tmp_path, monkeypatch):
    """TensorRT-RTX takes bf16 from networks that have it, which this one has not."""
    from bmf_trt_seg.comparison import Comparison, noise

    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(tmp_path / "engines"))
    with Comparison(setup_of_tensorrt, noise(SPEC)) as comparison:
        made = comparison.add("bf16", lambda phase, fraction: None)
    assert made.backend is None
    assert made.problem.startswith("option 'precision': TensorRT-RTX")


@pytest.mark.parametrize("error", [BackendUnavailable("no TensorRT here"), ConfigError("no such engine")])
def test_a_machine_that_can_build_nothing_ends_it(setup_of_tensorrt, monkeypatch, error):
    from bmf_trt_seg import comparison

    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(comparison, "EngineFromOnnx", fails)
    with comparison.Comparison(setup_of_tensorrt, comparison.noise(SPEC)) as made:
        if isinstance(error, BackendUnavailable):
            with pytest.raises(BackendUnavailable, match="no TensorRT here"):
                made.add("fp32", lambda phase, fraction: None)
        else:
            assert made.add("fp32", lambda phase, fraction: None).problem == "no such engine"


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """TensorRT whose engines ONNX Runtime runs, and which knows no bf16; what was asked to be built."""
    from bmf_trt_seg import comparison
    from bmf_trt_seg.backends import select_backend
    from bmf_trt_seg.engine.library import Gpu

    asked: list[tuple[Any, ...]] = []

    class Emulated:
        def __init__(self, model: Path, options: Any, **values: Any) -> None:
            asked.append((model.name, options, values["batch"], values["calibration"]))
            if options.precision == "bf16":
                raise ConfigError("option 'precision': there are no such engines; leave it out")
            self.path = model
            self.manifest = SimpleNamespace(plan_bytes=1_500_000, build_seconds=4.5)

        def build(self, report: Any) -> bool:
            report("building", 0.5)
            return True

    monkeypatch.setattr(comparison, "EngineFromOnnx", Emulated)
    monkeypatch.setattr(comparison, "find_gpu", lambda device: Gpu(0, "Emulated", "9.0"))
    monkeypatch.setattr(comparison, "_DeviceMemory", lambda device: SimpleNamespace(taken=lambda: 7_000_000))
    monkeypatch.setattr(
        comparison, "select_backend", lambda name, model: select_backend(name.replace("tensorrt", "onnxruntime"), model)
    )
    return asked


def test_engines_side_by_side(cli, pictures, coarse, emulated):
    report, ended = bench(
        cli, "net.onnx", "--backend", "tensorrt", "--batches", "1,4", "--pictures", pictures, "--quantized", coarse,
        "--precisions", "fp32,fp16,bf16,int8", "--workspace", 64, "--tactic-sources", "A,B", "--no-tf32",
    )  # fmt: skip
    assert [row[:2] + row[6:] for row in rows_of(ended.out)] == [
        ["fp32", "1", "1.5 MB", "7.0 MB", "100.00 %", "100.00 %"],
        ["fp32", "4", "1.5 MB", "7.0 MB", "100.00 %", "100.00 %"],
        ["fp16", "1", "1.5 MB", "7.0 MB", "100.00 %", "100.00 %"],
        ["fp16", "4", "1.5 MB", "7.0 MB", "100.00 %", "100.00 %"],
        ["bf16", "-", "-", "-", "-", "-"],
        ["int8", "1", "1.5 MB", "7.0 MB", "62.50 %", "33.33 %"],
        ["int8", "4", "1.5 MB", "7.0 MB", "62.50 %", "33.33 %"],
    ]
    assert ended.out.splitlines()[-1] == "bf16: option 'precision': there are no such engines; leave it out"
    assert [(model, options.precision, batch) for model, options, batch, _ in emulated] == [
        ("net.onnx", "fp32", (1, 4, 4)),
        ("net.onnx", "fp16", (1, 4, 4)),
        ("net.onnx", "bf16", (1, 4, 4)),
        ("coarse.onnx", "int8", (1, 4, 4)),
    ]
    options = emulated[0][1]
    assert (options.workspace_mib, options.tactic_sources, options.tf32) == (64, ["A", "B"], False)
    assert report["build"]["workspace_mib"] == 64
    assert report["precisions"][0]["build_seconds"] == 4.5


def test_engines_are_calibrated_on_what_is_given(cli, pictures, emulated):
    bench(cli, "net.onnx", "--backend", "tensorrt", "--batches", "1", "--calibration", pictures)
    assert [(options.precision, data and data.source) for _, options, _, data in emulated] == [
        ("fp32", None),
        ("fp16", None),
        ("int8", "pictures"),
    ]


def test_calls_on_a_gpu_overlap(monkeypatch):
    """A call is started without a wait, on pictures that are there already; the wait is for the current stream."""
    torch = pytest.importorskip("torch")
    from bmf_trt_seg import comparison

    events: list[str] = []
    stream = SimpleNamespace(device=torch.device("cpu"), synchronize=lambda: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    backend: Any = SimpleNamespace(stream=stream, infer_on_device=lambda batch: events.append(f"{tuple(batch.shape)}"))
    work = comparison._work(backend, np.zeros((2, 3, 8, 8), np.float32))
    work.start()
    work.start()
    work.run()
    assert events == ["(2, 3, 8, 8)"] * 3 + ["wait"]
    assert work.pictures == 2


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="it is about machines without a GPU")
def test_tensorrt_without_a_gpu(cli):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("torch")
    ended = cli("bench", "net.onnx", "--backend", "tensorrt", *QUICK)
    assert (ended.code, ended.out) == (1, "")
    assert "TensorRT engines run on a CUDA GPU, and PyTorch finds none here" in ended.err


def test_all_but_all_is_not_rounded_up():
    from bmf_trt_seg.cli.reports import percent

    shown = [percent(share) for share in (1.0, 0.999999, 0.99994, 0.5, 0.0, None)]
    assert shown == ["100.00 %", "99.99 %", "99.99 %", "50.00 %", "0.00 %", "-"]
