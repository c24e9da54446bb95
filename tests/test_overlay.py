"""Overlay: what is drawn, in which values, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from factories import FORMATS, ODD_SIZES, make_picture

from bmf_trt_seg.colors import parse_hex
from bmf_trt_seg.frames import allocate_planes
from bmf_trt_seg.overlay import Look, Overlay

COLORS = {1: "#ff0000", 2: "#0000ff"}
LABELS = {1: "person", 2: "dog"}
STYLES = ["blend", "blur", "contour", "cutout", "sidebyside"]
GREY = 100


def random_map(width, height, seed=0):
    """Patches of classes 0 to 3 and no class (255), with single pixels that are something else."""
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 1, 2, 3, 255], (height // 6 + 1, width // 6 + 1))
    map_hw = np.kron(coarse, np.ones((6, 6), int))[:height, :width].astype(np.uint8)
    flips = rng.random((height, width)) < 0.05
    return np.where(flips, rng.choice([0, 1, 2], (height, width)), map_hw).astype(np.uint8)


def draw(frame, map_hw, *, target=None, colors=COLORS, **look):
    overlay = Overlay(Look(colors=colors, labels=LABELS, **look))
    if target is None:
        target = allocate_planes(frame, *overlay.size(frame.width, frame.height))
        for plane in target.planes:
            plane[:] = 77  # undefined, but not by chance what was expected
    before, map_before = [plane.copy() for plane in frame.planes], map_hw.copy()
    overlay.draw(frame, map_hw, target)
    for plane, old in zip(frame.planes, before, strict=True):
        np.testing.assert_array_equal(plane, old)
    np.testing.assert_array_equal(map_hw, map_before)
    return target


def per_plane(frame, mask):
    """A mask of pixels as one for each plane: of chroma samples, those with all their pixels in it."""
    if not frame.is_subsampled:
        return [mask]
    height, width = mask.shape
    padded = np.pad(mask, [(0, height % 2), (0, width % 2)], mode="edge")
    chroma = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).all(axis=(1, 3))
    return [mask] + [chroma] * (len(frame.planes) - 1)


def touched(frame, mask):
    return [~part for part in per_plane(frame, ~mask)]


def mixed(plane, codes, alpha):
    codes = np.array(codes if plane.ndim == 3 else codes[0])
    return np.rint((1 - alpha) * plane + alpha * codes).astype(np.uint8)


def assert_planes(found, expected):
    for plane, want in zip(found.planes, expected, strict=True):
        np.testing.assert_array_equal(plane, want)


# --------------------------------------------------------------------------------------------------------------- blend


def blended(frame, map_hw, alpha, colors=COLORS):
    planes = [plane.copy() for plane in frame.planes]
    for index, color in colors.items():
        codes = frame.plane_colors(parse_hex(color))
        for plane, source, mask, code in zip(
            planes, frame.planes, per_plane(frame, map_hw == index), codes, strict=True
        ):
            plane[mask] = mixed(source, code, alpha)[mask]
    return planes


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_blend_is_the_rounded_mix_inside_and_nothing_outside(pixel_format, size, alpha):
    for seed in range(4):
        frame = make_picture(pixel_format, *size, seed=seed, matrix="bt601", value_range="full")
        map_hw = random_map(*size, seed)
        assert_planes(draw(frame, map_hw, alpha=alpha), blended(frame, map_hw, alpha))


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("index", [1, 2])
def test_blend_of_a_single_class(pixel_format, index):
    frame, map_hw = make_picture(pixel_format), random_map(33, 17)
    colors = {index: COLORS[index]}
    assert_planes(draw(frame, map_hw, colors=colors), blended(frame, map_hw, 0.5, colors))


@pytest.mark.parametrize(
    ("matrix", "value_range", "red"),
    [
        ("bt601", "limited", (81, 90, 240)),
        ("bt601", "full", (76, 85, 255)),
        ("bt709", "limited", (63, 102, 240)),
        ("bt709", "full", (54, 99, 255)),
    ],
)
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_colors_go_by_matrix_and_range(matrix, value_range, red, alpha):
    frame = make_picture("yuv420p", 6, 4, fill=GREY, matrix=matrix, value_range=value_range)
    found = draw(frame, np.ones((4, 6), np.uint8), alpha=alpha)
    for plane, code in zip(found.planes, red, strict=True):
        assert (plane == round((1 - alpha) * GREY + alpha * code)).all()


def test_one_overlay_draws_streams_of_different_kinds():
    overlay = Overlay(Look(COLORS, LABELS, alpha=1.0))
    map_hw = np.ones((4, 6), np.uint8)
    for pixel_format, matrix, first in [
        ("nv12", "bt601", 81),
        ("nv12", "bt709", 63),
        ("rgb24", "bt709", 255),
        ("nv12", "bt601", 81),
    ]:
        frame = make_picture(pixel_format, 6, 4, matrix=matrix)
        target = allocate_planes(frame, 6, 4)
        overlay.draw(frame, map_hw, target)
        assert target.planes[0].ravel()[0] == first


def test_chroma_of_a_block_waits_for_its_last_pixel():
    frame = make_picture("yuv420p", 4, 2, fill=GREY)
    map_hw = np.array([[1, 1, 1, 1], [1, 0, 1, 1]], np.uint8)
    found = draw(frame, map_hw, alpha=1.0)
    assert found.planes[0].tolist() == [[63, 63, 63, 63], [63, GREY, 63, 63]]
    assert found.planes[1].tolist() == [[GREY, 102]]
    assert found.planes[2].tolist() == [[GREY, 240]]


def test_two_classes_side_by_side():
    frame = make_picture("nv12", 6, 2, fill=GREY)
    map_hw = np.array([[1, 1, 1, 2, 2, 2]] * 2, np.uint8)
    found = draw(frame, map_hw, alpha=1.0)
    assert found.planes[0].tolist() == [[63, 63, 63, 32, 32, 32]] * 2
    assert found.planes[1].tolist() == [[[102, 240], [GREY, GREY], [240, 118]]]


def test_odd_edges_take_their_color():
    frame = make_picture("yuv420p", 3, 3, fill=GREY)
    map_hw = np.zeros((3, 3), np.uint8)
    map_hw[2, :] = 1
    found = draw(frame, map_hw, alpha=1.0)
    assert found.planes[1].tolist() == [[GREY, GREY], [102, 102]]


# -------------------------------------------------------------------------------------------- what no mask touches


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("style", STYLES)
def test_pixels_that_no_mask_touches_keep_all_their_values(pixel_format, size, style):
    for seed in range(4):
        frame, map_hw = make_picture(pixel_format, *size, seed=seed), random_map(*size, seed)
        found = draw(frame, map_hw, style=style)
        shown = np.isin(map_hw, [1, 2])
        left_alone = shown if style in ("cutout", "blur") else ~shown
        for plane, before, mask in zip(found.planes, frame.planes, touched(frame, left_alone), strict=True):
            np.testing.assert_array_equal(plane[: before.shape[0], : before.shape[1]][mask], before[mask])


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("style", ["blend", "contour"])
def test_nothing_seen_is_nothing_drawn(pixel_format, style):
    frame = make_picture(pixel_format)
    assert_planes(draw(frame, np.full((17, 33), 3, np.uint8), style=style), frame.planes)


@pytest.mark.parametrize("style", ["cutout", "blur"])
def test_everything_seen_is_nothing_hidden(style):
    frame = make_picture()
    assert_planes(draw(frame, np.full((17, 33), 2, np.uint8), style=style), frame.planes)


# ------------------------------------------------------------------------------------------------------------- contour


def inner(mask, reach):
    """What is left of a mask without a border of `reach` pixels; beyond the picture everything counts as mask."""
    padded = np.pad(mask, reach, constant_values=True)
    return np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2).all(axis=(2, 3))


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize(("size", "reach"), [((33, 17), 2), ((60, 41), 2), ((800, 720), 3)])
@pytest.mark.parametrize("colors", [COLORS, {2: "#00ff00"}])
def test_contour_lies_inside_each_class(pixel_format, size, reach, colors):
    scale = 40 if size[1] > 100 else 1
    frame = make_picture(pixel_format, *size)
    map_hw = np.kron(random_map(size[0] // scale, size[1] // scale), np.ones((scale, scale), np.uint8))
    expected = [plane.copy() for plane in frame.planes]
    for index, color in colors.items():
        mask = map_hw == index
        line = mask & ~inner(mask, reach)
        areas = [line] + [
            cover & touch for cover, touch in zip(per_plane(frame, mask)[1:], touched(frame, line)[1:], strict=True)
        ]
        for plane, area, code in zip(expected, areas, frame.plane_colors(parse_hex(color)), strict=True):
            plane[area] = mixed(plane, code, 1.0)[area]
    assert_planes(draw(frame, map_hw, style="contour", colors=colors), expected)


def test_contour_has_no_line_along_the_edge_of_the_picture():
    frame = make_picture("rgb24", 40, 20, fill=GREY)
    map_hw = np.zeros((20, 40), np.uint8)
    map_hw[:, :20] = 1
    line = (draw(frame, map_hw, style="contour").planes[0] != GREY).any(axis=2)
    assert np.flatnonzero(line.any(axis=0)).tolist() == [18, 19]
    assert line[:, 18:20].all()


# -------------------------------------------------------------------------------------------------------- cutout, blur


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("colors", [COLORS, {2: "#00ff00"}])
def test_cutout_puts_one_color_behind_the_classes(pixel_format, size, colors):
    frame, map_hw = make_picture(pixel_format, *size, matrix="bt601"), random_map(*size)
    expected = [plane.copy() for plane in frame.planes]
    outside = ~np.isin(map_hw, list(colors))
    codes = frame.plane_colors((1, 128, 255))
    for plane, mask, code in zip(expected, per_plane(frame, outside), codes, strict=True):
        plane[mask] = mixed(plane, code, 1.0)[mask]
    assert_planes(draw(frame, map_hw, style="cutout", background_color="#0180ff", colors=colors), expected)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", [*ODD_SIZES, (1920, 1080)])
def test_blur_keeps_plain_colours(pixel_format, size):
    frame = make_picture(pixel_format, *size, fill=GREY)
    assert all((plane == GREY).all() for plane in draw(frame, random_map(*size), style="blur").planes)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("colors", [COLORS, {1: "#ff0000"}])
def test_blur_smooths_every_plane_outside_the_classes(pixel_format, colors):
    frame = make_picture(pixel_format, 200, 120)
    map_hw = np.zeros((120, 200), np.uint8)
    map_hw[:, 100:] = 1
    found = draw(frame, map_hw, style="blur", colors=colors)
    for plane, before in zip(found.planes, frame.planes, strict=True):
        half = plane.shape[1] // 2
        assert plane[:, : half - 1].std() < before[:, : half - 1].std() / 4
        assert abs(plane[:, : half - 1].mean() - before[:, : half - 1].mean()) < 4
        np.testing.assert_array_equal(plane[:, half:], before[:, half:])


def test_blur_is_as_wide_in_chroma():
    frame = make_picture("yuv420p", 640, 480, fill=0)
    for plane in frame.planes:
        plane[:, plane.shape[1] // 2 :] = 255
    luma, chroma, _ = draw(frame, np.zeros((480, 640), np.uint8), style="blur").planes
    np.testing.assert_allclose(chroma[100], luma[200, ::2], atol=25)


def test_blur_is_as_wide_for_any_size_of_the_picture():
    def width_of_edge(height):
        frame = make_picture("rgb24", height * 2, height, fill=0)
        frame.planes[0][:, height:] = 255
        row = draw(frame, np.zeros((height, height * 2), np.uint8), style="blur").planes[0][height // 2, :, 0]
        return ((row > 40) & (row < 215)).sum() / height

    assert width_of_edge(240) == pytest.approx(width_of_edge(960), rel=0.15)
    assert 0.01 < width_of_edge(960) < 0.06


# ---------------------------------------------------------------------------------------------------------- sidebyside


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", ODD_SIZES)
def test_sidebyside_is_the_picture_and_the_blend(pixel_format, size):
    width, height = size
    frame, map_hw = make_picture(pixel_format, *size), random_map(*size)
    found = draw(frame, map_hw, style="sidebyside")
    assert (found.width, found.height) == (2 * (width + width % 2), height)
    blend = draw(frame, map_hw, style="blend")
    for plane, before, right in zip(found.planes, frame.planes, blend.planes, strict=True):
        half = plane.shape[1] // 2
        np.testing.assert_array_equal(plane[:, : before.shape[1]], before)
        np.testing.assert_array_equal(plane[:, half : half + before.shape[1]], right)
    if width % 2:
        np.testing.assert_array_equal(found.planes[0][:, width], frame.planes[0][:, -1])


# ---------------------------------------------------------------------------------------------------------------- mask


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
def test_mask_of_one_class_is_white_on_black(pixel_format, size):
    frame, map_hw = make_picture(pixel_format, *size), random_map(*size)
    found = draw(frame, map_hw, output="mask", colors={1: "#123456"})
    np.testing.assert_array_equal(found.planes[0], np.where(map_hw == 1, 235, 16))
    assert all((plane == 128).all() for plane in found.planes[1:])


@pytest.mark.parametrize("style", STYLES)
def test_mask_of_several_classes_has_their_colors_in_any_style(style):
    frame = make_picture("rgb24", 4, 1)
    found = draw(frame, np.array([[0, 1, 2, 3]], np.uint8), output="mask", style=style)
    assert found.planes[0].tolist() == [[[0, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 0]]]


def test_mask_chroma_is_drawn_where_a_class_fills_the_block():
    frame = make_picture("yuv420p", 4, 2, matrix="bt601")
    found = draw(frame, np.array([[1, 1, 2, 0], [1, 1, 2, 2]], np.uint8), output="mask")
    assert found.planes[0].tolist() == [[81, 81, 41, 16], [81, 81, 41, 41]]
    assert found.planes[1].tolist() == [[90, 128]]
    assert found.planes[2].tolist() == [[240, 128]]


# --------------------------------------------------------------------------------------------------- bigger targets


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
@pytest.mark.parametrize("style", [*STYLES, "mask"])
def test_targets_of_even_size_take_odd_pictures(pixel_format, style):
    frame, map_hw = make_picture(pixel_format, 33, 17), random_map(33, 17)
    look = {"output": "mask"} if style == "mask" else {"style": style}
    small = draw(frame, map_hw, **look)
    target = make_picture(pixel_format, small.width + small.width % 2, 18, seed=9)
    draw(frame, map_hw, target=target, **look)
    for plane, expected in zip(target.planes, small.planes, strict=True):
        np.testing.assert_array_equal(plane[: expected.shape[0], : expected.shape[1]], expected)
    np.testing.assert_array_equal(target.planes[0][17, :33], small.planes[0][16, :33])
    np.testing.assert_array_equal(target.planes[0][:17, 33], small.planes[0][:, 32])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(16, 16), (7, 3)])
def test_legend_is_drawn_in_every_style(style, size):
    frame, map_hw = make_picture("yuv420p", *size), np.ones(size[::-1], np.uint8)
    with_legend, without = (draw(frame, map_hw, style=style, legend=legend) for legend in (True, False))
    changed = (with_legend.planes[0] != without.planes[0]).any(axis=0)
    if size == (16, 16):
        assert np.flatnonzero(changed).min() >= (16 if style == "sidebyside" else 0) + 6


def test_legend_lists_shown_classes_only():
    frame = make_picture("yuv420p", 64, 64)
    map_hw = np.full((64, 64), 3, np.uint8)
    assert_planes(draw(frame, map_hw, legend=True), frame.planes)
