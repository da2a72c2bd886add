#!/usr/bin/env python3
"""Train and evaluate the runs of a study, with a results file each."""

import contextlib
import functools
import json
import math
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from omegaconf import OmegaConf

from asr_with_nemo.base.commands import run_command
from asr_with_nemo.base.files import write_if_changed
from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def stage(script: str, *arguments: str) -> str:
    """Run one of the course's commands; print its output as it comes, and return it.

    Raises:
        InputError: the command failed.
    """
    return "\n".join(run_command([sys.executable, str(ROOT / "scripts" / script), *arguments]))


@functools.cache
def train(*arguments: str, script: str = "train.py") -> str:
    """Train, unless the training is finished already, and return the path of the `.nemo` file.

    Raises:
        InputError: the training failed.
    """
    return stage(script, *arguments).splitlines()[-1].removeprefix("model: ")


def main(
    study: Annotated[str, typer.Argument(help="Name of the study in the file.")],
    file: Annotated[Path, typer.Option(help="The file of studies.")] = ROOT / "configs" / "study.yaml",
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared corpus.")] = Path("data/an4"),
    results: Annotated[Path, typer.Option(help="Folder for the results files.")] = ROOT / "results",
    again: Annotated[bool, typer.Option("--again", help="Evaluate again even if the results exist.")] = False,
) -> None:
    """Train and evaluate the runs of a study, with a results file each.

    Models are evaluated on the dev set, or on the test set if the study names it. Existing results are kept and an
    interrupted training resumes, so a study can be stopped and started again. scripts/tools/make_results.py writes the
    tables.

    Example:

        python scripts/tools/run_study.py patience
    """
    studies = OmegaConf.to_container(OmegaConf.load(file))
    if study not in studies:
        raise InputError(f"{file}: has no study {study!r}; it has {', '.join(studies)}")
    plan = studies[study]
    split, decoders = plan.get("split", "dev"), plan.get("decoders", {"greedy": []})
    for command in plan.get("before", []):
        stage(*command)
    trainings = [(planned, seed) for planned in plan["runs"] for seed in planned.get("seeds", [])]
    for planned, seed in sorted(trainings, key=lambda training: training[1]):  # what has been run, can be compared
        slug = f"{slug_of(planned['name'])}-seed{seed}"
        targets = {
            decoder: results / study / (f"{slug}-{decoder}.json" if len(decoders) > 1 else f"{slug}.json")
            for decoder in decoders
        }
        missing = {decoder: target for decoder, target in targets.items() if again or not target.is_file()}
        if not missing:
            print(f"{results / study / slug}: exists, skipped")
            model = json.loads(next(iter(targets.values())).read_text())["model"]
            keep_epochs(model, results / study / f"{slug}.epochs.csv", planned["name"], seed)
            continue
        print(f"{study}: {planned['name']}, seed {seed}", flush=True)
        script, arguments = training_of(plan, planned, seed, data_dir)
        model = train(*arguments, script=script)
        shown = [word for word in arguments if word != f"data_dir={data_dir}"]
        training = shlex.join(["python", f"scripts/{script}", *shown])
        about = {"study": study, "name": planned["name"], "seed": seed, "split": split}
        for decoder, target in missing.items():
            arguments = [str(data_dir / f"{split}_manifest.json"), *decoders[decoder]]
            evaluation = shlex.join(["python", "scripts/evaluate.py", "MODEL", *arguments])
            command = {"command": f"{training} && {evaluation}"}
            measure(["evaluate.py", model, *arguments], target, about | command)
        keep_epochs(model, results / study / f"{slug}.epochs.csv", planned["name"], seed)
    for planned in plan["runs"]:
        if "command" in planned:  # nothing to train
            target = results / study / f"{slug_of(planned['name'])}.json"
            about = {"study": study, "name": planned["name"], "seed": None, "split": split}
            if target.is_file() and not again:
                print(f"{target}: exists, skipped")
            else:
                measure(planned["command"], target, about)


def training_of(plan: dict, run: dict, seed: int, data_dir: Path) -> tuple[str, list[str]]:
    """Return the script that trains a run of a study, and its arguments; train the model that it starts from first.

    Raises:
        InputError: that training failed, or the study has no run of that name.
    """
    overrides = [*plan.get("overrides", []), *run["overrides"], f"seed={seed}"]
    config = run.get("config", plan.get("config"))
    if "from" not in run:
        options = ["--config-name", config] if config else []
        return "train.py", [*options, f"data_dir={data_dir}", *overrides]
    start = next((other for other in plan["runs"] if other["name"] == run["from"]), None)
    if start is None:
        raise InputError(f"{run['name']}: starts from {run['from']!r}, which isn't a run of its study")
    script, arguments = training_of(plan, start, start["seeds"][0], data_dir)
    data = ["--manifest", str(data_dir / "train_manifest.json"), "--dev", str(data_dir / "dev_manifest.json")]
    model = train(*arguments, script=script)
    return "finetune.py", [model, "--config-name", config or "config", *data, *overrides]


def slug_of(name: str) -> str:
    """Convert a run's name to part of a file's name."""
    return re.sub(r"\W+", "-", name).strip("-").lower()


def measure(command: list[str], target: Path, about: dict) -> None:
    """Run an evaluating script, and write its results file with the entries `about`; the utterances go next to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        output = Path(scratch) / target.name
        stage(*command, "--output", str(output))
        output.write_text(json.dumps(json.loads(output.read_text()) | about, indent=1) + "\n", encoding="utf-8")
        output.with_suffix(".tsv").replace(target.with_suffix(".tsv"))
        output.replace(target)  # last: if it exists, so do its utterances


def keep_epochs(model: str, target: Path, name: str, seed: int) -> None:
    """Write the dev scores of a training, epoch by epoch, unless they are there already or its log is gone."""
    import pandas

    from asr_with_nemo.training import read_log

    log = []
    if not target.is_file():
        with contextlib.suppress(InputError):  # the results may be of another machine
            log = read_log(Path(model).parent)
    scores = [
        {"run": name, "seed": seed, "epoch": int(row["epoch"]) + 1}
        | {key: round(row[key], 6) for key in ("val_wer", "val_loss")}
        for row in log
        if not math.isnan(row.get("val_wer", math.nan))  # an epoch with a look at dev; with final=true, there is none
    ]
    if scores:
        write_if_changed(target, pandas.DataFrame(scores).to_csv(index=False))


if __name__ == "__main__":
    run(main)
