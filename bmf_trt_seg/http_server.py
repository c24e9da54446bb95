"""A small HTTP server beside a running graph: a few pages, for few clients, none of which can hold it up."""

from __future__ import annotations

import hmac
import http
import ipaddress
import json
import logging
import re
import signal
import socket
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

from typing_extensions import Self

from bmf_trt_seg.errors import ConfigError, StreamError

__all__ = ["HttpServer", "Request", "Response", "parse_address"]

_log = logging.getLogger(__name__)
_METHODS = ("GET", "HEAD")
_READ_SECONDS = 5.0  # without a byte of the request, or without room for one of the answer
_WHOLE_SECONDS = 15.0  # for a request and its answer
_CONNECTIONS = 64
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Request:
    """What a page may want to know; header names are in lower case, and the token is in neither."""

    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200

    @classmethod
    def line(cls, status: int, text: str) -> Response:
        return cls(f"{text}\n".encode(), status=status)

    @classmethod
    def json(cls, content: Any, status: int = 200) -> Response:
        return cls(json.dumps(content).encode() + b"\n", "application/json", status)


Page = Callable[[Request], Response]


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of '[HOST]:PORT'; the host of ':PORT' is 127.0.0.1. Raises ConfigError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@\s]*)):(\d{1,5})", text, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise ConfigError(
            f"address '{text}': expected HOST:PORT or :PORT with a port up to 65535, as in :9090 or [::1]:9090"
        )
    return match[1] or match[2] or "127.0.0.1", int(match[3])


class HttpServer:
    """Serves pages in threads of its own, from `start` until `close`.

    Each connection carries one request. Without a token only this machine is served.
    """

    def __init__(
        self,
        address: str,
        token: str = "",
        *,
        read_seconds: float = _READ_SECONDS,
        whole_seconds: float = _WHOLE_SECONDS,
        connections: int = _CONNECTIONS,
    ) -> None:
        """Take the port. Raises ConfigError for an address that is none or a missing token, StreamError if it is taken.

        read_seconds: how long a client may be silent; whole_seconds: how long it may take in all; connections: how many
        there may be at a time, one more is closed at once.
        """
        self._pages: dict[str, Page] = {}
        self._token = token.strip().encode()
        if self._token and (not token.strip().isprintable() or " " in token.strip()):
            raise ConfigError("the token of the web server should be one word; it goes into a header")
        host, port = parse_address(address)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, _, _, _, place = min(found, key=lambda one: one[0] != socket.AF_INET)
            is_local = ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"address '{address}': there is no host '{host}'") from error
        if not is_local and not self._token:
            raise ConfigError(
                f"address '{address}' can be reached from other machines, so a token is needed: --web-token, or "
                "BMF_TRT_SEG_WEB_TOKEN in the environment"
            )
        try:
            self._server = _Server(place, family, self._answer, read_seconds, whole_seconds, connections)
        except OSError as error:
            raise StreamError(f"the web server cannot listen on '{address}': {error.strerror}") from error
        bound = self._server.socket.getsockname()
        self.port = int(bound[1])
        """The one it listens on, also if port 0 was asked for."""
        self.url = f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="web", daemon=True)

    def page(self, path: str, page: Page) -> None:
        """Answer requests for this path, at any time, in any thread. What `page` raises is answered by 500."""
        self._pages[path] = page

    def start(self) -> None:
        """Begin to answer."""
        # threads inherit what is blocked: a signal is for the main thread, and BMF's own handlers must not get it here
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Stop, give the port back, and hang up on whoever is still connected."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, target: str, headers: dict[str, str]) -> Response:
        path, _, rest = target.partition("?")
        query = dict(urllib.parse.parse_qsl(rest, keep_blank_values=True))
        refusal = self._refusal(query.pop("token", ""), headers.pop("authorization", ""), headers.get("host", ""))
        if refusal is not None:
            return refusal
        page = self._pages.get(path)
        if page is None:
            return Response.line(404, f"not found; there are {', '.join(sorted(self._pages)) or 'no pages'}")
        try:
            return page(Request(path, query, headers))
        except Exception:
            _log.exception("web: %s failed", path)
            return Response.line(500, "failed; the log says how")

    def _refusal(self, from_query: str, authorization: str, host: str) -> Response | None:
        if not self._token:
            # a page of somewhere else whose name was made to mean this machine could read ours
            return None if _is_here(host) else Response.line(403, "this server answers to localhost only")
        scheme, _, credentials = authorization.partition(" ")
        # header bytes come as Latin-1
        given = credentials.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else from_query.encode()
        if hmac.compare_digest(given, self._token):
            return None
        return Response.line(401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN")


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine; HTTP/1.0 does without it."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return not host or name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(
        self,
        place: Any,
        family: int,
        answer: Callable[[str, dict[str, str]], Response],
        read_seconds: float,
        whole_seconds: float,
        connections: int,
    ) -> None:
        self.address_family = family
        self.answer = answer
        self.read_seconds = read_seconds
        self._whole_seconds, self._connections = whole_seconds, connections
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}
        super().__init__(place, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more."""
        with self._lock:
            if len(self._ends) >= self._connections:
                return False
            self._ends[request] = time.monotonic() + self._whole_seconds
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those whose time is over; called again and again."""
        self._hang_up(time.monotonic())

    def server_close(self) -> None:
        super().server_close()
        self._hang_up(float("inf"))

    def _hang_up(self, now: float) -> None:
        with self._lock:
            for connection, end in self._ends.items():
                if end <= now:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)  # its thread, which waits for it, then closes it

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are nobody's failure; `answer` tells of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.read_seconds)

    def version_string(self) -> str:
        return "bmf-trt-seg"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def do_GET(self) -> None:
        self._send(self.server.answer(self.path, {name.lower(): value for name, value in self.headers.items()}))

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A line, not a page of HTML; called for requests that are none, or of another method."""
        self.close_connection = True
        if code == http.HTTPStatus.NOT_IMPLEMENTED:
            self._skip_body()
            self._send(Response.line(405, f"only {' and '.join(_METHODS)}"), ("Allow", ", ".join(_METHODS)))
        else:
            self._send(Response.line(code, http.HTTPStatus(code).phrase.lower()))

    def _skip_body(self) -> None:
        """What is left unread when a connection is closed would take our answer away from the client."""
        length = self.headers.get("Content-Length", "")
        if length.isdigit():
            self.rfile.read(min(int(length), 1 << 16))

    def _send(self, response: Response, *more: tuple[str, str]) -> None:
        self.send_response(response.status)
        if response.status == http.HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        for name, value in (
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
            *more,
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
