"""What a worker is asked to do, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bmf_trt_seg.batch.cuts import Part, Plan
from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.ledger import Record

__all__ = ["Answer", "Done", "Failed", "NotToCut", "PartDone", "Phase", "Planned", "Progress", "Task"]

Phase = Literal["idle", "reading", "segmenting", "finishing"]


@dataclass(frozen=True)
class Task:
    """A film to segment, or one part of it, or, without a part, its parts to join."""

    film: Film
    plan: Plan | None = None
    """Of a film that is cut."""
    part: Part | None = None
    may_cut: bool = True
    """Whether the answer may be a plan, for a film without one."""

    @property
    def label(self) -> str:
        """For people."""
        if self.plan is None:
            return self.film.name
        if self.part is None:
            return f"{self.film.name} (joining)"
        return f"{self.film.name} ({self.part.number + 1}/{len(self.plan.parts)})"


@dataclass(frozen=True)
class Done:
    """The film's output is complete, and noted in the ledger."""

    record: Record


@dataclass(frozen=True)
class Planned:
    """The film is long, and is to be cut like this."""

    plan: Plan


@dataclass(frozen=True)
class PartDone:
    """The part lies where the ledger says."""


@dataclass(frozen=True)
class NotToCut:
    """Cutting the film did not work out; it is to be segmented in one piece."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """It did not work."""

    message: str
    may_pass: bool
    """Whether another attempt could end otherwise."""


Answer = Done | Planned | PartDone | NotToCut | Failed


@dataclass(frozen=True)
class Progress:
    """What a worker is at."""

    phase: Phase = "idle"
    frames: int = 0
    """Of this task, so far."""
    expected: int | None = None
    """In all, if that is known."""
