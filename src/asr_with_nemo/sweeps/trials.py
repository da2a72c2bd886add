"""One trial of a sweep: what is called with its config, what that reports, and how it ends.

There are two forms of what a sweep can optimise. An `Objective` gets the trial's config and a `Report` to call. W&B's
form is a function without arguments that calls `wandb.init()`, reads `run.config` and logs to the run; `as_objective`
makes the first of it.
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
from asr_with_nemo.sweeps.store import TakenOver, TrialStore
from asr_with_nemo.tracking.session import configure_wandb, project_name

ATTEMPTS = 3  # of a trial whose worker is killed each time (by the lack of memory, say)
FIRST_FAILURES = 3  # in a row at the start end a sweep: it is the sweep that is wrong, not its values
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Listener = Callable[[dict[str, float], int | None], None]
"""Is told the numbers of each report, and the step."""


class ReportMetrics:
    """What an objective calls with its metrics, after each epoch or so.

    Attributes:
        number: of the trial; online the run's id.
        group: what W&B knows the sweep by.
        metric: the name of the metric that the sweep optimises; None for none.
        folder: for what the trial leaves behind; not made yet.
        last: the newest value of each metric.
        listeners: who is told; one of them may end the trial.
    """

    def __init__(self, number: int | str, group: str, metric: str | None, folder: Path):
        self.number = number
        self.group = group
        self.metric = metric
        self.folder = folder
        self.last: dict[str, float] = {}
        self.listeners: list[Listener] = []

    def __call__(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Tell the sweep how far the trial has come.

        Args:
            metrics: name → number; those that are no numbers are left out.
            step: for W&B's x axis; brackets of hyperband count the reports of the metric.

        Raises:
            optuna.TrialPruned: the trial is to stop; let it pass.
            TakenOver: the trial is another worker's by now; let it pass.
        """
        reported = numbers(metrics)
        self.last.update(reported)
        for listener in self.listeners:
            listener(reported, step)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those of the metrics that are numbers."""
    found = {}
    for name, value in metrics.items():
        with contextlib.suppress(TypeError, ValueError):
            found[name] = float(value)
    return found


Objective = Callable[[Config, ReportMetrics], Mapping[str, float] | None]
"""What a sweep optimises: it gets a trial's config, reports on the way, and may return the final metrics."""


def load_objective(name: str) -> Objective:
    """Import `MODULE:FUNCTION`; modules of the current folder are found.

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
            f"--objective {name}: can't import {module} ({error}); run from the folder it is in"
        ) from error
    if not callable(found):
        raise InputError(f"--objective {name}: {module} has no function {function!r}")
    return found


# --- Each trial a run of W&B's ----------------------------------------------------------------------------------------


def run_name(sweep: Sweep, report: ReportMetrics) -> str:
    """What a trial's run is called in W&B."""
    return f"{sweep.name}-{report.number}"


def tracked_objective(objective: Objective, sweep: Sweep) -> Objective:
    """The same objective, each trial of it a W&B run in the sweep's group, with its config and what it reports."""

    @functools.wraps(objective)
    def run(config: Config, report: ReportMetrics) -> Mapping[str, float] | None:
        if configure_wandb() == "disabled":
            return objective(config, report)
        import wandb

        stopped = None
        with wandb.init(
            project=project_name(sweep.config.get("project")),
            group=report.group,
            job_type="sweep",
            name=run_name(sweep, report),
            config=config,
            dir=os.environ["WANDB_DIR"],
            settings=wandb.Settings(console="off"),
        ) as run:
            report.listeners.insert(0, lambda metrics, step: run.log(metrics, step=step))
            try:
                final = objective(config, report)
                run.summary.update(numbers(final) if isinstance(final, Mapping) else {})
            except optuna.TrialPruned as pruned:  # for W&B the run has ended well
                stopped = pruned
        if stopped:
            raise stopped
        return final

    return run


def as_objective(function: Callable[[], Any], sweep: Sweep) -> Objective:
    """An objective that calls what `wandb.agent` calls: a function that gets its config by `wandb.init()`.

    It finds the config where W&B's own agent puts it. What it logs to its run is what it reports.
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
                    wandb.teardown()  # or else the client would not look at the environment again
                    function()
                    wandb.finish()
                finally:
                    wandb.finish(exit_code=1)
                    wandb.teardown()

    return run


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Meanwhile, these variables of the environment have these values."""
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
    """Meanwhile, what is logged to a run is reported too."""
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
    """A report could not be written down, which is not the objective's fault; the cause says why."""


class MarkedLines(io.TextIOBase):
    """A stream of text that passes on whole lines, a mark in front of each."""

    def __init__(self, mark: str, say: Callable[[str], None]):
        self._mark, self._say = mark, say
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._say(f"{self._mark}{line}")
        return len(text)

    def finish(self) -> None:
        """Pass on a last line that has no end."""
        if self._rest:
            self.write("\n")


def run_trial(
    store: TrialStore, objective: Objective, trial: optuna.Trial, say: Callable[[str], None], quiet: bool
) -> None:
    """Run one trial to its end, whichever that is.

    Args:
        store: of the sweep.
        objective: what is called.
        trial: as `Store.claim` gives it.
        say: where lines go; each names the trial.
        quiet: drop what the objective prints.

    Raises:
        InputError: the sweep can't go on.
        TakenOver: the trial was given to another worker.
        OSError: the store can't be written.
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
        return say(f"{name}: stopped early, {_said(report)}")
    except (KeyboardInterrupt, SystemExit):
        store.give_back(trial)
        raise
    except TakenOver:
        raise
    except _StoreError as error:
        raise error.__cause__ from None
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):  # what a training makes of Ctrl-C
            store.give_back(trial)
            raise KeyboardInterrupt from error
        if _lacks_space(error):  # which is not the trial's fault
            store.give_back(trial)
            raise InputError(f"{name}: no space is left on the disk ({error}); make some, then --resume") from error
        if not isinstance(error, InputError):
            traceback.print_exc()
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        return _fail(store, trial, f"{kind}{error}", say)
    finally:
        lines.finish()
    return _finish(store, trial, report, final, say)


def _judge(trial: optuna.Trial, metric: str) -> Listener:
    """Tell Optuna each value of the metric, and end the trial where that says so."""
    reports = itertools.count(1)

    def judge(reported: dict[str, float], step: int | None) -> None:
        if metric not in reported:
            return
        try:
            trial.report(reported[metric], next(reports))
        except (optuna.exceptions.UpdateFinishedTrialError, RuntimeError) as error:
            raise TakenOver from error
        except OSError as error:
            raise _StoreError from error
        if trial.should_prune():
            raise optuna.TrialPruned

    return judge


def _lacks_space(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        # PyTorch says it in words of its own.
        if getattr(seen, "errno", None) in NO_SPACE or "PytorchStreamWriter failed writing" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _finish(
    store: TrialStore, trial: optuna.Trial, report: ReportMetrics, final: object, say: Callable[[str], None]
) -> None:
    """Record a trial that came to its own end."""
    name = f"trial {report.number}"
    if final is not None and not isinstance(final, Mapping):
        reason = f"the objective returned {type(final).__name__}; expected a dict of metrics, or nothing"
        return _fail(store, trial, reason, say)
    returned = numbers(final or {})
    report.last.update(returned)
    value = 0.0  # where nothing is optimised, to have finished is all
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
    return say(f"{name}: finished, {_said(report)}")


def not_logged(sweep: Sweep, name: str, last: Mapping[str, float]) -> str:
    """What to say where a trial never logged the metric that the sweep optimises."""
    logged = ", ".join(sorted(last)) or "nothing"
    return f"{sweep.file}: metric.name: {name} never logged {sweep.metric.name!r}; it logged {logged}"


def _said(report: ReportMetrics) -> str:
    """What a trial ended with: the metric that counts, and others measured along with it (val_loss, val_wer)."""
    kind = f"{report.metric.partition('_')[0]}_" if report.metric else ""
    chosen = {name: value for name, value in report.last.items() if name == report.metric or name.startswith(kind)}
    return ", ".join(f"{name} {value:.4g}" for name, value in chosen.items()) or "nothing reported"


def _fail(store: TrialStore, trial: optuna.Trial, reason: str, say: Callable[[str], None]) -> None:
    store.tell(trial, TrialState.FAIL, reason=reason)
    say(f"trial {trial.user_attrs['index']}: failed: {reason}")
    ended = [row.state for row in store.results().rows if row.state not in ("running", "queued")]
    if ended == ["failed"] * FIRST_FAILURES:
        store.stop(f"{store.sweep.file}: the first {FIRST_FAILURES} trials failed, the last with: {reason}")
