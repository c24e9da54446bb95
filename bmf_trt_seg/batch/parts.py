"""One part of a film: cut out packet by packet, segmented, checked; and all of them joined again.

Nothing is encoded a second time: the joined file holds the packets that the encoders of the parts wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

import bmf_trt_seg
from bmf_trt_seg.batch.cuts import NotCut, Part, Plan
from bmf_trt_seg.media import VideoInfo, main_video
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.transcode import VideoJob, draw_video

__all__ = ["CutPart", "check_joined", "cut_out", "join_parts", "join_records", "segment_part"]

_FORMATS = {"mov": ".mov", "matroska": ".mkv", "mpegts": ".ts"}
_SAME_INSTANT = Fraction(3, 2_000_000)  # BMF's encoder rounds time bases finer than a microsecond to one


@dataclass(frozen=True)
class CutPart:
    """A file with the packets of a part."""

    path: Path
    offset: int
    """What is missing from its times to those of the film, in units of the stream's time base."""


def cut_out(file: Any, part: Part, folder: Path) -> CutPart:
    """Copy a part's packets out of a film, `file` being what PyAV opens. Raises NotCut if that is not exact."""
    try:
        with av.open(file, metadata_errors="replace") as film:
            stream = main_video(film)
            kind = next(name for name in film.format.name.split(",") if name in _FORMATS)
            path = folder / f"part{_FORMATS[kind]}"
            times = _copy(film, stream, part, path, kind)
            time_base = stream.time_base
        with av.open(str(path)) as copy:
            video = copy.streams.video[0]
            copied = _pts(copy, video)
            if video.time_base != time_base:
                raise NotCut("a part of it counts time in another unit")
    except av.error.FFmpegError as error:
        raise NotCut(f"a part of it cannot be copied: {error.strerror or error}") from error
    offset = times[0] - copied[0] if copied else 0
    if [pts + offset for pts in copied] != times:
        raise NotCut("the times of a part do not survive copying")
    return CutPart(path, offset)


def _copy(film: Any, stream: Any, part: Part, path: Path, kind: str) -> list[int]:
    """Write the part's packets; their times in the film."""
    options = {"video_track_timescale": str(stream.time_base.denominator)} if kind == "mov" else {}
    times = []
    with av.open(str(path), "w", format=kind, container_options=options) as out:
        video = out.add_stream_from_template(stream)
        video.time_base = stream.time_base
        for packet in _packets_of(film, stream, part):
            times.append(packet.pts)
            packet.stream = video
            packet.pts -= part.key_pts
            if packet.dts is not None:
                packet.dts -= part.key_pts
            out.mux(packet)
    return times


def _pts(container: Any, stream: Any) -> list[int]:
    """Times of a stream's packets, in the order of decoding."""
    return [packet.pts for packet in container.demux(stream) if packet.size]


def _packets_of(film: Any, stream: Any, part: Part) -> Iterator[Any]:
    film.seek(part.key_pts, stream=stream)
    packets = (packet for packet in film.demux(stream) if packet.size)
    first = next(packets, None)
    if first is None or not first.is_keyframe or first.pts > part.key_pts:  # some indices lead astray
        film.seek(0)
        packets = (packet for packet in film.demux(stream) if packet.size)
        first = next(packets, None)
    while first is not None and first.pts != part.key_pts:
        first = next(packets, None)
    if first is None:
        raise NotCut("a key frame of it cannot be found again")
    yield first
    for _ in range(part.packets - 1):
        packet = next(packets, None)
        if packet is None:
            raise NotCut("it ends before its time")
        if packet.pts > part.key_pts:  # others need what comes before the part
            yield packet


def segment_part(
    job: VideoJob,
    info: VideoInfo,
    part: Part,
    cut: CutPart,
    *,
    verbose: bool = False,
    watch: Callable[[StreamMetrics, VideoInfo], None] | None = None,
) -> None:
    """Write the kept pictures of a part to `job.target`, and its records, if they are wanted, to `job.records`.

    job.source is the file that was cut out; info is the whole film's: encoders of all parts are to have the same
    parameters. Raises NotCut if the frames are not those of the plan, and what `draw_video` does.
    """
    first, last = part.kept_pts[0], part.kept_pts[-1]

    def adapt(graph: dict[str, Any]) -> None:
        _insert(graph, "SegmentModule", [pts - cut.offset for pts in part.fed_pts], info.time_base)
        _insert(graph, "c_ffmpeg_encoder", [first - cut.offset, last - cut.offset], info.time_base)

    draw_video(
        job,
        replace(info, path=cut.path, stream_index=0),
        job.target,
        job.records,
        verbose=verbose,
        watch=watch,
        adapt=adapt,
    )
    _check(job.target, part, cut, info.time_base)
    if job.records is not None:
        _adjust_records(job.records, part, cut, info.time_base)


def _insert(graph: dict[str, Any], before: str, first_last: Sequence[int], time_base: Fraction) -> None:
    """Put a FrameWindow before the node of this name, into its thread."""
    nodes = graph["nodes"]
    node = next(node for node in nodes if node["module_info"]["name"] == before)
    stream = f"{before}_in"
    nodes.append(
        {
            "id": max(other["id"] for other in nodes) + 1,
            "scheduler": node["scheduler"],
            "module_info": {
                "name": "FrameWindow",
                "type": "python",
                "path": str(Path(bmf_trt_seg.__file__).parents[1]),
                "entry": "bmf_trt_seg.batch.window.FrameWindow",
            },
            "input_manager": "immediate",
            "input_streams": node["input_streams"],
            "output_streams": [{"identifier": stream}],
            "option": {
                "first": first_last[0],
                "last": first_last[1],
                "time_base": [time_base.numerator, time_base.denominator],
            },
        }
    )
    node["input_streams"] = [{"identifier": stream}]


def _check(encoded: Path, part: Part, cut: CutPart, time_base: Fraction) -> None:
    with av.open(str(encoded)) as pictures:
        stream = pictures.streams.video[0]
        seconds = [pts * (stream.time_base or time_base) for pts in sorted(_pts(pictures, stream))]
    if len(seconds) != len(part.kept_pts):
        raise NotCut(f"part {part.number} came out with {len(seconds)} frames in the place of {len(part.kept_pts)}")
    if _differ(seconds, [(pts - cut.offset) * time_base for pts in part.kept_pts], _SAME_INSTANT):
        raise NotCut(f"frames of part {part.number} came out at other times")


def _differ(seconds: Sequence[Fraction], planned: Sequence[Fraction], most: Fraction) -> bool:
    """Whether as many times are further apart."""
    return any(abs(have - wanted) > most for have, wanted in zip(seconds, planned, strict=True))


def _since_first(pts: Sequence[int], time_base: Fraction) -> list[Fraction]:
    """Seconds from the first of these times, which are in order."""
    return [(other - pts[0]) * time_base for other in pts]


def _adjust_records(path: Path, part: Part, cut: CutPart, time_base: Fraction) -> None:
    """Frame numbers and times as in the film; without the frames that are not kept."""
    kept = range(part.first_kept, part.first_kept + len(part.kept_pts))
    adjusted = path.with_name(f"film-{path.name}")
    with path.open(encoding="utf-8") as lines, adjusted.open("w", encoding="utf-8") as out:
        for line in lines:
            record = json.loads(line)
            number = record["frame"] + part.first_frame
            if number not in kept:
                continue
            if number:
                record.pop("shown", None)  # of the film's first frame only
            pts = record["pts"] + cut.offset
            record.update(frame=number, pts=pts, seconds=round(float(pts * time_base), 6))
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    adjusted.replace(path)


def join_parts(plan: Plan, encoded: Sequence[Path], target: Path) -> None:
    """Write the pictures of all parts, in order and at the times of the film, to `target`, a NUT file.

    That container keeps times of any unit exactly. Raises NotCut if a part cannot be read or is not that of the plan,
    or if encoders of the parts differed.
    """
    pieces = [_planned_pts(plan, part, path) for part, path in zip(plan.parts, encoded, strict=True)]
    every = [pts for piece in pieces for pts in piece]
    decoding = iter(_decoding_times(every))
    try:
        with av.open(str(encoded[0])) as first, av.open(str(target), "w", format="nut") as out:
            template = first.streams.video[0]
            video = out.add_stream_from_template(template)
            video.time_base = plan.time_base
            head = _head(template)
            for piece, path in zip(pieces, encoded, strict=True):
                with av.open(str(path)) as pictures:
                    stream = pictures.streams.video[0]
                    if _head(stream) != head:
                        raise NotCut("encoders of its parts were set up in different ways")
                    packets = (packet for packet in pictures.demux(stream) if packet.size)
                    for packet, pts in zip(packets, piece, strict=True):
                        packet.stream, packet.time_base = video, plan.time_base
                        packet.pts, packet.dts, packet.duration = pts, next(decoding), 0
                        out.mux(packet)
    except (ValueError, FileNotFoundError) as error:  # the first is also what a muxer says of packets that it refuses
        raise NotCut(f"its parts cannot be joined: {error}") from error


def _planned_pts(plan: Plan, part: Part, path: Path) -> list[int]:
    """Times in the film of the packets of an encoded part, in the order of decoding."""
    try:
        with av.open(str(path)) as pictures:
            stream = pictures.streams.video[0]
            order, time_base = _pts(pictures, stream), stream.time_base or plan.time_base
    except (av.error.FFmpegError, IndexError) as error:
        raise NotCut(f"part {part.number} cannot be read: {error}") from error
    shown = sorted(order)
    have, planned = _since_first(shown, time_base), _since_first(part.kept_pts, plan.time_base)
    if len(have) != len(planned) or _differ(have, planned, 2 * _SAME_INSTANT):
        raise NotCut(f"part {part.number} holds other frames than planned")
    at = dict(zip(shown, part.kept_pts, strict=True))
    return [at[pts] for pts in order]


def check_joined(plan: Plan, path: Path) -> None:
    """Raise NotCut if a finished film has not exactly the frames of the plan, from the first one on at its times."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        time_base = stream.time_base or plan.time_base
        have = _since_first(sorted(_pts(film, stream)), time_base)
    planned = _since_first([pts for part in plan.parts for pts in part.kept_pts], plan.time_base)
    is_exact = (plan.time_base / time_base).denominator == 1  # else its container has rounded
    if len(have) != len(planned) or _differ(have, planned, Fraction(0) if is_exact else time_base):
        raise NotCut("joined, its parts have not the frames and times of the film")


def _head(stream: Any) -> tuple[Any, ...]:
    codec = stream.codec_context
    return codec.name, codec.width, codec.height, codec.extradata


def _decoding_times(pts_by_packet: Sequence[int]) -> list[int]:
    """A time for each packet that rises from one to the next and is not after its own pts."""
    shown = sorted(pts_by_packet)
    rank = {pts: place for place, pts in enumerate(shown)}
    delay = max(place - rank[pts] for place, pts in enumerate(pts_by_packet))
    return [
        shown[place - delay] if place >= delay else shown[0] - (delay - place) for place in range(len(pts_by_packet))
    ]


def join_records(parts: Sequence[Path], target: Path) -> None:
    """Write the records of all parts, in order, to one file."""
    with target.open("wb") as out:
        for path in parts:
            with path.open("rb") as lines:
                while chunk := lines.read(1 << 20):
                    out.write(chunk)
