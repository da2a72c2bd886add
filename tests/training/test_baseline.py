"""A fine-tuning knows how good the model was before it: printed, kept, and compared with each validation."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.differences import spelling_notes
from asr_with_nemo.training import baseline, finetuning
from asr_with_nemo.training.run import read_log
from tests.conftest import ROOT, first_rows


@pytest.fixture(scope="module")
def data(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_rows(small_corpus, tmp_path_factory.mktemp("data"), train=16, dev=9)


def config_of(model: Path | str, data: Path, folder: Path, *overrides: str, **settings: object):
    own = ["trainer.max_epochs=1", f"exp_manager.exp_dir={folder}", "exp_manager.create_wandb_logger=false"]
    manifests = [data / f"{split}_manifest.json" for split in ("train", "dev")]
    return finetuning.load_config(*manifests, {"model": str(model)} | settings, [*own, *overrides], ROOT / "configs")


# --- What the errors show ---------------------------------------------------------------------------------------------


def test_texts_with_capitals_and_punctuation_are_told_from_wrong_ones():
    pairs = [("Hello, well-known Ann.", "hello well known ann"), ("Go on!", "go in"), ("stop", "stop")]
    (note,) = spelling_notes(pairs, when="before training", advice="train longer")
    assert note.endswith("train longer") and note.startswith(
        "5 of the 6 errors before training are only capitals, punctuation or hyphens"
    )
    assert "text 'Hello, well-known Ann.', model 'hello well known ann'" in note
    assert spelling_notes([("go on", "go in"), ("stop now", "no")]) == []


def test_figures_on_one_side_alone_are_told():
    (note,) = spelling_notes([("room 12", "room twelve"), ("yes", "yes")])
    assert note.startswith("1 of 2 texts have figures, and the model writes none")
    (note,) = spelling_notes([("room twelve", "room 12"), ("yes", "yes")])
    assert note.startswith("the model writes figures in 1 of 2 texts")


def test_a_dev_set_without_words_has_a_rate():
    assert baseline.summed([]).rate == 0
    assert baseline.summed([("", "a")]).errors == 1
    assert baseline.summed([("ab", "ac")], by_letters=True).metric == "CER"


def test_a_damaged_file_is_as_none(tmp_path: Path):
    assert baseline.read(tmp_path) is None
    for content in ("", "{}", '{"errors": 1}', "[1]"):
        (tmp_path / baseline.FILE).write_text(content)
        assert baseline.read(tmp_path) is None


# --- In a training ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_what_a_validation_of_the_same_weights_finds(small_model: Path, data: Path, tmp_path: Path, capsys):
    path = finetuning.train(config_of(small_model, data, tmp_path, "model.optim.lr=0", freeze="bn"))
    said = capsys.readouterr().out
    (row,) = read_log(path.parent)
    before = baseline.read(path.parent)
    assert math.isclose(row["val_wer"], before.rate, abs_tol=1e-6)
    words = sum(len(row["text"].split()) for row in manifest.read_manifest(data / "dev_manifest.json"))
    assert before.words == words and before.unit == "words"
    assert f"before training: dev WER {before.rate:.1%} ({before.errors} of {words} words)" in said
    assert f", before training {before.rate:.1%}" in said
    assert "worse" not in said
    assert said.splitlines()[-1].startswith(f"dev WER {before.rate:.1%} before training, {before.rate:.1%} in the best")


class Killed(pl.Callback):
    """Interrupts a training at the start of its second epoch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_that_spoils_the_model_says_so_and_measures_once(data: Path, tmp_path: Path, capsys):
    config = config_of("an4", data, tmp_path, "trainer.max_epochs=3", "model.optim.lr=0.05")
    with pytest.raises(InputError, match="resumes"):
        finetuning.train(config, callbacks=[Killed()])
    said = capsys.readouterr().out
    assert "before training: dev WER" in said
    assert "warning: since epoch 1 the dev WER is worse than before training; usual causes:" in said
    for cause in ("model.optim.lr=0.005 instead of 0.05", "--freeze bn", "few data (16 utterances)"):
        assert cause in said

    path = finetuning.train(config)
    said = capsys.readouterr().out
    assert "resuming from the end of epoch 1" in said
    assert "before training: dev WER" not in said
    assert ", worse since epoch 1" in said
    assert "usual causes" not in said  # they were said before
    warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "errors in" in warnings[-2]
    assert "the fine-tuned model is worse on this dev set than an4: use an4 as it is, or train again" in warnings[-1]
    assert list(path.parent.glob("checkpoints/best-*.ckpt"))

    finetuning.train(config)  # finished
    assert "the fine-tuned model is worse on this dev set than an4" in capsys.readouterr().out


@pytest.mark.slow
def test_with_more_letters_there_is_a_figure_and_with_new_ones_there_is_none(
    small_model: Path, data: Path, tmp_path: Path, capsys
):
    for split in ("train", "dev"):
        rows = manifest.read_manifest(data / f"{split}_manifest.json")
        manifest.write_manifest(
            tmp_path / f"{split}_manifest.json", [row | {"text": f"{row['text']}!"} for row in rows]
        )
    finetuning.train(config_of(small_model, tmp_path, tmp_path, vocabulary="extend"))
    assert "before training: dev WER" in capsys.readouterr().out
    path = finetuning.train(config_of(small_model, tmp_path, tmp_path, vocabulary="new"))
    said = capsys.readouterr().out
    assert "before training: no figure, since the outputs for all symbols start at random" in said
    assert ", before training" not in said
    assert not (path.parent / baseline.FILE).exists()


@pytest.mark.slow
def test_a_training_without_validation_has_none(small_model: Path, data: Path, tmp_path: Path, capsys):
    finetuning.train(config_of(small_model, data, tmp_path, "+trainer.limit_val_batches=0"))
    assert "before training" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_share_the_measurement_and_wandb_has_it(data: Path, tmp_path: Path):
    options = ["--manifest", data / "train_manifest.json", "--dev", data / "dev_manifest.json", "--freeze", "bn"]
    options += ["trainer.accelerator=cpu", "trainer.max_epochs=1", "model.optim.lr=0", "tracking.predictions_every=0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [ROOT / "scripts" / "finetune.py", "an4", *options]
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    kept = {key: value for key, value in os.environ.items() if key != "COURSE_PRELOADED"}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=kept | own, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("before training: dev WER") == 1
    (file,) = tmp_path.rglob(baseline.FILE)
    before = json.loads(file.read_text())
    words = sum(len(row["text"].split()) for row in manifest.read_manifest(data / "dev_manifest.json"))
    assert before["words"] == words
    (row,) = read_log(file.parent)
    assert math.isclose(row["val_wer"], before["errors"] / words, abs_tol=0.02)
    (logged,) = tmp_path.rglob("run-*.wandb")
    assert b"before_training/val_wer" in logged.read_bytes()
