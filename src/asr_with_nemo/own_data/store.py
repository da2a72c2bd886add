"""Where a corpus is kept while it is prepared: a SQLite file, so that memory doesn't grow with the corpus.

It also remembers what was measured, so that the same recordings aren't read a second time. All of it can be made again:
nothing else depends on the file.
"""

import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asr_with_nemo.errors import InputError

NAME = "corpus.sqlite"
_VERSION = 1
_SUFFIXES = """wav wave flac mp3 mp2 mpga ogg oga opus m4a mp4 aac wma webm amr 3gp aif aiff aifc au snd caf w64 rf64
    voc gsm sph nist wv1 wv2"""
AUDIO = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""What the names of recordings end with."""
_TEXTS = frozenset((".txt", ".lab", ".trn"))
NO_TRANSCRIPTS = {"readme", "license", "licence", "copying", "changelog", "index", "notes", "speakers", "chapters"}
_KEPT = f"""
PRAGMA user_version = {_VERSION};
CREATE TABLE recordings (  -- what was measured; kept from one run to the next
  id TEXT PRIMARY KEY, stamp TEXT, wav TEXT, rate INTEGER, channels INTEGER, coding TEXT, source_seconds REAL,
  seconds REAL, peak REAL, clipped REAL, first REAL, last REAL, digest BLOB, cut INTEGER, trimmed REAL
);
CREATE INDEX recordings_by_wav ON recordings (wav);
"""
_MADE_ANEW = """
DROP TABLE IF EXISTS files;
DROP TABLE IF EXISTS rows;
DROP TABLE IF EXISTS problems;
DROP TABLE IF EXISTS earlier;
CREATE TABLE files (  -- target: where a link leads
  path TEXT PRIMARY KEY, kind TEXT, name TEXT, stem TEXT, target TEXT
) WITHOUT ROWID;
CREATE TABLE rows (  -- in the order of the source
  number INTEGER PRIMARY KEY, place TEXT, audio TEXT, raw TEXT, text TEXT, speaker TEXT, given TEXT, recording TEXT,
  seconds REAL, pace REAL, digest BLOB, fate TEXT, split TEXT
);
CREATE TABLE problems (number INTEGER, kind TEXT, detail TEXT, done TEXT, PRIMARY KEY (number, kind)) WITHOUT ROWID;
CREATE TABLE earlier (unit TEXT PRIMARY KEY, split TEXT) WITHOUT ROWID;
"""


class CorpusStore:
    """The tables `files`, `rows`, `problems` and `earlier` of this run, and `recordings` of this and earlier ones.

    Use it as a context manager. `db` is the connection.

    Raises:
        InputError: the file can't be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self.db = self._open()

    def _open(self) -> sqlite3.Connection:
        for attempt in range(2):
            db = None
            try:
                db = sqlite3.connect(self.path, timeout=1)
                # One run at a time. A power cut may lose it, which costs time and nothing else.
                db.executescript(
                    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; "
                    "PRAGMA cache_size = -8000;"
                )
                if db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        raise sqlite3.DatabaseError("of another version")
                    db.executescript(_KEPT)
                db.executescript(_MADE_ANEW)
                return db
            except sqlite3.OperationalError as error:
                raise InputError(f"{self.path}: can't be used ({error}); is another run at work there?") from error
            except sqlite3.DatabaseError as error:  # damaged, or of another version of this course
                if db:
                    db.close()
                if attempt:
                    raise InputError(f"{self.path}: can't be used ({error})") from error
                self.path.unlink()
        raise AssertionError("unreachable")

    def __enter__(self) -> "CorpusStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.db.commit()
        self.db.close()

    def select(self, query: str, values: Sequence = ()) -> Iterator[tuple]:
        """The rows of a query, a few at a time, so that others can be asked meanwhile."""
        cursor = self.db.cursor().execute(query, values)
        while rows := cursor.fetchmany(500):
            yield from rows

    def value(self, query: str, values: Sequence = ()) -> object:
        """The first value of a query's first row; None where it has none."""
        row = self.db.execute(query, values).fetchone()
        return row[0] if row else None

    def insert(self, table: str, rows: Iterable[Sequence], replace: bool = False) -> None:
        """Add rows to a table."""
        rows = list(rows)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
            self.db.executemany(f"{verb} INTO {table} VALUES ({marks})", rows)

    # --- The files of a folder ----------------------------------------------------------------------------------------

    def list_files(self, root: Path, leave_out: Path) -> None:
        """Note every recording and text file below a folder; links are followed, what is hidden is left out."""
        pending, seen, found = [root], set(), []
        top = root.resolve()
        while pending:
            folder = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen or folder.resolve() == leave_out:
                    continue
                seen.add((status.st_dev, status.st_ino))  # a link may lead back up
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name == "__MACOSX":
                            continue
                        if entry.is_dir():
                            pending.append(Path(entry.path))
                            continue
                        stem, suffix = os.path.splitext(entry.name)
                        kind = "audio" if suffix.lower() in AUDIO else "text" if suffix.lower() in _TEXTS else ""
                        if kind:
                            path = os.path.relpath(entry.path, root)
                            if not _is_unicode(path):  # an archive of another system
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
            except OSError:  # a folder that can't be looked into has nothing that could be read
                continue
        self.insert("files", found)
        self.db.executescript("CREATE INDEX files_by_name ON files (name); CREATE INDEX files_by_stem ON files (stem);")


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8; a name of bytes in another encoding can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean_text(text: str) -> str:
    """A text that can be kept and shown: without what no encoding has, and without zeros."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def name_key(name: str) -> str:
    """By which names are compared: macOS and Windows don't tell case, and macOS writes é as two characters."""
    return unicodedata.normalize("NFC", name).casefold()
