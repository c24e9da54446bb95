"""What became of a batch: as JSON for machines, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from bmf_trt_seg import __version__
from bmf_trt_seg.batch.ledger import Record
from bmf_trt_seg.batch.schedule import FilmState

__all__ = ["Report"]


class Report:
    """Counts and lists what was done in a run, what had been done before, and what was not."""

    def __init__(self, states: Sequence[FilmState], before: Sequence[Record], seconds: float, workers: int) -> None:
        """before: records of films that were done already."""
        self._states, self._before = states, before
        self._seconds, self._workers = seconds, workers
        self.failed = [state for state in states if state.state == "failed"]
        self.unfinished = [state for state in states if state.state in ("waiting", "running")]
        self._made = [state.record for state in states if state.record is not None]
        self.damaged = [record for record in (*before, *self._made) if record.damage]

    @property
    def is_whole(self) -> bool:
        """Whether every film has an output, and none of them is damaged."""
        return not (self.failed or self.unfinished or self.damaged)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        films = [
            *(_done(record, "done before") for record in self._before),
            *(_film(state) for state in self._states),
        ]
        return {
            "bmf_trt_seg": __version__,
            "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(self._seconds, 1),
            "workers": self._workers,
            "counts": {
                "done": len(self._made),
                "done before": len(self._before),
                "failed": len(self.failed),
                "not finished": len(self.unfinished),
                "damaged": len(self.damaged),
            },
            "frames": sum(record.frames for record in self._made),
            "films": sorted(films, key=lambda film: str(film["output"])),
        }

    def rows(self) -> list[tuple[str, ...]]:
        """Of everything that needs a look: output, state, why."""
        rows = [(state.film.name, "failed", state.message) for state in self.failed]
        rows += [(record.output, "damaged", record.damage) for record in self.damaged]
        rows += [(record.output, "remark", text) for record in self._made for text in record.remarks]
        return sorted(rows)

    def summary(self) -> str:
        """One line."""
        frames = sum(record.frames for record in self._made)
        parts = [f"{len(self._made)} done"]
        parts += [f"{len(self._before)} done before"] if self._before else []
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.unfinished)} not finished"] if self.unfinished else []
        rate = f", {frames} frames in {self._seconds:.1f} s, {frames / self._seconds:.1f} a second" if frames else ""
        return ", ".join(parts) + rate


def _done(record: Record, state: str) -> dict[str, Any]:
    return {
        "output": record.output,
        "source": record.source,
        "state": state,
        "frames": record.frames,
        "worker_seconds": record.seconds,
        "parts": record.parts,
        "damage": record.damage,
        "remarks": record.remarks,
    }


def _film(state: FilmState) -> dict[str, Any]:
    failures = sum(state.failures.values())
    if state.record is not None:
        return {**_done(state.record, "done"), "failures": failures, "last_failure": state.message}
    return {
        "output": state.film.name,
        "source": state.film.source.path,
        "state": "failed" if state.state == "failed" else "not finished",
        "failures": failures,
        "last_failure": state.message,
    }
