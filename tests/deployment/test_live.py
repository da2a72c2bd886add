"""Live recognition: sound in pieces becomes partial and final texts."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from asr_with_nemo.data import an4, audio, manifest, pauses
from asr_with_nemo.deployment import live, runtime
from asr_with_nemo.deployment.live import Heard, Listener
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import transcripts, wer
from tests.conftest import run_script

RATE = audio.SAMPLE_RATE


class Counting(runtime.Recognizer):
    """A recogniser that counts how often it is asked."""

    times = 0

    def recognise(self, batch, search=None):
        self.times += 1
        return super().recognise(batch, search)


@pytest.fixture(scope="module")
def recognizer() -> Counting:
    return Counting("an4")


@pytest.fixture(scope="module")
def sounds(small_corpus: an4.Corpus) -> list[np.ndarray]:
    """Some recordings in which something is heard."""
    rows = manifest.read_manifest(small_corpus.manifest("test"))
    return transcripts.read([row["audio_filepath"] for row in rows], RATE)[:4]


def hiss(seconds: float, level: float = 4e-4) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, round(seconds * RATE)).astype(np.float32)


def listen(listener: Listener, sound: np.ndarray, size: int = 1600) -> list[Heard]:
    def events() -> Iterator[Heard]:
        for first in range(0, len(sound), size):
            yield from listener.feed(sound[first : first + size])
        yield from listener.finish()

    return list(events())


def texts(heard: Sequence[Heard]) -> list[str]:
    return [one.text for one in heard if one.final]


@pytest.fixture(scope="module")
def heard(recognizer: Counting, sounds: list[np.ndarray]) -> list[Heard]:
    stream = np.concatenate([part for sound in sounds for part in (sound, hiss(0.8))])
    return listen(Listener(recognizer), stream)


def test_at_each_pause_there_is_a_text_as_of_the_whole_recording(
    heard: list[Heard], recognizer: Counting, sounds: list[np.ndarray]
):
    whole = " ".join(one.text for one in recognizer.transcribe(sounds))
    live_text = " ".join(texts(heard))
    assert len(texts(heard)) >= len(sounds)
    assert wer.count_errors(whole, live_text, "character").rate < 0.1


def test_text_comes_while_somebody_speaks(heard: list[Heard], sounds: list[np.ndarray]):
    place = next(place for place, one in enumerate(heard) if one.final)
    utterance = heard[: place + 1]
    assert len(utterance) > 3
    assert [one.final for one in utterance] == [False] * place + [True]
    lengths = [one.end for one in utterance]
    assert lengths == sorted(lengths) and lengths[0] < 0.7 * lengths[-1]
    assert all(len(one.text) > 0 for one in utterance)
    assert all(one.stable <= len(one.words) for one in utterance)
    assert utterance[-1].stable == len(utterance[-1].words)


def test_times_are_those_of_the_stream(heard: list[Heard], sounds: list[np.ndarray]):
    finals = [one for one in heard if one.final]
    starts = [word.start for one in finals for word in one.words]
    assert starts == sorted(starts)
    total = sum(len(sound) / RATE + 0.8 for sound in sounds)
    assert total - 4 < finals[-1].words[-1].end < total
    for one in finals:
        assert one.start <= one.words[0].start and one.words[-1].end <= one.end + 0.02
        assert one.text.split() == [word.word for word in one.words]


def test_the_size_of_the_pieces_does_not_matter(recognizer: Counting, sounds: list[np.ndarray]):
    stream = np.concatenate([sounds[0], hiss(1)])
    expected = listen(Listener(recognizer), stream)
    assert listen(Listener(recognizer), stream, size=37) == expected
    assert listen(Listener(recognizer), stream, size=len(stream)) == expected


def test_in_silence_nothing_is_computed_and_nothing_is_kept(recognizer: Counting):
    for silence in (np.zeros(60 * RATE, np.float32), hiss(60), hiss(60, level=1e-2)):
        before = recognizer.times
        listener = Listener(recognizer)
        assert listen(listener, silence) == []
        assert recognizer.times == before
        assert len(listener._sound) <= (live.LEAD + 0.2) * RATE


def test_who_never_pauses_is_cut_off(recognizer: Counting, sounds: list[np.ndarray]):
    trimmed = [sound[RATE // 5 : -RATE // 5] for sound in sounds]
    stream = np.concatenate(trimmed * 8)
    assert len(stream) > 1.5 * pauses.WHOLE * RATE
    listener = Listener(recognizer, pause=30)
    live.PATIENCE, kept = 30, live.PATIENCE
    try:
        heard = listen(listener, stream)
    finally:
        live.PATIENCE = kept
    finals = [one for one in heard if one.final]
    assert len(finals) >= 2
    assert all(one.end - one.start <= pauses.WHOLE + 0.2 for one in heard)
    assert finals[0].end == pytest.approx(finals[1].start, abs=live.LEAD + 0.2)


def test_the_last_words_are_not_lost(recognizer: Counting, sounds: list[np.ndarray]):
    heard = listen(Listener(recognizer), sounds[0])  # which ends with no pause
    assert heard[-1].final
    assert wer.count_errors(recognizer.transcribe(sounds[:1])[0].text, heard[-1].text, "character").rate < 0.2
    assert listen(Listener(recognizer), sounds[0][:100]) == []


def test_what_is_no_sound_is_refused(recognizer: Counting):
    listener = Listener(recognizer)
    for wrong in (np.zeros((100, 2), np.float32), np.zeros(100, np.int16)):
        with pytest.raises(InputError, match="float samples"):
            list(listener.feed(wrong))
    with pytest.raises(InputError, match="NaN"):
        list(listener.feed(np.array([0, np.nan])))
    with pytest.raises(InputError, match="interval 0"):
        Listener(recognizer, interval=0)


@pytest.mark.slow
def test_the_delays_are_measured(small_corpus: an4.Corpus, tmp_path: Path):
    done = run_script("tools/evaluate_live.py", "an4", small_corpus.manifest("test"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert names[:5] == [
        "the model hears whole recordings",
        "WER live",
        "WER of whole files",
        "a word appears, median",
        "a word appears, 95%",
    ]
