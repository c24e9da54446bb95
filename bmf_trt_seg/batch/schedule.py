"""What is to be done next, what has become of each film, and how often something is tried."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bmf_trt_seg.batch.cuts import Plan
from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.ledger import Record
from bmf_trt_seg.batch.tasks import Answer, Done, Failed, NotToCut, PartDone, Planned, Task

__all__ = ["FilmState", "Schedule"]

State = Literal["waiting", "running", "done", "failed"]


@dataclass
class FilmState:
    """How a film stands."""

    film: Film
    state: State = "waiting"
    record: Record | None = None
    """Of a film that is done."""
    message: str = ""
    """Why it failed, at last."""
    failures: Counter[str] = field(default_factory=Counter)
    """How often each task of it failed or was lost, by label."""
    plan: Plan | None = None
    open_parts: set[int] = field(default_factory=set)


class Schedule:
    """Hands out tasks; the largest films first, so that the end is not a wait for one of them."""

    def __init__(
        self, films: Sequence[Film], retries: int, finished_parts: Callable[[Film], set[str]], may_cut: bool
    ) -> None:
        """retries: how often a task is tried again after a failure.

        finished_parts: files of parts that are done, as `Plan.file_name` names them.
        """
        ordered = sorted(films, key=lambda film: -film.source.size_bytes)
        self.films = {film.name: FilmState(film) for film in ordered}
        self._retries = retries
        self._finished_parts = finished_parts
        self._queue = deque(Task(film, may_cut=may_cut) for film in ordered)
        self._running = 0
        self.done = self.failed = 0
        """Films of these states."""

    @property
    def open_tasks(self) -> int:
        """Those that wait and those that are being done."""
        return len(self._queue) + self._running

    @property
    def is_over(self) -> bool:
        return not self.open_tasks

    def next(self, takes: Callable[[Task], bool] = lambda _: True) -> Task | None:
        """A task for a worker that has none: the first that one of them `takes`."""
        place = next((place for place, task in enumerate(self._queue) if takes(task)), None)
        if place is None:
            return None
        task = self._queue[place]
        del self._queue[place]
        self._running += 1
        self.films[task.film.name].state = "running"
        return task

    def answered(self, task: Task, answer: Answer) -> None:
        """A worker is done with a task."""
        self._running -= 1
        state = self.films[task.film.name]
        if state.state == "failed" or task.plan is not state.plan:
            return  # of a film that was given up, or is no longer cut
        if isinstance(answer, Done):
            state.state, state.record = "done", answer.record
            self.done += 1
        elif isinstance(answer, Planned):
            self._cut(state, answer.plan)
        elif isinstance(answer, PartDone):
            assert task.part is not None
            self._part_done(state, task.part.number)
        elif isinstance(answer, NotToCut):
            state.plan = None
            self._drop_parts(task)
            self._queue.appendleft(Task(task.film, may_cut=False))
        else:
            self._failed(task, answer)

    def lost(self, task: Task, reason: str) -> None:
        """The worker that did a task is gone."""
        self.answered(task, Failed(reason, may_pass=True))

    def _cut(self, state: FilmState, plan: Plan) -> None:
        state.plan = plan
        there = self._finished_parts(state.film)
        parts = [part for part in plan.parts if plan.file_name(part, ".mp4") not in there]
        state.open_parts = {part.number for part in parts}
        self._queue.extendleft(Task(state.film, plan, part) for part in reversed(parts))
        self._join_if_ready(state)

    def _part_done(self, state: FilmState, number: int) -> None:
        state.open_parts.discard(number)
        self._join_if_ready(state)

    def _join_if_ready(self, state: FilmState) -> None:
        if not state.open_parts:
            self._queue.appendleft(Task(state.film, state.plan))

    def _failed(self, task: Task, failure: Failed) -> None:
        state = self.films[task.film.name]
        state.failures[task.label] += 1
        state.message = failure.message
        if failure.may_pass and state.failures[task.label] <= self._retries:
            self._queue.append(task)
            return
        state.state = "failed"
        self.failed += 1
        self._drop_parts(task)

    def _drop_parts(self, task: Task) -> None:
        """Forget the parts that wait beside this one."""
        if task.plan is not None:
            self._queue = deque(other for other in self._queue if other.film.name != task.film.name)
