"""What happens to a recording between the disk and the model while training: kept in memory, and made to vary.

`register` gives NeMo's `augmentor` sections one more name, `resample`: speed perturbation that costs a millisecond.
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

SHARE_OF_MEMORY = 0.25
"""Of the memory that is free when training starts, for recordings that are kept."""


class Memory:
    """Recordings as they were last made, up to a number of bytes; what comes when it is full isn't kept."""

    def __init__(self, limit: int):
        self.left = limit
        self._kept: dict = {}

    def get_or_make(self, key, make):
        """The array that is kept under `key`, or else what `make()` gives."""
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
        min_rate, max_rate: speeds, as a factor.
        rates: how many speeds there are between the two, both of them included.
    """

    memory: Memory | None = None

    def __init__(self, min_rate: float = 0.9, max_rate: float = 1.1, rates: int = 3):
        if not 0.5 <= min_rate <= max_rate <= 2 or rates < 1:
            raise ValueError(f"resample: min_rate={min_rate}, max_rate={max_rate}, rates={rates} make no sense")
        step = (max_rate - min_rate) / max(1, rates - 1)
        self.rates = [round(min_rate + step * number, 4) for number in range(rates)]

    def max_augmentation_length(self, length):
        """NeMo asks how long a recording can become."""
        return length / min(self.rates)

    def perturb(self, data: AudioSegment) -> None:
        """Change a segment of sound in place."""
        rate = random.choice(self.rates)
        if rate == 1:
            return

        def resampled():
            return soxr.resample(data.samples, data.sample_rate * rate, data.sample_rate, quality="MQ")

        if self.memory is None:
            data._samples = resampled()
        else:
            key = data._audio_file, data._offset, data._duration, rate
            data._samples = self.memory.get_or_make(key, resampled).copy()


def register() -> None:
    """Let NeMo know `resample` in the `augmentor` section of a dataset's config."""
    if "resample" not in perturbation_types:
        register_perturbation("resample", Resample)


def forget(dataset: DictConfig) -> None:
    """Take what only this package knows out of a dataset's config: `resample` in its `augmentor`, and `vocal_tract`."""
    with open_dict(dataset):
        dataset.pop("vocal_tract", None)
        if dataset.get("augmentor"):
            dataset.augmentor.pop("resample", None)


class _KeptInMemory(WaveformFeaturizer):
    """NeMo's way from a file to samples, with each file read and decoded once."""

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
    """The mel filters of `featurizer` for a spectrum whose frequencies were multiplied by a factor, (D, F).

    Above 0.6 of the highest frequency the warp bends, so that it stays in place.

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
    """Let each utterance be heard, while training, as from a longer or shorter vocal tract: VTLP.

    Each gets `warped_filters` of a factor drawn from `steps` between `low` and `high`. Unlike another speed, this
    leaves pitch and tempo alone; and it costs nothing, since only the filters' weights differ.
    """
    featurizer = model.preprocessor.featurizer
    plain = featurizer.fb  # (1, D, F)
    factors = torch.linspace(low, high, steps).tolist()
    banks = torch.stack([warped_filters(featurizer, factor) for factor in factors])  # (steps, D, F)

    def before(module: FilterbankFeatures, arguments: tuple) -> None:
        if module.training:
            module.fb = banks[torch.randint(steps, (len(arguments[0]),))].to(plain.device)

    def after(module: FilterbankFeatures, arguments: tuple, output: tuple) -> None:
        module.fb = plain.to(module.fb.device)

    featurizer.register_forward_pre_hook(before)
    featurizer.register_forward_hook(after, always_call=True)


def seed_cutout(model: LightningModule) -> None:
    """Let Cutout, which in NeMo has random numbers of its own, follow the seed of the training like all else."""
    for module in model.modules():
        if isinstance(module, SpecCutout):
            module._rng = random


def keep_in_memory(model: LightningModule) -> None:
    """Let a NeMo model's training data be read, decoded and resampled once, as far as memory allows.

    Only where the loader works in this very process: a worker process ends with the epoch, and what it kept with it.
    """
    loader = getattr(model, "_train_dl", None)
    dataset = getattr(loader, "dataset", None)
    featurizer = getattr(dataset, "featurizer", None)
    if type(featurizer) is not WaveformFeaturizer or loader.num_workers:
        return
    memory = Memory(int(SHARE_OF_MEMORY * psutil.virtual_memory().available))
    dataset.featurizer = _KeptInMemory(featurizer, memory)
    first = next((perturbation for _, perturbation in featurizer.augmentor._pipeline), None)
    if isinstance(first, Resample):  # after another perturbation, what it makes is never the same
        first.memory = memory
