"""Transducers are searched with NeMo's beam, with boosted phrases and n-grams of their letters or pieces."""

from pathlib import Path

import numpy as np
import pytest
import torch

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, load_model
from asr_with_nemo.recognition import decoding, ngrams, spelling
from asr_with_nemo.recognition.language_model import TOKEN_OFFSET
from asr_with_nemo.recognition.transducer_beam import boosting_tree

pytestmark = pytest.mark.slow
TRANSDUCERS = ("rnnt of letters", "tdt of pieces")


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[str]:
    return [row["audio_filepath"] for row in manifest.read_manifest(small_corpus.manifest("dev"))[:2]]


@pytest.mark.parametrize("family", TRANSDUCERS)
def test_a_boosted_word_is_written_by_a_transducer(family: str, recognizers: dict[str, Path], files: list[str]):
    """Of a model with random weights, which writes anything: much boosted, it writes the word."""
    model = load_model(recognizers[family])
    heard = {}
    for weight in (0.0, 60.0):
        search = decoding.load_search(model, boosts={"rubout": weight})
        assert str(search) == "malsd_batch (width 4), 1 boosted"
        heard[weight] = decoding.transcribe(model, files, progress=False, search=search)
    plain = decoding.load_search(model, boosts={"go": 0.0})
    again = decoding.transcribe(model, files, progress=False, search=plain)
    assert [one.text for one in heard[0.0]] == [one.text for one in again]
    assert not any("rubout" in one.text for one in heard[0.0])
    assert any("rubout" in one.text.split() for one in heard[60.0])
    name = family.split()[0]
    assert decoding.decoder_of(model, search) == f"malsd_batch (width 4), 1 boosted, {name}"
    for one in heard[60.0]:
        assert [word.word for word in one.words] == one.text.split()
        assert all(0 <= word.confidence <= 1 and word.start <= word.end for word in one.words)


def test_the_greedy_search_and_a_beam_are_equally_sure(recognizers: dict[str, Path], files: list[str]):
    """The confidence of a letter is its probability by the transducer, without what a boost adds."""
    model = load_model(recognizers["rnnt of letters"])
    with torch.no_grad():
        for layer in model.joint.joint_net[-1:]:
            layer.weight *= 20  # sure of what it writes, so that both find the same
    greedy = decoding.transcribe(model, files, progress=False)
    search = decoding.load_search(model, boosts={"rubout": 0.0})
    beam = decoding.transcribe(model, files, progress=False, search=search)
    same = [(one, other) for one, other in zip(greedy, beam, strict=True) if one.text == other.text]
    for one, other in same:
        assert [word.confidence for word in one.words] == pytest.approx([w.confidence for w in other.words], abs=1e-3)
    samples = decoding.transcripts.read(files[:1], 16_000)
    with decoding.inference(model):
        encoded, frames = decoding.encode(model, samples)
        ((_, steps),) = decoding.transduced(model, encoded, frames, search.decoding)
        ((_, others),) = decoding.transduced(model, encoded, frames, decoding.greedy_search(model))
    for step, other in zip(steps, others, strict=False):
        if step[:3] != other[:3]:
            break
        assert step.probability == pytest.approx(other.probability, abs=1e-3)


def test_nemos_tree_has_our_weights(recognizers: dict[str, Path]):
    model = load_model(recognizers["rnnt of letters"])
    labels, boosts = alphabet(model), {"no": 4.0, "new york": 7.0, "new": 1.0}
    tree = boosting_tree(model, boosts)

    def bonus(text: str) -> float:
        state, total = tree.get_init_states(1), 0.0
        for letter in text:
            scores, after = tree.advance(state)
            total += float(scores[0, labels.index(letter)])
            state = after[:, labels.index(letter)]
        return total

    texts = {
        "no": 4,
        "no ": 4,
        "go no": 4,
        "new york": 7,
        "new": 1,
        "novem": 0,
        "new no": 5,
        "no no ": 8,
        "xyz": 0,
        "ano ": 0,
    }
    assert {text: round(bonus(text), 4) for text in texts} == pytest.approx(texts, abs=1e-3)
    with pytest.raises(InputError, match="'7'"):
        boosting_tree(model, {"no7": 1.0})


def test_a_transducer_with_n_grams_of_its_pieces(recognizers: dict[str, Path], files: list[str], tmp_path: Path):
    model = load_model(recognizers["tdt and ctc of pieces"])
    pieces = spelling.of(model)
    texts = [[chr(column + TOKEN_OFFSET) for column in pieces.columns(text)] for text in ("go", "enter five", "go")]
    marks = [chr(column + TOKEN_OFFSET) for column in range(len(alphabet(model)))]
    arpa, words, single = (tmp_path / f"{name}.arpa" for name in ("pieces", "words", "single"))
    ngrams.write_arpa(ngrams.build_ngrams(texts, 3, marks), arpa)
    ngrams.write_arpa(ngrams.build_ngrams([["go", "on"]], 2), words)
    ngrams.write_arpa(ngrams.build_ngrams(texts, 1, marks), single)
    heard = {}
    for alpha, boosts in ((0.0, {}), (3.0, {}), (3.0, {"five": 30.0})):
        search = decoding.load_search(model, "", arpa, boosts, alpha=alpha)
        heard[alpha, len(boosts)] = [
            one.text for one in decoding.transcribe(model, files, progress=False, search=search)
        ]
    assert str(search) == "malsd_batch + 3-gram of tokens (alpha 3, width 4), 1 boosted"
    assert heard[0.0, 0] != heard[3.0, 0] != heard[3.0, 1]
    lm = ngrams.read_arpa(arpa)

    def likely(texts: list[str]) -> float:
        columns = [[chr(one + TOKEN_OFFSET) for one in pieces.columns(text)] for text in texts if text]
        return float(np.mean([lm.log_prob(one) / (len(one) + 1) for one in columns] or [0]))

    assert likely(heard[3.0, 0]) > likely(heard[0.0, 0])
    for name, reason in ((words, r"words\.arpa.*--model.*--decoder ctc"), (single, "order 1")):
        with pytest.raises(InputError, match=reason):
            decoding.load_search(model, arpa=name)
    with pytest.raises(InputError, match="--beta 1"):
        decoding.load_search(model, arpa=arpa, beta=1)
    # A search is for the decoder that it was made for.
    with pytest.raises(InputError, match="decoding.load_search"):
        decoding.check_decoder(model, "ctc", search)
    by_ctc = decoding.load_search(model, "ctc", arpa, {"five": 30.0})
    assert str(by_ctc).startswith("beam over pieces + 3-gram")
    with pytest.raises(InputError, match="decoding.load_search"):
        decoding.check_decoder(model, "", by_ctc)
    assert len(decoding.transcribe(model, files, progress=False, search=by_ctc, decoder="ctc")) == 2
