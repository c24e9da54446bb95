"""Pictures and sound, which come each at their own pace, in the one order of their times."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator

from bmf_trt_seg.stream_packets import CLOCK, StreamPacket

__all__ = ["Interleaver"]

_LONGEST_WAIT = 0.3  # seconds, of a picture for sound that belongs before it
_SOUND_GONE = 1.0  # seconds without sound after which it is not waited for
_MOST_SOUND = round(30 / CLOCK)  # that waits for pictures


class Interleaver:
    """Holds packets back until what belongs before them has come, though not for long.

    Without sound every packet leaves at once. Raising nothing, it counts in `sound_dropped` what had to wait too long.
    """

    def __init__(self, *, has_sound: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._has_sound = has_sound
        self._clock = clock
        self._pictures: collections.deque[tuple[float, StreamPacket]] = collections.deque()
        self._sound: collections.deque[StreamPacket] = collections.deque()
        self._sound_came = clock()
        self._sound_pts = -(1 << 62)
        self.sound_dropped = 0

    def put(self, packet: StreamPacket) -> Iterator[StreamPacket]:
        """The packets that can leave now that this one has come."""
        if not packet.is_sound:
            self._pictures.append((self._clock(), packet))
        elif packet.pts > self._sound_pts:  # what a camera sends twice, at a new connection, is of no use
            self._sound_came = self._clock()
            self._sound_pts = packet.pts
            self._sound.append(packet)
            if packet.pts - self._sound[0].pts > _MOST_SOUND:
                self._sound.popleft()
                self.sound_dropped += 1
        else:
            self.sound_dropped += 1
        while self._pictures and self._may_leave(*self._pictures[0]):
            picture = self._pictures.popleft()[1]
            yield from self._sound_before(picture.pts)
            yield picture

    def flush(self) -> Iterator[StreamPacket]:
        """All that is left."""
        while self._pictures:
            picture = self._pictures.popleft()[1]
            yield from self._sound_before(picture.pts)
            yield picture
        yield from self._sound
        self._sound.clear()

    def _may_leave(self, since: float, picture: StreamPacket) -> bool:
        now = self._clock()
        return (
            not self._has_sound
            or self._sound_pts >= picture.pts
            or now - since > _LONGEST_WAIT
            or now - self._sound_came > _SOUND_GONE
        )

    def _sound_before(self, pts: int) -> Iterator[StreamPacket]:
        while self._sound and self._sound[0].pts < pts:
            yield self._sound.popleft()
