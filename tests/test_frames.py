"""FramePlanes: shapes, colours of planes, resizing, and copying into bigger pictures."""

from __future__ import annotations

import numpy as np
import pytest
from factories import FORMATS, make_picture

from bmf_trt_seg.errors import FrameError
from bmf_trt_seg.frames import FramePlanes, allocate_planes, chroma_size, plane_shapes

SIZES = [(1, 1), (3, 5), (5, 3), (33, 17), (16, 8)]


@pytest.mark.parametrize(
    ("pixel_format", "size", "shapes"),
    [
        ("yuv420p", (4, 2), [(2, 4), (1, 2), (1, 2)]),
        ("yuv420p", (5, 3), [(3, 5), (2, 3), (2, 3)]),
        ("nv12", (5, 3), [(3, 5), (2, 3, 2)]),
        ("nv12", (1, 1), [(1, 1), (1, 1, 2)]),
        ("rgb24", (5, 3), [(3, 5, 3)]),
    ],
)
def test_plane_shapes(pixel_format, size, shapes):
    assert plane_shapes(pixel_format, *size) == shapes


def test_chroma_is_half_rounded_up():
    assert chroma_size(7, 4) == (4, 2)


def test_planes_of_other_shapes_are_refused():
    planes = tuple(np.zeros(shape, np.uint8) for shape in [(3, 5), (1, 2), (1, 2)])
    with pytest.raises(FrameError) as caught:
        FramePlanes("yuv420p", 5, 3, planes)
    assert str(caught.value) == (
        "a yuv420p picture of 5x3 has planes [(3, 5), (2, 3), (2, 3)], got [(3, 5), (1, 2), (1, 2)]"
    )


def test_text_says_what_it_is():
    assert str(make_picture("nv12", 4, 2, matrix="bt601", value_range="full")) == "nv12 4x2 bt601 full"


@pytest.mark.parametrize(
    ("pixel_format", "codes"),
    [("yuv420p", [(81,), (90,), (240,)]), ("nv12", [(81,), (90, 240)]), ("rgb24", [(255, 0, 0)])],
)
def test_plane_colors(pixel_format, codes):
    assert make_picture(pixel_format, 4, 2, matrix="bt601").plane_colors((255, 0, 0)) == codes


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", SIZES)
def test_resizing_keeps_a_plain_colour(pixel_format, size, target):
    frame = make_picture(pixel_format, *size, fill=77, matrix="bt2020", value_range="full")
    resized = frame.resized(*target)
    assert (resized.width, resized.height) == target
    assert (resized.matrix, resized.value_range) == ("bt2020", "full")
    assert all((plane == 77).all() for plane in resized.planes)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_resizing_to_the_same_size_copies(pixel_format):
    frame = make_picture(pixel_format)
    resized = frame.resized(frame.width, frame.height)
    for plane, other in zip(frame.planes, resized.planes, strict=True):
        np.testing.assert_array_equal(plane, other)
        assert not np.shares_memory(plane, other)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_allocated_like_another(pixel_format):
    frame = make_picture(pixel_format, 5, 3, matrix="bt601", value_range="full")
    made = allocate_planes(frame, 7, 9)
    assert str(made) == f"{pixel_format} 7x9 bt601 full"
    assert all(plane.dtype == np.uint8 for plane in made.planes)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_copied_as_it_is(pixel_format, size):
    source, target = make_picture(pixel_format, *size), make_picture(pixel_format, *size, seed=1)
    target.copy_from(source)
    for plane, other in zip(source.planes, target.planes, strict=True):
        np.testing.assert_array_equal(plane, other)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_copied_into_even_sizes_repeats_the_last_row_and_column(pixel_format, size):
    width, height = size
    source = make_picture(pixel_format, width, height)
    target = make_picture(pixel_format, width + width % 2, height + height % 2, seed=1)
    target.copy_from(source)
    extra = [(0, height % 2), (0, width % 2)]
    first = source.planes[0]
    np.testing.assert_array_equal(target.planes[0], np.pad(first, extra + [(0, 0)] * (first.ndim - 2), mode="edge"))
    for plane, other in zip(source.planes[1:], target.planes[1:], strict=True):
        np.testing.assert_array_equal(plane, other)


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_copied_to_the_right_leaves_the_left(pixel_format):
    source, target = make_picture(pixel_format, 5, 4), make_picture(pixel_format, 12, 4, seed=1)
    before = [plane.copy() for plane in target.planes]
    target.copy_from(source, 6)
    for index, (plane, canvas, old) in enumerate(zip(source.planes, target.planes, before, strict=True)):
        left = 3 if index else 6
        np.testing.assert_array_equal(canvas[:, :left], old[:, :left])
        np.testing.assert_array_equal(canvas[:, left : left + plane.shape[1]], plane)
    np.testing.assert_array_equal(target.planes[0][:, 11], source.planes[0][:, 4])
