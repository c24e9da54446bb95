"""From a feed to the BMF graph that runs it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bmf_trt_seg.graph import check_graph
from bmf_trt_seg.live_outputs.options import LiveSinkOptions, Output, PushOutput
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.sources.urls import is_network
from bmf_trt_seg.validation import Strict

__all__ = ["LiveGraph", "described_graph", "feed_graph", "own_graph", "place_of"]

_PACKAGE = __name__.partition(".")[0]
_OURS = ("LiveSource", "NvDecSource", "SegmentModule", "LiveSink")  # modules that count frames under their name


@dataclass(frozen=True)
class LiveGraph:
    """A graph, and what its supervisor wants to know of it."""

    content: dict[str, Any]
    """As BMF takes it."""
    streams: tuple[str, ...]
    """Names under which its modules count frames."""
    segments: tuple[dict[str, Any], ...]
    """The options of each SegmentModule."""
    is_endless: bool
    """Whether it reads something that has no end of its own."""
    writes_files: bool
    """Whether nodes in it write files that are whole at the end only."""
    sinks: tuple[LiveSinkOptions, ...] = ()
    """The options of each LiveSink."""
    outputs: tuple[str, ...] = ()
    """Paths and addresses that it writes to."""
    problems: tuple[str, ...] = ()

    def without_segments(self) -> dict[str, Any]:
        """The graph but for the options of its SegmentModules: what cannot change while it runs."""
        nodes = [{**node, "option": {}} if _kind(node) == "SegmentModule" else node for node in self.content["nodes"]]
        return {**self.content, "nodes": nodes}

    def with_segments(self, options: Mapping[str, SegmentOptions]) -> LiveGraph:
        """The same graph with other options of its SegmentModules, by the names of their streams."""
        content = copy.deepcopy(self.content)
        nodes = [node for node in content["nodes"] if _kind(node) == "SegmentModule"]
        for node in nodes:
            if node["option"]["name"] in options:
                node["option"] = _given(options[node["option"]["name"]])
        return replace(self, content=content, segments=tuple(node["option"] for node in nodes))


def feed_graph(source: dict[str, Any], segment: SegmentOptions, sink: LiveSinkOptions) -> LiveGraph:
    """LiveSource, SegmentModule and LiveSink in a row, each in a thread of its own; arguments are their options.

    Sound goes from LiveSource to LiveSink directly.
    """
    sound = [] if sink.sound == "off" else ["sound"]
    nodes = [
        _node(0, "sources.LiveSource", source, [], ["camera", *sound]),
        _node(1, "module.SegmentModule", _given(segment), ["camera"], ["drawn"]),
        _node(2, "live_sink.LiveSink", _given(sink), ["drawn", *sound], []),
    ]
    return described_graph(
        {
            "mode": "Normal",
            "option": {"scheduler_count": len(nodes)},
            "input_streams": [],
            "output_streams": [],
            "nodes": nodes,
        },
        writes_files=False,  # LiveSink gives its files their names itself
    )


def _given(options: Strict) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude_unset=True)


def own_graph(content: dict[str, Any], name: str) -> LiveGraph:
    """A graph that a user wrote; modules of ours without a name in it get the feed's."""
    nodes = content.get("nodes")
    for node in nodes if isinstance(nodes, list) else []:
        if _kind(node) in _OURS and isinstance(node.setdefault("option", {}), dict):
            node["option"].setdefault("name", name)
    return described_graph(content, writes_files=True)


def described_graph(content: dict[str, Any], writes_files: bool) -> LiveGraph:
    """A graph whose modules of ours have names, and what its supervisor wants to know of it."""
    problems = tuple(check_graph(content))
    if problems:
        return LiveGraph(content, (), (), False, writes_files, problems=problems)
    nodes = [(_kind(node), node.get("option", {})) for node in content["nodes"]]
    names = [str(option["name"]) for kind, option in nodes if kind in _OURS]
    inputs = [str(option.get("url") or option.get("input_path") or option.get("path") or "") for _, option in nodes]
    sinks = [LiveSinkOptions.model_validate(option) for kind, option in nodes if kind == "LiveSink"]
    places = [place_of(output) for sink in sinks for output in sink.outputs]
    written = [str(option[key]) for _, option in nodes for key in ("output_path", "json", "masks") if option.get(key)]
    return LiveGraph(
        content,
        tuple(dict.fromkeys(names)),
        tuple(option for kind, option in nodes if kind == "SegmentModule"),
        any(is_network(path) for path in inputs),
        writes_files,
        tuple(sinks),
        (*places, *map(_resolved, written)),
    )


def place_of(output: Output) -> str:
    """Address or full path of an output of LiveSink."""
    return _resolved(output.url if isinstance(output, PushOutput) else output.path)


def _resolved(place: str) -> str:
    return place if is_network(place) else str(Path(place).resolve())


def _kind(node: Any) -> str:
    """The class of a module of ours; '' for any other."""
    module = node.get("module_info", {}) if isinstance(node, dict) else {}
    entry = str(module.get("entry", "")) if isinstance(module, dict) else ""
    return entry.rpartition(".")[2] if entry.startswith(f"{_PACKAGE}.") else ""


def _node(number: int, entry: str, option: dict[str, Any], inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    return {
        "id": number,
        "scheduler": number,
        "module_info": {"name": entry.rpartition(".")[2], "type": "python", "path": "", "entry": f"{_PACKAGE}.{entry}"},
        "meta_info": {"queue_length_limit": 1},  # frames wait in the source, which drops those that are late
        "input_manager": "immediate",
        "input_streams": [{"identifier": stream} for stream in inputs],
        "output_streams": [{"identifier": stream} for stream in outputs],
        "option": option,
    }
