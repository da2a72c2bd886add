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
    order = [run["name"] for run in OmegaConf.to_container(OmegaConf.load(STUDIES))[study]["runs"]]
    return sorted(rows, key=lambda row: (order.index(row["name"]), row["seed"]))


def table(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """A study as a table, a run a row: WER with counts and interval, weights, minutes."""
    import pandas

    rows = [
        {
            "run": row["name"],
            "seed": row["seed"],
            "WER": f"{row['wer']:.1%}",
            "errors": f"{row['errors']} of {row['words']}",
            "95% interval": f"{row['ci95'][0]:.1%} to {row['ci95'][1]:.1%}",
            "CER": f"{row['cer']:.1%}",
            "weights": f"{row['training']['weights'] / 1e6:.2f} M",
            "s an epoch": f"{row['training']['seconds'] / row['training']['epochs']:.0f}",
        }
        for row in read(study, folder)
    ]
    return pandas.DataFrame(rows).set_index(["run", "seed"])


def markdown(study: str, folder: Path = FOLDER) -> str:
    """A study as a Markdown table, with what it was run on and the command of each row."""
    rows = read(study, folder)
    title = OmegaConf.load(STUDIES)[study].title
    head = ["run", "seed", "corpus, set", "WER", "errors", "95% interval", "CER", "weights", "minutes", "command"]
    lines = [f"## {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [
            row["name"],
            str(row["seed"]),
            f"{row['corpus']}, {row['split']}",
            f"{row['wer']:.1%}",
            f"{row['errors']} of {row['words']}",
            f"{row['ci95'][0]:.1%} to {row['ci95'][1]:.1%}",
            f"{row['cer']:.1%}",
            f"{row['training']['weights'] / 1e6:.2f} M",
            f"{row['training']['seconds'] / 60:.1f}",
            f"`{row['command']}`",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    made = sorted(
        {
            f"{row['decoder']} decoding, precision {row['training']['precision']}, {row['machine']['cores']} cores of "
            f"{row['machine']['device']}, torch {row['versions']['torch']}, "
            f"NeMo {row['versions'].get('nemo_toolkit', row['versions'].get('nemo-toolkit'))}, commit {row['commit']}"
            for row in rows
        }
    )
    return "\n".join([*lines, "", *(f"Made with: {line}." for line in made), ""])
