#!/usr/bin/env python3
"""Measure what a model keeps and learns when a letter is added to its vocabulary: `!` after a command, for an4."""

import random
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.commands import run_command
from asr_with_nemo.cli import run
from asr_with_nemo.data import manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.wer import (
    ScoredUtterance,
    align,
    difference_of_seeds,
    mean_of_seeds,
    total_errors,
)

COMMANDS = re.compile(r"\b(enter|rubout|erase|repeat|stop|start|go|help)\b")
"""AN4's commands, after which the new letter is written."""
MARK = "!"
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
FINETUNE = Path(__file__).resolve().parents[1] / "finetune.py"
WAYS = {
    "extended": ["--vocabulary", "extend"],
    "change_vocabulary": ["--vocabulary", LETTERS + MARK, "finetuning.keep_letters=false"],
}
"""Options of finetune.py: the model's outputs kept; or a decoder of random weights, as NeMo's change_vocabulary."""


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared AN4.")] = Path("data/an4"),
    model: Annotated[str, typer.Option(help="The model to extend, of letters without `!`.")] = "an4",
    marked: Annotated[int, typer.Option(help="Training utterances with a command, whose texts get the letter.")] = 60,
    others: Annotated[int, typer.Option(help="Training utterances without a command, to mix in.")] = 140,
    epochs: Annotated[int, typer.Option(help="Epochs of each fine-tuning.")] = 15,
    seeds: Annotated[int, typer.Option(help="Fine-tunings of each kind, with other utterances and another order.")] = 3,
    runs: Annotated[Path, typer.Option(help="Folder of the fine-tunings.")] = Path("runs/extending"),
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure what a model keeps and learns when a letter is added to its vocabulary.

    The letter is `!`, behind the commands in AN4's texts (enter, rubout, erase ...). The model is fine-tuned on a few
    such utterances and on others of the training set: once with its outputs kept (--vocabulary extend), once with a
    decoder of random weights, as NeMo's change_vocabulary makes it; all else is the same. On the test set, the WER
    without `!` is compared with that of the model before, and it is counted how often `!` is written where it should
    be. A fine-tuning that was stopped is resumed, one that is finished is not repeated.

    Example:

        python scripts/tools/evaluate_extending.py --output results/extending.json
    """
    from asr_with_nemo.recognition.results import markdown_table, save_measurement

    if seeds < 1:
        raise InputError(f"--seeds {seeds}: expected 1 or more")
    runs.mkdir(parents=True, exist_ok=True)
    test = data_dir / "test_manifest.json"
    write(runs / "dev.json", manifest.read_manifest(data_dir / "dev_manifest.json"))
    before = heard(model, test)
    rows = [row(f"{model} as it is", [before], None)]
    for name, options in WAYS.items():
        found = []
        for seed in range(seeds):
            train = runs / f"train{marked}+{others}-{seed}.json"
            write(train, drawn(data_dir / "train_manifest.json", marked, others, seed))
            data = ["--manifest", str(train), "--dev", str(runs / "dev.json")]
            own = [f"seed={seed}", f"trainer.max_epochs={epochs}", f"exp_manager.exp_dir={runs}", f"name={name}"]
            own += ["exp_manager.create_early_stopping_callback=false", "exp_manager.create_wandb_logger=false"]
            tuned = finetune([model, *data, *options, *own])
            found.append(heard(tuned, test))
            typer.echo(markdown_table([row(f"{name}, seed {seed}", found[-1:], before)]))
        rows.append(row(f"{name}, {seeds} seeds", found, before))
    typer.echo(markdown_table(rows))
    if output:
        about = (
            f"The model `{model}` is fine-tuned for {epochs} epochs on {marked} utterances of AN4's training set that "
            f"have a command, behind which `{MARK}` is written in their texts, and {others} others; {seeds} times, "
            "each with other utterances. The model has heard these utterances in its training, but no `!` and not the "
            "test set. `extended` keeps the outputs for the old letters (--vocabulary extend); "
            "`change_vocabulary` begins with a decoder of random weights, as NeMo's function of that name makes it. "
            f"The WER is that of the test set without `{MARK}`, read greedily; the difference from before has a "
            f"bootstrap over utterances. Recall: how many of the test set's `{MARK}` are written; precision: how many "
            "of those written should be. Which epoch is kept was chosen on dev, whose texts have the new letter too."
        )
        save_measurement(output, "A letter more for a trained model", about, rows, shlex.join(["python", *sys.argv]))


# --- Data -------------------------------------------------------------------------------------------------------------


def with_marks(text: str) -> str:
    """Write the new letter behind each command of a text."""
    return COMMANDS.sub(rf"\1{MARK}", text)


def drawn(path: Path, marked: int, others: int, seed: int) -> list[manifest.Utterance]:
    """Draw utterances with a command and others from a manifest.

    Raises:
        InputError: it has fewer.
    """
    generator, rows = random.Random(seed), manifest.read_manifest(path)
    chosen = []
    for kind, wanted in ((True, marked), (False, others)):
        there = [row for row in rows if bool(COMMANDS.search(row["text"])) == kind]
        if len(there) < wanted:
            raise InputError(
                f"{path}: has {len(there)} utterances {'with' if kind else 'without'} a command, not {wanted}"
            )
        chosen += generator.sample(there, wanted)
    generator.shuffle(chosen)
    return chosen


def write(path: Path, rows: Sequence[manifest.Utterance]) -> None:
    """Write a manifest with the new letter in its texts."""
    manifest.write_manifest(path, [row | {"text": with_marks(row["text"])} for row in rows])


# --- Measuring --------------------------------------------------------------------------------------------------------


def finetune(arguments: Sequence[str]) -> str:
    """Fine-tune a model, print what the command says as it comes, and return the path of the new one.

    Raises:
        InputError: it failed.
    """
    return run_command([sys.executable, str(FINETUNE), *arguments])[-1].removeprefix("model: ")


def heard(model: str, path: Path) -> list[ScoredUtterance]:
    """Transcribe a manifest greedily; the references have the new letter."""
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import decoding
    from asr_with_nemo.recognition.evaluation import make_rows

    utterances = [row | {"text": with_marks(row["text"])} for row in manifest.read_manifest(path)]
    found = decoding.transcribe(load_model(model), [row["audio_filepath"] for row in utterances], progress=False)
    return make_rows(path, utterances, [transcript.text for transcript in found])


def without_marks(rows: Sequence[ScoredUtterance]) -> list[ScoredUtterance]:
    """Return the same utterances with texts of the old letters."""
    return [
        ScoredUtterance(one.file, one.speaker, *(_plain(text) for text in (one.reference, one.hypothesis)))
        for one in rows
    ]


def _plain(text: str) -> str:
    return " ".join(text.replace(MARK, "").split())


def marks(rows: Sequence[ScoredUtterance]) -> tuple[int, int, int]:
    """Count the marks that the references have, those that the hypotheses have, and those that both have."""
    pairs = [pair for one in rows for pair in align(one.reference, one.hypothesis)]
    here, there = ([word.endswith(MARK) for word in side] for side in zip(*pairs, strict=True))
    return sum(here), sum(there), sum(one and other for one, other in zip(here, there, strict=True))


def row(name: str, trainings: Sequence[list[ScoredUtterance]], before: list[ScoredUtterance] | None) -> dict[str, str]:
    """Return a row of the table.

    Args:
        name: of the row.
        trainings: the test set as each of the models heard it.
        before: as the model before heard it; None for that model itself.
    """
    plain = [without_marks(rows) for rows in trainings]
    rate, (low, high) = mean_of_seeds(plain)
    errors = "/".join(str(total_errors(rows).errors) for rows in plain)
    found = {
        "": name,
        "WER of the old letters": f"{rate:.1%}",
        "errors": f"{errors} of {total_errors(plain[0]).words}",
        "95% interval": f"{low:.1%} to {high:.1%}",
    }
    if before is None:
        return found
    difference, (low, high) = difference_of_seeds(plain, [without_marks(before)] * len(plain))
    wanted, written, right = (sum(counts) for counts in zip(*map(marks, trainings), strict=True))
    return found | {
        "points more than before": f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        f"recall of {MARK}": f"{right / wanted:.0%} ({right} of {wanted})",
        f"precision of {MARK}": f"{right / written:.0%} ({right} of {written})" if written else "none written",
    }


if __name__ == "__main__":
    run(main)
