"""What `live` and its worker processes say to each other: JSON, a line a message, over a pair of sockets.

To a worker: 'settings' (once), 'check' and 'feeds' with a list of feeds, 'request' for a page, 'stop'. From it: 'beat'
with how its feeds are, 'over' for one that has left, 'log', 'answer' to what had a number, 'lost' for a GPU that does
not work any more, and 'ended'.
"""

from __future__ import annotations

import base64
import json
import logging
import select
import socket
import struct
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from bmf_trt_seg import errors
from bmf_trt_seg.errors import EngineError, SegError
from bmf_trt_seg.feed_states import FeedState
from bmf_trt_seg.http_server import Request, Response
from bmf_trt_seg.live.feeds import Feed, Restarts
from bmf_trt_seg.live.graphs import described_graph
from bmf_trt_seg.live.supervisor import Totals

__all__ = [
    "Channel",
    "Message",
    "content_of_error",
    "content_of_feed",
    "content_of_log",
    "content_of_request",
    "content_of_response",
    "error_of",
    "feed_of",
    "log_of",
    "request_of",
    "response_of",
    "state_of",
    "totals_of",
]

Message = dict[str, Any]
_OWN_FIELDS = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}


class Channel:
    """One end of a connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket, send_seconds: float = 0.0) -> None:
        """send_seconds: how long the other end may take nothing before `send` fails; 0 for any time."""
        self._connection = connection
        if send_seconds:
            limit = struct.pack("ll", int(send_seconds), int(send_seconds % 1 * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, kind: str, **content: Any) -> None:
        """Raises OSError if the other end is gone or takes nothing; the connection is of no use then."""
        line = json.dumps({"kind": kind, **content}).encode() + b"\n"
        with self._lock:
            self._connection.sendall(line)

    def has_room(self) -> bool:
        """Whether the other end has taken most of what it was sent. Raises OSError if it is gone."""
        poll = select.poll()
        try:
            poll.register(self._connection, select.POLLOUT)
        except ValueError as error:
            raise BrokenPipeError("this end is closed") from error
        return bool(poll.poll(0))

    def received(self) -> Iterator[Message]:
        """What the other end sends, until it is gone; then this end is closed, too."""
        with self._connection, self._lines, suppress(OSError):
            for line in self._lines:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def close(self) -> None:
        """Hang up; whoever receives gets nothing more."""
        with suppress(OSError):  # the other end was quicker
            self._connection.shutdown(socket.SHUT_RDWR)


# ---------------------------------------------------------------------------------------------------------- feeds


def content_of_feed(feed: Feed, graph: dict[str, Any]) -> Message:
    """A feed with this graph in the place of its own."""
    return {
        "name": feed.name,
        "graph": graph,
        "writes_files": feed.graph.writes_files,
        "restarts": vars(feed.restarts),
    }


def feed_of(content: Message) -> Feed:
    """A feed that was checked by who sent it."""
    graph = described_graph(content["graph"], content["writes_files"])
    return Feed(content["name"], graph, Restarts(**content["restarts"]))


def state_of(content: Message) -> FeedState:
    return FeedState(**{**content, "streams": tuple(content["streams"])})


def totals_of(content: Message) -> Totals:
    return Totals(**content)


# ---------------------------------------------------------------------------------------------------------- errors


def content_of_error(error: BaseException) -> Message:
    if isinstance(error, SegError):
        return {"type": type(error).__name__, "text": str(error)}
    return {"type": EngineError.__name__, "text": f"{type(error).__name__}: {error}"}


def error_of(content: Message) -> SegError:
    kind = getattr(errors, content["type"], EngineError)
    found = kind(content["text"]) if isinstance(kind, type) and issubclass(kind, SegError) else None
    return found if found is not None else EngineError(content["text"])


# ------------------------------------------------------------------------------------------------------------- log


def content_of_log(record: logging.LogRecord) -> Message:
    """A record that can be formatted again at the other end, so that its fields are told there, too."""
    args = record.args if isinstance(record.args, tuple) else ()
    found: Message = {
        "level": record.levelno,
        "msg": str(record.msg) if args else record.getMessage(),
        "args": [one if one is None or isinstance(one, bool | int | float) else str(one) for one in args],
        "created": record.created,
        "more": {name: str(value) for name, value in record.__dict__.items() if name not in _OWN_FIELDS},
    }
    for name, value in record.__dict__.items():
        if name in found["more"] and (value is None or isinstance(value, bool | int | float)):
            found["more"][name] = value
    if record.exc_info:
        found["more"]["traceback"] = "".join(traceback.format_exception(*record.exc_info))
    return found


def log_of(content: Message, device: str) -> logging.LogRecord:
    """The record, as one of this device."""
    more = content["more"]
    return logging.makeLogRecord(
        {
            "name": __name__.partition(".")[0],
            "levelno": content["level"],
            "levelname": logging.getLevelName(content["level"]),
            "msg": content["msg"],
            "args": tuple(content["args"]),
            "created": content["created"],
            "exc_text": more.get("traceback"),
            **more,
            "device": device,
        }
    )


# ----------------------------------------------------------------------------------------------------------- pages


def content_of_request(request: Request) -> Message:
    """Without the headers that are between the client and its server."""
    kept: Iterable[str] = ("accept", "content-type", "if-none-match")
    return {
        "path": request.path,
        "method": request.method,
        "headers": {name: request.headers[name] for name in kept if name in request.headers},
        "body": base64.b64encode(request.body).decode(),
    }


def request_of(content: Message) -> Request:
    body = base64.b64decode(content["body"])
    return Request(content["path"], {}, content["headers"], content["method"], body)


def content_of_response(response: Response) -> Message:
    return {
        "status": response.status,
        "content_type": response.content_type,
        "headers": response.headers,
        "body": base64.b64encode(response.body).decode(),
    }


def response_of(content: Message) -> Response:
    headers = tuple((name, value) for name, value in content["headers"])
    return Response(base64.b64decode(content["body"]), content["content_type"], content["status"], headers)
