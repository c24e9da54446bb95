"""HLS: a folder with a playlist that moves on, and its segments."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

import av
import av.error

from bmf_trt_seg.garbage import collect_containers
from bmf_trt_seg.live_outputs.options import HlsOutput
from bmf_trt_seg.live_outputs.target import LONGEST_INTERLEAVING, MuxedStreams, Target
from bmf_trt_seg.outputs import check_writable, make_folder
from bmf_trt_seg.stream_packets import CLOCK, StreamPacket

__all__ = ["HlsTarget"]

_PLAYLIST = "index.m3u8"
_LONGEST_GAP = round(10 / CLOCK)  # a longer one is closed up, or a segment, and with it all, would count as so long
_CLOSED_GAP = round(0.04 / CLOCK)
_OURS = re.compile(r"(segment(\d+)\.(ts|m4s)|init\.mp4|index\.m3u8)(\.tmp)?")


class HlsTarget(Target):
    """Writes a playlist with FFmpeg's muxer. The playlist ends (ENDLIST) when the output is closed.

    Segments are numbered by the clock, so a player that saw an earlier run never takes an old one for a new one.
    """

    kind = "hls"
    queue_seconds = 20.0
    takes_while_opening = True

    def __init__(self, options: HlsOutput) -> None:
        self._options = options
        self._folder = Path(options.path)
        self.name = options.path
        self._container: Any = None
        self._streams: MuxedStreams | None = None
        self._begin: int | None = None
        self._newest = 0

    def check(self) -> None:
        make_folder(self._folder)
        check_writable(self._folder / _PLAYLIST)

    def open(self, description: bytes) -> None:
        make_folder(self._folder)
        first = max(int(time.time()), self._delete_old() + 1)
        options = self._options
        ending = "ts" if options.segment_type == "mpegts" else "m4s"
        self._container = av.open(
            str(self._folder / _PLAYLIST),
            "w",
            format="hls",
            container_options={
                **LONGEST_INTERLEAVING,
                "hls_time": f"{options.segment_seconds:g}",
                "hls_list_size": str(options.list_size),
                "hls_segment_type": options.segment_type,
                "hls_segment_filename": str(self._folder / f"segment%d.{ending}"),
                "hls_fmp4_init_filename": "init.mp4",
                "hls_flags": "independent_segments+program_date_time+temp_file"
                + ("+delete_segments" if options.list_size else ""),
                "start_number": str(first),
            },
        )
        self._streams = MuxedStreams(self._container, description)
        self.tell(self._streams.left_out)
        self._begin = None

    def write(self, packet: StreamPacket) -> None:
        assert self._streams is not None
        if self._begin is None:
            if packet.is_sound or not packet.is_key:
                return
            self._begin = self._newest = packet.pts
        gap = packet.pts - self._newest
        if gap > _LONGEST_GAP:
            self._begin += gap - _CLOSED_GAP
        self._newest = max(self._newest, packet.pts)
        self._streams.mux(packet, self._begin)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            collect_containers()

    def abort(self) -> None:
        with contextlib.suppress(OSError, av.error.FFmpegError, ValueError):
            self.close()
        self._container = self._streams = None

    def _delete_old(self) -> int:
        """Delete what an earlier run left, which nobody else does; the largest number of a segment there, or 0."""
        largest = 0
        for path in self._folder.iterdir():
            match = _OURS.fullmatch(path.name)
            if match is not None:
                largest = max(largest, int(match[2] or 0))
                path.unlink(missing_ok=True)
        return largest
