"""Running a sweep: on W&B's server with an account, by Optuna and any number of worker processes without one.

`run_sweep` is for a sweep file, as in scripts/sweep.py. `sweep`, `agent` and `load_results` are for notebooks: with an
account they call `wandb.sweep`, `wandb.agent` and W&B's API; without one they do the same in a local store.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.online import Function, check_same, create_sweep, results, run_online_trials
from asr_with_nemo.sweeps.results import Results
from asr_with_nemo.sweeps.space import check_sweep
from asr_with_nemo.sweeps.store import TrialStore
from asr_with_nemo.sweeps.trials import as_objective
from asr_with_nemo.sweeps.workers import SweepJob, run_processes, run_trials
from asr_with_nemo.tracking.session import configure_wandb, describe_mode, project_name

FOLDER = Path("runs") / "sweeps"
"""The folder of all sweeps' folders."""


def run_sweep(
    job: SweepJob,
    count: int | None = None,
    workers: int = 1,
    resume: bool = False,
    seed: int | None = None,
    join: str | None = None,
    quiet: bool = False,
) -> Results:
    """Run a sweep and write its results: with an account on W&B's server, without one by Optuna.

    Args:
        job: the sweep, its folder and the objective.
        count: trials; offline, those in the store included. By default the file's run_cap, or the size of the grid.
        workers: offline, the number of processes; one worker runs in this process.
        resume: offline, continue with the trials in the store.
        seed: offline, the same seed samples the same trials, with one worker.
        join: online, run trials of the existing sweep with this id (ENTITY/PROJECT/ID).
        quiet: offline, print only how trials start and end.

    Raises:
        InputError: the store or the objective can't be used, W&B's server refuses, or no trial has finished.
    """
    sweep = job.sweep
    if sweep.note:
        print(sweep.note, flush=True)
    mode = configure_wandb()
    print(describe_mode(mode, project_name(sweep.config.get("project"))), flush=True)
    if mode == "online":
        return _run_online(job, count, join)
    if join:
        raise InputError(
            "--join needs a W&B account; offline, join a sweep by --resume with the same --store or --storage"
        )
    count = sweep.count(count)
    job.callee()  # its errors come before a store is created
    store = job.store(resume)
    if store.stopped:
        store.stop(None)
    print(f"sweep {store.id}: {sweep.method}, up to {count} trials of {job.about}, in {store.place}", flush=True)
    try:
        if workers == 1:
            run_trials(store, job.tracked(), count, seed, quiet)
        else:
            run_processes(job, store, count, workers, seed, quiet)
    except KeyboardInterrupt:
        raise InputError(f"interrupted; the same command with --resume continues {store.place}") from None
    if store.stopped:
        raise InputError(store.stopped)
    with store.locked():  # the last workers of several machines may end at the same time
        return job.write(store.results(), store.folder)


def _run_online(job: SweepJob, count: int | None, join: str | None) -> Results:
    sweep = job.sweep
    project, entity = project_name(sweep.config.get("project")), sweep.config.get("entity")
    if sweep.method != "grid" or count:
        count = sweep.count(count)
    objective = job.callee()
    if join:
        check_same(sweep, join, project, entity)
    sweep_id = join or create_sweep(sweep, project, entity)
    print(f"sweep {sweep_id}; other machines join with --join {sweep_id}", flush=True)
    folder = FOLDER / sweep_id.rpartition("/")[2]
    function = Function(sweep, sweep_id, objective, folder / "trials", logs=job.training is None)
    run_online_trials(sweep_id, function, project, entity, count)
    if function.problem:
        raise InputError(function.problem)
    found = results(sweep_id, project, entity)
    if function.failure and not any(row.state == "finished" for row in found.rows):
        raise InputError(f"sweep {sweep_id}: no trial has finished; the last one failed with: {function.failure}")
    return job.write(found, folder)


# --- For notebooks ----------------------------------------------------------------------------------------------------


def sweep(config: Mapping[str, Any], project: str | None = None, entity: str | None = None) -> str:
    """Create a sweep: by `wandb.sweep`, or without an account in a local store.

    Returns:
        the sweep's id.

    Raises:
        InputError: the config isn't a valid sweep, or W&B's server refuses it.
    """
    given = {key: value for key, value in (("project", project), ("entity", entity)) if value}
    checked = check_sweep({**config, **given}, "sweep")
    if configure_wandb() == "online":
        return create_sweep(checked, project_name(project), entity)
    name = re.sub(r"[^\w.-]+", "-", checked.name)
    code = secrets.token_hex(4)
    folder = FOLDER / f"{name}-{code}"
    store = TrialStore(folder, checked, "the function given to agent", code=code)
    print(f"sweep {folder.name}, in {store.folder}")
    return folder.name


def agent(
    sweep_id: str,
    function: Callable[[], Any],
    project: str | None = None,
    entity: str | None = None,
    count: int | None = None,
    seed: int | None = None,
    quiet: bool = False,
) -> None:
    """Run trials of a sweep: by `wandb.agent`, or without an account by Optuna.

    Args:
        sweep_id: as `sweep` returns it.
        function: is called for each trial; it calls `wandb.init()`, reads the trial's parameters from `run.config`, and
            logs the sweep's metric to the run.
        project: as for `sweep`.
        entity: as for `sweep`.
        count: trials that this agent runs; by default all that remain.
        seed: offline, the same seed samples the same trials.
        quiet: offline, print only how trials start and end.

    Raises:
        InputError: there is no such sweep, or it can't continue.
    """
    if configure_wandb() == "online":
        run_online_trials(sweep_id, function, project_name(project), entity, count)
        return
    store = TrialStore.open(FOLDER / sweep_id)
    if store.stopped:
        store.stop(None)
    there = len(store.results().rows)
    run_trials(
        store, as_objective(function, store.sweep), there + count if count else store.sweep.count(None), seed, quiet
    )


def load_results(sweep_id: str, project: str | None = None, entity: str | None = None) -> Results:
    """Load the results of a sweep so far, by its id.

    Raises:
        InputError: there is no such sweep.
    """
    if configure_wandb() == "online":
        return results(sweep_id, project_name(project), entity)
    return TrialStore.open(FOLDER / sweep_id).results()
