"""Every stage under every fault: a part here, the whole by `make proofs`."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, run_script


def faults(tmp_path: Path, *options: str) -> None:
    done = run_script("tools/faults.py", *options, "--keep", tmp_path / "cells", cwd=ROOT, COURSE_PRELOADED="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults: 0" in done.stdout


@pytest.mark.slow
def test_a_stage_holds_under_every_fault(tmp_path: Path):
    faults(tmp_path, "--stage", "language model")


@pytest.mark.slow
def test_a_corpus_is_prepared_in_the_end_whatever_stopped_it(tmp_path: Path):
    faults(tmp_path, "--stage", "a corpus", "--fault", "SIGTERM", "--fault", "full disk", "--fault", "two at once")


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_all_stages_hold_under_all_faults(tmp_path: Path):
    faults(tmp_path)
