"""A training as what a sweep optimises, with an account and with none."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omegaconf import OmegaConf

from asr_with_nemo.data import manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.objective import Training
from asr_with_nemo.sweeps.space import Sweep, check_sweep, load_sweep, preview_trials
from asr_with_nemo.sweeps.store import TrialStore
from asr_with_nemo.sweeps.workers import run_trials
from asr_with_nemo.training import augmentation
from asr_with_nemo.training.config import load_config
from tests.conftest import ROOT, first_rows, run_script
from tests.wandb_server import WandbServer

CONFIGS = ROOT / "configs"


@pytest.mark.parametrize("name", ["sweep", "sweep_bayes"])
def test_the_courses_own_sweeps_are_of_keys_that_its_config_has(name: str, small_corpus):
    sweep = load_sweep(CONFIGS / f"{name}.yaml")
    objective = Training(sweep, str(CONFIGS), "config", [f"data_dir={small_corpus.folder}"])
    (drawn,) = preview_trials(sweep, 1, seed=0)
    config = objective.config(drawn)
    if name == "sweep":
        assert config.model.optim.lr == drawn["lr"] and math.exp(-9.21) <= drawn["lr"] <= math.exp(-4.61)
        assert config.trainer.max_epochs == drawn["epoch"]
        assert [block.dropout for block in config.model.encoder.jasper] == [0.0] * 6 + [drawn["dropout"]]
    else:
        assert config.model.dropout == drawn["model.dropout"] == config.model.encoder.jasper[2].dropout


def test_a_parameter_that_is_no_key_of_the_config_is_refused_when_training_starts(small_corpus):
    arguments = (str(CONFIGS), "config", [f"data_dir={small_corpus.folder}"])

    def sweep(parameters: dict) -> Sweep:
        return check_sweep({"method": "random", "parameters": parameters}, "sweep.yaml")

    assert preview_trials(sweep({"model.optim.lrr": {"value": 0.1}}), 1)  # in itself the file is fine
    with pytest.raises(InputError, match=r"sweep.yaml: parameters.model.optim.lrr: .*config.yaml.*model.optim.lr "):
        Training(sweep({"model.optim.lrr": {"value": 0.1}}), *arguments)
    twice = sweep({"lr": {"value": 0.1}, "model": {"parameters": {"optim.lr": {"value": 0.2}}}})
    with pytest.raises(InputError, match=r"sweep.yaml: parameters: lr and model.optim.lr "):
        Training(twice, *arguments)


def test_numbers_in_quotes_are_numbers_as_for_wandbs_agent(small_corpus):
    arguments = (str(CONFIGS), "config", [f"data_dir={small_corpus.folder}"])
    parameters = {"model.optim.lr": {"value": "1e-3"}, "trainer.max_epochs": {"value": "2"}}
    quoted = check_sweep({"method": "random", "parameters": parameters}, "sweep.yaml")
    config = Training(quoted, *arguments).config(preview_trials(quoted, 1)[0])
    assert (config.model.optim.lr, config.trainer.max_epochs) == (0.001, 2)
    words = check_sweep({"method": "random", "parameters": {"model.optim.lr": {"value": "high"}}}, "sweep.yaml")
    with pytest.raises(InputError, match=r"parameters.model.optim.lr: 'high' isn't a number"):
        Training(words, *arguments).config(preview_trials(words, 1)[0])


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.slow
def test_a_sweep_of_trainings(tmp_path: Path, small_corpus):
    sweep = {
        "method": "grid",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "parameters": {"lr": {"values": [0.003, 1e-9]}, "trainer": {"parameters": {"max_epochs": {"value": 2}}}},
        "early_terminate": {"type": "hyperband", "min_iter": 1},
    }
    (tmp_path / "sweep.yaml").write_text(OmegaConf.to_yaml(sweep))
    done = run_script("sweep.py", "sweep.yaml", "--store", "store", f"data_dir={small_corpus.folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    good, bad = table(tmp_path / "store")
    assert (good["state"], good["reports"], bad["state"], bad["reports"]) == ("finished", "2", "stopped early", "1")
    assert float(good["val_loss"]) < float(bad["val_loss"]) and 0 <= float(good["val_wer"]) < 2
    for number, epochs in (("0", 2), ("1", 1)):
        lines = [line for line in done.stdout.splitlines() if line.startswith(f"trial {number} | epoch ")]
        assert len(lines) == epochs
    # The best config finds the one that was trained with it; of what ended, no checkpoint is left.
    assert [path.parts[-3] for path in tmp_path.glob("store/trials/*/*/training.json")] == ["0"]
    assert not list(tmp_path.glob("store/trials/**/*.ckpt"))
    again = run_script("train.py", "--config-path", "store", "--config-name", "best", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert ", finished;" in again.stdout
    best = load_config(tmp_path / "store", "best")
    assert (best.model.optim.lr, best.trainer.max_epochs) == (0.003, 2)
    runs = [_records(file) for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    assert len(runs) == 2
    for number, run in enumerate(runs):
        assert f"sweep-{number}" in run and "val_wer" in run and "CosineAnnealing" in run
        assert re.search(r"sweep-[0-9a-f]{8}", run)


def _records(file: Path) -> str:
    """All that W&B wrote of a run, as text."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.dumps([json.loads(line) for line in shown.stdout.splitlines()])


@pytest.mark.slow
def test_a_sweep_of_trainings_by_wandbs_agent(tmp_path: Path, small_corpus):
    sweep = {
        "method": "random",
        "metric": {"name": "val_loss"},
        "parameters": {
            "lr": {"distribution": "log_uniform", "min": -9.21, "max": -4.61},
            "epoch": {"value": 2},
            "dropout": {"min": 0.0, "max": 0.25},
        },
    }
    (tmp_path / "sweep.yaml").write_text(OmegaConf.to_yaml(sweep))
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    data = f"data_dir={small_corpus.folder}"
    with WandbServer() as server:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts/sweep.py"), "sweep.yaml", "--count", "2", data],
            cwd=tmp_path,
            env=known | server.environment(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = server.sweeps.values()
        assert len(made.trials) == 2
        for run_id, parameters in made.trials:
            run = server.run(run_id)
            assert run.sweep == made.id and run.state == "finished"
            assert {key: run.config[key] for key in parameters} == parameters
            assert run.config["model"]["optim"]["lr"] == parameters["lr"]  # the whole config is there too
            assert sum("val_wer" in row for row in run.history) == 2
        best = min(made.trials, key=lambda trial: min(_losses(server.run(trial[0]))))
        folder = tmp_path / "runs" / "sweeps" / made.id
        chosen = load_config(folder, "best")
        assert chosen.model.optim.lr == best[1]["lr"]
        assert [row["state"] for row in table(folder)] == ["finished"] * 2
        (model,) = (folder / "trials" / best[0]).glob("*/*.nemo")
        assert model.parent.parent == tmp_path / chosen.exp_manager.exp_dir


def _losses(run) -> list[float]:
    return [row["val_loss"] for row in run.history if "val_loss" in row]


@pytest.mark.slow
def test_a_training_that_diverges_late_counts_with_its_best_value(tmp_path: Path, small_corpus, monkeypatch):
    monkeypatch.setattr(augmentation, "SHARE_OF_MEMORY", 0)  # sound is read again in each epoch
    monkeypatch.setenv("WANDB_MODE", "disabled")
    first_rows(small_corpus, tmp_path, train=8, dev=2)
    rows = manifest.read_manifest(tmp_path / "train_manifest.json")
    for place, row in enumerate(rows):
        row["audio_filepath"] = shutil.copy(row["audio_filepath"], tmp_path / f"{place}.wav")
    manifest.write_manifest(tmp_path / "train_manifest.json", rows)
    sweep = check_sweep(
        {
            "method": "grid",
            "metric": {"name": "val_loss", "goal": "minimize"},
            "parameters": {"trainer.max_epochs": {"values": [3, 4]}},
        },
        "sweep.yaml",
    )
    training = Training(sweep, str(CONFIGS), "config", [f"data_dir={tmp_path}"])
    values = []

    def spoiled(config, report):
        def spoil(metrics: dict, step: int | None) -> None:
            values.append(metrics["val_loss"])
            for row in rows if len(values) > 1 else []:
                soundfile.write(row["audio_filepath"], np.full(16_000, np.nan), 16_000, subtype="FLOAT")

        report.listeners.append(spoil)
        training(config, report)

    store = TrialStore(tmp_path / "store", sweep, "training")
    run_trials(store, spoiled, 1, quiet=True)
    (row,) = store.results().rows
    assert row.state == "finished" and len(values) == 2
    assert row.value == pytest.approx(min(values))
    assert not list(tmp_path.glob("store/trials/**/*.ckpt"))
    # Without a value, the trial has failed: the recordings are spoiled from the start.
    run_trials(store, spoiled, 2, quiet=True)
    assert [row.state for row in store.results().rows] == ["finished", "failed"]
