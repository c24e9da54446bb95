"""What `bmf-trt-seg batch` costs and gains, by its own command line:

overhead   short films with one worker, against a shell loop of `bmf-trt-seg segment`: seconds of the whole command
scaling    as many films with one and with two workers of one CPU and one thread each; beside it, what two such
           processes without Ray reach at once: the most that this machine gives
gpus       films with 1, 2, ... workers of a GPU each (--gpus 1,2,4 --model ENGINE), on a machine that has them

    python benchmarks/batch.py [--only overhead scaling] [--rounds 3] [--json benchmarks/results/batch.json]
    python benchmarks/batch.py --gpus 1,2,4 --model fcn_resnet101.engine --batch-size 8 --json gpus.json

Ways take turns, in the reverse order every other round; medians are shown, and of ratios the median of those of each
round. 'seconds' are those of the whole command, Ray's start and end in them; 'working seconds' begin when workers are
asked for and end when they have been ended; 'frames a second' are by these where there are any. Parts that --json has
from before and that are not measured stay in it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parents[1]
_PACKAGES = ("ray", "BabitMF", "BabitMF-GPU", "onnxruntime", "tensorrt", "av", "numpy")
_PROGRAM = [sys.executable, "-m", "bmf_trt_seg.cli.main"]
_PARTS = ("overhead", "scaling")


@dataclass
class Run:
    """One way of doing all films."""

    seconds: float
    working_seconds: float | None = None
    load: float = 0.0
    """Of the machine in the minute before."""


Way = Callable[[Path], Run]


class Bench:
    """What the measurements share."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder = folder
        self.rounds: int = arguments.rounds
        self.quiet: float | None = arguments.quiet
        self.flags = ["-m", arguments.model, "--preset", arguments.preset, "--crf", "23"]
        self.flags += ["--batch-size", str(arguments.batch_size)]

    def films(self, name: str, count: int, frames: int, size_wh: tuple[int, int]) -> Path:
        """A folder with so many equal films."""
        folder = self.folder / name
        folder.mkdir()
        first = folder / "film000.mp4"
        _write_film(first, frames, size_wh)
        for number in range(1, count):
            shutil.copyfile(first, folder / f"film{number:03d}.mp4")
        return folder

    def batch(self, films: Path, *more: str) -> Way:
        """`batch` on these films."""

        def run(target: Path) -> Run:
            seconds = _timed([*_PROGRAM, "batch", str(films), "-o", str(target), *self.flags, *more])
            report = json.loads((target / "batch-report.json").read_text(encoding="utf-8"))
            assert report["counts"]["done"] == len(list(films.iterdir())), report["counts"]
            return Run(seconds, report["seconds"])

        return run

    def loop(self, films: Path) -> Way:
        """A shell that calls `segment` for one film after the other."""

        def run(target: Path) -> Run:
            target.mkdir()
            program = " ".join(_PROGRAM)
            flags = " ".join(self.flags)
            script = (
                f'set -e; for film in "$1"/*; do {program} segment "$film" -o "$2/$(basename "$film")" {flags}; done'
            )
            return Run(_timed(["sh", "-c", script, "loop", str(films), str(target)]))

        return run

    def measured(self, ways: dict[str, Way]) -> dict[str, list[Run]]:
        """Each way so often, in turn."""
        runs: dict[str, list[Run]] = {name: [] for name in ways}
        for number in range(self.rounds):
            while self.quiet is not None and os.getloadavg()[0] > self.quiet:
                time.sleep(2)
            for name in ways if number % 2 == 0 else reversed(ways):
                target = self.folder / "out"
                load = os.getloadavg()[0]
                runs[name].append(replace(ways[name](target), load=round(load, 2)))
                shutil.rmtree(target)
                print(f"round {number + 1}, {name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr)
        return runs


def _write_film(path: Path, frames: int, size_wh: tuple[int, int]) -> None:
    """A pattern that moves, 30 frames a second, H.264."""
    import av
    import numpy as np

    width, height = size_wh
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    noise = np.random.default_rng(1).integers(0, 12, (height, width))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        chroma = np.full((height // 2, width), 128, np.uint8)
        for number in range(frames):
            wave = 90 + 60 * np.sin((x + 3 * number) / 40) + 40 * np.cos((y - 2 * number) / 30)
            luma = (wave + np.roll(noise, number, axis=1)).clip(16, 235).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.concatenate([luma, chroma]), format="yuv420p")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _timed(command: list[str]) -> float:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TOP), os.environ.get("PYTHONPATH", "")])}
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"bench: {' '.join(command[:6])} ... failed:\n{done.stderr}")
    return seconds


def overhead(bench: Bench) -> dict[str, Any]:
    """Many short films with one worker, and in a shell loop."""
    count, frames, size = 50, 60, (640, 360)
    films = bench.films("short", count, frames, size)
    runs = bench.measured({"shell loop": bench.loop(films), "batch": bench.batch(films, "--workers", "1")})
    rows = _rows(runs, count * frames)
    return {
        "films": f"{count} of {frames} frames, {size[0]}x{size[1]}",
        "ways": rows,
        "batch takes, of the loop's seconds": _ratio(runs, "batch", "shell loop"),
    }


def scaling(bench: Bench) -> dict[str, Any]:
    """One and two workers of one thread each."""
    count, frames, size = 8, 300, (1280, 720)
    films = bench.films("long", count, frames, size)
    some, *halves = (bench.folder / name for name in ("some", "half0", "half1"))
    for number, path in enumerate(sorted(films.iterdir())[: count // 2]):
        for folder in (some, halves[number % 2]):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / path.name)
    one_thread = ("--cpus-per-worker", "1", "--decoder", "ffmpeg")

    def in_process(*folders: Path) -> Way:
        def run(target: Path) -> Run:
            target.mkdir()
            command = [sys.executable, __file__, "--alone", bench.flags[1]]
            processes = [
                subprocess.Popen([*command, str(folder), str(target)], stdout=subprocess.PIPE, text=True)
                for folder in folders
            ]
            return Run(max(float(process.communicate()[0]) for process in processes))

        return run

    runs = bench.measured(
        {
            "1 worker": bench.batch(films, "--workers", "1", *one_thread),
            "2 workers": bench.batch(films, "--workers", "2", *one_thread),
            "1 process without Ray": in_process(some),
            "2 processes without Ray": in_process(*halves),
        }
    )
    rows = _rows(runs, count * frames)
    for name in ("1 process without Ray", "2 processes without Ray"):
        rows[name]["frames a second"] /= 2  # they do half of the films
    return {
        "films": f"{count} of {frames} frames, {size[0]}x{size[1]}; half of them without Ray",
        "ways": rows,
        "2 workers, times as fast": _ratio(runs, "1 worker", "2 workers", working=True),
        "2 workers, times as fast, Ray's start counted in": _ratio(runs, "1 worker", "2 workers"),
        "2 processes without Ray, times as fast": _ratio(runs, "1 process without Ray", "2 processes without Ray"),
    }


def gpus(bench: Bench, counts: list[int], films: int, frames: int) -> dict[str, Any]:
    """The same films with so many GPUs."""
    size = (1920, 1080)
    folder = bench.films("films", films, frames, size)
    ways = {f"{count} GPU{'s' * (count > 1)}": bench.batch(folder, "--workers", str(count)) for count in counts}
    runs = bench.measured(ways)
    rows = _rows(runs, films * frames)
    first = next(iter(rows))
    ratios = {
        f"{name}, times as fast as {first}": _ratio(runs, first, name, working=True) for name in rows if name != first
    }
    return {"films": f"{films} of {frames} frames, {size[0]}x{size[1]}", "ways": rows, **ratios}


def _rows(runs: dict[str, list[Run]], frames: int) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, measured in runs.items():
        seconds = [run.seconds for run in measured]
        working = [run.working_seconds for run in measured if run.working_seconds is not None]
        rows[name] = {
            "seconds": round(statistics.median(seconds), 2),
            "rounds": [round(value, 2) for value in seconds],
            "load before": [run.load for run in measured],
            **({"working seconds": round(statistics.median(working), 2)} if working else {}),
            "frames a second": round(frames / statistics.median(working or seconds), 1),
        }
    return rows


def _ratio(runs: dict[str, list[Run]], one: str, other: str, working: bool = False) -> dict[str, Any]:
    """Seconds of one way by those of another, in each round: what else the machine does changes from round to round."""

    def seconds(run: Run) -> float:
        return run.working_seconds if working and run.working_seconds is not None else run.seconds

    ratios = [seconds(first) / seconds(second) for first, second in zip(runs[one], runs[other], strict=True)]
    return {"median": round(statistics.median(ratios), 3), "rounds": [round(ratio, 3) for ratio in ratios]}


def _alone(model: str, films: Path, target: Path) -> None:
    """One process without Ray: print the seconds that its films take, the network loaded before."""
    from bmf_trt_seg.options import read_options
    from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video

    paths = sorted(films.iterdir())
    began = 0.0
    for number, path in enumerate([paths[0], *paths]):
        if number == 1:  # the first time is for imports
            began = time.perf_counter()
        options = read_options({"model": model})
        segment_video(VideoJob(path, target / path.name, options, Encoding(), decoder="ffmpeg", cpu_threads=1))
    print(time.perf_counter() - began)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"processor": name, "cpu_cores": os.cpu_count(), **_gpu_names()}


def _gpu_names() -> dict[str, Any]:
    if shutil.which("nvidia-smi") is None:
        return {}
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return {"gpus": subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[:-1]}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what 'bmf-trt-seg batch' costs and gains.")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="parts to measure")
    parser.add_argument("--gpus", help="numbers of GPUs to measure instead, as 1,2,4")
    parser.add_argument("--films", type=int, default=32, help="films for --gpus (default 32)")
    parser.add_argument("--frames", type=int, default=600, help="frames of each of them (default 600)")
    parser.add_argument("--model", default="person", help="network (default person)")
    parser.add_argument("--batch-size", type=int, default=1, help="frames in one inference (default 1)")
    parser.add_argument("--preset", default="veryfast", help="libx264's for batch and loop (default veryfast)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--quiet", type=float, help="begin each round when the load of the last minute is below this")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        model, films, target = arguments.alone
        sys.path.insert(0, str(_TOP))
        _alone(model, Path(films), Path(target))
        return
    result: dict[str, Any] = {}
    if arguments.json and arguments.json.exists():  # parts that are not measured now stay
        result = json.loads(arguments.json.read_text(encoding="utf-8"))
    about = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/batch.py", *sys.argv[1:]]),
        "machine": _machine(),
        "versions": _versions(),
    }
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments, Path(name))
        if arguments.gpus:
            counts = [int(count) for count in arguments.gpus.split(",")]
            result["gpus"] = {**about, **gpus(bench, counts, arguments.films, arguments.frames)}
        else:
            for part in arguments.only:
                result[part] = {**about, **{"overhead": overhead, "scaling": scaling}[part](bench)}
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if arguments.json:
        arguments.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
