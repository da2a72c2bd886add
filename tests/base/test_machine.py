"""The number of threads follows the environment, the CPU affinity and a container's limit."""

import os
from pathlib import Path

import pytest

from asr_with_nemo.base import machine


@pytest.mark.parametrize(
    ("threads", "quota", "cores"),
    [
        ("3", 8, 3),  # the variable counts first
        ("0", None, 1),
        ("many", None, 4),
        (None, None, 4),
        (None, 2, 2),
        (None, 16, 4),
    ],
)
def test_usable_cores(monkeypatch: pytest.MonkeyPatch, threads: str | None, quota: int | None, cores: int):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(machine, "_quota", lambda: quota)
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(
    ("content", "quota"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", None), (None, None)]
)
def test_the_quota_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, quota: int | None
):
    limit = tmp_path / "cpu.max"
    if content is not None:
        limit.write_text(content)
    monkeypatch.setattr(machine, "Path", lambda path: limit)
    assert machine._quota() == quota
