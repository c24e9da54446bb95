"""The GPU's preprocessing against the CPU's: its kernels' own source, run on the CPU."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_kernels import EmulatedKernels
from factories import FORMATS, make_picture, make_spec

from bmf_trt_seg.frames import FramePlanes, allocate_planes, plane_shapes
from bmf_trt_seg.preprocess import Preprocess
from bmf_trt_seg.preprocess_cuda import CudaPreprocess, _Narrow, _Preprocess, narrowed

HALF_A_LEVEL = 0.5 / 255
UNTOUCHED = 77


def on_device(picture):
    """The same memory as tensors, rows padded as they are."""
    return replace(picture, planes=tuple(torch.from_numpy(plane) for plane in picture.planes))


def aligned(picture):
    """A copy in rows that start at whole words, as those of decoders do."""
    planes = []
    for plane in picture.planes:
        memory = np.zeros((plane.shape[0], plane.shape[1] + -plane.shape[1] % 32, *plane.shape[2:]), np.uint8)
        view = memory[:, : plane.shape[1]]
        view[:] = plane
        planes.append(view)
    return replace(picture, planes=tuple(planes))


def fresh(spec, pictures, kernels=None):
    kernels = kernels or EmulatedKernels()
    spec = spec.input
    size = (spec.height, spec.width)
    shape = (len(pictures) + 1, 3, *size) if spec.layout == "nchw" else (len(pictures) + 1, *size, 3)
    batch = torch.full(shape, UNTOUCHED, dtype=getattr(torch, spec.dtype))
    CudaPreprocess(spec, kernels)([on_device(picture) for picture in pictures], batch, 0)
    assert (batch[-1] == UNTOUCHED).all()
    return batch[:-1].numpy()


def assert_close(spec, *pictures, kernels=None):
    """As on the CPU, but for its rounding to 8 bits after every step; a level of chroma is up to 2.1 of blue."""
    found, expected = fresh(spec, pictures, kernels), Preprocess(spec.input)(pictures)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    unit = HALF_A_LEVEL * (255 if spec.input.dtype == "uint8" else 1)
    difference = np.abs(found.astype(float) - expected.astype(float))
    assert difference.max() <= 9 * unit
    assert difference.mean() <= 3 * unit


def test_structures_are_as_the_compiler_has_them():
    kernels = EmulatedKernels()
    for structure in _Preprocess, _Narrow:
        assert ctypes.sizeof(structure) == kernels.size_of(structure.__name__.strip("_"))


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("arrange", [aligned, lambda picture: picture])
@pytest.mark.parametrize(
    "size_wh",
    [
        (1, 1),
        (2, 2),
        (3, 5),
        (8, 8),
        (16, 12),
        (15, 16),
        (33, 17),
        (40, 18),
        (66, 34),
        (64, 48),
        (35, 67),
        (130, 66),
        (300, 9),
    ],
)
def test_pictures_come_out_as_on_the_cpu(pixel_format, size_wh, arrange):
    assert_close(make_spec(), arrange(make_picture(pixel_format, *size_wh)))


@pytest.mark.parametrize(
    ("size_wh", "name"),
    [
        ((14, 14), "preprocess_nv12_0_0"),
        ((30, 17), "preprocess_nv12_1_0"),
        ((40, 38), "preprocess_nv12_2_1"),
        ((41, 39), "preprocess_nv12_2_1"),
        ((1, 9), "preprocess_any"),
        ((80, 80), "preprocess_any"),
    ],
)
def test_common_sizes_of_aligned_nv12_have_kernels_of_their_own(size_wh, name):
    kernels = EmulatedKernels()
    picture = aligned(make_picture("nv12", *size_wh))
    assert_close(make_spec(), picture, kernels=kernels)
    assert kernels.launched == [name]
    general = FramePlanes("nv12", *size_wh, make_picture("nv12", *size_wh).planes)
    np.testing.assert_allclose(fresh(make_spec(), [picture]), fresh(make_spec(), [general], kernels), atol=1e-5)
    assert kernels.launched[-1] == "preprocess_any"  # five samples of padding make for odd rows


@pytest.mark.parametrize("size_wh", [(192, 108), (100, 100), (500, 300)])
def test_the_mean_of_what_is_halved_is_exact(size_wh):
    """Against float64: halving and resizing are not rounded to 8 bits in between."""
    picture = make_picture("nv12", *size_wh, matrix="bt601", value_range="full")
    planes = [picture.planes[0].astype(float), *np.moveaxis(picture.planes[1].astype(float), 2, 0)]
    resized = []
    for plane in planes:
        while plane.shape[0] >= 96 and plane.shape[1] >= 96:
            high, wide = plane.shape[0] // 2, plane.shape[1] // 2
            plane = plane[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2).mean(axis=(1, 3))
        resized.append(
            torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None], (48, 48), mode="bilinear")[
                0, 0
            ].numpy()
        )
    y, cb, cr = resized[0] / 255, (resized[1] - 128) / 255, (resized[2] - 128) / 255
    red, blue = y + 1.402 * cr, y + 1.772 * cb
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    found = fresh(make_spec(input={"width": 48, "height": 48}), [picture])
    np.testing.assert_allclose(found[0], np.clip([red, green, blue], 0, 1), atol=2e-5)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("value_range", ["limited", "full"])
@pytest.mark.parametrize("size_wh", [(40, 30), (8, 8)])
def test_flat_colours_are_exact(matrix, value_range, size_wh):
    for fill in (0, 16, 90, 128, 235, 255):
        for pixel_format in FORMATS:
            picture = aligned(make_picture(pixel_format, *size_wh, fill=fill, matrix=matrix, value_range=value_range))
            found, expected = fresh(make_spec(), [picture]), Preprocess(make_spec().input)([picture])
            np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channel_order", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("network_wh", [(8, 8), (9, 7), (70, 20)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_layout_order_normalization_and_element_type(layout, channel_order, dtype, network_wh, resize):
    width, height = network_wh
    channels = {"channel_order": channel_order, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}
    spec = make_spec(
        input={"layout": layout, "dtype": dtype, "width": width, "height": height, "resize": resize, **channels}
    )
    pictures = [make_picture("rgb24", width, height, seed=seed) for seed in range(2)]
    found, expected = fresh(spec, pictures), Preprocess(spec.input)(pictures)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=3e-3 if dtype == "float16" else 1e-5)


def test_halves_are_rounded_to_the_nearest():
    spec = make_spec(input={"dtype": "float16", "std": [1e-3, 7.0, 1e6]})  # large, usual and subnormal halves
    picture = make_picture("rgb24", 8, 8)
    exact = fresh(make_spec(input={"std": [1e-3, 7.0, 1e6]}), [picture])
    np.testing.assert_array_equal(fresh(spec, [picture]), exact.astype(np.float16))


@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("size_wh", [(40, 10), (10, 40), (11, 40), (8, 8), (1000, 1)])
def test_letterbox(pixel_format, dtype, size_wh):
    spec = make_spec(input={"resize": "letterbox", "dtype": dtype, "mean": [0.5, 0.25, 0.125]})
    picture = aligned(make_picture(pixel_format, *size_wh))
    assert_close(spec, picture)
    left, top, width, height = spec.input.placement(*size_wh)
    outside = np.ones((8, 8), bool)
    outside[top : top + height, left : left + width] = False
    expected = Preprocess(spec.input)([picture])
    np.testing.assert_array_equal(fresh(spec, [picture])[0][:, outside], expected[0][:, outside])


@pytest.mark.parametrize("count", [1, 3, 32, 33, 70])
def test_pictures_of_a_batch_do_not_mix(count):
    pictures = [aligned(make_picture("nv12", 20, 20, seed=seed)) for seed in range(count)]
    kernels = EmulatedKernels()
    together = fresh(make_spec(), pictures, kernels)
    assert len(kernels.launched) == -(-count // 32)
    np.testing.assert_array_equal(together, np.concatenate([fresh(make_spec(), [picture]) for picture in pictures]))


def test_pictures_of_several_kinds_in_one_batch():
    pictures = [
        make_picture("nv12", 20, 20),
        make_picture("rgb24", 8, 9),
        make_picture("nv12", 20, 20, seed=1),
        make_picture("nv12", 20, 20, seed=1, matrix="bt601"),
        make_picture("yuv420p", 33, 17),
    ]
    kernels = EmulatedKernels()
    assert_close(make_spec(), *pictures, kernels=kernels)
    assert len(kernels.launched) == 4
    together = fresh(make_spec(), pictures)
    np.testing.assert_array_equal(together, np.concatenate([fresh(make_spec(), [picture]) for picture in pictures]))


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_blocks_of_several_threads_do_the_same(pixel_format):
    spec = make_spec(input={"width": 70, "height": 20, "dtype": "float16"})
    pictures = [aligned(make_picture(pixel_format, 150, 50, seed=seed)) for seed in range(2)]
    np.testing.assert_array_equal(fresh(spec, pictures, EmulatedKernels(threads=5)), fresh(spec, pictures))


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_planes_are_not_changed(pixel_format):
    picture = make_picture(pixel_format, 20, 20)
    before = [plane.copy() for plane in picture.planes]
    fresh(make_spec(), [picture])
    for plane, kept in zip(picture.planes, before, strict=True):
        np.testing.assert_array_equal(plane, kept)


# ---------------------------------------------------------------------------------------------------------------- p010


def p010(width, height, padding, codes):
    planes = []
    for shape in plane_shapes("nv12", width, height):
        memory = np.resize(codes.astype(np.uint16) << 6, (shape[0], shape[1] + padding, *shape[2:]))
        planes.append(memory[:, : shape[1]])
    return FramePlanes("nv12", width, height, tuple(planes))


@pytest.mark.parametrize("padding", [0, 3, 8])
@pytest.mark.parametrize("size_wh", [(64, 18), (33, 17), (1, 1), (1200, 9)])
def test_ten_bits_are_rounded_to_eight(size_wh, padding):
    source = p010(*size_wh, padding, np.random.default_rng(0).permutation(1024))
    expected = [np.minimum((plane.astype(int) / 256 + 0.5).astype(int), 255) for plane in source.planes]
    target = allocate_planes(source, *size_wh)
    tensors = replace(source, planes=tuple(torch.from_numpy(plane.view(np.int16)) for plane in source.planes))
    before = [plane.copy() for plane in source.planes]
    narrowed(tensors, on_device(target), EmulatedKernels(), 0)
    for plane, want, given, kept in zip(target.planes, expected, source.planes, before, strict=True):
        np.testing.assert_array_equal(plane, want)
        np.testing.assert_array_equal(given, kept)


def test_rounding_to_eight_bits_saturates():
    source = p010(8, 2, 0, np.array([0, 1, 2, 511, 512, 1021, 1022, 1023]))
    target = allocate_planes(source, 8, 2)
    tensors = replace(source, planes=tuple(torch.from_numpy(plane.view(np.int16)) for plane in source.planes))
    narrowed(tensors, on_device(target), EmulatedKernels(), 0)
    assert target.planes[0][0].tolist() == [0, 0, 1, 128, 128, 255, 255, 255]
