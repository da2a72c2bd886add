"""What goes wrong in a training without an error of its own: a loss that is no number, texts that nothing can learn."""

import math
from collections.abc import Callable

import lightning.pytorch as pl
import numpy as np
import torch

from asr_with_nemo.data import audio, manifest
from asr_with_nemo.data.shards import ROWS, Shards
from asr_with_nemo.errors import Diverged, InputError
from asr_with_nemo.models.loading import sample_rate, seconds_per_frame
from asr_with_nemo.models.recognizer import decoders
from asr_with_nemo.own_data.quality import frames_needed
from asr_with_nemo.training import shards

_LONG = 60.0
"""Seconds of an utterance from which on its memory is worth a warning."""
_LOOKED, _NAMED = 20_000, 5
"""Utterances that are looked at for silence, and how many of the silent ones are named."""


class FiniteLoss(pl.Callback):
    """End a training at the first loss that isn't a number: every weight would become NaN, and nothing say so.

    The error is `Diverged`, with the batch and the usual causes; a sweep keeps what the trial had reported before.
    """

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict, batch: tuple, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        if torch.isfinite(loss):
            return
        raise Diverged(
            f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}: the loss is {float(loss)}, so that the "
            f"weights are lost; nothing was saved of this epoch. Its batch: {_said(batch, pl_module)}. Usual causes: a "
            f"learning rate that is too high (model.optim.lr={pl_module.cfg.optim.get('lr')}), precision 16-mixed "
            "(trainer.precision=32-true shows), or a recording with values that aren't numbers"
        )


def _said(batch: tuple, model: pl.LightningModule) -> str:
    """Describe the utterances of a batch, the shortest first: the text, and the seconds."""
    _, lengths, tokens, token_lengths = batch[:4]
    rows = []
    for length, row, count in zip(lengths.tolist(), tokens, token_lengths.tolist(), strict=True):
        text = model.decoding.decode_ids_to_str(row[:count].tolist())
        rows.append((length / sample_rate(model), manifest.shortened(text, 60)))
    return ", ".join(f"{text!r} ({seconds:.1f} s)" for seconds, text in sorted(rows))


def say_what_of_shards(model: pl.LightningModule, notes: Shards, say: Callable[[str], object]) -> None:
    """Say which utterances of shards teach nothing, by their notes: as `say_what_cannot_be_learned`.

    Args:
        model: NeMo's, with its training set.
        notes: on the shards.
        say: called with each line.
    """
    rows, settings = notes.table(ROWS), model.cfg.train_ds
    least, most = settings.get("min_duration") or 0.0, settings.get("max_duration") or math.inf
    used = rows[(rows["duration"] >= least) & (rows["duration"] <= most)]
    if len(used) < len(rows):
        say(
            f"warning: {len(rows) - len(used):,} of {len(rows):,} utterances are left out by model.train_ds's "
            f"min_duration={settings.get('min_duration')} and max_duration={settings.get('max_duration')} s"
        )
    if "ctc" in decoders(model) and settings.get("labels"):
        lost = int((used["symbols"] > np.ceil(used["duration"] / seconds_per_frame(model))).sum())
        if lost:
            say(
                f"warning: {lost:,} of {len(rows):,} utterances can't be learned, since their text has more symbols "
                f"than their sound has frames of {1000 * seconds_per_frame(model):.0f} ms"
            )
    longest = float(used["duration"].max(initial=0.0))
    if longest > _LONG:
        say(
            f"warning: the longest utterance has {longest:.0f} s, which may not fit into memory; leave it out with "
            "model.train_ds.max_duration"
        )


def say_what_cannot_be_learned(model: pl.LightningModule, rows: int, say: Callable[[str], object]) -> None:
    """Say which utterances of the training set teach nothing, and which take much memory.

    Args:
        model: NeMo's, with its training set.
        rows: utterances in the training manifest; NeMo leaves out those that are too short or too long.
        say: called with each line.

    Raises:
        InputError: all of them are left out.
    """
    collection = getattr(getattr(model._train_dl.dataset, "manifest_processor", None), "collection", None)
    if collection is None:
        return
    settings = model.cfg.train_ds
    if not collection.data:
        raise InputError(shards.nothing_left(settings.manifest_filepath, rows, settings))
    if len(collection.data) < rows:
        limits = f"min_duration={settings.get('min_duration')} and max_duration={settings.get('max_duration')} s"
        say(f"warning: {rows - len(collection.data)} of {rows} utterances are left out by model.train_ds's {limits}")
    stride, lost = seconds_per_frame(model), []
    if "ctc" in decoders(model):  # a transducer writes several letters a frame
        lost = [one for one in collection.data if frames_needed(one.text_tokens) > math.ceil(one.duration / stride)]
    if lost:
        first = lost[0]
        say(
            f"warning: {len(lost)} of {rows} utterances can't be learned, since their text has more symbols than their "
            f"sound has frames of {1000 * stride:.0f} ms; the first is {first.audio_file} ({first.duration:.2f} s, "
            f"{len(first.text_tokens)} symbols)"
        )
    longest = max(collection.data, key=lambda one: one.duration)
    if longest.duration > _LONG:
        say(
            f"warning: the longest utterance has {longest.duration:.0f} s ({longest.audio_file}); its batch is "
            f"padded to {longest.duration * (settings.get('batch_size') or 1):,.0f} s of sound, which may not fit into "
            "memory; cut it, or leave it out with model.train_ds.max_duration"
        )


def say_what_is_silent(model: pl.LightningModule, say: Callable[[str], object]) -> None:
    """Name the recordings of the training set that hold nothing but zeros, such as those of a muted microphone.

    A model learns from them to write words where it hears none. Of more than 20,000 utterances, as many are looked at,
    evenly.

    Args:
        model: NeMo's, with its training set.
        say: called with a line, if there are any.
    """
    collection = getattr(getattr(model._train_dl.dataset, "manifest_processor", None), "collection", None)
    if collection is None:
        return
    looked = collection.data[:: 1 + (len(collection.data) - 1) // _LOOKED]
    silent = [
        one.audio_file
        for one in looked
        if isinstance(one.audio_file, str) and audio.is_all_zero(one.audio_file, one.offset or 0.0, one.duration)
    ]
    if silent:
        more = f" and {len(silent) - _NAMED:,} more" if len(silent) > _NAMED else ""
        say(
            f"warning: {len(silent):,} of {len(looked):,} recordings are digital silence, all zeros: "
            f"{', '.join(silent[:_NAMED])}{more}; record them again, or take them out of the manifest "
            "(scripts/prepare_corpus.py --drop does)"
        )
