"""Running a sweep: by W&B's server with an account, by Optuna and any number of worker processes with none.

`run` is for a sweep file, as scripts/sweep.py takes it. `sweep`, `agent` and `results` are W&B's own calls, for a
notebook: with an account they are `wandb.sweep` and `wandb.agent`, with none they do the same in a store of their own.
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
"""Where sweeps are kept, a folder each."""


def run_sweep(
    job: SweepJob,
    count: int | None = None,
    workers: int = 1,
    resume: bool = False,
    seed: int | None = None,
    join: str | None = None,
    quiet: bool = False,
) -> Results:
    """Run a sweep and write what came of it: with an account by W&B's server, with none by Optuna.

    Args:
        job: the sweep, its folder and what is optimised.
        count: trials; offline, those that are there already included. By default the file's run_cap, or all of a grid.
        workers: offline, processes; one works in this process.
        resume: offline, go on with what the store has.
        seed: offline, the same seed draws the same trials, with one worker.
        join: online, work on the sweep that has this id (ENTITY/PROJECT/ID), made here or on another machine.
        quiet: offline, say only how trials start and end.

    Raises:
        InputError: the store or the objective can't be used, W&B's server refuses, or no trial could be finished.
    """
    sweep = job.sweep
    if sweep.note:
        print(sweep.note, flush=True)
    mode = configure_wandb()
    print(describe_mode(mode, project_name(sweep.config.get("project"))), flush=True)
    if mode == "online":
        return _run_online(job, count, join)
    if join:
        raise InputError("--join needs an account; offline, --resume with the same --store joins a sweep")
    count = sweep.count(count)
    job.callee()  # what is wrong with it is found before the store is made
    store = job.store(resume)
    if store.stopped:
        store.stop(None)
    print(f"sweep {store.id}: {sweep.method}, up to {count} trials of {job.about}, in {store.folder}", flush=True)
    try:
        if workers == 1:
            run_trials(store, job.tracked(), count, seed, quiet)
        else:
            run_processes(job, store, count, workers, seed, quiet)
    except KeyboardInterrupt:
        raise InputError(f"interrupted; the same command with --resume goes on with {store.folder}") from None
    if store.stopped:
        raise InputError(store.stopped)
    with store.locked():  # the last workers of several machines end at the same time
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
        raise InputError(f"sweep {sweep_id}: no trial was finished; the last said: {function.failure}")
    return job.write(found, folder)


# --- W&B's own calls --------------------------------------------------------------------------------------------------


def sweep(config: Mapping[str, Any], project: str | None = None, entity: str | None = None) -> str:
    """Make a sweep: `wandb.sweep`, or with no account a store of its own.

    Returns:
        the sweep's id.

    Raises:
        InputError: the config is none that can be searched, or W&B's server refuses it.
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
    """Work on a sweep: `wandb.agent`, or with no account the same by Optuna.

    Args:
        sweep_id: as `sweep` gives it.
        function: is called for each trial; it calls `wandb.init()`, finds the trial's parameters in `run.config`, and
            logs the sweep's metric to the run.
        project: as for `sweep`.
        entity: as for `sweep`.
        count: trials that this agent does; by default as many as there are to be.
        seed: offline, the same seed draws the same trials.
        quiet: offline, say only how trials start and end.

    Raises:
        InputError: there is no such sweep, or it can't go on.
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
    """What has come of a sweep until now, by its id.

    Raises:
        InputError: there is no such sweep.
    """
    if configure_wandb() == "online":
        return results(sweep_id, project_name(project), entity)
    return TrialStore.open(FOLDER / sweep_id).results()
