"""RecordSink: the BMF module that writes the records of SegmentModule's second output stream to files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import cv2
from bmf import Task, Timestamp

from bmf_trt_seg.bmf_module import OurModule, packets
from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.options import RecordSinkOptions
from bmf_trt_seg.records import OutputRecord, class_map
from bmf_trt_seg.validation import validated

__all__ = ["RecordSink"]


class RecordSink(OurModule):
    """Writes records as JSON lines, and their class maps as PNG files `00000000.png` numbered by frame.

    A pixel of a PNG is the index of its class, or the record's `background` (see `bmf_trt_seg.records`).
    """

    def __init__(self, node: int | None = None, option: dict[str, Any] | None = None) -> None:
        super().__init__(node, option)
        options = validated(RecordSinkOptions, option or {}, "options of RecordSink")
        self._lines: TextIO | None = None
        self._masks = Path(options.masks) if options.masks else None
        if options.json_lines:
            with _writing(options.json_lines):
                self._lines = Path(options.json_lines).open("w", encoding="utf-8")  # noqa: SIM115 (closed at the end)
        if self._masks is not None:
            with _writing(str(self._masks)):
                self._masks.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        if self._lines is not None:
            with suppress(OSError):  # what could not be written was told before
                self._lines.close()

    def work(self, task: Task) -> None:
        for packet in packets(task.get_inputs()[0]):
            if packet.timestamp == Timestamp.EOF:
                self._finish()
                task.timestamp = Timestamp.DONE
            elif packet.is_(dict):
                self._write(packet.get(dict))
            elif packet.is_(OutputRecord):
                self._write(packet.get(OutputRecord).as_dict())

    def _write(self, record: dict[str, Any]) -> None:
        if self._lines is not None:
            with _writing(self._lines.name):
                self._lines.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        if self._masks is not None:
            if "classes" not in record:
                raise ConfigError("option 'masks': this network draws no classes, so there are no class maps to write")
            picture = cv2.imencode(".png", class_map(record))[1]
            with _writing(str(self._masks)):
                (self._masks / f"{record['frame']:08d}.png").write_bytes(picture.tobytes())

    def _finish(self) -> None:
        if self._lines is not None:
            with _writing(self._lines.name):
                self._lines.close()


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamError(f"'{name}' cannot be written: {error.strerror}") from error
