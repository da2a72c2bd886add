"""What a corpus is read into: entries, each a recording and what was said in it; and how a named recording is found."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

from asr_with_nemo.own_data.store import AUDIO, CorpusStore, clean_text, name_key

FOLDERS = ("clips", "wavs", "wav", "audio", "audios", "data", "recordings")
"""Where recordings lie beside a table that has only their names."""
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".WAV", ".m4a", ".sph", ".aiff")
"""What is tried where a table has names without suffixes."""
SPLITS = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val", "development", "eval_dev"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "tst"), "test"),
}
"""Names that corpora give their parts."""


@dataclass(frozen=True)
class Entry:
    """A recording and what was said in it, as a source has them.

    Attributes:
        place: where it stands: "metadata.csv, line 3".
        audio: the recording's path, or its bytes; "" where there is none.
        name: how the recording is called: its path within the source.
        text: the transcript as it was written.
        speaker, split: as the source names them; "" where it doesn't.
        start: seconds from the start of the recording; `seconds` to take, None for all the rest.
        channel: to take, from 0; None for a mix of all.
        problem, detail: what is wrong, a kind of `quality.KINDS`, if the entry can't be used.
        doubt: "encoding" where its line wasn't UTF-8.
    """

    place: str
    audio: str | bytes = ""
    name: str = ""
    text: str = ""
    speaker: str = ""
    split: str = ""
    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None
    problem: str = ""
    detail: str = ""
    doubt: str = ""


@dataclass
class Source:
    """A corpus to be read, and what the user said of it.

    Attributes:
        path: a folder or a file.
        store: with the files of the folder.
        columns: role → column of a table (`tables.ROLES`).
        encoding, delimiter: of tables.
        pattern: of the recordings' names, with {label}, {speaker}, {split} and others.
        labels: label → transcript; None for labels that are transcripts.
        recipe: a recipe of Lhotse's.
        scratch: a folder for what is made on the way.
        notes: what the reader found out, a line each.
    """

    path: Path
    store: CorpusStore
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    pattern: str = ""
    labels: Mapping[str, str] | None = None
    recipe: str = ""
    scratch: Path = Path(".")
    notes: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The folder of the source."""
        return self.path if self.path.is_dir() else self.path.parent

    def name_of(self, path: str | os.PathLike) -> str:
        """How a file is called: relative to the source where it lies in it."""
        path = os.path.abspath(path)
        root = os.path.abspath(self.root)
        return clean_text(os.path.relpath(path, root) if path.startswith(root + os.sep) else path)


# --- Where a recording is ---------------------------------------------------------------------------------------------


class Finder:
    """Finds the recording that a table names, in whatever way it names it."""

    def __init__(self, source: Source):
        self.source = source
        self._last = ("", "")  # the folder and the suffix that led to the last one

    def find(self, value: str, base: Path) -> tuple[Path | None, str]:
        """The recording of that name, or None and why there is none.

        Args:
            value: a path, absolute or relative to `base` or to the source, with or without a suffix; or a name.
            base: the folder of the table.
        """
        value = clean_text(value).strip().strip("\"'")
        if value.startswith("file://"):
            value = unquote(urlparse(value).path)
        if not value:
            return None, "no recording is named"
        for written in dict.fromkeys((value, value.replace("\\", "/"))):
            if found := self._look(written, base):
                return found, ""
        return self._ask(value.replace("\\", "/"))

    def is_audio(self, value: str, base: Path) -> bool:
        """Whether a cell of a table leads to a recording, or looks as if it did."""
        if not value or len(value) > 1000 or "\n" in value:
            return False
        if os.path.splitext(value)[1].lower() in AUDIO:
            return True
        return not re.search(r"\s", value) and self.find(value, base)[0] is not None

    def _look(self, value: str, base: Path) -> Path | None:
        places = [self._last]
        bare = os.path.splitext(value)[1].lower() not in AUDIO
        places += [(folder, suffix) for folder in ("", *FOLDERS) for suffix in (("", *SUFFIXES) if bare else ("",))]
        for folder, suffix in places:
            for parent in dict.fromkeys((base, self.source.root)):
                path = parent / folder / f"{value}{suffix}"
                try:
                    if path.is_file() and path.suffix.lower() not in (".txt", ".csv", ".tsv"):
                        self._last = (folder, suffix)
                        return path
                except (OSError, ValueError):  # a name too long for any file
                    return None
        return None

    def _ask(self, value: str) -> tuple[Path | None, str]:
        """Look among all files of the source: the name has to be there once, or the folders before it tell which."""
        name = name_key(value.rsplit("/", 1)[-1])
        query = "SELECT path FROM files WHERE kind = 'audio' AND {} = ? ORDER BY path LIMIT 100"
        found = list(self.source.store.select(query.format("name"), (name,)))
        found = found or list(self.source.store.select(query.format("stem"), (name,)))
        if not found:
            return None, f"no such file: {value}"
        ending = [path for (path,) in found if f"/{name_key(path)}".endswith(f"/{name_key(value).lstrip('./')}")]
        if len(found) > 1 and len(ending) != 1:
            return None, f"several files are named so: {found[0][0]}, {found[1][0]}" + (", ..." if found[2:] else "")
        path = self.source.root / (ending or found[0])[0]
        return (path, "") if path.is_file() else (None, f"a link to what isn't there: {value}")


def missing_problem(reason: str) -> str:
    """The kind of problem of an entry whose recording `Finder.find` hasn't found, by the reason that it gave."""
    return "several" if reason.startswith("several") else "no audio"


def split_of(name: str) -> str:
    """The split that a part of a corpus is by its name: "train-clean-100", "cv_validation.tsv"; "" for none."""
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else ""
