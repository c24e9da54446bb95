"""A film that was cut, segmented in parts and joined is the film in one piece: frames, times, masks, sound."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import clips
import jobs
import pytest
from batch_runs import batch_settings, do_all, films_in, frame_numbers

from bmf_trt_seg.batch.cuts import NotCut, plan_film
from bmf_trt_seg.batch.ledger import Ledger
from bmf_trt_seg.batch.parts import check_joined, cut_out, join_parts, segment_part
from bmf_trt_seg.batch.tasks import Done, NotToCut, PartDone, Task
from bmf_trt_seg.batch.worker import Worker
from bmf_trt_seg.media import probe_video
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import VideoJob, segment_video

GROUPS = (("g", "12"), ("sc_threshold", "0"))
random.seed(7)
UNEVEN = [0]
for step in random.choices([1000, 2000, 3003, 5000, 9001], k=95):
    UNEVEN.append(UNEVEN[-1] + step)


@pytest.mark.parametrize(
    ("name", "network", "options", "recipe"),
    [
        ("b-frames.mp4", "bright", {}, {"audio": ("aac",), "subtitles": "mov_text"}),
        ("open.mp4", "bright", {}, {"options": (("g", "12"), ("x264opts", "open-gop=1"))}),
        ("hevc.mp4", "bright", {}, {"codec": "libx265"}),
        ("interval.mkv", "three", {"interval": 7, "batch_size": 3}, {"audio": ("aac",)}),
        ("stream.ts", "bright", {"interval": 5}, {"audio": ("mp2",)}),
        ("uneven.mp4", "bright", {}, {"time_base": Fraction(1, 90000), "pts": UNEVEN}),
        ("late.mp4", "bright", {}, {"time_base": Fraction(1, 12800), "pts": [123456 + 512 * n for n in range(96)]}),
        ("ntsc.mov", "bright", {}, {"rate": Fraction(30000, 1001)}),
        ("smooth.mp4", "three", {"smoothing": 0.3}, {"frames": 260, "size_wh": (80, 46)}),
    ],
)
def test_joined_parts_are_the_film_in_one_piece(tmp_path, networks, name, network, options, recipe):
    model = networks / f"{network}.onnx"
    source = clips.write_clip(tmp_path / "in" / name, **{"frames": 96, "b_frames": 2, "options": GROUPS, **recipe})
    settings = batch_settings(tmp_path / "out", model, cut_seconds=0.9 if "smooth" not in name else 2.4, **options)
    (state,) = do_all(films_in(tmp_path / "in", settings), settings).values()
    assert state.state == "done", state.message
    assert state.record.parts >= 3, state.record.remarks

    whole, lines = tmp_path / f"whole{source.suffix}", tmp_path / "whole.jsonl"
    finished = segment_video(VideoJob(source, whole, settings.options, settings.encoding, records=lines))
    joined = tmp_path / "out" / name
    assert state.record.frames == finished.frames
    assert [_facts(shown) for shown in clips.read_clip(joined)] == [_facts(shown) for shown in clips.read_clip(whole)]
    assert jobs.read_records(joined.with_name(f"{name}.jsonl")) == jobs.read_records(lines)
    for kind in ("audio", "subtitle"):
        assert clips.packets_of(joined, kind) == clips.packets_of(whole, kind)
    assert not list((tmp_path / "out" / ".batch" / "parts").rglob("*.mp4"))


@pytest.fixture(autouse=True)
def _folders(tmp_path):
    (tmp_path / "in").mkdir()


def _facts(shown):
    return shown.seconds, shown.duration_seconds, shown.number, [plane.tobytes() for plane in shown.planes]


def test_smoothing_without_warming_up_would_show(tmp_path, networks, monkeypatch):
    """What the test above would miss if masks did not depend on the past."""
    source = clips.write_clip(tmp_path / "in" / "smooth.mp4", frames=260, size_wh=(80, 46), options=GROUPS)
    settings = batch_settings(tmp_path / "out", networks / "three.onnx", cut_seconds=2.4, smoothing=0.3)
    monkeypatch.setattr("bmf_trt_seg.batch.cuts.rounds_of_smoothing", lambda smoothing: 0)
    do_all(films_in(tmp_path / "in", settings), settings)
    lines = tmp_path / "whole.jsonl"
    segment_video(VideoJob(source, tmp_path / "whole.mp4", settings.options, settings.encoding, records=lines))
    assert jobs.read_records(tmp_path / "out" / "smooth.mp4.jsonl") != jobs.read_records(lines)


@pytest.mark.parametrize(
    ("name", "options", "recipe", "remark"),
    [
        ("legend.mp4", {"legend": True}, {}, "a legend shows all classes seen so far, which parts do not know"),
        ("turned.mp4", {}, {"rotation": 90}, "it is stored turned"),
        ("old.avi", {}, {"codec": "mpeg4"}, "its container, AVI"),
        ("key.mp4", {}, {"options": (("g", "1000"), ("sc_threshold", "0"))}, "it has no key frames to cut it at"),
    ],
)
def test_what_cannot_be_cut_is_done_in_one_piece(tmp_path, bright, name, options, recipe, remark):
    clips.write_clip(tmp_path / "in" / name, **{"frames": 60, "options": GROUPS, **recipe})
    settings = batch_settings(tmp_path / "out", bright, cut_seconds=0.6, **options)
    (state,) = do_all(films_in(tmp_path / "in", settings), settings).values()
    assert (state.record.parts, state.record.frames) == (1, 60)
    assert state.record.remarks[0].startswith(f"not cut: {remark}")


def test_a_part_whose_frames_are_not_those_of_the_plan_is_refused(tmp_path, bright):
    """A decoder that leaves frames out, say."""
    source = clips.write_clip(tmp_path / "in" / "film.mp4", frames=60, options=GROUPS)
    options = SegmentOptions(model=str(bright))
    plan = plan_film(source, options, 0.6)
    part = plan.parts[1]
    cut = cut_out(str(source), part, tmp_path)
    shorter = clips.write_clip(tmp_path / "shorter.mov", frames=len(part.kept_pts) - 1)
    job = VideoJob(Path(shorter), tmp_path / "drawn.mp4", options, jobs.LOSSLESS)
    with pytest.raises(NotCut, match="part 1 came out with 11 frames in the place of 12"):
        segment_part(job, probe_video(source), part, cut)


def test_a_film_whose_parts_do_not_fit_is_done_again_in_one_piece(tmp_path, bright, monkeypatch):
    clips.write_clip(tmp_path / "in" / "film.mp4", frames=60, options=GROUPS)
    settings = batch_settings(tmp_path / "out", bright, cut_seconds=0.6)

    def refuse(*_):
        raise NotCut("encoders of its parts were set up in different ways")

    monkeypatch.setattr("bmf_trt_seg.batch.worker.join_parts", refuse)
    (state,) = do_all(films_in(tmp_path / "in", settings), settings).values()
    assert (state.state, state.record.parts, state.record.frames) == ("done", 1, 60)


@pytest.fixture
def cut_film(tmp_path, bright):
    """A film, how it is cut, and a worker that has done its parts."""
    clips.write_clip(tmp_path / "in" / "film.mp4", frames=60, audio=("aac",), options=GROUPS)
    settings = batch_settings(tmp_path / "out", bright, cut_seconds=0.9)
    (film,) = films_in(tmp_path / "in", settings)
    plan = plan_film(Path(film.source.path), settings.options, settings.cut_seconds)
    worker = Worker(settings)
    for part in plan.parts:
        assert worker.run(Task(film, plan, part)) == PartDone()
    yield settings, film, plan, worker
    worker.close()


def test_parts_of_other_cuts_are_not_joined(tmp_path, cut_film):
    """As a run finds them that is taken up with other --cut-minutes."""
    settings, film, plan, _ = cut_film
    settings = replace(settings, cut_seconds=0.7)
    other = plan_film(Path(film.source.path), settings.options, settings.cut_seconds)
    assert len({part.name for part in plan.parts} & {part.name for part in other.parts}) > 1
    (state,) = do_all([film], settings).values()
    assert (state.state, state.record.parts, state.record.frames) == ("done", len(other.parts), 60)
    assert frame_numbers(tmp_path / "out" / "film.mp4") == list(range(60))
    assert Ledger(settings.target).finished_parts(settings.key(film)) == set()


def encoded_parts(settings, film, plan):
    folder = Path(Ledger(settings.target).parts(settings.key(film)))
    return [folder / plan.file_name(part, ".mp4") for part in plan.parts]


def test_files_that_are_not_the_parts_of_the_plan_are_refused(tmp_path, cut_film):
    settings, film, plan, _ = cut_film
    first, _, *more = encoded_parts(settings, film, plan)
    count = len(plan.parts[1].kept_pts)
    slower = clips.write_clip(tmp_path / "slower.mp4", frames=count, rate=Fraction(24))
    for wrong in (clips.write_clip(tmp_path / "longer.mp4", frames=count + 1), slower):
        with pytest.raises(NotCut, match="part 1 holds other frames than planned"):
            join_parts(plan, [first, wrong, *more], tmp_path / "joined.nut")
    for wrong in (tmp_path / "gone.mp4", clips.text_file(tmp_path / "text.mp4")):
        with pytest.raises(NotCut, match="part 1 cannot be read"):
            join_parts(plan, [first, wrong, *more], tmp_path / "joined.nut")


@pytest.mark.parametrize("recipe", [{"frames": 59}, {"rate": Fraction(24)}])
def test_a_joined_film_has_the_frames_and_times_of_the_plan(tmp_path, cut_film, recipe):
    *_, plan, _ = cut_film
    check_joined(plan, tmp_path / "in" / "film.mp4")
    other = clips.write_clip(tmp_path / "other.mp4", **{"frames": 60, **recipe})
    with pytest.raises(NotCut, match="joined, its parts have not the frames and times of the film"):
        check_joined(plan, other)


def test_a_film_whose_joined_parts_are_not_it_is_done_again_in_one_piece(tmp_path, cut_film, monkeypatch):
    _, film, plan, worker = cut_film

    def shifted(plan, encoded, target):
        last = plan.parts[-1]
        late = replace(last, kept_pts=last.kept_pts[:-1] + type(last.kept_pts)("q", [last.kept_pts[-1] + 1]))
        join_as_planned(replace(plan, parts=(*plan.parts[:-1], late)), encoded, target)

    join_as_planned = join_parts
    monkeypatch.setattr("bmf_trt_seg.batch.parts._SAME_INSTANT", Fraction(1))
    monkeypatch.setattr("bmf_trt_seg.batch.worker.join_parts", shifted)
    assert worker.run(Task(film, plan)) == NotToCut("joined, its parts have not the frames and times of the film")
    assert not (tmp_path / "out" / "film.mp4").exists()


def test_a_film_is_not_joined_twice(tmp_path, cut_film):
    """A worker may die when all is done but its answer."""
    settings, film, plan, worker = cut_film
    answer = worker.run(Task(film, plan))
    assert isinstance(answer, Done)
    written = (tmp_path / "out" / "film.mp4").stat().st_mtime_ns
    again = worker.run(Task(film, plan))
    assert isinstance(again, Done)
    assert (again.record.key, again.record.frames) == (answer.record.key, 60)
    assert (tmp_path / "out" / "film.mp4").stat().st_mtime_ns == written
    assert not encoded_parts(settings, film, plan)[0].parents[1].exists()


@pytest.mark.parametrize("suffix", [".mp4", ".jsonl"])
def test_a_film_whose_parts_are_gone_is_done_again_in_one_piece(cut_film, suffix):
    settings, film, plan, worker = cut_film
    encoded_parts(settings, film, plan)[1].with_suffix(suffix).unlink()
    assert worker.run(Task(film, plan)) == NotToCut("some of its parts are gone")
