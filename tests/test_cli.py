"""The command line, as a user meets it: what is written where, what is said, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import clips
import numpy as np
import pytest
from jobs import left_in, read_records
from PIL import Image

from bmf_trt_seg.cli import progress
from bmf_trt_seg.cli.main import main

PROGRAM = str(Path(sys.executable).with_name("bmf-trt-seg"))
TEMPLATES = Path(__file__).parents[1] / "graphs"
VERBS = [
    [], ["segment"], ["render"], ["run"], ["graph"], ["graph", "check"], ["graph", "new"],
    ["graph", "show"], ["graph", "schema"], ["models"], ["models", "list"],
    ["models", "fetch"], ["models", "show"], ["models", "export"], ["models", "describe"],
    ["doctor"], ["images"], ["infer"],
]  # fmt: skip
WIDTH, HEIGHT = clips.SIZE_WH


@dataclass
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ended(int(end.value.code or 0), captured.out, captured.err)

    return run


def program(*arguments: object, cwd: Path | None = None) -> Ended:
    """Runs the console script in a process of its own."""
    command = [PROGRAM, *map(str, arguments)]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    return Ended(run.returncode, run.stdout, run.stderr)


# --- help and usage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help(verb: list[str], cli: Callable[..., Ended]) -> None:
    for flag in ("--help", "-h"):
        ended = cli(*verb, flag)
        assert ended.code == 0
        assert ended.out.startswith(f"Usage: {' '.join(['bmf-trt-seg', *verb])}")
        assert ended.err == ""
        assert max(map(len, ended.out.splitlines())) <= 110


def test_help_does_not_wait_for_bmf() -> None:
    code = (
        "import sys\nfrom bmf_trt_seg.cli.main import main\n"
        "try: main(['segment', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('bmf', 'onnxruntime', 'torch', 'tensorrt') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"


def test_version(cli: Callable[..., Ended]) -> None:
    assert re.fullmatch(r"bmf-trt-seg, version \d+\.\d+\.\d+\n", cli("--version").out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "Error: No such command 'nosuch'."),
        (["segment"], "Error: Missing argument 'INPUT...'."),
        (["segment", "in.mp4"], "Error: Missing option '-o' / '--out'."),
        (["segment", "in.mp4", "-o", "o.mp4", "--nosuch"], "Error: No such option"),
        (["segment", "in.mp4", "-o", "o.mp4", "--style", "nice"],
         "'nice' is not one of 'blend', 'blur', 'contour', 'cutout', 'sidebyside'."),
        (["segment", "in.mp4", "-o", "o.mp4", "--crf", "99"], "99 is not in the range 0<=x<=51"),
        (["segment", "in.mp4", "-o", "o.mp4", "--alpha", "3"],
         'segment: option \'alpha\': got "3", allowed is a number from 0 to 1'),
        (["segment", "in.mp4", "-o", "o.mp4", "--interval", "0"],
         'segment: option \'interval\': got "0", allowed is a whole number from 1 to 10000'),
        (["render", "in.mp4", "-o", "o.mp4"], "Error: Missing option '--json'."),
        (["graph", "check", "g.json", "--set", "NAME"], "Error: --set takes NAME=VALUE, not 'NAME'"),
        (["run", "g.json", "--set", "A B=c"], "Error: --set takes NAME=VALUE, not 'A B=c'"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments: list[str], words: str, cli: Callable[..., Ended]) -> None:
    ended = cli(*arguments)
    assert ended.code == 2
    assert words in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


# --- segment -------------------------------------------------------------------------------------------------------


def test_segment_writes_the_video_and_says_so(
    cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path
) -> None:
    target = tmp_path / "out.mp4"
    ended = cli("segment", plain_clip, "-o", target, "-m", bright)
    assert ended.code == 0
    assert ended.out == ""
    assert re.fullmatch(
        r"stream 'segment': bright\.onnx, onnxruntime on the CPU, 1 thread\n"
        r"stream 'segment': decoder FFmpeg, encoder libx264\n"
        rf"{re.escape(str(target))}: 30 frames in \d+\.\d s, \d+\.\d a second\n",
        ended.err,
    )
    assert clips.times(target) == clips.times(plain_clip)
    assert left_in(tmp_path) == {"out.mp4"}


def test_the_console_script_says_no_more_than_that(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    """BMF, FFmpeg and x264 write to the descriptors themselves: only a process of its own shows that."""
    ended = program("segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", bright)
    assert (ended.code, ended.out) == (0, "")
    assert len(ended.err.splitlines()) == 3
    quiet = program("segment", plain_clip, "-o", tmp_path / "quiet.mp4", "-m", bright, "--quiet")
    assert quiet == Ended(0, "", "")
    verbose = program("segment", plain_clip, "-o", tmp_path / "verbose.mp4", "-m", bright, "-v")
    assert verbose.code == 0
    for words in ("c_ffmpeg_decoder", "[libx264 @ ", "Input #0, mov,mp4"):
        assert words in verbose.out + verbose.err


def test_flags_reach_the_module(cli: Callable[..., Ended], tmp_path: Path, networks: Path) -> None:
    source, records = clips.write_clip(tmp_path / "in.mp4", frames=5, crf=0), tmp_path / "records.jsonl"
    ended = cli(
        "segment", source, "-o", tmp_path / "out.mp4", "-m", networks / "three.onnx", "--crf", 0, "--preset",
        "ultrafast", "--classes", "light", "--alpha", "1", "--palette", "light=#ffffff", "--interval", "2",
        "--batch-size", "2", "--json", records, "--masks", tmp_path / "masks", "--legend", "-q",
    )  # fmt: skip
    assert ended == Ended(0, "", "")
    found = read_records(records)
    assert [record["inferred"] for record in found] == [True, False, True, False, True]
    assert {entry["color"] for record in found for entry in record["classes"]} == {"#ffffff"}
    assert len(left_in(tmp_path / "masks")) == 5
    shown = clips.read_clip(tmp_path / "out.mp4")[0]
    assert (shown.planes[0][clips.box(0, WIDTH, HEIGHT)] == 235).all()
    assert (shown.planes[0][4:12, 4:12] != clips.luma(0, WIDTH, HEIGHT)[4:12, 4:12]).any(), "no legend"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_codec(codec: str, cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    ended = cli("segment", plain_clip, "-o", tmp_path / "out.mkv", "-m", bright, "--codec", codec, "--preset",
                "ultrafast", "-q")  # fmt: skip
    assert ended == Ended(0, "", "")
    with clips.av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.video[0].codec_context.name == {"libx264": "h264", "libx265": "hevc"}[codec]


def test_an_existing_output_needs_y(cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_text("mine")
    arguments = ["segment", plain_clip, "-o", target, "-m", bright, "-q"]
    ended = cli(*arguments)
    assert ended.code == 2
    assert f"Error: '{target}' exists; give -y to replace it\n" in ended.err
    assert target.read_text() == "mine"
    assert cli(*arguments, "-y").code == 0
    assert len(clips.times(target)) == 30


def test_existing_records_and_masks_need_y_too(
    cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "00000000.png").write_text("mine")
    arguments = ["segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", bright, "-q"]
    for flag, name in (("--json", "mine.txt"), ("--masks", "folder")):
        ended = cli(*arguments, flag, tmp_path / name)
        assert ended.code == 2
        assert f"'{tmp_path / name}' exists; give -y to replace what is in it" in ended.err
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "out.mp4").exists()


def test_the_output_cannot_be_the_input(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3)
    content = source.read_bytes()
    for target in (source, tmp_path):
        ended = cli("segment", source, "-o", target, "-m", bright, "-y")
        assert ended == Ended(2, "", f"bmf-trt-seg: '{source}' is an input as well; choose another output\n")
    assert source.read_bytes() == content


def test_failures_are_one_line_and_exit_code_1(
    cli: Callable[..., Ended], tmp_path: Path, bright: Path, networks: Path, plain_clip: Path
) -> None:
    text = clips.text_file(tmp_path / "text.mp4")
    for source, model, words in (
        (tmp_path / "no.mp4", bright, f"'{tmp_path / 'no.mp4'}' does not exist"),
        (text, bright, f"'{text}' is no video that FFmpeg can read: Invalid data found when processing input"),
        (plain_clip, networks / "classifier.onnx", "output 'output' of the network has the shape (1, 3), .*"),
    ):
        ended = cli("segment", source, "-o", tmp_path / "out.mp4", "-m", model, "-q")
        assert (ended.code, ended.out) == (1, "")
        assert re.fullmatch(f"bmf-trt-seg: {re.escape(words).replace(re.escape('.*'), '.*')}\n", ended.err)
    assert left_in(tmp_path) == {"text.mp4"}


def test_wrong_options_of_the_module_are_exit_code_2(
    cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path
) -> None:
    ended = cli("segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", bright, "--classes", "dog", "-q")
    assert ended == Ended(
        2, "", "bmf-trt-seg: option 'classes': the model has no class 'dog'; it has 0 background, 1 box\n"
    )


def test_debug_shows_a_traceback(tmp_path: Path) -> None:
    ended = program("--debug", "segment", "no.mp4", "-o", "out.mp4", cwd=tmp_path)
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "StreamError: 'no.mp4' does not exist" in ended.err


def test_a_damaged_video_is_written_and_told(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    whole = clips.write_clip(tmp_path / "whole.mp4", frames=60, mux_options=(("movflags", "faststart"),))
    source, target = clips.cut(tmp_path / "cut.mp4", whole, 0.6), tmp_path / "out.mp4"
    ended = cli("segment", source, "-o", target, "-m", bright, "--quiet")
    frames = len(clips.times(target))
    assert 25 < frames < 40
    assert ended.code == 1
    assert re.fullmatch(
        rf"bmf-trt-seg: '{source}' is damaged: it ends after \d+ of 60 frames; the {frames} frames that could be "
        rf"decoded are in '{target}'\n",
        ended.err,
    )


def test_what_was_left_out_is_told(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mkv", frames=5, subtitles="subrip")
    ended = cli("segment", source, "-o", tmp_path / "out.mp4", "-m", bright)
    assert ended.code == 0
    assert ended.err.splitlines()[-1].endswith(
        "left out, because this container cannot hold it: subtitle stream 1 (srt)"
    )


def test_size_changes_are_told(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    ticks = {"time_base": clips.Fraction(1, 90000)}
    parts = [
        clips.write_clip(tmp_path / "a.ts", pts=range(0, 36000, 3600), **ticks),
        clips.write_clip(tmp_path / "b.ts", size_wh=(320, 180), pts=range(36000, 72000, 3600), **ticks),
    ]
    source = clips.concatenated(tmp_path / "in.ts", parts)
    ended = cli("segment", source, "-o", tmp_path / "out.mp4", "-m", bright)
    assert ended.code == 0
    assert "frame 10 is 320x180, the first was 160x90; frames of another size are scaled to that" in ended.err


def test_several_videos_go_into_a_folder(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    """One bad file among them does not stop the rest."""
    for name in ("a.mp4", "c.avi"):
        clips.write_clip(tmp_path / name, frames=4, **({"codec": "mpeg4"} if name == "c.avi" else {}))
    clips.text_file(tmp_path / "b.mp4")
    folder = tmp_path / "new" / "out"
    ended = cli("segment", tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.avi", "-o", folder, "-m", bright, "-q")
    assert ended.code == 1
    assert ended.err == (
        f"bmf-trt-seg: '{tmp_path / 'b.mp4'}' is no video that FFmpeg can read: "
        "Invalid data found when processing input\n"
    )
    assert left_in(folder) == {"a.mp4", "c.mp4"}
    assert all(len(clips.times(folder / name)) == 4 for name in ("a.mp4", "c.mp4"))


def test_patterns(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    for name in ("a1.mp4", "a2.mp4", "b.mp4"):
        clips.write_clip(tmp_path / name, frames=2)
    ended = cli("segment", tmp_path / "a?.mp4", "-o", tmp_path / "out", "-m", bright, "-q")
    assert ended == Ended(0, "", "")
    assert left_in(tmp_path / "out") == {"a1.mp4", "a2.mp4"}
    assert cli("segment", tmp_path / "z*.mp4", "-o", tmp_path / "out", "-m", bright) == Ended(
        1, "", f"bmf-trt-seg: no file matches '{tmp_path}/z*.mp4'\n"
    )


def test_a_file_whose_name_looks_like_a_pattern(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "take [1].mp4", frames=2)
    assert cli("segment", source, "-o", tmp_path / "out.mp4", "-m", bright, "-q") == Ended(0, "", "")


def test_names_that_would_collide(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        clips.write_clip(tmp_path / folder / "x.mp4", frames=2)
    ended = cli("segment", tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mp4", "-o", tmp_path / "out", "-m", bright)
    assert ended.code == 2
    assert "would both be written to" in ended.err


def test_several_inputs_into_a_file(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    sources = [clips.write_clip(tmp_path / name, frames=2) for name in ("a.mp4", "b.mp4")]
    (tmp_path / "out.mp4").write_text("mine")
    ended = cli("segment", *sources, "-o", tmp_path / "out.mp4", "-m", bright, "-y")
    assert ended == Ended(
        2, "", f"bmf-trt-seg: '{tmp_path / 'out.mp4'}' is a file, but several inputs need a folder to go to\n"
    )


# --- pictures ------------------------------------------------------------------------------------------------------


def _picture(path: Path, number: int = 0) -> Path:
    grey = clips.luma(number, WIDTH, HEIGHT)
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(path)
    return path


def test_a_picture_in_a_picture_out(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    source, target = _picture(tmp_path / "in.png", 3), tmp_path / "out.png"
    assert cli("segment", source, "-o", target, "-m", bright, "--alpha", "1", "-q") == Ended(0, "", "")
    before, after = np.array(Image.open(source)), np.array(Image.open(target))
    box = clips.box_mask(3, WIDTH, HEIGHT)
    assert (after[box] == (255, 0, 0)).all()
    np.testing.assert_array_equal(after[~box], before[~box])
    assert left_in(tmp_path) == {"in.png", "out.png"}


def test_a_folder_of_pictures(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "c.BMP")):
        _picture(source / name, number)
    (source / "notes.txt").write_text("no picture")
    (source / "d.png").write_text("no picture either")
    ended = cli("segment", source, "-o", target, "-m", bright, "--output", "mask")
    assert ended.code == 1
    assert ended.out == ""
    assert f"{target}: 3 pictures in " in ended.err
    assert ended.err.splitlines()[-1] == f"bmf-trt-seg: '{source / 'd.png'}' is no picture"
    assert left_in(target) == {"a.png", "b.jpg", "c.BMP"}
    mask = np.array(Image.open(target / "a.png"))
    np.testing.assert_array_equal(mask[..., 0] == 255, clips.box_mask(0, WIDTH, HEIGHT))


def test_pictures_and_videos_together(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    sources = [_picture(tmp_path / "a.png"), clips.write_clip(tmp_path / "b.mp4", frames=3)]
    assert cli("segment", *sources, "-o", tmp_path / "out", "-m", bright, "-q") == Ended(0, "", "")
    assert left_in(tmp_path / "out") == {"a.png", "b.mp4"}


def test_what_pictures_cannot_have(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    source = _picture(tmp_path / "in.png")
    ended = cli("segment", source, "-o", tmp_path / "out.png", "-m", bright, "--json", tmp_path / "r")
    assert ended == Ended(2, "", "bmf-trt-seg: --json and --masks are for one video at a time\n")
    ended = cli("segment", source, "-o", tmp_path / "out.mp4", "-m", bright)
    assert ended.code == 2
    assert "a picture is written to .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp, not '.mp4'" in ended.err


def test_a_folder_without_pictures(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    ended = cli("segment", tmp_path, "-o", tmp_path / "out", "-m", bright)
    assert ended.code == 1
    assert ended.err.startswith(f"bmf-trt-seg: the folder '{tmp_path}' has no pictures (.bmp, ")
    assert ended.err.endswith(f"; name videos, as in '{tmp_path}/*.mp4'\n")


# --- render, run, graph, models ------------------------------------------------------------------------------------


def test_render(cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    records, first, again = tmp_path / "r.jsonl", tmp_path / "first.mp4", tmp_path / "again.mp4"
    style = ["--style", "contour", "--crf", "0", "-q"]
    assert cli("segment", plain_clip, "-o", first, "-m", bright, "--json", records, *style).code == 0
    assert cli("render", plain_clip, "--json", records, "-o", again, *style) == Ended(0, "", "")
    for one, other in zip(clips.read_clip(first), clips.read_clip(again), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.planes, other.planes, strict=True))
    other = clips.write_clip(tmp_path / "other.mp4", frames=3, size_wh=(320, 180))
    ended = cli("render", other, "--json", records, "-o", tmp_path / "x.mp4", "-q")
    assert ended.code == 2
    assert "are of another video: frame 0 is 320x180" in ended.err
    ended = cli("render", _picture(tmp_path / "p.png"), "--json", records, "-o", tmp_path / "x.png")
    assert ended.code == 2
    assert "records are of one video, so render takes one video" in ended.err


def _variables(tmp_path: Path, bright: Path, plain_clip: Path) -> list[object]:
    return ["-s", f"INPUT={plain_clip}", "-s", f"OUTPUT={tmp_path / 'out.mp4'}", "--set", f"MODEL={bright}"]


def test_run(cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    ended = cli("run", TEMPLATES / "transcode_overlay.json", *_variables(tmp_path, bright, plain_clip))
    assert (ended.code, ended.out) == (0, "")
    assert re.search(r"^transcode_overlay\.json: done, 30 frames in \d+\.\d s$", ended.err, re.MULTILINE)
    assert left_in(tmp_path) == {"out.mp4"}
    quiet = cli("run", TEMPLATES / "transcode_overlay.json", *_variables(tmp_path, bright, plain_clip), "-q")
    assert quiet == Ended(0, "", "")


def test_graph_check(cli: Callable[..., Ended], tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    template = TEMPLATES / "mask_only.json"
    variables = _variables(tmp_path, bright, plain_clip)
    assert cli("graph", "check", template, *variables) == Ended(0, f"{template}: 4 nodes, nothing wrong\n", "")
    shown = json.loads(cli("graph", "check", template, *variables, "--print").out)
    assert shown["nodes"][0]["option"]["input_path"] == str(plain_clip)
    ended = cli("graph", "check", template)
    assert ended == Ended(
        2, "", f"bmf-trt-seg: graph '{template}' needs a value for INPUT, OUTPUT: --set INPUT=..., or in the "
        "environment\n"
    )  # fmt: skip
    ended = cli("graph", "check", template, *variables, "-s", "STYLE=blur")
    assert ended.code == 2
    assert "has no variable STYLE; it has CLASSES, CODEC, CRF, INPUT" in ended.err


_RAISING = """
from bmf import Module, ProcessResult

class Raising(Module):
    seen = 0

    def process(self, task):
        stream = task.get_inputs()[0]
        while not stream.empty():
            self.seen += 1
            if self.seen > 20:
                raise ValueError("this is\\nbad")
            task.get_outputs()[0].put(stream.get())
        return ProcessResult.OK
"""


def _custom_graph(folder: Path, source: Path, code: str, name: str) -> Path:
    (folder / "custom.py").write_text(code)

    def node(number: int, module: dict[str, str], option: dict[str, str], takes: list[str], gives: list[str]) -> object:
        return {
            "id": number, "scheduler": number, "module_info": module, "option": option,
            "input_streams": [{"identifier": stream} for stream in takes],
            "output_streams": [{"identifier": stream} for stream in gives],
        }  # fmt: skip

    custom = {"name": name, "type": "python", "path": str(folder), "entry": f"custom.{name}"}
    graph = {
        "option": {"scheduler_count": 3}, "input_streams": [], "output_streams": [],
        "nodes": [
            node(0, {"name": "c_ffmpeg_decoder"}, {"input_path": str(source)}, [], ["video:in"]),
            node(1, custom, {}, ["in"], ["out"]),
            node(2, {"name": "c_ffmpeg_encoder"}, {"output_path": str(folder / "out.mp4")}, ["out"], []),
        ],
    }  # fmt: skip
    path = folder / "graph.json"
    path.write_text(json.dumps(graph))
    return path


def test_a_module_that_raises_is_one_line(tmp_path: Path, plain_clip: Path) -> None:
    graph = _custom_graph(tmp_path, plain_clip, _RAISING, "Raising")
    ended = program("run", graph)
    assert ended == Ended(1, "", "bmf-trt-seg: node 1 (Raising) failed: ValueError: this is bad\n")
    assert left_in(tmp_path) - {"__pycache__"} == {"custom.py", "graph.json"}
    ended = program("--debug", "run", graph)
    assert ended.code == 1
    assert 'raise ValueError("this is' in ended.err


def test_a_module_that_exits_is_a_failure(tmp_path: Path, plain_clip: Path) -> None:
    code = _RAISING.replace("raise ValueError", "raise SystemExit(0)  #")
    ended = program("run", _custom_graph(tmp_path, plain_clip, code, "Raising"))
    assert ended == Ended(1, "", "bmf-trt-seg: node 1 (Raising) failed: it called sys.exit(0)\n")


def test_models_list_and_show(
    cli: Callable[..., Ended], bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BMF_TRT_SEG_MODELS", str(tmp_path))
    listed = cli("models", "list")
    assert listed.code == 0
    assert re.search(r"^person +no +256x256 +Apache-2\.0 ", listed.out, re.MULTILINE)
    assert str(tmp_path) in listed.out
    shown = cli("models", "show", bright)
    assert shown.code == 0
    for words in ("'input'", "'output'", "0 background, 1 box", "160x90 RGB float32 nchw"):
        assert words in shown.out
    missing = cli("models", "show", "person")
    assert missing == Ended(
        2, "", "bmf-trt-seg: model 'person' is not here yet: run 'bmf-trt-seg models fetch person'\n"
    )
    ended = cli("models", "fetch", "persn")
    assert ended.code == 2
    assert "there is no model 'persn' to fetch; did you mean 'person'?" in ended.err


# --- progress ------------------------------------------------------------------------------------------------------


def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with progress.Progress("in.mp4", quiet=False) as shown:
        shown.update(0, 100)
        shown.update(25, 100)
        shown.update(30, None)
        shown.say("done")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert re.fullmatch(r"in\.mp4: 25 of 100 frames, \d+\.\d a second, \d+ s left", lines[0])
    assert re.fullmatch(r"in\.mp4: 30 frames, \d+\.\d a second", lines[1])
    assert lines[2:] == ["done"]
    with progress.Progress("in.mp4", quiet=True) as shown:
        shown.update(25, 100)
        shown.say("done")
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough to be interrupted: 1500 frames, slow to encode with what `slow_job` says."""
    return clips.write_clip(tmp_path_factory.mktemp("long") / "long.mp4", frames=1500, size_wh=(320, 180), crf=28)


def slow_job(source: Path, target: Path, model: Path) -> list[str]:
    return [
        PROGRAM, "segment", str(source), "-o", str(target), "-m", str(model), "--preset", "slower", "--crf", "10",
        "--json", str(target.with_suffix(".jsonl")), "--masks", str(target.with_suffix("")),
    ]  # fmt: skip


def _until(descriptor: int, pattern: str, seconds: float = 30.0) -> str:
    """Read a terminal until the pattern has come."""
    seen = ""
    deadline = time.monotonic() + seconds
    while not re.search(pattern, seen):
        assert time.monotonic() < deadline, f"no {pattern!r} in {seen!r}"
        if select.select([descriptor], [], [], 0.5)[0]:
            try:
                seen += os.read(descriptor, 4096).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                pytest.fail(f"no {pattern!r} in {seen!r}")
    return seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_in_mid_run_ends_it_and_leaves_nothing(
    number: signal.Signals, long_clip: Path, tmp_path: Path, bright: Path
) -> None:
    """On a terminal, so that the progress bar is seen as well."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    running = subprocess.Popen(
        slow_job(long_clip, tmp_path / "out.mp4", bright), stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    try:
        bar = _until(ours, r"long\.mp4:[^\r]*\d+/1500")
        assert re.search(r"\d+%", bar)
        assert "frames" in bar
        signalled = time.monotonic()
        running.send_signal(number)
        said = _until(ours, "stopped")
        out, _ = running.communicate(timeout=20)
        assert time.monotonic() - signalled < 8  # 5 s is the longest that a graph is waited for
    finally:
        running.kill()
        running.wait()
        os.close(ours)
    assert running.returncode == 1
    assert f"bmf-trt-seg: stopped by {number.name}" in said
    assert "Traceback" not in said
    assert out == ""
    assert left_in(tmp_path) == set()


_BLOCKING = """
from bmf import Module, ProcessResult
import threading

class Blocking(Module):
    def process(self, task):
        with open("{fifo}", "w") as fifo:
            fifo.write("here")
        threading.Event().wait()
"""


def test_a_module_that_blocks_cannot_hold_a_signal_up(tmp_path: Path, plain_clip: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    graph = _custom_graph(tmp_path, plain_clip, _BLOCKING.format(fifo=fifo), "Blocking")
    running = subprocess.Popen([PROGRAM, "run", str(graph)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert fifo.read_text() == "here"
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=20)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, out, err) == (1, "", "bmf-trt-seg: stopped by SIGTERM\n")
    assert left_in(tmp_path) - {"__pycache__"} == {"custom.py", "graph.json", "fifo"}


def test_a_reader_that_has_left_is_no_error(bright: Path) -> None:
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {PROGRAM} models show {bright} | true"], capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr


def test_a_signal_ends_several_videos_and_not_just_the_first(long_clip: Path, tmp_path: Path, bright: Path) -> None:
    second = tmp_path / "second.mp4"
    second.symlink_to(long_clip)
    command = [PROGRAM, "segment", str(long_clip), str(second), "-o", str(tmp_path / "out"), "-m", str(bright),
               "--preset", "slower", "-v"]  # fmt: skip
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert running.stderr is not None
        _until(running.stderr.fileno(), "bright.onnx")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    finally:
        running.kill()
    assert running.returncode == 1
    assert said.decode().count("stopped by SIGINT") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_the_file_is_finished_leaves_nothing(
    number: signal.Signals, cli: Callable[..., Ended], plain_clip: Path, tmp_path: Path, bright: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupted(_encoded: Path, _source: Path, target: Path) -> None:
        target.write_bytes(b"half a file")
        os.kill(os.getpid(), number)
        pytest.fail("the signal was not heard")

    monkeypatch.setattr("bmf_trt_seg.transcode.finish_video", interrupted)
    ended = cli("segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", bright, "-q")
    assert (ended.code, ended.err.strip()) == (1, "bmf-trt-seg: stopped")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed: str, plain_clip: Path, tmp_path: Path, bright: Path) -> None:
    words = [PROGRAM, "segment", str(plain_clip), "-o", str(tmp_path / "out.mp4"), "-m", str(bright)]
    run = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *words], capture_output=True, timeout=60)
    assert run.returncode == 0
    assert len(clips.read_clip(tmp_path / "out.mp4")) == 30


@pytest.mark.parametrize("flag", ["--json", "--masks"])
def test_no_output_replaces_the_input(
    flag: str, cli: Callable[..., Ended], plain_clip: Path, tmp_path: Path, bright: Path
) -> None:
    before = plain_clip.read_bytes()
    ended = cli("segment", plain_clip, "-o", tmp_path / "out.mp4", "-m", bright, flag, plain_clip, "-y")
    assert ended.code == 2
    assert ended.err == f"bmf-trt-seg: '{plain_clip}' is the input; choose another name for the output\n"
    assert plain_clip.read_bytes() == before
    assert left_in(tmp_path) == set()


def test_one_output_for_two_things_is_refused(
    cli: Callable[..., Ended], plain_clip: Path, tmp_path: Path, bright: Path
) -> None:
    target = tmp_path / "out.mp4"
    ended = cli("segment", plain_clip, "-o", target, "--json", target, "-m", bright)
    assert (ended.code, left_in(tmp_path)) == (2, set())
    assert "would be written twice" in ended.err


def test_a_graph_does_not_replace_its_input(cli: Callable[..., Ended], plain_clip: Path, bright: Path) -> None:
    before = plain_clip.read_bytes()
    ended = cli("run", TEMPLATES / "transcode_overlay.json", "-s", f"INPUT={plain_clip}", "-s", f"OUTPUT={plain_clip}",
                "-s", f"MODEL={bright}")  # fmt: skip
    assert (ended.code, plain_clip.read_bytes()) == (2, before)
    assert "is the input" in ended.err


def test_a_graph_says_that_its_input_is_damaged(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    whole = clips.write_clip(tmp_path / "whole.mp4", frames=50, mux_options=(("movflags", "+faststart"),))
    source = clips.cut(tmp_path / "cut.mp4", whole, 0.6)
    ended = cli("run", TEMPLATES / "transcode_overlay.json", "-s", f"INPUT={source}",
                "-s", f"OUTPUT={tmp_path / 'out.mp4'}", "-s", f"MODEL={bright}", "-q")  # fmt: skip
    assert ended.code == 1
    assert re.fullmatch(rf"bmf-trt-seg: '{source}' is damaged: .*; what could be decoded was processed\n", ended.err)


def test_one_bad_file_of_several_is_reported_and_passed_over(
    cli: Callable[..., Ended], plain_clip: Path, tmp_path: Path, bright: Path
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    ended = cli("segment", empty, plain_clip, "-o", tmp_path / "out", "-m", bright, "-q")
    assert (ended.code, ended.err) == (1, f"bmf-trt-seg: '{empty}' is empty (0 bytes)\n")
    assert left_in(tmp_path / "out") == {"plain.mp4"}


def test_a_run_that_fails_leaves_older_masks(cli: Callable[..., Ended], tmp_path: Path, bright: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "00000000.png").touch()
    source = clips.text_file(tmp_path / "text.mp4")
    assert cli("segment", source, "-o", tmp_path / "o.mp4", "-m", bright, "--masks", tmp_path / "masks", "-y").code == 1
    assert left_in(tmp_path / "masks") == {"00000000.png"}


def test_masks_of_a_longer_video_do_not_stay(
    cli: Callable[..., Ended], plain_clip: Path, tmp_path: Path, bright: Path
) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("00000099.png", "mine.png"):
        (tmp_path / "masks" / name).touch()
    assert (
        cli("segment", plain_clip, "-o", tmp_path / "o.mp4", "-m", bright, "--masks", tmp_path / "masks", "-y").code
        == 0
    )
    assert left_in(tmp_path / "masks") == {f"{number:08d}.png" for number in range(30)} | {"mine.png"}


def test_a_run_that_fails_leaves_no_empty_folders(cli: Callable[..., Ended], tmp_path: Path, plain_clip: Path) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(plain_clip.read_bytes())
    (tmp_path / "bad.png").write_text("no picture")
    new = tmp_path / "new" / "deep"
    assert cli("segment", plain_clip, other, "-o", new, "--json", tmp_path / "records.jsonl").code == 2
    assert cli("images", "-i", tmp_path / "bad.png", "-o", new).code == 1
    assert not new.parent.exists()
    assert cli("segment", plain_clip, other, "-o", new).code == 0
    assert len(list(new.iterdir())) == 2
