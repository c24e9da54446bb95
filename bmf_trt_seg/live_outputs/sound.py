"""A camera's sound: taken as it is, or turned into AAC."""

from __future__ import annotations

import collections
import logging
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np

from bmf_trt_seg.stream_packets import CLOCK, SoundFormat, StreamPacket, described_streams

__all__ = ["SoundEncoder"]

_COPIED = {"aac", "opus", "mp2", "mp3", "mp3float", "mp2float"}
_RATE = 48000
_FRAME = 1024  # samples of an AAC packet
_LARGEST_GAP = round(0.1 / CLOCK)  # in the times of what comes; a larger one is not closed up
_log = logging.getLogger(__name__)


class SoundEncoder:
    """Makes packets of one format out of the packets of a camera, which may come back with another format."""

    def __init__(self, container: Any, first: SoundFormat, *, always_aac: bool) -> None:
        self.stream: Any = None
        """The stream that was added to `container`; None if the camera has no sound, and then there never is any."""
        self._first = self._format = first
        self._decoder: Any = None
        self._copies = False
        if not first.description:
            return
        with described_streams(first.description) as described:
            given = described.streams[0]
            name = given.codec_context.name
            # AAC without its parameters ahead of it has them in each packet, where most containers do not want them
            is_whole = name != "aac" or bool(given.codec_context.extradata)
            self._copies = name in _COPIED and is_whole and not always_aac
            if self._copies:
                self.stream = container.add_stream_from_template(given)
                return
            channels = given.codec_context.layout.nb_channels or 1
            layout = "stereo" if channels > 1 else "mono"
        self.stream = container.add_stream("aac", rate=_RATE, bit_rate=64000 * min(channels, 2))
        self.stream.layout = layout
        self._layout = layout
        self._open(first)
        self._samples = np.zeros((min(channels, 2), 0), np.float32)
        self._given = 0  # samples that went to the encoder
        self._anchors: collections.deque[tuple[int, int]] = collections.deque()  # number of a sample, and its pts
        self._expected: int | None = None

    def change(self, sound: SoundFormat) -> None:
        """What follows is of this format."""
        self._format = sound
        if self.stream is None or not sound.description or sound == self._first:
            if self.stream is not None and not self._copies and sound.description:
                self._open(sound)
            return
        if self._copies:
            _log.warning("the camera's sound has changed its format; it is left out until that is as it was")
        else:
            self._open(sound)

    def encode(self, packet: StreamPacket) -> list[StreamPacket] | None:
        """What becomes of a packet; None if nothing can, as it is damaged, or of a format that does not fit."""
        if self.stream is None:
            return None
        if self._copies:
            return [packet] if self._format == self._first else None
        try:
            frames = self._decoder.decode(packet.of_stream(self._described.streams[0]))
        except (av.error.FFmpegError, ValueError):
            return None
        self._take(packet.pts, frames)
        return self._full_packets()

    def flush(self) -> list[StreamPacket]:
        """What the encoder still holds; but for a rest of less than a packet."""
        return [] if self.stream is None or self._copies or not self._given else self._packets(None)

    def _open(self, sound: SoundFormat) -> None:
        self._described = described_streams(sound.description)  # closing it would close the decoder
        self._decoder = self._described.streams[0].codec_context
        self._resampler = av.AudioResampler("fltp", self._layout, _RATE)

    def _take(self, pts: int, frames: list[av.AudioFrame]) -> None:
        if self._expected is None or abs(pts - self._expected) > _LARGEST_GAP:
            self._anchors.append((self._given + self._samples.shape[1], pts))
            self._expected = pts
        for frame in frames:
            self._expected += round(frame.samples / frame.sample_rate / CLOCK)
            frame.pts = None
            parts = [part.to_ndarray() for part in self._resampler.resample(frame)]
            self._samples = np.concatenate([self._samples, *parts], axis=1)

    def _full_packets(self) -> list[StreamPacket]:
        packets = []
        while self._samples.shape[1] >= _FRAME:
            piece, self._samples = self._samples[:, :_FRAME], self._samples[:, _FRAME:]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), "fltp", self._layout)
            frame.sample_rate, frame.pts, frame.time_base = _RATE, self._given, Fraction(1, _RATE)
            self._given += _FRAME
            packets += self._packets(frame)
        return packets

    def _packets(self, frame: av.AudioFrame | None) -> list[StreamPacket]:
        return [
            StreamPacket(bytes(made), self._pts_of(made.pts), round(_FRAME / _RATE / CLOCK), is_sound=True)
            for made in self.stream.encode(frame)
        ]

    def _pts_of(self, sample: int) -> int:
        while len(self._anchors) > 1 and self._anchors[1][0] <= sample:
            self._anchors.popleft()
        number, pts = self._anchors[0]
        return pts + round((sample - number) / _RATE / CLOCK)
