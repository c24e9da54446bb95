"""What is in a media file, before it is decoded."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error

from bmf_trt_seg.errors import StreamError

__all__ = ["VideoInfo", "check_readable", "main_video", "missing_matroska_bytes", "open_media", "probe_video"]

_MOST_BOXES = 10_000  # of a file of the MP4 family, at its top: even recordings in fragments have fewer
_WIDEST_PIXEL = 10  # FFmpeg's encoders take no pixel that is wider in proportion


@dataclass(frozen=True)
class VideoInfo:
    """The main video stream of a file, as its container tells."""

    path: Path
    stream_index: int
    width: int
    height: int
    time_base: Fraction
    rate: Fraction | None
    """Frames a second on average; None if the container does not tell."""
    frames: int | None
    """Number of frames; None if the container does not tell."""
    duration_seconds: float | None
    audio_streams: int
    sample_aspect: Fraction | None
    """Width to height of a pixel as the decoder gives it, upright; None if square or unknown."""
    color_tags: dict[str, str]
    """FFmpeg's encoder options that tag a stream with the same colours."""

    @property
    def expected_frames(self) -> int | None:
        """Number of frames, estimated from the duration if need be."""
        if self.frames:
            return self.frames
        if self.duration_seconds and self.rate:
            return max(1, round(self.duration_seconds * self.rate))
        return None


def check_readable(path: Path) -> None:
    """Raise StreamError unless `path` is a file with something in it that may be read."""
    if path.is_dir():
        raise StreamError(f"'{path}' is a folder; give a video, pictures or a folder of pictures")
    if not path.exists():
        raise StreamError(f"'{path}' does not exist")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise StreamError(f"'{path}' cannot be read: {error.strerror}") from error
    if empty:
        raise StreamError(f"'{path}' is empty (0 bytes)")


def open_media(path: Path) -> Any:
    """PyAV's container of a file; titles and the like in it need not be UTF-8. Raises what `av.open` does."""
    return av.open(str(path.absolute()), metadata_errors="replace")


def probe_video(path: Path) -> VideoInfo:
    """Look into a video file; StreamError says why it is none."""
    check_readable(path)
    try:
        with open_media(path) as container:
            if not container.streams.video:
                others = ", ".join(f"{stream.type} ({_codec_name(stream)})" for stream in container.streams)
                raise StreamError(f"'{path}' has no video stream; it has {others or 'nothing'}")
            stream = main_video(container)
            codec = stream.codec_context
            if codec is None or not codec.width:
                raise StreamError(f"'{path}': its video stream has no pictures in it, or of an unknown codec")
            duration = stream.duration * stream.time_base if stream.duration and stream.time_base else None
            if duration is None and container.duration:
                duration = Fraction(container.duration, av.time_base)
            return VideoInfo(
                path=path,
                stream_index=stream.index,
                width=codec.width,
                height=codec.height,
                time_base=stream.time_base or Fraction(1, 90000),
                rate=stream.average_rate or stream.guessed_rate,
                frames=stream.frames or None,
                duration_seconds=float(duration) if duration else None,
                audio_streams=len(container.streams.audio),
                sample_aspect=_sample_aspect(stream),
                color_tags=_color_tags(codec),
            )
    except av.error.FFmpegError as error:
        if _lacks_index(path):
            raise StreamError(
                f"'{path}' is an MP4 file without its index ('moov'), so nothing in it can be found: "
                "its recording or download was not finished"
            ) from error
        raise StreamError(f"'{path}' is no video that FFmpeg can read: {error.strerror or error}") from error


def _codec_name(stream: Any) -> str:
    return str(stream.codec_context.name) if stream.codec_context is not None else "unknown"


def main_video(container: Any) -> Any:
    """The video stream that FFmpeg thinks best: not a cover picture, and not a preview."""
    return container.streams.best("video") or container.streams.video[0]


def _lacks_index(path: Path) -> bool:
    """Whether a file is of the MP4 family and ends before its 'moov', which recorders write last."""
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        kinds: list[bytes] = []
        while place + 8 <= size and len(kinds) < _MOST_BOXES:
            file.seek(place)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:  # a 64-bit length follows
                length = int.from_bytes(head[8:], "big")
            kinds.append(kind)
            if length < 8:  # 0: it goes on to the end of the file
                break
            place += length
    return kinds[:1] == [b"ftyp"] and b"moov" not in kinds


def missing_matroska_bytes(path: Path) -> int:
    """How much of a Matroska file is cut off; 0 for any other file, and for a live recording, which does not tell."""
    with path.open("rb") as file:
        for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, then Segment: all the rest
            if file.read(4) != identifier:
                return 0
            size = _ebml_size(file)
            if size is None:
                return 0
            end = file.seek(size, os.SEEK_CUR)
    return max(0, end - path.stat().st_size)


def _ebml_size(file: BinaryIO) -> int | None:
    """A length as EBML codes it (RFC 8794): leading zeros tell its bytes; all ones are 'unknown'."""
    first = int.from_bytes(file.read(1), "big")
    count = 9 - first.bit_length()
    value = int.from_bytes(bytes([first]) + file.read(count - 1), "big") & ((1 << 7 * count) - 1)
    return None if count > 8 or value == (1 << 7 * count) - 1 else value


# Names of FFmpeg 4's encoder options by the code points of ITU-T H.273, which FFmpeg's own numbers are
_PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020"}
_TRANSFERS = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 11: "iec61966-2-4",
    13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 18: "arib-std-b67",
}  # fmt: skip

_LIMITED = 1


def _color_tags(codec: Any) -> dict[str, str]:
    """Primaries, transfer, limited range; matrix and full range go with the frames: a conversion may change them."""
    tags = {
        "color_primaries": _PRIMARIES.get(int(codec.color_primaries)),
        "color_trc": _TRANSFERS.get(int(codec.color_trc)),
        "color_range": "tv" if int(codec.color_range) == _LIMITED else None,
    }
    return {key: value for key, value in tags.items() if value}


def _sample_aspect(stream: Any) -> Fraction | None:
    aspect = stream.sample_aspect_ratio
    if not aspect or aspect == 1:
        return None
    upright = Fraction(1) / aspect if _is_on_its_side(stream) else Fraction(aspect)
    return upright if upright <= _WIDEST_PIXEL else None


def _is_on_its_side(stream: Any) -> bool:
    """Whether the display matrix turns pictures by 90 or 270 degrees, as the decoder node will do."""
    with suppress(av.error.FFmpegError):  # that a video is damaged is found out when it is decoded
        for packet in stream.container.demux(stream):
            for frame in _pictures_of(packet):
                return frame.rotation % 180 != 0
    return False


def _pictures_of(packet: Any) -> list[Any]:
    try:
        return list(packet.decode())
    except av.error.FFmpegError:
        return []
