"""Track: its packets, really decoded without what the container keeps apart, and its pictures, against plain PyAV."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import pytest

from bmf_trt_seg.errors import StreamError
from bmf_trt_seg.sources.packets import Track, nvdec_refusal

Shown = list[tuple[int, int]]  # time and number of each picture

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("mp4", {"b_frames": 2}),
    "h264-mkv": ("mkv", {"b_frames": 3}),
    "h264-ts": ("ts", {"b_frames": 2}),
    "h264-open": ("mp4", {"b_frames": 2, "options": (("x264-params", "open-gop=1:keyint=10:b-adapt=0:log=-1"),)}),
    "hevc": ("mp4", {"codec": "libx265", "b_frames": 2}),
    "hevc-10": ("mkv", {"codec": "libx265", "b_frames": 2, "pixel_format": "yuv420p10le"}),
    "hevc-ts": ("ts", {"codec": "libx265", "b_frames": 2}),
    "av1": ("mp4", {"codec": "libsvtav1", "options": (("preset", "12"),)}),
    "av1-10": ("mkv", {"codec": "libsvtav1", "options": (("preset", "12"),), "pixel_format": "yuv420p10le"}),
    "vp9": ("webm", {"codec": "libvpx-vp9", "options": (("deadline", "realtime"), ("cpu-used", "8"))}),
}
FRAMES = 48
GOP = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracks")


def clip(folder: Path, kind: str, **fields: Any) -> Path:
    """A clip of a kind with key frames every so often; made once."""
    ending, own = KINDS[kind]
    path = folder / f"{kind}{hashlib.sha256(repr(fields).encode()).hexdigest()[:8]}.{ending}"
    if path.exists():
        return path
    options = {**dict(own.get("options", ())), "g": str(GOP)}
    size = (320, 180) if own.get("codec") == "libsvtav1" else clips.SIZE_WH
    return clips.write_clip(
        path, **{**own, "frames": FRAMES, "size_wh": size, **fields, "options": tuple(options.items())}
    )


def numbered(frame: av.VideoFrame) -> int:
    return clips.number_of(clips.plane_of(frame.reformat(format="gray").planes[0]))


def plainly(path: Path) -> Shown:
    with av.open(str(path)) as container:
        return [(frame.pts, numbered(frame)) for frame in container.decode(video=0)]


def from_packets(track: Track) -> Shown:
    """Decoded from nothing but the bytes of the packets, as NVDEC has them."""
    codec = av.CodecContext.create({"av1": "libdav1d"}.get(track.info.codec, track.info.codec), "r")
    shown = []

    def take(packet: Any) -> None:
        for frame in codec.decode(packet):
            if track.shows(frame.pts):
                shown.append((frame.pts, numbered(frame)))

    for packet in track.packets():
        if track.info.codec in ("h264", "hevc"):
            assert bytes(packet)[:3] in (b"\0\0\0", b"\0\0\1"), "no start code"
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts = packet.pts, packet.dts
        take(copy)
    take(None)
    return shown


def from_pictures(track: Track) -> Shown:
    return [(int(frame.pts or 0), numbered(frame)) for frame in track.pictures()]


WAYS = [pytest.param(from_packets, id="packets"), pytest.param(from_pictures, id="pictures")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_all_pictures_at_their_times(folder: Path, kind: str, way: Any) -> None:
    path = clip(folder, kind)
    with Track(str(path)) as track:
        assert way(track) == plainly(path)
        assert nvdec_refusal(track.info) == ""
        assert track.unreadable == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("window", [(0.5, 1.2), (0.04, None), (0.96, 1.0), (1.0, None), (1.9, 9.0), (0.0, 0.7)])
@pytest.mark.parametrize("kind", KINDS)
def test_from_start_to_end(folder: Path, kind: str, window: tuple[float, float | None], way: Any) -> None:
    path = clip(folder, kind)
    whole = plainly(path)
    with Track(str(path), *window) as track, av.open(str(path)) as container:
        stream = container.streams.video[0]
        first = (stream.start_time or 0) + round(Fraction(window[0]) / stream.time_base)
        last = None if window[1] is None else (stream.start_time or 0) + round(Fraction(window[1]) / stream.time_base)
        assert way(track) == [one for one in whole if one[0] >= first and (last is None or one[0] < last)]


@pytest.mark.parametrize("way", WAYS)
def test_variable_rate_and_a_start_that_is_not_zero(folder: Path, way: Any) -> None:
    pts = [90000 + step for step in (0, 3000, 3100, 9000, 9001, 40000, 43000, 46003, 90000, 130000)]
    path = clip(folder, "h264", pts=pts, time_base=Fraction(1, 90000))
    assert [when for when, _ in plainly(path)] == pts
    with Track(str(path)) as track:
        assert track.info.time_base == Fraction(1, 90000)
        assert way(track) == list(zip(pts, range(10), strict=True))
    with Track(str(path), 9000 / 90000, 1.0) as track:
        assert way(track) == list(zip(pts[3:8], range(3, 8), strict=True))


def test_only_what_is_needed_is_read(folder: Path) -> None:
    with Track(str(clip(folder, "h264")), start_seconds=1.5) as track:
        first = next(track.packets())
        assert first.is_keyframe
        assert first.pts is not None
        assert first.pts * track.info.time_base >= 24 / 25, "it begins two groups of pictures too early"


def test_going_on_behind_a_picture(folder: Path) -> None:
    path = clip(folder, "h264")
    whole = plainly(path)
    with Track(str(path), end_seconds=1.5) as track:
        track.skip_to(whole[20][0] + 1)
        assert from_pictures(track) == whole[21:38]


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2), (None, 0)])
def test_rotation(tmp_path: Path, rotation: int | None, turns: int) -> None:
    path = clips.write_clip(tmp_path / "in.mp4", frames=3, rotation=rotation)
    with Track(str(path)) as track:
        assert track.info.quarter_turns == turns


@pytest.mark.parametrize("kind", ["h264", "hevc-10"])
def test_what_a_track_is_like(folder: Path, kind: str) -> None:
    fields = {"matrix": "bt2020nc", "value_range": "full", "primaries": 9, "transfer": 16}
    path = clip(folder, kind, rate=Fraction(30000, 1001), **fields)
    with Track(str(path)) as track:
        info = track.info
    assert (info.width, info.height) == clips.SIZE_WH
    assert (info.matrix, info.is_full_range, info.bit_depth) == (9, True, 10 if kind == "hevc-10" else 8)
    assert info.rate == Fraction(30000, 1001)
    assert info.codec == kind.partition("-")[0]


def test_without_tags(folder: Path) -> None:
    with Track(str(clip(folder, "h264"))) as track:
        assert (track.info.matrix, track.info.is_full_range) == (2, False)


@pytest.mark.parametrize(
    ("fields", "ending", "reason"),
    [
        ({"pixel_format": "yuv422p"}, "mp4", "its pictures are yuv422p (h264 High 4:2:2), and NVDEC is given 4:2:0"),
        ({"pixel_format": "yuv444p"}, "mp4", "its pictures are yuv444p (h264 High 4:4:4 Predictive)"),
        ({"codec": "mpeg4"}, "mp4", "it is mpeg4, and NVDEC is given h264, hevc, av1, vp9"),
        ({"codec": "libvpx-vp9", "size_wh": (161, 91)}, "webm", "its size 161x91 is odd"),
        ({"b_frames": 2}, "avi", "it does not say when its pictures are shown"),
        ({"b_frames": 2}, "h264", "it does not say when its pictures are shown"),
        ({"options": (("flags", "+ildct+ilme"),), "size_wh": (160, 96)}, "mp4", "it is interlaced"),
    ],
)
def test_what_nvdec_is_not_given(tmp_path: Path, fields: dict[str, Any], ending: str, reason: str) -> None:
    path = clips.write_clip(tmp_path / f"in.{ending}", frames=10, **fields)
    with Track(str(path)) as track:
        assert nvdec_refusal(track.info).startswith(reason)
        found = from_pictures(track)
    assert [number for _, number in found] == list(range(10))
    assert np.all(np.diff([pts for pts, _ in found]) > 0), "times of pictures that have none go on"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w", format="mp4") as out:
        track = clips._audio_track(out, "aac")
        for packet in clips._sound(track, 0.0, 0.2, 440):
            out.mux(packet)
    for path, words in {
        str(tmp_path / "no.mp4"): f"'{tmp_path / 'no.mp4'}' does not exist",
        str(clips.text_file(tmp_path / "text.mp4")): "is no video that FFmpeg can read",
        str(sound): "has no video stream; it has audio (aac)",
        "http://anna:s3cret@127.0.0.1:9/a.mp4": "cannot be read by FFmpeg: Connection refused",
    }.items():
        with pytest.raises(StreamError) as caught:
            Track(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("way", WAYS)
def test_damage_costs_what_is_damaged(folder: Path, tmp_path: Path, way: Any) -> None:
    whole = clip(folder, "h264-ts")
    content = whole.read_bytes()
    (tmp_path / "cut.ts").write_bytes(content[: len(content) * 2 // 3])
    with Track(str(tmp_path / "cut.ts")) as track:
        found = way(track)
    assert 20 < len(found) < FRAMES
    assert found[:20] == plainly(whole)[:20]
