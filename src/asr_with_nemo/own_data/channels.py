"""Recordings with a speaker on each channel: which channel a row means, and the texts that lie beside for each.

A row says its channel by a column of a table, by the name of its file (`call_channel2.srt` beside `call.wav`), or as
its format does (STM, CTM, Kaldi, Lhotse). With `--channels split`, a row that doesn't say takes the channel that speaks
in its part (`data.sound.speaking_channel`).
"""

import os
import re
from collections.abc import Sequence

from asr_with_nemo.own_data.sources import Source

_ENDING = re.compile(
    r"[ _.-](?:channel|chan|ch|spk|speaker|c)?[ _-]?(?:(?P<number>[0-9])|(?P<side>left|right|l|r|a|b))"
)
_SIDES = {"left": 0, "l": 0, "a": 0, "right": 1, "r": 1, "b": 1}
_MOST = 1_000  # files whose names are compared with a recording's


def texts_of(source: Source, path: str, stem: str) -> list[tuple[int, str]]:
    """Return the files with the texts of single channels of a recording: the channel, from 0, and the path.

    Args:
        source: lists the files.
        path, stem: of the recording, as in the store's table `files`.
    """
    query = (
        "SELECT path, stem FROM files WHERE kind IN ('text', 'aligned') AND stem > ? AND stem < ? AND stem NOT IN "
        f"(SELECT stem FROM files WHERE kind = 'audio') ORDER BY path LIMIT {_MOST}"
    )
    found = []
    for one, name in source.store.select(query, (stem, f"{stem}\x7f")):
        ending = _ENDING.fullmatch(name[len(stem) :])
        if ending and os.path.dirname(one) == os.path.dirname(path):
            found.append((ending["number"] or ending["side"], one))
    first = _first([written for written, _ in found])
    return [(channel, one) for written, one in found if (channel := number_of(written, first)) is not None]


def there_are_texts(source: Source) -> list[str]:
    """Return a few files with the texts of a single channel of a recording of two or more."""
    for path, stem in source.store.select("SELECT path, stem FROM files WHERE kind = 'audio' ORDER BY path LIMIT 100"):
        found = texts_of(source, path, stem)
        if len({channel for channel, _ in found}) > 1:
            return [one for _, one in found[:3]]
    return []


def numbering(values: Sequence[str]) -> int | None:
    """Return the number that a column gives the first channel, 0 or 1; None if its values aren't channels.

    Example:
        >>> numbering(["0", "1"]), numbering(["A", "B"]), numbering(["news", "sport"])
        (0, 1, None)
    """
    first = _first(values)
    is_channel = values and all(number_of(value, first) is not None for value in values)
    return first if is_channel else None


def number_of(written: str, first: int = 1) -> int | None:
    """Return a channel, from 0, as it is written: a number, a letter or a side; None for anything else.

    Args:
        written: the text.
        first: the number of the first channel.

    Example:
        >>> number_of("2"), number_of("2", first=0), number_of("Left"), number_of("news")
        (1, 2, 0, None)
    """
    written = written.strip().casefold()
    if written in _SIDES:
        return _SIDES[written]
    if not re.fullmatch(r"[0-9]{1,2}(\.0)?", written):
        return None
    channel = int(float(written)) - first
    return channel if channel >= 0 else None


def _first(values: Sequence[str]) -> int:
    return 0 if any(value.strip() in ("0", "0.0") for value in values) else 1
