"""Report of a project's runs: training curves, sweeps, predictions. A W&B Report if online, else one HTML page.

The page embeds its pictures and recordings, so that it opens anywhere without a network.
"""

import base64
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from markupsafe import Markup

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.base.html import DARK, ENVIRONMENT, LIGHT, STYLE, html_table
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import comparison, explore
from asr_with_nemo.tracking.runs import CURVES, METRIC, Run, at_best, differing_settings, runs_having
from asr_with_nemo.tracking.session import ONLINE, configure_wandb
from asr_with_nemo.tracking.wandb_internals import wandb_api

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    from matplotlib.figure import Figure

TABLE = "predictions"
"""Name of the table of predictions that trainings log."""
_SWEEP_RUNS = 3
"""A group of at least this many runs with differing configs counts as a sweep."""
_PAGE = 10  # rows of a table
_LONGEST = 128  # characters of a title in W&B
_WIDE, _TALL = 24, 10  # of a panel, in the units of W&B's grid, which is 24 wide


@dataclass
class RunReport:
    """The content of a report.

    Attributes:
        project: W&B's.
        runs: the runs to compare.
        metric, maximize: the ranking of the runs.
        table: the name of the table to show.
        choice: the filters of the runs, for the title; "" for all runs of the project, in W&B also later ones.
    """

    project: str
    runs: Sequence[Run]
    metric: str = METRIC
    maximize: bool = False
    table: str = TABLE
    choice: str = ""

    @property
    def title(self) -> str:
        return f"Runs of {self.project}" + (f": {self.choice}" if self.choice else "")

    @property
    def summary(self) -> str:
        """The number of runs, and the best one."""
        best = at_best(self.runs, self.metric, self.maximize)
        running = sum(run.state == "running" for run in self.runs)
        still = f", {running} of them still running" if running else ""
        value, epoch = best.iloc[0][[self.metric, "best epoch"]]
        if value != value:
            return f"{len(best)} runs{still}. None of them has a {self.metric} that is a number."
        return f"{len(best)} runs{still}. The best, {best.index[0]}, has {self.metric} {value:.4g} in epoch {epoch:g}."

    @property
    def curves(self) -> list[str]:
        """The metrics to draw."""
        return [name for name in CURVES if any(name in run.metrics for run in self.runs)] or [self.metric]

    @property
    def sweeps(self) -> dict[str, list[Run]]:
        """The runs of each sweep or group; all runs together if there is none."""
        groups: dict[str, list[Run]] = {}
        for run in self.runs:
            if self.metric in run.metrics and (run.sweep or run.group):
                name = f"Sweep {run.sweep}" if run.sweep else f"Group {run.group}"
                groups.setdefault(name, []).append(run)
        sweeps = {
            name: runs
            for name, runs in groups.items()
            if len(runs) >= _SWEEP_RUNS and not differing_settings(runs).empty
        }
        return sweeps or {"Configs": [run for run in self.runs if self.metric in run.metrics]}


def make_report(report: RunReport, output: str | os.PathLike) -> str:
    """Make a report: in W&B if online, else as an HTML page.

    Args:
        report: its content.
        output: the page to write. An existing page, or a report of the same title in W&B, is replaced.

    Returns:
        the report's URL, or the page's path.

    Raises:
        InputError: no run has the metric, the request to W&B's server failed, or the page can't be written.
    """
    runs_having(report.runs, report.metric)
    if configure_wandb() in ONLINE:
        return publish(report)
    output = Path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(output, page(report))
    except OSError as error:
        raise InputError(f"{output}: can't be written ({error.strerror}); choose another --output") from error
    return str(output)


# --- The page ---------------------------------------------------------------------------------------------------------


def page(report: RunReport) -> str:
    """Return the report as one HTML page, for large and small screens, light and dark."""
    curves = [_picture(report, _curve_text(report, name), _draw_curve, name) for name in report.curves]
    sweeps = []
    for name, runs in report.sweeps.items():
        text = f"{name}: parallel coordinates of {len(runs)} runs, from config values to the best {report.metric}."
        picture = _picture(report, text, _draw_parallel, runs)
        if picture:
            sweeps.append({"name": name, "picture": picture, "table": _browse(report, runs)})
    return ENVIRONMENT.get_template("runs_report.html").render(
        report=report,
        made=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        runs=_browse(report, report.runs),
        curves=curves,
        sweeps=sweeps,
        predictions=_predictions(report),
        style=STYLE,
    )


def _draw_curve(report: RunReport, metric: str) -> "Figure":
    return comparison.draw_curves(report.runs, [metric], report.metric, report.maximize)


def _draw_parallel(report: RunReport, runs: Sequence[Run]) -> "Figure | None":
    return comparison.draw_parallel(runs, report.metric, report.maximize)


def _curve_text(report: RunReport, metric: str) -> str:
    ends = {run.label: run.epochs[metric].dropna() for run in report.runs if metric in run.metrics}
    said = [f"{label} ends at {values.iloc[-1]:.3g}" for label, values in ends.items() if len(values)]
    more = f", and {len(said) - 3} more" if len(said) > 3 else ""
    return f"{metric} over the epochs: {', '.join(said[:3])}{more}."


def _picture(report: RunReport, text: str, draw, *arguments) -> Markup | None:
    """Return a figure as a light and a dark picture, of which the browser shows one; None if there is no figure."""
    sources = {}
    for background, ink in ((LIGHT, "#1b1d21"), (DARK, "#e4e6ea")):
        backgrounds = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), background)
        inks = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
        shape = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
        with plt.rc_context(backgrounds | inks | shape):
            figure = draw(report, *arguments)
            if figure is None:
                return None
            width = round(figure.get_figwidth() * 100)
            sources[background] = base64.b64encode(comparison.picture(figure, dpi=160)).decode()
    return Markup(
        '<picture><source media="(prefers-color-scheme: dark)" srcset="data:image/png;base64,{dark}">'
        '<img src="data:image/png;base64,{light}" alt="{text}" width="{width}"></picture>'
    ).format(dark=sources[DARK], light=sources[LIGHT], text=text, width=width)


def _browse(report: RunReport, runs: Sequence[Run]) -> Markup:
    frame = comparison.table(runs, report.metric, report.maximize).reset_index()
    rows = [
        {name: _short(value) for name, value in zip(frame, values, strict=True)}
        for values in frame.itertuples(index=False, name=None)
    ]
    return Markup(html_table(rows, _PAGE))


def _short(value: object) -> object:
    """Return a value for a table, numbers with four digits; None for a missing value.

    Example:
        >>> _short(0.123456), _short(float("nan"))
        (0.1235, None)
    """
    if value is None or value != value or str(value) == "<NA>":
        return None
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _predictions(report: RunReport) -> dict | None:
    """Return the newest table of the best run that has logged one, with the run's label and the number of rows."""
    best = list(at_best(report.runs, report.metric, report.maximize).index)
    for run in sorted(report.runs, key=lambda run: best.index(run.label) if run.label in best else len(best)):
        if report.table in run.tables:
            with tempfile.TemporaryDirectory() as folder:
                for path, file in run.tables[report.table].items():  # W&B stores them under other names
                    link = Path(folder) / path
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(file)
                rows = explore.read_table(folder, report.table)
                shown = html_table(rows, _PAGE)
            return {"run": run.label, "rows": len(rows), "table": Markup(shown)}
    return None


# --- W&B's ------------------------------------------------------------------------------------------------------------


def publish(report: RunReport) -> str:
    """Make the report in W&B, or update the one of the same title, and return its URL.

    Raises:
        InputError: the request to W&B's server failed.
    """
    import wandb
    import wandb_workspaces.reports.v2 as wr

    try:
        api = wandb_api()
        entity = api.default_entity
        made = wr.Report(
            project=report.project,
            entity=entity,
            title=report.title[:_LONGEST],
            description=report.summary,
            blocks=_blocks(report, entity),
            width="fluid",
        )
        known = [one.id for one in api.reports(f"{entity}/{report.project}") if one.display_name == made.title]
        made.id = known[0] if known else ""
        made.save()
        return made.url
    except (wandb.Error, ValueError) as error:
        raise InputError(f"W&B: the report can't be made ({error}); try again") from error


def _blocks(report: RunReport, entity: str) -> "list[wr.Block]":
    import wandb_workspaces.reports.v2 as wr

    def grid(runs: Sequence[Run] | None, panels: "list[wr.Panel]") -> wr.PanelGrid:
        filters = "" if runs is None else f"Metric('ID') in {json.dumps([run.id for run in runs])}"
        runset = wr.Runset(entity=entity, project=report.project, filters=filters)
        return wr.PanelGrid(runsets=[runset], panels=panels)

    compared = report.runs if report.choice else None
    half = _WIDE // 2
    curves = [
        wr.LinePlot(
            title=name,
            x="epoch",
            y=[name],
            log_y="loss" in name,
            layout=wr.Layout(x=number % 2 * half, y=number // 2 * _TALL, w=half, h=_TALL),
        )
        for number, name in enumerate(report.curves)
    ]
    comparer = wr.RunComparer(diff_only="split", layout=wr.Layout(w=_WIDE, h=2 * _TALL))
    blocks: list[wr.Block] = [
        wr.P(report.summary),
        wr.H2("Training curves"),
        grid(compared, curves),
        wr.H2("Runs"),
        grid(compared, [comparer]),
    ]
    for name, runs in report.sweeps.items():
        keys = list(differing_settings(runs))[: comparison.AXES]
        if not keys:
            continue
        columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in keys]
        columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(report.metric)))
        panels = [
            wr.ParallelCoordinatesPlot(columns=columns, layout=wr.Layout(w=_WIDE, h=_TALL)),
            wr.ParameterImportancePlot(with_respect_to=report.metric, layout=wr.Layout(y=_TALL, w=_WIDE, h=_TALL)),
        ]
        last = f"Both panels use the last {report.metric} of a run, not its best."
        blocks += [wr.H2(name), wr.P(last), grid(runs, panels)]
    blocks.append(wr.H2("Predictions"))
    with_table = [run for run in report.runs if report.table in run.tables]
    if with_table:
        panel = wr.WeavePanelSummaryTable(table_name=report.table, layout=wr.Layout(w=_WIDE, h=2 * _TALL))
        blocks.append(grid(with_table, [panel]))
    else:
        blocks.append(wr.P(f"None of these runs has logged a table {report.table!r}."))
    return blocks
