"""Trainings: from a config to a model, on any machine, also after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import OmegaConf

from asr_with_nemo.data import manifest, sizes, training_data
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.tracking import wandb_internals
from asr_with_nemo.training import run
from asr_with_nemo.training.checkpoints import epoch_after, read_state
from asr_with_nemo.training.config import complete_config, fit_to_machine, load_config, overridden_keys
from asr_with_nemo.training.run import build_model, build_trainer, read_log
from tests.conftest import ROOT, run_script

CONFIGS = ROOT / "configs"


@pytest.fixture
def config(small_corpus):
    return load_config(CONFIGS, "config", [f"data_dir={small_corpus.folder}"])


# --- The config -------------------------------------------------------------------------------------------------------


def test_config_yaml_is_the_articles_jasper_4x1(config):
    blocks = config.model.encoder.jasper
    assert [block.kernel[0] for block in blocks] == [11, 13, 15, 17, 19, 21, 1]
    assert sum(block.residual for block in blocks) == 4  # K
    assert {block.repeat for block in blocks} == {1}  # R
    assert all(block.separable and block.se and block.se_context_size == -1 for block in blocks)
    assert blocks[0].stride == [2]
    assert config.model.decoding.strategy.startswith("greedy")
    assert config.model.labels == [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def test_overrides_are_hydras():
    config = load_config(CONFIGS, "config.yaml", ["model.optim.lr=0.01", "seed=7", "+model.new=1"])
    assert (config.model.optim.lr, config.seed, config.model.new) == (0.01, 7, 1)
    assert overridden_keys(["model.optim.lr=0.01", "+model.new=1", "~seed"]) == {
        "model.optim.lr",
        "model.new",
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.optim.lrr=1", "'model.optim.lrr'.* model.optim.lr"),
        ("model.optim.lr", "model.optim.lr"),
        ("model.optim.lr=[1", r"model.optim.lr=\[1"),
    ],
)
def test_a_wrong_override_is_explained(override: str, words: str):
    with pytest.raises(InputError, match=words):
        load_config(CONFIGS, "config", [override])


def test_what_is_removed_may_come_in_any_order():
    """The labels of the data sets refer to those of the model."""
    removed = ["~model.labels", "~model.train_ds.labels", "~model.validation_ds.labels"]
    one, other = (
        load_config(CONFIGS, "config", [*order, "model.decoder.vocabulary=[a,b]"]) for order in (removed, removed[::-1])
    )
    assert one == other and "labels" not in {*one.model, *one.model.train_ds}
    with pytest.raises(InputError, match=r"config\.yaml: model\.train_ds\.labels refers to .*~model\.train_ds\.labels"):
        load_config(CONFIGS, "config", ["~model.labels"])


def test_a_config_that_is_not_there_or_is_none(tmp_path: Path):
    with pytest.raises(InputError, match=r"nope.yaml: .* config.yaml, finetune.yaml"):
        load_config(CONFIGS, "nope")
    (tmp_path / "broken.yaml").write_text("model: [1, 2")
    with pytest.raises(InputError, match=r"broken.yaml: .*YAML"):
        load_config(tmp_path, "broken")
    (tmp_path / "other.yaml").write_text("name: something else")
    with pytest.raises(InputError, match=r"other.yaml: .*`model:`"):
        load_config(tmp_path, "other")


# --- The machine ------------------------------------------------------------------------------------------------------


def test_what_a_config_says_of_gpus_is_replaced_and_said_in_a_line(config):
    OmegaConf.set_struct(config, False)
    config.trainer.update(accelerator="gpu", devices=-1, strategy="ddp", max_steps=None, gpus=8, amp_level="O1")
    config.model.train_ds.num_workers = 8
    fitted, line = fit_to_machine(config)
    assert "gpus" not in fitted.trainer
    assert fitted.trainer.max_steps == -1
    if not torch.cuda.is_available():
        assert (fitted.trainer.accelerator, fitted.trainer.devices, fitted.trainer.strategy) == ("cpu", 1, "auto")
        assert fitted.model.train_ds.num_workers == 0
        for said in (
            "trainer.accelerator=gpu",
            "trainer.strategy=ddp",
            "trainer.gpus=8",
            "model.train_ds.num_workers=8",
        ):
            assert said in line
    assert config.trainer.accelerator == "gpu", "the caller's config must stay as it was"


def test_what_the_command_line_says_binds(config):
    config.trainer.precision = "32-true"
    config.model.train_ds.num_workers = 1
    overridden = {"trainer.precision", "model.train_ds.num_workers"}
    fitted, _ = fit_to_machine(config, overridden)
    assert (fitted.trainer.precision, fitted.model.train_ds.num_workers) == ("32-true", 1)
    assert fit_to_machine(config, {"trainer"})[0].trainer.devices == config.trainer.devices
    OmegaConf.set_struct(config, False)
    config.trainer.gpus = 1
    with pytest.raises(InputError, match="trainer.gpus"):
        fit_to_machine(config, {"trainer.gpus"})


@pytest.mark.parametrize(
    ("idle", "asked", "threads"), [(0.76, None, 1), (0.76, "2", 2), (1.7, None, 2), (34.0, None, 2), (-0.1, None, 1)]
)
def test_beside_a_busy_process_a_training_computes_with_fewer_threads(
    idle: float, asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
):
    said = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr(run, "idle_cores", lambda: idle)
    monkeypatch.setattr(run, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with run._room_for_others(said.append):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert [f"leave {max(0, idle):.1f} of 2 cores" in line for line in said] == [True] * (idle < 1)
    assert all(("1 of 2 threads" in line) == (threads == 1) for line in said)


# --- The data ---------------------------------------------------------------------------------------------------------


def test_letters_outside_the_alphabet_are_named_before_training(config, tmp_path: Path):
    lines = Path(config.model.train_ds.manifest_filepath).read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[0])
    folder = Path(config.model.train_ds.manifest_filepath).parent
    row |= {"audio_filepath": str(folder / row["audio_filepath"]), "text": "go 42"}
    (tmp_path / "train.json").write_text(json.dumps(row))
    config.model.train_ds.manifest_filepath = str(tmp_path / "train.json")
    with pytest.raises(InputError, match=r"train.json, utterance 1: .*'2' '4'"):
        complete_config(config)


def test_a_ctc_decoder_without_letters_gets_those_of_the_model(config):
    """As in NeMo's fastconformer_ctc_char_streaming, with which a decoder of no letters would be trained."""
    config.model.decoder.vocabulary, config.model.decoder.num_classes = [], -1
    decoder = complete_config(config).model.decoder
    assert decoder.vocabulary == config.model.labels and decoder.num_classes == len(config.model.labels) == 28
    config.model.decoder.vocabulary = ["a", "b"]
    with pytest.raises(InputError, match=r"model\.decoder\.vocabulary=.*model\.labels=.*vocabulary=\[\]"):
        complete_config(config)


def test_missing_data_is_asked_for(config, tmp_path: Path):
    config.model.train_ds.manifest_filepath = str(tmp_path / "train_manifest.json")
    with pytest.raises(InputError, match=r"train_manifest\.json"):
        complete_config(config)
    config.model.train_ds.manifest_filepath = "???"
    with pytest.raises(InputError, match=r"model\.train_ds\.manifest_filepath="):
        complete_config(config)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.labels=[1,2]", r"model\.labels"),
        ("model.train_ds.manifest_filepath=[a,b]", r"model\.train_ds.*manifest_filepath"),
        ("+model.tokenizer={dir: x}", r"model\.tokenizer\.type"),
        ("model.decoder=null", r"model\.decoder"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused_before_any_time_is_lost(small_corpus, override: str, words: str):
    config = load_config(CONFIGS, "config", [f"data_dir={small_corpus.folder}", override])
    with pytest.raises(InputError, match=words):
        complete_config(config)


@pytest.mark.parametrize("stranger", ["a recording of test", "a speaker of test", "a recording of dev"])
def test_what_is_held_out_cannot_be_trained_on(config, small_corpus, tmp_path: Path, stranger: str):
    split = stranger.split()[-1]
    held_out = manifest.read_manifest(small_corpus.manifest(split))[0]
    if "speaker" in stranger:
        train = manifest.read_manifest(small_corpus.manifest("train"))
        held_out = train[0] | {"speaker": held_out["speaker"]}  # another recording of the same person
    for name in ("train", "dev", "test"):
        utterances = manifest.read_manifest(small_corpus.manifest(name))
        more = [held_out] if name == "train" else []
        manifest.write_manifest(tmp_path / f"{name}_manifest.json", [*utterances, *more])
    config.data_dir = str(tmp_path)
    with pytest.raises(InputError, match=rf"1 {stranger.split()[1]}\(s\).* {split} set"):
        complete_config(config)


def test_a_final_training_hears_dev_but_never_test(small_corpus, tmp_path: Path):
    overrides = [f"data_dir={small_corpus.folder}", "final=true"]
    config = complete_config(load_config(CONFIGS, "config", overrides))
    trained_on = {u["audio_filepath"] for u in manifest.read_manifest(config.model.train_ds.manifest_filepath)}
    for split, heard in (("train", True), ("dev", True), ("test", False)):
        files = {u["audio_filepath"] for u in manifest.read_manifest(small_corpus.manifest(split))}
        assert (files <= trained_on, bool(files & trained_on)) == (heard, heard), split
    assert config.trainer.limit_val_batches == 0, "what is trained on says nothing as a dev set"
    with pytest.raises(InputError, match=r"final=true.*test_manifest\.json"):
        complete_config(
            load_config(
                CONFIGS, "config", [*overrides, f"model.train_ds.manifest_filepath={small_corpus.manifest('test')}"]
            )
        )
    with pytest.raises(InputError, match="final=perhaps"):
        load_config(CONFIGS, "config", ["final=perhaps"])


@pytest.mark.parametrize("override", ["model=3", "seed=abc", "model.dropout=${nothing}"])
def test_overrides_that_leave_no_config(override: str):
    with pytest.raises(InputError):
        load_config(CONFIGS, "config", [override])


def test_how_long_to_train_has_to_be_said(config):
    config.trainer.max_epochs = None
    with pytest.raises(InputError, match=r"trainer\.max_epochs"):
        fit_to_machine(config)


def test_a_folder_that_cannot_be_written_is_named(config, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="exp_manager.exp_dir"):
        build_trainer(config, tmp_path / "file" / "run")


def test_a_wrong_model_or_trainer_setting_is_explained(config, tmp_path: Path):
    config.model.encoder.jasper[0].kernel = ["wide"]
    with pytest.raises(InputError, match="NeMo.*\n.*model:"):
        build_model(config)
    config.model.optim.sched.name = "CosineAnealing"
    with pytest.raises(InputError, match="model.optim.sched.name=CosineAnealing: .*CosineAnnealing"):
        build_model(config)
    config.trainer.precision = "17-mixed"
    with pytest.raises(InputError, match="trainer: .*17-mixed"):
        build_trainer(config, tmp_path, overridden={"exp_manager.create_wandb_logger"})


# --- Training ---------------------------------------------------------------------------------------------------------

SHORT = ["trainer.max_epochs=4", "seed=3"]


def train(folder: Path, data: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run_script("train.py", f"data_dir={data}", *SHORT, *overrides, cwd=folder)


def wait_for_checkpoint(folder: Path, epoch: int) -> None:
    """Wait until the last checkpoint is that of the end of an epoch; checkpoints are replaced in one step."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob("runs/*/checkpoints/last.ckpt"):
            if epoch_after(read_state(path)) >= epoch:
                return
        time.sleep(0.05)
    pytest.fail(f"no checkpoint of epoch {epoch}")


def weights(model_path: Path) -> dict[str, torch.Tensor]:
    from asr_with_nemo.models.loading import load_model

    return load_model(model_path).state_dict()


@pytest.mark.slow
def test_a_training_leaves_a_model_logs_and_checkpoints(small_model: Path, small_corpus):
    folder = small_model.parent
    assert small_model.suffix == ".nemo"
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    assert checkpoints[0].startswith("best-")
    assert checkpoints[1] == "last.ckpt"
    log = read_log(folder)
    assert [row["epoch"] for row in log] == [0, 1]
    assert all(row["val_loss"] > 0 and row["train_loss_epoch"] > 0 and row["val_wer"] >= 0 for row in log)
    assert log[1]["val_loss"] < log[0]["val_loss"]
    summary = json.loads((folder / SUMMARY).read_text())
    assert summary["epochs"] == 2
    assert summary["monitor"] == "val_wer"
    resolved = OmegaConf.load(folder / "config.yaml")
    assert resolved.model.train_ds.manifest_filepath == str(small_corpus.manifest("train"))


@pytest.mark.slow
def test_the_run_is_kept_by_wandb_offline_with_config_and_metrics(small_model: Path):
    wandb_files = list(small_model.parents[2].glob("wandb/offline-run-*/*.wandb"))
    assert len(wandb_files) == 1
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(wandb_files[0])],
        capture_output=True,
        text=True,
    )
    for wanted in ("val_wer", "val_loss", "train_loss", "learning_rate", "max_epochs", "CosineAnnealing"):
        assert wanted in shown.stdout, f"{wanted} isn't in W&B's record"


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_without(small_corpus, tmp_path: Path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    whole = train(straight, small_corpus.folder)
    assert whole.returncode == 0, whole.stderr

    command = [sys.executable, str(ROOT / "scripts/train.py"), f"data_dir={small_corpus.folder}", *SHORT]
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    process = subprocess.Popen(
        command, cwd=killed, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
    )
    for line in process.stdout:
        if line.startswith("epoch 2/4"):
            wait_for_checkpoint(killed, epoch=2)
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL

    again = train(killed, small_corpus.folder)
    assert again.returncode == 0, again.stderr
    assert re.search("end of epoch [23]", again.stdout)
    paths = [result.stdout.splitlines()[-1].removeprefix("model: ") for result in (whole, again)]
    assert paths[0] == paths[1]
    expected, got = weights(straight / paths[0]), weights(killed / paths[1])
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, msg=f"{name} differs")
    logs = [read_log((folder / path).parent) for folder, path in zip((straight, killed), paths, strict=True)]
    assert [row["val_wer"] for row in logs[0]] == [row["val_wer"] for row in logs[1]]

    third = train(killed, small_corpus.folder)
    assert "finished" in third.stdout
    assert third.stdout.splitlines()[-1] == again.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_kept_model_is_the_average_that_was_validated(small_model: Path):
    checkpoint = torch.load(small_model.parent / "checkpoints" / "last.ckpt", weights_only=False)
    average, plain = checkpoint["state_dict"], checkpoint["plain_weights"]
    name = "decoder.decoder_layers.0.weight"
    assert not torch.equal(average[name], plain[name])
    best = next((small_model.parent / "checkpoints").glob("best-*"))
    best_weights = torch.load(best, weights_only=False)["state_dict"]
    for name, tensor in weights(small_model).items():
        torch.testing.assert_close(tensor, best_weights[name], rtol=0, atol=0)


@pytest.mark.slow
def test_nemo_itself_loads_the_courses_config(config):
    import lightning.pytorch as pl
    from nemo.collections.asr.models import EncDecCTCModel
    from nemo.utils.exp_manager import ExpManagerConfig

    # As NeMo's own speech_to_text_ctc.py does: nothing of the course's package is needed to train with it.
    trainer = pl.Trainer(**config.trainer)
    model = EncDecCTCModel(cfg=config.model, trainer=trainer)
    assert len(model.decoder.vocabulary) == 28
    merged = OmegaConf.merge(OmegaConf.structured(ExpManagerConfig), config.exp_manager)
    assert merged.ema.enable
    assert merged.checkpoint_callback_params.monitor == "val_wer"


def nemo_config(folder: Path, name: str) -> str:
    """A config as NeMo publishes them: QuartzNet 15x5, Jasper 10x5dr or Conformer-CTC, for eight GPUs' worth of habits.

    The block tables are those of the papers (Kriman et al. 2019, table 1; Li et al. 2019, table 1; Gulati et al. 2020).
    """
    labels = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
    modules = "nemo.collections.asr.modules"

    def dataset(shuffle: bool) -> dict:
        return {
            "manifest_filepath": "???",
            "sample_rate": 16000,
            "labels": labels,
            "batch_size": 32,
            "shuffle": shuffle,
            "num_workers": 8,
            "pin_memory": True,
        } | (
            {"trim_silence": True, "max_duration": 16.7, "is_tarred": False, "tarred_audio_filepaths": None}
            if shuffle
            else {}
        )

    def block(filters: int, kernel: int, repeat: int = 1, stride: int = 1, dilation: int = 1, **more) -> dict:
        return {
            "filters": filters,
            "repeat": repeat,
            "kernel": [kernel],
            "stride": [stride],
            "dilation": [dilation],
            "dropout": 0.0,
            "residual": repeat > 1,
        } | more

    if name == "conformer_ctc_char":
        features = 80
        encoder = {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "feat_out": -1,
            "n_layers": 16,
            "d_model": 176,
            "subsampling": "striding",
            "subsampling_factor": 4,
            "subsampling_conv_channels": -1,
            "ff_expansion_factor": 4,
            "self_attention_model": "rel_pos",
            "n_heads": 4,
            "att_context_size": [-1, -1],
            "xscaling": True,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": 31,
            "dropout": 0.1,
            "dropout_emb": 0.0,
            "dropout_att": 0.1,
        }
        decoder = {"feat_in": None, "num_classes": -1}
        optim = {
            "name": "adamw",
            "lr": 2.0,
            "betas": [0.9, 0.98],
            "weight_decay": 0,
            "sched": {
                "name": "NoamAnnealing",
                "d_model": 176,
                "warmup_steps": 10000,
                "warmup_ratio": None,
                "min_lr": 1e-6,
            },
        }
    else:
        features = 64
        if name == "quartznet_15x5":
            table = [(256, 33), (256, 39), (512, 51), (512, 63), (512, 75)]
            blocks = [block(256, 33, stride=2, separable=True)]
            blocks += [block(f, k, repeat=5, separable=True) for f, k in table for _ in range(3)]
            blocks += [block(512, 87, dilation=2, separable=True), block(1024, 1)]
        else:
            table = [(256, 11), (384, 13), (512, 17), (640, 21), (768, 25)]
            blocks = [block(256, 11, stride=2)]
            blocks += [block(f, k, repeat=5, residual_dense=True) for f, k in table for _ in range(2)]
            blocks += [block(896, 29, dilation=2), block(1024, 1)]
        encoder = {
            "_target_": f"{modules}.ConvASREncoder",
            "feat_in": 64,
            "activation": "relu",
            "conv_mask": True,
            "jasper": blocks,
        }
        decoder = {"feat_in": 1024, "num_classes": 28}
        optim = {
            "name": "novograd",
            "lr": 0.01,
            "betas": [0.8, 0.5],
            "weight_decay": 0.001,
            "sched": {
                "name": "CosineAnnealing",
                "warmup_steps": None,
                "warmup_ratio": None,
                "min_lr": 0.0,
                "last_epoch": -1,
            },
        }
    config = {
        "name": name,
        "model": {
            "sample_rate": 16000,
            "labels": labels,
            "train_ds": dataset(shuffle=True),
            "validation_ds": dataset(shuffle=False),
            "test_ds": dataset(shuffle=False) | {"manifest_filepath": None},
            "preprocessor": {
                "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
                "normalize": "per_feature",
                "window_size": 0.02,
                "sample_rate": 16000,
                "window_stride": 0.01,
                "window": "hann",
                "features": features,
                "n_fft": 512,
                "frame_splicing": 1,
                "dither": 0.00001,
            },
            "spec_augment": {
                "_target_": f"{modules}.SpectrogramAugmentation",
                "rect_freq": 50,
                "rect_masks": 5,
                "rect_time": 120,
            },
            "encoder": encoder,
            "decoder": {"_target_": f"{modules}.ConvASRDecoder", "vocabulary": labels} | decoder,
            "optim": optim,
        },
        "trainer": {
            "devices": 1,
            "max_epochs": 5,
            "max_steps": None,
            "num_nodes": 1,
            "accelerator": "gpu",
            "strategy": "ddp",
            "accumulate_grad_batches": 1,
            "enable_checkpointing": False,
            "logger": False,
            "log_every_n_steps": 1,
            "val_check_interval": 1.0,
        },
        "exp_manager": {
            "exp_dir": None,
            "name": name,
            "create_tensorboard_logger": True,
            "create_checkpoint_callback": True,
            "create_wandb_logger": False,
            "wandb_logger_kwargs": {"name": None, "project": None},
        },
        "hydra": {"run": {"dir": "."}, "job_logging": {"root": {"handlers": None}}},
    }
    if name == "conformer_ctc_char":  # as in NeMo 1.x, for Lightning 1.x
        legacy = {"gpus": -1, "accelerator": "ddp", "amp_level": "O0", "precision": 32, "progress_bar_refresh_rate": 10}
        config["trainer"] = {"max_epochs": 1000, "max_steps": None, "resume_from_checkpoint": None, **legacy}
        config["model"]["log_prediction"] = True
    OmegaConf.save(config, folder / f"{name}.yaml")
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["quartznet_15x5", pytest.param("jasper_10x5dr", marks=pytest.mark.proof), "conformer_ctc_char"],  # 333 M weights
)
def test_nemos_own_configs_train_without_edits_beyond_manifests_and_batch_size(small_corpus, tmp_path: Path, name: str):
    done = run_script(
        "train.py",
        "--config-path",
        tmp_path,
        "--config-name",
        nemo_config(tmp_path, name),
        f"model.train_ds.manifest_filepath={small_corpus.manifest('train')}",
        f"model.validation_ds.manifest_filepath={small_corpus.manifest('dev')}",
        "model.train_ds.batch_size=2",
        "model.validation_ds.batch_size=2",
        "trainer.max_steps=2",
        "seed=1",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "; replaced " in done.stdout
    model = tmp_path / done.stdout.splitlines()[-1].removeprefix("model: ")
    assert model.is_file()
    assert json.loads((model.parent / SUMMARY).read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.accelerator=quantum"], "quantum"),
        (["model.optim.name=sgdd"], "model.optim.name=sgdd"),
        (["model.train_ds.manifest_filepath=nothing.json"], r"nothing\.json"),
    ],
)
def test_what_can_not_be_trained_is_an_input_error(
    small_corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: str
):
    monkeypatch.chdir(tmp_path)
    overrides = [*overrides, "exp_manager.create_wandb_logger=false"]
    config = load_config(CONFIGS, "config", [f"data_dir={small_corpus.folder}", *overrides])
    with pytest.raises(InputError, match=words):
        run.train(config, overridden_keys(overrides))


def test_a_bad_command_is_one_error_line_and_no_traceback(tmp_path: Path):
    done = run_script("train.py", "model.lr=1", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch("error: .*'model.lr'.*\n", done.stderr)


# --- The data is read once --------------------------------------------------------------------------------------------


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train in this process, with W&B offline, in the folder that is returned."""
    monkeypatch.setattr(wandb_internals, "keep_artifacts", lambda: None)  # it would stay for other tests
    monkeypatch.chdir(tmp_path)
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "DATA_DIR": str(tmp_path / "staging")}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fraction", "splits"), [(1, ("train", "dev", "test", "train_all")), (0.5, ("train", "dev", "test"))]
)
def test_a_training_parses_each_manifest_once(
    small_corpus, in_process: Path, monkeypatch: pytest.MonkeyPatch, fraction: float, splits: tuple[str, ...]
):
    parsed, read_manifest = Counter(), manifest.read_manifest

    def counted(path: Path, *arguments, **options):
        parsed[Path(path).resolve()] += 1
        return read_manifest(path, *arguments, **options)

    monkeypatch.setattr(manifest, "read_manifest", counted)
    training_data._kept.clear()
    sizes._sizes.cache_clear()
    overrides = [f"data_dir={small_corpus.folder}", f"fraction={fraction}", "trainer.max_steps=2"]
    overrides += ["tracking.predictions_every=1"]
    config = load_config(CONFIGS, "small_corpus", overrides)
    assert run.train(config, overridden_keys(overrides)).is_file()
    # train_all is part of the W&B artifact.
    assert parsed == {small_corpus.manifest(split).resolve(): 1 for split in splits}
    assert not training_data._kept, "the rows are freed before the model is built"


@pytest.mark.slow
def test_an_interrupted_training_leaves_no_thread(small_corpus, in_process: Path):
    class Interruption(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch, place: int) -> None:
            if place == 1:
                raise KeyboardInterrupt

    config = load_config(CONFIGS, "config", [f"data_dir={small_corpus.folder}"])
    with pytest.raises(InputError, match=str(in_process) + "|runs/"):
        run.train(config, callbacks=[Interruption()])
    assert not [thread for thread in threading.enumerate() if thread.name == "corpus artifact"]
    import wandb

    wandb.finish()
