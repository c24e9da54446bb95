"""Prints docs/measured.md: what was measured, from the files in benchmarks/results.

python docs/measured_tables.py > docs/measured.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def main() -> None:
    cpu, gpu, engines, live = (_result(name) for name in ("cpu", "gpu", "h200", "live"))
    print("# Measured\n")
    print("Every figure is read from a result file. `make bench` measures your machine.\n")
    _print_cpu(cpu)
    _print_engines(engines)
    _print_pipelines(gpu)
    _print_live(live)


def _print_cpu(result: dict[str, Any]) -> None:
    print("## A video on a CPU\n")
    _print_origin("cpu", result, result["machine"])
    print("720p, the person network, libx264 veryfast. `pipeline` is `bmf-trt-seg segment`; `plain loop` decodes")
    print("with PyAV to RGB, blends with NumPy and encodes with PyAV, `tuned loop` the same with a blend in single")
    print("precision; `transcode` is BMF's decoder and encoder without a network.\n")
    _print_table(
        ["way", "frames a second", "lowest to highest", "CPU ms a frame", "peak MB"],
        (
            [way, row["fps"], f"{row['fps_lowest']} to {row['fps_highest']}", row["cpu_ms_per_frame"], row["peak_mb"]]
            for way, row in result["results"].items()
        ),
    )
    _print_table(["frames a second", "ratio"], result["ratios"].items())


def _print_engines(result: dict[str, Any]) -> None:
    print("## Networks with TensorRT\n")
    _print_origin("h200", result, result["machine"]["gpu"])
    print("Milliseconds a batch, in device memory. `bare` is a loop of `execute_async_v3`, `graph` the same replayed")
    print("as a CUDA graph; latencies are of the backend. fcn_resnet101 and segformer_b4 have random weights.\n")
    rows = []
    for name, row in result["speed"].items():
        if "bare ms" in row:
            latency = row.get("latency us, on the GPU", {})
            tail = [f"{latency[part] / 1000:.2f}" if part in latency else "" for part in ("p50", "p99")]
            rows.append([name, *(f"{row[way]:.2f}" for way in ("bare ms", "bare graph ms", "backend ms")), *tail])
    _print_table(["network, precision, batch", "bare", "graph", "this backend", "median latency", "99 of 100"], rows)
    compared = [
        [name.partition(",")[0], way, ratio]
        for name, ways in result["summary"].items()
        if name.endswith("times as fast as torch")
        for way, ratio in ways.items()
    ]
    print(f"How many times as fast as PyTorch {result['versions']['torch'].partition('+')[0]} it is:\n")
    _print_table(["network, precision, batch", "PyTorch", "times as fast"], compared)
    agreement = [[name, row["agreement"]] for name, row in result["figures"].items() if "agreement" in row]
    print("Part of the pixels that get the class that PyTorch gives them in fp32:\n")
    _print_table(["network", "agreement"], agreement)


def _print_pipelines(result: dict[str, Any]) -> None:
    print("## Frames that stay on the GPU\n")
    _print_origin("gpu", result, result["machine"]["gpu"])
    print(f"{result['clip']}, {result['engine'].split('.')[0]} fp16, batches of 8. Stages are measured alone.\n")
    other = result["another host"]
    hosts = [f"host of {one['machine']['cpu_cores']} cores" for one in (result, other)]
    for title, part in (("pipeline", "pipelines"), ("stage", "stages")):
        rates = {name: value for name, value in result[part].items() if name != "date" and "CPU ms" not in name}
        _print_table(
            [f"{title}, frames a second", *hosts], ([name, value, other[part][name]] for name, value in rates.items())
        )
    steps = [(name[: -len(", us a frame")], value) for name, value in result["steps"].items() if _is_step(name)]
    _print_table(["step at batch 8", "microseconds a frame"], steps)
    _print_table(
        ["what Python and its libraries do, CPU milliseconds a frame", *hosts],
        (
            [name.partition(", host CPU")[0], value, other["pipelines"][name]]
            for name, value in result["pipelines"].items()
            if name.endswith("host CPU ms a frame")
        ),
    )
    memory = result["memory"]
    print(f"Device memory over {memory['frames']} frames: {memory['first third, MiB']} MiB in the first third,")
    print(f"{memory['last third, MiB']} MiB in the last.\n")
    print(f"Note in the file: {result['note']}\n")


def _print_live(result: dict[str, Any]) -> None:
    print("## Live cameras\n")
    _print_origin("live", result, f"{result['machine']['cpu_cores']} cores")
    print(f"{result['cameras']}; one went away {result['times that a camera went away']} times.\n")
    _print_table(
        ["camera", "frames in", "out", "dropped", "repeated", "reconnects", "median latency, ms", "99 of 100, ms"],
        (
            [
                name,
                *(row[key] for key in ("frames_in", "frames_out", "dropped", "repeated", "reconnects")),
                *row["latency, ms"].values(),
            ]
            for name, row in result["streams"].items()
        ),
    )
    _print_table(
        ["", "first third", "last third"],
        ([name, row["first third"], row["last third"]] for name, row in result["readings"].items()),
    )
    print(f"Frames whose fate is unknown: {result['frames whose fate is unknown']}.")


def _is_step(name: str) -> bool:
    return name.endswith(", us a frame") and "host" not in name


def _print_origin(name: str, result: dict[str, Any], machine: str) -> None:
    file = f"../benchmarks/results/{name}.json"
    versions = result.get("versions", result["machine"])
    known = [f"{part} {versions[part]}" for part in ("tensorrt", "torch", "onnxruntime") if part in versions]
    where = ", ".join([machine, *known])
    print(f"[{name}.json]({file}), {result['date']}: {where}.")
    print(f"`{_shortened(result['command'])}`\n")


def _shortened(command: str) -> str:
    return re.sub(r"\s+", " ", command)


def _print_table(head: list[str], rows: Iterable[Iterable[Any]]) -> None:
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def _result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((_RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
