#!/usr/bin/env python3
"""Compare the runs of a project: configs, metrics at the best epoch, curves, parallel coordinates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_with_nemo.cli import Group, Last, Maximize, Metric, Name, Project, Sweep, Tag, run

if TYPE_CHECKING:
    import pandas

SHOWN, SIDE_BY_SIDE = 20, 4  # number of best runs in rows and in columns; the files have all


def main(
    project: Project = None,
    name: Name = "*",
    group: Group = None,
    sweep: Sweep = None,
    tag: Tag = None,
    last: Last = None,
    metric: Metric = "val_wer",
    maximize: Maximize = False,
    curve: Annotated[
        list[str] | None,
        typer.Option(help="A metric to draw; may be repeated. Default: losses, WER and learning rate."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="A config key for the parallel coordinates; may be repeated.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for CSV files and pictures.")] = Path("runs/comparison"),
) -> None:
    """Compare the runs of a project: differing config values, metrics at the best epoch, curves.

    If online, the runs come from W&B; otherwise from the folder `wandb` of this project. Tables are printed and written
    as CSV, curves and parallel coordinates as PNG. Unreadable files are named and skipped; running runs are marked.

    Examples:

        python scripts/compare_runs.py --last 5

        python scripts/compare_runs.py --name "jasper*" --metric val_loss

        python scripts/compare_runs.py --sweep sweep_bayes-7f3a --key lr --key model.dropout --output /tmp/sweep
    """
    from asr_with_nemo.tracking import comparison
    from asr_with_nemo.tracking.runs import at_best, differing_settings, read_runs, runs_having
    from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name

    typer.echo(describe_mode(configure_wandb(), project_name(project)))
    found = read_runs(project, name, group, sweep, tag, last)
    for place, why in found.skipped:
        typer.echo(f"skipped {place}: {why}", err=True)
    runs = runs_having(found.runs, metric)
    files = comparison.write(runs, output, metric, maximize, curve or (), key or ())
    best = at_best(runs, metric, maximize)
    _print(f"{len(runs)} runs at their best epoch", best.head(SHOWN))
    differences = differing_settings(runs).reindex(best.index)
    if not differences.empty:
        _print("config values that differ", differences.head(SIDE_BY_SIDE).T)
    if len(runs) < len(found.runs):
        typer.echo(f"{len(found.runs) - len(runs)} more runs have no {metric}")
    for path in files:
        typer.echo(f"wrote {path}")


def _print(title: str, frame: "pandas.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table

    rows = Table(title=title, title_justify="left")
    for column in ("", *frame):
        rows.add_column(column, overflow="fold")
    for label, values in frame.iterrows():
        rows.add_row(label, *map(_text, values))
    Console().print(rows)


def _text(value: object) -> str:
    import pandas

    if pandas.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    run(main)
