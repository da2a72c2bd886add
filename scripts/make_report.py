#!/usr/bin/env python3
"""Make a report of a project's runs: in W&B if online, else as an HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import Group, Last, Maximize, Metric, Name, Project, Sweep, Tag, run


def main(
    project: Project = None,
    name: Name = "*",
    group: Group = None,
    sweep: Sweep = None,
    tag: Tag = None,
    last: Last = None,
    metric: Metric = "val_wer",
    maximize: Maximize = False,
    table: Annotated[str, typer.Option(help="The table of predictions to show.")] = "predictions",
    output: Annotated[Path, typer.Option(help="The page to write, if offline.")] = Path("runs/report.html"),
) -> None:
    """Make a report of a project's runs: training curves, differing config values, sweeps, a table of predictions.

    If online, it is a W&B Report, and the last line is its URL; the same command updates it. Otherwise it is one HTML
    page with its pictures and recordings embedded, which opens without a network.

    Examples:

        python scripts/make_report.py

        python scripts/make_report.py --name "jasper*" --last 10 --output /tmp/report.html
    """
    from asr_with_nemo.tracking.report import RunReport, make_report
    from asr_with_nemo.tracking.runs import read_runs
    from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name

    project = project_name(project)
    typer.echo(describe_mode(configure_wandb(), project))
    found = read_runs(project, name, group, sweep, tag, last)
    for place, why in found.skipped:
        typer.echo(f"skipped {place}: {why}", err=True)
    given = {"name": name if name != "*" else None, "group": group, "sweep": sweep, "tag": tag, "last": last}
    choice = ", ".join(f"{key} {value}" for key, value in given.items() if value)
    made = RunReport(project, found.runs, metric, maximize, table, choice)
    typer.echo(f"report: {make_report(made, output)}")


if __name__ == "__main__":
    run(main)
