"""Preprocess against the same arithmetic in float64, and where a picture lies in the batch."""

from __future__ import annotations

import numpy as np
import pytest
from factories import FORMATS, ODD_SIZES, make_picture, make_spec

from bmf_trt_seg.frames import FramePlanes, plane_shapes
from bmf_trt_seg.preprocess import Preprocess

LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def preprocess(*frames, **input):
    return Preprocess(make_spec(input=input).input)(frames)


def plain(pixel_format, width, height, codes, **color_space):
    """A picture of one colour, by the code values of its components."""
    codes = list(codes)
    planes = []
    for shape in plane_shapes(pixel_format, width, height):
        components = shape[2] if len(shape) == 3 else 1
        plane = np.full((*shape[:2], components), codes[:components], np.uint8)
        planes.append(plane.reshape(shape))
        codes = codes[components:]
    return FramePlanes(pixel_format, width, height, tuple(planes), **color_space)


def rgb_of(y, cb, cr, matrix, value_range):
    """R'G'B' in 0 to 1 as BT.601, BT.709 and BT.2020 have it."""
    kr, kb = LUMA_WEIGHTS[matrix]
    if value_range == "limited":
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    else:
        y, cb, cr = y / 255, (cb - 128) / 255, (cr - 128) / 255
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip([red, green, blue], 0, 1)


def enlarged(plane, width, height):
    """Bilinear, centres at half coordinates, in float64."""

    def taps(source, target):
        position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        low = position.astype(int)
        return low, np.minimum(low + 1, source - 1), position - low

    y0, y1, wy = taps(plane.shape[0], height)
    x0, x1, wx = taps(plane.shape[1], width)
    plane = plane.astype(float)
    rows = plane[y0] * (1 - wy)[:, None] + plane[y1] * wy[:, None]
    return rows[:, x0] * (1 - wx) + rows[:, x1] * wx


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("value_range", ["limited", "full"])
def test_colors_are_converted_as_the_stream_says(pixel_format, matrix, value_range):
    for codes in np.random.default_rng(0).integers(0, 256, (40, 3)):
        frame = plain(pixel_format, 8, 8, codes, matrix=matrix, value_range=value_range)
        expected = rgb_of(*codes.astype(float), matrix, value_range)
        np.testing.assert_allclose(preprocess(frame)[0, :, 3, 5], expected, atol=2e-6)


def test_black_and_white_by_hand():
    frame = make_picture("nv12", 8, 8, fill=128)
    frame.planes[0][:] = 16
    frame.planes[0][2, 3] = 235
    batch = preprocess(frame)
    assert batch.shape == (1, 3, 8, 8)
    expected = np.zeros((8, 8))
    expected[2, 3] = 1
    for channel in batch[0]:
        np.testing.assert_allclose(channel, expected, atol=1e-6)


def test_rgb_is_divided_by_255():
    frame = make_picture("rgb24", 8, 8)
    np.testing.assert_allclose(preprocess(frame)[0], frame.planes[0].transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", [*ODD_SIZES, (13, 9)])
def test_resizing_is_bilinear(pixel_format, size):
    frame = make_picture(pixel_format, *size, matrix="bt601", value_range="full")
    planes = (
        [plane[..., part] for plane in frame.planes for part in range(plane.shape[2])]
        if (pixel_format == "rgb24")
        else [frame.planes[0], *(frame.planes[1:] if pixel_format == "yuv420p" else np.moveaxis(frame.planes[1], 2, 0))]
    )
    network = {"width": 30, "height": 20}  # less than halves the biggest
    codes = [np.rint(enlarged(plane, 30, 20)) for plane in planes]
    expected = np.stack(codes) / 255 if pixel_format == "rgb24" else rgb_of(*codes, "bt601", "full")
    np.testing.assert_allclose(preprocess(frame, **network)[0], expected, atol=3.1 / 255)  # a code value of rounding


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_far_too_large_pictures_are_averaged(pixel_format):
    frame = make_picture(pixel_format, 64, 64, fill=0, value_range="full")
    for plane in frame.planes[1:]:
        plane[:] = 128
    frame.planes[0][:, ::8] = 255  # plain bilinear looks at columns 3 and 4 of each 8
    np.testing.assert_allclose(preprocess(frame), 1 / 8, atol=2 / 255)


def test_pictures_of_two_to_three_times_the_size_are_halved_once():
    frame = make_picture("rgb24", 20, 20, fill=0)
    frame.planes[0][:, 2::5] = 255  # where plain bilinear never looks
    assert preprocess(frame).mean() == pytest.approx(1 / 5, abs=0.03)


def test_halving_of_odd_sizes():
    frame = make_picture("rgb24", 67, 35)
    frame.planes[0][:] = np.arange(67)[:, None] * 3  # a ramp stays a ramp
    expected = ((np.arange(8) + 0.5) * 67 / 8 - 0.5) * 3 / 255
    np.testing.assert_allclose(preprocess(frame)[0], np.broadcast_to(expected, (3, 8, 8)), atol=9 / 255)


def test_mean_and_std_of_each_channel():
    frame = plain("rgb24", 8, 8, (51, 102, 204))
    batch = preprocess(frame, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2])
    np.testing.assert_allclose(batch[0, :, 0, 0], [0.2, 0.8, 0.25], atol=1e-6)


def test_std_alone_is_applied():
    np.testing.assert_allclose(preprocess(plain("rgb24", 8, 8, (51,) * 3), std=[0.5, 0.5, 0.5]), 0.4, atol=1e-6)


def test_bgr_is_normalized_in_its_own_order():
    frame = plain("rgb24", 8, 8, (51, 102, 204))
    np.testing.assert_allclose(preprocess(frame, channel_order="bgr")[0, :, 0, 0], [0.8, 0.4, 0.2], atol=1e-6)
    batch = preprocess(frame, channel_order="bgr", mean=[0.8, 0.4, 0.1])
    np.testing.assert_allclose(batch[0, :, 0, 0], [0, 0, 0.1], atol=1e-6)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_layouts_hold_the_same_numbers(order):
    frames = [make_picture("yuv420p", 20, 14, seed=seed) for seed in range(3)]
    nchw = preprocess(*frames, width=16, height=12, channel_order=order)
    nhwc = preprocess(*frames, width=16, height=12, channel_order=order, layout="nhwc")
    assert nchw.shape == (3, 3, 12, 16)
    assert nhwc.shape == (3, 12, 16, 3)
    np.testing.assert_array_equal(nhwc.transpose(0, 3, 1, 2), nchw)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_element_types(layout, dtype):
    frame = make_picture("rgb24", 8, 8)
    batch = preprocess(frame, layout=layout, dtype=dtype)
    assert batch.dtype == dtype
    assert batch.flags.c_contiguous
    full = preprocess(frame, layout=layout)
    expected = full * 255 if dtype == "uint8" else full
    np.testing.assert_allclose(batch, expected, atol={"uint8": 1e-4, "float16": 3e-4, "float32": 0}[dtype])


def test_uint8_is_not_normalized():
    frame = make_picture("rgb24", 8, 8)
    batch = preprocess(frame, dtype="uint8", layout="nhwc", mean=[0.5, 0.5, 0.5], std=[2, 2, 2])
    np.testing.assert_array_equal(batch[0], frame.planes[0])


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        ((40, 10), slice(12, 20), slice(0, 32)),
        ((10, 40), slice(0, 32), slice(12, 20)),
        ((9, 9), slice(0, 32), slice(32)),
    ],
)
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_letterbox(pixel_format, size, rows, columns):
    frame = make_picture(pixel_format, *size, fill=255, value_range="full")
    for plane in frame.planes[1:]:
        plane[:] = 128
    batch = preprocess(frame, width=32, height=32, resize="letterbox", mean=[0.5, 0.25, 0.125], std=[0.5, 0.5, 0.5])
    inside = np.zeros((32, 32), bool)
    inside[rows, columns] = True
    for channel, mean in zip(batch[0], (0.5, 0.25, 0.125), strict=True):
        np.testing.assert_allclose(channel[inside], (1 - mean) / 0.5, atol=1e-5)
        assert (channel[~inside] == 0).all()


def test_letterbox_of_bytes_has_borders_of_the_mean_color():
    frame = make_picture("rgb24", 40, 10, fill=255)
    batch = preprocess(frame, resize="letterbox", dtype="uint8", mean=[0.5, 0.25, 0.125])
    assert batch[0, :, 0, 0].tolist() == [128, 64, 32]
    assert batch[0, :, 4, 4].tolist() == [255, 255, 255]


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", ODD_SIZES)
def test_pictures_of_a_batch_do_not_mix_and_are_not_changed(pixel_format, size):
    frames = [make_picture(pixel_format, *size, seed=seed) for seed in range(4)]
    batch = preprocess(*frames)
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(batch[index], preprocess(frame)[0])
        untouched = make_picture(pixel_format, *size, seed=index)
        for plane, before in zip(frame.planes, untouched.planes, strict=True):
            np.testing.assert_array_equal(plane, before)


def test_a_smaller_batch_after_a_larger_one():
    step = Preprocess(make_spec().input)
    step([make_picture("rgb24", 8, 8, fill=10)] * 3)
    batch = step([make_picture("rgb24", 8, 8, fill=20)] * 2)
    assert len(batch) == 2
    np.testing.assert_allclose(batch, 20 / 255, atol=1e-6)
