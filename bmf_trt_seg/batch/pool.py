"""Workers as Ray actors: started where there is room, given tasks, watched, replaced."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bmf_trt_seg.batch.cluster import Need, imported_ray, machines
from bmf_trt_seg.batch.settings import Settings
from bmf_trt_seg.batch.tasks import Answer, Done, Failed, PartDone, Progress, Task
from bmf_trt_seg.errors import GraphError, SegError

__all__ = ["Lost", "Pool", "WorkerView"]

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0  # how often the cluster is asked what it has
_ASK_SECONDS, _MORE_SECONDS = 0.2, 0.002  # between two questions to all workers, and for each of them
_FAILED_STARTS = 3  # in a row, after which something is thought to be wrong for good
_FAILED_TASKS = 2  # in a row, after which a worker is started anew: by default, a task's last attempt comes after it
_FROZEN_SECONDS = 600.0  # without a frame or a sign of life, until a worker is taken for frozen


@dataclass(frozen=True)
class WorkerView:
    """How a worker is, for people."""

    node: str
    pid: int
    task: Task
    progress: Progress
    seconds: float
    """Since it got the task."""


@dataclass(frozen=True)
class Lost:
    """A worker is gone, and with it what it did."""

    reason: str


class _Actor:
    """What runs in the process of a Ray actor."""

    def __init__(self, settings: Settings) -> None:
        # threads that numerical libraries start and let spin get in the way of decoder, network and encoder
        for library in ("OMP", "OPENBLAS"):
            os.environ[f"{library}_NUM_THREADS"] = "1"
        from bmf_trt_seg.batch.worker import Worker

        self._worker: Worker | None = None
        self._problem: SegError | None = None
        try:
            self._worker = Worker(settings)
        except SegError as error:  # raised here, it would look like a crash
            self._problem = error

    def hello(self) -> tuple[str, int, tuple[type[SegError], str] | None]:
        """Machine, process, and why it cannot work."""
        problem = (type(self._problem), str(self._problem)) if self._problem else None
        return socket.gethostname(), os.getpid(), problem

    def run(self, task: Task) -> Answer:
        assert self._worker is not None
        return self._worker.run(task)

    def progress(self) -> Progress:
        return self._worker.progress if self._worker else Progress()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


@dataclass
class _Slot:
    """A worker of the pool."""

    actor: Any
    pending: Any
    """What it was asked last: hello, or a task."""
    state: Literal["starting", "idle", "busy"] = "starting"
    node: str = ""
    pid: int = 0
    task: Task | None = None
    since: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=Progress)
    asked: Any = None
    """For its progress."""
    news_at: float = field(default_factory=time.monotonic)
    failed: set[str] = field(default_factory=set)
    """Labels of tasks that failed here, or with the worker in whose place this one is."""
    failed_in_row: int = 0
    """Tasks that could pass elsewhere, since the last that was segmented here."""


class Pool:
    """As many workers as there is room and work for; one that is gone is replaced, on whatever machine has room."""

    def __init__(self, settings: Settings, need: Need, most: int | None) -> None:
        """most: how many workers at most; None: as many as there is room for."""
        ray = imported_ray()
        self._ray, self._settings, self._need, self._most = ray, settings, need, most
        # 'progress' is answered while 'run' runs; a worker that dies is not started again behind our back
        self._class = ray.remote(num_gpus=need.gpus, num_cpus=need.cpus, max_concurrency=2, max_restarts=0)(_Actor)
        self._slots: list[_Slot] = []
        self._failed_starts = 0
        self._futile_renewals = 0  # of workers, since any has segmented something
        self._capacity = 0
        self._looked_at = self._asked_at = -_LOOK_SECONDS
        self.started = 0
        """Workers that were ready once."""

    def adjust(self, open_tasks: int) -> None:
        """Start workers while there is room and work for more, and in the place of those that only fail."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._capacity = sum(machine.holds(self._need) for machine in machines())
        self._renew_failing()
        wanted = min(self._capacity, open_tasks, self._most or open_tasks)
        while len(self._slots) < wanted:
            self._start(set())

    def _start(self, failed: set[str]) -> None:
        actor = self._class.remote(self._settings)
        self._slots.append(_Slot(actor, actor.hello.remote(), failed=failed))

    def _renew_failing(self) -> None:
        """End workers that may be broken, as by a GPU that was lost: failing at once, they would take all tasks.

        Each of them once, on average, until one of all workers has segmented something: else it is not the workers.
        """
        failing = [slot for slot in self._slots if slot.state == "idle" and slot.failed_in_row >= _FAILED_TASKS]
        renewed = failing[: max(0, len(self._slots) - self._futile_renewals)]
        self._futile_renewals += len(renewed)
        for slot in renewed:
            _log.warning(
                "the worker on %s (process %d) has failed %d times in a row, and is started anew",
                slot.node, slot.pid, slot.failed_in_row,
            )  # fmt: skip
        self._end(renewed)
        for slot in renewed:
            self._start(slot.failed)

    def idle(self) -> int:
        """How many workers wait for a task."""
        return sum(slot.state == "idle" for slot in self._slots)

    def takes(self, task: Task) -> bool:
        """Whether a worker waits that may be given this task."""
        return self._slot_for(task) is not None

    def _slot_for(self, task: Task) -> _Slot | None:
        """An idle worker that has not failed this task. If all that are ready have, any of those that are idle."""
        ready = [slot for slot in self._slots if slot.state != "starting"]
        others = [slot for slot in ready if task.label not in slot.failed] or ready
        return next((slot for slot in others if slot.state == "idle"), None)

    def give(self, task: Task) -> None:
        """Have an idle worker that `takes` a task do it."""
        slot = self._slot_for(task)
        assert slot is not None
        slot.state, slot.task, slot.progress, slot.asked = "busy", task, Progress(), None
        slot.since = slot.news_at = time.monotonic()
        slot.pending = slot.actor.run.remote(task)

    def wait(self, seconds: float) -> list[tuple[Task, Answer | Lost]]:
        """Tasks that have ended, waiting so long for one. Raises SegError if no worker can work at all."""
        pending = {slot.pending: slot for slot in self._slots if slot.state != "idle"}
        if not pending:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(pending), num_returns=1, timeout=seconds)
        more, _ = self._ray.wait(list(pending), num_returns=len(pending), timeout=0)
        ended = []
        for reference in {*ready, *more}:
            slot = pending[reference]
            task, answer = slot.task, self._answer_of(slot)
            if task is not None and answer is not None:
                ended.append((task, answer))
        return ended + self._listen()

    def _answer_of(self, slot: _Slot) -> Answer | Lost | None:
        """What a worker answered, which is idle or gone then; None to 'hello'."""
        try:
            answer = self._ray.get(slot.pending)
        except self._ray.exceptions.RayTaskError as error:  # a bug of ours, or what no one thought of
            cause = f"{type(error.cause).__name__}: {error.cause}"
            failure = Failed(" ".join(cause.split()), may_pass=True)
            self._count(slot, failure)
            slot.state, slot.task = "idle", None
            return failure
        except self._ray.exceptions.RayError as error:
            self._remove(slot)
            if slot.state == "starting":
                self._failed_to_start(error)
            return Lost(f"its worker on {slot.node} is gone ({_first_line(error)})")
        if slot.state == "busy":
            self._count(slot, answer)
            slot.state, slot.task = "idle", None
            return answer
        slot.state = "idle"
        slot.node, slot.pid, problem = answer
        if problem is not None:
            self._remove(slot)
            kind, text = problem
            self._failed_starts += 1
            if not self.started or (self._failed_starts >= _FAILED_STARTS and not self._slots):
                raise kind(text)
            _log.warning("no worker on %s: %s", slot.node, text)
            self._most = max(1, len(self._slots))  # it would be tried there again and again
            return None
        self._failed_starts = 0
        self.started += 1
        return None

    def _count(self, slot: _Slot, answer: Answer) -> None:
        """Note what tells of a worker, not of a film; what does not need the network tells nothing."""
        assert slot.task is not None
        if isinstance(answer, Failed) and answer.may_pass:
            slot.failed.add(slot.task.label)
            slot.failed_in_row += 1
        elif isinstance(answer, PartDone) or (isinstance(answer, Done) and slot.task.plan is None):
            slot.failed_in_row = self._futile_renewals = 0

    def _failed_to_start(self, error: Exception) -> None:
        """A worker's process ended before it was ready; the machine may have gone, or ours is not installed there."""
        self._failed_starts += 1
        if self._failed_starts >= _FAILED_STARTS and not self._slots:
            raise GraphError(f"workers do not start: {_first_line(error)}; -v shows what they print")

    def _listen(self) -> list[tuple[Task, Answer | Lost]]:
        """Ask all that are busy how they are; end those of whom nothing was heard for long."""
        now = time.monotonic()
        busy = [slot for slot in self._slots if slot.state == "busy"]
        asked = {slot.asked: slot for slot in busy if slot.asked is not None}
        answered, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0) if asked else ([], [])
        for reference in answered:
            slot = asked[reference]
            slot.asked = None
            try:
                news = self._ray.get(reference)
            except self._ray.exceptions.RayError:  # `wait` finds out more
                continue
            if news != slot.progress or news.phase != "segmenting":
                slot.news_at = now
            slot.progress = news
        if now - self._asked_at >= _ASK_SECONDS + _MORE_SECONDS * len(busy):
            self._asked_at = now
            for slot in busy:
                slot.asked = slot.asked or slot.actor.progress.remote()
        lost: list[tuple[Task, Answer | Lost]] = []
        for slot in busy:
            if now - slot.news_at > _FROZEN_SECONDS and slot.task is not None:
                reason = f"its worker on {slot.node} gave no sign of life for {_FROZEN_SECONDS:.0f} s"
                lost.append((slot.task, Lost(reason)))
                self._remove(slot)
        return lost

    def _remove(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        self._ray.kill(slot.actor)

    def views(self) -> list[WorkerView]:
        """All that are busy."""
        now = time.monotonic()
        return [
            WorkerView(slot.node, slot.pid, slot.task, slot.progress, now - slot.since)
            for slot in self._slots
            if slot.task is not None
        ]

    @property
    def workers(self) -> int:
        """That are ready."""
        return sum(slot.state != "starting" for slot in self._slots)

    def close(self) -> None:
        """End all workers."""
        self._end(list(self._slots))

    def _end(self, slots: Sequence[_Slot]) -> None:
        """End workers: idle ones in good order, the others at once."""
        closing = [slot.actor.close.remote() for slot in slots if slot.state == "idle"]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=5.0)
        for slot in slots:
            self._remove(slot)


def _first_line(error: Exception) -> str:
    """Ray's errors are long."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
