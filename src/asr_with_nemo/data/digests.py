"""MD5 digests of files, cached in an SQLite file so that a recording is hashed once and not at each training."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

CACHE = ".digests.sqlite"
"""The cache, in the folder of the manifests."""
_BATCH = 2_000  # digests in a transaction
_WAIT = 10  # seconds for another process that writes to the cache


class Digest(NamedTuple):
    """A file's path, its size in bytes and its MD5 (16 bytes)."""

    file: Path
    size: int
    md5: bytes


def file_digests(files: Iterable[Path], folder: Path) -> Iterator[Digest]:
    """Yield the digests of files in their order; hash only those that have changed since they were last hashed.

    A file has not changed if its path, size and time of modification are the same. Several processes can use a cache at
    once. A cache that can't be read or written is left out: it costs time, never a digest.

    Args:
        files: absolute paths.
        folder: has the cache. Files in it are known by their path relative to it, so that it can be moved.

    Raises:
        OSError: a file can't be read.
    """
    with contextlib.closing(_Cache(folder)) as cache:
        for file in files:
            status = file.stat()
            name = os.path.relpath(file, folder) if file.is_relative_to(folder) else str(file)
            md5 = cache.get(name, status.st_size, status.st_mtime_ns)
            if md5 is None:
                with file.open("rb") as content:
                    md5 = hashlib.file_digest(content, new_md5).digest()
                cache.put(name, status.st_size, status.st_mtime_ns, md5)
            yield Digest(file, status.st_size, md5)


def new_md5():
    """Return a new computation of an MD5, for `hashlib.file_digest`."""
    return hashlib.md5(usedforsecurity=False)  # as W&B does, so that it works where MD5 is forbidden for secrets


class _Cache:
    """The SQLite file. After its first error, all of it is off."""

    def __init__(self, folder: Path):
        self._new: list[tuple[str, int, int, bytes]] = []
        self._connection = None
        with self._errors_ignored():
            # Commits are explicit, so that no lock is held while files are hashed.
            self._connection = sqlite3.connect(folder / CACHE, timeout=_WAIT, isolation_level=None)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS digests"
                " (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, md5 BLOB) WITHOUT ROWID"
            )

    def get(self, path: str, size: int, mtime_ns: int) -> bytes | None:
        with self._errors_ignored():
            query = "SELECT md5 FROM digests WHERE path = ? AND size = ? AND mtime_ns = ?"
            row = self._connection and self._connection.execute(query, (path, size, mtime_ns)).fetchone()
            return row[0] if row else None

    def put(self, path: str, size: int, mtime_ns: int, md5: bytes) -> None:
        self._new.append((path, size, mtime_ns, md5))
        if len(self._new) >= _BATCH:
            self._write()

    def _write(self) -> None:
        rows, self._new = self._new, []
        with self._errors_ignored():
            if self._connection and rows:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)
                self._connection.execute("COMMIT")

    def close(self) -> None:
        self._write()
        if self._connection:
            self._connection.close()

    @contextlib.contextmanager
    def _errors_ignored(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeEncodeError):  # a file's name need not be UTF-8
            if self._connection:
                self._connection.close()
            self._connection = None
