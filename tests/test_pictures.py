"""Pictures in, pictures out."""

from __future__ import annotations

import numpy as np
import pytest
from factories import make_spec, save_onnx
from PIL import Image

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.options import read_options
from bmf_trt_seg.pictures import segment_pictures

NAMES = ["one", "two", "three"]


@pytest.fixture
def model(tmp_path):
    weights = np.array([[[[1.0]], [[0.0]], [[0.0]]]], np.float32)  # the score is the red channel
    return save_onnx(tmp_path / "red.onnx", weights, spec=make_spec(activation="none"))


@pytest.fixture
def run(tmp_path, model):
    """run(names): segment pictures of these names in a folder; gives the errors and the reports."""

    def run(*names, suffix="", **options):
        (tmp_path / "out").mkdir(exist_ok=True)
        jobs = [(tmp_path / name, (tmp_path / "out" / name).with_suffix(suffix or name[-4:])) for name in names]
        reports = []
        errors = segment_pictures(jobs, read_options({"model": str(model), **options}), reports.append)
        return errors, reports

    return run


def random_pixels(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def half_red(width, height):
    """Noise without red on the left, pure red on the right."""
    pixels = random_pixels(width, height)
    pixels[..., 0] = 0
    pixels[:, width // 2 :] = (255, 0, 0)
    return pixels


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", [(64, 48), (33, 17), (8, 8)])
@pytest.mark.parametrize("style", ["blend", "contour"])
def test_pixels_no_mask_touches_are_bit_identical(tmp_path, run, size, style):
    pixels = half_red(*size)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert run("a.png", style=style, palette={"person": "#0000ff"}) == ([], [1])
    found = read(tmp_path / "out" / "a.png")
    quarter = size[0] // 4
    np.testing.assert_array_equal(found[:, :quarter], pixels[:, :quarter])
    assert (found[:, size[0] // 2 :] != pixels[:, size[0] // 2 :]).any()


def test_pictures_of_mixed_sizes_and_modes(tmp_path, run):
    images = {
        "grey.png": Image.fromarray(random_pixels(20, 30)).convert("L"),
        "palette.png": Image.fromarray(random_pixels(31, 7)).convert("P"),
        "alpha.png": Image.fromarray(random_pixels(5, 9)).convert("RGBA"),
        "bits.bmp": Image.fromarray(random_pixels(16, 16)).convert("1"),
        "dot.png": Image.fromarray(random_pixels(1, 1)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    assert run(*images, threshold=1, classes="background", style="contour", suffix=".png")[1] == [1, 2, 3, 4, 5]
    for name, image in images.items():
        assert read(tmp_path / "out" / name.replace("bmp", "png")).shape[1::-1] == image.size


def test_grey_of_16_bits(tmp_path, run):
    values = np.arange(128, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert run("a.png", alpha=0) == ([], [1])
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.png")[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, run, orientation):
    pixels = random_pixels(12, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    run("a.png", alpha=0)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]
    np.testing.assert_array_equal(read(tmp_path / "out" / "a.png"), turned)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.getexif().get(0x0112, 1) == 1


def test_broken_pictures_are_passed_over_and_told(tmp_path, run):
    Image.fromarray(random_pixels(40, 40)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "void.png").write_bytes(b"")
    errors, reports = run("half.png", "text.png", "void.png", "gone.png", "good.png")
    assert reports == [1, 2, 3, 4, 5]
    assert all(isinstance(error, StreamError) for error in errors)
    messages = [str(error) for error in errors]
    assert messages[0].startswith(f"'{tmp_path}/half.png' cannot be read: ")
    assert messages[1] == f"'{tmp_path}/text.png' is no picture"
    assert messages[2] == f"'{tmp_path}/void.png' is no picture"
    assert messages[3] == f"'{tmp_path}/gone.png' cannot be read: No such file or directory"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp", ".tif"])
def test_format_goes_by_the_ending(tmp_path, run, suffix):
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert run("a.png", suffix=suffix) == ([], [1])
    assert np.abs(read(tmp_path / "out" / f"a{suffix}").astype(int) - 90).max() < 4


def test_jpegs_are_of_high_quality(tmp_path, run):
    Image.fromarray(random_pixels(64, 64)).save(tmp_path / "a.png")
    run("a.png", suffix=".jpg", alpha=0)
    Image.fromarray(random_pixels(64, 64)).save(tmp_path / "plain.jpg")
    assert (tmp_path / "out" / "a.jpg").stat().st_size > 1.5 * (tmp_path / "plain.jpg").stat().st_size


def test_pictures_are_not_tied_to_the_one_before(tmp_path, run):
    for name, red in zip(NAMES, (255, 0, 255), strict=True):
        Image.fromarray(np.full((8, 8, 3), (red, 0, 0), np.uint8)).save(tmp_path / f"{name}.png")
    run(*(f"{name}.png" for name in NAMES), interval=10, smoothing=0.9, output="mask")
    assert [read(tmp_path / "out" / f"{name}.png").max() for name in NAMES] == [255, 0, 255]


def test_picture_that_cannot_be_written(tmp_path, run):
    Image.fromarray(random_pixels(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    errors, _ = run("a.png")
    assert [str(error) for error in errors] == [f"'{tmp_path}/out/a.png' cannot be written: Is a directory"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_sidebyside_is_twice_as_wide(tmp_path, run):
    Image.fromarray(random_pixels(33, 17)).save(tmp_path / "a.png")
    run("a.png", style="sidebyside")
    assert read(tmp_path / "out" / "a.png").shape == (17, 68, 3)


def test_wrong_option_ends_everything(run):
    with pytest.raises(ConfigError, match="no class 'cat'"):
        run("a.png", classes="cat")
