"""Calls made of a corpus: long recordings with captions, of which some have another one's text."""

import re
from pathlib import Path

import soundfile

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.teaching import long_recording


def test_the_captions_with_another_ones_text_are_known(small_corpus: an4.Corpus, tmp_path: Path):
    calls = long_recording.make_calls(small_corpus, tmp_path, utterances=40, wrong=0.2, seed=3)
    swapped = long_recording.swapped_captions(calls)
    assert 0 < len(swapped) <= 8
    captions = (calls / "train/monday.srt").read_text().strip().split("\n\n")
    texts = [re.sub(r"^\w+: ", "", caption.splitlines()[2]) for caption in captions]
    rows = manifest.read_manifest(small_corpus.manifest("train"))
    assert len(texts) == min(40, len(rows)) and set(texts) <= {row["text"] for row in rows}
    right = long_recording.make_calls(small_corpus, tmp_path, utterances=40, wrong=0, seed=3)
    assert long_recording.swapped_captions(right) == []
    before = [caption.splitlines()[2] for caption in (right / "train/monday.srt").read_text().strip().split("\n\n")]
    after = [caption.splitlines()[2] for caption in captions]
    assert [number for number, pair in enumerate(zip(before, after, strict=True), 1) if len(set(pair)) > 1] == swapped
    assert soundfile.info(calls / "train/monday.wav").samplerate == 8_000
    assert long_recording.make_calls(small_corpus, tmp_path, utterances=40, wrong=0.2, seed=3) == calls
