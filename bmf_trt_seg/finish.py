"""From what the encoder wrote to the file the user wanted: exact timestamps, the source's other streams, a check.

BMF's encoder counts time in units of a frame rate, keeps one audio stream and loses some of a stream's properties. So
the encoder writes pictures alone into an intermediate file, and this copies its packets, without touching what is in
them, beside the packets of the source's audio and subtitles. On the way it is counted whether every frame of the source
is there.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.media import main_video, missing_matroska_bytes, open_media

__all__ = ["Finished", "finish_video", "source_damage"]

_SAME_INSTANT = Fraction(3, 2_000_000)  # BMF's encoder rounds time bases finer than a microsecond to one
_REFUSALS = (av.error.InvalidDataError, av.error.ArgumentError)  # of a muxer: a damaged packet, or one out of order
_NOTHING_BYTES = 7  # a packet this small holds no picture: AVI files mark skipped frames with them


@dataclass(frozen=True)
class Finished:
    """What became of a video: frames written, and what the source should have had besides."""

    frames: int
    lost: int
    damage: str
    """Why the source is thought to be damaged; empty if it is whole."""
    moved: int
    """Frames whose timestamps had to be moved, because the source has none for them, or the same twice."""
    left_out: list[str]
    """Streams of the source that the target's container cannot hold."""


@dataclass
class _SourceScan:
    """What a pass over the source's packets tells; timestamps in units of the video stream's time base."""

    pts: list[int] = field(default_factory=list)
    last_duration: int = 0
    pictures: int = 0
    damage: str = ""


def finish_video(encoded: Path, source: Path, target: Path) -> Finished:
    """Write `target` from the pictures in `encoded` and everything else in `source`.

    Raises StreamError if the target cannot be written; what is there of it then is of no use.
    """
    try:
        with open_media(source) as original:
            scan = _scan(original)
        with open_media(source) as original, open_media(encoded) as pictures:
            written, moved, refused, left_out = _copy(scan, original, pictures, target.absolute())
        if refused:  # the muxer, which holds packets back, may have meant a picture
            written = _pictures_in(target)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise StreamError(f"'{target}' cannot be written: {getattr(error, 'strerror', None) or error}") from error
    lost = max(0, scan.pictures - written)
    damage = scan.damage or (f"{lost} of {scan.pictures} frames could not be decoded" if lost else "")
    if refused:
        damage += ("; " if damage else "") + f"{refused} packets of its sound or subtitles could not be copied"
    return Finished(written, lost, damage, moved, left_out)


def source_damage(path: Path) -> str:
    """Why a video file is thought to be damaged, by its packets alone; empty if it seems whole.

    Raises StreamError if it cannot be read at all.
    """
    try:
        with open_media(path) as original:
            return _scan(original).damage if original.streams.video else ""
    except (av.error.FFmpegError, OSError) as error:
        raise StreamError(f"'{path}' cannot be read: {error.strerror or error}") from error


def _scan(original: Any) -> _SourceScan:
    """Read every packet of the source once."""
    scan = _SourceScan()
    video = main_video(original)
    packets = hidden = 0
    first_pts: int | None = None
    last_pts: int | None = None
    end_seconds = 0.0
    try:
        for packet in original.demux():
            if packet.size == 0:
                continue
            if packet.pts is not None:
                end_seconds = max(end_seconds, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != video.index:
                continue
            packets += 1
            if packet.pts is not None:
                first_pts = packet.pts if first_pts is None else first_pts
                scan.pts.append(packet.pts)
                if last_pts is None or packet.pts > last_pts:
                    last_pts, scan.last_duration = packet.pts, packet.duration or 0
            # pictures before the first key picture cannot be decoded, and an edit list hides others: no damage
            leads = packet.pts is not None and first_pts is not None and packet.pts < first_pts
            hidden += packet.is_discard or leads or packet.size <= _NOTHING_BYTES
    except av.error.FFmpegError as error:
        scan.damage = f"reading it failed after {packets} frames ({error.strerror or error})"
    scan.pts.sort()
    scan.pictures = max(packets, video.frames) - hidden
    if video.codec_context.name == "vp8":  # its packets need not hold a picture that is shown
        scan.pictures = 0
    # a GIF whose pictures have no times of their own comes in one packet
    if not scan.damage and video.frames > packets and video.codec_context.name != "gif":
        scan.damage = f"it ends after {packets} of {video.frames} frames"
    promised = (original.duration or 0) / av.time_base
    # counted from zero, not from the first frame, by FFmpeg's own writer at least
    if not scan.damage and "matroska" in original.format.name and promised - end_seconds > 1:
        scan.damage = f"it ends at {end_seconds:.1f} s of {promised:.1f} s"
    missing = missing_matroska_bytes(Path(original.name))
    if not scan.damage and missing:
        scan.damage = f"its last {missing} bytes are missing"
    return scan


def _pictures_in(path: Path) -> int:
    with open_media(path) as written:
        return sum(1 for packet in written.demux(main_video(written)) if packet.size)


def _copy(scan: _SourceScan, original: Any, pictures: Any, target: Path) -> tuple[int, int, int, list[str]]:
    """Write the target.

    Returns the number of frames in it, how many were moved in time, how many packets of other streams were refused, and
    the streams that are not in it.
    """
    source_video, encoded_video = main_video(original), pictures.streams.video[0]
    time_base: Fraction = source_video.time_base
    times = _Times.of(pictures, encoded_video, scan, time_base)
    pictures.seek(0)
    options = {"movflags": "+faststart", "video_track_timescale": str(time_base.denominator)}
    with av.open(str(target), "w", container_options=_understood(target, options)) as out:
        out.metadata.update({key: value for key, value in original.metadata.items() if key in _KEPT_METADATA})
        video = out.add_stream_from_template(encoded_video)
        video.time_base = time_base
        video.metadata.update(_description(source_video))
        if hasattr(original, "chapters"):
            out.set_chapters(original.chapters())
        copies, left_out = _other_streams(original, source_video, out)
        video_packets = _video_packets(pictures, encoded_video, video, times, time_base)
        out.start_encoding()
        refused = 0
        for packet in _interleaved(video_packets, _copied_packets(original, copies)):
            try:
                out.mux(packet)
            except _REFUSALS:
                if packet.stream is video:
                    raise
                refused += 1
    return len(times.pts), times.moved, refused, left_out


_KEPT_METADATA = {"title", "artist", "album", "comment", "copyright", "date", "description", "creation_time", "genre"}


# FFmpeg tells of this container's defaults only, AAC not being one of them
_HELD_BY_TS = {"aac", "ac3", "dts", "dvb_subtitle", "dvb_teletext", "eac3", "mp2", "mp3", "opus", "truehd"}


def _understood(path: Path, options: dict[str, str]) -> dict[str, str]:
    """The options that the container of this ending has."""
    return options if path.suffix.lower() in {".mp4", ".mov", ".m4v"} else {}


def _description(stream: Any) -> dict[str, str]:
    return {key: value for key, value in stream.metadata.items() if key in {"language", "title"}}


def _other_streams(original: Any, video: Any, out: Any) -> tuple[dict[int, Any], list[str]]:
    """Streams of the target for those of the source, by the source's index, and what it cannot hold."""
    copies: dict[int, Any] = {}
    left_out = []
    held = set(out.supported_codecs) | (_HELD_BY_TS if out.format.name == "mpegts" else set())
    for stream in original.streams:
        if stream.index == video.index:
            continue
        copy = None
        if stream.type in ("audio", "subtitle") and stream.codec_context is not None:
            with suppress(av.error.FFmpegError, ValueError):
                if {stream.codec_context.codec.canonical_name, stream.codec_context.name} & held:
                    copy = out.add_stream_from_template(stream)
                    copy.metadata.update(_description(stream))
                    copy.disposition = stream.disposition
        if copy is None:
            codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
            left_out.append(f"{stream.type} stream {stream.index} ({codec})")
        else:
            copies[stream.index] = copy
    return copies, left_out


@dataclass(frozen=True)
class _Times:
    """Timestamps for the target, in units of the source's time base."""

    pts: list[int]
    """By packet, in decoding order."""
    dts: list[int]
    duration: dict[int, int]
    """By pts."""
    moved: int
    """How many are not what the source or the encoder said."""

    @classmethod
    def of(cls, pictures: Any, stream: Any, scan: _SourceScan, time_base: Fraction) -> _Times:
        encoded = [packet.pts * packet.time_base for packet in pictures.demux(stream) if packet.size]
        shown = sorted(range(len(encoded)), key=encoded.__getitem__)
        ordered: list[int] = []
        moved = 0
        for index in shown:
            instant = _source_pts(encoded[index], scan.pts, time_base)
            free = instant if not ordered or instant > ordered[-1] else ordered[-1] + 1
            moved += free != instant
            ordered.append(free)
        rank = {index: position for position, index in enumerate(shown)}
        pts = [ordered[rank[index]] for index in range(len(encoded))]
        steps = [after - before for before, after in zip(ordered, ordered[1:], strict=False)]
        typical = sorted(steps)[len(steps) // 2] if steps else max(1, round(1 / (25 * time_base)))
        # a packet may be decoded when the picture `delay` places before it in the order of display is shown
        delay = max((index - rank[index] for index in range(len(encoded))), default=0)
        dts = [ordered[index - delay] if index >= delay else ordered[0] + (index - delay) * typical
               for index in range(len(encoded))]  # fmt: skip
        duration = dict(zip(ordered, steps, strict=False))
        if ordered:
            duration[ordered[-1]] = scan.last_duration or typical
        return cls(pts, dts, duration, moved)


def _source_pts(seconds: Fraction, source_pts: list[int], time_base: Fraction) -> int:
    """The pts of the source that is this instant, or this instant in the source's units if the source has none."""
    exact = seconds / time_base
    place = bisect.bisect_left(source_pts, exact)
    near = source_pts[max(0, place - 1) : place + 1]
    best = min(near, key=lambda pts: abs(pts - exact), default=None)
    return best if best is not None and abs(best - exact) * time_base <= _SAME_INSTANT else round(exact)


def _video_packets(pictures: Any, encoded: Any, stream: Any, times: _Times, time_base: Fraction) -> Iterator[Any]:
    packets = (packet for packet in pictures.demux(encoded) if packet.size)
    for packet, pts, dts in zip(packets, times.pts, times.dts, strict=True):
        packet.stream = stream
        packet.time_base = time_base
        packet.pts, packet.dts, packet.duration = pts, dts, times.duration[pts]
        yield packet


def _copied_packets(original: Any, copies: dict[int, Any]) -> Iterator[Any]:
    if not copies:
        return
    # a damaged source ends here as it did in the scan, which has said so
    with suppress(av.error.FFmpegError):
        for packet in original.demux([original.streams[index] for index in copies]):
            if packet.size and packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                yield packet


def _interleaved(*sources: Iterator[Any]) -> Iterator[Any]:
    """Packets in the order of their decoding times: the muxer holds back what comes too early, in memory."""
    waiting = [(packet, source) for source in sources if (packet := next(source, None)) is not None]
    while waiting:
        place = min(range(len(waiting)), key=lambda index: waiting[index][0].dts * waiting[index][0].time_base)
        packet, source = waiting[place]
        yield packet
        following = next(source, None)
        if following is None:
            del waiting[place]
        else:
            waiting[place] = following, source
