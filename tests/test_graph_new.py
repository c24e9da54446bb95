"""Graphs that `graph new` writes: that they run as they are, and say what they are in the documentation's words."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import av
import clips
import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from commands import Cli, Ended, runner
from jobs import left_in

from bmf_trt_seg.graph import check_graph, load_graph
from bmf_trt_seg.graph_new import as_text, new_graph
from bmf_trt_seg.graph_schema import json_schema
from bmf_trt_seg.models import packages
from bmf_trt_seg.models.catalog import CATALOG, fetch

DOCS = Path(__file__).parents[1] / "docs"
CAMERA = "rtsp://192.0.2.10/stream"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("INPUT", "OUTPUT", "MODEL", "STYLE", "CLASSES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tflite_files: dict[str, bytes]) -> None:
    """The real network, known by its name."""

    def stand_in(_requirement: str, sha256_of: dict[str, str]) -> dict[str, bytes]:
        return {model.member: tflite_files[model.name] for model in CATALOG.values() if model.member in sha256_of}

    monkeypatch.setenv("BMF_TRT_SEG_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(packages, "files_from_wheel", stand_in)
    fetch("person")


def astronaut_clip(path: Path, astronaut: npt.NDArray[np.uint8]) -> Path:
    """A second of the portrait standing still, with sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"crf": "10", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 512, 512, "yuv420p"
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(astronaut, format="rgb24")))
        container.mux(video.encode())
    return path


# --- graphs that run -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("person")
def test_a_film_with_the_real_network(cli: Cli, astronaut: npt.NDArray[np.uint8]) -> None:
    astronaut_clip(Path("in.mp4"), astronaut)
    assert cli("graph", "new", "g.json", "-i", "in.mp4", "-o", "out.mp4", "--style", "cutout") == Ended(
        0, "g.json\n", ""
    )
    assert cli("graph", "check", "g.json") == Ended(0, "g.json: 3 nodes, nothing wrong\n", "")
    ended = cli("run", "g.json")
    assert (ended.code, ended.out) == (0, "")
    assert "g.json: done, 10 frames in " in ended.err
    assert left_in(Path()) == {"g.json", "in.mp4", "out.mp4"}
    with av.open("out.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 10
    face, corner = frames[-1][100:160, 200:260], frames[-1][10:60, 400:450]
    assert np.abs(face - astronaut[100:160, 200:260]).mean() < 6
    assert np.abs(corner - (0x00, 0xB1, 0x40)).mean() < 12, "the rocket is cut out"


def test_what_was_given_are_defaults(cli: Cli, bright: Path, plain_clip: Path) -> None:
    assert cli("graph", "new", "g.json", "-i", "missing.mp4", "-o", "a.mkv", "-m", bright).code == 0
    ended = cli(
        "run", "g.json", "-q", "--set", f"INPUT={plain_clip}", "--set", "OUTPUT=b.mkv", "--set", "STYLE=contour"
    )
    assert ended == Ended(0, "", "")
    assert left_in(Path()) == {"g.json", "b.mkv"}
    with av.open("b.mkv") as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video"]
    assert clips.packets_of(Path("b.mkv"), "audio")[0]


def test_a_camera_is_recorded(cli: Cli, bright: Path, tmp_path: Path) -> None:
    """The graph of a camera, fed by a file in real time, which ends."""
    film = clips.write_clip(tmp_path / "short.mp4", frames=12, audio=("aac",))
    assert cli("graph", "new", "g.json", "-i", CAMERA, "-o", "rec/door.mp4", "-m", bright).code == 0
    assert cli("run", "g.json", "-q", "--set", f"INPUT={film}").code == 0
    (recording,) = Path("rec").iterdir()
    assert re.fullmatch(r"door-\d{8}T\d{6}\.mp4", recording.name)
    with av.open(str(recording)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video"]
        assert sum(1 for _ in container.decode(video=0)) >= 12


# --- what is written -----------------------------------------------------------------------------------------------

WISHES = [
    ("in.mp4", "out.mp4"),
    (CAMERA, "rec/door.mkv"),
    (CAMERA, "rec/door"),
    (CAMERA, "rtmp://192.0.2.20/live/key"),
    ("${FILM}", "${FOLDER:-a}/out.ts"),
    ("rtsp://viewer:${DOOR_PASSWORD}@192.0.2.10/stream", "rec/door.mp4"),
    ("with 'quotes\" and {braces}.mp4", "out.mp4"),
]


@pytest.mark.parametrize(("source", "target"), WISHES)
def test_it_passes_the_check_and_the_schema(
    source: str, target: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "s3cret")
    monkeypatch.setenv("FILM", "film.mp4")
    assert cli("graph", "new", "g.json", "-i", source, "-o", target).code == 0
    text = Path("g.json").read_text(encoding="utf-8")
    written = json.loads(text)
    jsonschema.Draft202012Validator(json_schema("graph")).validate(written)
    assert cli("graph", "check", "g.json").err == ""
    graph = load_graph(Path("g.json"))
    assert check_graph(graph) == []
    first, _, last = (node["option"] for node in graph["nodes"])
    fill = source.replace("${DOOR_PASSWORD}", "s3cret").replace("${FILM}", "film.mp4")
    assert fill in first.values()
    assert target.replace("${FOLDER:-a}", "a") in json.dumps(last)
    assert all(node["comment"] for node in [written, *written["nodes"]])
    assert max(map(len, text.splitlines())) <= 120


def test_an_output_is_of_the_kind_that_its_name_says() -> None:
    kinds = {target: new_graph(CAMERA, target, "blend", "person") for source, target in WISHES[1:4]}
    outputs = {target: graph["nodes"][2]["option"]["outputs"][0]["kind"] for target, graph in kinds.items()}
    assert outputs == {"rec/door.mkv": "file", "rec/door": "hls", "rtmp://192.0.2.20/live/key": "push"}


def words(text: str) -> str:
    """Text without marks and line breaks."""
    return " ".join(re.sub(r"[`*]", "", text).split())


@pytest.mark.parametrize("source", ["in.mp4", CAMERA])
def test_comments_are_in_the_words_of_the_documentation(source: str) -> None:
    pages = [DOCS.parent / "README.md", DOCS / "graphs.md", DOCS / "options.md"]
    said = words(" ".join(page.read_text(encoding="utf-8") for page in pages))
    graph = new_graph(source, "out.mp4", "blend", "person")
    network = words(" ".join(graph["nodes"][1]["comment"]))
    for option in ("model", "classes", "style"):
        assert f"{option}: " in network
    for sentence in re.findall(r"(?:model|classes|style): (.*?\.)(?= |$)", network):
        assert sentence in said
    above = words(" ".join(graph["comment"]))
    for sentence in (
        "the people in it (or whatever your network knows) marked",
        "${NAME} and ${NAME:-default} are filled in from --set or the environment, and the graph is checked before it "
        "runs: modules, streams that nobody produces, options",
        "give decoder, network and encoder one each",
    ):
        assert sentence in above
        assert sentence in said
    first = words(" ".join(graph["nodes"][0]["comment"]))
    of_camera = (
        "A camera that goes away is opened again for as long as it takes; meanwhile its video goes on with the last "
        'frame and a "no signal" mark'
    )
    sentence = of_camera if source == CAMERA else "The decoder ends at damage as if the video were over"
    assert sentence in first
    assert sentence in said


def test_json_is_written_in_few_lines() -> None:
    value = {"short": [1, {"a": None}], "empty": {}, "long": ["x" * 60, "y" * 60], "deep": {"a": {"b": "z" * 110}}}
    text = as_text(value)
    assert json.loads(text) == value
    assert '  "short": [1, {"a": null}],\n' in text
    assert text.count("\n") == 12


# --- questions -----------------------------------------------------------------------------------------------------


class Somebody(io.StringIO):
    """A terminal at which these answers are typed."""

    def isatty(self) -> bool:
        return True


def test_what_flags_do_not_say_is_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Somebody("in.mp4\nout.mp4\nnice\nblur\n"))
    ended = cli("graph", "new", "g.json")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "g.json")
    asked = ended.err + ended.out
    for question in ("Video file, or address of a camera", "File to write", "Style", "'nice' is not one of"):
        assert question in asked
    options = [node["option"] for node in load_graph(Path("g.json"))["nodes"]]
    assert (options[0]["input_path"], options[1]["style"], options[2]["output_path"]) == ("in.mp4", "blur", "out.mp4")


def test_flags_are_not_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Somebody(""))
    assert cli("graph", "new", "g.json", "-i", "a.mp4", "-o", "b.mp4", "--style", "blur") == Ended(0, "g.json\n", "")


def test_ctrl_c_at_a_question_leaves_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Somebody("in.mp4\n"))  # and then the end of input
    assert cli("graph", "new", "g.json").code == 1
    assert left_in(Path()) == set()


def test_without_a_terminal_missing_flags_are_named(cli: Cli) -> None:
    ended = cli("graph", "new", "g.json")
    assert ended.code == 2
    assert "Error: --input is missing: video file, or address of a camera" in ended.err
    ended = cli("graph", "new", "g.json", "-i", "a.mp4")
    assert "Error: --out is missing: file to write" in ended.err
    assert cli("graph", "new", "g.json", "-i", "a.mp4", "-o", "b.mp4").code == 0
    assert load_graph(Path("g.json"))["nodes"][1]["option"]["style"] == "blend"


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_graph_is_not_replaced(cli: Cli) -> None:
    Path("g.json").write_text("old")
    flags = ("-i", "a.mp4", "-o", "b.mp4")
    ended = cli("graph", "new", "g.json", *flags)
    assert ended.code == 2
    assert "Error: 'g.json' exists; give -y to replace it" in ended.err
    assert Path("g.json").read_text() == "old"
    assert cli("graph", "new", "g.json", *flags, "-y").code == 0
    assert len(load_graph(Path("g.json"))["nodes"]) == 3


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ("-i a.mp4 -o a.mp4", 2, "'a.mp4' is the input; choose another name for the output"),
        ("-i a.mp4 -o out", 2, "'out': a video file is written to a file that ends in .mp4, .m4v, .mov, .mkv, .ts"),
        ("-i a.mp4 -o rtmp://u:s3cret@b/c/d", 2, "'rtmp://***@b/c/***': a video file is written to a file"),
        (f"-i {CAMERA} -o a.m3u8", 2, "'a.m3u8': a camera is recorded in files that end in .mp4, .mkv, .ts, or in a"),
        (f"-i {CAMERA} -o ftp://u:s3cret@b/c", 2, "expected an address that begins with rtmp://"),
        ("-i a.mp4 -o b.mp4 -m ''", 2, "option 'model' is missing"),
        ("-i a.mp4 -o b.mp4 --style nice", 2, "'nice' is not one of"),
    ],
)
def test_what_cannot_be_is_told_and_nothing_written(flags: str, code: int, said: str, cli: Cli) -> None:
    ended = cli("graph", "new", "g.json", *shlex.split(flags))
    assert ended.code == code
    assert said in ended.err
    assert "s3cret" not in ended.err
    assert left_in(Path()) == set()


def test_a_folder_that_is_not_there(cli: Cli) -> None:
    ended: Any = cli("graph", "new", "none/g.json", "-i", "a.mp4", "-o", "b.mp4")
    assert (ended.code, ended.err) == (
        1, "bmf-trt-seg: 'none/g.json' cannot be written: the folder 'none' does not exist\n",
    )  # fmt: skip
