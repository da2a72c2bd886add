#!/usr/bin/env python3
"""Measure how much easier the voices are that a model was trained on."""

import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from run_study import stage

from asr_with_nemo.cli import changed, run


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared corpus.")] = Path("data/an4"),
    epochs: Annotated[int, typer.Option(help="Epochs of each training.")] = 25,
    held_out: Annotated[int, typer.Option(help="Utterances of each speaker that no model is trained on.")] = 3,
    seeds: Annotated[int, typer.Option(help="Number of times that all is repeated, with another draw each.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Train two models on half of the speakers each, and let both transcribe held-out utterances of all speakers.

    Each utterance is transcribed by a model that knows its speaker's voice and by one that doesn't. Both have learned
    from about as many utterances, so that the voices make the difference. The last epoch's weights are evaluated.

    Example:

        python scripts/tools/evaluate_speakers.py --epochs 25
    """
    from asr_with_nemo.data import manifest
    from asr_with_nemo.recognition import evaluation, wer
    from asr_with_nemo.recognition.results import save_measurement

    utterances = manifest.read_manifest(data_dir / "train_all_manifest.json")
    results: dict[bool, list[wer.ScoredUtterance]] = {True: [], False: []}  # by whether the voice is known
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            others, *halves = split(utterances, held_out, seed)
            for number, (half, _) in enumerate(halves):
                model = train(Path(scratch, str(number)), half, others[0], epochs, seed)
                for known in (True, False):
                    _, asked = halves[number if known else 1 - number]
                    path = Path(scratch, str(number), f"{'known' if known else 'other'}_manifest.json")
                    manifest.write_manifest(path, asked)
                    tsv = path.with_suffix(".results.json")
                    stage("evaluate.py", model, str(path), "--output", str(tsv))
                    results[known] += as_read(evaluation.read_rows(tsv), asked)
    known, other = results[True], results[False]
    lines = []
    for name, rows in (("heard in training", known), ("never heard", other)):
        errors, (low, high) = wer.total_errors(rows), wer.wer_interval(rows)
        line = {"the speaker was": name, "WER": f"{errors.rate:.1%}", "errors": f"{errors.errors} of {errors.words}"}
        lines.append(line | {"95% interval": f"{low:.1%} to {high:.1%}"})
    comparison = wer.compare(other, known)
    low, high = comparison.ci95
    points = f"{100 * comparison.difference:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    lines.append({"the speaker was": "never heard, against heard", "WER": points, "errors": "", "95% interval": ""})
    typer.echo("\n".join(", ".join(line.values()) for line in lines))
    if output:
        about = (
            f"configs/config.yaml for {epochs} epochs on each half of the speakers of AN4's training set. "
            f"{held_out} utterances of each speaker are held out of both trainings; each is transcribed twice, by the "
            "model that has heard other utterances of its speaker and by the one that hasn't."
        )
        command = f"python scripts/tools/evaluate_speakers.py --epochs {epochs} --held-out {held_out} --seeds {seeds}"
        command += changed(main, data_dir=data_dir)
        save_measurement(output, "Speakers that the model has heard, and others", about, lines, command)
        typer.echo(f"results: {output}")


def split(utterances: list[dict], held_out: int, seed: int) -> list[tuple[list[dict], list[dict]]]:
    """Return, for four speakers and for each half of the others, what to train on and what is held out."""
    generator = random.Random(seed)
    by_speaker = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance["speaker"]].append(utterance)
    speakers = generator.sample(sorted(by_speaker), len(by_speaker))
    parts = []
    for half in (speakers[:4], speakers[4::2], speakers[5::2]):
        train, asked = [], []
        for speaker in half:
            rows = generator.sample(by_speaker[speaker], len(by_speaker[speaker]))
            asked += rows[:held_out]
            train += rows[held_out:]
        parts.append((train, asked))
    return parts


def train(folder: Path, utterances: list[dict], dev: list[dict], epochs: int, seed: int) -> str:
    """Train a model, and return its path. It is validated after the last epoch only: no epoch is chosen."""
    from asr_with_nemo.data import manifest

    folder.mkdir()
    manifest.write_manifest(folder / "train_manifest.json", utterances)
    manifest.write_manifest(folder / "dev_manifest.json", dev)
    settings = [f"data_dir={folder}", f"trainer.max_epochs={epochs}", f"seed={seed}"]
    settings += [f"exp_manager.exp_dir={folder / 'runs'}", "exp_manager.create_wandb_logger=false"]
    settings += [f"trainer.check_val_every_n_epoch={epochs}"]
    return stage("train.py", *settings).splitlines()[-1].removeprefix("model: ")


def as_read(rows: list, asked: list[dict]) -> list:
    """Name the rows by their recordings' real paths, since they come from manifests in several folders."""
    from dataclasses import replace

    return [
        replace(row, file=utterance["audio_filepath"], speaker=utterance["speaker"])
        for row, utterance in zip(rows, asked, strict=True)
    ]


if __name__ == "__main__":
    run(main)
