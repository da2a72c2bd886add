"""Train from shards (`data.shards`): which are read when, their batches, and how processes share them.

NeMo 3.0 reads Lhotse's shards without end, in each process all of them, and can't go on in the middle of them. So here
an epoch is a stated number of shards (a pseudo-epoch, `epoch_hours`), which are divided among the processes and their
workers. The order of the shards goes on from one pseudo-epoch to the next, so that each utterance is heard once in a
pass over the corpus. The shards of a pseudo-epoch follow from its number, the seed and the number of processes: a
training that is killed goes on at the beginning of the one that it was in, with nothing else changed.

Buckets, batches by duration and Lhotse's own augmentation (`perturb_speed`, noise, codecs) are NeMo's: its sampler is
given the shards of a share.
"""

import copy
import gzip
import io
import math
import os
import random
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import soundfile
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from asr_with_nemo.base.values import is_number
from asr_with_nemo.data import lhotse_sound, object_storage
from asr_with_nemo.data.shards import ROWS, Shard, Shards
from asr_with_nemo.errors import InputError
from asr_with_nemo.models import nemo_internals
from asr_with_nemo.training import shard_rows
from asr_with_nemo.training.shard_rows import MAKE

DEFAULTS = {"shuffle_buffer_size": 200, "bucket_buffer_size": 1_000, "num_buckets": 10, "concurrent_bucketing": False}
"""Settings of NeMo's sampler that a config doesn't give.

NeMo's own buffers (10,000 utterances each) take 0.8 GB in each worker; here the utterances are shuffled over the
shards. Its concurrent bucketing fills a buffer in a thread, so that the order depends on the clock.
"""
OWN = ("shar_path", "epoch_hours", "batch_duration", "quadratic_duration", *DEFAULTS, "bucket_duration_bins")
"""Keys of `model.train_ds` of a training from shards, which NeMo's own configs may lack."""
_OF_STEPS = ("epoch_hours", "batch_duration", "bucket_duration_bins", "use_lhotse")
"""Those settings without which a training from a manifest would be another one than was asked for."""
BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError, AssertionError, ValueError, RuntimeError)
"""What reading a damaged shard raises."""


def place_of(config: DictConfig) -> str | None:
    """Return the place of the shards that a config trains from (`model.train_ds.shar_path`); None for a manifest.

    Raises:
        InputError: it is no single place.
    """
    place = (config.model.get("train_ds") or {}).get("shar_path")
    if place is not None and not isinstance(place, str):
        raise InputError(f"model.train_ds.shar_path={place}: expected one folder of shards, or s3://BUCKET/FOLDER")
    return place or None


def complete(config: DictConfig) -> None:
    """Check the settings of a training from shards, and complete them in place.

    Raises:
        InputError: one is invalid, or contradicts another.
    """
    dataset, trainer = config.model.train_ds, config.trainer
    for key, least in (("epoch_hours", 0), ("batch_duration", 0), ("quadratic_duration", 0)):
        value = dataset.get(key)
        if value is not None and not (is_number(value) and value > least):
            raise InputError(f"model.train_ds.{key}={value}: expected a number above {least}")
    for key in ("shuffle_buffer_size", "bucket_buffer_size", "num_buckets"):
        value = dataset.get(key)
        if value is not None and not (isinstance(value, int) and value > 0):
            raise InputError(f"model.train_ds.{key}={value}: expected a whole number above 0")
    bins = dataset.get("bucket_duration_bins")
    if bins is not None:
        bounds = list(bins) if isinstance(bins, ListConfig | list) else [None]
        if not all(is_number(bound) and bound > 0 for bound in bounds) or sorted(set(bounds)) != bounds:
            raise InputError(
                f"model.train_ds.bucket_duration_bins={bins}: expected the seconds between buckets, each above the one "
                "before, such as [2.5,5,10]; or leave it out: they are then chosen by the notes of the shards"
            )
    if isinstance(every := trainer.get("val_check_interval"), float) and every != 1.0:
        raise InputError(
            f"trainer.val_check_interval={every}: a part of an epoch can't be told while shards are read; shorter "
            "epochs are validated more often: model.train_ds.epoch_hours=HOURS, or give a number of batches"
        )
    if trainer.get("limit_train_batches", 1.0) != 1.0:
        raise InputError(
            f"trainer.limit_train_batches={trainer.limit_train_batches}: would leave out the end of each epoch's "
            "shards (by itself, NeMo needs it, since it reads them without end); model.train_ds.epoch_hours makes "
            "epochs shorter"
        )
    if not dataset.get("batch_duration") and not dataset.get("batch_size"):
        raise InputError("no size of a batch: give model.train_ds.batch_duration=SECONDS or model.train_ds.batch_size")
    with open_dict(dataset):
        dataset.manifest_filepath, dataset.use_lhotse, dataset.defer_setup = None, True, True
        if dataset.get("batch_duration"):
            dataset.batch_size = None
        for key, value in DEFAULTS.items():
            dataset[key] = dataset.get(key, value)


def check_without(config: DictConfig) -> None:
    """Make sure that a training from a manifest has none of the settings of shards that say what a step or an epoch is.

    A line names the others, which aren't used.

    Raises:
        InputError: it has some.
    """
    dataset = config.model.train_ds
    given = [key for key in (*OWN, "use_lhotse") if dataset.get(key) not in (None, False, "")]
    wrong = [key for key in given if key in _OF_STEPS]
    if wrong:
        raise InputError(
            f"{_listed(dataset, wrong)}: for a training from shards, and this one is from a manifest, "
            f"{dataset.manifest_filepath}; leave out ({' '.join(f'model.train_ds.{key}=null' for key in wrong)}), or "
            "make shards: python scripts/make_shards.py MANIFEST, then model.train_ds.shar_path=DIR"
        )
    if given:
        rank_zero_only(print)(f"not used, since the training is from a manifest: {_listed(dataset, given)}")


def _listed(dataset: DictConfig, keys: Sequence[str]) -> str:
    return " ".join(f"model.train_ds.{key}={dataset[key]}" for key in keys)


def batch_of(config: DictConfig) -> tuple[float, str]:
    """Return the size of a training's batches in each process, and its unit."""
    dataset = config.model.train_ds
    if place_of(config) and dataset.get("batch_duration"):
        return dataset.batch_duration, "seconds of speech"
    return dataset.get("batch_size") or 1, "utterances"


# --- Which shards when ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The shards of each pseudo-epoch, and of each process's and worker's share of it.

    Attributes:
        shards: those that are used.
        each: the number of shards in a pseudo-epoch, a multiple of `processes`.
        processes: that share them.
        seed: of their order.

    Example:
        >>> shards = [Shard(str(number), 10, 36.0, {}) for number in range(6)]
        >>> plan = Plan(shards, 4, 2, 0)
        >>> heard = [shard.name for epoch in range(3) for rank in (0, 1) for shard in plan.share(epoch, rank)]
        >>> sorted(heard) == sorted([shard.name for shard in shards] * 2)
        True
    """

    shards: Sequence[Shard]
    each: int
    processes: int
    seed: int

    def share(self, epoch: int, rank: int, worker: int = 0, workers: int = 1) -> list[Shard]:
        """Return the shards that a worker of a process reads in a pseudo-epoch."""
        first, count = epoch * self.each, len(self.shards)
        chosen = []
        for passed in range(first // count, (first + self.each - 1) // count + 1):
            order = random.Random(f"{self.seed}/{passed}").sample(self.shards, count)
            chosen += order[max(0, first - passed * count) : first + self.each - passed * count]
        return chosen[rank :: self.processes][worker::workers]

    def __str__(self) -> str:
        hours = sum(shard.seconds for shard in self.shards) * self.each / len(self.shards) / 3600
        said = f"an epoch is {self.each} of {len(self.shards)} shards, {hours:.3g} hours"
        return said + (f"; {self.each // self.processes} for each process" if self.processes > 1 else "")


def plan(shards: Shards, dataset: DictConfig, seed: int, processes: int, fraction: float = 1.0) -> Plan:
    """Plan the pseudo-epochs of a training.

    Args:
        shards: the notes.
        dataset: `model.train_ds`; its `epoch_hours` is the length of a pseudo-epoch, by default a pass.
        seed: of the training.
        processes: that share the shards.
        fraction: of the shards to use.

    Raises:
        InputError: there are fewer shards than processes.
    """
    used = list(shards.shards)
    if fraction < 1:
        used = random.Random(f"{seed}/fraction").sample(used, max(1, round(fraction * len(used))))
    if len(used) < processes:
        raise InputError(
            f"{shards.place}: {len(used)} shards can't be shared by {processes} processes; make at least as many: "
            f"python scripts/make_shards.py MANIFEST --shards {4 * processes}"
        )
    each, hours = len(used), dataset.get("epoch_hours")
    if hours:
        each = min(each, max(1, round(3600 * hours * len(used) / sum(shard.seconds for shard in used))))
    return Plan(used, max(processes, each - each % processes), processes, seed)


def bins_of(durations: np.ndarray, count: int, least: float = 0.0, most: float = math.inf) -> list[float]:
    """Return the bounds between buckets of equal total duration.

    Args:
        durations: quantiles, (Q,).
        count: of buckets; there are fewer if the durations don't differ.
        least, most: the durations that are used.
    """
    used = durations[(durations >= least) & (durations <= most)]
    if not len(used):
        return []
    total = np.cumsum(used)
    bounds = used[np.searchsorted(total, total[-1] * np.arange(1, count) / count)]
    return [round(float(bound), 3) for bound in np.unique(bounds) if used[0] < bound <= used[-1]]


def batches_of(shards: Shards, plan: Plan, dataset: DictConfig, readers: int) -> int:
    """Estimate the number of batches of each process in a pseudo-epoch, for the schedule of the learning rate.

    Args:
        shards: the notes.
        plan: of the training.
        dataset: `model.train_ds`.
        readers: workers of each process, at least 1; each has a last batch for each bucket, half full.
    """
    rows = sum(shard.rows for shard in plan.shards) * plan.each / len(plan.shards) / plan.processes
    least, most = _limits(dataset)
    used = shards.durations[(shards.durations >= least) & (shards.durations <= most)]
    if not len(used):
        return 1
    bounds = np.array([*bins_of(shards.durations, dataset.num_buckets, least, most), used[-1]])
    longest = bounds[np.minimum(np.searchsorted(bounds, used, side="right"), len(bounds) - 1)]
    size = np.full(len(used), float(dataset.get("batch_size") or math.inf))
    if dataset.get("batch_duration"):
        size = np.minimum(size, np.maximum(1, dataset.batch_duration / longest))
    whole = rows * float(np.mean(1 / size)) * len(used) / len(shards.durations)
    return max(1, math.ceil(whole + readers * len(bounds) / 2))


def _limits(dataset: DictConfig) -> tuple[float, float]:
    """Return the shortest and the longest duration that a dataset's config allows, in seconds."""
    least, most = dataset.get("min_duration"), dataset.get("max_duration")
    return (0.0 if least is None else float(least)), (math.inf if most is None else float(most))


def _check_some_are_left(shards: Shards, dataset: DictConfig) -> None:
    least, most = _limits(dataset)
    for durations in (shards.durations, shards.table(ROWS)["duration"]):
        if ((durations >= least) & (durations <= most)).any():
            return
    raise InputError(nothing_left(shards.place, shards.rows, dataset))


def nothing_left(where: str, rows: int, dataset: DictConfig) -> str:
    """Return the message for a training set of which `min_duration` and `max_duration` leave nothing."""
    limits = f"min_duration={dataset.get('min_duration')} and max_duration={dataset.get('max_duration')}"
    return (
        f"{where}: all {rows:,} utterances are left out by model.train_ds's {limits} s, so that nothing is left to "
        "train on; change them"
    )


# --- Reading ----------------------------------------------------------------------------------------------------------


class _Utterances(Dataset):
    """Make the tensors of a batch of Lhotse's cuts as NeMo's datasets do, with the perturbations of `augmentor`.

    Args:
        tokenizer: NeMo's tokenizer, or its parser of letters.
        sample_rate: in Hz.
        augmentor: the section of the dataset's config; NeMo ignores it for shards.
    """

    def __init__(self, tokenizer: object, sample_rate: int, augmentor: DictConfig | None):
        from nemo.collections.asr.parts.preprocessing.features import WaveformFeaturizer
        from nemo.collections.asr.parts.preprocessing.perturb import process_augmentations
        from nemo.collections.common.tokenizers.aggregate_tokenizer import TokenizerWrapper

        self.tokenizer = TokenizerWrapper(tokenizer)
        augmentor = process_augmentations(augmentor) if augmentor else None
        self.featurizer = WaveformFeaturizer(sample_rate, augmentor=augmentor)

    def __getitem__(self, cuts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return signals (B, T), their lengths (B,), tokens (B, U), and their lengths (B,)."""
        from nemo.collections.asr.parts.preprocessing.segment import AudioSegment

        signals, tokens = [], []
        for cut in cuts:
            segment = AudioSegment(_samples(cut), cut.sampling_rate)
            signals.append(self.featurizer.process_segment(segment))
            text = " ".join(one.text or "" for one in cut.supervisions)
            tokens.append(torch.tensor(self.tokenizer(text, cut.supervisions[0].language) or [], dtype=torch.long))
        pad = torch.nn.utils.rnn.pad_sequence
        return (
            pad(signals, batch_first=True),
            torch.tensor([len(signal) for signal in signals]),
            pad(tokens, batch_first=True),
            torch.tensor([len(row) for row in tokens]),
        )


def _samples(cut) -> np.ndarray:
    """Return the samples of a cut, (T,); decoded here, in half the time, unless Lhotse has to change them.

    Raises:
        InputError: its recording isn't in the shard.
    """
    _check_sources(cut)
    recording = getattr(cut, "recording", None)
    if recording is None or recording.transforms or cut.start or cut.duration != recording.duration:
        return cut.load_audio()[0]
    samples, _ = soundfile.read(io.BytesIO(recording.sources[0].source), dtype="float32")
    return samples


def _check_sources(cut) -> None:
    """Make sure that what a config mixes with a cut, or filters it with, are files.

    The cut itself is in its shard (`shard_rows`); a manifest of noise or of rooms may name a command or an address,
    and Lhotse would run or fetch it.

    Raises:
        InputError: it does.
    """
    parts = [track.cut for track in cut.tracks] if hasattr(cut, "tracks") else [cut]
    for number, part in enumerate(parts):
        recording = getattr(part, "recording", None)  # padding has none
        if recording is not None:
            _check_recording(cut.id, recording, {"memory"} if number == 0 else {"memory", "file"})
    _check_filters(cut.id, getattr(cut, "transforms", None))


def _check_recording(name: str, recording, allowed: set[str]) -> None:
    from lhotse.audio import AudioSource

    for source in getattr(recording, "sources", None) or [AudioSource("mix", [0], "")]:
        if source.type not in allowed or (source.type == "file" and not os.path.isfile(source.source)):
            raise InputError(
                f"{name}: a recording that the config mixes with it is no file ({source.type} "
                f"{str(source.source)[:80]!r}), which is refused, since a manifest of noise or of rooms could run a "
                "command; look at model.train_ds.noise_path and rir_path"
            )
    _check_filters(name, recording.transforms)


def _check_filters(name: str, filters: Sequence[object] | None) -> None:
    from lhotse.augmentation import AudioTransform

    for one in filters or ():
        filter = AudioTransform.from_dict(copy.deepcopy(one)) if isinstance(one, dict) else one
        room = getattr(filter, "rir", None)
        if room is not None:
            _check_recording(name, getattr(room, "recording", room), {"memory", "file"})


class _Failed(str):
    """The message of an error in a worker; torch would put a traceback around an exception."""


class _Share(IterableDataset):
    """The batches of one process's share of a pseudo-epoch; in worker processes, each reads a part of it."""

    def __init__(self, loader: "ShardLoader", epoch: int):
        self.loader = loader
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...] | _Failed]:
        info, loader = get_worker_info(), self.loader
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        shards = loader.plan.share(self.epoch, loader.rank, worker, workers)
        if not shards:
            return
        # Of each reader and pseudo-epoch another one, so that the same shard comes in another order.
        seed = random.Random(f"{loader.plan.seed}/{self.epoch}/{loader.rank}/{worker}").getrandbits(31)
        try:
            yield from loader.batches(shards, seed)
        except (InputError, *BROKEN) as error:
            yield _Failed(loader.explain(shards, error))


class _Epoch:
    """The number of the pseudo-epoch that comes next; Lightning and `EpochSeeds` set it as that of a sampler."""

    number = 0

    def set_epoch(self, number: int) -> None:
        self.number = number


class ShardLoader:
    """A loader of the batches of a training from shards, those of one pseudo-epoch each time that it is iterated over.

    All processes have the same number of batches: one whose shards have ended gets an earlier batch again, which
    `Padding` gives no weight.

    Args:
        shards: the notes.
        plan: of the training.
        dataset: `model.train_ds`.
        tokenizer: NeMo's tokenizer, or its parser of letters.
        sample_rate: of the model, in Hz.
        rank: of this process.
    """

    def __init__(
        self, shards: Shards, plan: Plan, dataset: DictConfig, tokenizer: object, sample_rate: int, rank: int = 0
    ):
        self.place, self.plan, self.rank = shards.place, plan, rank
        self.notes = shards
        self.num_workers = min(dataset.get("num_workers") or 0, plan.each // plan.processes)  # none without a shard
        self.pin_memory = bool(dataset.get("pin_memory"))
        self.sampler = _Epoch()
        self.planned = batches_of(shards, plan, dataset, max(1, self.num_workers))
        self.own: int | None = None
        """Batches of this process in the pseudo-epoch; None until its shards have ended before another process's."""
        self._utterances = _Utterances(tokenizer, sample_rate, dataset.get("augmentor"))
        self._settings = self._sampler_settings(dataset, shards, sample_rate)
        self._group: torch.distributed.ProcessGroup | None = None

    def __getstate__(self) -> dict[str, object]:
        """Return what a worker needs, where those aren't forked."""
        return self.__dict__ | {"_group": None}

    @staticmethod
    def _sampler_settings(dataset: DictConfig, shards: Shards, sample_rate: int) -> dict[str, object]:
        from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig

        known = OmegaConf.to_container(OmegaConf.structured(LhotseDataLoadingConfig))
        given = OmegaConf.to_container(dataset, resolve=True)
        settings = {key: value for key, value in given.items() if key in known}
        least, most = _limits(dataset)
        if not settings.get("bucket_duration_bins"):
            settings["bucket_duration_bins"] = bins_of(shards.durations, settings["num_buckets"], least, most)
        bins = settings["bucket_duration_bins"]
        settings |= {"use_bucketing": bool(bins), "num_buckets": len(bins) + 1, "bucket_duration_bins": bins or None}
        settings |= {
            "manifest_filepath": None,
            "shar_path": None,
            "num_workers": 0,
            "pin_memory": False,
        }
        settings |= {"sample_rate": sample_rate, "min_duration": least, "max_duration": most}
        # Finite, since the processes agree on their number of batches; nothing of CUDA in a forked worker.
        return settings | {"force_finite": True, "cuda_expandable_segments": False, "shuffle": True}

    def batches(self, shards: Sequence[Shard], seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the batches of some shards, read one after the other, by NeMo's sampler."""
        from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config

        lhotse_sound.decode_here()
        shard_rows.register()
        source = {
            "type": shard_rows.SOURCE,
            "cuts": [f"{self.place}/{shard.cuts}" for shard in shards],
            "recordings": [f"{self.place}/{shard.recording}" for shard in shards],
        }
        settings = OmegaConf.create(self._settings | {"input_cfg": [source], "seed": seed, "shard_seed": seed})
        yield from get_lhotse_dataloader_from_config(settings, 0, 1, self._utterances)

    def explain(self, shards: Sequence[Shard], error: Exception) -> str:
        """Return the message of an error while shards were read, with the damaged file if there is one."""
        damaged = self.notes.damaged(shards)
        if damaged:
            return (
                f"{damaged}: damaged, or changed since it was written ({str(error).removesuffix(f'; {MAKE}')}); copy "
                f"it again, or {MAKE}; the same command then resumes"
            )
        if isinstance(error, InputError):
            return str(error)
        names = ", ".join(shard.name for shard in shards[:5])
        where = f"{self.place}, among the shards {names}{' ...' if len(shards) > 5 else ''}"
        if object_storage.is_remote(self.place):
            return str(object_storage.explain(where, error))
        return f"{where}: can't be read ({type(error).__name__}: {error}); the same command resumes"

    def _of_this_process(self) -> Iterator[tuple[torch.Tensor, ...]]:
        share = _Share(self, self.sampler.number)
        loader = DataLoader(share, batch_size=None, num_workers=self.num_workers, pin_memory=self.pin_memory)
        for batch in loader:
            if isinstance(batch, _Failed):
                raise InputError(str(batch))
            yield batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        self.own = None
        if self.plan.processes == 1:
            yield from self._of_this_process()
            return
        if self._group is None:  # in memory of the CPU, so that no GPU waits for it
            self._group = torch.distributed.new_group(backend="gloo")
        batches, spare, count = self._of_this_process(), None, 0
        while True:
            batch = next(batches, None)
            there = torch.tensor(float(batch is not None))
            torch.distributed.all_reduce(there, torch.distributed.ReduceOp.MAX, self._group)
            if not there:
                return
            if batch is None:
                if spare is None:
                    raise InputError(f"{self.place}: the shards of process {self.rank} have no utterance for it")
                self.own = count if self.own is None else self.own
                batch = spare
            elif spare is None or len(batch[1]) < len(spare[1]):
                spare = batch
            count += 1
            yield batch


class Padding(pl.Callback):
    """Give no weight to the batches that a process only has because others have more (`ShardLoader`)."""

    def __init__(self, loader: ShardLoader):
        self.loader = loader
        self._is_padding = False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        self._is_padding = self.loader.own is not None and batch_idx >= self.loader.own

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        if self._is_padding:
            loss.register_hook(torch.zeros_like)  # the gradient of the loss, which all others are multiples of


def use(
    model: pl.LightningModule, config: DictConfig, notes: Shards, trainer: pl.Trainer, say: Callable[[str], object]
) -> ShardLoader:
    """Let a NeMo model train from shards, say how, and return its loader.

    Args:
        model: built with the config.
        config: of the training, completed by `complete`; its learning rate schedule gets its number of steps, which
            NeMo can't count in shards.
        notes: on the shards.
        trainer: of the training; it gets a callback.
        say: called with a line.

    Raises:
        InputError: there are fewer shards than processes, or no utterance is as short or as long as the config asks.
    """
    from nemo.collections.common.parts.preprocessing.parsers import make_parser

    dataset = model.cfg.train_ds
    _check_some_are_left(notes, dataset)
    labels = dataset.get("labels")
    if labels is None:
        tokenizer = model.tokenizer
    else:
        normalise = dataset.get("normalize_transcripts", False)
        tokenizer = make_parser(labels=list(labels), name=dataset.get("parser", "en"), do_normalize=normalise)
    planned = plan(notes, dataset, config.get("seed") or 0, trainer.world_size, config.get("fraction", 1))
    loader = ShardLoader(notes, planned, dataset, tokenizer, model.cfg.sample_rate, trainer.global_rank)
    nemo_internals.set_training_loader(model, loader)
    trainer.callbacks.insert(0, Padding(loader))
    for section in (config.model, model.cfg):
        _set_schedule(section, config.trainer, math.ceil(loader.planned / trainer.accumulate_grad_batches))
    say(
        f"shards: {notes.rows:,} utterances in {notes.place}; {planned}, about {loader.planned:,} batches, read by "
        f"{loader.num_workers or 'no'} worker(s); a training that is interrupted resumes at the beginning of its epoch"
    )
    return loader


def _set_schedule(model: DictConfig, trainer: DictConfig, steps: int) -> None:
    """Give the schedule in the `model:` section its number of steps, from those of an epoch."""
    schedule = (model.get("optim") or {}).get("sched")
    most, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs") or -1
    if schedule and schedule.get("max_steps") is None and (most != -1 or epochs != -1):
        with open_dict(schedule):
            schedule.max_steps = most if most != -1 else steps * epochs
