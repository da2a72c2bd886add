"""Spikes beside their sounds, and the masks that keep padding out."""

from pathlib import Path

import numpy as np
import pytest

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.teaching import outputs


def spelled(path: Path, pauses: float) -> manifest.Utterance:
    """Write a recording of three tones with pauses between them, as if three letters were spelled."""
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(4_800) / 16_000)  # 0.3 s
    pause = np.zeros(round(pauses * 16_000))
    audio.write_wav(path, (32_767 * np.concatenate([pause, tone, pause, tone, pause, tone, pause])).astype(np.int16))
    return {"audio_filepath": str(path), "text": "a b c", "duration": 0.9 + 4 * pauses}


def test_letters_with_pauses_are_found_by_their_loudness(tmp_path: Path):
    apart, together = spelled(tmp_path / "apart.wav", 0.2), spelled(tmp_path / "together.wav", 0.0)
    word = apart | {"text": "yes"}
    ((text, samples, spans),) = outputs.spelled_apart([apart, together, word])
    assert (text, len(samples)) == ("a b c", round(16_000 * apart["duration"]))
    assert spans[:, 0] == pytest.approx([0.2, 0.7, 1.2], abs=0.05)


@pytest.mark.slow
def test_a_models_spikes_are_in_the_order_of_its_letters(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    model = load_model(small_model)
    spikes = outputs.spikes(model, [spelled(tmp_path / "apart.wav", 0.2)])
    assert [spike.letter for spike in spikes] == ["a", "b", "c"]
    assert [spike.seconds for spike in spikes] == sorted(spike.seconds for spike in spikes)


@pytest.mark.slow
def test_padding_reaches_the_output_only_without_masks(small_model: Path):
    import torch

    model = load_model(small_model)
    rng = np.random.default_rng(0)
    short, longer = (0.1 * rng.standard_normal(size).astype(np.float32) for size in (8_000, 40_000))
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(short), torch.tensor(longer)], batch_first=True)

    def difference() -> float:
        with torch.inference_mode():
            alone, frames, _ = model(input_signal=torch.tensor(short)[None], input_signal_length=torch.tensor([8_000]))
            both, _, _ = model(input_signal=padded, input_signal_length=torch.tensor([8_000, 40_000]))
        return float((alone[0, : frames[0]] - both[0, : frames[0]]).abs().max())

    assert difference() < 1e-4
    with outputs.without_masks(model):
        assert difference() > 1e-3
    assert difference() < 1e-4
