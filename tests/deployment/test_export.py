"""A model becomes one file that gives what NeMo gives, and stays as it was."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from nemo.collections.asr.models import EncDecCTCModel
from omegaconf import OmegaConf
from torch import nn

from asr_with_nemo.base.machine import quieten
from asr_with_nemo.data import an4, manifest
from asr_with_nemo.deployment import export, runtime
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model, seconds_per_frame
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition import decoding
from asr_with_nemo.training import channels_last
from tests.conftest import ROOT, run_script
from tests.training.test_channels_last import NETWORKS, block

pytestmark = pytest.mark.slow

LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
CONFORMER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 64,
    "n_layers": 2,
    "d_model": 32,
    "subsampling": "striding",
    "subsampling_factor": 4,
    "n_heads": 4,
    "conv_kernel_size": 15,
}
LOCAL = {"self_attention_model": "rel_pos_local_attn", "att_context_size": [8, 8]}
LSTM = {
    "_target_": "nemo.collections.asr.modules.RNNEncoder",
    "feat_in": 64,
    "n_layers": 2,
    "d_model": 24,
    "proj_size": 16,
    "subsampling": "stacking",
    "subsampling_factor": 4,
}


def make(encoder: dict, **preprocessor: object) -> EncDecCTCModel:
    """A model with weights as after some training."""
    quieten()
    torch.manual_seed(0)
    features = {"sample_rate": 16_000, "window_size": 0.02, "window_stride": 0.01, "features": 64, "n_fft": 512}
    target = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
    width = encoder["jasper"][-1]["filters"] if "jasper" in encoder else None  # NeMo takes a Conformer's itself
    config = {
        "sample_rate": 16_000,
        "labels": LABELS,
        "preprocessor": {"_target_": target} | features | preprocessor,
        "encoder": encoder,
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": width,
            "num_classes": len(LABELS),
            "vocabulary": LABELS,
        },
        "optim": {"name": "adamw", "lr": 0.001},
    }
    model = EncDecCTCModel(cfg=OmegaConf.create(config)).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
        for weights in model.decoder.parameters():
            weights *= 8  # sure of something
    return model


def convolutional(blocks: list[dict], **settings: object) -> dict:
    encoder = {"_target_": "nemo.collections.asr.modules.ConvASREncoder", "feat_in": 64, "activation": "relu"}
    return encoder | {"conv_mask": True, "jasper": blocks} | settings


@pytest.fixture(scope="module")
def files(small_corpus: an4.Corpus) -> list[str]:
    return [row["audio_filepath"] for row in manifest.read_manifest(small_corpus.manifest("test"))]


SMALLEST = convolutional([block(24, 9)])
"""The network that exports fastest, for tests that are not about the network."""
FAMILIES = {name: convolutional(blocks) for name, blocks in NETWORKS.items() if name != "what has no fast layer"} | {
    "heads and group norm": convolutional([block(24, 9), block(24, 5, heads=4, normalization="group", norm_groups=4)]),
    "Conformer": CONFORMER,
    "Conformer, eight frames at a time": CONFORMER | {"subsampling": "dw_striding", "subsampling_factor": 8},
    "Conformer, local attention": CONFORMER | LOCAL,
    "Conformer, local attention, a first frame that all see": CONFORMER | LOCAL | {"global_tokens": 1},
    "LSTMs in both directions, four frames as one": LSTM,
    "LSTMs, convolutions before them": LSTM | {"bidirectional": False, "subsampling": "striding"},
    "LSTMs in both directions, convolutions before them": LSTM | {"subsampling": "striding"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_what_nemo_gives(family: str, files: list[str], tmp_path: Path):
    equality = export.export(make(FAMILIES[family]), tmp_path / "model.onnx", files)
    assert max(equality.alone, equality.padded) <= 1e-3
    assert equality.same_texts == equality.recordings == len(files)
    recognizer = runtime.Recognizer(tmp_path / "model.onnx")
    assert any(heard.text for heard in recognizer.transcribe(files))


@pytest.mark.parametrize(
    "preprocessor",
    [
        {"window_size": 0.025, "features": 64},
        {"normalize": "all_features", "preemph": None},
        {"normalize": None, "mag_power": 1.0, "log_zero_guard_type": "clamp", "window": "hamming"},
        {"window_stride": 0.0125, "pad_to": 16, "dither": 1e-5},
    ],
    ids=str,
)
def test_every_kind_of_features_is_nemos(preprocessor: dict, tmp_path: Path):
    model = make(SMALLEST, **preprocessor)
    equality = export.export(model, tmp_path / "model.onnx")
    assert equality.holds, equality


def test_the_model_is_left_as_it_was(files: list[str], tmp_path: Path):
    model = make(convolutional(NETWORKS["QuartzNet"]))
    channels_last.speed_up(model)
    model.train()
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    forwards = {name: module.__dict__.get("forward") for name, module in model.named_modules()}
    expected = decoding.log_probs(model, files[:2])
    export.export(model, tmp_path / "model.onnx", files[:2])
    assert model.training
    assert {name: module.__dict__.get("forward") for name, module in model.named_modules()} == forwards
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, before[name]), name
    for one, other in zip(decoding.log_probs(model, files[:2]), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_would_not_be_the_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"model\.onnx"):
        export.export(make(SMALLEST), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_rounding_of_very_large_values_is_rounding(tmp_path: Path, files: list[str]):
    model = make(convolutional(NETWORKS["QuartzNet"]))
    with torch.no_grad():
        model.decoder.decoder_layers[0].weight.mul_(1e6)
    assert np.abs(decoding.log_probs(model, files[:2])[0]).max() > 1e5
    assert export.export(model, tmp_path / "model.onnx", files[:2]).holds


def test_what_cant_be_exported_is_told_why(tmp_path: Path):
    blocks = [block(24, 9, stride=[2]), block(24, 5, stride=[2])]
    parallel = make(convolutional(blocks, _target_="nemo.collections.asr.modules.ParallelConvASREncoder"))
    assert seconds_per_frame(parallel) == 0.04  # though its encoder doesn't say it
    with pytest.raises(InputError, match=r"ParallelConvASREncoder.*ConvASREncoder"):
        export.export(parallel, tmp_path / "model.onnx")
    for more in ({"att_context_size": [8, 4]}, {"global_tokens": 2}, {"self_attention_model": "abs_pos"}):
        with pytest.raises(InputError, match="ConformerEncoder with (rel_pos_local_attn|abs_pos) attention"):
            export.export(make(CONFORMER | LOCAL | more), tmp_path / "model.onnx")
    small = make(SMALLEST, exact_pad=True)
    with pytest.raises(InputError, match="exact_pad"):
        export.export(small, tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"model\.pt.*\.onnx"):
        export.export(small, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_this_machine_is_in_the_file_that_ships():
    content = model_path("an4", suffix=".onnx").read_bytes()
    for path in (str(ROOT), "site-packages", ".venv", "asr_with_nemo/"):
        assert path.encode() not in content


def test_the_file_that_ships_is_made_of_the_model_that_ships(files: list[str]):
    recognizer = runtime.Recognizer("an4")
    assert recognizer.card["source"] == export.card_of("an4")["source"]
    equality = export.compare(load_model("an4"), recognizer, files)
    assert equality.holds, equality


def test_the_command_says_the_figures(small_model: Path, small_corpus: an4.Corpus, files: list[str], tmp_path: Path):
    test, train = small_corpus.manifest("test"), small_corpus.manifest("train")
    arguments = ["--manifest", test, "--quantize", "int8", "--calibration", train, "--calibrate-on", "8"]
    done = run_script("export.py", small_model, "small.onnx", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    equality, fp32, int8, model = done.stdout.splitlines()
    assert f"{len(files)} recordings" in equality and f"{len(files)} texts are the same" in equality
    assert fp32.startswith("fp32") and int8.startswith("int8") and model == "model: small.onnx"
    recognizer = runtime.Recognizer(tmp_path / "small.onnx")
    assert recognizer.card["bits"] == 8 and "int8" not in recognizer.card["source"]["file"]
    whole = decoding.log_probs(load_model(small_model), files)
    for one, other in zip(recognizer.log_probs(files), whole, strict=True):
        assert np.abs(np.exp(one) - np.exp(other)).mean() < 0.02
    assert {node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node} >= {"QuantizeLinear"}
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
