"""LiveSink: the BMF module that encodes live frames once and sends them to files, playlists and servers."""

from __future__ import annotations

import collections
import logging
import time
from fractions import Fraction
from typing import Any

import av
import numpy as np
from bmf import Packet, Task, Timestamp, VideoFrame

from bmf_trt_seg.arrivals import arrived_at, forget, was_held
from bmf_trt_seg.bmf_frames import picture_of
from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.live_outputs.encoder import Encoder, KeyFrames, PictureFormat, check_encoder
from bmf_trt_seg.live_outputs.files import FileTarget, segment_ticks
from bmf_trt_seg.live_outputs.hls import HlsTarget
from bmf_trt_seg.live_outputs.interleave import Interleaver
from bmf_trt_seg.live_outputs.options import FileOutput, HlsOutput, LiveSinkOptions, Output, PushOutput
from bmf_trt_seg.live_outputs.outlet import Outlet
from bmf_trt_seg.live_outputs.push import PushTarget
from bmf_trt_seg.live_outputs.target import Target
from bmf_trt_seg.metrics import open_stream
from bmf_trt_seg.no_signal import mark_no_signal
from bmf_trt_seg.stream_packets import CLOCK, SoundFormat, StreamPacket
from bmf_trt_seg.validation import validated

__all__ = ["LiveSink"]

_END_SECONDS = 3.0  # that outputs have to complete what they hold
_GIVEN_UP_SECONDS = 0.5  # that those have to come back which were broken off
_MOST_EARLY_FRAMES = 50  # that wait for word of the sound
_MOST_EARLY_SOUND = 1500  # packets that wait for the first frame, some 30 s
_COLOR_SPACES = {"bt709": 1, "bt601": 5, "bt2020": 9}  # FFmpeg's numbers
_COLOR_RANGES = {"limited": 1, "full": 2}
_log = logging.getLogger(__name__)


class LiveSink(OurModule):
    """Encodes the frames of input stream 0 and the sound of stream 1, if there is one, for all of its outputs.

    Stream 1 is the second output stream of LiveSource. Outputs do not wait for each other: what one of them is too
    slow for, or cannot take, is dropped for that one and counted (`metrics.OutputMetrics`). Options: see
    `bmf_trt_seg.live_outputs.options.LiveSinkOptions`. A graph with an encoder that does not open, or a folder that
    cannot be written to, ends before its first frame.
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        self._outlets: list[Outlet] = []
        self._options = options = validated(LiveSinkOptions, option or {}, "options of LiveSink")
        check_encoder(options)
        targets = [_target(output) for output in options.outputs]
        for target in targets:
            target.check()
        self._outlets = [
            Outlet(target, output.backoff, output.backoff_max)
            for target, output in zip(targets, options.outputs, strict=True)
        ]
        self._counts = open_stream(options.name, "sink")
        self._counts.outputs = [outlet.counts for outlet in self._outlets]
        self._key_frames = KeyFrames(
            round(options.gop_seconds / CLOCK),
            [segment_ticks(output.segment_seconds) for output in options.outputs if not isinstance(output, PushOutput)],
        )
        self._early: collections.deque[Packet] = collections.deque()
        self._early_sound: collections.deque[StreamPacket | SoundFormat] = collections.deque()
        self._sound: SoundFormat | None = None
        self._encoder: Encoder | None = None
        self._interleaver: Interleaver | None = None
        self._last_pts: int | None = None
        self._are_started = False
        self._ended: set[int] = set()
        self._is_closed = False

    def work(self, task: Task) -> None:
        with self._counts.at_work():
            self._work(task)
        if self._ended >= set(task.get_inputs()):
            self.close()
            task.timestamp = Timestamp.DONE

    def _work(self, task: Task) -> None:
        inputs = task.get_inputs()
        if 1 not in inputs or self._options.sound == "off":
            self._sound = self._sound or SoundFormat()
        if 1 in inputs:
            for packet in packets(inputs[1]):
                self._take_sound(packet)
        for packet in packets(inputs[0]):
            if packet.timestamp == Timestamp.EOF:
                self._ended.add(0)
            elif packet.is_(VideoFrame):
                self._counts.frames_in += 1
                self._early.append(packet)
        if 0 in self._ended or len(self._early) > _MOST_EARLY_FRAMES:
            self._sound = self._sound or SoundFormat()
        while self._early and self._sound is not None:
            self._take_frame(self._early.popleft().get(VideoFrame), self._sound)
        while self._early_sound and self._encoder is not None:
            self._encode_sound(self._encoder, self._early_sound.popleft())

    def _take_sound(self, packet: Packet) -> None:
        if packet.timestamp == Timestamp.EOF:
            self._ended.add(1)
        elif self._options.sound != "off" and packet.is_(SoundFormat):
            sound = packet.get(SoundFormat)
            self._early_sound.append(sound)
            self._sound = self._sound or sound
        elif self._options.sound != "off" and packet.is_(StreamPacket):
            self._counts.sound_in += 1
            self._early_sound.append(packet.get(StreamPacket))
            if len(self._early_sound) > _MOST_EARLY_SOUND:
                self._early_sound.popleft()
                self._counts.sound_dropped += 1

    def _encode_sound(self, encoder: Encoder, packet: StreamPacket | SoundFormat) -> None:
        if isinstance(packet, SoundFormat):
            encoder.sound.change(packet)
            return
        made = encoder.sound.encode(packet)
        if made is None:
            self._counts.sound_dropped += 1
        for one in made or ():
            self._send(one)

    def _take_frame(self, frame: VideoFrame, sound: SoundFormat) -> None:
        """Encode a frame. It is counted as dropped unless that went well."""
        pts = _pts_of(frame)
        if self._last_pts is not None and pts <= self._last_pts:
            self._counts.drop("out of order")
            return
        now = time.monotonic()
        arrived = arrived_at(self._options.name, pts, now)
        if arrived is not None:
            self._counts.took("end_to_end", now - arrived)
        is_key = self._key_frames.is_due(pts)
        try:
            with self._counts.stage("encode", frame=self._counts.frames_in):
                planes = picture_of(frame).planes
                if was_held(self._options.name, pts):
                    mark_no_signal(planes.planes[0])  # last, over everything that was drawn on the way
                if self._encoder is None:
                    self._open(planes, sound)
                assert self._encoder is not None
                made = self._encoder.encode(_av_frame(planes, pts), is_key=is_key)
        except Exception:
            self._counts.drop("failed", 1 + len(self._early))
            self._early.clear()
            raise
        self._last_pts = pts
        for packet in made:
            self._counts.frames_out += 1
            self._send(packet)

    def _open(self, planes: FramePlanes, sound: SoundFormat) -> None:
        pictures = PictureFormat(
            planes.width,
            planes.height,
            planes.pixel_format,
            _COLOR_SPACES[planes.matrix],
            _COLOR_RANGES[planes.value_range],
        )
        self._encoder = Encoder(self._options, pictures, sound)
        self._interleaver = Interleaver(has_sound=self._encoder.sound.stream is not None)

    def _send(self, packet: StreamPacket) -> None:
        assert self._interleaver is not None
        for ready in self._interleaver.put(packet):
            self._put(ready)

    def _put(self, packet: StreamPacket) -> None:
        if not self._are_started:
            assert self._encoder is not None
            if not self._encoder.description:
                return  # sound from before the first picture
            self._are_started = True
            for outlet in self._outlets:
                outlet.start(self._encoder.description)
        for outlet in self._outlets:
            outlet.put(packet)

    def close(self) -> None:
        """Encode what is left, and complete the outputs, for which there are a few seconds."""
        if self._is_closed:
            return
        self._is_closed = True
        deadline = time.monotonic() + _END_SECONDS
        try:
            self._flush()
        finally:
            for outlet in self._outlets:
                outlet.finish()
            late = [outlet for outlet in self._outlets if not outlet.join(deadline - time.monotonic())]
            for outlet in late:
                outlet.give_up()
            for outlet in late:
                outlet.join(deadline + _GIVEN_UP_SECONDS - time.monotonic())
            if self._outlets:
                self._counts.state = "ended"
                forget(self._options.name)

    def _flush(self) -> None:
        if self._encoder is None or self._interleaver is None:
            return
        try:
            for packet in self._encoder.flush():
                self._counts.frames_out += 1
                self._send(packet)
            for packet in self._encoder.sound.flush():
                self._send(packet)
        finally:
            for packet in self._interleaver.flush():
                self._put(packet)
            self._counts.sound_dropped += self._interleaver.sound_dropped


def _target(output: Output) -> Target:
    if isinstance(output, FileOutput):
        return FileTarget(output)
    return HlsTarget(output) if isinstance(output, HlsOutput) else PushTarget(output)


def _pts_of(frame: VideoFrame) -> int:
    """The time of a frame in units of CLOCK; one without a time base has these already."""
    base = frame.time_base
    return round(frame.pts * Fraction(base.num, base.den) / CLOCK) if base.den > 1 else int(frame.pts)


def _av_frame(planes: FramePlanes, pts: int) -> av.VideoFrame:
    """A copy in FFmpeg's memory: encoders may keep it for longer than BMF does."""
    made = av.VideoFrame(planes.width, planes.height, planes.pixel_format)
    for source, target in zip(planes.planes, made.planes, strict=True):
        rows = np.frombuffer(memoryview(target), np.uint8).reshape(-1, target.line_size)
        height, width = source.shape[0], source[0].size
        rows[:height, :width] = source.reshape(height, width)
    made.pts, made.time_base = pts, CLOCK
    made.colorspace = _COLOR_SPACES[planes.matrix]
    made.color_range = _COLOR_RANGES[planes.value_range]
    return made
