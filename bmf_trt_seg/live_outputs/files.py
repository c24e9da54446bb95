"""Recordings: files of equal length, each of which can be played, also the one that was not finished."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error

from bmf_trt_seg.garbage import collect_containers
from bmf_trt_seg.live_outputs.options import FileOutput
from bmf_trt_seg.live_outputs.target import LONGEST_INTERLEAVING, MuxedStreams, Target
from bmf_trt_seg.outputs import check_writable, make_folder, temporary_path
from bmf_trt_seg.stream_packets import CLOCK, StreamPacket

__all__ = ["FileTarget", "segment_ticks"]

_TIME = "%Y%m%dT%H%M%S"
_FORMATS: dict[str, tuple[str, dict[str, str]]] = {
    # in short pieces, milliseconds and microseconds: what was written so far can be played at any moment
    ".mp4": (
        "mp4",
        {
            "movflags": "+frag_keyframe+empty_moov+default_base_moof+skip_trailer",
            "frag_duration": "1000000",
            "use_editlist": "0",
        },
    ),
    ".mkv": ("matroska", {"cluster_time_limit": "500"}),
    ".ts": ("mpegts", {}),
}
_log = logging.getLogger(__name__)


def segment_ticks(seconds: float) -> int:
    """The length of a segment in units of CLOCK."""
    return round(seconds / CLOCK)


class FileTarget(Target):
    """Writes files under temporary names beside their own, which they get when they are whole.

    Another process, or a later one, knows from a lock whether a file with a temporary name is still written to.
    """

    kind = "file"
    queue_seconds = 20.0
    takes_while_opening = True

    def __init__(self, options: FileOutput, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._options = options
        self._now = now
        self.name = options.path
        path = Path(options.path)
        self._folder, self._stem, self._suffix = path.parent, path.stem, path.suffix
        self._format, self._muxing = _FORMATS[path.suffix.lower()]
        self._ticks = segment_ticks(options.segment_seconds)
        self.idle_seconds = options.segment_seconds + 1.0  # whatever comes then is of another segment
        self._finished = re.compile(rf"{re.escape(self._stem)}-(\d{{8}}T\d{{6}})(-\d+)?{re.escape(self._suffix)}")
        self._unfinished = re.compile(
            rf"\.({re.escape(self._stem)}-\d{{8}}T\d{{6}}(?:-\d+)?)\.\d+\.part{re.escape(self._suffix)}"
        )
        self._description = b""
        self._begin: int | None = None  # of the first segment
        self._segment: _Segment | None = None
        self._number = 0

    def check(self) -> None:
        make_folder(self._folder)
        check_writable(Path(self._options.path))
        with contextlib.suppress(OSError):  # new files matter more than those of an earlier run
            self._rescue()

    def open(self, description: bytes) -> None:
        self._description = description
        make_folder(self._folder)  # it may have been deleted
        self._rescue()
        self._delete_old()  # a full disk would else stay full: no file is finished on one

    def write(self, packet: StreamPacket) -> None:
        if packet.is_key and not packet.is_sound:
            if self._begin is None:
                self._begin = packet.pts
            number = (packet.pts - self._begin) // self._ticks
            if self._segment is None or number != self._number:
                self._finish_segment()
                self._number = number
                self._segment = self._new_segment(packet.pts)
                self.tell(self._segment.left_out)
        if self._segment is not None:
            self._segment.write(packet)

    def idle(self) -> None:
        """The camera is away: what there is until then should not wait for its return."""
        self._finish_segment()

    def close(self) -> None:
        self._finish_segment()

    def abort(self) -> None:
        """What was written can be played as far as it goes, so it gets its name too."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.give_up()
            with contextlib.suppress(OSError):
                if segment.packets:
                    self._publish(segment.path, segment.target)
                else:
                    segment.path.unlink()

    def _new_segment(self, begin: int) -> _Segment:
        target = self._folder / f"{self._stem}-{self._now().strftime(_TIME)}{self._suffix}"
        return _Segment(target, self._format, self._muxing, self._description, begin)

    def _finish_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            segment.finish()
        except BaseException:
            self._segment = segment  # for `abort`
            raise
        self._publish(segment.path, segment.target)
        self._delete_old()
        collect_containers()

    def _publish(self, temporary: Path, target: Path) -> None:
        """Rename; two files of one second get numbers."""
        if temporary.exists() and not temporary.stat().st_size:
            temporary.unlink()
            return
        number, name = 1, target
        while name.exists():
            number += 1
            name = target.with_name(f"{target.stem}-{number}{target.suffix}")
        temporary.rename(name)

    def _rescue(self) -> None:
        """Give files their names that a process left behind when it was killed."""
        for path in sorted(self._folder.iterdir()):
            match = self._unfinished.fullmatch(path.name)
            if match is None:
                continue
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody writes to it
                self._publish(path, self._folder / f"{match[1]}{self._suffix}")

    def _delete_old(self) -> None:
        options = self._options
        if options.keep_segments is None and options.keep_seconds is None:
            return
        files = sorted(
            (match[1], int((match[2] or "-1")[1:]), path)
            for path in self._folder.iterdir()
            if (match := self._finished.fullmatch(path.name))
        )
        kept = len(files) if options.keep_segments is None else options.keep_segments
        oldest = ""
        if options.keep_seconds is not None:
            oldest = (self._now() - timedelta(seconds=options.keep_seconds)).strftime(_TIME)
        for index, (moment, _, path) in enumerate(files):
            if index < len(files) - kept or moment < oldest:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    _log.warning("'%s' cannot be deleted: %s", path, error.strerror)


class _Segment:
    """One file that is being written."""

    def __init__(
        self, target: Path, container_format: str, muxing: dict[str, str], description: bytes, begin: int
    ) -> None:
        self.target = target
        self.path = temporary_path(target)
        self._begin = begin
        # a file of Python's: its errors have a number, it has a lock, and writing to it lets other threads go on
        self._file: BinaryIO = self.path.open("wb", buffering=0)
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        options = {**muxing, **LONGEST_INTERLEAVING, "flush_packets": "1"}
        self._container: Any = av.open(self._file, "w", format=container_format, container_options=options)
        self._streams = MuxedStreams(self._container, description)
        self.left_out = self._streams.left_out
        self.packets = 0

    def write(self, packet: StreamPacket) -> None:
        self._streams.mux(packet, self._begin)
        self.packets += 1

    def finish(self) -> None:
        self._container.close()
        os.fsync(self._file.fileno())
        self._file.close()

    def give_up(self) -> None:
        with contextlib.suppress(OSError, av.error.FFmpegError, ValueError):
            self._container.close()
        with contextlib.suppress(OSError):
            self._file.close()
