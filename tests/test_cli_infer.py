"""`infer`: the raw class map, the picture with its legend, times, and the profile with the layers."""

from __future__ import annotations

import json
import re
import warnings

import clips
import numpy as np
import pytest
import torch
from commands import Cli, Ended, runner
from factories import save_onnx
from onnx import TensorProto, helper
from PIL import Image

from bmf_trt_seg import picture_inference
from bmf_trt_seg.backends import LayerTime, select_backend
from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.errors import EngineError
from bmf_trt_seg.spec import ModelSpec, spec_path
from bmf_trt_seg.stage_times import Stage, StageTimes

FILES = ["classes.png", "overlay.png", "profiling.json"]
WIDTH, HEIGHT = clips.SIZE_WH


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture
def picture(tmp_path):
    """A dark picture with a bright box, as the networks of `clips` want it."""
    pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    pixels[clips.box(0, WIDTH, HEIGHT)] = 230
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def read(path):
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def profile(folder):
    """Events of the two rows, and the whole file's names of rows."""
    events = json.loads((folder / "profiling.json").read_text())["traceEvents"]
    rows = {event["args"]["name"]: event["tid"] for event in events if event["name"] == "thread_name"}
    spans = [event for event in events if event["ph"] == "X"]
    return [[span for span in spans if span["tid"] == rows[name]] for name in ("stages", "layers")]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_and_words(cli, tmp_path, bright, picture):
    out = tmp_path / "new" / "out"
    ended = cli("infer", "-m", bright, "-i", picture, "-o", out)
    assert (ended.code, ended.err) == (0, "")
    assert names(out) == FILES
    mask = clips.box_mask(0, WIDTH, HEIGHT)
    mode, classes = read(out / "classes.png")
    assert mode == "L"
    np.testing.assert_array_equal(classes, mask)
    _, drawn = read(out / "overlay.png")
    box = clips.box(0, WIDTH, HEIGHT)
    assert (drawn[box][12:, 20:] == (242, 115, 115)).all(), "not half red"
    assert (drawn[4:12, 4:12] != 40).any(), "no legend"
    assert (drawn[-4:] == 40).all()
    took = r"\d+\.\d\d ms"
    assert re.fullmatch(
        "\n".join(
            [
                r"network      bright\.onnx, onnxruntime on the CPU, 1 thread",
                rf"picture      {re.escape(str(picture))}, {WIDTH}x{HEIGHT}",
                rf"load         {took}, after {took} for its library",
                rf"preprocess   {took}",
                rf"infer        first {took}, median {took} of 10 more \({took} to {took}\)",
                rf"postprocess  {took}",
                rf"draw         {took}",
                rf"layers       \d+, {took} in a run with each timed; the slowest:",
                rf"( +\d+\.\d%  +{took}  .+\n)+classes      background {100 * (~mask).mean():.1f}%, "
                rf"box {100 * mask.mean():.1f}%",
                r"written      .*classes\.png, .*overlay\.png, .*profiling\.json\n",
            ]
        ),
        ended.out,
    )


def test_profile_has_the_layers_inside_their_run(cli, tmp_path, networks, picture):
    assert cli("infer", "-m", networks / "three.onnx", "-i", picture, "-o", tmp_path, "-r", "3", "-q") == Ended(
        0, "", ""
    )
    stages, layers = profile(tmp_path)
    assert [stage["name"] for stage in stages] == [
        "read", "import", "load", "preprocess", "infer", "infer", "infer", "infer, layer by layer", "postprocess",
        "draw",
    ]  # fmt: skip
    ends = [stage["ts"] + stage["dur"] for stage in stages]
    assert all(end <= stage["ts"] + 0.01 for end, stage in zip(ends, stages[1:], strict=False)), "stages overlap"
    run = next(stage for stage in stages if stage["name"] == picture_inference.PROFILED)
    assert [layer["args"]["operator"] for layer in layers].count("Conv") == 2
    assert [layer["args"]["number"] for layer in layers] == list(range(len(layers)))
    assert all(run["ts"] <= layer["ts"] and layer["ts"] + layer["dur"] <= run["ts"] + run["dur"] for layer in layers)


@pytest.mark.parametrize(("runs", "said"), [(1, r"first [^,\n]+"), (2, r"first [^,]+ ms, second [^,]+ ms")])
def test_few_runs(cli, tmp_path, bright, picture, runs, said):
    ended = cli("infer", "-m", bright, "-i", picture, "-o", tmp_path / "out", "-r", runs)
    assert re.search(rf"\ninfer        {said}\n", ended.out)


# --- class maps ------------------------------------------------------------------------------------------------------


def index_network(path, gain, size_wh=clips.SIZE_WH, **spec):
    """Gives brightness times `gain`, rounded, as a class index."""
    return clips.write_network(
        path,
        lambda: [
            helper.make_node("Conv", ["input", "weights"], ["scaled"]),
            helper.make_node("Round", ["scaled"], ["whole"]),
            helper.make_node("Squeeze", ["whole", "axis"], ["flat"]),
            helper.make_node("Cast", ["flat"], ["output"], to=TensorProto.INT64),
        ],
        size_wh=size_wh,
        output=["N", size_wh[1], size_wh[0]],
        output_type=TensorProto.INT64,
        constants={"weights": np.full((1, 3, 1, 1), gain / 3, np.float32), "axis": np.array([1], np.int64)},
        spec={"labels": ["dark", "box"], "output": {"activation": "index"}, **spec},
    )


def test_indices_are_kept_in_16_bits(cli, tmp_path, picture):
    model = index_network(tmp_path / "index.onnx", gain=255 * 5)
    assert cli("infer", "-m", model, "-i", picture, "-o", tmp_path / "out", "-q") == Ended(0, "", "")
    mode, classes = read(tmp_path / "out" / "classes.png")
    assert mode == "I;16"
    np.testing.assert_array_equal(classes, np.where(clips.box_mask(0, WIDTH, HEIGHT), 5 * 230, 5 * 40))


@pytest.mark.parametrize(("gain", "box", "around"), [(-255, 65535, 65535), (255 * 1000, 65535, 40000)])
def test_indices_that_16_bits_do_not_hold(cli, tmp_path, picture, gain, box, around):
    model = index_network(tmp_path / "index.onnx", gain)
    assert cli("infer", "-m", model, "-i", picture, "-o", tmp_path / "out", "-q") == Ended(0, "", "")
    expected = np.where(clips.box_mask(0, WIDTH, HEIGHT), box, around)
    np.testing.assert_array_equal(read(tmp_path / "out" / "classes.png")[1], expected)


def test_indices_of_a_letterboxed_picture(cli, tmp_path):
    size = {"width": 16, "height": 16, "resize": "letterbox"}
    model = index_network(tmp_path / "index.onnx", 255, (16, 16), input=size)
    pixels = np.repeat(np.repeat(np.arange(16, dtype=np.uint8)[None] * 10, 8, 0)[..., None], 3, 2)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert cli("infer", "-m", model, "-i", tmp_path / "wide.png", "-o", tmp_path / "out", "-q") == Ended(0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "out" / "classes.png")[1], pixels[..., 0])


def test_a_class_map_has_the_size_of_the_upright_picture(cli, tmp_path, networks):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((30, 50, 3), 200, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    model = networks / "three.onnx"
    assert cli("infer", "-m", model, "-i", tmp_path / "a.jpg", "-o", tmp_path / "out", "-q").code == 0
    assert read(tmp_path / "out" / "classes.png")[1].shape == (50, 30)
    assert (read(tmp_path / "out" / "classes.png")[1] == 2).all()


def test_chosen_classes_and_looks(cli, tmp_path, networks, picture):
    arguments = ["infer", "-m", networks / "three.onnx", "-i", picture, "-q", "-o"]
    assert cli(*arguments, tmp_path / "a", "--classes", "light", "--alpha", "1").code == 0
    assert set(np.unique(read(tmp_path / "a" / "classes.png")[1])) == {0, 2}
    assert (read(tmp_path / "a" / "overlay.png")[1][clips.box(0, WIDTH, HEIGHT)][12:, 20:] == (0, 255, 0)).all()
    assert cli(*arguments, tmp_path / "b", "--style", "sidebyside").code == 0
    assert read(tmp_path / "b" / "overlay.png")[1].shape == (HEIGHT, 2 * WIDTH, 3)


# --- backends --------------------------------------------------------------------------------------------------------


def test_network_of_fixed_batch_size(cli, tmp_path, picture):
    model = clips.bright_model(tmp_path / "four.onnx", batch=4)
    assert cli("infer", "-m", model, "-i", picture, "-o", tmp_path / "out", "-q") == Ended(0, "", "")
    np.testing.assert_array_equal(read(tmp_path / "out" / "classes.png")[1], clips.box_mask(0, WIDTH, HEIGHT))
    assert profile(tmp_path / "out")[1]


def test_pytorch_tells_stages_only(cli, tmp_path, bright, picture):
    class Bright(torch.nn.Module):
        def forward(self, x):
            return x.mean(1, keepdim=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(Bright(), torch.zeros(1, 3, HEIGHT, WIDTH)).save(tmp_path / "net.pt")
    spec_path(tmp_path / "net.pt").write_text(spec_path(bright).read_text())
    ended = cli("infer", "-m", tmp_path / "net.pt", "-i", picture, "-o", tmp_path / "out", "-r", "2")
    assert ended.code == 0
    assert "network      net.pt, pytorch on the CPU\n" in ended.out
    assert "layers       this backend does not tell their times\n" in ended.out
    np.testing.assert_array_equal(read(tmp_path / "out" / "classes.png")[1], clips.box_mask(0, WIDTH, HEIGHT))
    stages, layers = profile(tmp_path / "out")
    assert not layers
    assert picture_inference.PROFILED not in {stage["name"] for stage in stages}


def test_profiling_leaves_a_network_as_it_was(tmp_path, bright):
    spec = ModelSpec.read(spec_path(bright))
    batch = np.random.default_rng(0).random((2, 3, HEIGHT, WIDTH), np.float32)
    network = select_backend("auto", bright)(bright, spec)
    with pytest.raises(EngineError, match="is not open: call open"):
        network.profile(batch)
    with network:
        before, session = network.infer(batch), network._session
        run = network.profile(batch)
        assert network._session is session, "it goes on with the slower one"
        assert "Conv" in {layer.kind for layer in run.layers}
        assert all(0 <= layer.begin_seconds <= (run.end_ns - run.begin_ns) / 1e9 for layer in run.layers)
        np.testing.assert_array_equal(network.infer(batch), before)


def test_a_profiled_run_that_fails(tmp_path, monkeypatch, bright):
    run = OnnxRuntimeBackend._run
    with select_backend("auto", bright)(bright, ModelSpec.read(spec_path(bright))) as network:
        monkeypatch.setattr(OnnxRuntimeBackend, "_run", lambda *_: (_ for _ in ()).throw(EngineError("broke")))
        batch = np.zeros((1, 3, HEIGHT, WIDTH), np.float32)
        with pytest.raises(EngineError, match="broke"):
            network.profile(batch)
        monkeypatch.setattr(OnnxRuntimeBackend, "_run", run)
        assert network.infer(batch).shape == (1, 1, HEIGHT, WIDTH)


def test_layers_without_beginnings_follow_one_another(tmp_path):
    times = StageTimes()
    layers = [LayerTime("first", 0.002), LayerTime("second", 0.001), LayerTime("third", 0.001)]
    times.stages.append(Stage("infer", 5_000_000_000, 5_010_000_000, {"run": 1}, layers))
    times.stages.append(Stage("draw", 5_010_000_000, 5_011_000_000, {}))
    times.write(tmp_path / "profiling.json", "a 'name'")
    stages, found = profile(tmp_path)
    assert [(stage["name"], stage["ts"], stage["dur"]) for stage in stages] == [
        ("infer", 0, 10000),
        ("draw", 10000, 1000),
    ]
    assert [(layer["name"], layer["ts"], layer["dur"], layer["args"]["share"]) for layer in found] == [
        ("first", 0, 2000, "50.0%"), ("second", 2000, 1000, "25.0%"), ("third", 3000, 1000, "25.0%"),
    ]  # fmt: skip


def test_a_stage_that_fails_is_not_noted():
    times = StageTimes()
    with pytest.raises(OSError, match="away"), times.stage("load"):
        raise OSError("away")
    assert times.stages == []


def test_profiler_of_tensorrt():
    """With the real base class; TensorRT-RTX needs no GPU for that."""
    trt = pytest.importorskip("tensorrt_rtx")
    from bmf_trt_seg.engine.profiling import layer_profiler

    profiler = layer_profiler(trt)
    assert isinstance(profiler, trt.IProfiler)
    profiler.report_layer_time("conv1 +\n relu1", 0.25)
    profiler.report_layer_time("conv2", 1)
    assert profiler.layers == [("conv1 + relu1", 0.25), ("conv2", 1.0)]
    assert {"profiler", "enqueue_emits_profile"} <= set(dir(trt.IExecutionContext))


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["-i", "nope.png"], 1, "'nope.png' does not exist"),
        (["-i", "text.png"], 1, "'text.png' is no picture"),
        (["-i", "film.mp4"], 1, "'film.mp4' is no picture"),
        (["-i", "folder"], 1, "'folder' is a folder; 'infer' takes one picture, 'images' takes folders"),
        (["-o", "in.png"], 2, "'in.png' is a file; -o names a folder for classes.png, overlay.png, profiling.json"),
        (["-o", "folder", "-y"], 2, "'folder/classes.png' is a folder, and would be the name of a result"),
        (["-m", "bare.onnx"], 2, "model 'bare.onnx' has no description: 'bare.json' should lie beside it and say what "
         "the network takes and gives (see 'Your own network' in the README)"),
        (["--classes", "dog"], 2, "option 'classes': the model has no class 'dog'; it has 0 background, 1 box"),
        (["--threads", "x"], 2, 'infer: option \'threads\': got "x", allowed is a whole number from 0 to 256'),
        (["-m", "classifier.onnx"], 1, "output 'output' of the network has the shape (1, 3), which is no segmentation "
         "as its description has it: expected scores (N, C, H, W) with C = 3, the number of labels; with activation "
         "'index', class indices (N, H, W)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(cli, tmp_path, picture, plain_clip, monkeypatch, flags, code, said):
    monkeypatch.chdir(tmp_path)
    clips.bright_model(tmp_path / "bright.onnx")
    clips.classifier_model(tmp_path / "classifier.onnx")
    save_onnx(tmp_path / "bare.onnx", np.ones((2, 3, 1, 1), np.float32))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "film.mp4").write_bytes(plain_clip.read_bytes())
    (tmp_path / "folder" / "classes.png").mkdir(parents=True)
    ended = cli("infer", "-m", "bright.onnx", "-i", "in.png", "-o", "out", *flags)
    assert ended == Ended(code, "", f"bmf-trt-seg: {said}\n")
    assert not (tmp_path / "out").exists()


def test_files_are_replaced_with_y_only(cli, tmp_path, bright, picture):
    arguments = ["infer", "-m", bright, "-i", picture, "-o", tmp_path / "out", "-q"]
    assert cli(*arguments).code == 0
    ended = cli(*arguments)
    assert ended.code == 2
    assert f"Error: '{tmp_path}/out/classes.png' exists (and 2 more); give -y to replace it\n" in ended.err
    (tmp_path / "out" / "classes.png").write_text("old")
    assert cli(*arguments, "-y") == Ended(0, "", "")
    assert read(tmp_path / "out" / "classes.png")[0] == "L"
    assert names(tmp_path / "out") == FILES


def test_the_picture_is_not_replaced_by_its_result(cli, tmp_path, bright, picture):
    picture.rename(tmp_path / "overlay.png")
    before = (tmp_path / "overlay.png").read_bytes()
    ended = cli("infer", "-m", bright, "-i", tmp_path / "overlay.png", "-o", tmp_path, "-y")
    said = f"'{tmp_path}/overlay.png' is the input; choose another name for the output"
    assert ended == Ended(2, "", f"bmf-trt-seg: {said}\n")
    assert (tmp_path / "overlay.png").read_bytes() == before


def test_all_files_or_none(cli, tmp_path, bright, picture, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StageTimes, "write", full)
    ended = cli("infer", "-m", bright, "-i", picture, "-o", tmp_path / "out")
    said = f"nothing can be written to '{tmp_path}/out': No space left on device"
    assert ended == Ended(1, "", f"bmf-trt-seg: {said}\n")
    assert names(tmp_path / "out") == []


def test_a_network_without_classes(cli, tmp_path, picture):
    spec = ModelSpec.model_validate({"task": "raw", "input": {"height": 8, "width": 8}, "output": {"name": "output"}})
    model = save_onnx(tmp_path / "raw.onnx", np.ones((2, 3, 1, 1), np.float32), spec=spec)
    for verb in ("infer", "images"):
        ended = cli(verb, "-m", model, "-i", picture, "-o", tmp_path / "out")
        assert ended.code == 2
        assert ended.err.startswith("bmf-trt-seg: model 'raw.onnx' is described as of task 'raw', which ")


def test_help(cli):
    shown = cli("infer", "--help").out
    for flag in ("-m, --model MODEL", "-i, --image PICTURE", "-o, --out DIR", "-r, --runs N"):
        assert flag in shown
