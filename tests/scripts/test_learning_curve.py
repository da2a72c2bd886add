"""scripts/learning_curve.py on a tiny corpus: the curve, an interruption, a second way to train."""

import json
from pathlib import Path

import pytest

from asr_with_nemo.data import an4
from tests.conftest import first_rows, run_script
from tests.recognition.in_process import error_of

SMALL = ("model.width=32", "trainer.accelerator=cpu")


@pytest.mark.slow
def test_three_short_trainings_make_a_curve_and_are_not_done_twice(small_corpus: an4.Corpus, tmp_path: Path):
    data = first_rows(small_corpus, tmp_path, train=16, dev=6)
    command = ("learning_curve.py", data, "--epochs", "1", "--out", "curve", *SMALL)
    done = run_script(*command, cwd=tmp_path, WANDB_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert said.index("3 trainings of 1 epochs' worth") < said.index("1 of 3: 25% of the training set")
    assert "from scratch, forecast" in said and "--base MODEL" in said and said.count("took ") == 3
    made = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert [row["utterances"] for row in made["rows"]] == ["4", "8", "16", "32"]
    assert set(made["curves"]) == {"from scratch"}
    assert (tmp_path / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")
    # One of the results is lost, as after an interruption: it alone is made again.
    lost = tmp_path / "curve" / "from-scratch-50-seed0.tsv"
    kept = lost.read_bytes()
    lost.unlink()
    again = run_script(*command, cwd=tmp_path, WANDB_MODE="disabled")
    assert again.returncode == 0 and "1 of 1: 50%" in again.stdout and "finished" in again.stdout, again.stdout
    assert lost.read_bytes() == kept
    third = run_script(*command, cwd=tmp_path)
    assert "the 3 trainings are done" in third.stdout and third.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere/train_manifest.json"),
        (["data", "--parts", "0.5"], "--parts '0.5': expected two or more"),
        (["data", "--parts", "half,1"], "--parts 'half,1'"),
        (["data", "--parts", "0.5,2"], "between 0 and 1"),
        (["data", "--parts", "0.01,1"], "are too few for --parts"),
        (["data", "--vocabulary", "new"], "--base MODEL"),
        (["data/train_manifest.json"], "a file; name the folder that scripts/prepare_corpus.py wrote"),
        (["data", "--base", "runs/nowhere.nemo"], "nowhere.nemo: no such file"),
    ],
)
def test_what_is_refused(
    small_corpus: an4.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
):
    (tmp_path / "data").mkdir()
    first_rows(small_corpus, tmp_path / "data", train=16, dev=6)
    monkeypatch.chdir(tmp_path)
    assert reason in error_of("learning_curve.py", *arguments)
    assert not (tmp_path / "runs").exists()
