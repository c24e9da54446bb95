"""Pictures to calibrate on: which ones, in which batches, and when they are the same."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from factories import save_onnx
from PIL import Image

from bmf_trt_seg.calibration_frames import calibration_data
from bmf_trt_seg.engine.calibration import CalibrationData
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.spec import InputSpec

WIDTH, HEIGHT = clips.SIZE_WH
PLAIN = InputSpec(height=HEIGHT, width=WIDTH)


def _spec(**values: Any) -> InputSpec:
    return InputSpec.model_validate({"height": HEIGHT, "width": WIDTH, **values})


def _number(picture: npt.NDArray[np.generic]) -> int:
    """The number that a frame carries, from its R'G'B' (3, H, W), 0 to 1; back in limited range."""
    bright = np.tensordot(np.array([0.299, 0.587, 0.114]), picture.astype(float), 1)
    return clips.number_of((16 + 219 * bright).astype(np.uint8))


def _batches(data: CalibrationData, size: int) -> list[npt.NDArray[np.generic]]:
    found = [batch.copy() for batch in data.batches(size)]  # valid until the next one
    assert all(len(batch) == size for batch in found)
    return found


def _numbers(source: Path, count: int, size: int = 1) -> list[int]:
    return [_number(picture) for batch in _batches(calibration_data(source, PLAIN, count), size) for picture in batch]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, with B-frames."""
    return clips.write_clip(tmp_path_factory.mktemp("calibration") / "clip.mp4", frames=60, b_frames=2)


def _pictures(folder: Path, values: list[int], ending: str = "png") -> Path:
    """Pictures of one value each, so that its place tells which one it is; all of them of the same size."""
    folder.mkdir()
    for index, value in enumerate(values):
        Image.new("RGB", (20, 10), (value, value, value)).save(folder / f"{index:03d}.{ending}")
    return folder


def _values(source: Path, count: int, size: int = 1) -> list[int]:
    spec = InputSpec(height=4, width=4)
    batches = _batches(calibration_data(source, spec, count), size)
    return [round(float(picture.mean()) * 255) for batch in batches for picture in batch]


# --- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 6, 20, 30, 60])
def test_frames_are_spread_evenly(count: int, clip: Path) -> None:
    assert _numbers(clip, count) == list(range(0, 60, 60 // count))


@pytest.mark.parametrize("count", [7, 25, 31, 40, 59])
def test_frames_reach_the_end_of_the_video(count: int, clip: Path) -> None:
    """The first 40 of 60 are not spread over the video."""
    numbers = _numbers(clip, count)
    assert len(numbers) == count
    assert numbers == sorted(set(numbers))
    gaps = np.diff([*numbers, 60])
    assert gaps.max() <= 60 // count + 1


@pytest.mark.parametrize("count", [61, 100, 100_000])
def test_more_than_there_are(count: int, clip: Path) -> None:
    assert _numbers(clip, count) == list(range(60))


def test_container_that_does_not_tell_its_frames(clip: Path, tmp_path: Path) -> None:
    source = clips.write_clip(tmp_path / "clip.mkv", frames=60)
    assert _numbers(source, 6) == [0, 10, 20, 30, 40, 50]


def test_number_by_default(tmp_path: Path) -> None:
    source = clips.write_clip(tmp_path / "long.mp4", frames=256, size_wh=(160, 90))
    batches = _batches(calibration_data(source, PLAIN), 4)
    assert len(batches) == 32
    assert [_number(picture) for batch in batches for picture in batch] == list(range(0, 256, 2))


@pytest.mark.parametrize(("size", "expected"), [(1, 6), (2, 6), (3, 6), (4, 4), (5, 5), (6, 6)])
def test_batches_are_full(size: int, expected: int, clip: Path) -> None:
    """The last few frames do not matter."""
    assert _numbers(clip, 6, size) == [0, 10, 20, 30, 40, 50][:expected]


@pytest.mark.parametrize("size", [7, 16])
def test_first_batch_is_filled_up(size: int, clip: Path) -> None:
    assert _numbers(clip, 6, size) == [0, 10, 20, 30, 40, 50] + [50] * (size - 6)


def test_batches_can_be_had_again(clip: Path) -> None:
    data = calibration_data(clip, PLAIN, 6)
    first, second = _batches(data, 2), _batches(data, 2)
    assert len(first) == len(second) == 3
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_decoded_before_it_is_wanted(clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    shutil.copy(clip, source)
    data = calibration_data(source, PLAIN, 6)
    source.unlink()
    with pytest.raises(StreamError, match=r"clip\.mp4"):
        next(data.batches(1))


# --- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize(("layout", "shape"), [("nchw", (2, 3, 24, 40)), ("nhwc", (2, 24, 40, 3))])
def test_shape_and_type_are_those_of_the_description(
    dtype: str, layout: str, shape: tuple[int, ...], clip: Path
) -> None:
    spec = _spec(height=24, width=40, dtype=dtype, layout=layout)
    (batch,) = _batches(calibration_data(clip, spec, 2), 2)
    assert (batch.shape, batch.dtype) == (shape, np.dtype(dtype))
    assert batch.flags.c_contiguous


def test_pictures_are_prepared_as_the_network_takes_them(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (10, 10), (255, 51, 0)).save(folder / "red.png")
    spec = _spec(height=4, width=8, mean=(0.5, 0.2, 0.1), std=(0.5, 0.25, 0.1), channel_order="bgr", resize="letterbox")
    (batch,) = _batches(calibration_data(folder, spec, 1), 1)
    np.testing.assert_allclose(batch[0, :, :, 2:6].mean(axis=(1, 2)), [-1.0, 0.0, 9.0], atol=1e-5)  # b, g, r
    np.testing.assert_allclose(batch[0, :, :, :2], 0.0, atol=0.02)  # the mean colour


def test_every_batch_counts(tmp_path: Path) -> None:
    """They come in the same memory: whoever collects them without a copy would see the last one only."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, most in enumerate((256, 26, 26)):
        Image.fromarray(rng.integers(0, most, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    model = save_onnx(tmp_path / "net.onnx", np.ones((1, 3, 3, 3), np.float32), size_hw=(32, 32))
    data = calibration_data(folder, InputSpec(height=32, width=32), 3)
    quantized = onnx.load_from_string(OnnxNetwork(model).quantized({"input": batch} for batch in data.batches(1)))
    first = next(node for node in quantized.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "input")
    (scale,) = (value for value in quantized.graph.initializer if value.name == first.input[1])
    assert 0.5 < float(onnx.numpy_helper.to_array(scale)) * 127 <= 1.01


def test_video_is_seen_as_a_run_sees_it(tmp_path: Path) -> None:
    """A tag of BT.709 counts: its green in BT.601 would be another one."""
    recipe = clips.Recipe(frames=2, matrix="bt709", size_wh=(32, 16))
    source = clips.write_flat(tmp_path / "green.mp4", (173, 42, 26), recipe)  # R'G'B' 0, 255, 0
    spec = InputSpec(height=4, width=4)
    (batch,) = _batches(calibration_data(source, spec, 1), 1)
    np.testing.assert_allclose(batch[0].mean(axis=(1, 2)), [0.0, 1.0, 0.0], atol=0.02)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_video_stored_on_its_side_is_upright(rotation: int, tmp_path: Path) -> None:
    """Every player turns what is stored counterclockwise by its rotation, and shows the number."""
    upright_wh = 160, 96
    stored_wh = upright_wh if rotation == 180 else upright_wh[::-1]

    def lying(number: int, width: int, height: int, pixel_format: str) -> av.VideoFrame:
        upright = clips.picture(number, *upright_wh, pixel_format).to_ndarray(format="rgb24")
        turned = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
        return av.VideoFrame.from_ndarray(turned, format="rgb24").reformat(format=pixel_format)

    recipe = clips.Recipe(frames=1, numbers=[613], size_wh=stored_wh, rotation=rotation)
    source = clips.write_clip(tmp_path / "lying.mp4", recipe, draw=lying)
    assert [shown.rotation % 360 for shown in clips.read_clip(source)] == [rotation % 360]
    (batch,) = _batches(calibration_data(source, InputSpec(height=96, width=160), 1), 1)
    assert _number(batch[0]) == 613


# --- folders ---------------------------------------------------------------------------------------------------------


def test_pictures_of_a_folder_come_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, value in (("b.png", 20), ("c.bmp", 30), ("a.PNG", 10), ("d.tiff", 40)):
        Image.new("RGB", (6, 6), (value,) * 3).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").touch()
    assert _values(folder, 10) == [10, 20, 30, 40]
    assert _values(folder, 10, size=4) == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 50]), (4, [0, 20, 50, 70]), (9, [0, 10, 20, 30, 40, 50, 60, 70, 80]), (10, None), (11, None)],
)
def test_pictures_are_spread_evenly(count: int, expected: list[int] | None, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "pictures", list(range(0, 100, 10)))
    assert _values(folder, count) == (list(range(0, 100, 10)) if expected is None else expected)


def test_pictures_may_differ_in_size_and_kind(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("L", (7, 3), 100).save(folder / "a.png")
    Image.new("RGBA", (300, 2), (100, 100, 100, 0)).save(folder / "b.png")
    Image.new("RGB", (1, 1), (100, 100, 100)).save(folder / "c.webp", lossless=True)
    assert _values(folder, 3, size=3) == [100, 100, 100]


def test_picture_as_the_source(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "pictures", [70])
    assert [abs(value - 70) <= 1 for value in _values(folder / "000.png", 8)] == [True]


def test_picture_that_is_spoilt(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "pictures", [10, 20, 30])
    (folder / "001.png").write_text("no picture")
    batches = calibration_data(folder, PLAIN, 8).batches(1)
    next(batches)
    with pytest.raises(StreamError, match=r"^'.*001\.png' is no picture$"):
        next(batches)


def test_folder_named_as_a_picture(tmp_path: Path) -> None:
    """What ends in .png and is a folder is no picture, and no reason to stop."""
    folder = _pictures(tmp_path / "pictures", [10, 20])
    (folder / "more.png").mkdir()
    assert _values(folder, 8) == [10, 20]


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").touch()
    with pytest.raises(ConfigError, match=r"folder' has no pictures to calibrate on; pictures end in \.bmp"):
        calibration_data(tmp_path / "folder", PLAIN)
    with pytest.raises(StreamError, match="does not exist"):
        calibration_data(tmp_path / "nosuch", PLAIN)
    with pytest.raises(StreamError, match="is no video that FFmpeg can read"):
        calibration_data(clips.text_file(tmp_path / "text.mp4"), PLAIN)


# --- identity --------------------------------------------------------------------------------------------------------


def _identity(source: Path, count: int = 4) -> str:
    return calibration_data(source, PLAIN, count).identity


def test_identity_of_a_video(clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    shutil.copy2(clip, source)
    first = _identity(source)
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert _identity(source) == first
    assert _identity(source, 5) != first
    clips.write_clip(source, frames=61)
    assert _identity(source) != first


def test_identity_is_the_same_elsewhere(clip: Path, tmp_path: Path) -> None:
    """Another path to the same pictures means the same calibration; where they were is told beside it."""
    source = tmp_path / clip.name
    shutil.copy2(clip, source)
    here, there = calibration_data(source, PLAIN, 4), calibration_data(clip, PLAIN, 4)
    assert here.identity == there.identity
    assert (here.source, here.count) == (str(source), 4)
    assert (there.source, there.count) == (str(clip), 4)


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"height": 24},
        {"channel_order": "bgr"},
        {"resize": "letterbox"},
        {"layout": "nhwc"},
        {"dtype": "float16"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_identity_changes_with_how_pictures_are_prepared(values: dict[str, Any], clip: Path) -> None:
    first = calibration_data(clip, _spec(), 4).identity
    assert calibration_data(clip, _spec(), 4).identity == first
    assert calibration_data(clip, _spec(**values), 4).identity != first


def test_identity_changes_when_a_video_is_replaced(tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    clips.write_clip(source, frames=5)
    os.utime(source, ns=(10**18, 10**18))
    first = _identity(source)
    os.utime(source, ns=(10**18, 10**18 + 10**6))
    assert _identity(source) != first
    clips.write_clip(source, frames=6)  # or by another one that is as old
    os.utime(source, ns=(10**18, 10**18))
    assert _identity(source) != first


def test_identity_of_a_folder(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "pictures", [10, 20, 30])
    first = _identity(folder)
    (folder / "notes.txt").write_text("no picture")
    assert _identity(folder) == first
    Image.new("RGB", (20, 10), (99, 0, 0)).save(folder / "001.png")
    second = _identity(folder)
    assert second != first
    Image.new("RGB", (20, 10), (99, 0, 0)).save(folder / "003.png")
    assert _identity(folder) != second


def test_identity_changes_with_any_picture(tmp_path: Path) -> None:
    """Uncompressed pictures are all as large, and a file that is moved here keeps its time."""
    folder = _pictures(tmp_path / "pictures", [10, 20, 30], "bmp")
    for number, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (1000 + number, 1000 + number))
    first = _identity(folder)
    Image.new("RGB", (20, 10), (99, 0, 0)).save(folder / "000.bmp")
    os.utime(folder / "000.bmp", (500, 500))
    assert _identity(folder) != first
