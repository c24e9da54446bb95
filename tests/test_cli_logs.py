"""--log-format: what is said on standard error, as lines and as JSON."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import rtsp
from commands import Cli, Ended, runner

import bmf_trt_seg
from bmf_trt_seg.cli import logs

ROOT = Path(bmf_trt_seg.__file__).parent
PROGRAM = str(Path(sys.executable).with_name("bmf-trt-seg"))
OVERLAY = ROOT.parent / "graphs" / "transcode_overlay.json"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


def program(*arguments: object) -> Ended:
    run = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    return Ended(run.returncode, run.stdout, run.stderr)


def objects(text: str) -> list[dict[str, Any]]:
    """Every line as an object, each with what each must have."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert TIME.fullmatch(one["time"])
        assert one["level"] in ("debug", "info", "warning", "error", "critical")
        assert one["message"]
    return found


# --- real runs ----------------------------------------------------------------------------------------------------


def test_a_run_as_json_says_what_it_says_as_text(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    arguments = ["segment", plain_clip, "-o", tmp_path / "out.mp4", "-y", "-m", bright, "--decoder", "ffmpeg"]
    text, as_json = program(*arguments), program(*arguments, "--log-format", "json")
    assert text.code == as_json.code == 0
    found = objects(as_json.err)
    lines = [f"stream '{one['stream']}': {one['message']}" if "stream" in one else one["message"] for one in found]

    def without_times(text: str) -> str:
        return re.sub(r"\d+\.\d+ (s|a second)", "# \\1", text)

    assert without_times("\n".join(lines) + "\n") == without_times(text.err)
    assert {one.get("stream") for one in found} == {"segment", None}
    assert {one["level"] for one in found} == {"info"}


def test_a_failure_is_an_error(cli: Cli, tmp_path: Path) -> None:
    ended = cli("segment", tmp_path / "no.mp4", "-o", tmp_path / "out.mp4", "--log-format", "json")
    assert ended.code == 1
    (found,) = objects(ended.err)
    assert found["level"] == "error"
    assert found["message"] == f"'{tmp_path}/no.mp4' does not exist"
    text = cli("segment", tmp_path / "no.mp4", "-o", tmp_path / "out.mp4", "--log-format", "text")
    assert text.err == f"bmf-trt-seg: {found['message']}\n"
    assert text.code == 1


def test_wrong_usage_is_an_error(cli: Cli) -> None:
    ended = cli("build", "--log-format", "json", "--opt-level", "9", "x.onnx")
    assert ended.code == 2
    (found,) = objects(ended.err)
    assert found["level"] == "error"
    assert "--opt-level" in found["message"]


def test_quiet_is_quiet(cli: Cli, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    arguments = ["-o", tmp_path / "out.mp4", "-m", bright, "--quiet", "--log-format", "json"]
    assert cli("segment", plain_clip, *arguments) == Ended(0, "", "")


@pytest.mark.parametrize("verb", ["segment", "render", "run", "build"])
def test_every_verb_that_runs_has_the_flag(cli: Cli, verb: str) -> None:
    assert "--log-format [text|json]" in cli(verb, "--help").out


def test_debug_has_the_traceback_in_the_object(tmp_path: Path) -> None:
    arguments = ["segment", tmp_path / "no.mp4", "-o", tmp_path / "out.mp4"]
    (found,) = objects(program("--debug", *arguments, "--log-format", "json").err)
    assert found["traceback"].startswith("Traceback (most recent call last)")
    assert "Traceback" in program("--debug", *arguments).err


def test_standard_error_is_given_back(cli: Cli, tmp_path: Path) -> None:
    logger, before = logging.getLogger("bmf_trt_seg"), sys.stderr
    kept = logger.handlers, logger.propagate, logger.level
    cli("segment", tmp_path / "no.mp4", "-o", tmp_path / "out.mp4", "--log-format", "json")
    assert sys.stderr is before
    assert not logs.is_json()
    assert (logger.handlers, logger.propagate, logger.level) == kept


# --- passwords ----------------------------------------------------------------------------------------------------


def _rtsp_graph(path: Path, decoder: str) -> Path:
    url = f"rtsp://anna:s3cret@127.0.0.1:{rtsp.free_port()}/clip?token=t0ken"
    ours = {"name": "LiveSource", "type": "python", "path": "", "entry": "bmf_trt_seg.sources.LiveSource"}
    source = (
        {"module_info": ours, "option": {"url": url, "name": url, "max_retries": 0}}
        if decoder == "ours"
        else {"module_info": {"name": "c_ffmpeg_decoder"}, "option": {"input_path": url}}
    )
    base = {"input_manager": "immediate", "input_streams": [], "output_streams": []}
    nodes = [
        {**base, **source, "id": 0, "scheduler": 0, "output_streams": [{"identifier": "video:live"}]},
        {
            **base, "id": 1, "scheduler": 1, "input_streams": [{"identifier": "video:live"}],
            "module_info": {"name": "c_ffmpeg_encoder"}, "option": {"output_path": str(path.with_suffix(".mp4"))},
        },
    ]  # fmt: skip
    graph = {"option": {"scheduler_count": 2}, "input_streams": [], "output_streams": [], "nodes": nodes}
    path.write_text(json.dumps(graph))
    return path


@pytest.mark.parametrize("decoder", ["ours", "bmf"])
@pytest.mark.parametrize("flags", [[], ["--log-format", "json"]])
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_passwords_are_never_said(tmp_path: Path, decoder: str, flags: list[str], debug: list[str]) -> None:
    ended = program(*debug, "run", _rtsp_graph(tmp_path / "graph.json", decoder), *flags)
    assert ended.code == 1
    assert "refused" in ended.err.lower() or "cannot be read" in ended.err
    for secret in ("anna", "s3cret", "t0ken"):
        assert secret not in ended.out + ended.err
    if flags:
        found = objects(ended.err)
        assert found[-1]["level"] == "error"
        if decoder == "ours":
            assert [one["stream"] for one in found if "away" in one["message"]] == [
                re.search(r"rtsp://\S*\?token=\*\*\*", ended.err)[0]  # type: ignore[index]
            ]


# --- records ------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_json(capsys: pytest.CaptureFixture[str]) -> Any:
    """Logs inside of a program that was told to speak JSON; what it said."""

    def said(speak: Any) -> list[dict[str, Any]]:
        with logs.messages():
            logs._choose(click_context(), logs.log_format_flag, "json")  # type: ignore[arg-type]
            speak(logging.getLogger("bmf_trt_seg.x"))
        return objects(capsys.readouterr().err)

    return said


def click_context() -> Any:
    import click

    return click.Context(click.Command("x"))


def test_the_stream_and_more_are_fields(as_json: Any) -> None:
    def speak(log: logging.Logger) -> None:
        log.warning("stream '%s': frame %d is odd", "do'or: 1", 7)
        log.warning("feed '%s': away: %s", "yard", "refused", extra={"state": "away"})
        log.warning("plain", extra={"stream": "given", "count": 3, "path": Path("/x"), "url": "rtsp://a:b@h/"})
        log.warning("100 %s", "'stream '%s': '")

    first, second, third, fourth = as_json(speak)
    assert (first["stream"], first["message"]) == ("do'or: 1", "frame 7 is odd")
    assert (second["stream"], second["message"], second["state"]) == ("yard", "away: refused", "away")
    assert (third["stream"], third["count"], third["path"], third["url"]) == ("given", 3, "/x", "rtsp://***@h/")
    assert "stream" not in fourth
    assert set(first) == {"time", "level", "stream", "message"}


def test_a_message_is_one_line_whatever_is_in_it(as_json: Any) -> None:
    odd = 'two\nlines\r "quoted" \\ ü \ud83d \x00'
    (found,) = as_json(lambda log: log.warning("%s", odd))
    assert found["message"] == odd


def test_exceptions_are_fields(as_json: Any) -> None:
    def speak(log: logging.Logger) -> None:
        try:
            raise ValueError("rtsp://anna:s3cret@h/ is bad")
        except ValueError:
            log.exception("it failed")

    (found,) = as_json(speak)
    assert found["message"] == "it failed"
    assert "ValueError: rtsp://***@h/ is bad" in found["traceback"]
    assert "s3cret" not in found["traceback"]


def test_what_is_printed_becomes_objects(as_json: Any) -> None:
    def speak(_: logging.Logger) -> None:
        print("one", "two", file=sys.stderr)
        print("bmf-trt-seg: it is broken: 5 % left of %s", file=sys.stderr)
        sys.stderr.write("a\n\nb")
        assert not sys.stderr.isatty()

    found = [(one["level"], one["message"]) for one in as_json(speak)]
    assert found == [
        ("info", "one two"),
        ("error", "it is broken: 5 % left of %s"),
        ("info", "a"),
        ("info", "b"),
    ]


def test_pieces_of_a_line_stay_together(as_json: Any) -> None:
    def speak(_: logging.Logger) -> None:
        sys.stderr.write("begun here, ")
        other = threading.Thread(target=lambda: sys.stderr.write("elsewhere\n"))
        other.start()
        other.join()
        sys.stderr.write("ended here\n")

    assert [one["message"] for one in as_json(speak)] == ["elsewhere", "begun here, ended here"]


def test_threads_do_not_mix_their_lines(as_json: Any) -> None:
    def speak(log: logging.Logger) -> None:
        def work(number: int) -> None:
            for _ in range(200):
                print("printed by", number, file=sys.stderr)
                log.warning("logged by %d", number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    found = [one["message"] for one in as_json(speak)]
    expected = [f"{verb} by {number}" for number in range(4) for verb in ("printed", "logged") for _ in range(200)]
    assert sorted(found) == sorted(expected)


def test_messages_that_name_a_stream_do_so_at_their_beginning() -> None:
    """Where they do, the name becomes a field."""
    formats = [
        str(call.args[0].value)
        for path in ROOT.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "_log"
        and isinstance(call.args[0], ast.Constant)
    ]
    naming = [text for text in formats if re.search(r"\b(stream|feed) ['%]", text)]
    assert len(naming) >= 6
    for text in naming:
        assert logs._NAMES_STREAM.match(text), text


def test_text_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.messages():
        logging.getLogger("bmf_trt_seg.x").warning("stream '%s': %s", "door", "odd", extra={"state": "away"})
        logs.failure("it is 'broken'")
    assert capsys.readouterr().err == "stream 'door': odd\nbmf-trt-seg: it is 'broken'\n"
