"""Files that hold one recording: a film beside its sound, or copies in several formats. The best of them is read."""

import os

from asr_with_nemo.data.sound import open_sound
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.sources import Source
from asr_with_nemo.own_data.store import is_film

_BEST_FIRST = (".wav", ".flac", ".w64", ".aiff", ".aif", ".sph")
_SAME = 1.0  # seconds by which the lengths of a film and of its sound may differ


def twins_of(source: Source, path: str, stem: str) -> list[str]:
    """Return the files of a folder that hold a recording, the best first.

    They have the same name and different endings; A.wav and a.wav are two recordings. A film may be in another folder
    than its sound, if one folder alone has sound of this name, and it has the same length.

    Args:
        source: lists the files.
        path, stem: of the recording, as in the store's table `files`.
    """
    query = "SELECT path FROM files WHERE kind = 'audio' AND stem = ? ORDER BY path"
    found = [one for (one,) in source.store.select(query, (stem,))]
    found = [one for one in found if one == path or not _differ_in_case(one, path)]
    if len(found) < 2:
        return [path]
    folders = {os.path.dirname(one) for one in found if not is_film(one)}
    if len(folders) == 1:
        best = min((one for one in found if not is_film(one)), key=_rank)
        of_sound = [one for one in found if os.path.dirname(one) in folders or _are_alike(source, one, best)]
        if path in of_sound:
            return sorted(of_sound, key=_rank)
    folder = os.path.dirname(path)
    return sorted((one for one in found if os.path.dirname(one) == folder), key=_rank) or [path]


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
    return f"not read, since there is a {os.path.splitext(better)[1]} of the same name" + (
        "" if near else f" in {os.path.dirname(better) or 'the folder above'}"
    )


def _rank(path: str) -> tuple[bool, int, str]:
    suffix = os.path.splitext(path)[1].lower()
    return is_film(path), _BEST_FIRST.index(suffix) if suffix in _BEST_FIRST else len(_BEST_FIRST), path


def _differ_in_case(path: str, other: str) -> bool:
    return os.path.dirname(path) == os.path.dirname(other) and (
        os.path.splitext(path)[1].lower() == os.path.splitext(other)[1].lower()
    )


def _are_alike(source: Source, film: str, best: str) -> bool:
    """Return whether a film has the length of a recording of sound, or nothing that could be heard."""
    lengths = []
    for one in (film, best):
        try:
            with open_sound(source.root / one) as sound:
                lengths.append(sound.seconds)
        except InputError:
            return one == film
    return None in lengths or abs(lengths[0] - lengths[1]) <= _SAME
