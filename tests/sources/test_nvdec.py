"""NvDecSource in BMF graphs, where there is no GPU: FFmpeg's frames, against those of BMF's own decoder.

The way over the GPU is run as far as a machine without one goes: with a PyNvVideoCodec that decodes on the CPU.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bmf.hmp as hmp
import clips
import fake_nvdec
import frame_sink
import numpy as np
import pytest
from bmf import Task, Timestamp, VideoFrame
from frame_sink import ffmpeg, frames_of, nvdec

from bmf_trt_seg import metrics
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, StreamError
from bmf_trt_seg.graph import check_graph, load_graph, run_graph, whole_outputs
from bmf_trt_seg.hardware import nvdec_missing
from bmf_trt_seg.sources import nvdec as nvdec_module
from bmf_trt_seg.sources.packets import Track

torch = pytest.importorskip("torch")
if torch.cuda.is_available():
    pytest.skip(
        "these tests are for machines without a GPU; tests/gpu/test_nvdec.py is for others", allow_module_level=True
    )

from bmf_trt_seg.sources import nvdecoder  # noqa: E402

TEMPLATE = Path(__file__).parents[2] / "graphs" / "nvdec_overlay.json"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "fields",
    [
        {"b_frames": 2},
        {"pixel_format": "yuvj420p"},
        {"matrix": "bt709", "value_range": "limited"},
        {"matrix": "bt2020nc", "value_range": "full"},
        {"pixel_format": "yuv422p"},
        {"pixel_format": "yuv444p", "value_range": "full", "matrix": "smpte170m"},
        {"pixel_format": "yuv420p10le"},
        {"pixel_format": "gray"},
        {"codec": "libx264rgb", "pixel_format": "rgb24"},
        {"rotation": 90},
        {"rotation": -90, "b_frames": 2},
        {"rotation": 180},
        {"pts": [512, 1024, 1030, 5000, 5001, 9000], "time_base": Fraction(1, 12800), "b_frames": 1},
        {"rate": Fraction(30000, 1001)},
        {"codec": "libvpx-vp9"},
    ],
    ids=lambda fields: "-".join(str(value).replace("/", "_") for value in fields.values()),
)
def test_frames_of_ffmpeg_are_those_of_bmfs_decoder(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = clips.write_clip(tmp_path / "in.mkv" if "codec" in fields else tmp_path / "in.mp4", **fields)
    ours, theirs = frames_of(nvdec(path, decoder="ffmpeg"), "ours"), frames_of(ffmpeg(path), "theirs")
    assert [frame.seconds for frame in ours] == [frame.seconds for frame in theirs]
    assert len(ours) == len(clips.read_clip(path))
    for our, their in zip(ours, theirs, strict=True):
        assert our.pixel_format == hmp.kPF_YUV420P
        assert our.timestamp == int(our.seconds * 1_000_000)
        for ours_plane, theirs_plane in zip(our.as_yuv420p, their.as_yuv420p, strict=True):
            difference = np.abs(ours_plane.astype(int) - theirs_plane)
            # two versions of swscale round differently, where one is needed at all
            assert difference.max() <= (0 if their.pixel_format == hmp.kPF_YUV420P else 3)
            assert difference.mean() < 0.4
    if their.pixel_format == hmp.kPF_YUV420P:
        assert (our.matrix, our.value_range == hmp.kCR_JPEG) == (their.matrix, their.value_range == hmp.kCR_JPEG)
    with Track(str(path)) as track:
        assert ours[0].time_base == track.info.time_base


def test_an_odd_size_gets_one_more_row_and_column(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "in.webm", codec="libvpx-vp9", size_wh=(161, 91), frames=3)
    for ours, whole in zip(frames_of(nvdec(path, decoder="ffmpeg")), clips.read_clip(path), strict=True):
        luma, cb, _ = (plane[..., 0] for plane in ours.planes)
        assert luma.shape == (92, 162)
        np.testing.assert_array_equal(luma[:91, :161], whole.planes[0])
        np.testing.assert_array_equal(luma[91], luma[90])
        np.testing.assert_array_equal(luma[:, 161], luma[:, 160])
        np.testing.assert_array_equal(cb, whole.planes[1])


def test_without_a_gpu_there_is_one_warning(plain_clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(frames_of(nvdec(plain_clip))) == 30
    assert warnings_of(caplog) == [
        f"'{plain_clip}': FFmpeg decodes it on the CPU, NVDEC cannot: PyTorch finds no NVIDIA GPU here"
    ]


def test_ffmpeg_that_was_asked_for_is_no_reason_to_warn(plain_clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames_of(nvdec(plain_clip, decoder="ffmpeg"))
    assert warnings_of(caplog) == []


def test_nvdec_that_was_asked_for_is_an_error(plain_clip: Path) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        frames_of(nvdec(plain_clip, decoder="nvdec"))
    assert str(caught.value) == (
        f"'{plain_clip}' cannot be decoded by NVDEC: PyTorch finds no NVIDIA GPU here; "
        "'decoder' 'auto' takes FFmpeg then"
    )


def test_start_and_end(plain_clip: Path) -> None:
    frames = frames_of(nvdec(plain_clip, decoder="ffmpeg", start_seconds=0.4, end_seconds=0.8))
    assert [clips.number_of(frame.planes[0][..., 0]) for frame in frames] == list(range(10, 20))
    assert frames[0].seconds == Fraction(2, 5)


def test_a_clock_of_its_own(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", rate=Fraction(30000, 1001), frames=5)
    frames = frames_of(nvdec(path, decoder="ffmpeg", clock=90000))
    assert [(frame.pts, frame.time_base) for frame in frames] == [(3003 * n, Fraction(1, 90000)) for n in range(5)]


def test_an_end_before_the_start_has_no_frames(plain_clip: Path) -> None:
    with pytest.raises(StreamError, match=r"plain\.mp4': not one frame could be decoded from 100 s$"):
        frames_of(nvdec(plain_clip, decoder="ffmpeg", start_seconds=100))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"no\.mp4' does not exist$"):
        frames_of(nvdec(tmp_path / "no.mp4"))
    with pytest.raises(StreamError, match=r"is no video that FFmpeg can read"):
        frames_of(nvdec(clips.text_file(tmp_path / "text.mp4")))


def test_a_damaged_stream_gives_what_there_is_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = clips.write_clip(tmp_path / "in.ts", frames=60, options=(("g", "10"),))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 188 * 188
    content[middle : middle + 188 * 20] = b"\xff" * 188 * 20
    path.write_bytes(content)
    frames = frames_of(nvdec(path, decoder="ffmpeg"))
    assert 20 < len(frames) <= 60


def test_nothing_but_damage_is_an_error(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", frames=5)
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") if content.index(b"moov") > start else len(content)
    path.write_bytes(content[:start] + b"\xff" * (end - start - 4) + content[end - 4 :])
    with pytest.raises(StreamError, match=r"not one frame could be decoded"):
        frames_of(nvdec(path))


def test_a_stop_ends_it(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", frames=200)
    graph = frame_sink.graph_to_sink(nvdec(path, decoder="ffmpeg", name="stopped"), "stop", count=1)
    run_graph(graph, watch=metrics.request_stop, period=0.01)
    assert frame_sink.counted["stop"] < 200


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({}, "option 'path' is missing"),
        (
            {"path": "x", "decoder": "cuvid"},
            "option 'decoder': got \"cuvid\", allowed is 'auto' or 'nvdec' or 'ffmpeg'",
        ),
        ({"path": "x", "device": "cpu"}, "option 'device': got \"cpu\", allowed is 'cuda:N'"),
        ({"path": "x", "start_seconds": -1}, "option 'start_seconds': got -1, allowed is a number"),
        ({"path": "x", "start_seconds": 2, "end_seconds": 1}, "'end_seconds' 1 should be more than 'start_seconds' 2"),
    ],
)
def test_wrong_options_are_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        nvdec_module.NvDecSource(0, option)
    assert words in str(caught.value)
    graph = frame_sink.graph_to_sink({**nvdec("x"), "option": option}, "none")
    assert any(words in problem for problem in check_graph(graph))


def test_a_source_has_one_output() -> None:
    graph = frame_sink.graph_to_sink(nvdec("x"), "none")
    graph["nodes"][0]["output_streams"].append({"identifier": "audio:more"})
    assert any("NvDecSource has one output stream" in problem for problem in check_graph(graph))


# --- the template --------------------------------------------------------------------------------------------------


def test_the_template_keeps_sound_and_times(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(
        tmp_path / "in.mp4", b_frames=2, audio=("aac",), time_base=Fraction(1, 90000),
        pts=[90000 + 3600 * n + 7 * (n % 3) for n in range(30)],
    )  # fmt: skip
    target = tmp_path / "out.mp4"
    variables = {"INPUT": str(source), "OUTPUT": str(target), "MODEL": str(bright), "DECODER": "ffmpeg"}
    graph = load_graph(TEMPLATE, variables)
    assert check_graph(graph) == []
    with whole_outputs(graph) as outputs:
        run_graph(outputs)
    assert clips.times(target) == clips.times(source)
    before, after = (clips.packets_of(path, "audio") for path in (source, target))
    assert [content for _, content in after[0]] == [content for _, content in before[0]]
    drift = [float(one[0] - other[0]) for one, other in zip(after[0], before[0], strict=True)]
    assert max(drift) - min(drift) < 0.001
    assert abs(drift[0]) < 0.05, "sound and picture moved apart"


def test_the_template_does_without_sound(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=10)
    variables = {"INPUT": str(source), "OUTPUT": str(tmp_path / "out.mp4"), "MODEL": str(bright), "DECODER": "ffmpeg"}
    graph = load_graph(TEMPLATE, variables)
    assert check_graph(graph) == []
    run_graph(graph)
    assert clips.times(tmp_path / "out.mp4") == clips.times(source)


# --- the way over the GPU, without one -----------------------------------------------------------------------------


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Any:
    return functools.partial(fake_nvdec.pretend, monkeypatch)


@pytest.mark.parametrize("window", [{}, {"start_seconds": 0.5, "end_seconds": 1.0}])
@pytest.mark.parametrize(
    ("codec", "fields"),
    [
        ("h264", {"b_frames": 3}),
        ("hevc", {"codec": "libx265", "b_frames": 2}),
        ("hevc", {"codec": "libx265", "pixel_format": "yuv420p10le", "matrix": "bt2020nc"}),
        ("vp9", {"codec": "libvpx-vp9"}),
        ("av1", {"codec": "libsvtav1", "options": (("preset", "10"),), "size_wh": (320, 180)}),
    ],
)
def test_frames_of_nvdec(
    tmp_path: Path, pretended: Any, codec: str, fields: dict[str, Any], window: dict[str, float], caplog: Any
) -> None:
    path = clips.write_clip(tmp_path / "in.mkv", **fields)
    deep = "pixel_format" in fields
    library = pretended(codec, deep)
    ours, theirs = (
        frames_of(nvdec(path, **window), "ours"),
        frames_of(nvdec(path, decoder="ffmpeg", **window), "theirs"),
    )
    assert warnings_of(caplog) == []
    assert library.made == {
        "gpuid": 0, "codec": codec, "cudacontext": 55, "cudastream": 77, "usedevicememory": True
    }  # fmt: skip
    assert [frame.pts for frame in ours] == [frame.pts for frame in theirs]
    assert len(ours) == (12 if window else 30)
    for our, their in zip(ours, theirs, strict=True):
        assert our.pixel_format == (hmp.kPF_P010LE if deep else hmp.kPF_NV12)
        assert (our.matrix, our.value_range) == (their.matrix, their.value_range)
        luma, chroma = our.planes
        assert luma.dtype == (np.uint16 if deep else np.uint8)
        shown = [luma[..., 0], chroma[..., 0], chroma[..., 1]]
        for plane, expected in zip(shown, their.planes, strict=True):
            values = plane / 256 if deep else plane
            assert np.abs(values - expected[..., 0]).max() <= (1 if deep else 0)


def test_what_the_gpu_cannot_is_found_out_before_the_first_frame(
    plain_clip: Path, pretended: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pretended("h264", num_decoder_engines=0)
    assert len(frames_of(nvdec(plain_clip))) == 30
    assert warnings_of(caplog) == [
        f"'{plain_clip}': FFmpeg decodes it on the CPU, NVDEC cannot: this GPU does not decode h264 of 8 bits"
    ]
    pretended("h264", width_max=100)
    with pytest.raises(StreamError, match=r"NVDEC: this GPU decodes h264 of 8 bits up to 100x4096, not 160x90; 'dec"):
        frames_of(nvdec(plain_clip, decoder="nvdec"))


def test_a_format_that_no_nvdec_takes(tmp_path: Path, pretended: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", pixel_format="yuv422p", frames=5)
    pretended("h264")
    assert len(frames_of(nvdec(path))) == 5
    (warning,) = warnings_of(caplog)
    assert "its pictures are yuv422p (h264 High 4:2:2), and NVDEC is given 4:2:0 of 8 or 10 bits" in warning
    with pytest.raises(StreamError, match="its pictures are yuv422p"):
        frames_of(nvdec(path, decoder="nvdec"))


@pytest.mark.parametrize("failing_call", [1, 20])
def test_a_decoder_that_fails_is_relieved_by_ffmpeg(
    plain_clip: Path, pretended: Any, failing_call: int, caplog: pytest.LogCaptureFixture
) -> None:
    library = pretended("h264")
    decode = library.decoder.Decode

    def failing(packet: Any) -> Any:
        if library.decoder.calls + 1 == failing_call:
            raise RuntimeError("cuvidDecodePicture failed\nwith a second line")
        return decode(packet)

    library.decoder.Decode = failing
    frames = frames_of(nvdec(plain_clip))
    assert [clips.number_of(frame.planes[0][..., 0]) for frame in frames] == list(range(30))
    assert [frame.pts for frame in frames] == [512 * number for number in range(30)]
    (warning,) = warnings_of(caplog)
    assert warning.endswith("NVDEC cannot: NVDEC: cuvidDecodePicture failed with a second line")
    formats = {frame.pixel_format for frame in frames}
    assert formats == ({hmp.kPF_YUV420P} if failing_call == 1 else {hmp.kPF_NV12, hmp.kPF_YUV420P})


def test_the_decoder_is_given_up_with_the_module(plain_clip: Path, pretended: Any) -> None:
    """Not when the stream ends: that would hold up its last frames."""
    pretended("h264")
    before = fake_nvdec.HostDecoder.closed
    source = nvdec_module.NvDecSource(0, {"path": str(plain_clip)})
    assert len(list(source._frames)) == 30
    source.close()
    assert fake_nvdec.HostDecoder.closed == before
    del source
    assert fake_nvdec.HostDecoder.closed == before + 1


def test_times_when_the_decoder_has_none_of_its_own(plain_clip: Path, pretended: Any) -> None:
    library = pretended("h264")
    decode = library.decoder.Decode

    def untimed(packet: Any) -> Iterator[Any]:
        for frame in decode(packet):
            frame.getPTS = lambda: -1
            yield frame

    library.decoder.Decode = untimed
    assert [frame.pts for frame in frames_of(nvdec(plain_clip))] == [512 * number for number in range(30)]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_planes_of_a_surface(deep: bool, turns: int) -> None:
    flat = torch.arange(8 * 6 * 3 // 2 * (2 if deep else 1), dtype=torch.int32).to(torch.uint8)
    kind, (width, height) = torch.uint16 if deep else torch.uint8, (6, 8) if turns % 2 else (8, 6)
    luma, chroma = torch.empty((height, width), dtype=kind), torch.empty((height // 2, width // 2, 2), dtype=kind)
    nvdecoder.write_planes(nvdecoder.surface_planes(flat, 8, 6, deep), (luma, chroma), turns)
    values = flat.numpy().view(np.uint16 if deep else np.uint8)
    np.testing.assert_array_equal(luma.numpy(), np.rot90(values[:48].reshape(6, 8), turns))
    np.testing.assert_array_equal(chroma.numpy(), np.rot90(values[48:].reshape(3, 4, 2), turns))


def test_what_is_missing_here_is_said_in_one_line() -> None:
    assert nvdec_missing() == "PyTorch finds no NVIDIA GPU here"


def turns(source: nvdec_module.NvDecSource) -> Iterator[int]:
    """How many frames each turn puts out, up to the end."""
    is_done = False
    while not is_done:
        task = Task(0, [], [0])
        source.process(task)
        packets = []
        while not task.get_outputs()[0].empty():
            packets.append(task.get_outputs()[0].get())
        yield sum(packet.is_(VideoFrame) for packet in packets)
        is_done = task.timestamp == Timestamp.DONE


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [12]), (0.002, [3, 3, 3, 3, 0]), (0.1, [1] * 12 + [0])])
def test_frames_that_come_quickly_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(nvdec_module, "time", SimpleNamespace(monotonic=lambda: next(clock) * seconds))
    option = {"path": str(clips.write_clip(tmp_path / "clip.mp4", frames=12)), "decoder": "ffmpeg", "name": "turns"}
    assert list(turns(nvdec_module.NvDecSource(0, option))) == expected


def test_a_frame_of_a_camera_does_not_wait_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvdec_module, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(nvdec_module, "is_network", lambda _: True)
    option = {"path": str(clips.write_clip(tmp_path / "clip.mp4", frames=5)), "decoder": "ffmpeg", "name": "turns"}
    assert list(turns(nvdec_module.NvDecSource(0, option))) == [1] * 5 + [0]


def test_a_failure_comes_after_the_frames_of_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(track: Track) -> Iterator[Any]:
        yield from itertools.islice(pictures(track), 3)
        raise StreamError("it fails")

    pictures = Track.pictures
    monkeypatch.setattr(Track, "pictures", failing)
    monkeypatch.setattr(nvdec_module, "time", SimpleNamespace(monotonic=lambda: 0.0))
    option = {"path": str(clips.write_clip(tmp_path / "clip.mp4", frames=5)), "decoder": "ffmpeg", "name": "turns"}
    source = turns(nvdec_module.NvDecSource(0, option))
    assert next(source) == 3
    with pytest.raises(StreamError, match="it fails"):
        next(source)
