"""Lists of expected words and phrases, and their bonuses in a text."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import boosting
from asr_with_nemo.recognition.boosting import PhraseTree

# --- Lists ------------------------------------------------------------------------------------------------------------


def test_phrases_come_from_the_command_line_and_from_files(tmp_path: Path):
    names = tmp_path / "names"  # a path has a slash
    names.write_text("# of the meeting\n\nGlenn Miller:7.5\r\n  new   york \n", encoding="utf-8")
    found = boosting.read_boosts(["rubout:3", "stop", str(names)])
    assert found == {"rubout": 3, "stop": None, "Glenn Miller": 7.5, "new york": None}
    assert boosting.read_boosts([]) == {}
    assert boosting.read_boosts(["go", "go"]) == {"go": None}
    assert boosting.parse_boosts("rubout:3, new  york\nstop:-2,") == {"rubout": 3, "new york": None, "stop": -2}
    assert boosting.parse_boosts(" ") == {}
    assert boosting.weighted({"go": None, "stop": 0.0}) == {"go": boosting.WEIGHT, "stop": 0}


WRONG = {"rubout:loud": "rubout:loud", ":3": "':3'", "": "''", "go:nan": "go:nan", "go:1000": "go:1000", "a:": "'a:'"}


@pytest.mark.parametrize("value", WRONG)
def test_a_phrase_that_is_none_is_named(value: str):
    with pytest.raises(InputError, match=f"--boost: .*{WRONG[value]}.*rubout:3"):
        boosting.read_boosts([value])


def test_a_list_that_cant_be_used_is_named(tmp_path: Path):
    lists = {"empty": b"\n# nothing\n", "binary": b"\xff\xfe\x00", "wrong": b"go\nstop:x\n", "twice": b"go\ngo:2\n"}
    reasons = {
        "empty": "has no phrases",
        "binary": "list of phrases",
        "wrong": "line 2.*stop:x",
        "twice": "two weights",
    }
    for name, content in lists.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.txt.*{reasons[name]}"):
            boosting.read_boosts([str(tmp_path / f"{name}.txt")])
    with pytest.raises(InputError, match=r"missing\.txt: no such list of phrases"):
        boosting.read_boosts(["missing.txt"])


# --- Bonuses ----------------------------------------------------------------------------------------------------------


def bonus_of(tree: PhraseTree, tokens) -> float:
    """The bonus of a whole text."""
    state, total = tree.start, 0.0
    for token in tokens:
        state, change = tree.step(state, token)
        total += change
    return total + tree.end(state)


def test_a_text_has_the_bonuses_of_all_phrases_in_it():
    """Against counting them, for every text of four words; phrases overlap, begin and end each other."""
    phrases = {"a": 1, "a b": 2, "b c a": 4, "c a": -8, "a b c": 16, "b b": 32}
    tree = PhraseTree((phrase.split(), weight) for phrase, weight in phrases.items())
    for size in range(6):
        for text in product("abcx", repeat=size):
            padded = f" {' '.join(text)} "
            expected = sum(
                weight * sum(padded.startswith(f" {phrase} ", at) for at in range(len(padded)))
                for phrase, weight in phrases.items()
            )
            assert bonus_of(tree, text) == pytest.approx(expected), text


def test_letters_get_a_bonus_for_whole_words_only():
    labels = [" ", *"abemnorv"]
    tree = boosting.tree_of_letters({"no": 3, "nov a": 5}, labels)
    texts = {"no": 3, "no no": 6, "nov": 0, "nov a": 5, "a no": 3, "ano": 0, "novem no": 3, "nov an": 0, "": 0}
    for text, bonus in texts.items():
        assert bonus_of(tree, map(labels.index, text)) == pytest.approx(bonus), text
    _, first = tree.step(tree.start, labels.index("n"))
    assert first == pytest.approx(1.5)  # its share, while the word may still be spelled
    with pytest.raises(InputError, match="lacks the space"):
        boosting.tree_of_letters({"no": 3}, ["n", "o"])


def test_pieces_get_a_bonus_for_whole_words_only():
    pieces = ["▁no", "▁n", "o", "vem", "▁york", "▁new"]
    cut = {"no": [0], "new york": [5, 4]}
    tree = boosting.tree_of_pieces({"no": 3, "new york": 4}, pieces, cut.__getitem__)
    texts = {(0,): 3, (0, 3): 0, (0, 0): 6, (5, 4): 4, (5, 0): 3, (5, 4, 2): 0, (1, 2): 0}
    for columns, bonus in texts.items():
        assert bonus_of(tree, columns) == pytest.approx(bonus), columns


def test_the_changes_by_all_letters_are_those_by_each():
    labels = [" ", *"abemnorv"]
    tree = boosting.tree_of_letters({"no": 3, "nov a": 5, "a": -2, "ova no": 4}, labels)
    for state in range(len(tree)):
        each = [tree.step(state, column)[1] for column in range(len(labels))]
        assert tree.changes(state, len(labels)) == pytest.approx(each)


def test_many_phrases_are_no_trouble():
    generator = np.random.default_rng(0)
    phrases = [tuple(generator.integers(0, 30, size=generator.integers(1, 12)).tolist()) for _ in range(3_000)]
    tree = PhraseTree((phrase, 1.0) for phrase in phrases)
    assert len(tree) < sum(map(len, phrases)) + 2
    assert bonus_of(tree, phrases[0]) >= 1
