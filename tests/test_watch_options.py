"""The options of a running stream over HTTP: who may change them, and what the answers say."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_changes import drawn, gate, pixels  # noqa: F401 (a fixture)
from test_module import Run, frame_packet

from bmf_trt_seg import changes, metrics
from bmf_trt_seg.http_server import HttpServer
from bmf_trt_seg.watch.options_page import add_options_page
from bmf_trt_seg.watch.status import Status

TOKEN = "correct-horse"
JSON = "application/json"


@pytest.fixture(autouse=True)
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_streams", {})
    monkeypatch.setattr(changes, "_streams", {})


@contextmanager
def served(token: str = TOKEN, load_seconds: float = 10.0) -> Iterator[HttpServer]:
    with HttpServer(":0", token) as server:
        add_options_page(server, Status().names, load_seconds)
        yield server


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with served() as found:
        yield found


@pytest.fixture
def door(networks: Path) -> Iterator[Run]:
    run = Run(model=str(networks / "three.onnx"), name="door")
    run.put(frame_packet(0))
    yield run
    run.end()
    run.module.close()


def send(
    server: HttpServer, content: Any, *, method: str = "PATCH", path: str = "/options/door", token: str = TOKEN,
    kind: str = JSON, **headers: str,
) -> tuple[int, Any]:  # fmt: skip
    """The status, and the answer as JSON or as text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request(method, path, body, {"Content-Type": kind, **headers})
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, json.loads(text) if response.getheader("Content-Type") == JSON else text
    finally:
        connection.close()


def test_asked_changed_and_asked_again(server: HttpServer, door: Run, networks: Path) -> None:
    status, told = send(server, b"", method="GET")
    assert status == 200
    assert (told["stream"], told["loading"], told["last_error"]) == ("door", None, "")
    assert told["options"]["alpha"] == 0.5
    assert "name" not in told["options"], "it cannot change"
    status, answer = send(server, {"alpha": 0.9, "classes": ["light"]})
    assert (status, answer["options"]["alpha"], answer["options"]["classes"]) == (200, 0.9, ["light"])
    assert send(server, b"", method="GET")[1] == answer
    door.put(frame_packet(1))
    expected = drawn(2, model=str(networks / "three.onnx"), alpha=0.9, classes=["light"], name="other")
    assert pixels(door.frames)[1] == pixels(expected.frames)[1]


@pytest.mark.parametrize(
    ("content", "status", "error"),
    [
        ({"alpha": 2}, 422, "option 'alpha': got 2, allowed is a number from 0 to 1"),
        ({"style": "sidebyside"}, 422, "frames would leave in another size, as 2560x720 instead of 1280x720"),
        ({"alpha": 0.1, "classes": ["cat"]}, 422, "option 'classes': the model has no class 'cat'; it has 0 dark"),
        ({"model": "nowhere/net.onnx"}, 422, "option 'model': over HTTP it is a name that 'models list' shows or a "),
        ({"model": "~nobody-is-called-so/net.onnx"}, 422, "option 'model': over HTTP it is a name that 'models list' "),
        ({"model": "net.onnx\0"}, 400, 'the body: the text "net.onnx\\u0000" in it has a character that no text has'),
        ({"model": 5}, 422, "option 'model': got 5, allowed is a string"),
        ([], 422, "expected an object of options"),
        (b'{"alpha": 0.1', 400, "the body is no JSON: line 1, column 14: Expecting ',' delimiter"),
        (b'{"alpha": NaN}', 422, "option 'alpha': got NaN, allowed is a number from 0 to 1"),
        (b"\xff", 400, "the body is no text in UTF-8"),
        (b"[" * 60_000, 400, "the body: it is nested more than 100 levels deep"),
        (b'{"alpha": ' + b"1" * 5_000 + b"}", 400, "the body: a number in it has thousands of digits"),
        (b"", 400, "the body is no JSON: line 1, column 1: Expecting value"),
    ],
)
def test_what_is_wrong_is_refused_and_the_answer_says_why(
    server: HttpServer, door: Run, content: Any, status: int, error: str
) -> None:
    before = send(server, b"", method="GET")[1]
    found, answer = send(server, content)
    assert (found, list(answer)) == (status, ["error"])
    assert answer["error"].startswith(error)
    assert "\n" not in answer["error"]
    assert send(server, b"", method="GET")[1] == before


def test_who_may_not(server: HttpServer, door: Run) -> None:
    """A page in the operator's browser has no token: not its cookie, and no address, can change anything."""
    wanted = {"alpha": 0.1}
    needed = (401, "changes need the token in a header: Authorization: Bearer TOKEN\n")
    assert send(server, wanted, token="") == needed
    assert send(server, wanted, token="wrong") == needed
    assert send(server, wanted, token="", path=f"/options/door?token={TOKEN}") == needed
    cookie = f"{server._cookie_name}={server._cookie}"
    assert send(server, b"", method="GET", token="", Cookie=cookie)[0] == 200
    assert send(server, wanted, token="", Cookie=cookie) == needed
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert send(server, wanted, method=method) == (405, "only GET, HEAD and PATCH\n")
    assert send(server, wanted, path="/")[0] == 405
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, answer = send(server, wanted, kind=kind)
        assert (status, answer["error"]) == (
            415, "the body should be JSON, and be said to be: Content-Type: application/json",
        )  # fmt: skip
    assert send(server, {"alpha": 0.7}, kind="application/json; charset=utf-8")[0] == 200
    found = changes.stream("door")
    assert found is not None
    assert found.options.alpha == 0.7


def test_without_a_token_nothing_can_be_changed_on_this_machine_either(door: Run) -> None:
    with served(token="") as server:
        assert send(server, b"", method="GET", token="")[0] == 200
        for token in ("", "any"):
            status, text = send(server, {"alpha": 0.1}, token=token)
            assert (status, text) == (
                403, "nothing can be changed without a token: --web-token, or BMF_TRT_SEG_WEB_TOKEN\n",
            )  # fmt: skip


def test_bodies_have_a_size(server: HttpServer, door: Run) -> None:
    assert send(server, b" " * (1 << 16) + b"{}") == (413, "the body may have up to 65536 bytes\n")
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        head = f"PATCH /options/door HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.0 411 ")


def test_streams_that_are_not_there(server: HttpServer, door: Run) -> None:
    assert send(server, {"alpha": 0.1}, path="/options/yard") == (
        404, {"error": "no such stream has options; there are door"},
    )  # fmt: skip
    door.end()
    door.module.close()
    assert send(server, {"alpha": 0.1}) == (
        409, {"error": "stream 'door' does not run at the moment; ask again when it does"},
    )  # fmt: skip


def test_another_model(
    server: HttpServer,
    door: Run,
    networks: Path,
    tmp_path: Path,
    gate: threading.Event,  # noqa: F811
) -> None:
    status, answer = send(server, {"model": str(networks / "bright.onnx"), "classes": ["box"]})
    assert (status, answer["options"]["model"]) == (200, str(networks / "bright.onnx"))
    door.put(frame_packet(1))
    status, answer = send(server, {"model": str(networks / "none.onnx")})
    assert status == 422
    assert "none.onnx' does not exist" in answer["error"]
    shutil.copy(networks / "three.onnx", tmp_path / "three.onnx")
    status, answer = send(server, {"model": str(tmp_path / "three.onnx")})
    assert status == 422
    assert f"or a file in '{networks}'" in answer["error"]
    gate.clear()
    with served(load_seconds=0.0) as other:
        wanted = {"model": str(networks / "three.onnx"), "classes": ["light"]}
        status, answer = send(other, wanted)
        assert (status, answer["loading"]) == (202, str(networks / "three.onnx"))
        assert answer["options"]["model"] == str(networks / "bright.onnx")
        status, answer = send(other, {"threads": 2})
        assert status == 422
        assert answer["error"].endswith("is being loaded; wait for that, then ask again")
        gate.set()
        found = changes.stream("door")
        assert found is not None
        if found._loading is not None:
            found._loading.result(20)
        answer = send(other, b"", method="GET")[1]
        assert (answer["loading"], answer["options"]["model"]) == (None, str(networks / "three.onnx"))
