"""A sweep with no account: drawn, stopped early, shared by workers, killed and gone on with."""

import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import optuna
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps import results, store, workers
from asr_with_nemo.sweeps.results import draw_importance, draw_slices
from asr_with_nemo.sweeps.run import load_results, run_sweep
from asr_with_nemo.sweeps.space import STARTUP, load_sweep, preview_trials
from asr_with_nemo.sweeps.store import TakenOver, TrialStore
from asr_with_nemo.sweeps.trials import ATTEMPTS, _judge
from asr_with_nemo.sweeps.workers import SweepJob
from asr_with_nemo.tracking import session
from tests.conftest import ROOT, run_script
from tests.sweeps import DIARY, invoke, lines_of, lines_until, start, table, wait_until
from tests.sweeps.test_space import PUBLISHED

CONFIGS = ROOT / "configs"

BOWL = """
import math, os, time

def bowl(config, report):
    far = (config["x"] - 0.3) ** 2
    for epoch in range(1, 10):
        report({"loss": far + math.exp(-epoch), "epoch": epoch}, epoch)
"""


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No W&B, but where a test asks for it; and a folder of one's own to work in."""
    monkeypatch.setattr(session, "_chosen", None)
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_PROJECT", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")  # so that monkeypatch knows to set it back
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def no_rendering(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Empty files for the plots, but where these are the subject: to render them takes most of a short sweep's time."""
    if "rendered" not in request.fixturenames:

        def save(figure: Figure, path: Path) -> None:
            pyplot.close(figure)
            path.touch()

        monkeypatch.setattr(results, "_save", save)


@pytest.fixture
def rendered() -> None:
    """Plots are rendered: see `no_rendering`."""


# --- What is called ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_examples_run_with_a_function_of_ones_own(name: str, sweep_file, objective, capsys):
    sweep = load_sweep(sweep_file(PUBLISHED[name]))
    metric = sweep.metric.name if sweep.metric else "none"
    module = objective(f"""
        def score(config, report):
            for epoch in range(10):
                report({{"{metric}": len(str(config)) + 1 / (1 + epoch)}}, epoch)
        """)
    done = run_sweep(SweepJob(sweep, Path("store"), f"{module}:score"), 3, seed=3)
    assert [row.state in ("finished", "stopped early") for row in done.rows] == [True] * 3
    # The dry run's are the real ones.
    assert [row.config for row in done.rows] == preview_trials(sweep, 3, seed=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (sweep.note or "W&B: disabled, project ASR")


def test_the_dry_run_prints_a_config_a_line_and_what_has_no_effect(tmp_path: Path, sweep_file):
    file = sweep_file(PUBLISHED["a command and dotted names"])
    done = invoke(file, "--dry-run", "--count", "4", "--seed", "1")
    assert done.exit_code == 0, done.output
    assert [json.loads(line) for line in done.stdout.splitlines()] == preview_trials(load_sweep(file), 4, seed=1)
    assert done.stderr == f"{file}: has no effect here: program, command\n"
    assert {path.name for path in tmp_path.iterdir()} == {file.name}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nope:f", "--objective nope:f"),
        ("math", "--objective math: "),
        ("math:nope", "--objective math:nope"),
    ],
)
def test_an_objective_that_is_not_there(name: str, words: str, sweep_file):
    job = SweepJob(load_sweep(sweep_file()), Path("store"), name)
    with pytest.raises(InputError, match=words):
        run_sweep(job, 2)
    assert not Path("store").exists()


def test_to_join_by_an_id_needs_an_account(sweep_file, objective):
    job = SweepJob(load_sweep(sweep_file()), Path("store"), f"{objective(BOWL)}:bowl")
    with pytest.raises(InputError, match=r"--join.*--resume.*--store"):
        run_sweep(job, 2, join="course/ASR/abc")
    with pytest.raises(InputError, match=r"^runs/sweeps/abc: "):
        load_results("abc")


# --- Runs -----------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_also_over_a_resume(sweep_file, objective):
    sweep, name = load_sweep(sweep_file(method="bayes")), f"{objective(BOWL)}:bowl"
    whole = run_sweep(SweepJob(sweep, Path("whole"), name), 12, seed=5)
    parts = run_sweep(SweepJob(sweep, Path("parts"), name), 4, seed=5)
    parts = run_sweep(SweepJob(sweep, Path("parts"), name), 12, seed=5, resume=True)
    assert [row.config for row in parts.rows] == [row.config for row in whole.rows]
    other = run_sweep(SweepJob(sweep, Path("other"), name), 2, seed=6)
    assert other.rows[0].config != whole.rows[0].config


def test_bayes_learns_where_random_does_not(sweep_file, objective):
    name = f"{objective(BOWL)}:bowl"
    best, distance = {}, {}
    for method in ("bayes", "random"):
        store = run_sweep(SweepJob(load_sweep(sweep_file(method=method)), Path(method), name), 25, seed=0)
        best[method] = store.best.value
        distance[method] = np.mean([abs(row.config["x"] - 0.3) for row in store.rows[STARTUP:]])
    assert best["bayes"] < best["random"]
    assert distance["bayes"] < distance["random"]


def test_two_sweeps_do_not_share_a_store(sweep_file, objective):
    name = f"{objective(BOWL)}:bowl"
    sweep = load_sweep(sweep_file())
    run_sweep(SweepJob(sweep, Path("store"), name), 2)
    with pytest.raises(InputError, match=r"^store: .*--resume"):
        run_sweep(SweepJob(sweep, Path("store"), name), 4)
    other = load_sweep(sweep_file(name="other.yaml", parameters={"x": {"min": 0.0, "max": 2.0}}))
    for resume in (False, True):
        with pytest.raises(InputError, match=r"^store: .*parameters.*other.yaml.*--store"):
            run_sweep(SweepJob(other, Path("store"), name), 4, resume=resume)
    assert len(run_sweep(SweepJob(sweep, Path("store"), name), 3, resume=True).rows) == 3


def test_a_store_that_is_broken_or_cannot_be_written(sweep_file, tmp_path: Path):
    sweep = load_sweep(sweep_file())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"/file/store: .*--store"):
        TrialStore(tmp_path / "file" / "store", sweep, "nothing")
    TrialStore(tmp_path / "store", sweep, "nothing")
    (tmp_path / "store" / "trials.journal").write_text("no journal\nat all\n")
    with pytest.raises(InputError, match=r"trials.journal: .*--store"):
        TrialStore(tmp_path / "store", sweep, "nothing", resume=True)
    (tmp_path / "store" / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match=r"sweep.json: .*--store"):
        TrialStore(tmp_path / "store", sweep, "nothing", resume=True)


def test_a_record_that_was_cut_short_costs_nothing(sweep_file, objective):
    job = SweepJob(load_sweep(sweep_file()), Path("store"), f"{objective(BOWL)}:bowl")
    before = run_sweep(job, 2, seed=0)
    with Path("store/trials.journal").open("ab") as file:  # by a kill, in the middle of writing
        file.write(b'{"op_code":6,"worker_id":"1')
    after = run_sweep(job, 4, seed=0, resume=True)
    assert [row.config for row in after.rows[:2]] == [row.config for row in before.rows]
    assert [row.state for row in after.rows] == ["finished"] * 4
    assert all(json.loads(line) for line in Path("store/trials.journal").read_text(encoding="utf-8").splitlines())


def test_a_full_disk_ends_a_sweep_and_loses_none_of_it(sweep_file, objective):
    job = SweepJob(load_sweep(sweep_file()), Path("store"), f"{objective(BOWL)}:bowl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7_000, limits[1]))  # of a file, which here is the journal
    try:
        with pytest.raises(InputError, match=r"^store: .*File too large.*--resume"):
            run_sweep(job, 10, seed=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = job.store(resume=True).results().rows
    assert 1 < len(left) < 10 and left[0].state == "finished"
    done = run_sweep(job, 10, seed=0, resume=True)
    assert [row.state for row in done.rows] == ["finished"] * 10
    assert [row.config for row in done.rows] == preview_trials(job.sweep, 10, seed=0)
    assert done.rows[0].seconds == left[0].seconds  # not done again


def test_a_trial_that_finds_no_space_is_not_to_blame(sweep_file, objective):
    module = objective("""
        import errno, os

        def writes(config, report):
            if not os.path.exists("space"):
                try:
                    raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")
                except OSError as error:
                    raise RuntimeError("the checkpoint can't be written") from error
            return {"loss": 1}
        """)
    job = SweepJob(load_sweep(sweep_file()), Path("store"), f"{module}:writes")
    with pytest.raises(InputError, match=r"^trial 0: .*the checkpoint can't be written.*--resume"):
        run_sweep(job, 2)
    assert [(row.state, row.attempt) for row in job.store(resume=True).results().rows] == [("queued", 1)]
    Path("space").touch()
    assert [row.state for row in run_sweep(job, 2, resume=True).rows] == ["finished"] * 2


def test_what_is_no_number_is_stopped_early_and_never_the_best(sweep_file, objective):
    module = objective("""
        def diverges(config, report):
            for epoch in range(4):
                report({"loss": float("nan") if config["x"] > 0 and epoch else config["x"]})
        """)
    file = sweep_file(early_terminate={"type": "hyperband", "min_iter": 2, "eta": 1.01})
    store = run_sweep(SweepJob(load_sweep(file), Path("store"), f"{module}:diverges"), 12, seed=0)
    for row in store.rows:
        assert (row.state, len(row.history)) == (("stopped early", 2) if row.config["x"] > 0 else ("finished", 4))
    assert store.best.config["x"] < 0
    assert "loss nan" not in str(store)
    assert len(store.files) == 6


def test_a_target_or_a_cap_ends_a_sweep(sweep_file, objective):
    name = f"{objective(BOWL)}:bowl"
    file = sweep_file(metric={"name": "loss", "goal": "minimize", "target": 0.1})
    store = run_sweep(SweepJob(load_sweep(file), Path("target"), name), 50, seed=0)
    reached = [row.value <= 0.1 for row in store.rows]
    assert reached == [False] * (len(reached) - 1) + [True] and len(reached) < 50
    capped = load_sweep(sweep_file(run_cap=3))
    assert len(run_sweep(SweepJob(capped, Path("cap"), name), 50).rows) == 3


def test_a_metric_that_is_never_logged_ends_a_sweep(sweep_file, objective):
    sweep = load_sweep(sweep_file(metric={"name": "los"}))
    with pytest.raises(InputError, match=r"sweep.yaml: metric.name: trial 0 .*'los'.*epoch, loss"):
        run_sweep(SweepJob(sweep, Path("store"), f"{objective(BOWL)}:bowl"), 5)


def test_trials_that_fail(sweep_file, objective, capsys):
    module = objective("""
        def one_in_three(config, report):
            if config["x"] > 0.33:
                raise ValueError("x is too big")
            return {"loss": float("nan") if config["x"] < -0.9 else config["x"]}
        def always(config, report):
            raise RuntimeError("out of luck")
        def strange(config, report):
            return 3.0
        """)
    sweep = load_sweep(sweep_file())
    store = run_sweep(SweepJob(sweep, Path("some"), f"{module}:one_in_three"), 25, seed=2)
    for row in store.rows:
        bad = row.config["x"] > 0.33 or row.config["x"] < -0.9
        assert row.state == ("failed" if bad else "finished")
    assert {row.reason for row in store.rows} == {"", "ValueError: x is too big", "loss is nan"}
    assert store.best.value == min(row.value for row in store.rows if row.state == "finished")
    with pytest.raises(InputError, match=r"sweep.yaml: .*3 trials.*RuntimeError: out of luck"):
        run_sweep(SweepJob(sweep, Path("all"), f"{module}:always"), 25)
    with pytest.raises(InputError, match=r"^sweep-[0-9a-f]{8}: .*float"):
        run_sweep(SweepJob(sweep, Path("two"), f"{module}:strange"), 2)
    assert [row["reason"] for row in table(Path("two"))] == [
        "the objective returned float; expected a dict of metrics, or nothing"
    ] * 2


# --- Stopping early -------------------------------------------------------------------------------------------------

LEARNING = """
import math

def curve(config, report):
    # How a trial ends shows from the start, as with most learning rates.
    end = (math.log10(config["lr"]) + 2.5) ** 2
    for epoch in range(1, 28):
        report({"loss": end + (3 + end) * math.exp(-epoch / 6)}, epoch)

def end(config, report):
    end = (math.log10(config["lr"]) + 2.5) ** 2
    return {"loss": end + (3 + end) * math.exp(-27 / 6)}
"""


@pytest.mark.parametrize(
    "settings", ["{type: hyperband, min_iter: 3}", "{type: hyperband, max_iter: 27, s: 2, eta: 3}"]
)
def test_hyperband_stops_bad_trials_and_finds_no_worse(settings: str, sweep_file, objective):
    module = objective(LEARNING)
    lr = {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}}
    text = OmegaConf.to_yaml({"method": "bayes", "metric": {"name": "loss"}, "parameters": lr})
    file = sweep_file(f"{text}early_terminate: {settings}\n", name="hyperband.yaml")
    banded = run_sweep(SweepJob(load_sweep(file), Path("hyperband"), f"{module}:curve"), 30, seed=0)
    random = load_sweep(sweep_file(parameters=lr, name="random.yaml"))
    plain = run_sweep(SweepJob(random, Path("random"), f"{module}:end"), 30, seed=0)
    stopped = [row for row in banded.rows if row.state == "stopped early"]
    assert 10 <= len(stopped) < 30
    assert {len(row.history) for row in stopped} <= {3, 9, 27}
    assert sum(len(row.history) for row in banded.rows) < 30 * 27 / 2
    assert banded.best.value <= plain.best.value


@pytest.mark.parametrize(("goal", "kept"), [("minimize", {0, 1, 2}), ("maximize", {0, 3, 4, 5, 6, 7, 8})])
def test_of_the_trials_at_a_bracket_the_best_third_goes_on(goal: str, kept: set[int], sweep_file, objective):
    module = objective("""
        def level(config, report):
            for epoch in range(4):
                report({"score": config["level"]})
        """)
    file = sweep_file(
        method="grid",
        metric={"name": "score", "goal": goal},
        parameters={"level": {"values": [5, 4, 3, 6, 5.5, 7, 6.5, 6.6, 8]}},
        early_terminate={"type": "hyperband", "min_iter": 2, "max_iter": 2},
    )
    store = run_sweep(SweepJob(load_sweep(file), Path("store"), f"{module}:level"))
    # Of n values until then, the trial's own among them, the one at int(n / 3) is the threshold.
    assert {row.number for row in store.rows if row.state == "finished"} == kept


WANDB_FUNCTION = """
import os
import wandb
from asr_with_nemo import sweeps

sweep = {
    "name": "search",
    "method": "grid",
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {"net": {"parameters": {"width": {"values": [1, 2, 0]}}}, "steps": {"value": 4}},
    "early_terminate": {"type": "hyperband", "min_iter": 2},
}


def train():
    with wandb.init(project="ignored") as run:
        for step in range(run.config.steps):
            wandb.log({"loss": run.config.net["width"], "note": "text", "step": step})


sweep_id = sweeps.sweep(sweep)
before = dict(os.environ)
sweeps.agent(sweep_id, train)
print(dict(os.environ) == before)
rows = sweeps.load_results(sweep_id).rows
print([(row.state, row.config["net"]["width"], len(row.history)) for row in rows])
"""


def test_a_function_for_wandbs_agent_is_stopped_early_too(tmp_path: Path):
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", WANDB_FUNCTION],
        cwd=tmp_path,
        env=known | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "True",  # the environment is as it was
        "[('finished', 1, 4), ('stopped early', 2, 2), ('finished', 0, 4)]",
    ]


# --- Workers --------------------------------------------------------------------------------------------------------


def test_of_two_workers_one_is_killed_and_its_trial_is_done_by_another(tmp_path, sweep_file, objective, processes):
    name = f"{objective(DIARY)}:diary"
    process = start(tmp_path, sweep_file(), "--count", "6", "--workers", "2", "--objective", name, "--store", "store")
    processes.append(process)
    _, _ = lines_until(process, r"trial 0, worker")
    _, match = lines_until(process, r"trial 1, worker (\d+): ")
    wait_until(lambda: len(lines_of(tmp_path / "started")) == 2)
    os.kill(int(match[1]), signal.SIGKILL)
    lines_until(process, r"trial 1, worker (?!" + match[1] + r")\d+: ")
    (tmp_path / "go").touch()
    assert process.wait(200) == 0
    rows = table(tmp_path / "store")
    assert [(row["trial"], row["state"]) for row in rows] == [(str(number), "finished") for number in range(6)]
    assert [row["attempt"] for row in rows] == ["1", "2", "1", "1", "1", "1"]
    finished = lines_of(tmp_path / "finished")
    assert sorted(finished) == sorted({row["config.x"] for row in rows})  # each once, none lost
    assert len(lines_of(tmp_path / "started")) == 7


def test_each_line_says_whose_it_is(tmp_path, sweep_file, objective, processes):
    module = objective("""
        import sys

        def chatty(config, report):
            for epoch in range(5):
                print("epoch", epoch, end=" ", flush=True)
                print("of", config["x"])
                report({"loss": config["x"]}, epoch)
            print("warned", file=sys.stderr)
            sys.stdout.write("no end")
        """)
    arguments = ("--count", "6", "--workers", "2", "--objective", f"{module}:chatty", "--store", "store")
    process = start(tmp_path, sweep_file(), *arguments)
    processes.append(process)
    lines = process.communicate(timeout=200)[0].splitlines()
    assert process.returncode == 0, lines
    rows = table(tmp_path / "store")
    for row in rows:
        number = row["trial"]
        ours = [line for line in lines if line.startswith(f"trial {number} | ")]
        told = [f"trial {number} | epoch {epoch} of {row['config.x']}" for epoch in range(5)]
        assert ours == [*told, f"trial {number} | no end"]
    assert sum(line == "warned" for line in lines) == 6
    told = [line for line in lines if re.match(r"sweep sweep-[0-9a-f]{8}: \d of 6 trials, best loss", line)]
    best = min(rows, key=lambda row: float(row["loss"]))
    assert told[-1].endswith(f": 6 of 6 trials, best loss {float(best['loss']):.4g} (trial {best['trial']})")


def test_a_second_machine_helps_by_the_same_command(tmp_path, sweep_file, objective, processes):
    arguments = (sweep_file(), "--count", "6", "--objective", f"{objective(DIARY)}:diary", "--store", "store")
    processes.append(start(tmp_path, *arguments))
    lines_until(processes[0], r"trial 0, worker")
    processes.append(start(tmp_path, *arguments, "--resume"))
    lines_until(processes[1], r"trial \d+, worker")
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all(re.search(r"trial \d+: finished", text) for text in said)
    rows = table(tmp_path / "store")
    assert [(row["trial"], row["state"]) for row in rows] == [(str(number), "finished") for number in range(6)]
    assert sorted(lines_of(tmp_path / "finished")) == sorted(row["config.x"] for row in rows)


def test_all_is_killed_and_goes_on_where_it_was(tmp_path, sweep_file, objective, processes):
    file, name = sweep_file(), f"{objective(DIARY)}:diary"
    for number in (1, 2):
        (tmp_path / f"go-{number}").touch()
    process = start(tmp_path, file, "--count", "5", "--seed", "1", "--objective", name, "--store", "store")
    processes.append(process)
    lines_until(process, r"trial 2, worker")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(lines_of(tmp_path / "finished")) == 2
    (tmp_path / "go").touch()
    done = run_sweep(SweepJob(load_sweep(file), Path("store"), name), 5, resume=True, seed=1)
    assert [row.attempt for row in done.rows] == [1, 1, 2, 1, 1]
    assert lines_of(tmp_path / "finished") == [str(row.config["x"]) for row in done.rows]
    straight = preview_trials(load_sweep(file), 5, seed=1)
    assert [row.config for row in done.rows] == straight


def test_interrupted_it_says_how_to_go_on(tmp_path, sweep_file, objective, processes):
    file, name = sweep_file(), f"{objective(DIARY)}:diary"
    process = start(tmp_path, file, "--count", "3", "--objective", name, "--store", "store")
    processes.append(process)
    lines_until(process, r"trial 0, worker")
    wait_until(lambda: lines_of(tmp_path / "started"))
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=200)[0]
    assert process.returncode == 1
    assert re.match(r"error: interrupted.*--resume.* store$", rest.splitlines()[-1])
    store = SweepJob(load_sweep(file), Path("store"), name).store(resume=True)
    assert [(row.state, row.attempt) for row in store.results().rows] == [("queued", 1)]


def test_workers_of_another_machine_count_as_gone_when_they_show_no_life(
    tmp_path, sweep_file, objective, monkeypatch: pytest.MonkeyPatch
):
    clock = itertools.count()  # a second passes whenever it is looked at
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(workers, "BEAT", 0.01)
    (tmp_path / "go").touch()
    job = SweepJob(load_sweep(sweep_file()), Path("store"), f"{objective(DIARY)}:diary")
    theirs = job.store(resume=False)
    trial = theirs.claim(3, seed=0)
    sign = next(Path("store/alive").glob("*.json"))
    sign.write_text(json.dumps(json.loads(sign.read_text()) | {"host": "elsewhere"}))

    ours = job.store(resume=True)
    for _ in range(2 * int(store.LEASE)):  # while it shows life, it keeps its trial
        theirs.beat(trial.number)
        ours.requeue_abandoned()
    assert [row.state for row in ours.results().rows] == ["running"]
    done = run_sweep(job, 3, resume=True)
    assert [(row.state, row.attempt) for row in done.rows] == [("finished", 2), ("finished", 1), ("finished", 1)]
    # It was only asleep: what it still finds out comes too late, and is not taken for the result.
    with pytest.raises(TakenOver):
        _judge(trial, "loss")({"loss": 0.0}, None)
    with pytest.raises(TakenOver):
        theirs.tell(trial, optuna.trial.TrialState.COMPLETE, 0.0)
    assert 0.0 not in [row.value for row in done.rows]


def test_a_trial_that_kills_each_worker_is_given_up(sweep_file, objective):
    job = SweepJob(load_sweep(sweep_file()), Path("store"), f"{objective(DIARY)}:diary")
    store = job.store(resume=False)
    for _ in range(ATTEMPTS):
        trial = store.claim(1, seed=0)
        sign = next(Path("store/alive").glob("*.json"))
        sign.write_text(json.dumps(json.loads(sign.read_text()) | {"pid": 2**22 + 1}))  # no such process
        store.requeue_abandoned()
    with pytest.raises(InputError, match=r"^sweep-[0-9a-f]{8}: .*killed 3 times"):
        run_sweep(job, 1, resume=True)
    assert trial.user_attrs["attempt"] == 3


def test_a_grid_shared_by_two_workers_has_each_combination_once(sweep_file, objective):
    module = objective("def score(config, report):\n    return {'loss': config['a'] * config['b']}\n")
    file = sweep_file(method="grid", parameters={"a": {"values": [1, 2, 3]}, "b": {"values": [1, 2, 4]}})
    store = run_sweep(SweepJob(load_sweep(file), Path("store"), f"{module}:score"), workers=2)
    assert [row.config for row in store.rows] == preview_trials(store.sweep, 9)
    assert {row.state for row in store.rows} == {"finished"}


# --- What comes of it -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rendered")
def test_the_best_config_a_table_and_pictures(sweep_file, objective):
    name = f"{objective(LEARNING)}:curve"
    file = sweep_file(
        parameters={
            "lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0},
            "size": {"values": [16, 4, 8]},
            "noise": {"distribution": "normal"},
            "fixed": {"value": 3},
        },
        early_terminate={"type": "hyperband", "min_iter": 3},
    )
    store = run_sweep(SweepJob(load_sweep(file), Path("store"), name), 20, seed=0)
    files = store.files
    assert [path.name for path in files] == [
        "trials.csv",
        "best.yaml",
        "history.png",
        "curves.png",
        "importance.png",
        "slices.png",
    ]
    rows = table(Path("store"))
    finished = [row for row in rows if row["state"] == "finished"]
    top = min(finished, key=lambda row: float(row["loss"]))
    best = OmegaConf.load("store/best.yaml")
    assert [str(best[key]) for key in ("lr", "size", "noise", "fixed")] == [
        top[f"config.{key}"] for key in ("lr", "size", "noise", "fixed")
    ]
    for picture in files[2:]:
        pixels = matplotlib.image.imread(picture)
        assert pixels.shape[0] > 150 and pixels.std() > 0.05
    importance = draw_importance(store).axes[0]
    assert importance.get_yticklabels()[-1].get_text() == "lr"  # the one that matters, on top
    slices = draw_slices(store).axes
    assert [axes.get_xlabel() for axes in slices] == ["lr", "size", "noise"]
    assert slices[0].get_xscale() == "log"
    assert [label.get_text() for label in slices[1].get_xticklabels()] == ["16", "4", "8"]
    assert sum(len(points.get_offsets()) for points in slices[0].collections) == 20


def test_a_sweep_of_one_trial_has_results_too(sweep_file, objective):
    done = run_sweep(SweepJob(load_sweep(sweep_file()), Path("store"), f"{objective(BOWL)}:bowl"), 1)
    names = [path.name for path in done.files]
    assert names == ["trials.csv", "best.yaml", "history.png", "curves.png"]


def inspect(folder: Path) -> list[list[dict]]:
    """The records of W&B's offline runs below a folder, a list a run."""
    runs = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append([json.loads(line) for line in shown.stdout.splitlines()])
    return runs


def test_each_trial_is_a_run_of_wandbs_in_the_sweeps_group(tmp_path, sweep_file, objective):
    module, file = objective(BOWL), sweep_file()
    arguments = (file, "--count", "2", "--objective", f"{module}:bowl", "--store", "store")
    done = run_script("sweep.py", *arguments, cwd=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    store = SweepJob(load_sweep(file), Path("store"), f"{module}:bowl").store(resume=True)
    runs = inspect(tmp_path)
    assert len(runs) == 2
    for run in runs:
        text = json.dumps(run)
        assert store.id in text
        (row,) = [row for row in store.results().rows if str(row.config["x"]) in text]
        assert f"sweep-{row.number}" in text and str(row.value) in text
