"""What the user named."""

from __future__ import annotations

import pytest

from bmf_trt_seg.batch.inputs import find_films
from bmf_trt_seg.errors import ConfigError, StreamError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.avi", "notes.txt", ".hidden.mp4", "deep/er/c.mkv", "out/a.mp4", "deep/.batch/d.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return tmp_path


def names(films):
    return sorted(film.name for film in films)


def test_a_folder_gives_its_videos_with_their_places_below_it(folder):
    films, left_out = find_films([str(folder)], str(folder / "out"))
    assert names(films) == ["a.mp4", "b.mp4", "deep/er/c.mkv"]  # nothing hidden, nothing of the output folder
    assert left_out == 1  # notes.txt
    assert {film.name: film.source.size_bytes for film in films}["a.mp4"] == 5
    assert films[0].records_name == "a.mp4.jsonl"


def test_a_pattern_keeps_what_is_below_its_fixed_beginning(folder):
    films, _ = find_films([f"{folder}/deep/**/*.mkv", f"{folder}/*.mp4"], "/elsewhere")
    assert names(films) == ["a.mp4", "er/c.mkv"]


def test_a_video_is_done_once_however_often_it_is_named(folder):
    films, _ = find_films([str(folder / "a.mp4"), str(folder)], str(folder / "out"))
    assert names(films) == ["a.mp4", "b.mp4", "deep/er/c.mkv"]


def test_a_video_named_by_itself_may_have_any_name_and_need_not_exist(folder):
    films, left_out = find_films([str(folder / "notes.txt"), str(folder / "nowhere.mp4")], "/elsewhere")
    assert names(films) == ["notes.mp4", "nowhere.mp4"]
    assert left_out == 0
    assert films[1].source.version == ""


def test_two_outputs_of_one_name_are_refused(folder):
    with pytest.raises(ConfigError, match=r"'.*/a\.mp4' and '.*/out/a\.mp4' would both be written to 'a\.mp4'"):
        find_films([str(folder / "a.mp4"), str(folder / "out" / "a.mp4")], "/elsewhere")


@pytest.mark.parametrize(("name", "kind"), [("deep/er/*.mp4", "pattern"), ("empty", "folder")])
def test_nothing_found(folder, name, kind):
    (folder / "empty").mkdir()
    with pytest.raises(StreamError, match=rf"^the {kind} '.*' names no videos \(\.3gp, "):
        find_films([str(folder / name)], "/elsewhere")


def test_pictures_are_for_another_verb(folder):
    (folder / "photo.jpg").touch()
    with pytest.raises(ConfigError, match="is a picture, and 'batch' takes videos; 'images' takes pictures"):
        find_films([str(folder / "photo.jpg")], "/elsewhere")
