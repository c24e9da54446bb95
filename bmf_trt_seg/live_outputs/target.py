"""What all places that packets go to have in common."""

from __future__ import annotations

import abc
import logging
from typing import Any

from bmf_trt_seg.stream_packets import StreamPacket, described_streams

__all__ = ["LONGEST_INTERLEAVING", "MuxedStreams", "Target"]

LONGEST_INTERLEAVING = {"max_interleave_delta": "100000"}
"""FFmpeg's muxers wait for the other stream, in microseconds; by themselves 10 s, if a camera goes silent."""
_log = logging.getLogger(__name__)


class Target(abc.ABC):
    """A place for packets. Its methods but `interrupt` are called by one thread.

    `open` and `write` raise OSError, av.error.FFmpegError or ValueError if it cannot be had; it can then be opened
    again after `abort`.
    """

    name: str
    """As it may be shown."""
    kind: str
    queue_seconds: float
    """How much may wait for it."""
    takes_while_opening: bool
    """Whether packets wait until it is open; else they are dropped, as they would come too late."""
    idle_seconds: float | None = None
    """After how long without a packet it wants to know; None: never."""

    _has_told = False

    def tell(self, what: str) -> None:
        """Log once what is not as it was asked for; '' is nothing."""
        if what and not self._has_told:
            self._has_told = True
            _log.warning("output '%s': %s", self.name, what)

    def check(self) -> None:  # noqa: B027 (most can be had)
        """Raise StreamError if it can never be had; called before the first frame."""

    @abc.abstractmethod
    def open(self, description: bytes) -> None:
        """Get ready for packets of these streams (see `stream_packets.described`); the next is a key frame."""

    @abc.abstractmethod
    def write(self, packet: StreamPacket) -> None: ...

    def idle(self) -> None:  # noqa: B027 (most have nothing to complete)
        """Nothing has come for `idle_seconds`: what was written so far may be completed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Complete what was written."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Let go of everything after a failure; raises nothing."""

    def interrupt(self) -> None:  # noqa: B027 (most cannot)
        """Make a call that hangs come back, if that can be done; called by another thread."""


class MuxedStreams:
    """The streams of an output container of PyAV's, made as described; sound is left out where it does not fit."""

    def __init__(self, container: Any, description: bytes) -> None:
        self._container = container
        self._video: Any = None
        self._sound: Any = None
        self.left_out = ""
        """What does not fit into the container, and why."""
        with described_streams(description) as templates:
            for template in templates.streams:
                if template.type == "video":
                    self._video = container.add_stream_from_template(template)
                    continue
                try:
                    self._sound = container.add_stream_from_template(template)
                except ValueError as error:
                    self.left_out = f'no sound: {error}; with "sound": "aac" there would be'

    def mux(self, packet: StreamPacket, begin: int) -> None:
        """Write a packet; times begin at `begin`. Sound of before is left out."""
        stream = self._sound if packet.is_sound else self._video
        if stream is not None and packet.pts >= begin:
            self._container.mux(packet.of_stream(stream, begin))
