"""A sweep whose machines share no folder, but a database."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from asr_with_nemo.errors import InputError
from asr_with_nemo.sweeps import storage, store, workers
from asr_with_nemo.sweeps.run import run_sweep
from asr_with_nemo.sweeps.space import load_sweep
from asr_with_nemo.sweeps.storage import Database
from asr_with_nemo.sweeps.store import TakenOver
from asr_with_nemo.sweeps.workers import SweepJob
from asr_with_nemo.tracking import session
from tests.conftest import free_port
from tests.sweeps import DIARY, invoke, lines_of, lines_until, start, table

STRAIGHT = """
def score(config, report):
    report({"loss": config["x"] ** 2}, 1)
"""


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "_chosen", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)


class Postgres:
    """A server of PostgreSQL in a folder, which doesn't run as root."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.user = {"user": "nobody"} if os.geteuid() == 0 else {}
        self.port = free_port()
        self.url = f"postgresql+psycopg://course:secret@127.0.0.1:{self.port}/postgres"
        folder.mkdir()
        secret = folder.parent / "secret.txt"
        secret.write_text("secret\n")
        if self.user:
            for path in (folder, secret):
                shutil.chown(path, "nobody")
        self._run("initdb", "--username=course", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [program, "-D", str(self.folder), *arguments]
        done = subprocess.run(
            command, **self.user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k ''"
        self._run("pg_ctl", "start", "--wait", "-o", options, "-l", str(self.folder / "log"))

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "-m", "immediate")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not shutil.which("initdb"):
        pytest.skip("PostgreSQL isn't installed here")
    with tempfile.TemporaryDirectory() as above:  # pytest's own folders let no other user in
        Path(above).chmod(0o711)
        server = Postgres(Path(above) / "data")
        yield server
        with contextlib.suppress(AssertionError):
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'sweeps.db'}"
        return
    url = request.getfixturevalue("postgres").url
    yield url
    everything = sqlalchemy.MetaData()
    engine = sqlalchemy.create_engine(url)
    everything.reflect(engine)
    everything.drop_all(engine)
    engine.dispose()


def test_two_machines_without_a_shared_folder_and_one_dies(database: str, tmp_path, sweep_file, objective, processes):
    file, name = sweep_file(), f"{objective(DIARY)}:diary"
    arguments = (file, "--count", "6", "--objective", name, "--storage", database, "--store")
    processes.append(start(tmp_path, *arguments, "one/x"))
    said, _ = lines_until(processes[0], r"trial 0, worker")
    assert "secret" not in "".join(said)
    assert re.search(r"random, up to 6 trials of .* in (sqlite|postgresql).*, study x$", "".join(said), re.MULTILINE)
    processes.append(start(tmp_path, *arguments, "two/x", "--resume"))
    lines_until(processes[1], r"trial 1, worker")
    processes[0].send_signal(signal.SIGKILL)
    (tmp_path / "go").touch()
    rest = processes[1].communicate(timeout=200)[0]
    assert processes[1].returncode == 0, rest
    assert not (tmp_path / "one/x/trials.csv").exists()
    rows = table(tmp_path / "two/x")
    assert [(row["trial"], row["state"]) for row in rows] == [(str(number), "finished") for number in range(6)]
    assert [row["attempt"] for row in rows] == ["2", "1", "1", "1", "1", "1"]
    assert sorted(lines_of(tmp_path / "finished")) == sorted(row["config.x"] for row in rows)  # each once
    # A machine that comes when all is done writes the same results.
    assert start(tmp_path, *arguments, "three/x", "--resume").wait(100) == 0
    assert table(tmp_path / "three/x") == rows


def test_several_workers_that_begin_at_once_share_a_grid(database: str, sweep_file, objective):
    module = objective("def score(config, report):\n    return {'loss': config['a'] * config['b']}\n")
    file = sweep_file(method="grid", parameters={"a": {"values": [1, 2, 3]}, "b": {"values": [1, 2, 4]}})
    job = SweepJob(load_sweep(file), Path("store"), f"{module}:score", database=database)
    done = run_sweep(job, workers=3)
    pairs = [(row.config["a"], row.config["b"]) for row in done.rows]
    assert sorted(pairs) == sorted(itertools.product([1, 2, 3], [1, 2, 4]))
    assert {row.state for row in done.rows} == {"finished"}


def test_the_same_trials_as_in_a_folder(database: str, sweep_file, objective):
    sweep, name = load_sweep(sweep_file(method="bayes")), f"{objective(STRAIGHT)}:score"
    by_folder = run_sweep(SweepJob(sweep, Path("folder"), name), 14, seed=3)
    by_database = run_sweep(SweepJob(sweep, Path("database"), name, database=database), 14, seed=3)
    assert [row.config for row in by_database.rows] == [row.config for row in by_folder.rows]
    assert {path.name for path in Path("database").iterdir()} >= {"best.yaml", "trials.csv"}


def test_optunas_dashboard_opens_a_folder_and_a_database(database: str, sweep_file, objective):
    sweep, name = load_sweep(sweep_file()), f"{objective(STRAIGHT)}:score"
    folder, storage_url = SweepJob(sweep, Path("folder"), name), SweepJob(sweep, Path("db"), name, database=database)
    for job in (folder, storage_url):
        run_sweep(job, 2)
    # As its `_storage_url.py` opens them, in optuna-dashboard 0.21.0.
    opened = (
        JournalStorage(JournalFileBackend("folder/trials.journal")),
        RDBStorage(database, skip_compatibility_check=True, skip_table_creation=True),
    )
    for there in opened:
        (study,) = there.get_all_studies()
        assert [trial.state for trial in there.get_all_trials(study._study_id)] == [TrialState.COMPLETE] * 2


def test_a_worker_of_another_machine_counts_as_gone_when_it_shows_no_life(
    database: str, tmp_path: Path, sweep_file, objective, monkeypatch: pytest.MonkeyPatch
):
    clock = itertools.count()  # a second passes whenever it is looked at
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(workers, "BEAT", 0.01)
    (tmp_path / "go").touch()
    name = f"{objective(DIARY)}:diary"
    job = SweepJob(load_sweep(sweep_file()), Path("store"), name, database=database)
    monkeypatch.setattr(store, "_host", lambda: "elsewhere")
    theirs = job.store(resume=False)
    trial = theirs.claim(3, seed=0)
    monkeypatch.undo()
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    ours = job.store(resume=True)
    for _ in range(2 * int(store.LEASE)):  # while it shows life, it keeps its trial
        theirs.beat(trial.number)
        ours.requeue_abandoned()
    assert [row.state for row in ours.results().rows] == ["running"]
    done = run_sweep(job, 3, resume=True)
    assert [(row.state, row.attempt) for row in done.rows] == [("finished", 2), ("finished", 1), ("finished", 1)]
    with pytest.raises(TakenOver):  # it was only asleep
        theirs.tell(trial, TrialState.COMPLETE, 0.0)


def test_a_lock_whose_holder_died_is_taken(database: str, monkeypatch: pytest.MonkeyPatch):
    one, other = Database(database, "x"), Database(database, "x")
    one.describe("{}")
    with one.locked():
        clock = itertools.count(0, 5)
        sleeps: list[float] = []
        passing = SimpleNamespace(monotonic=lambda: next(clock), sleep=sleeps.append)
        monkeypatch.setattr(storage, "time", passing)
        with other.locked():
            assert len(sleeps) >= storage.LOCK_GRACE // 5
    monkeypatch.setattr(storage, "time", time)
    with other.locked():  # the one that had lost it has not given it away
        pass


def test_a_server_that_goes_away_costs_the_running_trial(
    postgres: Postgres, tmp_path, sweep_file, objective, processes
):
    file, name = sweep_file(), f"{objective(DIARY)}:diary"
    (tmp_path / "go-1").touch()
    arguments = (file, "--count", "3", "--objective", name, "--storage", postgres.url, "--store", "gone")
    processes.append(start(tmp_path, *arguments))
    lines_until(processes[0], r"trial 1, worker")
    postgres.stop()
    (tmp_path / "go").touch()
    rest = processes[0].communicate(timeout=200)[0]
    assert processes[0].returncode == 1
    error = rest.splitlines()[-1]
    assert re.match(r"error: postgresql.*course:\*\*\*@.*study gone: can't be written \(.*\); .*--resume$", error)
    assert "Traceback" not in rest
    postgres.start()
    assert start(tmp_path, *arguments, "--resume").wait(200) == 0
    assert [(row["state"], row["attempt"]) for row in table(tmp_path / "gone")] == [
        ("finished", "1"),
        ("finished", "2"),
        ("finished", "1"),
    ]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sweeps.db", "isn't the URL of a database.*sqlite:///FILE"),
        ("nosuch://host/name", "no driver for it.*databases"),
        ("oracle://me:secret@host/name", r"oracle://me:\*\*\*@host/name: no driver for it"),
        ("postgres://me:secret@127.0.0.1:PORT/x", r"postgresql\+psycopg://me:\*\*\*@127.*can't be used .*refused.*%40"),
        ("postgresql://me:sec@ret@host/x", "several @.*%40"),
        ("postgresql://me:secret/x@y:z@host/x", "several @.*%40|isn't the URL.*%40"),
        ("postgresql://me:9@secret/x@host/x", "several @.*%40"),
        ("postgres://me@myserver:secret@127.0.0.1:PORT/x", r"//me%40myserver:\*\*\*@127.*can't be used .*refused"),
        ("postgresql+psycopg://me:secret@127.0.0.1:PORT/x?application_name=a@b", r"\*@127.*can't be used .*refused"),
        ("postgresql://me:se@secret:word@host/x", "isn't the URL.*%40"),
        ("postgresql://127.0.0.1:PORT/x?user=me&password=secret", r"x.password=\*\*\*&user=me: can't be used"),
        ("sqlite:////no/such/folder/x.db", "can't be used .unable to open database file"),
        ("postgresql+psycopg://me:secret@127.0.0.1:PORT/x", r"me:\*\*\*@.*can't be used .*refused"),
    ],
)
def test_a_database_that_cannot_be_used(url: str, words: str, sweep_file: Callable, objective: Callable):
    url = url.replace("PORT", str(free_port()))
    name = f"{objective(STRAIGHT)}:score"
    said = invoke(sweep_file(), "--count", "1", "--objective", name, "--storage", url, "--store", "store")
    assert isinstance(said.exception, InputError)
    assert re.search(words, str(said.exception))
    assert not re.search("secret|sec@|ret@|word", str(said.exception).replace("password", ""))


@pytest.mark.parametrize("database", ["postgresql", "mysql"])
def test_a_server_that_accepts_and_then_is_silent(
    database: str, monkeypatch: pytest.MonkeyPatch, sweep_file: Callable, objective: Callable
):
    if database == "mysql":
        pytest.importorskip("pymysql", reason="pip install -e '.[databases]'")
    monkeypatch.setattr(storage, "_CONNECTS_WITHIN", 2)
    monkeypatch.setattr(storage, "_ANSWERS_WITHIN", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{database}://me:secret@127.0.0.1:{silent.getsockname()[1]}/x"
        name = f"{objective(STRAIGHT)}:score"
        said = invoke(sweep_file(), "--count", "1", "--objective", name, "--storage", url, "--store", "store")
    assert re.search(r"me:\*\*\*@127.*can't be used .*tim.*is the server up", str(said.exception))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///x.db", {"timeout"}),
        ("postgresql+psycopg://host/x", {"connect_timeout"}),
        ("postgresql+psycopg2://host/x?connect_timeout=3", set()),
        ("mysql+mysqldb://host/x", {"connect_timeout", "read_timeout"}),
        ("postgresql+pg8000://host/x", set()),  # each of these refuses what others know
        ("mysql+mysqlconnector://host/x", set()),
    ],
)
def test_a_driver_is_given_only_the_settings_that_it_knows(url: str, expected: set[str]):
    assert storage._settings(sqlalchemy.make_url(url))["connect_args"].keys() == expected


def test_mysqlclient_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "MySQLdb", SimpleNamespace())
    assert storage._parsed("mysql://me:secret@db/x").drivername == "mysql"
    monkeypatch.setitem(sys.modules, "MySQLdb", None)  # as if it weren't
    assert storage._parsed("mariadb://me:secret@db/x").drivername == "mariadb+pymysql"


def test_mysql_is_asked_by_the_driver_that_the_extra_installs(monkeypatch: pytest.MonkeyPatch):
    settings = []
    monkeypatch.setitem(sys.modules, "MySQLdb", None)  # as if it weren't installed

    def connect(**given: object) -> None:
        settings.append(given)
        raise ConnectionRefusedError(111, "Connection refused")

    errors = type("Error", (Exception,), {})
    asked = SimpleNamespace(paramstyle="format", Error=errors, VERSION=(1, 2, 0), connect=connect)
    monkeypatch.setitem(sys.modules, "pymysql", asked)
    with pytest.raises(InputError, match=r"mysql\+pymysql://me:\*\*\*@db/x: can't be used .*refused"):
        Database("mysql://me:p%40ss@db/x", "x")
    assert settings[0]["password"] == "p@ss" and settings[0]["host"] == "db" and settings[0]["read_timeout"] == 30


def test_another_sweep_of_that_name(database: str, sweep_file, objective):
    name = f"{objective(STRAIGHT)}:score"
    run_sweep(SweepJob(load_sweep(sweep_file()), Path("store"), name, database=database), 1)
    with pytest.raises(InputError, match="has this sweep already; --resume"):
        SweepJob(load_sweep(sweep_file()), Path("elsewhere/store"), name, database=database).store(resume=False)
    other = load_sweep(sweep_file(parameters={"x": {"min": 0.0, "max": 5.0}}))
    with pytest.raises(InputError, match="has another sweep.*parameters.*--store"):
        SweepJob(other, Path("elsewhere/store"), name, database=database).store(resume=True)
