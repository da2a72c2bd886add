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
    # What the study no longer names comes last.
    return sorted(rows, key=lambda row: (order.index(row["name"]) if row["name"] in order else len(order), row["seed"]))


def _cells(row: dict) -> dict[str, str]:
    low, high = row["ci95"]
    training = row["training"]
    return {
        "WER": f"{row['wer']:.1%}",
        "errors": f"{row['errors']} of {row['words']}",
        "95% interval": f"{low:.1%} to {high:.1%}",
        "CER": f"{row['cer']:.1%}",
        "weights": f"{training['weights'] / 1e6:.2f} M",
        "s an epoch": f"{training['seconds'] / training['epochs']:.0f}",
        "minutes": f"{training['seconds'] / 60:.1f}",
    }


def table(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """A study as a table, a run a row: WER with counts and interval, CER, weights, time."""
    import pandas

    rows = [{"run": row["name"], "seed": row["seed"]} | _cells(row) for row in read(study, folder)]
    return pandas.DataFrame(rows).set_index(["run", "seed"])


def markdown(study: str, folder: Path = FOLDER) -> str:
    """A study as a Markdown table, with what it was run on and the command of each row."""
    rows = read(study, folder)
    table = [
        {"run": row["name"], "seed": str(row["seed"]), "corpus, set": f"{row['corpus']}, {row['split']}"}
        | _cells(row)
        | {"command": f"`{row['command']}`"}
        for row in rows
    ]
    head = list(table[0])
    lines = [f"## {OmegaConf.load(STUDIES)[study].title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cells.values())} |" for cells in table]
    made = sorted(
        {
            f"{row['decoder']} decoding, precision {row['training']['precision']}, {row['machine']['cores']} cores of "
            f"{row['machine']['device']}, torch {row['versions']['torch']}, "
            f"NeMo {row['versions']['nemo_toolkit']}, commit {row['commit']}"
            for row in rows
        }
    )
    return "\n".join([*lines, "", *(f"Made with: {line}." for line in made), ""])
