"""Where films are cut, by packets that are made up."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bmf_trt_seg.batch.cuts import NotCut, SeenPacket, plan_cuts, rounds_of_smoothing
from bmf_trt_seg.options import SegmentOptions

TIME_BASE = Fraction(1, 10)


def options(**values):
    return SegmentOptions(model="m.onnx", **values)


def groups(count, length=10):
    """So many groups of pictures, a key frame first in each, 10 frames a second."""
    return [SeenPacket(pts, pts % length == 0) for pts in range(count * length)]


def kept(parts):
    return [(part.first_kept, len(part.kept_pts)) for part in parts]


def test_parts_begin_at_the_key_frames_nearest_to_equal_lengths():
    parts = plan_cuts(groups(7), TIME_BASE, options(), cut_seconds=2.5)
    assert kept(parts) == [(0, 20), (20, 30), (50, 20)]
    assert [part.kept_pts[0] for part in parts] == [0, 20, 50]
    assert [(part.key_pts, part.packets, part.first_frame) for part in parts] == [
        (0, 20, 0),
        (20, 30, 20),
        (50, 20, 50),
    ]


def test_with_an_interval_a_part_begins_with_the_inference_that_its_first_frame_holds():
    parts = plan_cuts(groups(7), TIME_BASE, options(interval=7), cut_seconds=2.5)
    assert [part.first_frame for part in parts] == [0, 14, 49]
    assert [part.key_pts for part in parts] == [0, 10, 40]
    assert kept(parts) == [(0, 20), (20, 30), (50, 20)]


def test_batches_are_those_of_the_whole_film():
    parts = plan_cuts(groups(7), TIME_BASE, options(interval=3, batch_size=4), cut_seconds=2.5)
    assert [part.first_frame for part in parts] == [0, 12, 48]
    assert [part.fed_pts[1] for part in parts] == [23, 59, 69]  # up to the end of a batch


def test_smoothing_begins_where_the_past_weighs_nothing():
    assert 0.5 ** rounds_of_smoothing(0.5) <= 2**-24 < 0.5 ** (rounds_of_smoothing(0.5) - 1)
    parts = plan_cuts(groups(60), TIME_BASE, options(smoothing=0.5), cut_seconds=20.0)
    assert kept(parts) == [(0, 200), (200, 200), (400, 200)]
    assert [part.first_frame for part in parts] == [0, 176, 376]
    assert [part.key_pts for part in parts] == [0, 170, 370]


def test_parts_are_longer_than_what_they_repeat():
    parts = plan_cuts(groups(60), TIME_BASE, options(smoothing=0.5, interval=2), cut_seconds=2.0)
    assert min(len(part.kept_pts) for part in parts) > 3 * 24 * 2


def test_leading_pictures_of_an_open_group_belong_to_the_part_before():
    # key 0, then 3 1 2, then key 6 with 4 and 5 shown before it, and so on
    order = [0, 3, 1, 2, *(pts + step for pts in (6, 9, 12) for step in (0, -2, -1)), 15, 13, 14]
    packets = [SeenPacket(pts, pts in (0, 6, 12)) for pts in order]
    parts = plan_cuts(packets, TIME_BASE, options(), cut_seconds=0.6)
    assert [list(part.kept_pts) for part in parts] == [list(range(6)), list(range(6, 12)), list(range(12, 16))]
    assert [part.packets for part in parts] == [7, 9, 6]  # with 6 and 12, which 4, 5, 10 and 11 want


def test_a_key_frame_that_is_shown_before_what_was_decoded_earlier_is_not_used():
    packets = [SeenPacket(pts, pts in (0, 5, 10)) for pts in (0, 1, 2, 3, 7, 5, 4, 6, 8, 9, *range(10, 20))]
    parts = plan_cuts(packets, TIME_BASE, options(), cut_seconds=0.5)
    assert kept(parts) == [(0, 10), (10, 10)]


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        (groups(1, length=60), "it has no key frames to cut it at"),
        (groups(2), "it is not long enough"),
        ([SeenPacket(1, False), *groups(7)], "it does not begin with a key frame"),
        ([*groups(7), SeenPacket(69, False)], "some of its frames have the same time"),
    ],
)
def test_films_that_cannot_be_cut(packets, reason):
    with pytest.raises(NotCut, match=reason):
        plan_cuts(packets, TIME_BASE, options(), cut_seconds=2.0)
