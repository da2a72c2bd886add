"""The results files that runs leave in results/, and the tables that are made of them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    import pandas

FOLDER = Path("results")
STUDIES = Path("configs/study.yaml")


def read(study: str, folder: Path = FOLDER) -> list[dict]:
    """The results files of a study, in the order in which the study names its runs, then by seed.

    Raises:
        InputError: the study has none yet.
    """
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / study).glob("*.json"))]
    if not rows:
        raise InputError(f"{folder / study}: holds no results; make them with scripts/run_study.py {study}")
    order = [run["name"] for run in OmegaConf.load(STUDIES)[study].runs]

    def place(row: dict) -> tuple:
        # What the study no longer names comes last.
        return (
            order.index(row["name"]) if row["name"] in order else len(order),
            row["decoder"] != "greedy",
            row["seed"] or 0,
        )

    return sorted(rows, key=place)


def _names(row: dict) -> dict[str, str]:
    return {"run": row["name"], "seed": "" if row["seed"] is None else str(row["seed"])}


def _cells(row: dict) -> dict[str, str]:
    low, high = row["ci95"]
    training = row["training"]
    cells = {
        "decoder": row["decoder"],
        "WER": f"{row['wer']:.1%}",
        "errors": f"{row['errors']} of {row['words']}",
        "95% interval": f"{low:.1%} to {high:.1%}",
        "CER": f"{row['cer']:.1%}",
        "RTFx": f"{row['rtfx']:.0f}",
    }
    if training:
        cells["weights"] = f"{training['weights'] / 1e6:.2f} M"
        cells["s an epoch"] = f"{training['seconds'] / training['epochs']:.0f}"
        cells["minutes"] = f"{training['seconds'] / 60:.1f}"
    return cells


def table(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """A study as a table, a run a row: decoder, WER with counts and interval, CER, speed, weights, time."""
    import pandas

    rows = [_names(row) | _cells(row) for row in read(study, folder)]
    return pandas.DataFrame(rows).fillna("").set_index(["run", "seed"])


def markdown(study: str, folder: Path = FOLDER) -> str:
    """A study as Markdown: its table, what others published, what it was run on, and the command of each row."""
    rows, plan = read(study, folder), OmegaConf.load(STUDIES)[study]
    cells = [_names(row) | {"corpus, set": f"{row['corpus']}, {row['split']}"} | _cells(row) for row in rows]
    others = plan.get("others", [])
    cells += [{"run": other.name, "WER": other.wer, "errors": other.get("errors", "")} for other in others]
    head = list(dict.fromkeys(column for line in cells for column in line))
    lines = [f"## {plan.title}", ""]
    lines += [f"{plan.about}\n"] if "about" in plan else []
    lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(line.get(column, '') for column in head)} |" for line in cells]
    lines += ["", *(f"{other.name}: {other.source}\n" for other in others)]
    commands = dict.fromkeys(row["command"] for row in rows)
    lines += ["Each row's command:", "", "```sh", *commands, "```", ""]
    made = sorted({_made_with(row) for row in rows})
    return "\n".join([*lines, *(f"Made with: {line}." for line in made), ""])


def _made_with(row: dict) -> str:
    precision = f"trained in {row['training']['precision']}, " if row["training"] else ""
    versions = ", ".join(f"{package} {version}" for package, version in sorted(row["versions"].items()))
    machine = row["machine"]
    return f"{precision}{machine['cores']} cores of {machine['device']}, {versions}, commit {row['commit']}"
