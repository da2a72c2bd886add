"""Workers of an offline sweep: one in this process, or several worker processes."""

import codecs
import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.base.threads import every
from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.results import Results, TrialRow, write_results
from asr_with_nemo.sweeps.space import Sweep
from asr_with_nemo.sweeps.storage import FAILURES, reason
from asr_with_nemo.sweeps.store import BEAT, TakenOver, TrialStore
from asr_with_nemo.sweeps.trials import (
    ATTEMPTS,
    MarkedLines,
    Objective,
    environment,
    load_objective,
    run_trial,
    tracked_objective,
)

if TYPE_CHECKING:
    from asr_with_nemo.sweeps.objective import Training

_TERMINATES_WITHIN = 3  # seconds for a worker to end by itself, once it was told to
_SHOWN_EVERY = 0.5  # seconds between two updates of the progress


@dataclass(frozen=True)
class SweepJob:
    """A sweep and its objective: all that a worker process needs.

    Attributes:
        sweep: the sweep.
        folder: for its store and its results.
        database: the URL of a database that is its store, in place of the folder.
        objective: MODULE:FUNCTION; None to train a model.
        base: for training, the config's folder, its name, and Hydra overrides.
    """

    sweep: Sweep
    folder: Path
    objective: str | None = None
    base: tuple[str, str, tuple[str, ...]] = ("configs", "config", ())
    database: str | None = None

    @property
    def about(self) -> str:
        """A description of the objective."""
        return self.objective or " ".join(["training", self.base[1].removesuffix(".yaml"), *self.base[2]])

    def store(self, resume: bool) -> TrialStore:
        """Create or open its store; see `TrialStore`."""
        return TrialStore(self.folder, self.sweep, self.about, resume, database=self.database)

    @cached_property
    def training(self) -> "Training | None":
        """The objective that trains a model; None for one of the user's."""
        if self.objective:
            return None
        from asr_with_nemo.sweeps.objective import Training

        return Training(self.sweep, *self.base)

    def callee(self) -> Objective:
        """Return the objective, imported and checked."""
        return self.training or load_objective(self.objective)

    def tracked(self) -> Objective:
        """Return the objective, each trial a W&B run; training logs its own."""
        return self.training or tracked_objective(self.callee(), self.sweep)

    def write(self, results: Results, folder: Path) -> Results:
        """Write the results into a folder; scripts/train.py with the best config finds the trial's training."""

        def config(row: TrialRow) -> Any:
            return self.training.config(row.config, folder / "trials" / row.folder)

        return write_results(results, folder, config if self.training else None)


class _Progress:
    """The progress of the sweep: a bar in a terminal, elsewhere a line for each trial that has ended.

    A worker process shows none; its parent does.
    """

    def __init__(self, store: TrialStore, count: int):
        self._store = store
        self._out = sys.stdout
        self._bar: tqdm | None = None
        self._due = 0.0
        if multiprocessing.parent_process() is None:
            done = self._ended(store.results())
            name = store.sweep.name
            self._bar = tqdm(total=count, initial=done, desc=name, unit="trial", disable=None, leave=False)

    @staticmethod
    def _ended(results: Results) -> int:
        return sum(row.state not in ("running", "queued") for row in results.rows)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with contextlib.suppress(BrokenPipeError):  # the parent was killed; the trial still runs to its end
            tqdm.write(line, file=self._out)
            self._out.flush()

    def show(self) -> None:
        """Update the progress if a trial has ended since the last update."""
        now = time.monotonic()
        if self._bar is None or now < self._due:
            return
        self._due = now + _SHOWN_EVERY
        results = self._store.results()
        ended, metric, best = self._ended(results), results.sweep.metric, ""
        if ended == self._bar.n:
            return
        if metric and any(row.state == "finished" for row in results.rows):
            best = f"best {metric.name} {results.best.value:.4g} (trial {results.best.number})"
        self._bar.n = ended
        self._bar.set_postfix_str(best)
        if self._bar.disable:
            self.say(f"sweep {results.id}: {ended} of {self._bar.total} trials{best and f', {best}'}")

    def close(self) -> None:
        """Show the final state and remove the bar."""
        self._due = 0.0
        with contextlib.suppress(*FAILURES):  # the store is gone; whoever closes says so
            self.show()
        if self._bar is not None:
            self._bar.close()


def run_trials(
    store: TrialStore, objective: Objective, count: int, seed: int | None = None, quiet: bool = False
) -> None:
    """Run trials until the sweep has `count`, those of other workers included, and all have ended.

    Raises:
        InputError: the sweep can't continue.
    """
    current: list[int] = []

    def show_life() -> None:
        with contextlib.suppress(*FAILURES):  # a network folder, or a server, that is unavailable for a moment
            for number in current:
                store.beat(number)
            store.requeue_abandoned()

    parent = multiprocessing.parent_process()
    progress = _Progress(store, count)
    try:
        with every(BEAT, show_life):
            while parent is None or parent.is_alive():
                trial = store.claim(count, seed)
                if trial is None:
                    if store.is_over(count):
                        return
                    time.sleep(BEAT / 3)
                    continue
                current.append(trial.number)
                try:
                    run_trial(store, objective, trial, progress.say, quiet)
                except TakenOver:
                    progress.say(f"trial {trial.user_attrs['index']}: taken over by another worker")
                finally:
                    current.remove(trial.number)
                    store.leave(trial.number)
                progress.show()
    except FAILURES as error:  # not the objective's: those have failed its trial
        why = f"{store.place}: can't be written ({reason(error)}); once it can, continue with --resume"
        raise InputError(why) from error
    finally:
        progress.close()


class _Worker:
    """A worker process, and the pipe for its output.

    Each worker has its own pipe: with a shared one, a killed process could leave a lock that the others wait for.
    """

    def __init__(self, job: SweepJob, count: int, seed: int | None, quiet: bool, say: Callable[[str], None]):
        context = multiprocessing.get_context("spawn")
        self.output, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(job, count, seed, quiet, theirs))
        self.process.start()
        theirs.close()
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = MarkedLines("", say)

    def pass_on(self) -> None:
        """Print its output so far."""
        while self.output.poll() and (printed := os.read(self.output.fileno(), 1 << 16)):
            self._lines.write(self._text.decode(printed))

    def end(self) -> None:
        """Terminate it, if it hasn't ended, and print the rest of its output."""
        self.process.terminate()
        self.process.join(_TERMINATES_WITHIN)
        self.process.kill()  # a training can put off SIGTERM; its trial is repeated, so nothing is lost
        self.process.join()
        self.pass_on()
        self._lines.finish()
        self.output.close()


def _work(job: SweepJob, count: int, seed: int | None, quiet: bool, output: Connection) -> None:
    """Run a worker process; all its output goes to the parent."""
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        store = job.store(resume=True)
        try:
            run_trials(store, job.tracked(), count, seed, quiet)
        except InputError as error:
            store.stop(str(error))  # the parent prints it
            sys.exit(1)
    except (InputError, OSError) as error:
        print(f"worker {os.getpid()}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def run_processes(job: SweepJob, store: TrialStore, count: int, workers: int, seed: int | None, quiet: bool) -> None:
    """Run worker processes until the sweep is done; a killed one is replaced.

    Raises:
        InputError: the workers ended before the sweep did.
    """
    gpus = sys.modules["torch"].cuda.device_count() if job.training else 0
    places = itertools.count()
    progress = _Progress(store, count)
    running: list[_Worker] = []

    # More threads than cores would slow all workers down.
    own = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // workers))}

    def start() -> None:
        if gpus > 1:
            own["CUDA_VISIBLE_DEVICES"] = str(next(places) % gpus)
        with environment(**own):
            running.append(_Worker(job, count, seed, quiet, progress.say))

    replacements = ATTEMPTS * workers
    try:
        for _ in range(workers):
            start()
        while running:
            wait([place for worker in running for place in (worker.process.sentinel, worker.output)], timeout=1)
            for worker in list(running):
                status = worker.process.exitcode
                worker.pass_on()
                if status is None:
                    continue
                worker.end()
                running.remove(worker)
                if status < 0:
                    progress.say(f"worker {worker.process.pid} was killed (signal {-status})")
                    store.requeue_abandoned()
                    if replacements:
                        replacements -= 1
                        start()
            progress.show()
    finally:
        for worker in running:  # on Ctrl-C, the terminal has interrupted them too; `kill -INT` only this process
            worker.process.join(1)
            if worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGINT)
        for worker in running:
            worker.process.join(_TERMINATES_WITHIN)
        for worker in running:
            worker.end()
        progress.close()
        with contextlib.suppress(*FAILURES):
            store.requeue_abandoned()
    if any(row.state in ("queued", "running") for row in store.results().rows) and not store.stopped:
        raise InputError(f"{store.place}: the workers ended before the sweep did; continue with --resume")
