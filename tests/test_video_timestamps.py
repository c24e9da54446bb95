"""Every frame comes out once, in order, at its time, whatever the clip: and everything beside the pictures, too."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.stream
import clips
import numpy as np
import pytest
from clips import Recipe
from jobs import segment

from bmf_trt_seg.finish import Finished
from bmf_trt_seg.transcode import Encoding

NTSC = Fraction(30000, 1001)


def _irregular(steps: list[int], count: int = 40, start: int = 0) -> list[int]:
    choice = random.Random(1)
    pts = [start]
    while len(pts) < count:
        pts.append(pts[-1] + choice.choice(steps))
    return pts


_VFR = _irregular([1500, 3000, 3003, 3754, 6001, 9000, 777])
_CLOCK_90K = (("video_track_timescale", "90000"),)

RECIPES = {
    "cfr25.mp4": Recipe(),
    "cfr25_b.mp4": Recipe(b_frames=3),
    "cfr30.mp4": Recipe(rate=Fraction(30)),
    "cfr30_b.mp4": Recipe(rate=Fraction(30), b_frames=3),
    "ntsc.mp4": Recipe(rate=NTSC),
    "ntsc_b.mp4": Recipe(rate=NTSC, b_frames=3),
    "film.mkv": Recipe(rate=Fraction(24000, 1001), time_base=Fraction(1, 1000), b_frames=2,
                       pts=[round(index * 1001 / 24) for index in range(30)]),
    "fast.mp4": Recipe(rate=Fraction(120), b_frames=2),
    "slow.mp4": Recipe(rate=Fraction(1, 2), frames=5),
    "vfr.mp4": Recipe(time_base=Fraction(1, 90000), pts=_VFR, mux_options=_CLOCK_90K),
    "vfr_b.mp4": Recipe(time_base=Fraction(1, 90000), pts=_VFR, mux_options=_CLOCK_90K, b_frames=3),
    "vfr_b.mkv": Recipe(time_base=Fraction(1, 1000), pts=_irregular([16, 17, 33, 40, 100, 7]), b_frames=3),
    "long_gap.mp4": Recipe(time_base=Fraction(1, 90000), pts=[0, 3000, 6000, 906000, 909000], mux_options=_CLOCK_90K),
    "start.ts": Recipe(time_base=Fraction(1, 90000), pts=range(126000, 126000 + 30 * 3600, 3600), b_frames=3),
    "late.mp4": Recipe(time_base=Fraction(1, 12800), pts=range(25600, 25600 + 30 * 512, 512)),
    "late_b.mp4": Recipe(time_base=Fraction(1, 12800), pts=range(25600, 25600 + 30 * 512, 512), b_frames=3),
    "late_b.mkv": Recipe(time_base=Fraction(1, 1000), pts=range(500, 500 + 30 * 40, 40), b_frames=3),
    "no_edit_list.mp4": Recipe(b_frames=3, mux_options=(("use_editlist", "0"),)),
    "early.mp4": Recipe(time_base=Fraction(1, 12800), pts=range(-5120, 20 * 512, 512)),
    "fragmented.mp4": Recipe(b_frames=3, mux_options=(("movflags", "frag_keyframe+empty_moov"),)),
    "old_clock.mov": Recipe(time_base=Fraction(1, 600), pts=range(0, 600, 20), mux_options=(("video_track_timescale",
                            "600"),), b_frames=3),
    "odd_clock.mp4": Recipe(time_base=Fraction(1, 10_000_000), pts=[400_000 * n + n * 7 % 13 for n in range(30)],
                            mux_options=(("video_track_timescale", "10000000"),), b_frames=3),
    "divx.avi": Recipe(codec="mpeg4", options=(("b", "1500k"), ("bf", "0"))),
    "divx_b.avi": Recipe(codec="mpeg4", options=(("b", "1500k"), ("bf", "2"))),
    "flash.flv": Recipe(time_base=Fraction(1, 1000), pts=range(0, 1200, 40), b_frames=3),
    "vp9.webm": Recipe(codec="libvpx-vp9", time_base=Fraction(1, 1000), pts=range(0, 1200, 40),
                       options=(("deadline", "realtime"), ("cpu-used", "8"), ("b", "1M"))),
    "hevc_b.mp4": Recipe(codec="libx265", b_frames=3),
    "lossless.mkv": Recipe(codec="ffv1", time_base=Fraction(1, 1000), pts=range(0, 1200, 40)),
    "one.mp4": Recipe(frames=1),
    "two.mp4": Recipe(frames=2),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_every_frame_once_in_order_at_its_time(name: str, tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / name, RECIPES[name])
    suffix = source.suffix if source.suffix in {".mp4", ".mkv", ".mov", ".ts"} else ".mp4"
    target = tmp_path / f"out{suffix}"

    finished = segment(source, target, bright)

    before, after = clips.times(source), clips.times(target)
    count = len(before)
    hidden = 10 if name == "early.mp4" else 0  # what an edit list cuts off stays away
    assert [number for _, number in before] == list(range(hidden, hidden + count)), "the clip is not as it should be"
    assert count >= 20 or name in {"one.mp4", "two.mp4", "slow.mp4", "long_gap.mp4"}
    assert after == before
    assert finished == Finished(frames=len(before), lost=0, damage="", moved=0, left_out=[])


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov", ".mkv", ".ts"])
@pytest.mark.parametrize("name", ["ntsc_b.mp4", "vfr_b.mp4", "start.ts"])
def test_every_container_keeps_times_as_well_as_it_can(name: str, suffix: str, tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / name, RECIPES[name])
    target = tmp_path / f"out{suffix}"
    segment(source, target, bright)
    before, after = clips.times(source), clips.times(target)
    assert [number for _, number in after] == [number for _, number in before]
    shifts = [ours - theirs for (ours, _), (theirs, _) in zip(after, before, strict=True)]
    if suffix == ".ts":
        # its decoding times cannot be below zero: the whole program moves by what B-frames need
        assert 0 <= shifts[0] <= Fraction(1, 10)
        shifts = [shift - shifts[0] for shift in shifts]
    # Matroska counts milliseconds, MPEG-TS 90,000ths; the others take the clock of the source
    unit = {".mkv": Fraction(1, 1000), ".ts": Fraction(1, 90000)}.get(suffix, Fraction(0))
    assert max(abs(shift) for shift in shifts) <= unit / 2


def test_mp4_output_can_be_played_while_it_is_loaded(tmp_path: Path, bright: Path, plain_clip: Path) -> None:
    segment(plain_clip, tmp_path / "out.mp4", bright)
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_hevc_output_keeps_times(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", RECIPES["vfr_b.mp4"])
    segment(source, tmp_path / "out.mp4", bright, encoding=Encoding("libx265", "ultrafast"))
    assert clips.times(tmp_path / "out.mp4") == clips.times(source)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "hevc"


@pytest.mark.parametrize("name", ["cfr25.mp4", "ntsc_b.mp4", "cfr30_b.mp4", "late.mp4", "old_clock.mov"])
def test_rate_time_base_and_durations_survive(name: str, tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / name, RECIPES[name])
    target = tmp_path / f"out{source.suffix}"
    segment(source, target, bright)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        ours, theirs = after.streams.video[0], before.streams.video[0]
        assert ours.average_rate == theirs.average_rate
        assert ours.time_base == theirs.time_base
        assert ours.frames == theirs.frames
        assert ours.start_time == theirs.start_time
        assert ours.duration == theirs.duration
    shown, expected = clips.read_clip(target), clips.read_clip(source)
    assert [one.duration_seconds for one in shown] == [one.duration_seconds for one in expected]
    assert shown[-1].duration_seconds > 0, "players skip a frame of no duration"


def test_vfr_output_is_stamped_with_a_plausible_level(tmp_path: Path, bright: Path) -> None:
    """x264 told a rate of 90,000 frames a second would say level 6.2, which no player's hardware takes."""
    source = clips.write_clip(tmp_path / "in.mp4", RECIPES["vfr_b.mp4"])
    segment(source, tmp_path / "out.mp4", bright)
    with av.open(str(tmp_path / "out.mp4")) as container:
        extradata = container.streams.video[0].codec_context.extradata
    assert extradata[3] <= 40  # AVCLevelIndication of the avcC box


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_clips_come_out_upright(degrees: int, tmp_path: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", Recipe(rotation=degrees, b_frames=2, crf=0))
    width, height = (160, 90) if degrees == 180 else (90, 160)
    model = clips.bright_model(tmp_path / "bright.onnx", (width, height))
    segment(source, tmp_path / "out.mp4", model)
    before, after = clips.read_clip(source), clips.read_clip(tmp_path / "out.mp4")
    assert before[0].rotation % 360 == degrees
    assert [one.seconds for one in after] == [one.seconds for one in before]
    assert {one.rotation for one in after} == {0}
    for lying, upright in zip(before, after, strict=True):
        turned = np.rot90(lying.planes[0], degrees // 90)  # counter-clockwise, as display matrices do
        box = np.rot90(clips.box_mask(lying.number, 160, 90), degrees // 90)
        assert upright.planes[0].shape == (height, width)
        np.testing.assert_array_equal(upright.planes[0][~box], turned[~box])
        assert (upright.planes[0][box] != turned[box]).all()


def test_sample_aspect_ratio_survives(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", Recipe(sample_aspect=Fraction(4, 3)))
    segment(source, tmp_path / "out.mp4", bright)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_sample_aspect_ratio_is_turned_with_the_picture(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", Recipe(sample_aspect=Fraction(4, 3), rotation=90))
    segment(source, tmp_path / "out.mp4", bright)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (90, 160)
        assert stream.sample_aspect_ratio == Fraction(3, 4)


_TAGS = ("colorspace", "color_range", "color_primaries", "color_trc")


@pytest.mark.parametrize(
    "tags",
    [
        {"matrix": "bt709", "value_range": "limited", "primaries": 1, "transfer": 1},
        {"matrix": "smpte170m", "value_range": "limited", "primaries": 6, "transfer": 6},
        {"matrix": "bt470bg", "value_range": "full", "primaries": 5, "transfer": 6},
        {"matrix": "bt2020nc", "value_range": "limited", "primaries": 9, "transfer": 14},
        {"matrix": "bt709", "value_range": "full", "primaries": 1, "transfer": 13},
    ],
    ids=lambda tags: f"{tags['matrix']}-{tags['value_range']}",
)
def test_colour_tags_survive(tags: dict[str, object], tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4", **tags)
    segment(source, tmp_path / "out.mp4", bright)
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        expected, found = (
            {name: int(getattr(container.streams.video[0].codec_context, name)) for name in _TAGS}
            for container in (before, after)
        )
    assert found == expected


@pytest.mark.parametrize(
    ("name", "target", "fields"),
    [
        ("one.mp4", "out.mp4", {"audio": ("aac",)}),
        ("three.mp4", "out.mp4", {"audio": ("aac", "ac3", "libmp3lame")}),
        ("two.mkv", "out.mkv", {"audio": ("libopus", "flac"), "time_base": Fraction(1, 1000),
                                "pts": range(0, 1200, 40)}),
        ("two.ts", "out.ts", {"audio": ("aac", "mp2"), "time_base": Fraction(1, 90000),
                              "pts": range(126000, 126000 + 30 * 3600, 3600)}),
        ("late.mp4", "out.mp4", {"audio": ("aac",), "time_base": Fraction(1, 12800),
                                 "pts": range(25600, 25600 + 30 * 512, 512)}),
        ("pcm.mov", "out.mov", {"audio": ("pcm_s16le",)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_audio_packets_pass_untouched(
    name: str, target: str, fields: dict[str, object], tmp_path: Path, bright: Path
) -> None:
    source = clips.write_clip(tmp_path / name, b_frames=2, **fields)
    finished = segment(source, tmp_path / target, bright)
    before, after = clips.packets_of(source, "audio"), clips.packets_of(tmp_path / target, "audio")
    assert len(before) == len(fields["audio"])  # type: ignore[arg-type]
    assert [[content for _, content in track] for track in after] == [[content for _, content in t] for t in before]
    assert [[when for when, _ in track] for track in after] == [[when for when, _ in track] for track in before]
    assert clips.times(tmp_path / target) == clips.times(source)
    assert finished.left_out == []


def test_sound_of_a_transport_stream_plays_from_mp4(tmp_path: Path, bright: Path) -> None:
    """AAC of MPEG-TS has a header in each packet, which MP4 wants once, elsewhere."""
    source = clips.write_clip(tmp_path / "in.ts", RECIPES["start.ts"], audio=("aac",))
    segment(source, tmp_path / "out.mp4", bright)
    before, after = (_samples(path) for path in (source, tmp_path / "out.mp4"))
    assert len(before) > 40_000
    np.testing.assert_array_equal(after, before)


def _samples(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def test_no_audio_stays_no_audio(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mp4")
    segment(source, tmp_path / "out.mp4", bright)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "subrip"), (".mp4", "mov_text")])
def test_subtitles_pass_untouched(suffix: str, codec: str, tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / f"in{suffix}", subtitles=codec, audio=("aac",))
    finished = segment(source, tmp_path / f"out{suffix}", bright)
    (before,), (after,) = (clips.packets_of(path, "subtitle") for path in (source, tmp_path / f"out{suffix}"))
    assert [packet for packet in after if packet[1].strip(b"\0")] == [p for p in before if p[1].strip(b"\0")]
    assert any(b"first line" in content for _, content in after)
    assert finished.left_out == []


def test_what_the_container_cannot_hold_is_named(tmp_path: Path, bright: Path) -> None:
    source = clips.write_clip(tmp_path / "in.mkv", subtitles="subrip", audio=("aac",))
    finished = segment(source, tmp_path / "out.mp4", bright)
    assert finished.left_out == ["subtitle stream 2 (srt)"]
    assert finished.frames == 30
    assert len(clips.packets_of(tmp_path / "out.mp4", "audio")) == 1


def test_batches_and_intervals_keep_times(tmp_path: Path, bright: Path) -> None:
    """22 frames are seven batches of three and a last one of one."""
    recipe = replace(RECIPES["vfr_b.mp4"], pts=_VFR[:22])
    source = clips.write_clip(tmp_path / "in.mp4", recipe)
    for options in ({"batch_size": 3}, {"interval": 4}, {"batch_size": 3, "interval": 2}, {"batch_size": 64}):
        target = tmp_path / "out.mp4"
        segment(source, target, bright, **options)
        assert clips.times(target) == clips.times(source), options


def _two_videos(path: Path, first: Path, second: Path) -> Path:
    """A file whose second video stream is the main one."""
    with av.open(str(first)) as one, av.open(str(second)) as two, av.open(str(path), "w") as out:
        streams = [out.add_stream_from_template(source.streams.video[0]) for source in (one, two)]
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for source, stream in zip((one, two), streams, strict=True):
            for packet in source.demux(source.streams.video[0]):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    return path


def test_the_main_video_stream_is_the_one_that_is_segmented(tmp_path: Path, bright: Path) -> None:
    first = clips.write_clip(tmp_path / "first.mp4", frames=12, rate=Fraction(30))
    second = clips.write_clip(tmp_path / "second.mp4", frames=20, numbers=range(100, 120))
    source = _two_videos(tmp_path / "in.mp4", first, second)
    finished = segment(source, tmp_path / "out.mp4", bright)
    assert (finished.frames, finished.lost, finished.damage) == (20, 0, "")
    assert finished.left_out == ["video stream 0 (h264)"]
    assert clips.times(tmp_path / "out.mp4") == clips.times(second)


@pytest.mark.parametrize("name", ["a:b.mp4", "file:x.mp4", "-out.mp4", "100%03d é [1].mp4"])
def test_names_that_ffmpeg_would_take_for_something_else(
    name: str, plain_clip: Path, tmp_path: Path, bright: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(plain_clip.read_bytes())
    finished = segment(Path(name), Path("out " + name), bright)
    assert (finished.frames, finished.damage) == (30, "")
    assert clips.times(tmp_path / ("out " + name)) == clips.times(plain_clip)


def test_chapters_titles_and_defaults_of_other_streams_stay(tmp_path: Path, bright: Path) -> None:
    plain = clips.write_clip(tmp_path / "plain.mkv", frames=25, audio=("aac", "aac"))
    source = tmp_path / "in.mkv"
    with av.open(str(plain)) as old, av.open(str(source), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in old.streams}
        out.set_chapters(
            [{"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}}]
        )
        streams[2].metadata["title"] = "Commentary"
        streams[1].disposition = av.stream.Disposition(0)
        streams[2].disposition = av.stream.Disposition.default
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    segment(source, tmp_path / "out.mkv", bright)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One"]
        first, second = container.streams.audio
        assert second.metadata["title"] == "Commentary"
        assert (bool(first.disposition & 1), bool(second.disposition & 1)) == (False, True)
