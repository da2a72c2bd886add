"""Reading and writing files: whole or not at all, with errors that name the file."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from asr_with_nemo.errors import InputError


def read_text(path: str | os.PathLike, kind: str, missing: str, encoding: str = "utf-8-sig") -> str:
    """Read a text file.

    Args:
        path: the file.
        kind: what it is expected to be, with its article: "a manifest".
        missing: what to say, and to do next, where it isn't there.
        encoding: by default UTF-8, with or without a mark at the start.

    Raises:
        InputError: it isn't there, or can't be read as text.
    """
    try:
        return Path(path).read_text(encoding=encoding)
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as {kind} ({error})") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike, shared: bool = False, keep_suffix: bool = False) -> Iterator[Path]:
    """Write a file or a folder in one step: under another name first, which becomes `path` when the block ends.

    Where the block raises, what it wrote is removed and `path` stays as it was. What a killed process left is
    overwritten by the next one.

    Args:
        path: the file or folder. A folder that is there already must be removed by the caller.
        shared: several processes may write this path at once; each then writes under a name of its own.

        keep_suffix: for writers that choose the format by the suffix. By default the name ends in `.partial`, so that
            no pattern such as `*.json` finds it.

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
    own = f".{os.getpid()}" if shared else ""
    partial = path.with_name(f".partial{own}-{path.name}" if keep_suffix else f".{path.name}{own}.partial")
    _remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            _remove(partial)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Probed(Exception):
    """Ends the trial of whether a file can be written."""


def write_if_changed(path: Path, content: str | bytes) -> None:
    """Write a file in one step, text as UTF-8, and not at all where it says the same already."""
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return
    with replacing(path) as partial:
        partial.write_bytes(data)


def check_output(path: str | os.PathLike) -> None:
    """Make sure, before any time is lost, that a results file can be written.

    Raises:
        InputError: it can't, or its name doesn't end in .json.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path}: a results file's name ends in .json; the utterances go beside it, in a .tsv")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(_Probed), replacing(path) as partial:
            partial.touch()
            raise _Probed
    except OSError as error:
        raise InputError(f"{path}: can't be written to ({error.strerror})") from error
