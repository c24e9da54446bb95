"""Files that appear under their names when they are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from bmf_trt_seg.errors import ConfigError, StreamError
from bmf_trt_seg.outputs import check_distinct, check_writable, publish, temporary_path, with_final_names


def test_temporary_names_are_hidden_and_keep_folder_and_ending(tmp_path: Path) -> None:
    temporary = temporary_path(tmp_path / "out.mp4")
    assert (temporary.parent, temporary.suffix) == (tmp_path, ".mp4")
    assert temporary.name.startswith(".out.")
    assert temporary != temporary_path(tmp_path / "out.mp4", "pictures")


def test_messages_name_what_the_user_asked_for(tmp_path: Path) -> None:
    names = [(tmp_path / ".out.1.part.mp4", tmp_path / "out.mp4"), (None, None)]
    assert with_final_names(f"'{names[0][0]}' is full", names) == f"'{tmp_path / 'out.mp4'}' is full"


@pytest.mark.parametrize("link", [False, True])
def test_an_output_that_is_the_input_is_refused(link: bool, tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    source.touch()
    target = tmp_path / "link.mp4" if link else source
    if link:
        target.symlink_to(source)
    with pytest.raises(ConfigError, match="is the input; choose another name for the output"):
        check_distinct([source], [tmp_path / "fine", target])


def test_two_outputs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would be written twice"):
        check_distinct([], [tmp_path / "out", tmp_path / "x" / ".." / "out"])


def test_what_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept")
    check_writable(tmp_path / "there")
    check_writable(tmp_path / "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"there": "kept"}


def test_folder_as_the_output(tmp_path: Path) -> None:
    """Masks go into one."""
    check_writable(tmp_path)


def test_folder_of_the_output_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StreamError, match=r"/nosuch/out' cannot be written: the folder '.*/nosuch' does not exist$"):
        check_writable(tmp_path / "nosuch" / "out")
    with pytest.raises(StreamError, match=r"/file/out' cannot be written: the folder '.*/file' is no folder$"):
        check_writable(tmp_path / "file" / "out")


def test_publish_gives_files_and_the_files_of_folders_their_names(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("new")
    (tmp_path / "whole").write_text("old")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0").write_text("zero")
    publish({tmp_path / n: tmp_path / m for n, m in (("part", "whole"), ("parts", "folder"), ("absent", "nothing"))})
    assert (tmp_path / "whole").read_text() == "new"
    assert (tmp_path / "folder" / "0").read_text() == "zero"
    assert not (tmp_path / "nothing").exists()


def test_a_name_that_cannot_be_given(tmp_path: Path) -> None:
    (tmp_path / "part").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StreamError, match=r"'.*folder' cannot be written"):
        publish({tmp_path / "part": tmp_path / "folder"})
