"""A small HTTP server beside a running graph: a few pages, for few clients, none of which can hold it up."""

from __future__ import annotations

import hashlib
import hmac
import http
import ipaddress
import json
import logging
import re
import select
import signal
import socket
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

from typing_extensions import Self

from bmf_trt_seg.errors import ConfigError, StreamError

__all__ = ["Endless", "HttpServer", "Page", "Request", "Response", "parse_address"]

_log = logging.getLogger(__name__)
_METHODS = ("GET", "HEAD")
_BODY_BYTES = 1 << 16
_READ_SECONDS = 5.0  # without a byte of the request, or without room for one of the answer
_WHOLE_SECONDS = 15.0  # for a request and its answer
_CONNECTIONS = 64
_ENDLESS = 16
_SEND_BYTES = 1 << 17  # of an endless answer that wait in the system for a slow client: what it sees must not be old
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Request:
    """What a page may want to know; header names are in lower case, and the token is in neither."""

    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    """HEAD is GET to a page."""
    body: bytes = b""


@dataclass(frozen=True)
class Response:
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def is_html(self) -> bool:
        return self.content_type.startswith("text/html")

    @classmethod
    def line(cls, status: int, text: str) -> Response:
        return cls(f"{text}\n".encode(), status=status)

    @classmethod
    def json(cls, content: Any, status: int = 200) -> Response:
        return cls(json.dumps(content).encode() + b"\n", "application/json", status)


@dataclass(frozen=True)
class Endless:
    """An answer that goes on until the client or the server has enough of it.

    parts: what comes next, made when the client has taken what came before. Where there is nothing to send it should
    give b"" a few times a second, which is when it is looked whether somebody is still there.
    """

    parts: Iterator[bytes]
    content_type: str


Page = Callable[[Request], "Response | Endless"]


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

    Each connection carries one request. Without a token only this machine is served. A browser that has opened a page
    of HTML with the token in its address gets a cookie, so that what the page asks for need not carry the token.

    What changes something (PATCH) always needs the token, in the header Authorization: no page that a browser shows has
    it, so none can change anything behind its user's back, be it of this server or of another.
    """

    def __init__(
        self,
        address: str,
        token: str = "",
        *,
        read_seconds: float = _READ_SECONDS,
        whole_seconds: float = _WHOLE_SECONDS,
        connections: int = _CONNECTIONS,
        endless: int = _ENDLESS,
    ) -> None:
        """Take the port. Raises ConfigError for an address that is none or a missing token, StreamError if it is taken.

        read_seconds: how long a client may be silent; whole_seconds: how long it may take in all; connections: how many
        there may be at a time, one more is closed at once. endless: how many of them may get answers without an end,
        which take as long as they like; one more is refused by 503.
        """
        self._pages: dict[str, tuple[Page, tuple[str, ...]]] = {}
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
            self._server = _Server(place, family, self._answer, read_seconds, whole_seconds, connections, endless)
        except OSError as error:
            raise StreamError(f"the web server cannot listen on '{address}': {error.strerror}") from error
        bound = self._server.socket.getsockname()
        self.port = int(bound[1])
        """The one it listens on, also if port 0 was asked for."""
        self.url = f"http://{f'[{bound[0]}]' if ':' in bound[0] else bound[0]}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="web", daemon=True)

    def page(self, path: str, page: Page, *, takes_changes: bool = False) -> None:
        """Answer requests for this path, at any time, in any thread. What `page` raises is answered by 500.

        A path such as '/pictures/' stands for all that begin with it. takes_changes: PATCH is for it, too.
        """
        self._pages[path] = page, (*_METHODS, "PATCH") if takes_changes else _METHODS

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

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response | Endless:
        path, _, rest = target.partition("?")
        query = dict(urllib.parse.parse_qsl(rest, keep_blank_values=True))
        credentials = _Credentials(
            query.pop("token", None), headers.pop("authorization", ""), headers.pop("cookie", "")
        )
        found = self._pages.get(path) or self._pages.get(path[: path.find("/", 1) + 1])
        methods = _METHODS if found is None else found[1]
        if method not in methods:
            text = f"only {', '.join(methods[:-1])} and {methods[-1]}"
            return replace(Response.line(405, text), headers=(("Allow", ", ".join(methods)),))
        is_change = method not in _METHODS
        refusal = self._refusal(credentials, headers.get("host", ""), is_change)
        if refusal is not None:
            return refusal
        if found is None:
            return Response.line(404, f"not found; there are {', '.join(sorted(self._pages)) or 'no pages'}")
        try:
            answer = found[0](Request(path, query, headers, method if is_change else "GET", body))
        except Exception:
            _log.exception("web: %s failed", path)
            return Response.line(500, "failed; the log says how")
        if self._token and credentials.query is not None and isinstance(answer, Response) and answer.is_html:
            cookie = f"{self._cookie_name}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"
            return replace(answer, headers=(*answer.headers, ("Set-Cookie", cookie)))
        return answer

    def _refusal(self, given: _Credentials, host: str, is_change: bool) -> Response | None:
        if is_change:
            return self._refusal_of_change(given)
        if not self._token:
            # a page of somewhere else whose name was made to mean this machine could read ours
            return None if _is_here(host) else Response.line(403, "this server answers to localhost only")
        bearer, cookie = given.bearer, given.cookie(self._cookie_name)
        if bearer is None and given.query is None and cookie is not None:
            is_right = hmac.compare_digest(cookie.encode(), self._cookie.encode())
        else:
            is_right = hmac.compare_digest(bearer if bearer is not None else (given.query or "").encode(), self._token)
        if is_right:
            return None
        return Response.line(401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN")

    def _refusal_of_change(self, given: _Credentials) -> Response | None:
        if not self._token:
            return Response.line(403, "nothing can be changed without a token: --web-token, or BMF_TRT_SEG_WEB_TOKEN")
        if given.bearer is not None and hmac.compare_digest(given.bearer, self._token):
            return None
        return Response.line(401, "changes need the token in a header: Authorization: Bearer TOKEN")

    @property
    def _cookie_name(self) -> str:
        """With the port, which cookies know nothing of: there may be several servers on a machine."""
        return f"bmf-trt-seg-{self.port}"

    @property
    def _cookie(self) -> str:
        """Tells that the token was known; the same after a restart, and does not tell the token."""
        return hmac.new(self._token, b"cookie of bmf-trt-seg", hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class _Credentials:
    """What a request brings along to show that it may."""

    query: str | None
    authorization: str
    cookies: str

    @property
    def bearer(self) -> bytes | None:
        scheme, _, credentials = self.authorization.partition(" ")
        # header bytes come as Latin-1
        return credentials.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None

    def cookie(self, name: str) -> str | None:
        pairs = (one.strip().partition("=") for one in self.cookies.split(";"))
        return next((value for found, _, value in pairs if found == name), None)


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
        answer: Callable[[str, str, dict[str, str], bytes], Response | Endless],
        read_seconds: float,
        whole_seconds: float,
        connections: int,
        endless: int,
    ) -> None:
        self.address_family = family
        self.answer = answer
        self.read_seconds = read_seconds
        self._whole_seconds, self._connections = whole_seconds, connections
        self._endless_left = endless
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}
        self._asking: set[socket.socket] = set()
        """Those that have not said yet what they want."""
        super().__init__(place, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more."""
        with self._lock:
            if len(self._ends) >= self._connections and not self._made_room():
                return False
            self._ends[request] = time.monotonic() + self._whole_seconds
            self._asking.add(request)
        return True

    def _made_room(self) -> bool:
        """Hang up on who is longest in asking: those who never finish must not keep out who watches whether we live."""
        slowest = next((one for one in self._ends if one in self._asking), None)
        if slowest is None:
            return False
        self._asking.discard(slowest)
        _shut_down(slowest)
        return True

    def heard(self, connection: socket.socket) -> None:
        """A connection has said what it wants."""
        with self._lock:
            self._asking.discard(connection)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends.pop(request, None)
            self._asking.discard(request)
        super().shutdown_request(request)

    @contextmanager
    def without_end(self, connection: socket.socket) -> Iterator[bool]:
        """Let a connection take as long as it likes meanwhile; False if there are too many of such already."""
        with self._lock:
            is_room = self._endless_left > 0 and connection in self._ends
            if is_room:
                self._endless_left -= 1
                self._ends[connection] = float("inf")
        try:
            yield is_room
        finally:
            if is_room:
                with self._lock:
                    self._endless_left += 1

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
                    _shut_down(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are nobody's failure; `answer` tells of ours."""


def _shut_down(connection: socket.socket) -> None:
    """Its thread, which waits for it, then closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


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
        self._answer(b"")

    do_HEAD = do_GET  # noqa: N815

    def do_PATCH(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._send(Response.line(411, "a request with a body needs its Content-Length"))
        elif int(length) > _BODY_BYTES:
            self._skip_body()
            self._send(Response.line(413, f"the body may have up to {_BODY_BYTES} bytes"))
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):  # else the client is gone
                self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.server.heard(self.connection)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.answer(self.command, self.path, headers, body)
        if isinstance(answer, Response):
            self._send(answer)
        else:
            self._send_endless(answer)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A line, not a page of HTML; called for requests that are none, or of another method."""
        self.close_connection = True
        if code == http.HTTPStatus.NOT_IMPLEMENTED:
            self._skip_body()
            self._answer(b"")  # which page would take what
        else:
            self._send(Response.line(code, http.HTTPStatus(code).phrase.lower()))

    def _skip_body(self) -> None:
        """What is left unread when a connection is closed would take our answer away from the client."""
        length = self.headers.get("Content-Length", "")
        if length.isdigit():
            self.rfile.read(min(int(length), 1 << 16))

    def _send(self, response: Response) -> None:
        length = ("Content-Length", str(len(response.body)))
        self._send_head(response.status, response.content_type, (length, *response.headers))
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _send_endless(self, answer: Endless) -> None:
        with self.server.without_end(self.connection) as is_room:
            if not is_room:
                self._send(Response.line(503, "too many are watching"))
                return
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            self._send_head(200, answer.content_type)
            while self.command != "HEAD" and not self._is_gone():
                try:
                    part = next(answer.parts, None)
                except Exception:
                    _log.exception("web: %s failed", self.path.partition("?")[0])
                    return
                if part is None:
                    return
                self.wfile.write(part)

    def _is_gone(self) -> bool:
        """Whether the client, or the server, has hung up."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _send_head(self, status: int, content_type: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        self.send_response(status)
        if status == http.HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        for name, value in (
            ("Content-Type", content_type),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),  # no page of elsewhere shows a camera
            ("Connection", "close"),
            *more,
        ):
            self.send_header(name, value)
        self.end_headers()
