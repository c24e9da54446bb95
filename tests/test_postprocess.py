"""Postprocess: which classes, enlarged how, decided when."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from factories import make_spec

from bmf_trt_seg.errors import ConfigError, ModelError
from bmf_trt_seg.postprocess import Postprocess, _argmax_of_bilinear, chosen_classes
from bmf_trt_seg.spec import NO_CLASS

LABELS = ["background", "person", "dog"]


def decide(spec, scores, size_wh, classes=None, threshold=None):
    chosen = chosen_classes(spec.labels, spec.background, classes)
    before = scores.copy()
    map_hw = Postprocess(spec, chosen, threshold)(scores, size_wh)
    np.testing.assert_array_equal(scores, before)
    assert map_hw.dtype == np.uint8
    assert map_hw.shape == size_wh[::-1]
    return map_hw


# ------------------------------------------------------------------------------------------------------ chosen classes


@pytest.mark.parametrize(
    ("background", "classes", "chosen"),
    [
        (0, None, [1, 2]),
        (2, None, [0, 1]),
        (None, None, [0, 1, 2]),
        (0, ["dog", "person"], [1, 2]),
        (0, ["2"], [2]),
        (0, [2, "dog", "2"], [2]),
        (0, ["background"], [0]),
        (0, [0, 1], [0, 1]),
    ],
)
def test_chosen_classes(background, classes, chosen):
    assert chosen_classes(LABELS, background, classes) == chosen


def test_a_name_goes_before_an_index():
    assert chosen_classes(["2", "1", "0"], None, ["0"]) == [2]


@pytest.mark.parametrize("wanted", ["cat", 3, "-1", -1, "1.0", "Dog", ""])
def test_class_the_model_does_not_have(wanted):
    text = f"option 'classes': the model has no class '{wanted}'; it has 0 background, 1 person, 2 dog"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        chosen_classes(LABELS, 0, ["dog", wanted])


def test_many_classes_are_listed_in_part():
    with pytest.raises(ConfigError, match=r"29 class 29, \.\.\. 70 more$"):
        chosen_classes([f"class {index}" for index in range(100)], 0, ["cat"])


def test_no_class_at_all():
    with pytest.raises(ConfigError, match=r"^option 'classes' is empty: name at least one of background, person, dog$"):
        chosen_classes(LABELS, 0, [])


# ----------------------------------------------------------------------------------------------------------- the shape


@pytest.mark.parametrize(
    ("labels", "activation", "layout", "shape"),
    [
        (2, "softmax", "nchw", (1, 2, 8, 8)),
        (2, "sigmoid", "nchw", (4, 1, 8, 8)),
        (2, "none", "nhwc", (1, 8, 8, 1)),
        (1, "sigmoid", "nchw", (1, 1, 8, 8)),
        (19, "softmax", "nhwc", (1, 5, 7, 19)),
        (19, "index", "nchw", (1, 5, 7)),
        (19, "index", "nchw", (1, 1, 5, 7)),
        (19, "index", "nhwc", (1, 5, 7, 1)),
    ],
)
def test_segmentations_are_understood(labels, activation, layout, shape):
    names = [str(index) for index in range(labels)]
    spec = make_spec(names, activation, output={"layout": layout}, background=None)
    Postprocess(spec, [0]).check(shape)


@pytest.mark.parametrize(
    ("labels", "activation", "layout", "shape", "expected"),
    [
        (
            1000,
            "softmax",
            "nchw",
            (1, 1000),
            "scores (N, C, H, W) with C = 200, the number of labels; with activation 'index', class indices (N, H, W)",
        ),
        (3, "softmax", "nhwc", (1, 3, 8, 8), "scores (N, H, W, C) with C = 3, the number of labels; with"),
        (2, "none", "nchw", (1, 3, 8, 8), "scores (N, C, H, W) with C = 2, the number of labels, or C = 1; with"),
        (3, "none", "nchw", (1, 1, 8, 8), "scores (N, C, H, W) with C = 3, the number of labels; with"),
        (3, "none", "nchw", (1, 8, 8), "scores (N, C, H, W) with C = 3, the number of labels; with"),
        (
            2,
            "softmax",
            "nchw",
            (1, 1, 8, 8),
            "several channels, as activation 'softmax' says; for one channel it is 'sigmoid' or 'none'",
        ),
        (3, "index", "nchw", (1, 3, 8, 8), "class indices (N, H, W), as activation 'index' says"),
        (3, "index", "nchw", (1, 3), "class indices (N, H, W), as activation 'index' says"),
    ],
)
def test_anything_else_is_refused(labels, activation, layout, shape, expected):
    spec = make_spec([str(index) for index in range(min(labels, 200))], activation, output={"layout": layout})
    with pytest.raises(ModelError) as caught:
        Postprocess(spec, [1]).check(shape)
    assert str(caught.value).startswith(
        f"output 'output' of the network has the shape {shape}, which is no segmentation as its description has it: "
        f"expected {expected}"
    )


# --------------------------------------------------------------------------------------------------- bilinear + argmax


SIZES_HW = [(1, 1), (1, 9), (9, 1), (5, 7), (16, 16), (24, 40)]


def agrees_with_torch(scores_chw, size_wh):
    interpolated = torch.nn.functional.interpolate(
        torch.from_numpy(scores_chw)[None].double(), size_wh[::-1], mode="bilinear", align_corners=False
    )[0].numpy()
    got = _argmax_of_bilinear(scores_chw, size_wh)
    assert got.shape == size_wh[::-1]
    first, second = np.sort(interpolated, axis=0)[[-1, -2]]
    clear = first - second > 1e-5 * np.abs(scores_chw).max()
    np.testing.assert_array_equal(got[clear], interpolated.argmax(axis=0)[clear])
    return clear.mean()


@pytest.mark.parametrize("source_hw", SIZES_HW)
@pytest.mark.parametrize("target_hw", [*SIZES_HW, (33, 17), (90, 160)])
@pytest.mark.parametrize("classes", [2, 3, 21])
def test_argmax_of_noise(source_hw, target_hw, classes):
    rng = np.random.default_rng(classes)
    scores = rng.normal(size=(classes, *source_hw)).astype(np.float32)
    assert agrees_with_torch(scores, target_hw[::-1]) > 0.99


@pytest.mark.parametrize("classes", [2, 5, 30])
@pytest.mark.parametrize("size_wh", [(160, 120), (77, 51), (20, 12)])
def test_argmax_of_smooth_scores(classes, size_wh):
    rng = np.random.default_rng(classes)
    y, x = np.mgrid[:24, :32] / 10
    waves = rng.normal(size=(classes, 4, 1, 1))
    scores = np.sin(waves[:, 0] * y + waves[:, 1] * 3) + np.cos(waves[:, 2] * x + waves[:, 3] * 3)
    assert agrees_with_torch(scores.astype(np.float32), size_wh) > 0.99


def test_argmax_when_borders_take_more_than_one_chunk():
    scores = np.random.default_rng(3).normal(size=(3, 60, 60)).astype(np.float32)
    assert agrees_with_torch(scores, (400, 300)) > 0.99


def test_a_third_class_can_win_between_two():
    scores = np.array([[[9, -9]], [[-9, 9]], [[5, 5]]], np.float32)
    assert _argmax_of_bilinear(scores, (8, 1)).tolist() == [[0, 0, 0, 2, 2, 1, 1, 1]]


def test_argmax_with_255_classes():
    scores = np.zeros((255, 2, 2), np.float32)
    scores[254] = 1
    assert (_argmax_of_bilinear(scores, (5, 5)) == 254).all()


# --------------------------------------------------------------------------------------------------------- one channel


RAMP = np.array([[[0.0, 1.0]]], np.float32)  # enlarged to 8 columns: 0 0 1/8 3/8 5/8 7/8 1 1


@pytest.mark.parametrize(
    ("threshold", "columns"), [(None, 4), (0.3, 5), (0.5, 4), (0.625, 4), (0.63, 3), (0.9, 2), (0.0, 8), (1.0, 2)]
)
def test_probabilities_of_one_channel(threshold, columns):
    spec = make_spec(activation="none", input={"width": 2, "height": 1})
    expected = [[0] * (8 - columns) + [1] * columns]
    assert decide(spec, RAMP, (8, 1), threshold=threshold).tolist() == expected
    told = make_spec(activation="none", input={"width": 2, "height": 1}, output={"threshold": threshold})
    assert decide(told, RAMP, (8, 1)).tolist() == expected


def test_threshold_of_the_options_goes_first():
    spec = make_spec(activation="none", output={"threshold": 0.9})
    assert decide(spec, RAMP, (8, 1), threshold=0.0).all()


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 0.5, 0.8, 1.0])
def test_logits_of_one_channel(threshold):
    logits = np.linspace(-6, 6, 64, dtype=np.float32).reshape(1, 8, 8)
    found = decide(make_spec(), logits, (8, 8), threshold=threshold)
    limit = 0.5 if threshold is None else threshold
    np.testing.assert_array_equal(found, 1 / (1 + np.exp(-logits[0].astype(float))) >= limit)


def test_logits_are_enlarged_before_they_are_decided():
    found = decide(make_spec(input={"width": 2, "height": 1}), np.array([[[-1.0, 7.0]]], np.float32), (8, 1))
    assert found.tolist() == [[0, 0, 1, 1, 1, 1, 1, 1]]  # by probabilities it would be 0 0 0 1 1 1 1 1


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types(dtype):
    assert decide(make_spec(activation="none"), RAMP.astype(dtype), (8, 1)).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]


def test_one_channel_last():
    scores = np.arange(6, dtype=np.float32).reshape(2, 3, 1) / 5
    found = decide(make_spec(activation="none", output={"layout": "nhwc"}), scores, (3, 2))
    assert found.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("labels", "background", "classes", "low", "high"),
    [
        (["background", "person"], 0, None, 0, 1),
        (["background", "person"], 0, ["background"], 0, NO_CLASS),
        (["background", "person"], 0, [0, 1], 0, 1),
        (["sky", "ground"], None, None, 0, 1),
        (["sky", "ground"], None, ["ground"], NO_CLASS, 1),
        (["person", "rest"], 1, None, 0, 1),
        (["person"], None, None, NO_CLASS, 0),
    ],
)
def test_values_of_one_channel(labels, background, classes, low, high):
    spec = make_spec(labels, "none", background=background)
    assert decide(spec, RAMP, (2, 1), classes).tolist() == [[low, high]]


# ---------------------------------------------------------------------------------------------------- several channels


def one_hot(indices_hw, labels=3, gain=1.0):
    return (np.arange(labels)[:, None, None] == np.array(indices_hw)).astype(np.float32) * gain


@pytest.mark.parametrize(
    ("background", "classes", "values"),
    [
        (0, None, [0, 1, 2]),
        (0, ["dog"], [0, 0, 2]),
        (0, ["background"], [0, NO_CLASS, NO_CLASS]),
        (0, ["background", "dog"], [0, NO_CLASS, 2]),
        (2, None, [0, 1, 2]),
        (2, ["person"], [2, 1, 2]),
        (None, None, [0, 1, 2]),
        (None, ["person"], [NO_CLASS, 1, NO_CLASS]),
    ],
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none", "index"])
def test_classes_that_are_not_chosen_count_as_background(activation, background, classes, values):
    spec = make_spec(LABELS, activation, background=background)
    scores = np.array([[0, 1, 2]]) if activation == "index" else one_hot([[0, 1, 2]])
    assert decide(spec, scores, (3, 1), classes).tolist() == [values]
    assert Postprocess(spec, chosen_classes(LABELS, background, classes)).background == (
        NO_CLASS if background is None or "background" in (classes or []) else background
    )


def test_class_that_is_not_chosen_still_wins_over_one_that_is():
    scores = np.array([[[0.2]], [[0.3]], [[0.5]]], np.float32)
    assert decide(make_spec(LABELS, "none"), scores, (1, 1), ["person"]).tolist() == [[0]]


def test_channels_last():
    scores = one_hot([[0, 1], [2, 1]]).transpose(1, 2, 0)
    spec = make_spec(LABELS, "softmax", output={"layout": "nhwc"})
    np.testing.assert_array_equal(decide(spec, scores, (2, 2)), [[0, 1], [2, 1]])
    np.testing.assert_array_equal(
        decide(spec, scores, (4, 4), threshold=0.01), np.kron([[0, 1], [2, 1]], np.ones((2, 2)))
    )


@pytest.mark.parametrize("size_wh", [(8, 8), (33, 17), (3, 5)])
def test_two_channels_decide_like_one_of_the_difference(size_wh):
    logits = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    two = decide(make_spec(activation="softmax"), logits, size_wh)
    one = decide(make_spec(), logits[1:] - logits[:1], size_wh)
    assert (two != one).mean() < 0.01


@pytest.mark.parametrize(
    ("activation", "certainty"),
    [
        ("softmax", np.exp(2) / (np.exp(2) + np.exp(1) + 1)),
        ("sigmoid", 1 / (1 + np.exp(-2))),
        ("none", 2.0),
    ],
)
def test_least_certainty_of_several_channels(activation, certainty):
    scores = np.array([[[0.0]], [[2.0]], [[1.0]]], np.float32)
    if activation == "none":
        scores, certainty = scores / 4, certainty / 4
    spec = make_spec(LABELS, activation)
    assert decide(spec, scores, (4, 4), threshold=certainty - 0.001).all()
    assert not decide(spec, scores, (4, 4), threshold=certainty + 0.001).any()
    assert decide(spec, scores, (4, 4)).all()
    assert decide(spec, scores, (4, 4), threshold=0.0).all()


def test_least_certainty_without_background():
    scores = np.full((3, 1, 1), 1 / 3, np.float32)
    spec = make_spec(LABELS, "none", background=None, output={"threshold": 0.5})
    assert (decide(spec, scores, (2, 2)) == NO_CLASS).all()


def test_softmax_of_large_logits_does_not_overflow():
    assert decide(make_spec(LABELS, "softmax"), one_hot([[1]], gain=1e4), (2, 2), threshold=0.99).all()


# ----------------------------------------------------------------------------------------------------------- index maps


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3)])
def test_index_maps(dtype, shape):
    indices = np.array([0, 1, 2, 2, 1, 0], dtype).reshape(shape)
    assert decide(make_spec(LABELS, "index"), indices, (3, 2)).tolist() == [[0, 1, 2], [2, 1, 0]]


def test_index_maps_with_the_channel_last():
    indices = np.array([[0, 1, 2], [2, 1, 0]])[..., None]
    found = decide(make_spec(LABELS, "index", output={"layout": "nhwc"}), indices, (3, 2))
    assert found.tolist() == [[0, 1, 2], [2, 1, 0]]


@pytest.mark.parametrize(("background", "nothing"), [(0, 0), (2, 2), (None, NO_CLASS)])
def test_indices_out_of_range_are_no_class(background, nothing):
    indices = np.array([[-1, -255, 3, 255, 256, 257, 1 << 40, 1]])
    found = decide(make_spec(LABELS, "index", background=background), indices, (8, 1))
    assert found.tolist() == [[nothing] * 7 + [1]]


@pytest.mark.parametrize("size_wh", [(6, 4), (9, 6), (7, 5), (2, 1)])
def test_indices_are_enlarged_to_the_nearest(size_wh):
    indices = np.array([[0, 1, 2], [2, 1, 0]])
    rows = (np.arange(size_wh[1]) * 2 + 1) * 2 // (2 * size_wh[1])
    columns = (np.arange(size_wh[0]) * 2 + 1) * 3 // (2 * size_wh[0])
    np.testing.assert_array_equal(decide(make_spec(LABELS, "index"), indices, size_wh), indices[np.ix_(rows, columns)])


# ----------------------------------------------------------------------------------------------------------- letterbox


@pytest.mark.parametrize(("size_wh", "rows", "columns"), [((40, 20), (2, 6), (0, 8)), ((20, 40), (0, 8), (2, 6))])
@pytest.mark.parametrize("scale", [1, 2, 0.5])
@pytest.mark.parametrize("activation", ["none", "index", "multi"])
def test_borders_of_a_letterbox_are_cut_off_before_enlarging(size_wh, rows, columns, scale, activation):
    rows, columns = (slice(*(int(edge * scale) for edge in pair)) for pair in (rows, columns))
    inside = np.zeros((int(8 * scale),) * 2, np.float32)
    inside[rows, columns] = 1
    scores = {"none": inside[None], "index": inside.astype(int), "multi": np.stack([1 - inside, inside])}[activation]
    spec = make_spec(activation="none" if activation == "multi" else activation, input={"resize": "letterbox"})
    assert decide(spec, scores, size_wh).all()
    assert decide(spec, scores, size_wh, threshold=0.99).all()


def test_very_thin_pictures_keep_a_row():
    scores = np.zeros((1, 4, 4), np.float32)
    scores[:, 2] = 1
    spec = make_spec(activation="none", input={"resize": "letterbox"})
    assert decide(spec, scores, (1000, 1)).all()
