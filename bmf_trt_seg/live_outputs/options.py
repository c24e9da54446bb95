"""The options of LiveSink: how frames are encoded, and where that goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import pydantic

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.validation import Strict, validated

__all__ = ["FileOutput", "HlsOutput", "LiveSinkOptions", "Output", "PushOutput"]

_MOST_SEGMENT_SECONDS = 86400
_MOST_OUTPUTS = 32
_PUSHED = ("rtmp://", "rtmps://", "rtsp://", "rtsps://", "srt://", "udp://", "tcp://", "http://", "https://")


class _Output(Strict):
    """What outputs of all kinds have."""

    backoff: float = pydantic.Field(
        0.5, gt=0, le=60, description="Seconds until an output that failed is tried again; then doubled."
    )
    backoff_max: float = pydantic.Field(30.0, gt=0, le=3600, description="Most seconds between two attempts.")


class FileOutput(_Output):
    """Files of equal length in a folder, NAME-20261121T190000.mp4, by the time (UTC) of their first frame."""

    kind: Literal["file"]
    path: str = pydantic.Field(
        min_length=1, description="Folder and name with an ending, as 'recordings/door.mp4': .mp4, .mkv or .ts."
    )
    segment_seconds: float = pydantic.Field(
        60.0, ge=1, le=_MOST_SEGMENT_SECONDS, description="Length of a file; it ends before a key frame."
    )
    keep_segments: int | None = pydantic.Field(
        None, ge=1, description="How many finished files are kept, the newest; null: all."
    )
    keep_seconds: float | None = pydantic.Field(
        None, gt=0, description="How long finished files are kept after their first frame; null: for ever."
    )

    @pydantic.field_validator("path")
    @classmethod
    def _is_known_container(cls, value: str) -> str:
        path = Path(value)
        if path.suffix.lower() not in (".mp4", ".mkv", ".ts") or "://" in value:
            raise ValueError("expected the path of a file that ends in .mp4, .mkv or .ts")
        return value


class HlsOutput(_Output):
    """A folder with index.m3u8 and its segments, for browsers and players."""

    kind: Literal["hls"]
    path: str = pydantic.Field(min_length=1, description="Folder; it is made if it does not exist.")
    segment_seconds: float = pydantic.Field(2.0, ge=1, le=60, description="Length of a segment.")
    list_size: int = pydantic.Field(
        6, ge=0, le=100000, description="Segments in the playlist; older ones are deleted. 0: all stay."
    )
    segment_type: Literal["mpegts", "fmp4"] = pydantic.Field(
        "mpegts", description="What segments are: MPEG-TS, which any player takes, or fragmented MP4 (H.265 wants it)."
    )


class PushOutput(_Output):
    """A server that takes streams: RTMP, RTSP over TCP, or whatever FFmpeg can send MPEG-TS to."""

    kind: Literal["push"]
    url: str = pydantic.Field(min_length=1, description="Address: rtmp, rtsp, srt, udp, tcp or http, with its login.")
    connect_timeout: float = pydantic.Field(5.0, gt=0, le=300, description="Seconds to wait for a connection.")
    write_timeout: float = pydantic.Field(
        5.0, gt=0, le=300, description="Seconds that the server may take nothing before it counts as away."
    )

    @pydantic.field_validator("url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.lower().startswith(_PUSHED):
            raise ValueError(f"expected an address that begins with {', '.join(_PUSHED)}")
        return value


Output = FileOutput | HlsOutput | PushOutput


class LiveSinkOptions(Strict):
    """Options of `bmf_trt_seg.live_sink.LiveSink`."""

    name: str = pydantic.Field(
        "live", description="Name of the stream in logs and metrics; with the source's, latency is measured from there."
    )
    outputs: list[Output] = pydantic.Field(description="Where the video goes; each works on its own if another fails.")
    codec: Literal["libx264", "libx265", "h264_nvenc", "hevc_nvenc"] = pydantic.Field(
        "libx264", description="Encoder, as FFmpeg calls it. There are no B-frames: they would add latency."
    )
    preset: str = pydantic.Field(
        "", max_length=20, description="Speed against size, as the encoder names it; '': veryfast, or p4 with NVENC."
    )
    crf: float = pydantic.Field(23.0, ge=0, le=51, description="Quality, 0 the best; NVENC takes it for its 'cq'.")
    bit_rate: int | None = pydantic.Field(
        None, ge=10_000, le=1_000_000_000, description="Bits a second, in the place of crf; null: crf decides."
    )
    gop_seconds: float = pydantic.Field(
        2.0, gt=0, le=60, description="Most seconds between key frames; each segment begins with one too."
    )
    frame_rate: float = pydantic.Field(
        25.0, ge=1, le=1000, description="Frames a second that the encoder plans for. Frames keep their times."
    )
    encoder_options: dict[str, str] = pydantic.Field(
        {}, description="More options of the encoder, as FFmpeg names them."
    )
    sound: Literal["copy", "aac", "off"] = pydantic.Field(
        "copy", description="copy: AAC, Opus, MP2 and MP3 stay as they are, the rest becomes AAC; aac: all does."
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _read_outputs(cls, values: Any) -> Any:
        """Each by its kind. A complaint about one shows nothing of its address, which may have a password in it."""
        if not isinstance(values, dict):
            return values
        given = values.get("outputs")
        if not isinstance(given, list) or not 1 <= len(given) <= _MOST_OUTPUTS:
            raise ValueError(f"option 'outputs' should be a list of 1 to {_MOST_OUTPUTS} objects")
        return {**values, "outputs": [_read_output(output, number) for number, output in enumerate(given, 1)]}

    @pydantic.model_validator(mode="after")
    def _outputs_are_distinct(self) -> LiveSinkOptions:
        places = [out.url if isinstance(out, PushOutput) else str(Path(out.path).resolve()) for out in self.outputs]
        if len(set(places)) < len(places):
            raise ValueError("option 'outputs': two have the same path or address; give each its own")
        return self


def _read_output(output: Any, number: int) -> Any:
    if isinstance(output, _Output):
        return output
    kind = output.get("kind") if isinstance(output, dict) else None
    model = next((model for model in get_args(Output) if kind in get_args(model.model_fields["kind"].annotation)), None)
    if model is None:
        raise ValueError(f"output {number} should be an object with 'kind' 'file', 'hls' or 'push'")
    try:
        return validated(model, output, f"output {number} ({kind})")
    except ConfigError as error:
        raise ValueError(masked(str(error))) from None
