"""`bmf-trt-seg live` as a process, asked and stopped by tests, and what it has left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from prometheus_client.parser import text_string_to_metric_families
from web_runs import PROGRAM, program, until

__all__ = ["PROGRAM", "QUICK", "Live", "frames_of", "graph_file", "live", "until", "write_feeds"]

QUICK = {"connect_timeout": 3.0, "read_timeout": 3.0, "backoff": 0.1, "backoff_max": 0.2}
"""Options of a feed that tests need not wait for."""


@dataclass
class Live:
    """A running program."""

    process: subprocess.Popen[str]
    errors: Path
    url: str = ""
    token: str = ""
    answers: list[str] = field(default_factory=list)

    def said(self) -> str:
        return self.errors.read_text()

    def log(self) -> list[dict[str, Any]]:
        """What it has said so far."""
        lines = self.said().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def states(self, stream: str) -> list[str]:
        """Those that the log has told of a feed."""
        return [one["state"] for one in self.log() if one.get("stream") == stream and "state" in one]

    def ask(self, page: str) -> str:
        return self.send(page)[1]

    def send(self, page: str, content: Any = None) -> tuple[int, str]:
        """The status and the answer; `content` is sent as a change, in JSON."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            f"{self.url}/{page}", body, {**headers, "Content-Type": "application/json"},
            method="GET" if body is None else "PATCH",
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        self.answers.append(text)
        return status, text

    def value(self, name: str, **labels: str) -> float:
        """A metric's, or -1."""
        for family in text_string_to_metric_families(self.ask("metrics")):
            for sample in family.samples:
                if sample.name == f"bmf_trt_seg_{name}" and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return -1.0

    def ready(self, stream: str) -> dict[str, Any]:
        """What /readyz says of a stream."""
        streams = json.loads(self.ask("readyz"))["streams"]
        return next(one for one in streams if one["stream"] == stream)

    def is_up(self, stream: str, frames: int = 5) -> bool:
        return bool(self.ready(stream)["ready"]) and self.value("frames_out_total", stream=stream) >= frames

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def summary(self, stream: str) -> dict[str, Any]:
        """The last line about a feed."""
        return next(one for one in reversed(self.log()) if one.get("stream") == stream and "frames_in" in one)


def write_feeds(folder: Path, feeds: list[dict[str, Any]], defaults: dict[str, Any] | None = None) -> Path:
    """A feeds file for tests, in the place of an older one."""
    path = folder / "feeds.json"
    path.write_text(json.dumps({"defaults": {**QUICK, **(defaults or {})}, "feeds": feeds}))
    return path


def recording(folder: Path, model: Path, **segment: Any) -> dict[str, Any]:
    """Defaults of feeds that are recorded in files of a second each, under out/, which is made; segment: options."""
    (folder / "out").mkdir()
    return {
        "segment": {"model": str(model), **segment},
        "encoder": {"preset": "ultrafast", "gop_seconds": 0.4},
        "outputs": [{"kind": "file", "path": f"{folder}/out/{{name}}.mp4", "segment_seconds": 1}],
    }


@contextmanager
def live(
    folder: Path, feeds: list[dict[str, Any]], *flags: object, defaults: dict[str, Any] | None = None, **variables: str
) -> Iterator[Live]:
    """Run feeds; the program is asked to stop at the end, unless it has ended."""
    path, errors = write_feeds(folder, feeds, defaults), folder / "errors.txt"
    with program(errors, "live", path, "--web", ":0", "--log-format", "json", *flags, **variables) as process:
        run = Live(process, errors, token=variables.get("BMF_TRT_SEG_WEB_TOKEN", ""))
        run.url = until(lambda: re.search(r"http://[^/]+", run.said()) or process.poll() is not None)[0]
        yield run


def graph_file(path: Path, model: Path, **segment: Any) -> Path:
    """A graph from a feed at ${URL} through a network into the file ${OUT}."""

    def node(number: int, info: dict[str, str], option: dict[str, Any], takes: list[str], gives: list[str]) -> Any:
        return {
            "id": number, "scheduler": number, "module_info": info, "option": option,
            "input_streams": [{"identifier": name} for name in takes],
            "output_streams": [{"identifier": name} for name in gives],
        }  # fmt: skip

    ours = [
        {"name": entry, "type": "python", "path": "", "entry": f"bmf_trt_seg.{entry}"}
        for entry in ("sources.LiveSource", "module.SegmentModule")
    ]
    encoder = {
        "output_path": "${OUT}", "loglevel": "error", "vsync": "passthrough", "r": "90000",
        "in_time_base": "1,90000", "video_params": {"codec": "libx264", "preset": "ultrafast"},
    }  # fmt: skip
    nodes = [
        node(0, ours[0], {"url": "${URL}"}, [], ["video:live"]),
        node(1, ours[1], {"model": str(model), **segment}, ["video:live"], ["video:drawn"]),
        node(2, {"name": "c_ffmpeg_encoder"}, encoder, ["video:drawn"], []),
    ]
    graph = {"option": {"scheduler_count": 3}, "input_streams": [], "output_streams": [], "nodes": nodes}
    path.write_text(json.dumps(graph))
    return path


def frames_of(paths: list[Path]) -> int:
    """How many pictures can be decoded from files, each of which has to be whole."""
    frames = 0
    for path in paths:
        with av.open(str(path)) as container:
            here = sum(1 for _ in container.decode(video=0))
        assert here, f"{path.name} has no pictures"
        frames += here
    return frames
