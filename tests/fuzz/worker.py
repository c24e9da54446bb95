"""A process that runs the command line again and again, an order a line: `python worker.py FILE`; see `watchdog`.

An order is a list of arguments as JSON. The answer is an object with the exit code, the seconds it took and the memory
that the process has; what was said on standard error is in FILE, also if there is no answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def _resident_kib() -> int:
    fields = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in fields if line.startswith("VmRSS:"))


def _run(arguments: list[str]) -> dict[str, Any]:
    from bmf_trt_seg.cli.main import main

    os.ftruncate(2, 0)
    start = time.monotonic()
    try:
        main(arguments)
        code: object = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())  # as the interpreter would
        code = 1
    seconds = time.monotonic() - start
    sys.stderr.flush()
    return {"code": code, "seconds": round(seconds, 3), "resident_kib": _resident_kib()}


def _serve(said: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), 2)  # C++ writes there, too
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
