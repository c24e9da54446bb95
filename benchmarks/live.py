"""A soak of `bmf-trt-seg live`: cameras in one process for minutes, one of which keeps going away.

What the process holds (memory, file descriptors, threads) is read every few seconds, and the first third of the run is
compared with the last; then the files are decoded, and every frame is accounted for.

    python benchmarks/live.py [--seconds 600] [--feeds 4] [--json benchmarks/results/live.json]

The cameras are GStreamer's RTSP server, as in the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOP), str(_TOP / "tests")]

import rtsp  # noqa: E402
from live_runs import Live, frames_of, live, until  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

_EVERY = 5.0
"""Seconds between two readings."""
_WARM_UP = 30.0
"""Seconds before the first reading: buffers fill, libraries allocate."""


def _reading(run: Live) -> dict[str, int]:
    folder = Path("/proc", str(run.process.pid))
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    return {
        "memory, MB": int(status["VmRSS"].split()[0]) // 1024,
        "file descriptors": sum(1 for _ in (folder / "fd").iterdir()),
        "threads": int(status["Threads"]),
    }


def _thirds(readings: list[dict[str, int]]) -> dict[str, dict[str, float]]:
    third = len(readings) // 3
    found = {}
    for name in readings[0]:
        values = [reading[name] for reading in readings]
        first, last = values[:third], values[-third:]
        found[name] = {
            "first third": statistics.median(first), "last third": statistics.median(last),
            "most in the first third": max(first), "most in the last third": max(last),
        }  # fmt: skip
    return found


def _latency_ms(metrics: str, stream: str) -> dict[str, float]:
    """Upper bounds of the median and the 99th percentile of the time from a frame's arrival until it is encoded."""
    buckets: list[tuple[float, float]] = []
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            wanted = {"stream": stream, "stage": "end_to_end"}
            if sample.name == "bmf_trt_seg_stage_seconds_bucket" and wanted.items() <= sample.labels.items():
                buckets.append((float(sample.labels["le"]), sample.value))
    total = buckets[-1][1]
    return {
        f"p{share * 100:g}": next(bound for bound, count in buckets if count >= share * total) * 1000
        for share in (0.5, 0.99)
    }


def _soak(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    names = [f"camera{index}" for index in range(arguments.feeds)]
    away = names[-1]
    with ExitStack() as stack:
        servers = {name: stack.enter_context(rtsp.RtspServer(size_wh=(640, 360), fps=arguments.fps)) for name in names}
        feeds = [
            {"name": name, "url": servers[name].url, "outputs": [
                {"kind": "file", "path": str(folder / f"{name}.mkv"), "segment_seconds": 60},
                {"kind": "hls", "path": str(folder / name)},
            ]}
            for name in names
        ]  # fmt: skip
        defaults = {"segment": {"model": "person", "style": "blur"}, "encoder": {"preset": "ultrafast"}}
        run = stack.enter_context(live(folder, feeds, defaults=defaults))
        until(lambda: all(run.is_up(name) for name in names), 60)
        time.sleep(_WARM_UP)
        readings, absences = [], 0
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < arguments.seconds:
            if passed >= (absences + 1) * arguments.away_every:
                servers[away].restart()
                absences += 1
            readings.append(_reading(run))
            print(f"{passed:6.0f} s {readings[-1]}", flush=True)
            time.sleep(_EVERY)
        metrics = run.ask("metrics")
        code = run.stop()
        streams = {}
        for name in names:
            told = run.summary(name)
            decoded = frames_of(sorted(folder.glob(f"{name}-*.mkv")))
            counts = {key: told[key] for key in ("frames_in", "frames_out", "dropped", "repeated", "reconnects")}
            streams[name] = {**counts, "decoded from the files": decoded, "latency, ms": _latency_ms(metrics, name)}
            print(name, streams[name], flush=True)
    return {
        "exit code": code,
        "times that a camera went away": absences,
        "readings": _thirds(readings),
        "streams": streams,
        "frames whose fate is unknown": sum(
            one["frames_in"] + one["repeated"] - one["dropped"] - one["decoded from the files"]
            for one in streams.values()
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Run live feeds for minutes and see what they hold on to.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--feeds", type=int, default=4)
    parser.add_argument("--fps", type=int, default=10, help="of each camera, 640x360 (default 10)")
    parser.add_argument("--away-every", type=float, default=60, help="seconds after which the last camera goes away")
    parser.add_argument("--json", type=Path, default=_TOP / "benchmarks" / "results" / "live.json")
    arguments = parser.parse_args()
    if rtsp.missing():
        sys.exit(rtsp.missing())
    with tempfile.TemporaryDirectory() as name:
        found = _soak(arguments, Path(name))
    result = {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/live.py --seconds {arguments.seconds:g} --feeds {arguments.feeds}",
        "machine": {"python": platform.python_version(), "cpu_cores": os.cpu_count()},
        "cameras": f"{arguments.feeds} of 640x360 at {arguments.fps} frames a second",
        **found,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
