"""Runs of the command line that may crash or hang: in worker processes, each run with its verdict."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["GOOD", "Ended", "Workers"]

_WORKER = Path(__file__).with_name("worker.py")
_PROGRAM = "bmf-trt-seg: "
_LOGGED = ("stream '",)
"""How lines of our log begin."""

GOOD = frozenset({"done", "told"})
"""Verdicts that are right: it succeeded, or ended with one line that says why not."""


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    verdict: str
    """'done'; 'told'; 'traceback'; 'noise', lines that are not ours; '0 lines' and the like, a failure without its one
    line; 'signal N'; 'hang', longer than the limit."""
    said: str = ""
    seconds: float = 0.0
    resident_kib: int = 0

    @property
    def is_good(self) -> bool:
        return self.verdict in GOOD


class Workers:
    """One worker process, and the next one when that is gone.

    Runs follow one another in one process, so that a crash is its input's or an earlier one's: `run` runs the input of
    a bad end again in a new process, and says so if it ends well there.
    """

    def __init__(self, folder: Path, limit_seconds: float = 30.0) -> None:
        """folder: the working directory of the commands."""
        self._folder, self._limit = folder, limit_seconds
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.NamedTemporaryFile()  # noqa: SIM115 (until `__exit__`)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._said.close()

    def run(self, arguments: Sequence[object]) -> Ended:
        """Run the command line once."""
        ended = self._once(arguments)
        if ended.is_good:
            return ended
        self._end()
        again = self._once(arguments)
        if again.is_good:
            return Ended(f"{ended.verdict}, not when run alone", ended.said, ended.seconds, again.resident_kib)
        return again

    def _once(self, arguments: Sequence[object]) -> Ended:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(_WORKER), self._said.name],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        start = time.monotonic()
        process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            answers = waiting.select(self._limit)
        if not answers:
            self._end()
            return Ended("hang", self._heard(), self._limit)
        line = process.stdout.readline()
        if not line:
            code, seconds = process.wait(), time.monotonic() - start
            self._end()
            if code < 0:
                return Ended(f"signal {signal.Signals(-code).name}", self._heard(), seconds)
            return Ended(_verdict(code, self._heard()), self._heard(), seconds)  # its own way out of what is stuck
        answer: dict[str, Any] = json.loads(line)
        return Ended(_verdict(answer["code"], self._heard()), self._heard(), answer["seconds"], answer["resident_kib"])

    def _heard(self) -> str:
        return Path(self._said.name).read_text(errors="backslashreplace")

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


def _verdict(code: int, said: str) -> str:
    lines = said.splitlines()
    if any(line.startswith("Traceback") for line in lines):
        return "traceback"
    ours = [line for line in lines if line.startswith(_PROGRAM)]
    if any(not line.startswith((_PROGRAM, *_LOGGED)) for line in lines):
        return "noise"
    if code == 0:
        return "noise" if ours else "done"
    return "told" if len(ours) == 1 else f"{len(ours)} lines"
