"""A graph to begin with: for a video file or a camera, with comments that say what each node does."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.graph import check_graph, filled
from bmf_trt_seg.graph_format import PACKAGE
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.sources.urls import is_network, masked

__all__ = ["as_text", "new_graph"]

_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".ts")
_RECORDINGS = (".mp4", ".mkv", ".ts")
_COLUMNS = 120
_COMMENT_COLUMNS = 105
_VARIABLES = (
    "${NAME} and ${NAME:-default} are filled in from --set or the environment, and the graph is checked before it runs"
    ": modules, streams that nobody produces, options."
)
_THREADS = "Modules whose scheduler is the same take turns in one thread: give decoder, network and encoder one each."
_OF_FILES = (
    "A video goes in, the same video comes out with the people in it (or whatever your network knows) marked.",
    _VARIABLES,
    _THREADS,
)
_OF_CAMERAS = (
    "A camera goes in, its video comes out with the people in it (or whatever your network knows) marked.",
    _VARIABLES,
    "A password need not stand in this file: rtsp://viewer:${DOOR_PASSWORD}@192.0.2.10/stream",
    _THREADS,
)
_DECODE = (
    "audio_codec copy hands the sound on as it is. The decoder ends at damage as if the video were over: bmf-trt-seg "
    "run looks at the inputs afterwards and says so.",
)
_ENCODE = (
    "The encoder counts time in frames of the average rate. Variable frame rates and a start that is not zero want more"
    ": docs/graphs.md, What BMF's nodes want.",
)
_CAMERA = (
    "A camera that goes away is opened again for as long as it takes; meanwhile its video goes on with the last frame "
    'and a "no signal" mark (absence hold), or pauses (absence pause). All options: docs/fields.md.',
)
_SINK = (
    "Encodes, and writes files, HLS or to servers; outputs may be several. SIGTERM completes all files. "
    "All options: docs/fields.md.",
)


def new_graph(source: str, target: str, style: str, model: str) -> dict[str, Any]:
    """A graph that segments a file or a camera. What was given are the defaults of INPUT, OUTPUT, STYLE and MODEL.

    A file becomes a file. A camera becomes recordings (a file's name with an ending), HLS (a folder), or goes to a
    server (an address). Raises ConfigError.
    """
    segment = {
        "model": _variable("MODEL", model), "classes": "${CLASSES:-}", "style": _variable("STYLE", style),
    }  # fmt: skip
    if is_network(source):
        option: dict[str, Any] = {"url": _variable("INPUT", source), "absence": "hold"}
        sink = {"outputs": [_output(target)], "crf": 23}
        nodes = [
            _node(0, "camera", "sources.LiveSource", [], ["camera", "sound"], option, _CAMERA),
            _node(1, "segment", "module.SegmentModule", ["camera"], ["drawn"], segment, _about(segment)),
            _node(2, "record", "live_sink.LiveSink", ["drawn", "sound"], [], sink, _SINK),
        ]
        for node in nodes:
            node["meta_info"] = {"queue_length_limit": 1}  # frames wait in the source, which drops those that are late
    else:
        _check_file(source, target)
        option = {"input_path": _variable("INPUT", source), "audio_codec": "copy", "loglevel": "error"}
        encode = {
            "output_path": _variable("OUTPUT", target),
            "loglevel": "error",
            "video_params": {"codec": "libx264", "preset": "veryfast", "crf": "23"},
        }
        nodes = [
            _node(0, "decode", "c_ffmpeg_decoder", [], ["video:decoded", "audio:sound"], option, _DECODE),
            _node(1, "segment", "module.SegmentModule", ["video:decoded"], ["drawn"], segment, _about(segment)),
            _node(2, "encode", "c_ffmpeg_encoder", ["drawn", "audio:sound"], [], encode, _ENCODE),
        ]
    graph = {
        "comment": _lines(_OF_CAMERAS if is_network(source) else _OF_FILES),
        "mode": "Normal",
        "option": {"scheduler_count": len(nodes)},
        "input_streams": [],
        "output_streams": [],
        "nodes": nodes,
    }
    problems = check_graph(filled(json.loads(json.dumps(graph)), {}, "graph"))
    if problems:
        raise ConfigError(masked("; ".join(problems)))
    return graph


def as_text(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON in few lines: what fits into one is one. `before` is how much stands in front of it in its line."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or not value or (indent and indent + before + len(line) < _COLUMNS):
        return line
    if isinstance(value, dict):
        members = [(f"{json.dumps(key, ensure_ascii=False)}: ", member) for key, member in value.items()]
    else:
        members = [("", member) for member in value]
    space = " " * (indent + 2)
    parts = [f"{space}{key}{as_text(member, indent + 2, len(key))}" for key, member in members]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([opening, ",\n".join(parts), " " * indent + closing])


def _variable(name: str, value: str) -> str:
    """`${NAME:-value}`; a value with a brace in it cannot be a default and stays itself."""
    return value if "}" in value else f"${{{name}:-{value}}}"


def _check_file(source: str, target: str) -> None:
    if Path(target).suffix.lower() not in _VIDEOS or is_network(target):
        raise ConfigError(f"'{masked(target)}': a video file is written to a file that ends in {', '.join(_VIDEOS)}")
    if Path(source).resolve() == Path(target).resolve():
        raise ConfigError(f"'{target}' is the input; choose another name for the output")


def _output(target: str) -> dict[str, Any]:
    """An output of LiveSink."""
    if is_network(target):
        return {"kind": "push", "url": _variable("OUTPUT", target)}
    ending = Path(target).suffix.lower()
    if ending in _RECORDINGS:
        return {"kind": "file", "path": _variable("OUTPUT", target), "segment_seconds": 600}
    if ending:
        raise ConfigError(
            f"'{target}': a camera is recorded in files that end in {', '.join(_RECORDINGS)}, or in a folder, as HLS"
        )
    return {"kind": "hls", "path": _variable("OUTPUT", target)}


def _about(option: dict[str, Any]) -> tuple[str, ...]:
    """What the options mean, in the words of the documentation."""
    fields = SegmentOptions.model_fields
    return (*(f"{name}: {fields[name].description}" for name in option), "All options: docs/options.md.")


def _lines(texts: tuple[str, ...]) -> list[str]:
    wrapped = textwrap.TextWrapper(_COMMENT_COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return [line for text in texts for line in wrapped.wrap(text)]


def _node(
    number: int, alias: str, module: str, takes: list[str], gives: list[str], option: dict[str, Any],
    comment: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    info = {"name": module}
    if "." in module:
        name = module.rpartition(".")[2]
        info = {"name": name, "type": "python", "path": "", "entry": f"{PACKAGE}.{module}"}
    return {
        "comment": _lines(comment),
        "id": number,
        "scheduler": number,
        "alias": alias,
        "module_info": info,
        "input_manager": "immediate",
        "input_streams": [{"identifier": name} for name in takes],
        "output_streams": [{"identifier": name} for name in gives],
        "option": option,
    }
