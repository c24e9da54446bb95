"""What is done next, by answers that are made up."""

from __future__ import annotations

from array import array
from fractions import Fraction

import pytest

from bmf_trt_seg.batch.cuts import Part, Plan
from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.ledger import Record
from bmf_trt_seg.batch.schedule import Schedule
from bmf_trt_seg.batch.storage import Stored
from bmf_trt_seg.batch.tasks import Done, Failed, NotToCut, PartDone, Planned


def film(name, size=1):
    return Film(Stored(f"/in/{name}", size, "1"), name)


def plan(count):
    parts = [Part(number, 0, 1, 0, (0, 0), array("q", [number]), number) for number in range(count)]
    return Plan(tuple(parts), Fraction(1, 25), info=None)


def done(name):
    return Done(Record("key", f"/in/{name}", name, {}, 1, 0.1, 1))


def schedule(*films, retries=1, there=(), may_cut=True):
    return Schedule(films, retries, lambda _: set(there), may_cut)


def test_large_films_come_first():
    queue = schedule(film("small", 1), film("large", 9), film("middle", 5))
    assert [queue.next().film.name for _ in range(3)] == ["large", "middle", "small"]
    assert queue.next() is None
    assert queue.open_tasks == 3


def test_a_film_that_failed_is_tried_again_after_the_others_and_not_more_often_than_that():
    queue = schedule(film("bad", 2), film("good"), retries=2)
    tried = []
    while (task := queue.next()) is not None:
        tried.append(task.film.name)
        queue.answered(task, Failed("broken", may_pass=True) if task.film.name == "bad" else done("good"))
    assert tried == ["bad", "good", "bad", "bad"]
    assert queue.is_over
    assert (queue.films["bad"].state, queue.films["bad"].message) == ("failed", "broken")
    assert queue.films["good"].state == "done"


def test_what_would_end_the_same_is_not_tried_again():
    queue = schedule(film("bad"), retries=5)
    queue.answered(queue.next(), Failed("no video", may_pass=False))
    assert queue.is_over


def test_a_lost_task_is_done_by_another_worker():
    queue = schedule(film("a"))
    task = queue.next()
    queue.lost(task, "its worker is gone")
    assert queue.next() is task
    queue.answered(task, done("a"))
    assert (queue.films["a"].state, sum(queue.films["a"].failures.values())) == ("done", 1)


def test_parts_go_before_other_films_and_are_joined_when_all_are_done():
    queue = schedule(film("long", 9), film("short", 1))
    queue.answered(queue.next(), Planned(plan(3)))
    parts = [queue.next() for _ in range(3)]
    assert [task.label for task in parts] == ["long (1/3)", "long (2/3)", "long (3/3)"]
    queue.answered(parts[2], PartDone())
    queue.answered(parts[0], PartDone())
    short = queue.next()
    assert short.label == "short"
    queue.answered(parts[1], PartDone())
    joining = queue.next()
    assert joining.label == "long (joining)"
    queue.answered(joining, done("long"))
    queue.answered(short, done("short"))
    assert queue.is_over


def test_parts_that_are_there_are_not_done_again():
    cut = plan(3)
    there = [cut.file_name(cut.parts[number], kind) for number, kind in ((0, ".mp4"), (2, ".mp4"), (1, ".jsonl"))]
    queue = schedule(film("long"), there=there)
    queue.answered(queue.next(), Planned(cut))
    (task,) = [queue.next()]
    assert task.label == "long (2/3)"
    assert queue.next() is None


def test_parts_of_another_plan_are_not_taken_for_those_of_this_one():
    other = plan(4)
    queue = schedule(film("long"), there=[other.file_name(part, ".mp4") for part in other.parts])
    queue.answered(queue.next(), Planned(plan(3)))
    assert [queue.next().label for _ in range(3)] == ["long (1/3)", "long (2/3)", "long (3/3)"]


def test_a_worker_gets_the_first_task_that_it_takes():
    queue = schedule(film("a", 3), film("b", 2), film("c", 1))
    assert queue.next(lambda task: task.label != "a").label == "b"
    assert queue.next(lambda task: task.label == "b") is None
    assert [queue.next().label, queue.next().label] == ["a", "c"]


def test_one_part_that_fails_for_good_ends_its_film_and_no_other():
    queue = schedule(film("long", 9), film("short", 1), retries=0)
    queue.answered(queue.next(), Planned(plan(3)))
    first, second = queue.next(), queue.next()
    queue.answered(first, Failed("broken", may_pass=True))
    assert queue.next().label == "short"  # the third part is not begun
    queue.answered(second, PartDone())
    assert queue.next() is None
    assert queue.films["long"].state == "failed"


def test_losses_are_counted_by_part():
    """A machine that goes away takes several parts of a film with it."""
    queue = schedule(film("long"), retries=1)
    queue.answered(queue.next(), Planned(plan(3)))
    for task in [queue.next() for _ in range(3)]:
        queue.lost(task, "its machine is gone")
    assert queue.films["long"].state == "running"
    assert queue.open_tasks == 3


@pytest.mark.parametrize("late", [PartDone(), Failed("broken", may_pass=False)])
def test_a_film_that_cannot_be_joined_is_done_in_one_piece(late):
    queue = schedule(film("long"))
    queue.answered(queue.next(), Planned(plan(3)))
    first, second = queue.next(), queue.next()
    queue.answered(first, NotToCut("frames differ"))
    queue.answered(second, late)  # of the cut film: nobody wants it any more
    task = queue.next()
    assert (task.label, task.may_cut) == ("long", False)
    assert queue.next() is None
