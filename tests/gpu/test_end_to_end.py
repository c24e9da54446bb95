"""Clips through real BMF graphs: TensorRT against ONNX Runtime, frames on the GPU against frames on the host."""

from __future__ import annotations

import functools
from pathlib import Path

import clips
import jobs
import numpy as np
import pytest
from gpu.figures import note
from gpu.networks import QUICK, TACTICS, engine, node, options

from bmf_trt_seg.graph import check_graph, run_graph
from bmf_trt_seg.spec import ModelSpec, spec_path

torch = pytest.importorskip("torch")

BUILD = {"tactic_sources": TACTICS, "opt_level": QUICK, "tf32": False}


def shown(path):
    """Time and planes of every frame."""
    return [(frame.seconds, frame.planes) for frame in clips.read_clip(path)]


def alike(ours, theirs, tolerance=1):
    """The part of all samples of all planes that differ by no more than the tolerance."""
    same = total = 0
    for (_, our_planes), (_, their_planes) in zip(ours, theirs, strict=True):
        for our, their in zip(our_planes, their_planes, strict=True):
            same += int((np.abs(our.astype(int) - their.astype(int)) <= tolerance).sum())
            total += our.size
    return same / total


@pytest.mark.parametrize(
    ("batch_size", "style"),
    [(1, "blend"), (4, "blend"), (1, "contour"), (4, "contour"), (4, "cutout"), (4, "blur"), (4, "sidebyside")],
)
def test_overlay_is_that_of_onnx_runtime(person, person_fp32, portrait_clip, tmp_path, batch_size, style):
    legend = style == "sidebyside"
    segment = functools.partial(jobs.segment, portrait_clip, style=style, batch_size=batch_size, legend=legend)
    finished = segment(tmp_path / "trt.mp4", model=person_fp32)
    segment(tmp_path / "ort.mp4", model=person)
    source, ours, theirs = (shown(path) for path in (portrait_clip, tmp_path / "trt.mp4", tmp_path / "ort.mp4"))
    assert finished.frames == len(ours) == len(source) == 40
    assert [seconds for seconds, _ in ours] == [seconds for seconds, _ in source]
    if style != "sidebyside":
        assert alike(source, ours) < 0.999, "nothing was drawn"
    agreement = alike(ours, theirs)
    note(f"overlay {style}, batch {batch_size}", within_one_level=agreement, frames=len(ours))
    assert agreement >= 0.995


@pytest.mark.parametrize("count", [1, 7, 30])
def test_masks_are_those_of_the_generated_boxes(bright, tmp_path, monkeypatch, count):
    if count == 1:
        monkeypatch.setenv("BMF_TRT_SEG_ENGINES", str(tmp_path / "engines"))  # so that the engine is built by the graph
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=count, b_frames=2 if count > 2 else 0)
    finished = jobs.segment(
        clip,
        tmp_path / "out.mp4",
        bright,
        backend="tensorrt",
        build=BUILD,
        batch_size=4,
        records=tmp_path / "out.jsonl",
    )
    assert finished.frames == count
    if count == 1:
        assert len(list((tmp_path / "engines").glob("bright.fp32.*.engine"))) == 1
    assert clips.times(tmp_path / "out.mp4") == clips.times(clip)
    for number, record in enumerate(jobs.read_records(tmp_path / "out.jsonl")):
        width, height = clips.SIZE_WH
        rows, columns = clips.box(number, width, height)
        wanted = (rows.stop - rows.start) * (columns.stop - columns.start) / (width * height)
        share = {found["label"]: found["share"] for found in record["classes"]}["box"]
        assert share == pytest.approx(wanted, rel=0.02)


def test_engine_by_name_brings_its_description(bright, tmp_path):
    """The manifest carries it: no description lies beside the engine."""
    path = engine(bright, target=tmp_path / "alone.engine").path
    assert not spec_path(path).exists()
    clip = clips.write_clip(tmp_path / "clip.mp4", frames=5)
    assert jobs.segment(clip, tmp_path / "out.mp4", path).frames == 5


def graph_over_nv12(clip: Path, model: Path, folder: Path, name: str, *, on_gpu: bool, **values):
    """decoder -> NV12, on the GPU or not -> SegmentModule -> a file of pts and luma, and one of masks."""
    here = str(Path(__file__).parent)
    ours = {"type": "python", "path": str(Path(here).parents[1])}
    nodes = [
        node(0, "c_ffmpeg_decoder", {"input_path": str(clip), "copyts": 1, "loglevel": "error"}, [], ["video:decoded"]),
        node(1, "ToNv12", {"cuda": int(on_gpu)}, ["video:decoded"], ["uploaded"], type="python", path=here,
             entry="modules.ToNv12"),
        node(2, "SegmentModule", {"model": str(model), **values}, ["uploaded"], ["drawn", "records"],
             entry="bmf_trt_seg.module.SegmentModule", **ours),
        node(3, "Collect", {"path": str(folder / f"{name}.npz")}, ["drawn"], [], type="python", path=here,
             entry="modules.Collect"),
        node(4, "RecordSink", {"masks": str(folder / name)}, ["records"], [], entry="bmf_trt_seg.sinks.RecordSink",
             **ours),
    ]  # fmt: skip
    graph = {"mode": "Normal", "input_streams": [], "output_streams": [], "option": {"scheduler_count": len(nodes)}}
    graph["nodes"] = nodes
    assert check_graph(graph) == []
    run_graph(graph)
    with np.load(folder / f"{name}.npz") as saved:
        return saved["pts"], saved["planes"], masks_of(folder / name)


def masks_of(folder):
    import cv2

    return np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.glob("*.png"))])


@pytest.mark.parametrize("batch_size", [1, 4])
def test_frames_on_the_gpu_give_the_same_masks(person, person_fp32, portrait_clip, tmp_path, monkeypatch, batch_size):
    from bmf_trt_seg.cuda_queue import CudaQueue

    uploads = []
    direct = CudaQueue.upload
    monkeypatch.setattr(CudaQueue, "upload", lambda self, plane: uploads.append(plane.shape) or direct(self, plane))
    results = {
        on_gpu: graph_over_nv12(
            portrait_clip, person_fp32, tmp_path, f"gpu{on_gpu}", on_gpu=on_gpu, batch_size=batch_size
        )
        for on_gpu in (False, True)
    }
    assert len(uploads) == 2 * 40, "frames of the GPU were uploaded, or those of the host were not"
    (host_pts, host_luma, host_masks), (gpu_pts, gpu_luma, gpu_masks) = results[False], results[True]
    assert len(gpu_pts) == len(gpu_masks) == 40
    np.testing.assert_array_equal(gpu_pts, host_pts)
    agreement = float((gpu_masks == host_masks).mean())
    luma = float((np.abs(gpu_luma.astype(int) - host_luma) <= 1).mean())
    note(f"frames on the GPU, batch {batch_size}", masks_equal=agreement, luma_within_one_level=luma)
    assert 0.02 < (host_masks == 1).mean() < 0.98
    assert agreement >= 0.995


def test_engines_description_is_that_of_the_onnx_file(person, person_fp32):
    from bmf_trt_seg.engine.manifest import read_manifest

    manifest = read_manifest(person_fp32)
    assert manifest.spec == ModelSpec.read(spec_path(person))
    assert manifest.options == options()
