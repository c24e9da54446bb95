"""Which worker gets what, and what becomes of those that only fail; in the place of Ray there is a toy of it."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace

import pytest

from bmf_trt_seg.batch.cluster import Machine, Need
from bmf_trt_seg.batch.driver import hand_out
from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.ledger import Record
from bmf_trt_seg.batch.pool import Pool
from bmf_trt_seg.batch.schedule import Schedule
from bmf_trt_seg.batch.storage import Stored
from bmf_trt_seg.batch.tasks import Done, Failed, Progress
from bmf_trt_seg.errors import EngineError

LOST_GPU = Failed("CUDA error: device lost", may_pass=True)


class ToyRay:
    """Places for workers, each with a function that answers tasks there: of the task, and which worker it is there.

    Failures are there at once, other answers after so many rounds of waiting.
    """

    class exceptions:  # noqa: N801
        class RayError(Exception): ...

        class RayTaskError(RayError): ...

    def __init__(self, *places, rounds=0, problem=lambda place, process: None):
        self.places, self.rounds, self.problem = places, rounds, problem
        self.now = 0
        self.free = list(range(len(places)))
        self.processes = Counter()
        self.tried = []

    def remote(self, **_):
        return lambda _: SimpleNamespace(remote=lambda _: Actor(self))

    def wait(self, references, num_returns, timeout):
        self.now += num_returns == 1
        ready = [reference for reference in references if reference.ready_at <= self.now]
        return ready, [reference for reference in references if reference not in ready]

    def get(self, reference):
        return reference.value

    def kill(self, actor):
        self.free.insert(0, actor.place)


class Reference:
    def __init__(self, value, ready_at=0):
        self.value, self.ready_at = value, ready_at


class Actor:
    def __init__(self, ray):
        self.place = ray.free.pop(0)
        ray.processes[self.place] += 1
        process = ray.processes[self.place]
        assert process < 20, "started again and again"

        def run(task):
            ray.tried.append((task.label, self.place))
            answer = ray.places[self.place](task, process)
            return Reference(answer, 0 if isinstance(answer, Failed) else ray.now + ray.rounds)

        self.run = SimpleNamespace(remote=run)
        problem = ray.problem(self.place, process)
        self.hello = SimpleNamespace(remote=lambda: Reference((f"node{self.place}", process, problem)))
        self.progress = SimpleNamespace(remote=lambda: Reference(Progress()))
        self.close = SimpleNamespace(remote=lambda: Reference(None))


def works(task, _):
    return Done(Record("key", "/in", task.film.name, {}, 1, 0.1, 1))


def is_broken(*_):
    return LOST_GPU


@pytest.fixture
def outcome(monkeypatch):
    """Has films done by the workers of a toy."""

    def run(ray, films, retries=2):
        monkeypatch.setattr("bmf_trt_seg.batch.pool.imported_ray", lambda: ray)
        monkeypatch.setattr("bmf_trt_seg.batch.pool.machines", lambda: [Machine(0, len(ray.places))])
        names = [f"{number}.mp4" for number in range(films)]
        found = [Film(Stored(f"/in/{name}", 1, "1"), name) for name in names]
        schedule = Schedule(found, retries, lambda _: set(), may_cut=True)
        pool = Pool(None, Need(0, 1), None)
        while not schedule.is_over:
            assert len(ray.tried) <= films * (retries + 1)
            hand_out(schedule, pool, 0)
        pool.close()
        return schedule

    return run


def renewals(caplog):
    return [record.getMessage() for record in caplog.records if "started anew" in record.getMessage()]


@pytest.mark.parametrize("rounds", [0, 20])
@pytest.mark.parametrize("good", [1, 3])
def test_what_one_worker_has_failed_another_does(outcome, rounds, good):
    ray = ToyRay(is_broken, *[works] * good, rounds=rounds)
    done = outcome(ray, films=40, retries=1)
    assert (done.done, done.failed) == (40, 0)
    assert max(Counter(ray.tried).values()) == 1


def test_a_worker_that_only_fails_is_started_anew(outcome, caplog):
    ray = ToyRay(lambda task, process: LOST_GPU if process == 1 else works(task, process))
    assert outcome(ray, films=1).done == 1
    assert ray.processes == {0: 2}
    assert renewals(caplog) == ["the worker on node0 (process 1) has failed 2 times in a row, and is started anew"]


def test_where_everything_fails_each_worker_is_started_anew_once(outcome, caplog):
    ray = ToyRay(is_broken, is_broken, is_broken)
    assert outcome(ray, films=30).failed == 30
    assert len(renewals(caplog)) == 3


def test_broken_films_between_good_ones_are_not_blamed_on_workers(outcome, caplog):
    def answer(task, process):
        return LOST_GPU if task.film.name in ("1.mp4", "3.mp4") else works(task, process)

    ray = ToyRay(answer)
    assert outcome(ray, films=6, retries=0).failed == 2
    assert not renewals(caplog)


def test_what_would_fail_anywhere_is_not_blamed_on_workers(outcome, caplog):
    ray = ToyRay(lambda *_: Failed("no video", may_pass=False))
    assert outcome(ray, films=10).failed == 10
    assert not renewals(caplog)


def test_a_gpu_that_stays_lost_ends_the_run(outcome, caplog):
    """No worker is left, and none can be started."""
    caplog.set_level(logging.CRITICAL)
    ray = ToyRay(is_broken, problem=lambda place, process: (EngineError, "no GPU") if process > 1 else None)
    with pytest.raises(EngineError, match="no GPU"):
        outcome(ray, films=10)
    assert ray.processes == {0: 4}
