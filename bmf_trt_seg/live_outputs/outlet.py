"""An outlet: the thread that brings packets to one target, and tries again when that fails."""

from __future__ import annotations

import collections
import logging
import threading

from bmf_trt_seg.live_outputs.target import Target
from bmf_trt_seg.metrics import OutputMetrics
from bmf_trt_seg.retry import backoff_seconds
from bmf_trt_seg.sources.urls import masked
from bmf_trt_seg.stream_packets import CLOCK, StreamPacket

__all__ = ["Outlet"]

_log = logging.getLogger(__name__)


class Outlet:
    """Takes packets at any time without waiting, and writes them in a thread of its own until it is told to finish.

    What a target is too slow for, or away for, is dropped and counted; it goes on with a key frame.
    """

    def __init__(self, target: Target, backoff: float, backoff_max: float) -> None:
        self.counts = OutputMetrics(target.name, target.kind)
        self._target = target
        self._backoff, self._backoff_max = backoff, backoff_max
        self._waiting: collections.deque[StreamPacket] = collections.deque()
        self._changed = threading.Condition()
        self._description = b""
        self._takes = target.takes_while_opening
        self._needs_key = True
        self._finishing = False
        self._in_hand = False  # a packet that is being written
        self._interrupted = False
        self._thread = threading.Thread(target=self._run, name=f"output {target.name}", daemon=True)

    def start(self, description: bytes) -> None:
        """Begin with streams that are described so (see `stream_packets.described`)."""
        self._description = description
        self._thread.start()

    def put(self, packet: StreamPacket) -> None:
        """Have a packet written."""
        counts = self.counts
        with self._changed:
            counts.packets_in += 1
            if self._takes and packet.is_key and not packet.is_sound:
                self._needs_key = False
            if self._is_full(packet):
                self._needs_key = True
            if not self._takes or self._needs_key or self._finishing:
                counts.packets_dropped += 1
                return
            self._waiting.append(packet)
            self._changed.notify_all()

    def finish(self) -> None:
        """Have what waits written and the output completed; `join` waits for that. What is not open stays closed."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
            is_open = self._takes
        if not is_open:
            self._interrupt()

    def join(self, seconds: float) -> bool:
        """Wait for the end at most so long; whether it has come."""
        if self._thread.ident is None:
            self.counts.state = "ended"
            return True
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Break off what has not come to its end in time."""
        _log.warning("output '%s' could not be completed in time", self.counts.name)
        self._interrupt()

    def _interrupt(self) -> None:
        self._interrupted = True
        self._target.interrupt()

    def _is_full(self, packet: StreamPacket) -> bool:
        return bool(self._waiting) and (packet.pts - self._waiting[0].pts) * CLOCK > self._target.queue_seconds

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        failures = 0
        while True:
            written = self.counts.packets_out
            try:
                self._carry()
            except Exception as error:  # of whatever kind: nobody else would ever start it again
                failures = 1 if self.counts.packets_out > written else failures + 1
                self._lost(masked(str(error) or type(error).__name__))
                self._target.abort()
                if self._wait_to_retry(backoff_seconds(failures, self._backoff, self._backoff_max)):
                    continue
            break
        with self._changed:
            self._drop_waiting()
            self._takes = False
            self.counts.state = "ended"

    def _carry(self) -> None:
        """Open the target and write to it until the end."""
        counts, target = self.counts, self._target
        target.open(self._description)
        with self._changed:
            self._takes = True
        if counts.state == "away" and counts.packets_out:
            counts.reconnects += 1
            _log.warning("output '%s': back", counts.name, extra={"state": "up", "reconnects": counts.reconnects})
        counts.state = "up"
        while True:
            with self._changed:
                something = self._changed.wait_for(lambda: self._waiting or self._finishing, target.idle_seconds)
                packet = self._waiting.popleft() if self._waiting else None
            if packet is not None:
                self._in_hand = True
                target.write(packet)
                self._in_hand = False
                counts.packets_out += 1
            elif something:
                break
            else:
                target.idle()
        target.close()

    def _lost(self, reason: str) -> None:
        counts = self.counts
        with self._changed:
            self._takes = False
            self._needs_key = True
            counts.packets_dropped += self._in_hand
            self._in_hand = False
            self._drop_waiting()
        if self._interrupted:
            return
        if counts.state != "away":
            _log.warning("output '%s': away: %s", counts.name, reason, extra={"state": "away"})
        counts.last_error = reason
        counts.state = "away"

    def _drop_waiting(self) -> None:
        self.counts.packets_dropped += len(self._waiting)
        self._waiting.clear()

    def _wait_to_retry(self, seconds: float) -> bool:
        """Whether to try again."""
        with self._changed:
            self._changed.wait_for(lambda: self._finishing, seconds)
            return not self._finishing
