"""Reading runs with their metrics and configs, from W&B's server or from the files of offline runs."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from asr_with_nemo.base.values import is_number
from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.kept_runs import is_young, kept_files, read_records
from asr_with_nemo.tracking.session import ONLINE, WANDB_FOLDER, configure_wandb, project_name
from asr_with_nemo.tracking.wandb_internals import wandb_api

CURVES = ("train_loss_epoch", "val_loss", "val_wer", "learning_rate")
"""Drawn by themselves where the runs have them."""
PER_PAGE = 200  # runs that the server lists in one answer
METRIC = "val_wer"
"""By which runs are compared, unless another is named."""
TABLE = ".table.json"
"""What the name of a table's file ends in."""


@dataclass
class Run:
    """A run, as far as it goes.

    Attributes:
        id, name, project: W&B's.
        state: running, finished, failed (it ended with an error) or crashed (it has no end, but nothing comes).
        created: when it began, ISO 8601 in UTC.
        place: its `.wandb` file, or its address.
        group, sweep, tags: of W&B, where it has them.
        config: dotted key → value; a list as JSON.
        history: what it logged, a row a step: `_step`, `_runtime` in seconds, and metrics by their dotted names. What
            stands only in the run's summary is in the last row.
        tables: name → the newest table that it logged there: path in its artifact → the file on this machine. Of a run
            on the server, no files.
        label: what it is called beside others: its name, with its id where several have that name.
    """

    id: str
    name: str
    project: str
    state: str
    created: str
    place: str
    group: str | None = None
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    tables: dict[str, dict[str, Path]] = field(default_factory=dict)
    label: str = ""

    @property
    def metrics(self) -> list[str]:
        """The names of the numbers that it logged."""
        names = {name for row in self.history for name in row}
        return sorted(name for name in names if not name.startswith("_") and name != "epoch")

    @property
    def seconds(self) -> float:
        """How long it has run, until its last entry."""
        return max((row.get("_runtime", 0) for row in self.history), default=0)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """The last value of each metric in each epoch; a row an epoch, or a step where the run counts no epochs."""
        frame = pd.DataFrame(self.history)
        axis = "epoch" if "epoch" in frame else "_step"
        return frame.groupby(axis).last() if axis in frame else frame

    def best_epoch(self, metric: str, maximize: bool = False) -> float | None:
        """The first of the epochs (or steps) with its best value; None where it has none."""
        values = self.epochs[metric].dropna() if metric in self.epochs else ()
        if not len(values):
            return None
        return values.idxmax() if maximize else values.idxmin()

    def note(self, rows: Iterable[dict], summary: dict) -> None:
        """Take over what was logged: the numbers, and the names of tables."""
        for row in rows:
            self.history.append(_numbers(row))
            self.tables |= {key.removesuffix("._type"): {} for key, value in row.items() if value == "table-file"}
        known = {name for row in self.history for name in row}
        last = dict(self.history[-1]) if self.history else {"_step": 0}
        ended = {name: value for name, value in _numbers(summary).items() if name not in known}
        if any(not name.startswith("_") for name in ended):
            self.history.append({name: last[name] for name in ("_step", "epoch", "_runtime") if name in last} | ended)

    def go_on(self, later: "Run") -> "Run":
        """The same run with another of its parts: one that was interrupted has a file for each."""
        later.created, later.history = self.created, self.history + later.history
        later.config = self.config | later.config
        later.tables = self.tables | later.tables
        return later


@dataclass
class Found:
    """What `read_runs` has read.

    Attributes:
        runs: the oldest first.
        skipped: file or run, and why it couldn't be read.
    """

    runs: list[Run]
    skipped: list[tuple[str, str]]


def run_labels(runs: Sequence[Run]) -> pd.Index:
    """The labels of runs, as the index of a table."""
    return pd.Index([run.label for run in runs], name="run")


def read_runs(
    project: str | None = None,
    name: str = "*",
    group: str | None = None,
    sweep: str | None = None,
    tag: str | None = None,
    last: int | None = None,
    progress: bool = True,
) -> Found:
    """Read the runs of a project: from W&B's server where it can be used, else from this project's `wandb` folder.

    Args:
        project: by default that of `WANDB_PROJECT`, else the course's.
        name: of the run, with `*` and `?`.
        group: only its runs.
        sweep: only its runs: the id of one of W&B's sweeps, or the group of one that ran offline.
        tag: only runs that have it.
        last: only that many, the youngest.
        progress: show a progress bar.

    Raises:
        InputError: there are no such runs (it lists what there is), or the server refuses.
    """
    mode, project = configure_wandb(), project_name(project)

    def is_wanted(run: Run) -> bool:
        return (
            fnmatchcase(run.name, name)
            and group in (None, run.group)
            and sweep in (None, run.sweep, run.group)
            and (tag is None or tag in run.tags)
        )

    if mode in ONLINE:
        there, found = _from_server(project, is_wanted, last, progress)
    else:
        folder = Path(os.environ["WANDB_DIR"]) / WANDB_FOLDER
        there, found = _from_files(folder, project, is_wanted, last, progress)
    if not found.runs and found.skipped:
        raise InputError(f"project {project}: no run could be read; {found.skipped[0][0]}: {found.skipped[0][1]}")
    if not found.runs:
        given = {"name": name if name != "*" else None, "group": group, "sweep": sweep, "tag": tag}
        asked = " and ".join(f"{key} {value!r}" for key, value in given.items() if value)
        raise InputError(f"no run of project {project} has {asked}; it has {_listed(there)}")
    names = Counter(run.name for run in found.runs)
    for run in found.runs:
        run.label = run.name if names[run.name] == 1 else f"{run.name} ({run.id})"
    return found


def _listed(runs: Sequence[Run]) -> str:
    """What filters could ask for."""
    kinds = {
        "names": [run.name for run in runs],
        "groups": [run.group for run in runs if run.group],
        "sweeps": [run.sweep for run in runs if run.sweep],
        "tags": [tag for run in runs for tag in run.tags],
    }
    parts = []
    for kind, values in kinds.items():
        different = sorted(set(values))
        more = f" and {len(different) - 10} more" if len(different) > 10 else ""
        parts += [f"the {kind} {', '.join(different[:10])}{more}"] if different else []
    return "; ".join(parts)


def _from_files(
    folder: Path, project: str, is_wanted: Callable[[Run], bool], last: int | None, progress: bool
) -> tuple[list[Run], Found]:
    """All runs of the project, and those that are wanted, out of the `.wandb` files of a folder."""
    files = kept_files(folder)
    if not files:
        raise InputError(f"{folder}: holds no run; scripts/train.py makes one, and `wandb login` leads to those online")
    by_id: dict[tuple[str, str], Run] = {}
    skipped = []
    with ThreadPoolExecutor() as pool:
        read = pool.map(_read_file, files)
        for file, run in zip(files, _bar(read, len(files), progress), strict=True):
            if isinstance(run, str):
                skipped.append((os.path.relpath(file), run))
            else:
                known = by_id.get((run.project, run.id))
                by_id[run.project, run.id] = known.go_on(run) if known else run
    there = sorted((run for run in by_id.values() if run.project == project), key=lambda run: run.created)
    if not there:
        projects = sorted({run.project for run in by_id.values()})
        others = (
            f"it holds runs of {', '.join(projects)} (--project)" if projects else f"{skipped[0][0]}: {skipped[0][1]}"
        )
        raise InputError(f"{folder}: holds no run of project {project}; {others}")
    wanted = [run for run in there if is_wanted(run)]
    return there, Found(wanted[-last:] if last else wanted, skipped)


def _read_file(path: Path) -> Run | str:
    """The run of a `.wandb` file, or what is wrong with the file."""
    records, damage = read_records(path)
    if damage:
        return f"the file is corrupt ({damage})"
    given: dict = {}
    config: dict = {}
    summary: dict = {}
    rows = []
    tables = {}
    state = "running" if is_young(path) else "crashed"
    for record in records:
        content = record.get(record["type"], {})
        match record["type"]:
            case "run":
                given |= content
                config |= content.get("config", {}).get("update", {})
            case "config":
                config |= content.get("update", {})
            case "history":
                rows.append(content.get("item", {}))
            case "summary":
                summary |= content.get("update", {})
            case "artifact" if content["type"] == "run_table":
                files = {inside: file for inside, (file, _) in artifacts.staged_files(content).items()}
                tables |= {inside.removesuffix(TABLE): files for inside in files if inside.endswith(TABLE)}
            case "exit":
                state = "failed" if content.get("exit_code") else "finished"
    if not given:
        return "the file holds no run"
    run = Run(
        id=given["run_id"],
        name=given.get("display_name") or given["run_id"],
        project=given.get("project") or "uncategorized",
        state=state,
        created=given.get("start_time", ""),
        place=str(path),
        group=given.get("run_group"),
        sweep=given.get("sweep_id"),
        tags=given.get("tags", []),
        config=_config(config),
    )
    run.note(rows, summary)
    run.tables |= tables
    return run


def _from_server(
    project: str, is_wanted: Callable[[Run], bool], last: int | None, progress: bool
) -> tuple[list[Run], Found]:
    """The runs of the project that were looked at, and those that are wanted, by W&B's public API."""
    import wandb

    there: list[Run] = []
    chosen = []
    skipped = []
    try:
        for entry in wandb_api().runs(project, order="-created_at", per_page=PER_PAGE):
            run = Run(
                id=entry.id,
                name=entry.name,
                project=project,
                state=entry.state,
                created=entry.created_at,
                place=entry.url,
                group=entry.group,
                sweep=entry.sweep_name,
                tags=entry.tags,
            )
            there.append(run)
            if is_wanted(run):
                chosen.append((run, entry))
            if last and len(chosen) == last:
                break
    except (wandb.Error, ValueError) as error:  # the latter for a project that isn't there
        raise InputError(f"W&B: the runs of project {project} can't be listed ({error})") from error
    if not there:
        raise InputError(f"W&B: project {project} has no run; `make sync` sends those that were kept here")

    def fill(run: Run, entry: "wandb.apis.public.Run") -> str | None:
        try:
            run.config = _config(entry.config)
            run.note((_flat(row) for row in entry.scan_history()), _flat(entry.summary_metrics))
        except (wandb.Error, ValueError) as error:
            return str(error)

    runs = []
    with ThreadPoolExecutor() as pool:
        filled = pool.map(fill, *zip(*chosen, strict=True)) if chosen else ()
        for (run, _), why in zip(chosen, _bar(filled, len(chosen), progress), strict=True):
            if why:
                skipped.append((run.place, why))
            else:
                runs.append(run)
    return there, Found(runs[::-1], skipped)


def _bar(items: Iterable, total: int, progress: bool) -> tqdm:
    return tqdm(items, "reading", total, unit="run", delay=1, leave=False, disable=not progress)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested value as dotted name → value; a list that holds no further ones stays as it is."""
    if isinstance(value, dict) and value:
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = enumerate(value)
    else:
        return {prefix.removesuffix("."): value}
    return {key: part for name, item in inner for key, part in _flat(item, f"{prefix}{name}.").items()}


def _config(config: dict) -> dict[str, Any]:
    flat = _flat({key: value for key, value in config.items() if key != "_wandb"})
    return {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in flat.items() if key}


def _numbers(row: dict) -> dict[str, float]:
    """The numbers of a row with dotted names, without those that describe a table, a picture or a sound."""
    media = tuple(key.removesuffix("_type") for key in row if key.endswith("._type"))
    numbers = {}
    for key, value in row.items():
        if value in ("NaN", "Infinity", "-Infinity"):  # as W&B writes them
            value = float(value)
        if is_number(value) and not (media and key.startswith(media)):
            numbers[key] = value
    return numbers


def runs_having(runs: Sequence[Run], metric: str = METRIC) -> list[Run]:
    """The runs that have a metric, and those that are still going, which may come to have it.

    Raises:
        InputError: no run has it; the message lists the metrics that there are.
    """
    there = sorted({name for run in runs for name in run.metrics})
    if metric not in there:
        raise InputError(f"no run has the metric {metric!r}; there are {', '.join(there) or 'none at all'}")
    return [run for run in runs if metric in run.metrics or run.state == "running"]


def differing_settings(runs: Sequence[Run]) -> pd.DataFrame:
    """What differs in the configs: a row a run, a column a dotted key; None where a run doesn't have it.

    A value that a config repeats in several places (`model.dropout`, and the dropout of each block that refers to it)
    has one column, under the shortest key that ends the same. The run's own name, which many configs hold, has none,
    and neither has a section that some runs lack and that is the same in all others.
    """
    columns: dict[str, list] = {}
    known = set()
    keys = {key for run in runs for key in run.config}
    sections = [{_section(key) for key in run.config} for run in runs]
    for key in sorted(keys, key=lambda key: (key.count("."), key)):
        values = [run.config.get(key) for run in runs]
        pattern = (key.rpartition(".")[2], *values)
        is_name = all(value in (None, run.name) for value, run in zip(values, runs, strict=True))
        different = {value for value, there in zip(values, sections, strict=True) if _section(key) in there}
        if len(different) > 1 and pattern not in known and not is_name:
            known.add(pattern)
            columns[key] = values
    frame = pd.DataFrame(columns, index=run_labels(runs), dtype=object)[sorted(columns)]
    return frame.where(frame.notna(), None)


def _section(key: str) -> str:
    """The top of a dotted key; "" for one that stands there by itself."""
    return key.partition(".")[0] if "." in key else ""


def at_best(runs: Sequence[Run], metric: str = METRIC, maximize: bool = False) -> pd.DataFrame:
    """The metrics in the epoch where `metric` was best: a row a run of those `having` it, the best run first.

    Columns: state, the metric, the losses and val_wer where there are any, the best and the last epoch (as they were
    logged: Lightning counts from 0), and seconds.

    Raises:
        InputError: no run has the metric; the message lists those that there are.
    """
    runs = runs_having(runs, metric)
    others = [name for name in CURVES[:3] if name != metric and any(name in run.metrics for run in runs)]
    rows = []
    for run in runs:
        row = {"state": run.state} | dict.fromkeys([metric, *others, "best epoch", "last epoch"], math.nan)
        if not run.epochs.empty:
            row["last epoch"] = run.epochs.index[-1]
        best = run.best_epoch(metric, maximize)
        if best is not None:
            row["best epoch"] = best
            row |= {name: run.epochs.loc[best].get(name, math.nan) for name in (metric, *others)}
        rows.append(row | {"seconds": round(run.seconds, 1)})
    frame = pd.DataFrame(rows, index=run_labels(runs))
    whole = ["best epoch", "last epoch"]
    if (frame[whole].dropna() % 1 == 0).all(axis=None):
        frame[whole] = frame[whole].astype("Int64")
    return frame.sort_values(metric, ascending=not maximize, kind="stable")
