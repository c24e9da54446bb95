"""Graphs from LiveSource to LiveSink, run in the test's process or in one of their own, and what they have written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import rtsp
from web_runs import until

from bmf_trt_seg import metrics
from bmf_trt_seg.graph import check_graph
from bmf_trt_seg.metrics import OutputMetrics, StreamMetrics

Camera = Callable[..., rtsp.RtspServer]
ROOT = Path(__file__).parents[1]
QUICK = {"backoff": 0.1, "backoff_max": 0.2}
"""Options of an output that tests need not wait for."""


def sink_graph(name: str, url: str, outputs: Sequence[dict[str, Any]], *, sound: bool = False, **options: Any) -> Any:
    """A feed and its outputs. Options are the source's, those that begin with sink_ the sink's."""

    def node(number: int, entry: str, option: dict[str, Any], takes: list[str], gives: list[str]) -> dict[str, Any]:
        return {
            "id": number, "scheduler": number, "option": option,
            "module_info": {"name": entry.rpartition(".")[2], "entry": f"bmf_trt_seg.{entry}"},
            "input_streams": [{"identifier": stream} for stream in takes],
            "output_streams": [{"identifier": stream} for stream in gives],
        }  # fmt: skip

    streams = ["frames", "sound"] if sound else ["frames"]
    ours = {key.removeprefix("sink_"): value for key, value in options.items() if key.startswith("sink_")}
    source = {key: value for key, value in options.items() if not key.startswith("sink_")}
    quick = {"connect_timeout": 3.0, "read_timeout": 0.6, "policy": "all", "absence": "pause", **QUICK}
    graph = {
        "mode": "Normal", "option": {"scheduler_count": 2}, "input_streams": [], "output_streams": [],
        "nodes": [
            node(0, "sources.LiveSource", {"url": url, "name": name, **quick, **source}, [], streams),
            node(1, "live_sink.LiveSink", {"name": name, "outputs": list(outputs), **ours}, streams, []),
        ],
    }  # fmt: skip
    assert check_graph(graph) == []
    return graph


def between(graph: dict[str, Any], module: dict[str, Any], option: dict[str, Any]) -> dict[str, Any]:
    """The graph with a module between the feed and its outputs, through which the frames go."""
    middle = {
        "id": 2, "scheduler": 2, "option": option, "module_info": module,
        "input_streams": [{"identifier": "frames"}], "output_streams": [{"identifier": "drawn"}],
    }  # fmt: skip
    graph["nodes"][1]["input_streams"][0]["identifier"] = "drawn"
    graph["nodes"].insert(1, middle)
    graph["option"]["scheduler_count"] = 3
    assert check_graph(graph) == []
    return graph


class Running:
    """A graph in a thread."""

    def __init__(self, name: str, graph: dict[str, Any]) -> None:
        self.failure: BaseException | None = None
        self._name, self._graph = name, graph
        metrics.close_stream(name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        until(lambda: metrics.stream(name, "sink") or not self._thread.is_alive(), 20)

    def _run(self) -> None:
        from bmf.lib import _bmf

        try:
            graph = _bmf.engine.Graph(json.dumps(self._graph), False, True)
            graph.start()
            graph.close()
        except BaseException as error:
            self.failure = error.with_traceback(None)  # which holds the graph, and BMF closes nodes with that

    @property
    def counts(self) -> StreamMetrics:
        counts = metrics.stream(self._name, "sink")
        assert counts is not None
        return counts

    @property
    def outputs(self) -> list[OutputMetrics]:
        return self.counts.outputs

    def gets(self, frames: int, seconds: float = 10.0) -> None:
        """Wait for so many more frames."""
        wanted = self.counts.frames_out + frames
        until(lambda: self.counts.frames_out >= wanted, seconds)

    def ends(self, seconds: float = 12.0) -> float:
        begin = time.monotonic()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"still running: {self.counts}"
        return time.monotonic() - begin

    def stop(self) -> float:
        """End it in good order; how long that took."""
        metrics.request_stop()
        took = self.ends()
        assert self.failure is None
        self.check_accounts()
        return took

    def check_accounts(self) -> None:
        counts = self.counts
        assert counts.state == "ended"
        assert counts.frames_in == counts.frames_out + counts.dropped, counts
        for output in counts.outputs:
            assert output.state == "ended"
            assert output.packets_in == output.packets_out + output.packets_dropped, output


@contextmanager
def running(name: str, url: str, outputs: Sequence[dict[str, Any]], **options: Any) -> Iterator[Running]:
    with running_graph(name, sink_graph(name, url, outputs, **options)) as run:
        yield run


@contextmanager
def running_graph(name: str, graph: dict[str, Any]) -> Iterator[Running]:
    run = Running(name, graph)
    try:
        yield run
    finally:
        metrics.request_stop()
        run.ends()


_PROGRAM = """
import json, logging, resource, sys
from bmf_trt_seg.errors import SegError
from bmf_trt_seg.graph import run_graph
logging.basicConfig(level=logging.INFO, filename=sys.argv[2])
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    run_graph(json.loads(sys.argv[1]))
except SegError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@contextmanager
def in_a_process(
    graph: dict[str, Any], log: Path | str = os.devnull, largest_file: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A graph in a process, which may write files of so many bytes; it is killed at the end."""
    limit = [str(largest_file)] if largest_file else []
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(graph), str(log), *limit],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def numbers(path: Path, *, is_whole: bool = True) -> list[int]:
    """The number in each frame of a recording (`rtsp.striped`); of one that was cut off, as far as it goes."""
    found: list[int] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                plane = frame.planes[0]
                luma = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
                found.append(rtsp.number_of(luma[: frame.height, : frame.width]))
    except (av.error.FFmpegError, IndexError):
        if is_whole:
            raise
    return found


def files(folder: Path, pattern: str = "door-*") -> list[Path]:
    """Finished recordings, the first one first."""

    def age(path: Path) -> tuple[str, int]:
        name, _, number = path.stem.removeprefix("door-").partition("-")
        return name, int(number or 1)

    return sorted(folder.glob(pattern), key=age)


def hidden(folder: Path) -> list[Path]:
    """Files that are not finished."""
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def segments(playlist: Path) -> list[tuple[Path, float]]:
    """The segments that an HLS playlist names, and their lengths in seconds."""
    text = playlist.read_text()
    assert text.startswith("#EXTM3U\n")
    found = re.findall(r"#EXTINF:([\d.]+),[^\n]*\n(?:#[^\n]*\n)*([^#\n]+)\n", text)
    assert all("/" not in name for _, name in found), "players ask for them beside the playlist"
    return [(playlist.parent / name, float(length)) for length, name in found]


def file_output(folder: Path, ending: str = "mp4", **options: Any) -> dict[str, Any]:
    return {"kind": "file", "path": str(folder / f"door.{ending}"), **QUICK, **options}


def hls_output(folder: Path, **options: Any) -> dict[str, Any]:
    return {"kind": "hls", "path": str(folder), **QUICK, **options}


def push_output(url: str, **options: Any) -> dict[str, Any]:
    return {"kind": "push", "url": url, **QUICK, **options}


_LISTENER = """
import sys, av
options = {"listen": "1", "analyzeduration": "200000", "fpsprobesize": "0"}
with av.open(sys.argv[1], options=options, format="flv") as stream, \\
        av.open(sys.argv[2], "w", format="matroska", options={"flush_packets": "1"}) as file:
    made = {one.index: file.add_stream_from_template(one) for one in stream.streams}
    for packet in stream.demux():
        if packet.size:
            packet.stream = made[packet.stream.index]
            file.mux(packet)
"""


class Listener:
    """An RTMP server that records what one client sends."""

    def __init__(self, port: int, file: Path) -> None:
        self.file = file
        self.url = f"rtmp://127.0.0.1:{port}/live/door"
        command = [sys.executable, "-c", _LISTENER, self.url, str(file)]
        # at the end of the stream it says that its client is gone
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
