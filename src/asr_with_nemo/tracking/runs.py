"""Read runs with their metrics and configs from W&B's server or from the files of offline runs."""

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
"""The metrics that are drawn by default, if the runs have them."""
_PER_PAGE = 200  # runs in one answer of the server
METRIC = "val_wer"
"""The default metric by which runs are compared."""
TABLE = ".table.json"
"""Suffix of a table's file."""


@dataclass
class Run:
    """A run with its config and history, complete or not.

    Attributes:
        id, name, project: W&B's.
        state: running, finished, failed (it ended with an error) or crashed (it stopped without an end).
        created: its start, ISO 8601 in UTC.
        place: its `.wandb` file, or its URL.
        group, sweep, tags: W&B's, if any.
        config: dotted key → value; a list as JSON.
        history: one row per logged step: `_step`, `_runtime` in seconds, and metrics by their dotted names. Values that
            are only in the run's summary are in the last row.
        tables: name → the newest table logged under it: path in its artifact → the file on this machine. Empty for a
            run on the server.
        label: its name, with its id if several runs have that name.
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
        """The names of the logged metrics."""
        names = {name for row in self.history for name in row}
        return sorted(name for name in names if not name.startswith("_") and name != "epoch")

    @property
    def seconds(self) -> float:
        """Its duration up to its last logged step."""
        return max((row.get("_runtime", 0) for row in self.history), default=0)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """The last value of each metric per epoch, one row per epoch, or per step if the run logs no epochs."""
        frame = pd.DataFrame(self.history)
        axis = "epoch" if "epoch" in frame else "_step"
        return frame.groupby(axis).last() if axis in frame else frame

    def best_epoch(self, metric: str, maximize: bool = False) -> float | None:
        """Return the first epoch (or step) with the metric's best value; None if it has no value."""
        values = self.epochs[metric].dropna() if metric in self.epochs else ()
        if not len(values):
            return None
        return values.idxmax() if maximize else values.idxmin()

    def note(self, rows: Iterable[dict], summary: dict) -> None:
        """Add logged rows: their numbers, and the names of tables."""
        for row in rows:
            self.history.append(_numbers(row))
            self.tables |= {key.removesuffix("._type"): {} for key, value in row.items() if value == "table-file"}
        known = {name for row in self.history for name in row}
        last = dict(self.history[-1]) if self.history else {"_step": 0}
        ended = {name: value for name, value in _numbers(summary).items() if name not in known}
        if any(not name.startswith("_") for name in ended):
            self.history.append({name: last[name] for name in ("_step", "epoch", "_runtime") if name in last} | ended)

    def go_on(self, later: "Run") -> "Run":
        """Return this run joined with its later part: an interrupted run has a file per part."""
        later.created, later.history = self.created, self.history + later.history
        later.config = self.config | later.config
        later.tables = self.tables | later.tables
        return later


@dataclass
class Found:
    """The result of `read_runs`.

    Attributes:
        runs: the oldest first.
        skipped: file or run, and the reason why it couldn't be read.
    """

    runs: list[Run]
    skipped: list[tuple[str, str]]


def run_labels(runs: Sequence[Run]) -> pd.Index:
    """Return the labels of runs as the index of a table."""
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
    """Read the runs of a project from W&B's server, or offline from this project's `wandb` folder.

    Args:
        project: by default `WANDB_PROJECT`, else the course's.
        name: pattern of the run's name, with `*` and `?`.
        group: only runs of this group.
        sweep: only runs of this sweep: the id of a W&B sweep, or the group of an offline one.
        tag: only runs with this tag.
        last: only this many, the newest.
        progress: show a progress bar.

    Raises:
        InputError: no run matches (the message lists the available names), or the request to the server failed.
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
        raise InputError(f"project {project}: no run can be read; {found.skipped[0][0]}: {found.skipped[0][1]}")
    if not found.runs:
        given = {"name": name if name != "*" else None, "group": group, "sweep": sweep, "tag": tag}
        asked = " and ".join(f"{key} {value!r}" for key, value in given.items() if value)
        raise InputError(f"no run of project {project} has {asked}; available: {_listed(there)}")
    names = Counter(run.name for run in found.runs)
    for run in found.runs:
        run.label = run.name if names[run.name] == 1 else f"{run.name} ({run.id})"
    return found


def _listed(runs: Sequence[Run]) -> str:
    """Return the values that filters can match."""
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
    """Return all runs of the project, and the matching ones, from the `.wandb` files of a folder."""
    files = kept_files(folder)
    if not files:
        raise InputError(
            f"{folder}: holds no run; make one with scripts/train.py, or run `wandb login` to read online runs"
        )
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
    """Return the run of a `.wandb` file, or a description of the file's error."""
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
    """Return the listed runs of the project, and the matching ones, by W&B's public API."""
    import wandb

    there: list[Run] = []
    chosen = []
    skipped = []
    try:
        for entry in wandb_api().runs(project, order="-created_at", per_page=_PER_PAGE):
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
    except (wandb.Error, ValueError) as error:  # ValueError for an unknown project
        raise InputError(f"W&B: the runs of project {project} can't be listed ({error}); check --project") from error
    if not there:
        raise InputError(f"W&B: project {project} has no run; `make sync` sends offline runs")

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
    # Not for a short reading: in a notebook a bar that has gone leaves an empty line, red as an error.
    return tqdm(items, "reading", total, unit="run", delay=3, leave=False, disable=not progress)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested value as dotted name → value; a list without dicts stays a list."""
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
    """Return the numbers of a row with dotted names, without those that describe a table, picture or audio."""
    media = tuple(key.removesuffix("_type") for key in row if key.endswith("._type"))
    numbers = {}
    for key, value in row.items():
        if value in ("NaN", "Infinity", "-Infinity"):  # as W&B writes them
            value = float(value)
        if is_number(value) and not (media and key.startswith(media)):
            numbers[key] = value
    return numbers


def runs_having(runs: Sequence[Run], metric: str = METRIC) -> list[Run]:
    """Return the runs that have a metric, and running ones, which may log it later.

    Raises:
        InputError: no run has it; the message lists the available metrics.
    """
    there = sorted({name for run in runs for name in run.metrics})
    if metric not in there:
        raise InputError(f"no run has the metric {metric!r}; available: {', '.join(there) or 'none'}")
    return [run for run in runs if metric in run.metrics or run.state == "running"]


def differing_settings(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the config values that differ: a row per run, a column per dotted key, None for a missing key.

    A value that a config repeats (`model.dropout`, and the dropout of each block that refers to it) has one column,
    under the shortest key with the same ending. The run's own name has no column, nor has a section that some runs
    lack and that is equal in all others.

    Example:
        >>> configs = {"a": {"lr": 0.1, "seed": 0}, "b": {"lr": 0.2, "seed": 0}}
        >>> runs = [Run(n, n, "ASR", "finished", "", "", config=c, label=n) for n, c in configs.items()]
        >>> differing_settings(runs)["lr"].to_dict()
        {'a': 0.1, 'b': 0.2}
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
    """Return the first part of a dotted key; "" for a key without dots."""
    return key.partition(".")[0] if "." in key else ""


def at_best(runs: Sequence[Run], metric: str = METRIC, maximize: bool = False) -> pd.DataFrame:
    """Return the metrics at the best epoch by `metric`: a row per run of `runs_having` it, the best run first.

    Columns: state, the metric, the losses and val_wer if logged, the best and the last epoch (as logged: Lightning
    counts from 0), and seconds.

    Raises:
        InputError: no run has the metric; the message lists the available ones.
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
