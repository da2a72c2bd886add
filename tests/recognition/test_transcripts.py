"""A model's output over time becomes words with times and confidence."""

import numpy as np
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.transcripts import Output

LABELS = [" ", "a", "b"]
BLANK = 3


def output(path: str, sure: float = 0.97) -> Output:
    """What a model gives that is `sure` of a path: a character a frame, `-` for a blank, every 0.02 s."""
    rest = (1 - sure) / len(LABELS)
    probs = np.full((len(path), len(LABELS) + 1), rest, np.float32)
    for frame, letter in enumerate(path):
        probs[frame, BLANK if letter == "-" else LABELS.index(letter)] = sure
    return Output(np.log(probs), LABELS, 0.02)


def test_a_path_becomes_words_with_times_and_confidence():
    heard = output("-aa-b    ba-")
    assert heard.greedy == "ab ba"
    first, second = heard.transcript("ab ba", duration=0.23).words
    assert (first.word, first.start, first.end) == ("ab", 0.02, 0.1)
    assert (second.word, second.start, second.end) == ("ba", 0.18, 0.22)
    assert first.confidence == pytest.approx(0.97**2, abs=1e-4)
    assert output("-a-", sure=0.6).transcript("a", 0.06).words[0].confidence == pytest.approx(0.6, abs=1e-4)


def test_a_text_that_was_not_heard_is_aligned_and_little_believed():
    heard = output("-aa--bb-")
    (word,) = heard.transcript("aab", duration=0.16).words
    assert (word.word, word.start, word.confidence < 0.02) == ("aab", 0.02, True)
    assert heard.transcript("", 0.16).words == []


def test_the_likeliest_path_of_a_text_is_found():
    letters = output("-aa-b-b-a").align("abba")
    assert [(letter.letter, letter.start, letter.end) for letter in letters] == [
        ("a", 0.02, 0.06),
        ("b", 0.08, 0.1),
        ("b", 0.12, 0.14),
        ("a", 0.16, 0.18),
    ]
    assert "".join(letter.letter for letter in output("a" * 500).align("ab" * 200)) == "ab" * 200


@pytest.mark.slow
def test_alignment_is_nemos():
    import torch
    from nemo.collections.asr.parts.utils.aligner_utils import viterbi_decoding

    random = np.random.default_rng(0)
    for _ in range(20):
        log_probs = torch.from_numpy(random.normal(0, 3, (60, 4)).astype(np.float32)).log_softmax(1)
        text = "".join(random.choice(LABELS, size=12))
        tokens = [BLANK]
        for letter in text:
            tokens += [LABELS.index(letter), BLANK]
        sizes = torch.tensor([60]), torch.tensor([len(tokens)])
        (path,) = viterbi_decoding(log_probs[None], torch.tensor([tokens]), *sizes, viterbi_device=torch.device("cpu"))
        frames = [path.index(2 * place + 1) for place in range(len(text))]
        letters = Output(log_probs.numpy(), LABELS, 1.0).align(text)
        assert [letter.start for letter in letters] == frames


def test_what_cant_be_aligned_is_refused():
    with pytest.raises(InputError, match="empty"):
        output("ab").align("")
    with pytest.raises(InputError, match="'c'"):
        output("ab").align("abc")
    with pytest.raises(InputError, match="'aa'.* 3 frames of 0.02 s.* 2"):
        output("ab").align("aa")
