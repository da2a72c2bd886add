"""Text files beside recordings: times in any form are no words of the text, and what is no transcript is refused."""

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data import cues, timed_lines
from tests.own_data.corpora import read, record, samples, times

CAPTIONS = "00:00.500 --> 00:04.500\nSPEAKER 1: {0}\n\n00:05.000 --> 00:09.000\nSPEAKER 2: {1}"


def found(content: str, rate: int = 16_000, whole: float | None = 13.4) -> list[tuple] | None:
    rows = [(number, row) for number, line in enumerate(content.splitlines(), 1) if (row := line.strip())]
    made = timed_lines.cues_of(rows, lambda: timed_lines.Form(rate, whole, 1))
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
        ("00:00.000 --> 00:05.000 one two\n00:05.000 --> 00:13.400 three", ("", "")),
        ("Speaker 0    00:00:00    one two\n\nSpeaker 1    00:00:05    three", ("Speaker 0", "Speaker 1")),
        ("Ann\t0:00\tone two\nBob\t0:05\tthree", ("Ann", "Bob")),
        ("Speaker 0 00:00:00 one two\nSpeaker 1 00:00:05 three", ("Speaker 0", "Speaker 1")),
        ("01:00:00 one two\n01:00:05 three", ("", "")),
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
        "12:30 we left\n12:45 we came back",
        "3:16 For God so loved\n3:17 For God sent",
        "0:05 a day\n20:15 the news",
        "10:00:00 good morning\n10:00:05 and hello",
        "We left at 0:03 in the morning\nWe came at 0:05 in the evening",
        "The train leaves at 0:03\nThe bus leaves at 0:05",
        "1.5 - 2.5 percent rise expected",
        "0.5 , 2.5, 3.0 were the values",
        "1.5 - 22.5 percent\n2.5 - 13.5 percent",
        "0:01 a\n0:04 b\n0:02 c\n0:01 d",
    ],
)
def test_numbers_that_are_no_times(content):
    assert found(content) is None


@pytest.mark.parametrize("form", ["0:0{} {}: {}", "[00:00:0{}] **{}:** {}"])
def test_names_behind_the_times_are_speakers(form):
    said = [(0, "Ann", "one two"), (3, "Bob", "three"), (5, "Ann", "four"), (7, "Bob", "five")]
    ends = [3, 5, 7, 13.4]
    expected = [(start, end, text, name) for (start, name, text), end in zip(said, ends, strict=True)]
    assert found("\n".join(form.format(*one) for one in said)) == expected


@pytest.mark.parametrize(
    "footer", ["Transcribed by https://otter.ai", "Transcript by Rev.com", "Subtitles by the Amara.org community"]
)
def test_the_line_of_a_service_is_no_word(tmp_path, footer):
    [entry], said = of_text(tmp_path, f"one two\nthree\n\n{footer}\n")
    assert entry.text == "one two three" and footer in said
    found, _ = of_text(tmp_path, f"Ann Lee  0:00\none two\n\nBob  0:05\nthree\n\n{footer}\n")
    assert [one.text for one in found] == ["one two", "three"]


def test_one_time_out_of_order_is_still_a_time(tmp_path):
    found, _ = of_text(tmp_path, "[0:00] hello\n[0:05] there\n[0:04] yes\n[0:07] no\n")
    assert [(one.text, one.start) for one in found] == [("hello", 0), ("there", 5), ("yes", 4), ("no", 7)]
    assert [kind for one in found for kind, _ in one.doubts] == ["unsorted"]


def test_a_line_of_digits_takes_no_time():
    began = time.perf_counter()
    assert found(f"#{'1' * 40_000}") is None
    assert time.perf_counter() - began < 1


def test_sides_of_a_call(tmp_path):
    soundfile.write(tmp_path / "fe_1.wav", np.stack([samples("left", 6.0), samples("right", 6.0)], axis=1), 16_000)
    (tmp_path / "fe_1.txt").write_text(
        "# fe_1.sph\n# Transcribed\n\n0.5 1.5 A: hello\n\n2.0 3.0 B: yes\n\n4.0 5.0 A: ok\n"
    )
    entries, said = read(tmp_path)
    sides = [("hello", "fe_1 A", 0, (0.5, 1.0)), ("yes", "fe_1 B", 1, (2, 1.0)), ("ok", "fe_1 A", 0, (4, 1.0))]
    assert [(one.text, one.speaker, one.channel, times(one)) for one in entries] == sides
    assert "two numbers" in said and "in seconds" in said


def test_sides_of_one_channel_are_speakers(tmp_path):
    found, _ = of_text(tmp_path, "0.5 1.5 A: hello\n2.0 3.0 B: yes\n")
    assert [(one.text, one.speaker, one.channel) for one in found] == [("hello", "a A", None), ("yes", "a B", None)]
    found, _ = of_text(tmp_path, "0.5 1.5 A: hello\n2.0 3.0 A: yes\n")
    assert [(one.text, one.speaker) for one in found] == [("A: hello", ""), ("A: yes", "")]


@pytest.mark.parametrize("form", ["Speaker 1  0:00\n{0}\n\nSpeaker 2  0:05\n{1}", CAPTIONS])
def test_numbered_speakers_are_those_of_their_recording(tmp_path, form):
    found, _ = of_text(tmp_path, form.format("one", "two"))
    assert [(one.text, one.speaker.casefold()) for one in found] == [("one", "a speaker 1"), ("two", "a speaker 2")]


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


def test_captions_of_a_text_file_that_is_too_large_are_a_problem_of_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(cues, "_MOST_BYTES", 10)
    [entry], _ = of_text(tmp_path, "00:00.500 --> 00:04.500\none\n")
    assert (entry.problem, entry.text) == ("unreadable text", "") and "too many" in entry.detail


def test_captions_with_their_text_behind_the_times(tmp_path):
    found, _ = of_text(tmp_path, "00:00.500 --> 00:04.500 one two\n00:05.000 --> 00:09.000 three\n")
    assert [(one.text, times(one)) for one in found] == [("one two", (0.5, 4.0)), ("three", (5, 4.0))]


def test_names_before_what_is_said_are_no_words(tmp_path):
    [entry], said = of_text(tmp_path, "Ann: how are you\nBob: fine\nAnn: good\nBob: and you\n")
    assert entry.text == "how are you fine good and you" and entry.doubts == (("several speakers", "Ann, Bob"),)
    assert "not as words" in said


@pytest.mark.parametrize(
    "content",
    [
        "He said: yes\nHe said: no\nShe said: maybe\nHe said: good\n",
        "Remember: one\nRemember: two\nRemember: three\nRemember: four\n",
        "Chapter one: the dog\nChapter one: the cat\nChapter one: the cow\n",
    ],
)
def test_words_before_a_colon_that_name_nobody_are_words(tmp_path, content):
    [entry], said = of_text(tmp_path, content)
    assert entry.text == " ".join(content.split()) and "not as words" not in said


def test_audacitys_labels_of_points_and_its_name_for_the_file(tmp_path):
    assert [cue[:3] for cue in found("0.5\t0.5\tone two\n3.25\t3.25\tthree\n7\t7.0\tfour\n")] == [
        (0.5, 3.25, "one two"),
        (3.25, 7, "three"),
        (7, 13.4, "four"),
    ]
    record(tmp_path / "talk.wav", 9.0)
    (tmp_path / "talk Labels.txt").write_text("0.5\t2.5\tone two\n3.25\t5.25\tthree\n")
    cues, _ = read(tmp_path)
    assert [(one.text, one.start) for one in cues] == [("one two", 0.5), ("three", 3.25)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "start_sample,end_sample,text\n8000,16000,go\n", "'start_sample'.*samples or frames"),
        ("a.csv", "start,end,text\n00:00:01:12,00:00:02:03,go\n", "'start'.*frames.*00:00:01:12"),
        ("a.tsv", "In Frame\tstart\tend\ttext\n3\tfirst\tlast\tgo\n", "no times that are understood"),
    ],
)
def test_a_table_whose_times_are_not_read_says_why(tmp_path, name, content, reason):
    record(tmp_path / "a.wav", 9.0)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"a\.[ct]sv: .*{reason}"):
        read(tmp_path)


def test_captions_with_frames_say_so(tmp_path):
    record(tmp_path / "a.wav", 9.0)
    (tmp_path / "a.srt").write_text("1\n00:00:01:12 --> 00:00:02:03\ngo\n\n2\n00:00:03,000 --> 00:00:04,000\nno\n")
    first, second = read(tmp_path)[0]
    assert (first.problem, second.text) == ("broken row", "no") and "frames" in first.detail
