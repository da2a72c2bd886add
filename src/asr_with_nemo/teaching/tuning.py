"""The recorded sweep of notebook 07: would Hyperband have been right, what mattered, is the best really better?"""

import itertools
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.results import Results, TrialRow, best_value, fanova
from asr_with_nemo.sweeps.space import check_sweep
from asr_with_nemo.tracking.runs import Run

FILE = Path("results") / "sweep.json"
"""Made by scripts/tools/record_sweep.py."""


@dataclass(frozen=True)
class Study:
    """A finished sweep, with each trial's errors on dev, and some of its trials trained again with other seeds.

    Attributes:
        results: the trials; each trained by the same seed.
        errors: in words, (trials, utterances), of each trial's model, its best epoch.
        words: of the references, (utterances,).
        speakers: of each utterance.
        repeats: trainings with other seeds: `trial` (None: the values of config.yaml), `seed`, `wer` on dev.
        made: the machine, the time and the commit, in a sentence.
    """

    results: Results
    errors: np.ndarray
    words: np.ndarray
    speakers: np.ndarray
    repeats: pd.DataFrame
    made: str

    @property
    def rates(self) -> np.ndarray:
        """The metric of each trial, (trials,): the WER on dev of its best epoch, as a fraction."""
        return np.array([row.value for row in self.results.rows])

    @property
    def curves(self) -> np.ndarray:
        """The WER on dev after each epoch, (trials, epochs), as fractions."""
        return np.array([row.history for row in self.results.rows])


def read_study(path: str | os.PathLike = FILE) -> Study:
    """Read a sweep that scripts/tools/record_sweep.py has recorded.

    Raises:
        InputError: there is none.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: no recorded sweep; scripts/tools/record_sweep.py makes one") from error
    sweep = check_sweep(content["sweep"], str(path))
    rows = []
    for trial in content["trials"]:
        config: dict = {}
        for parameter in sweep.parameters:
            section = config
            for name in parameter.path[:-1]:
                section = section.setdefault(name, {})
            section[parameter.path[-1]] = trial["values"][parameter.name]
        history = tuple(trial["history"])
        value = best_value(sweep.metric, history)
        metrics = {sweep.metric.name: history[-1]}
        place = str(trial["number"])
        rows.append(TrialRow(trial["number"], "finished", value, config, metrics, history, trial["seconds"], place))
    repeats = pd.DataFrame(
        [
            {"trial": one["trial"], "seed": one["seed"], "wer": best_value(sweep.metric, one["history"])}
            for one in content["repeats"]
        ],
        columns=["trial", "seed", "wer"],
    )
    machine, hours = content["machine"], sum(row.seconds for row in rows) / 3600
    made = (
        f"{len(rows)} trials in {hours:.1f} hours, {machine['cores']} core of {machine['device']}, "
        f"commit {content['commit']}"
    )
    return Study(
        Results(sweep, sweep.name, rows),
        np.array([trial["errors"] for trial in content["trials"]]),
        np.array(content["words"]),
        np.array(content["speakers"]),
        repeats,
        made,
    )


def as_runs(results: Results) -> list[Run]:
    """Return the trials as runs, for the pictures of `tracking.comparison`."""
    runs = []
    for row in results.rows:
        name = f"trial {row.number}"
        config = {key.removeprefix("model."): value for key, value in results.sweep.values(row.config).items()}
        run = Run(str(row.number), name, "ASR", "finished", "", "", config=config, label=name)
        metric = results.sweep.metric.name
        run.note(({"_step": step, "epoch": step, metric: value} for step, value in enumerate(row.history)), {})
        runs.append(run)
    return runs


# --- How to search ----------------------------------------------------------------------------------------------------


def draw_searches(side: int = 4, seed: int = 0) -> Figure:
    """Draw a grid and as many random points over two settings, of which only the one across matters.

    After J. Bergstra and Y. Bengio, "Random Search for Hyper-Parameter Optimization", JMLR 13, 2012, figure 1.
    """
    rng = np.random.default_rng(seed)
    places = (np.arange(side) + 0.5) / side
    grid = np.array(list(itertools.product(places, places)))
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    x = np.linspace(0, 1, 300)
    for axes, name, points in zip(panels, ("grid", "random"), (grid, rng.random((side**2, 2))), strict=True):
        axes.plot(x, 1.15 + 0.5 * np.exp(-(((x - 0.5) / 0.09) ** 2)), color="tab:green")
        axes.scatter(*points.T, color="tab:blue", zorder=3)
        axes.vlines(points[:, 0], 1.05, 1.13, color="tab:blue")
        different = len(set(points[:, 0].round(6)))
        axes.set_title(f"{name}: {len(points)} trials, {different} values of what matters", fontsize=11)
        axes.set(xlabel="the setting that matters", xticks=[], yticks=[], xlim=(0, 1))
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("one that doesn't", y=0.33)
    return figure


# --- Stopping early ---------------------------------------------------------------------------------------------------


def replay(curves: np.ndarray, first: int, eta: float) -> list[int]:
    """Say how many epochs each trial would have got from W&B's Hyperband, had the trials run one after the other.

    Args:
        curves: a metric to minimise after each epoch, (trials, epochs), in the order in which they started.
        first: `min_iter`, the first bracket.
        eta: of the trials that reach a bracket, the best 1/eta go on.

    Returns:
        epochs of each trial.

    Example:
        >>> replay(np.array([[0.9, 0.8], [0.95, 0.7], [0.85, 0.6]]), first=1, eta=3)
        [2, 1, 2]
    """
    trials, epochs = curves.shape
    brackets = [bracket for power in range(20) if (bracket := int(first * eta**power)) < epochs]
    got: list[int] = []
    for trial in range(trials):
        length = epochs
        for bracket in brackets:
            reached = [other for other in range(trial) if got[other] >= bracket] + [trial]
            values = sorted(curves[other, bracket - 1] for other in reached)
            if curves[trial, bracket - 1] > values[int(len(values) / eta)]:
                length = bracket
                break
        got.append(length)
    return got


def agreement(curves: np.ndarray) -> pd.DataFrame:
    """Say how well the order of the trials after each epoch agrees with their final order.

    Args:
        curves: (trials, epochs), a metric to minimise.

    Returns:
        a row per epoch: Spearman's rank correlation with the best value of each trial, and the place (1: the best) that
        the later winner has then.
    """
    final = curves.min(1)
    winner = int(final.argmin())
    rows = []
    for epoch, now in enumerate(curves.T, start=1):
        correlation = stats.spearmanr(now, final).statistic if now.min() < now.max() else np.nan
        rows.append((epoch, correlation, int((now < now[winner]).sum()) + 1))
    return pd.DataFrame(rows, columns=["epoch", "rank correlation", "place of the winner"]).set_index("epoch")


# --- What mattered ----------------------------------------------------------------------------------------------------


def importances(study: Study, order: Sequence[int] | None = None, seed: int = 0) -> pd.DataFrame:
    """Compute three measures of importance: fANOVA, a random forest's, and the linear correlation with the metric.

    W&B's panel shows the last two. The learning rate and the weight decay, which were drawn on a log scale, enter the
    correlation by their logarithms.

    Args:
        study: the sweep.
        order: trials whose metric stands in for that of each trial; a random order leaves nothing to explain.
        seed: of the forests.

    Returns:
        a row per parameter.
    """
    from sklearn.ensemble import RandomForestRegressor

    results = study.results
    rates = study.rates if order is None else study.rates[list(order)]
    shares = fanova(results, list(rates), seed)
    columns = {}
    for parameter in results.sweep.parameters:
        if parameter.name in shares:
            given = np.array([results.sweep.values(row.config)[parameter.name] for row in results.rows], float)
            columns[parameter.name] = np.log(given) if "log" in parameter.kind else given
    table = pd.DataFrame(columns)
    forest = RandomForestRegressor(n_estimators=50, random_state=seed).fit(table, rates)
    return pd.DataFrame(
        {
            "fANOVA": [shares[name] for name in table],
            "random forest": forest.feature_importances_,
            "correlation": [stats.pearsonr(table[name], rates).statistic for name in table],
        },
        index=list(table),
    )


def chance_importances(study: Study, times: int = 40, seed: int = 0) -> np.ndarray:
    """Compute the importances after the trials' metric has been shuffled among them, so that nothing matters.

    Returns:
        (times, parameters, measures), as the rows and columns of `importances`.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(study.rates)) for _ in range(times)]
    return np.array([importances(study, order, number).to_numpy() for number, order in enumerate(orders)])


def draw_importances(found: pd.DataFrame, chance: np.ndarray) -> Figure:
    """Draw importances as dots, over the range in which 95% of the shuffled ones lie."""
    figure, panels = plt.subplots(1, found.shape[1], figsize=(9, 2.4), sharey=True, layout="constrained")
    for place, (axes, name) in enumerate(zip(panels, found, strict=True)):
        low, high = _chance_range(chance[:, :, place], name)
        axes.hlines(range(len(found)), low, high, color="0.75", lw=8, label="nothing matters: 95% of the shuffles")
        axes.plot(found[name], range(len(found)), "o", color="tab:blue", label="this sweep")
        axes.set(title=name, yticks=range(len(found)), xlim=(-1, 1) if name == "correlation" else (0, 1))
        axes.set_yticklabels([key.removeprefix("model.") for key in found.index], fontsize=9)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def _chance_range(values: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds by parameter: for shares the one above which 5% lie, for correlations one on each side."""
    if name == "correlation":
        return tuple(np.quantile(values, [0.025, 0.975], axis=0))
    return np.zeros(values.shape[1]), np.quantile(values, 0.95, axis=0)


def beyond_chance(found: pd.DataFrame, chance: np.ndarray) -> dict[str, list[str]]:
    """Return the parameters whose importance lies outside of the range of the shuffled ones, by measure."""
    beyond = {}
    for place, name in enumerate(found):
        low, high = _chance_range(chance[:, :, place], name)
        is_beyond = (found[name] > high) | (found[name] < low)
        beyond[name] = [key.removeprefix("model.") for key in found.index[is_beyond]]
    return beyond


# --- Is the best one really better? -----------------------------------------------------------------------------------


def splits(study: Study, without: Collection[int] = ()) -> pd.DataFrame:
    """Choose the best trial on half of the dev speakers, and look at it on the other half, for each way to halve them.

    Args:
        study: the recorded sweep.
        without: numbers of trials that are left out.

    Returns:
        a row per way: the chosen `trial`, its WER where it was `chosen`, on the `other` half, and there that of the
        `best` trial and the `mean` of all, as fractions.
    """
    names = sorted(set(study.speakers))
    numbers = np.array([row.number for row in study.results.rows])
    kept = ~np.isin(numbers, list(without))
    errors, numbers = study.errors[kept], numbers[kept]
    rows = []
    for half in itertools.combinations(names, len(names) // 2):
        inside = np.isin(study.speakers, half)
        here, there = (errors[:, part].sum(1) / study.words[part].sum() for part in (inside, ~inside))
        trial = int(here.argmin())
        rows.append((int(numbers[trial]), here[trial], there[trial], there.min(), there.mean()))
    return pd.DataFrame(rows, columns=["trial", "chosen", "other", "best", "mean"])


def seeds_of(study: Study) -> pd.DataFrame:
    """Return the WER of each training with another seed than the sweep's.

    Returns:
        a row per trial that was trained again, and one for the values of config.yaml: the WER `in the sweep` (NaN for
        config.yaml), and of each other `seed 1`, `seed 2` ...
    """
    own = {f"trial {row.number}": row.value for row in study.results.rows}
    names = study.repeats["trial"].map(lambda number: "config.yaml" if number != number else f"trial {number:.0f}")
    table = study.repeats.assign(trial=names, seed=study.repeats["seed"].map("seed {}".format))
    table = table.pivot(index="trial", columns="seed", values="wer")
    table.insert(0, "in the sweep", [own.get(name, np.nan) for name in table.index])
    return table.sort_values("in the sweep").rename_axis(columns=None)  # config.yaml last


def draw_seeds(study: Study) -> Figure:
    """Draw all trials of the sweep, and those that were trained again with their other seeds."""
    table = 100 * seeds_of(study)
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.45 * (1 + len(table))), layout="constrained")
    axes.plot(100 * study.rates, np.zeros(len(study.rates)), "|", color="0.4", ms=14)
    places = np.arange(1, len(table) + 1)
    axes.plot(table["in the sweep"], places, "D", color="tab:red", label="the sweep's own seed")
    for column in table.columns[1:]:
        label = "other seeds" if column == table.columns[1] else None
        axes.plot(table[column], places, "o", color="tab:blue", alpha=0.7, label=label)
    axes.set(yticks=range(len(table) + 1), yticklabels=["all trials, one seed", *table.index])
    axes.set(xlabel="WER on dev, %", ylim=(len(table) + 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_replay(curves: np.ndarray, got: Sequence[int]) -> Figure:
    """Draw learning curves, each as far as a trial got, the best of all in red; a cross is where one was stopped.

    Args:
        curves: WER after each epoch, (trials, epochs), as fractions.
        got: epochs of each trial, from `replay`.
    """
    winner, epochs = int(curves.min(1).argmin()), curves.shape[1]
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for trial in sorted(range(len(curves)), key=lambda trial: (trial == winner, got[trial])):
        stopped = got[trial] < epochs
        color = "tab:red" if trial == winner else "0.6" if stopped else "tab:blue"
        points = 100 * curves[trial, : got[trial]]
        marker = {"marker": "x" if stopped else "o", "markevery": [-1], "ms": 5}
        axes.plot(range(1, got[trial] + 1), points, color=color, lw=2.5 if trial == winner else 1.2, **marker)
    axes.set(xlabel="epoch", ylabel="WER on dev, %", xticks=range(1, epochs + 1))
    axes.grid(alpha=0.3)
    return figure


def replay_data(study: Study, first: int, eta: int) -> dict:
    """Return what the piece `hyperband` shows: the learning curves in percent, and where its sliders start."""
    return {
        "names": [f"trial {row.number}" for row in study.results.rows],
        "curves": (100 * study.curves).round(2).tolist(),
        "minIter": first,
        "eta": eta,
    }
