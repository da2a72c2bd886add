#!/usr/bin/env python3
"""Record a finished sweep for notebook 07: its trials, their errors on dev, and the best ones with other seeds."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from omegaconf import OmegaConf
from run_study import stage

from asr_with_nemo.cli import run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "config.yaml"


def main(
    store: Annotated[Path, typer.Argument(help="The sweep's folder, as scripts/sweep.py --store.")],
    commit: Annotated[str, typer.Option(help="The commit that trained the trials.")],
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared corpus.")] = Path("data/an4"),
    output: Annotated[Path, typer.Option(help="The results file.")] = ROOT / "results" / "sweep.json",
    again: Annotated[int, typer.Option(min=0, help="Number of best trials to train again.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, with seeds 1, 2 ...")] = 3,
) -> None:
    """Record a finished sweep for notebook 07.

    The best trials are trained again with other seeds, and so are the values that configs/config.yaml has of itself.
    The results file is written after each training, and an interrupted training resumes, so this can be stopped and
    started again.

    Example:

        python scripts/tools/record_sweep.py runs/sweeps/sweep_study --commit "$(git rev-parse --short=12 HEAD)"
    """
    from asr_with_nemo.sweeps.store import TrialStore

    results = TrialStore.open(store).results()
    metric, sweep = results.sweep.metric, results.sweep
    finished = [row for row in results.rows if row.state == "finished"]
    trials = []
    for row in finished:
        (model,) = (store / "trials" / row.folder).glob("*/*.nemo")
        trials.append(
            {
                "number": row.number,
                "values": sweep.values(row.config),
                "history": [round(value, 6) for value in row.history],
                "seconds": round(row.seconds, 1),
                **errors_of(model, data_dir / "dev_manifest.json", model.parent / "dev.json"),
            }
        )
    plain = OmegaConf.load(CONFIG)
    own = {parameter.name: OmegaConf.select(plain, parameter.name) for parameter in sweep.parameters}
    own |= {parameter.name: parameter.spec["value"] for parameter in sweep.parameters if parameter.kind == "constant"}
    best = sorted(finished, key=lambda row: metric.sign * row.value)[:again]
    chosen: dict[int | None, Mapping[str, Any]] = {row.number: sweep.values(row.config) for row in best}
    chosen[None] = own
    repeats: list[dict] = []
    write(output, store, results, trials, repeats, commit)
    for seed in range(1, seeds + 1):
        for number, values in chosen.items():
            repeats.append({"trial": number, "values": dict(values), "seed": seed, **trained(values, seed, data_dir)})
            write(output, store, results, trials, repeats, commit)


def trained(values: Mapping[str, Any], seed: int, data_dir: Path) -> dict[str, Any]:
    """Train with a trial's values and another seed; return what the results file says of the training."""
    from asr_with_nemo.training import read_log

    settings = [f"{key}={value}" for key, value in values.items()]
    words = stage(
        "train.py", f"data_dir={data_dir}", f"seed={seed}", "exp_manager.create_wandb_logger=false", *settings
    )
    model = Path(words.splitlines()[-1].removeprefix("model: "))
    summary = json.loads((model.parent / "training.json").read_text(encoding="utf-8"))
    history = [round(row["val_wer"], 6) for row in read_log(model.parent) if row["val_wer"] == row["val_wer"]]
    errors = errors_of(model, data_dir / "dev_manifest.json", model.parent / "dev.json")
    return {"history": history, "seconds": summary["seconds"], **errors}


def errors_of(model: Path, manifest: Path, output: Path) -> dict[str, list]:
    """Evaluate a model on dev, unless that has been done, and return errors, words and speaker of each utterance."""
    from asr_with_nemo.recognition.evaluation import read_rows

    if not output.is_file():
        stage("evaluate.py", str(model), str(manifest), "--output", str(output))
    rows = sorted(read_rows(output), key=lambda row: row.file)
    return {
        "errors": [row.words.errors for row in rows],
        "words": [row.words.words for row in rows],
        "speakers": [row.speaker for row in rows],
    }


def write(output: Path, store: Path, results: Any, trials: list[dict], repeats: list[dict], commit: str) -> None:
    """Write the results file, with a table for RESULTS.md; what all trials share is said once."""
    from asr_with_nemo.recognition.results import save_measurement

    ranked = sorted(trials, key=lambda trial: min(trial["history"]))
    command = f"python scripts/sweep.py configs/{results.sweep.name}.yaml --count {len(trials)} --seed 0 "
    command += "exp_manager.create_wandb_logger=false\n"
    command += shlex.join(["python", "scripts/tools/record_sweep.py", str(store), "--commit", commit])
    shared = {key: trials[0][key] for key in ("words", "speakers")}
    save_measurement(
        output,
        "A sweep of the article's Jasper 4x1",
        f"{len(trials)} trials by `configs/{results.sweep.name}.yaml`, the best first, and at the end the values of "
        "`configs/config.yaml`; each training reads dev after each epoch, and the WER is that of its best epoch, which "
        "is the one that the sweep compares. Below a trial, the same values with other seeds. Notebook 07_sweeps draws "
        "them. One core each, beside other work.",
        [
            cells(trial | other, f"{trial['number']}", other.get("seed", 0))
            for trial in ranked
            for other in [{}, *(repeat for repeat in repeats if repeat["trial"] == trial["number"])]
        ]
        + [cells(repeat, "config.yaml", repeat["seed"]) for repeat in repeats if repeat["trial"] is None],
        command,
    )
    content = json.loads(output.read_text(encoding="utf-8")) | {"commit": commit}
    content["sweep"] = results.sweep.config | {"name": results.sweep.name}
    content |= shared
    for name, rows in (("trials", trials), ("repeats", repeats)):
        content[name] = [{key: row[key] for key in row if key not in shared} for row in rows]
    output.write_text(compact(content), encoding="utf-8")


def cells(training: Mapping[str, Any], trial: str, seed: int) -> dict[str, str]:
    """Format a row of the table."""
    values = {key.rpartition(".")[2]: f"{value:.3g}" for key, value in training["values"].items()}
    errors, best = sum(training["errors"]), min(training["history"])
    minutes = {"minutes": f"{training['seconds'] / 60:.1f}"}
    return (
        {"trial": trial, "seed": str(seed), "WER on dev": f"{best:.1%}", "errors, greedy": str(errors)}
        | values
        | minutes
    )


def compact(content: Mapping[str, Any]) -> str:
    """Format as JSON, with a line for each entry of a list."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            parts.append(f" {json.dumps(key)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    run(main)
