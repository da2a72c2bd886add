"""One trial of a sweep: the objective that is called with its config, its reports, and how it ends.

An objective has one of two forms. An `Objective` is called with the trial's config and a `ReportMetrics`. W&B's form is
a function without arguments that calls `wandb.init()`, reads `run.config` and logs to the run; `as_objective` converts
it to the first form.
"""

import contextlib
import errno
import functools
import importlib
import io
import itertools
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.results import best_value, short
from asr_with_nemo.sweeps.space import Config, Sweep
from asr_with_nemo.sweeps.storage import FAILURES
from asr_with_nemo.sweeps.store import TakenOver, TrialStore
from asr_with_nemo.tracking.session import configure_wandb, ending, project_name

ATTEMPTS = 3  # of a trial whose worker is killed each time (out of memory, say)
FIRST_FAILURES = 3  # failed trials at the start stop a sweep: the cause is likely the sweep, not the values
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Listener = Callable[[dict[str, float], int | None], None]
"""Is called with the metrics of each report, and the step."""


class ReportMetrics:
    """The callback by which an objective reports its metrics, for example after each epoch.

    Attributes:
        number: the trial's number; online, the run's id.
        group: the group of the sweep's runs in W&B.
        metric: the name of the metric that the sweep optimizes; None for none.
        folder: the trial's output folder, which may not exist yet.
        last: the newest value of each metric.
        listeners: called for each report; one of them may stop the trial.
    """

    def __init__(self, number: int | str, group: str, metric: str | None, folder: Path):
        self.number = number
        self.group = group
        self.metric = metric
        self.folder = folder
        self.last: dict[str, float] = {}
        self.listeners: list[Listener] = []

    def __call__(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Report metrics to the sweep.

        Args:
            metrics: name → number; values of other types are ignored.
            step: for W&B's x axis; brackets of hyperband count the reports of the metric.

        Raises:
            optuna.TrialPruned: the trial is stopped early; don't catch it.
            TakenOver: the trial was given to another worker; don't catch it.
        """
        reported = numbers(metrics)
        self.last.update(reported)
        for listener in self.listeners:
            listener(reported, step)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers, as floats.

    Example:
        >>> numbers({"loss": 1, "note": "text", "wer": "0.5"})
        {'loss': 1.0, 'wer': 0.5}
    """
    found = {}
    for name, value in metrics.items():
        with contextlib.suppress(TypeError, ValueError):
            found[name] = float(value)
    return found


Objective = Callable[[Config, ReportMetrics], Mapping[str, float] | None]
"""A function of a trial's config and a callback for its reports; it may return the final metrics."""


def load_objective(name: str) -> Objective:
    """Import `MODULE:FUNCTION`, also from the current folder.

    Raises:
        InputError: there is no such function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise InputError(f"--objective {name}: expected MODULE:FUNCTION, such as my_objective:train")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise InputError(
            f"--objective {name}: can't import {module} ({error}); run the command in the folder of {module}.py"
        ) from error
    if not callable(found):
        raise InputError(f"--objective {name}: {module} has no function {function!r}")
    return found


# --- Each trial as a W&B run ------------------------------------------------------------------------------------------


def run_name(sweep: Sweep, report: ReportMetrics) -> str:
    """Return the name of a trial's run in W&B."""
    return f"{sweep.name}-{report.number}"


def tracked_objective(objective: Objective, sweep: Sweep) -> Objective:
    """Wrap an objective: each trial is a W&B run in the sweep's group, with its config and reported metrics."""

    @functools.wraps(objective)
    def run(config: Config, report: ReportMetrics) -> Mapping[str, float] | None:
        if configure_wandb() == "disabled":
            return objective(config, report)
        import wandb

        stopped = None
        started = wandb.init(
            project=project_name(sweep.config.get("project")),
            group=report.group,
            job_type="sweep",
            name=run_name(sweep, report),
            config=config,
            dir=os.environ["WANDB_DIR"],
            settings=wandb.Settings(console="off"),
        )
        with ending(started) as run:
            report.listeners.insert(0, lambda metrics, step: run.log(metrics, step=step))
            try:
                final = objective(config, report)
                run.summary.update(numbers(final) if isinstance(final, Mapping) else {})
            except optuna.TrialPruned as pruned:  # in W&B, the run counts as finished
                stopped = pruned
        if stopped:
            raise stopped
        return final

    return run


def as_objective(function: Callable[[], Any], sweep: Sweep) -> Objective:
    """Convert a function for `wandb.agent`, which gets its config by `wandb.init()`, to an objective.

    The config is passed as W&B's own agent passes it. The metrics that the function logs to its run are its reports.
    """

    @functools.wraps(function)
    def run(config: Config, report: ReportMetrics) -> None:
        configure_wandb()
        import wandb

        variables = {
            "WANDB_PROJECT": project_name(sweep.config.get("project")),
            "WANDB_RUN_GROUP": report.group,
            "WANDB_JOB_TYPE": "sweep",
            "WANDB_NAME": run_name(sweep, report),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            said = {"wandb_version": 1} | {name: {"value": value} for name, value in config.items()}
            path.write_text(yaml.safe_dump(said), encoding="utf-8")
            with environment(**variables, WANDB_SWEEP_PARAM_PATH=str(path)), _logs_to(report):
                try:
                    # As W&B's own agent does: the client reads the environment again, and a run that is still active
                    # ends, which `renew_client` would leave alone.
                    wandb.teardown()
                    function()
                    wandb.finish()
                finally:
                    wandb.finish(exit_code=1)
                    wandb.teardown()

    return run


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and restore them at the end."""
    held = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in held.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _logs_to(report: ReportMetrics) -> Iterator[None]:
    """Also report the metrics that are logged to a run."""
    from wandb import Run

    log = Run.log

    @functools.wraps(log)
    def log_and_report(run: Run, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        log(run, data, step, commit)
        report(data, step)

    Run.log = log_and_report
    try:
        yield
    finally:
        Run.log = log


# --- How a trial ends -------------------------------------------------------------------------------------------------


class _StoreError(Exception):
    """The store couldn't be written, which isn't the objective's error; see the cause."""


class MarkedLines(io.TextIOBase):
    """A text stream that passes on whole lines, each with a prefix."""

    def __init__(self, mark: str, say: Callable[[str], None]):
        self._mark, self._say = mark, say
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._say(f"{self._mark}{line}")
        return len(text)

    def finish(self) -> None:
        """Pass on a last line without a line break."""
        if self._rest:
            self.write("\n")


def run_trial(
    store: TrialStore, objective: Objective, trial: optuna.Trial, say: Callable[[str], None], quiet: bool
) -> None:
    """Run one trial and record how it ended.

    Args:
        store: of the sweep.
        objective: the function to optimize.
        trial: as `TrialStore.claim` returns it.
        say: prints a line; each line names the trial.
        quiet: drop the objective's output.

    Raises:
        InputError: the sweep can't continue.
        TakenOver: the trial was given to another worker.
        OSError, SQLAlchemyError, StorageInternalError: the store can't be written.
    """
    index = trial.user_attrs["index"]
    name = f"trial {index}"
    if trial.user_attrs["attempt"] > ATTEMPTS:
        return _fail(store, trial, f"its worker was killed {ATTEMPTS} times", say)
    metric = store.sweep.metric
    report = ReportMetrics(index, store.id, metric.name if metric else None, store.folder / "trials" / str(index))
    if metric:
        report.listeners.append(_judge(trial, metric.name))
    config = trial.user_attrs["config"]
    say(f"{name}, worker {os.getpid()}: {short(config)}")
    lines = MarkedLines(f"{name} | ", (lambda line: None) if quiet else say)
    try:
        with contextlib.redirect_stdout(lines):
            final = objective(config, report)
    except optuna.TrialPruned:
        store.tell(trial, TrialState.PRUNED, metrics=report.last)
        return say(f"{name}: stopped early, {_format_metrics(report)}")
    except (KeyboardInterrupt, SystemExit):
        store.give_back(trial)
        raise
    except TakenOver:
        raise
    except _StoreError as error:
        raise error.__cause__ from None
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):  # Lightning's exception for Ctrl-C
            store.give_back(trial)
            raise KeyboardInterrupt from error
        if _lacks_space(error):  # not the trial's error
            store.give_back(trial)
            raise InputError(f"{name}: no space left on the disk ({error}); free some, then --resume") from error
        if not isinstance(error, InputError):
            traceback.print_exc()
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        return _fail(store, trial, f"{kind}{error}", say)
    finally:
        lines.finish()
    return _finish(store, trial, report, final, say)


def _judge(trial: optuna.Trial, metric: str) -> Listener:
    """Return a listener that reports the metric to Optuna, and stops the trial if the pruner decides so."""
    reports = itertools.count(1)

    def judge(reported: dict[str, float], step: int | None) -> None:
        if metric not in reported:
            return
        try:
            trial.report(reported[metric], next(reports))
        except (optuna.exceptions.UpdateFinishedTrialError, RuntimeError) as error:
            raise TakenOver from error
        except FAILURES as error:
            raise _StoreError from error
        if trial.should_prune():
            raise optuna.TrialPruned

    return judge


def _lacks_space(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        # PyTorch raises a RuntimeError without errno.
        if getattr(seen, "errno", None) in _NO_SPACE or "PytorchStreamWriter failed writing" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _finish(
    store: TrialStore, trial: optuna.Trial, report: ReportMetrics, final: object, say: Callable[[str], None]
) -> None:
    """Record a trial whose objective returned."""
    name = f"trial {report.number}"
    if final is not None and not isinstance(final, Mapping):
        reason = f"the objective returned {type(final).__name__}; expected a dict of metrics, or nothing"
        return _fail(store, trial, reason, say)
    returned = numbers(final or {})
    report.last.update(returned)
    value = 0.0  # without a metric, all finished trials are equal
    metric = store.sweep.metric
    if metric:
        if metric.name not in report.last:
            message = not_logged(store.sweep, name, report.last)
            store.stop(message)
            store.tell(trial, TrialState.FAIL, reason=message)
            raise InputError(message)
        history = store.study.trials[trial.number].intermediate_values.values()
        value = returned.get(metric.name, best_value(metric, history))
        if value is None or not math.isfinite(value):
            return _fail(store, trial, f"{metric.name} is {report.last[metric.name]}", say)
    store.tell(trial, TrialState.COMPLETE, value, metrics=report.last)
    return say(f"{name}: finished, {_format_metrics(report)}")


def not_logged(sweep: Sweep, name: str, last: Mapping[str, float]) -> str:
    """Return the error message for a trial that never logged the sweep's metric."""
    logged = ", ".join(sorted(last)) or "nothing"
    return f"{sweep.file}: metric.name: {name} never logged {sweep.metric.name!r}; it logged {logged}"


def _format_metrics(report: ReportMetrics) -> str:
    """Format a trial's final values: the sweep's metric, and those with the same prefix (val_loss, val_wer)."""
    kind = f"{report.metric.partition('_')[0]}_" if report.metric else ""
    chosen = {name: value for name, value in report.last.items() if name == report.metric or name.startswith(kind)}
    return ", ".join(f"{name} {value:.4g}" for name, value in chosen.items()) or "nothing reported"


def _fail(store: TrialStore, trial: optuna.Trial, reason: str, say: Callable[[str], None]) -> None:
    store.tell(trial, TrialState.FAIL, reason=reason)
    say(f"trial {trial.user_attrs['index']}: failed: {reason}")
    ended = [row.state for row in store.results().rows if row.state not in ("running", "queued")]
    if ended == ["failed"] * FIRST_FAILURES:
        store.stop(f"{store.sweep.file}: the first {FIRST_FAILURES} trials failed, the last with: {reason}")
