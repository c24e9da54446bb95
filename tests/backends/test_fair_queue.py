"""Who gets into a batch, and when it starts: without threads, and with a clock that is a number."""

from __future__ import annotations

import numpy as np
import pytest

from bmf_trt_seg.backends.fair_queue import FairQueue


class Desk:
    """A queue whose pictures are numbers."""

    def __init__(self, batch_size: int, *names: str) -> None:
        self.queue = FairQueue(batch_size)
        self.lanes = {name: self.queue.join(name) for name in names}

    def put(self, name: str, *pictures: int, deadline: float = 0.0):
        return self.queue.put(self.lanes[name], np.array(pictures), deadline)

    def take(self) -> dict[str, list[int]]:
        """The pictures of the next batch by stream."""
        taken: dict[str, list[int]] = {}
        for part in self.queue.take():
            taken.setdefault(part.lane.name, []).extend(part.pictures.tolist())
        return taken


def test_streams_take_turns_and_a_flood_gets_what_is_left():
    desk = Desk(4, "flood", "a", "b")
    desk.put("flood", *range(100))
    desk.put("a", 200)
    desk.put("b", 300)
    assert desk.take() == {"flood": [0, 1], "a": [200], "b": [300]}
    assert desk.take() == {"flood": [2, 3, 4, 5]}
    desk.put("b", 301)
    assert desk.take() == {"b": [301], "flood": [6, 7, 8]}


def test_two_floods_share_a_batch_equally():
    desk = Desk(3, "a", "b")
    desk.put("a", *range(10))
    desk.put("b", *range(10))
    assert [{name: len(taken) for name, taken in desk.take().items()} for _ in range(2)] == [
        {"a": 2, "b": 1},
        {"b": 2, "a": 1},
    ]


def test_more_streams_than_places():
    desk = Desk(2, *"abcde")
    for name in "abcde":
        desk.put(name, *range(10))
    served = [name for _ in range(5) for name in desk.take()]
    assert served == list("abcde") * 2


def test_pictures_of_a_stream_stay_in_order():
    desk = Desk(3, "a")
    calls = [desk.put("a", 0, 1), desk.put("a", 2, 3, 4, 5), desk.put("a", 6)]
    parts = [[(calls.index(part.call), part.start, part.stop) for part in desk.queue.take()] for _ in range(4)]
    assert parts == [[(0, 0, 2), (1, 0, 1)], [(1, 1, 4)], [(2, 0, 1)], []]


def test_results_come_together_when_the_last_part_is_there():
    desk = Desk(2, "a")
    call = desk.put("a", 0, 1, 2)
    call.add(np.array([10, 11]))
    assert not call.result.done()
    call.add(np.array([12]))
    assert call.result.result().tolist() == [10, 11, 12]


def test_nothing_waits():
    assert Desk(4, "a", "b").queue.seconds_left(0) is None
    assert Desk(4, "a").take() == {}


def test_a_full_batch_starts_at_once():
    desk = Desk(2, "a", "b", "c")
    for name in "abc":
        desk.put(name, 0, deadline=5)
    desk.take()
    assert desk.queue.seconds_left(1) == 4  # c alone, and the others may come
    desk.put("a", 1, deadline=6)
    assert desk.queue.seconds_left(1) == 0


def all_awaited(batch_size=4):
    """Three streams that have given a picture before."""
    desk = Desk(batch_size, "a", "b", "c")
    for name in "abc":
        desk.put(name, 0)
    desk.take()
    for lane in desk.lanes.values():
        lane.calls.clear()
    return desk


def test_the_oldest_picture_says_how_long_a_batch_is_held_open():
    desk = all_awaited()
    desk.put("b", 1, deadline=12.5)
    desk.put("a", 1, deadline=11.0)
    assert desk.queue.seconds_left(10.0) == 1.0
    assert desk.queue.seconds_left(10.75) == 0.25
    assert desk.queue.seconds_left(11.0) == desk.queue.seconds_left(99.0) == 0


def test_nothing_is_waited_for_once_all_are_there():
    desk = all_awaited()
    desk.put("a", 1, deadline=9)
    desk.put("b", 1, deadline=9)
    assert desk.queue.seconds_left(0) == 9
    desk.put("c", 1, deadline=9)
    assert desk.queue.seconds_left(0) == 0


def test_streams_that_gave_nothing_yet_are_not_waited_for():
    desk = Desk(4, "a", "b")
    desk.put("a", 0, deadline=9)
    assert desk.queue.seconds_left(0) == 0


def test_a_stream_that_stands_still_is_waited_for_once():
    desk = all_awaited()
    for number, left in [(1, 9), (2, 0), (3, 0)]:
        desk.put("a", number, deadline=9)
        desk.put("b", number, deadline=9)
        assert desk.queue.seconds_left(0) == left
        assert desk.take() == {"a": [number], "b": [number]}
        for lane in desk.lanes.values():
            lane.calls.clear()
    desk.put("c", 4, deadline=9)
    assert desk.queue.seconds_left(0) == 9  # and it waits for others again
    desk.put("a", 4, deadline=9)
    desk.put("b", 4, deadline=9)
    assert len(desk.take()) == 3
    desk.put("a", 5, deadline=9)
    desk.put("b", 5, deadline=9)
    assert desk.queue.seconds_left(0) == 9  # as others do for it


def test_a_full_batch_says_nothing_of_who_is_not_in_it():
    desk = all_awaited(batch_size=2)
    desk.put("a", 1, 2)
    desk.take()
    assert all(lane.is_awaited for lane in desk.lanes.values())


def test_who_leaves_takes_its_pictures_along():
    desk = all_awaited()
    call = desk.put("a", 1, deadline=9)
    desk.put("b", 1, deadline=9)
    assert desk.queue.leave(desk.lanes["a"]) == [call]
    assert desk.queue.leave(desk.lanes["a"]) == []
    assert desk.queue.seconds_left(0) == 9
    desk.queue.leave(desk.lanes["c"])
    assert desk.queue.seconds_left(0) == 0
    assert desk.take() == {"b": [1]}


@pytest.mark.parametrize("taken", [False, True])
def test_withdrawn_pictures_are_forgotten(taken):
    desk = Desk(1, "a")
    call = desk.put("a", 0, 1)
    desk.put("a", 2)
    if taken:
        desk.take()
    for _ in range(2):
        desk.queue.withdraw(desk.lanes["a"], call)
    assert desk.lanes["a"].waiting == 1
    assert desk.take() == {"a": [2]}
