"""Differences between texts and what a model writes that are only of spelling: capitals, punctuation, figures."""

import unicodedata
from collections.abc import Sequence

from asr_with_nemo.data.manifest import shortened


def errors_between(text: str, heard: str, by_letters: bool = False) -> int:
    """Return the errors of what was heard, in words or in characters."""
    import kaldialign

    units = (list, list) if by_letters else (str.split, str.split)
    return kaldialign.edit_distance(units[0](text), units[1](heard))["total"]


def spelling_notes(
    pairs: Sequence[tuple[str, str]], by_letters: bool = False, when: str = "", advice: str = "", of_figures: str = ""
) -> list[str]:
    """Say where texts are written otherwise than a model writes: capitals and punctuation, or figures.

    Capitals and punctuation are named if they are three errors or more, and a fifth of all.

    Args:
        pairs: the texts, and what the model writes for them.
        by_letters: count errors in characters.
        when: the errors were counted, for the message.
        advice: what to do about capitals and punctuation.
        of_figures: what to do about texts with figures.
    """
    notes = []
    errors = sum(errors_between(*pair, by_letters) for pair in pairs)
    plain = errors and sum(errors_between(_plain(text), _plain(heard), by_letters) for text, heard in pairs)
    less = errors - plain
    if less >= 3 and less >= 0.2 * errors:
        same = (pair for pair in pairs if pair[0] != pair[1] and _plain(pair[0]) == _plain(pair[1]))
        example = next(same, None)
        shown = f" (text {shortened(example[0], 60)!r}, model {shortened(example[1], 60)!r})" if example else ""
        notes.append(
            f"{less:,} of the {errors:,} errors{when and ' '}{when} are only capitals, punctuation or hyphens"
            f"{shown}{advice and ': '}{advice}"
        )
    figures = [sum(any(map(str.isdigit, pair[side])) for pair in pairs) for side in (0, 1)]
    if figures[0] and not figures[1]:
        said = f"{figures[0]:,} of {len(pairs):,} texts have figures, and the model writes none"
        notes.append(f"{said}{of_figures and ': '}{of_figures}")
    elif figures[1] and not figures[0]:
        notes.append(f"the model writes figures in {figures[1]:,} of {len(pairs):,} texts, where the texts have words")
    return notes


def _plain(text: str) -> str:
    """Return a text without capitals and punctuation.

    Example:
        >>> _plain("Well-known: Don't!")
        'well known dont'
    """
    spaced = "".join(" " if unicodedata.category(sign) == "Pd" else sign for sign in text.casefold())
    return " ".join("".join(sign for sign in spaced if unicodedata.category(sign)[0] != "P").split())
