"""The legend: grows, never shrinks, fits into any picture."""

from __future__ import annotations

import numpy as np
import pytest
from factories import FORMATS, make_picture

from bmf_trt_seg.colors import default_palette, parse_hex
from bmf_trt_seg.legend import Legend

LABELS = {0: "road", 1: "person", 2: "a very long name of a class"}
COLORS = {0: "#ff0000", 1: "#00ff00", 2: "#0000ff"}


def draw(legend, present, picture=None, left=0):
    picture = picture or make_picture("rgb24", 320, 240, fill=100)
    legend.draw(picture, left, present)
    return picture


def box_of(picture, fill=100):
    """Rows and columns that were drawn on: first and last of each."""
    rows, columns = np.nonzero((picture.planes[0] != fill).any(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def swatches(picture):
    return {index for index, color in COLORS.items() if (picture.planes[0] == parse_hex(color)).all(axis=2).sum() > 50}


def test_nothing_seen_nothing_drawn():
    assert (draw(Legend(LABELS, COLORS), []).planes[0] == 100).all()


def test_box_is_dark_and_holds_color_and_white_letters():
    pixels = draw(Legend(LABELS, COLORS), [1]).planes[0]
    box = pixels[6:30, 6:30]
    assert (box[0] == round(100 * (1 - 160 / 255))).all()
    assert swatches(draw(Legend(LABELS, COLORS), [1])) == {1}
    assert (pixels > 200).all(axis=2).any()


def test_it_grows_and_never_shrinks():
    legend = Legend(LABELS, COLORS)
    one = draw(legend, [1])
    two = draw(legend, [0])
    assert swatches(one) == {1}
    assert swatches(two) == {0, 1}
    assert box_of(two)[1] > box_of(one)[1]
    np.testing.assert_array_equal(draw(legend, []).planes[0], two.planes[0])
    np.testing.assert_array_equal(draw(legend, [1]).planes[0], two.planes[0])
    assert swatches(draw(legend, [2])) == {0, 1, 2}


def test_classes_are_listed_by_index():
    legend = Legend(LABELS, COLORS)
    pixels = draw(legend, [2, 0]).planes[0]
    red = np.nonzero((pixels == (255, 0, 0)).all(axis=2))[0]
    blue = np.nonzero((pixels == (0, 0, 255)).all(axis=2))[0]
    assert red.max() < blue.min()


def test_legends_of_two_streams_do_not_mix():
    draw(Legend(LABELS, COLORS), [0])
    assert swatches(draw(Legend(LABELS, COLORS), [1])) == {1}


@pytest.mark.parametrize("left", [0, 2, 160])
def test_it_stands_in_the_corner(left):
    picture = draw(Legend(LABELS, COLORS), [0, 1], left=left)
    top, bottom, first, last = box_of(picture)
    assert (top, first) == (6, left + 6)
    assert bottom < 60
    assert last < left + 100


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
def test_planes_of_video_are_drawn_alike(pixel_format):
    video = make_picture(pixel_format, 320, 240, fill=128, matrix="bt601")
    draw(Legend(LABELS, COLORS), [0], video)
    legend = video.planes[0] != 128
    assert video.planes[0][6, 6] == round(128 * (1 - 160 / 255) + 16 * 160 / 255)
    chroma = video.planes[1] if pixel_format == "yuv420p" else video.planes[1][..., 0]
    red = chroma.ravel()[np.abs(chroma.ravel().astype(int) - 90).argmin()]
    assert red == 90
    assert (video.planes[0] == 81).sum() > 50
    rows, columns = np.nonzero(legend)
    chroma_rows, chroma_columns = np.nonzero(chroma != 128)
    assert chroma_rows.min() * 2 >= rows.min()
    assert chroma_columns.max() * 2 <= columns.max()


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (7, 3), (10, 10), (11, 40), (16, 16), (40, 11), (33, 17)])
def test_tiny_pictures(pixel_format, size):
    picture = make_picture(pixel_format, *size)
    draw(Legend(LABELS, COLORS), [0, 1, 2], picture)
    draw(Legend(LABELS, COLORS), [0, 1, 2], picture, left=size[0] // 2 - size[0] // 2 % 2)


@pytest.mark.parametrize("size", [(16, 16), (160, 90), (1920, 1080), (99, 3001)])
def test_150_classes(size):
    names = {index: f"class {index}" for index in range(150)}
    colors = dict(enumerate(default_palette(150)))
    picture = draw(Legend(names, colors), list(range(150)), make_picture("nv12", *size))
    assert not np.array_equal(picture.planes[0], make_picture("nv12", *size).planes[0])


def test_rows_that_do_not_fit_are_counted(monkeypatch):
    """The row that counts them has no colour of its own."""
    written = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, place, text, **others: written.append(text))
    names = {index: f"class {index}" for index in range(150)}
    colors = dict(enumerate(default_palette(150)))
    pixels = draw(Legend(names, colors), list(range(150)), make_picture("rgb24", 160, 90)).planes[0]
    found = [index for index in range(8) if (pixels == parse_hex(colors[index])).all(axis=2).sum() > 50]
    assert found == [0, 1, 2, 3]
    assert written == ["class 0", "class 1", "class 2", "class 3", "... 146 more"]


def test_letters_grow_with_the_picture():
    small, large = (
        draw(Legend(LABELS, COLORS), [0], make_picture("rgb24", *size, fill=100)) for size in [(320, 240), (1280, 960)]
    )
    assert box_of(large)[1] - box_of(large)[0] > 2.5 * (box_of(small)[1] - box_of(small)[0])


def test_size_and_format_may_change():
    legend = Legend(LABELS, COLORS)
    for pixel_format in FORMATS:
        for size in [(320, 240), (64, 48), (320, 240)]:
            found = draw(legend, [0, 1], make_picture(pixel_format, *size))
            expected = draw(Legend(LABELS, COLORS), [0, 1], make_picture(pixel_format, *size))
            for plane, other in zip(found.planes, expected.planes, strict=True):
                np.testing.assert_array_equal(plane, other)
