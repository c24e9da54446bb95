"""`images`: what stays sharp, batches, the flags of NVIDIA's sample, and what is left out and told."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import clips
import numpy as np
import pytest
import torch
from commands import Cli, Ended, runner
from emulated_device import emulate
from factories import make_spec, save_onnx
from PIL import Image, ImageCms

from bmf_trt_seg import gpu_jpeg
from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.gpu_jpeg import GpuJpeg
from bmf_trt_seg.spec import spec_path

RED = np.array([[[[1.0]], [[0.0]], [[0.0]]]], np.float32)  # the score is the red channel
LABELS = ["void", "red"]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture
def model(tmp_path):
    """A network for 8x8 pictures that sees red."""
    return save_onnx(tmp_path / "red.onnx", RED, spec=make_spec(LABELS, "none"))


@pytest.fixture
def open_model(tmp_path):
    """The same for pictures of any size; its description says 8x8."""
    return save_onnx(tmp_path / "open.onnx", RED, size_hw=("H", "W"), spec=make_spec(LABELS, "none"))


@pytest.fixture
def shapes(monkeypatch):
    """The shape of every batch that a network is run on; the first one is the run on black pictures."""
    found = []
    run = OnnxRuntimeBackend._run
    monkeypatch.setattr(
        OnnxRuntimeBackend, "_run", lambda network, batch: (found.append(batch.shape), run(network, batch))[1]
    )
    return found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def half_red(width=64, height=48, seed=0):
    """Noise without red on the left, noise with pure red on the right."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 0
    pixels[:, width // 2 :, 0] = 255
    return pixels


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what stays sharp ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sharp", "blurred"),
    [
        (["-c", "red"], slice(36, None), slice(0, 28)),
        (["-c", "1"], slice(36, None), slice(0, 28)),
        ([], slice(36, None), slice(0, 28)),
        (["-c", "void"], slice(0, 28), slice(36, None)),
        (["-c", "__background__"], slice(0, 28), slice(36, None)),
    ],
)
def test_all_but_the_class_is_blurred(cli, tmp_path, model, flags, sharp, blurred):
    pixels = half_red()
    source = save(tmp_path / "a.png", pixels)
    ended = cli("images", "-i", source, "-o", tmp_path / "out", "-m", model, *flags, "-q")
    assert ended == Ended(0, "", "")
    assert names(tmp_path / "out") == ["out_a.png"]
    found = read(tmp_path / "out" / "out_a.png")
    np.testing.assert_array_equal(found[:, sharp], pixels[:, sharp])
    assert found[:, blurred, 1].std() < 0.3 * pixels[:, blurred, 1].std()


def test_a_class_of_that_very_name_goes_first(cli, tmp_path):
    labels = ["void", "__background__"]
    model = save_onnx(tmp_path / "red.onnx", RED, spec=make_spec(labels, "none"))
    source = save(tmp_path / "a.png", half_red())
    assert cli("images", "-i", source, "-o", tmp_path, "-m", model, "-c", "__background__", "-q").code == 0
    np.testing.assert_array_equal(read(tmp_path / "out_a.png")[:, 36:], half_red()[:, 36:])


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG", "c.png", "d.webp"])
def test_a_result_has_the_kind_of_its_picture(cli, tmp_path, model, name):
    source = save(tmp_path / name, np.full((20, 30, 3), 90, np.uint8))
    assert cli("images", "-i", source, "-o", tmp_path / "deep" / "out", "-m", model, "-q").code == 0
    with Image.open(tmp_path / "deep" / "out" / f"out_{name}") as found, Image.open(source) as before:
        assert (found.format, found.size) == (before.format, (30, 20))
        assert abs(np.asarray(found.convert("RGB")).astype(int) - 90).max() <= 3


def test_exif_rotation_is_applied(cli, tmp_path, model):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = save(tmp_path / "a.jpg", half_red(40, 20), exif=exif)
    assert cli("images", "-i", source, "-o", tmp_path, "-m", model, "-q").code == 0
    with Image.open(tmp_path / "out_a.jpg") as image:
        assert (image.size, image.getexif().get(0x0112, 1)) == ((20, 40), 1)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_colours_keep_their_meaning(cli, tmp_path, model, name):
    """A profile that pictures of telephones have; without it, their colours would be taken for sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    source = save(tmp_path / name, half_red(), icc_profile=profile)
    assert cli("images", "-i", source, "-o", tmp_path, "-m", model, "-q").code == 0
    assert cli("infer", "-i", source, "-o", tmp_path / "infer", "-m", model, "-q").code == 0
    assert cli("segment", source, "-o", tmp_path / f"segment_{name}", "-m", model, "-q").code == 0
    for result in (f"out_{name}", "infer/overlay.png", f"segment_{name}"):
        with Image.open(tmp_path / result) as image:
            assert image.info.get("icc_profile") == profile


# --- batches ---------------------------------------------------------------------------------------------------------


def test_one_picture_fills_a_batch_with_the_same_results(cli, tmp_path, model, shapes):
    source = save(tmp_path / "a.png", half_red())
    ended = cli("images", "-i", source, "-o", tmp_path / "out", "-m", model, "-b", "4", "-v")
    assert ended.code == 0
    assert shapes[-1] == (4, 3, 8, 8)
    assert len(shapes) == 2
    assert "batch 1: a.png, 4 times\n" in ended.err
    assert "a.png was inferred 4 times; the results are all the same, bit by bit\n" in ended.err
    assert names(tmp_path / "out") == ["out_a.png"]
    cli("images", "-i", source, "-o", tmp_path / "alone", "-m", model, "-q")
    np.testing.assert_array_equal(read(tmp_path / "out" / "out_a.png"), read(tmp_path / "alone" / "out_a.png"))


def test_results_that_differ_are_told(cli, tmp_path, model, monkeypatch):
    source = save(tmp_path / "a.png", half_red())
    run = OnnxRuntimeBackend._run

    def uneven(network, batch):
        scores = run(network, batch).copy()
        scores[1:] = 0
        return scores

    monkeypatch.setattr(OnnxRuntimeBackend, "_run", uneven)
    ended = cli("images", "-i", source, "-o", tmp_path, "-m", model, "-b", "3")
    assert ended.code == 0
    assert "the results are not all the same: 2 differ from the first; the last one was written\n" in ended.err


@pytest.mark.parametrize("fixed", [False, True])
def test_the_last_batch_has_what_is_left(cli, tmp_path, folder, shapes, fixed):
    model = save_onnx(tmp_path / "red.onnx", RED, batch=2 if fixed else "N", spec=make_spec(LABELS, "none"))
    for number in range(5):
        save(folder / f"{number}.png", half_red(seed=number))
    ended = cli("images", "-i", folder, "-o", tmp_path / "out", "-m", model, "-b", "2", "-v")
    assert ended.code == 0
    assert [shape[0] for shape in shapes[1:]] == ([2, 2, 2] if fixed else [2, 2, 1])
    assert re.findall("batch .*", ended.err)[:3] == ["batch 1: 0.png, 1.png", "batch 2: 2.png, 3.png", "batch 3: 4.png"]
    assert re.search(rf"{re.escape(str(tmp_path / 'out'))}: 5 pictures in 3 batches and \d+\.\d s\n", ended.err)
    cli("images", "-i", folder, "-o", tmp_path / "alone", "-m", model, "-q")
    assert names(tmp_path / "out") == names(tmp_path / "alone") == [f"out_{number}.png" for number in range(5)]
    for name in names(tmp_path / "out"):
        np.testing.assert_array_equal(read(tmp_path / "out" / name), read(tmp_path / "alone" / name))


def test_sizes_may_be_mixed_in_a_batch(cli, tmp_path, folder, model, shapes):
    sizes = {"a.png": (64, 48), "b.jpg": (33, 17), "c.png": (8, 90), "d.png": (1, 1)}
    for name, size in sizes.items():
        save(folder / name, half_red(*size))
    assert cli("images", "-i", folder, "-o", tmp_path / "out", "-m", model, "-b", "4", "-q").code == 0
    assert [shape[0] for shape in shapes[1:]] == [4]
    assert {name: read(tmp_path / "out" / f"out_{name}").shape[1::-1] for name in sizes} == sizes


def test_the_size_of_an_open_input_can_be_chosen(cli, tmp_path, open_model, shapes):
    source = save(tmp_path / "a.png", half_red())
    for number, (flags, shape) in enumerate(
        [
            (["-th", "24", "-tw", "40"], (2, 3, 24, 40)),
            (["-th", "24"], (2, 3, 24, 8)),
            (["--target-img-width", "40"], (2, 3, 8, 40)),
            ([], (2, 3, 8, 8)),
        ]
    ):
        ended = cli("images", "-i", source, "-o", tmp_path / str(number), "-m", open_model, "-b", "2", "-q", *flags)
        assert ended == Ended(0, "", "")
        assert shapes[-1] == shape


def test_the_flags_are_those_of_the_sample(cli, tmp_path, folder, open_model):
    save(folder / "a.jpg", half_red())
    for number, flags in enumerate(
        [
            f"-i {folder} -o {tmp_path}/0 -c red -th 24 -tw 24 -b 2 -d cpu -bk onnxruntime",
            f"--input_path {folder} --output_dir {tmp_path}/1 --class_name red --target_img_height 24 "
            "--target_img_width 24 --batch_size 2 --device_id cpu --backend onnxruntime",
            f"--input-path {folder} --output-dir={tmp_path}/2 --class-name=red --batch-size=2 --device-id=auto",
        ]
    ):
        assert cli("images", *flags.split(), "-m", open_model, "-q") == Ended(0, "", "")
        assert names(tmp_path / str(number)) == ["out_a.jpg"]


def test_a_number_names_a_gpu(cli, tmp_path, model):
    source = save(tmp_path / "a.png", half_red())
    ended = cli("images", "-i", source, "-o", tmp_path / "out", "-m", model, "-d", "3")
    assert ended.code == 1
    assert ended.err.startswith("bmf-trt-seg: device 'cuda:3': this ONNX Runtime has no CUDA")


@pytest.mark.parametrize("ending", [".pt", ".pt2"])
def test_pytorch(cli, tmp_path, model, ending):
    class Red(torch.nn.Module):
        def forward(self, x):
            return x[:, :1] * 1.0

    path, example = tmp_path / f"net{ending}", torch.zeros(2, 3, 8, 8)
    if ending == ".pt2":
        sizes = ({0: torch.export.Dim("N")},)
        torch.export.save(torch.export.export(Red(), (example,), dynamic_shapes=sizes), path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.trace(Red(), example).save(path)
    make_spec(LABELS, "none").write(spec_path(path))
    source = save(tmp_path / "a.png", half_red())
    flags = ["-i", source, "-b", "2", "-c", "red", "-q"]
    assert cli("images", *flags, "-o", tmp_path / "torch", "-m", path, "-bk", "pytorch") == Ended(0, "", "")
    assert cli("images", *flags, "-o", tmp_path / "onnx", "-m", model, "-bk", "onnxruntime").code == 0
    np.testing.assert_array_equal(read(tmp_path / "torch" / "out_a.png"), read(tmp_path / "onnx" / "out_a.png"))
    if ending == ".pt2":
        ended = cli("images", *flags, "-o", tmp_path / "sized", "-m", path, "-th", "24", "-tw", "24")
        assert re.fullmatch(
            r"bmf-trt-seg: input 'x' of model 'net.pt2' has the shape \[\w+, 3, 8, 8\], the option 'input_shapes' "
            r"says \['N', 3, 24, 24\] \(nchw\)\n",
            ended.err,
        )


# --- what is left out ------------------------------------------------------------------------------------------------


def test_broken_pictures_are_left_out_and_named(cli, tmp_path, folder, model, shapes):
    for name in ("b.jpg", "d.png", "f.png"):
        save(folder / name, half_red())
    whole = (folder / "b.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "c.png").write_text("no picture")
    (folder / "e.png").write_bytes(b"")
    (folder / ".g.png").write_text("hidden")
    (folder / "notes.txt").write_text("not meant")
    ended = cli("images", "-i", folder, "-o", tmp_path / "out", "-m", model, "-b", "2", "-q")
    assert (ended.code, ended.out) == (1, "")
    assert [shape[0] for shape in shapes[1:]] == [2, 1], "a batch is not filled"
    *reasons, last = ended.err.splitlines()
    assert last == "bmf-trt-seg: 3 of 6 pictures left out: a.jpg, c.png, e.png"
    assert reasons[0].startswith(f"bmf-trt-seg: '{folder}/a.jpg' cannot be read: image file is truncated")
    assert reasons[1:] == [f"bmf-trt-seg: '{folder}/{name}' is no picture" for name in ("c.png", "e.png")]
    assert names(tmp_path / "out") == ["out_b.jpg", "out_d.png", "out_f.png"]


def test_nothing_but_broken_pictures(cli, tmp_path, folder, model):
    (folder / "a.png").write_text("no picture")
    ended = cli("images", "-i", folder, "-o", tmp_path / "out", "-m", model, "-b", "4")
    assert ended.code == 1
    assert ended.err.endswith("1 of 1 picture left out: a.png\n")
    assert not (tmp_path / "out").exists()


def test_results_that_cannot_be_written_are_told(cli, tmp_path, folder, model, monkeypatch):
    for name in ("a.png", "b.png"):
        save(folder / name, half_red())
    write = Image.Image.save

    def full(image, path, **options):
        if "out_a" in str(path):
            raise OSError(28, "No space left on device")
        write(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    ended = cli("images", "-i", folder, "-o", tmp_path / "out", "-m", model, "-q")
    assert ended.code == 1
    assert ended.err.splitlines() == [
        f"bmf-trt-seg: '{tmp_path}/out/out_a.png' cannot be written: No space left on device",
        "bmf-trt-seg: 1 of 2 pictures left out: a.png",
    ]
    assert names(tmp_path / "out") == ["out_b.png"]


def test_results_are_replaced_with_y_only(cli, tmp_path, folder, model):
    for name in ("a.png", "b.png"):
        save(folder / name, half_red())
    arguments = ["images", "-i", folder, "-o", folder, "-m", model, "-q"]
    assert cli(*arguments) == Ended(0, "", "")
    assert names(folder) == ["a.png", "b.png", "out_a.png", "out_b.png"]
    ended = cli(*arguments)
    assert ended.code == 2
    assert f"Error: '{folder}/out_a.png' exists (and 1 more); give -y to replace it\n" in ended.err
    (folder / "out_a.png").write_text("old")
    assert cli(*arguments, "-y") == Ended(0, "", "")
    assert names(folder) == ["a.png", "b.png", "out_a.png", "out_b.png"], "results were taken for pictures to do"
    assert read(folder / "out_a.png").shape == (48, 64, 3)


def test_videos_are_for_another_verb(cli, tmp_path, folder, model, plain_clip):
    arguments = ["-o", tmp_path / "out", "-m", model]
    assert cli("images", "-i", plain_clip, *arguments) == Ended(
        2,
        "",
        f"bmf-trt-seg: '{plain_clip}' is a video, and 'images' takes pictures: "
        f"bmf-trt-seg segment {plain_clip} -o OUT --style blur\n",
    )
    (folder / "film.mp4").write_bytes(plain_clip.read_bytes())
    ended = cli("images", "-i", folder, *arguments)
    assert ended.code == 1
    assert ended.err.endswith(f"its videos are for 'segment': bmf-trt-seg segment {folder}/*.mp4 -o OUT --style blur\n")
    save(folder / "a.png", half_red())
    ended = cli("images", "-i", folder, *arguments)
    assert ended.code == 0
    assert ended.err.endswith("1 video left out: film.mp4; 'segment' takes videos\n")
    assert names(tmp_path / "out") == ["out_a.png"]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["-c", "dog"], 2, "-c dog: model 'red.onnx' has no such class; it has void, red"),
        (["-c", "Red"], 2, "-c Red: model 'red.onnx' has no such class; did you mean 'red'?"),
        (["-c", "2"], 2, "-c 2: model 'red.onnx' has no such class; it has void, red"),
        (
            ["-th", "24"],
            2,
            "-th 24 -tw 8: the input of model 'red.onnx' is 8 high and 8 wide, which cannot be chosen; leave both out "
            "(pictures of any size are resized to it)",
        ),
        (["-i", "nope"], 1, "'nope' does not exist"),
        (["-i", "red.json"], 2, "'red.json' is no picture by its name; pictures end in .bmp, .jpeg, .jpg, .png, .tif, "
         ".tiff, .webp"),
        (["-i", "empty"], 1, "the folder 'empty' has no pictures (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"),
        (["-o", "a.png"], 2, "'a.png' is a file; -o names a folder for the results"),
        (["-o", "taken", "-y"], 2, "'taken/out_a.png' is a folder, and would be the name of a result"),
        (["-d", "gpu"], 2, "images: option 'device': got \"gpu\", allowed is 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        (["-bk", "pytorch"], 2, "model 'red.onnx': backend 'pytorch' runs files ending in .pt, .pth, .ts, .pt2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(cli, tmp_path, model, monkeypatch, flags, code, said):
    monkeypatch.chdir(tmp_path)
    save(Path("a.png"), half_red())
    for path in (Path("empty"), Path("taken/out_a.png")):
        path.mkdir(parents=True)
    ended = cli("images", "-i", "a.png", "-o", "out", "-m", "red.onnx", *flags)
    assert ended == Ended(code, "", f"bmf-trt-seg: {said}\n")
    assert not Path("out/out_a.png").exists()


def test_networks_without_a_background(cli, tmp_path):
    model = save_onnx(
        tmp_path / "net.onnx", np.ones((2, 3, 1, 1), np.float32), spec=make_spec(["a", "b"], "softmax", background=None)
    )
    source = save(tmp_path / "a.png", half_red())
    ended = cli("images", "-i", source, "-o", tmp_path / "out", "-m", model, "-c", "__background__")
    said = "-c __background__: model 'net.onnx' has no such class; its description names no background"
    assert ended == Ended(2, "", f"bmf-trt-seg: {said}\n")


def test_wrong_usage_and_help(cli):
    for flags, said in (
        ([], "Missing option '-i' / '--input_path'."),
        (["-i", "a.png", "-o", "out", "-b", "0"], "0 is not in the range 1<=x<=256"),
        (["-i", "a.png", "-o", "out", "-bk", "caffe"], "'caffe' is not one of 'auto', 'pytorch', 'tensorrt', "),
    ):
        ended = cli("images", *flags)
        assert ended.code == 2
        assert said in ended.err
    shown = cli("images", "--help").out
    for flag in ("-th, --target_img_height H", "-tw, --target_img_width W", "-bk, --backend [auto|pytorch|tensorrt|"):
        assert flag in shown


# --- JPEG on a GPU ---------------------------------------------------------------------------------------------------


class FakeDecoder:
    """What is used of nvimgcodec.Decoder; decodes by Pillow, as tensors of the host."""

    failure: Exception | None = None
    gives_none = False

    def __init__(self, device_id, backends):
        self.device_id, self.backends = device_id, backends
        self.asked = self.decoded = 0

    def decode(self, content, params):
        import io

        from PIL import ImageOps

        self.asked += 1
        if self.failure:
            raise self.failure
        if self.gives_none:
            return None
        self.decoded += 1
        with Image.open(io.BytesIO(content)) as image:
            return torch.from_numpy(np.array(ImageOps.exif_transpose(image)))


def fake_library(decoders):
    def decoder(**options):
        decoders.append(FakeDecoder(**options))
        return decoders[-1]

    kinds = SimpleNamespace(HW_GPU_ONLY=1, GPU_ONLY=2, HYBRID_CPU_GPU=3, CPU_ONLY=4)
    return SimpleNamespace(
        __version__="0.9", BackendKind=kinds, Backend=lambda kind: kind, Decoder=decoder, DecodeParams=object
    )


def test_jpeg_goes_to_the_gpu_and_the_rest_does_not(tmp_path):
    decoders: list[FakeDecoder] = []
    jpeg = GpuJpeg(fake_library(decoders), torch.device("cuda", 1))
    assert (decoders[0].device_id, decoders[0].backends) == (1, [1, 2, 3])
    pixels = half_red(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    frame = jpeg.read(save(tmp_path / "a.jpg", pixels, exif=exif))
    assert (frame.width, frame.height, frame.is_on_device) == (20, 40, True)
    others = [
        save(tmp_path / "a.png", pixels),
        save(tmp_path / "grey.jpg", pixels[..., 0]),
        tmp_path / "cmyk.jpg",
        tmp_path / "half.jpg",
        tmp_path / "text.jpg",
        tmp_path / "gone.jpg",
    ]
    Image.fromarray(pixels).convert("CMYK").save(others[2])
    others[3].write_bytes(save(tmp_path / "large.jpg", half_red(400, 300)).read_bytes()[:-5000])
    others[4].write_text("no picture")
    assert [jpeg.read(path) for path in others] == [None] * len(others)
    assert decoders[0].asked == 1, "it was given what it would show wrongly, or half"
    decoders[0].gives_none = True
    assert jpeg.read(tmp_path / "a.jpg") is None
    decoders[0].failure = RuntimeError("nvjpeg status 2")
    assert jpeg.read(tmp_path / "a.jpg") is None


def test_pictures_of_the_gpu_go_through_its_pipeline(cli, tmp_path, folder, model, monkeypatch):
    for name, size in {"a.jpg": (64, 48), "b.jpg": (40, 30), "c.png": (64, 48)}.items():
        save(folder / name, half_red(*size), **({"quality": 100, "subsampling": 0} if "jpg" in name else {}))
    assert cli("images", "-i", folder, "-o", tmp_path / "cpu", "-m", model, "-b", "3", "-q").code == 0
    decoders: list[FakeDecoder] = []
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", fake_library(decoders))
    emulate(monkeypatch)
    ended = cli("images", "-i", folder, "-o", tmp_path / "gpu", "-m", model, "-b", "3", "-v")
    assert ended.code == 0
    assert "JPEG is decoded on cpu by nvImageCodec 0.9, other pictures on the CPU\n" in ended.err
    assert decoders[0].decoded == 2
    for name in names(tmp_path / "cpu"):
        ours, theirs = (read(tmp_path / where / name).astype(int) for where in ("gpu", "cpu"))
        assert ours.shape == theirs.shape
        assert np.mean(np.abs(ours - theirs) <= 2) > 0.97


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (None, "nvImageCodec is not installed: pip install "),
        (SimpleNamespace(BackendKind=None), "nvImageCodec cannot be used: "),
    ],
)
def test_without_nvimagecodec_the_cpu_decodes(cli, tmp_path, model, monkeypatch, library, said):
    source = save(tmp_path / "a.jpg", half_red())
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", library)
    emulate(monkeypatch)
    ended = cli("images", "-i", source, "-o", tmp_path / "out", "-m", model, "-v")
    assert ended.code == 0
    assert f"pictures are decoded on the CPU: {said}" in ended.err
    assert gpu_jpeg.open_gpu_jpeg(None) is None


def test_a_person_in_a_portrait(cli, tmp_path, astronaut):
    """The real network: the face stays, the rocket behind it goes."""
    source = save(tmp_path / "a.png", astronaut)
    ended = cli("images", "-i", source, "-o", tmp_path, "-c", "person", "-q")
    if "is not here yet" in ended.err:
        pytest.skip("the person model was not fetched")
    found = read(tmp_path / "out_a.png")
    np.testing.assert_array_equal(found[100:160, 200:260], astronaut[100:160, 200:260])
    assert found[60:260, 380:460].std() < 0.9 * astronaut[60:260, 380:460].std()


def test_network_that_fails_on_the_way(cli, tmp_path):
    model = clips.failing_model(tmp_path / "failing.onnx")
    source = save(tmp_path / "a.png", half_red())
    ended = cli("images", "-i", source, "-o", tmp_path / "out", "-m", model, "-q")
    assert ended.code == 1
    assert ended.err.startswith("bmf-trt-seg: ONNX Runtime failed on 'failing.onnx' with a batch of 1: ")
    assert not (tmp_path / "out").exists()
