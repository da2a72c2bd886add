"""The store of a sweep, shared by all processes and machines that see its folder, or reach its database.

A trial whose worker is gone is queued again, by the worker that notices first.
"""

import contextlib
import itertools
import json
import os
import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.results import Results, TrialRow, best_value
from asr_with_nemo.sweeps.space import Sweep, as_json, check_sweep
from asr_with_nemo.sweeps.storage import FAILURES, Database, Folder, reason

BEAT, LEASE = 3.0, 25.0
"""Seconds between two heartbeats; without a heartbeat until a trial counts as abandoned.
A killed worker's trial is queued again after LEASE plus BEAT; if it left both locks, after 58 s."""
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "queued",
}
"""Optuna's states → those of `results.STATES`."""


class TakenOver(Exception):
    """The trial counted as abandoned and was given to another worker; this worker's results are dropped."""


def _host() -> str:
    """Identify the machine and its process namespace, within which a process id is unique."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # only Linux has these, and containers
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
            str(os.stat("/proc/self/ns/pid").st_ino),
        ]
    return "/".join(parts)


def _is_running(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - created) < 1
    except psutil.NoSuchProcess:
        return False


def _description(text: str, place: str) -> dict[str, Any]:
    """Read the description of a sweep that a store has."""
    try:
        made = json.loads(text)
        return {key: made[key] for key in ("id", "name", "objective", "config")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: has no description of a sweep; give another --store") from error


class TrialStore:
    """The store of a sweep, shared by its workers.

    Optuna's record of the trials has no heartbeat that all its storages share. So each running trial has a sign of life
    that changes every `BEAT` seconds. The trial counts as abandoned when the process is gone (on this machine), or the
    sign hasn't changed for `LEASE` seconds of the observer's own clock (clocks of machines differ). It is then marked
    as failed, so that a worker that was only suspended can't finish it, and queued again with the same values.

    Attributes:
        folder: for the results; without a database also what the workers share.
        place: what the workers share, as messages name it.
        id: the sweep's id.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        sweep: Sweep,
        objective: str,
        resume: bool = False,
        code: str | None = None,
        database: str | None = None,
    ):
        """Create the store of a sweep, or open it with `resume`.

        Args:
            folder: for this sweep only.
            sweep: as `load_sweep` returns it.
            objective: a description of the objective; a store with another one is another sweep.
            resume: continue with the trials in the store; other workers may be running.
            code: distinguishes sweeps of the same name; by default random.
            database: the URL of one that workers on other machines reach; the study has the name of the folder.

        Raises:
            InputError: the store has another sweep, has this one and `resume` isn't set, or can't be written.
        """
        self.folder = Path(folder)
        self.sweep = sweep
        self._seen: dict[int, tuple[int, float]] = {}
        self._host = _host()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._storage = Database(database, self.folder.name) if database else Folder(self.folder)
            self.place = self._storage.place
            code = self._register(objective, resume, code or secrets.token_hex(4))
            self.id = f"{sweep.name}-{code}"
            self.study = self._study(self.folder.name if database else code)
        except FAILURES as error:
            raise InputError(f"{folder}: can't be used as a store ({reason(error)}); give another --store") from error

    def _study(self, name: str) -> optuna.Study:
        """Create or load the study with the trials."""
        metric = self.sweep.metric
        try:
            with self.locked():
                return optuna.create_study(
                    storage=self._storage.trials(),
                    study_name=name,
                    direction=metric.goal if metric else "minimize",
                    pruner=self.sweep.hyperband or optuna.pruners.NopPruner(),
                    load_if_exists=True,
                )
        except (ValueError, KeyError, AssertionError) as error:
            raise InputError(
                f"{self._storage.record}: Optuna can't read the trials ({error}); give another --store"
            ) from error

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Self:
        """Open the store in a folder.

        Raises:
            InputError: there is none.
        """
        file = Path(folder) / "sweep.json"
        if not file.is_file():
            raise InputError(f"{folder}: no sweep in this folder; expected the id that `sweep` returned")
        made = _description(file.read_text(encoding="utf-8"), str(folder))
        return cls(folder, check_sweep(made["config"] | {"name": made["name"]}, file), made["objective"], resume=True)

    def _register(self, objective: str, resume: bool, code: str) -> str:
        """Keep the sweep's description in the store, or check that the one there is equal.

        Returns:
            the code that distinguishes sweeps of the same name.
        """
        made = {"id": code, "name": self.sweep.name, "objective": objective}
        made["config"] = json.loads(as_json(self.sweep.config))
        there = _description(self._storage.describe(json.dumps(made, indent=1)), self._storage.description)
        if there == made:  # its code is this one's
            return code
        differing = [key for key in Sweep.IDENTITY if there["config"].get(key) != made["config"].get(key)]
        differing += ["objective"] if there["objective"] != objective else []
        if differing:
            raise InputError(
                f"{self.place}: has another sweep ({there['name']}), whose {' and '.join(differing)} "
                f"differ from {self.sweep.file}; give another --store"
            )
        if not resume:
            raise InputError(
                f"{self.place}: has this sweep already; --resume continues it, also while other workers run; "
                "another --store starts a new one"
            )
        return there["id"]

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock under which workers of all processes claim and queue trials."""
        return self._storage.locked()

    # Reading the trials

    def _trials(self) -> list[FrozenTrial]:
        """Return the newest attempt of each trial, by index."""
        newest: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            # A failed trial without a reason was abandoned; if the queued copy was lost too, the trial is ignored.
            if trial.state != TrialState.FAIL or "reason" in trial.user_attrs:
                newest[trial.user_attrs["index"]] = trial
        return [newest[index] for index in sorted(newest)]

    def results(self) -> Results:
        """Return the trials so far."""
        metric = self.sweep.metric
        rows = []
        for trial in self._trials():
            given = trial.user_attrs
            history = tuple(value for _, value in sorted(trial.intermediate_values.items()))
            value = trial.value if metric and trial.state == TrialState.COMPLETE else None
            if metric and trial.state == TrialState.PRUNED:
                value = best_value(metric, history)
            rows.append(
                TrialRow(
                    given["index"],
                    _STATES[trial.state],
                    value,
                    given.get("config", {}),
                    given.get("metrics", {}),
                    history,
                    trial.duration.total_seconds() if trial.duration else None,
                    str(given["index"]),
                    given["attempt"],
                    given.get("reason", ""),
                )
            )
        return Results(self.sweep, self.id, rows)

    def _reached(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether a trial has reached the metric's target."""
        metric = self.sweep.metric
        if not metric or metric.target is None:
            return False
        values = [value for trial in trials for value in (trial.value, *trial.intermediate_values.values())]
        return any(value is not None and metric.sign * value <= metric.sign * metric.target for value in values)

    def _is_complete(self, trials: Sequence[FrozenTrial], count: int) -> bool:
        limits = [count, self.sweep.run_cap, self.sweep.cells]
        return len(trials) >= min(limit for limit in limits if limit is not None) or self._reached(trials)

    # Claiming and ending trials

    def claim(self, count: int, seed: int | None) -> optuna.Trial | None:
        """Take the next trial: an abandoned one, or a new one until there are `count`.

        Returns:
            None if no trial is left to start, unless one that is running is abandoned later.

        Raises:
            InputError: a worker has stopped the sweep.
        """
        with self.locked():
            self._requeue_abandoned()
            if self.stopped:
                raise InputError(self.stopped)
            trials = self._trials()
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            if not waiting:
                if self._is_complete(trials, count):
                    return None
                taken = {trial.user_attrs["index"] for trial in trials}
                index = next(index for index in itertools.count() if index not in taken)
                fixed = {} if self.sweep.cells is None else self.sweep.cell(index)
                self.study.enqueue_trial(fixed, user_attrs={"index": index, "attempt": 1})
            else:
                index = waiting[0].user_attrs["index"]
            self.study.sampler = self.sweep.sampler(seed, index)
            trial = self.study.ask(self.sweep.space)
            process = psutil.Process()
            worker = {"host": self._host, "pid": process.pid, "created": process.create_time()}
            self._storage.sign(trial.number, worker)
            trial.set_user_attr("config", self.sweep.configuration(trial.params))
            return trial

    def is_over(self, count: int) -> bool:
        """Return whether no trial is running or queued, and there are as many as there should be."""
        trials = self._trials()
        return all(trial.state.is_finished() for trial in trials) and self._is_complete(trials, count)

    def beat(self, number: int) -> None:
        """Update the heartbeat of a running trial."""
        self._storage.beat(number)

    def leave(self, number: int) -> None:
        """Remove the heartbeat of a trial, however it ended."""
        self._storage.leave(number)

    def requeue_abandoned(self) -> None:
        """Queue the trials again whose workers are gone."""
        numbers = [trial.number for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        abandoned = [number for number in numbers if self._is_abandoned(number)]
        if abandoned:
            with self.locked():
                self._requeue_abandoned()

    def _requeue_abandoned(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_abandoned(trial.number):
                self._requeue(trial)

    def _is_abandoned(self, number: int) -> bool:
        life = self._storage.life(number)
        if life is None:
            return True
        if life.worker["host"] == self._host:
            return not _is_running(life.worker["pid"], life.worker["created"])
        if number not in self._seen or self._seen[number][0] != life.beat:
            self._seen[number] = (life.beat, time.monotonic())
        return time.monotonic() - self._seen[number][1] > LEASE

    def give_back(self, trial: optuna.Trial) -> None:
        """Queue a trial again in which this worker was interrupted."""
        with self.locked():
            for running in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if running.number == trial.number:
                    self._requeue(running, used_up=0)

    def _requeue(self, trial: FrozenTrial, used_up: int = 1) -> None:
        try:
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):  # it has just ended after all
            return
        attempt = trial.user_attrs["attempt"] + used_up
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={"index": trial.user_attrs["index"], "attempt": attempt},
                system_attrs=trial.system_attrs,
            )
        )
        self._storage.leave(trial.number)

    def tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None, **about: Any) -> None:
        """Record how a trial ended, with `about` as its attributes.

        Raises:
            TakenOver: the trial was given to another worker.
        """
        try:
            for key, said in about.items():
                trial.set_user_attr(key, said)
            self.study.tell(trial, value, state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
            raise TakenOver from error

    def stop(self, message: str | None) -> None:
        """Stop all workers, for this reason; None allows them to start again."""
        self.study.set_user_attr("stopped", message)

    @property
    def stopped(self) -> str | None:
        """The reason why the sweep was stopped; None if it wasn't."""
        return self.study.user_attrs.get("stopped")
