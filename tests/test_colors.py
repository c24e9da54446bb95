"""Colours: hex notation, the default palette, and the formulas of BT.601, BT.709 and BT.2020."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bmf_trt_seg.colors import default_palette, parse_hex, rgb_to_ycbcr, ycbcr_to_rgb_matrix

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
MATRICES = ["bt601", "bt709", "bt2020"]
RANGES = ["limited", "full"]


def test_hex_is_read():
    assert parse_hex("#0180fF") == (1, 128, 255)


@pytest.mark.parametrize(
    "text", ["112233", "#11223", "#1122334", "#gggggg", "#+12345", "#1_2_34", "# 12345", "#112233\n", "red", ""]
)
def test_other_notations_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"a colour is written #rrggbb, not {text!r}")):
        parse_hex(text)


@pytest.mark.parametrize("count", [0, 1, 2, 150, 255])
def test_default_palette_has_that_many_different_colors(count):
    palette = default_palette(count)
    assert len(set(palette)) == len(palette) == count
    assert palette[:1] == ["#000000"][:count]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in palette)


def test_neighbours_in_the_default_palette_are_far_apart():
    colors = np.array([parse_hex(color) for color in default_palette(50)], float)
    assert np.linalg.norm(np.diff(colors, axis=0), axis=1).min() > 100


def test_default_palette_keeps_its_beginning():
    assert default_palette(40)[:12] == default_palette(12)


@pytest.mark.parametrize(
    ("rgb", "matrix", "value_range", "ycbcr"),
    [
        (RED, "bt601", "limited", (81, 90, 240)),
        (GREEN, "bt601", "limited", (145, 54, 34)),
        (BLUE, "bt601", "limited", (41, 240, 110)),
        (RED, "bt601", "full", (76, 85, 255)),
        (GREEN, "bt601", "full", (150, 44, 21)),
        (BLUE, "bt601", "full", (29, 255, 107)),
        (RED, "bt709", "limited", (63, 102, 240)),
        (GREEN, "bt709", "limited", (173, 42, 26)),
        (BLUE, "bt709", "limited", (32, 240, 118)),
        (RED, "bt2020", "limited", (74, 97, 240)),
        (BLUE, "bt2020", "limited", (29, 240, 119)),
        (WHITE, "bt2020", "limited", (235, 128, 128)),
        (BLACK, "bt709", "limited", (16, 128, 128)),
        (WHITE, "bt709", "full", (255, 128, 128)),
        (BLACK, "bt601", "full", (0, 128, 128)),
    ],
)
def test_known_code_values(rgb, matrix, value_range, ycbcr):
    assert rgb_to_ycbcr(rgb, matrix, value_range) == ycbcr


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("value_range", RANGES)
def test_way_back_gives_the_color(matrix, value_range):
    weights, bias = ycbcr_to_rgb_matrix(matrix, value_range)
    for rgb in np.random.default_rng(1).integers(0, 256, (200, 3)):
        back = weights @ np.array(rgb_to_ycbcr(tuple(map(int, rgb)), matrix, value_range)) + bias
        np.testing.assert_allclose(back * 255, rgb, atol=1.8)  # half a code value of Cb is as much as 1.1 of blue


@pytest.mark.parametrize("value_range", RANGES)
def test_way_back_is_exact_for_greys(value_range):
    weights, bias = ycbcr_to_rgb_matrix("bt709", value_range)
    low, high = (16, 235) if value_range == "limited" else (0, 255)
    np.testing.assert_allclose(weights @ [low, 128, 128] + bias, 0, atol=1e-12)
    np.testing.assert_allclose(weights @ [high, 128, 128] + bias, 1, atol=1e-12)
