"""BMF's frames as planes: views where that is possible, the documented conversion elsewhere."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import bmf.hmp as hmp
import clips
import numpy as np
import pytest
from bmf import VideoFrame
from bmf.lib._bmf.sdk import Rational, ffmpeg

from bmf_trt_seg.bmf_frames import new_picture, picture_of
from bmf_trt_seg.colors import rgb_to_ycbcr
from bmf_trt_seg.errors import FrameError


def make_frame(
    pixel_format: Any,
    size_wh: tuple[int, int] = (16, 8),
    space: Any = hmp.kCS_BT470BG,
    value_range: Any = hmp.kCR_MPEG,
) -> VideoFrame:
    """A frame with a pattern in each plane, pts 7 in units of 1/25 s."""
    frame = VideoFrame(hmp.Frame(*size_wh, hmp.PixelInfo(pixel_format, space, value_range)))
    for index in range(frame.frame().nplanes()):
        plane = frame.frame().plane(index).numpy()
        plane[...] = (np.arange(plane.size).reshape(plane.shape) * 3 + 50 * index) % 200 + 20
    frame.pts, frame.time_base = 7, Rational(1, 25)
    return frame


def arrays(frame: VideoFrame) -> list[clips.Plane]:
    return [frame.frame().plane(index).numpy() for index in range(frame.frame().nplanes())]


@pytest.mark.parametrize(("pixel_format", "name"), [(hmp.kPF_YUV420P, "yuv420p"), (hmp.kPF_NV12, "nv12")])
def test_planes_are_views_of_the_frame(pixel_format: Any, name: str) -> None:
    frame = make_frame(pixel_format)
    picture = picture_of(frame)
    assert picture.planes.pixel_format == name
    for view, plane in zip(picture.planes.planes, arrays(frame), strict=True):
        np.testing.assert_array_equal(view.reshape(plane.shape), plane)
        view[0, 0] = 255
        assert (plane[0, 0] == 255).all(), "a copy was made"


@pytest.mark.parametrize(
    ("space", "height", "matrix"),
    [
        (hmp.kCS_BT709, 8, "bt709"),
        (hmp.kCS_SMPTE240M, 8, "bt709"),
        (hmp.kCS_BT470BG, 1080, "bt601"),
        (hmp.kCS_SMPTE170M, 8, "bt601"),
        (hmp.kCS_FCC, 8, "bt601"),
        (hmp.kCS_BT2020_NCL, 8, "bt2020"),
        (hmp.kCS_BT2020_CL, 8, "bt2020"),
        (hmp.kCS_UNSPECIFIED, 718, "bt601"),
        (hmp.kCS_UNSPECIFIED, 720, "bt709"),
    ],
)
def test_matrix_by_tag_or_by_height(space: Any, height: int, matrix: str) -> None:
    assert picture_of(make_frame(hmp.kPF_YUV420P, (16, height), space)).planes.matrix == matrix


@pytest.mark.parametrize(
    ("value_range", "expected"),
    [(hmp.kCR_MPEG, "limited"), (hmp.kCR_JPEG, "full"), (hmp.kCR_UNSPECIFIED, "limited")],
)
def test_range_by_tag(value_range: Any, expected: str) -> None:
    assert picture_of(make_frame(hmp.kPF_YUV420P, value_range=value_range)).planes.value_range == expected


@pytest.mark.parametrize("pixel_format", [hmp.kPF_YUV422P, hmp.kPF_YUV444P])
def test_other_formats_become_yuv420p_by_swscale(pixel_format: Any) -> None:
    frame = make_frame(pixel_format, (32, 16))
    picture = picture_of(frame)
    reference = ffmpeg.reformat(frame, "yuv420p")
    assert picture.planes.pixel_format == "yuv420p"
    for plane, expected in zip(picture.planes.planes, arrays(reference), strict=True):
        np.testing.assert_array_equal(plane, expected[..., 0])
    np.testing.assert_array_equal(picture.planes.planes[0], arrays(frame)[0][..., 0])
    assert picture.frame.pts == 7
    assert (picture.frame.time_base.num, picture.frame.time_base.den) == (1, 25)
    assert picture.planes.matrix == "bt601"


@pytest.mark.parametrize(("space", "size_wh"), [(hmp.kCS_RGB, (16, 8)), (hmp.kCS_UNSPECIFIED, (16, 8)),
                                              (hmp.kCS_BT709, (16, 8)), (hmp.kCS_RGB, (16, 720)),
                                              (hmp.kCS_UNSPECIFIED, (16, 720))])  # fmt: skip
def test_rgb_becomes_limited_ycbcr_of_the_matrix_it_says(space: Any, size_wh: tuple[int, int]) -> None:
    frame = VideoFrame(hmp.Frame(*size_wh, hmp.PixelInfo(hmp.kPF_RGB24, space, hmp.kCR_JPEG)))
    frame.frame().plane(0).numpy()[...] = (255, 0, 0)
    frame.pts, frame.time_base = 0, Rational(1, 25)
    picture = picture_of(frame)
    assert picture.planes.value_range == "limited"
    values = [int(plane.ravel()[0]) for plane in picture.planes.planes]
    expected = rgb_to_ycbcr((255, 0, 0), picture.planes.matrix, "limited")
    assert np.abs(np.array(values) - expected).max() <= 1


@pytest.mark.parametrize("pixel_format", [hmp.kPF_YUV420P, hmp.kPF_NV12])
@pytest.mark.parametrize("value_range", [hmp.kCR_MPEG, hmp.kCR_JPEG])
def test_new_picture_is_like_the_old_one(pixel_format: Any, value_range: Any) -> None:
    source = picture_of(make_frame(pixel_format, value_range=value_range))
    made = new_picture(source, 20, 10)
    assert made.frame.pts == 7
    assert Fraction(made.frame.time_base.num, made.frame.time_base.den) == Fraction(1, 25)
    assert (made.planes.width, made.planes.height) == (20, 10)
    assert made.planes.pixel_format == source.planes.pixel_format
    assert made.planes.matrix == source.planes.matrix
    assert made.planes.value_range == source.planes.value_range
    info = made.frame.frame().pix_info()
    assert (info.space, info.range) == (hmp.kCS_BT470BG, value_range)
    for plane in made.planes.planes:
        plane[...] = 1
    assert all((plane == 1).all() for plane in arrays(made.frame)), "the planes are the frame's own"


def test_chroma_of_odd_sizes_that_bmf_allocated_is_refused() -> None:
    """BMF rounds chroma down where everyone else rounds up: the last column does not exist."""
    with pytest.raises(FrameError, match=r"odd size .* has chroma of \(4, 8\) only"):
        picture_of(make_frame(hmp.kPF_YUV420P, (17, 8)))
