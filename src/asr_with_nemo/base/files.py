"""Read and write files: atomic writes, locks, and errors that name the file."""

import contextlib
import errno
import filecmp
import gzip
import hashlib
import io
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from asr_with_nemo.errors import InputError

LOCK = ".lock"
"""The file in a folder by which one process at a time works in it."""
_LONGEST_NAME = 150  # bytes; to a longer one, of 255 that most systems allow, hardly anything can be added
_SLACK = 64 * 1024**2
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def read_text(path: str | os.PathLike, kind: str, missing: str, encoding: str = "utf-8-sig") -> str:
    """Read a text file.

    Args:
        path: the file.
        kind: the expected kind of file, with its article: "a manifest".
        missing: the error's text, with the next step, if there is no such file.
        encoding: by default UTF-8, with or without a byte order mark.

    Raises:
        InputError: there is no such file, or it can't be read as text.
    """
    with reading(path, kind, missing):
        return Path(path).read_text(encoding=encoding)


@contextlib.contextmanager
def reading(path: str | os.PathLike, kind: str, missing: str) -> Iterator[None]:
    """Explain the errors of a block that reads a file of text (`read_text`).

    Raises:
        InputError: there is no such file, or it can't be read as text.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as {kind} ({error})") from error


def unpacked_limit(path: str | os.PathLike, growth: int) -> int:
    """Return the most bytes that a file of unknown origin may unpack to: some times its own, and 64 MiB."""
    return growth * os.path.getsize(path) + _SLACK


class _Unpacked(io.RawIOBase):
    """A gzip file, which ends with an error where it unpacks to more than a few times its size."""

    def __init__(self, path: Path, growth: int):
        self._path, self._packed = path, gzip.GzipFile(path, "rb")
        self._left = unpacked_limit(path, growth)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        content = self._packed.read1(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise InputError(
                f"{self._path}: refused, because it unpacks to so much more than its size that it could fill the "
                "memory; if it is what you expect, unpack it: gunzip -k"
            )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._packed.close()
        super().close()


def open_gzip(path: str | os.PathLike, growth: int = 50) -> io.BufferedReader:
    """Open a gzip file of unknown origin for reading, as bytes.

    Args:
        path: the file.
        growth: how many times its size, and 64 MiB, it may unpack to.

    Raises:
        InputError: while it is read, if it unpacks to more.
        OSError, EOFError, zlib.error: it can't be read, or is damaged.
    """
    return io.BufferedReader(_Unpacked(Path(path), growth), 1 << 16)


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike, shared: bool = False, keep_suffix: bool = False, only_if_changed: bool = False
) -> Iterator[Path]:
    """Write a file or a folder atomically: under a temporary name, renamed to `path` when the block ends.

    If the block raises, the temporary file is removed and `path` stays as it was. Leftovers of a killed process
    are overwritten by the next call.

    Args:
        path: the file or folder. The caller must remove an existing folder.
        shared: several processes may write this path at once; each uses a temporary name of its own.
        keep_suffix: keep the suffix, for writers that choose the format by it. By default the temporary name ends in
            `.partial`, so that no pattern such as `*.json` matches it.
        only_if_changed: leave a file with the same content untouched, its date included.

    Yields:
        the path to write to, in the same folder.

    Raises:
        OSError: it can't be written or renamed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing(folder / "note.txt") as partial:
        ...     _ = partial.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['note.txt']
    """
    path = Path(path)
    own = f".{platform.node()}.{os.getpid()}" if shared else ""  # containers may have equal numbers
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + path.suffix
    partial = path.with_name(f".partial{own}-{name}" if keep_suffix else f".{name}{own}.partial")
    _remove(partial)
    try:
        yield partial
        if only_if_changed and path.is_file() and filecmp.cmp(partial, path, shallow=False):
            partial.unlink()
        else:
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to raise
            _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_if_changed(path: Path, content: str | bytes) -> None:
    r"""Write a file atomically, text as UTF-8; a file with the same content is left untouched.

    What isn't Unicode, as in a file's name of another encoding, is written as \udcXX.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return
    with replacing(path) as partial:
        partial.write_bytes(data)


def make_writable(folder: Path) -> None:
    """Make a folder if there is none, and check that a file can be written into it.

    Raises:
        OSError: it can't be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_no_input(output: str | os.PathLike, inputs: Iterable[str | os.PathLike]) -> None:
    """Check that a command doesn't write over a file that it reads.

    Raises:
        InputError: the output is one of the inputs.
    """
    name = os.path.basename(output).casefold()
    if not os.path.exists(output):
        return
    for one in inputs:
        if os.path.basename(one).casefold() == name and os.path.exists(one) and os.path.samefile(one, output):
            raise InputError(f"{output}: is read by this command, which would write over it; name another file")


def check_output(path: str | os.PathLike) -> None:
    """Check, before a long computation, that a results file can be written.

    Raises:
        InputError: it can't be written, or its name doesn't end in .json.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path}: a results file's name ends in .json; the utterances are written next to it, as .tsv")
    try:
        make_writable(path.parent)
    except OSError as error:
        raise InputError(f"{path}: can't be written to ({error.strerror})") from error


@contextlib.contextmanager
def alone_in(folder: Path, doing: str, log: Callable[[str], object] = print, name: str = "") -> Iterator[None]:
    """Work in a folder, or on one file of it, as the only process; while another one does, wait, and say so.

    The lock is the operating system's: it ends with the process, however that ends.

    Args:
        folder: is made if there is none.
        doing: what the other process does, for the message: "is training".
        log: called with the message.
        name: of the file, if the rest of the folder is free for others.

    Raises:
        OSError: the folder can't be made or written to.
    """
    from filelock import FileLock, Timeout  # the server's image doesn't have it

    folder.mkdir(parents=True, exist_ok=True)
    own = f".{name}{LOCK}" if name else LOCK
    note = folder / f"{own}ed_by"
    lock = FileLock(folder / own)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = note.read_text(encoding="utf-8") if note.is_file() else "another process"
        log(f"{folder / name}: {holder} {doing} here; waiting for it to end")
        lock.acquire(poll_interval=0.5)
    try:
        note.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # whoever waits for the removed file locks a new one
            os.unlink(lock.lock_file)
        lock.release()


def is_full(error: OSError) -> bool:
    """Return whether a file couldn't be written because the disk is full or read-only."""
    return error.errno in _NO_ROOM or error.errno == errno.EROFS


def place_of(error: OSError, otherwise: str | os.PathLike) -> str:
    """Return the file that couldn't be written; of two, as when one is copied, the second."""
    return str(error.filename2 or error.filename or otherwise)


def reason_of(error: OSError) -> str:
    """Return what went wrong with a file in words, and the next step where the disk is full or read-only."""
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return f"{reason}; free some space, then run again"
    if error.errno == errno.EROFS:
        return f"{reason}; name a place that can be written to"
    return reason
