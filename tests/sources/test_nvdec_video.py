"""`segment` with NVDEC and NVENC: what it chooses, what it says, and videos that went through a pretended NVDEC."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clips
import pytest
from jobs import LOSSLESS, left_in

from bmf_trt_seg import hardware, transcode
from bmf_trt_seg.errors import BackendUnavailable, StreamError
from bmf_trt_seg.media import probe_video
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video, video_graph

torch = pytest.importorskip("torch")
if torch.cuda.is_available():
    pytest.skip("these tests are for machines without a GPU", allow_module_level=True)

import fake_nvdec  # noqa: E402


def job(source: Path, target: Path, model: Path, **fields: Any) -> VideoJob:
    return VideoJob(source, target, SegmentOptions(model=str(model)), **{"encoding": LOSSLESS, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"b_frames": 2, "audio": ("aac",)},
        {"pts": [9000 + step for step in (0, 3000, 3100, 9000, 9001, 40000)], "time_base": Fraction(1, 90000)},
        {"rate": Fraction(30000, 1001), "matrix": "bt709", "value_range": "limited", "primaries": 1},
        {"rotation": 90, "sample_aspect": Fraction(4, 3)},
    ],
)
def test_a_video_through_nvdec_is_the_same(
    tmp_path: Path, bright: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", **fields)
    fake_nvdec.pretend(monkeypatch, "h264")
    outputs = {decoder: tmp_path / f"{decoder}.mp4" for decoder in ("nvdec", "ffmpeg")}
    for decoder, target in outputs.items():
        finished = segment_video(job(source, target, bright, decoder=decoder))
        assert (finished.lost, finished.damage) == (0, "")
    assert [when for when, _ in clips.times(outputs["nvdec"])] == [when for when, _ in clips.times(source)]
    by_nvdec, by_ffmpeg = (clips.read_clip(path) for path in outputs.values())
    for ours, theirs in zip(by_nvdec, by_ffmpeg, strict=True):
        assert all((our == their).all() for our, their in zip(ours.planes, theirs.planes, strict=True))
    assert clips.packets_of(outputs["nvdec"], "audio") == clips.packets_of(source, "audio")
    infos = [probe_video(path) for path in outputs.values()]
    assert infos[0].color_tags == infos[1].color_tags
    assert infos[0].sample_aspect == infos[1].sample_aspect


@pytest.mark.parametrize(
    ("options", "is_for_gpu"),
    [
        ({}, False),
        ({"device": "cuda"}, True),
        ({"device": "cuda:1"}, True),
        ({"backend": "tensorrt"}, True),
        ({"model": "a.engine"}, True),
        ({"model": "a.engine", "device": "cpu"}, False),
        ({"device": "cpu"}, False),
    ],
)
def test_auto_takes_nvdec_where_the_network_runs_on_a_gpu(
    plain_clip: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], is_for_gpu: bool
) -> None:
    monkeypatch.setattr(transcode, "nvdec_missing", lambda device: "")
    chosen, _ = transcode._with_engines(
        VideoJob(plain_clip, Path("out.mp4"), SegmentOptions(**{"model": "person", **options}))
    )
    assert chosen.decoder == ("auto" if is_for_gpu else "ffmpeg")
    node = video_graph(chosen, probe_video(plain_clip), Path("out.mp4"))["nodes"][0]
    assert node["module_info"]["name"] == ("NvDecSource" if is_for_gpu else "c_ffmpeg_decoder")
    if is_for_gpu:
        device = "cuda:1" if options.get("device") == "cuda:1" else "cuda:0"
        assert node["option"] == {"path": str(plain_clip), "decoder": "auto", "device": device}


def test_what_is_used_is_said(plain_clip: Path, tmp_path: Path) -> None:
    options = SegmentOptions(model="person", device="cuda")
    _, text = transcode._with_engines(VideoJob(plain_clip, tmp_path / "out.mp4", options, Encoding("auto")))
    assert text == "decoder FFmpeg (not NVDEC: PyTorch finds no NVIDIA GPU here), encoder libx264"


def test_nvdec_by_name_where_it_cannot(
    plain_clip: Path, tmp_path: Path, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        segment_video(job(plain_clip, tmp_path / "out.mp4", bright, decoder="nvdec"))
    assert str(caught.value) == (
        f"'{plain_clip}' cannot be decoded by NVDEC: PyTorch finds no NVIDIA GPU here; leave out '--decoder nvdec'"
    )
    monkeypatch.setattr(transcode, "nvdec_missing", lambda device: "")
    source = clips.write_clip(tmp_path / "in.mp4", pixel_format="yuv444p", frames=3)
    with pytest.raises(StreamError, match=r"cannot be decoded by NVDEC: its pictures are yuv444p .*; leave out"):
        segment_video(job(source, tmp_path / "out.mp4", bright, decoder="nvdec"))
    assert left_in(tmp_path) == {"in.mp4"}


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_nvenc_by_name_where_it_is_missing(plain_clip: Path, tmp_path: Path, bright: Path, codec: str) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        segment_video(job(plain_clip, tmp_path / "out.mp4", bright, encoding=Encoding(codec)))
    assert str(caught.value).startswith(f"encoder '{codec}' cannot be used: ")
    assert str(caught.value).endswith("; '--codec auto' takes libx264 then")
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("preset", "theirs"), [("ultrafast", "fast"), ("veryfast", "fast"), ("medium", "medium"), ("veryslow", "slow")]
)
def test_parameters_of_nvenc(plain_clip: Path, preset: str, theirs: str) -> None:
    chosen = job(plain_clip, Path("o.mp4"), Path("m.onnx"), encoding=Encoding("h264_nvenc", preset, 21))
    encoder = video_graph(chosen, probe_video(plain_clip), Path("o.mp4"))["nodes"][2]["option"]["video_params"]
    assert (encoder["codec"], encoder["preset"], encoder["rc"], encoder["cq"]) == ("h264_nvenc", theirs, "vbr", 21)
    assert not {"crf", "x264-params"} & set(encoder)


def test_auto_takes_nvenc_where_there_is_one(plain_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "nvenc_missing", lambda codec, device: "")
    chosen, _ = transcode._with_engines(job(plain_clip, Path("o.mp4"), Path("m.onnx"), encoding=Encoding("auto")))
    assert chosen.encoding.codec == "h264_nvenc"


# --- what hardware there is -----------------------------------------------------------------------------------------


def pretended_gpu(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    def imported() -> Any:
        if isinstance(library, ImportError):
            raise library
        return library

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(hardware, "pynvvideocodec", imported)
    monkeypatch.setattr(hardware, "_has_encoder", lambda name: True)


def refusing(**_: Any) -> dict[str, int]:
    raise RuntimeError("InitializeEncoder: no NVENC\non this device")


@pytest.mark.parametrize(
    ("library", "missing"),
    [
        (SimpleNamespace(GetEncoderCaps=lambda **_: {"num_encoder_engines": 3}), ""),
        (SimpleNamespace(GetEncoderCaps=lambda **_: {"num_encoder_engines": 0}), "this GPU has no NVENC"),
        (
            SimpleNamespace(GetEncoderCaps=refusing),
            "this GPU has no NVENC for h264 (InitializeEncoder: no NVENC)",
        ),
        (ImportError("no PyNvVideoCodec"), ""),
    ],
)
def test_nvenc_of_a_gpu(monkeypatch: pytest.MonkeyPatch, library: Any, missing: str) -> None:
    pretended_gpu(monkeypatch, library)
    assert hardware.nvenc_missing("h264_nvenc") == missing


def test_nvenc_that_ffmpeg_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended_gpu(monkeypatch, SimpleNamespace())
    monkeypatch.undo()
    assert hardware._has_encoder("libx264")
    assert not hardware._has_encoder("no_such_encoder")
    if not hardware._has_encoder("h264_nvenc"):
        assert hardware.nvenc_missing("h264_nvenc") == (
            "the FFmpeg that BMF uses (libavcodec.so.58) is built without h264_nvenc"
        )


def test_nvdec_wants_bmfs_gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    pretended_gpu(monkeypatch, SimpleNamespace())
    assert hardware.nvdec_missing("cuda:3") == "there is no 'cuda:3' here, but 1 GPU(s)"
    assert hardware.nvdec_missing() == ("this BMF is built without CUDA; install BabitMF_GPU in the place of BabitMF")


def test_pynvvideocodec_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="PyNvVideoCodec is not installed: pip install PyNvVideoCodec"):
        hardware.pynvvideocodec.__wrapped__()


def test_pynvvideocodec_without_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    package = tmp_path / "PyNvVideoCodec"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import logging\nlogging.getLogger(__name__).error('several lines')\n"
        "raise RuntimeError('Failed to load NVENC library\\n\\n=== TROUBLESHOOTING ===')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"^PyNvVideoCodec cannot be used: Failed to load NVENC library$"):
        hardware.pynvvideocodec.__wrapped__()
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("PyNvVideoCodec").disabled
