"""Graphs whose frames stay on the GPU: nothing waits for it on the way, no memory is lost, order and times are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu.networks import node

torch = pytest.importorskip("torch")


def nodes_over_nv12(clip: Path, model: Path, result: Path, **values):
    """decoder -> NV12 on the GPU -> SegmentModule -> the host -> a file of pts and luma."""
    here, top = str(Path(__file__).parent), str(Path(__file__).parents[2])
    return [
        node(0, "c_ffmpeg_decoder", {"input_path": str(clip), "copyts": 1, "loglevel": "error"}, [], ["video:decoded"]),
        node(1, "ToNv12", {"cuda": 1}, ["video:decoded"], ["uploaded"], type="python", path=here,
             entry="modules.ToNv12"),
        node(2, "SegmentModule", {"model": str(model), **values}, ["uploaded"], ["drawn"], type="python", path=top,
             entry="bmf_trt_seg.module.SegmentModule"),
        node(3, "Collect", {"path": str(result)}, ["drawn"], [], type="python", path=here, entry="modules.Collect"),
    ]  # fmt: skip


def run(clip, model, result, **values):
    from bmf_trt_seg.graph import run_graph

    nodes = nodes_over_nv12(clip, model, result, **values)
    run_graph({"mode": "Normal", "input_streams": [], "output_streams": [], "nodes": nodes,
               "option": {"scheduler_count": len(nodes)}})  # fmt: skip
    with np.load(result) as saved:
        return saved["pts"], saved["planes"]


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("frames_out", ["host", "device"])
def test_order_and_pictures(person_fp16, portrait_clip, tmp_path, frames_out, in_flight):
    values = {"batch_size": 4, "max_in_flight": in_flight, "frames_out": frames_out}
    pts, luma = run(portrait_clip, person_fp16, tmp_path / "one.npz", **values)
    plain_pts, plain_luma = run(portrait_clip, person_fp16, tmp_path / "plain.npz", batch_size=4)
    assert len(pts) == 40
    assert (np.diff(pts) > 0).all()
    np.testing.assert_array_equal(pts, plain_pts)
    np.testing.assert_array_equal(luma, plain_luma)
    assert len({plane.tobytes() for plane in luma}) > 30, "frames repeat"


@pytest.mark.parametrize(
    "values",
    [{}, {"style": "contour"}, {"style": "blur"}, {"interval": 3}, {"smoothing": 0.5}, {"legend": True}],
    ids=str,
)
@pytest.mark.parametrize("frames_out", ["host", "device"])
def test_nothing_waits_for_the_gpu(person_fp16, portrait_clip, tmp_path, monkeypatch, values, frames_out):
    """PyTorch raises where an operator would wait; what waits on purpose is counted, a batch each."""
    from bmf_trt_seg.module import SegmentModule

    whole, waited, direct = [], [], SegmentModule.work
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *given: whole.append(given))
    wait = torch.cuda.Event.synchronize
    monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda event: waited.append(event) or wait(event))

    def watched(module, task):
        torch.cuda.set_sync_debug_mode("error")
        try:
            direct(module, task)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(SegmentModule, "work", watched)
    pts, _ = run(
        portrait_clip, person_fp16, tmp_path / "out.npz", batch_size=4, frames_out=frames_out, max_in_flight=2, **values
    )
    assert len(pts) == 40
    assert not whole
    assert len(waited) <= (20 if "legend" in values else 14 if "interval" in values else 10)


def test_no_memory_is_lost(person_fp16, portrait_clip, tmp_path):
    def once():
        run(portrait_clip, person_fp16, tmp_path / "out.npz", batch_size=4, frames_out="device", style="blur")
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free

    for _ in range(2):
        once()
    before = once()
    for _ in range(3):
        after = once()
    assert after - before <= 2 << 20


def test_a_failure_on_the_gpu_ends_the_graph(person_fp16, portrait_clip, tmp_path, monkeypatch):
    from bmf_trt_seg.errors import EngineError
    from bmf_trt_seg.pipeline_cuda import CudaPipeline

    def broken(self, *given):
        raise RuntimeError("CUDA error: misaligned address\nand more")

    monkeypatch.setattr(CudaPipeline, "_filled", broken)
    with pytest.raises(EngineError, match=r"failed on pictures on the GPU: CUDA error: misaligned address$"):
        run(portrait_clip, person_fp16, tmp_path / "out.npz", batch_size=4)


def test_the_trace_shows_what_the_gpu_does():
    from bmf_trt_seg import metrics, trace

    counts, queue = metrics.open_stream("traced"), torch.cuda.Stream()
    torch.cuda._sleep(1_000_000)
    tracing = trace.start()
    try:
        for number in range(3):
            with counts.stage("infer", on=queue, frame=number), torch.cuda.stream(queue):
                torch.cuda._sleep(20_000_000)  # clock cycles, some 10 ms
            torch.cuda.synchronize()
        spans = tracing.spans()
    finally:
        trace.stop()
    on_host = [span for span in spans if span.row == "infer"]
    on_gpu = [span for span in spans if span.row == "infer (GPU)"]
    assert len(on_host) == len(on_gpu) == 3
    for host, device in zip(on_host, on_gpu, strict=True):
        assert abs(device.begin_ns - host.begin_ns) < 2_000_000
        assert device.end_ns - device.begin_ns > 5 * (host.end_ns - host.begin_ns)


def test_a_traced_run_has_all_rows(person_fp16, portrait_clip, tmp_path):
    from bmf_trt_seg import trace

    tracing = trace.start()
    try:
        run(portrait_clip, person_fp16, tmp_path / "out.npz", batch_size=4, name="traced")
        torch.cuda.synchronize()
        rows = {span.row for span in tracing.spans() if span.stream == "traced"}
    finally:
        trace.stop()
    stages = {"preprocess", "infer", "overlay", "copy"}
    assert rows >= stages | {f"{stage} (GPU)" for stage in stages} | {"input wait", "output"}
