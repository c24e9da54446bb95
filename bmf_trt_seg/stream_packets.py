"""Encoded pictures and sound as plain values, and the description of their streams as bytes.

Both can go from one thread or process to another, which PyAV's own objects cannot: these belong to a container.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av

__all__ = ["CLOCK", "SILENT_SAMPLE", "SoundFormat", "StreamPacket", "described", "described_streams"]

CLOCK = Fraction(1, 90000)
"""Time base of all that a live source gives, in seconds."""
SILENT_SAMPLE = bytes(8)
"""Stands for a packet of sound in a description."""
_FRAMING = struct.Struct("<BBqqI")  # is it sound, is it a key frame, pts, duration, bytes that follow


@dataclass(frozen=True)
class StreamPacket:
    """An encoded picture or a piece of sound; times in units of CLOCK. It is decoded in the order of its pts."""

    data: bytes
    pts: int
    duration: int = 0
    """0: not known."""
    is_key: bool = True
    is_sound: bool = False

    def of_stream(self, stream: Any, begin: int = 0) -> av.Packet[Any]:
        """This as a packet of PyAV's, for a stream of some container; pts counted from `begin`."""
        packet: av.Packet[Any] = av.Packet(self.data)
        packet.pts = packet.dts = self.pts - begin
        packet.duration = self.duration
        packet.time_base = CLOCK
        packet.is_keyframe = self.is_key
        packet.stream = stream
        return packet

    def write(self, file: BinaryIO) -> None:
        """Write it so that `read` finds it again. Raises OSError."""
        head = _FRAMING.pack(self.is_sound, self.is_key, self.pts, self.duration, len(self.data))
        file.write(head + self.data)

    @classmethod
    def read(cls, file: BinaryIO) -> StreamPacket | None:
        """The next one of a file; None at its end, also if that comes in the middle of a packet."""
        head = file.read(_FRAMING.size)
        if len(head) < _FRAMING.size:
            return None
        is_sound, is_key, pts, duration, size = _FRAMING.unpack(head)
        data = file.read(size)
        return cls(data, pts, duration, bool(is_key), bool(is_sound)) if len(data) == size else None


@dataclass(frozen=True)
class SoundFormat:
    """How the sound that follows is encoded. It comes before the first frame of each connection of a camera."""

    description: bytes = b""
    """See `described`; empty: there is no sound."""


def described(streams: Sequence[tuple[Any, bytes]]) -> bytes:
    """What a muxer or a decoder has to know of streams of PyAV's, each given with the content of a packet of it.

    It is a file of the NUT format, which keeps extra data as it is, where others rewrite it. Its demuxer wants a packet
    of each stream, and finds a pixel format in none but a real one. Raises ValueError if NUT cannot hold a stream.
    """
    memory = io.BytesIO()
    with av.open(memory, "w", format="nut", container_options={"fflags": "+bitexact"}) as out:
        made = [out.add_stream_from_template(stream) for stream, _ in streams]
        for stream, (_, sample) in zip(made, streams, strict=True):
            out.mux(StreamPacket(sample, 0).of_stream(stream))
    return memory.getvalue()


def described_streams(description: bytes) -> Any:
    """An open container of PyAV's with the streams that were described, as templates, or to decode with."""
    return av.open(io.BytesIO(description), format="nut", options={"fpsprobesize": "0", "analyzeduration": "1"})
