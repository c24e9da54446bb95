"""Bad input: a clear line, nothing lost, nothing left lying about."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from clips import Recipe
from jobs import left_in, segment
from PIL import Image

from bmf_trt_seg.errors import ConfigError, GraphError, ModelError, SegError, StreamError
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.pipeline import Pipeline
from bmf_trt_seg.transcode import Encoding, VideoJob, segment_video

TS_CLOCK = Fraction(1, 90000)


def _fails_with(kind: type[SegError], words: str, source: Path, target: Path, model: Path, **options: object) -> None:
    """The exact message, and nothing new in the folders."""
    folders = {folder for folder in (source.parent, target.parent) if folder.is_dir()}
    before = {folder: left_in(folder) for folder in folders}
    with pytest.raises(kind) as caught:
        segment(source, target, model, **options)  # type: ignore[arg-type]
    assert str(caught.value) == words
    assert {folder: left_in(folder) for folder in folders} == before


def test_missing_file(tmp_path: Path, bright: Path) -> None:
    source = tmp_path / "no.mp4"
    _fails_with(StreamError, f"'{source}' does not exist", source, tmp_path / "out.mp4", bright)


def test_empty_file(tmp_path: Path, bright: Path) -> None:
    source = tmp_path / "empty.mp4"
    source.touch()
    _fails_with(StreamError, f"'{source}' is empty (0 bytes)", source, tmp_path / "out.mp4", bright)


def test_folder(tmp_path: Path, bright: Path) -> None:
    words = f"'{tmp_path}' is a folder; give a video, pictures or a folder of pictures"
    _fails_with(StreamError, words, tmp_path, tmp_path / "out.mp4", bright)


def test_text_that_is_called_a_video(tmp_path: Path, bright: Path) -> None:
    source = clips.text_file(tmp_path / "text.mp4")
    words = f"'{source}' is no video that FFmpeg can read: Invalid data found when processing input"
    _fails_with(StreamError, words, source, tmp_path / "out.mp4", bright)


def test_sound_without_pictures(tmp_path: Path, bright: Path) -> None:
    source = clips.audio_only(tmp_path / "audio.mp4")
    words = f"'{source}' has no video stream; it has audio (aac)"
    _fails_with(StreamError, words, source, tmp_path / "out.mp4", bright)


def test_video_of_no_frames(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "zero.mp4", frames=0, mux_options=(("movflags", "empty_moov+frag_keyframe"),))
    words = f"'{source}': not one frame could be decoded"
    _fails_with(StreamError, words, source, tmp_path / "out.mp4", bright)


def test_mp4_cut_off_before_its_index(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    source = clips.cut(tmp_path / "cut.mp4", plain_clip, 0.6)
    words = (
        f"'{source}' is an MP4 file without its index ('moov'), so nothing in it can be found: "
        "its recording or download was not finished"
    )
    _fails_with(StreamError, words, source, tmp_path / "out.mp4", bright)


@pytest.mark.parametrize("kept", [100, 700, 1000, 1500])
def test_mp4_cut_off_in_its_index(kept: int, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    """It is there in part, so that it is missing would be wrong."""
    content = plain_clip.read_bytes()
    source = tmp_path / "broken.mp4"
    source.write_bytes(content[: content.index(b"moov") + kept])
    with pytest.raises(StreamError) as caught:
        segment(source, tmp_path / "out.mp4", bright)
    assert "without its index" not in str(caught.value)


def _decodable(path: Path) -> list[tuple[Fraction, int]]:
    """What PyAV decodes until the file breaks off."""
    found = []
    try:
        with clips.av.open(str(path)) as container:
            for frame in container.decode(video=0):
                found.append((frame.pts * frame.time_base, clips.number_of(clips.plane_of(frame.planes[0]))))
    except clips.av.error.FFmpegError:
        pass
    return found


@pytest.mark.parametrize("part", [0.9, 0.5, 0.25])
def test_cut_off_mp4_keeps_what_can_be_decoded(part: float, tmp_path: Path, bright: Path) -> None:
    whole = clips.write_clip(
        tmp_path / "whole.mp4", frames=60, b_frames=2, audio=("aac",), options=(("g", "10"),),
        mux_options=(("movflags", "faststart"),),
    )  # fmt: skip
    source = clips.cut(tmp_path / "cut.mp4", whole, part)
    finished = segment(source, tmp_path / "out.mp4", bright)
    expected, found = _decodable(source), clips.times(tmp_path / "out.mp4")
    # of the last picture only a part is there: whether it counts as decoded is a matter of taste
    assert expected[:-1] == found[: len(expected) - 1]
    assert 60 * part * 0.7 < len(found) <= 60 * part
    assert finished.frames == len(found)
    assert finished.lost == 60 - len(found)
    assert re.fullmatch(r"it ends after \d+ of 60 frames", finished.damage)


@pytest.mark.parametrize("part", [0.95, 0.5])
def test_cut_off_mkv_keeps_what_can_be_decoded(part: float, tmp_path: Path, bright: Path) -> None:
    whole = clips.write_clip(
        tmp_path / "whole.mkv", frames=40, b_frames=2, audio=("aac",), options=(("g", "10"),),
        time_base=Fraction(1, 1000), pts=range(0, 1600, 40),
    )  # fmt: skip
    assert segment(whole, tmp_path / "out.mkv", bright).damage == ""
    source = clips.cut(tmp_path / "cut.mkv", whole, part)
    finished = segment(source, tmp_path / "out.mkv", bright)
    found = clips.times(tmp_path / "out.mkv")
    assert 15 <= finished.frames == len(found) < 40
    assert found == _decodable(source)[: len(found)]
    assert set(found) <= set(clips.times(whole))
    missing = whole.stat().st_size - source.stat().st_size
    assert finished.damage in {f"its last {missing} bytes are missing", "it ends at 0.8 s of 1.6 s"}


@pytest.mark.parametrize("begin", [1200, 5000])
def test_an_mkv_that_begins_late_is_whole(begin: int, tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(
        tmp_path / "late.mkv", frames=20, time_base=Fraction(1, 1000), pts=range(begin, begin + 800, 40)
    )
    finished = segment(source, tmp_path / "out.mkv", bright)
    assert (finished.damage, finished.frames) == ("", 20)
    assert clips.times(tmp_path / "out.mkv") == clips.times(source)
    assert segment(tmp_path / "out.mkv", tmp_path / "again.mkv", bright).damage == ""


def test_a_gif_in_one_packet_is_whole(tmp_path: Path, bright: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (6, 48, 64), np.uint8)
    first, *others = (Image.fromarray(one) for one in noise)
    first.save(tmp_path / "noise.gif", save_all=True, append_images=others)
    with av.open(str(tmp_path / "noise.gif")) as source:
        assert sum(packet.size > 0 for packet in source.demux()) == 1
    finished = segment(tmp_path / "noise.gif", tmp_path / "out.mp4", bright)
    assert (finished.damage, finished.frames) == ("", 6)


def test_cut_off_fragmented_mp4_is_damaged(tmp_path: Path, bright: Path) -> None:
    whole = clips.write_clip(
        tmp_path / "whole.mp4", frames=60, options=(("g", "10"),),
        mux_options=(("movflags", "frag_keyframe+empty_moov"),),
    )  # fmt: skip
    finished = segment(clips.cut(tmp_path / "cut.mp4", whole, 0.6), tmp_path / "out.mp4", bright)
    assert 25 < finished.frames < 40
    assert finished.damage


def test_spoilt_bytes_are_damage(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=60, options=(("g", "10"),))
    content = bytearray(source.read_bytes())
    start, end = content.find(b"mdat") + 4, content.find(b"moov") - 4
    choice = random.Random(3)
    for _ in range(2000):
        content[choice.randrange(start, end)] = choice.randrange(256)
    source.write_bytes(content)
    finished = segment(source, tmp_path / "out.mp4", bright)
    lost = 60 - finished.frames
    assert lost > 0
    assert finished.damage == f"{lost} of 60 frames could not be decoded"
    numbers = [number for _, number in clips.times(tmp_path / "out.mp4")]
    assert len(numbers) == finished.frames


@pytest.mark.parametrize("sizes", [((160, 90), (320, 180)), ((320, 180), (160, 90)), ((160, 90), (120, 120))])
def test_size_that_changes_in_mid_stream(
    sizes: tuple[tuple[int, int], ...],
    tmp_path: Path,
    bright: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All frames, at the first size; and the user hears of it."""
    parts = [
        clips.write_clip(
            tmp_path / f"{place}.ts", size_wh=size, time_base=TS_CLOCK, numbers=range(20 * place, 20 * place + 20),
            pts=range(72000 * place + 126000, 72000 * place + 198000, 3600), b_frames=2,
        )
        for place, size in enumerate(sizes)
    ]  # fmt: skip
    source = clips.concatenated(tmp_path / "in.ts", parts)
    logger = logging.getLogger("bmf_trt_seg")  # the command line gives it handlers of its own
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    with caplog.at_level("WARNING", "bmf_trt_seg"):
        finished = segment(source, tmp_path / "out.mp4", bright)
    shown = clips.read_clip(tmp_path / "out.mp4")
    assert [one.number for one in shown] == list(range(40))
    assert [one.seconds for one in shown] == [Fraction(7, 5) + Fraction(n, 25) for n in range(40)]
    assert {one.planes[0].shape for one in shown} == {sizes[0][::-1]}
    assert finished.damage == ""
    (first, second) = ("{}x{}".format(*size) for size in sizes)
    assert caplog.messages == [
        f"stream 'segment': frame 20 is {second}, the first was {first}; frames of another size are scaled to that"
    ]


def test_output_folder_that_does_not_exist(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    target = tmp_path / "nowhere" / "out.mp4"
    words = f"'{target}' cannot be written: the folder '{tmp_path / 'nowhere'}' does not exist"
    _fails_with(StreamError, words, plain_clip, target, bright)


@pytest.mark.parametrize("name", ["out.gif", "out.webm", "out"])
def test_ending_that_is_no_container_of_ours(name: str, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    target = tmp_path / name
    words = f"'{target}': a video is written to .m4v, .mkv, .mov, .mp4, .ts, not '{target.suffix}'"
    _fails_with(ConfigError, words, plain_clip, target, bright)


def test_output_equal_to_input(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", frames=3)
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    content = source.read_bytes()
    for target in (source, link):
        words = f"'{target}' is the input; choose another name for the output"
        _fails_with(ConfigError, words, source, target, bright)
    assert source.read_bytes() == content


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode == 0
    )
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    yield folder
    kept_open = subprocess.run(["umount", folder], capture_output=True).returncode != 0
    if kept_open:
        subprocess.run(["umount", "--lazy", folder], check=True)
    assert not kept_open, "something still has a file open there"


@pytest.mark.usefixtures("small_disk")
def test_disk_full(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    target = tmp_path / "disk" / "out.mp4"
    target.write_text("an older output")
    with pytest.raises(StreamError) as caught:
        segment(plain_clip, target, bright)
    assert str(caught.value) == f"'{target}' cannot be written: No space left on device"
    assert left_in(target.parent) == {"out.mp4"}
    assert target.read_text() == "an older output"


def test_disk_full_when_the_pictures_are_encoded(small_disk: Path, tmp_path: Path, bright: Path) -> None:
    """They fit, but not a second time."""
    source = clips.write_clip(tmp_path / "in.mp4", frames=40, crf=30)
    segment(source, tmp_path / "out.mp4", bright, encoding=Encoding(crf=30))
    size = (tmp_path / "out.mp4").stat().st_size
    assert size < 40_000
    (small_disk / "filler").write_bytes(bytes(65536 - size * 3 // 2))
    with pytest.raises(StreamError) as caught:
        segment(source, small_disk / "out.mp4", bright, encoding=Encoding(crf=30))
    assert str(caught.value) == f"'{small_disk / 'out.mp4'}' cannot be written: No space left on device"
    assert left_in(small_disk) == {"filler"}


@pytest.mark.parametrize(("kind", "frames"), [("records", 400), ("masks", 400), ("records", 3)])
def test_disk_full_of_records(kind: str, frames: int, small_disk: Path, tmp_path: Path, bright: Path) -> None:
    """Three records are written when the file is closed, and not before."""
    source = clips.write_clip(tmp_path / "in.mp4", frames=frames, crf=30)
    (small_disk / "filler").write_bytes(bytes((64 if frames == 3 else 48) << 10))
    with pytest.raises(StreamError) as caught:
        segment(source, tmp_path / "out.mp4", bright, **{kind: small_disk / "them"})  # type: ignore[arg-type]
    assert str(caught.value) == f"'{small_disk / 'them'}' cannot be written: No space left on device"
    assert left_in(small_disk) == {"filler"}
    assert left_in(tmp_path) == {"in.mp4", "disk"}


def test_file_system_that_is_read_only(small_disk: Path, bright: Path, plain_clip: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    target = small_disk / "out.mp4"
    words = f"'{target}' cannot be written: Read-only file system"
    _fails_with(StreamError, words, plain_clip, target, bright)


_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from bmf_trt_seg.cli.main import main
main(["segment", *sys.argv[2:]])
"""


@pytest.mark.parametrize("limit", [2_000, 60_000])
def test_limit_on_file_sizes(limit: int, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    """Early in the file, and when most of it is written. The limit counts for the capture of output as well."""
    target = tmp_path / "out.mp4"
    run = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(limit), str(plain_clip), "-o", str(target), "-m", str(bright),
         "--crf", "0", "-q"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.stderr == f"bmf-trt-seg: '{target}' cannot be written: File too large\n"
    assert run.returncode == 1
    assert left_in(tmp_path) == set()


def test_missing_model_file(tmp_path: Path, plain_clip: Path) -> None:
    model = tmp_path / "no.onnx"
    words = f"model file '{model}' does not exist; models known by name: person, person-landscape"
    _fails_with(ConfigError, words, plain_clip, tmp_path / "out.mp4", model)


def test_network_that_segments_nothing(tmp_path: Path, networks: Path, plain_clip: Path) -> None:
    with pytest.raises(ModelError) as caught:
        segment(plain_clip, tmp_path / "out.mp4", networks / "classifier.onnx")
    words = str(caught.value)
    assert "(1, 3)" in words, "which shape was found"
    assert "scores (N, C, H, W)" in words, "which are understood"
    assert "class indices (N, H, W)" in words
    assert left_in(tmp_path) == set()


def test_file_that_is_no_network(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    model = clips.text_file(tmp_path / "text.onnx")
    model.with_suffix(".json").write_text(bright.with_suffix(".json").read_text())
    with pytest.raises(ModelError, match=r"model '.*text\.onnx' cannot be loaded by ONNX Runtime"):
        segment(plain_clip, tmp_path / "out.mp4", model)


@pytest.mark.parametrize(("kind", "exists"), [("input", "input"), ("output", "output")])
def test_description_with_the_wrong_tensor(
    kind: str, exists: str, tmp_path: Path, bright: Path, plain_clip: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(bright.read_bytes())
    spec = json.loads(bright.with_suffix(".json").read_text())
    spec[kind]["name"] = "nonsense"
    model.with_suffix(".json").write_text(json.dumps(spec))
    words = f"model 'model.onnx' has no {kind} 'nonsense', which its description names; it has: '{exists}'"
    _fails_with(ModelError, words, plain_clip, tmp_path / "out.mp4", model)


@pytest.mark.parametrize("wanted", ["dog", 7, "7", -1])
def test_class_that_the_model_does_not_have(wanted: str | int, tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    words = f"option 'classes': the model has no class '{wanted}'; it has 0 background, 1 box"
    _fails_with(ConfigError, words, plain_clip, tmp_path / "out.mp4", bright, classes=[wanted])


def test_counts_of_an_earlier_job_do_not_count(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    """In one process: a good video first, then one without frames."""
    segment(plain_clip, tmp_path / "good.mp4", bright)
    bad = clips.write_clip(tmp_path / "zero.mp4", frames=0, mux_options=(("movflags", "empty_moov+frag_keyframe"),))
    _fails_with(StreamError, f"'{bad}': not one frame could be decoded", bad, tmp_path / "out.mp4", bright)


def test_a_failed_run_keeps_the_older_output(tmp_path: Path, networks: Path, plain_clip: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_text("an older output")
    with pytest.raises(ModelError):
        segment(plain_clip, target, networks / "classifier.onnx")
    assert target.read_text() == "an older output"
    assert left_in(tmp_path) == {"out.mp4"}


def test_failure_in_the_first_frames_names_its_cause(tmp_path: Path) -> None:
    """A network that fails on real input only: the decoder is not to blame, and the first failure is told."""
    model = clips.failing_model(tmp_path / "failing.onnx")
    source = clips.write_clip(tmp_path / "in.mp4", frames=10)
    with pytest.raises(SegError) as caught:
        segment(source, tmp_path / "out.mp4", model)
    assert "ONNX Runtime failed on 'failing.onnx' with a batch of 1" in str(caught.value)
    assert "'in.mp4'" not in str(caught.value)
    assert left_in(tmp_path) == {"in.mp4", "failing.onnx", "failing.json"}


def test_a_bug_of_ours_is_not_blamed_on_the_video(
    tmp_path: Path, bright: Path, plain_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "draw", lambda *_: 1 // 0)
    with pytest.raises(GraphError, match=r"node 1 \(SegmentModule\) failed: ZeroDivisionError: "):
        segment(plain_clip, tmp_path / "out.mp4", bright)
    assert left_in(tmp_path) == set()


def test_many_jobs_after_failures_in_one_process(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    """Nothing of a failure stays behind in the process: descriptors, threads, state."""
    text = clips.text_file(tmp_path / "text.mp4")
    records = tmp_path / "records.jsonl"
    segment(plain_clip, tmp_path / "out.mp4", bright, records=records)
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:3]))
    gc.collect()
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(StreamError):
            segment(text, tmp_path / "out.mp4", bright)
        with pytest.raises(ConfigError):
            segment_video(VideoJob(plain_clip, tmp_path / "out.mp4", SegmentOptions(replay=str(records))))
        assert segment(plain_clip, tmp_path / "out.mp4", bright).frames == 30
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before


def test_unreadable_pixel_format_is_named(tmp_path: Path, bright: Path) -> None:
    """Twelve bits are converted as well: nothing that FFmpeg decodes is refused."""
    source = clips.write_clip(
        tmp_path / "in.mkv", Recipe(frames=3, codec="ffv1", pixel_format="yuv444p12le"),
        time_base=Fraction(1, 1000), pts=range(0, 120, 40),
    )  # fmt: skip
    segment(source, tmp_path / "out.mkv", bright)
    box = clips.box(0, *clips.SIZE_WH)
    assert np.ptp(clips.read_clip(tmp_path / "out.mkv")[0].planes[0][box]) <= 1
