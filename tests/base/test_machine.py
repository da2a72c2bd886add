"""The number of threads follows the environment, the CPU affinity and a container's limit."""

import os
import subprocess
import sys
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


@pytest.mark.parametrize(
    ("flags", "sets"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16", ("AVX2", "AVX-512", "AVX-512 bf16", "AMX bf16")),
        ("flags\t\t: fpu sse2 avx2", ("AVX2",)),
        ("Features\t: fp asimd", ()),
        (None, ()),
    ],
)
def test_the_instruction_sets_of_a_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str | None, sets: tuple[str, ...]
):
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: some\n{flags}\n\nprocessor\t: 1\n{flags}\n")
    monkeypatch.setattr(machine, "Path", lambda path: cpuinfo)
    assert machine.instruction_sets() == sets


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process can't choose its core here")
def test_another_process_keeps_a_core_busy():
    mine = os.sched_getaffinity(0)
    core = min(mine)
    program = f"import os, time; os.sched_setaffinity(0, [{core}])\nwhile time.process_time() < 20: pass"
    other = subprocess.Popen([sys.executable, "-c", program])
    try:
        os.sched_setaffinity(0, [core])  # this test looks at that core alone, whatever the others do
        assert machine.idle_cores(1.0) < 0.5
    finally:
        os.sched_setaffinity(0, mine)
        other.kill()
        other.wait()


def test_code_that_differs_from_its_commit_is_said_and_new_results_dont_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    git = [
        "git",
        "-C",
        str(tmp_path),
        "-c",
        "user.name=me",
        "-c",
        "user.email=me@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    for folder in ("src", "results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.py").write_text("1")
    subprocess.run([*git, "init", "-q"], check=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "src" / "machine.py"))
    assert machine.code_commit() is None  # no commit yet
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    clean = machine.code_commit()
    (tmp_path / "results/file.py").write_text("2")
    assert machine.code_commit() == clean and len(clean) == 12
    (tmp_path / "src/file.py").write_text("2")
    assert machine.code_commit() == f"{clean}-dirty"
