#!/usr/bin/env python3
"""Train and evaluate the variants of a study, a results file each."""

import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from omegaconf import OmegaConf

from asr_with_nemo import cli
from asr_with_nemo.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def stage(script: str, *arguments: str) -> str:
    """Run one of the course's commands, showing its output as it comes, and return it.

    Raises:
        InputError: the command failed.
    """
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        print("   ", line, end="", flush=True)
        lines.append(line)
    if process.wait():
        raise InputError(f"{shlex.join(['scripts/' + script, *arguments])} failed; its own words stand above")
    return "".join(lines)


def main(
    study: Annotated[str, typer.Argument(help="Which study of the file.")],
    file: Annotated[Path, typer.Option(help="Where the studies are written down.")] = ROOT / "configs" / "study.yaml",
    data_dir: Annotated[Path, typer.Option(help="The prepared corpus.")] = Path("data/an4"),
    results: Annotated[Path, typer.Option(help="Where the results files go.")] = ROOT / "results",
) -> None:
    """Train and evaluate the variants of a study on the dev set, a results file each.

    What is there already isn't done again, and an interrupted training goes on, so that a study can be stopped and
    started. scripts/make_results.py draws the tables.

    Example:

        python scripts/run_study.py patience
    """
    results = results.absolute()  # the stages run in the course's folder
    studies = OmegaConf.to_container(OmegaConf.load(file))
    if study not in studies:
        raise InputError(f"{file}: has no study {study!r}; it has {', '.join(studies)}")
    for run in studies[study]["runs"]:
        for seed in run["seeds"]:
            slug = re.sub(r"\W+", "-", run["name"]).strip("-").lower()
            target = results / study / f"{slug}-seed{seed}.json"
            if target.is_file():
                print(f"{target} is there")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            overrides = [*run["overrides"], f"seed={seed}", f"data_dir={data_dir}"]
            print(f"{study}: {run['name']}, seed {seed}", flush=True)
            model = stage("train.py", *overrides).splitlines()[-1].removeprefix("model: ")
            with tempfile.TemporaryDirectory() as scratch:
                evaluated = Path(scratch) / "evaluation.json"
                stage("evaluate.py", model, str(data_dir / "dev_manifest.json"), "--output", str(evaluated))
                evaluation = json.loads(evaluated.read_text())
            row = evaluation | {
                "study": study,
                "name": run["name"],
                "seed": seed,
                "split": "dev",
                "command": f"python scripts/train.py {shlex.join(run['overrides'])} seed={seed}",
            }
            partial = target.with_suffix(".partial")
            partial.write_text(json.dumps(row, indent=1) + "\n")
            partial.replace(target)


if __name__ == "__main__":
    cli.run(main)
