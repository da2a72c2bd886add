"""The common form that every layout is read into, recordings with their transcripts; and the search for a recording."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlparse

from asr_with_nemo.own_data.store import AUDIO, CorpusStore, clean_text, is_film, name_key

# Folders that hold the recordings of a table that gives only their names.
_FOLDERS = ("clips", "wavs", "wav", "audio", "audios", "data", "recordings")
# The eight digits that Label Studio puts before the name of an uploaded file.
_UPLOAD = re.compile("[0-9a-f]{8}-(?P<name>.+)")
# Suffixes to try where a table gives names without one.
_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".WAV", ".m4a", ".sph", ".aiff")
# Names that corpora give their splits.
_SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "tr", "trn"), "train"),
    **dict.fromkeys(("dev", "valid", "validation", "val", "development", "eval_dev"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "tst"), "test"),
}


@dataclass(frozen=True)
class Entry:
    """A recording and its transcript, as the source gives them.

    Attributes:
        place: the position in the source: "metadata.csv, line 3".
        audio: the recording's path, or its bytes; "" if there is none.
        name: the recording's name: its path within the source.
        text: the transcript as written.
        speaker, split: as the source names them; "" if it doesn't.
        start: seconds from the start of the recording.
        seconds: to take from there; None for the rest of the recording.
        channel: to take, from 0; None for a mix of all channels.
        problem, detail: why the entry can't be used: a kind of `quality.KINDS`, and details.
        doubt: "encoding" if its line wasn't valid UTF-8.
        doubts: further problems: kinds of `quality.KINDS` and details.
        score: how well text and sound fit, from 0 to 1, by an alignment; None without one.
        moved: seconds by which the alignment has moved the start; None if the text had no time.
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
    doubts: tuple[tuple[str, str], ...] = ()
    score: float | None = None
    moved: float | None = None


@dataclass
class Source:
    """A corpus to read, and the user's settings for reading it.

    Attributes:
        path: a folder or a file.
        store: lists the files of the folder.
        columns: role → column of a table (`tables.ROLES`).
        encoding, delimiter: of tables.
        pattern: of the recordings' names, with {label}, {speaker}, {split} and other fields.
        labels: label → transcript; None if the labels are transcripts.
        recipe: the name of a Lhotse recipe.
        tiers: the names of the tiers to read in annotations; by default, those with transcripts.
        language: of the transcripts; chooses between captions in several languages.
        scratch: a folder for intermediate files.
        split_channels: whether each channel of a recording has texts of its own.
        audio_root: where recordings may be that aren't below the source; None for nowhere.
        notes: findings of the reader, one line each.
    """

    path: Path
    store: CorpusStore
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    pattern: str = ""
    labels: Mapping[str, str] | None = None
    recipe: str = ""
    tiers: Sequence[str] = ()
    language: str = ""
    scratch: Path = Path(".")
    split_channels: bool = False
    audio_root: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The folder of the source."""
        return self.path if self.path.is_dir() else self.path.parent

    def name_of(self, path: str | os.PathLike) -> str:
        """Return a file's name: its path relative to the source, or its absolute path if it lies elsewhere."""
        path = os.path.abspath(path)
        root = os.path.abspath(self.root)
        return clean_text(os.path.relpath(path, root) if path.startswith(root + os.sep) else path)


# --- Finding a recording ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Missing:
    """A recording that wasn't found.

    Attributes:
        detail: the reason.
        problem: the kind of problem (`quality.KINDS`): no file has the name, or several do.
    """

    detail: str
    problem: Literal["no audio", "several"] = "no audio"


class Finder:
    """Finds the recording that a table names, by its path or its name."""

    def __init__(self, source: Source):
        self.source = source
        self._last = ("", "")  # the folder and the suffix of the last one found
        self._changed: dict[str, list[str]] | None = None  # names that an upload changes → their paths

    def find(self, value: str, base: Path) -> Path | Missing:
        """Return the path of a recording.

        Args:
            value: a path, absolute or relative to `base` or to the source, with or without a suffix; or a name.
            base: the folder of the table.
        """
        value = clean_text(value).strip().strip("\"'")
        if value.startswith("file://"):
            value = _path_of_url(value)
        if not value:
            return Missing("no recording is named")
        local = _of_url(value)
        # As written; with Windows' separators; as in a URL, which annotation tools write.
        for written in dict.fromkeys((value, value.replace("\\", "/"), unquote(value), local)):
            if found := self._look(written, base):
                return found
        found = self._search(local.replace("\\", "/"), base)
        upload = _UPLOAD.fullmatch(local.rsplit("/", 1)[-1])
        if isinstance(found, Missing) and found.problem == "no audio" and upload:
            return self._uploaded(upload["name"], found, base)
        return found

    def _uploaded(self, name: str, missing: Missing, base: Path) -> Path | Missing:
        """Return the recording that has a name after Label Studio's upload, which puts _ for each space."""
        if isinstance(found := self._search(name, base), Path) or found.problem == "several":
            return found
        if self._changed is None:
            self._changed = {}
            for path, known in self.source.store.select("SELECT path, name FROM files WHERE kind = 'audio'"):
                if (valid := re.sub(r"[^-\w.]", "", known.replace(" ", "_"))) != known:
                    self._changed.setdefault(valid, []).append(path)
        paths = self._changed.get(name_key(name), [])
        if len(paths) > 1:
            return Missing(f"several files may have been uploaded as {name}: {paths[0]}, {paths[1]}", "several")
        return self.source.root / paths[0] if paths else missing

    def is_audio(self, value: str, base: Path) -> bool:
        """Return whether a table's cell names a recording, judged by its suffix or by a file of that name."""
        if not value or len(value) > 1000 or "\n" in value:
            return False
        if os.path.splitext(_of_url(value))[1].lower() in AUDIO:
            return True
        return not re.search(r"\s", value) and isinstance(self.find(value, base), Path)

    def _look(self, value: str, base: Path) -> Path | None:
        places = [self._last]
        bare = os.path.splitext(value)[1].lower() not in AUDIO
        places += [(folder, suffix) for folder in ("", *_FOLDERS) for suffix in (("", *_SUFFIXES) if bare else ("",))]
        for folder, suffix in places:
            for parent in dict.fromkeys((base, self.source.root, self.source.audio_root or base)):
                path = parent / folder / f"{value}{suffix}"
                if os.path.isfile(path) and path.suffix.lower() not in (".txt", ".csv", ".tsv"):
                    self._last = (folder, suffix)
                    return path
        return None

    def _search(self, value: str, base: Path) -> Path | Missing:
        """Search all files of the source: the name must be unique, there or below `base`, or with its folders."""
        name = name_key(value.rsplit("/", 1)[-1])
        query = "SELECT path FROM files WHERE kind IN ('audio', 'special') AND {} = ? ORDER BY path LIMIT 100"
        found = list(self.source.store.select(query.format("name"), (name,)))
        if not found:
            found = list(self.source.store.select(query.format("stem"), (name,)))
            found = [row for row in found if not is_film(row[0])] or found
        if not found:
            return Missing(f"no such file: {value}")
        ending = [path for (path,) in found if f"/{name_key(path)}".endswith(f"/{name_key(value).lstrip('./')}")]
        if len(found) > 1 and len(ending) != 1:
            below = f"{self.source.name_of(base)}/"
            ending = [path for path in ending or [path for (path,) in found] if path.startswith(below)]
        if len(found) > 1 and len(ending) != 1:
            more = ", ..." if found[2:] else ""
            return Missing(f"several files have this name: {found[0][0]}, {found[1][0]}{more}", "several")
        path = self.source.root / (ending or found[0])[0]
        if path.is_file():
            return path
        return Missing(value, "special") if path.exists() else Missing(f"broken link: {value}")


def _of_url(value: str) -> str:
    """Return the path in an address; Label Studio writes its local files as `/data/local-files/?d=PATH`.

    Example:
        >>> _of_url("/data/local-files/?d=a%20b.wav"), _of_url("https://host/a.wav?key=1"), _of_url("a/b.wav")
        ('a b.wav', '/a.wav', 'a/b.wav')
    """
    if "/data/local-files/" in value and "d=" in value:
        return parse_qs(value.partition("?")[2].partition("#")[0]).get("d", [value])[0]
    return _path_of_url(value) if re.match(r"\w+://", value) else value


def _path_of_url(value: str) -> str:
    try:
        return unquote(urlparse(value).path)
    except ValueError:  # brackets that hold no address
        return value


def split_of(name: str) -> str:
    """Return the split that a name stands for; "" for none.

    Example:
        >>> split_of("train-clean-100"), split_of("cv_validation.tsv"), split_of("other")
        ('train', 'dev', '')
    """
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
    found = {_SPLIT_ALIASES[word] for word in words if word in _SPLIT_ALIASES}
    return found.pop() if len(found) == 1 else ""
