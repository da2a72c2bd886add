"""A SQLite file that holds a corpus during preparation, so that memory use doesn't grow with the corpus.

It is also a cache of the recordings' measurements for the next run. It can be deleted at any time: nothing else depends
on it.
"""

import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asr_with_nemo.data.sound import FILMS, SUFFIXES, is_recording
from asr_with_nemo.errors import InputError

NAME = "corpus.sqlite"
_VERSION = 4
AUDIO = SUFFIXES
"""Suffixes of audio files."""
ALIGNED = frozenset((".srt", ".vtt", ".textgrid", ".eaf", ".stm", ".ctm", ".json", ".csv", ".tsv"))
"""Suffixes of files that may hold texts with times."""
_KINDS = dict.fromkeys((".txt", ".lab", ".trn"), "text") | dict.fromkeys(ALIGNED, "aligned")
NO_TRANSCRIPTS = {"readme", "license", "licence", "copying", "changelog", "index", "notes", "speakers", "chapters"}
"""Stems of text files that hold no transcripts."""
_KEPT = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE recordings (  -- measurements; kept from one run to the next
  id TEXT PRIMARY KEY, stamp TEXT, wav TEXT, rate INTEGER, channels INTEGER, coding TEXT, source_seconds REAL,
  seconds REAL, peak REAL, clipped REAL, first REAL, last REAL, digest BLOB, cut INTEGER, trimmed REAL,
  unfinished INTEGER, talkers INTEGER, taken INTEGER
);
CREATE INDEX recordings_by_wav ON recordings (wav);
"""
_MADE_ANEW = """
DROP TABLE IF EXISTS files;
DROP TABLE IF EXISTS rows;
DROP TABLE IF EXISTS problems;
DROP TABLE IF EXISTS earlier;
CREATE TABLE files (  -- target: of a symbolic link
  path TEXT PRIMARY KEY, kind TEXT, name TEXT, stem TEXT, target TEXT
) WITHOUT ROWID;
CREATE TABLE rows (  -- in the order of the source
  number INTEGER PRIMARY KEY, place TEXT, audio TEXT, raw TEXT, text TEXT, speaker TEXT, given TEXT, recording TEXT,
  seconds REAL, pace REAL, digest BLOB, fate TEXT, split TEXT, start REAL, score REAL, moved REAL
);
CREATE TABLE problems (number INTEGER, kind TEXT, detail TEXT, done TEXT, PRIMARY KEY (number, kind)) WITHOUT ROWID;
CREATE TABLE earlier (unit TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID;
"""


class CorpusStore:
    """The SQLite tables of a preparation: `files`, `rows`, `problems` and `earlier` of this run, `recordings` of all.

    Use it as a context manager. `db` is the connection.

    Raises:
        InputError: the file can't be written, or another process has it open.
    """

    def __init__(self, path: Path):
        self.path = path
        self.db = self._open()

    def _open(self) -> sqlite3.Connection:
        for attempt in range(2):
            db = None
            try:
                db = sqlite3.connect(self.path, timeout=1)
                # One run at a time. A power cut may lose the file, which costs only time.
                db.executescript(
                    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; "
                    "PRAGMA cache_size = -8000;"
                )
                if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        raise sqlite3.DatabaseError("the file has another version")
                    db.executescript(_KEPT)
                db.executescript(_MADE_ANEW)
                return db
            except sqlite3.OperationalError as error:
                raise InputError(
                    f"{self.path}: can't be opened ({error}); if another run is using it, wait until it ends"
                ) from error
            except sqlite3.DatabaseError as error:  # damaged, or written by another version of the course
                if db:
                    db.close()
                if attempt:
                    raise InputError(f"{self.path}: can't be opened ({error}); delete it and run again") from error
                self.path.unlink()
        raise AssertionError("unreachable")

    def __enter__(self) -> "CorpusStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.db.commit()
        self.db.close()

    def select(self, query: str, values: Sequence = ()) -> Iterator[tuple]:
        """Yield the rows of a query. They are fetched in batches, so that other queries can run in between."""
        cursor = self.db.cursor().execute(query, values)
        while rows := cursor.fetchmany(500):
            yield from rows

    def value(self, query: str, values: Sequence = ()) -> object:
        """Return the first value of the first row of a query; None without a row."""
        row = self.db.execute(query, values).fetchone()
        return row[0] if row else None

    def insert(self, table: str, rows: Iterable[Sequence], replace: bool = False) -> None:
        """Insert rows into a table; a row whose key exists is ignored, or replaced."""
        rows = list(rows)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
            self.db.executemany(f"{verb} INTO {table} VALUES ({marks})", rows)

    # --- The files of a folder ----------------------------------------------------------------------------------------

    def list_files(self, root: Path, leave_out: Path) -> None:
        """List every file of sound or text below a folder; links are followed, hidden files are skipped.

        Pipes, sockets and devices are listed by a kind of their own: opening one can wait for ever.

        Args:
            root: the folder.
            leave_out: a resolved folder that is skipped.
        """
        pending, seen, found = [root], set(), []
        top = root.resolve()
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen or folder.resolve() == leave_out:
                    continue
                seen.add((status.st_dev, status.st_ino))  # a link may lead to a parent folder
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name == "__MACOSX":
                            continue
                        if entry.is_dir():
                            pending.append(Path(entry.path))
                            continue
                        stem, suffix = os.path.splitext(entry.name)
                        kind = "audio" if is_recording(entry.path) else _KINDS.get(suffix.lower(), "")
                        if kind:
                            path = os.path.relpath(entry.path, root)
                            if not entry.is_file() and os.path.exists(entry.path):
                                kind = "special"
                            if not _is_unicode(path):  # from an archive of another system
                                path, kind = clean_text(path), "unnameable"
                            target = os.path.relpath(os.path.realpath(entry.path), top) if entry.is_symlink() else ""
                            found.append(
                                (
                                    path,
                                    kind,
                                    name_key(clean_text(entry.name)),
                                    name_key(clean_text(stem)),
                                    clean_text(target),
                                )
                            )
                        if len(found) >= 1000:
                            self.insert("files", found)
                            found.clear()
            except OSError:  # a folder that can't be listed has no readable files
                continue
        self.insert("files", found)
        self.db.executescript("CREATE INDEX files_by_name ON files (name); CREATE INDEX files_by_stem ON files (stem);")


def is_film(path: str) -> bool:
    """Return whether a file may have pictures: beside one of sound of the same stem, it is the same once more."""
    return os.path.splitext(path)[1].lower() in FILMS


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8; a file name in another encoding can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean_text(text: str) -> str:
    """Return a text that can be encoded as UTF-8: without lone surrogates and without NUL characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def name_key(name: str) -> str:
    """Return the form by which file names are compared: Unicode NFC, case folded.

    File names on macOS and Windows are case-insensitive, and macOS writes é as two characters.

    Example:
        >>> name_key("Cafe\u0301.WAV")
        'café.wav'
    """
    return unicodedata.normalize("NFC", name).casefold()
