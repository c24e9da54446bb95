"""`bmf-trt-seg run --web` as a process, and what it answers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Run", "ask", "live_graph", "program", "running", "side_by_side", "until"]

PROGRAM = str(Path(sys.executable).with_name("bmf-trt-seg"))


def ask(url: str, token: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextmanager
def program(errors: Path, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The running program, which says into the file `errors` what goes wrong; asked to stop at the end."""
    with errors.open("w") as file:
        process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)],
            stdout=subprocess.DEVNULL, stderr=file, text=True, env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def live_graph(path: Path, url: str, model: Path | str, segment: dict[str, Any] | None = None, **options: Any) -> Path:
    """From a feed 'door', through a network of the same name, into a file; `options` of the feed."""

    def ours(entry: str) -> dict[str, str]:
        return {"name": entry.rpartition(".")[2], "type": "python", "path": "", "entry": f"bmf_trt_seg.{entry}"}

    def node(number: int, info: dict[str, str], option: dict[str, Any], takes: list[str], gives: list[str]) -> Any:
        return {
            "id": number, "scheduler": number, "input_manager": "immediate", "module_info": info, "option": option,
            "input_streams": [{"identifier": name} for name in takes],
            "output_streams": [{"identifier": name} for name in gives],
        }  # fmt: skip

    source = {"url": url, "name": "door", **options}
    encoded = {
        "output_path": str(path.with_suffix(".mkv")), "loglevel": "error", "vsync": "passthrough", "r": "90000",
        "in_time_base": "1,90000", "video_params": {"codec": "libx264", "preset": "ultrafast"},
    }  # fmt: skip
    nodes = [
        node(0, ours("sources.LiveSource"), source, [], ["video:live"]),
        node(
            1,
            ours("module.SegmentModule"),
            {"model": str(model), "name": "door", **(segment or {})},
            ["video:live"],
            ["video:drawn"],
        ),
        node(2, {"name": "c_ffmpeg_encoder"}, encoded, ["video:drawn"], []),
    ]
    graph = {"option": {"scheduler_count": 3}, "input_streams": [], "output_streams": [], "nodes": nodes}
    path.write_text(json.dumps(graph))
    return path


def side_by_side(path: Path, **graphs: Path) -> Path:
    """Graphs of `live_graph` as one, the stream of each called by its keyword."""
    nodes: list[dict[str, Any]] = []
    for name, graph in graphs.items():
        for node in json.loads(graph.read_text())["nodes"]:
            node["id"] = node["scheduler"] = len(nodes)
            if "name" in node["option"]:
                node["option"]["name"] = name
            for stream in node["input_streams"] + node["output_streams"]:
                stream["identifier"] = stream["identifier"].replace("video:", f"video:{name}_")
            nodes.append(node)
    option = {"scheduler_count": len(nodes)}
    path.write_text(json.dumps({"option": option, "input_streams": [], "output_streams": [], "nodes": nodes}))
    return path


@dataclass
class Run:
    process: subprocess.Popen[str]
    errors: Path
    url: str = ""

    def said(self) -> str:
        return self.errors.read_text()


@contextmanager
def running(folder: Path, *arguments: object, web: str = ":0", **environment: str) -> Iterator[Run]:
    errors = folder / "errors.txt"
    with program(errors, "run", *arguments, "--web", web, **environment) as process:
        run = Run(process, errors)
        run.url = until(lambda: re.search(r"http://[^/]+", run.said()))[0]
        yield run
