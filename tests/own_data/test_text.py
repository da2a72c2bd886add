"""Transcripts in any script are normalised by the rule, and typical mistakes in them are found and repaired."""

from pathlib import Path

import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.vocabulary import read_alphabet
from asr_with_nemo.own_data.text import Rule, doubts, outside, repaired, respelled, without_tags


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("“Don’t!” he said—twice.", "don't he said twice"),
        ("rock 'n' roll, dogs'", "rock n roll dogs"),
        ("L'ÉTÉ e\u0301te\u0301", "l'été été"),
        ("ΟΔΥΣΣΕΎΣ;", "οδυσσεύς"),
        ("Ещё — «раз»", "ещё раз"),
        ("col·legi twenty-one a_b", "col·legi twenty one a b"),
        ("می\u200cخواهم.", "می\u200cخواهم"),
        ("क्\u200dष का", "क्\u200dष का"),
        ("日本語、テスト。", "日本語 テスト"),
        ("soft\u00adhyphen \ufeffmark 👩\u200d👧 hi", "softhyphen mark hi"),
        ("İSTANBUL", "istanbul"),
        (" \t many\u00a0 spaces\n", "many spaces"),
        ("3.5 of 10", "3 5 of 10"),
        ("...", ""),
    ],
)
def test_normalised_transcripts(written: str, normalised: str):
    assert Rule().normalise(written) == normalised
    assert Rule().normalise(normalised) == normalised, "normalising is idempotent"


def test_the_other_settings_of_the_rule():
    assert Rule(case="upper").normalise("straße") == "STRASSE"
    assert Rule(case="keep", punctuation="keep").normalise("Hé,  “x”!") == "Hé, “x”!"
    assert Rule(language="tr").normalise("IŞIK İyi") == "ışık iyi"
    assert "lower case" in str(Rule())
    with pytest.raises(InputError, match="case 'title'.*lower.*upper.*keep"):
        Rule(case="title")


@pytest.mark.parametrize(
    ("language", "written", "spelled"),
    [
        (
            "en",
            "1,234 of 3.5 on the 1st, 2024",
            "one thousand two hundred and thirty four of three point five on the first two thousand and twenty four",
        ),
        ("en", "call 007", "call zero zero seven"),
        ("de", "1.234,5", "eintausendzweihundertvierunddreißig komma fünf"),
        ("ru", "21 дом", "двадцать один дом"),
        ("en", "٣ apples", "three apples"),
    ],
)
def test_numbers_are_spelled_in_the_language(language: str, written: str, spelled: str):
    pytest.importorskip("num2words")
    assert Rule(digits="spell", language=language).normalise(written) == spelled


def test_numbers_that_cannot_be_spelled_are_refused_at_once():
    pytest.importorskip("num2words")
    with pytest.raises(InputError, match="--digits spell.*--language"):
        Rule(digits="spell")
    with pytest.raises(InputError, match="--language tlh"):
        Rule(digits="spell", language="tlh")


@pytest.mark.parametrize(
    ("written", "kinds", "repair"),
    [
        ("cafÃ© au lait", {"mojibake"}, "café au lait"),
        ("Ð¼Ð¸Ñ\u0080", {"mojibake"}, "мир"),
        ("[noise] hello <unk> (laughs)", {"annotation"}, "hello"),
        ("пpивет мир", {"mixed scripts"}, "привет мир"),
        ("hеllo", {"mixed scripts"}, "hello"),
        ("100% & more", {"symbol"}, "100% & more"),
        ("naïve café, Ångström", set(), "naïve café, Ångström"),
        ("wi-fi сеть λόγος", set(), "wi-fi сеть λόγος"),
    ],
)
def test_mistakes_are_found_and_repaired(written: str, kinds: set[str], repair: str):
    assert set(doubts(written)) == kinds
    assert " ".join(repaired(written).split()) == repair


def test_a_text_in_another_alphabet():
    letters = "abcdefghijklmnopqrstuvwxyz "
    assert outside("Straße", letters) == ["S", "ß"]
    assert respelled("Straße Ärger łódź", letters) == "strasse arger lodz"
    assert respelled("日本", letters) == "日本", "other characters stay"


def test_an_alphabet_is_letters_or_a_file_of_them(tmp_path: Path, small_corpus: an4.Corpus):
    assert read_alphabet(" abc") == [" ", "a", "b", "c"]
    for name, text in {"lines.txt": " \na\nb\nc\n", "line.txt": " abc\n", "list.json": '[" ", "a", "b", "c"]'}.items():
        (tmp_path / name).write_text(text)
        assert read_alphabet(str(tmp_path / name)) == [" ", "a", "b", "c"], name
    letters = read_alphabet(str(small_corpus.manifest("train")))
    texts = "".join(utterance["text"] for utterance in manifest.read_manifest(small_corpus.manifest("train")))
    assert letters == sorted(set(texts))
    assert letters[0] == " "
    assert read_alphabet("an4") == list(" abcdefghijklmnopqrstuvwxyz'")


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ("aab", "aab.*'a'"),
        ("a", "'a'"),
        ("no/such/letters.txt", r"letters\.txt"),
        ("letters.txt", r"letters\.txt"),
        ("none.nemo", r"none\.nemo"),
        ("requirements.txt.nemo", r"requirements\.txt\.nemo"),
    ],
)
def test_an_invalid_alphabet_is_refused(given: str, pattern: str):
    with pytest.raises(InputError, match=pattern):
        read_alphabet(given)


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("WELL <COMMA> I SEE <PERIOD> DO YOU <QUESTIONMARK> YES <EXCLAMATIONPOINT>", "well i see do you yes"),
        ("<SIL>", ""),
        ("<MUSIC>", ""),
        ("one <unk>(2) two <noise/> <|en|>", "one two"),
        ("a < b and c > d", "a b and c d"),
    ],
)
def test_words_in_angle_brackets_are_not_spoken(written: str, normalised: str):
    assert Rule().normalise(without_tags(written)) == normalised


def test_punctuation_in_angle_brackets_is_punctuation():
    rule = Rule(case="keep", punctuation="keep")
    assert rule.normalise(without_tags("WELL <COMMA> I SEE <QUESTIONMARK>")) == "WELL, I SEE?"
    assert doubts("WELL <COMMA> I SEE <QUESTIONMARK>") == {}


@pytest.mark.parametrize(
    ("written", "kinds"),
    [
        ("Speaker 0 00:00:01 hello", {"clock times"}),
        ("0:01 one 0:04 two 0:09 three", {"clock times"}),
        ("from 10:30 to 11:45", set()),
        ("find it at https://otter.ai", {"address"}),
        ("write to us at example.com.", {"address"}),
        ("Mr. Lee came in. He left.", set()),
    ],
)
def test_times_and_addresses_among_the_words_are_doubtful(written: str, kinds: set[str]):
    assert set(doubts(written)) == kinds
