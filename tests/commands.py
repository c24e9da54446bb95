"""The command line, run in the process of a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bmf_trt_seg.cli.main import main

__all__ = ["Cli", "Ended", "runner"]


@dataclass
class Ended:
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


def runner(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line; a traceback is never right."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Ended(int(end.value.code or 0), captured.out, captured.err)

    return run
