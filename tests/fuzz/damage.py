"""What happens to files on bad disks, on bad lines and at bad desks."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["damaged", "damaged_bits", "damaged_json", "members"]


def damaged(content: bytes, seed: str) -> tuple[str, bytes]:
    """What was done to a file, and the file after it; the same for the same seed."""
    choice = random.Random(seed)
    name = choice.choice(list(_DAMAGES))
    spoilt = bytearray(content)
    for _ in range(choice.choice((1, 1, 2))):
        _DAMAGES[name](spoilt, choice)
    return name, bytes(spoilt)


def damaged_bits(content: bytes, seed: str) -> tuple[str, bytes]:
    """`damaged`, but one bit or two: most of the file is as it was."""
    choice = random.Random(seed)
    spoilt = bytearray(content)
    for _ in range(choice.choice((1, 1, 2))):
        spoilt[choice.randrange(len(spoilt))] ^= 1 << choice.randrange(8)
    return "bits flipped", bytes(spoilt)


def _place(content: bytearray, choice: random.Random) -> int:
    """Half of all damage is where a container describes itself, which is small and matters most."""
    index = content.find(b"moov")
    head = (index, len(content)) if index > 0 else (0, 1024)
    low, high = choice.choice(((0, len(content)), head))
    return choice.randrange(low, max(low + 1, min(high, len(content))))


def _flip_bits(content: bytearray, choice: random.Random) -> None:
    for _ in range(choice.choice((1, 2, 8, 64))):
        content[_place(content, choice)] ^= 1 << choice.randrange(8)


def _put_number(content: bytearray, choice: random.Random) -> None:
    """A number at an edge of its type, where a size or a count may be."""
    number = choice.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    place = _place(content, choice)
    content[place : place + 4] = number.to_bytes(4, choice.choice(("big", "little")))


def _put_noise(content: bytearray, choice: random.Random) -> None:
    place, size = _place(content, choice), choice.choice((4, 32, 256, 2048))
    content[place : place + size] = choice.randbytes(size)


def _put_zeros(content: bytearray, choice: random.Random) -> None:
    place, size = _place(content, choice), choice.choice((16, 512, 4096))
    content[place : place + size] = bytes(size)


def _cut_end(content: bytearray, choice: random.Random) -> None:
    del content[choice.randrange(1, len(content)) :]


def _cut_out(content: bytearray, choice: random.Random) -> None:
    place = _place(content, choice)
    del content[place : place + choice.choice((1, 3, 188, 1000))]


def _repeat(content: bytearray, choice: random.Random) -> None:
    place, size = _place(content, choice), choice.choice((1, 188, 1000))
    content[place:place] = content[place : place + size]


def _move(content: bytearray, choice: random.Random) -> None:
    """A part of the file over another."""
    source, place, size = _place(content, choice), _place(content, choice), choice.choice((8, 64, 1000))
    content[place : place + size] = content[source : source + size]


_DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "bits flipped": _flip_bits,
    "a number put": _put_number,
    "noise put": _put_noise,
    "zeros put": _put_zeros,
    "end cut off": _cut_end,
    "part cut out": _cut_out,
    "part repeated": _repeat,
    "part moved": _move,
}


_EDGES: list[Any] = [
    0, -1, 1, 2, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), True, False, None, "", "0", "-1", "x", "auto",
    "a:b", "1/0", "99999999999999", "immediate", "clock_sync", "framesync", "server", [], {}, [1], [None], {"a": 1},
]  # fmt: skip


def damaged_json(content: bytes, seed: str) -> tuple[str, bytes]:
    """`damaged` for JSON that stays JSON: one member or two are taken out, or hold something else."""
    choice = random.Random(seed)
    document = json.loads(content)
    done = []
    for _ in range(choice.choice((1, 1, 2))):
        holder, key = choice.choice(members(document))
        if choice.random() < 0.15:
            del holder[key]
            done.append(f"{key} taken out")
        else:
            holder[key] = copy.deepcopy(choice.choice(_EDGES))
            done.append(f"{key} is {holder[key]!r}")
    return ", ".join(done), json.dumps(document).encode()


def members(document: Any) -> list[tuple[Any, Any]]:
    """Every member of every object and list, as its holder and its key."""
    found, waiting = [], [document]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            found += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys]
    return found or [([document], 0)]
