"""Files that are read by libraries in C and C++: small ones of every kind, and the command that reads each."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import numpy as np
from PIL import Image

from fuzz.damage import damaged, damaged_bits, damaged_json
from fuzz.readers import PLAN, READERS

__all__ = ["FILES", "KINDS", "FileKind"]

_FRAMES = 20
_MILLISECOND = Fraction(1, 1000)
_IN_MATROSKA: dict[str, Any] = {"time_base": _MILLISECOND, "pts": range(0, 40 * _FRAMES, 40)}
_IN_TS: dict[str, Any] = {"time_base": Fraction(1, 90000), "pts": range(126000, 126000 + 3600 * _FRAMES, 3600)}
_KEYS = (("g", "8"),)
_VPX = {"codec": "libvpx-vp9", "options": (("deadline", "realtime"), ("cpu-used", "8"), ("b", "200k"), *_KEYS)}

_CLIPS: dict[str, dict[str, Any]] = {
    "h264-aac.mp4": {"b_frames": 2, "options": _KEYS, "audio": ("aac",)},
    "h264-rotated.mp4": {"options": _KEYS, "rotation": 90, "sample_aspect": Fraction(4, 3)},
    "h264-fragments.mp4": {"options": _KEYS, "mux_options": (("movflags", "frag_keyframe+empty_moov"),)},
    "hevc.mp4": {"codec": "libx265", "b_frames": 2, "options": _KEYS},
    "h264-aac-subrip.mkv": {**_IN_MATROSKA, "options": _KEYS, "audio": ("aac",), "subtitles": "subrip"},
    "hevc.mkv": {**_IN_MATROSKA, "codec": "libx265", "options": _KEYS},
    "h264-aac.ts": {**_IN_TS, "b_frames": 2, "options": _KEYS, "audio": ("aac",)},
    "hevc.ts": {**_IN_TS, "codec": "libx265", "options": _KEYS},
    "vp9-opus.webm": {**_IN_MATROSKA, **_VPX, "audio": ("libopus",)},
    "vp9.mkv": {**_IN_MATROSKA, **_VPX},
}
"""Recipes of `clips`, by the name of the file."""

_PICTURES = ("rgb.jpg", "rgb.png", "rgb.webp", "rgb.tiff", "palette.png", "grey16.png", "rgb.bmp")
_NETWORKS = ("float.onnx", "script.pt", "exported.pt2")


@dataclass(frozen=True)
class FileKind:
    """A file that may be damaged."""

    group: str
    """'video', 'picture', 'network', 'graph' or 'inspected'."""
    write: Callable[[Path], object]
    """Makes a good one."""
    arguments: Callable[[Path, Path, Path, int], list[object]]
    """The command line for a damaged one, the network to use and a folder to write to, and a number to vary it."""
    damage: Callable[[bytes, str], tuple[str, bytes]] = damaged
    """What is done to it: its content and a seed make what was done in words, and the content after it."""


def _video_arguments(source: Path, network: Path, folder: Path, number: int) -> list[object]:
    ending = (".mp4", ".mkv", ".ts")[number % 3]
    return ["segment", source, "-o", folder / f"out{ending}", "-m", network, "-q", "--preset", "ultrafast"]


def _picture_arguments(source: Path, network: Path, folder: Path, number: int) -> list[object]:
    return ["segment", source, "-o", folder / "out.png", "-m", network, "-q"]


def _network_arguments(source: Path, network: Path, folder: Path, number: int) -> list[object]:
    """The good network's description and a good picture lie beside the good network."""
    source.with_suffix(".json").write_bytes(network.with_suffix(".json").read_bytes())
    picture = network.with_name("picture.png")
    if not picture.exists():
        _write_picture(picture)
    return ["segment", picture, "-o", folder / "out.png", "-m", source, "-q"]


def _inspect_arguments(source: Path, network: Path, folder: Path, number: int) -> list[object]:
    """Of a manifest, the engine lies beside it."""
    if source.suffix == ".json":
        source.with_suffix("").write_bytes(PLAN)
    return ["inspect", source if source.suffix == ".onnx" else source.with_suffix(""), *(["--json"] * (number % 2))]


def _write_manifest(path: Path) -> None:
    path.write_text(json.dumps(READERS["manifest"].document))


def _graph_arguments(source: Path, network: Path, folder: Path, number: int) -> list[object]:
    """A good clip lies beside the good network."""
    clip = network.with_name("clip.mp4")
    if not clip.exists():
        clips.write_clip(clip, frames=10, audio=("aac",))
    values = {"IN": clip, "MODEL": network, "OUT": folder / "out.mp4", "RECORDS": folder / "out.jsonl"}
    return ["run", source, "-q", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


def _write_graph(path: Path) -> None:
    path.write_text(json.dumps(_GRAPH))


def _write_clip(path: Path) -> None:
    clips.write_clip(path, frames=_FRAMES, crf=30, **_CLIPS[path.name])


def _write_picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*clips.SIZE_WH[::-1], 3), np.uint8)
    picture = Image.fromarray(pixels)
    if path.stem == "palette":
        picture = picture.quantize(16)
    elif path.stem == "grey16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) << 8)
    picture.save(path)


def _write_network(path: Path) -> None:
    if path.suffix == ".onnx":
        clips.bright_model(path)
        path.with_suffix(".json").unlink()
        return
    import torch

    class Brightness(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean(1, keepdim=True)

    batch = torch.zeros(1, 3, *clips.SIZE_WH[::-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old
        if path.suffix == ".pt":
            torch.jit.trace(Brightness(), batch).save(str(path))
        else:
            torch.export.save(torch.export.export(Brightness(), (batch,)), str(path))


def _node(number: int, thread: int, name: str, entry: str, streams: list[list[str]], option: Any) -> dict[str, Any]:
    module = {"name": name, "type": "python", "entry": f"bmf_trt_seg.{entry}"} if entry else {"name": name}
    inputs, outputs = ([{"identifier": stream} for stream in side] for side in streams)
    return {
        "id": number, "scheduler": thread, "module_info": module, "input_manager": "immediate", "option": option,
        "input_streams": inputs, "output_streams": outputs, "meta_info": {"queue_length_limit": 3}, "dist_nums": 1,
    }  # fmt: skip


_DECODER = {
    "input_path": "${IN}", "map_v": 0, "copyts": 1, "loglevel": "error", "dec_params": {"threads": "1"}, "fps": 25,
    "start_time": 0, "end_time": 1, "vframes": 9, "autorotate": 1, "max_width_height": 5000, "durations": [0, 1],
}  # fmt: skip
_ENCODER = {
    "output_path": "${OUT}", "format": "mp4", "loglevel": "error", "mux_params": {"movflags": "faststart"},
    "video_params": {
        "codec": "libx264", "preset": "ultrafast", "crf": 30, "vsync": "vfr", "r": "25/1", "width": 160, "height": 90,
        "pix_fmt": "yuv420p", "max_fr": 60,
    },
    "audio_params": {"codec": "aac"},
}  # fmt: skip
_GRAPH = {
    "input_streams": [],
    "output_streams": [],
    "option": {"scheduler_count": 3},
    "nodes": [
        _node(0, 0, "c_ffmpeg_decoder", "", [[], ["video:decoded"]], _DECODER),
        _node(
            1, 1, "SegmentModule", "module.SegmentModule", [["decoded"], ["drawn", "records"]], {"model": "${MODEL}"}
        ),
        _node(2, 2, "c_ffmpeg_encoder", "", [["drawn"], []], _ENCODER),
        _node(3, 2, "RecordSink", "sinks.RecordSink", [["records"], []], {"json": "${RECORDS}"}),
    ],
}

FILES = {
    **{name: FileKind("video", _write_clip, _video_arguments) for name in _CLIPS},
    **{name: FileKind("picture", _write_picture, _picture_arguments) for name in _PICTURES},
    **{name: FileKind("network", _write_network, _network_arguments) for name in _NETWORKS},
    "graph.json": FileKind("graph", _write_graph, _graph_arguments, damaged_json),
    "inspected.onnx": FileKind("inspected", _write_network, _inspect_arguments, damaged_bits),
    "engine.json": FileKind("inspected", _write_manifest, _inspect_arguments, damaged_json),
}
"""Every kind of file, by its name."""

KINDS: dict[str, list[str]] = {}
"""Their names, by group."""
for _name, _kind in FILES.items():
    KINDS.setdefault(_kind.group, []).append(_name)
