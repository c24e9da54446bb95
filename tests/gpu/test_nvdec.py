"""NVDEC on a GPU: its frames against FFmpeg's, what reaches the end of a graph, and what becomes of its memory."""

from __future__ import annotations

import gc
import logging
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import pytest
from jobs import LOSSLESS

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.graph import check_graph, load_graph, run_graph
from bmf_trt_seg.hardware import nvdec_missing, nvenc_missing
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.sources.packets import Track
from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video

torch = pytest.importorskip("torch")
hmp = pytest.importorskip("bmf.hmp")
if torch.cuda.is_available() and nvdec_missing():
    pytest.skip(nvdec_missing(), allow_module_level=True)

sys.path.append(str(Path(__file__).parents[1] / "sources"))  # where BMF finds the sink, and this file the same one
import frame_sink  # noqa: E402
from frame_sink import frames_of, nvdec  # noqa: E402

TOP = Path(__file__).parents[2]
SIZE_WH = (320, 180)  # HEVC, VP9 and AV1 have least sizes of some 130 to 144 pixels
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("mp4", {"b_frames": 2}),
    "h264-ts": ("ts", {"b_frames": 3}),
    "h264-open": ("mp4", {"b_frames": 2, "options": (("x264-params", "open-gop=1:keyint=10:b-adapt=0:log=-1"),)}),
    "h264-full": ("mp4", {"pixel_format": "yuvj420p"}),
    "hevc": ("mp4", {"codec": "libx265", "b_frames": 2}),
    "hevc-10": ("mkv", {"codec": "libx265", "b_frames": 2, "pixel_format": "yuv420p10le"}),
    "av1": ("mp4", {"codec": "libsvtav1", "options": (("preset", "10"),)}),
    "av1-10": ("mkv", {"codec": "libsvtav1", "options": (("preset", "10"),), "pixel_format": "yuv420p10le"}),
    "vp9": ("webm", {"codec": "libvpx-vp9", "options": (("deadline", "realtime"), ("cpu-used", "8"))}),
}
FRAMES = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvdec")


def clip(folder: Path, kind: str) -> Path:
    ending, fields = KINDS[kind]
    if kind.startswith("av1") and not has_av1():
        pytest.skip("the NVDEC of this GPU does not decode AV1")
    path = folder / f"{kind}.{ending}"
    if not path.exists():
        options = {**dict(fields.get("options", ())), "g": "12"}
        clips.write_clip(path, **{**fields, "frames": FRAMES, "size_wh": SIZE_WH, "options": tuple(options.items())})
    return path


def has_av1() -> bool:
    import PyNvVideoCodec

    chroma = getattr(PyNvVideoCodec.cudaVideoChromaFormat, "420")
    caps = PyNvVideoCodec.GetDecoderCaps(
        gpuid=0, codec=PyNvVideoCodec.cudaVideoCodec.AV1, chromaformat=chroma, bitdepth=8
    )
    return bool(caps["num_decoder_engines"])


def of_ffmpeg(path: Path) -> list[tuple[int, list[Any]]]:
    """pts and planes (luma, Cb, Cr) of every frame, 16-bit ones as they are."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
            planes = [
                np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width].astype(int)
                for plane in frame.planes
            ]
            found.append((frame.pts, planes))
    return found


def planes_of(kept: frame_sink.Kept) -> list[Any]:
    """Luma, Cb, Cr of an NV12 or P010 frame, as FFmpeg has them."""
    luma, chroma = kept.planes
    planes = [luma[..., 0], chroma[..., 0], chroma[..., 1]]
    return [plane.astype(int) >> 6 if plane.dtype == np.uint16 else plane.astype(int) for plane in planes]


def check_pixels(kept: list[frame_sink.Kept], expected: list[tuple[int, list[Any]]], exact: bool) -> None:
    assert [frame.pts for frame in kept] == [pts for pts, _ in expected]
    for frame, (_, planes) in zip(kept, expected, strict=True):
        assert frame.on_gpu
        for ours, theirs in zip(planes_of(frame), planes, strict=True):
            assert ours.shape == theirs.shape
            difference = np.abs(ours - theirs)
            assert difference.max() == 0 if exact else difference.mean() < 1


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [record for record in caplog.records if record.name.startswith("bmf_trt_seg")]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_ffmpeg(folder: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = clip(folder, kind)
    kept = frames_of(nvdec(path))
    assert warnings_of(caplog) == []
    check_pixels(kept, of_ffmpeg(path), exact=kind.startswith("h264"))
    assert {frame.pixel_format for frame in kept} == {hmp.kPF_P010LE if kind.endswith("-10") else hmp.kPF_NV12}
    assert {frame.value_range for frame in kept} == {hmp.kCR_JPEG if kind == "h264-full" else hmp.kCR_MPEG}


@pytest.mark.parametrize("window", [(0.5, 1.2), (0.04, None), (1.0, None), (1.8, 9.0)])
@pytest.mark.parametrize("kind", ["h264", "h264-ts", "h264-open", "hevc-10", "vp9", "av1"])
def test_from_start_to_end(folder: Path, kind: str, window: tuple[float, float | None]) -> None:
    path = clip(folder, kind)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        first, last = (
            None if seconds is None else (stream.start_time or 0) + round(Fraction(seconds) / stream.time_base)
            for seconds in window
        )
    wanted = [one for one in of_ffmpeg(path) if one[0] >= first and (last is None or one[0] < last)]
    end = {} if window[1] is None else {"end_seconds": window[1]}
    check_pixels(frames_of(nvdec(path, start_seconds=window[0], decoder="nvdec", **end)), wanted, exact=False)


def test_variable_rate_and_a_start_that_is_not_zero(tmp_path: Path) -> None:
    pts = [90000 + step for step in (0, 3000, 3100, 9000, 9001, 40000, 43000, 46003, 90000, 130000)]
    path = clips.write_clip(tmp_path / "in.mp4", b_frames=2, size_wh=SIZE_WH, pts=pts, time_base=Fraction(1, 90000))
    kept = frames_of(nvdec(path, decoder="nvdec"))
    assert [frame.pts for frame in kept] == pts
    assert {frame.time_base for frame in kept} == {Fraction(1, 90000)}
    check_pixels(kept, of_ffmpeg(path), exact=True)


@pytest.mark.parametrize(("rotation", "kind"), [(90, "h264"), (-90, "hevc-10"), (180, "h264")])
def test_a_rotated_video_comes_out_upright(tmp_path: Path, rotation: int, kind: str) -> None:
    path = clips.write_clip(
        tmp_path / "in.mp4", **{**KINDS[kind][1], "frames": 5, "size_wh": SIZE_WH}, rotation=rotation
    )
    turned = [(pts, [np.rot90(plane, rotation // 90) for plane in planes]) for pts, planes in of_ffmpeg(path)]
    check_pixels(frames_of(nvdec(path, decoder="nvdec")), turned, exact=True)


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("value_range", ["limited", "full"])
def test_colour_tags(tmp_path: Path, matrix: str, value_range: str) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", frames=3, size_wh=SIZE_WH, matrix=matrix, value_range=value_range)
    for frame in frames_of(nvdec(path, decoder="nvdec")):
        assert frame.matrix == hmp.ColorSpace(clips.MATRICES[matrix])
        assert frame.value_range == (hmp.kCR_JPEG if value_range == "full" else hmp.kCR_MPEG)


def test_pictures_that_are_kept_stay_what_they_are(folder: Path) -> None:
    """The decoder reuses its own memory at its next call."""
    from bmf_trt_seg.sources.nvdecoder import NvDecoder

    def new_planes(width: int, height: int) -> tuple[Any, tuple[Any, ...]]:
        shapes = (height, width), (height // 2, width // 2, 2)
        return None, tuple(torch.empty(shape, dtype=torch.uint8, device="cuda") for shape in shapes)

    path = clip(folder, "h264")
    with Track(str(path)) as track:
        decoder = NvDecoder(track.info, 0, new_planes)
        pictures = list(decoder.pictures(track))
        decoder.close()
    for picture, (pts, planes) in zip(pictures, of_ffmpeg(path), strict=True):
        assert picture.pts == pts
        luma, chroma = picture.planes
        np.testing.assert_array_equal(luma.cpu().numpy(), planes[0])
        np.testing.assert_array_equal(chroma[..., 1].cpu().numpy(), planes[2])


def test_memory_does_not_grow(tmp_path: Path) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", frames=300, size_wh=(1280, 720), b_frames=2, crf=30)
    used = []
    for _ in range(6):
        run_graph(frame_sink.graph_to_sink(nvdec(path, decoder="nvdec"), "counted", count=1))
        assert frame_sink.counted["counted"] == 300
        gc.collect()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used.append(total - free)
    assert used[-1] - used[1] <= 64 << 20, f"bytes in use after each run: {used}"  # 300 frames are 400 MB


@pytest.mark.parametrize("fields", [{"pixel_format": "yuv422p"}, {"pixel_format": "yuv444p"}])
def test_what_nvdec_is_not_given_comes_from_ffmpeg(
    tmp_path: Path, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", frames=10, size_wh=SIZE_WH, **fields)
    kept = frames_of(nvdec(path))
    assert len(kept) == 10
    assert not any(frame.on_gpu for frame in kept)
    (warning,) = warnings_of(caplog)
    assert f"FFmpeg decodes it on the CPU, NVDEC cannot: its pictures are {fields['pixel_format']}" in warning
    with pytest.raises(StreamError, match="cannot be decoded by NVDEC"):
        frames_of(nvdec(path, decoder="nvdec"))


def test_what_this_gpu_cannot_comes_from_ffmpeg(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No NVDEC before Blackwell's decodes H.264 of 10 bits, and a picture may be too small."""
    for name, fields in {
        "deep": {"pixel_format": "yuv420p10le", "size_wh": SIZE_WH},
        "small": {"codec": "libx265", "size_wh": (64, 64)},
    }.items():
        path = clips.write_clip(tmp_path / f"{name}.mp4", frames=10, **fields)
        caplog.clear()
        kept = frames_of(nvdec(path))
        assert len(kept) == 10
        assert len(warnings_of(caplog)) == (0 if kept[0].on_gpu else 1)


def test_the_template_has_picture_and_sound(tmp_path: Path, bright: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", b_frames=2, audio=("aac",))
    target = tmp_path / "out.mp4"
    variables = {"INPUT": str(source), "OUTPUT": str(target), "MODEL": str(bright), "DECODER": "nvdec"}
    graph = load_graph(TOP / "graphs" / "nvdec_overlay.json", variables)
    assert check_graph(graph) == []
    run_graph(graph)
    assert warnings_of(caplog) == []
    assert clips.times(target) == clips.times(source)
    before, after = (clips.packets_of(path, "audio") for path in (source, target))
    assert [content for _, content in after[0]] == [content for _, content in before[0]]


@pytest.mark.parametrize("fields", [{"b_frames": 2, "audio": ("aac",)}, {"rotation": 90}])
def test_segment_with_nvdec(tmp_path: Path, person: Path, fields: dict[str, Any]) -> None:
    from gpu.networks import QUICK, TACTICS

    source = clips.write_clip(tmp_path / "in.mp4", size_wh=SIZE_WH, **fields)
    options = SegmentOptions(
        model=str(person), backend="tensorrt", batch_size=4,
        build={"tactic_sources": TACTICS, "opt_level": QUICK, "tf32": False},  # type: ignore[arg-type]
    )  # fmt: skip
    outputs = {decoder: tmp_path / f"{decoder}.mp4" for decoder in ("nvdec", "ffmpeg")}
    for decoder, target in outputs.items():
        finished = segment_video(VideoJob(source, target, options, LOSSLESS, decoder=decoder))
        assert (finished.frames, finished.lost) == (30, 0)
    ours, theirs = (clips.read_clip(path) for path in outputs.values())
    assert [frame.seconds for frame in ours] == [frame.seconds for frame in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.planes[0].shape == their.planes[0].shape
        assert np.abs(our.planes[0].astype(int) - their.planes[0]).mean() < 1
    assert clips.packets_of(outputs["nvdec"], "audio") == clips.packets_of(source, "audio")


def test_nvenc_if_there_is_one(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    if nvenc_missing("h264_nvenc"):
        pytest.skip(nvenc_missing("h264_nvenc"))
    job = VideoJob(plain_clip, tmp_path / "out.mp4", SegmentOptions(model=str(bright)), Encoding("h264_nvenc"))
    assert segment_video(job).frames == 30
    assert clips.times(tmp_path / "out.mp4") == clips.times(plain_clip)
