"""Recorded masks in the place of a network, and files that hold none."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import numpy as np
import pytest
from factories import make_picture

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.records import frame_record
from bmf_trt_seg.replay import RecordedMasks

LABELS, COLORS = {1: "person", 4: "dog"}, {1: "#ff0000", 4: "#0000ff"}
TIME_BASE = Fraction(1, 25)
MAPS = [np.random.default_rng(seed).choice(np.array([255, 1, 4], np.uint8), (6, 8)) for seed in range(3)]


def records(maps=MAPS):
    return [
        frame_record(
            map_hw, LABELS, COLORS, frame=number, pts=number, time_base=TIME_BASE, inferred=number != 1, background=255
        )
        for number, map_hw in enumerate(maps)
    ]


@pytest.fixture
def write(tmp_path):
    def write(lines):
        path = tmp_path / "masks.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


def segment(masks, count, first=0, size=(8, 6), time_base=TIME_BASE):
    numbers = list(range(first, first + count))
    frames = [make_picture("yuv420p", *size) for _ in numbers]
    return masks.segment(frames, numbers, [(number, time_base) for number in numbers])


def test_maps_come_back_in_order(write):
    masks = RecordedMasks(write(records()), None)
    found = segment(masks, 2) + segment(masks, 1, first=2)
    for segmentation, map_hw in zip(found, MAPS, strict=True):
        np.testing.assert_array_equal(segmentation.map_hw, map_hw)
    assert [segmentation.inferred for segmentation in found] == [True, False, True]
    masks.close()


def test_what_a_source_of_masks_says(write):
    path = write(records())
    masks = RecordedMasks(path, None)
    assert (masks.labels, masks.colors, masks.background, masks.batch_size) == (LABELS, COLORS, 255, 1)
    assert all(masks.is_due(number) for number in range(3))
    assert masks.describe() == f"masks from '{path}'"


def test_classes_are_those_of_the_whole_file(write):
    masks = RecordedMasks(write(records([np.full((6, 8), 4, np.uint8), np.ones((6, 8), np.uint8)])), None)
    assert masks.labels == LABELS
    assert list(masks.labels) == [1, 4]


@pytest.mark.parametrize("classes", [["dog"], ["4"], [4]])
def test_classes_may_be_chosen(write, classes):
    masks = RecordedMasks(write(records()), classes)
    assert (masks.labels, masks.colors) == ({4: "dog"}, {4: "#0000ff"})


def test_class_that_is_not_there(write):
    with pytest.raises(ConfigError, match="has no class 'cat'"):
        RecordedMasks(write(records()), ["cat"])


def test_nothing_was_ever_seen(write):
    masks = RecordedMasks(write(records([np.full((6, 8), 255, np.uint8)])), ["dog"])
    assert masks.labels == {4: "dog"}
    assert (segment(masks, 1)[0].map_hw == 255).all()


def test_records_without_their_beginning_tell_the_classes_they_hold(write):
    cut = records([np.full((6, 8), 255, np.uint8), np.ones((6, 8), np.uint8)])[1:]
    assert RecordedMasks(write(cut), None).labels == {1: LABELS[1]}


def test_other_time_base_of_the_same_times(write):
    masks = RecordedMasks(write(records()), None)
    frame = make_picture("yuv420p", 8, 6)
    assert len(masks.segment([frame] * 2, [0, 1], [(0, Fraction(1, 50)), (2, Fraction(1, 50))])) == 2


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"size": (6, 8)}, "frame 0 is 6x8 at 0.000000 s, the record says 8x6 at 0.000000 s"),
        ({"time_base": Fraction(1, 24)}, "frame 1 is 8x6 at 0.041667 s, the record says 8x6 at 0.040000 s"),
        ({"first": 5}, "frame 5 is 8x6 at 0.200000 s, the record says 8x6 at 0.000000 s"),
    ],
)
def test_records_of_another_video(write, other, text):
    path = write(records())
    with pytest.raises(ConfigError) as caught:
        segment(RecordedMasks(path, None), 2, **other)
    assert str(caught.value) == f"records '{path}' are of another video: {text}"


def test_records_that_end_early(write):
    path = write(records())
    with pytest.raises(ConfigError) as caught:
        segment(RecordedMasks(path, None), 4)
    assert str(caught.value) == f"records '{path}' end after 3 frames, but the video goes on"


def broken(**changes):
    return {**records()[0], **changes}


def without(name):
    return {key: value for key, value in records()[0].items() if key != name}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("3", "Input should be a valid dictionary"),
        ("[]", "Input should be a valid dictionary"),
        *[
            (without(key), f"'{key}' is missing")
            for key in ("pts", "time_base", "inferred", "size", "background", "classes")
        ],
        (broken(time_base=[1, 0]), "'time_base.1': Input should be greater than 0"),
        (broken(time_base=[1]), "'time_base.1' is missing"),
        (broken(size="8x6"), "'size': Input should be a valid tuple"),
        (broken(pts=None), "'pts': Input should be a valid integer"),
        (broken(background=256), "'background': Input should be less than or equal to 255"),
        (broken(classes=5), "'classes': Input should be a valid list"),
        (broken(classes=[{}]), "'classes.0.index' is missing"),
        (broken(classes=[{**records()[0]["classes"][0], "color": "red"}]), "'classes.0.color': "),
        (
            broken(classes=[{**records()[0]["classes"][0], "index": 255}]),
            "'classes.0.index': Input should be less than",
        ),
        (broken(size=[6, 8]), "a mask is not of the size of the picture"),
    ],
)
def test_lines_that_are_no_records_are_found_at_once(write, line, reason):
    path = write([*records()[:1], line, *records()[1:]])
    with pytest.raises(ConfigError) as caught:
        RecordedMasks(path, None)
    message = str(caught.value)
    assert message.startswith(f"records '{path}', line 2: no record of a frame ({reason}")
    assert message.endswith("); expected what --json writes")
    assert "\n" not in message


def test_broken_masks_are_told_with_their_frame(write):
    lines = records()
    lines[1]["classes"][0]["rle"]["counts"] = "garbage!!"
    path = write(lines)
    masks = RecordedMasks(path, None)
    with pytest.raises(ConfigError, match=re.escape(f"records '{path}': the masks of frame 1 are broken: ")):
        segment(masks, 3)


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "masks.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="line 1: no record of a frame"):
        RecordedMasks(path, None)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(StreamError, match=r"cannot be read: (No such file|Is a directory)"):
        RecordedMasks(tmp_path / name, None)
