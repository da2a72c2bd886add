"""Digests of files: those of the content, computed once, for several processes at once, with or without a cache."""

import hashlib
import os
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from asr_with_nemo.data import digests
from asr_with_nemo.data.digests import CACHE, file_digests


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    (tmp_path / "wav").mkdir()
    paths = [tmp_path / "wav" / f"{number}.wav" for number in range(30)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 1_000)
    return paths


def md5s(files: list[Path]) -> list[bytes]:
    return [hashlib.md5(path.read_bytes()).digest() for path in files]


def found(files: list[Path], folder: Path) -> list[bytes]:
    return [digest.md5 for digest in file_digests(files, folder)]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Has an item for each file that was hashed."""
    calls, md5 = [], digests.new_md5
    monkeypatch.setattr(digests, "new_md5", lambda: calls.append(None) or md5())
    return calls


def test_a_file_is_hashed_once_unless_it_changes(files: list[Path], tmp_path: Path, hashed: list[None]):
    assert found(files, tmp_path) == md5s(files)
    assert len(hashed) == 30
    files[3].write_bytes(b"another size")
    os.utime(files[4], ns=(1, 1))
    assert found(files, tmp_path) == md5s(files)
    assert len(hashed) == 32
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    there = [moved / path.relative_to(tmp_path) for path in files]
    assert found(there, moved) == md5s(there)
    assert len(hashed) == 32, "the cache moves with its folder"


def test_what_was_hashed_before_an_early_end_is_kept(files: list[Path], tmp_path: Path, hashed: list[None]):
    some = file_digests(files, tmp_path)
    for _ in range(10):
        next(some)
    some.close()
    assert found(files, tmp_path) == md5s(files)
    assert len(hashed) == 30


@pytest.mark.parametrize("cache", ["a damaged file", "a folder", "another table"])
def test_a_cache_that_can_not_be_used_costs_only_time(files: list[Path], tmp_path: Path, cache: str):
    path = tmp_path / CACHE
    if cache == "a folder":
        path.mkdir()
    elif cache == "a damaged file":
        path.write_bytes(b"no database" * 1_000)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE digests (other TEXT)")
        connection.close()
    assert found(files, tmp_path) == md5s(files)
    assert found(files, tmp_path / "no such folder") == md5s(files)


def test_processes_that_write_at_once_leave_a_whole_cache(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        both = [pool.submit(found, files, tmp_path) for _ in range(2)]
        assert [one.result() for one in both] == [md5s(files)] * 2
    connection = sqlite3.connect(tmp_path / CACHE)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM digests").fetchone() == (30,)
    connection.close()


def test_a_file_that_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        found([tmp_path / "missing.wav"], tmp_path)
