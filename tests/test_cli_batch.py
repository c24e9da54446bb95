"""`bmf-trt-seg batch`: what a stranger sees of it, and a run on this machine alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import psutil
import pytest
from batch_runs import frame_numbers, visible
from commands import runner

from bmf_trt_seg.batch.ledger import Ledger


@pytest.fixture
def cli(capfd):
    return runner(capfd)


@pytest.fixture
def films(tmp_path):
    """A folder with films that nobody gets to see."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"film{number}.mp4").write_bytes(b"film")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{in}/film0.mp4"], 2, "Error: Missing option '-o' / '--out'."),
        (["{in}", "-o", "{out}", "--interval", "0"], 2, "bmf-trt-seg: batch: option 'interval'"),
        (["{in}", "-o", "{out}", "--retries", "-1"], 2, "Error: Invalid value for '--retries'"),
        (["{in}/nothing*", "-o", "{out}"], 1, "bmf-trt-seg: the pattern '{in}/nothing*' names no videos (.3gp, "),
        (["{in}/a.png", "-o", "{out}"], 2, "bmf-trt-seg: '{in}/a.png' is a picture, and 'batch' takes videos"),
        (["{in}/film0.mp4", "-o", "{in}"], 2, "bmf-trt-seg: '{in}/film0.mp4' is an input, and would be written"),
        (["{in}", "-o", "{out}", "-m", "none.onnx"], 2, "bmf-trt-seg: model file 'none.onnx' does not exist"),
        (["{in}", "-o", "{in}"], 2, "bmf-trt-seg: '{in}' is the folder for the outputs as well"),
        (["{in}", "-o", "{in}/film0.mp4"], 1, "bmf-trt-seg: '{in}/film0.mp4' cannot be written: Not a directory"),
        (["{in}", "-o", "{out}", "--address", "head"], 2, "bmf-trt-seg: --address head: give 'auto' or HOST:PORT"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(cli, films, bright, tmp_path, arguments, code, message):
    (films / "a.png").touch()
    places = {"in": films, "out": tmp_path / "out"}
    model = [] if "-m" in arguments else ["-m", bright]
    ended = cli("batch", *[str(argument).format(**places) for argument in arguments], *model)
    assert ended.code == code
    assert ended.err.strip().splitlines()[-1].startswith(message.format(**places)), ended.err
    assert visible(tmp_path) - visible(films.parent) == set()


def test_outputs_of_others_are_not_replaced(cli, films, bright, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "film1.mp4").write_bytes(b"precious")
    ended = cli("batch", films, "-o", tmp_path / "out", "-m", bright)
    assert ended.code == 2
    assert f"'{tmp_path}/out/film1.mp4' exists and was not written by 'batch'; give -y to replace it" in ended.err
    assert (tmp_path / "out" / "film1.mp4").read_bytes() == b"precious"


def test_an_input_is_not_replaced_by_what_becomes_of_another(cli, films, bright, tmp_path):
    other = tmp_path / "out" / "sub" / "c.mp4"
    for path in (films / "sub" / "c.mp4", other):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    for named in (other, tmp_path / "link" / "sub" / "c.mp4"):
        ended = cli("batch", "-y", films, named, "-o", tmp_path / "out", "-m", bright)
        assert (ended.code, ended.err) == (
            2, f"bmf-trt-seg: '{named}' is an input, and would be written with what becomes of "
            f"'{films}/sub/c.mp4'; choose another output folder\n",
        )  # fmt: skip
    assert visible(tmp_path / "out") == {"sub/c.mp4"}
    assert other.read_bytes() == b"precious"


def test_a_folder_that_another_batch_writes_to(cli, films, bright, tmp_path):
    with Ledger(str(tmp_path / "out")).locked():
        ended = cli("batch", films, "-o", tmp_path / "out", "-m", bright)
    assert (ended.code, ended.err) == (
        1, f"bmf-trt-seg: another batch writes to '{tmp_path}/out'; wait, or give another folder\n",
    )  # fmt: skip


def test_without_ray_it_says_what_to_install(cli, films, bright, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = cli("batch", films, "-o", tmp_path / "out", "-m", bright)
    assert (ended.code, ended.err) == (1, "bmf-trt-seg: 'batch' needs Ray: pip install 'bmf-trt-seg[ray]'\n")


def test_a_run_that_is_stopped_and_taken_up_again(films, bright, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    film = clips.write_clip(films / "film0.mp4", frames=300, size_wh=(320, 180)).read_bytes()
    for number in (1, 2):
        (films / f"film{number}.mp4").write_bytes(film)
    clips.text_file(films / "text.mp4")
    (films / "notes.txt").touch()
    command = [
        sys.executable,
        "-m",
        "bmf_trt_seg.cli.main",
        "batch",
        films,
        "-o",
        out,
        "-m",
        bright,
        "--preset",
        "slow",
    ]

    first = subprocess.Popen([*command, "--cpus-per-worker", "1"], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not list(out.glob(".batch/work/*/made/.made*")):
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate()
    assert (first.returncode, said.splitlines()[-1]) == (1, "bmf-trt-seg: stopped")
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert not list((out / ".batch" / "work").iterdir())
    done = visible(out) - {"batch-report.json"}
    assert _counts(out)["not finished"] + _counts(out)["done"] + _counts(out)["failed"] == 4

    again = subprocess.run([*command, "--workers", "2"], capture_output=True, text=True, check=False)
    lines = again.stderr.splitlines()
    assert again.returncode == 1, again.stderr
    assert lines[0] == "1 other file left out: no videos by their names"
    assert lines[1].split() == ["output", "state", "why"]
    assert lines[2].split() == [
        "text.mp4", "failed", *f"'{films}/text.mp4' is no video that FFmpeg can read: Invalid data found when".split(),
        "processing", "input",
    ]  # fmt: skip
    assert lines[3].startswith(f"{out}: {3 - len(done)} done, ")
    assert lines[3].endswith(f"; report: {out}/batch-report.json")
    assert len(lines) == 4
    assert visible(out) == {"film0.mp4", "film1.mp4", "film2.mp4", "batch-report.json"}
    for number in range(3):
        assert frame_numbers(out / f"film{number}.mp4") == list(range(300))


def _counts(out: Path):
    return json.loads((out / "batch-report.json").read_text())["counts"]


def test_numbers_of_the_page_are_those_of_the_result_file():
    top = Path(__file__).parents[1]
    page = (top / "docs" / "batch.md").read_text(encoding="utf-8")
    result = json.loads((top / "benchmarks" / "results" / "batch.json").read_text(encoding="utf-8"))
    ways = {**result["overhead"]["ways"], **result["scaling"]["ways"]}
    for way in ("shell loop", "batch", "1 worker", "2 workers"):
        assert f"| {ways[way]['seconds']} |" in page
    share = result["overhead"]["batch takes, of the loop's seconds"]["median"]
    assert f"takes {share} of the loop's time" in page
    for part, ratio in (
        ("scaling", "2 workers, times as fast"),
        ("scaling", "2 workers, times as fast, Ray's start counted in"),
        ("scaling", "2 processes without Ray, times as fast"),
        ("gpus", "2 GPUs, times as fast as 1 GPU"),
    ):
        assert f"{result[part][ratio]['median']} times" in " ".join(page.split())
