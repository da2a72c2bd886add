"""Watch a recogniser learn: its log-probabilities for a few recordings during the training, and pictures of them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.recognition import decoding, wer
from asr_with_nemo.recognition.transcripts import Output
from asr_with_nemo.training.callbacks import WeightAveraging

BLANK = "–"
"""How the blank is written where letters name rows."""
_LEAST = 1e-3
"""The least probability that a picture tells from 0."""
_LEVELS = 60
_FIRST = 35
"""Probabilities are kept as characters, a level each, from "#" (35) on; none of them is a quote or a backslash."""


@dataclass
class Moment:
    """What the network made of a recording at one moment of its training.

    Attributes:
        step: how many steps it had made.
        epoch: how many epochs, with a fraction.
        text: its greedy text.
        loss: the CTC loss of the transcript, -log Pr, in nats.
        log_probs: (T, V) with the blank last.
        dev_wer: the word error rate on the dev set, where it was validated at this moment; else None.
    """

    step: int
    epoch: float
    text: str
    loss: float
    log_probs: np.ndarray
    dev_wer: float | None = None


@dataclass
class Watched:
    """A recording that is watched, and its moments.

    Attributes:
        path: of the WAV.
        text: its transcript.
        name: what to call it in a picture.
        duration: in seconds.
        labels: the letters of the columns; the blank, which comes last, isn't among them.
        seconds: a frame's length.
        moments: in the order of the training.
    """

    path: Path
    text: str
    name: str
    duration: float
    labels: list[str] = field(default_factory=list)
    seconds: float = 0.0
    moments: list[Moment] = field(default_factory=list)


def recordings(corpus: an4.Corpus) -> list[Watched]:
    """Return the two recordings that are watched: the course's example, and a spelled name of a dev speaker."""
    rows = manifest.read_manifest(corpus.manifest("train_all"))
    example = corpus.example.with_suffix(".wav")
    row = next(row for row in rows if Path(row["audio_filepath"]).name == example.name)
    spelled = [
        row
        for row in manifest.read_manifest(corpus.manifest("dev"))
        if len(row["text"].split()) > 3 and all(len(word) == 1 for word in row["text"].split())
    ]
    chosen = [(row, "in the training set")]
    if spelled:
        chosen.append((min(spelled, key=lambda row: row["duration"]), "held out, in dev"))
    return [
        Watched(Path(row["audio_filepath"]), row["text"], f"{row['text'].upper()} ({where})", row["duration"])
        for row, where in chosen
    ]


class Watch(pl.Callback):
    """Keep the network's output for some recordings before the training, at some steps, and after each validation.

    The output is that of the weights that are validated: their average, if the training has one. It draws no random
    numbers, so the training ends with the weights that it would have without.

    Args:
        watched: the recordings; their moments are filled in.
        steps: numbers of steps after which to look, besides the validations.
        say: print the first recording's greedy text after each epoch.
    """

    def __init__(self, watched: Sequence[Watched], steps: Sequence[int] = (), say: bool = False):
        self.watched = list(watched)
        self.steps = set(steps)
        self.say = say

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step in self.steps:
            averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
            for average in averages:
                average.on_validation_start(trainer, pl_module)
            self._look(trainer, pl_module)
            for average in averages:
                average.on_validation_end(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wer = trainer.callback_metrics.get("val_wer")
        for one in self.watched:
            if wer is not None and one.moments and one.moments[-1].step == trainer.global_step:
                one.moments[-1].dev_wer = float(wer)
        if self.say and self.watched[0].moments:
            print(
                f"    it reads {self.watched[0].moments[-1].text!r}, where {self.watched[0].text!r} is said", flush=True
            )

    def _look(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        outputs = decoding.log_probs(model, [one.path for one in self.watched], progress=False)
        step = trainer.global_step
        for one, log_probs in zip(self.watched, outputs, strict=True):
            one.labels = list(model.cfg.labels)
            one.seconds = decoding.seconds_per_frame(model)
            text = Output(log_probs, one.labels, one.seconds).greedy
            loss = ctc_loss(log_probs, one.text, one.labels)
            epoch = step / max(1, trainer.num_training_batches)
            if one.moments and one.moments[-1].step == step:
                continue  # the last step of an epoch, seen already
            one.moments.append(Moment(step, epoch, text, loss, log_probs))


def verdict(one: Mapping, other: Mapping) -> str:
    """Say whether two results files (`recognition.results.read_results`) differ by more than chance.

    The interval is of the difference, speaker by speaker: they are drawn again, each with both results.

    Raises:
        ValueError: the results are not of the same speakers.
    """
    mine, theirs = one["by_speaker"], other["by_speaker"]
    if mine.keys() != theirs.keys():
        raise ValueError("the results are of different speakers")
    differences = [mine[name]["errors"] - theirs[name]["errors"] for name in mine]
    interval = wer.difference_interval(differences, [speaker["words"] for speaker in mine.values()])
    figures = [f"{row['name']} {row['wer']:.1%} ({row['errors']} of {row['words']})" for row in (one, other)]
    points = f"{100 * (one['wer'] - other['wer']):+.1f} points"
    low, high = (f"{100 * bound:+.1f}" for bound in interval)
    end = "these two trainings don't decide it" if interval[0] <= 0 <= interval[1] else "more than chance explains"
    return f"{figures[0]} against {figures[1]}: {points}, {low} to {high}: {end}"


def ctc_loss(log_probs: np.ndarray, text: str, labels: Sequence[str]) -> float:
    """Return the CTC loss of a text, -log Pr in nats; `log_probs` is (T, V), the blank last."""
    import torch

    columns = torch.tensor([[labels.index(letter) for letter in text]])
    return float(
        torch.nn.functional.ctc_loss(
            torch.from_numpy(np.ascontiguousarray(log_probs))[:, None],
            columns,
            torch.tensor([len(log_probs)]),
            torch.tensor([columns.shape[1]]),
            blank=len(labels),
            reduction="sum",
        )
    )


def table(watched: Watched) -> list[dict[str, str]]:
    """Return a row per moment: epoch, share of frames whose likeliest symbol is the blank, loss, and greedy text."""
    rows = []
    for moment in watched.moments:
        blank = (moment.log_probs.argmax(axis=1) == moment.log_probs.shape[1] - 1).mean()
        rows.append(
            {
                "epoch": f"{moment.epoch:.2g}",
                "step": str(moment.step),
                "frames that are blank": f"{blank:.0%}",
                "CTC loss": f"{moment.loss:.1f}",
                "greedy text": moment.text,
                "dev WER": "" if moment.dev_wer is None else f"{moment.dev_wer:.0%}",
            }
        )
    return rows


# --- A file of it -----------------------------------------------------------------------------------------------------


def packed(watched: Watched) -> dict:
    """Return a watched recording as JSON can hold it, for the piece watch_it_learn: probabilities as characters.

    A row is a symbol that reaches 10% at some moment, or one of the three likeliest: letters in the order of the
    alphabet, the blank last. A character is a level from "#" (no more than 0.001) to "_" (1), equal steps of
    log-probability apart.
    """
    letters = [*watched.labels, BLANK]
    most = np.max([moment.log_probs.max(axis=0) for moment in watched.moments], axis=0)
    least = min(np.log(0.1), np.sort(most)[-3])
    rows = [row for row in range(len(letters)) if most[row] >= least]
    moments = []
    for moment in watched.moments:
        scale = 1 - np.clip(moment.log_probs[:, rows] / np.log(_LEAST), 0, 1)  # (T, rows), 0 to 1
        levels = np.round(scale * _LEVELS).astype(np.uint8) + _FIRST
        levels[levels == ord("\\")] -= 1
        moments.append(
            {
                "step": moment.step,
                "epoch": round(moment.epoch, 3),
                "text": moment.text,
                "loss": round(moment.loss, 2),
                "wer": None if moment.dev_wer is None else round(moment.dev_wer, 4),
                "path": "".join(letters[symbol] for symbol in moment.log_probs.argmax(axis=1)),
                "levels": [row.tobytes().decode("ascii") for row in np.ascontiguousarray(levels.T)],
            }
        )
    return {
        "name": watched.name,
        "text": watched.text,
        "rows": ["␣" if letters[row] == " " else letters[row] for row in rows],
        "seconds": watched.seconds,
        "moments": moments,
    }


def levels(moment: Mapping[str, object]) -> np.ndarray:
    """Return the probabilities of a moment of `packed`, (rows, T); those up to 0.001 as 0.001."""
    characters = np.array([list(row.encode("ascii")) for row in moment["levels"]], dtype=float)
    return np.exp(np.log(_LEAST) * (1 - (characters - _FIRST) / _LEVELS))


def read(path: str | os.PathLike) -> dict:
    """Return what scripts/tools/watch_learning.py wrote: `recordings`, and the `command` that made it."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


# --- Pictures ---------------------------------------------------------------------------------------------------------


def strip(recording: Mapping[str, object], chosen: Sequence[int] | None = None, columns: int = 4) -> Figure:
    """Draw the probabilities of a recording over time as small maps, a moment each.

    Args:
        recording: from `packed`.
        chosen: the indices of the moments; all by default.
        columns: maps in a row.
    """
    moments = recording["moments"]
    chosen = range(len(moments)) if chosen is None else chosen
    count = len(chosen)
    rows = -(-count // columns)
    names = recording["rows"]
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(2.7 * columns, max(2.2, 0.6 + 0.16 * len(names)) * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[count:]:
        axes.axis("off")
    for axes, index in zip(grid.flat, chosen, strict=False):
        moment = moments[index]
        seen = levels(moment)
        extent = (0, seen.shape[1] * recording["seconds"], len(names) - 0.5, -0.5)
        image = axes.imshow(seen, norm=LogNorm(_LEAST, 1), aspect="auto", extent=extent, interpolation="none")
        heard = moment["text"].strip() or ("(spaces)" if moment["text"] else "(nothing)")
        title = heard if len(heard) <= 24 else f"{heard[:23]}…"
        axes.set_title(f"{when(moment)}\n{title}", fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("seconds", fontsize=9)
    figure.colorbar(image, ax=grid, label="probability", shrink=0.6)
    return figure


def when(moment: Mapping[str, object]) -> str:
    """Say when a moment was, such as "step 20" or "epoch 3"."""
    if moment["step"] == 0:
        return "before the training"
    whole = abs(moment["epoch"] - round(moment["epoch"])) < 1e-6
    return f"epoch {round(moment['epoch'])}" if whole else f"step {moment['step']}"
