"""The folder '.batch' among the outputs: what is done, which names are the batch's own, and what is in the making."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock

from bmf_trt_seg.batch.inputs import Film
from bmf_trt_seg.batch.storage import Stored, is_remote, joined, storage_of
from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.json_text import parsed

__all__ = ["REPORT", "Ledger", "Record"]

REPORT = "batch-report.json"
_FOLDER = ".batch"


@dataclass(frozen=True)
class Record:
    """What became of a film whose output is complete."""

    key: str
    """As `Settings.key` gives it."""
    source: str
    output: str
    """Name below the output folder."""
    files: dict[str, tuple[int, str]]
    """Everything that was written for it, by name: size in bytes, and version as in `Stored`."""
    frames: int
    seconds: float
    """That workers spent on it."""
    parts: int
    """That it was cut into; 1: none."""
    damage: str = ""
    """Why the source is thought to be damaged; empty if it is whole."""
    remarks: list[str] = field(default_factory=list)


class Ledger:
    """A film is done when its output is under its name and a record beside tells of this very file.

    The record is written after the output: whoever dies in between leaves a complete output that is made again.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._storage = storage_of(target)

    def output(self, name: str) -> str:
        """Where an output of this name lies."""
        return joined(self._target, name)

    @property
    def work(self) -> str:
        """Folder for files in the making, on the file system of the outputs; of no use in an object store."""
        return joined(self._target, _FOLDER, "work")

    def parts(self, key: str) -> str:
        """Folder for the finished parts of a film, which are in folders of their plans there."""
        return joined(self._target, _FOLDER, "parts", key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other batches out of this folder, as far as the storage has locks. Raises StreamError."""
        if is_remote(self._target):
            yield
            return
        folder = Path(self._target, _FOLDER)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / "lock")
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise StreamError(f"another batch writes to '{self._target}'; wait, or give another folder") from error
        except OSError as error:
            raise StreamError(f"'{self._target}' cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def done(self) -> dict[str, Record]:
        """Records by the names of their outputs, which are all there as they were written."""
        outputs = {stored.path: stored for stored in self._all()}
        folder = joined(self._target, _FOLDER, "done")
        paths = [path for path in outputs if path.startswith(folder + "/")]
        records = (_read_record(content) for content in self._storage.read_all(paths))

        def is_there(name: str, size_bytes: int, version: str) -> bool:
            return outputs.get(self.output(name)) == Stored(self.output(name), size_bytes, version)

        return {
            record.output: record
            for record in records
            if record is not None and all(is_there(name, *facts) for name, facts in record.files.items())
        }

    def record(self, name: str) -> Record | None:
        """Of this one output, which is all there as it was written."""
        content = self._storage.read(self._record_path(name))
        record = _read_record(content) if content else None
        if record is None:
            return None
        written = [Stored(self.output(file), *facts) for file, facts in record.files.items()]
        return record if all(self._storage.stat(stored.path) == stored for stored in written) else None

    def _record_path(self, name: str) -> str:
        return joined(self._target, _FOLDER, "done", f"{name}.json")

    def _all(self) -> list[Stored]:
        """Everything in the output folder, which need not be there yet."""
        return self._storage.files(self._target) if self._storage.is_folder(self._target) else []

    def add(self, record: Record) -> None:
        """Note that an output is complete."""
        content = json.dumps(asdict(record), ensure_ascii=False, indent=1)
        self._storage.write(self._record_path(record.output), content.encode())

    def foreign(self, films: Iterable[Film], records: bool) -> list[str]:
        """Names of outputs that exist already and that no batch here has ever begun."""
        claimed = self._claimed()
        names = [name for film in films for name in (film.name, film.records_name)[: 1 + records]]
        there = {stored.path for stored in self._all()}
        return [name for name in names if name not in claimed and self.output(name) in there]

    def claim(self, films: Iterable[Film]) -> None:
        """Note, before the first is begun, that these outputs will be the batch's own."""
        names = self._claimed() | {name for film in films for name in (film.name, film.records_name)}
        self._storage.write(self._claims, json.dumps(sorted(names), ensure_ascii=False, indent=0).encode())

    @property
    def _claims(self) -> str:
        return joined(self._target, _FOLDER, "names.json")

    def _claimed(self) -> set[str]:
        content = self._storage.read(self._claims)
        try:
            return set(parsed(content.decode())) if content else set()
        except (ValueError, TypeError) as error:
            raise StreamError(
                f"'{self._claims}', which says what the batch's own outputs are, is damaged: {error}; give another "
                f"folder, or delete the outputs and '{_FOLDER}'"
            ) from error

    def finished_parts(self, key: str) -> set[str]:
        """Files of the parts of a film that are complete, as `Plan.file_name` names them; of other plans, too."""
        folder = self.parts(key)
        if not self._storage.is_folder(folder):
            return set()
        return {stored.path.removeprefix(folder + "/") for stored in self._storage.files(folder)}

    def forget_parts(self, but: Iterable[str]) -> None:
        """Remove the parts of all films but those with these keys: what they belong to has changed, or is done."""
        folder = joined(self._target, _FOLDER, "parts")
        if not self._storage.is_folder(folder):
            return
        keys = {stored.path.removeprefix(folder + "/").partition("/")[0] for stored in self._storage.files(folder)}
        for key in keys - set(but):
            self._storage.remove(joined(folder, key))

    def write_report(self, report: dict[str, Any]) -> None:
        """Write the report of a run."""
        content = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
        self._storage.write(self.output(REPORT), content.encode())


def _read_record(content: bytes) -> Record | None:
    """None for what a later or earlier version wrote, and this one does not know."""
    try:
        return Record(**parsed(content.decode()))
    except (ValueError, TypeError):
        return None
