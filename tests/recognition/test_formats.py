"""A transcript as subtitles, CTM, TextGrid and a table."""

import re
from itertools import pairwise

import pytest

from asr_with_nemo.data import audio
from asr_with_nemo.recognition.formats import FORMATS, subtitles
from asr_with_nemo.recognition.transcripts import Transcript, Word


@pytest.fixture
def lecture() -> Transcript:
    """A minute of words of various lengths, every 0.4 s, with a pause after each twentieth, and an odd one."""
    words, now = [], 0.5
    for number in range(120):
        word = "abcdefghijkl"[: 1 + number * 7 % 12] if number != 50 else 'a"<b&'
        words.append(Word(word, round(now, 3), round(now + 0.3, 3), 0.9))
        now += 2.0 if number % 20 == 19 else 0.4
    return Transcript(" ".join(word.word for word in words), words, round(now, 3))


def test_subtitles_can_be_read(lecture: Transcript):
    shown = list(subtitles(lecture))
    assert " ".join(" ".join(lines) for _, _, lines in shown) == lecture.text
    assert all(1 <= len(lines) <= 2 and max(map(len, lines)) <= 42 for _, _, lines in shown)
    assert all(0 < end - start <= 7 for start, end, _ in shown)
    assert all(one[1] <= other[0] for one, other in pairwise(shown))
    assert list(subtitles(Transcript("", [], 3.0))) == []
    one_word = Transcript("w" * 100, [Word("w" * 100, 0.0, 9.0, 0.5)], 9.0)
    assert all(max(map(len, lines)) <= 42 for _, _, lines in subtitles(one_word))


def test_srt_and_vtt(lecture: Transcript):
    srt, vtt = (FORMATS[name].head + FORMATS[name].write("a.wav", lecture, False) for name in ("srt", "vtt"))
    assert re.match(r"1\n00:00:00,500 --> 00:00:0\d,\d{3}\n", srt)
    assert re.match(r"WEBVTT\n\n00:00:00\.500 --> ", vtt)
    assert 'a"<b&' in srt and 'a"&lt;b&amp;' in vtt


def test_ctm_and_tsv_have_a_line_a_word(lecture: Transcript):
    first = FORMATS["ctm"].write(FORMATS["ctm"].name("x/my talk.wav"), lecture, False).splitlines()[0]
    assert first == "my_talk 1 0.500 0.300 a 0.9000"
    part = audio.Clip("x/my talk.wav", 1.5, 1.75)  # whose name has points of its own
    assert FORMATS["ctm"].names([str(part), "x/other.wav"]) == ["my_talk_(1.5-3.25_s)", "other"]
    rows = FORMATS["tsv"].write("my talk.wav", lecture, False).splitlines()
    assert len(rows) == 120 and rows[0] == "my talk.wav\t0.500\t0.800\ta\t0.9000"


def test_a_textgrid_covers_the_recording(lecture: Transcript):
    text = FORMATS["textgrid"].write("a.wav", lecture, False)
    times = [float(time) for time in re.findall(r"(?<=\]:\n            xmin = )[\d.]+", text)]
    ends = [float(time) for time in re.findall(r"            xmax = ([\d.]+)", text)]
    assert times[0] == 0 and ends[-1] == pytest.approx(lecture.duration) and times[1:] == ends[:-1]
    assert int(re.search(r"intervals: size = (\d+)", text)[1]) == len(times)
    assert 'text = "a""<b&"' in text


def test_a_name_breaks_no_row(lecture: Transcript):
    """In a file of several recordings, each row has its columns, and each recording its own name."""
    names = ["x/a b.wav", "x/sub/a b.wav", "x/tab\there.wav", "x/line\nbreak.wav"]
    for form, columns in (("text", 2), ("tsv", 5)):
        written = [FORMATS[form].name(name) for name in names]
        rows = "".join(FORMATS[form].write(name, lecture, True) for name in written).splitlines()
        assert {row.count("\t") for row in rows} == {columns - 1}
        assert list(dict.fromkeys(row.split("\t")[0] for row in rows)) == written
    written = FORMATS["ctm"].names(names)
    rows = "".join(FORMATS["ctm"].write(name, lecture, True) for name in written).splitlines()
    assert {len(row.split()) for row in rows} == {6} and len({row.split()[0] for row in rows}) == 4
