"""Damaged videos, pictures, networks and graphs, run to their end in worker processes: the short form of
benchmarks/fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.files import KINDS
from fuzz.runs import runs
from fuzz.watchdog import Workers

_RUNS = {"video": 40, "picture": 14, "network": 9, "graph": 12, "inspected": 20}


def test_every_group_is_run() -> None:
    assert set(_RUNS) == set(KINDS)


@pytest.mark.parametrize("group", _RUNS)
def test_a_damaged_file_ends_well_or_in_one_line(group: str, tmp_path: Path) -> None:
    """A quarter of them at least is told to be bad: else the damage would do none."""
    names = KINDS[group]
    found = list(runs(tmp_path, ((names[number % len(names)], number) for number in range(_RUNS[group]))))
    assert not [str(run) for run in found if not run.is_good]
    assert sum(run.ended.verdict == "told" for run in found) >= len(found) // 4


_SCRIPT = "import os, signal, sys, time\n"


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
        ("time.sleep(60)", "hang"),
        ("os._exit(3)", "0 lines"),
        ("print('bmf-trt-seg: broken', file=sys.stderr, flush=True); os._exit(1)", "told"),
        ("print('Traceback (most recent call last):', file=sys.stderr, flush=True); os._exit(1)", "traceback"),
        ("print('what C++ says', file=sys.stderr, flush=True); os._exit(1)", "noise"),
    ],
)
def test_the_watchdog_sees_how_a_process_ends(
    script: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the worker's place, a script that takes an order and never answers."""
    worker = tmp_path / "worker.py"
    take = "os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), 2)\nsys.stdin.readline()\n"
    worker.write_text(_SCRIPT + take + script)
    monkeypatch.setattr("fuzz.watchdog._WORKER", worker)
    with Workers(tmp_path, limit_seconds=0.5 if verdict == "hang" else 30.0) as workers:
        assert workers.run(["segment"]).verdict == verdict
