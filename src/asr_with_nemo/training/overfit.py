"""Learn one batch by heart: a check of the whole way from recordings and texts to loss, weights and texts again.

A network with more weights than a few short utterances have frames learns those without fail, if nothing on the way is
broken. What is checked is the training that a config describes: its data loader, features, vocabulary, network, loss
and optimizer; without what makes learning harder (augmentation, dropout, weight decay) and with a constant learning
rate. If it doesn't learn them, what is wrong is looked for: in the batch, by a smaller learning rate, and in the texts.

Not found are texts that belong to other recordings: they are learned by heart as well.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig, open_dict
from torch import nn
from torch.utils.data import DataLoader

from asr_with_nemo.base.machine import quieten
from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import Diverged, InputError
from asr_with_nemo.models.loading import seconds_per_frame
from asr_with_nemo.models.recognizer import decoders, greedy_texts
from asr_with_nemo.own_data.quality import frames_needed
from asr_with_nemo.training import run, shards
from asr_with_nemo.training.baseline import evaluating, references
from asr_with_nemo.training.callbacks import FusedClipping
from asr_with_nemo.training.checks import FiniteLoss
from asr_with_nemo.training.config import complete_config, drawn, fit_to_machine
from asr_with_nemo.training.launch import launched

UTTERANCES = 16
"""Of the batch."""
SECONDS = 60.0
"""Of training, at most, by default."""
_CANDIDATES = 4 * UTTERANCES
_SHORTEST = 0.5  # seconds; shorter ones are rarely whole words
_STEPS = 20  # at the least, so that a model which knows the texts shows that it can be trained
_LOW = 0.1  # of the first loss, or nats per symbol: whichever is more counts as near 0
_EVERY, _LOOKS = 10, 1.0  # steps, and seconds, between two looks at the texts, at the least
_QUIET = 5.0  # seconds between two lines
_FLAT = 1e-4  # standard deviation of features that are the same everywhere

Begin = Callable[[pl.LightningModule], None]


@contextmanager
def apart(config: DictConfig) -> Iterator[DictConfig]:
    """Return a config whose training writes nothing into the usual folders, but into one that is removed."""
    with tempfile.TemporaryDirectory(prefix="overfit-") as folder:
        config = config.copy()
        with open_dict(config):
            config.exp_manager = {**(config.get("exp_manager") or {}), "exp_dir": folder}
        yield config


def overfit(
    config: DictConfig,
    overridden: set[str] = frozenset(),
    seconds: float = SECONDS,
    begin: Begin | None = None,
    callbacks: Sequence[pl.Callback] = (),
    say: Callable[[str], object] = print,
) -> bool:
    """Train on one batch until its texts come back right, say what came of it, and return whether it was learned.

    Args:
        config: of a training, as for `run.train`, in a folder of its own (`apart`).
        overridden: as for `run.train`.
        seconds: of training, at most; as long again to look for the cause, if it isn't learned.
        begin: sets the initial weights, as for `run.train`.
        callbacks: those of the training that change what is trained.
        say: called with each line.

    Raises:
        InputError: the data or the config can't be used, or the batch would have no utterance.
    """
    quieten()
    if not seconds > 0:
        raise InputError(f"--overfit-seconds {seconds:g}: expected more than 0")
    if launched() is not None:
        raise InputError("--overfit-batch trains one batch in one process; start it without torchrun or srun")
    if shards.place_of(config):
        raise InputError(
            "--overfit-batch takes a manifest, not shards: give the manifest that the shards were made of, such as "
            "model.train_ds.manifest_filepath=DATA/train_manifest.json, or finetune.py --manifest"
        )
    if not (config.model.get("optim") or {}).get("lr"):
        raise InputError("--overfit-batch: the config has no learning rate, model.optim.lr, other than 0")
    data = TrainingData()
    config, line = fit_to_machine(complete_config(config, data), overridden)
    say(line)
    rate = constant_rate(config.model.optim)
    config = _simplified(config, drawn(config, data))
    data.release()
    attempt = _learn(config, rate, seconds, begin, callbacks, say)
    slower = None
    if not attempt.learned and not attempt.batch.problems and attempt.batch.texts == attempt.batch.read:
        say(f"not learned; once more with a tenth of the learning rate, {rate / 10:.2g}")
        slower = _learn(config, rate / 10, seconds, begin, callbacks, say)
    for line in verdict(attempt, slower):
        say(line)
    return attempt.learned


def constant_rate(optim: DictConfig) -> float:
    """Return the learning rate of an optimizer after its warm-up; NeMo's Noam schedules multiply it by a factor.

    Example:
        >>> from omegaconf import OmegaConf
        >>> constant_rate(OmegaConf.create({"lr": 0.003, "sched": {"name": "CosineAnnealing"}}))
        0.003
        >>> constant_rate(OmegaConf.create({"lr": 2, "sched": {"name": "NoamAnnealing", "d_model": 100,
        ...                                                    "warmup_steps": 10_000}}))
        0.002
    """
    schedule = optim.get("sched") or {}
    if str(schedule.get("name", "")).startswith("Noam") and schedule.get("d_model") and schedule.get("warmup_steps"):
        return optim.lr / math.sqrt(schedule.d_model * schedule.warmup_steps)
    return optim.lr


# --- The batch --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One batch of a training.

    Attributes:
        tensors: signals (B, t), their lengths (B,), tokens (B, L), their lengths (B,).
        texts: of the manifest.
        read: the texts that the decoder makes of the tokens; the same, if both have one vocabulary.
        problems: what is wrong with recordings or features, a line each.
    """

    tensors: tuple[torch.Tensor, ...]
    texts: list[str]
    read: list[str]
    problems: list[str]


def _simplified(config: DictConfig, utterances: Sequence[manifest.Utterance]) -> DictConfig:
    """Return a training config for some short utterances, without all that makes learning them harder."""
    chosen = _short_ones(utterances)
    path = Path(config.exp_manager.exp_dir) / "batch.json"
    manifest.write_manifest(path, chosen)
    config = config.copy()
    with open_dict(config):
        model = config.model
        for dataset in (model.train_ds, model.validation_ds):
            dataset.manifest_filepath = str(path)
        model.train_ds.update({"shuffle": False, "augmentor": None, "vocal_tract": None, "max_duration": None})
        model.train_ds.update({"min_duration": 0, "num_workers": 0, "use_semi_sorted_batching": False})
        model.train_ds.pop("use_lhotse", None)  # NeMo's other loader, which reads the same manifest
        model.spec_augment = None
        model.preprocessor.dither = 0
        model.optim.pop("sched", None)
        if "weight_decay" in model.optim:
            model.optim.weight_decay = 0.0
        config.trainer.update({"devices": 1, "num_nodes": 1, "strategy": "auto"})
    return config


def _short_ones(utterances: Sequence[manifest.Utterance]) -> list[manifest.Utterance]:
    """Return the shortest utterances with different texts, of which the batch is taken.

    Raises:
        InputError: no text has a word.
    """
    found: dict[str, manifest.Utterance] = {}
    for row in sorted(utterances, key=lambda row: (row["duration"] < _SHORTEST, row["duration"])):
        if row["text"].strip():
            found.setdefault(row["text"], row)
        if len(found) == _CANDIDATES:
            break
    if not found:
        raise InputError("--overfit-batch: no training utterance has a text")
    return list(found.values())


def _batch_of(model: pl.LightningModule) -> Batch:
    """Return the first utterances of a model's training set that can be learned, and what is wrong with them.

    Raises:
        InputError: there is none.
    """
    dataset = model._train_dl.dataset
    rows = list(zip(dataset.manifest_processor.collection, range(len(dataset)), strict=True))
    if "ctc" in decoders(model):
        stride = seconds_per_frame(model)
        rows = [(row, place) for row, place in rows if frames_needed(row.text_tokens) <= row.duration // stride]
    if not rows:
        raise InputError(
            "--overfit-batch: of the shortest utterances none can be learned by CTC, since each text has more symbols "
            "than its sound has frames; give other ones, or a model with a smaller stride"
        )
    places = [place for _, place in rows[:UTTERANCES]]
    by_sound = {
        (os.path.realpath(row["audio_filepath"]), row.get("offset") or None): row["text"]
        for row in manifest.read_manifest(model.cfg.train_ds.manifest_filepath)
    }
    texts = [by_sound[os.path.realpath(row.audio_file), row.offset or None] for row, _ in rows[:UTTERANCES]]
    tensors = dataset.collate_fn([dataset[place] for place in places])[:4]
    names = [Path(row.audio_file).name for row, _ in rows[:UTTERANCES]]
    read = references(model, tensors[2], tensors[3])
    return Batch(tensors, texts, [text.strip() for text in read], list(_problems(model, tensors, names)))


def _problems(model: pl.LightningModule, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with recordings and features, from which nothing could be learned."""
    signals, lengths = tensors[:2]
    cut = [signal[:length] for signal, length in zip(signals, lengths.tolist(), strict=True)]
    silent = [name for name, one in zip(names, cut, strict=True) if one.abs().max() < audio.SILENCE]
    if silent:
        yield f"{len(silent)} of {len(names)} recordings are silent ({', '.join(silent[:3])}): listen to them"
    broken = [name for name, one in zip(names, cut, strict=True) if not one.isfinite().all()]
    if broken:
        yield f"{len(broken)} recordings have values that aren't numbers ({', '.join(broken[:3])})"
    with evaluating(model), torch.no_grad():
        features, counts = model.preprocessor(input_signal=signals, length=lengths)  # (B, F, T)
    flat = [
        name
        for name, one, count in zip(names, features, counts.tolist(), strict=True)
        if not one[:, :count].std() > _FLAT and name not in silent
    ]
    if flat:
        yield (
            f"the features of {len(flat)} of {len(names)} recordings are the same everywhere, or aren't numbers "
            f"({', '.join(flat[:3])}), though there is sound: look at model.preprocessor"
        )


# --- Learning it ------------------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """What came of training on one batch.

    Attributes:
        rate: the learning rate.
        batch: what was trained on.
        losses: of each step.
        heard: the texts by the network as it is used, in evaluation mode.
        in_training: the texts by the network as it is trained.
        diverged: the message, if the loss was no number.
        seconds: of training.
        learned: whether the loss is near 0 and all texts are right.
    """

    rate: float
    batch: Batch
    losses: list[float] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    in_training: list[str] = field(default_factory=list)
    diverged: str = ""
    seconds: float = 0.0
    learned: bool = False

    @property
    def right(self) -> int:
        """How many texts are right."""
        return _count(self.batch.texts, self.heard)

    @property
    def goal(self) -> float:
        """The loss that counts as near 0."""
        symbols = float(self.batch.tensors[3].float().mean())
        return _LOW * max(self.losses[0], symbols) if self.losses else 0.0

    @property
    def is_low(self) -> bool:
        """Whether the loss is near 0, now."""
        return bool(self.losses) and self.losses[-1] <= self.goal


def _count(texts: Sequence[str], heard: Sequence[str]) -> int:
    return sum(text.split() == one.split() for text, one in zip(texts, heard, strict=False))


class _ByHeart(pl.Callback):
    """Look at the texts every few steps; end the training when they are right, or the time is over."""

    def __init__(self, attempt: Attempt, seconds: float, say: Callable[[str], object]):
        self.attempt = attempt
        self.seconds = seconds
        self.say = say
        self._looked = self._said = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict, batch, *_) -> None:
        attempt = self.attempt
        attempt.losses.append(float(outputs["loss"]))
        attempt.seconds = time.perf_counter() - self._started
        is_over, step = attempt.seconds >= self.seconds, len(attempt.losses)
        is_due = step % _EVERY == 0 and attempt.seconds - self._looked >= _LOOKS
        if not (is_over or is_due or step == _STEPS):
            return
        attempt.heard = self._hear(trainer, pl_module, batch)
        attempt.learned = attempt.is_low and attempt.right == len(attempt.batch.texts) and step >= _STEPS
        self._looked = time.perf_counter() - self._started
        if self._looked - self._said >= _QUIET or is_over or attempt.learned:
            self._said = self._looked
            right = f"{attempt.right} of {len(attempt.batch.texts)} texts right"
            self.say(f"step {step}: loss {attempt.losses[-1]:.3g}, {right}, {attempt.seconds:.0f} s")
        trainer.should_stop = is_over or attempt.learned
        if is_over and not attempt.learned:
            attempt.in_training = self._hear(trainer, pl_module, batch, as_trained=True)

    @staticmethod
    def _hear(trainer: pl.Trainer, model: pl.LightningModule, batch, as_trained: bool = False) -> list[str]:
        with evaluating(model), torch.no_grad(), trainer.precision_plugin.val_step_context():
            if as_trained:
                model.train()
            return [text.strip() for text in greedy_texts(model, *batch[:2])]


def _learn(
    config: DictConfig,
    rate: float,
    seconds: float,
    begin: Begin | None,
    callbacks: Sequence[pl.Callback],
    say: Callable[[str], object],
) -> Attempt:
    """Train a new model on the batch of a simplified config."""
    pl.seed_everything(config.get("seed") or 0, workers=True, verbose=False)
    config = config.copy()
    config.model.optim.lr = rate
    settings = {key: config.trainer.get(key) for key in ("accelerator", "devices", "precision", "gradient_clip_val")}
    trainer = pl.Trainer(
        **settings,
        max_steps=-1,
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.exp_manager.exp_dir,
        callbacks=[watch := _ByHeart(Attempt(rate, None), seconds, say), FiniteLoss(), FusedClipping(), *callbacks],
    )
    model = run.build_model(config, trainer)
    attempt = watch.attempt
    attempt.batch = _batch_of(model)
    if begin:
        begin(model)
    model.train()
    without_dropout(model)
    sound = float(attempt.batch.tensors[1].sum()) / model.cfg.sample_rate
    count = len(attempt.batch.texts)
    say(f"one batch: {count} utterances, {sound:.1f} s of sound; learning rate {rate:.2g}, at most {seconds:g} s")
    try:
        trainer.fit(model, DataLoader(_Same(attempt.batch.tensors), batch_size=None))
    except Diverged as error:
        attempt.diverged = str(error)
    return attempt


class _Same(torch.utils.data.Dataset):
    """The same batch, again and again."""

    def __init__(self, batch: tuple[torch.Tensor, ...]):
        self.batch = batch

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, place: int) -> tuple[torch.Tensor, ...]:
        return self.batch


def without_dropout(model: nn.Module) -> None:
    """Switch off all that leaves out a part of a network at random while it is trained, in place."""
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout):
            module.p = 0.0
        for name in ("dropout_rate", "masking_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
        if getattr(module, "layer_drop_probs", None):
            module.layer_drop_probs = [0.0] * len(module.layer_drop_probs)


# --- The verdict ------------------------------------------------------------------------------------------------------


def verdict(attempt: Attempt, slower: Attempt | None = None) -> list[str]:
    """Return the texts beside what was recognised, and what came of it, in lines.

    Args:
        attempt: with the learning rate of the config.
        slower: with a tenth of it, if there was such.
    """
    width = max(len(manifest.shortened(text, 40)) for text in attempt.batch.texts) + 2
    lines = []
    for text, heard in zip(attempt.batch.texts, attempt.heard or [""] * len(attempt.batch.texts), strict=True):
        mark = "right" if text.split() == heard.split() else "wrong"
        lines.append(f"  {mark}  {manifest.shortened(text, 40)!r:{width}}  heard {manifest.shortened(heard, 60)!r}")
    figures = ""
    if attempt.losses:
        figures = f"loss {attempt.losses[0]:.3g} -> {attempt.losses[-1]:.3g} in {len(attempt.losses)} steps"
        figures += f", {attempt.seconds:.0f} s"
    if attempt.learned:
        known = "; the model knew these texts before" if attempt.losses[0] <= attempt.goal else ""
        return [*lines, f"learned by heart: the pipeline works ({figures}{known})"]
    found = list(_causes(attempt, slower))
    return [
        *lines,
        f"NOT learned by heart ({figures or 'no step'}, {attempt.right} of {len(attempt.batch.texts)} texts right):",
        *(f"  {cause}" for cause in found),
    ]


def _causes(attempt: Attempt, slower: Attempt | None) -> Iterator[str]:
    """Yield what is wrong, or may be, the surest first."""
    batch = attempt.batch
    yield from batch.problems
    other = [(text, read) for text, read in zip(batch.texts, batch.read, strict=True) if text.split() != read.split()]
    if other:
        yield (
            f"the decoder reads the tokens of {len(other)} of {len(batch.texts)} texts otherwise than the manifest has "
            f"them ({other[0][0]!r} becomes {other[0][1]!r}): the data set and the decoder have different "
            "vocabularies, or in another order; compare model.labels with the decoder's vocabulary"
        )
    if batch.problems or other:
        return
    if slower is not None and slower.learned:
        yield (
            f"the learning rate is too high: with {slower.rate:.2g} the batch was learned in {len(slower.losses)} "
            f"steps; set model.optim.lr to a tenth of what it is, or warm up longer (here it is constant)"
        )
        return
    if attempt.diverged:
        yield f"{attempt.diverged}"
        return
    if attempt.is_low and attempt.in_training and _count(batch.texts, attempt.in_training) == len(batch.texts):
        yield (
            "the texts are right while the network trains and wrong when it is used: batch norm has other statistics "
            "then, or parts of the network behave otherwise in evaluation mode"
        )
    elif attempt.is_low:
        yield "the loss is near 0, but the texts are wrong: the decoding doesn't fit the loss (blank, vocabulary)"
    if attempt.is_low or not attempt.losses:
        return
    half, last = attempt.losses[len(attempt.losses) // 2], min(attempt.losses[-5:])
    if last >= attempt.losses[0]:
        yield f"the loss rises from the start: a learning rate of {attempt.rate:.2g} is far too high (model.optim.lr)"
    elif last < 0.7 * half:
        yield "it was still learning when the time was over: give it more, --overfit-seconds 300, or a GPU"
    else:
        yield (
            "the loss stays high, also with a tenth of the learning rate: is the rate too low, is too much frozen "
            "(--freeze), or does the loss not reach the weights? Try model.optim.lr of ten times as much"
        )
