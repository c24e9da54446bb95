"""A worker: does one task after the other, in a process of its own. It knows nothing of who hands them out."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from bmf_trt_seg import metrics
from bmf_trt_seg.backends import Backend
from bmf_trt_seg.batch.cuts import NotCut, Part, Plan, is_long, plan_film
from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.ledger import Ledger, Record
from bmf_trt_seg.batch.parts import check_joined, cut_out, join_parts, join_records, segment_part
from bmf_trt_seg.batch.settings import Settings, model_digest
from bmf_trt_seg.batch.storage import Stored, is_remote, joined, storage_of
from bmf_trt_seg.batch.tasks import Answer, Done, Failed, NotToCut, PartDone, Phase, Planned, Progress, Task
from bmf_trt_seg.batch.work_folder import WorkFolder, clear_dead
from bmf_trt_seg.errors import (
    BackendUnavailable,
    ConfigError,
    EngineError,
    FrameError,
    GraphError,
    ModelError,
    SegError,
    StreamError,
)
from bmf_trt_seg.finish import Finished, finish_video
from bmf_trt_seg.media import VideoInfo, probe_video
from bmf_trt_seg.pipeline import open_pipeline
from bmf_trt_seg.transcode import VideoJob, segment_video

__all__ = ["Worker"]

_LASTING = (ConfigError, ModelError, FrameError, BackendUnavailable)  # another attempt would end the same


class Worker:
    """Does tasks, one at a time; `progress` may be asked by another thread meanwhile."""

    def __init__(self, settings: Settings) -> None:
        """Loads the network once, so that what is wrong with it is known before the first film.

        Raises ConfigError, ModelError, EngineError, BackendUnavailable or StreamError.
        """
        self._settings = settings
        self._ledger = Ledger(settings.target)
        self._outputs = storage_of(settings.target)
        self._progress = Progress()
        self._warnings = _Warnings()
        logging.getLogger("bmf_trt_seg").addHandler(self._warnings)
        self._network = _checked_network(settings)  # as long as it is held, no film waits for it to be read
        # beside local outputs, so that a complete file only has to be renamed
        parent = Path(tempfile.gettempdir() if is_remote(settings.target) else self._ledger.work)
        clear_dead(parent)
        try:
            self._work = WorkFolder(parent)
        except OSError as error:
            raise StreamError(f"'{parent}' cannot be written: {error.strerror or error}") from error

    @property
    def progress(self) -> Progress:
        return self._progress

    def run(self, task: Task) -> Answer:
        """Do a task. Raises nothing that is a film's fault."""
        began = time.monotonic()
        self._warnings.clear()
        try:
            if task.plan is None:
                return self._film(task.film, task.may_cut, began)
            if task.part is None:
                return self._join(task.film, task.plan, began)
            return self._part(task.film, task.plan, task.part)
        except NotCut as reason:
            return NotToCut(str(reason))
        except SegError as error:
            return Failed(str(error), may_pass=not isinstance(error, _LASTING))
        finally:
            self._progress = Progress()
            self._work.clear()

    def close(self) -> None:
        self._network = None
        self._work.close()

    # ---------------------------------------------------------------------------------------------- the tasks

    def _film(self, film: Film, may_cut: bool, began: float) -> Answer:
        settings = self._settings
        self._at("reading")
        if not film.source.version:
            return Failed(f"'{film.source.path}' does not exist", may_pass=False)
        is_cut = False
        if may_cut and settings.cut_seconds:
            with storage_of(film.source.path).opened(film.source.path) as file:
                is_cut = is_long(file, settings.cut_seconds)
        source = self._fetched(film)
        names = [(source, film.source.path)]
        try:
            probe_video(source)
            if is_cut:
                return Planned(plan_film(source, settings.options, settings.cut_seconds))
        except NotCut as reason:
            remark = f"not cut: {reason}"
        except StreamError as error:
            return Failed(_named(str(error), names), may_pass=False)
        else:
            remark = ""
        made = self._folder("made")
        target = made / f"made{Path(film.name).suffix}"
        records = made / "made.jsonl" if settings.records else None
        names += [(target, self._ledger.output(film.name))]
        job = self._job(source, target, records)
        try:
            finished = segment_video(job, verbose=settings.verbose, watch=self._watch)
        except (EngineError, GraphError, StreamError) as error:
            raise type(error)(_named(str(error), names)) from error
        return Done(self._publish(film, target, records, finished, 1, began, remark))

    def _part(self, film: Film, plan: Plan, part: Part) -> Answer:
        self._at("reading")
        with storage_of(film.source.path).opened(film.source.path) as file:
            cut = cut_out(file, part, self._folder("source"))
        made = self._folder("made")
        target = made / "drawn.mp4"
        records = made / "drawn.jsonl" if self._settings.records else None
        frames = part.first_kept - part.first_frame + len(part.kept_pts)
        segment_part(
            self._job(cut.path, target, records),
            plan.info,
            part,
            cut,
            verbose=self._settings.verbose,
            watch=lambda counts, _: self._watch_frames(counts, frames),
        )
        self._at("finishing")
        folder = self._ledger.parts(self._settings.key(film))
        if records is not None:
            self._outputs.publish(records, joined(folder, plan.file_name(part, ".jsonl")))
        self._outputs.publish(target, joined(folder, plan.file_name(part, ".mp4")))  # last: it tells that all is there
        return PartDone()

    def _join(self, film: Film, plan: Plan, began: float) -> Answer:
        self._at("finishing")
        key = self._settings.key(film)
        record = self._ledger.record(film.name)
        if record is None or record.key != key:  # else a worker died when all was done but its answer
            record = self._joined(film, plan, self._ledger.parts(key), began)
        with suppress(StreamError):  # the film is done; what stays of its parts goes at the end of the batch
            self._outputs.remove(self._ledger.parts(key))
        return Done(record)

    def _joined(self, film: Film, plan: Plan, folder: str, began: float) -> Record:
        source = self._fetched(film)
        encoded = self._fetched_parts(plan, folder, ".mp4")
        made = self._folder("made")
        pictures = made / "joined.nut"
        target = made / f"made{Path(film.name).suffix}"
        records = None
        if self._settings.records:
            records = made / "made.jsonl"
            join_records(self._fetched_parts(plan, folder, ".jsonl"), records)
        join_parts(plan, encoded, pictures)
        finished = finish_video(pictures, source, target)
        check_joined(plan, target)
        return self._publish(film, target, records, finished, len(plan.parts), began, "")

    # ---------------------------------------------------------------------------------------------- their parts

    def _fetched(self, film: Film) -> Path:
        return storage_of(film.source.path).fetch(film.source.path, self._folder("source"))

    def _fetched_parts(self, plan: Plan, folder: str, suffix: str) -> list[Path]:
        paths = [joined(folder, plan.file_name(part, suffix)) for part in plan.parts]
        if not all(map(self._outputs.stat, paths)):
            raise NotCut("some of its parts are gone")
        return [self._outputs.fetch(path, self._folder("parts")) for path in paths]

    def _folder(self, name: Literal["source", "parts", "made"]) -> Path:
        """A folder of the work folder: sources may have any name, that of a part or of what is made, too."""
        folder = self._work.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def _job(self, source: Path, target: Path, records: Path | None) -> VideoJob:
        settings = self._settings
        return VideoJob(
            source, target, settings.options, settings.encoding, records,
            decoder=settings.decoder, cpu_threads=settings.cpu_threads,
        )  # fmt: skip

    def _at(self, phase: Phase) -> None:
        self._progress = replace(self._progress, phase=phase)

    def _watch(self, counts: metrics.StreamMetrics, info: VideoInfo) -> None:
        self._watch_frames(counts, info.expected_frames)

    def _watch_frames(self, counts: metrics.StreamMetrics, expected: int | None) -> None:
        is_finishing = expected is not None and counts.frames_out >= expected
        self._progress = Progress("finishing" if is_finishing else "segmenting", counts.frames_out, expected)

    def _publish(
        self, film: Film, target: Path, records: Path | None, finished: Finished, parts: int, began: float, remark: str
    ) -> Record:
        """Give complete files their names, and note it."""
        self._at("finishing")
        files: dict[str, Stored] = {}
        if records is not None:
            files[film.records_name] = self._outputs.publish(records, self._ledger.output(film.records_name))
        files[film.name] = self._outputs.publish(target, self._ledger.output(film.name))
        record = Record(
            key=self._settings.key(film),
            source=film.source.path,
            output=film.name,
            files={name: (stored.size_bytes, stored.version) for name, stored in files.items()},
            frames=finished.frames,
            seconds=round(time.monotonic() - began, 3),
            parts=parts,
            damage=finished.damage,
            remarks=[text for text in (remark, *self._warnings.lines, *_remarks(finished)) if text],
        )
        self._ledger.add(record)
        return record


def _named(text: str, names: Sequence[tuple[Path, str]]) -> str:
    """A message about files in the making as one about what the user knows."""
    for local, name in names:
        text = text.replace(f"'{local}'", f"'{name}'")
    return text


class _Warnings(logging.Handler):
    """Keeps what would have been told on a terminal."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def clear(self) -> None:
        self.lines = []


def _checked_network(settings: Settings) -> object:
    """What lasts of the network, once opened and closed."""
    digest = model_digest(settings.options.model)
    if digest != settings.model_sha256:
        raise ConfigError(
            f"model '{settings.options.model}' is another file here than where the batch was started; copy it, or put "
            "it where all machines see it"
        )
    with closing(open_pipeline(settings.options, metrics.open_stream(settings.options.name))) as pipeline:
        return pipeline.network.lasting if isinstance(pipeline.network, Backend) else None


def _remarks(finished: Finished) -> list[str]:
    remarks = []
    if finished.moved:
        remarks.append(f"{finished.moved} frames have no time of their own and follow the one before at once")
    if finished.left_out:
        remarks.append(f"left out, because this container cannot hold it: {', '.join(finished.left_out)}")
    return remarks
