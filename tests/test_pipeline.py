"""Pipeline: when the network is run, on what, and with which colours and classes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from factories import make_picture, make_spec, save_onnx

from bmf_trt_seg.backends import Backend
from bmf_trt_seg.engine.builder import EngineFromOnnx
from bmf_trt_seg.engine.library import NO_GPU
from bmf_trt_seg.engine.manifest import manifest_path
from bmf_trt_seg.engine.options import BuildOptions
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, ModelError
from bmf_trt_seg.frames import allocate_planes
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import read_options
from bmf_trt_seg.pipeline import NetworkMasks, open_pipeline
from bmf_trt_seg.records import frame_record

RED_WINS = np.array([[[[1.0]], [[0.0]], [[0.0]]]], np.float32)  # the score is the red channel
LABELS = ["background", "person", "dog"]


class RedChannel(Backend):
    """A network whose score is the red channel; it notes the batches it was given."""

    def describe(self):
        return "a test"

    def _open(self):
        self.batches = []

    def _run(self, batch):
        self.batches.append(batch.copy())
        return batch[:, :1]

    def _close(self):
        self.closed = True


def shade(red, size=8):
    frame = make_picture("rgb24", size, size, fill=0)
    frame.planes[0][..., 0] = red
    return frame


def network(tmp_path, spec=None, **options):
    spec = spec or make_spec(activation="none")
    backend = RedChannel(tmp_path / "net.onnx", spec)
    return NetworkMasks(backend.open(), read_options({"model": "net", **options}), StreamMetrics("test")), backend


def segment(masks, reds, first=0):
    frames, numbers = [shade(red) for red in reds], range(first, first + len(reds))
    return masks.segment(frames, list(numbers), [(number, Fraction(1, 25)) for number in numbers])


def seen(segmentations):
    return [bool(segmentation.map_hw.all()) for segmentation in segmentations]


# ------------------------------------------------------------------------------------------------------- NetworkMasks


def test_pictures_keep_their_order_within_a_batch(tmp_path):
    masks, backend = network(tmp_path, batch_size=4)
    found = segment(masks, [0, 255, 255, 0])
    assert seen(found) == [False, True, True, False]
    assert all(segmentation.inferred for segmentation in found)
    assert [len(batch) for batch in backend.batches] == [1, 4]  # the first is the trial on a black picture
    np.testing.assert_allclose(backend.batches[1][:, 0, 0, 0], [0, 1, 1, 0])


def test_trial_run_is_on_one_black_picture(tmp_path):
    _, backend = network(tmp_path, make_spec(activation="none", input={"width": 6, "dtype": "float16"}))
    (batch,) = backend.batches
    assert (batch.shape, batch.dtype) == ((1, 3, 8, 6), np.float16)
    assert not batch.any()


def test_masks_are_held_between_inferences(tmp_path):
    masks, backend = network(tmp_path, interval=3)
    assert [number for number in range(9) if masks.is_due(number)] == [0, 3, 6]
    found = [
        result for first, red in enumerate([255, 0, 0, 0, 255, 255, 255]) for result in segment(masks, [red], first)
    ]
    assert [result.inferred for result in found] == [True, False, False, True, False, False, True]
    assert seen(found) == [True, True, True, False, False, False, True]
    assert len(backend.batches) == 1 + 3


def test_held_pictures_stand_anywhere_in_a_batch(tmp_path):
    masks, backend = network(tmp_path, interval=2, batch_size=2)
    assert seen(segment(masks, [255, 0, 0, 255, 0])) == [True, True, False, False, False]
    assert seen(segment(masks, [255, 255], first=5)) == [False, True]
    assert [len(batch) for batch in backend.batches] == [1, 3, 1]


def test_scores_are_smoothed_exponentially(tmp_path):
    """1, then 0: the score falls as 1, 0.8, 0.64, 0.512, 0.4096."""
    masks, _ = network(tmp_path, smoothing=0.8)
    assert seen(segment(masks, [255, 0, 0]) + segment(masks, [0, 0], first=3)) == [True, True, True, True, False]


@pytest.mark.parametrize(("limit", "is_seen"), [(0.368, True), (0.369, False)])
def test_smoothing_by_hand(tmp_path, limit, is_seen):
    masks, _ = network(tmp_path, smoothing=0.3, threshold=limit)
    reds = [204, 102, 51, 102]  # scores 0.8 0.4 0.2 0.4
    smoothed = 0.8
    for score in (0.4, 0.2, 0.4):
        smoothed = 0.3 * smoothed + 0.7 * score
    assert smoothed == pytest.approx(0.3688)
    assert seen(segment(masks, reds))[-1] is is_seen


def test_first_picture_is_not_smoothed(tmp_path):
    masks, _ = network(tmp_path, smoothing=0.9)
    assert seen(segment(masks, [255])) == [True]  # the trial run does not count either


def test_only_inferred_pictures_are_smoothed(tmp_path):
    masks, _ = network(tmp_path, smoothing=0.6, interval=2)
    assert seen(segment(masks, [255, 0, 0, 0, 0])) == [True, True, True, True, False]  # 1, 0.6, 0.36


def test_without_smoothing_nothing_is_remembered(tmp_path):
    masks, _ = network(tmp_path)
    assert seen(segment(masks, [255, 0])) == [True, False]


def test_class_indices_cannot_be_smoothed(tmp_path):
    with pytest.raises(ConfigError, match=r"^option 'smoothing' needs scores, but this network gives class indices"):
        network(tmp_path, make_spec(activation="index"), smoothing=0.5)


def test_network_of_another_shape_is_refused_at_once(tmp_path):
    with pytest.raises(ModelError, match=r"has the shape \(1, 1, 8, 8\)"):
        network(tmp_path, make_spec(LABELS, "softmax"))


def test_time_is_kept_by_stage(tmp_path):
    spec = make_spec(activation="none")
    metrics = StreamMetrics("test")
    masks = NetworkMasks(RedChannel(tmp_path / "net.onnx", spec).open(), read_options({"model": "net"}), metrics)
    segment(masks, [0])
    assert list(metrics.stage_seconds) == ["preprocess", "infer", "postprocess"]


def test_closing_closes_the_network(tmp_path):
    masks, backend = network(tmp_path)
    assert masks.describe() == "net.onnx, a test"
    masks.close()
    assert backend.closed


# ------------------------------------------------------------------------------------------------------------ Pipeline


@pytest.fixture
def model(tmp_path):
    return save_onnx(tmp_path / "red.onnx", RED_WINS, spec=make_spec(activation="none"))


@pytest.fixture
def three(tmp_path):
    """Scores of three classes: 0.5, red, blue."""
    weights = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32).reshape(3, 3, 1, 1)
    palette = ["#000000", "#111111", "#222222"]
    return save_onnx(tmp_path / "three.onnx", weights, spec=make_spec(LABELS, "none", palette=palette))


def pipeline(model, **options):
    metrics = StreamMetrics("test")
    return open_pipeline(read_options({"model": str(model), **options}), metrics), metrics


def test_from_options_to_a_drawn_picture(model):
    made, metrics = pipeline(model, alpha=1, interval=2, palette={"person": "#0000ff"})
    frames = [shade(255, 10), shade(0, 10), shade(0, 10)]
    results = made.segment(frames, [0, 1, 2], [(number, Fraction(1, 25)) for number in range(3)])
    assert (metrics.inferred, metrics.held) == (2, 1)
    assert made.size(10, 10) == (10, 10)
    drawn = [allocate_planes(frame, 10, 10) for frame in frames]
    for frame, result, target in zip(frames, results, drawn, strict=True):
        made.draw(frame, result, target)
    assert [target.planes[0][4, 4].tolist() for target in drawn] == [[0, 0, 255], [0, 0, 255], [0, 0, 0]]
    assert metrics.stage_seconds["overlay"] > 0
    made.close()


def test_options_of_the_look_arrive(model):
    assert pipeline(model, style="sidebyside")[0].size(9, 5) == (20, 5)
    cutout, _ = pipeline(model, style="cutout", background_color="#0a0b0c")
    frame = shade(0)
    (result,) = cutout.segment([frame], [0], [(0, Fraction(1))])
    target = allocate_planes(frame, 8, 8)
    cutout.draw(frame, result, target)
    assert target.planes[0][0, 0].tolist() == [10, 11, 12]
    mask, _ = pipeline(model, output="mask", legend=True)
    (result,) = mask.segment([shade(255)], [0], [(0, Fraction(1))])
    mask.draw(frame, result, target)
    assert target.planes[0][0, 0].tolist() == [255, 255, 255]
    assert target.planes[0][7, 7].tolist() != [255, 255, 255]  # the legend


def test_all_classes_but_the_background_are_shown(three):
    made, _ = pipeline(three)
    assert made.labels == {1: "person", 2: "dog"}
    assert made.colors == {1: "#111111", 2: "#222222"}
    assert made.background == 0


def test_chosen_classes_are_shown(three):
    made, _ = pipeline(three, classes="dog")
    assert (made.labels, made.colors) == ({2: "dog"}, {2: "#222222"})
    assert pipeline(three, classes=["background"])[0].background == 255


@pytest.mark.parametrize(
    ("palette", "colors"),
    [
        (["#aa0000", "#00bb00", "#0000cc"], {1: "#00bb00", 2: "#0000cc"}),
        (["#aa0000", "#00bb00", "#0000cc", "#dddddd"], {1: "#00bb00", 2: "#0000cc"}),
        ({"dog": "#0000cc"}, {1: "#111111", 2: "#0000cc"}),
        ("dog=#0000CC,person=#00bb00", {1: "#00bb00", 2: "#0000cc"}),
        ({}, {1: "#111111", 2: "#222222"}),
    ],
)
def test_own_palette(three, palette, colors):
    assert pipeline(three, palette=palette)[0].colors == colors


@pytest.mark.parametrize(
    ("palette", "text"),
    [
        (
            ["#aa0000", "#00bb00"],
            "option 'palette' has 2 colours; one is needed for each class up to 2: give a list that long, or name "
            'classes: {"person": "#00ff00"}',
        ),
        ({"cat": "#aa0000"}, "option 'palette': no class 'cat' is shown; there are person, dog"),
        ({"background": "#aa0000"}, "option 'palette': no class 'background' is shown; there are person, dog"),
    ],
)
def test_palettes_that_do_not_fit(three, palette, text):
    with pytest.raises(ConfigError) as caught:
        pipeline(three, palette=palette)
    assert str(caught.value) == text


def test_palette_needs_colors_for_shown_classes_only(three):
    assert pipeline(three, palette=["#aa0000", "#00bb00"], classes="person")[0].colors == {1: "#00bb00"}


def test_model_without_description(tmp_path):
    path = save_onnx(tmp_path / "red.onnx", RED_WINS)
    with pytest.raises(ConfigError) as caught:
        pipeline(path)
    assert str(caught.value).startswith(
        f"model '{path}' has no description: 'red.json' should lie beside it and say what the network takes and gives"
    )


def test_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        pipeline(tmp_path / "nothing.onnx")


def test_backend_that_does_not_run_this_file(model):
    with pytest.raises(ConfigError, match=r"^model 'red.onnx': backend 'pytorch' runs files ending in .pt"):
        pipeline(model, backend="pytorch")


def test_device_goes_to_the_backend(model):
    with pytest.raises(BackendUnavailable, match="device 'cuda'"):
        pipeline(model, device="cuda")


def test_threads_go_to_the_backend(model):
    assert pipeline(model, threads=2)[0].describe() == "red.onnx, onnxruntime on the CPU, 2 threads"


def test_classes_threshold_and_smoothing_go_to_the_network(model):
    made, _ = pipeline(model, threshold=0.3, smoothing=0.5)
    results = made.segment([shade(red) for red in (204, 0, 0)], [0, 1, 2], [(0, Fraction(1))] * 3)
    assert seen(results) == [True, True, False]  # 0.8, 0.4, 0.2


def test_records_take_the_place_of_the_network(tmp_path):
    path = tmp_path / "masks.jsonl"
    map_hw = np.ones((8, 8), np.uint8)
    about = {"frame": 0, "pts": 0, "time_base": Fraction(1), "inferred": False, "background": 0}
    path.write_text(
        str(frame_record(map_hw, {1: "person"}, {1: "#ff0000"}, **about)).replace("'", '"').replace("False", "false")
    )
    metrics = StreamMetrics("test")
    made = open_pipeline(read_options({"replay": str(path), "palette": {"person": "#00ff00"}}), metrics)
    (result,) = made.segment([shade(0)], [0], [(0, Fraction(1))])
    assert (metrics.inferred, metrics.held) == (0, 1)
    np.testing.assert_array_equal(result.map_hw, map_hw)
    assert made.colors == {1: "#00ff00"}
    made.close()


def test_records_of_nothing_take_any_list_of_colors(tmp_path):
    path = tmp_path / "masks.jsonl"
    path.write_text("")
    made = open_pipeline(read_options({"replay": str(path), "palette": []}), StreamMetrics("test"))
    assert made.colors == {}


def test_what_runs_where_is_logged(model, caplog):
    with caplog.at_level("INFO", logger="bmf_trt_seg"):
        pipeline(model, name="camera 1")
    assert "stream 'camera 1': red.onnx, onnxruntime on the CPU, 1 thread" in caplog.text


@pytest.mark.parametrize("fixture", ["person", "person-landscape"])
def test_a_person_is_found(fixture, astronaut, tmp_path, tflite_files):
    from bmf_trt_seg.frames import FramePlanes
    from bmf_trt_seg.models.catalog import CATALOG
    from bmf_trt_seg.models.tflite import onnx_from_tflite

    path = tmp_path / "person.onnx"
    path.write_bytes(onnx_from_tflite(tflite_files[fixture], fixture).SerializeToString())
    CATALOG[fixture].spec.write(path.with_suffix(".json"))
    made, _ = pipeline(path)
    frame = FramePlanes("rgb24", 512, 512, (astronaut.copy(),))
    (result,) = made.segment([frame], [0], [(0, Fraction(1))])
    assert result.map_hw.shape == (512, 512)
    assert 0.2 < result.map_hw.mean() < 0.8
    assert result.map_hw[150, 225] == 1  # the face
    assert result.map_hw[30, 480] == 0


# ------------------------------------------------------------------------------------- input shapes, engines, devices


def flexible(tmp_path, batch="N", size_hw=("H", "W")):
    """A network for pictures of any size that shows the red channel."""
    weights = np.zeros((1, 3, 1, 1), np.float32)
    weights[0, 0] = 1
    return save_onnx(tmp_path / "any.onnx", weights, batch=batch, size_hw=size_hw, spec=make_spec(activation="none"))


def test_input_shapes_take_the_place_of_the_description(tmp_path):
    masks = pipeline(flexible(tmp_path), input_shapes="input:3x3x4x6")[0]
    assert masks.batch_size == 3
    assert [result.map_hw.shape for result in segment(masks, [0, 255, 0])] == [(8, 8)] * 3
    assert masks._masks._preprocess._spec.height == 4
    assert masks._masks._preprocess._spec.width == 6


def test_input_shapes_without_a_name_are_the_pictures(tmp_path):
    assert pipeline(flexible(tmp_path), input_shapes="2x3x4x6")[0].batch_size == 2


def test_input_shapes_of_inputs_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        pipeline(flexible(tmp_path), input_shapes="size:1x2")
    assert str(caught.value) == "option 'input_shapes': model 'any.onnx' has no input 'size'; it has: 'input'"


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_build_options_where_nothing_is_built(tmp_path, backend):
    with pytest.raises(ConfigError, match=r"^option 'build': nothing is built from 'any\.onnx' here; give backend"):
        pipeline(flexible(tmp_path), build="precision=fp16", backend=backend)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ("input:3x8x8", "'input' is the picture, got 3x8x8; expected a shape as 1x3x512x512"),
        ("input:1x8x8x3", "'input' is the picture, got 1x8x8x3; expected a shape as 1x3x512x512"),
    ],
)
def test_input_shapes_that_are_no_picture(tmp_path, shape, text):
    with pytest.raises(ConfigError) as caught:
        pipeline(flexible(tmp_path), input_shapes=shape)
    assert str(caught.value) == f"option 'input_shapes': {text}"


def test_input_shapes_and_batch_size_contradict(tmp_path):
    with pytest.raises(ConfigError) as caught:
        pipeline(flexible(tmp_path), input_shapes="input:3x3x8x8", batch_size=2)
    assert str(caught.value) == ("option 'input_shapes' says a batch of 3, batch_size says 2; leave one out")


def test_shapes_that_the_network_does_not_take(tmp_path):
    with pytest.raises(ModelError, match="the option 'input_shapes' says"):
        pipeline(flexible(tmp_path, size_hw=(8, 8)), input_shapes="input:1x3x4x6")


def test_batch_that_the_network_fixes_may_be_left_alone(tmp_path):
    masks = pipeline(flexible(tmp_path, batch=2), batch_size=3)[0]
    assert seen(segment(masks, [0, 255, 255])) == [False, True, True]


def test_engines_have_their_description_in_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(tmp_path))
    engine = EngineFromOnnx(flexible(tmp_path, size_hw=(8, 8)), BuildOptions(), spec=make_spec(activation="none"))
    engine.build()
    with pytest.raises(BackendUnavailable, match=f"^{NO_GPU}$"):
        pipeline(engine.path)
    manifest_path(engine.path).unlink()
    with pytest.raises(ConfigError, match="has no description"):
        pipeline(engine.path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to build for")
def test_no_engine_is_built_where_none_can_run(tmp_path, monkeypatch):
    monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(tmp_path / "engines"))
    with pytest.raises(BackendUnavailable, match=f"^{NO_GPU}$"):
        pipeline(flexible(tmp_path, size_hw=(8, 8)), backend="tensorrt")
    assert not (tmp_path / "engines").exists()
