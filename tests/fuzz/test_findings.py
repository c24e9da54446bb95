"""What fuzzing found, each as the smallest input that showed it, and what files may not reach."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import struct
import threading
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import onnx
import pytest
from factories import complaint, make_spec
from jobs import left_in, segment
from PIL import Image

from bmf_trt_seg.backends.pytorch import PyTorchBackend
from bmf_trt_seg.engine.manifest import manifest_path, read_manifest
from bmf_trt_seg.engine.network import OnnxNetwork
from bmf_trt_seg.errors import ConfigError, ModelError, StreamError
from bmf_trt_seg.graph import check_graph, run_graph
from bmf_trt_seg.json_text import parsed
from bmf_trt_seg.media import probe_video
from bmf_trt_seg.pictures import read_picture
from bmf_trt_seg.records import class_map
from bmf_trt_seg.scheduler_threads import SchedulerThreads
from fuzz.files import FILES
from fuzz.readers import READERS
from fuzz.watchdog import Workers

# --- videos -------------------------------------------------------------------------------------------------------

_PR_SET_NAME = 15


def _patched(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    content = path.read_bytes()
    for before, after in changes:
        assert before in content
        content = content.replace(before, after)
    path.write_bytes(content)
    return path


def test_a_title_that_is_no_utf8_is_no_obstacle(tmp_path: Path, bright: Path) -> None:
    """It was a UnicodeDecodeError; cameras and old tools write titles in Latin-1."""
    source = clips.write_clip(tmp_path / "in.mkv", time_base=Fraction(1, 1000), pts=range(0, 120, 40))
    _patched(source, (b"Lavf", b"Lav\xe9"))
    assert segment(source, tmp_path / "out.mkv", bright).frames == 3


def test_tracks_of_unknown_codecs_are_named(tmp_path: Path) -> None:
    """It was an AttributeError."""
    source = clips.write_clip(tmp_path / "in.mp4", frames=3)
    _patched(source, (b"vide", b"vidx"), (b"avc1", b"xvc1"))
    assert complaint(StreamError, probe_video, source) == f"'{source}' has no video stream; it has data (unknown)"


def test_pixels_of_an_impossible_shape_are_taken_for_square(tmp_path: Path, bright: Path) -> None:
    """The encoder refused the whole video."""
    source = clips.write_clip(tmp_path / "in.mp4", frames=3, sample_aspect=Fraction(4, 3))
    _patched(source, (b"pasp" + struct.pack(">II", 4, 3), b"pasp" + struct.pack(">II", 44147, 4)))
    assert probe_video(source).sample_aspect in (None, Fraction(4, 3))  # H.264 tells it as well
    assert segment(source, tmp_path / "out.mp4", bright).frames == 3


def test_sound_that_repeats_itself_costs_no_picture(tmp_path: Path, bright: Path) -> None:
    """The muxer refused the whole output because packets of the sound came twice."""
    source = clips.write_clip(
        tmp_path / "in.ts", audio=("aac",), time_base=Fraction(1, 90000), pts=range(126000, 126000 + 30 * 3600, 3600)
    )
    content = source.read_bytes()
    packets = [content[place : place + 188] for place in range(0, len(content), 188)]
    sound = [packet for packet in packets if (packet[1] & 0x1F) << 8 | packet[2] == 0x101]
    source.write_bytes(b"".join([*packets, *sound]))
    finished = segment(source, tmp_path / "out.mp4", bright)
    assert finished.frames == len(clips.times(tmp_path / "out.mp4")) == 30
    assert finished.damage.endswith("packets of its sound or subtitles could not be copied")


def _mostly_undecodable(path: Path) -> Path:
    """A good picture, then twenty whose headers were overwritten."""
    clips.write_clip(path, frames=21, options=(("g", "100"),))
    content = bytearray(path.read_bytes())
    with clips.av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in places[1:]:
        content[place + 4 : place + size] = b"\xff" * (size - 4)
    path.write_bytes(content)
    return path


def test_a_video_that_is_mostly_undecodable_does_not_hang(tmp_path: Path, bright: Path) -> None:
    """BMF's decoder throws when it is closed then, which leaves a lock locked: one run in ten never came back."""
    source, target = _mostly_undecodable(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with Workers(tmp_path) as workers:
        for _ in range(12):
            ended = workers.run(["segment", source, "-o", target, "-m", bright, "-q"])
            assert ended.verdict == "told"
            assert ended.said.startswith(f"bmf-trt-seg: '{source}'")
    assert left_in(tmp_path) == {"in.mp4"}


def test_threads_of_bmf_that_are_gone_are_missed() -> None:
    named, may_end = threading.Event(), threading.Event()

    def run() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"schedule_queue0", 0, 0, 0)
        named.set()
        may_end.wait(20)

    with SchedulerThreads(1) as threads:
        threads.seconds_lost()
        assert threads.seconds_lost() == 0, "none was there yet"
        thread = threading.Thread(target=run)
        thread.start()
        assert named.wait(20)
        assert threads.seconds_lost() == 0
        may_end.set()
        thread.join()
        threads.seconds_lost()
        assert threads.seconds_lost() > 0
        with SchedulerThreads(1):  # of two graphs nobody can say whose is gone
            assert threads.seconds_lost() == 0


def test_a_graph_may_have_many_threads(tmp_path: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmf_trt_seg.graph._STUCK_SECONDS", 0.3)
    ours = {"name": "LiveSource", "type": "python", "path": "", "entry": "bmf_trt_seg.sources.LiveSource"}
    base = {"scheduler": 0, "input_manager": "immediate", "input_streams": [], "output_streams": []}
    streams = [{"identifier": "video"}]
    encoder = {"name": "c_ffmpeg_encoder"}
    option = {"output_path": str(tmp_path / "out.mp4")}
    graph = {
        "mode": "Normal", "option": {"scheduler_count": 12}, "input_streams": [], "output_streams": [],
        "nodes": [
            {**base, "id": 0, "module_info": ours, "output_streams": streams, "option": {"url": str(plain_clip)}},
            {**base, "id": 1, "module_info": encoder, "input_streams": streams, "scheduler": 1, "option": option},
        ],
    }  # fmt: skip
    assert check_graph(graph) == []
    run_graph(graph, period=0.05)  # which takes as long as the clip


# --- graphs -------------------------------------------------------------------------------------------------------


def _graph(tmp_path: Path) -> dict[str, Any]:
    FILES["graph.json"].write(tmp_path / "graph.json")
    graph: dict[str, Any] = json.loads((tmp_path / "graph.json").read_text())
    assert check_graph(graph) == []
    return graph


def _node(number: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["nodes"][number].update(values)


def _option(number: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda graph: graph["nodes"][number]["option"].update(values)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            _node(1, meta_info={"queue_length_limit": 0}),
            "node 1: meta_info 'queue_length_limit' should be a whole number from 1",
        ),
        (
            _node(1, meta_info={"queue_length_limit": 2**31}),
            "node 1: meta_info 'queue_length_limit' should be a whole number from 1",
        ),
        (_node(0, id=2**63), "node 9223372036854775808: 'id' should be at most 2147483647"),
        (
            lambda graph: graph["option"].update(scheduler_count=2**31),
            "graph: option 'scheduler_count' should be at most 256",
        ),
        (_option(0, video_codec="auto"), "node 0: the FFmpeg that BMF uses has no decoder 'auto'"),
        (_option(2, output_path=[1]), "node 2: option 'output_path' should be a string"),
        (_node(2, input_streams=[]), "node 2: c_ffmpeg_encoder has one input stream at least"),
        (
            _node(3, input_streams=[{"identifier": "a\nb"}]),
            "node 3: no node produces the stream 'a b'; there are decoded, drawn, records",
        ),
    ],
)
def test_what_bmf_crashes_or_hangs_over_is_found_before(
    change: Callable[[dict[str, Any]], None], problem: str, tmp_path: Path
) -> None:
    graph = _graph(tmp_path)
    change(graph)
    assert problem in check_graph(graph)


@pytest.mark.parametrize("entry", ["../outside.Class", "a/../../outside.Class", "/outside.Class", "a..Class", ".Class"])
def test_an_entry_cannot_leave_the_folder_of_its_module(entry: str, tmp_path: Path) -> None:
    (tmp_path / "outside.py").touch()
    (tmp_path / "modules" / "a").mkdir(parents=True)
    graph = _graph(tmp_path)
    module = {"name": "own", "type": "python", "path": str(tmp_path / "modules"), "entry": entry}
    graph["nodes"][1].update(module_info=module, option={})
    assert check_graph(graph) == [f"node 1: 'entry' should be 'FILE.CLASS', not '{entry}'"]


# --- JSON and records ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 101 + "]" * 101, "it is nested more than 100 levels deep"),
        ("[" * 100_000, "it is nested more than 100 levels deep"),
        ("1" * 5000, "a number in it has thousands of digits"),
        ('["\\u0000"]', 'the text "\\u0000" in it has a character that no text has'),
        ('["\\ud800"]', 'the text "\\ud800" in it has a character that no text has'),
        ('["\\u001b[2J"]', 'the text "\\u001b[2J" in it has a character that no text has'),
        ('{"a\\nb": 1}', 'the name "a\\nb" in it has a character that no name has'),
    ],
)
def test_json_that_python_would_stumble_over(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the exact words are below)
        parsed(text)
    assert str(caught.value) == words


def test_other_json_is_what_json_says() -> None:
    text = '{"lines": "a\\nb\\tc", "deep": ' + "[" * 98 + "]" * 98 + ', "numbers": [1, -2.5e3, null, true]}'
    assert parsed(text) == json.loads(text)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ("1", "the run lengths of a mask of 8x6 should add up to 48"),
        ("P1o0", "the run lengths of a mask of 8x6 should add up to 48"),
        ("000", "the run lengths of a mask of 8x6 should add up to 48"),
        ("o", "a run length is cut off, or has no end"),
        ("oooooooooooo0", "a run length is cut off, or has no end"),
        ("\x7f", "run lengths are written with the characters from '0' to 'o'"),
        ("", "run lengths are written with the characters from '0' to 'o'"),
    ],
)
def test_run_lengths_that_are_made_to_harm(counts: str, words: str) -> None:
    """pycocotools showed memory of others for the first, and wrote beyond its own for some."""
    record = {"size": [8, 6], "background": 0, "classes": [{"index": 1, "rle": {"size": [6, 8], "counts": counts}}]}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the exact words are below)
        class_map(record)
    assert str(caught.value) == words


# --- networks and pictures ----------------------------------------------------------------------------------------


def _with_weights_in(model: Path, location: str) -> Path:
    proto = onnx.load(str(model))
    weights = proto.graph.initializer[0]
    content = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(content)))):
        weights.external_data.add(key=key, value=value)
    model.write_bytes(proto.SerializeToString())
    return model


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{outside}/secret.bin", "/dev/zero", "link.bin", "a/../../secret.bin"]
)
def test_weights_are_read_from_the_networks_folder_alone(location: str, tmp_path: Path) -> None:
    """TensorRT's parser would follow such a name; that of /dev/zero was read without end for its digest."""
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    (folder / "link.bin").symlink_to("../secret.bin")
    location = location.format(outside=tmp_path)
    model = _with_weights_in(clips.bright_model(folder / "net.onnx"), location)
    words = (
        f"model '{model}' has weights in '{location}', which is not in its folder; weights are read from there alone"
    )
    assert complaint(ModelError, OnnxNetwork(model).sha256) == words
    with pytest.raises(ModelError):
        segment(clips.write_clip(tmp_path / "in.mp4", frames=2), tmp_path / "out.mp4", model)


def test_weights_beside_a_network_are_read(tmp_path: Path) -> None:
    """Through links, too, where both files are kept elsewhere, as Hugging Face's cache does it."""
    store, folder = tmp_path / "store", tmp_path / "snapshot"
    store.mkdir()
    folder.mkdir()
    (store / "weights").write_bytes(bytes(12))
    (store / "net").write_bytes(_with_weights_in(clips.bright_model(store / "net.onnx"), "net.data").read_bytes())
    (folder / "net.onnx").symlink_to("../store/net")
    (folder / "net.data").symlink_to("../store/weights")
    assert OnnxNetwork(folder / "net.onnx").weight_files() == [folder / "net.data"]


@pytest.mark.parametrize("before", [b"\x0a\x05input", b"\x0a\x06output", b"\x01N"])
def test_names_in_a_network_that_are_no_text(before: bytes, tmp_path: Path) -> None:
    """protobuf gave them as bytes, over which whoever showed them stumbled."""
    model = _patched(clips.bright_model(tmp_path / "net.onnx"), (before, before[:-1] + b"\xff"))
    words = f"model '{model}' is broken: a name in it is no UTF-8 text"
    assert complaint(ModelError, OnnxNetwork, model) == words


def test_an_element_type_that_onnx_does_not_have(tmp_path: Path) -> None:
    """It was a KeyError."""
    model = clips.bright_model(tmp_path / "net.onnx")
    proto = onnx.load(str(model))
    proto.graph.input[0].type.tensor_type.elem_type = 160
    model.write_bytes(proto.SerializeToString())
    assert [tensor.dtype for tensor in OnnxNetwork(model).inputs] == ["undefined"]


def test_a_library_that_there_is_not(tmp_path: Path) -> None:
    """`inspect` ended in a KeyError."""
    manifest = manifest_path(tmp_path / "net.engine")
    manifest.write_text(json.dumps({**READERS["manifest"].document, "library": "x"}))
    words = complaint(ConfigError, read_manifest, tmp_path / "net.engine")
    assert words == f"manifest '{manifest}': option 'library': got \"x\", allowed is 'tensorrt' or 'tensorrt_rtx'"


class _Code:
    """What unpickling this does is seen from outside."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def test_code_in_an_exported_program_is_not_run(tmp_path: Path) -> None:
    """torch.export unpickles a part that holds more than tensors all the same, which runs what it says."""
    import torch

    good, bad, proof = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "was run"
    FILES["exported.pt2"].write(good)
    torch.save({"x": _Code(proof)}, tmp_path / "part.pt")
    with zipfile.ZipFile(good) as whole, zipfile.ZipFile(bad, "w") as copy:
        for name in whole.namelist():
            is_pickled = "sample_inputs" in name
            copy.writestr(name, (tmp_path / "part.pt").read_bytes() if is_pickled else whole.read(name))
    spec = make_spec(input={"name": "batch", "height": 90, "width": 160})
    words = complaint(ModelError, PyTorchBackend(bad, spec).open)
    assert words.endswith(": a part of it holds more than tensors, whose code is not run")
    assert not proof.exists()
    pickle.loads(pickle.dumps(_Code(proof)))
    assert proof.exists(), "else the file was harmless"


def test_a_large_picture_is_read_in_silence_and_a_bomb_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns, in two lines, from a size on, and refuses what is twice as large."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (15, 10)).save(tmp_path / "large.png")
    Image.new("L", (21, 10)).save(tmp_path / "bomb.png")
    assert read_picture(tmp_path / "large.png").width == 15
    assert "exceeds limit" in complaint(StreamError, read_picture, tmp_path / "bomb.png")


def test_options_of_a_graph_with_line_breaks_are_told_in_one_line(tmp_path: Path) -> None:
    graph = _graph(tmp_path)
    graph["nodes"][1]["option"] = {"model": "net.onnx", "style\u2028": "a\nb"}
    assert [len(problem.splitlines()) for problem in check_graph(graph)] == [1]
