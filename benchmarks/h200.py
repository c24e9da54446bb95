"""The GPU tests, and the TensorRT backend's speed against a bare loop and PyTorch. One command, one result file.

tests   pytest tests/gpu, with the agreement that it finds
speed   for each network, precision and batch: milliseconds a batch of
          bare         execute_async_v3 in a loop, nothing else
          bare graph   the same recorded as a CUDA graph, replayed
          direct       our infer_on_device, CUDA graphs off
          backend      our infer_on_device, as it is
        in turn, several rounds, medians; latencies with a wait after each call; PyTorch's times from torch_timings.json
video   a 1080p clip through `segment`, TensorRT against ONNX Runtime on the CPU

    python benchmarks/h200.py --networks FOLDER [--only tests,speed,video] [--json benchmarks/results/h200.json]

FOLDER is what benchmarks/export_networks.py wrote. Parts that are left out keep what the result file says of them.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOP), str(_TOP / "tests")]

_PARTS = ("tests", "speed", "video")
_BATCHES = (1, 4, 8)
_CLIP_FRAMES, _CLIP_ROUNDS = 300, 3


def run_tests(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report, figures = Path(folder, "report.xml"), Path(folder, "figures.json")
        command = [
            sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}",
            "-p", "pytest_timeout", "--tb=short", "--durations=15", *arguments.pytest,
        ]  # fmt: skip
        begin = time.monotonic()
        environment = {
            **os.environ, "BMF_TRT_SEG_NEEDS_GPU": "1", "BMF_TRT_SEG_FIGURES": str(figures),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # what else is installed there is not ours
        }  # fmt: skip
        code = subprocess.run(command, cwd=_TOP, env=environment, check=False).returncode
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        failed = []
        for case in ElementTree.parse(report).getroot().iter("testcase") if report.exists() else ():
            kinds = {child.tag for child in case}
            kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            counts[kind] += 1
            if kind == "failed":
                failed.append(f"{case.get('classname')}::{case.get('name')}")
        result["tests"] = {
            "command": "pytest tests/gpu", "exit_code": code, **counts, "failures": failed,
            "seconds": round(time.monotonic() - begin),
        }  # fmt: skip
        result["figures"] = json.loads(figures.read_text()) if figures.exists() else {}


# ---------------------------------------------------------------------------------------------------------------- speed


class Bare:
    """The least that runs an engine: a context, addresses, a stream."""

    def __init__(self, plan: Path, name: str, batch: Any, *, graph: bool) -> None:
        import tensorrt as trt
        import torch

        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        self._context = self._engine.create_execution_context()
        self.stream = torch.cuda.Stream()
        self._kept = [batch]
        self._context.set_input_shape(name, tuple(batch.shape))
        self._context.set_tensor_address(name, batch.data_ptr())
        for index in range(self._engine.num_io_tensors):
            output = self._engine.get_tensor_name(index)
            if self._engine.get_tensor_mode(output) == trt.TensorIOMode.OUTPUT:
                values = torch.empty(tuple(self._context.get_tensor_shape(output)), device="cuda")
                self._context.set_tensor_address(output, values.data_ptr())
                self._kept.append(values)
        execute, handle = self._context.execute_async_v3, self.stream.cuda_stream
        execute(handle)
        self.stream.synchronize()
        self.run: Callable[[], Any] = lambda: execute(handle)
        if graph:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded, stream=self.stream):
                execute(handle)
            self.run = recorded.replay


def measure_speed(arguments: argparse.Namespace, result: dict[str, Any], save: Callable[[], None]) -> None:
    from gpu.networks import build_of, engine

    from bmf_trt_seg.models import catalog

    folder = arguments.networks
    torch_file = folder / "torch_timings.json" if folder else None
    in_torch = json.loads(torch_file.read_text()) if torch_file and torch_file.exists() else {}
    models = {"person": catalog.find("person")}
    for name in ("fcn_resnet101", "segformer_b4"):
        if folder and (folder / f"{name}.onnx").exists():
            models[name] = folder / f"{name}.onnx"
    rows, engines = result.setdefault("speed", {}), result.setdefault("engines", {})
    result["torch"] = in_torch.get("torch")
    for name, model in models.items():
        for precision in ("fp16", "fp32"):
            label = f"{name} {precision}"
            made = engine(model, build=build_of(name, precision))  # the tests' own; those of fp32 have no TF32
            engines[label] = _engine_facts(made)
            for batch in _BATCHES:
                row = _speed_of(made, batch, arguments)
                if precision == "fp16":  # PyTorch's fp32 times are with TF32
                    row |= _against_torch(row, in_torch.get(name, {}), precision, batch)
                rows[f"{label} batch {batch}"] = row
                save()
                _print_row(f"{label} batch {batch}", row)


def _engine_facts(made: Any) -> dict[str, Any]:
    from bmf_trt_seg.engine.loading import load_engine

    manifest = made.manifest if made.manifest.plan_bytes else None
    if manifest is None:
        from bmf_trt_seg.engine.manifest import read_manifest

        manifest = read_manifest(made.path)
    loaded = load_engine(made.path)
    return {
        "build_seconds": manifest.build_seconds,
        "opt_level": manifest.options.opt_level if manifest.options.opt_level is not None else "default",
        "tf32": manifest.options.tf32,
        "plan_mb": round(manifest.plan_bytes / 1e6, 1),
        "context_mb": round(loaded.library.context_memory_bytes(loaded.engine) / 1e6, 1),
    }


def _speed_of(made: Any, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from bmf_trt_seg.backends.tensorrt import TensorRTBackend

    spec = made.manifest.spec
    shape = (size, 3, spec.input.height, spec.input.width)
    batch = torch.rand(shape, generator=torch.Generator().manual_seed(0)).cuda()
    backends = []
    for graphs in (False, True):
        backend = TensorRTBackend(made.path, spec, batch_size=size)
        backend.use_cuda_graphs = graphs
        backends.append(backend.open())
    bare = {graph: Bare(made.path, spec.input.name, batch, graph=graph) for graph in (False, True)}
    ways: dict[str, Callable[[], Any]] = {
        "bare": bare[False].run,
        "bare graph": bare[True].run,
        "direct": lambda: backends[0].infer_on_device(batch),
        "backend": lambda: backends[1].infer_on_device(batch),
    }
    counts = {}
    for way, run in ways.items():
        _loop(run, 10)
        counts[way] = max(10, round(arguments.seconds / (_loop(run, 10) / 1e3)))
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(arguments.rounds):
        order = list(ways.items())
        for way, run in order if turn % 2 == 0 else order[::-1]:
            taken[way].append(_loop(run, counts[way]))
    row: dict[str, Any] = {f"{way} ms": round(statistics.median(times), 4) for way, times in taken.items()}
    row["pictures a second"] = round(size * 1e3 / row["backend ms"], 1)
    # ratios of throughput: 1 is as fast as the bare loop
    row["direct / bare"] = round(row["bare ms"] / row["direct ms"], 3)
    row["backend / bare"] = round(row["bare ms"] / row["backend ms"], 3)
    row["backend / bare graph"] = round(row["bare graph ms"] / row["backend ms"], 3)
    row["is recorded"] = backends[1]._graph is not None
    on_host = batch.cpu().numpy()
    row["latency us, on the GPU"] = _latency(lambda: _waited(backends[1], batch), arguments.seconds)
    row["latency us, from the host"] = _latency(lambda: backends[1].infer(on_host), arguments.seconds)
    for backend in backends:
        backend.close()
    del bare, ways
    gc.collect()
    torch.cuda.empty_cache()
    return row


def _loop(run: Callable[[], Any], count: int) -> float:
    """Milliseconds a call, everything done at the end."""
    import torch

    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / count * 1e3


def _waited(backend: Any, batch: Any) -> None:
    import torch

    backend.infer_on_device(batch)
    torch.cuda.current_stream().synchronize()


def _latency(run: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Percentiles of the time of a call, in microseconds, of at least 200 calls."""
    taken: list[float] = []
    for _ in range(5):
        run()
    end = time.perf_counter() + seconds
    while len(taken) < 200 or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        taken.append((time.perf_counter() - begin) * 1e6)
    ranked = sorted(taken)
    return {f"p{part}": round(ranked[min(len(ranked) - 1, len(ranked) * part // 100)], 1) for part in (50, 95, 99)}


def _against_torch(row: dict[str, Any], known: dict[str, Any], precision: str, batch: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for way, times in known.items():
        if way.startswith(precision) and str(batch) in times:
            name = way.removeprefix(f"{precision} ")
            found[f"torch {name} ms"] = times[str(batch)]
            found[f"torch {name} / backend"] = round(times[str(batch)] / row["backend ms"], 2)
    return found


def _print_row(label: str, row: dict[str, Any]) -> None:
    times = "  ".join(f"{way} {row[f'{way} ms']:8.3f}" for way in ("bare", "bare graph", "direct", "backend"))
    torch = "  ".join(f"{key.removesuffix(' / backend')} x{row[key]}" for key in row if key.endswith(" / backend"))
    print(
        f"{label:28} {times}  /bare {row['backend / bare']:.3f} direct {row['direct / bare']:.3f}  {torch}", flush=True
    )


# ---------------------------------------------------------------------------------------------------------------- video


def measure_video(result: dict[str, Any]) -> None:
    import jobs
    from gpu.networks import build_of, engine, write_portrait

    from bmf_trt_seg.models import catalog
    from bmf_trt_seg.transcode import Encoding

    model = catalog.find("person")
    ways: dict[str, dict[str, Any]] = {
        "tensorrt fp16": {"model": engine(model, build=build_of("person", "fp16")).path, "batch_size": 8},
        "onnxruntime, 1 thread": {"model": model},
    }
    with tempfile.TemporaryDirectory() as name:
        clip = write_portrait(Path(name, "clip.mp4"), _CLIP_FRAMES, (1920, 1080), crf=20)
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(_CLIP_ROUNDS + 1):  # the first warms up
            for way, options in ways.items():
                begin = time.perf_counter()
                finished = jobs.segment(clip, Path(name, "out.mp4"), encoding=Encoding(), **options)
                seconds = time.perf_counter() - begin
                assert finished.frames == _CLIP_FRAMES
                if turn:
                    rates[way].append(finished.frames / seconds)
    result["video"] = {
        "clip": f"{_CLIP_FRAMES} frames of 1920x1080, person model, libx264 veryfast crf 23, loading included",
        **{f"{way} fps": round(statistics.median(each), 1) for way, each in rates.items()},
    }
    print(result["video"], flush=True)


# --------------------------------------------------------------------------------------------------------------- report


def _summary(rows: dict[str, Any]) -> dict[str, Any]:
    """The numbers that are asked for: throughput against the bare loop, and against PyTorch."""
    found: dict[str, Any] = {}
    for ratio in ("backend / bare", "direct / bare", "backend / bare graph"):
        ranked = sorted((row[ratio], label) for label, row in rows.items())
        if ranked:
            found[f"{ratio}, least"] = {"ratio": ranked[0][0], "of": ranked[0][1]}
    for label, row in rows.items():
        if label.startswith("fcn_resnet101 fp16"):
            found[f"{label}, times as fast as torch"] = {
                key.removeprefix("torch ").removesuffix(" / backend"): value
                for key, value in row.items()
                if key.endswith(" / backend")
            }
    return found


def _command() -> str:
    level = os.environ.get("BMF_TRT_SEG_QUICK_LEVEL")
    return f"{f'BMF_TRT_SEG_QUICK_LEVEL={level} ' if level else ''}python benchmarks/h200.py --networks FOLDER"


def _machine() -> dict[str, Any]:
    import torch

    fields = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    driver = fields.stdout.strip().splitlines()[0].rpartition(", ")[2] if fields.stdout.strip() else "unknown"
    return {
        "gpu": torch.cuda.get_device_name(),
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": driver,
        "cpu_cores": os.cpu_count(),
    }


def _versions() -> dict[str, str]:
    import bmf
    import tensorrt
    import torch

    found = {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda),
        "tensorrt": tensorrt.__version__, "bmf": str(getattr(bmf, "__version__", "")),
    }  # fmt: skip
    for name in ("BabitMF_GPU", "BabitMF", "onnxruntime", "numpy", "av"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {name: version for name, version in found.items() if version}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the GPU tests and measure the TensorRT backend.")
    parser.add_argument("--networks", type=Path, help="what export_networks.py wrote (default $BMF_TRT_SEG_NETWORKS)")
    parser.add_argument("--engines", type=Path, help="where engines are kept (default $BMF_TRT_SEG_ENGINES)")
    parser.add_argument("--only", default=",".join(_PARTS), help=f"some of {','.join(_PARTS)} (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default 5)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each way in a turn (default 0.2)")
    parser.add_argument("--pytest", action="append", default=[], metavar="ARG", help="for pytest, as in --pytest=-x")
    parser.add_argument("--json", type=Path, default=_TOP / "benchmarks" / "results" / "h200.json")
    arguments = parser.parse_args()
    parts = [part for part in _PARTS if part in arguments.only.split(",")]
    for name, value in (("NETWORKS", arguments.networks), ("ENGINES", arguments.engines)):
        if value:
            os.environ[f"BMF_TRT_SEG_{name}"] = str(value.absolute())
    if os.environ.get("BMF_TRT_SEG_NETWORKS"):
        arguments.networks = Path(os.environ["BMF_TRT_SEG_NETWORKS"])
    if not os.environ.get("BMF_TRT_SEG_ENGINES"):
        os.environ["BMF_TRT_SEG_ENGINES"] = tempfile.mkdtemp(prefix="engines-")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    head = {
        "date": date.today().isoformat(),
        "command": _command(),
        "machine": _machine(),
        "versions": _versions(),
        "rounds": arguments.rounds,
    }
    result = {**head, **{key: value for key, value in result.items() if key not in head}}

    def save() -> None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    print(json.dumps(head), flush=True)
    if "tests" in parts:
        run_tests(arguments, result)
        save()
        print(json.dumps(result["figures"], indent=1), flush=True)
    if "speed" in parts:
        measure_speed(arguments, result, save)
        result["summary"] = _summary(result["speed"])
        save()
        print(json.dumps(result["summary"], indent=1), flush=True)
    if "video" in parts:
        measure_video(result)
        save()
    tests = result.get("tests", {})
    print({key: tests.get(key) for key in ("passed", "failed", "skipped", "failures", "seconds")})
    sys.exit(1 if "tests" in parts and tests.get("exit_code") else 0)


if __name__ == "__main__":
    main()
