"""Lists and tables that may be larger than memory."""

import hashlib
import os
import pickle
import sqlite3
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, overload

from asr_with_nemo.errors import InputError

Item = TypeVar("Item")
Other = TypeVar("Other")

IN_MEMORY = 20_000
"""So many items stay in memory."""


class Spool(Sequence[Item]):
    """A list that grows at its end and keeps only its first items in memory, the others in a temporary file.

    The file has no name, or is deleted with the list; nobody else can read it, so unpickling its items is safe.

    Args:
        items: the first ones.
        in_memory: number of items that stay in memory; by default `IN_MEMORY`.

    Example:
        >>> numbers = Spool(range(5), in_memory=2)
        >>> numbers[3], numbers[-1], list(numbers)
        (3, 4, [0, 1, 2, 3, 4])
    """

    def __init__(self, items: Iterable[Item] = (), in_memory: int | None = None):
        self._first: list[Item] = []
        self._in_memory = IN_MEMORY if in_memory is None else in_memory
        self._places, self._end = array("q"), 0  # of the pickled items in the file, in bytes
        self._file = None
        self._lock = threading.Lock()  # a place and what is read there
        self.extend(items)

    def append(self, item: Item) -> None:
        """Add an item, which must be one that pickle takes, at the end.

        Raises:
            OSError: the temporary file can't be written, as on a full disk.
        """
        if len(self._first) < self._in_memory:
            self._first.append(item)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the list
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._file.seek(self._end)
            self._file.write(data)
            self._places.append(self._end)
            self._end += len(data)

    def extend(self, items: Iterable[Item]) -> None:
        """Add items at the end."""
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return len(self._first) + len(self._places)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # of a negative index, too
        return self._first[number] if number < len(self._first) else self._load(number - len(self._first))

    def __iter__(self) -> Iterator[Item]:
        yield from self._first
        for number in range(len(self._places)):
            yield self._load(number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None

    def _load(self, number: int) -> Item:
        with self._lock:
            self._file.seek(self._places[number])
            return pickle.load(self._file)


def mapped(items: Sequence[Item], function: Callable[[Item], Other]) -> Sequence[Other]:
    """Return the list of what a function makes of each item, made whenever an item is asked for.

    Example:
        >>> mapped([3, 4], str)[1]
        '4'
    """
    return _Mapped(items, function)


class _Mapped(Sequence[Other]):
    def __init__(self, items: Sequence[Item], function: Callable[[Item], Other]):
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._function(item) for item in self._items[index]]
        return self._function(self._items[index])

    def __iter__(self) -> Iterator[Other]:
        return map(self._function, self._items)


class Numbers:
    """A table of texts with a number each, in a temporary database of SQLite that is deleted with it.

    The keys are kept as digests of 16 bytes, and but for some megabytes not in memory. Each call raises an InputError
    that names the temporary folder if its disk is full.

    Example:
        >>> numbers = Numbers()
        >>> numbers["one"] = 1
        >>> numbers.get("one"), numbers.get("two"), "one" in numbers
        (1, None, True)
    """

    def __init__(self):
        self._table = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._execute("CREATE TABLE numbers (key BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self._execute("BEGIN")  # for good: nobody else reads it

    def __setitem__(self, key: str, number: int) -> None:
        self._execute("REPLACE INTO numbers VALUES (?, ?)", (_digest(key), number))

    def get(self, key: str) -> int | None:
        """Return the number of a text; None if it has none."""
        found = self._execute("SELECT number FROM numbers WHERE key = ?", (_digest(key),)).fetchone()
        return found[0] if found else None

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def _execute(self, statement: str, values: tuple = ()) -> sqlite3.Cursor:
        try:
            return self._table.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise InputError(
                f"{_folder_of_sqlite()}: the temporary folder can't take a table any more ({error}); free some space "
                "there, or set TMPDIR to a folder on another disk, then run again"
            ) from error


def _folder_of_sqlite() -> str:
    """Return the folder of SQLite's temporary files, which isn't always Python's."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")
    return next((folder for folder in named if folder and os.path.isdir(folder)), tempfile.gettempdir())


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).digest()
