"""Which feed goes to which device: tables, without any device."""

from __future__ import annotations

import pytest

from bmf_trt_seg.live.placement import Balance, LoadMeter, Placed, better_move, imbalance, place, weighed

TWO = "cuda:0", "cuda:1"
THREE = "cuda:0", "cuda:1", "cuda:2"


def feeds(text: str) -> list[Placed]:
    """From 'a:2 b:1@0 c:1!1 d:1/net': load, the device where it is, the one it is pinned to, its network."""
    found = []
    for one in text.split():
        name, _, rest = one.partition(":")
        rest, _, network = rest.partition("/")
        rest, _, pinned = rest.partition("!")
        load, _, device = rest.partition("@")
        places = [f"cuda:{number}" if number else None for number in (pinned, device)]
        found.append(Placed(name, float(load), places[0], network, places[1]))
    return found


def told(found: dict[str, str]) -> str:
    return " ".join(f"{name}@{device[5:]}" for name, device in sorted(found.items()))


@pytest.mark.parametrize(
    ("given", "devices", "expected"),
    [
        ("a:1 b:1 c:1 d:1", TWO, "a@0 b@1 c@0 d@1"),
        ("a:1 b:1 c:1", ("cuda:1",), "a@1 b@1 c@1"),
        ("a:5 b:1 c:1 d:1 e:1", TWO, "a@0 b@1 c@1 d@1 e@1"),  # the largest first
        ("a:1 b:5 c:4 d:3", THREE, "a@2 b@0 c@1 d@2"),
        ("a:2@0 b:2@0 c:1", TWO, "c@1"),  # who has a place stays there, uneven as it is
        ("a:2@0 b:2@1 c:1 d:1", TWO, "c@0 d@1"),
        ("a:1@2 b:1@0", TWO, "a@1"),  # its device is gone
        ("a:1!1 b:1!1 c:1 d:1", TWO, "a@1 b@1 c@0 d@0"),  # the others go around those that are pinned
        ("a:1!2 b:1", TWO, "b@0"),  # its device is not there: it waits
        ("a:1@0!1", TWO, "a@1"),  # the file pins it to another device now
        ("a:1/x b:1/y c:1/x d:1/y", TWO, "a@0 b@0 c@1 d@1"),
        ("a:1@1/x b:1@0/y c:1/x", TWO, "c@1"),  # equally loaded: to where its network is
        ("a:3@1/x b:1@0/y c:1/x", TWO, "c@0"),  # but not at the price of balance
        ("a:0@0 b:0 c:0", TWO, "b@0 c@0"),
        ("a:1", (), ""),
    ],
)
def test_places(given: str, devices: tuple[str, ...], expected: str) -> None:
    assert told(place(feeds(given), devices)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a:1@0 b:1@1", None),
        ("a:1@0 b:1@0 c:1@1", None),  # it would be as uneven the other way round
        ("a:1@0 b:1@0", ("a", "cuda:1")),
        ("a:4@0 b:1@0 c:1@0 d:2@1", ("b", "cuda:1")),  # 4 and 4 would need two moves; one of them helps most
        ("a:4@0 b:2@0 c:1@1", ("b", "cuda:1")),
        ("a:1@0!0 b:1@0!0 c:1@0", ("c", "cuda:1")),
        ("a:1@0!0 b:1@0!0", None),
        ("a:1.05@0 b:1@0 c:1@1 d:1@1", None),  # not worth an interruption
        ("a:0@0 b:0@0", None),
    ],
)
def test_the_one_move_that_helps_most(given: str, expected: tuple[str, str] | None) -> None:
    assert better_move(feeds(given), TWO) == expected


def test_nowhere_to_move_to() -> None:
    assert better_move(feeds("a:1@0 b:1@0"), TWO[:1]) is None
    assert better_move([], TWO) is None


def test_moves_come_to_an_end() -> None:
    """Whatever the loads are: each move lowers the highest load, so feeds do not go to and fro."""
    there = feeds("a:7@0 b:5@0 c:4@0 d:3@0 e:2@0 f:1@0")
    moved = []
    while (move := better_move(there, THREE)) is not None:
        moved.append(move)
        there = [Placed(one.name, one.load, device=move[1]) if one.name == move[0] else one for one in there]
        assert len(moved) < 10
    assert imbalance(there, THREE) < 0.25
    assert len({name for name, _ in moved}) == len(moved), "none moves twice"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a:1@0 b:1@1", 0.0), ("a:3@0 b:1@1", 0.5), ("a:1@0", 1.0), ("a:0@0", 0.0), ("", 0.0), ("a:1 b:1@0 c:1@1", 0.0)],
)
def test_imbalance(given: str, expected: float) -> None:
    assert imbalance(feeds(given), TWO) == expected


def test_imbalance_has_to_last() -> None:
    balance = Balance()
    assert not balance.is_lost(0.6, 0.0)
    assert not balance.is_lost(0.6, 59.9)
    assert balance.is_lost(0.6, 60.0)
    balance.begin_anew()
    assert not balance.is_lost(0.6, 61.0)
    assert not balance.is_lost(0.5, 100.0), "it is over, and begins anew"
    assert not balance.is_lost(0.6, 130.0)
    assert balance.is_lost(0.6, 190.0)


def test_a_load_is_measured_over_the_last_half_minute() -> None:
    meter = LoadMeter()
    for second in range(10):
        meter.add(second, 0.2 * second)
        assert meter.load is None, "not known yet"
    meter.add(10, 2.0)
    assert meter.load == pytest.approx(0.2)
    for second in range(1, 60):
        meter.add(10 + second, 2.0 + 0.5 * second)
    assert meter.load == pytest.approx(0.5), "what was before does not count any more"
    meter.add(70, 0.1)
    assert meter.load == pytest.approx(0.5), "it was started again; what was known holds until more is"
    for second in range(1, 11):
        meter.add(70 + second, 0.1 + 0.3 * second)
    assert meter.load == pytest.approx(0.3)


def test_who_is_not_measured_yet_counts_as_the_others_do() -> None:
    assert weighed({"a": None, "b": None}) == {"a": 1.0, "b": 1.0}
    assert weighed({"a": 0.2, "b": None, "c": 0.4}) == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.4})
    assert weighed({"a": 0.0, "b": None}) == {"a": 0.0, "b": 1.0}
    assert weighed({}) == {}
