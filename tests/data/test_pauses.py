"""A long recording becomes pieces like the utterances that models are trained on."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from asr_with_nemo.data.pauses import LONGEST, cut_at_pauses

RATE = 16_000


def noise(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10 ** (level / 20), round(seconds * RATE)).astype(np.float32)


def talk(seconds: float, seed: int = 0) -> np.ndarray:
    """Sound that rises and falls as syllables do, four a second."""
    wave = noise(seconds, -20, seed)
    return wave * (0.1 + np.abs(np.sin(4 * np.pi * np.arange(len(wave)) / RATE))).astype(np.float32)


def test_a_long_recording_is_cut_in_its_pauses_and_the_silence_left_out():
    parts = [part for seed in range(10) for part in (talk(3.0, seed), noise(1.5, -75))]
    whole = np.concatenate(parts)
    pieces = list(cut_at_pauses((whole[at : at + 7 * RATE] for at in range(0, len(whole), 7 * RATE)), RATE))
    assert [round(len(samples) / RATE, 1) for _, samples in pieces[:-1]] == pytest.approx([3.6] * 10, abs=0.35)
    for start, samples in pieces:  # each is what stands there
        first = round(start * RATE)
        np.testing.assert_array_equal(samples, whole[first : first + len(samples)])
    end, nothing = pieces[-1]
    assert end == pytest.approx(len(whole) / RATE) and not len(nothing)
    assert list(map(len, (samples for _, samples in cut_at_pauses([whole], RATE)))) == [len(s) for _, s in pieces]


def test_digital_silence_is_a_pause_too():
    whole = np.concatenate([part for seed in range(8) for part in (talk(3.0, seed), noise(1.0, -300))])
    assert len([samples for _, samples in cut_at_pauses([whole], RATE) if len(samples)]) == 8


def test_who_never_pauses_is_cut_where_it_is_quietest():
    whole = talk(40)
    pieces = list(cut_at_pauses([whole], RATE))
    assert all(0 < len(samples) <= LONGEST * RATE for _, samples in pieces)
    assert all(start + len(samples) / RATE == pytest.approx(then) for (start, samples), (then, _) in pairwise(pieces))
    np.testing.assert_array_equal(np.concatenate([samples for _, samples in pieces]), whole)


def test_an_utterance_stays_whole():
    breath = np.concatenate([talk(4), noise(0.7, -70), talk(5), noise(0.4, -70)])
    ((start, samples),) = cut_at_pauses([breath], RATE)
    assert start == 0 and len(samples) == len(breath)
    ((_, short),) = cut_at_pauses([noise(0.01, -30)], RATE)
    assert len(short) == 160
    assert [len(samples) for _, samples in cut_at_pauses([breath, noise(4, -70)], RATE)] != [len(breath) + 4 * RATE]


@pytest.mark.parametrize("level", [-300, -80, -40])
def test_steady_noise_holds_no_speech(level: float):
    for seconds in (5, 50):
        assert [(start, len(samples)) for start, samples in cut_at_pauses([noise(seconds, level)], RATE)] == [
            (seconds, 0)
        ]


def test_memory_does_not_grow_with_the_length():
    def peak(minutes: int) -> int:
        block = np.concatenate([talk(7), noise(3, -75)])
        tracemalloc.start()
        total = sum(len(samples) for _, samples in cut_at_pauses((block.copy() for _ in range(6 * minutes)), RATE))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total > 40 * minutes * RATE
        return most

    assert peak(20) < 1.2 * peak(5)
