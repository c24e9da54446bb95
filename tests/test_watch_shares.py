"""Class shares over time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bmf_trt_seg.watch.shares import SECONDS, STEP_SECONDS, Shares

STEPS = SECONDS // STEP_SECONDS
NOW = 10_000.0


def class_map(**rows: int) -> npt.NDArray[np.uint8]:
    """(10, 4), rows of classes from the top: `c1=3` is three rows of class 1; the rest is of none."""
    map_hw = np.full((10, 4), 255, np.uint8)
    at = 0
    for name, count in rows.items():
        map_hw[at : at + count] = int(name[1:])
        at += count
    return map_hw


def test_the_share_of_a_class_is_its_part_of_the_picture() -> None:
    shares = Shares([1, 2, 7])
    assert shares.latest() == {}
    shares.add(class_map(c1=3, c7=1, c5=2), NOW)
    assert shares.latest() == pytest.approx({1: 0.3, 7: 0.1}), "classes that are not shown do not count"


def test_a_large_map_is_counted_by_some_of_its_pixels() -> None:
    shares, map_hw = Shares([1]), np.zeros((2160, 3840), np.uint8)
    map_hw[540:1080, 960:] = 1
    shares.add(map_hw, NOW)
    assert shares.latest()[1] == pytest.approx(0.1875, abs=1e-3)


def test_there_is_one_sample_a_second() -> None:
    shares = Shares([1])
    assert shares.is_due(NOW)
    shares.add(class_map(c1=1), NOW + 0.2)
    assert not shares.is_due(NOW + 0.9)
    assert shares.is_due(NOW + 1.0)


def test_a_table_has_the_mean_of_each_step_and_gaps() -> None:
    shares = Shares([1, 2])
    for second in range(int(NOW) - 30, int(NOW) + 1):
        if not NOW - 20 <= second < NOW - 10:
            shares.add(class_map(c1=second % 2 * 2, c2=4), second)
    table = shares.table(NOW, 6)
    assert table.classes == (1, 2)
    first, second = table.points
    assert len(first) == len(second) == len(table.others) == STEPS
    assert first[-1] == 0.0, "of the step that begins at this moment"
    assert second[-2:] == (0.4, 0.4)
    assert first[-2] in (0.08, 0.12), "odd and even seconds of five"
    assert [value is None for value in second[-8:]] == [True, False, False, True, True, False, False, False]
    assert set(second[:-7]) == {None}
    assert table.others[-1] == 0.0


def test_past_points_do_not_change_any_more() -> None:
    shares = Shares([1])
    seen: dict[int, set[float | None]] = {}
    rng = np.random.default_rng(1)
    for second in range(int(NOW), int(NOW) + 60):
        shares.add(class_map(c1=int(rng.integers(0, 10))), second)
        points = shares.table(second, 1).points
        step = second // STEP_SECONDS
        for back in range(2, 5):
            if points and step - back + 1 >= NOW // STEP_SECONDS:
                seen.setdefault(step - back + 1, set()).add(points[0][-back])
    assert len(seen) > 8
    assert all(len(values) == 1 for values in seen.values())


def test_the_largest_classes_are_told_apart_the_rest_together() -> None:
    shares = Shares(range(6))
    shares.add(class_map(c0=1, c1=3, c2=1, c3=2, c4=2), NOW)
    table = shares.table(NOW, 3)
    assert table.classes == (1, 3, 4)
    assert [points[-1] for points in table.points] == [0.3, 0.2, 0.2]
    assert table.others[-1] == 0.2


def test_what_is_old_is_forgotten() -> None:
    shares = Shares([1])
    shares.add(class_map(c1=5), NOW)
    assert shares.table(NOW + SECONDS - STEP_SECONDS, 1).classes == (1,)
    table = shares.table(NOW + SECONDS, 1)
    assert table.classes == ()
    assert set(table.others) == {None}


def test_memory_is_bounded() -> None:
    shares, map_hw = Shares(range(150)), class_map(c1=2)
    assert shares._shares.nbytes == shares._seconds.nbytes == 0, "nothing where nobody could look"
    for second in range(3 * SECONDS):
        shares.add(map_hw, NOW + second)
    assert shares._shares.nbytes + shares._seconds.nbytes < 200_000
    assert shares.table(NOW + 3 * SECONDS - 1, 1).points == ((0.2,) * STEPS,)


def test_no_class_at_all() -> None:
    shares = Shares([])
    shares.add(class_map(c1=2), NOW)
    assert shares.latest() == {}
    assert shares.table(NOW, 6).classes == ()
