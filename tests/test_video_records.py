"""Records of a video: their content, the PNG files beside them, and drawing them again."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import clips
import cv2
import numpy as np
import pytest
from clips import SIZE_WH
from jobs import LOSSLESS, left_in, read_records, segment
from pycocotools import mask as coco

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import VideoJob, segment_video

WIDTH, HEIGHT = SIZE_WH
VFR = [0, 1500, 4500, 7503, 11257, 17258, 26258, 27035, 30000, 33000]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Ten frames at uneven times."""
    return clips.write_clip(
        tmp_path / "in.mp4", crf=0, time_base=Fraction(1, 90000), pts=VFR,
        mux_options=(("video_track_timescale", "90000"),),
    )  # fmt: skip


def _render(source: Path, records: Path, target: Path, **options: object) -> None:
    segment_video(VideoJob(source, target, SegmentOptions(replay=str(records), **options), LOSSLESS))  # type: ignore[arg-type]


def _same_pixels(one: Path, other: Path) -> bool:
    return all(
        np.array_equal(plane, twin)
        for a, b in zip(clips.read_clip(one), clips.read_clip(other), strict=True)
        for plane, twin in zip(a.planes, b.planes, strict=True)
    )


def test_one_record_a_frame_with_everything_in_it(clip: Path, tmp_path: Path, bright: Path) -> None:
    records = tmp_path / "records.jsonl"
    segment(clip, tmp_path / "out.mp4", bright, records=records, interval=3)
    found = read_records(records)
    assert [record["frame"] for record in found] == list(range(10))
    assert [record["pts"] for record in found] == VFR
    assert [record["inferred"] for record in found] == [number % 3 == 0 for number in range(10)]
    for record in found:
        number = record["frame"] // 3 * 3
        rows, columns = clips.box(number, WIDTH, HEIGHT)
        box = clips.box_mask(number, WIDTH, HEIGHT)
        assert record["time_base"] == [1, 90000]
        assert record["seconds"] == round(record["pts"] / 90000, 6)
        assert record["size"] == [WIDTH, HEIGHT]
        assert record["background"] == 0
        (entry,) = record["classes"]
        assert (entry["index"], entry["label"], entry["color"]) == (1, "box", "#ff0000")
        assert entry["share"] == round(box.sum() / box.size, 6)
        assert entry["bbox"] == [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        np.testing.assert_array_equal(coco.decode(entry["rle"]), box)
        assert set(record) - {"shown"} == {
            "frame", "pts", "time_base", "seconds", "inferred", "size", "background", "classes"
        }  # fmt: skip
    shown = [{"index": 1, "label": "box", "color": "#ff0000"}]
    assert [record.get("shown") for record in found] == [shown] + [None] * 9


def test_masks_are_png_files_of_the_same_class_maps(clip: Path, tmp_path: Path, networks: Path) -> None:
    masks, records = tmp_path / "masks", tmp_path / "records.jsonl"
    segment(clip, tmp_path / "out.mp4", networks / "three.onnx", records=records, masks=masks)
    assert left_in(masks) == {f"{number:08d}.png" for number in range(10)}
    luma = [shown.planes[0] for shown in clips.read_clip(clip)]
    for record in read_records(records):
        picture = cv2.imread(str(masks / f"{record['frame']:08d}.png"), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8
        assert picture.shape == (HEIGHT, WIDTH)
        expected = np.select([luma[record["frame"]] > 158, luma[record["frame"]] > 70], [2, 1], 0)
        np.testing.assert_array_equal(picture, expected)
        for entry in record["classes"]:
            np.testing.assert_array_equal(coco.decode(entry["rle"]), picture == entry["index"])
            assert entry["label"] == ["dark", "middle", "light"][entry["index"]]


def test_masks_alone_need_no_records_file(clip: Path, tmp_path: Path, bright: Path) -> None:
    segment(clip, tmp_path / "out.mp4", bright, masks=tmp_path / "masks")
    assert len(left_in(tmp_path / "masks")) == 10
    assert left_in(tmp_path) == {"in.mp4", "out.mp4", "masks"}


def test_batches_keep_records_in_order(clip: Path, tmp_path: Path, bright: Path) -> None:
    for name, options in {"one": {}, "many": {"batch_size": 4}}.items():
        segment(clip, tmp_path / "out.mp4", bright, records=tmp_path / name, **options)
    assert (tmp_path / "one").read_text() == (tmp_path / "many").read_text()


@pytest.mark.parametrize("style", ["blend", "blur", "contour", "cutout", "sidebyside"])
def test_render_draws_what_the_first_run_drew(style: str, clip: Path, tmp_path: Path, networks: Path) -> None:
    records = tmp_path / "records.jsonl"
    options = {"style": style, "legend": True, "alpha": 0.7}
    segment(clip, tmp_path / "first.mp4", networks / "three.onnx", records=records, interval=2, **options)
    _render(clip, records, tmp_path / "again.mp4", **options)
    assert _same_pixels(tmp_path / "first.mp4", tmp_path / "again.mp4")
    assert [shown.seconds for shown in clips.read_clip(tmp_path / "again.mp4")] == [Fraction(n, 90000) for n in VFR]


def test_render_in_another_style_equals_a_run_in_that_style(clip: Path, tmp_path: Path, networks: Path) -> None:
    records = tmp_path / "records.jsonl"
    model = networks / "three.onnx"
    segment(clip, tmp_path / "first.mp4", model, records=records)
    for options in ({"style": "contour"}, {"output": "mask"}, {"classes": ["light"], "palette": {"light": "#123456"}}):
        segment(clip, tmp_path / "direct.mp4", model, **options)
        _render(clip, records, tmp_path / "again.mp4", **options)
        assert _same_pixels(tmp_path / "direct.mp4", tmp_path / "again.mp4"), options


def test_render_of_frames_without_any_class(tmp_path: Path, bright: Path) -> None:
    source, records = clips.write_clip(tmp_path / "in.mp4", frames=3, crf=0), tmp_path / "records.jsonl"
    segment(source, tmp_path / "first.mp4", bright, records=records, threshold=1.0)
    assert [record["classes"] for record in read_records(records)] == [[], [], []]
    _render(source, records, tmp_path / "again.mp4", style="cutout")
    assert _same_pixels(tmp_path / "again.mp4", _cut_out_entirely(source, tmp_path, bright))


def _cut_out_entirely(source: Path, tmp_path: Path, bright: Path) -> Path:
    segment(source, tmp_path / "empty.mp4", bright, threshold=1.0, style="cutout")
    return tmp_path / "empty.mp4"


def test_records_of_another_video_are_refused(clip: Path, tmp_path: Path, bright: Path) -> None:
    records = tmp_path / "records.jsonl"
    segment(clip, tmp_path / "out.mp4", bright, records=records)
    others = {
        "at 0.040000 s, the record says 160x90 at 0.016667 s": clips.write_clip(tmp_path / "other_times.mp4"),
        "frame 0 is 320x180": clips.write_clip(tmp_path / "other_size.mp4", size_wh=(320, 180)),
    }
    for words, source in others.items():
        with pytest.raises(ConfigError, match="are of another video") as caught:
            _render(source, records, tmp_path / "again.mp4")
        assert words in str(caught.value)
        assert not (tmp_path / "again.mp4").exists()


def test_too_few_records_are_refused(clip: Path, tmp_path: Path, bright: Path) -> None:
    records = tmp_path / "records.jsonl"
    segment(clip, tmp_path / "out.mp4", bright, records=records)
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:6]))
    with pytest.raises(ConfigError, match="end after 6 frames, but the video goes on"):
        _render(clip, records, tmp_path / "again.mp4")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "end after 0 frames"),
        ("{}\n", "line 1: no record of a frame"),
        ("not json\n", "line 1: no record of a frame"),
        ("[1, 2]\n", "line 1: no record of a frame"),
    ],
)
def test_files_without_records_are_refused(content: str, words: str, clip: Path, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text(content)
    with pytest.raises(ConfigError) as caught:
        _render(clip, records, tmp_path / "again.mp4")
    assert words in str(caught.value)
    assert "records.jsonl" in str(caught.value)


def test_missing_records_file(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"nothing\.jsonl' cannot be read: No such file"):
        _render(clip, tmp_path / "nothing.jsonl", tmp_path / "again.mp4")


def test_a_class_that_was_not_recorded_is_refused(clip: Path, tmp_path: Path, bright: Path) -> None:
    records = tmp_path / "records.jsonl"
    segment(clip, tmp_path / "out.mp4", bright, records=records)
    with pytest.raises(ConfigError, match="no class 'dog'"):
        _render(clip, records, tmp_path / "again.mp4", classes=["dog"])


def test_broken_rle_names_the_line(clip: Path, tmp_path: Path, bright: Path) -> None:
    records = tmp_path / "records.jsonl"
    segment(clip, tmp_path / "out.mp4", bright, records=records)
    lines = read_records(records)
    del lines[4]["classes"][0]["rle"]
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="line 5"):
        _render(clip, records, tmp_path / "again.mp4")


def test_a_failed_run_leaves_the_old_records(clip: Path, tmp_path: Path, bright: Path) -> None:
    records, broken = tmp_path / "records.jsonl", clips.text_file(tmp_path / "text.mp4")
    records.write_text("of an earlier run")
    with pytest.raises(StreamError):
        segment(broken, tmp_path / "out.mp4", bright, records=records)
    assert records.read_text() == "of an earlier run"
    assert left_in(tmp_path) == {"in.mp4", "text.mp4", "records.jsonl"}


@pytest.mark.parametrize("kind", ["records", "masks"])
def test_records_that_cannot_be_written(kind: str, clip: Path, tmp_path: Path, bright: Path) -> None:
    (tmp_path / "file").write_text("")
    for where, words in {
        tmp_path / "nowhere" / "inside": "the folder '{0}/nowhere' does not exist",
        tmp_path / "file" / "inside": "the folder '{0}/file' is no folder",
    }.items():
        with pytest.raises(StreamError) as caught:
            segment(clip, tmp_path / "out.mp4", bright, **{kind: where})  # type: ignore[arg-type]
        assert str(caught.value) == f"'{where}' cannot be written: {words.format(tmp_path)}"
    assert left_in(tmp_path) == {"in.mp4", "file"}


def test_a_folder_is_no_file_and_a_file_no_folder(clip: Path, tmp_path: Path, bright: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StreamError, match="folder' is a folder; give the name of a file in it"):
        segment(clip, tmp_path / "out.mp4", bright, records=tmp_path / "folder")
    with pytest.raises(StreamError, match="file' is a file; masks go into a folder"):
        segment(clip, tmp_path / "out.mp4", bright, masks=tmp_path / "file")


def test_masks_go_into_a_folder_that_is_there(clip: Path, tmp_path: Path, bright: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "notes.txt").write_text("mine")
    segment(clip, tmp_path / "out.mp4", bright, masks=masks)
    assert left_in(masks) == {"notes.txt"} | {f"{number:08d}.png" for number in range(10)}
