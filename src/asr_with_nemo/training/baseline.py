"""The dev WER of the model that a fine-tuning starts from, before the first step; and what makes a training worse.

The figure is printed and kept in the folder of the training, and stands beside each validation. Where a validation is
worse, a line says since which epoch, with the usual causes; whether the texts are written as the model writes them is
looked up in its errors.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.models import nemo_internals
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.models.recognizer import greedy_texts
from asr_with_nemo.own_data.differences import errors_between, spelling_notes
from asr_with_nemo.training.wandb_callbacks import wandb_run

FILE = "before_training.json"
"""The file in the folder of a training with what was measured before it."""
_FEW = 1_000  # utterances
_WRITE_ALIKE = "write the texts as the model writes, or train long enough for it to learn the new way"
_ROW = 3  # validations in a row that are worse, after which the causes are said


@dataclass(frozen=True)
class Before:
    """The dev set as the model writes it before the first step.

    Attributes:
        errors, words: of all utterances; characters, if the training validates by CER.
        unit: "words" or "characters".
        notes: what the errors show about the way in which the texts are written, a sentence each.
        causes: the usual ones for this training to get worse.
    """

    errors: int
    words: int
    unit: str
    notes: list[str]
    causes: list[str]

    @property
    def rate(self) -> float:
        """Errors per word."""
        return self.errors / max(1, self.words)

    @property
    def metric(self) -> str:
        """WER or CER."""
        return "WER" if self.unit == "words" else "CER"

    def __str__(self) -> str:
        return f"before training: dev {self.metric} {self.rate:.1%} ({self.errors:,} of {self.words:,} {self.unit})"


class Baseline(pl.Callback):
    """Measure the model before the first step, keep the figure, and say since when a training is worse.

    A training that is resumed reads the figure from its folder.

    Args:
        settings: of the training, for the causes (`usual_causes`).
        say: called with each line, in the first process.
    """

    def __init__(self, settings: dict[str, object], say: Callable[[str], object] = print):
        self.settings = settings
        self.say = say
        self.before: Before | None = None
        self.missing = ""
        """Why there is no such figure: nothing is measured then."""
        self.since: int | None = None
        """The first of the latest epochs that are worse, from 1."""
        self._worse = 0  # validations in a row
        self._told = False
        self._waits = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.limit_val_batches == 0:
            return
        folder = Path(trainer.default_root_dir)
        self.before = trainer.strategy.broadcast(read(folder) if trainer.is_global_zero else None)
        is_known = self.before is not None
        if not is_known:
            if self.missing:
                self.say(f"before training: {self.missing}")
            if self.missing or trainer.global_step:  # of a training that began without this
                return
            pairs = self._transcribe(trainer, pl_module)
            by_letters = bool(getattr(getattr(pl_module, "wer", None), "use_cer", False))
            self.before = summed(pairs, by_letters, usual_causes(pl_module, **self.settings))
        if not trainer.is_global_zero:
            return
        if not is_known:
            write_if_changed(folder / FILE, json.dumps(asdict(self.before), indent=1, ensure_ascii=False) + "\n")
            for line in (str(self.before), *self.before.notes):
                self.say(line)
        if run := wandb_run(trainer):
            run.summary["before_training/val_wer"] = self.before.rate

    def _transcribe(self, trainer: pl.Trainer, model: pl.LightningModule) -> list[tuple[str, str]]:
        """Return the texts of the dev set as the training reads them, and what the model hears, of all processes."""
        loader, limit = model.val_dataloader(), trainer.limit_val_batches
        loader = loader[0] if isinstance(loader, list) else loader
        count = limit if isinstance(limit, int) else math.floor(len(loader) * limit)
        pairs = []
        # The random numbers of the training stay what they would be without.
        with isolate_rng(), evaluating(model), torch.no_grad(), trainer.precision_plugin.val_step_context():
            for batch in islice(loader, count):
                signals, lengths, tokens, token_lengths = trainer.strategy.batch_to_device(batch)[:4]
                texts = references(model, tokens, token_lengths)
                pairs += zip(texts, greedy_texts(model, signals, lengths), strict=True)
        if trainer.world_size == 1:
            return pairs
        gathered: list[list[tuple[str, str]]] = [[] for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(gathered, pairs)
        return [pair for part in gathered for pair in part]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.before is None or trainer.sanity_checking or "val_wer" not in trainer.callback_metrics:
            return
        more = round(float(trainer.callback_metrics["val_wer"]) * self.before.words) - self.before.errors
        self._worse = self._worse + 1 if more > 0 else 0
        self.since = (self.since or trainer.current_epoch + 1) if more > 0 else None
        is_clear = more > 2 * math.sqrt(self.before.errors + 1)
        self._waits = not self._told and (self._worse == _ROW or is_clear)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._waits:
            return
        self._waits, self._told = False, True
        causes = "".join(f"\n  {cause}" for cause in [*self.before.notes, *self.before.causes])
        self.say(
            f"warning: since epoch {self.since} the dev {self.before.metric} is worse than before training; usual "
            f"causes:{causes}"
        )

    def beside(self) -> str:
        """Return what stands behind the WER of a validation."""
        if self.before is None:
            return ""
        said = f", before training {self.before.rate:.1%}"
        return said + (f", worse since epoch {self.since}" if self.since else "")

    def state_dict(self) -> dict[str, object]:
        return {"since": self.since, "worse": self._worse, "told": self._told}

    def load_state_dict(self, state_dict: dict) -> None:
        self.since, self._worse, self._told = (state_dict[key] for key in ("since", "worse", "told"))


def of(trainer: pl.Trainer) -> Baseline | None:
    """Return the `Baseline` of a training, if it has one."""
    return next((one for one in trainer.callbacks if isinstance(one, Baseline)), None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def references(model: pl.LightningModule, tokens: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """Return the texts of a batch of a training, as NeMo's WER reads them from the tokens, (B, L)."""
    rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
    return [model.decoding.decode_ids_to_str(row[:count]) for row, count in rows]


def summed(pairs: Iterable[tuple[str, str]], by_letters: bool = False, causes: Sequence[str] = ()) -> Before:
    """Count the errors of texts and hypotheses, and look at how they are written.

    Example:
        >>> print(summed([("go on", "go in"), ("stop", "stop")]))
        before training: dev WER 33.3% (1 of 3 words)
    """
    pairs = list(pairs)
    errors = sum(errors_between(*pair, by_letters) for pair in pairs)
    words = sum(len(text if by_letters else text.split()) for text, _ in pairs)
    return Before(
        errors,
        words,
        "characters" if by_letters else "words",
        spelling_notes(pairs, by_letters, "before training", _WRITE_ALIKE, "write numbers as words"),
        list(causes),
    )


def usual_causes(
    model: pl.LightningModule, freeze: str = "none", utterances: int | None = None, adapter: bool = False
) -> list[str]:
    """Return the usual causes for which a fine-tuning makes a model worse, those that can be, with what to do.

    Args:
        model: as it is trained.
        freeze: one of `finetuning.FREEZE`.
        utterances: in the training set, if known.
        adapter: whether only adapters are trained.
    """
    optim = model.cfg.get("optim") or {}
    causes, schedule = [], optim.get("sched") or {}
    if rate := optim.get("lr"):
        causes.append(
            f"a learning rate that is too high for these data: model.optim.lr={rate / 10:.1g} instead of {rate:g}"
        )
    if not (schedule.get("warmup_ratio") or schedule.get("warmup_steps")):
        causes.append("no warm-up, so that the first steps are too large: +model.optim.sched.warmup_ratio=0.1")
    if freeze == "none" and not adapter and any(map(nemo_internals.is_batch_norm, model.modules())):
        causes.append("batch norm takes on the statistics of other recordings: --freeze bn keeps the model's")
    if utterances is not None and utterances < _FEW and freeze != "encoder" and not adapter:
        causes.append(
            f"few data ({utterances:,} utterances) for so many weights: --adapter 32 trains a few new ones instead, "
            "--freeze encoder the decoders alone"
        )
    return causes


# --- At the end -------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Before | None:
    """Return what was measured before a training, from its folder; None if nothing was, or the file is damaged."""
    try:
        return Before(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def verdict(folder: Path, epochs: Sequence[dict[str, float]], start: str) -> list[str]:
    """Compare the model of a finished training with the one that it started from, on the dev set, in lines.

    Args:
        folder: of the training.
        epochs: its log (`run.read_log`).
        start: the name of the model that it started from.
    """
    before = read(folder)
    best = json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("best_epoch")
    rate = next((row.get("val_wer", math.nan) for row in epochs if row["epoch"] + 1 == best), math.nan)
    if before is None or math.isnan(rate):
        return []
    errors = round(rate * before.words)
    figures = f"dev {before.metric} {before.rate:.1%} before training, {rate:.1%} in the best epoch ({best})"
    figures += f": {before.errors:,} and {errors:,} errors in {before.words:,} {before.unit}"
    if errors <= before.errors:
        return [figures]
    return [
        f"warning: {figures}",
        f"warning: the fine-tuned model is worse on this dev set than {start}: use {start} as it is, or train again:",
        *(f"  {cause}" for cause in [*before.notes, *before.causes]),
    ]
