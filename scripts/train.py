#!/usr/bin/env python3
"""Train a recogniser from a NeMo config."""

from pathlib import Path
from typing import Annotated

import typer

from asr_with_nemo.cli import OverfitBatch, OverfitSeconds, run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Hydra overrides: key=value, +new.key=value, ~key.", metavar="[KEY=VALUE]..."),
    ] = None,
    config_path: Annotated[Path, typer.Option(help="The folder of the config.")] = CONFIGS,
    config_name: Annotated[str, typer.Option(help="The config's name, with or without .yaml.")] = "config",
    output: Annotated[
        Path | None, typer.Option(help="Link the model under this name too.", metavar="FILE.nemo")
    ] = None,
    overfit_batch: OverfitBatch = False,
    overfit_seconds: OverfitSeconds = 60,
) -> None:
    """Train a recogniser from a NeMo config: by CTC, RNN-T or TDT, or a hybrid; of letters or of pieces of words.

    The default is configs/config.yaml, a Jasper 4x1 for AN4 that takes minutes on two CPU cores. NeMo's published
    configs are taken as they are; model.tokenizer.dir=auto makes the tokenizer that one of pieces needs, of a size that
    fits the corpus (+model.tokenizer.size=N sets it). The config's settings
    of GPUs, devices, strategy, precision and workers are replaced by those for this machine, unless they are overridden
    on the command line. Metrics go to W&B (offline without an API key) and to a CSV file. The best and the last
    checkpoint are kept, and logged as versions of a W&B artifact. model.train_ds.shar_path=DIR (or s3://BUCKET/DIR)
    trains from the shards that scripts/make_shards.py writes, in batches of model.train_ds.batch_duration seconds
    (README: how the largest is found) and epochs of model.train_ds.epoch_hours. The same command again resumes a killed
    training; exp_manager.resume_from_checkpoint starts from a checkpoint of another one. Started by torchrun or Slurm's
    srun, the processes share the work, on several machines too (README: More GPUs, more machines). The last line is
    `model: PATH`. Before a long training, --overfit-batch finds in a minute what is broken.

    Examples:

        python scripts/train.py

        python scripts/train.py --overfit-batch --config-name small_corpus data_dir=data/mine

        python scripts/train.py trainer.max_epochs=50 model.optim.lr=0.01 seed=1

        python scripts/train.py trainer.max_epochs=80 exp_manager.resume_from_checkpoint=wandb:TRAINING:best

        python scripts/train.py --config-name small_corpus data_dir=data/mine --output runs/mine.nemo

        python scripts/train.py --config-name small_corpus data_dir=data/mine model.train_ds.batch_duration=360
        model.train_ds.shar_path=data/mine/shards/train

        torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 scripts/train.py

        python scripts/train.py --config-path NEMO/examples/asr/conf/quartznet --config-name quartznet_15x5
        model.train_ds.manifest_filepath=data/an4/train_manifest.json
        model.validation_ds.manifest_filepath=data/an4/dev_manifest.json model.train_ds.batch_size=8

        python scripts/train.py --config-path NEMO/examples/asr/conf/fastconformer/hybrid_transducer_ctc --config-name
        fastconformer_hybrid_tdt_ctc_bpe model.tokenizer.dir=auto model.encoder.d_model=64 model.encoder.n_layers=2
        model.train_ds.manifest_filepath=data/an4/train_manifest.json
        model.validation_ds.manifest_filepath=data/an4/dev_manifest.json trainer.max_epochs=20
    """
    from lightning.pytorch.utilities import rank_zero_only

    from asr_with_nemo.training import overfit
    from asr_with_nemo.training.config import load_config, overridden_keys
    from asr_with_nemo.training.run import check_alias, make_alias, train

    overrides = overrides or []
    config = load_config(config_path, config_name, overrides)
    if overfit_batch:
        with overfit.apart(config) as own:
            learned = overfit.overfit(own, overridden_keys(overrides), overfit_seconds)
        raise typer.Exit(0 if learned else 1)
    if output:
        check_alias(output)
    model = train(config, overridden_keys(overrides))
    if output:
        make_alias(model, output)
    rank_zero_only(typer.echo)(f"model: {output or model}")


if __name__ == "__main__":
    run(main)
