"""The parts of LiveSink alone: when key frames are due, the order of packets, queues, retries, descriptions."""

from __future__ import annotations

import io
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import beeps
import numpy as np
import pytest
import rtsp
from sink_runs import until

from bmf_trt_seg import arrivals, garbage, metrics
from bmf_trt_seg.errors import ConfigError, FrameError
from bmf_trt_seg.live_outputs.encoder import Encoder, KeyFrames, PictureFormat, check_encoder
from bmf_trt_seg.live_outputs.files import FileTarget
from bmf_trt_seg.live_outputs.hls import HlsTarget
from bmf_trt_seg.live_outputs.interleave import Interleaver
from bmf_trt_seg.live_outputs.options import FileOutput, HlsOutput, LiveSinkOptions, PushOutput
from bmf_trt_seg.live_outputs.outlet import Outlet
from bmf_trt_seg.live_outputs.push import PushTarget
from bmf_trt_seg.live_outputs.sound import SoundEncoder
from bmf_trt_seg.live_outputs.target import Target
from bmf_trt_seg.retry import backoff_seconds
from bmf_trt_seg.stream_packets import (
    CLOCK,
    SILENT_SAMPLE,
    SoundFormat,
    StreamPacket,
    described,
    described_streams,
)

STEP = 3600  # 25 frames a second


def picture(number: int, is_key: bool = False) -> StreamPacket:
    return StreamPacket(b"picture", number * STEP, STEP, is_key)


def sound(pts: int) -> StreamPacket:
    return StreamPacket(b"sound", pts, 1920, is_sound=True)


# --- key frames ---------------------------------------------------------------------------------------------------


def test_key_frames_are_due_for_each_group_and_each_segment() -> None:
    key_frames = KeyFrames(50 * STEP, [20 * STEP, 35 * STEP])
    due = [number for number in range(100, 240) if key_frames.is_due(number * STEP)]
    begins = {20 * index for index in range(7)} | {35 * index for index in range(4)}
    assert due == sorted(100 + begin for begin in begins)


def test_groups_are_counted_from_the_last_key_frame() -> None:
    key_frames = KeyFrames(15 * STEP, [20 * STEP])
    assert [number for number in range(60) if key_frames.is_due(number * STEP)] == [0, 15, 20, 35, 40, 55]


def test_a_frame_that_comes_late_begins_the_segment() -> None:
    key_frames = KeyFrames(1000 * STEP, [25 * STEP])
    numbers = [0, 1, 24, 26, 27, 130, 131]
    assert [number for number in numbers if key_frames.is_due(number * STEP)] == [0, 26, 130]


# --- the order of pictures and sound ------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pictures_wait_for_sound_that_belongs_before_them() -> None:
    order = Interleaver(has_sound=True, clock=Clock())
    assert list(order.put(picture(0))) == []
    assert list(order.put(sound(0))) == [picture(0)]
    assert list(order.put(sound(1920))) == []
    assert list(order.put(picture(1))) == []
    assert list(order.put(sound(3840))) == [sound(0), sound(1920), picture(1)]


def test_sound_waits_for_pictures() -> None:
    order = Interleaver(has_sound=True, clock=Clock())
    early = [sound(1920 * index) for index in range(5)]
    assert [list(order.put(one)) for one in early] == [[]] * 5
    assert list(order.put(picture(1))) == [*early[:2], picture(1)]
    assert list(order.flush()) == early[2:]


def test_pictures_do_not_wait_long() -> None:
    clock = Clock()
    order = Interleaver(has_sound=True, clock=clock)
    list(order.put(sound(0)))
    assert list(order.put(picture(1))) == []
    clock.now = 0.31
    assert list(order.put(picture(9))) == [sound(0), picture(1)]
    clock.now = 1.1
    assert list(order.put(picture(10))) == [picture(9), picture(10)], "the sound is gone: they do not wait at all"


def test_without_sound_nothing_waits() -> None:
    order = Interleaver(has_sound=False, clock=Clock())
    assert list(order.put(picture(0))) == [picture(0)]


def test_sound_that_comes_twice_is_dropped() -> None:
    order = Interleaver(has_sound=True, clock=Clock())
    list(order.put(sound(100)))
    list(order.put(sound(100)))
    assert order.sound_dropped == 1


# --- outlets ------------------------------------------------------------------------------------------------------


class Place(Target):
    """Notes what is written; waits at the gate, and fails, when it is told to."""

    name, kind, queue_seconds, takes_while_opening = "place", "test", 1.0, True

    def __init__(self) -> None:
        self.written: list[StreamPacket] = []
        self.calls: list[str] = []
        self.fails = False
        self.failure: Exception = OSError("no place")
        self.gate = threading.Event()
        self.gate.set()

    def open(self, description: bytes) -> None:
        self.calls.append("open")
        if self.fails:
            raise self.failure

    def write(self, packet: StreamPacket) -> None:
        self.gate.wait(10)
        if self.fails:
            raise self.failure
        self.written.append(packet)

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def interrupt(self) -> None:
        self.calls.append("interrupt")


def ended(outlet: Outlet) -> None:
    outlet.finish()
    assert outlet.join(5)
    counts = outlet.counts
    assert counts.state == "ended"
    assert counts.packets_in == counts.packets_out + counts.packets_dropped


def test_all_packets_are_written_in_order() -> None:
    place = Place()
    outlet = Outlet(place, 0.01, 0.02)
    outlet.start(b"")
    packets = [picture(number, number % 10 == 0) for number in range(20)]
    for packet in packets:
        outlet.put(packet)
    ended(outlet)
    assert place.written == packets
    assert place.calls == ["open", "close"]


def test_it_begins_with_a_key_frame() -> None:
    place = Place()
    outlet = Outlet(place, 0.01, 0.02)
    outlet.start(b"")
    for number in range(5, 20):
        outlet.put(picture(number, number % 10 == 0))
    ended(outlet)
    assert place.written[0] == picture(10, True)
    assert outlet.counts.packets_dropped == 5


def test_a_slow_place_gets_whole_groups() -> None:
    place = Place()
    outlet = Outlet(place, 0.01, 0.02)
    outlet.start(b"")
    place.gate.clear()
    for number in range(100):  # 4 seconds, and one may wait
        outlet.put(picture(number, number % 10 == 0))
    place.gate.set()
    until(lambda: len(place.written) == 100 - outlet.counts.packets_dropped)
    for number in range(100, 120):
        outlet.put(picture(number, number % 10 == 0))
    ended(outlet)
    assert 60 < outlet.counts.packets_dropped < 80
    pairs = zip(place.written, place.written[1:], strict=False)
    assert all(later.is_key or later.pts - earlier.pts == STEP for earlier, later in pairs)


def test_a_place_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    outlet = Outlet(place, 0.01, 0.02)
    outlet.start(b"")
    outlet.put(picture(0, True))
    until(lambda: place.written)
    place.fails = True
    outlet.put(picture(1))
    until(lambda: place.calls.count("open") > 3)
    assert (outlet.counts.state, outlet.counts.last_error) == ("away", "no place")
    outlet.put(picture(2, True))
    assert outlet.counts.packets_dropped == 2
    place.fails = False
    until(lambda: outlet.counts.state == "up")
    outlet.put(picture(3))
    outlet.put(picture(4, True))
    ended(outlet)
    assert place.written == [picture(0, True), picture(4, True)]
    assert outlet.counts.reconnects == 1
    assert caplog.text.count("away: no place") == 1


def test_a_place_that_fails_in_a_way_nobody_thought_of_is_tried_again() -> None:
    place = Place()
    place.failure = RuntimeError("no idea")
    place.fails = True
    outlet = Outlet(place, 0.01, 0.02)
    outlet.start(b"")
    until(lambda: place.calls.count("open") > 1)
    assert (outlet.counts.state, outlet.counts.last_error) == ("away", "no idea")
    place.fails = False
    until(lambda: outlet.counts.state == "up")
    outlet.put(picture(0, True))
    ended(outlet)
    assert place.written == [picture(0, True)]


def test_files_are_deleted_also_where_none_can_be_finished(tmp_path: Path) -> None:
    old = [tmp_path / f"door-20261121T19000{number}.mp4" for number in range(3)]
    for path in old:
        path.write_bytes(b"x")
    FileTarget(FileOutput(kind="file", path=str(tmp_path / "door.mp4"), keep_segments=1)).open(b"")
    assert [path.exists() for path in old] == [False, False, True]


def test_a_pause_is_no_long_segment_of_a_playlist(tmp_path: Path) -> None:
    encoder = Encoder(options(gop_seconds=1), PictureFormat(160, 96, "yuv420p", 1, 1), SoundFormat())
    target = HlsTarget(HlsOutput(kind="hls", path=str(tmp_path), segment_seconds=1, list_size=0))
    for number in [*range(50), *range(90_000, 90_050)]:  # an hour later
        frame = av.VideoFrame(160, 96, "yuv420p")
        frame.pts, frame.time_base = number * STEP, CLOCK
        for packet in encoder.encode(frame, is_key=number % 25 == 0):
            if not number:
                target.open(encoder.description)
            target.write(packet)
    target.close()
    lengths = [line for line in (tmp_path / "index.m3u8").read_text().splitlines() if line.startswith("#EXTINF")]
    assert len(lengths) == 4
    assert all(0.9 < float(line.partition(":")[2].strip(",")) < 1.1 for line in lengths)


def test_a_recording_does_not_wait_for_a_camera_to_come_back(tmp_path: Path) -> None:
    encoder = Encoder(options(gop_seconds=1), PictureFormat(160, 96, "yuv420p", 1, 1), SoundFormat())
    target = FileTarget(FileOutput(kind="file", path=str(tmp_path / "door.mkv"), segment_seconds=1))
    target.idle_seconds = 0.1
    outlet = Outlet(target, 0.01, 0.02)
    for number in [*range(5), *range(50, 55)]:
        if number == 50:
            until(lambda: list(tmp_path.glob("door-*.mkv")))
        frame = av.VideoFrame(160, 96, "yuv420p")
        frame.pts, frame.time_base = number * STEP, CLOCK
        for packet in encoder.encode(frame, is_key=number % 25 == 0):
            if not number:
                outlet.start(encoder.description)
            outlet.put(packet)
    outlet.finish()
    assert outlet.join(5)
    assert not list(tmp_path.glob(".*"))
    assert outlet.counts.packets_out == 10
    for path in tmp_path.iterdir():
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    target = FileTarget(FileOutput(kind="file", path=str(tmp_path / "gone" / "door.mp4")))
    target.check()
    (tmp_path / "gone").rmdir()
    target.open(b"")
    assert (tmp_path / "gone").is_dir()


def test_a_place_that_hangs_is_given_up() -> None:
    place = Place()
    outlet = Outlet(place, 0.01, 0.02)
    outlet.start(b"")
    place.gate.clear()
    outlet.put(picture(0, True))
    outlet.finish()
    assert not outlet.join(0.1)
    outlet.give_up()
    assert place.calls == ["open", "interrupt"]
    place.gate.set()
    assert outlet.join(5)


def test_an_outlet_that_never_began_ends_at_once() -> None:
    outlet = Outlet(Place(), 0.01, 0.02)
    outlet.finish()
    assert outlet.join(0)
    assert outlet.counts.state == "ended"


# --- small things -------------------------------------------------------------------------------------------------


def test_waits_double_up_to_the_longest() -> None:
    for failures, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (10, 5.0), (10_000, 5.0)):
        waits = [backoff_seconds(failures, 0.5, 5.0) for _ in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 10


def test_arrivals_are_told_once_and_do_not_pile_up() -> None:
    arrivals.note_arrival("door", 100, 1.5)
    assert arrivals.arrived_at("yard", 100, 2.0) is None
    assert arrivals.arrived_at("door", 100, 2.0) == 1.5
    assert arrivals.arrived_at("door", 100, 2.0) is None
    for pts in range(5000):
        arrivals.note_arrival("door", pts, 0.0)
        arrivals.note_taken("door", pts, 0.0)
    assert arrivals.arrived_at("door", 0, 2.0) is None
    assert arrivals.arrived_at("door", 4999, 2.0) == 0.0
    arrivals.forget("door")
    assert arrivals.arrived_at("door", 4998, 2.0) is None
    assert arrivals.behind_seconds("door") == 0.0


def test_what_the_graph_takes_is_that_of_the_slowest_of_the_last_frames() -> None:
    found = []
    for pts, seconds in enumerate([0.1, 0.4, *[0.1] * 40]):
        arrivals.note_arrival("door", pts, 10.0 * pts)
        arrivals.note_taken("door", pts, 10.0 * pts + 5)
        arrivals.arrived_at("door", pts, 10.0 * pts + 5 + seconds)
        found.append(arrivals.behind_seconds("door"))
    arrivals.forget("door")
    assert found[:3] == pytest.approx([0.1, 0.4, 0.36])
    assert found[-1] == pytest.approx(0.1)
    assert all(later <= earlier + 1e-9 for earlier, later in zip(found[1:], found[2:], strict=False))


def test_a_server_is_connected_anew_before_its_clock_is_full() -> None:
    pushed = PushTarget(PushOutput(kind="push", url="rtmp://127.0.0.1:9/live/x"))
    pipe = io.BytesIO()
    pushed._process = SimpleNamespace(stdin=pipe, stdout=pipe)  # type: ignore[assignment]
    day = 24 * 3600 * 90000
    for days in (3, 4, 23):
        pushed.write(StreamPacket(b"x", days * day))
    with pytest.raises(OSError, match="connected for 20 days, and is connected anew"):
        pushed.write(StreamPacket(b"x", 23 * day + 90000))


def test_closed_containers_do_not_wait_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[float] = []
    now = [1000.0]
    monkeypatch.setattr(garbage.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(garbage, "_collected_at", 1000.0)
    monkeypatch.setattr(garbage.gc, "collect", lambda: collected.append(now[0]))
    for moment in (1010.0, 1060.0, 1061.0, 1119.0, 1120.5):
        now[0] = moment
        garbage.collect_containers()
    assert collected == [1060.0, 1120.5]


def test_packets_go_through_a_pipe() -> None:
    packets = [picture(3, True), sound(-1920), StreamPacket(b"", 1 << 40)]
    memory = io.BytesIO()
    for packet in packets:
        packet.write(memory)
    whole = memory.getvalue()
    memory.seek(0)
    assert [StreamPacket.read(memory) for _ in range(4)] == [*packets, None]
    assert StreamPacket.read(io.BytesIO(whole[:10])) is None
    assert StreamPacket.read(io.BytesIO(whole[:25])) is None


def test_a_description_has_what_a_muxer_needs(tmp_path: Path) -> None:
    clip = beeps.write_clip(tmp_path / "clip.mp4", frames=5)
    with av.open(str(clip)) as container:
        packet = next(container.demux(video=0))
        streams = [(container.streams.video[0], bytes(packet)), (container.streams.audio[0], SILENT_SAMPLE)]
        text, again = described(streams), described(streams)
        extra = [stream.codec_context.extradata for stream, _ in streams]
    assert text == again, "it can be compared"
    video, audio = described_streams(text).streams
    assert [video.codec_context.extradata, audio.codec_context.extradata] == extra
    assert (video.codec_context.width, video.codec_context.height) == rtsp.SIZE_WH
    assert audio.codec_context.sample_rate == beeps.SOUND_RATE


def options(**given: object) -> LiveSinkOptions:
    return LiveSinkOptions.model_validate({"outputs": [{"kind": "hls", "path": "unused"}], **given})


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12"])
def test_pictures_come_out_at_once_with_key_frames_where_they_should_be(codec: str, pixel_format: str) -> None:
    encoder = Encoder(options(codec=codec), PictureFormat(160, 96, pixel_format, 1, 1), SoundFormat())
    for number in range(40):
        frame = rtsp.striped(number, 160, 96, pixel_format)
        frame.pts, frame.time_base = number * STEP, CLOCK
        (packet,) = encoder.encode(frame, is_key=number in (0, 7, 30))
        assert (packet.pts, packet.is_key) == (number * STEP, number in (0, 7, 30))
    assert encoder.flush() == []
    (stream,) = described_streams(encoder.description).streams
    assert stream.codec_context.color_range == 1
    assert stream.codec_context.colorspace == 1


@pytest.mark.parametrize("given", [{"bf": "2"}, {"x264-params": "bframes=2"}])
def test_b_frames_which_no_output_could_write_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="B-frames"):
        check_encoder(options(encoder_options=given))


def test_another_size_is_refused_in_one_line() -> None:
    encoder = Encoder(options(), PictureFormat(160, 96, "yuv420p"), SoundFormat())
    frame = rtsp.striped(0, 320, 192)
    frame.pts, frame.time_base = 0, CLOCK
    with pytest.raises(FrameError, match=r"a frame is 320x192 yuv420p, those before were 160x96 yuv420p"):
        encoder.encode(frame, is_key=True)


def test_sound_goes_on_in_aac_after_a_gap_and_with_another_format() -> None:
    formats = {}
    for codec, rate in (("pcm_alaw", 8000), ("pcm_s16le", 44100)):
        with av.open(io.BytesIO(), "w", format="nut") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.layout = "mono"
            container.start_encoding()
            frame = av.AudioFrame.from_ndarray(np.zeros((1, rate // 10), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            (packet,) = stream.encode(frame)
            formats[codec] = SoundFormat(described([(stream, SILENT_SAMPLE)])), bytes(packet)
    made = SoundEncoder(av.open(io.BytesIO(), "w", format="nut"), formats["pcm_alaw"][0], always_aac=False)
    pts = []
    for begin, codec in ((0, "pcm_alaw"), (5 * 90000, "pcm_alaw"), (10 * 90000, "pcm_s16le")):
        made.change(formats[codec][0])
        for index in range(20):
            packets = made.encode(StreamPacket(formats[codec][1], begin + index * 9000, is_sound=True))
            assert packets is not None
            pts += [packet.pts for packet in packets]
    pts += [packet.pts for packet in made.flush()]
    steps = [later - earlier for earlier, later in zip(pts, pts[1:], strict=False)]
    assert min(steps) > 0
    gaps = [step for step in steps if step > 1930]
    assert len(gaps) == 2
    assert sum(1915 <= step <= 1925 for step in steps) >= len(steps) - 4
    assert pts[-1] == pytest.approx(12 * 90000, abs=3 * 1920)


def test_outputs_are_part_of_the_metrics() -> None:
    counts = metrics.open_stream("counted outputs", "sink")
    assert counts.outputs == []
    source = metrics.open_stream("counted outputs", "source")
    (view,) = (view for view in metrics.views() if view.name == "counted outputs")
    assert view.parts == (source, counts)
    assert metrics.stream("counted outputs", "sink") is counts
    metrics.close_stream("counted outputs")
    assert metrics.stream("counted outputs", "sink") is None
