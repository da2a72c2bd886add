"""Text files beside recordings: times in any form are no words of the text, and what is no transcript is refused."""

from pathlib import Path

import pytest

from asr_with_nemo.own_data import timed_lines
from tests.own_data.corpora import read, record, times


def found(content: str, rate: int = 16_000, whole: float | None = 13.4) -> list[tuple] | None:
    rows = [(number, row) for number, line in enumerate(content.splitlines(), 1) if (row := line.strip())]
    made = timed_lines.cues_of(rows, lambda: (rate, whole))
    return made and [(cue.start, cue.end, cue.text, cue.speaker) for cue in made[0] if not cue.problem]


@pytest.mark.parametrize(
    "content",
    [
        "0.5\t4.5\tone two\n5.0\t9.0\tthree",
        "0,5\t4,5\tone two\n5,0\t9,0\tthree",
        "0.5,4.5,one two\n5.0, 9.0, three",
        "0.5;4.5;one two\n5.0;9.0;three",
        "0,5;4,5;one two\n5,0;9,0;three",
        "0.5-4.5 one two\n5.0 - 9.0: three",
        "500 4500 one two\n5000 9000 three",
        "8000 72000 one two\n80000 144000 three",
        "5000000 45000000 one two\n50000000 90000000 three",
        "# made by hand\n0.5 4.5 one two\n\n5.0 9.0 three",
        "[00:00:00.500 --> 00:00:04.500]  one two\n[00:00:05.000 --> 00:00:09.000]  three",
        "(0:00,500 - 0:04,500) one two\n(0:05,000 - 0:09,000) three",
    ],
)
def test_starts_and_ends(content):
    assert found(content) == [(0.5, 4.5, "one two", ""), (5.0, 9.0, "three", "")]


@pytest.mark.parametrize(
    ("content", "people"),
    [
        ("[00:00:00] one two\n[00:00:05] three", ("", "")),
        ("0:00\none\ntwo\n0:05\nthree", ("", "")),
        ("00:00 - one two\n00:05 - three", ("", "")),
        ("Speaker 1  0:00\none two\n\nSpeaker 2  0:05\nthree", ("Speaker 1", "Speaker 2")),
        ("Ann (00:00): one two\nBob (00:05): three", ("Ann", "Bob")),
        ("A day out\n\nAnn Lee [0:00] one two\nBob [0:05] three", ("Ann Lee", "Bob")),
    ],
)
def test_starts_alone(content, people):
    assert found(content) == [(0.0, 5.0, "one two", people[0]), (5.0, 13.4, "three", people[1])]


@pytest.mark.parametrize(
    "content",
    [
        "1 2 3 4",
        "10:30 is when it starts",
        "we meet at 10:30\nand leave at 11:45 in the evening\nall of us",
        "at nine\n12:00\nand one more line\nof text\nand another\nand one",
        "20:15 the news\n19:30 the weather",
    ],
)
def test_numbers_that_are_no_times(content):
    assert found(content) is None


def test_sides_of_a_call(tmp_path):
    record(tmp_path / "fe_1.wav", 6.0)
    (tmp_path / "fe_1.txt").write_text(
        "# fe_1.sph\n# Transcribed\n\n0.5 1.5 A: hello\n\n2.0 3.0 B: yes\n\n4.0 5.0 A: ok\n"
    )
    entries, said = read(tmp_path)
    sides = [("hello", "fe_1 A", 0, (0.5, 1.0)), ("yes", "fe_1 B", 1, (2, 1.0)), ("ok", "fe_1 A", 0, (4, 1.0))]
    assert [(one.text, one.speaker, one.channel, times(one)) for one in entries] == sides
    assert "two numbers" in said and "in seconds" in said


def of_text(folder: Path, content: str, suffix: str = ".txt") -> tuple[list, str]:
    record(folder / "a.wav", 13.4)
    (folder / f"a{suffix}").write_text(content)
    return read(folder)


@pytest.mark.parametrize(
    "content",
    [
        "1\n00:00:00,500 --> 00:00:04,500\none two\n\n2\n00:00:05,000 --> 00:00:09,000\nthree\n",
        "WEBVTT\n\n00:00.500 --> 00:04.500\none two\n\n00:05.000 --> 00:09.000 align:start\n<b>three</b>\n",
    ],
)
def test_captions_in_a_text_file(tmp_path, content):
    entries, said = of_text(tmp_path, content)
    assert [(one.text, times(one)) for one in entries] == [("one two", (0.5, 4.0)), ("three", (5, 4.0))]
    assert "captions in a text file" in said


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        ("<!DOCTYPE html>\n<html>gone</html>", ".txt", "web page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", ".txt", "git lfs pull"),
        ("{\\rtf1\\ansi hello}", ".txt", "plain text"),
        ('{"text": "hello"}', ".txt", "suffix .json"),
        ("signal a\ntype 0\n#\n0.5 121 one\n1.0 121 two\n", ".lab", "ESPS"),
    ],
)
def test_what_is_no_transcript_is_refused(tmp_path, content, suffix, reason):
    [entry], _ = of_text(tmp_path, content, suffix)
    assert (entry.problem, entry.text) == ("unreadable text", "")
    assert reason in entry.detail


def test_names_before_what_is_said_are_no_words(tmp_path):
    [entry], said = of_text(tmp_path, "Ann: how are you\nBob: fine\nAnn: good\nBob: and you\n")
    assert entry.text == "how are you fine good and you" and entry.doubts == (("several speakers", "Ann, Bob"),)
    assert "not as words" in said
