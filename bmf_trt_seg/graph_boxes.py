"""What the picture of a graph says of each node, in words that may be shown to anybody.

Graphs may hold passwords. So addresses are shown without login and query, whichever option they stand in, and of
modules that are not known here the names of the options are shown, never what they are set to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.graph_format import BUILTIN_MODULES, OWN_MODULES
from bmf_trt_seg.sources.urls import masked

__all__ = ["Box", "Port", "boxes_of", "in_one_line"]

_MOST_CHARACTERS = 40
_MOST_OPTIONS = 8
_KINDS = {
    "c_ffmpeg_decoder": "decoder",
    "c_ffmpeg_encoder": "encoder",
    "c_ffmpeg_filter": "filter",
    "LiveSink": "encoder",
    "LiveSource": "camera",
    "NvDecSource": "decoder",
    "RecordSink": "records",
    "SegmentModule": "network",
    "SoundGate": "sound gate",
}
_OF_BUILTIN = {
    "c_ffmpeg_decoder": ("input_path", "start_time", "end_time", "video_codec", "audio_codec"),
    "c_ffmpeg_encoder": ("output_path", "format", "codec", "preset", "crf"),
    "c_ffmpeg_filter": ("name", "para"),
}
_FIRST = ("model", "replay", "url", "path", "outputs", "json", "masks", "style", "classes")


@dataclass(frozen=True)
class Port:
    """Where a stream leaves or enters a node: as the file writes it, and the stream's own name."""

    label: str
    stream: str


@dataclass(frozen=True)
class Box:
    """A node: its number and name, what it is, its module, the options worth showing, its streams."""

    title: str
    kind: str
    module: str
    options: tuple[tuple[str, str], ...]
    takes: tuple[Port, ...]
    gives: tuple[Port, ...]


def boxes_of(graph: Mapping[str, Any]) -> list[Box]:
    """The nodes of a graph, in their order, and a box for the streams from and to the outside if there are any.

    The graph may have mistakes in it, and variables. Raises ConfigError if it has no list of nodes.
    """
    nodes = graph.get("nodes")
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, dict) for node in nodes):
        raise ConfigError("graph: 'nodes' should be a list of objects")
    boxes = [_box(node) for node in nodes]
    if arriving := _ports(graph.get("input_streams")):
        boxes.insert(0, Box("from outside", "", "input_streams", (), (), arriving))
    if leaving := _ports(graph.get("output_streams")):
        boxes.append(Box("to outside", "", "output_streams", (), leaving, ()))
    return boxes


def _box(node: Mapping[str, Any]) -> Box:
    module = _object(node.get("module_info"))
    name, entry = str(module.get("name", "?")), str(module.get("entry", ""))
    own = entry.rpartition(".")[2] if entry in OWN_MODULES else ""
    alias = node.get("alias")
    return Box(
        title=_short(f"{node.get('id', '?')}  {alias}" if alias else str(node.get("id", "?"))),
        kind=_KINDS.get(own or ("" if entry else name), "module"),
        module=_short(own or (f"{name} ({entry})" if entry else name)),
        options=tuple(_options(name, entry, _object(node.get("option")))),
        takes=_ports(node.get("input_streams")),
        gives=_ports(node.get("output_streams")),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _ports(streams: Any) -> tuple[Port, ...]:
    names = [
        str(stream["identifier"])
        for stream in (streams if isinstance(streams, list) else [])
        if isinstance(stream, dict) and "identifier" in stream
    ]
    return tuple(Port(_short(name), name.rpartition(":")[2]) for name in names)


def _options(name: str, entry: str, option: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if entry in OWN_MODULES:
        rows = list(_rows(_unusual(entry, option)))
    elif name in BUILTIN_MODULES:
        every = {**_object(option.get("video_params")), **option}
        rows = list(_rows({key: every[key] for key in _OF_BUILTIN[name] if every.get(key) not in (None, "")}))
    else:
        rows = [("options", _short(", ".join(option)))] if option else []
    if len(rows) > _MOST_OPTIONS:
        rows = [*rows[: _MOST_OPTIONS - 1], ("", f"and {len(rows) - _MOST_OPTIONS + 1} more")]
    return rows


def _unusual(entry: str, option: dict[str, Any]) -> dict[str, Any]:
    """The options of a module of ours that are not at their default, what it is about first."""
    fields = OWN_MODULES[entry].options.model_fields
    defaults = {field.alias or key: field.default for key, field in fields.items()}
    order = sorted(option, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    return {
        key: option[key]
        for key in order
        if option[key] not in (None, "", [], {}) and (key in _FIRST or str(option[key]) != str(defaults.get(key)))
    }


def _rows(options: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in options.items():
        if isinstance(value, list) and any(isinstance(part, dict) for part in value):
            for part in map(_object, value):  # outputs of LiveSink
                place = part.get("path") or part.get("url") or ""
                yield _short(str(part.get("kind", key))), _short(str(place))
        else:
            yield _short(key), _short(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(value)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def in_one_line(text: str) -> str:
    """A text without line breaks and what else cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _short(text: str) -> str:
    """One line of a text that anybody may see, without its middle if it is long."""
    text = in_one_line(_in_public(text))
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]}…{text[half - _MOST_CHARACTERS + 1 :]}"


def _in_public(text: str) -> str:
    """A text without what only its owner should know, if it is an address or ought to be one."""
    scheme, is_address, rest = text.partition("://") if "://" in text else ("", "", text)
    _, has_login, place = rest.rpartition("@")
    if is_address:
        place, query, _ = place.partition("?")
        place += "?***" if query else ""
    return masked(scheme + is_address + ("***@" if has_login else "") + place)
