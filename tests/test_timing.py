"""Timing by turns, with a clock that the work itself turns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bmf_trt_seg import timing
from bmf_trt_seg.timing import Work, measure, warm_up


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def work(self, name: str, pictures: int, *taken_ms: float) -> Work:
        """Takes these times, one after the other and again."""
        counter = iter(range(1 << 30))

        def run() -> None:
            self.calls.append(name)
            self.now += taken_ms[next(counter) % len(taken_ms)] / 1e3

        return Work(pictures, run)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: made.now))
    return made


def test_percentiles_and_rate(clock):
    """Of 100 calls a turn, 90 take 1 ms, 8 take 2 ms and 2 take 97 ms: 300 ms in all. A call before is not timed."""
    taken = [5000.0, *[1.0] * 90, *[2.0] * 8, *[97.0] * 2]
    found = measure({"a": clock.work("a", 4, *taken)}, seconds=5 * 0.299, turns=5)["a"]
    assert (found.p50_ms, found.calls, found.turns) == (pytest.approx(1.0), 500, 5)
    assert found.p90_ms == pytest.approx(1.1)  # between the 90th and the 91st, a tenth of the way
    assert found.p99_ms == pytest.approx(97.0)
    assert found.pictures_per_second == pytest.approx(4 * 100 / 0.3)


def test_turns_alternate(clock):
    measure({"a": clock.work("a", 1, 10.0), "b": clock.work("b", 1, 10.0)}, seconds=0.1, turns=3)
    runs = [clock.calls[0]]
    for call in clock.calls:
        if call != runs[-1]:
            runs.append(call)
    assert runs == ["a", "b", "a", "b"]  # a b, b a, a b
    assert clock.calls.count("a") == clock.calls.count("b") == 15  # four a turn, and one before


def test_the_median_turn_counts(clock):
    """A turn in which the machine was busy changes nothing but the range."""
    found = measure({"a": clock.work("a", 1, *[1.0] * 8, *[50.0] * 4, *[1.0] * 8)}, seconds=0.001, turns=5)["a"]
    assert (found.p50_ms, found.p99_ms) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.pictures_per_second == pytest.approx(1000)
    assert found.slowest_turn == pytest.approx(20)
    assert found.fastest_turn == pytest.approx(1000)


def test_three_calls_a_turn_at_least(clock):
    assert measure({"a": clock.work("a", 1, 5000.0)}, seconds=1, turns=2)["a"].calls == 6


def test_calls_that_are_started_before_the_last_is_done(clock):
    """10 ms from a call to its end, but 2 ms where one follows the other."""
    begun = []

    def wait():
        clock.now += 0.008 + 0.002 * len(begun)
        begun.clear()

    found = measure({"a": Work(2, lambda: begun.append(1), wait)}, seconds=2.0, turns=1)["a"]
    assert found.p50_ms == pytest.approx(10)
    assert found.calls == 100
    assert found.pictures_per_second == pytest.approx(2 * 100 / 0.208)


def test_warm_up_runs_a_while(clock):
    warm_up(clock.work("slow", 1, 1000.0))
    assert clock.calls == ["slow"] * 3
    warm_up(clock.work("fast", 1, 1.0))
    assert clock.calls.count("fast") == pytest.approx(200, abs=1)


def test_progress_is_told(clock):
    told = []
    works = {"a": clock.work("a", 1, 1.0), "b": clock.work("b", 1, 1.0)}
    measure(works, 0.01, 2, lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
