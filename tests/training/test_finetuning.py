"""Fine-tuning on other recordings, of the whole model or a part, with its own alphabet or another one."""

import json
import os
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import soundfile
import soxr
import torch
from nemo.collections.asr.modules import ConvASREncoder
from omegaconf import OmegaConf
from torch import nn

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.data.espeak import Speaker, Voice
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, load_model
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.recognition import decoding
from asr_with_nemo.training import finetuning
from asr_with_nemo.training.config import complete_config, load_config, take_fraction
from asr_with_nemo.training.run import build_model, read_log, train
from tests.conftest import ROOT, run_script

CONFIGS = ROOT / "configs"
QUICK = ("trainer.max_epochs=1", "exp_manager.create_wandb_logger=false")
ENGLISH = " abcdefghijklmnopqrstuvwxyz'"


def config_of(model: Path, corpus: an4.Corpus, folder: Path, *overrides: str, **settings: object):
    return finetuning.load_config(
        corpus.manifest("train"),
        corpus.manifest("dev"),
        {"model": str(model)} | settings,
        [*QUICK, f"exp_manager.exp_dir={folder}", *overrides],
        CONFIGS,
    )


def tuned(
    model: Path, corpus: an4.Corpus, folder: Path, *overrides: str, **settings: object
) -> dict[str, torch.Tensor]:
    """Return the weights after a fine-tuning."""
    path = finetuning.train(config_of(model, corpus, folder, *overrides, **settings))
    return load_model(path).state_dict()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], part: str, statistics: bool) -> bool:
    """Return whether weights, or the running statistics of batch norm, have changed in a part of a model."""
    names = [
        name
        for name in before
        if name.startswith(part) and ("running_" in name) == statistics and before[name].is_floating_point()
    ]
    assert names
    return any(not torch.equal(before[name], after[name]) for name in names)


# --- Weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_new_letter_is_new_and_all_else_is_kept(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    base = load_model(small_model).cpu()
    config = config_of(small_model, small_corpus, tmp_path, vocabulary=f"{ENGLISH}!")
    config = complete_config(finetuning.complete_config(config, base))
    assert config.name == "jasper_4x1_finetuned"
    assert "".join(config.model.train_ds.labels) == f"{ENGLISH}!"

    model = build_model(config)
    fresh = model.decoder.decoder_layers[0].weight.clone()  # (V, C, 1)
    assert finetuning.adopt(model, base) == finetuning.Adopted([*ENGLISH], [])
    assert not changed(base.state_dict(), model.state_dict(), "encoder.", statistics=False)
    assert not changed(base.state_dict(), model.state_dict(), "encoder.", statistics=True)
    mine, theirs = (each.decoder.decoder_layers[0].weight for each in (model, base))
    assert torch.equal(mine[:28], theirs[:28])  # the letters
    assert torch.equal(mine[28], fresh[28])  # "!"
    assert torch.equal(mine[29], theirs[28])  # the blank is the last
    sound = [manifest.read_manifest(small_corpus.manifest("dev"))[0]["audio_filepath"]]
    heard = [decoding.transcribe(each, sound, progress=False)[0].text.replace("!", "") for each in (model, base)]
    assert heard[0] == heard[1]

    model = build_model(config)
    fresh = model.decoder.decoder_layers[0].weight.clone()
    assert finetuning.adopt(model, base, keep_letters=False) == finetuning.Adopted([], ["decoder"])
    assert torch.equal(model.decoder.decoder_layers[0].weight, fresh)


@pytest.mark.slow
def test_a_model_with_another_network_gives_no_weights(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    base = load_model(small_model).cpu()
    config = finetuning.complete_config(config_of(small_model, small_corpus, tmp_path), base)
    config.model.encoder.jasper.pop(1)
    with pytest.raises(InputError, match="encoder"):
        finetuning.adopt(build_model(complete_config(config)), base)


@pytest.mark.slow
def test_a_model_of_pieces_of_words_gives_its_encoder(
    model_of_pieces: Path, small_corpus: an4.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture
):
    config = config_of(model_of_pieces, small_corpus, tmp_path, vocabulary=ENGLISH, freeze="encoder")
    tuned = load_model(finetuning.train(config))
    assert "of 28 letters the decoder has 0" in capsys.readouterr().out
    assert alphabet(tuned) == [*ENGLISH]
    before = load_model(model_of_pieces).state_dict()
    assert not changed(before, tuned.state_dict(), "encoder.", statistics=False)


# --- What stays as it is ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_frozen_stays_and_the_rest_learns(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    before = load_model(small_model).state_dict()
    learns = {
        # (weights of the encoder, its statistics, weights of the decoder)
        "none": (True, True, True),
        "bn": (True, False, True),
        "encoder": (False, False, True),
    }
    for freeze, expected in learns.items():
        model = finetuning.train(config_of(small_model, small_corpus, tmp_path, freeze=freeze))
        after = load_model(model).state_dict()
        found = (
            changed(before, after, "encoder.", statistics=False),
            changed(before, after, "encoder.", statistics=True),
            changed(before, after, "decoder.", statistics=False),
        )
        assert found == expected, freeze


@pytest.mark.parametrize("what", ["encoder", "bn"])
def test_frozen_parts_are_in_evaluation_mode_whatever_ran_between_two_steps(what: str):
    block = {"filters": 4, "repeat": 1, "kernel": [3], "stride": [1], "dilation": [1], "dropout": 0.1}
    blocks = OmegaConf.create([block | {"residual": False}])
    model, frozen = nn.Module(), finetuning.Frozen(what)
    model.encoder = ConvASREncoder(jasper=blocks, activation="relu", feat_in=4)
    model.encoder.freeze()
    model.encoder.unfreeze(partial=True)  # NeMo's `transcribe` ends with this
    parts = frozen.modules(model)
    assert parts
    assert all(part.training for part in parts)
    frozen.on_train_batch_start(None, model, None, 0)
    assert not any(module.training for part in parts for module in part.modules())
    assert model.training


class Modes(pl.Callback):
    """Keep whether the model and its encoder were in training mode, for each step."""

    def __init__(self):
        self.seen: set[tuple[bool, bool]] = set()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        self.seen.add((pl_module.training, pl_module.encoder.training))


@pytest.mark.slow
@pytest.mark.parametrize(("freeze", "mode"), [("none", (True, True)), ("encoder", (True, False))])
def test_a_step_is_in_training_mode_whatever_mode_a_model_is_loaded_in(
    freeze: str, mode: tuple, small_model: Path, small_corpus: an4.Corpus, tmp_path: Path
):
    assert not load_model(small_model).training
    modes = Modes()
    finetuning.train(config_of(small_model, small_corpus, tmp_path, freeze=freeze), callbacks=[modes])
    assert modes.seen == {mode}


@pytest.mark.slow
def test_training_sets_the_mode_itself(small_corpus: an4.Corpus, tmp_path: Path):
    modes = Modes()
    given = [f"data_dir={small_corpus.folder}", f"exp_manager.exp_dir={tmp_path}", *QUICK]
    train(load_config(CONFIGS, "config", given), callbacks=[modes], begin=lambda model: model.eval())
    assert modes.seen == {(True, True)}


class Rates(pl.Callback):
    """Keep the initial learning rates, by the number of weights in the parameter group."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups
        self.rates = {sum(weights.numel() for weights in group["params"]): group["initial_lr"] for group in groups}


@pytest.mark.slow
def test_the_parts_learn_at_their_own_rates(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    rates = Rates()
    config = config_of(
        small_model, small_corpus, tmp_path, "finetuning.learning_rates={encoder: 0.1}", "model.optim.lr=0.02"
    )
    finetuning.train(config, callbacks=[rates])
    base = load_model(small_model)
    sizes = {part: sum(w.numel() for w in getattr(base, part).parameters()) for part in ("encoder", "decoder")}
    assert rates.rates == pytest.approx({sizes["encoder"]: 0.002, sizes["decoder"]: 0.02})


@pytest.mark.slow
def test_it_stops_when_dev_no_longer_gains(
    small_model: Path, small_corpus: an4.Corpus, tmp_path: Path, capsys: pytest.CaptureFixture
):
    section = "exp_manager.early_stopping_callback_params"
    patience = (f"{section}.monitor=val_loss", f"+{section}.min_delta=1000", f"{section}.patience=2")
    config = config_of(small_model, small_corpus, tmp_path, "trainer.max_epochs=9", *patience)
    model = finetuning.train(config)
    assert json.loads((model.parent / SUMMARY).read_text())["epochs"] == 3
    assert "stopped after epoch 3: val_loss" in capsys.readouterr().out
    finetuning.train(config)
    assert "finished" in capsys.readouterr().out

    with pytest.raises(InputError, match=r"early_stopping_callback_params.*patiense"):
        finetuning.train(config_of(small_model, small_corpus, tmp_path, f"+{section}.patiense=2"))


@pytest.mark.slow
def test_a_few_steps_are_enough_to_try_it_out(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    model = finetuning.train(config_of(small_model, small_corpus, tmp_path, "trainer.max_steps=1"))
    assert model.is_file()  # though the epoch ended before a validation


# --- What can't be done -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocabulary": " abcdef"}, r"train_manifest\.json.*'g'.*--vocabulary"),
        ({"freeze": "everything"}, "finetuning.freeze=everything.*none, encoder, bn"),
        ({"frieze": "bn"}, "finetuning.frieze.*model, freeze"),
        ({"learning_rates": {"head": 1}}, "finetuning.learning_rates.head=1"),
    ],
)
def test_what_cant_be_followed_is_told(settings: dict, words: str, small_model, small_corpus, tmp_path: Path):
    with pytest.raises(InputError, match=words):
        finetuning.train(config_of(small_model, small_corpus, tmp_path, **settings))


def test_a_config_of_a_fine_tuning_is_not_trained_from_scratch(small_corpus: an4.Corpus):
    config = load_config(CONFIGS, "finetune", [f"data_dir={small_corpus.folder}"])
    with pytest.raises(InputError, match="scripts/finetune.py"):
        train(config)


# --- A part of the data -----------------------------------------------------------------------------------------------


def test_a_fraction_is_drawn_by_the_seed(small_corpus: an4.Corpus, tmp_path: Path):
    def drawn(*overrides: str) -> set[str]:
        given = [f"data_dir={small_corpus.folder}", f"exp_manager.exp_dir={tmp_path}", *overrides]
        config = take_fraction(complete_config(load_config(CONFIGS, "config", given)))
        utterances = manifest.read_manifest(config.model.train_ds.manifest_filepath)
        return {os.path.realpath(utterance["audio_filepath"]) for utterance in utterances}

    whole, half, quarter = drawn(), drawn("fraction=0.5"), drawn("fraction=0.25")
    assert (len(half), len(quarter)) == (round(len(whole) / 2), round(len(whole) / 4))
    assert quarter < half < whole
    assert drawn("fraction=0.25") == quarter
    assert drawn("fraction=0.25", "seed=1") != quarter
    assert len(drawn("fraction=0.001")) == 1
    for wrong in ("fraction=0", "fraction=1.5", "fraction=some"):
        with pytest.raises(InputError, match=re.escape(wrong)):
            drawn(wrong)


# --- Another language, from the command line --------------------------------------------------------------------------

GERMAN = ["fünf sechs", "dreißig", "sechs fünf", "grün und weiß", "fünf grüne", "weiß sechs", "dreißig fünf", "grün"]


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifests of a few German words, spoken by two voices."""
    folder = tmp_path_factory.mktemp("german")
    with Speaker() as speaker:
        for split, variant in (("train", "m3"), ("dev", "f2")):
            utterances = []
            for number, text in enumerate(GERMAN):
                samples = soxr.resample(speaker.say(text, Voice("de", variant)), speaker.rate, 16_000)
                path = folder / f"{split}{number}.wav"
                soundfile.write(path, samples, 16_000)
                seconds = len(samples) / 16_000
                utterances.append({"audio_filepath": str(path), "duration": seconds, "text": text, "speaker": variant})
            manifest.write_manifest(folder / f"{split}_manifest.json", utterances)
    return folder


@pytest.mark.slow
def test_a_change_of_language_by_the_printed_commands(german: Path, small_model: Path, tmp_path: Path):
    train, dev = german / "train_manifest.json", german / "dev_manifest.json"
    data = ("--manifest", train, "--dev", dev)
    config = finetuning.load_config(train, dev, {"model": str(small_model)}, QUICK, CONFIGS)
    with pytest.raises(InputError, match=r"train_manifest\.json.*'ß' \(\d\).*--vocabulary extend"):
        finetuning.train(config)

    options = (*data, "--vocabulary", train, "--freeze", "bn", "trainer.max_epochs=6", "model.optim.lr=0.003")
    options += ("--output", "german.nemo")
    done = run_script("finetune.py", small_model, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "new: 'ß' 'ü'" in done.stdout
    assert done.stdout.splitlines()[-1] == "model: german.nemo"
    model = (tmp_path / "german.nemo").resolve()
    assert model.parent.name.startswith("jasper_4x1_finetuned-")
    log = read_log(model.parent)
    assert log[-1]["val_loss"] < log[0]["val_loss"]
    assert OmegaConf.load(model.parent / "config.yaml").finetuning.model == str(small_model)

    again = run_script("finetune.py", small_model, *options, cwd=tmp_path)
    assert "finished" in again.stdout
    measured = run_script("evaluate.py", "german.nemo", dev, "--output", "german.json", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    result = json.loads((tmp_path / "german.json").read_text())
    assert result["unspellable"] == []
    assert result["training"]["start"] == str(small_model)
