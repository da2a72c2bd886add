"""NeMo's recognisers, each family built small, with random weights."""

import json
from pathlib import Path

MODULES = "nemo.collections.asr.modules"
LETTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
DURATIONS = [0, 1, 2, 3, 4]
STREAMING = {
    "causal_downsampling": True,
    "att_context_style": "chunked_limited",
    "att_context_size": [[70, 13], [70, 1], [70, 0]],
    "conv_context_size": "causal",
    "conv_norm_type": "layer_norm",
}
# name: the model's class, durations if it is a TDT, options of the encoder
FAMILIES: dict[str, tuple[str, bool, dict]] = {
    "ctc of pieces": ("EncDecCTCModelBPE", False, {}),
    "rnnt of letters": ("EncDecRNNTModel", False, {}),
    "rnnt of pieces": ("EncDecRNNTBPEModel", False, {}),
    "tdt of pieces": ("EncDecRNNTBPEModel", True, {}),
    "rnnt and ctc of letters": ("EncDecHybridRNNTCTCModel", False, {}),
    "rnnt and ctc of pieces": ("EncDecHybridRNNTCTCBPEModel", False, STREAMING),
    "tdt and ctc of pieces": ("EncDecHybridRNNTCTCBPEModel", True, {}),
}


def config_of(family: str, tokenizer: Path) -> dict:
    """The config of a family, in the sections of NeMo's published ones."""
    kind, has_durations, encoder = FAMILIES[family]
    ctc = {"_target_": f"{MODULES}.ConvASRDecoder", "feat_in": None, "num_classes": -1, "vocabulary": []}
    config = {
        "sample_rate": 16_000,
        "preprocessor": {"_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor", "features": 80},
        "encoder": {
            "_target_": f"{MODULES}.ConformerEncoder",
            "feat_in": 80,
            "n_layers": 1,
            "d_model": 16,
            "n_heads": 2,
        }
        | encoder,
        "decoder": ctc | {"feat_in": 16},
    }
    if "BPE" in kind:
        config["tokenizer"] = {"dir": str(tokenizer), "type": "bpe"}
    else:
        config["labels"] = LETTERS
        ctc |= {"num_classes": len(LETTERS), "vocabulary": LETTERS}
    if "RNNT" in kind:
        config |= {
            "model_defaults": {"enc_hidden": 16, "pred_hidden": 12},
            "decoder": {
                "_target_": f"{MODULES}.RNNTDecoder",
                "prednet": {"pred_hidden": 12, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0},
            },
            "joint": {
                "_target_": f"{MODULES}.RNNTJoint",
                "fuse_loss_wer": True,
                "fused_batch_size": 2,
                "jointnet": {"joint_hidden": 12, "activation": "relu", "dropout": 0.0},
            },
            "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
            "loss": {"loss_name": "default"},
        }
    if has_durations:
        config["joint"]["num_extra_outputs"] = len(DURATIONS)
        config["decoding"] |= {"model_type": "tdt", "durations": DURATIONS}
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": {"durations": DURATIONS, "sigma": 0.02, "omega": 0.1}}
    if "Hybrid" in kind:
        config["aux_ctc"] = {"ctc_loss_weight": 0.3, "decoder": ctc, "decoding": {"strategy": "greedy"}}
    return config


def training_config(folder: Path, family: str, train: Path, dev: Path, *overrides: str):
    """The config of a family's training as NeMo publishes them, with the data of overrides; written into a folder."""
    from asr_with_nemo.training.config import load_config

    model = config_of(family, folder)
    if "tokenizer" in model:
        model["tokenizer"] = {"dir": "???", "type": "bpe"}
    for name in ("train_ds", "validation_ds"):
        model[name] = {
            "manifest_filepath": "???",
            "sample_rate": 16_000,
            "batch_size": 4,
            "shuffle": name == "train_ds",
        }
    model["optim"] = {"name": "adamw", "lr": 0.001, "weight_decay": 0.001, "sched": {"name": "CosineAnnealing"}}
    trainer = {"devices": -1, "accelerator": "auto", "max_epochs": 1, "max_steps": -1, "num_sanity_val_steps": 0}
    config = {"name": "tiny", "model": model, "trainer": trainer, "exp_manager": {"exp_dir": str(folder)}}
    (folder / "published.yaml").write_text(json.dumps(config))
    data = [f"model.train_ds.manifest_filepath={train}", f"model.validation_ds.manifest_filepath={dev}"]
    return load_config(folder, "published", [*data, *overrides])


def build(family: str, tokenizer: Path):
    """A model of a family, with the same random weights at each call."""
    import torch
    from nemo.collections.asr import models
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    return getattr(models, FAMILIES[family][0])(cfg=OmegaConf.create(config_of(family, tokenizer)))


def save_all(folder: Path, tokenizer: Path) -> dict[str, Path]:
    """Write a `.nemo` file of each family, and return the files."""
    files = {family: folder / f"{family.replace(' ', '_')}.nemo" for family in FAMILIES}
    for family, file in files.items():
        build(family, tokenizer).save_to(str(file))
    return files
