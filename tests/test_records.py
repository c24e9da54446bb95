"""Records: what they say of a class map, and the class map back out of them."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from pycocotools import mask as coco

from bmf_trt_seg.records import class_map, frame_record

LABELS = {1: "person", 2: "dog", 254: "tree"}
COLORS = {1: "#ff0000", 2: "#0000ff", 254: "#00ff00"}


def record(map_hw, *, background=0, labels=LABELS, **others):
    about = {"frame": 7, "pts": 512, "time_base": Fraction(1, 15360), "inferred": True, **others}
    return frame_record(map_hw, labels, COLORS, background=background, **about)


def random_map(shape, background=0, seed=0):
    return np.random.default_rng(seed).choice(np.array([background, 1, 2, 254], np.uint8), shape)


def test_record_by_hand():
    map_hw = np.zeros((3, 4), np.uint8)
    map_hw[1:, 1:3] = 2
    map_hw[0, 3] = 254
    found = record(map_hw, inferred=False, time_base=Fraction(1001, 30000), pts=3)
    classes = found.pop("classes")
    assert found == {
        "frame": 7,
        "pts": 3,
        "time_base": [1001, 30000],
        "seconds": 0.1001,
        "inferred": False,
        "size": [4, 3],
        "background": 0,
    }
    assert [entry.pop("rle")["size"] for entry in classes] == [[3, 4], [3, 4]]
    assert classes == [
        {"index": 2, "label": "dog", "color": "#0000ff", "share": 0.333333, "bbox": [1, 1, 2, 2]},
        {"index": 254, "label": "tree", "color": "#00ff00", "share": 0.083333, "bbox": [3, 0, 1, 1]},
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 5), (17, 33), (90, 160)])
@pytest.mark.parametrize("background", [0, 255])
def test_round_trip_through_text(shape, background):
    for seed in range(5):
        map_hw = random_map(shape, background, seed)
        back = class_map(json.loads(json.dumps(record(map_hw, background=background))))
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, map_hw)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (17, 33)])
def test_masks_are_as_coco_has_them(shape):
    map_hw = random_map(shape)
    for entry in record(map_hw)["classes"]:
        mask = map_hw == entry["index"]
        rows, columns = np.nonzero(mask)
        np.testing.assert_array_equal(coco.decode(entry["rle"]), mask)
        assert coco.area(entry["rle"]) == mask.sum()
        assert coco.toBbox(entry["rle"]).tolist() == entry["bbox"]
        assert entry["bbox"] == [
            columns.min(),
            rows.min(),
            columns.max() - columns.min() + 1,
            rows.max() - rows.min() + 1,
        ]
        assert entry["share"] == pytest.approx(mask.mean(), abs=1e-6)


def test_nothing_seen():
    found = record(np.zeros((3, 5), np.uint8))
    assert found["classes"] == []
    assert not class_map(found).any()


def test_classes_that_are_not_to_be_recorded_become_background():
    map_hw = np.array([[1, 2, 254, 9]], np.uint8)
    found = record(map_hw, labels={2: "dog"}, background=255)
    assert [entry["label"] for entry in found["classes"]] == ["dog"]
    assert class_map(found).tolist() == [[255, 2, 255, 255]]


def test_negative_times():
    assert record(np.zeros((1, 1), np.uint8), pts=-5, time_base=Fraction(1, 10))["seconds"] == -0.5


def test_map_is_not_changed_and_may_be_a_view():
    whole = random_map((40, 60))
    before = whole.copy()
    view = whole[3:30, 5:50]
    np.testing.assert_array_equal(class_map(record(view)), view)
    np.testing.assert_array_equal(whole, before)
