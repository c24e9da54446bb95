"""The picture of a graph: what it says, what it keeps to itself, and that nothing in it overlaps."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Cli, runner

from bmf_trt_seg.graph_boxes import boxes_of
from bmf_trt_seg.graph_drawing import drawing

TOP = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


def node(number: int, name: str, takes: str, gives: str, option: Any = None, entry: str = "", **more: Any) -> Any:
    return {
        "id": number, "module_info": {"name": name, "entry": entry}, "option": option or {}, **more,
        "input_streams": [{"identifier": stream} for stream in takes.split()],
        "output_streams": [{"identifier": stream} for stream in gives.split()],
    }  # fmt: skip


def ours(number: int, entry: str, takes: str, gives: str, option: Any = None, **more: Any) -> Any:
    return node(number, entry.rpartition(".")[2], takes, gives, option, f"bmf_trt_seg.{entry}", **more)


COMPLEX = {
    "input_streams": [{"identifier": "video:outer"}],
    "output_streams": [{"identifier": "scaled"}],
    "nodes": [
        ours(0, "sources.LiveSource", "", "camera sound", {"url": "rtsp://192.0.2.1/a"}, alias="door"),
        node(1, "c_ffmpeg_decoder", "", "video:film audio:filmsound", {"input_path": "/a/" + "long/" * 30 + "b.mp4"}),
        ours(2, "module.SegmentModule", "camera", "drawn records", {
            "model": "person", "style": "contour", "interval": 3, "smoothing": 0.5, "threshold": 0.3, "legend": True,
            "batch_size": 4, "classes": ["a", "b"], "palette": {"a": "#00ff00"}, "alpha": 0.2, "threads": 2,
        }),
        ours(3, "module.SegmentModule", "film", "roads", {"model": "roads.onnx"}),
        node(4, "c_ffmpeg_filter", "drawn roads", "both", {"name": "overlay"}),
        node(5, "c_ffmpeg_filter", "both", "scaled", {"name": "scale", "para": "320:-2"}),
        node(6, "Other", "scaled outer", "checked", {"rate": 5}, entry="mine.Other"),
        ours(7, "live_sink.LiveSink", "both sound", "", {"outputs": [
            {"kind": "file", "path": "rec/door.mp4"}, {"kind": "push", "url": "rtmp://192.0.2.2/live/key"}]}),
        ours(8, "sinks.RecordSink", "records", "", {"json": "records.jsonl"}),
        node(9, "c_ffmpeg_encoder", "checked filmsound", "", {"output_path": "a.mp4", "video_params": {"crf": 20}}),
        node(10, "c_ffmpeg_encoder", "film typo", "", {"output_path": "音声と映像.mp4"}),
    ],
}  # fmt: skip
CIRCLE = {"nodes": [node(0, "a", "back", "x"), node(1, "b", "x", "y back"), node(2, "c", "y", "")]}
CHAIN = {"nodes": [node(number, "m", f"s{number - 1}", f"s{number}") for number in range(1500)]}
BARE = {"nodes": [{}, {"id": [], "module_info": 5, "option": 7, "input_streams": 3, "output_streams": [{}]}]}
TEMPLATES = sorted((TOP / "graphs").glob("*.json"))
GRAPHS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in TEMPLATES} | {
    "complex": COMPLEX, "circle": CIRCLE, "bare": BARE,
}  # fmt: skip


def picture(graph: Any) -> ET.Element:
    return ET.fromstring(drawing(boxes_of(graph), "graph.json"))


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def boxes(root: ET.Element) -> list[Rectangle]:
    """The frames of the nodes."""
    frames = [group.find(f"{SVG}rect") for group in root.iter(f"{SVG}g")]
    sizes = ("x", "y", "width", "height")
    found = [[float(frame.get(key, "")) for key in sizes] for frame in frames if frame is not None]
    return [(x, y, x + width, y + height) for x, y, width, height in found]


def points(root: ET.Element) -> Iterator[tuple[float, float]]:
    """Points along every line between nodes."""
    for path in root.findall(f"{SVG}path"):
        x = y = 0.0
        for command, rest in re.findall(r"([MHVhC])([^MHVhC]*)", path.get("d", "")):
            numbers = [float(number) for number in rest.split()]
            if command == "M":
                x, y = numbers
                continue
            if command == "C":
                curve = [(x, y), (numbers[0], numbers[1]), (numbers[2], numbers[3]), (numbers[4], numbers[5])]
            else:
                to = {"H": (numbers[0], y), "h": (x + numbers[0], y), "V": (x, numbers[0])}[command]
                curve = [(x, y), (x, y), to, to]
            for step in range(21):
                t = step / 20
                weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
                x, y = (sum(w * p[axis] for w, p in zip(weights, curve, strict=True)) for axis in (0, 1))
                yield x, y


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_overlaps_and_everything_is_on_the_sheet(name: str) -> None:
    root = picture(GRAPHS[name])
    frames = boxes(root)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for number, (left, top, right, bottom) in enumerate(frames):
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height
        for other in frames[:number]:
            assert right < other[0] or other[2] < left or bottom < other[1] or other[3] < top
    for x, y in points(root):
        assert 0 <= x <= width
        assert 0 <= y <= height
        behind = [frame for frame in frames if frame[0] + 1 < x < frame[2] - 1 and frame[1] < y < frame[3]]
        assert behind == [], "a line runs behind a node"


@pytest.mark.parametrize("name", GRAPHS)
def test_texts_stay_in_their_nodes(name: str) -> None:
    root = picture(GRAPHS[name])
    for group in root.iter(f"{SVG}g"):
        frame = group.find(f"{SVG}rect")
        assert frame is not None
        left = float(frame.get("x", ""))
        right = left + float(frame.get("width", ""))
        rows: dict[str, list[tuple[float, float]]] = {}
        for text in group.findall(f"{SVG}text"):
            wide = sum(2 if ord(letter) > 0x2E80 else 1 for letter in text.text or "") * 7.23
            x = float(text.get("x", ""))
            span = (x - wide, x) if text.get("text-anchor") == "end" else (x, x + wide)
            assert left < span[0]
            assert span[1] < right
            for other in rows.setdefault(text.get("y", ""), []):
                assert span[1] < other[0] or other[1] < span[0], f"{text.text} overlaps"
            rows[text.get("y", "")].append(span)


def test_it_says_what_a_node_is_and_does() -> None:
    said = texts(picture(COMPLEX))
    for words in (
        "0 door", "camera", "LiveSource", "rtsp://192.0.2.1/a", "network", "SegmentModule", "person", "contour", "a, b",
        "and 4 more", "filter", "scale", "320:-2", "module", "Other (mine.Other)", "rate", "file", "rec/door.mp4",
        "encoder", "a.mp4", "crf", "20", "video:film", "audio:filmsound", "音声と映像.mp4", "from outside",
        "to outside",
    ):  # fmt: skip
        assert words in said, words
    assert "5" not in {said[said.index("Other (mine.Other)") + number] for number in (1, 2)}
    (path,) = [words for words in said if words.startswith("/a/long/")]
    assert len(path) == 40
    assert path.endswith("long/b.mp4")


def test_every_stream_is_a_line() -> None:
    root = picture(COMPLEX)
    named = {title.text for title in root.findall(f"{SVG}path/{SVG}title")}
    assert named == {
        "camera", "sound", "video:film", "audio:filmsound", "drawn", "records", "roads", "both", "scaled", "checked",
        "video:outer",
    }  # fmt: skip


def test_a_stream_that_nobody_gives_is_red() -> None:
    red = [text for text in picture(COMPLEX).iter(f"{SVG}text") if text.get("fill") == "#c01c28"]
    assert [text.text for text in red] == ["typo"]


def test_options_at_their_default_are_left_out() -> None:
    said = texts(picture(GRAPHS["transcode_overlay"]))
    assert "${MODEL:-person}" in said, "variables are put in by the command"
    graph = {"nodes": [ours(1, "module.SegmentModule", "a", "b", {"model": "x", "alpha": "0.5", "threads": 1})]}
    assert not {"alpha", "threads"} & set(texts(picture(graph)))


SECRET = "s3cret"
ADDRESSES = [
    f"rtsp://viewer:{SECRET}@192.0.2.10/stream",
    f"rtsp://viewer:{SECRET} with a blank@192.0.2.10/stream",
    f"rtsp://viewer:a/{SECRET}@b@192.0.2.10/stream",
    f"rtsp:/viewer:{SECRET}@192.0.2.10/stream",
    f"viewer:{SECRET}@192.0.2.10/stream",
    f"http://192.0.2.10/live?user=a&code={SECRET}",
    f"rtmp://192.0.2.10/live/{SECRET}",
    f"[f=flv]rtmp://a:{SECRET}@192.0.2.10/live/x|[f=flv]rtmp://b:{SECRET}@192.0.2.10/live/y",
    f"rtsp://{'long' * 20}:{SECRET}@192.0.2.10/stream",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_secrets_are_not_shown(address: str) -> None:
    stream = address.replace(" ", "")
    graph = {
        "nodes": [
            ours(0, "sources.LiveSource", "", f"a {stream}", {"url": address, "name": address}, alias=address),
            node(1, "c_ffmpeg_decoder", stream, "b", {"input_path": address, "dec_params": {"key": SECRET}}),
            node(2, "c_ffmpeg_encoder", "a", "", {"output_path": address}),
            ours(3, "live_sink.LiveSink", "b", "", {
                "outputs": [{"kind": "push", "url": address}], "encoder_options": {"key": SECRET}}),
            node(4, "Other", "b", "", {"password": SECRET, "nested": {"key": SECRET}, "list": [SECRET]}, entry="a.B"),
            node(5, "unknown", "b", "", {"key": SECRET}),
            node(6, "c_ffmpeg_filter", "b", "", {"name": "movie", "para": address}),
        ]
    }  # fmt: skip
    shown = drawing(boxes_of(graph), "graph.json")
    assert SECRET not in shown
    assert "192.0.2.10" in shown


def test_a_login_in_a_variable_is_not_shown(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADER", SECRET)
    url = f"rtsp://${{USER:-anna}}:${{PASSWORD:-{SECRET}}}@${{HOST}}/a"
    graph = {"nodes": [ours(0, "sources.LiveSource", "", "a", {"url": url, "name": "${HEADER}"})]}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    shown = cli("graph", "show", tmp_path / "graph.json", "-s", "HOST=camera").out
    assert "rtsp://***@camera/a" in shown
    assert "${HEADER}" in shown
    assert SECRET not in shown
    assert "anna" not in shown


def test_whatever_a_text_holds_it_is_xml() -> None:
    name = "<&\"'>\u0000\u001b[31m\ud800\u202e\n]]>"
    graph = {"nodes": [node(0, name, name, name, {name: name}, alias=name, entry=f"x.{name}")]}
    root = ET.fromstring(drawing(boxes_of(graph), name).encode("utf-8"))
    assert any("<&\"'>??[31m" in text for text in texts(root))


def test_long_chains_are_drawn() -> None:
    assert len(boxes(picture(CHAIN))) == 1500


def test_circles_are_drawn() -> None:
    frames = boxes(picture(CIRCLE))
    assert [frame[0] for frame in frames] == sorted(frame[0] for frame in frames)


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_templates_are_drawn_without_values(cli: Cli, template: Path, tmp_path: Path) -> None:
    target = tmp_path / "graph.svg"
    assert vars(cli("graph", "show", template, "-o", target)) == {"code": 0, "out": "", "err": ""}
    written = target.read_text(encoding="utf-8")
    assert cli("graph", "show", template).out == written
    said = texts(ET.fromstring(written))
    assert template.name in said
    assert "${INPUT}" in said
    assert "${OUTPUT}" in said
    assert not any(":-" in words for words in said)


def test_values_are_put_in(cli: Cli) -> None:
    template = TOP / "graphs" / "transcode_overlay.json"
    said = texts(ET.fromstring(cli("graph", "show", template, "-s", "INPUT=holiday.mp4").out))
    assert {"holiday.mp4", "${OUTPUT}", "person", "libx264"} <= set(said)
    ended = cli("graph", "show", template, "-s", "INPT=holiday.mp4")
    assert (ended.code, ended.out) == (2, "")
    assert "has no variable INPT; it has ALPHA, CLASSES" in ended.err


def test_a_picture_is_not_replaced(cli: Cli, tmp_path: Path) -> None:
    template, target = TOP / "graphs" / "transcode_overlay.json", tmp_path / "graph.svg"
    target.write_text("old")
    ended = cli("graph", "show", template, "-o", target)
    assert ended.code == 2
    assert f"Error: '{target}' exists; give -y to replace it" in ended.err
    assert target.read_text() == "old"
    assert cli("graph", "show", template, "-o", target, "-y").code == 0
    assert target.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "line 1, column 2"),
        ("[]", "expected a JSON object with 'nodes', got a list"),
        ("{}", "graph: 'nodes' should be a list of objects"),
        ('{"nodes": [1]}', "graph: 'nodes' should be a list of objects"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(cli: Cli, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "graph.json").write_text(content)
    ended = cli("graph", "show", tmp_path / "graph.json", "-o", tmp_path / "a.svg")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith(f"bmf-trt-seg: graph '{tmp_path / 'graph.json'}'")
    assert words in line
    assert not (tmp_path / "a.svg").exists()


def test_other_kinds_of_pictures_are_refused(cli: Cli, tmp_path: Path) -> None:
    ended = cli("graph", "show", TOP / "graphs" / "mask_only.json", "-o", tmp_path / "a.png")
    assert ended.code == 2
    assert f"'{tmp_path / 'a.png'}': the picture is SVG, so its name should end in .svg" in ended.err


def test_a_folder_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    ended = cli("graph", "show", TOP / "graphs" / "mask_only.json", "-o", tmp_path / "none" / "a.svg")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "the folder" in ended.err


def test_the_picture_of_the_documentation_is_of_this_code(cli: Cli) -> None:
    shown = cli("graph", "show", TOP / "graphs" / "nvdec_overlay.json").out
    committed = (TOP / "docs" / "images" / "graph.svg").read_text(encoding="utf-8")
    assert shown == committed, "run bmf-trt-seg graph show -y graphs/nvdec_overlay.json -o docs/images/graph.svg"
