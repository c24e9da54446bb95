"""What one run did when, and its network's layers below that, as a file for ui.perfetto.dev or chrome://tracing.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmf_trt_seg.backends import LayerTime

__all__ = ["Stage", "StageTimes"]

_ROWS = {1: "stages", 2: "layers"}


@dataclass
class Stage:
    """Something that was done; times in nanoseconds of `time.perf_counter_ns`."""

    name: str
    begin_ns: int
    end_ns: int
    facts: dict[str, Any]
    layers: Sequence[LayerTime] = field(default_factory=tuple)
    """Of the network, while it ran."""

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9


class StageTimes:
    """The stages of a run, in the order in which they ended."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, name: str, **facts: Any) -> Iterator[Stage]:
        """Note the time spent inside, unless it fails; facts, text or numbers, are shown with it."""
        stage = Stage(name, time.perf_counter_ns(), 0, facts)
        yield stage
        stage.end_ns = time.perf_counter_ns()
        self.stages.append(stage)

    def seconds(self, name: str) -> list[float]:
        """How long the stages of this name took."""
        return [stage.seconds for stage in self.stages if stage.name == name]

    def write(self, path: Path, title: str) -> None:
        """Write the trace, a line an event. Raises OSError; see `outputs` for all or nothing."""
        encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
        content = ",\n".join(encode(event) for event in self._events(title))
        path.write_text(f'{{"displayTimeUnit": "ms", "traceEvents": [\n{content}\n]}}\n', encoding="utf-8")

    def _events(self, title: str) -> Iterator[dict[str, Any]]:
        yield {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": title}}
        for row, name in _ROWS.items():
            yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": {"name": name}}
            yield {"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": row, "args": {"sort_index": row}}
        first_ns = min((stage.begin_ns for stage in self.stages), default=0)
        for stage in self.stages:
            begin_micros = (stage.begin_ns - first_ns) / 1e3
            yield _event(stage.name, "stage", 1, begin_micros, 1e6 * stage.seconds, stage.facts)
            yield from _layer_events(stage.layers, begin_micros)


def _layer_events(layers: Sequence[LayerTime], begin_micros: float) -> Iterator[dict[str, Any]]:
    """Layers where they ran; where only their times are known, one after the other from the stage's beginning."""
    behind = 0.0
    whole = sum(layer.seconds for layer in layers) or 1.0
    for number, layer in enumerate(layers):
        begin = behind if layer.begin_seconds is None else layer.begin_seconds
        behind = begin + layer.seconds
        facts: dict[str, Any] = {"number": number, "share": f"{layer.seconds / whole:.1%}"}
        if layer.kind:
            facts["operator"] = layer.kind
        yield _event(layer.name, layer.kind or "layer", 2, begin_micros + 1e6 * begin, 1e6 * layer.seconds, facts)


def _event(name: str, kind: str, row: int, begin: float, duration: float, facts: dict[str, Any]) -> dict[str, Any]:
    """A span of time, in microseconds."""
    return {
        "ph": "X", "name": name, "cat": kind, "pid": 1, "tid": row, "ts": round(begin, 3), "dur": round(duration, 3),
        "args": facts,
    }  # fmt: skip
