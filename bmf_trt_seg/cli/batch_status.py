"""How a batch stands: a table of its workers, drawn again and again, on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys

from bmf_trt_seg.batch.driver import BatchView
from bmf_trt_seg.batch.pool import WorkerView
from bmf_trt_seg.cli.redrawn import Redrawn
from bmf_trt_seg.cli.reports import table

__all__ = ["BatchStatus"]

_HEAD = ("worker", "video", "at", "frames", "fps")


class BatchStatus(Redrawn):
    """Shows on standard error how a batch stands, unless quiet."""

    def update(self, view: BatchView) -> None:
        """Show this state if it is time to."""
        if not self.is_due:
            return
        if sys.stderr.isatty():
            self.draw(self._lines(view))
        else:
            print(_line(view), file=sys.stderr)

    def _lines(self, view: BatchView) -> list[str]:
        shown = max(1, self.room - 4)
        lines = [_line(view)]
        if view.busy:
            lines += table(_HEAD, [_row(one) for one in view.busy[:shown]], left=3).splitlines()
        if len(view.busy) > shown:
            lines.append(f"and {len(view.busy) - shown} more")
        return lines


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
