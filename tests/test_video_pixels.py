"""What is drawn, to the pixel: x264 runs lossless here, so values can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import clips
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from clips import SIZE_WH, Recipe, Shown
from jobs import segment

WIDTH, HEIGHT = SIZE_WH
# '#ff0000' and '#ffffff', '#000000' as (Y, Cb, Cr), worked out by hand from the recommendations' equations
RED = {
    ("bt601", "limited"): (81, 90, 240),
    ("bt601", "full"): (76, 85, 255),
    ("bt709", "limited"): (63, 102, 240),
    ("bt709", "full"): (54, 99, 255),
    ("bt2020", "limited"): (74, 97, 240),
}
GREEN_SCREEN = {"limited": (111, 105, 58), "full": (111, 101, 49)}  # '#00b140' in BT.601

Mask = npt.NDArray[np.bool_]


def _pairs(source: Path, target: Path) -> Iterator[tuple[Shown, Shown, Mask]]:
    """Decoded input, decoded output, and where the box is."""
    before, after = clips.read_clip(source), clips.read_clip(target)
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        assert one.seconds == other.seconds
        yield one, other, clips.box_mask(one.number, *one.planes[0].shape[::-1])


def _quads(mask: Mask) -> npt.NDArray[np.int_]:
    """How many of a chroma sample's four pixels are in a mask; an odd last row or column counts twice."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, height % 2), (0, width % 2)), mode="edge")
    return padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).sum(axis=(1, 3))


def _planes_masks(touched: Mask) -> list[Mask]:
    """For each plane, which values may differ from the input's if only `touched` pixels may."""
    covered = _quads(touched) == 4
    return [touched, covered, covered]


def _assert_untouched(before: Shown, after: Shown, touched: Mask) -> None:
    for plane, drawn, mask in zip(before.planes, after.planes, _planes_masks(touched), strict=True):
        np.testing.assert_array_equal(drawn[~mask], plane[~mask])


@pytest.fixture(params=["yuv420p", "yuvj420p"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return clips.write_clip(tmp_path / f"{request.param}.mp4", frames=12, crf=0, pixel_format=request.param)


def _range_of(clip: Path) -> str:
    return "full" if clip.stem == "yuvj420p" else "limited"


def test_blend_mixes_the_colour_in_and_touches_nothing_else(clip: Path, tmp_path: Path, bright: Path) -> None:
    target = tmp_path / "out.mp4"
    segment(clip, target, bright, alpha=0.25)
    red = RED["bt601", _range_of(clip)]
    for before, after, box in _pairs(clip, target):
        assert after.pixel_format == before.pixel_format
        _assert_untouched(before, after, box)
        for plane, drawn, mask, code in zip(before.planes, after.planes, _planes_masks(box), red, strict=True):
            mixed = np.rint(0.75 * plane[mask] + 0.25 * code)
            np.testing.assert_array_equal(drawn[mask], mixed)


def test_contour_draws_inside_the_border_of_a_class_only(clip: Path, tmp_path: Path, bright: Path) -> None:
    target = tmp_path / "out.mp4"
    segment(clip, target, bright, style="contour")
    thickness = 2
    red = RED["bt601", _range_of(clip)]
    for before, after, box in _pairs(clip, target):
        kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
        line = box & ~cv2.erode(box.astype(np.uint8), kernel, borderValue=0).astype(bool)
        np.testing.assert_array_equal(after.planes[0][line], red[0])
        np.testing.assert_array_equal(after.planes[0][~line], before.planes[0][~line])
        _assert_untouched(before, after, box)
        assert (after.planes[2][_quads(line) == 4] == red[2]).all()


def test_cutout_keeps_the_class_and_nothing_else(clip: Path, tmp_path: Path, bright: Path) -> None:
    target = tmp_path / "out.mp4"
    segment(clip, target, bright, style="cutout")
    codes = GREEN_SCREEN[_range_of(clip)]
    for before, after, box in _pairs(clip, target):
        _assert_untouched(before, after, ~box)
        for drawn, mask, code in zip(after.planes, _planes_masks(~box), codes, strict=True):
            np.testing.assert_array_equal(drawn[mask], code)


def test_blur_keeps_the_class_sharp(clip: Path, tmp_path: Path, bright: Path) -> None:
    target = tmp_path / "out.mp4"
    segment(clip, target, bright, style="blur")
    for before, after, box in _pairs(clip, target):
        _assert_untouched(before, after, ~box)
        far = ~cv2.dilate(box.astype(np.uint8), np.ones((31, 31), np.uint8)).astype(bool)
        far[: HEIGHT // 3] = False  # below the blocks of the number
        steps = [np.abs(np.diff(shown.planes[0].astype(int), axis=1))[far[:, 1:]].mean() for shown in (before, after)]
        assert steps[1] < steps[0] / 3
        assert abs(after.planes[0][far].mean() - before.planes[0][far].mean()) < 4


def test_sidebyside_has_the_input_left_and_the_blend_right(clip: Path, tmp_path: Path, bright: Path) -> None:
    target, blend = tmp_path / "out.mp4", tmp_path / "blend.mp4"
    segment(clip, target, bright, style="sidebyside")
    segment(clip, blend, bright)
    for before, after, drawn in zip(*map(clips.read_clip, (clip, target, blend)), strict=True):
        for plane, both, right in zip(before.planes, after.planes, drawn.planes, strict=True):
            np.testing.assert_array_equal(both, np.concatenate([plane, right], axis=1))


def test_mask_output_of_one_class_is_white_on_black(clip: Path, tmp_path: Path, bright: Path) -> None:
    target = tmp_path / "out.mp4"
    segment(clip, target, bright, output="mask")
    black, white = (0, 255) if _range_of(clip) == "full" else (16, 235)
    for _, after, box in _pairs(clip, target):
        np.testing.assert_array_equal(after.planes[0], np.where(box, white, black))
        assert (after.planes[1] == 128).all()
        assert (after.planes[2] == 128).all()


def test_mask_output_of_several_classes_has_their_colours(tmp_path: Path, networks: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3, crf=0)
    segment(source, tmp_path / "out.mp4", networks / "three.onnx", output="mask")
    for before, after, box in _pairs(source, tmp_path / "out.mp4"):
        middle = (before.planes[0] > 70) & ~box
        expected = np.select([box, middle], [145, 41], 16)  # green, blue, black
        np.testing.assert_array_equal(after.planes[0], expected)


@pytest.mark.parametrize(
    ("fields", "matrix", "value_range"),
    [
        ({}, "bt601", "limited"),
        ({"matrix": "smpte170m"}, "bt601", "limited"),
        ({"matrix": "bt470bg", "value_range": "full"}, "bt601", "full"),
        ({"matrix": "bt709", "value_range": "limited"}, "bt709", "limited"),
        ({"matrix": "bt709", "value_range": "full"}, "bt709", "full"),
        ({"matrix": "bt709", "pixel_format": "yuvj420p"}, "bt709", "full"),
        ({"matrix": "bt2020nc"}, "bt2020", "limited"),
        ({"size_wh": (1280, 720), "frames": 2}, "bt709", "limited"),
        ({"size_wh": (1280, 720), "frames": 2, "matrix": "smpte170m"}, "bt601", "limited"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_colours_follow_the_streams_matrix_and_range(
    fields: dict[str, object], matrix: str, value_range: str, tmp_path: Path, bright: Path
) -> None:
    """Red stays red: an untagged stream is BT.601, or BT.709 from 720 lines on, as players have it."""
    source = clips.write_clip(tmp_path / "in.mp4", Recipe(frames=6, crf=0), **fields)
    segment(source, tmp_path / "out.mp4", bright, alpha=1.0)
    for before, after, box in _pairs(source, tmp_path / "out.mp4"):
        height, width = before.planes[0].shape
        inner = cv2.erode(box.astype(np.uint8), np.ones((2 * height // 45 + 1,) * 2, np.uint8)).astype(bool)
        assert inner.sum() > 0.5 * box.sum()  # the network's input is smaller than the 720 lines
        covered = _quads(inner) == 4
        found = [np.unique(plane[mask]).tolist() for plane, mask in zip(after.planes, [inner, covered, covered],
                                                                        strict=True)]  # fmt: skip
        assert found == [[code] for code in RED[matrix, value_range]], (width, height)


def test_the_network_sees_the_colours_of_the_stream(tmp_path: Path) -> None:
    """A network of thresholds on pure red: fed with the wrong matrix or range it would not see any."""
    model = clips.red_model(tmp_path / "red.onnx")
    for name, (y, cb, cr) in RED.items():
        matrix, value_range = name
        tag = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}[matrix]
        source = tmp_path / f"{matrix}-{value_range}.mp4"
        clips.write_flat(source, (y, cb, cr), Recipe(frames=2, crf=0, matrix=tag, value_range=value_range))
        segment(source, tmp_path / "out.mp4", model, output="mask")
        white = 255 if value_range == "full" else 235
        assert all((shown.planes[0] == white).all() for shown in clips.read_clip(tmp_path / "out.mp4")), name


CONVERTED = ["yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray", "yuv440p", "bgra"]


@pytest.mark.parametrize("pixel_format", CONVERTED)
def test_other_formats_are_drawn_after_the_documented_conversion(
    pixel_format: str, tmp_path: Path, bright: Path
) -> None:
    codec = "libx264" if pixel_format.startswith("yuv4") and pixel_format != "yuv440p" else "ffv1"
    source = clips.write_clip(
        tmp_path / "in.mkv", frames=4, crf=0, pixel_format=pixel_format, codec=codec, options=(("qp", "0"),),
        time_base=Fraction(1, 1000), pts=range(0, 160, 40),
    )  # fmt: skip
    segment(source, tmp_path / "out.mkv", bright)
    with av.open(str(source)) as container:
        expected = [frame.reformat(format="yuv420p") for frame in container.decode(video=0)]
    drawn = clips.read_clip(tmp_path / "out.mkv")
    assert len(drawn) == len(expected) == 4
    for number, (after, reference) in enumerate(zip(drawn, expected, strict=True)):
        assert after.pixel_format == "yuv420p"
        masks = _planes_masks(clips.box_mask(number, WIDTH, HEIGHT))
        for plane, drawn_plane, mask in zip(reference.planes, after.planes, masks, strict=True):
            before = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
            difference = np.abs(drawn_plane.astype(int) - before)
            # this FFmpeg and BMF's are years apart and round differently
            assert difference[~mask].max() <= (5 if "444" in pixel_format else 2)
            assert difference[~mask].mean() < 0.6
            assert difference[mask].mean() > 3


@pytest.mark.parametrize("pixel_format", ["yuv422p", "yuv444p"])
def test_conversion_of_8_bits_keeps_luma(pixel_format: str, tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=4, crf=0, pixel_format=pixel_format)
    segment(source, tmp_path / "out.mp4", bright)
    for before, after, box in _pairs(source, tmp_path / "out.mp4"):
        np.testing.assert_array_equal(after.planes[0][~box], before.planes[0][~box])


@pytest.mark.parametrize(
    ("pixel_format", "value_range", "becomes"),
    [
        ("yuv444p", "limited", "limited"),
        ("yuv420p10le", "limited", "limited"),
        ("yuv420p10le", "full", "full"),
        ("yuv444p", "full", "full"),
        ("yuv422p", "full", "full"),
    ],
)
def test_range_after_conversion(
    pixel_format: str, value_range: str, becomes: str, tmp_path: Path, bright: Path
) -> None:
    source = clips.write_clip(
        tmp_path / "in.mp4", frames=2, crf=0, pixel_format=pixel_format, matrix="bt709", value_range=value_range
    )
    segment(source, tmp_path / "out.mp4", bright, alpha=1.0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        (frame, _) = container.decode(video=0)
    assert int(frame.color_range) == {"limited": 1, "full": 2}[becomes]
    shown = clips.read_clip(tmp_path / "out.mp4")[0]
    assert (shown.planes[0][clips.box(0, WIDTH, HEIGHT)] == RED["bt709", becomes][0]).all()
    block = shown.planes[0][2 : HEIGHT // 5, 2:14]  # of bit 0, which is 30 in the clip
    expected = 30 if becomes == value_range else 16 + 30 * 219 / 255
    assert abs(float(block.mean()) - expected) <= 1


@pytest.mark.parametrize("size_wh", [(161, 90), (160, 91), (161, 91)])
@pytest.mark.parametrize("style", ["blend", "contour", "cutout", "blur", "sidebyside"])
def test_odd_sizes_come_out_even_by_one_repeated_row_or_column(
    size_wh: tuple[int, int], style: str, tmp_path: Path
) -> None:
    width, height = size_wh
    source = clips.write_clip(
        tmp_path / "in.mkv", frames=4, codec="ffv1", size_wh=size_wh, time_base=Fraction(1, 1000), pts=range(0, 160, 40)
    )
    model = clips.bright_model(tmp_path / "bright.onnx", size_wh)
    segment(source, tmp_path / "out.mkv", model, style=style)
    for before, after, box in _pairs(source, tmp_path / "out.mkv"):
        planes = after.planes
        if style == "sidebyside":  # a test of its own
            planes = tuple(plane[:, : plane.shape[1] // 2] for plane in planes)
        assert planes[0].shape == (height + height % 2, width + width % 2)
        touched = ~box if style in {"cutout", "blur"} else box
        for plane, drawn, mask in zip(before.planes, planes, _planes_masks(touched), strict=True):
            rows, columns = plane.shape
            np.testing.assert_array_equal(drawn[:rows, :columns][~mask], plane[~mask])
        if style != "sidebyside":
            assert (planes[0][:height, :width] != before.planes[0]).any()
        edge = np.pad(planes[0][:height, :width], ((0, height % 2), (0, width % 2)), mode="edge")
        np.testing.assert_array_equal(planes[0], edge)


def test_odd_clips_of_x264_work_too(tmp_path: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=4, crf=0, size_wh=(161, 91), pixel_format="yuv444p")
    model = clips.bright_model(tmp_path / "bright.onnx", (161, 91))
    segment(source, tmp_path / "out.mp4", model)
    for before, after in zip(*map(clips.read_clip, (source, tmp_path / "out.mp4")), strict=True):
        box = clips.box_mask(before.number, 161, 91)
        np.testing.assert_array_equal(after.planes[0][:91, :161][~box], before.planes[0][~box])


def test_interval_holds_the_mask_between(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=11, crf=0)
    segment(source, tmp_path / "out.mp4", bright, interval=4, output="mask")
    for before, after, _ in _pairs(source, tmp_path / "out.mp4"):
        held = clips.box_mask(before.number // 4 * 4, WIDTH, HEIGHT)
        np.testing.assert_array_equal(after.planes[0] == 235, held)


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": 3, "interval": 2}, {"batch_size": 200}])
@pytest.mark.parametrize("network", ["bright", "fixed"])
def test_batches_give_what_single_frames_give(
    network: str, options: dict[str, int], tmp_path: Path, networks: Path
) -> None:
    """11 frames: three batches of three and a last one of two; 'fixed' takes batches of two only."""
    model = networks / "bright.onnx" if network == "bright" else clips.bright_model(tmp_path / "fixed.onnx", batch=2)
    source = clips.write_clip(tmp_path / "in.mp4", frames=11, crf=0)
    segment(source, tmp_path / "out.mp4", model, output="mask", **options)
    for before, after, _ in _pairs(source, tmp_path / "out.mp4"):
        step = options.get("interval", 1)
        expected = clips.box_mask(before.number // step * step, WIDTH, HEIGHT)
        np.testing.assert_array_equal(after.planes[0] == 235, expected)


def test_smoothing_averages_scores_over_time(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=10, crf=0)
    segment(source, tmp_path / "out.mp4", bright, output="mask", smoothing=0.5, threshold=0.7, batch_size=4)
    smoothed = None
    differs = 0
    for before, after, box in _pairs(source, tmp_path / "out.mp4"):
        fresh = (before.planes[0].astype(float) - 16) / 219
        smoothed = fresh if smoothed is None else 0.5 * smoothed + 0.5 * fresh
        sure = np.abs(smoothed - 0.7) > 0.03  # colours that R'G'B' cannot hold are clipped
        np.testing.assert_array_equal((after.planes[0] == 235)[sure], (smoothed > 0.7)[sure])
        differs += int(((smoothed > 0.7) != box).sum())
    assert differs > 100, "the test should see a difference"


@pytest.mark.parametrize("chosen", [["light"], ["2"], [2], "light", "light, 2"])
def test_only_the_classes_asked_for_are_drawn(chosen: object, tmp_path: Path, networks: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3, crf=0)
    segment(source, tmp_path / "out.mp4", networks / "three.onnx", classes=chosen, alpha=1.0)
    for before, after, box in _pairs(source, tmp_path / "out.mp4"):
        _assert_untouched(before, after, box)
        assert (after.planes[0][box] == 145).all()  # '#00ff00' in BT.601


def test_the_background_can_be_asked_for(tmp_path: Path, networks: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3, crf=0)
    segment(source, tmp_path / "out.mp4", networks / "index.onnx", classes=["around"], output="mask")
    for _, after, box in _pairs(source, tmp_path / "out.mp4"):
        np.testing.assert_array_equal(after.planes[0] == 235, ~box)


def test_index_networks_work(tmp_path: Path, networks: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3, crf=0)
    segment(source, tmp_path / "out.mp4", networks / "index.onnx", output="mask", batch_size=2)
    for _, after, box in _pairs(source, tmp_path / "out.mp4"):
        np.testing.assert_array_equal(after.planes[0] == 235, box)


def test_palette_by_name_and_by_list(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=2, crf=0)
    for palette in ({"box": "#00ff00"}, ["#000000", "#00FF00"], "box=#00ff00"):
        segment(source, tmp_path / "out.mp4", bright, palette=palette, alpha=1.0)
        for _, after, box in _pairs(source, tmp_path / "out.mp4"):
            assert (after.planes[0][box] == 145).all(), palette


def test_legend_stays_in_its_corner(tmp_path: Path, networks: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3, size_wh=(320, 180), crf=0)
    model = clips.bright_model(tmp_path / "bright.onnx", (320, 180))
    segment(source, tmp_path / "out.mp4", model, legend=True, alpha=0.0)
    for before, after, _ in _pairs(source, tmp_path / "out.mp4"):
        changed = np.argwhere(after.planes[0] != before.planes[0])
        assert len(changed) > 100
        assert changed.max(axis=0)[0] < 40
        assert changed.max(axis=0)[1] < 100
        np.testing.assert_array_equal(after.planes[1][30:], before.planes[1][30:])


def test_source_file_is_left_as_it_was(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=4)
    content = source.read_bytes()
    segment(source, tmp_path / "out.mp4", bright)
    assert source.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize("value_range", ["limited", "full"])
@pytest.mark.parametrize("pixel_format", ["yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv420p10le"])
def test_a_conversion_leaves_a_flat_colour_as_it_is(
    pixel_format: str, value_range: str, tmp_path: Path, bright: Path
) -> None:
    """FFV1 keeps the tag beside the format, so that a converter may overlook it."""
    y, cb, cr = 60, 120, 140
    scale = 4 if "10" in pixel_format else 1

    def flat(_number: int, width: int, height: int, _format: str) -> av.VideoFrame:
        frame = av.VideoFrame(width, height, pixel_format)
        for plane, value in zip(frame.planes, (y, cb, cr), strict=True):
            count = plane.buffer_size // (2 if scale > 1 else 1)
            plane.update(np.full(count, value * scale, np.uint16 if scale > 1 else np.uint8).tobytes())
        return frame

    recipe = Recipe(frames=2, codec="ffv1", pixel_format=pixel_format, value_range=value_range, matrix="bt709")
    source = clips.write_clip(tmp_path / "in.mkv", recipe, draw=flat, time_base=Fraction(1, 1000), pts=[0, 40])
    segment(source, tmp_path / "out.mkv", bright, style="contour")
    for shown in clips.read_clip(tmp_path / "out.mkv"):
        assert [np.unique(plane).tolist() for plane in shown.planes] == [[y], [cb], [cr]]
        assert shown.pixel_format == {"limited": "yuv420p", "full": "yuvj420p"}[value_range]
