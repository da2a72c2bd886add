#!/usr/bin/env python3
"""Write RESULTS.md, README.md's table and the model card from the results files."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import typer

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.cli import run
from asr_with_nemo.models.names import ASSETS
from asr_with_nemo.recognition.model_card import model_card
from asr_with_nemo.recognition.results import markdown_table, measurement_markdown, results_summary, study_markdown

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Results

Made by `python scripts/tools/make_results.py` from the files in `results/`, which
`python scripts/tools/run_study.py STUDY` makes.
Choices are made on dev (100 utterances of 8 speakers that training doesn't hear); the interval is a 95% bootstrap over
utterances. Minutes are those of training alone, on the machine that is named; other work ran beside some of them.
"""
START, END = "<!-- made by scripts/tools/make_results.py -->", "<!-- until here -->"
"""Around the table in README.md."""
GPU = "gpu"
"""The folder of results/ with what scripts/tools/check_gpu.py found."""


GPU_HEAD = """## Checks on a GPU: what failed

The sections below have what each check measured, at its own commit. This table has every part of them that failed or
wasn't finished in one, and where it was measured otherwise; what was measured nowhere hasn't run on a GPU to its end.
"""


def gpu_failures(paths: Sequence[Path]) -> str:
    """Format as Markdown what failed on a GPU, and whether another check measured it."""
    measured: dict[str, list[str]] = defaultdict(list)
    failed: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found, name = json.loads(path.read_text(encoding="utf-8")), path.stem.replace("_", " ")
        for part, about in found.items():
            said = part.replace("_", " ")
            if part == "epochs" and isinstance(about, list):
                failed["recipe"].append(f"{name} (cut off after epoch {about[-1]['epoch']})")
            elif isinstance(about, dict) and part != "machine":
                whole = "failed" in about
                (failed if whole else measured)[said].append(name)
                for key, entry in ({} if whole else about).items():
                    if isinstance(entry, dict):
                        has_failed = "failed" in entry or any(
                            "failed" in one for one in (entry.get("batches") or {}).values()
                        )
                        (failed if has_failed else measured)[f"{said}: {key}"].append(name)
    rows = [
        {"": part, "failed in": "; ".join(names), "measured in": "; ".join(measured[part]) or "nowhere"}
        for part, names in failed.items()
    ]
    return f"{GPU_HEAD}\n{markdown_table(rows)}\n"


def gpu_markdown(path: Path) -> str:
    """Format a file of `scripts/tools/check_gpu.py` as Markdown, failures included."""
    found = json.loads(path.read_text(encoding="utf-8"))
    card = found.get("card") or found.get("machine", {}).get("machine", {}).get("device", "")
    lines = [f"## A check on a GPU: {path.stem.replace('_', ' ')}", ""]
    for part, about in found.items():
        if not isinstance(about, dict) or part == "machine":
            continue
        lines += [f"{part.replace('_', ' ')}: {about['failed']}" if "failed" in about else f"{part.replace('_', ' ')}:"]
        lines += ["", *_rows(about), ""]
    if "epochs" in found and isinstance(found["epochs"], list):  # a training that was cut off
        lines += [f"The recipe was {found['ended']}.", "", markdown_table([_said(row) for row in found["epochs"]]), ""]
    made = ", ".join(filter(None, [card, f"commit {found['commit']}"]))
    versions = ", ".join(f"{name} {version}" for name, version in found.get("machine", {}).get("versions", {}).items())
    return "\n".join([*lines, "```sh", found["command"], "```", "", f"Made with: {made}. {versions}".strip(), ""])


def _rows(about: dict) -> list[str]:
    """A table of the entries of a part that have figures, below the names of what they are about."""
    rows = []
    for name, entry in about.items():
        entries = {name: entry}
        if isinstance(entry, dict) and entry and all(isinstance(one, dict) for one in entry.values()):
            entries = {f"{name}, {key}": one for key, one in entry.items()}
        elif isinstance(entry, dict) and isinstance(entry.get("batches"), dict):
            entries = {f"{name}, batch {key}": one for key, one in entry["batches"].items()}
        rows += [{"": key, **_said(one)} for key, one in entries.items() if isinstance(one, dict)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [markdown_table([{column: row.get(column, "") for column in columns} for row in rows])] if rows else []


def _said(entry: dict) -> dict[str, str]:
    """The figures of an entry, for a row."""
    said = {}
    for name, value in entry.items():
        if isinstance(value, list):
            value = f"{value[0]:.4g} … {value[-1]:.4g}" if len(value) > 6 else ", ".join(f"{one:.4g}" for one in value)
        said[name.replace("_", " ")] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return said


def main() -> None:
    """Write RESULTS.md, README.md's short table, and the card of the model that ships.

    RESULTS.md has a table per study and per measurement in results/.
    """
    os.chdir(ROOT)  # the paths in the package are those of the course's folder
    studies = sorted(path.name for path in (ROOT / "results").iterdir() if path.is_dir() and path.name != GPU)
    parts = [HEAD, *(study_markdown(study, ROOT / "results") for study in studies)]
    parts += [measurement_markdown(path) for path in sorted((ROOT / "results").glob("*.json"))]
    of_gpus = sorted((ROOT / "results" / GPU).glob("*.json"))
    parts += [gpu_failures(of_gpus), *map(gpu_markdown, of_gpus)]
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
