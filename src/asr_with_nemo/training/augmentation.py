"""Caching and augmentation of training audio: speed and vocal tract length perturbation.

`register` adds a perturbation to NeMo's `augmentor` sections, `resample`: speed perturbation in about a millisecond for
an utterance.
"""

import random

import psutil
import soxr
import torch
from lightning.pytorch import LightningModule
from nemo.collections.asr.parts.preprocessing.features import FilterbankFeatures, WaveformFeaturizer
from nemo.collections.asr.parts.preprocessing.perturb import Perturbation, perturbation_types, register_perturbation
from nemo.collections.asr.parts.preprocessing.segment import AudioSegment
from nemo.collections.asr.parts.submodules.spectr_augment import SpecCutout
from omegaconf import DictConfig, open_dict
from torch import Tensor

from asr_with_nemo.models import nemo_internals

SHARE_OF_MEMORY = 0.25
"""The share of the memory that is available when training starts to use for the cache of recordings."""


class Memory:
    """A cache of arrays up to a number of bytes; when it is full, further arrays aren't cached.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int):
        self.left = limit
        self._kept: dict = {}

    def get_or_make(self, key, make):
        """Return the array that is cached under `key`; without one, call `make()` and cache its result if it fits."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        if made.nbytes <= self.left:
            self.left -= made.nbytes
            self._kept[key] = made
        return made


class Resample(Perturbation):
    """Speed perturbation: play a recording faster or slower, which changes tempo, pitch and formants together.

    Source: T. Ko and others, "Audio augmentation for speech recognition", Interspeech 2015.
    NeMo's own `speed` does the same with an FFT over the whole recording, at four times the cost.

    Args:
        min_rate, max_rate: the lowest and the highest speed, as factors from 0.5 to 2.
        rates: the number of speeds, evenly spaced from `min_rate` to `max_rate`.

    Raises:
        ValueError: these are no such speeds.
    """

    memory: Memory | None = None

    def __init__(self, min_rate: float = 0.9, max_rate: float = 1.1, rates: int = 3):
        if not 0.5 <= min_rate <= max_rate <= 2 or rates < 1:
            raise ValueError(
                f"resample: min_rate={min_rate}, max_rate={max_rate}, rates={rates}: expected "
                "0.5 <= min_rate <= max_rate <= 2 and rates >= 1"
            )
        step = (max_rate - min_rate) / max(1, rates - 1)
        self.rates = [round(min_rate + step * number, 4) for number in range(rates)]

    def max_augmentation_length(self, length):
        """Return the longest duration or number of samples that a recording can have afterwards; NeMo calls this."""
        return length / min(self.rates)

    def perturb(self, data: AudioSegment) -> None:
        """Resample a segment of audio in place, by a speed that is drawn at random."""
        rate = random.choice(self.rates)
        if rate == 1:
            return

        def resampled():
            return soxr.resample(data.samples, data.sample_rate * rate, data.sample_rate, quality="MQ")

        if self.memory is None:
            nemo_internals.set_samples(data, resampled())
        else:
            key = data.audio_file, data.offset, data.duration, rate
            nemo_internals.set_samples(data, self.memory.get_or_make(key, resampled).copy())


def register() -> None:
    """Make `resample` known to NeMo, for the `augmentor` section of a dataset's config."""
    if "resample" not in perturbation_types:
        register_perturbation("resample", Resample)


def forget(dataset: DictConfig) -> None:
    """Remove the settings that NeMo doesn't have from a dataset's config: of augmentation, and of shards."""
    with open_dict(dataset):
        for key in ("vocal_tract", "epoch_hours", "defer_setup"):
            dataset.pop(key, None)
        if dataset.get("augmentor"):
            dataset.augmentor.pop("resample", None)


class _KeptInMemory(WaveformFeaturizer):
    """NeMo's featurizer with a cache, so that each file is read and decoded once."""

    def __init__(self, featurizer: WaveformFeaturizer, memory: Memory):
        super().__init__(featurizer.sample_rate, featurizer.int_values, featurizer.augmentor)
        self.memory = memory

    def process(self, file_path, offset=0, duration=0, trim=False, orig_sr=None, channel_selector=None, **more):
        place = {"offset": offset, "duration": duration}
        settings = {"trim": trim, "orig_sr": orig_sr, "channel_selector": channel_selector, **more}

        def read():
            return AudioSegment.from_file(
                file_path, target_sr=self.sample_rate, int_values=self.int_values, **place, **settings
            ).samples

        samples = self.memory.get_or_make((file_path, offset, duration, 1), read).copy()
        return self.process_segment(AudioSegment(samples, self.sample_rate, audio_file=file_path, **place))


def warped_filters(featurizer: FilterbankFeatures, factor: float) -> Tensor:
    """Return the mel filters of `featurizer` for a spectrum whose frequencies are multiplied by a factor, (D, F).

    The warp is piecewise linear: above 0.6 of the highest frequency it bends, so that the highest frequency stays in
    place.

    Source: N. Jaitly and G. Hinton, "Vocal tract length perturbation (VTLP) improves speech recognition", ICML
    workshop 2013.
    """
    plain = featurizer.fb[0]
    nyquist = featurizer.sample_rate / 2
    bins = torch.linspace(0, nyquist, plain.shape[1], device=plain.device)
    bend = 0.6 * nyquist * min(factor, 1) / factor
    upper = nyquist - (nyquist - factor * bend) / (nyquist - bend) * (nyquist - bins)
    place = torch.where(bins <= bend, factor * bins, upper) / nyquist * (len(bins) - 1)
    left = place.floor().clamp(max=len(bins) - 2).long()
    share = place - left
    return plain[:, left] * (1 - share) + plain[:, left + 1] * share


def vary_vocal_tract(model: LightningModule, low: float, high: float, steps: int = 15) -> None:
    """Add vocal tract length perturbation (VTLP) to a model's training: each utterance sounds as from another speaker.

    In training mode, each utterance gets `warped_filters` of a random factor. Unlike speed perturbation this changes
    neither pitch nor tempo, and it takes no extra time, as only the weights of the filters differ.

    Args:
        model: a NeMo model; hooks are added to its featurizer.
        low, high: the lowest and the highest factor.
        steps: the number of factors, evenly spaced from `low` to `high`.
    """
    featurizer = model.preprocessor.featurizer
    factors = torch.linspace(low, high, steps).tolist()
    banks = torch.stack([warped_filters(featurizer, factor) for factor in factors])  # (steps, D, F)
    featurizer.register_buffer("warped", banks, persistent=False)  # so that it follows the model to a GPU
    plain: list[Tensor] = []  # (1, D, F), while the filters are replaced

    def before(module: FilterbankFeatures, arguments: tuple) -> None:
        if module.training:
            plain.append(module.fb)
            module.fb = module.warped[torch.randint(steps, (len(arguments[0]),))]

    def after(module: FilterbankFeatures, arguments: tuple, output: tuple) -> None:
        if plain:
            module.fb = plain.pop()

    featurizer.register_forward_pre_hook(before)
    featurizer.register_forward_hook(after, always_call=True)


def seed_cutout(model: LightningModule) -> None:
    """Let Cutout draw from the seed of the training; in NeMo it has a random number generator of its own."""
    for module in model.modules():
        if isinstance(module, SpecCutout):
            nemo_internals.set_random(module, random)


def keep_in_memory(model: LightningModule) -> None:
    """Cache a NeMo model's training audio, decoded and resampled, as far as memory allows (`SHARE_OF_MEMORY`).

    Only where the loader runs in this process: a worker process ends with the epoch, and its cache with it.
    """
    loader = model.train_dataloader()
    dataset = getattr(loader, "dataset", None)
    featurizer = getattr(dataset, "featurizer", None)
    if type(featurizer) is not WaveformFeaturizer or loader.num_workers:
        return
    memory = Memory(int(SHARE_OF_MEMORY * psutil.virtual_memory().available))
    dataset.featurizer = _KeptInMemory(featurizer, memory)
    first = next(iter(nemo_internals.perturbations(featurizer.augmentor)), None)
    if isinstance(first, Resample):  # after another perturbation, its input differs each time and can't be cached
        first.memory = memory
