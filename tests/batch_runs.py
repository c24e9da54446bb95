"""Short forms for tests of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import clips

from bmf_trt_seg.batch.inputs import Film, find_films, place
from bmf_trt_seg.batch.ledger import Ledger
from bmf_trt_seg.batch.schedule import FilmState, Schedule
from bmf_trt_seg.batch.settings import Settings, model_digest
from bmf_trt_seg.batch.worker import Worker
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import Encoding


def batch_settings(target: object, model: Path, *, cut_seconds: float = 0.0, **changes: Any) -> Settings:
    """Lossless, with records, in one thread; `changes` are options of the network."""
    options = SegmentOptions(model=str(model), **changes)
    return Settings(
        options=options,
        encoding=Encoding(crf=0, preset="ultrafast"),
        decoder="ffmpeg",
        records=True,
        target=place(str(target)),
        model_sha256=model_digest(str(model)),
        cpu_threads=1,
        cut_seconds=cut_seconds,
    )


def films_in(folder: object, settings: Settings) -> list[Film]:
    return find_films([str(folder)], settings.target)[0]


def do_all(films: list[Film], settings: Settings, retries: int = 0) -> dict[str, FilmState]:
    """Have one worker do everything, in this process."""
    ledger = Ledger(settings.target)
    schedule = Schedule(films, retries, lambda film: ledger.finished_parts(settings.key(film)), may_cut=True)
    worker = Worker(settings)
    try:
        while (task := schedule.next()) is not None:
            schedule.answered(task, worker.run(task))
    finally:
        worker.close()
    assert schedule.is_over
    return schedule.films


def frame_numbers(path: Path) -> list[int]:
    """What is drawn into the frames of a video."""
    return [shown.number for shown in clips.read_clip(path)]


def is_playable(path: Path) -> bool:
    """Whether every packet of a file can be decoded."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sum(1 for _ in container.decode(stream)) == stream.frames > 0


def visible(folder: Path) -> set[str]:
    """Names of the files of a folder and those below, but for what is hidden."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not any(part.startswith(".") for part in path.parts)}
