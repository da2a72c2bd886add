"""One batch is learned by heart where the pipeline works; where it is broken, the check says so and finds the cause."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.training import finetuning, overfit
from asr_with_nemo.training.config import load_config
from tests.conftest import ROOT, first_rows, run_script
from tests.recognizers import training_config

CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def data(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_rows(small_corpus, tmp_path_factory.mktemp("data"), train=12, dev=2)


def check(data: Path, capsys: pytest.CaptureFixture, *overrides: str, seconds: float = 3) -> tuple[bool, str]:
    """Check a training of the course's config; return whether it learned the batch, and what it said."""
    with overfit.apart(load_config(CONFIGS, "config", [f"data_dir={data}", *overrides])) as config:
        learned = overfit.overfit(config, seconds=seconds)
    return learned, capsys.readouterr().out


def attempt(texts: list[str], heard: list[str], losses: list[float], **settings: object) -> overfit.Attempt:
    lengths = torch.tensor([len(text) for text in texts])
    batch = overfit.Batch((torch.zeros(1), lengths, torch.zeros(1), lengths), texts, texts, [])
    return overfit.Attempt(0.1, batch, losses, heard, **settings)


# --- A pipeline that works --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_batch_is_learned_and_nothing_is_left_behind(small_corpus: an4.Corpus, tmp_path: Path):
    options = ("--overfit-batch", "--overfit-seconds", "240", f"data_dir={small_corpus.folder}")
    done = run_script("train.py", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("learned by heart: the pipeline works (loss ")
    assert "one batch: 16 utterances" in done.stdout
    assert done.stdout.count("  right  ") == 16
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_fine_tuning_is_checked_from_its_own_start(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    manifests = [data / f"{split}_manifest.json" for split in ("train", "dev")]
    settings = {"model": "an4", "vocabulary": "extend"}
    config = finetuning.load_config(*manifests, settings, [f"exp_manager.exp_dir={tmp_path}"], CONFIGS)
    finetuning.overfit_batch(config, seconds=2)
    said = capsys.readouterr().out
    assert "starts from an4; of 28 letters the decoder has 28" in said
    assert "learned by heart" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ctc of pieces", "rnnt of letters", "tdt and ctc of pieces"])
def test_each_family_is_checked(family: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    manifests = [data / f"{split}_manifest.json" for split in ("train", "dev")]
    pieces = ["model.tokenizer.dir=auto"] if "pieces" in family else []
    with overfit.apart(training_config(tmp_path, family, *manifests, *pieces)) as config:
        overfit.overfit(config, seconds=1)
    said = capsys.readouterr().out
    assert "one batch: " in said and "learned by heart" in said
    assert "different vocabularies" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["published.yaml"]


# --- A broken one -----------------------------------------------------------------------------------------------------


def test_labels_in_another_order_than_the_decoders_are_refused(data: Path):
    config = load_config(CONFIGS, "config", [f"data_dir={data}"])
    config.model.decoder.vocabulary = ["'", *reversed("abcdefghijklmnopqrstuvwxyz"), " "]
    with (
        overfit.apart(config) as own,
        pytest.raises(InputError, match=r"decoder\.vocabulary=.*differs from model\.labels"),
    ):
        overfit.overfit(own, seconds=3)


@pytest.mark.slow
def test_recordings_without_sound_are_found(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    rows = manifest.read_manifest(data / "train_manifest.json")
    for number, row in enumerate(rows):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(round(16_000 * row["duration"])), 16_000)
        row["audio_filepath"] = str(tmp_path / f"{number}.wav")
    manifest.write_manifest(tmp_path / "train_manifest.json", rows)
    manifest.write_manifest(tmp_path / "dev_manifest.json", manifest.read_manifest(data / "dev_manifest.json"))
    learned, said = check(tmp_path, capsys)
    assert not learned
    assert "12 of 12 recordings are silent" in said
    assert "NOT learned by heart" in said


@pytest.mark.slow
def test_features_that_are_the_same_everywhere_are_found(data: Path, capsys: pytest.CaptureFixture):
    learned, said = check(data, capsys, "+model.preprocessor.log_zero_guard_value=1e12")
    assert not learned
    assert "the features of 12 of 12 recordings are the same everywhere" in said
    assert "model.preprocessor" in said


@pytest.mark.slow
def test_a_learning_rate_that_is_far_too_high_is_found(data: Path, capsys: pytest.CaptureFixture):
    learned, said = check(data, capsys, "model.optim.lr=1000")
    assert not learned
    assert "once more with a tenth of the learning rate" in said
    assert "learning rate of 1e+03 is far too high" in said or "a learning rate that is too high" in said


# --- The verdict ------------------------------------------------------------------------------------------------------


def test_a_smaller_rate_that_learns_is_the_cause():
    failed = attempt(["yes", "no"], ["", ""], [9.0, 8.0])
    slower = attempt(["yes", "no"], ["yes", "no"], [9.0, 0.1], learned=True)
    lines = overfit.verdict(failed, slower)
    assert lines[0].split() == ["wrong", "'yes'", "heard", "''"]
    assert "0 of 2 texts right" in lines[2]
    assert "the learning rate is too high" in lines[3] and "learned in 2 steps" in lines[3]


def test_texts_that_are_right_only_in_training_are_told():
    said = "\n".join(overfit.verdict(attempt(["yes"], ["e"], [9.0, 0.01], in_training=["yes"])))
    assert "batch norm has other statistics" in said


def test_one_that_still_learns_needs_time():
    assert "--overfit-seconds" in "\n".join(overfit.verdict(attempt(["yes"], [""], [90.0, 40.0, 20.0])))


def test_what_was_known_before_is_said():
    said = overfit.verdict(attempt(["yes"], ["yes"], [0.01, 0.01], learned=True))[-1]
    assert "the model knew these texts before" in said


# --- What can't be checked --------------------------------------------------------------------------------------------


def test_what_cannot_be_checked_is_told(data: Path, tmp_path: Path):
    given = [f"data_dir={data}"]
    with pytest.raises(InputError, match="--overfit-seconds 0: expected more than 0"):
        overfit.overfit(load_config(CONFIGS, "config", given), seconds=0)
    with pytest.raises(InputError, match="no learning rate"):
        overfit.overfit(load_config(CONFIGS, "config", [*given, "model.optim.lr=0"]))
    with pytest.raises(InputError, match="takes a manifest, not shards"):
        overfit.overfit(load_config(CONFIGS, "config", [*given, f"model.train_ds.shar_path={tmp_path}"]))
    with pytest.raises(InputError, match="no training utterance has a text"):
        overfit._short_ones([{"text": " ", "duration": 1.0, "audio_filepath": "a.wav"}])
