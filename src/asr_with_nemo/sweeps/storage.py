"""Where the workers of a sweep meet: a folder that all of them see, or a database.

Both hold the sweep's description, Optuna's record of the trials, a lock under which trials are claimed, and a sign of
life for each running trial.
"""

import contextlib
import importlib
import json
import os
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.errors import InputError

LOCK_GRACE = 15
"""Seconds until a lock counts as stale whose holder doesn't change."""
FAILURES = (OSError, SQLAlchemyError, StorageInternalError)
"""What is raised when a folder or a database can't be reached or written."""


def reason(error: BaseException) -> str:
    """Return in a line why a folder or a database can't be used."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    cause = getattr(cause, "orig", None) or cause
    return (cause.strerror if isinstance(cause, OSError) else "") or str(cause).strip().partition("\n")[0]


class Life(NamedTuple):
    """Sign of life of a running trial.

    Attributes:
        worker: the process that runs it: its host, pid and the time when it was created.
        beat: changes with each heartbeat.
    """

    worker: dict[str, Any]
    beat: int


class Storage(ABC):
    """What the workers of a sweep share.

    Attributes:
        place: as messages name it, without a password.
        description, record: what holds the sweep's description, and Optuna's record of the trials, as messages name it.
    """

    place: str
    description: str
    record: str

    @abstractmethod
    def trials(self) -> BaseStorage:
        """Return Optuna's record of the trials."""

    @abstractmethod
    def describe(self, description: str) -> str:
        """Keep the sweep's description, unless there is one; return the one that is kept."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock of all workers."""

    @abstractmethod
    def sign(self, number: int, worker: dict[str, Any]) -> None:
        """Note which worker runs a trial, by Optuna's number of the trial."""

    @abstractmethod
    def beat(self, number: int) -> None:
        """Update the heartbeat of a running trial."""

    @abstractmethod
    def leave(self, number: int) -> None:
        """Remove the sign of life of a trial, however it ended."""

    @abstractmethod
    def life(self, number: int) -> Life | None:
        """Return the sign of life of a trial; None if it has none."""


# --- A folder ---------------------------------------------------------------------------------------------------------


class _Journal(JournalFileBackend):
    """Optuna's journal, in which a record is written whole or not at all.

    A full disk, or a kill, can leave the start of a record as the last line. A record appended to it makes a line that
    can't be read, and Optuna stops there.
    """

    def __init__(self, path: Path, lock: JournalFileOpenLock):
        super().__init__(str(path), lock)
        self._path = path
        self._own_lock = lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        records = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with _held(self._own_lock), self._path.open("r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                end = file.read().rfind(b"\n") + 1
            file.truncate(end)
            file.seek(end)
            try:
                while records:
                    records = records[file.write(records) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise


@contextlib.contextmanager
def _held(lock: JournalFileOpenLock) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # another worker took the lock as stale
            lock.release()


class Folder(Storage):
    """A folder on this machine or a shared one.

    `sweep.json` describes the sweep, `trials.journal` is Optuna's record, and each running trial has a file in `alive/`
    whose modification time is its heartbeat. Optuna's journal is safe across processes and over NFS.
    """

    def __init__(self, folder: Path):
        """Create or open it.

        Raises:
            OSError: the folder can't be written.
        """
        self._folder = folder
        self.place, self._journal = str(folder), folder / "trials.journal"
        self.description, self.record = str(folder / "sweep.json"), str(self._journal)
        (folder / "alive").mkdir(parents=True, exist_ok=True)
        self._lock = JournalFileOpenLock(str(folder / "claim"), LOCK_GRACE)

    def trials(self) -> BaseStorage:
        """Return Optuna's journal."""
        return JournalStorage(_Journal(self._journal, JournalFileOpenLock(self.record, LOCK_GRACE)))

    def describe(self, description: str) -> str:
        """Write `sweep.json`, unless there is one; return what is in it."""
        file = Path(self.description)
        partial = file.with_name(f"{secrets.token_hex(4)}.partial")
        try:
            partial.write_text(description + "\n", encoding="utf-8")
            os.link(partial, file)  # of two workers that start at once, one creates it
        except FileExistsError:
            return file.read_text(encoding="utf-8")
        finally:
            partial.unlink(missing_ok=True)
        return description

    def locked(self) -> AbstractContextManager[None]:
        """Hold the lock file."""
        return _held(self._lock)

    def _alive(self, number: int) -> Path:
        return self._folder / "alive" / f"{number}.json"

    def sign(self, number: int, worker: dict[str, Any]) -> None:
        """Write the trial's file."""
        write_if_changed(self._alive(number), json.dumps(worker))

    def beat(self, number: int) -> None:
        """Touch the trial's file."""
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            os.utime(self._alive(number))

    def leave(self, number: int) -> None:
        """Remove the trial's file."""
        with contextlib.suppress(OSError):
            self._alive(number).unlink(missing_ok=True)

    def life(self, number: int) -> Life | None:
        """Read the trial's file."""
        try:
            beat = self._alive(number).stat().st_mtime_ns
            return Life(json.loads(self._alive(number).read_text()), beat)
        except FileNotFoundError:  # its worker was killed before it wrote the file, or has left it
            return None


# --- A database -------------------------------------------------------------------------------------------------------

_TABLES = MetaData()
_SWEEPS = Table(
    "asr_sweeps",
    _TABLES,
    Column("name", String(255), primary_key=True),
    Column("description", Text, nullable=False),
    Column("holder", String(32), nullable=False),  # of the lock; empty if nobody holds it
)
_WORKERS = Table(
    "asr_workers",
    _TABLES,
    Column("sweep", String(255), primary_key=True),
    Column("trial", Integer, primary_key=True, autoincrement=False),
    Column("worker", Text, nullable=False),
    Column("beat", BigInteger, nullable=False),
)
_TRIES = 5  # of two workers that create the tables at once, one may have to try again
_CONNECTS_WITHIN, _ANSWERS_WITHIN = 10, 30  # seconds
_ESCAPES = "In a user's name or a password, write @ as %40, : as %3A, / as %2F and % as %25"


class Database(Storage):
    """A database of PostgreSQL, MySQL or SQLite that all workers reach, with a study of Optuna's.

    Beside Optuna's tables it has two: `asr_sweeps` with the description of each sweep and the holder of its lock, and
    `asr_workers` with the worker and the heartbeat of each running trial. A lock counts as stale, like a heartbeat, by
    the observer's own clock: clocks of machines differ.
    """

    def __init__(self, url: str, name: str):
        """Open it, and create the tables if they aren't there.

        Args:
            url: of SQLAlchemy, such as postgresql://USER:PASSWORD@HOST/DATABASE.
            name: of the study.

        Raises:
            InputError: the URL isn't one, its driver isn't installed, or the database can't be reached.
        """
        self._name = name
        parsed = _parsed(url)
        shown = _shown(parsed)
        self.place = self.description = self.record = f"{shown}, study {name}"
        try:
            self._trials = _opened(parsed)
        except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
            why = str(error).splitlines()[0]
            hint = "PostgreSQL and MySQL: pip install '.[databases]'"
            raise InputError(f"--storage: {shown}: no driver for it ({why}); for {hint}") from error
        except FAILURES as error:
            raise InputError(
                f"--storage: {shown}: can't be used ({reason(error)}); is the server up, and are its name, the user "
                f"and the password right? {_ESCAPES}"
            ) from error
        self._engine = self._trials.engine
        self._row = _SWEEPS.c.name == name

    def trials(self) -> BaseStorage:
        """Return Optuna's storage in the database."""
        return self._trials

    def describe(self, description: str) -> str:
        """Insert the sweep's row, unless there is one; return its description."""
        with contextlib.suppress(sqlalchemy.exc.IntegrityError), self._engine.begin() as connection:
            row = {"name": self._name, "description": description, "holder": ""}
            connection.execute(sqlalchemy.insert(_SWEEPS).values(row))
        with self._engine.connect() as connection:
            return connection.execute(sqlalchemy.select(_SWEEPS.c.description).where(self._row)).scalar_one()

    def _take(self, holder: str, before: str) -> bool:
        """Give the lock to a holder, if the one before still has it; return whether it did."""
        with self._engine.begin() as connection:
            change = sqlalchemy.update(_SWEEPS).where(self._row, _SWEEPS.c.holder == before).values(holder=holder)
            return connection.execute(change).rowcount == 1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock in the sweep's row."""
        mine, seen, since = secrets.token_hex(8), "", time.monotonic()
        while not self._take(mine, ""):
            with self._engine.connect() as connection:
                holder = connection.execute(sqlalchemy.select(_SWEEPS.c.holder).where(self._row)).scalar_one()
            if holder != seen:
                seen, since = holder, time.monotonic()
            elif holder and time.monotonic() - since > LOCK_GRACE and self._take(mine, holder):
                break
            time.sleep(random.uniform(0.02, 0.1))
        try:
            yield
        finally:
            self._take("", mine)

    def _worker(self, number: int) -> tuple[sqlalchemy.ColumnElement[bool], ...]:
        return _WORKERS.c.sweep == self._name, _WORKERS.c.trial == number

    def sign(self, number: int, worker: dict[str, Any]) -> None:
        """Insert the trial's row."""
        row = {"sweep": self._name, "trial": number, "worker": json.dumps(worker), "beat": 0}
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.insert(_WORKERS).values(row))

    def beat(self, number: int) -> None:
        """Count on in the trial's row."""
        change = sqlalchemy.update(_WORKERS).where(*self._worker(number)).values(beat=_WORKERS.c.beat + 1)
        with self._engine.begin() as connection:
            connection.execute(change)

    def leave(self, number: int) -> None:
        """Delete the trial's row."""
        with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(sqlalchemy.delete(_WORKERS).where(*self._worker(number)))

    def life(self, number: int) -> Life | None:
        """Read the trial's row."""
        with self._engine.connect() as connection:
            found = connection.execute(
                sqlalchemy.select(_WORKERS.c.worker, _WORKERS.c.beat).where(*self._worker(number))
            ).one_or_none()
        return found and Life(json.loads(found.worker), found.beat)


def _parsed(url: str) -> sqlalchemy.URL:
    """Parse the URL of a database, with a driver that is installed if it names none.

    Raises:
        InputError: it isn't a URL, or can be read in two ways. The message has nothing of it: there may be a password.
    """
    example = "postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE"
    try:
        parsed = sqlalchemy.make_url(url)
    except (SQLAlchemyError, ValueError):  # ValueError: the port is no number
        raise InputError(
            f"--storage: isn't the URL of a database; expected one such as {example}. {_ESCAPES}"
        ) from None
    rest = f"{parsed.host or ''}/{parsed.database or ''}"  # of a password with an @, it would have a part
    if parsed.get_backend_name() != "sqlite" and "@" in rest:
        raise InputError(f"--storage: has several @, so that it isn't clear where the host begins. {_ESCAPES}")
    if parsed.drivername == "postgres":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("mysql", "mariadb") and not _has_mysqlclient():
        return parsed.set(drivername=f"{parsed.drivername}+pymysql")  # of the extra `databases`
    return parsed


def _has_mysqlclient() -> bool:
    """Return whether the driver can be imported that SQLAlchemy uses for MySQL if a URL names none."""
    try:
        importlib.import_module("MySQLdb")
    except ImportError:
        return False
    return True


def _shown(parsed: sqlalchemy.URL) -> str:
    """Return a URL as messages name it, without its passwords."""
    stars = {key: "***" for key in parsed.query if "pass" in key.lower()}
    return parsed.update_query_dict(stars).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def _settings(parsed: sqlalchemy.URL) -> dict[str, Any]:
    """Return how a driver is to wait: a server that accepts a connection and then is silent is an error in time."""
    postgresql = {"connect_timeout": _CONNECTS_WITHIN}
    mysql = {"connect_timeout": _CONNECTS_WITHIN, "read_timeout": _ANSWERS_WITHIN}
    waits = {"pysqlite": {"timeout": 60}, "psycopg": postgresql, "psycopg2": postgresql}
    waits |= {"pymysql": mysql, "mysqldb": mysql}  # other drivers refuse settings that they don't know
    own = waits.get(parsed.get_driver_name(), {})
    chosen = {key: seconds for key, seconds in own.items() if key not in parsed.query}
    return {"pool_pre_ping": True, "connect_args": chosen}


def _opened(parsed: sqlalchemy.URL) -> RDBStorage:
    """Open Optuna's storage and create all tables."""
    settings, tries = _settings(parsed), 0
    engine = sqlalchemy.create_engine(parsed, **settings)
    engine.connect().close()  # one that can't be reached needs no second try
    engine.dispose()
    while True:
        try:
            storage = RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=settings)
            with storage.engine.begin() as connection:
                for table in _TABLES.sorted_tables:
                    connection.execute(CreateTable(table, if_not_exists=True))
            return storage
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError):
            tries += 1
            if tries == _TRIES:
                raise
            time.sleep(random.uniform(0.2, 0.8))
