# ruff: noqa: SIM905 (lists of words read better as text)
"""The built-in corpus: what a user without AN4 gets instead."""

import random
import re
import sys
import time
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
import soundfile

from asr_with_nemo.data.espeak import Speaker, Voice
from asr_with_nemo.data.synthetic import SMALLEST_SIZE, VOICE_NOTICE, make_corpus, speaker_session, spoken, write_sphere
from asr_with_nemo.errors import InputError

# The words of AN4's own dictionary (an4.dic).
AN4_WORDS = set(
    """
    A AND APOSTROPHE APRIL AREA AUGUST B C CODE D DECEMBER E EIGHT EIGHTEEN EIGHTEENTH EIGHTH EIGHTY ELEVEN ELEVENTH
    ENTER ERASE F FEBRUARY FIFTEEN FIFTEENTH FIFTH FIFTY FIRST FIVE FORTY FOUR FOURTEEN FOURTH G GO H HALF HELP HUNDRED
    I J JANUARY JULY JUNE K L M MARCH MAY N NINE NINETEEN NINETY NINTH NO NOVEMBER O OCTOBER OF OH ONE P Q R REPEAT
    RUBOUT S SECOND SEPTEMBER SEVEN SEVENTEEN SEVENTH SEVENTY SIX SIXTEEN SIXTEENTH SIXTH SIXTY START STOP T TEN THIRD
    THIRTEEN THIRTIETH THIRTY THOUSAND THREE TWELFTH TWELVE TWENTIETH TWENTY TWO U V W X Y YES Z ZERO
    """.split()
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "an4"
    make_corpus(folder, utterances=40, seed=3, progress=False)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lines_of(corpus: Path, name: str) -> list[str]:
    return (corpus / "etc" / name).read_text().splitlines()


def test_the_tree_is_laid_out_as_an4s(corpus: Path) -> None:
    assert VOICE_NOTICE in (corpus / "README").read_text()
    listed = lines_of(corpus, "an4_train.fileids") + lines_of(corpus, "an4_test.fileids")
    on_disk = [str(path.relative_to(corpus / "wav").with_suffix("")) for path in (corpus / "wav").rglob("*.sph")]
    assert sorted(listed) == sorted(on_disk)
    assert (len(lines_of(corpus, "an4_train.fileids")), len(lines_of(corpus, "an4_test.fileids"))) == (35, 5)
    for fileid in lines_of(corpus, "an4_train.fileids"):
        assert re.fullmatch(r"an4_clstk/([fm][a-z]{3})/(an\d+|cen[1-8])-\1-b", fileid)
    for fileid in lines_of(corpus, "an4_test.fileids"):
        assert re.fullmatch(r"an4test_clstk/([fm][a-z]{3})/(an\d+|cen[1-8])-\1-b", fileid)


def test_transcripts_have_an4s_formats_and_words(corpus: Path) -> None:
    formats = {"train": r"<s> ([A-Z ]+) </s> \((\S+)\)", "test": r"([A-Z ]+) \((\S+)\)"}
    for split, pattern in formats.items():
        parsed = [re.fullmatch(pattern, line) for line in lines_of(corpus, f"an4_{split}.transcription")]
        assert all(parsed)
        assert [match[2] for match in parsed] == [Path(f).name for f in lines_of(corpus, f"an4_{split}.fileids")]
        for match in parsed:
            assert match[1] == " ".join(match[1].split())
            assert set(match[1].split()) <= AN4_WORDS


def test_no_speaker_is_in_both_splits(corpus: Path) -> None:
    train = {path.name for path in (corpus / "wav" / "an4_clstk").iterdir()}
    test = {path.name for path in (corpus / "wav" / "an4test_clstk").iterdir()}
    assert len(train) >= 3 and len(test) >= 1
    assert not train & test
    assert {name[0] for name in train} == {"f", "m"}
    assert all(1 <= len(list(folder.iterdir())) <= 13 for folder in (corpus / "wav").glob("*/*"))


def test_every_file_is_a_sphere_file_whose_header_is_true(corpus: Path) -> None:
    for path in (corpus / "wav").rglob("*.sph"):
        header, _, _ = path.read_bytes()[:1024].decode("ascii").partition("end_head\n")
        magic, size, *fields = header.splitlines()
        assert (magic, size) == ("NIST_1A", "   1024")
        values = {name: value for name, _, value in (field.split() for field in fields)}
        samples, rate = soundfile.read(path, dtype="int16")
        assert samples.ndim == 1
        assert rate == int(values["sample_rate"]) == 16000
        assert len(samples) == int(values["sample_count"])
        assert int(samples.view(np.uint16).sum(dtype=np.uint64)) % 65536 == int(values["sample_checksum"])
        assert (samples.max(), samples.min()) == (int(values["sample_max"]), int(values["sample_min"]))
        assert (values["sample_n_bytes"], values["sample_byte_format"], values["channel_count"]) == ("2", "01", "1")
        assert values["sample_coding"] == "pcm"


def test_recordings_sound_like_a_close_microphone(corpus: Path) -> None:
    for path in (corpus / "wav").rglob("*.sph"):
        samples, rate = soundfile.read(path, dtype="int16")
        before = samples[: rate // 20].astype(float)  # 50 ms of the 100 to 400 before the speech
        assert 3 < before.std() < 40, f"{path}: not a faint noise floor"
        assert 1000 < np.abs(samples.astype(int)).max() < 32767, f"{path}: too quiet, or clipped"
        assert 0.5 < len(samples) / rate < 10


def test_the_same_seed_and_size_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    # After another corpus in the same process: espeak-ng must not remember it.
    make_corpus(tmp_path / "other", utterances=SMALLEST_SIZE, seed=4, progress=False)
    make_corpus(tmp_path / "again", utterances=40, seed=3, progress=False)
    assert files_of(tmp_path / "again") == files_of(corpus)
    assert files_of(tmp_path / "other").keys() != files_of(corpus).keys()


def test_a_breathy_voice_breathes_the_same_whatever_the_clock_says() -> None:
    said = []
    for _ in range(2):
        with Speaker() as speaker:
            said.append(speaker.say("seven", Voice("en-us", "f3")))
        time.sleep(1.1)  # espeak-ng seeds its noise from the clock's seconds
    np.testing.assert_array_equal(said[0], said[1])


def test_sessions_use_all_of_an4s_words_in_sentences_of_its_length() -> None:
    rng = random.Random(0)
    said = [words for _ in range(3000) for words in speaker_session(rng, rng.choice("fm"), "O'NEILL").values()]
    assert {word for words in said for word in words} == AN4_WORDS
    assert np.mean([len(words) for words in said]) == pytest.approx(5.7, abs=0.4)  # AN4's train set: 5.7


def test_the_letter_a_is_said_by_its_name_and_the_article_is_not() -> None:
    def first_vowel(text: str, speaker: Speaker) -> np.ndarray:
        """The spectrum's shape in the first 100 ms of speech: log energy in bands of 300 Hz."""
        samples = speaker.say(text, Voice("en-us", "m3", word_gap=6)).astype(float)
        start = np.argmax(np.abs(samples) > 200)
        samples = samples[start : start + speaker.rate // 10]
        power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
        bands = np.log([power[low : low + 30].sum() for low in range(20, 400, 30)])  # bins of 10 Hz
        return bands - bands.mean()

    with Speaker() as speaker:
        name = first_vowel("eight", speaker)
        letter = first_vowel(spoken(["A", "B"]), speaker)
        article = first_vowel(spoken(["A", "HALF"]), speaker)
        unmarked = first_vowel("A B", speaker)  # which espeak-ng reads as the article
    assert np.abs(letter - name).mean() < 0.5 * np.abs(article - name).mean()
    assert np.abs(letter - name).mean() < 0.5 * np.abs(unmarked - name).mean()


def test_it_speaks_from_a_package_that_lies_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = espeakng_loader.get_data_path()
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8, "espeak-ng-data")  # espeak-ng itself allows about 145
    deep.parent.mkdir(parents=True)
    deep.symlink_to(data)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep))
    with Speaker() as speaker:
        assert len(speaker.say("go", Voice("en-us", "m1"))) > speaker.rate // 10


def test_what_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"20 .*1078 .*\b5\b"):
        make_corpus(tmp_path / "small", utterances=5)
    with pytest.raises(InputError, match="seed.*-1"):
        make_corpus(tmp_path / "seed", seed=-1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match=r"/full: "):
        make_corpus(tmp_path / "full")
    with pytest.raises(InputError, match="below"):
        make_corpus(tmp_path / "full" / "mine.txt" / "below")
    with pytest.raises(InputError, match="int16"):
        write_sphere(tmp_path / "float.sph", np.zeros(10), 16000)
    with Speaker() as speaker:
        with pytest.raises(InputError, match=r"'en-us\+nobody'"):
            speaker.say("go", Voice("en-us", "nobody"))
        with pytest.raises(InputError, match="' '"):
            speaker.say(" ", Voice("en-us", "m1"))
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)  # as if the wheel weren't installed
    with pytest.raises(InputError, match=r"(?s)espeakng-loader.*AN4_ARCHIVE"):
        make_corpus(tmp_path / "silent", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
