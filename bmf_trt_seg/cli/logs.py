"""What the command line says on standard error: as text, or as one JSON object a line."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, TextIO

import click

from bmf_trt_seg.sources.urls import masked

__all__ = ["failure", "is_json", "log_format_flag", "messages"]

_LOGGER = "bmf_trt_seg"
_PROGRAM = "bmf-trt-seg: "
_NAMES_STREAM = re.compile(r"(?:stream|feed) '%s': ")
_OWN_FIELDS = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}


class _Text(logging.Handler):
    """Log lines on the standard error stream of the moment: a captured run replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(masked(self.format(record)), file=sys.stderr)


class _Json(logging.Handler):
    """Log lines as JSON, on the standard error there was when this was made."""

    def __init__(self) -> None:
        super().__init__()
        self._owned = sys.stderr is sys.__stderr__
        # descriptor 2 is turned away while a graph runs
        self._out: TextIO = os.fdopen(os.dup(2), "w") if self._owned else sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        self._out.write(json.dumps(_fields(record)) + "\n")
        self._out.flush()

    def close(self) -> None:
        super().close()
        if self._owned:
            self._out.close()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """A record as JSON. A message of ours that begins with its stream's name has it as a field instead."""
    found: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z",
        "level": record.levelname.lower(),
    }
    message = record.getMessage()
    named = _NAMES_STREAM.match(str(record.msg))
    if named is not None and isinstance(record.args, tuple) and record.args:
        found["stream"] = str(record.args[0])
        message = message[len(named[0]) - len("%s") + len(found["stream"]) :]
    found |= {name: value for name, value in record.__dict__.items() if name not in _OWN_FIELDS}
    found["message"] = message
    if record.exc_info:
        found["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else masked(str(value))


class _Lines(io.TextIOBase):
    """Takes the place of standard error: each line that is printed there becomes a record of the log."""

    encoding = "utf-8"

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler
        self._begun = threading.local()  # a line may be printed in several pieces

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        for line in lines:
            self._tell(line)
        return len(text)

    def end(self) -> None:
        """After a last line that may have no end of its own."""
        self.write("\n")
        self._handler.close()

    def _tell(self, line: str) -> None:
        if line.strip():
            level = logging.ERROR if line.startswith(_PROGRAM) else logging.INFO
            text = line.removeprefix(_PROGRAM)
            self._handler.handle(logging.LogRecord(_LOGGER, level, "", 0, text, (), None))


@contextmanager
def messages() -> Iterator[None]:
    """Our log goes to standard error, as text until `log_format_flag` says otherwise."""
    logger, before = logging.getLogger(_LOGGER), sys.stderr
    kept = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [_Text()], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        lines = sys.stderr
        if isinstance(lines, _Lines):
            sys.stderr = before
            lines.end()
        logger.handlers, logger.propagate = kept[:2]
        logger.setLevel(kept[2])


def is_json() -> bool:
    """Whether standard error takes JSON."""
    return isinstance(sys.stderr, _Lines)


def failure(error: BaseException | str, with_traceback: bool = False) -> None:
    """The line that says why the program ends with a failure."""
    if not with_traceback or not isinstance(error, BaseException):
        print(f"{_PROGRAM}{' '.join(masked(str(error)).splitlines())}", file=sys.stderr)
    elif is_json():
        logging.getLogger(_LOGGER).error("%s", error, exc_info=error)
    else:
        print(masked("".join(traceback.format_exception(error))), end="", file=sys.stderr)


def _choose(context: click.Context, parameter: click.Parameter, value: str) -> None:
    if value == "json" and not is_json() and not context.resilient_parsing:
        handler = _Json()
        logging.getLogger(_LOGGER).handlers = [handler]
        sys.stderr = _Lines(handler)


log_format_flag = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, is_eager=True,
    expose_value=False, callback=_choose, help="What is said on standard error: lines, or a JSON object a line.",
)  # fmt: skip
