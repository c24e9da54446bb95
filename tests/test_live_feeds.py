"""Feeds files: what is made of a good one, and the one line for each mistake in a bad one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import Cli, runner
from live_runs import graph_file

from bmf_trt_seg.errors import ConfigError, SegError
from bmf_trt_seg.live.feeds import CameraFeed, Feed, GraphFeed, Restarts, read_feeds
from bmf_trt_seg.live_outputs.options import FileOutput, HlsOutput, LiveSinkOptions, PushOutput

CAMERA = "rtsp://127.0.0.1:1/clip"
Entry = dict[str, Any]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return runner(capfd)


def door(**fields: Any) -> Entry:
    return {"name": "door", "url": CAMERA, **fields}


def written(path: Path, feeds: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"feeds": feeds, **more}))
    return path


@pytest.fixture
def defaults(bright: Path, tmp_path: Path) -> Entry:
    """What a feed needs beside its name and address."""
    return {"segment": {"model": str(bright)}, "outputs": [{"kind": "file", "path": f"{tmp_path}/out/{{name}}.mp4"}]}


def options(feed: Feed, entry: str) -> Entry:
    """Those of the module with this entry."""
    nodes = feed.graph.content["nodes"]
    return next(node["option"] for node in nodes if node["module_info"]["entry"] == f"bmf_trt_seg.{entry}")


# --- good ones ----------------------------------------------------------------------------------------------------


def test_defaults_are_put_into_each_feed(tmp_path: Path, defaults: Entry) -> None:
    defaults |= {"transport": "udp", "read_timeout": 7, "encoder": {"preset": "ultrafast", "crf": 30}}
    defaults["segment"] |= {"style": "contour", "alpha": 0.4}
    path = written(
        tmp_path / "feeds.json",
        [
            door(),
            {"name": "yard", "url": CAMERA, "transport": "tcp", "segment": {"style": "blur"}, "encoder": {"crf": 20}},
        ],
        defaults=defaults,
    )
    first, second = read_feeds(path)
    assert options(first, "sources.LiveSource") == {
        "name": "door", "url": CAMERA, "transport": "udp", "read_timeout": 7,
    }  # fmt: skip
    assert options(second, "sources.LiveSource")["transport"] == "tcp"
    model = defaults["segment"]["model"]
    common = {"model": model, "alpha": 0.4, "shared": True, "batch_size": 2}
    assert options(first, "module.SegmentModule") == {**common, "style": "contour", "name": "door"}
    assert options(second, "module.SegmentModule") == {**common, "style": "blur", "name": "yard"}
    sinks = [options(feed, "live_sink.LiveSink") for feed in (first, second)]
    assert [(sink["name"], sink["preset"], sink["crf"]) for sink in sinks] == [
        ("door", "ultrafast", 30), ("yard", "ultrafast", 20),
    ]  # fmt: skip
    assert [sink["outputs"][0]["path"] for sink in sinks] == [f"{tmp_path}/out/{name}.mp4" for name in ("door", "yard")]
    assert [feed.graph.streams for feed in (first, second)] == [("door",), ("yard",)]
    assert first.graph.is_endless


def test_a_feed_may_have_a_network_of_its_own(tmp_path: Path, defaults: Entry) -> None:
    path = written(tmp_path / "feeds.json", [door(segment={"shared": False, "batch_size": 3})], defaults=defaults)
    (feed,) = read_feeds(path)
    segment = options(feed, "module.SegmentModule")
    assert (segment["shared"], segment["batch_size"]) == (False, 3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"shared": True, "batch_size": 1}),
        ({"shared": False}, {"shared": False, "batch_size": 1, "max_latency_ms": 1}),
        ({"backend": "tensorrt"}, {"shared": False, "batch_size": 1, "max_latency_ms": 1}),
        ({"model": "net.engine"}, {"shared": False, "batch_size": 1, "max_latency_ms": 1}),
        ({"backend": "tensorrt", "max_latency_ms": 9}, {"shared": False, "batch_size": 1, "max_latency_ms": 9}),
        ({"backend": "tensorrt", "shared": True}, {"shared": True, "batch_size": 1}),
        ({"model": "net.engine", "input_shapes": "1x3x8x8"}, {"shared": False, "max_latency_ms": 1}),
    ],
)
def test_frames_are_in_common_batches_where_that_is_quicker(
    tmp_path: Path, defaults: Entry, given: Entry, expected: Entry
) -> None:
    (feed,) = read_feeds(written(tmp_path / "feeds.json", [door(segment=given)], defaults=defaults))
    segment = options(feed, "module.SegmentModule")
    assert {
        name: segment.get(name) for name in ("shared", "batch_size", "max_latency_ms") if name in segment
    } == expected


def test_variables_come_from_the_call_and_the_environment(
    tmp_path: Path, defaults: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "s3cret")
    url = "rtsp://anna:${DOOR_PASSWORD}@${HOST:-camera}/clip"
    path = written(tmp_path / "feeds.json", [door(url=url, max_latency_ms="${LATENCY}")], defaults=defaults)
    (feed,) = read_feeds(path, {"LATENCY": "250"})
    source = options(feed, "sources.LiveSource")
    assert (source["url"], source["max_latency_ms"]) == ("rtsp://anna:s3cret@camera/clip", "250")


def test_restarts(tmp_path: Path, defaults: Entry) -> None:
    feeds = [door(), {"name": "yard", "url": CAMERA, "restart": False}]
    path = written(tmp_path / "feeds.json", feeds, defaults={**defaults, "restart_backoff": 0.1})
    assert [feed.restarts for feed in read_feeds(path)] == [Restarts(True, 0.1, 60.0), Restarts(False, 0.1, 60.0)]


def test_a_graph_of_its_own_gets_values_and_a_name(tmp_path: Path, bright: Path, defaults: Entry) -> None:
    graph_file(tmp_path / "own.json", bright)
    values = {"URL": CAMERA, "OUT": str(tmp_path / "gate.mkv")}
    path = written(
        tmp_path / "feeds.json", [door(), {"name": "gate", "graph": "own.json", "set": values}], defaults=defaults
    )
    _, gate = read_feeds(path)
    assert options(gate, "sources.LiveSource") == {"url": CAMERA, "name": "gate"}
    assert options(gate, "module.SegmentModule") == {"model": str(bright), "name": "gate"}
    assert gate.graph.streams == ("gate",)
    assert gate.graph.is_endless
    assert gate.graph.writes_files


def test_the_example_passes_the_check(cli: Cli, bright: Path, tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "demo" / "feeds.json"
    ended = cli("live", "--check", example, "-s", f"MODEL={bright}", "-s", f"OUT={tmp_path}")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{example}: 2 feeds, nothing wrong\n"


def test_the_documentation_is_right(tmp_path: Path, bright: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = Path(__file__).parents[1]
    for name in ("DOOR_PASSWORD", "YARD_PASSWORD"):
        monkeypatch.setenv(name, "any")
    graph_file(tmp_path / "gate.json", bright)
    (tmp_path / "gate.json").write_text((tmp_path / "gate.json").read_text().replace("${OUT}", "gate.mkv"))
    for page, count in ((top / "README.md", 2), (top / "docs" / "live.md", 3)):
        blocks = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        (example,) = [block for block in blocks if '"feeds"' in block]
        (tmp_path / "feeds.json").write_text(example)
        assert len(read_feeds(tmp_path / "feeds.json")) == count
    told = (top / "docs" / "live.md").read_text(encoding="utf-8")
    for model in (CameraFeed, GraphFeed, LiveSinkOptions, FileOutput, HlsOutput, PushOutput):
        for field in model.model_fields:
            assert f"`{field}`" in told or field in ("kind",), f"{model.__name__}.{field}"


# --- bad ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (door(url=""), ["feed 'door'", "option 'url'"]),
        ({"name": "door"}, ["feed 'door'", "option 'url' is missing"]),
        ({"url": CAMERA}, ["feed 1", "option 'name' is missing"]),
        (door(name="a b"), ["feed 'a b'", "option 'name'", "letters, digits"]),
        (door(name="../door"), ["feed '../door'", "option 'name'"]),
        (door(name=7), ["feed 1", "option 'name'"]),
        (door(url="missing.mp4"), ["feed 'door'", "option 'url'", "there is no file 'missing.mp4'"]),
        (door(transport="tpc"), ["feed 'door'", "option 'transport'", "'tcp' or 'udp'"]),
        (door(max_latency_ms=0), ["feed 'door'", "option 'max_latency_ms'", "from 1"]),
        (door(abscence="hold"), ["feed 'door'", "unknown option 'abscence'", "did you mean 'absence'"]),
        (door(restart="perhaps"), ["feed 'door'", "option 'restart'", "true or false"]),
        (door(segment=[]), ["feed 'door'", "option 'segment'", "an object"]),
        (door(segment={"style": "blurr"}), ["feed 'door', segment", "option 'style'", "'blur'"]),
        (door(segment={"stile": "blur"}), ["feed 'door', segment", "unknown option 'stile'"]),
        (door(segment={"name": "yard"}), ["feed 'door', segment", "'name'", "it is the feed's"]),
        (door(outputs=[]), ["feed 'door'", "option 'outputs'"]),
        (door(outputs=[{"kind": "fiel", "path": "a.mp4"}]), ["feed 'door'", "output", "'file', 'hls' or"]),
        (door(outputs={"kind": "file"}), ["feed 'door'", "option 'outputs'", "a list"]),
        (door(encoder={"crf": 99}), ["feed 'door', encoder", "option 'crf'", "from 0 to 51"]),
        (door(encoder={"crv": 9}), ["feed 'door', encoder", "unknown option 'crv'"]),
        (door(encoder={"outputs": []}), ["feed 'door', encoder", "'outputs' is one of the feed itself"]),
        ({"name": "own", "graph": "missing.json"}, ["feed 'own'", "missing.json' cannot be read"]),
        ({"name": "own", "graph": "feeds.json"}, ["feed 'own'", "'nodes'"]),
        ({"name": "own", "graph": "text.txt"}, ["feed 'own'", "line 1, column 1"]),
        ({"name": "own", "graph": "feeds.json", "url": CAMERA}, ["feed 'own'", "unknown option 'url'"]),
        ({"name": "own", "graph": "x.json", "set": {"A": [1]}}, ["feed 'own'", "option 'set'"]),
    ],
)
def test_a_mistake_is_one_line_with_file_feed_and_field(
    cli: Cli, tmp_path: Path, defaults: Entry, entry: Entry, words: list[str]
) -> None:
    (tmp_path / "text.txt").write_text("no JSON")
    path = written(tmp_path / "feeds.json", [entry], defaults=defaults)
    for flags in ([], ["--check"]):
        ended = cli("live", path, *flags)
        assert ended.code == 2
        (line,) = ended.err.splitlines()
        for word in [f"bmf-trt-seg: feeds file '{path}'", *words]:
            assert word in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["line 1, column 2"]),
        ("[]", ["expected a JSON object with 'feeds', got a list"]),
        ("{}", ["option 'feeds' is missing"]),
        ('{"feeds": []}', ["option 'feeds'", "got []"]),
        ('{"feeds": ["door"]}', ["option 'feeds'"]),
        ('{"feeds": [{}], "default": {}}', ["unknown option 'default'", "did you mean 'defaults'"]),
        ('{"feeds": [{"name": "${WHO_IS_IT}"}]}', ["needs a value for WHO_IS_IT"]),
        ('{"defaults": {"polcy": 1}, "feeds": [{}]}', ["defaults", "unknown option 'polcy'", "'policy'"]),
        ('{"defaults": {"name": "door"}, "feeds": [{}]}', ["defaults", "'name' is each feed's own"]),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str, words: list[str]) -> None:
    path = tmp_path / "feeds.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        read_feeds(path)
    assert "\n" not in str(raised.value)
    for word in [f"feeds file '{path}'", *words]:
        assert word in str(raised.value)


def test_what_feeds_may_not_share(tmp_path: Path, bright: Path, defaults: Entry) -> None:
    graph_file(tmp_path / "own.json", bright, name="door")
    output = {"outputs": [{"kind": "hls", "path": str(tmp_path / "hls")}]}
    own = {"name": "gate", "graph": "own.json", "set": {"URL": CAMERA, "OUT": str(tmp_path / "gate.mkv")}}
    graph_file(tmp_path / "other.json", bright)
    other = {**own, "name": "other", "graph": "other.json"}
    feeds = [door(**output), door(), {"name": "yard", "url": CAMERA, **output}, own, other]
    with pytest.raises(ConfigError) as raised:
        read_feeds(written(tmp_path / "feeds.json", feeds, defaults=defaults))
    message = str(raised.value)
    assert "2 feeds have the name 'door'" in message
    assert "the name 'door' is counted under by the feeds 'door', 'gate'; give each its own" in message
    assert f"the feeds 'door', 'yard' have the output '{tmp_path}/hls'" in message
    assert f"the feeds 'gate', 'other' have the output '{tmp_path}/gate.mkv'" in message


def test_all_mistakes_are_told_at_once(tmp_path: Path, defaults: Entry) -> None:
    feeds = [door(transport="x"), {"name": "yard", "url": CAMERA, "policy": "x"}]
    with pytest.raises(ConfigError) as raised:
        read_feeds(written(tmp_path / "feeds.json", feeds, defaults=defaults))
    assert "feed 'door': option 'transport'" in str(raised.value)
    assert "feed 'yard': option 'policy'" in str(raised.value)


@pytest.mark.parametrize("url", ["rtsp:/anna:s3cret@camera/clip", "anna:s3cret@camera/clip"])
def test_passwords_of_what_is_no_address_are_not_shown(cli: Cli, tmp_path: Path, defaults: Entry, url: str) -> None:
    ended = cli("live", written(tmp_path / "feeds.json", [door(url=url)], defaults=defaults))
    assert ended.code == 2
    assert "***@camera/clip" in ended.err
    assert "s3cret" not in ended.err


def test_passwords_are_not_shown(cli: Cli, tmp_path: Path, defaults: Entry) -> None:
    secret = "rtmp://anna:s3cret@server/live"
    feeds = [
        door(outputs=[{"kind": "push", "url": secret}], url="rtsp://anna:s3cret@camera/clip", policy="x"),
        {"name": "yard", "url": "rtsp://anna:s3cret@camera/clip", "outputs": [{"kind": "file", "path": secret}]},
    ]
    ended = cli("live", written(tmp_path / "feeds.json", feeds, defaults=defaults))
    assert ended.code == 2
    assert "s3cret" not in ended.err
    assert "anna" not in ended.err


@pytest.mark.parametrize(
    ("segment", "code", "words"),
    [
        ({"model": "nowhere.onnx"}, 2, ["feed 'door'", "nowhere.onnx"]),
        ({"classes": ["box", "dog"]}, 2, ["feed 'door'", "dog"]),
        ({"palette": {"dog": "#ff0000"}}, 2, ["feed 'door'", "no class 'dog'"]),
        ({"backend": "pytorch"}, 2, ["feed 'door'"]),
    ],
)
def test_a_wrong_network_is_told_before_anything_starts(
    cli: Cli, tmp_path: Path, defaults: Entry, segment: Entry, code: int, words: list[str]
) -> None:
    path = written(tmp_path / "feeds.json", [door(segment=segment)], defaults=defaults)
    for flags in ([], ["--check"]):
        ended = cli("live", path, *flags)
        assert ended.code == code
        (line,) = ended.err.splitlines()
        for word in words:
            assert word in line
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_does_not_open_is_told_before_anything_starts(
    cli: Cli, tmp_path: Path, defaults: Entry
) -> None:
    path = written(tmp_path / "feeds.json", [door(encoder={"preset": "fastest"})], defaults=defaults)
    for flags in ([], ["--check"]):
        ended = cli("live", path, *flags)
        assert ended.code == 2
        (line,) = ended.err.splitlines()
        assert "feed 'door'" in line
        assert "libx264" in line


def test_an_output_that_cannot_be_written_is_told_before_anything_starts(
    cli: Cli, tmp_path: Path, defaults: Entry
) -> None:
    (tmp_path / "out").write_text("a file")
    ended = cli("live", written(tmp_path / "feeds.json", [door()], defaults=defaults))
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert line.startswith(f"bmf-trt-seg: feed 'door': the folder '{tmp_path}/out' cannot be made: ")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SegError, match=r"feeds file '.*none\.json' cannot be read: No such file"):
        read_feeds(tmp_path / "none.json")
