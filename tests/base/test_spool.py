"""A list that is larger than memory behaves as a list does."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asr_with_nemo.base.spool import Numbers, Spool, mapped
from asr_with_nemo.errors import InputError


@pytest.mark.parametrize("in_memory", [0, 3, 100])
def test_it_is_a_list_wherever_its_items_are(in_memory: int):
    words = [f"word {number}" * number for number in range(10)]
    spool = Spool(words[:6], in_memory)
    spool.extend(words[6:])
    assert spool == words == list(spool)
    assert words == spool
    assert spool != words[:-1]
    assert [spool[number] for number in range(-10, 10)] == words + words
    assert spool[2:8:2] == words[2:8:2]
    assert words[4] in spool
    assert spool.index(words[7]) == 7
    assert list(mapped(spool, len)) == [len(word) for word in words]
    assert mapped(spool, len)[-2:] == [len(word) for word in words[-2:]]
    with pytest.raises(IndexError):
        spool[10]


def test_several_threads_read_it_at_once():
    spool = Spool((bytes([number % 256]) * 1000 for number in range(500)), in_memory=0)
    with ThreadPoolExecutor(4) as pool:
        for read in pool.map(lambda _: list(spool), range(8)):
            assert read == spool


def test_a_full_disk_is_named_by_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    numbers = Numbers()
    numbers._table.execute("PRAGMA max_page_count = 5")  # as on a disk that has room for no more
    with pytest.raises(InputError, match=f"{tmp_path}: the temporary folder .*is full.*TMPDIR"):
        for number in range(10_000):
            numbers[str(number)] = number
