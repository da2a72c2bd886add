#!/usr/bin/env python3
"""Train the model that ships with the package, on AN4 only."""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from run_study import stage, train

from asr_with_nemo.cli import run
from asr_with_nemo.models.names import ASSETS

ROOT = Path(__file__).resolve().parents[2]


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared AN4.")] = Path("data/an4"),
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    config_name: Annotated[str, typer.Option(help="Config in configs/.")] = "quartznet_an4",
    output: Annotated[Path, typer.Option(help="Folder for an4.nemo and an4.arpa.")] = ASSETS,
) -> None:
    """Train the model that ships with the package, on AN4 only: an4.nemo, and its language model an4.arpa.

    The model is trained twice: once without the dev set, on which the beam search is then tuned, and once with it. The
    language model is made from the training transcripts and AN4's dictionary. Finished steps are not repeated.
    """
    from asr_with_nemo.models.names import SUMMARY

    lexicon = data_dir / "etc" / "an4.dic"
    options = ["--config-name", config_name, f"seed={seed}", f"data_dir={data_dir}"]

    tuned = Path(train(*options))
    arpa = tuned.with_suffix(".arpa")  # next to the model that it is tuned with
    stage("build_lm.py", str(data_dir / "train_manifest.json"), str(arpa), "--lexicon", str(lexicon))
    stage("evaluate.py", str(tuned), str(data_dir / "dev_manifest.json"), "--lm", "--tune")
    final = train(*options, "final=true")
    arguments = [str(data_dir / "train_all_manifest.json"), str(output / "an4.arpa"), "--lexicon", str(lexicon)]
    stage("build_lm.py", *arguments, "--final", "--weights-of", str(arpa))
    final = ROOT / final
    shutil.copyfile(final, output / "an4.nemo")
    shutil.copyfile(final.with_name(SUMMARY), output / SUMMARY)
    shutil.copyfile(data_dir / "LICENSE", output / "AN4-LICENSE.txt")
    typer.echo(f"model: {output / 'an4.nemo'}")


if __name__ == "__main__":
    run(main)
