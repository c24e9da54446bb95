"""What counts as done."""

from __future__ import annotations

import os
from dataclasses import replace

import clips
import pytest
from batch_runs import batch_settings, do_all, films_in

from bmf_trt_seg.batch.driver import Batch
from bmf_trt_seg.batch.ledger import Ledger
from bmf_trt_seg.errors import ConfigError, StreamError


@pytest.fixture
def settings(tmp_path, bright):
    return batch_settings(tmp_path / "out", bright)


@pytest.fixture
def films(tmp_path, settings):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        clips.write_clip(tmp_path / "in" / name, frames=5)
    films = films_in(tmp_path / "in", settings)
    do_all(films, settings)
    return films


def to_do(films, settings):
    batch = Batch(films, settings)
    batch.check(overwrite=True)
    return [film.name for film in batch.open]


def test_what_is_done_is_not_done_again(films, settings):
    assert to_do(films, settings) == []


def test_an_output_that_is_missing_or_was_changed_is_made_again(films, settings, tmp_path):
    (tmp_path / "out" / "a.mp4").unlink()
    assert to_do(films, settings) == ["a.mp4"]
    (tmp_path / "out" / "b.mp4.jsonl").write_text("{}\n")
    assert to_do(films, settings) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b'{"key": 1}'])
def test_a_damaged_record_counts_as_none(films, settings, tmp_path, content):
    (tmp_path / "out" / ".batch" / "done" / "a.mp4.json").write_bytes(content)
    assert to_do(films, settings) == ["a.mp4"]


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff", b"1"])
def test_a_damaged_list_of_names_is_told(films, settings, tmp_path, content):
    (tmp_path / "out" / ".batch" / "names.json").write_bytes(content)
    with pytest.raises(StreamError, match=r"names.json', which says .* is damaged: .*; give another folder, or"):
        Batch(films, settings).check(overwrite=False)


def test_a_changed_input_is_done_again(films, settings, tmp_path):
    clips.write_clip(tmp_path / "in" / "a.mp4", frames=6)
    assert to_do(films_in(tmp_path / "in", settings), settings) == ["a.mp4"]
    os.utime(tmp_path / "in" / "b.mp4", ns=(1, 1))
    assert to_do(films_in(tmp_path / "in", settings), settings) == ["a.mp4", "b.mp4"]


def test_other_options_or_another_network_do_all_again(films, settings):
    changed = {
        "options": settings.options.model_copy(update={"alpha": 0.25}),
        "model_sha256": "another",
        "encoding": replace(settings.encoding, crf=30),
        "records": False,
    }
    for name, value in changed.items():
        assert to_do(films, replace(settings, **{name: value})) == ["a.mp4", "b.mp4"], name
    faster = {"options": settings.options.model_copy(update={"threads": 2}), "cpu_threads": 4, "cut_seconds": 60.0}
    assert to_do(films, replace(settings, **faster)) == []


def test_a_record_that_nobody_understands_counts_for_nothing(films, settings, tmp_path):
    (tmp_path / "out" / ".batch" / "done" / "a.mp4.json").write_text('{"key": ')
    (tmp_path / "out" / ".batch" / "done" / "b.mp4.json").write_text('{"version": 9}')
    assert to_do(films, settings) == ["a.mp4", "b.mp4"]


def test_outputs_of_others_are_found_out(films, settings, tmp_path):
    (tmp_path / "out" / ".batch" / "done" / "a.mp4.json").unlink()
    batch = Batch(films, settings)
    assert batch.check(overwrite=False) == ["a.mp4", "a.mp4.jsonl"]
    batch.ledger.claim(films)
    assert Batch(films, settings).check(overwrite=False) == []  # begun by a batch that was killed


def test_an_input_is_never_an_output(tmp_path, bright):
    clip = clips.write_clip(tmp_path / "a.mp4", frames=5)
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    settings = batch_settings(tmp_path / "link", bright)
    with pytest.raises(ConfigError, match=r"a\.mp4' is an input, and would be written"):
        Batch(films_in(clip, settings), settings).check(overwrite=True)


def test_one_batch_at_a_time(settings):
    with (
        Ledger(settings.target).locked(),
        pytest.raises(StreamError, match="another batch writes to"),
        Ledger(settings.target).locked(),
    ):
        pass


def test_parts_of_films_that_changed_are_removed(settings, tmp_path):
    ledger = Ledger(settings.target)
    for key in ("old", "new"):
        for plan in ("one", "other"):
            part = tmp_path / "out" / ".batch" / "parts" / key / plan / "00000.mp4"
            part.parent.mkdir(parents=True)
            part.touch()
    ledger.forget_parts(but=["new"])
    assert ledger.finished_parts("old") == set()
    assert ledger.finished_parts("new") == {"one/00000.mp4", "other/00000.mp4"}


def test_parts_of_films_that_are_done_are_removed(films, settings, tmp_path):
    """As those of a worker that died when all was done but that."""
    part = tmp_path / "out" / ".batch" / "parts" / settings.key(films[0]) / "plan" / "00000.mp4"
    part.parent.mkdir(parents=True)
    part.touch()
    batch = Batch(films, settings)
    batch.check(overwrite=False)
    batch.nothing_to_do()
    assert not part.exists()


def test_a_record_counts_if_all_that_it_tells_of_is_there(films, settings, tmp_path):
    ledger = Ledger(settings.target)
    assert ledger.record("a.mp4").key == settings.key(films[0])
    assert ledger.record("c.mp4") is None
    (tmp_path / "out" / "a.mp4.jsonl").write_text("{}\n")
    assert ledger.record("a.mp4") is None
