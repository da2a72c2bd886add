"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from asr_with_nemo.base.files import check_output, read_text, replacing, write_if_changed
from asr_with_nemo.errors import InputError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "options", [{}, {"shared": True}, {"keep_suffix": True}, {"shared": True, "keep_suffix": True}]
)
def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path, options: dict):
    path = tmp_path / "note.json"
    path.write_text("old")
    with replacing(path, **options) as partial:
        partial.write_text("new")
        assert partial.parent == tmp_path
        assert path.read_text() == "old"
        assert (partial.suffix == ".json") == options.get("keep_suffix", False)
        assert (str(os.getpid()) in partial.name) == options.get("shared", False)
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["note.json"]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["note.txt"]


def test_a_folder_is_written_in_one_step_too(tmp_path: Path):
    path = tmp_path / "corpus"
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "one.txt").touch()
        assert not path.exists()
    assert names_in(path) == ["one.txt"]
    with pytest.raises(ValueError), replacing(tmp_path / "other") as partial:
        partial.mkdir()
        (partial / "two.txt").touch()
        raise ValueError
    assert names_in(tmp_path) == ["corpus"]


def test_leftovers_of_a_killed_process_are_overwritten(tmp_path: Path):
    with replacing(tmp_path / "corpus") as partial:
        partial.mkdir()
        (partial / "left over").touch()
        partial.rename(tmp_path / "aside")
        partial.mkdir()
    (tmp_path / "aside").rename(partial)
    with replacing(tmp_path / "fresh") as fresh:
        fresh.mkdir()
    (tmp_path / "corpus").rmdir()
    with replacing(tmp_path / "corpus") as again:
        assert again == partial
        assert not again.exists()
        again.mkdir()
    assert names_in(tmp_path) == ["corpus", "fresh"]


def test_a_file_of_the_same_content_keeps_its_date(tmp_path: Path):
    path = tmp_path / "note.txt"
    write_if_changed(path, "å\n")
    os.utime(path, (1, 1))
    write_if_changed(path, "å\n".encode())
    assert path.stat().st_mtime == 1
    write_if_changed(path, "b")
    assert path.read_text() == "b"
    assert names_in(tmp_path) == ["note.txt"]


def test_text_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"note\.txt: make it first"):
        read_text(tmp_path / "note.txt", "a note", "make it first")
    (tmp_path / "note.txt").write_bytes(b"\xef\xbb\xbfgood")
    assert read_text(tmp_path / "note.txt", "a note", "missing") == "good"
    (tmp_path / "note.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match=r"note\.txt.*a note"):
        read_text(tmp_path / "note.txt", "a note", "missing")


def test_a_results_file_is_tried_before_the_work_begins(tmp_path: Path):
    check_output(tmp_path / "results" / "run.json")
    assert names_in(tmp_path / "results") == []
    with pytest.raises(InputError, match=r"run\.txt.*\.json"):
        check_output(tmp_path / "run.txt")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"run\.json"):
        check_output(tmp_path / "file" / "run.json")


@pytest.mark.parametrize("keep_suffix", [True, False])
def test_a_name_as_long_as_file_systems_allow_is_written(tmp_path: Path, keep_suffix: bool):
    path = tmp_path / f"{'é' * 125}.json"
    with replacing(path, shared=True, keep_suffix=keep_suffix) as partial:
        assert partial.suffix == (".json" if keep_suffix else ".partial")
        partial.write_text("whole")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(path.name, "whole")]
