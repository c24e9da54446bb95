"""The JSON Schemas of graphs and feeds: that they say what the check says."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import Cli, runner
from test_options import WRONG

from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.graph import check_graph, load_graph
from bmf_trt_seg.graph_format import OWN_MODULES
from bmf_trt_seg.graph_schema import json_schema
from bmf_trt_seg.live.feeds import CameraFeed, GraphFeed, read_feeds
from bmf_trt_seg.live_outputs.options import FileOutput, HlsOutput, LiveSinkOptions, PushOutput
from bmf_trt_seg.options import LiveOptions, SegmentOptions, option_table

TOP = Path(__file__).parents[1]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
SCHEMAS = {"graph": json_schema("graph"), "feeds": json_schema("feeds")}
GRAPH, FEEDS = (jsonschema.Draft202012Validator(SCHEMAS[kind]) for kind in ("graph", "feeds"))
OURS = {entry.rpartition(".")[2]: entry for entry in OWN_MODULES}


def refusals(validator: jsonschema.Draft202012Validator, content: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


def node(number: int, name: str, takes: list[str], gives: list[str], option: Any = None, **more: Any) -> dict[str, Any]:
    info = {"name": name, "entry": OURS[name]} if name in OURS else {"name": name}
    made = {
        "id": number, "scheduler": number, "module_info": info,
        "input_streams": [{"identifier": stream} for stream in takes],
        "output_streams": [{"identifier": stream} for stream in gives],
    }  # fmt: skip
    return {**made, **({} if option is None else {"option": option}), **more}


def graph_of(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"option": {"scheduler_count": 9}, "input_streams": [], "output_streams": [], "nodes": list(nodes)}


def overlay(**segment: Any) -> dict[str, Any]:
    """A graph with these options of SegmentModule."""
    return graph_of(
        node(0, "c_ffmpeg_decoder", [], ["video:in"], {"input_path": "in.mp4"}),
        node(1, "SegmentModule", ["video:in"], ["drawn"], {"model": "person", **segment}),
        node(2, "c_ffmpeg_encoder", ["drawn"], [], {"output_path": "out.mp4"}),
    )


def recording(source: Any = None, **sink: Any) -> dict[str, Any]:
    """A graph with these options of LiveSource and LiveSink."""
    return graph_of(
        node(0, "LiveSource", [], ["camera"], source or {"url": "rtsp://camera"}),
        node(1, "LiveSink", ["camera"], [], {"outputs": [{"kind": "hls", "path": "out"}], **sink}),
    )


def changed(*keys: Any, to: Any = ..., graph: Callable[[], dict[str, Any]] = overlay) -> dict[str, Any]:
    content = graph()
    *way, last = keys
    place: Any = content
    for key in way:
        place = place[key]
    if to is ...:
        del place[last]
    else:
        place[last] = to
    return content


# --- the schemas themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEMAS)
def test_it_is_a_schema(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = runner(capfd)("graph", "schema", "--for", kind)
    assert (ended.code, ended.err) == (0, "")
    printed = json.loads(ended.out)
    assert printed == SCHEMAS[kind]
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(printed)
    references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', ended.out))
    assert references <= set(printed["$defs"])


def test_graphs_are_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(runner(capfd)("graph", "schema").out) == SCHEMAS["graph"]


@pytest.mark.parametrize("entry", OWN_MODULES)
def test_every_option_has_its_description_its_default_and_a_type(entry: str) -> None:
    model = OWN_MODULES[entry].options
    properties = SCHEMAS["graph"]["$defs"][model.__name__]["properties"]
    assert list(properties) == [field.alias or name for name, field in model.model_fields.items()]
    for name, field in model.model_fields.items():
        prop = properties[field.alias or name]
        assert prop["description"] == field.description
        assert set(prop) & {"type", "anyOf", "$ref"}
        if not field.is_required():
            assert prop["default"] == json.loads(json.dumps(model.model_construct().model_dump(mode="json")[name]))


def test_the_table_of_the_documentation_says_the_same() -> None:
    properties = SCHEMAS["graph"]["$defs"]["SegmentOptions"]["properties"]
    for name, default, allowed, meaning in option_table():
        assert properties[name]["description"] == meaning
        assert default in ("{}", json.dumps(properties[name]["default"]))
        for word in re.findall(r"'(\w+)'(?= or |$)", allowed):
            assert any(word in member.get("enum", [word]) for member in properties[name].get("anyOf", []))


def test_names_to_choose_from_are_listed() -> None:
    definitions = SCHEMAS["graph"]["$defs"]
    (styles,) = [m["enum"] for m in definitions["SegmentOptions"]["properties"]["style"]["anyOf"] if "enum" in m]
    assert styles == ["blend", "blur", "contour", "cutout", "sidebyside"]
    (entries,) = [m["enum"] for m in definitions["ModuleInfo"]["properties"]["entry"]["anyOf"] if "enum" in m]
    assert entries == list(OWN_MODULES)


@pytest.mark.parametrize("model", [CameraFeed, GraphFeed, FileOutput, HlsOutput, PushOutput, LiveSinkOptions])
def test_fields_of_feeds_are_described(model: Any) -> None:
    definitions = SCHEMAS["feeds"]["$defs"]
    properties = {**definitions.get(model.__name__, definitions["Encoder"])["properties"], "name": {}, "outputs": {}}
    assert set(model.model_fields) <= set(properties)


# --- files that are right ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", sorted((TOP / "graphs").glob("*.json")), ids=lambda path: path.stem)
def test_templates_are_right_with_and_without_values(template: Path) -> None:
    assert refusals(GRAPH, json.loads(template.read_text(encoding="utf-8"))) == []
    filled = load_graph(template, {"INPUT": "a", "OUTPUT": "b", "MODEL": "c"})
    assert refusals(GRAPH, filled) == []
    assert check_graph(filled) == []
    assert refusals(GRAPH, filled) == [], "paths put in"


def test_json_of_the_documentation_is_right() -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    blocks = [json.loads(block) for text in texts for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    nodes = [block for block in blocks if "module_info" in block]
    feeds = [block for block in blocks if "feeds" in block]
    assert len(nodes) >= 3
    assert len(feeds) >= 2
    for block in nodes:
        assert refusals(GRAPH, graph_of(block)) == []
    for block in [*feeds, json.loads((TOP / "demo" / "feeds.json").read_text(encoding="utf-8"))]:
        assert refusals(FEEDS, block) == []


GOOD = {
    "plain": overlay(),
    "an address of the schema, and comments": {
        "$schema": "graph.schema.json", "comment": ["a", "b"], **changed("nodes", 1, "comment", to="c"),
    },
    "options of modules of others": graph_of(
        node(0, "c_ffmpeg_decoder", [], ["in"], {"input_path": "a", "nobody": ["knows"]}),
        node(1, "pass_through", ["in"], ["out"], {"any": {"thing": None}}),
        node(2, "c_ffmpeg_filter", ["out"], ["less"], {"name": "fps", "para": "fps=5"}),
        node(3, "c_ffmpeg_encoder", ["less"], []),
    ),
    "a decoder behind another node": graph_of(
        node(0, "c_ffmpeg_decoder", [], ["in"], {"push_raw_stream": 1}), node(1, "c_ffmpeg_decoder", ["in"], ["out"])
    ),
    "records": graph_of(
        node(0, "NvDecSource", [], ["in"], {"path": "in.mp4", "end_seconds": 2}),
        node(1, "SegmentModule", ["in"], ["drawn", "records"], {"replay": "a.jsonl", "model": ""}),
        node(2, "RecordSink", ["records"], []),
        node(3, "SoundGate", ["drawn", "in"], ["a", "b"]),
    ),
    "a network of the user": changed("nodes", 1, "option", "model", to="${MODEL}", graph=overlay),
    "outputs": recording(outputs=[
        {"kind": "file", "path": "a/b.MP4", "keep_segments": "5"}, {"kind": "hls", "path": "a", "list_size": 0},
        {"kind": "push", "url": "RTMP://host/app/key"},
    ]),
    "an encoder": recording(codec="libx265", bit_rate=1000000, encoder_options={"tune": "grain"}),
    "a camera": recording({"url": "rtsp://camera", "max_retries": None, "backoff": "0.1", "policy": "all"}),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_the_check_accepts_the_schema_accepts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "person")
    content = GOOD[name]
    assert refusals(GRAPH, content) == []
    (tmp_path / "graph.json").write_text(json.dumps(content))
    assert check_graph(load_graph(tmp_path / "graph.json")) == []


# --- files that are wrong ------------------------------------------------------------------------------------------

BAD = {
    "a key nobody knows": {**overlay(), "nodse": []},
    "no nodes": changed("nodes"),
    "no node": changed("nodes", to=[]),
    "a node that is none": changed("nodes", to=["x"]),
    "no list of streams": changed("input_streams"),
    "mode is no text": changed("mode", to=5),
    "option is no object": changed("option", to=[]),
    "threads as text": changed("option", "scheduler_count", to="9"),
    "no threads": changed("option", "scheduler_count", to=0),
    "no id": changed("nodes", 1, "id"),
    "an id that is text": changed("nodes", 1, "id", to="${ID}"),
    "no scheduler": changed("nodes", 1, "scheduler"),
    "a scheduler below 0": changed("nodes", 1, "scheduler", to=-1),
    "an alias that is no text": changed("nodes", 1, "alias", to=5),
    "a key of a node nobody knows": changed("nodes", 1, "optoin", to={}),
    "an input manager nobody knows": changed("nodes", 1, "input_manager", to="later"),
    "a stream that is none": changed("nodes", 1, "input_streams", to=["in"]),
    "a stream without a name": changed("nodes", 1, "input_streams", to=[{"name": "in"}]),
    "no module": changed("nodes", 1, "module_info"),
    "a module without a name": changed("nodes", 1, "module_info", "name"),
    "a path that is no text": changed("nodes", 1, "module_info", "path", to=5),
    "a key of a module nobody knows": changed("nodes", 1, "module_info", "pfad", to="x"),
    "a module of ours that is none": changed("nodes", 1, "module_info", "entry", to="bmf_trt_seg.module.Segment"),
    "a class without a file": changed(
        "nodes", 1, "module_info", to={"name": "x", "type": "python", "path": "/no", "entry": "B"}),
    "no class": changed("nodes", 1, "module_info", to={"name": "x", "type": "python", "path": "/no"}),
    "no input": changed("nodes", 0, "option", to={}),
    "an empty input": changed("nodes", 0, "option", "input_path", to=""),
    "a decoder without options": changed("nodes", 0, "option"),
    "options of the encoder that are no object": changed("nodes", 2, "option", to=[]),
    "no options of the network": changed("nodes", 1, "option"),
    "no network": overlay(model=""),
    "two sources of masks": overlay(replay="a.jsonl"),
    "an option nobody knows": overlay(stile="blur"),
    "two streams into a network": changed("nodes", 1, "input_streams", to=[{"identifier": "in"}] * 2),
    "nothing into a network": changed("nodes", 1, "input_streams", to=[]),
    "nothing out of a network": changed("nodes", 1, "output_streams", to=[]),
    "a stream into a camera": changed(
        "nodes", 0, "input_streams", to=[{"identifier": "camera"}], graph=recording),
    "a stream out of a sink": changed("nodes", 1, "output_streams", to=[{"identifier": "x"}], graph=recording),
    "no address": recording({"policy": "all"}),
    "an empty address": recording({"url": ""}),
    "a time of 0": recording({"url": "x", "backoff": 0}),
    "no outputs": recording(outputs=[]),
    "33 outputs": recording(outputs=[{"kind": "hls", "path": str(number)} for number in range(33)]),
    "an output of no kind": recording(outputs=[{"kind": "fiel", "path": "a.mp4"}]),
    "a file without an ending": recording(outputs=[{"kind": "file", "path": "a/.mp4"}]),
    "a file that is an address": recording(outputs=[{"kind": "file", "path": "http://a/b.mp4"}]),
    "an address that is none": recording(outputs=[{"kind": "push", "url": "ftp://a"}]),
    "a field of another output": recording(outputs=[{"kind": "hls", "path": "a", "keep_segments": 3}]),
    "an option of the encoder that is no text": recording(encoder_options={"tune": 5}),
    "a GPU that is none": graph_of(node(0, "NvDecSource", [], ["x"], {"path": "x", "device": "gpu"})),
    "a record sink's option nobody knows": graph_of(
        node(0, "RecordSink", ["x"], [], {"jason": "x"}), node(1, "c_ffmpeg_decoder", [], ["x"], {"input_path": "x"})),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_the_check_refuses_the_schema_refuses(name: str) -> None:
    assert refusals(GRAPH, BAD[name]) != []
    assert check_graph(copy.deepcopy(BAD[name])) != []


NUMBERS = ["1", " 7 ", "+3", "1_0", "2.0", "1.", "0.5", ".5", "1e0", "1e", "one", "", "0x1", "1,5", "--1", "1_", "_1"]
TRUTHS = ["true", "False", "YES", "n", "on", "0", "1", "2", "tru", "", " true", 0, 1, 2, 0.0, None]
TEXTS: list[tuple[str, Any]] = [
    *(("batch_size", text) for text in NUMBERS),
    *(("threshold", text) for text in ("0", "1", "0.5", ".5", "1e-3", " 1 ", "1e", "half", "", "0,5")),
    *(("legend", text) for text in TRUTHS),
    *(("classes", text) for text in ("", "a", "a,,b", " , ")),
    *(("palette", text) for text in ("", "a=#00ff00", "a b = #00FF00 , c=#123456,", "a", "a=red", "a=#12345")),
    ("palette", "=#123456"),
    *(("input_shapes", text) for text in ("", "a:1x3", "a:1X3,b:2", "1x3", "a:", "axb", "a:1x", "a:1x1x1x1x1x1x1x1x1")),
    *(("build", text) for text in ("", "precision=fp16", "precision = fp16, opt_level=2", "fp16", "precison=fp16",
                                   '{"precision": "fp16"}')),
    *(("build", value) for value in ({"shapes": "a:1x1/2x2/3x3"}, {"tactic_sources": "A,B"}, {"opt_level": "5"},
                                     {"opt_level": 6}, {"tf32": "no"}, {"nobody": 1}, {"shapes": {"a": {"min": [1]}}})),
    *(("device", text) for text in ("cpu", "cuda", "cuda:1", "cuda:", "gpu")),
    *(("input_shapes", value) for value in ({"a": [1, 3]}, {"a": ["1", 3]}, {"a": [0]}, {"a": 5}, None)),
    *(("classes", value) for value in ([], ["a", 1], [1.5], [True], {}, None)),
    *(("palette", value) for value in (["#123456"], {"a": "#ABCDEF"}, ["red"], {"a": 1}, None)),
    *(("style", text) for text in ("blur", "Blur", "", None)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), TEXTS, ids=str)
def test_what_stands_for_a_value_is_judged_alike(name: str, value: Any) -> None:
    content = overlay(**{name: value})
    assert bool(refusals(GRAPH, content)) == bool(check_graph(copy.deepcopy(content)))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in WRONG if value == value], ids=str)
def test_wrong_options_are_refused(name: str, value: Any) -> None:
    assert not (isinstance(value, float) and math.isnan(value))
    assert refusals(GRAPH, overlay(**{name: value})) != []


@pytest.mark.parametrize("name", [*SegmentOptions.model_fields, "stile"])
def test_a_variable_may_stand_for_any_value_but_not_for_a_name(name: str) -> None:
    for value in ("${VALUE}", "${VALUE:-}", "x${A}y"):
        assert (refusals(GRAPH, overlay(**{name: value})) == []) == (name != "stile")
    option = {"url": "${URL}", **dict.fromkeys(LiveOptions.model_fields, "${X}")}
    assert refusals(GRAPH, recording(option)) == []


ONLY_THE_CHECK_KNOWS = {
    "limits of a number as text": (overlay(alpha="7"), "option 'alpha'"),
    "a value inside a text": (overlay(build="precision=fp17"), "option 'build.precision'"),
    "an id that is taken": (changed("nodes", 1, "id", to=0), "another node has this id"),
    "a thread that does not exist": (changed("nodes", 1, "scheduler", to=9), "scheduler 9 does not exist"),
    "a stream that nobody gives": (
        changed("nodes", 1, "input_streams", 0, "identifier", to="inn"), "no node produces the stream 'inn'"),
    "a module that is not there": (
        changed("nodes", 1, "module_info", to={"name": "x", "type": "c++", "path": "/no/x.so"}), "does not exist"),
    "two times": (
        graph_of(node(0, "NvDecSource", [], ["x"], {"path": "x", "start_seconds": 2, "end_seconds": 1})),
        "should be more than"),
    "outputs with the same place": (recording(outputs=[{"kind": "hls", "path": "a"}] * 2), "give each its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONLY_THE_CHECK_KNOWS)
def test_what_only_the_check_knows(name: str) -> None:
    """As its documentation says; if the schema learns one of these, it goes to the others above."""
    content, words = ONLY_THE_CHECK_KNOWS[name]
    assert refusals(GRAPH, content) == []
    (problem,) = check_graph(copy.deepcopy(content))
    assert words in problem


# --- feeds ---------------------------------------------------------------------------------------------------------

DOOR = {"name": "door", "url": "rtsp://camera/stream"}
DEFAULTS = {"segment": {"model": "person"}, "outputs": [{"kind": "hls", "path": "out/{name}"}]}


def feeds(*entries: Any, **defaults: Any) -> dict[str, Any]:
    return {"defaults": {**DEFAULTS, **defaults}, "feeds": list(entries)}


def door(**fields: Any) -> dict[str, Any]:
    return feeds({**DOOR, **fields})


GOOD_FEEDS = {
    "one": door(),
    "with comments": {"$schema": "feeds.schema.json", "comment": "a", **door(comment=["b"])},
    "all by itself": {"feeds": [{**DOOR, **DEFAULTS}]},
    "in parts": feeds(
        {**DOOR, "segment": {"style": "blur"}, "encoder": {"crf": "30"}}, {**DOOR, "name": "yard"},
        encoder={"preset": "ultrafast"}, transport="udp", restart=False),
    "a network of its own": feeds({**DOOR, "segment": {"model": "person"}}, segment={"style": "blur"}),
    "numbers as text": door(read_timeout="3", max_retries="2", restart="no", restart_backoff="1"),
    "outputs of its own": door(outputs=[{"kind": "file", "path": "{name}.mkv"}, {"kind": "push", "url": "srt://a:1"}]),
    "a graph of its own": {"feeds": [{"name": "own", "graph": "own.json", "set": {"A": "b"}, "restart_backoff": 2}]},
}  # fmt: skip
BAD_FEEDS = {
    "no feeds": {},
    "no feed": {"feeds": []},
    "a feed that is none": {"feeds": ["door"]},
    "a key nobody knows": {**door(), "default": {}},
    "no name": feeds({"url": "rtsp://camera"}),
    "a name with a blank": door(name="a b"),
    "no address": feeds({"name": "door"}),
    "an address for all": feeds(DOOR, url="rtsp://camera"),
    "a name for all": feeds(DOOR, name="door"),
    "a field nobody knows": door(abscence="hold"),
    "a field of the defaults nobody knows": feeds(DOOR, polcy="all"),
    "a choice that is none": door(transport="tpc"),
    "a time below the limit": door(max_latency_ms=0),
    "options that are none": door(segment=[]),
    "an option nobody knows": door(segment={"stile": "blur"}),
    "an option that is wrong": door(segment={"alpha": 2}),
    "an option of the defaults that is wrong": feeds(DOOR, segment={"model": "person", "style": "blurr"}),
    "no network": feeds(DOOR, segment={}),
    "two sources of masks": door(segment={"model": "person", "replay": "a.jsonl"}),
    "no outputs": {"defaults": {"segment": {"model": "person"}}, "feeds": [DOOR]},
    "an empty list of outputs": door(outputs=[]),
    "an output of no kind": door(outputs=[{"kind": "fiel", "path": "a.mp4"}]),
    "an encoder's option that is wrong": door(encoder={"crf": 99}),
    "outputs of the encoder": door(encoder={"outputs": []}),
    "a graph and an address": feeds({**DOOR, "graph": "own.json"}),
    "a value that is no text": {"feeds": [{"name": "own", "graph": "own.json", "set": {"A": 1}}]},
}  # fmt: skip


def verdict(folder: Path, content: Any) -> str:
    """What `live --check` finds wrong before it looks at networks; '' if nothing."""
    own = overlay(model="${A}")
    own["nodes"][2]["option"]["output_path"] = "own.mp4"
    (folder / "own.json").write_text(json.dumps(own))
    (folder / "feeds.json").write_text(json.dumps(content))
    try:
        read_feeds(folder / "feeds.json")
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", GOOD_FEEDS)
def test_feeds_that_are_right(name: str, tmp_path: Path) -> None:
    assert refusals(FEEDS, GOOD_FEEDS[name]) == []
    assert verdict(tmp_path, GOOD_FEEDS[name]) == ""


@pytest.mark.parametrize("name", BAD_FEEDS)
def test_feeds_that_are_wrong(name: str, tmp_path: Path) -> None:
    assert refusals(FEEDS, BAD_FEEDS[name]) != []
    assert verdict(tmp_path, BAD_FEEDS[name]) != ""


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


def test_a_kind_of_file_that_has_none(cli: Cli) -> None:
    ended = cli("graph", "schema", "--for", "specs")
    assert ended.code == 2
    assert "'specs' is not one of 'graph', 'feeds'" in ended.err


def test_comments_are_not_run(cli: Cli, tmp_path: Path) -> None:
    content = {**copy.deepcopy(GOOD["an address of the schema, and comments"]), "comment": "for ${NOBODY}"}
    (tmp_path / "graph.json").write_text(json.dumps(content))
    printed = json.loads(cli("graph", "check", tmp_path / "graph.json", "--print").out)
    assert "comment" not in json.dumps(printed)
    assert "$schema" not in printed
    assert printed["nodes"][1]["option"] == {"model": "person"}
