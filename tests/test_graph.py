"""Graph files: variables, checks, the run, and how it ends when a node fails."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import pytest
from jobs import left_in, read_records

from bmf_trt_seg.errors import ConfigError, GraphError, StreamError
from bmf_trt_seg.graph import check_graph, load_graph, run_graph, whole_outputs

TEMPLATES = Path(__file__).parents[1] / "graphs"
WIDTH, HEIGHT = clips.SIZE_WH

_CUSTOM = '''
import sys

from bmf import Module, Packet, ProcessResult, Timestamp, VideoFrame


class Passing(Module):
    """Hands its frames on; `tenth` is for the classes below."""

    def __init__(self, node=None, option=None):
        self.seen = 0

    def process(self, task):
        stream, out = task.get_inputs()[0], task.get_outputs()[0]
        while not stream.empty():
            packet = stream.get()
            if packet.timestamp == Timestamp.EOF:
                out.put(Packet.generate_eof_packet())
                task.timestamp = Timestamp.DONE
                break
            self.seen += 1
            if self.seen == 10:
                self.tenth()
            out.put(packet)
        return ProcessResult.OK

    def tenth(self):
        pass


class Raising(Passing):
    def tenth(self):
        raise ValueError("frame ten\\nis bad")


class Exiting(Passing):
    def tenth(self):
        sys.exit(3)


class Interrupted(Passing):
    def tenth(self):
        raise KeyboardInterrupt


class Silent(Passing):
    def tenth(self):
        raise ValueError


class NotStarting(Passing):
    def __init__(self, node=None, option=None):
        raise RuntimeError("no licence")


class ExitingAtStart(Passing):
    def __init__(self, node=None, option=None):
        sys.exit(0)


class ReturningNothing(Passing):
    def process(self, task):
        super().process(task)
'''


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    path = tmp_path / "custom.py"
    path.write_text(_CUSTOM)
    return path


def _node(number: int, module: dict[str, str], option: dict[str, Any], takes: list[str], gives: list[str]) -> Any:
    return {
        "id": number, "scheduler": number, "module_info": module, "option": option,
        "input_streams": [{"identifier": name} for name in takes],
        "output_streams": [{"identifier": name} for name in gives],
    }  # fmt: skip


def make_graph(source: Path, target: Path, module: dict[str, str], option: dict[str, Any]) -> dict[str, Any]:
    return {
        "option": {"scheduler_count": 3},
        "input_streams": [],
        "output_streams": [],
        "nodes": [
            _node(0, {"name": "c_ffmpeg_decoder"}, {"input_path": str(source), "loglevel": "error"}, [], ["video:in"]),
            _node(1, dict(module), option, ["in"], ["out"]),
            _node(2, {"name": "c_ffmpeg_encoder"}, {
                "output_path": str(target), "loglevel": "error",
                "video_params": {"codec": "libx264", "preset": "veryfast", "crf": 0},
            }, ["out"], []),
        ],
    }  # fmt: skip


OURS = {"name": "SegmentModule", "entry": "bmf_trt_seg.module.SegmentModule"}


def custom_module(path: Path, name: str) -> dict[str, str]:
    return {"name": name, "type": "python", "path": str(path.parent), "entry": f"{path.stem}.{name}"}


@pytest.fixture
def graph(tmp_path: Path, bright: Path, plain_clip: Path) -> dict[str, Any]:
    """One with nothing wrong in it."""
    return make_graph(plain_clip, tmp_path / "out.mp4", OURS, {"model": str(bright), "output": "mask"})


def written(folder: Path, content: Any) -> Path:
    path = folder / "graph.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- loading -------------------------------------------------------------------------------------------------------


def test_variables_come_from_the_call_then_the_environment_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_ENV", "environment")
    monkeypatch.setenv("BOTH", "environment")
    path = written(
        tmp_path,
        {
            "nodes": [{"a": "${GIVEN}", "b": ["x-${FROM_ENV}-${BOTH}"], "c": "${NONE:-default}", "d": "${EMPTY:-}"}],
            "n": 3,
            "t": "a $PLAIN ${GIVEN}${GIVEN}",
        },
    )
    loaded = load_graph(path, {"GIVEN": "given", "BOTH": "call"})
    assert loaded == {
        "nodes": [{"a": "given", "b": ["x-environment-call"], "c": "default", "d": ""}],
        "n": 3,
        "t": "a $PLAIN givengiven",
    }


def test_values_with_quotes_and_braces_stay_what_they_are(tmp_path: Path) -> None:
    path = written(tmp_path, {"nodes": ["${NAME}"]})
    assert load_graph(path, {"NAME": 'a "quoted" \\ ${OTHER}'})["nodes"] == ['a "quoted" \\ ${OTHER}']


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"nodes": [\n  {"id": 0,}\n]}', r"graph '.*graph\.json' is no JSON: line 2, column 1[12]: .+"),
        ("", r"graph '.*graph\.json' is no JSON: line 1, column 1: Expecting value"),
        ("[]", r"graph '.*graph\.json': expected a JSON object with 'nodes', got a list"),
        (
            '{"nodes": "${INPUT} ${OUTPUT} ${INPUT}"}',
            r"graph '.*graph\.json' needs a value for INPUT, OUTPUT: --set INPUT=\.\.\., or in the environment",
        ),
    ],
)
def test_files_that_cannot_be_used(content: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_graph(written(tmp_path, content))
    assert re.fullmatch(words, str(caught.value))


def test_unknown_variable_names_the_known_ones(tmp_path: Path) -> None:
    path = written(tmp_path, {"nodes": "${INPUT} ${OUTPUT:-x}"})
    with pytest.raises(ConfigError) as caught:
        load_graph(path, {"INPUT": "a", "OUTPT": "b"})
    assert str(caught.value) == f"graph '{path}' has no variable OUTPT; it has INPUT, OUTPUT"


def test_missing_file_and_binary_file(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"no\.json' cannot be read: No such file or directory"):
        load_graph(tmp_path / "no.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StreamError, match="cannot be read: it is no UTF-8 text"):
        load_graph(tmp_path / "binary")


# --- checks --------------------------------------------------------------------------------------------------------


def test_a_good_graph_has_no_problems_and_gets_our_path(graph: dict[str, Any]) -> None:
    assert check_graph(graph) == []
    module = graph["nodes"][1]["module_info"]
    assert module["type"] == "python"
    assert (Path(module["path"]) / "bmf_trt_seg" / "module.py").is_file()


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(graph: dict[str, Any]) -> None:
        *way, last = keys
        place: Any = graph
        for key in way:
            place = place[key]
        if to is None:
            del place[last]
        else:
            place[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (_set("nodse", to=[]), [r"graph: unknown key 'nodse' \(BMF would ignore it\); there are .*"]),
        (_set("nodes", to=None), ["graph: 'nodes' should be a list of objects"]),
        (_set("nodes", to=[]), ["graph: 'nodes' should be a list of objects"]),
        (_set("nodes", to=["x"]), ["graph: 'nodes' should be a list of objects"]),
        (_set("input_streams", to=None), [r"graph: 'input_streams' is missing; BMF wants a list, \[\] for none"]),
        (_set("nodes", 1, "id", to=0), ["node 0: another node has this id"]),
        (_set("nodes", 1, "id", to="x"), ["node x: 'id' should be a whole number, from 0"]),
        (_set("nodes", 1, "scheduler", to=None), ["node 1: 'scheduler' should be the number of a thread, from 0"]),
        (_set("nodes", 1, "scheduler", to=-1), ["node 1: 'scheduler' should be the number of a thread, from 0"]),
        (_set("nodes", 1, "scheduler", to=5), [
            r'node 1: scheduler 5 does not exist; set the graph\'s "option": \{"scheduler_count": 6\}']),
        (_set("nodes", 1, "input_streams", to=None), [
            r"node 1: 'input_streams' should be a list of \{\"identifier\": NAME\}, \[\] for none",
            "node 1: SegmentModule has one input stream"]),
        (_set("nodes", 1, "input_streams", to=["in"]), [
            r"node 1: 'input_streams' should be a list of \{\"identifier\": NAME\}, \[\] for none",
            "node 1: SegmentModule has one input stream"]),
        (_set("nodes", 1, "optoin", to={}), [r"node 1: unknown key 'optoin' \(BMF would ignore it\); there are .*"]),
        (_set("nodes", 1, "module_info", to=None), [
            "node 1: 'module_info' should be an object of strings with a 'name'"]),
        (_set("nodes", 1, "module_info", "path", to=5), [
            "node 1: 'module_info' should be an object of strings with a 'name'"]),
        (_set("nodes", 1, "module_info", to={}), ["node 1: 'module_info' has no 'name'"]),
        (_set("nodes", 1, "id", to=[]), [r"node \[\]: 'id' should be a whole number, from 0"]),
        (_set("nodes", 1, "input_manager", to="later"), ["node 1: unknown input_manager 'later'; there are .*"]),
        (_set("nodes", 1, "module_info", "pfad", to="x"), ["node 1, module_info: unknown key 'pfad' .*"]),
        (_set("nodes", 1, "input_streams", 0, "identifier", to="video:inn"), [
            "node 1: no node produces the stream 'inn'; there are in, out"]),
        (_set("nodes", 1, "output_streams", 0, "identifier", to="in"), [
            "node 1: stream 'in' is produced by node 0 already", "node 2: no node produces the stream 'out'; .*"]),
        (_set("output_streams", to=[{"identifier": "video:end"}]), [
            "graph: no node produces the stream 'end'; there are in, out"]),
        (_set("nodes", 1, "option", "stile", to="blur"), [
            r"node 1: unknown option 'stile' \(given: \"blur\"\); did you mean 'style'\?"]),
        (_set("nodes", 1, "option", "alpha", to=7), [
            "node 1: option 'alpha': got 7, allowed is a number from 0 to 1"]),
        (_set("nodes", 1, "module_info", "entry", to="bmf_trt_seg.module.Segment"), [
            r"node 1: there is no module 'bmf_trt_seg\.module\.Segment'; ours are "
            r"'bmf_trt_seg\.module\.SegmentModule', 'bmf_trt_seg\.live_sink\.LiveSink', "
            r"'bmf_trt_seg\.sinks\.RecordSink', "
            r"'bmf_trt_seg\.sources\.LiveSource', 'bmf_trt_seg\.sources\.NvDecSource', "
            r"'bmf_trt_seg\.sources\.SoundGate'"]),
        (_set("nodes", 1, "module_info", to={"name": "segment"}), [
            "node 1: unknown module 'segment'; BMF has c_ffmpeg_decoder, c_ffmpeg_encoder, c_ffmpeg_filter; ours has "
            "the entry 'bmf_trt_seg.module.SegmentModule'; any other needs a 'path'"]),
        (_set("nodes", 1, "module_info", to={"name": "x", "type": "python", "path": "/no", "entry": "a.B"}), [
            "node 1: module 'x' should be in '/no/a.py', which does not exist"]),
        (_set("nodes", 1, "module_info", to={"name": "x", "type": "python", "path": "/no", "entry": "B"}), [
            "node 1: 'entry' should be 'FILE.CLASS', not 'B'"]),
        (_set("nodes", 1, "module_info", to={"name": "x", "type": "c++", "path": "/no/x.so"}), [
            "node 1: '/no/x.so' does not exist"]),
        (_set("nodes", 0, "option", to={}), ["node 0: option 'input_path' is missing: the file to decode"]),
        (_set("nodes", 2, "option", to=[]), ["node 2: 'option' should be an object"]),
    ],
)  # fmt: skip
def test_each_problem_is_one_line(
    change: Callable[[dict[str, Any]], None], problems: list[str], graph: dict[str, Any]
) -> None:
    change(graph)
    found = check_graph(graph)
    assert len(found) == len(problems), found
    for line, pattern in zip(found, problems, strict=True):
        assert re.fullmatch(pattern, line)


def test_all_problems_are_told_at_once(graph: dict[str, Any]) -> None:
    for change in (_set("extra", to=1), _set("nodes", 0, "scheduler", to=None), _set("nodes", 1, "option", to={})):
        change(graph)
    assert len(check_graph(graph)) == 3


def test_our_second_module_is_known(graph: dict[str, Any], tmp_path: Path) -> None:
    sink = {"name": "RecordSink", "entry": "bmf_trt_seg.sinks.RecordSink"}
    graph["nodes"][1]["output_streams"].append({"identifier": "records"})
    graph["nodes"].append(_node(3, sink, {"json": str(tmp_path / "r.jsonl")}, ["records"], []))
    graph["option"]["scheduler_count"] = 4
    assert check_graph(graph) == []
    graph["nodes"][3]["option"] = {"jason": "x"}
    assert check_graph(graph) == ["node 3: unknown option 'jason' (given: \"x\"); did you mean 'json'?"]


def test_modules_that_ship_with_bmf_are_known(graph: dict[str, Any]) -> None:
    graph["nodes"][1]["module_info"] = {"name": "c_ffmpeg_filter"}
    assert check_graph(graph) == []


# --- runs ----------------------------------------------------------------------------------------------------------


def _run(graph: dict[str, Any]) -> None:
    assert check_graph(graph) == []
    with whole_outputs(graph) as outputs:
        run_graph(outputs)


def test_a_graph_runs_to_its_end(graph: dict[str, Any], tmp_path: Path, plain_clip: Path) -> None:
    before = copy.deepcopy(graph)
    calls: list[int] = []
    assert check_graph(graph) == []
    with whole_outputs(graph) as outputs:
        run_graph(outputs, watch=lambda: calls.append(1), period=0.001)
    assert calls
    assert graph["nodes"][2] == before["nodes"][2], "the caller's graph is left as it was"
    assert [number for number, _ in enumerate(clips.times(tmp_path / "out.mp4"))] == list(range(30))
    assert [when for when, _ in clips.times(tmp_path / "out.mp4")] == [when for when, _ in clips.times(plain_clip)]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raising", "node 1 (Raising) failed: ValueError: frame ten is bad"),
        ("Exiting", "node 1 (Exiting) failed: it called sys.exit(3)"),
        ("Interrupted", "node 1 (Interrupted) failed: KeyboardInterrupt"),
        ("Silent", "node 1 (Silent) failed: ValueError"),
        ("NotStarting", "a node failed: no licence"),
        ("ExitingAtStart", "a node failed: it called sys.exit(0)"),
        ("ReturningNothing", "node 1 (ReturningNothing) failed: PyModule.process return None"),
        ("Missing", "a node failed: AttributeError: module 'custom' has no attribute 'Missing'"),
    ],
)
def test_a_module_that_fails_is_one_clear_line(
    name: str, words: str, custom: Path, tmp_path: Path, plain_clip: Path
) -> None:
    target = tmp_path / "out.mp4"
    target.write_text("an older output")
    with pytest.raises(GraphError) as caught:
        _run(make_graph(plain_clip, target, custom_module(custom, name), {}))
    assert str(caught.value) == words
    assert target.read_text() == "an older output"
    assert left_in(tmp_path) - {"__pycache__"} == {"custom.py", "out.mp4"}


def test_a_failure_carries_the_modules_own_exception(custom: Path, tmp_path: Path, plain_clip: Path) -> None:
    """For --debug: its traceback shows the line in the module."""
    with pytest.raises(GraphError) as caught:
        run_graph(make_graph(plain_clip, tmp_path / "out.mp4", custom_module(custom, "Raising"), {}))
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_custom_module_works(custom: Path, tmp_path: Path, plain_clip: Path) -> None:
    _run(make_graph(plain_clip, tmp_path / "out.mp4", custom_module(custom, "Passing"), {}))
    assert clips.times(tmp_path / "out.mp4") == clips.times(plain_clip)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codec": "nosuch"}, "node 2 (c_ffmpeg_encoder) failed: Codec 'nosuch' not found"),
        ({"preset": "warp"}, "node 2 (c_ffmpeg_encoder) failed: .*invalid preset 'warp'.*"),
        ({"crf": "high"}, "node 2 (c_ffmpeg_encoder) failed: .*Error setting option crf to value high.*"),
    ],
)
def test_an_encoder_that_does_not_open_says_why(
    change: dict[str, str], words: str, graph: dict[str, Any], tmp_path: Path
) -> None:
    graph["nodes"][2]["option"]["video_params"].update(change)
    with pytest.raises(GraphError) as caught:
        _run(graph)
    assert re.fullmatch(words.replace("(c_", r"\(c_").replace("r) ", r"r\) "), str(caught.value))
    assert left_in(tmp_path) == set()


def test_inputs_that_cannot_be_read(graph: dict[str, Any], tmp_path: Path) -> None:
    text = clips.text_file(tmp_path / "text.mp4")
    for path, reason in {
        tmp_path / "no.mp4": "No such file or directory",
        text: "Invalid data found when processing input",
    }.items():
        graph["nodes"][0]["option"]["input_path"] = str(path)
        with pytest.raises(StreamError) as caught:
            _run(graph)
        assert str(caught.value) == f"'{path}' cannot be read by FFmpeg: {reason}"
    assert left_in(tmp_path) == {"text.mp4"}


def test_outputs_that_cannot_be_written(graph: dict[str, Any], tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out.mp4"
    graph["nodes"][2]["option"]["output_path"] = str(target)
    with pytest.raises(StreamError) as caught:
        _run(graph)
    assert str(caught.value) == f"'{target}' cannot be written: the folder '{target.parent}' does not exist"


def test_an_error_of_ours_keeps_its_type(graph: dict[str, Any], tmp_path: Path) -> None:
    graph["nodes"][1]["option"]["model"] = str(tmp_path / "no.onnx")
    with pytest.raises(ConfigError, match=r"model file '.*no\.onnx' does not exist"):
        _run(graph)


def test_outputs_of_several_files_are_left_to_bmf(graph: dict[str, Any], tmp_path: Path) -> None:
    graph["nodes"][2]["option"]["output_path"] = str(tmp_path / "list.m3u8")
    with whole_outputs(graph) as outputs:
        assert outputs == graph
    graph["nodes"][2]["option"]["output_path"] = "rtmp://host/stream"
    with whole_outputs(graph) as outputs:
        assert outputs == graph
    graph["nodes"][2]["option"].update({"output_path": str(tmp_path / "x"), "format": "hls"})
    with whole_outputs(graph) as outputs:
        assert outputs == graph


def test_messages_name_the_files_that_were_asked_for(graph: dict[str, Any], tmp_path: Path) -> None:
    def fail() -> None:
        with whole_outputs(graph) as outputs:
            path = Path(outputs["nodes"][2]["option"]["output_path"])
            path.write_text("half")
            raise StreamError(f"'{path}' cannot be written: No space left on device")

    with pytest.raises(StreamError) as caught:
        fail()
    assert str(caught.value) == f"'{tmp_path / 'out.mp4'}' cannot be written: No space left on device"
    assert left_in(tmp_path) == set()


def test_what_modules_print_does_not_come_through(
    graph: dict[str, Any], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "bmf_trt_seg")
    _run(graph)
    assert capfd.readouterr() == ("", "")


def test_with_verbose_it_does(graph: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert check_graph(graph) == []
    run_graph(graph, verbose=True)
    assert "debug queue size" in capfd.readouterr().out


# --- the templates -------------------------------------------------------------------------------------------------


@pytest.fixture
def variables(tmp_path: Path, bright: Path, plain_clip: Path) -> dict[str, str]:
    return {"INPUT": str(plain_clip), "OUTPUT": str(tmp_path / "out.mp4"), "MODEL": str(bright)}


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_every_template_passes_the_check_and_runs(
    template: Path, variables: dict[str, str], tmp_path: Path, plain_clip: Path
) -> None:
    graph = load_graph(template, variables)
    _run(graph)
    found, expected = clips.read_clip(tmp_path / "out.mp4"), clips.times(plain_clip)
    assert [shown.seconds for shown in found] == [when for when, _ in expected]
    assert left_in(tmp_path) == {"out.mp4"}


@pytest.mark.parametrize("fields", [{}, {"pixel_format": "yuv444p"}, {"pixel_format": "yuv420p10le"}, {"b_frames": 3}])
def test_a_template_keeps_the_rate_of_any_clip(
    fields: dict[str, Any], variables: dict[str, str], tmp_path: Path
) -> None:
    """The encoder takes it from properties of the frames, which a conversion loses."""
    source = clips.write_clip(tmp_path / "in.mp4", rate=Fraction(30000, 1001), **fields)
    _run(load_graph(TEMPLATES / "transcode_overlay.json", {**variables, "INPUT": str(source)}))
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        times = [[frame.pts * frame.time_base for frame in clip.decode(video=0)] for clip in (before, after)]
    assert times[0] == times[1]


def test_there_are_templates() -> None:
    assert {"transcode_overlay", "mask_only"} <= {path.stem for path in TEMPLATES.glob("*.json")}


def test_transcode_overlay_draws_and_keeps_the_sound(
    variables: dict[str, str], tmp_path: Path, plain_clip: Path
) -> None:
    _run(load_graph(TEMPLATES / "transcode_overlay.json", {**variables, "CRF": "0", "ALPHA": "1", "CLASSES": "box"}))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video"]
    before, after = (clips.packets_of(path, "audio") for path in (plain_clip, tmp_path / "out.mp4"))
    assert [content for _, content in after[0]] == [content for _, content in before[0]]
    for shown in clips.read_clip(tmp_path / "out.mp4"):
        inner = shown.planes[0][clips.box(shown.number, WIDTH, HEIGHT)][3:-3, 3:-3]
        assert (inner == 81).all()


def test_mask_only_writes_masks_and_records(variables: dict[str, str], tmp_path: Path) -> None:
    records, masks = tmp_path / "records.jsonl", tmp_path / "masks"
    graph = load_graph(
        TEMPLATES / "mask_only.json", {**variables, "CRF": "0", "JSON": str(records), "MASKS": str(masks)}
    )
    _run(graph)
    assert [record["frame"] for record in read_records(records)] == list(range(30))
    assert len(left_in(masks)) == 30
    assert left_in(tmp_path) == {"out.mp4", "records.jsonl", "masks"}
    for shown in clips.read_clip(tmp_path / "out.mp4"):
        assert set(np.unique(shown.planes[0])) == {16, 235}


LIVE = {
    "id": 0,
    "scheduler": 0,
    "module_info": {"name": "LiveSource", "entry": "bmf_trt_seg.sources.LiveSource"},
    "input_streams": [],
    "output_streams": [{"identifier": "camera"}],
    "option": {"url": "rtsp://camera/stream"},
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"option": {"url": "x", "policy": "last"}}, "option 'policy': got \"last\", allowed is 'latest' or 'all'"),
        ({"option": {}}, "option 'url' is missing"),
        ({"output_streams": [{"identifier": name} for name in "abc"]}, "LiveSource has one output stream for pictures"),
        ({"output_streams": []}, "LiveSource has one output stream for pictures"),
    ],
)
def test_live_sources_are_checked(change: dict[str, Any], problem: str) -> None:
    graph = {"input_streams": [], "output_streams": [], "nodes": [LIVE | change]}
    assert any(problem in found for found in check_graph(graph))
    assert not [found for found in check_graph(graph | {"nodes": [dict(LIVE)]}) if "LiveSource" in found]
