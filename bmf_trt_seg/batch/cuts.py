"""Where a long film is cut, and what each part has to decode so that its masks are those of the whole film.

Cuts are made where key frames are shown. A part may begin earlier than what is kept of it: `interval` counts frames
from the beginning of the film, and `smoothing` remembers what came before.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import av.error

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.media import VideoInfo, main_video, open_media, probe_video
from bmf_trt_seg.options import SegmentOptions

__all__ = ["NotCut", "Part", "Plan", "SeenPacket", "is_long", "plan_cuts", "plan_film", "rounds_of_smoothing"]

_CONTAINERS = {"matroska", "mov", "mpegts"}  # that can be cut and read again without loss
_FORGOTTEN = 2.0**-24  # the weight of the past that single precision tells from none
_WARM_UP_SHARE = 4  # a part is so many times as long as what it has to repeat
_SHORTEST = 1.5  # films up to so many parts long stay whole


class NotCut(Exception):
    """Why a film cannot be cut, or its parts cannot be joined."""


@dataclass(frozen=True)
class SeenPacket:
    """A packet of the video stream, in the stream's units of time."""

    pts: int
    is_key: bool


@dataclass(frozen=True)
class Part:
    """A part of a film. Frames are counted from the film's first, and times are in units of the stream's time base."""

    number: int
    key_pts: int
    """Of the key frame that decoding begins with."""
    packets: int
    """How many are read from that one on, in the order of decoding."""
    first_frame: int
    """Number of the first frame that the network may see."""
    fed_pts: tuple[int, int]
    """Of the first and the last frame that go to the network."""
    kept_pts: array[int]
    """Of all frames that are kept, in the order of display; the ones before warm up what remembers them."""
    first_kept: int
    """Number of the first of these."""

    @property
    def name(self) -> str:
        """For files of this part."""
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    """How a film is cut."""

    parts: tuple[Part, ...]
    time_base: Fraction
    info: VideoInfo
    """Of the film."""

    def file_name(self, part: Part, suffix: str) -> str:
        """For a file of a part, below the folder for its film's parts."""
        return f"{self._digest}/{part.name}{suffix}"

    @cached_property
    def _digest(self) -> str:
        """Cut elsewhere, the same film has other parts of the same numbers."""
        digest = hashlib.sha256(str(self.time_base).encode())
        for part in self.parts:
            digest.update(repr(part).encode())
        return digest.hexdigest()[:32]


def rounds_of_smoothing(smoothing: float) -> int:
    """How many inferences it takes until the scores before them weigh nothing: less than 2**-24."""
    return math.ceil(math.log(_FORGOTTEN) / math.log(smoothing)) if smoothing else 0


def is_long(file: Any, cut_seconds: float) -> bool:
    """Whether a film, `file` being what PyAV opens, is so long that it is to be cut, as far as its container tells."""
    try:
        with av.open(file, metadata_errors="replace") as container:
            return bool(cut_seconds) and (container.duration or 0) / av.time_base > _SHORTEST * cut_seconds
    except av.error.FFmpegError:
        return False  # whoever segments it will find words for that


def plan_film(path: Path, options: SegmentOptions, cut_seconds: float) -> Plan:
    """Cut a film. Raises NotCut, and StreamError if it cannot be read.

    All its packets are read, none but the first frame is decoded.
    """
    if options.legend:
        raise NotCut("a legend shows all classes seen so far, which parts do not know")
    info = probe_video(path)
    try:
        with open_media(path) as container:
            packets = _seen(container)
    except av.error.FFmpegError as error:
        raise StreamError(f"'{path}' cannot be read: {error.strerror or error}") from error
    return Plan(plan_cuts(packets, info.time_base, options, cut_seconds), info.time_base, info)


def _seen(container: Any) -> list[SeenPacket]:
    stream = main_video(container)
    if not set(container.format.name.split(",")) & _CONTAINERS:
        raise NotCut(f"its container, {container.format.long_name}, is not one that can be cut")
    if stream.codec_context.name == "vp8":
        raise NotCut("packets of VP8 need not hold a picture")
    if next(container.decode(stream)).rotation:
        raise NotCut("it is stored turned")
    container.seek(0)
    packets = []
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            raise NotCut("some of its packets have no time, are hidden by an edit list, or are damaged")
        packets.append(SeenPacket(packet.pts, packet.is_keyframe))
    return packets


def plan_cuts(
    packets: Sequence[SeenPacket], time_base: Fraction, options: SegmentOptions, cut_seconds: float
) -> tuple[Part, ...]:
    """Cut a film of these packets, in the order of decoding, and times in units of `time_base`. Raises NotCut."""
    if not packets or not packets[0].is_key:
        raise NotCut("it does not begin with a key frame")
    begin = packets[0].pts
    # pictures that are shown before the first key frame cannot be decoded
    shown = sorted(packet.pts for packet in packets if packet.pts >= begin)
    if len(set(shown)) < len(shown):
        raise NotCut("some of its frames have the same time")
    keys = _usable_keys(packets)
    warm_up = rounds_of_smoothing(options.smoothing) * options.interval
    step_seconds = max(cut_seconds, float(_WARM_UP_SHARE * warm_up * (shown[-1] - begin) * time_base / len(shown)))
    duration = float((shown[-1] - begin) * time_base)
    if duration < _SHORTEST * step_seconds:
        raise NotCut("it is not long enough")
    count = math.ceil(duration / step_seconds)
    wanted = [begin + (shown[-1] - begin) * number // count for number in range(1, count)]
    cuts = sorted({_nearest(sorted(keys), pts) for pts in wanted} - {begin})
    if not cuts:
        raise NotCut("it has no key frames to cut it at")
    parts = []
    for number, (first, after) in enumerate(zip([begin, *cuts], [*cuts, None], strict=True)):
        kept = range(
            bisect.bisect_left(shown, first), len(shown) if after is None else bisect.bisect_left(shown, after)
        )
        parts.append(_part(number, kept, shown, packets, keys, options))
    return tuple(parts)


def _usable_keys(packets: Sequence[SeenPacket]) -> dict[int, int]:
    """Places of the key frames that decoding can begin with, by their times.

    Everything decoded before such a frame is shown before it. What is decoded after it and shown before it ('leading'
    pictures of an open GOP) may need pictures before it, and is left out of a part that begins there.
    """
    found = {}
    latest = None
    for place, packet in enumerate(packets):
        if packet.is_key and (latest is None or packet.pts > latest):
            found[packet.pts] = place
        latest = packet.pts if latest is None else max(latest, packet.pts)
    return found


def _part(
    number: int,
    kept: range,
    shown: Sequence[int],
    packets: Sequence[SeenPacket],
    keys: dict[int, int],
    options: SegmentOptions,
) -> Part:
    interval, batch = options.interval, options.interval * options.batch_size
    inference = kept.start // interval - rounds_of_smoothing(options.smoothing)
    # whole batches, because networks may round otherwise in smaller ones
    first = max(0, inference * interval) // batch * batch
    end = min(len(shown), -(-kept.stop // batch) * batch)
    known = sorted(keys)
    key_pts = known[bisect.bisect_right(known, shown[first]) - 1]
    fed = set(shown[first:end])
    start = keys[key_pts]
    last = max(place for place in range(start, len(packets)) if packets[place].pts in fed)
    return Part(
        number=number,
        key_pts=key_pts,
        packets=last - start + 1,
        first_frame=first,
        fed_pts=(shown[first], shown[end - 1]),
        kept_pts=array("q", shown[kept.start : kept.stop]),
        first_kept=kept.start,
    )


def _nearest(sorted_pts: Sequence[int], pts: int) -> int:
    place = bisect.bisect_left(sorted_pts, pts)
    return min(sorted_pts[max(0, place - 1) : place + 1], key=lambda candidate: abs(candidate - pts))
