"""Frames that stay on a GPU: our kernels against CV-CUDA's operators, and pipelines against their slowest stage alone.

steps      microseconds a frame at batch 8: pre-processing 1080p NV12 to 512x512 fp16, and drawing 21x512x512 scores on
           1080p NV12, ours and CV-CUDA's
rates      frames a second of each stage alone: NVDEC with 1 and 8 streams, the network, libx264 fed from memory; and of
           BMF graphs NvDecSource -> SegmentModule -> a sink that counts, or libx264; and of the sample's steps one
           after the other, each waited for. They take turns, since what else a host does changes from minute to minute
memory     device memory over a long run of 8 streams

    python benchmarks/gpu.py --engine fcn_resnet101.engine [--only ...] [--json benchmarks/results/gpu.json]

The engine is of 21 classes, 512x512, batches of 1 to 8. Everything is measured in one run, medians of --rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOP), str(_TOP / "tests"), str(_TOP / "benchmarks")]

import torch  # noqa: E402

_PARTS = ("steps", "rates", "memory")
_WIDTH, _HEIGHT, _BATCH, _STREAMS = 1920, 1080, 8, 8
_BEGINNING = 100  # frames in which everything is done for the first time
_TIMES_ENCODED = 3  # the clip; a run with an encoder is measured to its end, where decoder and engine are given up
_ENCODER = {"codec": "libx264", "preset": "veryfast", "crf": 23, "vsync": "passthrough", "r": "30"}


class Bench:
    """What the measurements share."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.rounds, self.frames = arguments.rounds, arguments.frames
        self.engine: Path = arguments.engine
        self.folder = folder
        self._clip: Path | None = arguments.clip

    @property
    def clip(self) -> Path:
        """A film of a person, 1080p H.264."""
        if self._clip is None:
            from gpu.networks import write_portrait

            self._clip = write_portrait(self.folder / "clip.mp4", self.frames, (_WIDTH, _HEIGHT), crf=20)
        return self._clip

    def film(self, times: int) -> Path:
        """The clip so many times, without encoding it again."""
        path = self.folder / f"{times}.mp4"
        if not path.exists():
            _write_looped(self.clip, times, path)
        return path


def _us_a_frame(run: Callable[[], Any]) -> tuple[float, bool]:
    """Device time of a call, from CUDA events around many, in microseconds a frame; whether no gap was between them.

    All calls work on the same pictures, part of which the GPU's cache holds, for every way alike. A way that waits for
    the GPU, or of so many launches that they do not fit into its queue, is measured as it comes.
    """
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for calls, is_held in ((50, True), (10, True), (50, False)):
        for _ in range(10):
            run()
        torch.cuda.synchronize()
        if is_held:
            torch.cuda._sleep(1_000_000_000)  # so that the calls are queued before the first one runs
        begin.record()
        for _ in range(calls):
            run()
        is_queued = is_held and not begin.query()
        end.record()
        end.synchronize()
        if is_queued:
            break
    return begin.elapsed_time(end) * 1e3 / calls / _BATCH, is_queued


# ---------------------------------------------------------------------------------------------------------------- steps


def _likely_scores() -> torch.Tensor:
    """(8, 21, 512, 512) float32: a few large regions with soft borders, as a trained network gives them."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn((_BATCH, 21, 9, 9), generator=generator) * 4
    return torch.nn.functional.interpolate(coarse, (512, 512), mode="bicubic").contiguous().cuda()


def measure_steps(bench: Bench) -> dict[str, Any]:
    from cvcuda_chain import MEAN, STD, CvCudaSteps
    from factories import make_spec

    from bmf_trt_seg.cuda_kernels import kernels_for
    from bmf_trt_seg.frames import FramePlanes
    from bmf_trt_seg.overlay import Look
    from bmf_trt_seg.overlay_cuda import CudaOverlay, Drawing
    from bmf_trt_seg.preprocess_cuda import CudaPreprocess

    device = torch.device("cuda", 0)
    kernels = kernels_for(device)
    stream = torch.cuda.current_stream().cuda_stream
    labels = [f"class{index}" for index in range(21)]
    spec = make_spec(
        labels, "softmax", input={"height": 512, "width": 512, "dtype": "float16", "mean": MEAN, "std": STD}
    )

    def nv12() -> FramePlanes:
        whole = torch.randint(16, 235, (_HEIGHT * 3 // 2, _WIDTH), dtype=torch.uint8, device=device)
        chroma = whole[_HEIGHT:].view(_HEIGHT // 2, _WIDTH // 2, 2)
        return FramePlanes("nv12", _WIDTH, _HEIGHT, (whole[:_HEIGHT], chroma))

    frames, targets = [nv12() for _ in range(_BATCH)], [nv12() for _ in range(_BATCH)]
    batch = torch.empty((_BATCH, 3, 512, 512), dtype=torch.float16, device=device)
    stacked = torch.stack(
        [torch.cat([frame.planes[0], frame.planes[1].view(_HEIGHT // 2, _WIDTH)]) for frame in frames]
    )[..., None].contiguous()
    sample = CvCudaSteps((_HEIGHT, _WIDTH), (512, 512), torch.float16)
    scores = _likely_scores()
    colors = {index: f"#{index * 12:02x}80{255 - index * 12:02x}" for index in range(1, 21)}
    look = Look(colors=colors, labels=dict(enumerate(labels)))
    overlay = CudaOverlay(spec, list(colors), 0, None, look, kernels)
    preprocess = CudaPreprocess(spec.input, kernels)
    paint = sample.color(_BATCH, (200, 40, 40))
    halves = scores.half()

    def drawings(of: torch.Tensor) -> list[Drawing]:
        return [Drawing(frame, target, one, None, None) for frame, target, one in zip(frames, targets, of, strict=True)]

    noise = torch.randn((_BATCH, 21, 512, 512), device=device)
    kept = {name: drawings(of) for name, of in (("fp32", scores), ("fp16", halves), ("noise", noise))}
    copied = torch.empty_like(stacked)
    ways: dict[str, Callable[[], Any]] = {
        "preprocess, ours": lambda: preprocess(frames, batch, stream),
        "preprocess, CV-CUDA": lambda: sample.preprocess(stacked),
        "preprocess, CV-CUDA fused": lambda: sample.preprocess_fused(stacked),
        "overlay, ours": lambda: overlay.draw(kept["fp32"], stream),
        "overlay, ours, fp16 scores": lambda: overlay.draw(kept["fp16"], stream),
        "overlay, ours, scores of noise": lambda: overlay.draw(kept["noise"], stream),
        "overlay, CV-CUDA": lambda: sample.draw(stacked, scores, 3, paint),
        "argmax alone, PyTorch": lambda: scores.argmax(1),
        "copy of the frames": lambda: copied.copy_(stacked),
    }
    found: dict[str, Any] = {}
    for name, run in ways.items():
        measured = [_us_a_frame(run) for _ in range(bench.rounds)]
        manner = "" if all(is_queued for _, is_queued in measured) else ", as it comes"
        found[f"{name}{manner}, us a frame"] = round(statistics.median(value for value, _ in measured), 2)
    host = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(100):
            preprocess(frames, batch, stream)
            overlay.draw(kept["fp32"], stream)
        host.append((time.perf_counter() - begin) / 100 / _BATCH * 1e6)
        torch.cuda.synchronize()
    found["both launches, host us a frame"] = round(statistics.median(host), 2)
    return found


# --------------------------------------------------------------------------------------------------------------- stages


def _nvdec_alone(bench: Bench, streams: int) -> float:
    """Frames a second of PyNvVideoCodec's own loop, a thread a stream, without the start of the decoders."""
    import PyNvVideoCodec

    times: list[list[float]] = [[] for _ in range(streams)]

    def decode(kept: list[float]) -> None:
        demuxer = PyNvVideoCodec.CreateDemuxer(filename=str(bench.clip))
        decoder = PyNvVideoCodec.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=True)
        for packet in demuxer:
            for _ in decoder.Decode(packet):
                kept.append(time.perf_counter())

    threads = [threading.Thread(target=decode, args=(kept,)) for kept in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin, end = max(kept[0] for kept in times), min(kept[-1] for kept in times)  # while all of them run
    return sum(begin < moment <= end for kept in times for moment in kept) / (end - begin)


def _network_alone(bench: Bench) -> float:
    """Pictures a second of the engine, batches of 8 in device memory, for as long as 8 streams keep it busy.

    A GPU at the limit of its power is slower after the first second.
    """
    from bmf_trt_seg.backends.tensorrt import TensorRTBackend

    with TensorRTBackend(bench.engine, _spec(bench.engine), batch_size=_BATCH) as backend:
        size = backend.spec.input
        batch = torch.rand((_BATCH, 3, size.height, size.width), device="cuda").to(getattr(torch, size.dtype))
        for _ in range(5):
            backend.infer_on_device(batch)
        torch.cuda.synchronize()
        turns = bench.frames * _STREAMS // _BATCH
        begin = time.perf_counter()
        for _ in range(turns):
            backend.infer_on_device(batch)
        torch.cuda.synchronize()
        return turns * _BATCH / (time.perf_counter() - begin)


def _spec(engine: Path) -> Any:
    from bmf_trt_seg.engine.manifest import read_manifest

    manifest = read_manifest(engine)
    assert manifest is not None
    return manifest.spec


def _x264_alone(bench: Bench) -> float:
    """Frames a second of BMF's encoder node, fed with the pipeline's own pictures from host memory."""
    import graph_nodes

    if not graph_nodes.FromMemory.frames:
        _run(
            [
                _decoder(0, bench.clip, "decoded"),
                _segment(1, bench, "kept", "decoded", "drawn"),
                _node(2, "Keeping", {"name": "kept"}, ["drawn"], [], "graph_nodes.Keeping"),
            ],
            ["kept"],
        )
    nodes = [
        _node(0, "FromMemory", {"count": bench.frames * _TIMES_ENCODED}, [], ["frames"], "graph_nodes.FromMemory"),
        _node(1, "PassingBy", {"name": "x264 alone"}, ["frames"], ["counted"], "graph_nodes.PassingBy"),
        _encoder(2, bench.folder / "alone.mp4", "counted"),
    ]
    return _run(nodes, ["x264 alone"])


# ------------------------------------------------------------------------------------------------------------ pipelines


def _node(
    number: int, name: str, option: dict[str, Any], inputs: list[str], outputs: list[str], entry: str = ""
) -> dict[str, Any]:
    info: dict[str, Any] = {"name": name}
    if entry:
        folder = _TOP / "benchmarks" if entry.startswith("graph_nodes") else _TOP
        info |= {"type": "python", "path": str(folder), "entry": entry}
    return {
        "id": number, "scheduler": number, "module_info": info, "input_manager": "immediate",
        "input_streams": [{"identifier": stream} for stream in inputs],
        "output_streams": [{"identifier": stream} for stream in outputs], "option": option,
    }  # fmt: skip


def _encoder(number: int, path: Path, stream: str) -> dict[str, Any]:
    option = {"output_path": str(path), "format": "mp4", "loglevel": "error", "video_params": _ENCODER}
    return _node(number, "c_ffmpeg_encoder", option, [stream], [])


def _run(nodes: list[dict[str, Any]], sinks: list[str], *, to_end: bool = True) -> float:
    """Frames a second of a graph, without its start: from the first frame at the sink to the end of the run.

    Without `to_end`, of all sinks together while frames come to each of them.
    """
    import graph_nodes

    from bmf_trt_seg.graph import run_graph

    for name in sinks:
        graph_nodes.ARRIVALS[name] = []
    run_graph(
        {
            "mode": "Normal", "input_streams": [], "output_streams": [], "nodes": nodes,
            "option": {"scheduler_count": len(nodes)},
        }
    )  # fmt: skip
    end = time.perf_counter()
    kept = [graph_nodes.ARRIVALS[name] for name in sinks]
    if to_end:
        return (len(kept[0]) - 1) / (end - kept[0][0])
    begin, end = max(times[0] for times in kept), min(times[-1] for times in kept)  # while all streams run
    return sum(begin < moment <= end for times in kept for moment in times) / (end - begin)


def _decoder(number: int, film: Path, stream: str) -> dict[str, Any]:
    option = {"path": str(film), "decoder": "nvdec", "name": stream}
    return _node(number, "NvDecSource", option, [], [stream], "bmf_trt_seg.sources.NvDecSource")


def _segment(number: int, bench: Bench, name: str, source: str, target: str, **values: Any) -> dict[str, Any]:
    option = {"model": str(bench.engine), "batch_size": _BATCH, "name": name, **values}
    return _node(number, "SegmentModule", option, [source], [target], "bmf_trt_seg.module.SegmentModule")


def _on_gpu(bench: Bench, streams: int, times: int = 1) -> float:
    """times: how often each plays the clip."""
    nodes, sinks = [], []
    film = bench.clip if times == 1 else bench.film(times)
    for index in range(streams):
        first, name = 3 * index, f"stream{index}"
        nodes += [
            _decoder(first, film, f"decoded{index}"),
            _segment(first + 1, bench, name, f"decoded{index}", f"drawn{index}", frames_out="device"),
            _node(first + 2, "CountingSink", {"name": name}, [f"drawn{index}"], [], "graph_nodes.CountingSink"),
        ]
        sinks.append(name)
    return _run(nodes, sinks, to_end=False)


def _traced(bench: Bench) -> float:
    from bmf_trt_seg import trace

    trace.start()
    try:
        return _on_gpu(bench, 1)
    finally:
        trace.stop()


def _decoder_node_alone(bench: Bench) -> float:
    nodes = [
        _decoder(0, bench.clip, "decoded"),
        _node(1, "CountingSink", {"name": "decoded"}, ["decoded"], [], "graph_nodes.CountingSink"),
    ]
    return _run(nodes, ["decoded"], to_end=False)


def _to_x264(bench: Bench) -> float:
    nodes = [
        _decoder(0, bench.film(_TIMES_ENCODED), "decoded"),
        _segment(1, bench, "encoded", "decoded", "drawn"),
        _node(2, "PassingBy", {"name": "to x264"}, ["drawn"], ["counted"], "graph_nodes.PassingBy"),
        _encoder(3, bench.folder / "out.mp4", "counted"),
    ]
    return _run(nodes, ["to x264"])


def _step_by_step(bench: Bench, *, encodes: bool) -> float:
    """The sample's steps for each batch of 8, each waited for, then PyAV's libx264 or nothing."""
    import av
    import PyNvVideoCodec
    from cvcuda_chain import CvCudaSteps

    from bmf_trt_seg.backends.tensorrt import TensorRTBackend

    film = bench.film(_TIMES_ENCODED) if encodes else bench.clip
    demuxer = PyNvVideoCodec.CreateDemuxer(filename=str(film))
    decoder = PyNvVideoCodec.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=True)
    spec = _spec(bench.engine)
    sample = CvCudaSteps((_HEIGHT, _WIDTH), (512, 512), getattr(torch, spec.input.dtype))
    paint = sample.color(_BATCH, (200, 40, 40))
    count = 0
    with TensorRTBackend(bench.engine, spec, batch_size=_BATCH) as backend, av.open("/dev/null", "w", "mp4") as sink:
        output = sink.add_stream("libx264", 30, options={"preset": "veryfast", "crf": "23"})
        output.width, output.height, output.pix_fmt = _WIDTH, _HEIGHT, "nv12"
        output.codec_context.thread_type = "AUTO"  # PyAV's own choice would be threads by slices, as BMF has them not
        waiting: list[torch.Tensor] = []
        begin = 0.0
        for packet in demuxer:
            for decoded in decoder.Decode(packet):
                waiting.append(torch.from_dlpack(decoded).clone())
                torch.cuda.synchronize()  # the decoder writes there again at its next call
                if len(waiting) < _BATCH:
                    continue
                batch = torch.stack(waiting).view(_BATCH, _HEIGHT * 3 // 2, _WIDTH, 1)
                waiting = []
                inputs = sample.preprocess(batch)
                torch.cuda.synchronize()
                scores = backend.infer_on_device(inputs)
                torch.cuda.synchronize()
                drawn = sample.draw(batch, scores, 15, paint)
                torch.cuda.synchronize()
                if encodes:
                    for picture in drawn.view(_BATCH, _HEIGHT * 3 // 2, _WIDTH).cpu().numpy():
                        sink.mux(output.encode(av.VideoFrame.from_ndarray(picture, format="nv12")))
                count += _BATCH * (begin > 0)
                begin = begin or time.perf_counter()  # the first batch warms up
        if encodes:
            sink.mux(output.encode(None))
        return count / (time.perf_counter() - begin)


class _HostTime:
    """CPU time of the threads inside our modules' work, without that of their start."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._frames: dict[str, list[int]] = {}

    def watch(self, owner: Any, method: str, name: str, frames: Callable[[Any], int] | None = None) -> None:
        """frames: how many an object has had so far; without it, each call is one."""
        direct, calls = getattr(owner, method), 0
        self._seconds[name], self._frames[name] = 0.0, []

        def timed(this: Any, *given: Any) -> Any:
            nonlocal calls
            before = calls if frames is None else frames(this)
            begin = time.thread_time()
            try:
                return direct(this, *given)
            finally:
                seconds, calls = time.thread_time() - begin, calls + 1
                if before >= _BEGINNING:
                    self._seconds[name] += seconds
                    self._frames[name] += [before, calls if frames is None else frames(this)]

        setattr(owner, method, timed)

    def milliseconds(self) -> dict[str, float]:
        """Of a frame."""
        return {
            f"{name}, host CPU ms a frame": round(seconds / (self._frames[name][-1] - self._frames[name][0]) * 1e3, 3)
            for name, seconds in self._seconds.items()
        }


def measure_rates(bench: Bench) -> dict[str, dict[str, Any]]:
    from bmf_trt_seg.module import SegmentModule
    from bmf_trt_seg.sources.nvdec import NvDecSource
    from bmf_trt_seg.sources.nvdecoder import _PyNvDecoder

    stages: dict[str, Callable[[], float]] = {
        "NVDEC, 1 stream": lambda: _nvdec_alone(bench, 1),
        f"NVDEC, {_STREAMS} streams": lambda: _nvdec_alone(bench, _STREAMS),
        "NvDecSource node": lambda: _decoder_node_alone(bench),
        "network": lambda: _network_alone(bench),
        "libx264": lambda: _x264_alone(bench),
    }
    pipelines: dict[str, Callable[[], float]] = {
        "GPU only, 1 stream": lambda: _on_gpu(bench, 1),
        f"GPU only, {_STREAMS} streams": lambda: _on_gpu(bench, _STREAMS),
        "GPU only, 1 stream, traced": lambda: _traced(bench),
        "to libx264": lambda: _to_x264(bench),
        "step by step, GPU only": lambda: _step_by_step(bench, encodes=False),
        "step by step, to libx264": lambda: _step_by_step(bench, encodes=True),
    }
    rates = _in_turn(bench, {**stages, **pipelines})
    host = _HostTime()
    host.watch(SegmentModule, "work", "SegmentModule", lambda module: module._metrics.frames_in)
    host.watch(NvDecSource, "work", "NvDecSource", lambda module: module._stream.frames_out)
    host.watch(_PyNvDecoder, "decode", "of it in PyNvVideoCodec")
    _on_gpu(bench, 1)
    return {
        "stages": {name: rates[name] for name in stages},
        "pipelines": {**{name: rates[name] for name in pipelines}, **host.milliseconds()},
    }


def _in_turn(bench: Bench, ways: dict[str, Callable[[], float]]) -> dict[str, float | str]:
    """The median rate of each way, or why there is none."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    failed: dict[str, str] = {}
    for turn in range(bench.rounds):
        for name, measure in ways.items():
            try:
                rates[name].append(measure())
            except Exception as error:
                failed[name] = f"failed: {error}"
                traceback.print_exc()
            print(turn + 1, name, rates[name][-1:] or failed[name], flush=True)
    return {name: failed.get(name) or round(statistics.median(rates[name]), 2) for name in ways}


def _write_looped(clip: Path, times: int, target: Path) -> None:
    import av

    with av.open(str(target), "w") as sink:
        output, offset = None, 0
        for _ in range(times):
            with av.open(str(clip)) as source:
                stream = source.streams.video[0]
                output = output or sink.add_stream_from_template(stream)
                last = 0
                for packet in source.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.dts, packet.pts = packet.dts + offset, packet.pts + offset
                    last = max(last, packet.pts + packet.duration)
                    packet.stream = output
                    sink.mux(packet)
                offset = last


def measure_memory(bench: Bench, total: int) -> dict[str, Any]:
    """The most device memory in use in the first and the last third of one run of 8 streams, after its start."""
    import graph_nodes

    times = max(2, round(total / _STREAMS / bench.frames))
    readings: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.wait(0.25):
            frames = sum(map(len, graph_nodes.ARRIVALS.values()))
            free, whole = torch.cuda.mem_get_info()
            readings.append((frames, whole - free))

    graph_nodes.ARRIVALS.clear()
    thread = threading.Thread(target=read)
    thread.start()
    try:
        _on_gpu(bench, _STREAMS, times)
    finally:
        done.set()
        thread.join()
    frames = sum(map(len, graph_nodes.ARRIVALS.values()))
    begin = frames // 20
    thirds = [begin, begin + (frames - begin) // 3, begin + 2 * (frames - begin) // 3, frames + 1]
    first, last = (
        max(used for number, used in readings if thirds[part] <= number < thirds[part + 1]) for part in (0, 2)
    )
    return {"frames": frames, "first third, MiB": first >> 20, "last third, MiB": last >> 20}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure kernels and pipelines on a GPU.")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--only", default=",".join(_PARTS), help=f"some of {','.join(_PARTS)} (default all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=600, help="of the clip (default 600)")
    parser.add_argument("--clip", type=Path, help="a 1080p H.264 clip of so many frames (default: one is made)")
    parser.add_argument("--memory-frames", type=int, default=20_000)
    parser.add_argument("--json", type=Path, default=_TOP / "benchmarks" / "results" / "gpu.json")
    arguments = parser.parse_args()
    os.environ.setdefault("BMF_LOG_LEVEL", "DISABLE")
    import h200

    result: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    result |= {
        "date": date.today().isoformat(), "command": "python benchmarks/gpu.py --engine FCN_RESNET101",
        "machine": h200._machine(), "versions": h200._versions(), "rounds": arguments.rounds,
        "clip": f"{arguments.frames} frames of {_WIDTH}x{_HEIGHT}, H.264", "engine": arguments.engine.name,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments, Path(name))
        measures: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
            "steps": lambda: {"steps": measure_steps(bench)},
            "rates": lambda: measure_rates(bench),
            "memory": lambda: {"memory": measure_memory(bench, arguments.memory_frames)},
        }
        for part in _PARTS:
            if part in arguments.only.split(","):
                for name, found in measures[part]().items():
                    result[name] = {"date": date.today().isoformat(), **found}
                    print(json.dumps({name: result[name]}, indent=1), flush=True)
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
