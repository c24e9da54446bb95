"""Runs on damaged files: each in a folder of its own, with its verdict."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import clips

from fuzz.files import FILES
from fuzz.watchdog import Ended, Workers

__all__ = ["Run", "runs"]


@dataclass(frozen=True)
class Run:
    """A damaged file and how the command that read it ended."""

    kind: str
    seed: str
    """The damage is made from the kind and this."""
    damage: str
    ended: Ended
    left: frozenset[str]
    """What it left lying about beside its output."""

    @property
    def is_good(self) -> bool:
        return self.ended.is_good and not self.left

    def __str__(self) -> str:
        left = f", left {sorted(self.left)}" if self.left else ""
        return f"{self.kind}, {self.damage}, seed {self.seed!r}: {self.ended.verdict}{left}: {self.ended.said[-2000:]}"


def runs(folder: Path, cases: Iterable[tuple[str, int]], limit_seconds: float = 30.0) -> Iterator[Run]:
    """Damage and run each case, which is the name of a kind and a number; bad files stay in `folder`."""
    network = clips.bright_model(folder / "bright.onnx")
    with Workers(folder, limit_seconds) as workers:
        for name, number in cases:
            yield _run(folder, network, name, number, workers)


def _run(folder: Path, network: Path, name: str, number: int, workers: Workers) -> Run:
    whole, own = folder / name, folder / "run"
    if not whole.exists():
        FILES[name].write(whole)
    seed = f"{name} {number}"
    damage, content = FILES[name].damage(whole.read_bytes(), seed)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    source = own / f"in{whole.suffix}"
    source.write_bytes(content)
    arguments = FILES[name].arguments(source, network, own, number)
    before = {path.name for path in own.iterdir()}
    ended = workers.run(arguments)
    after = {path.name for path in own.iterdir() if path.stem != "out"}
    found = Run(name, seed, damage, ended, frozenset(after - before))
    if not found.is_good:
        (folder / f"bad-{number}-{name}").write_bytes(content)
    return found
