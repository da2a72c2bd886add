#!/usr/bin/env python3
"""Write RESULTS.md, README.md's table and the model card from the results files."""

import os
from pathlib import Path

import typer

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.cli import run
from asr_with_nemo.models.names import ASSETS
from asr_with_nemo.recognition.model_card import model_card
from asr_with_nemo.recognition.results import measurement_markdown, results_summary, study_markdown

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Results

Made by `python scripts/tools/make_results.py` from the files in `results/`, which
`python scripts/tools/run_study.py STUDY` makes.
Choices are made on dev (100 utterances of 8 speakers that training doesn't hear); the interval is a 95% bootstrap over
utterances. Minutes are those of training alone, on the machine that is named; other work ran beside some of them.
"""
START, END = "<!-- made by scripts/tools/make_results.py -->", "<!-- until here -->"
"""Around the table in README.md."""


def main() -> None:
    """Write RESULTS.md, README.md's short table, and the card of the model that ships.

    RESULTS.md has a table per study and per measurement in results/.
    """
    os.chdir(ROOT)  # the paths in the package are those of the course's folder
    studies = sorted(path.name for path in (ROOT / "results").iterdir() if path.is_dir())
    parts = [HEAD, *(study_markdown(study, ROOT / "results") for study in studies)]
    parts += [measurement_markdown(path) for path in sorted((ROOT / "results").glob("*.json"))]
    write_if_changed(ROOT / "RESULTS.md", "\n".join(parts))
    typer.echo(f"RESULTS.md: {', '.join(studies)}")
    if "final" in studies:
        before, start, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(START)
        table = results_summary(ROOT / "results")
        write_if_changed(ROOT / "README.md", f"{before}{start}\n{table}\n{END}{rest.partition(END)[2]}")
        typer.echo("README.md: its table of results")
    if "shipped" in studies:
        path = ASSETS / "README.md"
        write_if_changed(path, model_card(ASSETS, ROOT / "results"))
        typer.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    run(main)
