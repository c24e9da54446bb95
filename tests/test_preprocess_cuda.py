"""The GPU's preprocessing against the CPU's. Its operators are PyTorch's: CPU tensors show the same arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from factories import FORMATS, make_picture, make_spec

from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.preprocess_cuda import CudaPreprocess

HALF_A_LEVEL = 0.5 / 255


def on_device(picture):
    return replace(picture, on_device=tuple(torch.from_numpy(plane) for plane in picture.planes))


def both(spec, *pictures):
    batch = CudaPreprocess(spec.input)([on_device(picture) for picture in pictures])
    assert batch.is_contiguous()
    return batch.numpy(), Preprocess(spec.input)(pictures)


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size_wh", [(8, 8), (16, 12), (33, 17), (64, 48), (5, 3)])
def test_pictures_come_out_as_on_the_cpu(pixel_format, size_wh):
    picture = make_picture(pixel_format, *size_wh)
    fresh, expected = both(make_spec(), picture)
    assert (fresh.shape, fresh.dtype) == (expected.shape, expected.dtype)
    # rounding of every step, in the CPU's 8-bit planes; a chroma level is 1.9 levels of blue
    np.testing.assert_allclose(fresh, expected, atol=6 * HALF_A_LEVEL)
    assert np.abs(fresh - expected).mean() < 2 * HALF_A_LEVEL


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("value_range", ["limited", "full"])
def test_flat_colours_are_exact(matrix, value_range):
    for fill in (16, 90, 128, 235):
        picture = make_picture("nv12", 40, 30, fill=fill, matrix=matrix, value_range=value_range)
        fresh, expected = both(make_spec(), picture)
        np.testing.assert_allclose(fresh, expected, atol=1e-6)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
def test_layout_order_and_normalization(layout, channel_order):
    spec = make_spec(
        input={"layout": layout, "channel_order": channel_order, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}
    )
    fresh, expected = both(spec, make_picture("rgb24", 8, 8))
    assert fresh.shape == expected.shape
    np.testing.assert_allclose(fresh, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("size_wh", [(40, 10), (10, 40), (8, 8)])
def test_letterbox_and_element_types(dtype, size_wh):
    spec = make_spec(input={"resize": "letterbox", "dtype": dtype, "mean": [0.5, 0.25, 0.125]})
    fresh, expected = both(spec, make_picture("rgb24", *size_wh))
    assert (fresh.shape, fresh.dtype) == (expected.shape, expected.dtype)
    levels = 2 if dtype == "uint8" else 4 * HALF_A_LEVEL
    assert np.abs(fresh.astype(float) - expected.astype(float)).max() <= levels


def test_pictures_of_a_batch_do_not_mix():
    pictures = [make_picture("yuv420p", 20, 20, seed=seed) for seed in range(3)]
    together, _ = both(make_spec(), *pictures)
    alone = np.concatenate([both(make_spec(), picture)[0] for picture in pictures])
    np.testing.assert_array_equal(together, alone)


def test_planes_are_not_changed():
    picture = make_picture("nv12", 20, 20)
    before = [plane.copy() for plane in picture.planes]
    both(make_spec(), picture)
    for plane, kept in zip(picture.planes, before, strict=True):
        np.testing.assert_array_equal(plane, kept)
