"""Files that hold one recording: a film beside its sound, or copies in several formats. The best of them is read."""

import os

from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.sources import Source
from asr_with_nemo.own_data.store import is_film

_BEST_FIRST = (".wav", ".flac", ".w64", ".aiff", ".aif", ".sph")
_SAME, _LONG = 0.2, 20.0
"""Seconds by which the lengths of a film and of its sound in another folder may differ, and that they have at least."""


def seconds_of_sound(audio: str | os.PathLike) -> float | None:
    """Return the seconds of a recording; None if it doesn't state them, or can't be read."""
    try:
        with open_sound(audio) as sound:
            return sound.seconds
    except InputError:
        return None


def twins_of(source: Source, path: str, stem: str, across: bool = True) -> list[str]:
    """Return the files that hold a recording, the best first.

    They are in one folder, and have the same name and different endings; A.wav and a.wav are two recordings. A film may
    also be in another folder than its sound: if no third folder has a recording of this name, and if both are long and
    of the same length.

    Args:
        source: lists the files.
        path, stem: of the recording, as in the store's table `files`.
        across: whether another folder counts.
    """
    folder = os.path.dirname(path)
    query = "SELECT path FROM files WHERE kind = 'audio' AND stem = ?"
    start = f"{folder}/" if folder else ""
    of_folder = source.store.select(
        f"{query} AND path >= ? AND path < ?", (stem, start, f"{folder}0" if folder else "\U0010ffff")
    )
    near = [one for (one,) in of_folder if os.path.dirname(one) == folder]
    near = [one for one in near if one == path or not _differ_in_case(one, path)]
    best = min(near, key=_rank, default=path)
    if across:
        few = [one for (one,) in source.store.select(f"{query} ORDER BY path LIMIT 9", (stem,))]
        far = [one for one in few if os.path.dirname(one) != folder]
        one_other = len(few) < 9 and len({os.path.dirname(one) for one in far}) == 1
        if (
            one_other
            and is_film(best) != is_film(other := min(far, key=_rank))
            and _have_one_length(source, best, other)
        ):
            near += far
    return sorted(near, key=_rank) or [path]


def is_better(path: str, other: str) -> bool:
    """Return whether a file is read rather than another: sound before films, and in one folder WAV before MP3.

    Example:
        >>> is_better("talk.m4a", "talk.avi"), is_better("talk.mp3", "talk.wav"), is_better("a/1.wav", "b/1.mp3")
        (True, False, False)
        >>> is_better("A.wav", "a.wav")
        False
    """
    if os.path.dirname(path) == os.path.dirname(other):
        return _rank(path) < _rank(other) and not _differ_in_case(path, other)
    return is_film(other) and not is_film(path)


def note(better: str, path: str) -> str:
    """Return the note that a file isn't read because of a better one."""
    near = os.path.dirname(better) == os.path.dirname(path)
    said = f"not read, since there is a {os.path.splitext(better)[1]} of the same name"
    return said if near else f"{said} and length in another folder"


def _rank(path: str) -> tuple[bool, int, str]:
    suffix = os.path.splitext(path)[1].lower()
    return is_film(path), _BEST_FIRST.index(suffix) if suffix in _BEST_FIRST else len(_BEST_FIRST), path


def _differ_in_case(path: str, other: str) -> bool:
    return os.path.dirname(path) == os.path.dirname(other) and (
        os.path.splitext(path)[1].lower() == os.path.splitext(other)[1].lower()
    )


def _have_one_length(source: Source, path: str, other: str) -> bool:
    """Return whether two files are long, and of the same length."""
    lengths = [seconds_of_sound(source.root / one) or 0.0 for one in (path, other)]
    return min(lengths) >= _LONG and abs(lengths[0] - lengths[1]) <= _SAME
