"""`bmf-trt-seg eval`: known pictures and masks, scores computed by hand, and everything that can be wrong with them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from commands import Cli, Ended, runner
from factories import make_spec, save_onnx
from PIL import Image

torchmetrics = pytest.importorskip("torchmetrics")

LABELS = ("red", "green", "blue")
PALETTE = ["#800000", "#008000", "#000080"]
COLORS = np.eye(3, dtype=np.uint8) * 255
# the largest channel of a pixel is its class
WEIGHTS = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
# rows are the truth
COUNTS = [[32, 16, 0, 0], [0, 8, 1, 0], [0, 0, 63, 0], [0, 0, 0, 0]]
IOU = [32 / 48, 8 / 25, 63 / 64]
ACCURACY = [32 / 48, 8 / 9, 1.0]

Array = npt.NDArray[Any]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


def save_model(**values: Any) -> None:
    spec = make_spec(LABELS, "softmax", background=None, **values)
    save_onnx(Path("net.onnx"), WEIGHTS, spec=spec)


def found_maps() -> dict[str, Array]:
    """What the network finds: a is red above and green below, b is blue."""
    a, b = np.zeros((8, 8), np.uint8), np.full((8, 8), 2, np.uint8)
    a[4:] = 1
    return {"a": a, "b": b}


def true_maps() -> dict[str, Array]:
    """What is there: red goes further down in a, whose last row does not count; a pixel of b is green."""
    a, b = np.zeros((8, 8), np.uint8), np.full((8, 8), 2, np.uint8)
    a[6], a[7] = 1, 255
    b[3, 3] = 1
    return {"a": a, "b": b}


def save_picture(path: Path, map_hw: Array) -> None:
    Image.fromarray(COLORS[map_hw]).save(path)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: net.onnx, and images/ and masks/ of two pictures."""
    monkeypatch.chdir(tmp_path)
    save_model()
    for folder, maps in (("images", found_maps()), ("masks", true_maps())):
        Path(folder).mkdir()
        for name, map_hw in maps.items():
            if folder == "images":
                save_picture(Path(folder, f"{name}.png"), map_hw)
            else:
                Image.fromarray(map_hw).save(Path(folder, f"{name}.png"))
    return tmp_path


def scored(cli: Cli, *arguments: object, code: int = 0) -> tuple[dict[str, Any], Ended]:
    """What `eval` found, and how it ended."""
    ended = cli(
        "eval", "-m", "net.onnx", "--images", "images", "--masks", "masks", "--json", "all.json", "-y", *arguments
    )
    assert ended.code == code, ended.err
    return json.loads(Path("all.json").read_text(encoding="utf-8")), ended


def refused(cli: Cli, code: int, pattern: str, *arguments: object) -> None:
    """Ends with one line like this, and writes nothing."""
    ended = cli("eval", "-m", "net.onnx", "--images", "images", "--masks", "masks", "-o", "out", *arguments)
    assert (ended.code, ended.out) == (code, ""), ended
    assert re.search(pattern, ended.err), ended.err
    assert not Path("out").exists()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_scores_are_those_computed_by_hand(cli, batch):
    report, ended = scored(cli, "--batch-size", batch)
    assert report["confusion"]["pixels"] == COUNTS
    assert [row["iou"] for row in report["classes"]] == pytest.approx(IOU)
    assert [row["accuracy"] for row in report["classes"]] == pytest.approx(ACCURACY)
    assert [row["pixels"] for row in report["classes"]] == [48, 9, 63]
    assert [row["found_pixels"] for row in report["classes"]] == [32, 24, 64]
    assert report["mean_iou"] == pytest.approx(sum(IOU) / 3)
    assert report["mean_accuracy"] == pytest.approx(sum(ACCURACY) / 3)
    assert report["pixel_accuracy"] == pytest.approx(103 / 120)
    assert (report["pictures"], report["pixels"], report["pixels_ignored"]) == (2, 120, 8)
    assert ended.out.splitlines() == [
        "class        IoU  accuracy  pixels  found",
        "0 red    66.67 %   66.67 %      48     32",
        "1 green  32.00 %   88.89 %       9     24",
        "2 blue   98.44 %  100.00 %      63     64",
        "",
        "mean IoU         65.70 %",
        "pixel accuracy   85.83 %",
        "mean accuracy    85.19 %",
    ]


def test_scores_are_those_of_torchmetrics(cli):
    import torch
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    report, _ = scored(cli)
    found = torch.from_numpy(np.stack(list(found_maps().values())).astype(np.int64))
    truth = torch.from_numpy(np.stack(list(true_maps().values())).astype(np.int64))
    for name, metric in {
        "mean_iou": MulticlassJaccardIndex(3, ignore_index=255),
        "pixel_accuracy": MulticlassAccuracy(3, average="micro", ignore_index=255),
        "mean_accuracy": MulticlassAccuracy(3, average="macro", ignore_index=255),
    }.items():
        assert report[name] == pytest.approx(float(metric(found, truth)), rel=1e-6), name


def test_classes_are_chosen(cli):
    report, _ = scored(cli, "--classes", "green,0")
    assert [row["label"] for row in report["classes"]] == ["red", "green"]
    assert report["mean_iou"] == pytest.approx((IOU[0] + IOU[1]) / 2)
    assert report["pixel_accuracy"] == pytest.approx(40 / 57)
    assert report["confusion"]["pixels"] == COUNTS


def test_classes_that_are_nowhere_are_no_part_of_the_means(cli):
    for folder in ("images", "masks"):
        Path(folder, "b.png").unlink()
    report, ended = scored(cli)
    assert report["classes"][2]["iou"] is None
    assert report["mean_iou"] == pytest.approx((32 / 48 + 8 / 24) / 2)
    assert "2 blue         -         -       0      0" in ended.out


def test_files_of_the_folder(cli):
    pytest.importorskip("matplotlib")
    ended = cli("eval", "-m", "net.onnx", "--images", "images", "--masks", "masks", "-o", "new/out", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    folder = Path("new/out")
    assert {path.name for path in folder.iterdir()} == {"eval.json", "classes.csv", "confusion.csv", "confusion.png"}
    with (folder / "confusion.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["truth \\ found", *LABELS, ""],
        *([label, *map(str, row)] for label, row in zip([*LABELS, ""], COUNTS, strict=True)),
    ]
    with (folder / "classes.csv").open(newline="") as file:
        classes = list(csv.DictReader(file))
    assert [float(row["iou"]) for row in classes] == pytest.approx(IOU)
    assert json.loads((folder / "eval.json").read_text())["confusion"]["pixels"] == COUNTS
    with Image.open(folder / "confusion.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 500
    again = cli("eval", "-m", "net.onnx", "--images", "images", "--masks", "masks", "-o", folder)
    assert again.code == 2
    assert "exists; give -y to replace it" in again.err


# ------------------------------------------------------------------------------------------------------- kinds of masks


def replace_masks(change: Any, ending: str = ".png") -> None:
    for name, map_hw in true_maps().items():
        Path("masks", f"{name}.png").unlink()
        change(map_hw).save(Path("masks", name + ending))


def with_palette(map_hw: Array) -> Image.Image:
    picture = Image.frombytes("P", map_hw.shape[::-1], map_hw.tobytes())
    picture.putpalette(list(range(255, -1, -1)) * 3)  # colours say nothing: indices do
    return picture


def in_colors(map_hw: Array) -> Image.Image:
    table = np.full((256, 3), 255, np.uint8)
    table[:3] = [[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in PALETTE]
    return Image.fromarray(table[map_hw])


@pytest.mark.parametrize(
    ("change", "ending"),
    [
        (lambda map_hw: Image.fromarray(map_hw.astype(np.uint16)), ".png"),
        (lambda map_hw: Image.fromarray(map_hw.astype(np.uint16)), ".tiff"),
        (lambda map_hw: Image.fromarray(map_hw), ".bmp"),
        (with_palette, ".png"),
    ],
    ids=["16 bits", "tiff", "bmp", "palette"],
)
def test_masks_of_indices(cli, change, ending):
    replace_masks(change, ending)
    assert scored(cli)[0]["confusion"]["pixels"] == COUNTS


def test_masks_of_the_colors_of_the_description(cli):
    save_model(palette=PALETTE)
    replace_masks(in_colors)
    report, ended = scored(cli, code=1)
    assert report["confusion"]["pixels"] == COUNTS
    assert "that are no class and were not counted: #ffffff (8 pixels), first in 'masks/a.png'" in ended.err
    assert "--mask-colors CLASS=#RRGGBB" in ended.err


def test_masks_of_other_colors(cli):
    replace_masks(in_colors)
    refused(cli, 1, r"nothing was scored")
    named = ",".join(f"{label}={color}" for label, color in zip(LABELS, PALETTE, strict=True))
    report, _ = scored(cli, "--mask-colors", f"{named},ignore=#ffffff")
    assert report["confusion"]["pixels"] == COUNTS


def test_ids_of_the_data_set_are_mapped(cli):
    replace_masks(lambda map_hw: Image.fromarray(np.array([24, 25, 33] + [7] * 253, np.uint8)[map_hw]))
    report, ended = scored(cli, "--map", "24:0,25:green,33:2", code=1)
    assert report["confusion"]["pixels"] == COUNTS
    assert report["left_out"]["values_outside"] == {"7": 8}
    assert ended.err.count("\n") == 2
    assert (
        "bmf-trt-seg: masks have values that are no class and were not counted: 7 (8 pixels), first in 'masks/a.png'; "
        "classes are 0 to 2: say what they mean with --map 7:CLASS (CLASS may be 'ignore')\n" in ended.err
    )
    for rest in ("7:ignore", "*:ignore"):
        assert scored(cli, "--map", f"24:0,25:green,33:2,{rest}")[0]["confusion"]["pixels"] == COUNTS


def test_what_is_of_no_class_counts_against_what_was_found(cli):
    report, _ = scored(cli, "--map", "1:none")
    assert report["confusion"]["pixels"] == [[32, 16, 0, 0], [0] * 4, [0, 0, 63, 0], [0, 8, 1, 0]]
    assert report["classes"][2]["iou"] == pytest.approx(63 / 64)


def test_another_value_is_ignored(cli):
    report, _ = scored(cli, "--ignore", 0, code=1)  # 255 is no class then
    assert report["confusion"]["pixels"] == [[0] * 4, *COUNTS[1:]]
    assert report["left_out"]["values_outside"] == {"255": 8}


def test_masks_decide_the_size(cli):
    """Twice as large, with the same content: scores are enlarged, and only borders differ."""
    Path("masks/a.png").unlink()
    mask = np.kron(true_maps()["b"], np.ones((2, 2), np.uint8))
    Image.fromarray(mask).save("masks/b.png")
    report, ended = scored(cli)
    assert report["confusion"]["pixels"] == [[0] * 4, [0, 0, 4, 0], [0, 0, 252, 0], [0] * 4]
    assert report["pictures_scored_in_the_size_of_their_mask"] == 1
    assert "1 of 1 masks have another size than their picture; the scores were enlarged to the mask's" in ended.err


def test_wide_pictures(cli):
    wide = np.repeat(found_maps()["a"], 2, axis=1)
    for folder, name in (("images", "a"), ("masks", "b")):  # each of the others loses its partner
        Path(folder, f"{name}.png").unlink()
    save_picture(Path("images/wide.png"), wide)
    Image.fromarray(wide).save("masks/wide.png")
    report, _ = scored(cli)
    assert report["confusion"]["pixels"] == [[64, 0, 0, 0], [0, 64, 0, 0], [0] * 4, [0] * 4]


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_broken_pairs_are_left_out_and_told(cli):
    Path("images/broken.png").write_bytes(b"\x89PNG and no more")
    Image.fromarray(true_maps()["a"]).save("masks/broken.png")
    save_picture(Path("images/wide.png"), found_maps()["a"])
    Image.fromarray(np.zeros((8, 16), np.uint8)).save("masks/wide.png")
    save_picture(Path("images/lossy.png"), found_maps()["a"])
    Path("masks/lossy.png").write_bytes(b"")
    report, ended = scored(cli, code=1)
    assert report["confusion"]["pixels"] == COUNTS
    assert len(report["left_out"]["failures"]) == 3
    assert "bmf-trt-seg: 'images/broken.png' is no picture\n" in ended.err
    assert "bmf-trt-seg: 'masks/lossy.png' is no picture\n" in ended.err
    assert "'masks/wide.png' is 16x8, its picture 'wide.png' 8x8: it is of another shape" in ended.err


def test_a_photograph_is_no_mask(cli, astronaut):
    save_model(palette=PALETTE)
    Image.fromarray(astronaut).save("masks/a.png")
    report, ended = scored(cli, code=1)
    assert re.search(r"bmf-trt-seg: 'masks/a.png' is no mask: \d+ of its colours mean no class\n", ended.err)
    assert report["left_out"]["values_outside"] == {}


def test_files_without_a_partner_are_told(cli):
    save_picture(Path("images/lonely.png"), found_maps()["a"])
    for number in range(7):
        Image.fromarray(true_maps()["a"]).save(f"masks/m{number}.png")
    report, ended = scored(cli)
    assert report["confusion"]["pixels"] == COUNTS
    assert "left out, 1 picture that has no mask: lonely.png\n" in ended.err
    assert "left out, 7 masks that have no picture: m0.png, m1.png, m2.png, m3.png, m4.png and 2 more\n" in ended.err


def test_names_with_endings(cli):
    for name in "ab":
        Path(f"images/{name}.png").rename(f"images/{name}_left.png")
        Path(f"masks/{name}.png").rename(f"masks/{name}_ids.png")
        Path(f"masks/{name}_color.png").write_bytes(b"passed over")
    refused(cli, 2, r"no picture of 'images' has a mask in 'masks': .*'a_left.png' and 'a_color.png'; --image-suffix")
    report, _ = scored(cli, "--image-suffix", "_left", "--mask-suffix", "_ids")
    assert report["confusion"]["pixels"] == COUNTS


@pytest.mark.parametrize(
    ("code", "arguments", "pattern"),
    [
        (2, ["--map", "24"], r"--map: '24' is not VALUE:CLASS, as in 24:11 or 24:person"),
        (
            2,
            ["--map", "24:9"],
            r"--map: the model has no class '9'; it has 0 red, 1 green, 2 blue; beside them: ignore",
        ),
        (2, ["--map", "1:0,1:2"], r"--map: '1' is named twice"),
        (2, ["--map", ","], r"--map is empty"),
        (2, ["--mask-colors", "red"], r"--mask-colors: 'red' is not CLASS=#RRGGBB"),
        (2, ["--mask-colors", "red=#12"], r"--mask-colors: 'red=#12': a colour is written #rrggbb"),
        (2, ["--mask-colors", "pink=#123456"], r"--mask-colors: the model has no class 'pink'"),
        (2, ["--classes", "pink"], r"the model has no class 'pink'"),
        (1, ["--images", "nowhere"], r"'nowhere' does not exist"),
        (1, ["--masks", "net.onnx"], r"'net.onnx' is no folder"),
        (2, ["--masks", "."], r"'.' has no masks in it; looked for .bmp, .gif, .png, .tif, .tiff"),
        (2, ["-m", "nothing.onnx"], r"model file 'nothing.onnx' does not exist"),
        (2, ["--ignore", "-2"], r"-1<=x<=65535"),
        (1, ["--json", "."], r"'.' is a folder; give the name of a file in it"),
        (1, ["--json", "no/such.json"], r"the folder 'no' does not exist"),
    ],
)
def test_wrong_usage(cli, code, arguments, pattern):
    refused(cli, code, pattern, *arguments)


def test_two_masks_of_a_name(cli):
    Image.fromarray(true_maps()["a"]).save("masks/a.bmp")
    refused(cli, 2, r"'a.bmp' and 'a.png' in 'masks' could both be the mask of 'a'; leave one of them")


def test_a_missing_library_is_told_before_the_work(cli, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.classification", None)
    refused(cli, 1, r"pip install 'bmf-trt-seg\[eval\]'", "--no-plot")


def test_only_class_maps_are_scored(cli):
    Path("net.json").write_text(json.dumps({"task": "raw", "input": {"height": 8, "width": 8}, "output": {}}))
    refused(cli, 2, r"its task is 'raw'; only class maps can be scored")


def test_memory_does_not_grow_with_pictures():
    """The state is one matrix, however many pictures are counted."""
    from bmf_trt_seg.confusion import ConfusionMatrix

    matrix = ConfusionMatrix(3)
    truth, found = true_maps()["a"].astype(np.int16), found_maps()["a"]
    truth[truth == 255] = -1
    for _ in range(100):
        matrix.add(truth, found)
    assert matrix.counts.shape == (4, 4)
    assert matrix.counts.sum() == 100 * 56
    assert not [name for name, value in vars(matrix._metric).items() if isinstance(value, list) and len(value) > 10]


def test_large_pictures_are_counted_in_strips(monkeypatch):
    from bmf_trt_seg import confusion

    monkeypatch.setattr(confusion, "_STRIP_PIXELS", 56)  # seven rows, and one
    matrix = confusion.ConfusionMatrix(3)
    for name, truth in true_maps().items():
        truth = truth.astype(np.int16)
        truth[truth == 255] = confusion.IGNORED
        matrix.add(truth, found_maps()[name])
    assert matrix.counts.tolist() == COUNTS


def test_the_person_model_on_a_person(cli, astronaut):
    """Its own class map as the mask agrees everywhere; one moved aside does not."""
    from bmf_trt_seg.backends import select_backend
    from bmf_trt_seg.errors import ConfigError
    from bmf_trt_seg.models import catalog
    from bmf_trt_seg.networks import description
    from bmf_trt_seg.pictures import read_picture
    from bmf_trt_seg.postprocess import Postprocess
    from bmf_trt_seg.preprocess import Preprocess

    try:
        model = catalog.find("person")
    except ConfigError as error:
        pytest.skip(str(error))
    for name in "ab":
        Image.fromarray(astronaut).save(f"images/{name}.png")
    spec = description(model)
    with select_backend("onnxruntime", model)(model, spec) as backend:
        scores = backend.infer(Preprocess(spec.input)([read_picture(Path("images/a.png"))]))
    map_hw = Postprocess(spec, [1])(scores[0], (512, 512))
    assert 0.3 < map_hw.mean() < 0.6
    Image.fromarray(map_hw).save("masks/a.png")
    Image.fromarray(np.roll(map_hw, 40, axis=1)).save("masks/b.png")
    report, _ = scored(cli, "-m", "person")
    union = (map_hw | np.roll(map_hw, 40, axis=1)).sum() + map_hw.sum()
    same = (map_hw & np.roll(map_hw, 40, axis=1)).sum() + map_hw.sum()
    assert report["classes"][1]["iou"] == pytest.approx(same / union)
    assert 0.7 < report["mean_iou"] < 0.99
