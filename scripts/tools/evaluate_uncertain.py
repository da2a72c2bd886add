#!/usr/bin/env python3
"""Measure whether labels are worth more on the recordings that a model is least sure of than on random ones."""

import random
from pathlib import Path
from typing import Annotated

import typer
from run_study import measure, stage, train

from asr_with_nemo.cli import changed, run
from asr_with_nemo.errors import InputError

STEPS, BATCH = 1_060, 8
"""Steps of each training, and utterances in a batch: as in the study `transfer` of configs/study.yaml."""
QUIET = "exp_manager.create_wandb_logger=false"


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared AN4.")] = Path("data/an4"),
    share: Annotated[float, typer.Option(help="Share of the training set that is labelled, and is added.")] = 0.1,
    seeds: Annotated[int, typer.Option(min=1, help="How often all is done, with another part labelled first.")] = 3,
    folder: Annotated[Path, typer.Option(help="For manifests and the results of each model.")] = Path("runs/uncertain"),
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Compare two ways to choose what a person labels next, after a first tenth of the training set.

    A model of computer voices is fine-tuned on a random tenth. It transcribes the rest, and of that the tenth with the
    lowest confidence is added, as `transcribe.py --uncertain` picks it; or a random tenth. Both models begin again from
    the computer voices, with as many steps. The test set compares them.

    The same command goes on where it was interrupted.

    Example:

        python scripts/tools/evaluate_uncertain.py --output results/uncertain.json
    """
    from asr_with_nemo.recognition.evaluation import read_rows
    from asr_with_nemo.recognition.results import save_measurement
    from asr_with_nemo.recognition.wer import difference_of_seeds, total_errors

    if not 0 < share <= 0.5:
        raise InputError(f"--share {share:g}: expected a share above 0 and up to 0.5, since it is taken twice")
    folder = folder / f"{share:g}"
    stage("prepare_an4.py", "--source", "synthetic")
    voices = ["data_dir=data/synthetic", "trainer.max_epochs=25", "trainer.check_val_every_n_epoch=5", "seed=0", QUIET]
    start = train(*voices)
    for seed in range(seeds):
        one_round(start, data_dir, folder, share, seed)
    names = {
        "first": f"{share:.0%} at random",
        "uncertain": f"and the {share:.0%} that the model is least sure of",
        "random": f"and another {share:.0%} at random",
    }
    rows = {name: [read_rows(folder / f"{name}-seed{seed}.tsv") for seed in range(seeds)] for name in names}
    lines = []
    for name, title in names.items():
        counts = [total_errors(one) for one in rows[name]]
        line = {"labelled": title, "WER": f"{sum(one.rate for one in counts) / seeds:.1%}"}
        line["by seed"] = ", ".join(f"{one.rate:.1%}" for one in counts)
        lines.append(line)
    difference, (low, high) = difference_of_seeds(rows["uncertain"], rows["random"])
    verdict = (
        f"Uncertain first against at random: {100 * difference:+.1f} points, 95% interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}: "
        + ("not statistically significant." if low <= 0 <= high else "statistically significant.")
    )
    for line in lines:
        typer.echo("  ".join(line.values()))
    typer.echo(verdict)
    if output:
        about = (
            f"A model of computer voices, fine-tuned on parts of AN4's training set, {STEPS:,} steps each; mean of "
            f"{seeds} trainings on AN4's test set. {verdict}"
        )
        command = f"python scripts/tools/evaluate_uncertain.py --share {share:g} --seeds {seeds}"
        command += changed(main, data_dir=data_dir)
        figures = {"difference": difference, "ci95": [low, high]}
        save_measurement(output, "What a person should label next", about, lines, command, **figures)
        typer.echo(f"results: {output}")


def one_round(start: str, data_dir: Path, folder: Path, share: float, seed: int) -> None:
    """Train and evaluate the three models of a seed, unless their results are there."""
    from asr_with_nemo.data import manifest

    rows = manifest.read_manifest(data_dir / "train_manifest.json")
    count = round(share * len(rows))
    drawn = random.Random(seed).sample(rows, len(rows))
    first, pool, others = drawn[:count], drawn[count:], drawn[count : 2 * count]
    model = learn(start, data_dir, folder, "first", first, seed)
    chosen = folder / f"chosen-seed{seed}.json"
    if not chosen.is_file():
        manifest.write_manifest(folder / f"pool-seed{seed}.json", pool)
        listed = str(folder / f"pool-seed{seed}.json")
        stage("transcribe.py", model, listed, "--uncertain", str(count), "--output", str(chosen))
    paths = {Path(row["audio_filepath"]).resolve() for row in manifest.read_manifest(chosen)}
    least_sure = [row for row in pool if Path(row["audio_filepath"]).resolve() in paths]  # with their true texts
    if len(least_sure) != count:
        raise InputError(f"{chosen}: {len(least_sure)} of {count} recordings are in the pool; delete it and run again")
    learn(start, data_dir, folder, "uncertain", first + least_sure, seed)
    learn(start, data_dir, folder, "random", first + others, seed)


def learn(start: str, data_dir: Path, folder: Path, name: str, rows: list, seed: int) -> str:
    """Fine-tune the first model on some utterances, evaluate it on the test set, and return its path."""
    from asr_with_nemo.data import manifest

    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / f"{name}-seed{seed}.manifest.json"
    manifest.write_manifest(listed, rows)
    epochs = max(1, round(STEPS * BATCH / len(rows)))
    data = ["--manifest", str(listed), "--dev", str(data_dir / "dev_manifest.json"), "--config-name", "config"]
    settings = [f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={max(1, epochs // 12)}", QUIET]
    model = train(start, *data, *settings, f"seed={seed}", script="finetune.py")
    target = folder / f"{name}-seed{seed}.json"
    if not target.is_file():
        about = {"name": name, "seed": seed, "split": "test"}
        measure(["evaluate.py", model, str(data_dir / "test_manifest.json")], target, about)
    return model


if __name__ == "__main__":
    run(main)
