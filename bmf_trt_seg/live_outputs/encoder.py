"""Frames and sound become packets, once, whatever the number of outputs."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
from av.video.frame import PictureType

from bmf_trt_seg.errors import ConfigError, FrameError, StreamError
from bmf_trt_seg.live_outputs.options import LiveSinkOptions
from bmf_trt_seg.live_outputs.sound import SoundEncoder
from bmf_trt_seg.stream_packets import CLOCK, SILENT_SAMPLE, SoundFormat, StreamPacket, described

__all__ = ["Encoder", "KeyFrames", "PictureFormat", "check_encoder"]

_NO_KEY_FRAMES_OF_ITS_OWN = "1000000"
_COMMON = {"g": _NO_KEY_FRAMES_OF_ITS_OWN, "bf": "0", "forced-idr": "1"}


@dataclass(frozen=True)
class PictureFormat:
    """What all pictures of a stream have in common. Colours are FFmpeg's numbers, 0 and 2 being 'not known'."""

    width: int
    height: int
    pixel_format: str
    color_space: int = 2
    color_range: int = 0


class KeyFrames:
    """Says which frames should be key frames: the first, those after `gop_ticks`, and the first of each segment.

    Segments of a length begin with the first frame at or after every multiple of it, counted from the first frame:
    an output that splits there knows so from the times alone. Times are in units of CLOCK.
    """

    def __init__(self, gop_ticks: int, segment_ticks: Iterable[int]) -> None:
        self._gop_ticks = gop_ticks
        self._segment_ticks = sorted(set(segment_ticks))
        self._begin: int | None = None
        self._last = 0
        self._key = 0

    def is_due(self, pts: int) -> bool:
        """Whether the frame of this time should be one; each frame is asked for once, in order."""
        if self._begin is None:
            self._begin = self._last = self._key = pts
            return True
        now, last = pts - self._begin, self._last - self._begin
        due = pts - self._key >= self._gop_ticks or any(now // ticks > last // ticks for ticks in self._segment_ticks)
        self._last = pts
        if due:
            self._key = pts
        return due


class Encoder:
    """Encodes the pictures of one stream, and takes or encodes its sound.

    It is opened for the first picture. Raises ConfigError if the encoder does not take its options.
    """

    def __init__(self, options: LiveSinkOptions, pictures: PictureFormat, sound: SoundFormat) -> None:
        self._pictures = pictures
        self._container = av.open(io.BytesIO(), "w", format="nut")  # holds the streams; nothing is written to it
        stream: Any = self._container.add_stream(
            options.codec,
            rate=Fraction(options.frame_rate).limit_denominator(1001),
            options=_codec_options(options),
            width=pictures.width,
            height=pictures.height,
            bit_rate=options.bit_rate or 0,
            time_base=CLOCK,
        )
        taken = {one.name for one in stream.codec_context.codec.video_formats or ()}
        stream.pix_fmt = pictures.pixel_format if pictures.pixel_format in taken else "yuv420p"  # libx265 takes no NV12
        stream.codec_context.colorspace = pictures.color_space
        stream.codec_context.color_range = pictures.color_range
        self._stream = stream
        self.sound = SoundEncoder(self._container, sound, always_aac=options.sound == "aac")
        try:
            self._container.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            raise ConfigError(f"encoder {options.codec} cannot be opened: {error}") from error
        unknown = sorted(set(stream.codec_context.options) & set(options.encoder_options))
        if unknown:  # FFmpeg leaves there what the encoder did not take
            raise ConfigError(f"encoder {options.codec} has no option '{unknown[0]}'")
        if stream.codec_context.max_b_frames > 0 or stream.codec_context.has_b_frames:
            raise ConfigError(f"encoder {options.codec} is told to make B-frames; live video has none: leave 'bf' out")
        self.description = b""
        """Of the streams, for outputs (see `stream_packets.described`); there once the first packet is."""

    def encode(self, frame: av.VideoFrame, *, is_key: bool) -> list[StreamPacket]:
        """The packets that are ready; pts and time base of the frame are set. Raises FrameError, StreamError."""
        pictures = self._pictures
        given = PictureFormat(frame.width, frame.height, frame.format.name, pictures.color_space, pictures.color_range)
        if given != pictures:
            raise FrameError(
                f"a frame is {given.width}x{given.height} {given.pixel_format}, those before were {pictures.width}x"
                f"{pictures.height} {pictures.pixel_format}; LiveSink takes one size and format"
            )
        if frame.format.name != self._stream.pix_fmt:
            frame = frame.reformat(format=self._stream.pix_fmt)
        frame.pict_type = PictureType.I if is_key else PictureType.NONE
        return self._packets(frame)

    def flush(self) -> list[StreamPacket]:
        """What the encoder still holds."""
        return self._packets(None)

    def _packets(self, frame: av.VideoFrame | None) -> list[StreamPacket]:
        try:
            encoded = self._stream.encode(frame)
        except av.error.FFmpegError as error:
            raise StreamError(f"encoder {self._stream.codec_context.name} failed: {error}") from error
        packets = [
            StreamPacket(bytes(packet), packet.pts, packet.duration or 0, packet.is_keyframe) for packet in encoded
        ]
        if packets and not self.description:
            streams = [(self._stream, packets[0].data)]
            if self.sound.stream is not None:
                streams.append((self.sound.stream, SILENT_SAMPLE))
            self.description = described(streams)
        return packets


def check_encoder(options: LiveSinkOptions) -> None:
    """Raise ConfigError if this machine cannot encode with these options: now, not when the camera comes."""
    frame = av.VideoFrame(256, 256, "yuv420p")
    frame.pts, frame.time_base = 0, CLOCK
    try:
        Encoder(options, PictureFormat(256, 256, "yuv420p"), SoundFormat()).encode(frame, is_key=True)
    except StreamError as error:
        raise ConfigError(str(error)) from error


def _codec_options(options: LiveSinkOptions) -> dict[str, str]:
    """What makes an encoder fit for live video: no B-frames, no look-ahead, key frames only where asked for."""
    rate = options.bit_rate
    limits = {"maxrate": str(rate), "bufsize": str(rate)} if rate else {}
    quality = {} if rate else {"cq" if options.codec.endswith("nvenc") else "crf": f"{options.crf:g}"}
    if options.codec.endswith("nvenc"):
        own = {"preset": options.preset or "p4", "tune": "ll", "rc": "vbr", "delay": "0", "no-scenecut": "1"}
    elif options.codec == "libx265":
        own = {
            "preset": options.preset or "veryfast",
            "tune": "zerolatency",
            "x265-params": "scenecut=0:log-level=none",
        }
    else:
        own = {"preset": options.preset or "veryfast", "tune": "zerolatency", "sc_threshold": "0"}
    return {**_COMMON, **limits, **quality, **own, **options.encoder_options}
