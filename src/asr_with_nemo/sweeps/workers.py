"""Workers of an offline sweep: one in this process, or several processes beside it."""

import codecs
import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from asr_with_nemo.base.machine import usable_cores
from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps.results import Results, TrialRow, write_results
from asr_with_nemo.sweeps.space import Sweep
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

SHOWN_EVERY = 0.5
"""Seconds from one look at how far a sweep has come to the next."""


@dataclass(frozen=True)
class SweepJob:
    """A sweep and what it optimises: all that a worker process has to know.

    Attributes:
        sweep: the sweep.
        folder: its store, and where its results are written.
        objective: MODULE:FUNCTION; None to train.
        base: for training, the config's folder and name, and the overrides of the command line.
    """

    sweep: Sweep
    folder: Path
    objective: str | None = None
    base: tuple[str, str, tuple[str, ...]] = ("configs", "config", ())

    @property
    def about(self) -> str:
        """What is optimised, in words."""
        return self.objective or " ".join(["training", self.base[1].removesuffix(".yaml"), *self.base[2]])

    def store(self, resume: bool) -> TrialStore:
        """Its store; see `Store`."""
        return TrialStore(self.folder, self.sweep, self.about, resume)

    @cached_property
    def training(self) -> "Training | None":
        """What trains, where that is what is optimised."""
        if self.objective:
            return None
        from asr_with_nemo.sweeps.objective import Training

        return Training(self.sweep, *self.base)

    def callee(self) -> Objective:
        """What is called for each trial."""
        return self.training or load_objective(self.objective)

    def tracked(self) -> Objective:
        """The same, each trial a W&B run; a training sees to that itself."""
        return self.training or tracked_objective(self.callee(), self.sweep)

    def write(self, results: Results, folder: Path) -> Results:
        """Write the results into a folder; the best config of a training leads scripts/train.py to that very one."""

        def config(row: TrialRow) -> Any:
            return self.training.config(row.config, folder / "trials" / row.folder)

        return write_results(results, folder, config if self.training else None)


class Progress:
    """One line for the whole sweep: a bar at the foot of a terminal, elsewhere a line whenever a trial has ended.

    In a worker process there is none, for its parent has it.
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
        """Write a line above the bar."""
        with contextlib.suppress(BrokenPipeError):  # the parent was killed; the trial is done to its end
            tqdm.write(line, file=self._out)
            self._out.flush()

    def show(self) -> None:
        """Tell how far the sweep has come, if that is further than last time."""
        now = time.monotonic()
        if self._bar is None or now < self._due:
            return
        self._due = now + SHOWN_EVERY
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
        """Tell how it ended."""
        self._due = 0.0
        self.show()
        if self._bar is not None:
            self._bar.close()


def run_trials(
    store: TrialStore, objective: Objective, count: int, seed: int | None = None, quiet: bool = False
) -> None:
    """Work on a sweep until it has `count` trials, other workers' included, and none is left to be done.

    Raises:
        InputError: the sweep can't go on.
    """
    current: list[int] = []
    ended = threading.Event()

    def show_life() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a shared folder that is away for a moment
                for number in current:
                    store.beat(number)
                store.requeue_abandoned()

    thread = threading.Thread(target=show_life, daemon=True)
    thread.start()
    parent = multiprocessing.parent_process()
    progress = Progress(store, count)
    try:
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
    except OSError as error:  # an objective's own have ended its trial
        why = f"{store.folder}: can't be written to ({error.strerror}); once it can, --resume goes on"
        raise InputError(why) from error
    finally:
        progress.close()
        ended.set()
        thread.join()


class _Worker:
    """A worker process, and the pipe by which it prints.

    Each has one of its own: a process that is killed can't leave a lock behind that the others wait for.
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
        """Say what it has printed until now."""
        while self.output.poll() and (printed := os.read(self.output.fileno(), 1 << 16)):
            self._lines.write(self._text.decode(printed))

    def end(self) -> None:
        """End it, if it hasn't ended by itself, and say the rest."""
        self.process.terminate()
        self.process.join()
        self.pass_on()
        self._lines.finish()
        self.output.close()


def _work(job: SweepJob, count: int, seed: int | None, quiet: bool, output: Connection) -> None:
    """What a worker process runs; all that it prints goes to its parent."""
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        store = job.store(resume=True)
        try:
            run_trials(store, job.tracked(), count, seed, quiet)
        except InputError as error:
            store.stop(str(error))  # which the parent tells
            sys.exit(1)
    except (InputError, OSError) as error:
        print(f"worker {os.getpid()}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def run_processes(job: SweepJob, store: TrialStore, count: int, workers: int, seed: int | None, quiet: bool) -> None:
    """Keep worker processes going until they have nothing to do; one that is killed is replaced.

    Raises:
        InputError: they ended before the sweep did.
    """
    gpus = sys.modules["torch"].cuda.device_count() if job.training else 0
    places = itertools.count()
    progress = Progress(store, count)
    running: list[_Worker] = []

    # Processes that all compute on all cores wait for one another.
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
        for worker in running:  # on Ctrl-C, the terminal has told them as well
            worker.process.join(1)
        for worker in running:
            worker.end()
        progress.close()
        store.requeue_abandoned()
    if any(row.state in ("queued", "running") for row in store.results().rows) and not store.stopped:
        raise InputError(f"{store.folder}: the workers ended before the sweep did; --resume goes on")
