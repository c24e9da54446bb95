"""`bmf-trt-seg bench` and `eval` with TensorRT on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli, Ended, runner
from gpu.networks import BATCHES, QUICK, TACTICS
from PIL import Image

torch = pytest.importorskip("torch")

BUILD = ("--tactic-sources", ",".join(TACTICS), "--opt-level", QUICK)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture
def portraits(tmp_path: Path, portrait_clip: Path) -> Path:
    """Four frames of the clip, as pictures."""
    from bmf_trt_seg.calibration_frames import sample

    folder = tmp_path / "portraits"
    folder.mkdir()
    for number, frame in enumerate(sample(portrait_clip, 4)):
        Image.fromarray(frame.planes[0]).save(folder / f"{number}.png")
    return folder


def bench(cli: Cli, tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], Ended]:
    ended = cli("bench", *arguments, *BUILD, "--seconds", "0.5", "-o", tmp_path / "out", "-y", "--no-plot")
    assert ended.code == 0, ended.err
    return json.loads((tmp_path / "out" / "bench.json").read_text()), ended


def test_precisions_side_by_side(cli, person, portrait_clip, tmp_path):
    report, ended = bench(
        cli, tmp_path, person, "--pictures", portrait_clip, "--calibration", portrait_clip, "--calibration-frames", 16,
        "--precisions", "fp32,fp16,bf16,int8",
    )  # fmt: skip
    assert report["backend"] == "tensorrt"
    rows = {row["precision"]: row for row in report["precisions"]}
    assert list(rows) == ["fp32", "fp16", "bf16", "int8"]
    for precision in ("fp32", "fp16", "int8"):
        row = rows[precision]
        assert row["problem"] is None
        assert [one["batch"] for one in row["batches"]] == list(BATCHES)
        assert all(0 < one["p50_ms"] <= one["p99_ms"] for one in row["batches"])
        assert row["file_bytes"] > 100_000
        assert row["device_bytes"] > 0
        assert row["build_seconds"] > 0
    assert rows["fp32"]["agreement"] == 1.0
    assert rows["fp16"]["agreement"] > 0.99
    assert rows["int8"]["agreement"] > 0.95
    # TensorRT 8.6 has no bf16; later editions have
    assert (rows["bf16"]["problem"] is None) == bool(rows["bf16"]["batches"])
    if rows["bf16"]["problem"]:
        assert f"bf16: {rows['bf16']['problem']}" in ended.out


def test_engines_are_kept(cli, person, tmp_path):
    first, _ = bench(cli, tmp_path, person, "--precisions", "fp16", "--batches", "1,2")
    again, _ = bench(cli, tmp_path, person, "--precisions", "fp16", "--batches", "1,2")
    assert [row["file"] for row in first["precisions"]] == [row["file"] for row in again["precisions"]]
    assert first["precisions"][0]["build_seconds"] == again["precisions"][0]["build_seconds"]
    assert again["compared_with"] == "fp32 of onnxruntime on the CPU"


def test_larger_batches_are_of_more_pictures_a_second(cli, person, tmp_path):
    report, _ = bench(cli, tmp_path, person, "--precisions", "fp16", "--batches", "1,8")
    one, eight = report["precisions"][0]["batches"]
    assert eight["pictures_per_second"] > one["pictures_per_second"]
    # calls overlap: a new one need not wait for the end of the last to be told
    assert one["pictures_per_second"] * one["p50_ms"] / 1e3 > 0.9


def test_class_maps_of_an_engine_are_scored(cli, person, person_fp32, portraits, tmp_path):
    """What ONNX Runtime finds is the truth; an engine in fp32 agrees with it."""
    from bmf_trt_seg.backends import select_backend
    from bmf_trt_seg.networks import description
    from bmf_trt_seg.pictures import read_picture
    from bmf_trt_seg.postprocess import Postprocess
    from bmf_trt_seg.preprocess import Preprocess

    masks, spec = tmp_path / "masks", description(person)
    masks.mkdir()
    with select_backend("onnxruntime", person)(person, spec) as backend:
        for path in portraits.iterdir():
            frame = read_picture(path)
            scores = backend.infer(Preprocess(spec.input)([frame]))
            map_hw = Postprocess(spec, [1])(scores[0], (frame.width, frame.height))
            assert map_hw.dtype == np.uint8
            Image.fromarray(map_hw).save(masks / path.name)
    pytest.importorskip("torchmetrics")
    ended = cli(
        "eval", "-m", person_fp32, "--images", portraits, "--masks", masks, "--batch-size", 4,
        "--json", tmp_path / "all.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    report = json.loads((tmp_path / "all.json").read_text())
    assert "TensorRT" in report["backend"]
    assert report["pixel_accuracy"] > 0.999
