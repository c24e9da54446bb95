"""One of the devices that feeds are spread over: its process, and when that is ended and tried again."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from bmf_trt_seg.live.messages import Message
from bmf_trt_seg.live.places import FeedPlace
from bmf_trt_seg.live.supervisor import Limits
from bmf_trt_seg.live.worker_process import WorkerProcess
from bmf_trt_seg.retry import backoff_seconds

__all__ = ["Device"]

_BACKOFF, _BACKOFF_MAX = 1.0, 60.0
_RAN_WELL_SECONDS = 30.0  # after which a failure is a new one
_START_SECONDS = 120.0  # for a process to say something: libraries may lie on a slow disk
_REAP_SECONDS = 5.0  # after SIGKILL; a process that hangs in a driver may stay for ever


@dataclass(eq=False)
class Device:
    """Times are of `time.monotonic`."""

    name: str
    worker: WorkerProcess | None = None
    """Its process; None while it is not tried."""
    is_up: bool = False
    """Whether its process has said that it is there."""
    returns: bool = False
    """Whether it works again, and feeds may come back to it."""
    given: list[FeedPlace] = field(default_factory=list)
    """The feeds that its process was told last."""
    is_new: bool = False
    """Whether it has to be told what a file says that was read since."""
    setting: Future[Message] | None = None
    """The answer to what it was told last, if it was not looked at yet."""
    retry_at: float = 0.0
    reason: str = ""
    """Why it is about to fail."""
    _began: float = 0.0
    _failures: int = 0
    _end_by: float | None = None
    """When a process that was asked to end is killed."""

    @property
    def takes_feeds(self) -> bool:
        return self.is_up and self._end_by is None

    def start(self, settings: Message) -> None:
        """Start a process for it. settings: what that is told first."""
        self._began = time.monotonic()
        self.is_up, self._end_by, self.given, self.setting = False, None, [], None
        self.worker = WorkerProcess(self.name, {**settings, "is_gpu": self.name.startswith("cuda:")})

    def was_heard(self) -> bool:
        """Its process has said something; whether that is new, and it did not work before."""
        if self.is_up:
            return False
        self.is_up, self.returns = True, self._failures > 0
        return self.returns

    def end(self, reason: str, by: float) -> None:
        """Its process should end, or is about to, for this reason; then it is killed."""
        if self._end_by is None:
            self.reason, self._end_by = reason, by

    def is_gone(self, now: float, limits: Limits) -> bool:
        """Whether its process is no more; one that stands still is ended."""
        worker = self.worker
        if worker is None:
            return False
        if worker.is_over:
            return True
        silent = now - worker.heard_at
        if self._end_by is None and silent > (limits.stuck if self.is_up else _START_SECONDS):
            self.end(f"its process has said nothing for {silent:.0f} s", now + limits.stop)
            worker.terminate()
        elif self._end_by is not None and now > self._end_by:
            worker.kill()
            return now > self._end_by + _REAP_SECONDS
        return False

    def forget_process(self, now: float) -> tuple[str, float]:
        """Its process is no more: why, and after how many seconds the next one is due."""
        worker, self.worker = self.worker, None
        assert worker is not None
        reason, self.reason = self.reason or worker.how_it_ended(), ""
        ran_well = self.is_up and now - self._began >= _RAN_WELL_SECONDS
        self._failures = 1 if ran_well else self._failures + 1
        wait = backoff_seconds(self._failures, _BACKOFF, _BACKOFF_MAX)
        self.retry_at, self.is_up, self._end_by, self.setting = now + wait, False, None, None
        return reason, wait

    def kill(self) -> None:
        """End its process at once, if it has one."""
        if self.worker is not None:
            self.worker.kill()
            self.worker.reap(_REAP_SECONDS)
            self.worker = None
