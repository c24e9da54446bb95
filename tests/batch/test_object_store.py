"""Inputs and outputs in S3: moto's server on loopback."""

from __future__ import annotations

import sys

import clips
import jobs
import pytest
from batch_runs import batch_settings, do_all, films_in, frame_numbers

from bmf_trt_seg.batch.driver import Batch
from bmf_trt_seg.batch.storage import storage_of
from bmf_trt_seg.errors import BackendUnavailable, ConfigError, StreamError

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def server():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(use_listings_cache=False)
    for bucket in ("films", "made"):
        files.mkdir(bucket)
    yield files
    for bucket in ("films", "made"):
        files.rm(bucket, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_films_of_a_bucket_are_done_once_and_cut_as_local_ones(s3, tmp_path, bright):
    (tmp_path / "in").mkdir()
    clips.write_clip(tmp_path / "in" / "long.mp4", frames=72, b_frames=2, audio=("aac",), options=(("g", "12"),))
    clips.write_clip(tmp_path / "in" / "short.mkv", frames=9)
    clips.text_file(tmp_path / "in" / "text.mp4")
    s3.put(f"{tmp_path}/in/", "films/day/", recursive=True)
    local = batch_settings(tmp_path / "out", bright)
    do_all(films_in(tmp_path / "in", local), local)

    settings = batch_settings("s3://made/out", bright, cut_seconds=0.9)
    films = films_in("s3://films/day", settings)
    states = do_all(films, settings)
    assert {name: state.state for name, state in states.items()} == {
        "long.mp4": "done", "short.mkv": "done", "text.mp4": "failed",
    }  # fmt: skip
    assert states["long.mp4"].record.parts == 4
    assert states["text.mp4"].message.startswith("'s3://films/day/text.mp4' is no video that FFmpeg can read")
    s3.get("made/out/", f"{tmp_path}/got/", recursive=True)
    assert frame_numbers(tmp_path / "got" / "long.mp4") == list(range(72))
    for name in ("long.mp4", "short.mkv"):
        ours, theirs = tmp_path / "got" / f"{name}.jsonl", tmp_path / "out" / f"{name}.jsonl"
        assert jobs.read_records(ours) == jobs.read_records(theirs)
    assert not s3.exists("made/out/.batch/parts/")

    batch = Batch(films, settings)
    assert batch.check(overwrite=False) == []
    assert [film.name for film in batch.open] == ["text.mp4"]
    s3.put_file(str(tmp_path / "in" / "long.mp4"), "films/day/short.mkv")
    again = Batch(films_in("s3://films/day/*.mkv", settings), settings)
    again.check(overwrite=True)
    assert [film.name for film in again.open] == ["short.mkv"]


@pytest.mark.parametrize(("name", "cut_seconds"), [("00000.mp4", 0.9), ("00001.mp4", 0.9), ("made.mp4", 0.0)])
def test_a_film_may_have_the_name_of_a_part_or_of_what_is_made(s3, tmp_path, bright, name, cut_seconds):
    clips.write_clip(tmp_path / name, frames=60, audio=("aac",), options=(("g", "12"), ("sc_threshold", "0")))
    s3.put_file(str(tmp_path / name), f"films/{name}")
    settings = batch_settings("s3://made/out", bright, cut_seconds=cut_seconds)
    (state,) = do_all(films_in(f"s3://films/{name}", settings), settings).values()
    assert state.state == "done", state.message
    assert (state.record.parts > 1, state.record.damage) == (cut_seconds > 0, "")
    s3.get_file(f"made/out/{name}", str(tmp_path / "got.mp4"))
    assert frame_numbers(tmp_path / "got.mp4") == list(range(60))
    assert clips.packets_of(tmp_path / "got.mp4", "audio") == clips.packets_of(tmp_path / name, "audio")


def test_an_object_that_is_an_input_is_never_an_output(s3, tmp_path, bright):
    s3.pipe_file("films/day/a.mp4", b"precious")
    settings = batch_settings("s3://films/day", bright)
    with pytest.raises(ConfigError, match=r"^'s3://films/day/a\.mp4' is an input, and would be written; choose"):
        Batch(films_in("s3://films/day/a.mp4", settings), settings).check(overwrite=True)


def test_what_the_store_refuses_is_told_in_one_line(s3, tmp_path):
    storage = storage_of("s3://films")
    (tmp_path / "made.mp4").write_bytes(b"x")
    with pytest.raises(StreamError, match=r"^'s3://nowhere/made\.mp4' cannot be written: .*bucket"):
        storage.publish(tmp_path / "made.mp4", "s3://nowhere/made.mp4")
    assert (tmp_path / "made.mp4").exists()
    assert storage.stat("s3://films/none.mp4") is None
    assert storage.read("s3://films/none.json") is None
    storage.remove("s3://films/none")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        BackendUnavailable, match=r"'s3://' addresses cannot be used: .*pip install 'bmf-trt-seg\[ray\]'"
    ):
        storage_of("s3://films")
