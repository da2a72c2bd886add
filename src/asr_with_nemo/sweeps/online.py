"""Sweeps on W&B's server: `wandb.sweep`, `wandb.agent`, and results from the public API."""

import _thread
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.results import Results, TrialRow, best_value
from asr_with_nemo.sweeps.space import Config, Sweep, check_sweep
from asr_with_nemo.sweeps.trials import FIRST_FAILURES, Objective, ReportMetrics, not_logged, numbers
from asr_with_nemo.tracking.wandb_internals import wandb_api

_STATES = {"finished": "finished", "running": "running", "pending": "queued", "killed": "stopped early"}
"""W&B's states of a run → those of `results.STATES`; each other one is "failed"."""


def create_sweep(sweep: Sweep, project: str, entity: str | None = None) -> str:
    """Create a sweep and return its id.

    Raises:
        InputError: W&B's server refuses it.
    """
    import wandb

    with _explained():
        return wandb.sweep(sweep.config, project=project, entity=entity)


def run_online_trials(
    sweep_id: str, function: Callable[[], Any], project: str, entity: str | None = None, count: int | None = None
) -> None:
    """Run trials until the server has no more, or `count` are done.

    Raises:
        InputError: there is no such sweep.
    """
    import wandb

    with _explained(), _endable():
        wandb.agent(
            sweep_id,
            function,
            project=project,
            entity=entity,
            count=count,
            max_consecutive_failed_runs=FIRST_FAILURES,
        )


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    import wandb

    try:
        yield
    except (wandb.Error, ValueError) as error:
        raise InputError(
            f"W&B can't run the sweep ({error}); set WANDB_MODE=offline to run it without the server"
        ) from error


@contextlib.contextmanager
def _endable() -> Iterator[None]:
    """Let SIGTERM stop W&B's agent as Ctrl-C does, since a script's background jobs ignore SIGINT."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Function:
    """The function that `wandb.agent` calls for each trial; it calls an objective with the config and a callback.

    Attributes:
        problem: why the sweep can't continue; None if it can.
        failure: why the last failed trial failed.
    """

    def __init__(self, sweep: Sweep, sweep_id: str, objective: Objective, folder: Path, logs: bool):
        """Set up the function.

        Args:
            sweep: the sweep.
            sweep_id: its id in W&B.
            objective: the function to optimize.
            folder: for the trials' output folders.
            logs: log the reports to the run, for an objective without a logger of its own.
        """
        self.problem: str | None = None
        self.failure: str | None = None
        self._sweep, self._id, self._objective = sweep, sweep_id, objective
        self._folder, self._logs = folder, logs

    def __call__(self) -> None:
        import wandb

        metric = self._sweep.metric.name if self._sweep.metric else None
        with wandb.init() as run:
            report = ReportMetrics(run.id, self._id, metric, self._folder / run.id)
            if self._logs:
                report.listeners.append(lambda metrics, step: run.log(metrics, step=step))
            try:
                final = numbers(self._objective(_config(self._sweep, run.config), report) or {})
            except Exception as error:  # the agent prints it, and continues
                self.failure = f"{type(error).__name__}: {error}"
                raise
            report.last.update(final)
            if final:  # training has finished its run itself
                run.summary.update(final)
        if metric and metric not in report.last:
            self.problem = not_logged(self._sweep, f"run {report.number}", report.last)
            _thread.interrupt_main(signal.SIGTERM)  # which stops the agent, as Ctrl-C does


def _config(sweep: Sweep, given: Any) -> Config:
    """Select a trial's config from its run's, which has more keys; empty if the run doesn't have it yet."""
    names = dict.fromkeys(parameter.path[0] for parameter in sweep.parameters)
    return {name: given[name] for name in names} if all(name in given for name in names) else {}


def find(sweep_id: str, project: str, entity: str | None = None) -> Any:
    """Get a sweep from W&B's public API.

    Args:
        sweep_id: ID or ENTITY/PROJECT/ID.
        project: the project of a bare ID.
        entity: the entity of a bare ID; by default that of the API key.

    Raises:
        InputError: there is no sweep with this id.
    """
    import wandb

    path = sweep_id if "/" in sweep_id else "/".join(part for part in (entity, project, sweep_id) if part)
    try:
        return wandb_api().sweep(path)
    except (wandb.Error, ValueError) as error:
        raise InputError(f"W&B has no sweep {path} ({error}); expected ENTITY/PROJECT/ID") from error


def check_same(sweep: Sweep, sweep_id: str, project: str, entity: str | None = None) -> None:
    """Check that W&B's sweep with this id is the one of a file.

    Raises:
        InputError: it is another one, or there is none.
    """
    theirs = check_sweep(find(sweep_id, project, entity).config, sweep_id)
    differing = [key for key in Sweep.IDENTITY if theirs.config.get(key) != sweep.config.get(key)]
    if differing:
        raise InputError(f"{sweep.file}: {' and '.join(differing)} differ from those of W&B's sweep {sweep_id}")


def results(sweep_id: str, project: str, entity: str | None = None) -> Results:
    """Return the trials of a sweep so far.

    Raises:
        InputError: there is no such sweep.
    """
    found = find(sweep_id, project, entity)
    sweep = check_sweep(found.config, sweep_id)
    return Results(sweep, sweep_id, [_row(number, run, sweep) for number, run in enumerate(found.runs)])


def _row(number: int, run: Any, sweep: Sweep) -> TrialRow:
    """Convert a run of the public API to a trial."""
    metrics = numbers({name: value for name, value in run.summary.items() if not name.startswith("_")})
    history, value, state = (), None, _STATES.get(run.state, "failed")
    if sweep.metric:
        name = sweep.metric.name
        lines = run.history(samples=10_000, keys=[name], pandas=False)
        history = tuple(numbers({name: line[name]}).get(name, float("nan")) for line in lines)
        value = best_value(sweep.metric, history or [metrics.get(name, float("nan"))])
        if value is None and state == "finished":
            state = "failed"
    reason = f"W&B calls the run {run.state}" if state == "failed" else ""
    seconds = run.summary.get("_runtime")
    return TrialRow(number, state, value, _config(sweep, run.config), metrics, history, seconds, run.id, reason=reason)
