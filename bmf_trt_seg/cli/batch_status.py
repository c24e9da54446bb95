"""How a batch stands: a table of its workers, drawn again and again, on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from types import TracebackType

from typing_extensions import Self

from bmf_trt_seg.batch.driver import BatchView
from bmf_trt_seg.batch.pool import WorkerView
from bmf_trt_seg.cli.reports import table

__all__ = ["BatchStatus"]

_TABLE_SECONDS, _LINE_SECONDS = 1.0, 10.0
_HEAD = ("worker", "video", "at", "frames", "fps")


class BatchStatus:
    """Shows on standard error how a batch stands, unless quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._drawn = 0  # lines that stand on the terminal
        self._shown_at = time.monotonic()
        self._eraser = _Eraser(self)

    def __enter__(self) -> Self:
        logging.getLogger("bmf_trt_seg").handlers.insert(0, self._eraser)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.erase()
        logging.getLogger("bmf_trt_seg").removeHandler(self._eraser)

    def update(self, view: BatchView) -> None:
        """Show this state if it is time to."""
        is_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if self._quiet or now - self._shown_at < (_TABLE_SECONDS if is_terminal else _LINE_SECONDS):
            return
        self._shown_at = now
        if is_terminal:
            self._draw(view)
        else:
            print(_line(view), file=sys.stderr)

    def erase(self) -> None:
        """Take the table off the terminal."""
        if self._drawn:
            drawn, self._drawn = self._drawn, 0
            sys.stderr.write(f"\x1b[{drawn}A\r\x1b[J")
            sys.stderr.flush()

    def _draw(self, view: BatchView) -> None:
        size = shutil.get_terminal_size()
        shown = max(1, size.lines - 4)
        lines = [_line(view)]
        if view.busy:
            lines += table(_HEAD, [_row(one) for one in view.busy[:shown]], left=3).splitlines()
        if len(view.busy) > shown:
            lines.append(f"and {len(view.busy) - shown} more")
        lines = [line[: size.columns - 1] for line in lines]
        self.erase()
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
        self._drawn = len(lines)


class _Eraser(logging.Handler):
    """Makes room for each line of the log; the table comes again after it."""

    def __init__(self, status: BatchStatus) -> None:
        super().__init__()
        self._status = status

    def emit(self, record: logging.LogRecord) -> None:
        self._status.erase()


def _row(worker: WorkerView) -> tuple[str, ...]:
    progress = worker.progress
    of = f" of {progress.expected}" if progress.expected else ""
    rate = f"{progress.frames / worker.seconds:.1f}" if progress.frames and worker.seconds else ""
    return f"{worker.node}:{worker.pid}", worker.task.label, progress.phase, f"{progress.frames}{of}", rate


def _line(view: BatchView) -> str:
    failed = f", {view.failed} failed" if view.failed else ""
    workers = f"{view.workers} worker{'' if view.workers == 1 else 's'}" if view.workers else "waiting for a worker"
    rate = sum(worker.progress.frames / worker.seconds for worker in view.busy if worker.seconds)
    return f"{view.done} of {view.films} videos done{failed}; {workers}, {rate:.1f} frames a second"
