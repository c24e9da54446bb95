"""LiveSource: a BMF source module for cameras and streams that come and go."""

from __future__ import annotations

import time
from typing import Any

import av
import numpy as np
from bmf import Packet, ProcessResult, Task, Timestamp, VideoFrame
from bmf.hmp import Frame, PixelInfo, kCR_JPEG, kCR_MPEG, kCS_BT470BG, kCS_BT709, kPF_YUV420P
from bmf.lib._bmf.sdk import Rational

from bmf_trt_seg import metrics
from bmf_trt_seg.arrivals import note_held
from bmf_trt_seg.bmf_module import OurModule
from bmf_trt_seg.no_signal import mark_no_signal
from bmf_trt_seg.options import LiveOptions
from bmf_trt_seg.sources.feed import CLOCK, Feed, Settings, Stamped
from bmf_trt_seg.stream_packets import StreamPacket
from bmf_trt_seg.validation import validated

__all__ = ["LiveSource"]

_PICTURES, _SOUND = 0, 1  # output streams; the second one is optional
_TURN_SECONDS = 0.1  # how long BMF waits for us at most, so that it can be stopped
_AWAY_FRAMES = 10  # a camera that has sent nothing for so many frames' time is taken for away
_HD_HEIGHT = 720
_FULL_RANGE = 2


class LiveSource(OurModule):
    """Frames of a camera or stream, YUV420P, with times in units of 1/90000 s that always go on.

    The first frame decides the size; frames of another size, after a reconnect, are scaled to it. Output stream 1, if
    the graph connects it, carries the sound as it is encoded (`bmf_trt_seg.stream_packets`), on the same clock; its
    format comes before the first frame. While the camera is away there is none.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._options = options = validated(LiveOptions, option or {}, "options of LiveSource")
        self._feed = Feed(
            Settings(
                url=options.url,
                name=options.name,
                transport=options.transport,
                connect_timeout=options.connect_timeout,
                read_timeout=options.read_timeout,
                max_retries=options.max_retries,
                backoff=options.backoff,
                backoff_max=options.backoff_max,
                drops=options.policy == "latest",
                max_latency=options.max_latency_ms / 1000,
            )
        )
        self._size_wh: tuple[int, int] | None = None
        self._last: av.VideoFrame | None = None
        self._sent_at = 0.0
        self._sound_pts = 0

    def work(self, task: Task) -> None:
        if _SOUND not in task.get_outputs():
            self._feed.ignore_sound()
        if self._feed.counts.stop_requested:
            self._end(task)
            return
        stamped = self._feed.take(min(_TURN_SECONDS, self._feed.frame_seconds))
        self._send_sound(task)
        if stamped is not None:
            self._send(task, stamped)
        elif self._feed.has_ended:
            if self._feed.failure is not None:
                raise self._feed.failure
            self._end(task)
        elif self._is_away():
            self._hold(task)

    def _send(self, task: Task, stamped: Stamped) -> None:
        frame = stamped.frame
        size = frame.width + frame.width % 2, frame.height + frame.height % 2
        self._size_wh = self._size_wh or size
        if size != self._size_wh and self._options.new_size == "restart":
            now, before = (f"{width}x{height}" for width, height in (size, self._size_wh))
            self._feed.counts.drop("resized")
            self._feed.counts.ended_for = f"the camera's pictures are {now} now, and were {before}"
            self._end(task)
            return
        self._last = _as_yuv420p(frame, *self._size_wh)
        _put(task, _bmf_frame(self._last, stamped.pts))
        self._feed.counts.frames_out += 1
        self._sent_at = time.monotonic()

    def _send_sound(self, task: Task) -> None:
        for sound in self._feed.take_sound():
            packet = Packet(sound)
            pts = sound.pts if isinstance(sound, StreamPacket) else max(0, self._sound_pts)
            self._sound_pts = pts
            packet.timestamp = int(pts * CLOCK * 1_000_000)
            task.get_outputs()[_SOUND].put(packet)

    def _is_away(self) -> bool:
        waited = time.monotonic() - self._sent_at
        return (
            self._options.absence == "hold"
            and self._last is not None
            and waited >= self._feed.frame_seconds * (1 if self._feed.counts.state == "away" else _AWAY_FRAMES)
        )

    def _hold(self, task: Task) -> None:
        """Send the last frame once more, marked, at the time of the clock."""
        assert self._last is not None
        held = _bmf_frame(self._last, self._feed.pts_now())
        if metrics.stream(self._options.name, "sink") is not None:  # a LiveSink: no network sees the mark then
            note_held(self._options.name, held.pts)
        else:
            mark_no_signal(held.frame().plane(0).numpy()[..., 0])
        _put(task, held)
        self._feed.counts.held += 1
        self._feed.counts.frames_out += 1
        self._sent_at += self._feed.frame_seconds * (1 if self._feed.counts.state == "away" else _AWAY_FRAMES)

    def _end(self, task: Task) -> None:
        for stream in task.get_outputs().values():
            stream.put(Packet.generate_eof_packet())
        task.timestamp = Timestamp.DONE
        self._feed.close()

    def close(self) -> ProcessResult:
        self._feed.close()
        return ProcessResult.OK


def _as_yuv420p(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A frame of 8-bit 4:2:0 and of this size; itself if it is one."""
    if frame.format.name in ("yuv420p", "yuvj420p") and (frame.width, frame.height) == (width, height):
        return frame
    return frame.reformat(width, height, "yuv420p")


def _bmf_frame(frame: av.VideoFrame, pts: int) -> VideoFrame:
    """A copy in BMF's memory."""
    is_full = frame.format.name == "yuvj420p" or int(frame.color_range) == _FULL_RANGE
    space = kCS_BT709 if frame.height >= _HD_HEIGHT else kCS_BT470BG
    info = PixelInfo(kPF_YUV420P, space, kCR_JPEG if is_full else kCR_MPEG)
    made = VideoFrame(Frame(frame.width, frame.height, info))
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        target = made.frame().plane(index).numpy()[..., 0]
        target[:] = rows[: target.shape[0], : target.shape[1]]
    made.pts = pts
    made.time_base = Rational(CLOCK.numerator, CLOCK.denominator)
    return made


def _put(task: Task, frame: VideoFrame) -> None:
    packet = Packet(frame)
    packet.timestamp = int(frame.pts * CLOCK * 1_000_000)
    task.get_outputs()[_PICTURES].put(packet)
