"""Reading and writing text files: whole, or with an error that names the file."""

import os
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


def write_if_changed(path: Path, content: str | bytes) -> None:
    """Write a file in one step, text as UTF-8, and not at all where it says the same already."""
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


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
        probe = path.with_name(path.name + ".partial")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: can't be written to ({error.strerror})") from error
