"""Labels and colours of data sets, against what is known of them, and how labels are given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.models.datasets import ADE20K, CITYSCAPES, DATA_SETS, PASCAL_VOC
from bmf_trt_seg.models.labels import Labels


@pytest.mark.parametrize(("name", "count"), [("voc", 21), ("ade20k", 150), ("cityscapes", 19)])
def test_there_is_a_name_and_a_colour_for_each_class(name, count):
    data_set = DATA_SETS[name]
    assert len(data_set.labels) == len(set(data_set.labels)) == len(data_set.palette) == count
    assert all(re.fullmatch("[a-z][a-z ]*[a-z]", label) for label in data_set.labels)
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in data_set.palette)


def test_colours_are_distinct_but_for_a_pair_of_ade20k():
    for data_set in (PASCAL_VOC, CITYSCAPES):
        assert len(set(data_set.palette)) == len(data_set.palette)
    twice = [
        label for label, color in zip(ADE20K.labels, ADE20K.palette, strict=True) if ADE20K.palette.count(color) > 1
    ]
    assert twice == ["road", "skyscraper"]


@pytest.mark.parametrize(
    ("name", "index", "label", "color"),
    [
        ("voc", 0, "background", "#000000"),
        ("voc", 1, "aeroplane", "#800000"),
        ("voc", 12, "dog", "#400080"),
        ("voc", 15, "person", "#c08080"),
        ("voc", 20, "tvmonitor", "#004080"),
        ("ade20k", 0, "wall", "#787878"),
        ("ade20k", 2, "sky", "#06e6e6"),
        ("ade20k", 12, "person", "#96053d"),
        ("ade20k", 20, "car", "#0066c8"),
        ("ade20k", 149, "flag", "#5c00ff"),
        ("cityscapes", 0, "road", "#804080"),
        ("cityscapes", 10, "sky", "#4682b4"),
        ("cityscapes", 11, "person", "#dc143c"),
        ("cityscapes", 13, "car", "#00008e"),
        ("cityscapes", 18, "bicycle", "#770b20"),
    ],
)
def test_known_classes(name, index, label, color):
    data_set = DATA_SETS[name]
    assert (data_set.labels[index], data_set.palette[index]) == (label, color)


def test_only_voc_has_a_background():
    assert [data_set.background for data_set in DATA_SETS.values()] == [0, None, None]


def test_labels_by_name_list_and_file(tmp_path):
    assert Labels.parsed("cityscapes") == Labels(CITYSCAPES.labels, CITYSCAPES.palette, None)
    assert Labels.parsed("cat, dog ,") == Labels(("cat", "dog"), (), None)
    assert Labels.parsed("__background__,dog").background == 0
    assert Labels.parsed("background").background is None  # of a single class, nothing else would be left
    path = tmp_path / "labels.txt"
    path.write_text("background\n\ntraffic light\n")
    assert Labels.parsed(str(path)) == Labels(("background", "traffic light"), (), 0)


def test_labels_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(StreamError, match=r"^labels 'nosuch\.txt' do not exist; expected a file with a label a line$"):
        Labels.parsed("nosuch.txt")
    with pytest.raises(ConfigError, match=r"^--labels ',' names nothing; there are voc, ade20k, cityscapes, or give"):
        Labels.parsed(",")
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(StreamError, match="cannot be read"):
        Labels.parsed(str(tmp_path / "labels.txt"))
