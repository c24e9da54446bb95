"""Masks that were recorded before, in the place of a network."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydantic

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.frames import FramePlanes
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.postprocess import chosen_classes
from bmf_trt_seg.records import class_map
from bmf_trt_seg.segmentation import Segmentation, Timestamp
from bmf_trt_seg.spec import NO_CLASS, Color

if TYPE_CHECKING:
    from bmf_trt_seg.options import SegmentOptions

__all__ = ["RecordedMasks"]


class _RunLengths(pydantic.BaseModel):
    size: tuple[int, int]
    counts: str = pydantic.Field(min_length=1)


class _Shown(pydantic.BaseModel):
    index: int = pydantic.Field(ge=0, lt=NO_CLASS)
    label: str
    color: Color


class _Class(_Shown):
    rle: _RunLengths


class _Record(pydantic.BaseModel):
    """What is needed of a record; see `records`."""

    pts: int
    time_base: tuple[int, pydantic.PositiveInt]
    inferred: bool
    size: tuple[pydantic.PositiveInt, pydantic.PositiveInt]
    background: int = pydantic.Field(ge=0, le=NO_CLASS)
    classes: list[_Class]
    shown: list[_Shown] = []

    @pydantic.model_validator(mode="after")
    def _masks_fit(self) -> _Record:
        if any(entry.rle.size != self.size[::-1] for entry in self.classes):
            raise ValueError("a mask is not of the size of the picture")
        return self


class RecordedMasks:
    """Class maps out of a file of records, a JSON object a line, as `records.frame_record` makes them."""

    batch_size = 1

    def __init__(self, path: Path, classes: Sequence[str | int] | None) -> None:
        """Reads the whole file once, so that a broken one is found before the first picture.

        classes: which of the recorded ones to show; default all. Raises StreamError or ConfigError.
        """
        self._path = path
        self._recorded_labels, self._recorded_colors, self.background = self._recorded_classes()
        self._choose(classes)
        self.network = self._read()

    def _choose(self, classes: Sequence[str | int] | None) -> None:
        labels, colors = self._recorded_labels, self._recorded_colors
        if not labels:
            classes = None  # nothing was ever seen, so nothing can be chosen
        names = [labels.get(index, f"class {index}") for index in range(max(labels, default=-1) + 1)]
        chosen = [index for index in chosen_classes(names, None, classes) if index in labels]
        self.labels = {index: labels[index] for index in chosen}
        self.colors = {index: colors[index] for index in chosen}

    def changed(self, options: SegmentOptions) -> RecordedMasks:
        """The same records with other classes; see `PicturePipeline.changed`."""
        other = copy.copy(self)
        other._choose(options.classes)
        return other

    def begin(self, number: int) -> None:
        """Every picture has its record."""

    def is_due(self, number: int) -> bool:
        return True

    def segment(
        self, frames: Sequence[FramePlanes], numbers: Sequence[int], timestamps: Sequence[Timestamp]
    ) -> list[Segmentation]:
        """The recorded class maps of the next pictures; ConfigError if the records are of another video."""
        return [
            self._next(frame, number, timestamp)
            for frame, number, timestamp in zip(frames, numbers, timestamps, strict=True)
        ]

    def describe(self) -> str:
        return f"masks from '{self._path}'"

    def close(self) -> None:
        self.network.close()

    def _next(self, frame: FramePlanes, number: int, timestamp: Timestamp) -> Segmentation:
        record = next(self.network, None)
        if record is None:
            raise ConfigError(f"records '{self._path}' end after {number} frames, but the video goes on")
        pts, time_base = timestamp
        recorded_seconds = record["pts"] * Fraction(*record["time_base"])
        if recorded_seconds != pts * time_base or record["size"] != [frame.width, frame.height]:
            raise ConfigError(
                f"records '{self._path}' are of another video: frame {number} is {frame.width}x{frame.height} at "
                f"{float(pts * time_base):.6f} s, the record says {record['size'][0]}x{record['size'][1]} at "
                f"{float(recorded_seconds):.6f} s"
            )
        try:
            return Segmentation(class_map(record), bool(record["inferred"]))
        except ValueError as error:
            raise ConfigError(f"records '{self._path}': the masks of frame {number} are broken: {error}") from error

    def _recorded_classes(self) -> tuple[dict[int, str], dict[int, str], int]:
        """Names and colours of all classes in the file, and its value for no class."""
        labels: dict[int, str] = {}
        colors: dict[int, str] = {}
        background = NO_CLASS
        for record in self._read():
            background = record["background"]
            for entry in [*record.get("shown", []), *record["classes"]]:
                labels[entry["index"]] = entry["label"]
                colors[entry["index"]] = entry["color"]
        return labels, colors, background

    def _read(self) -> Generator[dict[str, Any], None, None]:
        reading = 1
        try:
            with self._path.open(encoding="utf-8") as lines:
                for reading, line in enumerate(lines, 1):  # noqa: B007 (for the message below)
                    record = parsed(line)
                    _Record.model_validate(record)
                    yield record
        except OSError as error:
            raise StreamError(f"records '{self._path}' cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(
                f"records '{self._path}', line {reading}: no record of a frame ({_reason(error)}); expected what "
                "--json writes"
            ) from error


def _reason(error: ValueError) -> str:
    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    detail = error.errors()[0]
    name = ".".join(map(str, detail["loc"]))
    if detail["type"] == "missing":
        return f"'{name}' is missing"
    return f"'{name}': {detail['msg']}" if name else detail["msg"].removeprefix("Value error, ")
