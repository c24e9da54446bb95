"""The server on real sockets of this machine, and clients that behave and that do not."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.http_server import Endless, HttpServer, Request, Response, parse_address

TOKEN = "correct-horse"
Served = Callable[..., HttpServer]


@pytest.fixture
def served() -> Iterator[Served]:
    """Starts servers with a page '/echo'; at the end none may leave a thread or a connection."""
    before = set(threading.enumerate())
    with ExitStack() as stack:

        def serve(address: str = ":0", token: str = "", **limits: Any) -> HttpServer:
            server = stack.enter_context(HttpServer(address, token, **limits))
            server.page("/echo", lambda request: Response(repr((request.path, request.query)).encode()))
            return server

        yield serve
    assert until(lambda: not {thread for thread in threading.enumerate() if "_request" in thread.name} - before)


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def ask(
    server: HttpServer, target: str = "/echo", method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def raw(server: HttpServer, content: bytes, seconds: float = 10.0) -> bytes:
    """Everything that comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), seconds) as connection:
        connection.sendall(content)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":0", "127.0.0.1", 0),
        (":9090", "127.0.0.1", 9090),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:8", "::1", 8),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "9090", ":", ":x", ":65536", ":-1", "host", "::1:80", "[::1]", "http://h:1", "a b:1", ":٣"]
)
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^address '.*': expected HOST:PORT or :PORT") as caught:
        HttpServer(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_host() -> None:
    with pytest.raises(ConfigError, match=r"there is no host 'no-such-host\.invalid'"):
        HttpServer("no-such-host.invalid:0")


def test_port_0_takes_a_free_one_and_says_which(served: Served) -> None:
    first, second = served(":0"), served("localhost:0")
    assert first.port != second.port
    assert first.url == f"http://127.0.0.1:{first.port}"
    assert ask(first)[0] == ask(second)[0] == 200


def test_a_port_in_use(served: Served) -> None:
    port = served().port
    with pytest.raises(StreamError, match=rf"^the web server cannot listen on ':{port}': Address already in use$"):
        HttpServer(f":{port}")


def test_a_port_is_free_again_after_the_end(served: Served) -> None:
    with HttpServer(":0") as server:
        pass
    assert served(f":{server.port}").port == server.port


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("token", ["", "  \n"])
def test_other_machines_need_a_token(address: str, token: str) -> None:
    with pytest.raises(ConfigError, match=r"so a token is needed: --web-token"):
        HttpServer(address, token)


def test_a_token_is_one_word() -> None:
    with pytest.raises(ConfigError, match="one word"):
        HttpServer(":0", "two words")


@pytest.mark.parametrize("address", ["0.0.0.0:0", "127.0.0.1:0"])
def test_a_token_that_was_set_is_needed(served: Served, address: str) -> None:
    server = served(address, f"{TOKEN}\n")
    for status, headers, target in [
        (401, {}, "/echo"),
        (401, {"Authorization": "Bearer wrong"}, "/echo"),
        (401, {"Authorization": f"Bearer {TOKEN}x"}, "/echo"),
        (401, {"Authorization": f"Bearer {TOKEN[:-1]}"}, "/echo"),
        (401, {"Authorization": TOKEN}, "/echo"),
        (401, {"Authorization": f"Basic {TOKEN}"}, "/echo"),
        (401, {"Authorization": "Bearer"}, "/echo"),
        (401, {"Authorization": "Bearer \xff"}, "/echo"),
        (401, {}, "/echo?token="),
        (401, {}, "/echo?token=wrong"),
        (401, {}, "/nowhere"),
        (200, {"Authorization": f"Bearer {TOKEN}"}, "/echo"),
        (200, {"Authorization": f"bearer  {TOKEN}"}, "/echo"),
        (200, {}, f"/echo?token={TOKEN}"),
        (200, {"Host": "camera.example:80"}, f"/echo?token={TOKEN}"),
        (404, {}, f"/nowhere?token={TOKEN}"),
    ]:
        answered, text, more = ask(server, target, **headers)
        assert answered == status, (headers, target)
        assert TOKEN not in text
        assert (more["WWW-Authenticate"] == "Bearer") == (status == 401)


def test_tokens_are_compared_in_constant_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, token: bytes) -> bool:
        compared.append((given, token))
        return False

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert ask(served(token=TOKEN), f"/echo?token={TOKEN}")[0] == 401
    assert compared == [(TOKEN.encode(), TOKEN.encode())], "and nothing else decides"


def test_a_token_outside_of_ascii(served: Served) -> None:
    server = served(token="schlüssel")
    assert ask(server, "/echo?token=schl%C3%BCssel")[0] == 200
    assert ask(server, Authorization="Bearer schlüssel".encode().decode("latin-1"))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9090", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:1", 200),
        ("evil.example", 403),
        ("10.0.0.1", 403),
        ("[::1", 403),
        ("localhost.evil.example", 403),
    ],
)
def test_without_a_token_pages_of_elsewhere_are_refused(served: Served, host: str, status: int) -> None:
    assert ask(served(), Host=host)[0] == status


# --- cookies ------------------------------------------------------------------------------------------------------


def with_html(server: HttpServer) -> HttpServer:
    server.page("/html", lambda _: Response(b"<p>", "text/html; charset=utf-8"))
    return server


def test_a_page_that_is_opened_with_the_token_gives_a_cookie_for_what_it_asks_for(served: Served) -> None:
    server = with_html(served(token=TOKEN))
    status, _, headers = ask(server, f"/html?token={TOKEN}")
    cookie = headers["Set-Cookie"]
    assert status == 200
    assert TOKEN not in cookie
    assert cookie.split("; ")[1:] == ["HttpOnly", "SameSite=Strict", "Path=/"]
    pair = cookie.partition(";")[0]
    name, _, value = pair.partition("=")
    assert name == f"bmf-trt-seg-{server.port}"
    for status, sent in [
        (200, pair),
        (200, f"other=1; {pair}; more"),
        (401, f"{name}={TOKEN}"),
        (401, f"{name}={value}0"),
        (401, f"{name}="),
        (401, f"{name}"),
        (401, f"{name}=\xff"),
        (401, f"x{pair}"),
    ]:
        assert ask(server, Cookie=sent)[0] == status, sent
    assert ask(server, "/echo?token=wrong", Cookie=pair)[0] == 401, "what is given in the address counts"
    assert ask(server, Cookie=pair, Authorization="Bearer wrong")[0] == 401


def test_cookies_are_for_pages_and_for_those_who_know_the_token(served: Served) -> None:
    server = with_html(served(token=TOKEN))
    for target, headers in [
        ("/html", {}),
        ("/html?token=wrong", {}),
        ("/html", {"Authorization": f"Bearer {TOKEN}"}),
        (f"/echo?token={TOKEN}", {}),
    ]:
        assert ask(server, target, **headers)[2]["Set-Cookie"] is None, target
    assert ask(with_html(served()), "/html?token=x")[2]["Set-Cookie"] is None, "no token, no cookie"


def test_a_cookie_outlives_the_server_but_not_the_token() -> None:
    cookies = []
    for token in (TOKEN, TOKEN, "another"):
        with HttpServer(f":{cookies[0][1] if cookies else 0}", token) as server:
            cookie = ask(with_html(server), f"/html?token={token}")[2]["Set-Cookie"]
            cookies.append((cookie, server.port))
    assert cookies[0] == cookies[1] != cookies[2]


# --- pages --------------------------------------------------------------------------------------------------------


def test_a_page_gets_its_path_and_query(served: Served) -> None:
    status, text, headers = ask(served(token=TOKEN), f"/echo?a=1&token={TOKEN}&b=x%20y")
    assert (status, text) == (200, "('/echo', {'a': '1', 'b': 'x y'})")
    assert headers["Content-Length"] == str(len(text))
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Server"] == "bmf-trt-seg"


def test_pages_may_come_later(served: Served) -> None:
    server = served()
    assert ask(server, "/watch")[:2] == (404, "not found; there are /echo\n")
    server.page("/watch", lambda _: Response.json({"x": 1}, 503))
    status, text, headers = ask(server, "/watch")
    assert (status, text, headers["Content-Type"]) == (503, '{"x": 1}\n', "application/json")


def test_a_path_that_ends_with_a_slash_stands_for_all_below(served: Served) -> None:
    server = served()
    server.page("/pictures/", lambda request: Response(request.path.encode()))
    assert ask(server, "/pictures/a%2Fb.jpg?x=1")[:2] == (200, "/pictures/a%2Fb.jpg")
    assert ask(server, "/pictures/")[0] == 200
    for other in ("/pictures", "/", "/x/pictures/a"):
        assert ask(server, other)[0] == 404, other


def test_no_page_of_elsewhere_may_show_what_is_answered(served: Served) -> None:
    assert ask(served())[2]["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("target", ["/", "/echo/", "/%65cho", "/../etc/passwd", "//["])
def test_other_paths_are_not_found(served: Served, target: str) -> None:
    status, text, _ = ask(served(), target)
    assert status == 404
    assert text.count("\n") == 1


def test_head_has_no_body(served: Served) -> None:
    status, text, headers = ask(served(), method="HEAD")
    assert (status, text) == (200, "")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods(served: Served, method: str) -> None:
    status, text, headers = ask(served(), method=method, body=b"x" * 5000)
    assert (status, text, headers["Allow"]) == (405, "only GET and HEAD\n", "GET, HEAD")


def test_a_refused_body_does_not_take_the_answer_away(served: Served) -> None:
    """Closing a connection with something unread resets it."""
    body = b"x" * 60_000
    with socket.create_connection(("127.0.0.1", served().port), 10) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))
        for piece in (body[:20_000], body[20_000:]):  # the first would bring the reset, the second meet it
            time.sleep(0.2)
            connection.sendall(piece)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.0 405 ")


def test_a_page_that_fails_is_a_line_there_and_here(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    server = served()
    server.page("/bad", lambda _: Response(str(1 // 0).encode()))
    assert ask(server, "/bad")[:2] == (500, "failed; the log says how\n")
    assert "web: /bad failed" in caplog.text
    assert ask(server)[0] == 200


def test_requests_are_not_logged(
    served: Served, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = served()
    ask(server)
    ask(server, "/nowhere")
    raw(server, b"nonsense\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /ec")
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


# --- clients that misbehave ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense\r\n\r\n", b"bad request"),
        (b"GET / HTTP/9.9\r\n\r\n", b"http version not supported"),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", b"uri too long"),
        (
            b"GET / HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % number for number in range(200)) + b"\r\n",
            b"request header fields too large",
        ),
    ],
)
def test_nonsense_is_answered_by_a_line(served: Served, content: bytes, words: bytes) -> None:
    server = served()
    answer = raw(server, content).lower()
    assert answer.endswith(words + b"\n") or answer.endswith(words.replace(b"uri", b"request-uri") + b"\n")
    assert b"<html" not in answer
    assert ask(server)[0] == 200


def test_a_client_that_says_nothing_is_hung_up_on(served: Served) -> None:
    server = served(read_seconds=0.2)
    begin = time.monotonic()
    assert raw(server, b"") == b""
    assert time.monotonic() - begin < 5.0


def test_a_client_that_dribbles_is_hung_up_on(served: Served) -> None:
    """Each byte comes in time, the request never does."""
    server = served(read_seconds=5.0, whole_seconds=0.5)
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection, suppress(OSError):
        connection.sendall(b"GET /echo HTTP/1.1\r\nX: ")
        while time.monotonic() - begin < 8.0:
            connection.sendall(b"x")
            time.sleep(0.02)
    assert time.monotonic() - begin < 5.0


def test_a_client_that_does_not_read_is_hung_up_on(served: Served) -> None:
    server = served(read_seconds=0.3)
    server.page("/large", lambda _: Response(b"x" * (64 << 20)))
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(lambda: any("_request" in thread.name for thread in threading.enumerate()))
        assert until(lambda: not any("_request" in thread.name for thread in threading.enumerate()))


def test_slow_clients_make_room_for_others(served: Served) -> None:
    server = served(connections=3, read_seconds=60.0, whole_seconds=60.0)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10)) for _ in range(3)]
        slow[0].sendall(b"GET /ec")
        assert ask(server)[0] == 200
        assert received(slow[0]) == b"", "who is longest in asking is hung up on"
        slow[1].sendall(b"GET /echo HTTP/1.0\r\n\r\n")
        assert b" 200 " in received(slow[1])


def test_too_many_are_turned_away(served: Served) -> None:
    server = served(connections=2, read_seconds=60.0, whole_seconds=60.0)
    asked, go_on = threading.Semaphore(0), threading.Event()

    def busy_page(_: Request) -> Response:
        asked.release()
        go_on.wait(10)
        return Response.line(200, "done")

    server.page("/busy", busy_page)
    with ExitStack() as stack:
        for _ in range(2):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            one.sendall(b"GET /busy HTTP/1.0\r\n\r\n")
            assert asked.acquire(timeout=10)
        assert raw(server, b"") == b"", "a third is closed, and need not wait for the end of its time"
        go_on.set()
        assert until(lambda: b" 200 " in raw(server, b"GET /echo HTTP/1.0\r\n\r\n")), "and there is room again"


def test_closing_hangs_up_on_whoever_is_connected() -> None:
    server = HttpServer(":0")
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"GET /")
        assert until(lambda: any("_request" in thread.name for thread in threading.enumerate()))
        begin = time.monotonic()
        server.close()
        received(connection)
        assert time.monotonic() - begin < 2.0
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), 1)
    assert until(lambda: not any("_request" in thread.name for thread in threading.enumerate()))


# --- answers without an end ---------------------------------------------------------------------------------------

OPEN = b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n"


def busy() -> bool:
    return any("_request" in thread.name for thread in threading.enumerate())


def without_end(server: HttpServer, parts: Iterator[bytes] | None = None, size: int = 100) -> HttpServer:
    def numbers() -> Iterator[bytes]:
        number = 0
        while True:
            yield b"%09d\n" % number + b"x" * size
            number += 1
            time.sleep(0.01)

    server.page("/endless", lambda _: Endless(parts or numbers(), "text/plain"))
    return server


def until_text(connection: socket.socket, text: bytes) -> bytes:
    content = b""
    while text not in content:
        part = connection.recv(65536)
        assert part, content[-200:]
        content += part
    return content


def test_an_answer_without_an_end_goes_on_past_the_limit(served: Served) -> None:
    server = without_end(served(read_seconds=0.5, whole_seconds=0.5))
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(OPEN)
        begin = time.monotonic()
        head = until_text(connection, b"000000000\n")
        assert head.startswith(b"HTTP/1.0 200 ")
        assert b"Content-Length" not in head
        while time.monotonic() - begin < 1.5:
            assert connection.recv(65536)


def test_whoever_leaves_is_noticed_also_when_there_is_nothing_to_send(served: Served) -> None:
    def nothing() -> Iterator[bytes]:
        yield b"begin"
        while True:
            time.sleep(0.05)
            yield b""

    server = without_end(served(), nothing())
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(OPEN)
        until_text(connection, b"begin")
        time.sleep(0.3)
        assert busy(), "it waits"
    assert until(lambda: not busy(), 1.0)


def test_a_slow_client_gets_what_is_new_then_and_keeps_nobody_waiting(served: Served) -> None:
    server = without_end(served(), size=50_000)
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        connection.sendall(OPEN)
        until_text(connection, b"000000000\n")
        time.sleep(1.5)  # 100 parts could be made
        assert ask(server)[0] == 200
        later = b""
        while later.count(b"\n") < 12:
            later += connection.recv(65536)
    numbers = [int(part[-9:]) for part in later.split(b"\n")[:-1]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "they are made when there is room"
    assert numbers[0] < 20


def test_a_client_that_stops_reading_an_endless_answer_is_hung_up_on(served: Served) -> None:
    server = without_end(served(read_seconds=0.3), size=50_000)
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(OPEN)
        assert until(busy)
        assert until(lambda: not busy())


def test_closing_ends_endless_answers_within_a_second() -> None:
    with HttpServer(":0") as server:
        without_end(server)
        with ExitStack() as stack:
            for _ in range(4):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
                connection.sendall(OPEN)
                until_text(connection, b"000000000\n")
            begin = time.monotonic()
            server.close()
            assert until(lambda: not busy(), 1.0)
            assert time.monotonic() - begin < 1.0


def test_only_so_many_have_answers_without_an_end(served: Served) -> None:
    server = without_end(served(endless=2))
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            connection.sendall(OPEN)
            until_text(connection, b"000000000\n")
        assert ask(server, "/endless")[:2] == (503, "too many are watching\n")
        assert ask(server)[0] == 200
    assert until(lambda: not busy())
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(OPEN)
        until_text(connection, b"000000003\n")


def test_an_endless_answer_that_fails_is_logged_and_ends(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def failing() -> Iterator[bytes]:
        yield b"begin"
        raise OSError("no disk")

    server = without_end(served(), failing())
    assert raw(server, OPEN).endswith(b"begin")
    assert "web: /endless failed" in caplog.text
    assert ask(without_end(server), "/endless", method="HEAD")[:2] == (200, "")


def test_a_server_that_was_never_started_closes() -> None:
    server = HttpServer(":0")
    server.close()
    with HttpServer(f":{server.port}"):
        pass


def test_many_at_a_time(served: Served) -> None:
    server = served()
    answers: list[int] = []

    def client() -> None:
        for _ in range(10):
            answers.append(ask(server)[0])

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 80


def test_its_threads_leave_signals_to_the_main_thread(served: Served) -> None:
    """BMF's own handlers, which end a graph as if the video were over, run in whatever thread gets the signal."""
    import signal

    server, masks = served(), []

    def page(_: Request) -> Response:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return Response(b"")

    server.page("/mask", page)
    ask(server, "/mask")
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= masks[0]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
