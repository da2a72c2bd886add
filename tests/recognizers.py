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


# --- Attention encoder-decoders ---------------------------------------------------------------------------------------

PROMPTS = {  # the prompt's format, and the special tokens besides those that every model has
    "canary": ["translate", "transcribe", "en", "es", "de", "fr"],
    "canary2": [
        *("startofcontext", "en", "de", "itn", "noitn", "timestamp", "notimestamp", "diarize", "nodiarize"),
        *("emo:undefined", "emo:neutral", "emo:angry", "emo:happy", "emo:sad"),
        *map(str, range(200)),
    ],
}
SLOTS = {"source_lang": "en", "target_lang": "en", "task": "asr", "pnc": "yes"}


def canary_config(prompt: str, tokenizer: Path, special: Path) -> dict:
    """The config of NeMo's fast-conformer_aed, small."""
    transformer = "nemo.collections.asr.modules.transformer"
    sizes = {"num_attention_heads": 2, "ffn_dropout": 0.1, "attn_score_dropout": 0.1, "attn_layer_dropout": 0.1}
    one = {"type": "bpe"}
    return {
        "sample_rate": 16_000,
        "prompt_format": prompt,
        "prompt_defaults": [{"role": "user", "slots": SLOTS}] if prompt == "canary" else None,
        "model_defaults": {"asr_enc_hidden": 32, "lm_enc_hidden": 24, "lm_dec_hidden": 24},
        "tokenizer": {
            "dir": None,
            "type": "agg",
            "langs": {"spl_tokens": one | {"dir": str(special)}, "en": one | {"dir": str(tokenizer)}},
            "custom_tokenizer": {
                "_target_": "nemo.collections.common.tokenizers.canary_tokenizer.CanaryTokenizer",
                "tokenizers": None,
            },
        },
        "preprocessor": {
            "_target_": f"{MODULES}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "window_stride": 0.01,
            "features": 80,
            "pad_to": 0,
        },
        "spec_augment": {"_target_": f"{MODULES}.SpectrogramAugmentation", "freq_masks": 2, "time_width": 0.05},
        "encoder": {
            "_target_": f"{MODULES}.ConformerEncoder",
            "feat_in": 80,
            "n_layers": 1,
            "d_model": 32,
            "n_heads": 2,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 16,
        },
        "transf_encoder": sizes
        | {
            "_target_": f"{transformer}.transformer_encoders.TransformerEncoder",
            "num_layers": 2 if prompt == "canary" else 0,
            "hidden_size": 24,
            "inner_size": 48,
            "mask_future": False,
            "pre_ln": True,
            "pre_ln_final_layer_norm": True,
        },
        "transf_decoder": {
            "_target_": f"{transformer}.get_nemo_transformer",
            "model_name": None,
            "pretrained": False,
            "encoder": None,
            "pre_ln_final_layer_norm": True,
            "config_dict": sizes
            | {
                "max_sequence_length": 512,
                "num_token_types": 0,
                "embedding_dropout": 0.1,
                "learn_positional_encodings": False,
                "hidden_size": 24,
                "inner_size": 48,
                "num_layers": 2,
                "hidden_act": "relu",
                "pre_ln": True,
                "vocab_size": "None",
            },
        },
        "head": {
            "_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier",
            "num_layers": 1,
            "activation": "relu",
            "log_softmax": True,
            "hidden_size": 24,
            "num_classes": "None",
            "dropout": 0.0,
            "use_transformer_init": True,
        },
        "decoding": {
            "strategy": "beam",
            "return_best_hypothesis": True,
            "beam": {"beam_size": 1, "len_pen": 0.0, "max_generation_delta": 50},
        },
        "loss": {
            "_target_": "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss",
            "label_smoothing": 0.0,
            "pad_id": None,
        },
        "optim": {"name": "adamw", "lr": 3e-4},
        "restore_timestamps_model": False,  # NeMo looks for one in the file that this process has loaded last
    }


def build_canary(prompt: str, folder: Path, tokenizer: Path):
    """An attention encoder-decoder with random weights."""
    import torch
    from nemo.collections.asr.models import EncDecMultiTaskModel
    from nemo.collections.common.tokenizers.canary_tokenizer import CanaryTokenizer
    from omegaconf import OmegaConf

    special = folder / f"{prompt}_tokens"
    CanaryTokenizer.build_special_tokenizer(PROMPTS[prompt], str(special))
    torch.manual_seed(0)
    model = EncDecMultiTaskModel(cfg=OmegaConf.create(canary_config(prompt, tokenizer, special)))
    model.preprocessor.featurizer.dither = 0.0
    return model.eval()


def teach_canary(model, rows: list[dict], steps: int = 120) -> None:
    """Train a model on a few utterances for ten seconds, until it knows most of them by heart.

    Of the format canary2, it also learns to write times, when it is asked to: here, a word a fifth of a second.
    """
    import torch

    from asr_with_nemo.data.audio import load_audio

    asked = [SLOTS]
    if model.prompt_format == "canary2":
        others = {"decodercontext": "", "emotion": "<|emo:undefined|>", "itn": "no", "diarize": "no"}
        asked = [SLOTS | others | {"timestamp": timestamp} for timestamp in ("no", "yes")]
    signals, written, prompts = [], [], set()
    for row in rows:
        for slots in asked:
            text = row["text"]
            if slots.get("timestamp") == "yes":
                times = range(0, 5 * len(text.split()), 5)
                text = "".join(
                    f"<|{time}|> {word} <|{time + 5}|>" for time, word in zip(times, text.split(), strict=True)
                )
            turn = {"role": "assistant", "slots": {"text": text, "prompt_language": "en"}}
            encoded = model.prompt.encode_dialog([{"role": "user", "slots": slots}, turn])
            signals.append(torch.from_numpy(load_audio(row["audio_filepath"])))
            written.append(encoded["input_ids"])
            prompts.add(len(encoded["context_ids"]))
    (prompt,) = prompts
    padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True)
    tokens = torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=model.tokenizer.pad_id)
    targets = tokens[:, 1:].clone()
    targets[:, : prompt - 1] = model.tokenizer.pad_id
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        log_probs, *_ = model(
            input_signal=padded,
            input_signal_length=torch.tensor(list(map(len, signals))),
            transcript=tokens[:, :-1],
            transcript_length=torch.tensor([len(one) - 1 for one in written]),
        )
        loss = torch.nn.functional.nll_loss(log_probs.mT, targets, ignore_index=model.tokenizer.pad_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
