"""Thousands of damaged and hostile files, each to its end: the long form of tests/fuzz.

Videos, pictures, networks, graphs and manifests are damaged and given to the command line, in worker processes with a
time limit; a bad end is run again alone. Documents (options, descriptions, graphs, feeds, manifests, records, labels)
are made by hypothesis and read in this process. All of it is the same again with the same --first.

    python benchmarks/fuzz.py [--first 0] [--video 4000] [--picture 700] [--network 300] [--graph 700]
                              [--inspected 800] [--documents 500] [--jobs 2] [--json benchmarks/results/fuzz.json]

It ends with exit code 1 if anything ended badly; the files that did it are left in --keep.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOP), str(_TOP / "tests")]

import av  # noqa: E402
from fuzz.documents import hostile_texts  # noqa: E402
from fuzz.files import FILES, KINDS  # noqa: E402
from fuzz.readers import READERS, verdict  # noqa: E402
from fuzz.runs import Run, runs  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

_LIMIT_SECONDS = 30.0
_LIBRARIES = ("BabitMF", "av", "pillow", "onnxruntime", "onnx", "torch", "pydantic", "hypothesis")


def _cases(group: str, first: int, count: int) -> Iterator[tuple[str, int]]:
    names = KINDS[group]
    return ((names[number % len(names)], number) for number in range(first, first + count))


def _ran(group: str, job: int, arguments: argparse.Namespace) -> list[Run]:
    """The runs of one worker: every `jobs`-th case."""
    folder = arguments.keep / f"{group}{job}"
    folder.mkdir(parents=True, exist_ok=True)
    cases = [
        case
        for index, case in enumerate(_cases(group, arguments.first, getattr(arguments, group)))
        if index % arguments.jobs == job
    ]
    found = []
    for run in runs(folder, cases, _LIMIT_SECONDS):
        found.append(run)
        if not run.is_good:
            print(run, flush=True)
    print(f"{group} {job}: {len(found)} done", flush=True)
    return found


def _memory(found: list[Run]) -> dict[str, int]:
    """MB that the worker process has, medians."""
    values = [run.ended.resident_kib // 1024 for run in found if run.ended.resident_kib]
    fifth = max(1, len(values) // 5)
    return {
        "first fifth": int(statistics.median(values[:fifth])),
        "last fifth": int(statistics.median(values[-fifth:])),
        "most": max(values),
    }


def _group(group: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = list(pool.map(lambda job: _ran(group, job, arguments), range(arguments.jobs)))
    every = [run for found in jobs for run in found]
    slowest = max(every, key=lambda run: run.ended.seconds)
    return {
        "inputs": len(every),
        "verdicts by kind": {
            name: dict(Counter(run.ended.verdict for run in every if run.kind == name)) for name in KINDS[group]
        },
        "slowest": {
            "seconds": round(slowest.ended.seconds, 2),
            "seed": slowest.seed,
            "said": slowest.ended.said[-200:],
        },
        "over 5 seconds": sum(run.ended.seconds > 5 for run in every),
        "memory of a worker, MB": [_memory(found) for found in jobs],
        "bad": [f"{run.seed}: {run.ended.verdict} {sorted(run.left)}" for run in every if not run.is_good],
    }


def _documents(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    bad: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:

        @seed(arguments.first)
        @settings(
            max_examples=arguments.documents, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(hostile_texts(READERS[kind].document))
        def check(content: bytes) -> None:
            nonlocal slowest
            begin = time.monotonic()
            try:
                found = verdict(READERS[kind], Path(name), content)
            except Exception as error:  # that is what is looked for
                found = f"{type(error).__name__}: {str(error)[:200]}"
                bad.append(f"{found}: {content[:300]!r}")
            counts[found] += 1
            slowest = max(slowest, time.monotonic() - begin)

        check()
    print(f"{kind}: {dict(counts)}", flush=True)
    return {"inputs": counts.total(), "verdicts": dict(counts), "slowest, seconds": round(slowest, 2), "bad": bad}


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    return {"python": platform.python_version(), **found, "libavcodec of av": codecs, "libavcodec of BMF": "58"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Damage thousands of files and see how each run ends.")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default 0)")
    parser.add_argument("--video", type=int, default=4000)
    parser.add_argument("--picture", type=int, default=700)
    parser.add_argument("--network", type=int, default=300)
    parser.add_argument("--graph", type=int, default=700)
    parser.add_argument("--inspected", type=int, default=800)
    parser.add_argument("--documents", type=int, default=500, help="of each kind (default 500)")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir(), "bmf_trt_seg-fuzz"))
    parser.add_argument("--json", type=Path, default=_TOP / "benchmarks" / "results" / "fuzz.json")
    arguments = parser.parse_args()
    begin = time.monotonic()
    groups = {group: _group(group, arguments) for group in KINDS}
    documents = {kind: _documents(kind, arguments) for kind in READERS}
    parts = [*groups.values(), *documents.values()]
    numbers = " ".join(f"--{group} {getattr(arguments, group)}" for group in KINDS)
    result = {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/fuzz.py --first {arguments.first} {numbers} --documents {arguments.documents} "
        f"--jobs {arguments.jobs}",
        "machine": {"cpu_cores": os.cpu_count()},
        "versions": _versions(),
        "limit, seconds": _LIMIT_SECONDS,
        "took, seconds": round(time.monotonic() - begin),
        "inputs": sum(part["inputs"] for part in parts),
        "bad ends": sum(len(part["bad"]) for part in parts),
        "kinds of files": len(FILES),
        "files": groups,
        "documents": documents,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['inputs']} inputs, {result['bad ends']} ended badly, {result['took, seconds']} s")
    sys.exit(1 if result["bad ends"] else 0)


if __name__ == "__main__":
    main()
