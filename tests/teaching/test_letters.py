"""Spelled letters, cut at the pauses and compared."""

import numpy as np

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.teaching import letters


def test_letters_of_a_corpus_are_cut_at_the_pauses(small_corpus: an4.Corpus):
    for found in letters.spellings(manifest.read_manifest(small_corpus.manifest("train_all"))):
        assert len(found.letters) == len(found.spans)
        assert len(found.samples) / found.sample_rate >= found.spans.max()


def test_a_letters_twin_is_the_nearest_if_it_looks_the_same():
    spelling = letters.Spelling(
        "", ["e", "s", "e"], np.zeros(16000), 16000, np.array([[0, 0.2], [0.3, 0.5], [0.6, 0.9]])
    )
    picture = np.array([[1.0] * 25 + [5.0] * 30 + [1.0] * 45])
    right, asked, expected = letters.twins([spelling], lambda samples: picture)
    assert (right, asked, expected) == (2, 2, 1.0)
