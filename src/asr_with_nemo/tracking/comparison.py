"""Compare runs: differing config values, metrics at the best epoch, training curves, parallel coordinates.

The calls and results are the same for runs from W&B's server and for offline runs.
"""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import LogLocator, MaxNLocator

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.base.plots import spread
from asr_with_nemo.base.values import is_number
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import versions
from asr_with_nemo.tracking.runs import CURVES, METRIC, Run, at_best, differing_settings, run_labels, runs_having

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURED = 10
"""How many runs get a colour and a name in a figure; the others are grey."""
AXES = 8
"""Maximum number of config keys in parallel coordinates."""


# --- Tables -----------------------------------------------------------------------------------------------------------


def table(runs: Sequence[Run], metric: str = METRIC, maximize: bool = False) -> pd.DataFrame:
    """Return `at_best` followed by the differing config values.

    Raises:
        InputError: no run has the metric.
    """
    best = at_best(runs, metric, maximize)
    differences = differing_settings(runs_having(runs, metric))
    # A config key and a metric may have the same name.
    differences.columns = [f"config.{key}" if key in best else key for key in differences]
    return best.join(differences)


def _by_epoch(runs: Sequence[Run]) -> pd.DataFrame:
    """Return all metrics of all runs, a row per run and epoch (or step, for runs that log no epochs)."""
    frames = {run.label: run.epochs.rename_axis("epoch") for run in runs if not run.epochs.empty}
    whole = pd.concat(frames, names=["run"]) if frames else pd.DataFrame()
    return whole[[name for name in whole if not name.startswith("_")]]


def lineage(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the input and output artifacts of each run: a row per run, artifacts as NAME:vN.

    Raises:
        InputError: the request to W&B's server failed.
    """
    found = versions.lineage(run.id for run in runs)
    rows = [[", ".join(names) for names in found[run.id]] for run in runs]
    return pd.DataFrame(rows, run_labels(runs), ["inputs", "outputs"])


# --- Pictures ---------------------------------------------------------------------------------------------------------


def draw_curves(runs: Sequence[Run], metrics: Sequence[str] = (), by: str = METRIC, maximize: bool = False) -> "Figure":
    """Draw metrics over the epochs, one panel per metric with all runs; a dot marks the best epoch by `by`.

    Args:
        runs: the best 10 by `by` get a colour and a name.
        metrics: by default those of `CURVES` that the runs have.
        by, maximize: the ranking of the runs.

    Raises:
        InputError: no run has one of the metrics.
    """
    for metric in metrics:
        runs_having(runs, metric)
    runs = runs_having(runs, by)
    metrics = list(metrics) or [name for name in CURVES if any(name in run.metrics for run in runs)] or [by]
    place = {label: number for number, label in enumerate(at_best(runs, by, maximize).index)}
    ranked = sorted(runs, key=lambda run: place[run.label])
    columns = min(2, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    size = (4.5 * columns, 2.6 * lines + 0.25 * math.ceil(min(len(runs), _COLOURED) / columns) + 0.2)
    figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in panels.flat[len(metrics) :]:
        axes.set_visible(False)
    for axes, metric in zip(panels.flat, metrics, strict=False):
        _draw_metric(axes, ranked, metric, by, maximize)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    for axes in panels.flat[1:]:  # a run may lack a metric
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
    return figure


def _draw_metric(axes: "Axes", ranked: Sequence[Run], metric: str, by: str, maximize: bool) -> None:
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    drawn, axis = [], "epoch"
    for number, run in enumerate(ranked):
        if metric not in run.metrics:
            continue
        points = run.epochs[metric].replace([math.inf, -math.inf], math.nan).dropna()
        is_running = run.state == "running"
        if number < _COLOURED:
            style = {"color": colours[number % len(colours)], "lw": 1.6, "zorder": 3 + _COLOURED - number}
            style["label"] = f"{run.label} (running)" if is_running else run.label
        else:
            style = {"color": "0.6", "lw": 0.6, "zorder": 1}
            style["label"] = f"{len(ranked) - _COLOURED} more" if number == _COLOURED else None
        style["marker"] = "." if len(points) < 30 else None
        axes.plot(points.index, points, ls="--" if is_running else "-", **style)
        best = run.best_epoch(by, maximize)
        if number < _COLOURED and best in points.index:
            axes.plot(best, points[best], "o", ms=5, color=style["color"], zorder=20)
        if len(points):
            drawn += [points.min(), points.max()]
            axis = points.index.name.removeprefix("_") if axis == "epoch" else axis
    if "loss" in metric:
        spread(axes, drawn)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set(title=metric, xlabel=axis)
    axes.grid(alpha=0.3)


def draw_parallel(
    runs: Sequence[Run], metric: str = METRIC, maximize: bool = False, keys: Sequence[str] = ()
) -> "Figure | None":
    """Draw parallel coordinates: a vertical axis per config key, the last one for the metric, and a line per run.

    The metric sets a line's colour. The line of a run without a value for a key passes below the key's axis.

    Args:
        runs: those that have the metric are drawn.
        metric, maximize: as for `at_best`.
        keys: of the config, by default the first `AXES` that differ, numbers before texts.

    Returns:
        None if fewer than two runs have the metric, or their configs don't differ.

    Raises:
        InputError: no run has the metric, or the configs don't differ in a key.
    """
    best = at_best(runs, metric, maximize)[metric].dropna()
    chosen = [run for run in runs if run.label in best.index and math.isfinite(best[run.label])]
    differences = differing_settings(chosen)
    for key in keys:
        if key not in differences:
            raise InputError(f"the runs don't differ in {key!r}; keys that differ: {', '.join(differences) or 'none'}")
    is_text = {key: any(isinstance(value, str) for value in differences[key]) for key in differences}
    keys = list(keys) or sorted(differences, key=is_text.__getitem__)[:AXES]
    if len(chosen) < 2 or not keys:
        return None
    values = best[differences.index].astype(float)
    scales = [_Scale(differences[key].tolist()) for key in keys] + [_Scale(values.tolist())]
    good = values.rank(ascending=maximize, pct=True)
    colours = plt.get_cmap("viridis_r")
    figure, axes = plt.subplots(figsize=(max(5.0, 1.8 * len(scales)), 3.8), layout="constrained")
    for number, label in enumerate(differences.index):
        heights = [scale.heights[number] for scale in scales]
        share = float(good[label])
        alpha = 0.9 if len(chosen) <= 2 * _COLOURED else 0.3 + 0.6 * share
        axes.plot(range(len(scales)), heights, color=colours(share), lw=1 + share, alpha=alpha, zorder=2 + share)
    for place, scale in enumerate(scales):
        axes.axvline(place, color=plt.rcParams["axes.edgecolor"], lw=1, zorder=4)
        for height, text in scale.marks:
            axes.annotate(
                text,
                (place, height),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                zorder=5,
                bbox={"boxstyle": "round,pad=0.1", "fc": plt.rcParams["axes.facecolor"], "ec": "none", "alpha": 0.75},
            )
    axes.set_xticks(range(len(scales)), [*map(_broken, keys), f"{metric}\n(best)"])
    axes.set(xlim=(-0.15, len(scales) - 0.55), yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _broken(key: str) -> str:
    """Return a dotted key broken into short lines, so that the labels of axes don't overlap.

    Example:
        >>> _broken("model.optim.sched.warmup_steps").split("\\n")
        ['model.optim', '.sched', '.warmup_steps']
    """
    lines: list[str] = []
    for part in key.split("."):
        if lines and len(lines[-1]) + len(part) < 13:
            lines[-1] += f".{part}"
        else:
            lines.append(f".{part}" if lines else part)
    return "\n".join(lines)


class _Scale:
    """An axis of parallel coordinates: the height of each value, from 0 to 1, and tick labels.

    The scale is logarithmic for positive numbers that differ by a factor of more than 30. Texts are evenly spaced, and
    None is below all values.
    """

    NOWHERE = -0.12
    FEW = 6  # up to so many different numbers, each has a label

    def __init__(self, values: Sequence[Any]):
        known = [value for value in values if value is not None]
        if all(map(is_number, known)):
            places, marks = self._of_numbers(sorted(set(known)))
        else:
            texts = list(dict.fromkeys(map(str, known)))
            places = {text: number / max(1, len(texts) - 1) for number, text in enumerate(texts)}
            marks = [(height, _short(text)) for text, height in places.items()]
            values = [None if value is None else str(value) for value in values]
        self.heights = [self.NOWHERE if value is None else places[value] for value in values]
        self.marks = marks + ([(self.NOWHERE, "none")] if self.NOWHERE in self.heights else [])

    def _of_numbers(self, numbers: list[float]) -> tuple[dict[float, float], list[tuple[float, str]]]:
        low, high = numbers[0], numbers[-1]
        is_log = low > 0 and high > 30 * low
        ends = (math.log(low), math.log(high)) if is_log else (low, high)

        def height(number: float) -> float:
            return ((math.log(number) if is_log else number) - ends[0]) / (ends[1] - ends[0] or 1)

        marked = numbers
        if len(numbers) > self.FEW:  # the ends, and round numbers between them that are not too close
            locator = LogLocator(subs=(1, 3)) if is_log else MaxNLocator(5)
            between = [float(n) for n in locator.tick_values(low, high) if low < n < high]
            marked = [low, *(number for number in between if 0.07 < height(number) < 0.93), high]
        return {number: height(number) for number in numbers}, [(height(n), f"{n:.3g}") for n in marked]


def _short(text: str, longest: int = 18) -> str:
    """Return the end of a text that is too long for a tick label; the end of a path says more than its start.

    Example:
        >>> _short("/data/corpora/spoken/an4")
        '…orpora/spoken/an4'
    """
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def picture(figure: "Figure", dpi: int = 120) -> bytes:
    """Return a figure as PNG, and close the figure."""
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=dpi)
    plt.close(figure)
    return made.getvalue()


# --- Files ------------------------------------------------------------------------------------------------------------


def write(
    runs: Sequence[Run],
    folder: str | os.PathLike,
    metric: str = METRIC,
    maximize: bool = False,
    curves: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> list[Path]:
    """Write a comparison into a folder: `runs.csv`, `epochs.csv`, `curves.png`, and `parallel.png` if anything differs.

    Args:
        runs: as `read_runs` gives them.
        folder: created if it doesn't exist.
        metric, maximize: the ranking of the runs.
        curves: the metrics to draw.
        keys: of the config, for the parallel coordinates.

    Returns:
        the files.

    Raises:
        InputError: no run has a metric, the configs don't differ in a key, or the folder can't be written.
    """
    folder = Path(folder)
    about = pd.DataFrame(
        [{"id": run.id, "group": run.group, "sweep": run.sweep, "created": run.created} for run in runs],
        index=run_labels(runs),
    )
    contents: dict[str, str | bytes] = {
        "runs.csv": table(runs, metric, maximize).join(about, lsuffix=" (config)").to_csv(lineterminator="\n"),
        "epochs.csv": _by_epoch(runs).to_csv(lineterminator="\n"),
        "curves.png": picture(draw_curves(runs, curves, metric, maximize)),
    }
    parallel = draw_parallel(runs, metric, maximize, keys)
    if parallel is not None:
        contents["parallel.png"] = picture(parallel)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_if_changed(folder / name, content)
    except OSError as error:
        raise InputError(f"{folder}: can't be written ({error.strerror}); choose another --output") from error
    return [folder / name for name in contents]
