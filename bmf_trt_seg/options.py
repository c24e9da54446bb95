"""The options of our modules: types, defaults, limits, and the sentences about them.

The JSON of a graph, the flags of the command line and the documentation all come from this one schema.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic

from bmf_trt_seg.engine.options import BuildOptions, Shape, options_from_text, parse_shape
from bmf_trt_seg.spec import Color
from bmf_trt_seg.text_values import FromText
from bmf_trt_seg.validation import Strict, allowed_values, validated

__all__ = [
    "LiveOptions",
    "NvDecOptions",
    "RecordSinkOptions",
    "SegmentOptions",
    "Style",
    "changeable_options",
    "option_table",
    "read_options",
]

Style = Literal["blend", "blur", "contour", "cutout", "sidebyside"]

# an option with one of these may change in a running graph: at once, or with the network loaded anew beside the old one
_AT_ONCE: dict[str, Any] = {"x-running": "at-once"}
_RELOADED: dict[str, Any] = {"x-running": "reloaded"}


def _comma_separated(part: str) -> str:
    """A pattern of texts whose parts between commas are blank or fit `part`."""
    return rf"^(\s*|{part})(,(\s*|{part}))*$"


_PALETTE_TEXT = _comma_separated(r"[^,=]*=\s*#[0-9a-fA-F]{6}\s*")
_SHAPES_TEXT = _comma_separated(r"([^,]*:)?\s*[0-9]+([xX][0-9]+){0,7}\s*")
_BUILD_TEXT = r"^\s*\{|" + _comma_separated(rf"\s*({'|'.join(BuildOptions.model_fields)})\s*=[^,]*")


def _split_commas(value: Any) -> Any:
    """A list may be written 'a,b', and 'no list' as '': a variable of a graph is always a string."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()] or None


def _palette_from_text(value: Any) -> Any:
    """A palette may be written 'person=#00ff00,dog=#ff0000', for the same reason."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    return {label.strip(): color.strip() for label, _, color in pairs}


def _shapes_from_text(value: Any) -> Any:
    """Shapes may be written 'input:1x3x512x512,other:1x4'."""
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition(":") for part in value.split(",") if part.strip()]
    return {name.strip(): parse_shape(shape) for name, _, shape in pairs} or None


class SegmentOptions(Strict):
    """Options of `bmf_trt_seg.module.SegmentModule`; see the fields."""

    model: str = pydantic.Field(
        "",
        description="Model file (.onnx, .pt, .pt2, .engine), or a name that 'models list' shows.",
        json_schema_extra=_RELOADED,
    )
    replay: str = pydantic.Field(
        "", description="Records written by --json: their masks are drawn again, and no network is run."
    )
    backend: Literal["auto", "onnxruntime", "pytorch", "tensorrt"] = pydantic.Field(
        "auto",
        description="What runs the network; auto goes by the ending of the model file.",
        json_schema_extra=_RELOADED,
    )
    device: Annotated[
        str, pydantic.Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", examples=["'auto', 'cpu', 'cuda' or 'cuda:N'"])
    ] = pydantic.Field("auto", description="Where it runs: auto, cpu, cuda or cuda:N.", json_schema_extra=_RELOADED)
    build: Annotated[BuildOptions, FromText(options_from_text, _BUILD_TEXT)] = pydantic.Field(
        BuildOptions(),
        description="With backend tensorrt and an .onnx file, how the engine is built: 'precision=fp16', or an object; "
        "see 'bmf-trt-seg build --help'.",
        json_schema_extra=_RELOADED,
    )
    input_shapes: Annotated[dict[str, Shape] | None, FromText(_shapes_from_text, _SHAPES_TEXT)] = pydantic.Field(
        None,
        description="Shapes of the network's inputs, where it leaves them open: 'input:1x3x512x512'. The picture's "
        "takes the place of its description's height and width, and its first size that of batch_size.",
        json_schema_extra=_RELOADED,
    )
    batch_size: int = pydantic.Field(
        1, ge=1, le=256, description="Frames in one inference.", json_schema_extra=_RELOADED
    )
    threads: int = pydantic.Field(
        1,
        ge=0,
        le=256,
        description="CPU threads of the network; 0 takes a thread a core.",
        json_schema_extra=_RELOADED,
    )
    classes: Annotated[list[str | pydantic.StrictInt] | None, FromText(_split_commas, "")] = pydantic.Field(
        None,
        description="Classes to show, by name or index; the others count as background. Default: all but it.",
        json_schema_extra=_AT_ONCE,
    )
    style: Style = pydantic.Field(
        "blend",
        description="blend: class colours over the picture; blur: all but the classes blurred; contour: class "
        "borders; cutout: one colour behind the classes; sidebyside: input and blend.",
        json_schema_extra=_AT_ONCE,
    )
    alpha: float = pydantic.Field(
        0.5, ge=0.0, le=1.0, description="Opacity of the class colours.", json_schema_extra=_AT_ONCE
    )
    palette: Annotated[list[Color] | dict[str, Color] | None, FromText(_palette_from_text, _PALETTE_TEXT)] = (
        pydantic.Field(
            None,
            description="Colours '#rrggbb' in the place of the model's: one a class, or by class name.",
            json_schema_extra=_AT_ONCE,
        )
    )
    background_color: Color = pydantic.Field(
        "#00b140", description="Colour behind the classes (cutout).", json_schema_extra=_AT_ONCE
    )
    legend: bool = pydantic.Field(
        False, description="Names and colours of the classes seen so far, burnt in.", json_schema_extra=_AT_ONCE
    )
    threshold: float | None = pydantic.Field(
        None,
        ge=0.0,
        le=1.0,
        description="Least probability a class needs, in the place of the model's.",
        json_schema_extra=_AT_ONCE,
    )
    interval: int = pydantic.Field(
        1,
        ge=1,
        le=10000,
        description="Infer every Nth frame; hold the mask between.",
        json_schema_extra=_AT_ONCE,
    )
    smoothing: float = pydantic.Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Weight of the past in the scores, 0 for none: exponential smoothing over inferences.",
        json_schema_extra=_AT_ONCE,
    )
    output: Literal["overlay", "mask"] = pydantic.Field(
        "overlay",
        description="overlay: the picture, drawn on; mask: class colours on black, white if one class is shown.",
        json_schema_extra=_AT_ONCE,
    )
    max_in_flight: int = pydantic.Field(
        2, ge=1, le=16, description="On a GPU, batches that are worked on while the next one fills."
    )
    max_latency_ms: int = pydantic.Field(
        0,
        ge=0,
        le=60000,
        description="For live video: longest wait of a frame for its batch to fill, looked at whenever one comes, and "
        "batches are not overlapped. 0: no limit. With shared: longest wait for frames of other streams; 0: none.",
    )
    shared: bool = pydantic.Field(
        False,
        description="Frames of all streams of this process that run this network with this option go into common "
        "batches of up to batch_size, through host memory.",
    )
    frames_out: Literal["host", "device"] = pydantic.Field(
        "host",
        description="Where drawn frames lie: host, for x264 and other modules of the CPU; device, on the GPU that drew "
        "them, for NVENC and modules of that GPU.",
    )
    name: str = pydantic.Field("segment", description="Name of the stream in logs and metrics.")

    @pydantic.model_validator(mode="after")
    def _one_source_of_masks(self) -> SegmentOptions:
        if bool(self.model) == bool(self.replay):
            raise ValueError("option 'model' is missing" if not self.model else "give 'model' or 'replay', not both")
        return self


class RecordSinkOptions(Strict):
    """Options of `bmf_trt_seg.sinks.RecordSink`."""

    json_lines: str = pydantic.Field("", alias="json", description="File for the records, a JSON object a line.")
    masks: str = pydantic.Field("", description="Folder for the class maps, an 8-bit PNG a frame.")


class LiveOptions(Strict):
    """Options of `bmf_trt_seg.sources.LiveSource`."""

    url: str = pydantic.Field(min_length=1, description="Address (rtsp, rtmp, http), or a file, played in real time.")
    transport: Literal["tcp", "udp"] = pydantic.Field("tcp", description="How RTSP carries the video.")
    connect_timeout: float = pydantic.Field(5.0, gt=0, le=300, description="Seconds to wait for a connection.")
    read_timeout: float = pydantic.Field(2.0, gt=0, le=300, description="Seconds without data after which it is away.")
    max_retries: int | None = pydantic.Field(
        None, ge=0, description="Failed attempts in a row after the first before it gives up; null: never."
    )
    backoff: float = pydantic.Field(0.5, gt=0, le=60, description="Seconds before the first new attempt; then doubled.")
    backoff_max: float = pydantic.Field(30.0, gt=0, le=3600, description="Most seconds between two attempts.")
    policy: Literal["latest", "all"] = pydantic.Field(
        "latest", description="latest: frames that would be older than max_latency_ms are dropped; all: none is."
    )
    max_latency_ms: int = pydantic.Field(
        500,
        ge=1,
        le=60000,
        description="Longest time from a frame's arrival to the encoder with policy latest, as far as a LiveSink of "
        "the same name tells how long the graph takes; else to the graph.",
    )
    absence: Literal["hold", "pause"] = pydantic.Field(
        "hold", description="While it is away: hold goes on with the last frame, marked; pause sends nothing."
    )
    new_size: Literal["scale", "restart"] = pydantic.Field(
        "scale",
        description="When its pictures come back in another size: scale fits them into the first one's; restart ends "
        "the graph in good order, and 'live' starts it again, with new files.",
    )
    name: str = pydantic.Field("live", description="Name of the feed in logs and metrics.")


class NvDecOptions(Strict):
    """Options of `bmf_trt_seg.sources.NvDecSource`."""

    path: str = pydantic.Field(min_length=1, description="File or address to decode.")
    start_seconds: float = pydantic.Field(0.0, ge=0, description="Frames before are left out; 0 is the first frame.")
    end_seconds: float | None = pydantic.Field(
        None, gt=0, description="Frames from here on are left out; null: none is."
    )
    decoder: Literal["auto", "nvdec", "ffmpeg"] = pydantic.Field(
        "auto",
        description="auto: NVDEC, or FFmpeg on the CPU with a warning; nvdec: an error instead; ffmpeg: on the CPU.",
    )
    device: Annotated[str, pydantic.Field(pattern=r"^cuda:\d+$", examples=["'cuda:N'"])] = pydantic.Field(
        "cuda:0", description="GPU whose NVDEC decodes: cuda:N."
    )
    clock: int = pydantic.Field(
        0, ge=0, le=1_000_000, description="Ticks a second in which frames are timed; 0 keeps the file's own."
    )
    name: str = pydantic.Field("decode", description="Name of the stream in logs and metrics.")

    @pydantic.model_validator(mode="after")
    def _some_time(self) -> NvDecOptions:
        if self.end_seconds is not None and self.end_seconds <= self.start_seconds:
            raise ValueError(
                f"'end_seconds' {self.end_seconds:g} should be more than 'start_seconds' {self.start_seconds:g}"
            )
        return self


class SoundGateOptions(Strict):
    """Options of `bmf_trt_seg.sources.SoundGate`."""

    lead_seconds: float = pydantic.Field(1.0, ge=0, le=60, description="How far sound may be before the pictures.")


def read_options(values: Any, subject: str = "options of SegmentModule") -> SegmentOptions:
    """Check a module's options; ConfigError names the option, what was given and what is allowed.

    Numbers and lists may be strings ("0.5", "person,dog"), because variables of a graph are.
    """
    return validated(SegmentOptions, values, subject)


def changeable_options() -> dict[str, Literal["at-once", "reloaded"]]:
    """Options that may change while a graph runs: 'at-once', or 'reloaded', which loads the network once more."""
    marks = {name: field.json_schema_extra for name, field in SegmentOptions.model_fields.items()}
    return {name: mark["x-running"] for name, mark in marks.items() if isinstance(mark, dict)}  # type: ignore[misc]


def option_table() -> list[tuple[str, str, str, str]]:
    """Name, default, allowed values and meaning of every option, in order."""
    schema = SegmentOptions.model_json_schema()
    return [
        (
            name,
            "{}" if isinstance(prop.get("default"), dict) else json.dumps(prop.get("default")),
            allowed_values(prop, schema.get("$defs")),
            str(prop.get("description", "")),
        )
        for name, prop in schema["properties"].items()
    ]
