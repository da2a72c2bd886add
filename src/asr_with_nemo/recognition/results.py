"""Results files of studies in results/, and the tables made from them."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from asr_with_nemo.base.files import check_output, write_if_changed
from asr_with_nemo.base.machine import code_commit, describe_machine, device_name, package_versions
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import evaluation, wer
from asr_with_nemo.recognition.wer import mean_of_seeds, total_errors

if TYPE_CHECKING:
    import pandas
    from omegaconf import DictConfig, ListConfig

FOLDER = Path("results")
_STUDIES = Path("configs/study.yaml")


def read_results(study: str, folder: Path = FOLDER) -> list[dict]:
    """Read the results files of a study, in the order of the study's runs, then by seed.

    Raises:
        InputError: the study has no results yet.
    """
    return [row for row, _ in _files(study, folder)]


def read_utterances(study: str, folder: Path = FOLDER) -> list[tuple[dict, list[wer.ScoredUtterance]]]:
    """Read the results files of a study as `read_results` does, each with its utterances.

    Raises:
        InputError: the study has no results yet, or one of them lacks its utterances.
    """
    return [(row, evaluation.read_rows(path)) for row, path in _files(study, folder)]


def study_differences(study: str, folder: Path = FOLDER) -> list[tuple[dict, wer.Comparison]]:
    """Compare each result of a study with the first one, the first seed of the study's first run.

    Raises:
        InputError: the study or its first run has no results yet, or a result has other utterances or lacks them.
    """
    (first, its_utterances), *others = read_utterances(study, folder)
    name = OmegaConf.load(_STUDIES)[study].runs[0].name
    if first["name"] != name:
        raise InputError(
            f"{folder / study}: lacks the results of {name!r}, the baseline of the comparison; make them with "
            f"scripts/tools/run_study.py {study}"
        )
    return [(row, wer.compare(heard, its_utterances)) for row, heard in others]


def paired_differences(study: str, folder: Path = FOLDER, confidence: float = 0.95) -> "pandas.DataFrame":
    """Compare each run of a study with its first one, over the seeds that both have.

    Args:
        study: the study's name.
        folder: of the results.
        confidence: of the intervals (`wer.difference_of_seeds`).

    Returns:
        a row per run: its name, the number of shared `seeds`, the `difference` of the mean WERs with its interval,
        `low` and `high`, and of `each` seed; negative if the run has fewer errors than the first. No rows if there
        are no results that can be compared.

    Raises:
        InputError: the results are not of the same utterances, or one of them lacks them.
    """
    import pandas

    runs: dict[str, dict[int | None, list[wer.ScoredUtterance]]] = {}
    if any((folder / study).glob("*.json")):
        for row, heard in read_utterances(study, folder):
            runs.setdefault(row["name"], {})[row["seed"]] = heard
    first = OmegaConf.load(_STUDIES)[study].runs[0].name
    base, lines = runs.pop(first, {}), []
    for name, trainings in runs.items():
        shared = [seed for seed in trainings if seed in base]
        if shared:
            sides = [trainings[seed] for seed in shared], [base[seed] for seed in shared]
            difference, (low, high) = wer.difference_of_seeds(*sides, confidence)
            each = [total_errors(one).rate - total_errors(other).rate for one, other in zip(*sides, strict=True)]
            lines.append((name, len(shared), difference, low, high, each))
    return pandas.DataFrame(lines, columns=["run", "seeds", "difference", "low", "high", "each"])


def read_epochs(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """Read the dev scores of a study's trainings, epoch by epoch, as scripts/tools/run_study.py keeps them.

    Returns:
        a row per run, seed and epoch that was validated: `run`, `seed`, `epoch` from 1, `val_wer` and `val_loss`; no
        rows if no training's scores were kept.
    """
    import pandas

    tables = [pandas.read_csv(path) for path in sorted((folder / study).glob("*.epochs.csv"))]
    columns = ["run", "seed", "epoch", "val_wer", "val_loss"]
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=columns)


def learning_curves(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """Tabulate a study whose runs are named by a start and a fraction of the data, as in "from scratch, 10%".

    Returns:
        a row per start and `fraction`: the mean `wer` over the seeds with its 95% interval, `low` and `high`, and the
        WER of `each` seed. All are fractions.

    Raises:
        InputError: the study has no results yet, or one of them lacks its utterances.
    """
    import pandas

    lines = []
    for fraction, starts in _by_start(study, folder).items():
        for start, trainings in starts.items():
            wer, (low, high) = mean_of_seeds(trainings)
            each = [total_errors(heard).rate for heard in trainings]
            lines.append((start, fraction, wer, low, high, each))
    return pandas.DataFrame(lines, columns=["start", "fraction", "wer", "low", "high", "each"])


def gains(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """Subtract the WER of such a study's first start from that of its second one, for each fraction of the data.

    Returns:
        a row per `fraction` for which both starts have the same number of seeds: the `difference` of the means with its
        95% interval, `low` and `high`; negative if the second start is better.

    Raises:
        InputError: as for `learning_curves`.
    """
    import pandas

    lines = []
    for fraction, starts in _by_start(study, folder).items():
        if len({len(trainings) for trainings in starts.values()}) == 1 and len(starts) == 2:
            first, second = starts.values()
            difference, (low, high) = wer.difference_of_seeds(second, first)
            lines.append((fraction, difference, low, high))
    return pandas.DataFrame(lines, columns=["fraction", "difference", "low", "high"])


def _by_start(study: str, folder: Path) -> dict[float, dict[str, list[list[wer.ScoredUtterance]]]]:
    """Group the scored utterances of each seed: fraction of the data → start → seeds."""
    groups: dict[float, dict[str, list[list[wer.ScoredUtterance]]]] = {}
    for row, heard in read_utterances(study, folder):
        start, comma, _ = row["name"].rpartition(", ")
        if comma:
            groups.setdefault(row["training"]["fraction"], {}).setdefault(start, []).append(heard)
    return groups


def _files(study: str, folder: Path) -> list[tuple[dict, Path]]:
    paths = sorted((folder / study).glob("*.json"))
    if not paths:
        raise InputError(f"{folder / study}: has no results; make them with scripts/tools/run_study.py {study}")
    order = [run["name"] for run in OmegaConf.load(_STUDIES)[study].runs]

    def place(item: tuple[dict, Path]) -> tuple:
        row, _ = item
        # Runs that the study no longer names come last.
        return (
            order.index(row["name"]) if row["name"] in order else len(order),
            row["decoder"] != "greedy",
            row["decoder"],  # the lexicon alone, then with a language model
            row["seed"] or 0,
        )

    return sorted(((json.loads(path.read_text(encoding="utf-8")), path) for path in paths), key=place)


def _names(row: dict) -> dict[str, str]:
    return {"run": row["name"], "seed": "" if row["seed"] is None else str(row["seed"])}


def table_cells(row: dict) -> dict[str, str]:
    """Format a results file's figures for a table."""
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


def study_table(study: str, folder: Path = FOLDER) -> "pandas.DataFrame":
    """Tabulate a study, a row per run: decoder, WER with counts and interval, CER, speed, weights, time.

    Published results of others come last.
    """
    import pandas

    rows = [_names(row) | table_cells(row) for row in read_results(study, folder)]
    rows += [_published(other) for other in _others(study)]
    return pandas.DataFrame(rows).fillna("").set_index(["run", "seed"])


def _others(study: str) -> "ListConfig":
    return OmegaConf.load(_STUDIES)[study].get("others", [])


def _published(other: "DictConfig") -> dict[str, str]:
    return {"run": other.name, "seed": "", "WER": other.wer, "errors": other.get("errors", "")}


def study_markdown(study: str, folder: Path = FOLDER) -> str:
    """Format a study as Markdown: its table, others' published results, each row's command, machine and versions."""
    rows, plan = read_results(study, folder), OmegaConf.load(_STUDIES)[study]
    cells = [_names(row) | {"corpus, set": f"{row['corpus']}, {row['split']}"} | table_cells(row) for row in rows]
    others = _others(study)
    cells += [_published(other) for other in others]
    lines = [f"## {plan.title}", ""]
    lines += [f"{plan.about}\n"] if "about" in plan else []
    lines += [markdown_table(cells), "", *(f"{other.name}: {other.url}\n" for other in others)]
    commands = dict.fromkeys(row["command"] for row in rows)
    lines += ["Each row's command:", "", "```sh", *commands, "```", ""]
    made = sorted({made_with(row) for row in rows})
    return "\n".join([*lines, *(f"Made with: {line}." for line in made), ""])


# --- Measurements of other kinds --------------------------------------------------------------------------------------


def save_measurement(
    path: str | os.PathLike,
    title: str,
    about: str,
    rows: Sequence[Mapping[str, str]],
    command: str,
    **more: object,
) -> None:
    """Write a script's measurements, for a table of RESULTS.md.

    Args:
        path: results/NAME.json.
        title: title of the table.
        about: description of the measurement, in a sentence or two.
        rows: rows of the table, by the columns' names.
        command: the command that reproduces it.
        more: further entries of the file, which the table doesn't show.

    Raises:
        InputError: the path can't be written.
    """
    check_output(path)
    content = {
        "title": title,
        "about": about,
        "rows": list(rows),
        "command": command,
        "machine": describe_machine(device_name()),
        "versions": package_versions() | {"onnxruntime": metadata.version("onnxruntime")},
        "commit": code_commit(),
        **more,
    }
    write_if_changed(Path(path), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def measurement_markdown(path: Path) -> str:
    """Format a file of `save_measurement` as Markdown."""
    content = json.loads(path.read_text(encoding="utf-8"))
    machine, versions = (
        content["machine"],
        ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
    )
    made = f"{machine['cores']} cores of {machine['device']}, {versions}, commit {content['commit']}"
    lines = [f"## {content['title']}", "", content["about"], "", markdown_table(content["rows"]), ""]
    return "\n".join([*lines, "```sh", content["command"], "```", "", f"Made with: {made}.", ""])


# --- README and model card --------------------------------------------------------------------------------------------


def results_summary(folder: Path = FOLDER) -> str:
    """Format the study `final` in a few columns, as Markdown, with others' published results."""
    rows, plan = read_results("final", folder), OmegaConf.load(_STUDIES).final
    lines = []
    for row in rows:
        cells = table_cells(row)
        seed = "" if row["seed"] is None else f", seed {row['seed']}"
        way = re.match(r"beam, lexicon( \+)?", row["decoder"])
        decoder = "beam, lexicon and language model" if way and way[1] else way[0] if way else row["decoder"]
        line = {"on AN4's test set": f"{row['name']}{seed}", "decoder": decoder}
        lines.append(line | {name: cells[name] for name in ("WER", "errors", "95% interval")})
        if row["training"]:
            lines[-1]["training, two cores"] = f"{cells['minutes']} minutes"
    lines += [
        {"on AN4's test set": f"[{other.name}]({other.url})", "WER": other.wer, "errors": other.get("errors", "")}
        for other in plan.others
    ]
    return markdown_table(lines)


def markdown_table(lines: list[dict[str, str]]) -> str:
    """Format rows as a Markdown table; a cell that a row lacks is empty.

    Example:
        >>> print(markdown_table([{"model": "an4", "WER": "5.0%"}, {"model": "other"}]))
        | model | WER |
        |---|---|
        | an4 | 5.0% |
        | other |  |
    """
    head = list(dict.fromkeys(column for line in lines for column in line))
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*rows, *(f"| {' | '.join(line.get(column, '') for column in head)} |" for line in lines)])


def made_with(row: dict) -> str:
    """Format the precision, machine, versions and commit of a results file."""
    precision = f"trained in {row['training']['precision']}, " if row["training"] else ""
    versions = ", ".join(f"{package} {version}" for package, version in sorted(row["versions"].items()))
    machine = row["machine"]
    return f"{precision}{machine['cores']} cores of {machine['device']}, {versions}, commit {row['commit']}"
