"""Results of a sweep: the best config as a file, a table, and plots of the metric over trials and parameters."""

import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from asr_with_nemo.base.files import replacing, write_if_changed
from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.space import Config, Metric, Parameter, Sweep, as_json

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

STATES = ("finished", "stopped early", "failed", "running", "queued")
_STYLES = {"finished": ("o", "tab:blue"), "stopped early": ("x", "tab:gray")}
"""Marker and color by state; plots show only trials of these states."""


@dataclass(frozen=True)
class TrialRow:
    """A trial of a sweep.

    Attributes:
        number: from 0, in the order of sampling; a repeated trial keeps its number.
        state: one of `STATES`.
        value: of the metric, the best if it was reported more than once; None without one.
        config: its parameters.
        metrics: the last value of each metric.
        history: the reported values of the sweep's metric, in order.
        seconds: from start to end; None before the end.
        folder: the name of its folder in `trials`.
        attempt: 1, or more for a trial whose worker was killed.
        reason: why it failed; empty if it didn't.
    """

    number: int
    state: str
    value: float | None
    config: Config
    metrics: dict[str, float]
    history: tuple[float, ...]
    seconds: float | None
    folder: str
    attempt: int = 1
    reason: str = ""


@dataclass(frozen=True)
class Results:
    """The trials of a sweep.

    Attributes:
        sweep: the sweep.
        id: its id in W&B; offline, the group of its runs.
        rows: the trials by number.
        files: the files that `write_results` wrote.
    """

    sweep: Sweep
    id: str
    rows: Sequence[TrialRow]
    files: tuple[Path, ...] = ()

    @property
    def best(self) -> TrialRow:
        """The finished trial with the best value; without a metric, the first finished one.

        Raises:
            InputError: no trial has finished.
        """
        finished = [row for row in self.rows if row.state == "finished"]
        if not finished:
            reasons = [row.reason for row in self.rows if row.reason]
            last = f"; the last one failed with: {reasons[-1]}" if reasons else ""
            raise InputError(f"{self.id}: no trial has finished{last}")
        metric = self.sweep.metric
        return min(finished, key=lambda row: metric.sign * row.value) if metric else finished[0]

    def table(self) -> "pandas.DataFrame":
        """Return a table, a row per trial: state, metric, parameters (`config.NAME`), other metrics, reports ..."""
        import pandas

        metric = self.sweep.metric.name if self.sweep.metric else None
        others = sorted({name for row in self.rows for name in row.metrics} - {metric})
        lines = []
        for row in self.rows:
            line = {"trial": row.number, "state": row.state} | ({metric: row.value} if metric else {})
            for name, value in (self.sweep.values(row.config) if row.config else {}).items():
                line[f"config.{name}"] = as_json(value) if isinstance(value, dict | list) else value
            line |= {name: row.metrics.get(name) for name in others}
            line |= {"reports": len(row.history), "seconds": row.seconds, "attempt": row.attempt, "reason": row.reason}
            lines.append(line)
        parameters = [f"config.{parameter.name}" for parameter in self.sweep.parameters]
        columns = ["trial", "state", *([metric] if metric else []), *parameters, *others]
        columns += ["reports", "seconds", "attempt", "reason"]
        # As objects, so that integers stay integers in a column with missing values.
        return pandas.DataFrame(lines, columns=columns, dtype=object).set_index("trial")

    def __str__(self) -> str:
        """Format the number of trials by state, and the ten best, a line each."""
        metric = self.sweep.metric
        counts = Counter(row.state for row in self.rows)
        ended = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        lines = [f"{len(self.rows)} trials: {ended}"]
        if metric:
            finished = [row for row in self.rows if row.state == "finished"]
            for row in sorted(finished, key=lambda row: metric.sign * row.value)[:10]:
                lines.append(f"  trial {row.number:3}  {metric.name} {row.value:<10.5g} {short(row.config)}")
        return "\n".join(lines)


def best_value(metric: Metric, values: Sequence[float]) -> float | None:
    """Return the best of a trial's reported values, NaN ignored; None if there is none.

    Example:
        >>> best_value(Metric(name="wer"), [0.5, 0.25, float("nan")])
        0.25
    """
    numbers = [value for value in values if not math.isnan(value)]
    return min(numbers, key=lambda value: metric.sign * value, default=None)


def short(config: Config) -> str:
    """Format a config in one line, numbers with five significant digits.

    Example:
        >>> short({"lr": 0.0012345678, "epoch": 3})
        '{"lr": 0.0012346, "epoch": 3}'
    """
    return re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda number: f"{float(number[0]):.5g}", json.dumps(config))


def write_results(
    results: Results, folder: str | os.PathLike, config: Callable[[TrialRow], DictConfig] | None = None
) -> Results:
    """Write the results of a sweep into a folder.

    Args:
        results: the trials.
        folder: the output folder.
        config: returns the complete config of a trial, for `best.yaml`; by default it has the trial's parameters only.

    Returns:
        the same results, with `files`: `trials.csv`; if the sweep has a metric, `best.yaml`, `history.png` and, if
        trials reported more than once, `curves.png`; with enough trials, `importance.png` and `slices.png`.

    Raises:
        InputError: no trial has finished, or the folder can't be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / "trials.csv"]
        write_if_changed(files[0], results.table().to_csv(lineterminator="\n"))
        best = results.best
        if results.sweep.metric:
            files.append(folder / "best.yaml")
            whole = config(best) if config else OmegaConf.create(best.config)
            head = f"# Trial {best.number} of {results.id}: {results.sweep.metric.name} {best.value:.6g}\n"
            write_if_changed(files[-1], head + OmegaConf.to_yaml(whole))
            for draw in (draw_history, draw_curves, draw_importance, draw_slices):
                figure = draw(results)
                if figure is not None:
                    files.append(folder / f"{draw.__name__.removeprefix('draw_')}.png")
                    _save(figure, files[-1])
    except OSError as error:
        raise InputError(
            f"{folder}: can't be written ({error.strerror}); free some space, or choose another folder"
        ) from error
    return replace(results, files=tuple(files))


def _save(figure: "Figure", path: Path) -> None:
    import matplotlib.pyplot as plt

    with replacing(path, keep_suffix=True) as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)


# --- Plots ------------------------------------------------------------------------------------------------------------


# Optuna's own plots omit trials that were stopped early, and show samples (quantiles, JSON) instead of values for
# distributions that Optuna lacks.


def _shown(results: Results) -> list[TrialRow]:
    """Select the trials with a finite value; for trials stopped early it is the best that they reported."""
    rows = [row for row in results.rows if row.state in _STYLES]
    return [row for row in rows if row.value is not None and math.isfinite(row.value)]


def _varied(results: Results, rows: Sequence[TrialRow]) -> dict[str, list[Any]]:
    """Return the values of each parameter that has more than one; categories as strings."""
    varied = {}
    for parameter in results.sweep.parameters:
        seen = [results.sweep.values(row.config)[parameter.name] for row in rows]
        if len(set(map(as_json, seen))) > 1:
            varied[parameter.name] = [str(value) for value in seen] if "categorical" in parameter.kind else seen
    return varied


def draw_history(results: Results) -> "Figure":
    """Plot the metric of each trial, and the best so far; for trials stopped early, the best that they reported."""
    import matplotlib.pyplot as plt

    from asr_with_nemo.base.plots import spread

    metric, rows = results.sweep.metric, _shown(results)
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for state, (marker, color) in _STYLES.items():
        points = [(row.number, row.value) for row in rows if row.state == state]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, color=color, label=f"{state} ({len(points)})")
    finished = [row for row in rows if row.state == "finished"]
    record = list(itertools.accumulate((row.value for row in finished), min if metric.sign > 0 else max))
    spread(axes, [row.value for row in rows])
    axes.step([row.number for row in finished], record, where="post", color="tab:red", label="best so far", zorder=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="trial", ylabel=metric.name, title=f"{results.sweep.name}: {metric.name} ({metric.goal})")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def draw_curves(results: Results) -> "Figure | None":
    """Plot the metric over the reports of each trial, and where it was stopped; None if none reported twice."""
    import matplotlib.pyplot as plt

    from asr_with_nemo.base.plots import spread

    rows = [row for row in results.rows if row.state in _STYLES and row.history]
    longest = max((len(row.history) for row in rows), default=0)
    if longest < 2:
        return None
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    labelled = set()
    for row in rows:
        marker, color = _STYLES[row.state]
        label = None if row.state in labelled else row.state
        labelled.add(row.state)
        reports = range(1, len(row.history) + 1)
        axes.plot(reports, row.history, color=color, marker=marker, markevery=[-1], alpha=0.7, label=label)
    for bracket in results.sweep.hyperband.brackets if results.sweep.hyperband else ():
        if bracket <= longest:
            axes.axvline(bracket, color="tab:red", lw=1, ls=":", label="bracket" if "bracket" not in labelled else None)
            labelled.add("bracket")
    axes.xaxis.get_major_locator().set_params(integer=True)
    spread(axes, itertools.chain.from_iterable(row.history for row in rows))
    axes.set(xlabel="report", ylabel=results.sweep.metric.name, title=f"{results.sweep.name}: each trial")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def fanova(results: Results, values: Sequence[float] | None = None, seed: int = 0) -> dict[str, float]:
    """Estimate the importance of each parameter that varies: its share of the variance that single parameters explain.

    A forest of regression trees is fitted to the trials. What a parameter explains by itself, averaged over all the
    others, is its main effect; the main effects are divided by their sum, so that the shares add up to 1 even if they
    explain little of the metric, or only noise. Trials that were stopped early count with the best value that they
    reported: they show which parameters are bad.
    Source: F. Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.

    Args:
        results: the trials.
        values: of the metric, in place of those of the trials that `results` shows.
        seed: of the forest.

    Returns:
        parameter → share, the largest first; empty with under four trials, or if all have the same value.
    """
    rows = _shown(results)
    values = [row.value for row in rows] if values is None else values
    varied = _varied(results, rows)
    if len(rows) < 4 or not varied or len(set(values)) < 2:
        return {}
    distributions: dict[str, BaseDistribution] = {}
    for parameter in results.sweep.parameters:
        seen = varied.get(parameter.name)
        if seen and isinstance(seen[0], str):
            distributions[parameter.name] = CategoricalDistribution(list(dict.fromkeys(seen)))
        elif seen:
            distributions[parameter.name] = FloatDistribution(
                min(seen), max(seen), log=_is_logarithmic(parameter, seen)
            )
    study = optuna.create_study()
    for place, value in enumerate(values):
        params = {name: seen[place] for name, seen in varied.items()}
        study.add_trial(optuna.create_trial(value=value, params=params, distributions=distributions))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def draw_importance(results: Results) -> "Figure | None":
    """Plot the importance of each parameter (`fanova`); None with under four trials."""
    import matplotlib.pyplot as plt

    shares = fanova(results)
    if not shares:
        return None
    names = list(reversed(shares))
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.4 * len(names)), layout="constrained")
    bars = axes.barh(names, [shares[name] for name in names], color="tab:blue")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlim=(0, 1.1), xlabel="importance (fANOVA, the shares add up to 1)")
    axes.set_title(f"{results.sweep.name}: parameter importance for {results.sweep.metric.name}", loc="left")
    return figure


def draw_slices(results: Results) -> "Figure | None":
    """Plot the metric over each parameter; None if no parameter has more than one value."""
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    from asr_with_nemo.base.plots import spread

    rows = _shown(results)
    varied = _varied(results, rows)
    if not varied:
        return None
    columns = min(3, len(varied))
    lines = math.ceil(len(varied) / columns)
    size = (3.5 * columns + 1, 3 * lines + 0.5)
    figure, grid = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axes in grid.flat[len(varied) :]:
        axes.set_visible(False)
    shown = [parameter for parameter in results.sweep.parameters if parameter.name in varied]
    for axes, parameter in zip(grid.flat, shown, strict=False):
        seen = varied[parameter.name]
        if isinstance(seen[0], str):  # in the order of the file
            names = [str(value) for value in parameter.spec["values"]]
            axes.set_xticks(range(len(names)), names)
            seen = [names.index(value) for value in seen]
        for state, (marker, color) in _STYLES.items():
            points = [(x, row.value) for x, row in zip(seen, rows, strict=True) if row.state == state]
            if points:
                axes.scatter(*zip(*points, strict=True), marker=marker, color=color, alpha=0.7, label=state)
        if _is_logarithmic(parameter, seen):
            axes.set_xscale("log")
            subs = (1, 3) if max(seen) < 300 * min(seen) else (1,)
            axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=6))
            axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        spread(axes, [row.value for row in rows])
        axes.set_xlabel(parameter.name)
        axes.grid(alpha=0.3)
    for axes in grid[:, 0]:
        axes.set_ylabel(results.sweep.metric.name)
    grid[0, 0].legend()
    return figure


def _is_logarithmic(parameter: Parameter, seen: Sequence[float]) -> bool:
    return "log" in parameter.kind and min(seen) > 0
