"""The checks of 16_your_own_data's tasks."""

import unicodedata
from collections.abc import Iterable, Mapping

from asr_with_nemo.teaching.tasks import Wrong

_EXACT, _ONE_SIDED = 368, 299
"""The smallest n with 0.99**n <= 0.025, and with 0.99**n <= 0.05."""

_TYPED = {
    "train": ["Anna", "bob", "Chloé", "dora", "Eleni ", "frank", "Georg", "hana"],
    "dev": ["ivan", "Jo"],
    "test": ["anna b", "BOB", "Chloe\u0301", "eleni", "kim"],
}
"""Split → speakers as somebody has typed them. "anna b" is somebody else than "Anna"."""


def task_1(answer: object) -> str:
    """Check the number of words without an error for which the 95% interval ends at 1% or below."""
    if isinstance(answer, bool) or not isinstance(answer, int | float):
        raise Wrong("Give a number of words.")
    if answer in (_ONE_SIDED, 300):
        raise Wrong(
            "That is the rule of three, 3 / n: a bound that leaves 5% on one side. A 95% interval leaves 2.5% on "
            "either side, so that 0.99 to the power of n must be 0.025 or less."
        )
    if answer in (_EXACT - 1, 100):
        raise Wrong(
            "Almost: the upper end is still above 1%. Round up."
            if answer > 100
            else "One error in 100 words would be 1%. But a model with a true rate of 1% makes none in 100 words more "
            "than a third of the time. How many words until that happens only 2.5% of the time?"
        )
    if answer < _EXACT:
        raise Wrong(
            f"With {answer:g} words, a model with a true rate of 1% would make none in {0.99**answer:.1%} of cases."
        )
    if answer > _EXACT:
        raise Wrong("Enough, but more than needed: solve 0.99 ** n = 0.025 for n, and round up.")
    return "log(0.025) / log(0.99), rounded up. For 0.1% it is ten times as many."


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
