#!/usr/bin/env python3
"""Fine-tune a model on other recordings."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import Model, OverfitBatch, OverfitSeconds, run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Freeze(StrEnum):
    """The part of the model that is not trained."""

    none = "none"
    encoder = "encoder"
    bn = "bn"


def main(
    model: Model,
    manifest: Annotated[str, typer.Option(help="The training manifest, or shards.", metavar="TRAIN")],
    dev: Annotated[Path, typer.Option(help="The dev manifest, of other speakers.", metavar="DEV")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides: key=value, +new.key=value, ~key.", metavar="[KEY=VALUE]..."),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            help="extend: the model's, and the letters that it lacks. new: made of the training texts. Or another one: "
            "its letters, a file of them, a manifest whose transcripts have them, or the folder of a tokenizer.",
            metavar="extend|new|FILE_OR_LETTERS",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            help="With --vocabulary extend, for a model of pieces: words of the training texts that become pieces of "
            "their own, or a file with them.",
            metavar="FILE_OR_WORDS",
        ),
    ] = None,
    freeze: Annotated[
        Freeze | None, typer.Option(help="encoder: only the decoders are trained. bn: batch norm keeps its statistics.")
    ] = None,
    adapter: Annotated[
        int | None,
        typer.Option(
            help="Train adapters alone (and the decoders, if the vocabulary has new symbols): NeMo's small layers "
            "behind each block of the encoder, DIM values wide. All else of the model stays as it is.",
            metavar="DIM",
        ),
    ] = None,
    config_path: Annotated[Path, typer.Option(help="The folder of the config.")] = CONFIGS,
    config_name: Annotated[str, typer.Option(help="The config's name, with or without .yaml.")] = "finetune",
    output: Annotated[
        Path | None, typer.Option(help="Link the model under this name too.", metavar="FILE.nemo")
    ] = None,
    overfit_batch: OverfitBatch = False,
    overfit_seconds: OverfitSeconds = 60,
) -> None:
    """Fine-tune a model on other recordings.

    MODEL is any recogniser: by CTC, RNN-T or TDT, or a hybrid; of letters or of pieces of words. TRAIN and DEV are
    manifests, such as scripts/prepare_corpus.py makes from your own recordings; TRAIN may be the folder of shards
    that scripts/make_shards.py makes of one, or s3://BUCKET/FOLDER. Preprocessor, encoder, decoders and vocabulary
    are the model's; the rest is configs/finetune.yaml, or another training config. If there are texts that the
    model can't write, they are listed, and nothing is trained: extend its vocabulary (all that it has learned is
    kept; --words adds whole words to a model of pieces), or give another one (the decoders keep their weights for
    the symbols that both have). With --vocabulary new, the decoders start at random.

    The model as it comes is measured on the dev set before the first step; each validation has that figure beside
    it, and where it is worse, the run says since when, and what usually causes it. Training stops when the dev set
    no longer improves. Checkpoints, logs and W&B are as in scripts/train.py, and the same command again resumes a
    killed fine-tuning. The last line is `model: PATH`. --overfit-batch finds in a minute whether something is
    broken.

    Examples:

        python scripts/finetune.py an4 --output runs/mine.nemo \\
            --manifest data/mine/train_manifest.json \\
            --dev data/mine/dev_manifest.json

        python scripts/finetune.py an4 --overfit-batch \\
            --manifest data/mine/train_manifest.json \\
            --dev data/mine/dev_manifest.json

        python scripts/finetune.py QuartzNet15x5Base-En \\
            --manifest data/an4/train_manifest.json \\
            --dev data/an4/dev_manifest.json \\
            --vocabulary " abcdefghijklmnopqrstuvwxyz'!" trainer.max_epochs=2

        python scripts/finetune.py MODEL.nemo --freeze bn \\
            --manifest data/german/train_manifest.json \\
            --dev data/german/dev_manifest.json \\
            --vocabulary data/german/train_manifest.json

        python scripts/finetune.py parakeet.nemo --adapter 32 model.optim.lr=0.001 \\
            --manifest data/mine/train_manifest.json \\
            --dev data/mine/dev_manifest.json

        python scripts/finetune.py parakeet.nemo --vocabulary extend \\
            --manifest data/german/train_manifest.json \\
            --dev data/german/dev_manifest.json

        python scripts/finetune.py an4 fraction=0.25 model.optim.lr=0.003 \\
            "finetuning.learning_rates={encoder: 0.1}" \\
            --manifest data/mine/train_manifest.json \\
            --dev data/mine/dev_manifest.json
    """
    from lightning.pytorch.utilities import rank_zero_only

    from asr_with_nemo.training import finetuning
    from asr_with_nemo.training.config import overridden_keys
    from asr_with_nemo.training.run import check_alias, make_alias

    settings = {
        "model": model,
        "vocabulary": vocabulary,
        "freeze": freeze and freeze.value,
        "adapter": adapter,
        "words": words,
    }
    config = finetuning.load_config(manifest, dev, settings, overrides or [], config_path, config_name)
    if overfit_batch:
        learned = finetuning.overfit_batch(config, overridden_keys(overrides or []), overfit_seconds)
        raise typer.Exit(0 if learned else 1)
    if output:
        check_alias(output)
    trained = finetuning.train(config, overridden_keys(overrides or []))
    if output:
        make_alias(trained, output)
    rank_zero_only(typer.echo)(f"model: {output or trained}")


if __name__ == "__main__":
    run(main)
