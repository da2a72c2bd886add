#!/usr/bin/env python3
"""Make a report of a project's runs: in W&B with an account, else as an HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo import cli


def main(
    project: cli.Project = None,
    name: cli.Name = "*",
    group: cli.Group = None,
    sweep: cli.Sweep = None,
    tag: cli.Tag = None,
    last: cli.Last = None,
    metric: cli.Metric = "val_wer",
    maximize: cli.Maximize = False,
    table: Annotated[str, typer.Option(help="The table of predictions to show.")] = "predictions",
    output: Annotated[Path, typer.Option(help="The page to write, without an account.")] = Path("runs/report.html"),
) -> None:
    """Make a report of a project's runs: training curves, what differs, sweeps, and a table of predictions.

    With an account it is a W&B Report, and the last line is its address; the same command renews it. With none it is
    one HTML page that holds all its pictures and recordings, and opens without a network.

    Examples:

        python scripts/make_report.py

        python scripts/make_report.py --name "jasper*" --last 10 --output /tmp/report.html
    """
    from asr_with_nemo import comparison, report, tracking

    project = tracking.project(project)
    typer.echo(tracking.describe_mode(tracking.configure_wandb(), project))
    found = comparison.read_runs(project, name, group, sweep, tag, last)
    for place, why in found.skipped:
        typer.echo(f"skipped {place}: {why}", err=True)
    given = {"name": name if name != "*" else None, "group": group, "sweep": sweep, "tag": tag, "last": last}
    choice = ", ".join(f"{key} {value}" for key, value in given.items() if value)
    made = report.Report(project, found.runs, metric, maximize, table, choice)
    typer.echo(f"report: {report.make(made, output)}")


if __name__ == "__main__":
    cli.run(main)
