"""A sweep by W&B's server: `wandb.sweep`, `wandb.agent`, and what the public API says of it."""

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

STATES = {"finished": "finished", "running": "running", "pending": "queued", "killed": "stopped early"}
"""W&B's states of a run, by the names in `sweep_results.STATES`; each other one is "failed"."""


def create_sweep(sweep: Sweep, project: str, entity: str | None = None) -> str:
    """Make a sweep and return its id.

    Raises:
        InputError: W&B's server refuses it.
    """
    import wandb

    with _explained():
        return wandb.sweep(sweep.config, project=project, entity=entity)


def run_online_trials(
    sweep_id: str, function: Callable[[], Any], project: str, entity: str | None = None, count: int | None = None
) -> None:
    """Work on a sweep until the server has no more trials, or `count` are done.

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
        raise InputError(f"W&B can't run the sweep ({error}); WANDB_MODE=offline runs it here") from error


@contextlib.contextmanager
def _endable() -> Iterator[None]:
    """Let SIGTERM end W&B's agent as Ctrl-C does, since SIGINT is ignored in a background job of a script's."""
    if threading.current_thread() is not threading.main_thread():  # no place for handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Function:
    """What `wandb.agent` calls for each trial, so that an objective is called with the trial's config and a report.

    Attributes:
        problem: why the sweep can't go on.
        failure: why a trial failed, the last that did.
    """

    def __init__(self, sweep: Sweep, sweep_id: str, objective: Objective, folder: Path, logs: bool):
        """Prepare it.

        Args:
            sweep: what is searched.
            sweep_id: W&B's id of it.
            objective: what is called.
            folder: for what each trial leaves behind.
            logs: the objective has no logger of its own: what it reports is logged to the run.
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
            except Exception as error:  # the agent shows it, and goes on
                self.failure = f"{type(error).__name__}: {error}"
                raise
            report.last.update(final)
            if final:  # a training has ended its run itself
                run.summary.update(final)
        if metric and metric not in report.last:
            self.problem = not_logged(self._sweep, f"run {report.number}", report.last)
            _thread.interrupt_main(signal.SIGTERM)  # on which the agent ends, as on Ctrl-C


def _config(sweep: Sweep, given: Any) -> Config:
    """A trial's config from its run's, which holds more; empty where the run has not got it yet."""
    names = dict.fromkeys(parameter.path[0] for parameter in sweep.parameters)
    return {name: given[name] for name in names} if all(name in given for name in names) else {}


def find(sweep_id: str, project: str, entity: str | None = None) -> Any:
    """A sweep as W&B's public API gives it.

    Args:
        sweep_id: the id alone, or ENTITY/PROJECT/ID.
        project: where to look for an id alone.
        entity: as `project`; by default the key's own.

    Raises:
        InputError: there is none of that id.
    """
    import wandb

    path = sweep_id if "/" in sweep_id else "/".join(part for part in (entity, project, sweep_id) if part)
    try:
        return wandb_api().sweep(path)
    except (wandb.Error, ValueError) as error:
        raise InputError(f"W&B has no sweep {path} ({error}); expected ENTITY/PROJECT/ID") from error


def check_same(sweep: Sweep, sweep_id: str, project: str, entity: str | None = None) -> None:
    """Make sure that W&B's sweep of this id is the one of a file.

    Raises:
        InputError: it is another, or there is none.
    """
    theirs = check_sweep(find(sweep_id, project, entity).config, sweep_id)
    differing = [key for key in Sweep.IDENTITY if theirs.config.get(key) != sweep.config.get(key)]
    if differing:
        raise InputError(f"{sweep.file}: {' and '.join(differing)} differ from those of W&B's sweep {sweep_id}")


def results(sweep_id: str, project: str, entity: str | None = None) -> Results:
    """What has come of a sweep until now.

    Raises:
        InputError: there is no such sweep.
    """
    found = find(sweep_id, project, entity)
    sweep = check_sweep(found.config, sweep_id)
    return Results(sweep, sweep_id, [_row(number, run, sweep) for number, run in enumerate(found.runs)])


def _row(number: int, run: Any, sweep: Sweep) -> TrialRow:
    """A trial, from its run as the public API gives it."""
    metrics = numbers({name: value for name, value in run.summary.items() if not name.startswith("_")})
    history, value, state = (), None, STATES.get(run.state, "failed")
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
