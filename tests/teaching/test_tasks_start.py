"""The checks of the tasks of 00_start, 01_data and 02_features: what is right passes, typical mistakes get a hint."""

from types import SimpleNamespace

import numpy as np
import pytest

from asr_with_nemo.teaching.tasks import check, start


def rows(*texts: str, speaker: str = "fann") -> list[dict]:
    return [{"text": text, "speaker": speaker, "audio_filepath": text} for text in texts]


@pytest.mark.parametrize(
    ("task", "answer", "given", "said"),
    [
        ("01_data 1", 2, (rows("yes", "no"), rows("yes", "yes", "go")), "right. 2 of 3"),
        ("01_data 1", 1, (rows("yes", "no"), rows("yes", "yes", "go")), "You counted texts"),
        ("01_data 2", ["fann"], (rows(*"a") + rows(*"bcd", speaker="fbea") + rows("e", speaker="mcal"),), "right"),
        ("01_data 2", "fann", (rows("a"),), "a list or a set"),
        ("01_data 2", ["nobody"], (rows("a"),), "no speaker 'nobody'"),
        ("01_data 2", ["mcal"], (rows(*"abcd") + rows("e", speaker="mcal"),), "Women said 0%"),
        ("02_features 1", 14, (), "right"),
        ("02_features 1", 32, (), "equally wide in mel"),
        ("02_features 1", 15, (), "Nearly"),
        ("02_features 2", 9.75, (), "right"),
        ("02_features 2", 152, (), "number of samples"),
        ("02_features 2", 5, (), "Too short"),
        ("02_features 2", 20, (), "half a millisecond shorter does"),
    ],
)
def test_a_check_says_what_is_wrong(task: str, answer: object, given: tuple, said: str, capsys: pytest.CaptureFixture):
    check(task, answer, *given)
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.startswith(f"Task {task[-1]}: right.") == said.startswith("right")


class Deaf:
    """Hears yes in what isn't noisy, and no in the rest."""

    def transcribe(self, sounds: list) -> list[SimpleNamespace]:
        quiet = [isinstance(sound, str) or np.std(sound) < 0.05 for sound in sounds]
        return [SimpleNamespace(text="yes" if heard else "no") for heard in quiet]


def test_the_checks_of_the_start_ask_the_recogniser(capsys: pytest.CaptureFixture):
    said = rows("yes", "no", "yes")
    silence = np.zeros(1000, np.float32)
    for task, answer, given, printed in (
        ("00_start 1", 2, said, "Task 1: right."),
        ("00_start 1", 1, said, "Task 1: not yet."),
        ("00_start 2", 0.1, silence, "Task 2: right."),
        ("00_start 2", 0.3, silence, "less noise"),
        ("00_start 2", 0.001, silence, "still the same"),
        ("00_start 2", 2, silence, "one of"),
    ):
        check(task, answer, Deaf(), given)
        assert printed in capsys.readouterr().out
    assert np.array_equal(start.with_noise(silence, 0.1), start.with_noise(silence, 0.1))
