"""Networks that draw no classes: shaped like a detector and like a super-resolution, alone and in graphs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import numpy as np
import onnx
import pytest
from factories import complaint, make_picture
from onnx import TensorProto, helper, numpy_helper

from bmf_trt_seg.colors import rgb_to_ycbcr
from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.frames import FramePlanes, allocate_planes
from bmf_trt_seg.graph import check_graph, load_graph, run_graph
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.pipeline_tensors import write_rgb
from bmf_trt_seg.spec import ModelSpec, spec_path

TEMPLATES = Path(__file__).parents[1] / "graphs"
INPUT = {"height": 8, "width": 12}


def save(path: Path, nodes: list[Any], outputs: list[str], weights: dict[str, Any], spec: dict[str, Any]) -> Path:
    batch = spec.pop("batch", "N")
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 8, 12])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.array(value), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    ModelSpec.model_validate({"input": INPUT, **spec}).write(spec_path(path))
    return path


def detector(path: Path, *, divided: bool = True, **spec: Any) -> Path:
    """The mean colour of each picture as a score, and two boxes; `divided`: by picture, as the scores always are."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["scores"], axes=[2, 3], keepdims=0),
        helper.make_node("Shape", ["input"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["count"]),  # TensorRT 8.6 overlooks Shape's own 'end'
        helper.make_node("Concat", ["count", "rest"], ["shape"], axis=0),
        helper.make_node("Expand", ["box", "shape" if divided else "alone"], ["boxes"]),
    ]
    weights = {
        "first": np.array([0]), "rest": np.array([2, 4]), "alone": np.array([1, 2, 4]),
        "box": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    }  # fmt: skip
    return save(path, nodes, ["boxes", "scores"], weights, {"task": "raw", **spec})


def doubling(path: Path, scale: int = 2, **spec: Any) -> Path:
    """Each pixel becomes scale x scale of the same colour."""
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest",
                              coordinate_transformation_mode="asymmetric", nearest_mode="floor")]  # fmt: skip
    weights = {"scales": np.array([1, 1, scale, scale], np.float32)}
    return save(path, nodes, ["output"], weights, {"task": "image", **spec})


def submit(
    model: Path, frames: list[FramePlanes], first: int = 0, **options: Any
) -> tuple[list[Any], list[FramePlanes]]:
    pipeline = open_pipeline(SegmentOptions(model=str(model), **options), StreamMetrics("tensors"))
    try:
        size = pipeline.size(frames[0].width, frames[0].height)
        targets = [allocate_planes(frame, size[0] + size[0] % 2, size[1] + size[1] % 2) for frame in frames]
        numbers = list(range(first, first + len(frames)))
        times = [(number, Fraction(1, 25)) for number in numbers]
        return pipeline.submit(frames, numbers, times, targets, wants_maps=True).finish(), targets
    finally:
        pipeline.close()


# ------------------------------------------------------------------------------------------------------------------ raw


@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_picture_gets_its_own_outputs_and_stays_as_it_is(tmp_path: Path, batch_size: int) -> None:
    frames = [make_picture("nv12", 24, 16, fill=fill) for fill in (16, 120, 200)]
    drawn, targets = submit(detector(tmp_path / "net.onnx"), frames[:batch_size], batch_size=batch_size)
    means = []
    for one, frame, target in zip(drawn, frames, targets, strict=False):
        assert one.inferred
        assert one.map_hw is None
        assert one.outputs["boxes"].shape == (1, 2, 4)
        means.append(one.outputs["scores"].mean())
        for plane, original in zip(target.planes, frame.planes, strict=True):
            np.testing.assert_array_equal(plane, original)
    assert means == sorted(means)
    assert len(set(means)) == batch_size


def test_outputs_are_held_between_inferences(tmp_path: Path) -> None:
    frames = [make_picture("yuv420p", 24, 16, fill=fill) for fill in (50, 200, 100)]
    drawn, _ = submit(detector(tmp_path / "net.onnx"), frames, interval=2, batch_size=2)
    assert [one.inferred for one in drawn] == [True, False, True]
    assert drawn[0].outputs is drawn[1].outputs
    assert drawn[2].outputs["scores"].mean() > drawn[0].outputs["scores"].mean()


def test_a_fixed_batch_is_filled_up_and_padding_is_nobodys(tmp_path: Path) -> None:
    frames = [make_picture("nv12", 24, 16, fill=fill) for fill in (40, 80, 120)]
    drawn, _ = submit(detector(tmp_path / "net.onnx", batch=2), frames, batch_size=3)
    means = [float(one.outputs["scores"].mean()) for one in drawn]
    assert means == sorted(means)
    assert len(means) == 3


def test_only_the_outputs_that_are_named(tmp_path: Path) -> None:
    drawn, _ = submit(detector(tmp_path / "net.onnx", outputs=["scores"]), [make_picture("nv12", 24, 16)])
    assert list(drawn[0].outputs) == ["scores"]


def test_an_output_that_cannot_be_divided_is_found_at_once(tmp_path: Path) -> None:
    model = detector(tmp_path / "net.onnx", divided=False)
    text = complaint(ModelError, submit, model, [make_picture("nv12", 24, 16)], batch_size=2)
    assert text == (
        "output 'boxes' of model 'net.onnx' has the shape [1, 2, 4] for 2 pictures, which tells nobody what is whose: "
        "set batch_size to 1"
    )
    drawn, _ = submit(model, [make_picture("nv12", 24, 16)])
    assert drawn[0].outputs["boxes"].shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({"outputs": ["masks"]}, {}, "model 'net.onnx' has no output 'masks', which its description names; it has: "),
        ({}, {"style": "blur"}, "option 'style' is for networks of task 'segmentation'; the task of 'net.onnx' is "),
        ({}, {"shared": True}, "option 'shared': the task of 'net.onnx' is 'raw', which no streams share; leave it "),
    ],
)
def test_what_makes_no_sense_of_raw_outputs(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], text: str
) -> None:
    model = detector(tmp_path / "net.onnx", **changes)
    with pytest.raises((ConfigError, ModelError)) as caught:
        submit(model, [make_picture("nv12", 24, 16)], **options)
    assert str(caught.value).startswith(text)


# ---------------------------------------------------------------------------------------------------------------- image


def grey(width: int, height: int, luma: int) -> FramePlanes:
    frame = make_picture("nv12", width, height, fill=128)
    frame.planes[0][:] = luma
    return frame


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "rgb24"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("value_range", ["limited", "full"])
def test_an_output_picture_takes_the_frames_place(
    tmp_path: Path, pixel_format: Any, matrix: str, value_range: str
) -> None:
    rgb = (200, 90, 30)
    frame = make_picture(pixel_format, 12, 8, fill=0, matrix=matrix, value_range=value_range)
    for plane, colors in zip(frame.planes, frame.plane_colors(rgb), strict=True):
        plane[:] = colors[0] if len(colors) == 1 else colors
    _, (target,) = submit(doubling(tmp_path / "net.onnx"), [frame])
    assert (target.width, target.height) == (24, 16)
    for plane, colors in zip(target.planes, target.plane_colors(rgb), strict=True):
        assert np.abs(plane.astype(int) - np.array(colors if len(colors) > 1 else colors[0])).max() <= 1


@pytest.mark.parametrize("size_wh", [(12, 8), (24, 16), (25, 17), (13, 40), (3, 3)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_other_sizes_grow_by_the_networks_factor(
    tmp_path: Path, size_wh: tuple[int, int], resize: str, batch_size: int
) -> None:
    model = doubling(tmp_path / "net.onnx", input={**INPUT, "resize": resize})
    frames = [grey(*size_wh, luma) for luma in (70, 160)][:batch_size]
    _, targets = submit(model, frames, batch_size=batch_size)
    for frame, target in zip(frames, targets, strict=True):
        assert (target.width, target.height) == (2 * frame.width, 2 * frame.height)
        assert np.abs(target.planes[0].astype(int) - frame.planes[0][0, 0]).max() <= 2, "no borders are left"


def test_white_and_channel_order_and_layout_are_those_of_the_description(tmp_path: Path) -> None:
    identity = [helper.make_node("Transpose", ["input"], ["output"], perm=[0, 2, 3, 1])]
    scale = {"std": [1 / 255] * 3, "channel_order": "bgr"}
    spec = {"task": "image", "white": 255.0, "input": {**INPUT, **scale}, "output": {"layout": "nhwc"}}
    model = save(tmp_path / "net.onnx", identity, ["output"], {}, spec)
    frame = FramePlanes("rgb24", 12, 8, (np.full((8, 12, 3), (250, 120, 5), np.uint8),))
    _, (target,) = submit(model, [frame])
    np.testing.assert_array_equal(target.planes[0], frame.planes[0])


def test_what_is_no_number_or_out_of_range_is_black_or_white() -> None:
    target = make_picture("rgb24", 3, 1)
    write_rgb(np.clip(np.nan_to_num(np.array([[[np.nan] * 3, [2.0] * 3, [-1.0] * 3]], np.float32)), 0, 1), target)
    assert target.planes[0][0].tolist() == [[0] * 3, [255] * 3, [0] * 3]


def test_chroma_is_the_mean_of_its_pixels() -> None:
    """An odd last column is there twice."""
    target = make_picture("yuv420p", 3, 2)
    red, blue = np.array([1.0, 0, 0], np.float32), np.array([0, 0, 1.0], np.float32)
    write_rgb(np.array([[red, blue, red], [red, blue, red]]), target)
    codes = np.array([rgb_to_ycbcr(rgb, "bt709", "limited") for rgb in ((255, 0, 0), (0, 0, 255))], float)
    expected = np.rint([codes[:, 1].mean(), codes[0, 1]])
    assert np.abs(target.planes[1][0].astype(int) - expected).max() <= 1
    assert target.planes[0][0].tolist() == [codes[0, 0], codes[1, 0], codes[0, 0]]


@pytest.mark.parametrize(
    ("spec", "options", "text"),
    [
        ({}, {"interval": 2}, "option 'interval': got 2; 'net.onnx' makes a new picture of each"),
        ({}, {"classes": ["dog"]}, "option 'classes' is for networks of task 'segmentation'; the task of 'net.onnx'"),
        (
            {"output": {"layout": "nhwc"}},
            {},
            "output 'output' of model 'net.onnx' has the shape [1, 3, 16, 24]; a picture is (N, H, W, 3) (nhwc)",
        ),
    ],
)
def test_what_makes_no_sense_of_pictures(
    tmp_path: Path, spec: dict[str, Any], options: dict[str, Any], text: str
) -> None:
    with pytest.raises((ConfigError, ModelError)) as caught:
        submit(doubling(tmp_path / "net.onnx", **spec), [make_picture("nv12", 12, 8)], **options)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"task": "raw", "labels": ["a"]}, "'labels' are for task 'segmentation', this is 'raw'"),
        ({"task": "image", "outputs": ["a"]}, "'outputs' is for task 'raw'; with 'image', 'output' names the only one"),
    ],
)
def test_descriptions_that_contradict_themselves(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModelSpec.model_validate({"input": INPUT, **values})


# --------------------------------------------------------------------------------------------------------------- graphs


def run(template: str, **variables: Any) -> None:
    graph = load_graph(TEMPLATES / template, {name: str(value) for name, value in variables.items()})
    assert check_graph(graph) == []
    run_graph(graph)


def test_outputs_of_a_detector_leave_a_graph_as_json(tmp_path: Path, plain_clip: Path) -> None:
    lines = tmp_path / "outputs.jsonl"
    run("network_outputs.json", INPUT=plain_clip, OUTPUT=tmp_path / "out.mp4", JSON=lines,
        MODEL=detector(tmp_path / "net.onnx"), INTERVAL=2)  # fmt: skip
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(30))
    assert [record["inferred"] for record in records] == [True, False] * 15
    assert all(np.array(record["outputs"]["boxes"]).shape == (1, 2, 4) for record in records)
    assert "classes" not in records[0]
    assert [clips.number_of(frame.planes[0]) for frame in clips.read_clip(tmp_path / "out.mp4")] == list(range(30))


def test_a_graph_of_twice_the_size(tmp_path: Path, plain_clip: Path) -> None:
    run("new_pictures.json", INPUT=plain_clip, OUTPUT=tmp_path / "out.mp4", MODEL=doubling(tmp_path / "net.onnx"))
    frames = clips.read_clip(tmp_path / "out.mp4")
    assert len(frames) == 30
    assert frames[0].planes[0].shape == (180, 320)


def test_class_maps_of_a_network_without_classes(tmp_path: Path, plain_clip: Path) -> None:
    graph = load_graph(
        TEMPLATES / "network_outputs.json",
        {"INPUT": str(plain_clip), "OUTPUT": str(tmp_path / "out.mp4"), "JSON": str(tmp_path / "x.jsonl"),
         "MODEL": str(detector(tmp_path / "net.onnx"))},
    )  # fmt: skip
    graph["nodes"][3]["option"] = {"masks": str(tmp_path / "masks")}
    assert complaint(ConfigError, run_graph, graph) == (
        "option 'masks': this network draws no classes, so there are no class maps to write"
    )
