"""A worker in the process of the test: what it writes, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
import weakref
from dataclasses import replace

import clips
import pytest
from batch_runs import batch_settings, do_all, films_in, frame_numbers, visible

from bmf_trt_seg.backends.onnxruntime import OnnxRuntimeBackend
from bmf_trt_seg.batch.inputs import find_films
from bmf_trt_seg.batch.tasks import Failed, Task
from bmf_trt_seg.batch.work_folder import WorkFolder, clear_dead
from bmf_trt_seg.batch.worker import Worker
from bmf_trt_seg.errors import ConfigError
from bmf_trt_seg.media import probe_video
from bmf_trt_seg.options import SegmentOptions
from bmf_trt_seg.transcode import Encoding, VideoJob, video_graph


def test_a_bad_film_does_not_stop_the_rest(tmp_path, bright):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    clips.write_clip(tmp_path / "in" / "sub" / "good.mkv", frames=8)
    clips.text_file(tmp_path / "in" / "text.mp4")
    clips.cut(tmp_path / "in" / "short.mkv", clips.write_clip(tmp_path / "whole.mkv", frames=80), 0.6)
    settings = batch_settings(tmp_path / "out", bright)
    films = [*films_in(tmp_path / "in", settings), *find_films([str(tmp_path / "nowhere.mp4")], settings.target)[0]]
    states = do_all(films, settings)
    assert states["text.mp4"].message == (
        f"'{tmp_path}/in/text.mp4' is no video that FFmpeg can read: Invalid data found when processing input"
    )
    assert states["nowhere.mp4"].message == f"'{tmp_path}/nowhere.mp4' does not exist"
    assert states["sub/good.mkv"].record.frames == 8
    assert states["short.mkv"].record.damage.startswith("it ends at")
    assert visible(tmp_path / "out") == {
        "sub/good.mkv", "sub/good.mkv.jsonl", "short.mkv", "short.mkv.jsonl",
    }  # fmt: skip
    assert frame_numbers(tmp_path / "out" / "sub" / "good.mkv") == list(range(8))
    assert not list((tmp_path / "out" / ".batch" / "work").iterdir())


def test_another_network_than_the_driver_has_is_refused(tmp_path, bright):
    settings = replace(batch_settings(tmp_path / "out", bright), model_sha256="another")
    with pytest.raises(ConfigError, match="is another file here than where the batch was started"):
        Worker(settings)


def test_a_wrong_class_is_found_out_before_the_first_film(tmp_path, bright):
    with pytest.raises(ConfigError, match="option 'classes': the model has no class 'dog'"):
        Worker(batch_settings(tmp_path / "out", bright, classes=["dog"]))


def test_what_lasts_of_a_network_is_held_until_the_end(tmp_path, bright, monkeypatch):
    made = []

    class Lasting:
        def __init__(self):
            made.append(weakref.ref(self))

    monkeypatch.setattr(OnnxRuntimeBackend, "lasting", property(lambda _: Lasting()))
    worker = Worker(batch_settings(tmp_path / "out", bright))
    (lasting,) = made
    assert lasting() is not None
    worker.close()
    assert lasting() is None


def test_warnings_are_kept_as_remarks(tmp_path, bright):
    small, large = (
        clips.write_clip(tmp_path / f"{size[0]}.ts", frames=6, size_wh=size) for size in ((96, 54), (160, 90))
    )
    (tmp_path / "in").mkdir()
    clips.concatenated(tmp_path / "in" / "sizes.ts", [small, large])
    settings = batch_settings(tmp_path / "out", bright)
    (state,) = do_all(films_in(tmp_path / "in", settings), settings).values()
    assert any("frames of another size are scaled to that" in remark for remark in state.record.remarks)


def test_a_bug_of_ours_is_not_taken_for_the_films_fault(tmp_path, bright, monkeypatch):
    clips.write_clip(tmp_path / "a.mp4", frames=5)
    settings = batch_settings(tmp_path / "out", bright)
    worker = Worker(settings)
    monkeypatch.setattr("bmf_trt_seg.batch.worker.segment_video", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.run(Task(films_in(tmp_path / "a.mp4", settings)[0]))
    worker.close()


def test_what_a_storage_refuses_may_pass(tmp_path, bright, monkeypatch):
    clips.write_clip(tmp_path / "a.mp4", frames=5)
    settings = batch_settings(tmp_path / "out", bright)
    worker = Worker(settings)
    (tmp_path / "out" / "a.mp4").mkdir()
    answer = worker.run(Task(films_in(tmp_path / "a.mp4", settings)[0]))
    assert answer == Failed(f"'{tmp_path}/out/a.mp4' cannot be written: Is a directory", may_pass=True)
    worker.close()


@pytest.mark.parametrize(("codec", "key", "text"), [("libx264", "threads", 3), ("libx265", "x265-params", ":pools=3")])
def test_decoder_and_encoder_take_no_more_threads_than_they_may(tmp_path, bright, plain_clip, codec, key, text):
    def graph(cpu_threads):
        job = VideoJob(
            plain_clip, tmp_path / "out.mp4", SegmentOptions(model=str(bright)), Encoding(codec), decoder="ffmpeg",
            cpu_threads=cpu_threads,
        )  # fmt: skip
        return video_graph(job, probe_video(plain_clip), tmp_path / "encoded.mp4")

    decoder, _, encoder = graph(3)["nodes"]
    assert decoder["option"]["dec_params"] == {"threads": "3"}
    found = encoder["option"]["video_params"][key]
    assert found == text or found.endswith(text)
    assert [node["scheduler"] for node in graph(3)["nodes"]] == [0, 1, 2]
    assert [node["scheduler"] for node in graph(1)["nodes"]] == [0, 0, 0]
    assert "threads" not in graph(0)["nodes"][2]["option"]["video_params"]


def test_work_folders_of_the_dead_are_removed_and_no_others(tmp_path):
    mine = WorkFolder(tmp_path)
    code = "import sys, pathlib, os\nfrom bmf_trt_seg.batch.work_folder import WorkFolder\n"
    code += "made = WorkFolder(pathlib.Path(sys.argv[1]))\n(made.path / 'half.mp4').touch()\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert not clear_dead(tmp_path)
    assert list(tmp_path.iterdir()) == [mine.path]
    mine.close()
    assert clear_dead(tmp_path)
    assert not list(tmp_path.iterdir())
