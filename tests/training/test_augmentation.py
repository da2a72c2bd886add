"""Training audio is read once, and augmented differently each time."""

import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
from nemo.collections.asr.parts.preprocessing.segment import AudioSegment
from omegaconf import OmegaConf

from asr_with_nemo.data import manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.training import augmentation
from asr_with_nemo.training.config import complete_config, load_config
from asr_with_nemo.training.run import build_model
from tests.conftest import ROOT

RATE = 16000  # Hz


def tone(frequency: float = 1000, seconds: float = 1.0) -> np.ndarray:
    """Return a sine, (t,)."""
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def pitch(samples: np.ndarray) -> float:
    """Return the strongest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 18))
    return float(spectrum.argmax() * RATE / (1 << 18))


def played(rate: float, samples: np.ndarray) -> np.ndarray:
    segment = AudioSegment(samples, RATE)
    augmentation.Resample(rate, rate, 1).perturb(segment)
    return segment.samples


@pytest.fixture
def corpus(small_corpus, tmp_path: Path) -> Path:
    """A folder with eight utterances whose files a test may change."""
    for split, count in (("train", 8), ("dev", 2)):
        utterances = manifest.read_manifest(small_corpus.folder / f"{split}_manifest.json")[:count]
        for number, utterance in enumerate(utterances):
            copied = tmp_path / f"{split}{number}.wav"
            shutil.copy(utterance["audio_filepath"], copied)
            utterance["audio_filepath"] = str(copied)
        manifest.write_manifest(tmp_path / f"{split}_manifest.json", utterances)
    return tmp_path


def build(corpus: Path, *overrides: str):
    """Build a small model that trains on `corpus`; the overrides are of its training data."""
    small = [f"data_dir={corpus}", "model.width=8", "model.train_ds.batch_size=4"]
    config = load_config(ROOT / "configs", "quartznet_an4", [*small, *overrides])
    return build_model(complete_config(config))


def read_all(model, seed: int = 0) -> list[torch.Tensor]:
    """Return the training data as the model gets it, utterance by utterance, (t,) each."""
    random.seed(seed)
    np.random.seed(seed)
    dataset = model.train_dataloader().dataset
    return [dataset[number][0] for number in range(len(dataset))]


NOTHING = "~model.train_ds.augmentor"


# --- Speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.85, 0.9, 1.1, 1.15])
def test_a_speed_changes_length_and_pitch(rate: float):
    faster = played(rate, tone(1000))
    assert len(faster) == pytest.approx(RATE / rate, abs=1)
    assert pitch(faster) == pytest.approx(1000 * rate, abs=0.5)
    assert faster.dtype == np.float32
    middle = faster[1000:-1000]  # as loud as it was
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.01)


def test_what_a_higher_speed_moves_out_of_the_band_does_not_come_back_as_an_alias():
    assert np.abs(played(1.15, tone(7500))[500:-500]).max() < 0.01


def test_speed_one_changes_nothing():
    samples = tone()
    assert np.array_equal(played(1.0, samples), samples)


def test_speeds_are_spread_evenly_and_drawn_by_seed():
    resample = augmentation.Resample(0.85, 1.15, 7)
    assert resample.rates == [0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15]
    assert resample.max_augmentation_length(1.7) == pytest.approx(2.0)

    def lengths(seed: int) -> list[int]:
        random.seed(seed)
        segments = [AudioSegment(tone(), RATE) for _ in range(40)]
        for segment in segments:
            resample.perturb(segment)
        return [segment.num_samples for segment in segments]

    assert lengths(1) == lengths(1)
    assert lengths(1) != lengths(2)
    assert {round(RATE / length, 2) for length in lengths(1)} == set(resample.rates)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_rate": 1.1, "max_rate": 0.9},
        {"min_rate": 0.0},
        {"min_rate": -1.0},
        {"max_rate": 16.0},
        {"rates": 0},
    ],
)
def test_speeds_that_make_no_sense_are_refused(settings: dict, corpus: Path):
    with pytest.raises(ValueError, match="resample: min_rate="):
        augmentation.Resample(**settings)
    overrides = [f"model.train_ds.augmentor.resample.{key}={value}" for key, value in settings.items()]
    with pytest.raises(InputError, match="resample: min_rate="):
        build(corpus, *overrides)


def test_a_setting_that_it_lacks_is_refused(corpus: Path):
    with pytest.raises(InputError, match="speed"):
        build(corpus, "+model.train_ds.augmentor.resample.speed=2")


# --- In a model's training data ---------------------------------------------------------------------------------------


def test_a_config_speeds_recordings_up_and_down(corpus: Path):
    rates = [0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15]
    as_they_are = read_all(build(corpus, NOTHING))
    model = build(corpus)
    seen = set()
    for seed in range(6):
        for original, changed in zip(as_they_are, read_all(model, seed), strict=True):
            rate = min(rates, key=lambda one: abs(len(original) / one - len(changed)))
            assert len(changed) == pytest.approx(len(original) / rate, abs=1)
            seen.add(rate)
    assert len(seen) >= 6
    for first, second in zip(read_all(model, 3), read_all(model, 3), strict=True):
        assert torch.equal(first, second)


def test_batches_carry_the_lengths_that_the_speeds_made(corpus: Path):
    random.seed(0)
    for signal, lengths, _, text_lengths in build(corpus).train_dataloader():
        assert signal.shape == (4, int(lengths.max()))
        assert (text_lengths > 0).all()
        for row, length in zip(signal, lengths, strict=True):
            assert row[:length].abs().max() > 0
            assert not row[length:].any()


# --- Memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides", [[NOTHING], ["model.train_ds.augmentor.resample.rates=3"]], ids=["plain", "speed"]
)
def test_a_file_is_read_once(corpus: Path, overrides: list[str]):
    model = build(corpus, *overrides)
    first = read_all(model)
    for path in corpus.glob("train*.wav"):
        path.unlink()
    for before, after in zip(first, read_all(model), strict=True):
        assert torch.equal(before, after)
    read_all(model, 1)  # other speeds are made of what was read


def test_what_is_read_is_what_the_file_holds(corpus: Path):
    for number, samples in enumerate(read_all(build(corpus, NOTHING))):
        stored, rate = soundfile.read(corpus / f"train{number}.wav", dtype="float32")
        assert rate == RATE
        assert np.array_equal(samples.numpy(), stored)


@pytest.mark.parametrize(
    "speeds", [[], ["model.train_ds.augmentor.resample.rates=1"]], ids=["seven speeds", "one speed"]
)
def test_noise_does_not_gather_in_what_is_kept(corpus: Path, speeds: list[str]):
    noise = "+model.train_ds.augmentor.white_noise={prob: 1.0, min_level: -40, max_level: -39}"
    quiet, noisy = build(corpus, *speeds), build(corpus, *speeds, noise)
    for seed in range(5):
        for clean, heard in zip(read_all(quiet, seed), read_all(noisy, seed), strict=True):
            if len(clean) == len(heard):  # the noise draws, too, so that another speed may follow
                level = 20 * np.log10(np.std((heard - clean).numpy()))
                assert level == pytest.approx(-40, abs=1)


def test_a_perturbation_before_it_is_not_kept(corpus: Path):
    """`gain` first, then `resample`: each time another gain."""
    both = "+model.train_ds.augmentor={gain: {prob: 1.0, min_gain_dbfs: -20, max_gain_dbfs: 20}, "
    both += "resample: {prob: 1.0, min_rate: 1.1, max_rate: 1.1, rates: 1}}"
    model = build(corpus, NOTHING, both)
    levels = {round(float(read_all(model, seed)[0].std()), 6) for seed in range(4)}
    assert len(levels) == 4


def test_what_does_not_fit_is_read_again():
    memory = augmentation.Memory(10_000)
    made = []

    def make(count: int):
        made.append(count)
        return np.zeros(count, dtype=np.float32)

    for key, count in (("a", 2000), ("b", 1000), ("c", 500)):  # 8,000, 4,000 and 2,000 bytes
        for _ in range(2):
            assert len(memory.get_or_make(key, lambda count=count: make(count))) == count
    assert made == [2000, 1000, 1000, 500]
    assert memory.left == 0


def test_worker_processes_keep_nothing(corpus: Path):
    model = build(corpus, "model.train_ds.num_workers=1")
    assert type(model.train_dataloader().dataset.featurizer).__module__.startswith("nemo.")


def test_dev_data_is_left_as_nemo_has_it(corpus: Path):
    model = build(corpus)
    assert type(model.val_dataloader().dataset.featurizer).__module__.startswith("nemo.")
    assert type(model.train_dataloader().dataset.featurizer).__module__ == augmentation.__name__


# --- Vocal tracts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_another_vocal_tract_moves_what_is_heard_and_leaves_the_model_as_it_was(rate: int):
    preprocessor = AudioToMelSpectrogramPreprocessor(sample_rate=rate, features=64, normalize=None, dither=0.0)
    featurizer = preprocessor.featurizer
    tone = torch.sin(torch.arange(rate) * 2 * torch.pi * (rate / 10) / rate)[None]  # a fifth of the highest frequency

    def loudest_band() -> int:
        mel, _ = preprocessor(input_signal=tone, length=torch.tensor([rate]))  # (1, D, T)
        assert torch.isfinite(mel).all()
        return int(mel[0, :, 50].argmax())

    before, kept = loudest_band(), featurizer.fb.clone()
    augmentation.vary_vocal_tract(SimpleNamespace(preprocessor=preprocessor), 0.8, 1.2)
    preprocessor.train()
    torch.manual_seed(0)
    heard = {loudest_band() for _ in range(30)}
    assert min(heard) < before < max(heard)
    assert torch.equal(featurizer.fb, kept), "what a checkpoint holds are the plain filters"
    preprocessor.eval()
    assert loudest_band() == before
    torch.testing.assert_close(augmentation.warped_filters(featurizer, 1.0), kept[0])


def test_the_filters_of_other_vocal_tracts_follow_the_model_to_its_device(monkeypatch: pytest.MonkeyPatch):
    """As to a GPU; on torch's device "meta", tensors have a shape and no values."""
    preprocessor = AudioToMelSpectrogramPreprocessor(features=64, dither=0.0).train()
    augmentation.vary_vocal_tract(SimpleNamespace(preprocessor=preprocessor), 0.8, 1.2)
    featurizer, used = preprocessor.to("meta").featurizer, []
    monkeypatch.setattr(featurizer, "forward", lambda signals: used.append(featurizer.fb))
    featurizer(torch.zeros(3, 16_000, device="meta"))
    assert used[0].device.type == "meta" and used[0].shape[0] == 3
    assert featurizer.fb.device.type == "meta" and featurizer.fb.shape[0] == 1


def test_a_slowed_recording_is_not_blown_up_where_it_has_nothing(corpus: Path):
    """After slowing to 0.85, the bands above 6.8 kHz hold dither, not the rounding errors of silence."""
    model = build(corpus).train()
    loud = played(0.85, soundfile.read(corpus / "train0.wav", dtype="float32")[0])
    signal, length = torch.from_numpy(loud)[None], torch.tensor([len(loud)])
    assert model.preprocessor(input_signal=signal, length=length)[0].abs().max() < 12
    model.preprocessor.featurizer.dither = 0.0
    assert model.preprocessor(input_signal=signal, length=length)[0].abs().max() > 12


def test_cutout_follows_the_seed(corpus: Path):
    model = build(corpus, "+model.spec_augment.rect_masks=5", "model.spec_augment.freq_masks=0").train()
    drawn = []
    for seed in (0, 0, 1):
        pl.seed_everything(seed, verbose=False)
        masked = model.spec_augmentation(input_spec=torch.ones(2, 64, 100), length=torch.tensor([100, 100]))
        drawn.append(masked == 0)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_saved_model_names_nothing_that_plain_nemo_lacks():
    dataset = OmegaConf.create(
        {"augmentor": {"resample": {"prob": 1.0}, "white_noise": {"prob": 0.5}}, "vocal_tract": [0.9, 1.1]}
    )
    augmentation.forget(dataset)
    assert dataset == {"augmentor": {"white_noise": {"prob": 0.5}}}
    augmentation.forget(OmegaConf.create({"batch_size": 8}))
