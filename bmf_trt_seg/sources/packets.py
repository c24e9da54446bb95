"""The video track of a file: what its pictures are like, its packets as a hardware decoder wants them, its pictures.

It knows PyAV; it does not know BMF, nor any GPU.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.media import main_video, open_media, probe_video
from bmf_trt_seg.sources.urls import is_network, masked

__all__ = ["NVDEC_CODECS", "Track", "TrackInfo", "nvdec_refusal"]

NVDEC_CODECS = {"h264": "H264", "hevc": "HEVC", "av1": "AV1", "vp9": "VP9"}
"""FFmpeg's names of the codecs that are given to NVDEC, and PyNvVideoCodec's."""

_TO_ANNEX_B = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_AVC_CONFIGURATION, _AV1_CONFIGURATION = b"\x01", b"\x81"  # the first byte of 'avcC' and of 'av1C'
_WITHOUT_TIMES = {"avi", "h264", "hevc"}  # containers that do not say when a picture is shown
_NVDEC_FORMATS = {"yuv420p", "yuvj420p", "yuv420p10le"}
_FULL_RANGE = 2  # FFmpeg's number of it
_TIMEOUTS = (5.0, 5.0)  # seconds to open an address, and to wait for its data
# A container seeks by decoding times, which B-frames place before those of display: so much earlier, as ffmpeg has it
_SEEK_MARGIN = Fraction(3, 23)


@dataclass(frozen=True)
class TrackInfo:
    """What the pictures of a video track are like; colours and rotation are the first picture's."""

    codec: str
    """FFmpeg's name of it: 'h264', 'hevc', 'av1', 'vp9', ..."""
    profile: str
    width: int
    height: int
    pixel_format: str
    """FFmpeg's name, as 'yuv420p10le'; '' if no picture could be decoded."""
    bit_depth: int
    is_interlaced: bool
    time_base: Fraction
    """Seconds a tick."""
    rate: Fraction | None
    """Frames a second on average; None if the container does not tell."""
    matrix: int
    """Colour matrix, as ITU-T H.273 numbers them; 2 where there is no tag."""
    is_full_range: bool
    quarter_turns: int
    """How often a picture is to be turned by 90 degrees, counterclockwise, to be upright: 0 to 3."""
    has_times: bool
    """Whether the packets say when their pictures are shown."""


class Track:
    """The main video track of a file or address, from `start_seconds` up to `end_seconds`.

    Both count from the beginning of the track, whatever its first timestamp is. Everything is read in one thread and
    once: `packets` or `pictures`. Raises StreamError, in one line, for what cannot be read.
    """

    def __init__(self, url: str, start_seconds: float = 0.0, end_seconds: float | None = None) -> None:
        self._name = f"'{masked(url)}'"
        if not is_network(url):
            url = str(Path(url.removeprefix("file://")).absolute())  # FFmpeg takes 'a:b' for a protocol, not '/a:b'
            probe_video(Path(url))  # it has the better words for what is wrong with a file
        self._url = url
        self._container = self._opened(url)
        if not self._container.streams.video:
            self._container.close()
            raise StreamError(f"{self._name} has no video stream")
        self._stream = main_video(self._container)
        if self._stream.codec_context is None:
            self._container.close()
            raise StreamError(f"{self._name}: its video is of a codec that FFmpeg does not know")
        self._stream.thread_type = "AUTO"
        # an address is not opened twice: not every one of them can be
        self.info = _info(self._stream, None if is_network(url) else self._first_picture(url))
        self.unreadable = 0
        """Packets so far that were no pictures, because of damage."""
        begin = self._stream.start_time or 0
        self._first_pts = begin + round(Fraction(start_seconds) / self.info.time_base) if start_seconds else None
        self._end_pts = None if end_seconds is None else begin + round(Fraction(end_seconds) / self.info.time_base)
        self._hidden: set[int] = set()

    def __enter__(self) -> Track:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def skip_to(self, pts: int) -> None:
        """Begin with the first picture at or after this time, in units of the time base; before anything is read."""
        self._first_pts = pts if self._first_pts is None else max(pts, self._first_pts)

    def shows(self, pts: int) -> bool:
        """Whether a picture of this time is between start and end, and not one that the container hides."""
        return (self._first_pts is None or pts >= self._first_pts) and not self.is_over(pts) and pts not in self._hidden

    def is_over(self, pts: int) -> bool:
        """Whether this time is at the end or behind it."""
        return self._end_pts is not None and pts >= self._end_pts

    def packets(self) -> Iterator[av.Packet[Any]]:
        """The packets in the order of decoding, from the key picture at or before the start.

        H.264 and HEVC as Annex B with their parameter sets, everything else as it is. `pts` is in units of the time
        base. It goes on to the end of the track: it is for who decodes them to stop behind the last picture wanted.
        """
        filter_name = _TO_ANNEX_B.get(self.info.codec)
        convert = BitStreamFilterContext(filter_name, self._stream) if filter_name else None
        header = _header(self._stream.codec_context)
        for packet in self._demuxed():
            if packet.pts is not None and packet.is_discard:
                self._hidden.add(packet.pts)
            for converted in convert.filter(packet) if convert else [packet]:
                if header:  # a stream need not repeat it at the key picture at which reading begins
                    yield _with_header(header, converted)
                    header = b""
                else:
                    yield converted

    def pictures(self) -> Iterator[av.VideoFrame]:
        """The pictures between start and end in the order of display, decoded by FFmpeg; each has a pts.

        What cannot be decoded is left out, and counted in `unreadable`.
        """
        last: int | None = None
        step = max(1, round(1 / ((self.info.rate or 25) * self.info.time_base)))
        for frame in self._decoded():
            if frame.pts is None or not self.info.has_times:
                frame.pts = (self._stream.start_time or 0) if last is None else last + step
            last = frame.pts
            if self.is_over(last):
                return
            if self.shows(last):
                yield frame

    def _opened(self, url: str) -> Any:
        try:
            return (
                av.open(url, timeout=_TIMEOUTS, metadata_errors="replace") if is_network(url) else open_media(Path(url))
            )
        except (av.error.FFmpegError, OSError) as error:
            raise StreamError(
                f"{self._name} cannot be read by FFmpeg: {error.strerror or masked(str(error))}"
            ) from None

    def _first_picture(self, url: str) -> av.VideoFrame | None:
        """The first picture that can be decoded, whose packet need not be whole."""
        with self._opened(url) as container:
            stream = main_video(container)
            for packet in _until_damage(container.demux(stream)):
                frames = _pictures_of(packet)
                if frames:
                    return frames[0]
        return None

    def _demuxed(self) -> Iterator[av.Packet[Any]]:
        """What the container has of the track, up to its end or to where it cannot be read any more."""
        packets = self._packets_left
        if self._seek():  # a place in MPEG-TS is not exact
            return itertools.dropwhile(lambda packet: not packet.is_keyframe, packets())
        return packets()

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._demuxed():
            frames = _pictures_of(packet)
            if frames is None:
                self.unreadable += 1
            yield from frames or ()
        yield from _pictures_of(None, self._stream.codec_context) or ()

    def _seek(self) -> bool:
        """Go to a key picture from which everything at and after the start can be decoded; False: to the beginning."""
        begin = self._stream.start_time or 0
        if self._first_pts is None or self._first_pts <= begin:
            return False
        margin = _SEEK_MARGIN
        while True:
            target = self._first_pts - round(margin / self.info.time_base)
            if target <= begin:  # what MPEG-TS files find there is the second key picture
                self._reopen()
                return False
            try:
                self._container.seek(target, stream=self._stream)
                key = next((packet for packet in self._packets_left() if packet.is_keyframe), None)
                if key is not None and key.pts is not None and key.pts <= self._first_pts:
                    self._container.seek(target, stream=self._stream)
                    return True
            except av.error.FFmpegError:  # one cannot seek in it: all up to the start is read
                self._reopen()
                return False
            margin *= 8

    def _packets_left(self) -> Iterator[av.Packet[Any]]:
        return (packet for packet in _until_damage(self._container.demux(self._stream)) if packet.size)

    def _reopen(self) -> None:
        self._container.close()
        self._container = self._opened(self._url)
        self._stream = main_video(self._container)
        self._stream.thread_type = "AUTO"


def nvdec_refusal(info: TrackInfo) -> str:
    """Why no NVDEC takes such a track, or why it would not give the same frames as FFmpeg; '' if it does."""
    if info.codec not in NVDEC_CODECS:
        return f"it is {info.codec}, and NVDEC is given {', '.join(NVDEC_CODECS)}"
    if info.pixel_format not in _NVDEC_FORMATS:
        kind = f"{info.codec} {info.profile}".strip()
        return f"its pictures are {info.pixel_format or 'unknown'} ({kind}), and NVDEC is given 4:2:0 of 8 or 10 bits"
    if info.width % 2 or info.height % 2:
        return f"its size {info.width}x{info.height} is odd"
    if info.is_interlaced:
        return "it is interlaced, and NVDEC would deinterlace it"
    return "" if info.has_times else "it does not say when its pictures are shown"


def _info(stream: Any, first: av.VideoFrame | None) -> TrackInfo:
    codec = stream.codec_context
    name = first.format.name if first is not None else codec.pix_fmt or ""
    value_range = int(first.color_range if first is not None else codec.color_range)
    turns, rest = divmod(first.rotation if first is not None else 0, 90)
    return TrackInfo(
        codec=codec.codec.canonical_name,
        profile=str(codec.profile or ""),
        width=codec.width,
        height=codec.height,
        pixel_format=name,
        bit_depth=av.VideoFormat(name).components[0].bits if name else 0,
        is_interlaced=first is not None and bool(first.interlaced_frame),
        time_base=stream.time_base or Fraction(1, 90000),
        rate=stream.average_rate or stream.guessed_rate,
        matrix=int(first.colorspace if first is not None else codec.colorspace),
        is_full_range=value_range == _FULL_RANGE or name.startswith("yuvj"),
        quarter_turns=turns % 4 if not rest else 0,
        has_times=(first is None or first.pts is not None) and stream.container.format.name not in _WITHOUT_TIMES,
    )


def _until_damage(packets: Iterator[av.Packet[Any]]) -> Iterator[av.Packet[Any]]:
    """Packets up to the first that cannot be read: what is wrong with the file is found out when all is done."""
    try:
        yield from packets
    except (av.error.FFmpegError, OSError):
        return


def _pictures_of(packet: av.Packet[Any] | None, codec: Any = None) -> list[av.VideoFrame] | None:
    """The pictures that a packet completes, or those that the codec still has; None if there is damage."""
    try:
        return list(codec.decode(None) if packet is None else packet.decode())
    except av.error.FFmpegError:
        return None


def _header(codec: Any) -> bytes:
    """Parameter sets, or AV1's sequence header, that a container keeps apart, as a decoder takes them in the stream."""
    kept = bytes(codec.extradata or b"")
    if codec.codec.canonical_name == "av1" and kept[:1] == _AV1_CONFIGURATION:
        return kept[4:]
    if codec.codec.canonical_name == "h264" and kept[:1] == _AVC_CONFIGURATION:
        return _avc_parameter_sets(kept)
    return b""  # HEVC: its filter puts them before every key picture


def _avc_parameter_sets(record: bytes) -> bytes:
    """The sequence and picture parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15) as Annex B."""
    found, place = [], 5
    for mask in (0x1F, 0xFF):
        count, place = record[place] & mask, place + 1
        for _ in range(count):
            (size,) = struct.unpack_from(">H", record, place)
            found.append(record[place + 2 : place + 2 + size])
            place += 2 + size
    return b"".join(b"\0\0\0\1" + unit for unit in found)


def _with_header(header: bytes, packet: av.Packet[Any]) -> av.Packet[Any]:
    made = av.Packet(header + bytes(packet))
    made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
    made.is_keyframe = packet.is_keyframe
    return made
