"""The checks of 16_your_own_data's tasks."""

import unicodedata
from collections.abc import Iterable, Mapping

from asr_with_nemo.teaching.tasks import Wrong, number

_SECONDS = 63.0
"""Of the recording that `a_table_of_times` is about."""
_UNIT = 0.01
"""Seconds in one of its units."""
_TIMES = (
    (120, 610, "good morning everybody and welcome back to the second part"),
    (655, 1240, "last week we looked at how a recording becomes a spectrogram"),
    (1310, 1765, "today we train a network on forty minutes of speech"),
    (1820, 2050, "are there any questions so far"),
    (2490, 2980, "yes the recordings are all from people reading aloud"),
    (3060, 3720, "and the test set has ten speakers whom the network has never heard"),
    (3800, 4415, "so what it gets wrong tells us about the next person who speaks"),
    (4530, 5050, "please open the notebook and run the first three cells"),
    (5120, 5980, "we meet again in ten minutes and look at what the loss has done until then"),
)
_TYPED = {
    "train": ["Anna", "bob", "Chloé", "dora", "Eleni ", "frank", "Georg", "hana"],
    "dev": ["ivan", "Jo"],
    "test": ["anna b", "BOB", "Chloe\u0301", "eleni", "kim"],
}
"""Split → speakers as somebody has typed them. "anna b" is somebody else than "Anna"."""


def a_table_of_times() -> list[dict[str, int | str]]:
    """Return what was said in a recording of 63 s, with start and end in a unit that nobody has written down."""
    return [{"start": start, "end": end, "text": text} for start, end, text in _TIMES]


def task_1(answer: object) -> str:
    """Check the seconds in one unit of `a_table_of_times`."""
    otherwise = "Give the seconds in one unit, a number above 0: 1 for seconds, 0.001 for milliseconds."
    answer = number(answer, otherwise)
    if not answer > 0:
        raise Wrong(otherwise)
    end = _TIMES[-1][1] * answer
    letters = sum(len(text.replace(" ", "")) for _, _, text in _TIMES)
    rate = letters / (sum(end - start for start, end, _ in _TIMES) * answer)
    if end > _SECONDS:
        raise Wrong(f"The last line would end after {end:,.0f} s, and the recording has {_SECONDS:.0f} s.")
    if rate > 25:
        raise Wrong(f"All would be said within {end:.1f} s, at {rate:.0f} letters a second; people say about 10.")
    if abs(answer - _UNIT) > 1e-6:
        raise Wrong(f"That would fit, at {rate:.0f} letters a second. But which unit of time has that length?")
    return f"Hundredths of a second: the last line ends at {end:.1f} s, and people say {rate:.0f} letters a second."


def a_colleagues_list() -> list[dict[str, str]]:
    """Return recordings with their speakers, as typed, and their splits: three for each speaker."""
    return [
        {"recording": f"{split}/{number:02}-{take}.wav", "speaker": speaker, "split": split}
        for split, speakers in _TYPED.items()
        for number, speaker in enumerate(speakers)
        for take in range(3)
    ]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().lower()


def task_2(answer: object) -> str:
    """Check the names of the speakers that are both in train and in test, however they were typed."""
    if isinstance(answer, str | Mapping) or not isinstance(answer, Iterable):
        raise Wrong("Give a set of names, such as {'anna', 'bob'}.")
    given = {_key(str(name)) for name in answer}
    train, test = ({_key(name) for name in _TYPED[split]} for split in ("train", "test"))
    leaks = train & test
    if not given:
        raise Wrong("Compared letter by letter there are none. But 'bob' and 'BOB' are one person.")
    if given - train - test:
        raise Wrong(f"{min(given - train - test)!r} is in neither of the two.")
    if given - leaks:
        name = min(given - leaks)
        raise Wrong(f"{name!r} is in {'train' if name in train else 'test'} only; look at the whole name.")
    if leaks - given == {_key("Chloé")}:
        raise Wrong(
            "One is missing. An é can be one character or two, e and an accent, and both look alike on the screen: "
            "unicodedata.normalize('NFC', name) makes them one."
        )
    if leaks - given:
        raise Wrong(f"{len(leaks - given)} missing: names differ in case, in spaces, and in how an accent is stored.")
    return "`prepare` takes names as a table has them, capitals included: make them alike before you prepare a corpus."
