"""A batch from its inputs to its report: what is to do, who does it, and that nothing is left lying about."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bmf_trt_seg.batch.cluster import Need
from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.ledger import REPORT, Ledger, Record
from bmf_trt_seg.batch.pool import Lost, Pool, WorkerView
from bmf_trt_seg.batch.report import Report
from bmf_trt_seg.batch.schedule import Schedule
from bmf_trt_seg.batch.settings import Settings
from bmf_trt_seg.batch.storage import is_remote
from bmf_trt_seg.batch.work_folder import clear_dead
from bmf_trt_seg.errors import ConfigError, StreamError

__all__ = ["Batch", "BatchView", "hand_out"]

_WAIT_SECONDS = 0.2
_DYING_SECONDS = 5.0


@dataclass(frozen=True)
class BatchView:
    """How a batch stands."""

    films: int
    done: int
    """Those of earlier runs counted in."""
    failed: int
    workers: int
    busy: list[WorkerView]


@dataclass
class Batch:
    """Films and where they go. `check` before Ray is started, `run` with it."""

    films: Sequence[Film]
    settings: Settings
    retries: int = 2
    before: list[Record] = field(default_factory=list, init=False)
    """Of films that were done already."""
    open: list[Film] = field(default_factory=list, init=False)
    """Those that are to do."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.settings.target)

    def check(self, overwrite: bool) -> list[str]:
        """Find out what is to do; names of outputs that somebody else has put there.

        With `overwrite` these may be replaced. Raises ConfigError if an output is an input, and StreamError.
        """
        self._check_inputs()
        done = self.ledger.done()
        for film in self.films:
            record = done.get(film.name)
            if record is not None and record.key == self.settings.key(film):
                self.before.append(record)
            else:
                self.open.append(film)
        return [] if overwrite else self.ledger.foreign(self.open, self.settings.records)

    def _check_inputs(self) -> None:
        """Raise ConfigError if the output of any film is the source of any."""
        sources = {_resolved(film.source.path): film for film in self.films}
        for film in self.films:
            for name in (film.name, film.records_name)[: 1 + self.settings.records]:
                read = sources.get(_resolved(self.ledger.output(name)))
                if read is not None:
                    what = "" if read is film else f" with what becomes of '{film.source.path}'"
                    raise ConfigError(
                        f"'{read.source.path}' is an input, and would be written{what}; choose another output folder"
                    )

    def run(self, need: Need, workers: int | None, watch: Callable[[BatchView], None]) -> Report:
        """Have everything done; `watch` is told now and then how it stands.

        Whatever ends this, workers are ended, and what they had in the making is removed.
        """
        began = time.monotonic()
        self.ledger.claim(self.open)
        self.ledger.forget_parts(but=[self.settings.key(film) for film in self.open])
        schedule = Schedule(
            self.open,
            self.retries,
            lambda film: self.ledger.finished_parts(self.settings.key(film)),
            may_cut=workers != 1,
        )
        pool = Pool(self.settings, need, workers)
        try:
            while not schedule.is_over:
                hand_out(schedule, pool, _WAIT_SECONDS)
                watch(self._view(schedule, pool))
            self._forget_parts([state.film for state in schedule.films.values() if state.record is None])
        finally:
            pool.close()
            self._clear()
            report = Report(list(schedule.films.values()), self.before, time.monotonic() - began, pool.started)
            self.ledger.write_report(report.as_dict())
        return report

    def nothing_to_do(self) -> Report:
        """The report of a run that finds everything done."""
        self._forget_parts([])
        self._clear()
        report = Report([], self.before, 0.0, 0)
        self.ledger.write_report(report.as_dict())
        return report

    @property
    def report_path(self) -> str:
        """Where the report is."""
        return self.ledger.output(REPORT)

    def _view(self, schedule: Schedule, pool: Pool) -> BatchView:
        return BatchView(
            films=len(self.films),
            done=len(self.before) + schedule.done,
            failed=schedule.failed,
            workers=pool.workers,
            busy=pool.views(),
        )

    def _forget_parts(self, unfinished: Sequence[Film]) -> None:
        """Remove parts of films that are done: in one piece after all, by other cuts, or just before a worker died."""
        with suppress(StreamError):  # the next run tries it again
            self.ledger.forget_parts(but=[self.settings.key(film) for film in unfinished])

    def _clear(self) -> None:
        """Remove what dead workers left among the outputs; those that were just ended may need a moment to die."""
        if is_remote(self.settings.target):
            return
        end = time.monotonic() + _DYING_SECONDS
        while not clear_dead(Path(self.ledger.work)) and time.monotonic() < end:
            time.sleep(0.05)


def hand_out(schedule: Schedule, pool: Pool, wait_seconds: float) -> None:
    """Give tasks to all workers that take one, and the schedule the answers that come within a time."""
    pool.adjust(schedule.open_tasks)
    for _ in range(pool.idle()):
        task = schedule.next(pool.takes)
        if task is None:
            break
        pool.give(task)
    for task, answer in pool.wait(wait_seconds):
        if isinstance(answer, Lost):
            schedule.lost(task, answer.reason)
        else:
            schedule.answered(task, answer)


def _resolved(path: str) -> str:
    """The same for all local paths to a file."""
    return path if is_remote(path) else os.path.realpath(path)
