"""Who reads which document, and a good one of each kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from factories import make_picture, make_spec

from bmf_trt_seg.engine.loading import read_plan
from bmf_trt_seg.engine.manifest import Manifest, manifest_path, read_manifest
from bmf_trt_seg.engine.options import BuildOptions, ShapeRange
from bmf_trt_seg.errors import ConfigError, SegError
from bmf_trt_seg.graph import check_graph, load_graph
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.live.feeds import read_feeds
from bmf_trt_seg.models.weights import labels_beside
from bmf_trt_seg.options import read_options
from bmf_trt_seg.records import frame_record
from bmf_trt_seg.replay import RecordedMasks
from bmf_trt_seg.spec import ModelSpec

__all__ = ["PLAN", "READERS", "Reader", "verdict"]

_SIZE_WH = (8, 6)
_TIME_BASE = Fraction(1, 25)


@dataclass(frozen=True)
class Reader:
    """A kind of document: what a good one says, and what is done with the file of any."""

    document: Any
    read: Callable[[Path, bytes], object]
    """Takes a folder that it may write to and the content of the file."""
    breaks_lines: bool = False
    """Whether its messages name things as the file does; then it is the command line that makes one line of them."""


def verdict(reader: Reader, folder: Path, content: bytes) -> str:
    """'read', or 'told', refused in one line. Raises AssertionError for more lines, and what is no SegError at all."""
    said = None
    try:
        reader.read(folder, content)
    except SegError as error:
        said = str(error)
    assert said is None or reader.breaks_lines or (said and "\n" not in said), f"not one line: {said!r}"
    return "read" if said is None else "told"


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _options(_folder: Path, content: bytes) -> None:
    try:
        values = parsed(content.decode())
    except ValueError:  # who reads the file refuses it
        return
    read_options(values)


def _spec(folder: Path, content: bytes) -> None:
    spec = ModelSpec.read(_file(folder, "net.json", content))
    spec.write(folder / "again.json")
    assert spec.colors is not None
    spec.input.placement(*_SIZE_WH)


def _graph(folder: Path, content: bytes) -> None:
    problems = check_graph(load_graph(_file(folder, "graph.json", content)))
    assert not any("\n" in problem for problem in problems), problems
    if problems:
        raise ConfigError("; ".join(problems))


def _feeds(folder: Path, content: bytes) -> None:
    _file(folder, "graph.json", json.dumps(_GRAPH).encode())
    read_feeds(_file(folder, "feeds.json", content))


def _manifest(folder: Path, content: bytes) -> None:
    plan = folder / "net.engine"
    manifest_path(plan).write_bytes(content)
    found = read_manifest(plan)
    assert found is not None
    assert "\n" not in f"{found.key}{found.built_for}"
    assert found.text()
    plan.write_bytes(PLAN)
    read_plan(plan)


def _records(folder: Path, content: bytes) -> None:
    lines = content if content.count(b"\n") else b"\n".join(json.dumps(line).encode() for line in _lines(content))
    masks = RecordedMasks(_file(folder, "masks.jsonl", lines), None)
    try:
        for number in range(len(_MAPS)):
            picture = make_picture("yuv420p", *_SIZE_WH)
            (found,) = masks.segment([picture], [number], [(number, _TIME_BASE)])
            assert found.map_hw.shape == _SIZE_WH[::-1]
    finally:
        masks.close()


def _lines(content: bytes) -> list[Any]:
    """The records in a document that is a list of them."""
    try:
        found = parsed(content.decode())
    except ValueError:
        return ["no record"]
    return found if isinstance(found, list) else [found]


def _labels(folder: Path, content: bytes) -> None:
    _file(folder, "config.json", content)
    labels_beside(folder)


_MAPS = [np.random.default_rng(seed).choice(np.array([255, 1, 4], np.uint8), _SIZE_WH[::-1]) for seed in range(3)]
_RECORDS = [
    frame_record(
        map_hw, {1: "person", 4: "dog"}, {1: "#ff0000", 4: "#0000ff"}, frame=number, pts=number, time_base=_TIME_BASE,
        inferred=True, background=255,
    )
    for number, map_hw in enumerate(_MAPS)
]  # fmt: skip
_RANGE = ShapeRange(min=(1, 3, 8, 8), opt=(4, 3, 8, 8), max=(8, 3, 8, 8))
PLAN = b"ftrt" + bytes(12) + (28).to_bytes(8, "little") + bytes(4)
"""An engine that is whole and empty; the good manifest is its."""
_MANIFEST = Manifest(
    library="tensorrt", version="10.9.0", gpu="NVIDIA H200", compute_capability="9.0", precision="fp16",
    profiles={"input": _RANGE}, onnx="nets/person.onnx", onnx_sha256="ab" * 32,
    plan_sha256=hashlib.sha256(PLAN).hexdigest(), options=BuildOptions(precision="fp16", opt_level=2),
    spec=make_spec(),
)  # fmt: skip
_SEGMENT = {
    "model": "net.onnx", "classes": ["person", 4], "palette": {"person": "#00ff00"}, "alpha": 0.5, "threshold": 0.5,
    "interval": 2, "batch_size": 4, "device": "cuda:1", "input_shapes": "input:1x3x8x8", "build": "precision=fp16",
    "name": "inner",
}  # fmt: skip
_GRAPH = {
    "comment": ["a graph"],
    "mode": "Normal",
    "input_streams": [],
    "output_streams": [],
    "option": {"scheduler_count": 3},
    "nodes": [
        {
            "id": 0, "scheduler": 0, "module_info": {"name": "c_ffmpeg_decoder"}, "input_streams": [],
            "output_streams": [{"identifier": "video:decoded"}], "option": {"input_path": "${IN:-in.mp4}"},
        },
        {
            "id": 1, "scheduler": 1, "input_manager": "immediate", "option": _SEGMENT,
            "module_info": {
                "name": "SegmentModule", "type": "python", "path": ".", "entry": "bmf_trt_seg.module.SegmentModule",
            },
            "input_streams": [{"identifier": "decoded"}], "output_streams": [{"identifier": "drawn"}],
        },
        {
            "id": 2, "scheduler": 2, "module_info": {"name": "c_ffmpeg_encoder"},
            "input_streams": [{"identifier": "drawn"}], "output_streams": [],
            "option": {"output_path": "out.mp4", "video_params": {"codec": "libx264", "crf": 23}},
        },
    ],
}  # fmt: skip
_FEEDS = {
    "defaults": {"segment": {"model": "net.onnx"}, "encoder": {"crf": 28}, "max_latency_ms": 400},
    "feeds": [
        {
            "name": "door", "url": "rtsp://user:secret@127.0.0.1:1/door", "segment": {"classes": "person"},
            "outputs": [{"kind": "file", "path": "/tmp/{name}.mp4"}],
        },
        {
            "name": "gate", "url": "rtsp://127.0.0.1:1/gate",
            "outputs": [{"kind": "hls", "path": "/tmp/{name}/live.m3u8"}],
        },
        {"name": "own", "graph": "graph.json", "set": {"IN": "other.mp4"}},
    ],
}  # fmt: skip

READERS = {
    "options": Reader(_SEGMENT, _options),
    "description": Reader(
        json.loads(_MANIFEST.text())["spec"] | {"palette": ["#000000", "#ffffff"], "constants": {"scale": 1.0}}, _spec
    ),
    "graph": Reader(_GRAPH, _graph),
    "feeds": Reader(_FEEDS, _feeds, breaks_lines=True),
    "manifest": Reader(json.loads(_MANIFEST.text()), _manifest),
    "records": Reader(_RECORDS, _records),
    "labels": Reader({"id2label": {"0": "background", "1": "person"}}, _labels),
}
