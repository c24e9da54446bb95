"""The page's numbers and pictures over real sockets."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest
from factories import make_picture
from PIL import Image

from bmf_trt_seg import metrics
from bmf_trt_seg.http_server import HttpServer
from bmf_trt_seg.watch import page, streams
from bmf_trt_seg.watch.motion import _Sent
from bmf_trt_seg.watch.pages import add_watch_pages
from bmf_trt_seg.watch.preview import Preview
from bmf_trt_seg.watch.status import Status

TOKEN = "correct-horse"
NAMES = ["door", "a/b ü?.jpg"]


@pytest.fixture(autouse=True)
def _nothing_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(streams, "_streams", {})
    yield
    assert until(lambda: not busy())


def busy() -> int:
    return sum("_request" in thread.name for thread in threading.enumerate())


def until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def served(address: str = ":0", token: str = "") -> Iterator[HttpServer]:
    with streams.watching(), HttpServer(address, token) as server:
        add_watch_pages(server, Status(lambda: NAMES))
        yield server


@contextmanager
def drawing(*names: str, fps: float = 50.0) -> Iterator[None]:
    """Streams whose picture number n is of grey n, modulo 200."""
    stop = threading.Event()

    def draw(name: str) -> None:
        metrics.open_stream(name)
        watched = streams.open_stream(name, {1: "person"}, {1: "#00c853"})
        number = 0
        while not stop.wait(1 / fps):
            number = (number + 1) % 200
            picture = make_picture(width=64, height=48, fill=128, value_range="full")
            picture.planes[0][...] = number
            watched.show(picture, np.ones((48, 64), np.uint8), time.monotonic() - 0.01)

    threads = [threading.Thread(target=draw, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    try:
        assert until(lambda: all((one := streams.stream(name)) and one.preview.number for name in names))
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def ask(server: HttpServer, target: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


class Watcher:
    """Reads parts of a multipart answer."""

    def __init__(self, server: HttpServer, target: str, receive_bytes: int = 0, **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), 10)
        if receive_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        fields = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
        self._socket.sendall(f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode())
        self._file = self._socket.makefile("rb")
        self.head = self._fields()

    def _fields(self) -> dict[str, str]:
        lines = []
        while line := self._file.readline().strip():
            lines.append(line.decode("latin-1"))
        first, *rest = lines or [""]
        return {"": first, **{name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}}

    def part(self) -> tuple[dict[str, str], bytes]:
        fields = self._fields()
        assert fields[""] == "--picture", fields
        body = self._file.read(int(fields["content-length"]))
        assert self._file.read(2) == b"\r\n"
        return fields, body

    def comes_to_an_end(self) -> bool:
        with suppress(ConnectionResetError):
            while self._file.read(65536):
                pass
        return True

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def grey(jpeg: bytes) -> float:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.size == (64, 48)
        return float(np.asarray(image.convert("RGB")).mean())


# --- single answers -----------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_says_so() -> None:
    with served() as server:
        status, body, headers = ask(server, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["style-src"])
    text = body.decode()
    assert "/* page." not in text, "style and script are inside"
    assert text == page.html()
    without_names_of_formats = re.sub(r"http://www\.w3\.org/2000/svg", "", text)
    assert "//" not in re.sub(r"^\s*//.*$", "", without_names_of_formats, flags=re.MULTILINE)
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)


def test_numbers() -> None:
    with served() as server, drawing("door"):
        status, body, headers = ask(server, "/streams.json")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        door, other = json.loads(body)["streams"]
    assert (door["stream"], door["size"]) == ("door", [64, 48])
    assert door["shares"]["classes"][0]["share"] == 1.0
    assert (other["stream"], other["state"]) == (NAMES[1], "connecting")


def test_a_picture() -> None:
    with served() as server, drawing(*NAMES):
        for name in NAMES:
            target = f"/preview/{urllib.parse.quote(name, safe='')}.jpg"
            status, first, headers = ask(server, target)
            assert (status, headers["Content-Type"]) == (200, "image/jpeg")
            assert until(lambda target=target, first=first: grey(ask(server, target)[1]) > grey(first)), "it goes on"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/preview/nobody.jpg", b"no such stream; there are door, a/b \xc3\xbc?.jpg"),
        ("/preview/nobody.mjpeg", b"no such stream"),
        ("/preview/", b"no such stream"),
        ("/preview/door.png", b"not found; pictures end with .jpg or .mjpeg"),
        ("/preview/door.jpg", b"there is no picture of this stream yet"),
    ],
)
def test_pictures_that_are_not_there(target: str, words: bytes) -> None:
    with served() as server:
        status, body, _ = ask(server, target)
    assert status == 404
    assert body.startswith(words)
    assert body.count(b"\n") == 1


# --- motion -------------------------------------------------------------------------------------------------------


def test_motion_jpeg() -> None:
    with served() as server, drawing("door"), Watcher(server, "/preview/door.mjpeg") as watcher:
        assert watcher.head[""].startswith("HTTP/1.0 200 ")
        assert watcher.head["content-type"] == "multipart/x-mixed-replace; boundary=picture"
        assert "content-length" not in watcher.head
        begin = time.monotonic()
        seen = []
        for _ in range(12):
            fields, body = watcher.part()
            assert fields["content-type"] == "image/jpeg"
            seen.append(round(grey(body)))
        seconds = time.monotonic() - begin
    assert seen == sorted(set(seen)), "each is a new one"
    assert 0.9 < seconds < 4.0, "about ten a second, of fifty"


def test_all_streams_in_one_answer() -> None:
    with served() as server, drawing(*NAMES), Watcher(server, "/previews") as watcher:
        assert watcher.head["content-type"] == "multipart/mixed; boundary=picture"
        found: dict[str, list[int]] = {}
        for _ in range(12):
            fields, body = watcher.part()
            found.setdefault(urllib.parse.unquote(fields["x-stream"]), []).append(round(grey(body)))
    assert set(found) == set(NAMES)
    for greys in found.values():
        assert len(greys) >= 4
        assert greys == sorted(set(greys))


def test_a_stream_that_comes_late_or_anew_is_seen() -> None:
    with served() as server, Watcher(server, "/preview/door.mjpeg") as one, Watcher(server, "/previews") as all_of_them:
        with drawing("door"):
            one.part()
            all_of_them.part()
        with drawing("door"):
            assert until(lambda: grey(one.part()[1]) < 40), "of the new one, whose numbers begin anew"
            all_of_them.part()


def test_a_picture_of_a_stream_that_was_opened_anew_is_a_new_one() -> None:
    first, second, sent = Preview(), Preview(), _Sent()
    for preview in (first, second):
        preview.offer(make_picture(), 1.0)
    assert sent.next_of(first, 0.0) is not None
    assert sent.next_of(first, 0.0) is None
    assert sent.next_of(second, 0.0) is not None, "though it has the same number"


def test_many_streams_share_what_a_client_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"camera {number}" for number in range(16)]
    monkeypatch.setattr(f"{__name__}.NAMES", names)
    with served() as server, drawing(*names, fps=20.0), Watcher(server, "/previews") as watcher:
        begin, count = time.monotonic(), 0
        seen = set()
        while time.monotonic() - begin < 2.0:
            seen.add(watcher.part()[0]["x-stream"])
            count += 1
    assert len(seen) == 16
    assert count <= 2.0 * 40 + 32


def test_whoever_leaves_frees_its_thread_and_pictures_become_few() -> None:
    with served() as server, drawing("door"):
        with ExitStack() as stack:
            for target in ("/preview/door.mjpeg", "/previews"):
                stack.enter_context(Watcher(server, target)).part()
            assert busy() == 2
        assert until(lambda: not busy(), 1.0)
        watched = streams.stream("door")
        assert watched is not None
        assert until(lambda: not watched.preview._wanted_until > time.monotonic())
        before = watched.preview.number
        time.sleep(2.1)
        assert watched.preview.number - before <= 3


def test_whoever_leaves_is_noticed_also_where_nothing_is_drawn() -> None:
    with served() as server:
        with ExitStack() as stack:
            for target in ("/preview/door.mjpeg", "/previews"):
                stack.enter_context(Watcher(server, target))
            assert until(lambda: busy() == 2)
            time.sleep(0.2)
            assert busy() == 2
        assert until(lambda: not busy(), 1.0)


def test_a_slow_client_misses_pictures_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(_: object) -> bytes:
        number = streams.stream("door")
        assert number is not None
        return b"%09d" % number.preview.number + b"x" * 300_000

    monkeypatch.setattr("bmf_trt_seg.watch.preview.jpeg_of", large)
    with served() as server, drawing("door"), Watcher(server, "/preview/door.mjpeg", receive_bytes=10_000) as slow:
        with Watcher(server, "/preview/door.mjpeg") as quick:
            numbers = [int(quick.part()[1][:9]) for _ in range(15)]
            assert max(after - before for before, after in zip(numbers, numbers[1:], strict=False)) <= 3
        watched = streams.stream("door")
        assert watched is not None
        begin = watched.preview.number
        assert begin >= 10
        late = [int(slow.part()[1][:9]) for _ in range(4)]
    assert late[0] < 5, "what had been sent before"
    assert late[-1] >= begin, "then what is new"


def test_closing_the_server_ends_it_within_a_second() -> None:
    with served() as server, drawing("door"), ExitStack() as stack:
        watchers = [
            stack.enter_context(Watcher(server, target)) for target in ("/preview/door.mjpeg", "/previews", "/previews")
        ]
        for watcher in watchers:
            watcher.part()
        begin = time.monotonic()
        server.close()
        assert until(lambda: not busy(), 1.0)
        assert time.monotonic() - begin < 1.0
        assert all(watcher.comes_to_an_end() for watcher in watchers)


# --- tokens -------------------------------------------------------------------------------------------------------


def test_everything_needs_the_token_or_the_cookie_of_the_page() -> None:
    with served("0.0.0.0:0", TOKEN) as server, drawing("door"):
        cookie = ask(server, f"/?token={TOKEN}")[2]["Set-Cookie"].partition(";")[0]
        targets = ["/", "/streams.json", "/preview/door.jpg", "/preview/door.mjpeg", "/previews", "/preview/nobody.jpg"]
        for target in targets:
            assert ask(server, target)[0] == 401, target
            assert ask(server, f"{target}?token=wrong")[0] == 401, target
        for target in targets[:3]:
            for headers in ({"Cookie": cookie}, {"Authorization": f"Bearer {TOKEN}"}):
                assert ask(server, target, **headers)[0] == 200, target
            assert ask(server, f"{target}?token={TOKEN}")[0] == 200, target
        for target, headers in [
            ("/previews", {"Cookie": cookie}),
            ("/preview/door.mjpeg", {"Cookie": cookie}),
            (f"/preview/door.mjpeg?token={TOKEN}", {}),
        ]:
            with Watcher(server, target, **headers) as watcher:
                assert watcher.part()
