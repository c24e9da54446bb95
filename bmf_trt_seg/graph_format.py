"""What a graph file is made of: BMF's keys, and our modules with their options and streams.

The check of a graph and its schema both come from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pydantic

from bmf_trt_seg.live_outputs.options import LiveSinkOptions
from bmf_trt_seg.options import LiveOptions, NvDecOptions, RecordSinkOptions, SegmentOptions, SoundGateOptions
from bmf_trt_seg.validation import Strict

__all__ = [
    "BUILTIN_MODULES",
    "FOR_READERS",
    "LARGEST_NUMBER",
    "MOST_THREADS",
    "OWN_MODULES",
    "PACKAGE",
    "GraphFile",
    "GraphOptions",
    "InputManager",
    "ModuleInfo",
    "Node",
    "OwnModule",
    "Stream",
    "Streams",
]

PACKAGE = __name__.partition(".")[0]
BUILTIN_MODULES = ("c_ffmpeg_decoder", "c_ffmpeg_encoder", "c_ffmpeg_filter")
FOR_READERS = ("$schema", "comment")
"""Keys of a file, and of a node or feed in it, that are taken out when it is read."""

LARGEST_NUMBER = 2**31 - 1
"""Of BMF's own numbers: it cuts off what is larger."""
MOST_THREADS = 256

InputManager = Literal["default", "immediate", "clock_sync", "framesync", "server"]


class Stream(pydantic.BaseModel):
    """A stream that a node takes or gives."""

    model_config = pydantic.ConfigDict(extra="allow")

    identifier: str = pydantic.Field(
        description="Name of the stream. 'video:decoded' is the stream 'decoded', and what the decoder is to put there."
    )


class ModuleInfo(Strict):
    """Which module a node runs."""

    name: str = pydantic.Field(description="Name of the module, as it stands in BMF's messages.")
    type: str = pydantic.Field("", description="Language it is written in; modules of ours are found without it.")
    path: str = pydantic.Field("", description="Folder or library that it is in; modules of ours are found without it.")
    entry: str = pydantic.Field("", description="Of a module in Python, FILE.CLASS; of ours, the path of its class.")


class Node(Strict):
    """A module at work in the graph."""

    id: int = pydantic.Field(strict=True, ge=0, le=LARGEST_NUMBER, description="Number of the node, each its own.")
    alias: str = pydantic.Field("", description="Name of the node in messages.")
    module_info: ModuleInfo
    input_streams: list[Stream] = pydantic.Field(description="Streams that it takes; [] for none.")
    output_streams: list[Stream] = pydantic.Field(description="Streams that it gives; [] for none.")
    option: Any = pydantic.Field({}, description="Options of the module.")
    scheduler: int = pydantic.Field(
        strict=True,
        ge=0,
        description="Number of the thread that it runs in, below the graph's scheduler_count. Modules with the same "
        "number take turns: give decoder, network and encoder one each.",
    )
    input_manager: InputManager = pydantic.Field("immediate", description="When it is called: immediate, with a frame.")
    meta_info: Any = pydantic.Field(
        {}, description='BMF\'s settings of the node: {"queue_length_limit": 1} keeps few frames before it.'
    )
    dist_nums: Any = pydantic.Field(1, description="How many copies of it BMF runs side by side.")
    user_callback: Any = pydantic.Field({}, description="Callbacks of BMF, which a file cannot have.")
    comment: Any = pydantic.Field("", description="For readers: a text, or a list of lines. BMF does not get it.")


class GraphOptions(pydantic.BaseModel):
    """Options of the graph as a whole."""

    model_config = pydantic.ConfigDict(extra="allow")

    scheduler_count: int = pydantic.Field(
        1, strict=True, ge=1, le=MOST_THREADS, description="Threads in which its nodes run."
    )


class GraphFile(Strict):
    """A graph of BMF."""

    schema_address: Any = pydantic.Field(
        "", alias="$schema", description="Where editors find this schema. BMF does not get it."
    )
    comment: Any = pydantic.Field("", description="For readers: a text, or a list of lines. BMF does not get it.")
    mode: str = pydantic.Field("Normal", description="How BMF runs it: Normal, from files or cameras to an end.")
    option: GraphOptions = pydantic.Field(GraphOptions(), description="Options of the graph.")
    input_streams: list[Any] = pydantic.Field(description="Streams that come from outside; [] for none.")
    output_streams: list[Any] = pydantic.Field(description="Streams that go outside; [] for none.")
    nodes: list[Node] = pydantic.Field(min_length=1, description="The modules at work, and how streams connect them.")


@dataclass(frozen=True)
class Streams:
    """How many streams a module may have on one side, and the sentence about them."""

    least: int
    most: int
    rule: str


@dataclass(frozen=True)
class OwnModule:
    """A module of ours: what it is, its options, the streams it takes and gives."""

    summary: str
    options: type[Strict]
    takes: Streams
    gives: Streams


_NO_INPUT = Streams(0, 0, "has no input stream")
_ONE_INPUT = Streams(1, 1, "has one input stream")
_SOUND_GATE = Streams(2, 2, "has two streams in and out: pictures, then sound")
_LIVE_SINK = "has an input stream for pictures, may have one for sound, and has no output"

OWN_MODULES = {
    f"{PACKAGE}.module.SegmentModule": OwnModule(
        "Finds classes in pictures and draws them.",
        SegmentOptions,
        _ONE_INPUT,
        Streams(1, 2, "has one output stream for pictures, and may have one for records"),
    ),
    f"{PACKAGE}.live_sink.LiveSink": OwnModule(
        "Encodes, and writes files, HLS or to servers.",
        LiveSinkOptions,
        Streams(1, 2, _LIVE_SINK),
        Streams(0, 0, _LIVE_SINK),
    ),
    f"{PACKAGE}.sinks.RecordSink": OwnModule(
        "Writes records as JSON lines and PNG files.",
        RecordSinkOptions,
        _ONE_INPUT,
        Streams(0, 0, "has no output stream"),
    ),
    f"{PACKAGE}.sources.LiveSource": OwnModule(
        "Pictures of a camera, which may go away and come back, and its sound.",
        LiveOptions,
        _NO_INPUT,
        Streams(1, 2, "has one output stream for pictures, and may have one for sound"),
    ),
    f"{PACKAGE}.sources.NvDecSource": OwnModule(
        "Pictures of a file, decoded on the GPU where that is possible.",
        NvDecOptions,
        _NO_INPUT,
        Streams(1, 1, "has one output stream"),
    ),
    f"{PACKAGE}.sources.SoundGate": OwnModule(
        "Pictures and sound, in an order that BMF's encoder keeps whole.",
        SoundGateOptions,
        _SOUND_GATE,
        _SOUND_GATE,
    ),
}
