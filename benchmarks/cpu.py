"""Frames a second and peak memory on the CPU, of four ways from one clip to one file:

pipeline    bmf-trt-seg: BMF decoder → SegmentModule → BMF encoder, finished and counted
plain loop  what one would write: PyAV decode → RGB → the same network → NumPy blend → PyAV encode
tuned loop  the same, its blend in single precision
transcode   BMF decoder → BMF encoder, nothing in between: what decoding and encoding alone take

Each runs in a process of its own, in turn, several times; medians are shown, and ratios, which hold on other machines.

    python benchmarks/cpu.py [--frames 900] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

_TOP = Path(__file__).resolve().parents[1]
_PACKAGES = ("BabitMF", "onnxruntime", "opencv-python-headless", "numpy", "av")
_PRESET, _CRF = "veryfast", 23


def pipeline(clip: Path, target: Path) -> None:
    from bmf_trt_seg.options import read_options
    from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video

    encoding = Encoding("libx264", _PRESET, _CRF)
    segment_video(VideoJob(clip, target, read_options({"model": "person"}), encoding))


def plain_loop(clip: Path, target: Path) -> None:
    import numpy as np

    def blend(picture: Any, mask: Any, color: Any) -> Any:
        return np.where(mask[..., None], 0.5 * picture + 0.5 * color, picture).astype(np.uint8)

    _loop(clip, target, blend)


def tuned_loop(clip: Path, target: Path) -> None:
    import numpy as np

    def blend(picture: Any, mask: Any, color: Any) -> Any:
        weight = 0.5 * mask.astype(np.float32)[..., None]
        return (picture * (1.0 - weight) + color * weight).astype(np.uint8)

    _loop(clip, target, blend)


def _loop(clip: Path, target: Path, blend: Callable[[Any, Any, Any], Any]) -> None:
    import av
    import cv2
    import numpy as np
    import onnxruntime as ort

    from bmf_trt_seg.models.catalog import find

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(find("person")), options, providers=["CPUExecutionProvider"])
    color = np.array([0x00, 0xC8, 0x53], np.uint8)
    with av.open(str(clip)) as source, av.open(str(target), "w") as sink:
        video = source.streams.video[0]
        stream = sink.add_stream("libx264", rate=video.average_rate, options={"preset": _PRESET, "crf": str(_CRF)})
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for frame in source.decode(video):
            picture = frame.to_ndarray(format="rgb24")
            small = cv2.resize(picture, (256, 256)).astype(np.float32) / 255.0
            scores = session.run(None, {"input": small.transpose(2, 0, 1)[None]})[0][0, 0]
            mask = cv2.resize(scores, (video.width, video.height)) >= 0.5
            drawn = blend(picture, mask, color)
            for packet in stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")):
                sink.mux(packet)
        for packet in stream.encode():
            sink.mux(packet)


def transcode(clip: Path, target: Path) -> None:
    from bmf_trt_seg.graph import run_graph

    encoder = {
        "output_path": str(target),
        "video_params": {"codec": "libx264", "preset": _PRESET, "crf": _CRF},
    }
    nodes = [
        _node(0, "c_ffmpeg_decoder", {"input_path": str(clip)}, [], ["video:decoded"]),
        _node(1, "c_ffmpeg_encoder", encoder, ["video:decoded"], []),
    ]
    option = {"scheduler_count": 2}
    run_graph({"mode": "Normal", "input_streams": [], "output_streams": [], "option": option, "nodes": nodes})


def _node(number: int, name: str, option: dict[str, Any], inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "id": number,
        "scheduler": number,
        "module_info": {"name": name},
        "input_manager": "immediate",
        "input_streams": [{"identifier": stream} for stream in inputs],
        "output_streams": [{"identifier": stream} for stream in outputs],
        "option": option,
    }


_WAYS = {"pipeline": pipeline, "plain loop": plain_loop, "tuned loop": tuned_loop, "transcode": transcode}


def _measure_here(way: str, clip: Path, target: Path) -> None:
    """In the process of one run: print seconds, and peak memory in bytes, as JSON."""
    import resource

    import av
    import bmf  # noqa: F401 (imports are not what is measured)
    import onnxruntime  # noqa: F401

    begin, cpu = time.perf_counter(), time.process_time()
    _WAYS[way](clip, target)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with av.open(str(target)) as container:
        frames = container.streams.video[0].frames
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak, "frames": frames}))


def _measure(way: str, clip: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--clip", str(clip), "--target", str(folder / "out.mp4")]
    # as the command line does before it imports anything
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if way == "pipeline" else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode:
        sys.exit(f"bench: {way} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the pipeline against a plain loop and a bare transcode.")
    parser.add_argument("--frames", type=int, default=900, help="length of the clip, 720p (default 900)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each way (default 5)")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--way", choices=list(_WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--clip", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        _measure_here(arguments.way, arguments.clip, arguments.target)
        return

    sys.path.insert(0, str(_TOP / "demo"))
    from clip import write_clip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip, size_wh=(1280, 720), frames=arguments.frames)
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
        for _ in range(arguments.rounds):
            for way in _WAYS:
                runs[way].append(_measure(way, clip, folder))
    _report(runs, arguments)


def _report(runs: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    rows: dict[str, dict[str, float]] = {}
    for way, measured in runs.items():
        lost = [run["frames"] for run in measured if run["frames"] != arguments.frames]
        if lost:
            sys.exit(f"bench: {way} wrote {lost[0]} frames of {arguments.frames}")
        rates = [run["frames"] / run["seconds"] for run in measured]
        rows[way] = {
            "fps": round(statistics.median(rates), 1),
            "fps_lowest": round(min(rates), 1),
            "fps_highest": round(max(rates), 1),
            "cpu_ms_per_frame": round(
                statistics.median(run["cpu_seconds"] for run in measured) / arguments.frames * 1e3, 2
            ),
            "peak_mb": round(statistics.median(run["peak_bytes"] for run in measured) / 1e6),
        }
    ratios = {
        "pipeline / plain loop": round(rows["pipeline"]["fps"] / rows["plain loop"]["fps"], 2),
        "pipeline / tuned loop": round(rows["pipeline"]["fps"] / rows["tuned loop"]["fps"], 2),
        "pipeline / transcode": round(rows["pipeline"]["fps"] / rows["transcode"]["fps"], 3),
    }
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    print(f"{_processor()}; " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    print(
        f"{arguments.frames} frames of 720p, person model, libx264 {_PRESET} crf {_CRF}, "
        f"medians of {arguments.rounds} runs\n"
    )
    print(f"{'':11} {'frames/s':>9} {'lowest':>8} {'highest':>8} {'CPU ms/frame':>13} {'peak MB':>8}")
    for way, row in rows.items():
        print(
            f"{way:11} {row['fps']:9.1f} {row['fps_lowest']:8.1f} {row['fps_highest']:8.1f} "
            f"{row['cpu_ms_per_frame']:13.2f} {row['peak_mb']:8.0f}"
        )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio}")
    if arguments.json:
        result = {
            "date": date.today().isoformat(),
            "command": f"python benchmarks/cpu.py --frames {arguments.frames} --rounds {arguments.rounds}",
            "machine": _processor(),
            "python": platform.python_version(),
            "versions": versions,
            "results": rows,
            "ratios": ratios,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
