"""A feed: a thread that reads a camera or a stream, opens it again when it breaks off, and never lets go of time.

It knows PyAV; it does not know BMF.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error

from bmf_trt_seg import metrics
from bmf_trt_seg.arrivals import behind_seconds, forget, note_arrival, note_taken
from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.garbage import collect_containers
from bmf_trt_seg.metrics import StreamMetrics
from bmf_trt_seg.retry import backoff_seconds
from bmf_trt_seg.sources.urls import is_network, masked
from bmf_trt_seg.stream_packets import CLOCK, SILENT_SAMPLE, SoundFormat, StreamPacket, described

__all__ = ["CLOCK", "Feed", "Settings", "Stamped", "feed"]

_ALL_WAITING = 64  # frames that wait at most: then reading waits where none may be dropped, or the oldest is
_SOUND_WAITING = 1000  # packets, some 20 s; older ones are dropped
_LARGEST_STEP_BACK = 1  # seconds, in the times of a stream; one that goes back further has begun anew
_LARGEST_LEAP = 10  # seconds that they go on by more than has gone by; one that leaps further has begun anew
_RATE_WEIGHT = 0.2  # of the newest time between two frames in their mean
_LONGEST_PAUSE = 60.0  # seconds between two frames of a file; it goes on at once after a longer one
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a feed is read; times in seconds."""

    url: str
    name: str
    transport: str = "tcp"
    connect_timeout: float = 5.0
    read_timeout: float = 2.0
    max_retries: int | None = None
    backoff: float = 0.5
    backoff_max: float = 30.0
    drops: bool = True
    """Whether frames that wait too long are dropped; else reading waits for who takes them."""
    max_latency: float = 0.5


@dataclass(frozen=True)
class Stamped:
    """A decoded picture, its time in units of CLOCK, and when its packet arrived (`time.monotonic`)."""

    frame: av.VideoFrame
    pts: int
    arrived: float


def feed(name: str) -> StreamMetrics | None:
    """The counts of a feed that was opened under this name: frames_in = frames_out - held + dropped + those waiting."""
    return metrics.stream(name, "source")


class Feed:
    """Reads one stream in a thread of its own, until it is closed, the file ends, or there were too many failures.

    Sound is not decoded, and not dropped with frames that are late: it keeps the time of the pictures it came with.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.counts = metrics.open_stream(settings.name, "source")
        self.counts.state = "connecting"
        self.counts.dropped_for.update(late=0, closed=0)
        self.failure: StreamError | None = None
        """Why the feed ended, if it was not its own end."""
        self.frame_seconds = 1 / 25
        """Time between two frames, as far as it is known."""
        self._waiting: collections.deque[Stamped] = collections.deque()
        self._sound: collections.deque[SoundFormat | StreamPacket] = collections.deque()
        self._takes_sound = True
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._clock = _Clock()
        forget(settings.name)
        self._thread = threading.Thread(target=self._run, name=f"feed {settings.name}", daemon=True)
        self._thread.start()

    def take(self, seconds: float) -> Stamped | None:
        """The next frame, waiting for it at most so long; None if there is none yet, or none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.counts.state == "ended", seconds)
            if self._settings.drops:
                self._drop_late()
            if not self._waiting:
                return None
            stamped = self._waiting.popleft()
            self._changed.notify_all()
        now = time.monotonic()
        note_taken(self._settings.name, stamped.pts, now)
        self.counts.took("queue", now - stamped.arrived)
        return stamped

    def take_sound(self) -> list[SoundFormat | StreamPacket]:
        """The sound that came; before that of a connection its format, which is there before its first frame."""
        with self._changed:
            sound = list(self._sound)
            self._sound.clear()
        return sound

    def ignore_sound(self) -> None:
        """Nobody will take it."""
        with self._changed:
            self._takes_sound = False
            self._sound.clear()

    @property
    def has_ended(self) -> bool:
        """Whether there will be no frame any more."""
        return self.counts.state == "ended" and not self._waiting

    def pts_now(self) -> int:
        """The time of this moment, in units of CLOCK, after everything that was stamped; it is then taken."""
        return self._clock.now()

    def close(self) -> None:
        """End the feed; frames that wait are dropped. Its thread may be in a system call, which time-outs bound."""
        with self._changed:
            self._stop.set()
            self.counts.drop("closed", len(self._waiting))
            self._waiting.clear()
            self.counts.state = "ended"
            self._changed.notify_all()

    def _drop_late(self) -> None:
        """Keep the newest frame, and older ones that will not be too old when the graph is through with them."""
        settings = self._settings
        oldest = time.monotonic() - max(0.0, settings.max_latency - behind_seconds(settings.name))
        while len(self._waiting) > 1 and (self._waiting[0].arrived < oldest or len(self._waiting) > _ALL_WAITING):
            self._waiting.popleft()
            self.counts.drop("late")

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        failures = 0
        try:
            while not self._stop.is_set():
                frames = self.counts.frames_in
                try:
                    self._read_once()
                    if not is_network(self._settings.url):
                        return
                    reason = "the stream ended"
                except (OSError, av.error.FFmpegError, ValueError) as error:
                    reason = masked(str(error))
                if self._stop.is_set():
                    return
                collect_containers()
                failures = 1 if self.counts.frames_in > frames else failures + 1
                self._lost(reason, failures)
                if self.failure is not None:
                    return
        finally:
            self.counts.state = "ended"
            with self._changed:
                self._changed.notify_all()

    def _lost(self, reason: str, failures: int) -> None:
        """Say that the stream is away, and wait before the next attempt; longer each time, and not all at once."""
        settings, counts = self._settings, self.counts
        with self._changed:
            if self._stop.is_set():
                return
            if counts.state != "away":
                _log.warning("feed '%s': away: %s", settings.name, reason, extra={"state": "away"})
            counts.last_error = reason
            counts.state = "away"
        if not is_network(settings.url) or (settings.max_retries is not None and failures > settings.max_retries):
            self.failure = StreamError(f"feed '{settings.name}' ({masked(settings.url)}): {reason}")
            return
        self._stop.wait(backoff_seconds(failures, settings.backoff, settings.backoff_max))

    def _read_once(self) -> None:
        """Open the stream and read it to its end."""
        settings = self._settings
        with av.open(
            settings.url,
            options=_options(settings),
            timeout=(settings.connect_timeout, settings.read_timeout),
            metadata_errors="replace",
        ) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # frame threads would hold back as many frames as there are threads
            if stream.average_rate and not self.counts.frames_in:
                self.frame_seconds = float(1 / stream.average_rate)
            self._clock.start_over(self.frame_seconds)
            sound = next(iter(container.streams.audio), None)
            self._put_sound(_sound_format(sound, settings.name))
            pace = None if is_network(settings.url) else _Pace()
            last_frame = time.monotonic()
            patience = settings.connect_timeout + settings.read_timeout
            for packet in container.demux(*(one for one in (stream, sound) if one is not None)):
                arrived = time.monotonic()
                if packet.stream is sound:
                    self._deliver_sound(packet)
                    frames = []
                else:
                    frames = _decoded(packet)
                    self.counts.took("decode", time.monotonic() - arrived)
                if frames:
                    last_frame = arrived
                elif arrived - last_frame > patience or self._stop.is_set():
                    raise ValueError(f"none of what came in {patience:g} s could be decoded")
                for frame in frames:
                    if self._stop.is_set():
                        return
                    if pace is not None and not pace.wait(frame, self._stop):
                        return
                    self._deliver(frame, time.monotonic() if pace else arrived)

    def _deliver(self, frame: av.VideoFrame, arrived: float) -> None:
        counts, settings = self.counts, self._settings
        with self._changed:
            if not settings.drops:
                self._changed.wait_for(lambda: len(self._waiting) < _ALL_WAITING or self._stop.is_set())
            if self._stop.is_set():
                return
            if counts.state == "away" and counts.frames_in:
                counts.reconnects += 1
                _log.warning("feed '%s': back", settings.name, extra={"state": "up", "reconnects": counts.reconnects})
            counts.state = "up"
            counts.last_frame_at = arrived
            counts.frames_in += 1
            stamped = Stamped(frame, self._clock.stamp(frame), arrived)
            # cameras may say 25 a second and send one; what they say is but where it begins
            self.frame_seconds += _RATE_WEIGHT * (self._clock.step_seconds(self.frame_seconds) - self.frame_seconds)
            note_arrival(settings.name, stamped.pts, arrived)
            self._waiting.append(stamped)
            if settings.drops:
                self._drop_late()
            self._changed.notify_all()

    def _deliver_sound(self, packet: Any) -> None:
        """Sound from before the first frame of a connection has no place among the frames, and is left out."""
        time_of_packet = packet.pts if packet.pts is not None else packet.dts
        pts = None if time_of_packet is None else self._clock.of_sound(time_of_packet * Fraction(packet.time_base))
        if pts is not None and packet.size:
            self.counts.sound_in += 1
            duration = round((packet.duration or 0) * Fraction(packet.time_base) / CLOCK)
            self._put_sound(StreamPacket(bytes(packet), pts, duration, is_sound=True))

    def _put_sound(self, sound: SoundFormat | StreamPacket) -> None:
        with self._changed:
            if not self._takes_sound or self._stop.is_set():
                return
            self._sound.append(sound)
            if len(self._sound) > _SOUND_WAITING:
                oldest = next(index for index, one in enumerate(self._sound) if isinstance(one, StreamPacket))
                del self._sound[oldest]
                self.counts.sound_dropped += 1


def _sound_format(stream: Any, name: str) -> SoundFormat:
    if stream is None:
        return SoundFormat()
    try:
        return SoundFormat(described([(stream, SILENT_SAMPLE)]))
    except (av.error.FFmpegError, ValueError) as error:
        _log.warning("feed '%s': its sound is left out: %s", name, error)
        return SoundFormat()


def _options(settings: Settings) -> dict[str, str]:
    """FFmpeg's options: no waiting for frames whose only use is to guess the rate.

    'nobuffer' would be quicker still, and throw away what was read to find the streams: all up to the next key frame.
    """
    if settings.url.lower().startswith(("rtsp://", "rtsps://")):
        return {"rtsp_transport": settings.transport, "fpsprobesize": "0", "max_delay": "500000"}
    return {"fpsprobesize": "0"} if is_network(settings.url) else {}


def _decoded(packet: Any) -> list[av.VideoFrame]:
    """The frames of a packet; none for a damaged one, of which there are many after a loss."""
    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        return []


class _Clock:
    """Gives times that always go on: as the stream's own within a connection, as the clock's between two."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begin: float | None = None
        self._last = -1
        self._first: tuple[Fraction, int] | None = None  # of a connection: the stream's time, and ours
        self._newest = Fraction(0), 0  # of the frame before: the stream's time, and the moment
        self._stream_step: float | None = None
        self._step = 1

    def start_over(self, frame_seconds: float) -> None:
        """A new connection, whose times have nothing to do with those before."""
        with self._lock:
            self._first = None
            self._step = round(frame_seconds / CLOCK)

    def stamp(self, frame: av.VideoFrame) -> int:
        """The time of a frame that has just come."""
        with self._lock:
            now = self._elapsed()
            if frame.pts is None or frame.time_base is None:
                return self._after_last(now)
            time_of_frame = frame.pts * Fraction(frame.time_base)
            step = float(time_of_frame - self._newest[0])
            self._stream_step = step if self._first is not None and 0 < step <= _LONGEST_PAUSE else None
            if self._first is None or self._has_begun_anew(time_of_frame, now, _LARGEST_STEP_BACK):
                self._first = time_of_frame, max(now, self._last + self._step if self._last >= 0 else 0)
                self._stream_step = None
            self._newest = time_of_frame, now
            own, ours = self._first
            return self._after_last(ours + round((time_of_frame - own) / CLOCK))

    def step_seconds(self, otherwise: float) -> float:
        """From the frame before to the newest one, by the stream's times, if both belong together."""
        return otherwise if self._stream_step is None else self._stream_step

    def of_sound(self, time_of_packet: Fraction) -> int | None:
        """The time of sound of this connection; None before its first frame, or its first after a leap, has come."""
        with self._lock:
            if self._first is None or self._has_begun_anew(time_of_packet, self._elapsed(), _LARGEST_LEAP):
                return None
            own, ours = self._first
            pts = ours + round((time_of_packet - own) / CLOCK)
            return pts if pts >= ours else None

    def now(self) -> int:
        with self._lock:
            return self._after_last(self._elapsed())

    def _has_begun_anew(self, moment: Fraction, now: int, largest_step_back: int) -> bool:
        """Whether the stream's times have, as they do when an encoder behind the same connection is started again."""
        newest, then = self._newest
        return moment < newest - largest_step_back or moment - newest - (now - then) * CLOCK > _LARGEST_LEAP

    def _elapsed(self) -> int:
        if self._begin is None:
            self._begin = time.monotonic()
        return int((time.monotonic() - self._begin) / CLOCK)

    def _after_last(self, pts: int) -> int:
        self._last = max(pts, self._last + 1)
        return self._last


class _Pace:
    """Plays a file in real time."""

    def __init__(self) -> None:
        self._first: tuple[Fraction, float] | None = None
        self._newest = Fraction(0)

    def wait(self, frame: av.VideoFrame, stop: threading.Event) -> bool:
        """Wait until a frame is due; whether it is to be shown at all."""
        if frame.pts is None or frame.time_base is None:
            return not stop.is_set()
        time_of_frame = frame.pts * Fraction(frame.time_base)
        if self._first is None or not -_LARGEST_STEP_BACK <= time_of_frame - self._newest <= _LONGEST_PAUSE:
            self._first = time_of_frame, time.monotonic()
        self._newest = time_of_frame
        due = self._first[1] + float(time_of_frame - self._first[0])
        return not stop.wait(max(0.0, due - time.monotonic()))
