#!/usr/bin/env python3
"""Estimate what more data would bring: short trainings on parts of a corpus, and a curve through their WERs."""

import csv
import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.base.commands import run_command
from asr_with_nemo.base.files import alone_in, reason_of, write_if_changed
from asr_with_nemo.base.values import hydra_value
from asr_with_nemo.cli import run
from asr_with_nemo.data import sizes
from asr_with_nemo.data.archives import sha256_of
from asr_with_nemo.data.manifest import read_manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import SUMMARY, model_path

SCRIPTS = Path(__file__).resolve().parent
FINE_TUNING_EPOCHS, FEWEST_EPOCHS = 10, 5
_PACE = "utterances_per_second"  # in the log of a training


def main(
    data: Annotated[Path, typer.Argument(help="A folder that scripts/prepare_corpus.py wrote.", metavar="DATA")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides for the trainings.", metavar="[KEY=VALUE]...")
    ] = None,
    base: Annotated[
        str, typer.Option(help="Fine-tune this model instead of training from scratch.", metavar="MODEL")
    ] = "",
    vocabulary: Annotated[
        str, typer.Option(help="With --base, as in scripts/finetune.py: extend, new ...", metavar="VOCABULARY")
    ] = "",
    config_name: Annotated[
        str, typer.Option(help="The config of the trainings; by default small_corpus, or finetune with --base.")
    ] = "",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Epochs of the training on all data; by default a quarter of those of small_corpus.yaml, or 10 with "
            "--base. Smaller parts have more, so that all have as many steps.",
        ),
    ] = None,
    parts: Annotated[str, typer.Option(help="The parts of the training set.")] = "0.25,0.5,1",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings for each part; three tell chance from data.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the curve; by default runs/curve-NAME.", metavar="DIR")
    ] = None,
) -> None:
    """Estimate what more data would bring: short trainings on parts of a corpus, and a curve through their WERs.

    Trains on a quarter, a half and all of DATA's training set, with as many steps each, and measures each model on the
    dev set. A power law through the three gives the WER for twice as much data, with a 95% interval. The trainings are
    short, so what matters is the slope, not the level: a whole training is better. How long they take on this machine
    is measured with two epochs and said before they start.

    A second call with --base MODEL adds the curve of fine-tuning to the picture and says which way is better. The same
    command again goes on where it was interrupted.

    Writes curve.json, curve.svg and curve.png into the output folder.

    Examples:

        python scripts/learning_curve.py data/mine

        python scripts/learning_curve.py data/mine --base an4 --seeds 3

        python scripts/learning_curve.py data/mine --epochs 40 trainer.accelerator=cpu
    """
    shares = _shares(parts)
    if vocabulary and not base:
        raise InputError("--vocabulary is for fine-tuning; give --base MODEL, too")
    train, dev = (data / f"{split}_manifest.json" for split in ("train", "dev"))
    known = sizes.sizes(data)  # the manifests are there and can be used
    if base and not (model := model_path(base)).exists():  # before long work
        raise InputError(
            f"--base {model}: no such file; name a model as scripts/finetune.py takes it: an4, a .nemo ..."
        )
    if epochs is None:
        epochs = FINE_TUNING_EPOCHS if base else max(FEWEST_EPOCHS, round(int(known["epochs"]) / 4))
    rows = read_manifest(train)
    if round(min(shares) * len(rows)) < 2:
        raise InputError(f"{train}: {len(rows)} utterances are too few for --parts {parts}; name larger parts")
    out = out or Path("runs") / f"curve-{data.resolve().name}"
    way = f"fine-tuning {Path(base).name}" if base else "from scratch"
    plan = _Plan(data, base, vocabulary, config_name, epochs, overrides or [], way)
    try:
        with alone_in(out, "is making a learning curve"):
            queue = _Queue(out)
            jobs = [(share, seed) for seed in range(seeds) for share in shares]
            digest = sha256_of(train) + sha256_of(dev)
            _work(plan, jobs, queue, digest, len(rows))
            entry = {
                "epochs": epochs,
                "overrides": overrides or [],
                "points": [
                    {
                        "part": share,
                        "utterances": max(1, round(share * len(rows))),
                        "hours": share * sum(row["duration"] for row in rows) / 3600,
                        "results": [plan.name(share, seed) for seed in range(seeds)],
                        "seconds": [queue.done[plan.name(share, seed)]["seconds"] for seed in range(seeds)],
                    }
                    for share in shares
                ],
            }
            queue.keep("ways", queue.done.get("ways", {}) | {way: entry | {"digest": digest}})
            _conclude(out, queue, data, digest)
    except OSError as error:
        raise InputError(f"{out}: can't be written ({reason_of(error)}); or name another --out") from error


def _shares(parts: str) -> list[float]:
    try:
        shares = sorted({float(part) for part in parts.split(",")})
    except ValueError:
        shares = []
    if len(shares) < 2 or not shares[0] > 0 or not shares[-1] <= 1:
        raise InputError(f"--parts {parts!r}: expected two or more parts between 0 and 1, such as 0.25,0.5,1")
    return shares


# --- Trainings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is trained, and how.

    Attributes:
        way: in words: "from scratch".
    """

    data: Path
    base: str
    vocabulary: str
    config_name: str
    epochs: int
    overrides: list[str]
    way: str

    def name(self, share: float, seed: int) -> str:
        """Return the name of a training's results."""
        way = re.sub(r"\W+", "-", self.way).strip("-")
        return f"{way}-{100 * share:g}-seed{seed}"

    def command(self, share: float, seed: int, epochs: int | None = None) -> list[str]:
        """Return the command of a training; a smaller part has more epochs, and so as many steps."""
        count = epochs or max(1, round(self.epochs / share))
        settings = [f"fraction={share:g}", f"trainer.max_epochs={count}", f"seed={seed}"]
        settings += [f"trainer.check_val_every_n_epoch={max(1, count // 5)}"]
        settings += ["exp_manager.create_wandb_logger=false", *self.overrides]
        train, dev = (str(self.data / f"{split}_manifest.json") for split in ("train", "dev"))
        if self.base:
            options = ["--manifest", train, "--dev", dev, "--config-name", self.config_name or "finetune"]
            options += ["--vocabulary", self.vocabulary] if self.vocabulary else []
            return ["finetune.py", self.base, *options, *settings]
        place = f"data_dir={hydra_value(str(self.data))}"
        return ["train.py", "--config-name", self.config_name or "small_corpus", place, *settings]


@dataclass
class _Queue:
    """What is done, kept in queue.json: name → the training's key, its seconds and its model."""

    folder: Path
    done: dict[str, dict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self.done = json.loads((self.folder / "queue.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.folder / 'queue.json'}: can't be read ({error}); delete it and run again"
            ) from error

    def keep(self, name: str, facts: dict) -> None:
        """Note what is done."""
        self.done[name] = facts
        write_if_changed(self.folder / "queue.json", json.dumps(self.done, indent=1, ensure_ascii=False) + "\n")

    def has(self, name: str, key: str) -> bool:
        """Return whether a training is done, and its results are there."""
        return self.done.get(name, {}).get("key") == key and (self.folder / f"{name}.tsv").is_file()


def _stage(script: str, *arguments: str) -> list[str]:
    return run_command([sys.executable, str(SCRIPTS / script), *arguments], typer.echo)


def _train(command: list[str]) -> tuple[Path, dict, float]:
    """Train; return the model, its summary, and the seconds of the whole command."""
    started = time.monotonic()
    model = Path(_stage(*command)[-1].removeprefix("model: "))
    summary = json.loads((model.parent / SUMMARY).read_text(encoding="utf-8"))
    return model, summary, time.monotonic() - started


def _work(plan: _Plan, jobs: list[tuple[float, int]], queue: _Queue, digest: str, utterances: int) -> None:
    """Train and evaluate what isn't done yet, and say before how long it takes."""
    keys = {}
    for share, seed in jobs:
        facts = [
            plan.command(share, seed),
            digest,
            str(Path(plan.base).stat().st_mtime_ns) if _is_file(plan.base) else "",
        ]
        keys[share, seed] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    waiting = [job for job in jobs if not queue.has(plan.name(*job), keys[job])]
    if not waiting:
        typer.echo(f"{plan.way}: the {len(jobs)} trainings are done")
        return
    each = _seconds_of(plan, waiting[0], queue, digest, utterances)
    typer.echo(
        f"{plan.way}: {len(waiting)} trainings of {plan.epochs} epochs' worth of steps, about {_minutes(each)} each on "
        f"this machine, {_minutes(each * len(waiting))} in all"
    )
    for number, job in enumerate(waiting):
        share, seed = job
        typer.echo(f"{number + 1} of {len(waiting)}: {share:.0%} of the training set, seed {seed}")
        model, summary, seconds = _train(plan.command(share, seed))
        name = plan.name(share, seed)
        _stage(
            "evaluate.py",
            str(model),
            str(plan.data / "dev_manifest.json"),
            "--output",
            str(queue.folder / f"{name}.json"),
        )
        queue.keep(name, {"key": keys[job], "seconds": round(summary["seconds"], 1), "model": str(model)})
        left = len(waiting) - number - 1
        typer.echo(f"took {_minutes(seconds)}" + (f"; about {_minutes(left * seconds)} left" if left else ""))


def _is_file(base: str) -> bool:
    return bool(base) and Path(base).is_file()


def _seconds_of(plan: _Plan, job: tuple[float, int], queue: _Queue, digest: str, utterances: int) -> float:
    """Return about how many seconds a training takes, measured with two epochs of the first one.

    The first epoch warms up; what counts is the pace of the second.
    """
    name, command = f"probe {plan.way}", plan.command(*job, epochs=2)
    key = hashlib.sha256(f"{command}{digest}".encode()).hexdigest()[:16]
    if queue.done.get(name, {}).get("key") != key:
        typer.echo("two epochs, to see how long the trainings take:")
        model, summary, seconds = _train(command)
        facts = {"pace": _pace(model.parent), "start": max(0.0, seconds - summary["seconds"])}
        queue.keep(name, {"key": key, **facts})
    found = queue.done[name]
    return found["start"] + plan.epochs * utterances / found["pace"]


def _pace(training: Path) -> float:
    """Return the utterances per second of a training's last epoch, by its log."""
    found = []
    for path in training.glob("csv/version_*/metrics.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            rows = [(int(row["epoch"]), float(row[_PACE])) for row in csv.DictReader(file) if row.get(_PACE)]
            found += rows
    return max(found)[1]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


# --- Results ----------------------------------------------------------------------------------------------------------


def _conclude(out: Path, queue: _Queue, data: Path, digest: str) -> None:
    """Fit and draw the curves of all ways that were trained on this corpus as it is, and say what they say."""
    from asr_with_nemo.recognition import learning_curve
    from asr_with_nemo.recognition.evaluation import read_rows
    from asr_with_nemo.recognition.results import save_measurement

    curves, rows, facts = {}, [], {}
    for way, entry in queue.done["ways"].items():
        if entry["digest"] != digest:
            typer.echo(f"{way}: of other manifests, and left out; run its command again")
            continue
        points = [
            learning_curve.Point(
                one["utterances"], one["hours"], [read_rows(out / f"{name}.tsv") for name in one["results"]]
            )
            for one in entry["points"]
        ]
        curve = curves[way] = learning_curve.fit(points)
        rows += list(_rows(way, entry, curve))
        facts[way] = {
            "scale": curve.scale,
            "exponent": curve.exponent,
            "factor": curve.factor,
            "forecast": curve.forecast,
            "interval": curve.interval,
            "points": [
                {"utterances": p.utterances, "hours": p.hours, "wer": p.wer[0], "interval": p.wer[1]} for p in points
            ],
        }
    for form in ("svg", "png"):
        write_if_changed(out / f"curve.{form}", learning_curve.draw(curves, form))
    said = {way: learning_curve.says(curve) for way, curve in curves.items()}
    compared = learning_curve.compared(curves)
    about = (
        f"Short trainings on parts of {data.resolve().name}'s training set, with as many steps each, and a power law "
        f"through their WERs on dev. {' '.join(f'{way}: {lines[0]}.' for way, lines in said.items())}"
    )
    command = shlex.join(["python", "scripts/learning_curve.py", *sys.argv[1:]])
    more = {"curves": facts, "advice": [*(line for lines in said.values() for line in lines), *compared]}
    save_measurement(out / "curve.json", "How much more data would bring", about, rows, command, **more)
    for row in rows:
        typer.echo("  ".join(f"{key} {value}" if key != "way" else value for key, value in row.items() if value))
    for way, lines in said.items():
        typer.echo("\n".join([f"{way}:", *(f"  {line}" for line in lines)]))
    for line in compared or ["scratch or fine-tuning: run it again with --base MODEL (or without) to compare the two"]:
        typer.echo(line)
    typer.echo(f"curve: {out / 'curve.png'}, {out / 'curve.svg'}, {out / 'curve.json'}")


def _rows(way: str, entry: dict, curve) -> Iterator[dict[str, str]]:
    """Yield the lines of the table: a point each, and the forecast."""
    for one, point in zip(entry["points"], curve.points, strict=True):
        wer, (low, high) = point.wer
        counts, seconds = point.counts, sum(one["seconds"]) / len(one["seconds"])
        yield {
            "way": way,
            "utterances": f"{point.utterances:,}",
            "speech": f"{point.hours * 60:.0f} min" if point.hours < 2 else f"{point.hours:.1f} h",
            "WER": f"{wer:.1%}",
            "errors": f"{counts.errors:,} of {counts.words:,}",
            "95% interval": f"{low:.1%} to {high:.1%}",
            "minutes": f"{seconds / 60:.1f}",
        }
    last, (low, high) = curve.points[-1], curve.interval
    hours = last.hours * curve.factor
    yield {
        "way": f"{way}, forecast",
        "utterances": f"{round(last.utterances * curve.factor):,}",
        "speech": f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h",
        "WER": f"{curve.forecast:.1%}",
        "errors": "",
        "95% interval": f"{low:.1%} to {high:.1%}",
        "minutes": "",
    }


if __name__ == "__main__":
    run(main)
