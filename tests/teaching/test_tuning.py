"""The recorded sweep of notebook 07: Hyperband on it, importance beside chance, and what choosing the best flatters."""

import json
from pathlib import Path

import numpy as np
import optuna
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.space import Hyperband
from asr_with_nemo.teaching import tuning
from asr_with_nemo.tracking import comparison


def write_study(path: Path, seed: int = 0, trials: int = 16) -> Path:
    """Write a sweep in which the learning rate alone decides, best at 0.003, and the batch size does nothing."""
    rng = np.random.default_rng(seed)
    sweep = {
        "method": "random",
        "metric": {"name": "val_wer", "goal": "minimize"},
        "parameters": {
            "model.optim.lr": {"distribution": "log_uniform_values", "min": 0.0003, "max": 0.03},
            "model.train_ds.batch_size": {"values": [4, 8, 16]},
            "trainer.max_epochs": {"value": 4},
        },
        "name": "made",
    }
    words = [10] * 16
    rows = []
    for number in range(trials):
        rate = 0.0003 * 100 ** rng.random()
        errors = rng.binomial(10, 0.2 + 0.6 * abs(np.log10(rate / 0.003)), 16)
        end = errors.sum() / 160
        values = {"model.optim.lr": rate, "model.train_ds.batch_size": int(rng.choice([4, 8, 16]))}
        rows.append(
            {
                "number": number,
                "values": values | {"trainer.max_epochs": 4},
                "history": [1.0, 0.5 + end / 2, end + 0.01, end],
                "seconds": 60.0,
                "errors": errors.tolist(),
            }
        )
    best = min(rows, key=lambda row: row["history"][-1])["number"]
    repeats = [
        {"trial": trial, "seed": seed, "history": [1.0, round(0.4 + seed / 100, 2)], "seconds": 60.0}
        for seed in (1, 2)
        for trial in (best, None)
    ]
    speakers = [f"s{number % 4}" for number in range(16)]
    made = {"machine": {"device": "a CPU", "cores": 1}, "commit": "abc"}
    content = made | {"sweep": sweep, "trials": rows, "repeats": repeats, "words": words, "speakers": speakers}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuning.Study:
    return tuning.read_study(write_study(tmp_path_factory.mktemp("study") / "sweep.json"))


def test_a_study_is_read(study: tuning.Study, tmp_path: Path):
    assert study.rates == pytest.approx(study.errors.sum(1) / study.words.sum())
    assert study.results.best.number == study.rates.argmin()
    assert study.made == "16 trials in 0.3 hours, 1 core of a CPU, commit abc"
    with pytest.raises(InputError, match="record_sweep"):
        tuning.read_study(tmp_path / "none.json")


def test_seeds_are_those_of_the_best_and_of_the_plain_config(study: tuning.Study):
    table = tuning.seeds_of(study)
    best = study.results.best
    assert list(table.index) == [f"trial {best.number}", "config.yaml"]
    assert table.columns.tolist() == ["in the sweep", "seed 1", "seed 2"]
    assert table.iloc[0].tolist() == [best.value, 0.41, 0.42]
    assert np.isnan(table.iloc[1, 0])


@pytest.mark.parametrize(("first", "eta"), [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2)])
def test_a_replay_decides_as_the_sweeps_own_hyperband(study: tuning.Study, first: int, eta: int):
    brackets = tuple(first * eta**power for power in range(5))
    pruner = Hyperband(brackets, eta, 1, True)
    optimization = optuna.create_study(pruner=pruner)
    expected = []
    for curve in study.curves:
        trial = optimization.ask()
        for epoch, value in enumerate(curve, 1):
            trial.report(value, epoch)
            if epoch < len(curve) and trial.should_prune():
                optimization.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            optimization.tell(trial, curve.min())
        expected.append(epoch)
    assert tuning.replay(study.curves, first, eta) == expected


def test_agreement_grows_to_one(study: tuning.Study):
    table = tuning.agreement(study.curves)
    assert list(table.index) == [1, 2, 3, 4]
    assert table["rank correlation"].iloc[-1] == pytest.approx(1)
    assert table["place of the winner"].iloc[-1] == 1


def test_what_matters_lies_beyond_chance_and_what_does_not_within(study: tuning.Study):
    found = tuning.importances(study)
    assert list(found.index) == ["model.optim.lr", "model.train_ds.batch_size"]
    assert found["fANOVA"].sum() == pytest.approx(1)
    assert found["random forest"].sum() == pytest.approx(1)
    chance = tuning.chance_importances(study, times=20)
    assert chance.shape == (20, 2, 3)
    beyond = tuning.beyond_chance(found, chance)
    assert beyond["fANOVA"] == ["optim.lr"]
    assert "train_ds.batch_size" not in beyond["random forest"]
    assert len(tuning.draw_importances(found, chance).axes) == 3


def test_the_winner_is_flattered_where_it_was_chosen(study: tuning.Study):
    halves = tuning.splits(study)
    assert len(halves) == 6  # 2 of 4 speakers
    assert (halves.best <= halves.other).all()
    assert (halves.other - halves.chosen).mean() > 0


def test_pictures_show_each_trial(study: tuning.Study):
    figure = comparison.draw_parallel(tuning.as_runs(study.results))
    assert len(figure.axes[0].lines) == len(study.rates) + 3  # and an upright line for each axis
    assert len(tuning.draw_searches().axes) == 2
    assert len(tuning.draw_seeds(study).axes[0].lines) == 4  # all trials, their own seed, two others
    got = tuning.replay(study.curves, 1, 2)
    assert len(tuning.draw_replay(study.curves, got).axes[0].lines) == len(got)
