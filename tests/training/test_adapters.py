"""Adapters alone are trained; the model around them stays as it is, and the new one loads everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.model_config import checked
from asr_with_nemo.recognition import decoding
from asr_with_nemo.training import adapters, finetuning
from asr_with_nemo.training.config import complete_config
from asr_with_nemo.training.run import build_model
from tests.conftest import first_rows
from tests.training import test_baseline
from tests.training.test_baseline import Killed


@pytest.fixture(scope="module")
def data(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_rows(small_corpus, tmp_path_factory.mktemp("data"), train=12, dev=3)


def config_of(model: Path | str, data: Path, folder: Path, *overrides: str, **settings: object):
    return test_baseline.config_of(model, data, folder, *overrides, **{"adapter": 4} | settings)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if name not in before or not torch.equal(tensor, before[name])}


# --- What is asked for ------------------------------------------------------------------------------------------------


def test_nemos_own_config_for_adapters_says_their_width(data: Path, tmp_path: Path):
    linear = {"_target_": adapters.ADAPTER, "in_features": "???", "dim": 16}
    published = {"adapter": {"adapter_name": "???", "adapter_type": "linear", "linear": linear}, "train_ds": {}}
    config = {"model": published | {"validation_ds": {}}, "trainer": {"max_steps": 2}, "exp_manager": {}}
    (tmp_path / "published.yaml").write_text(json.dumps(config))
    manifests = [data / f"{split}_manifest.json" for split in ("train", "dev")]

    def read(settings: dict, *overrides: str):
        found = finetuning.load_config(*manifests, settings, overrides, tmp_path, "published")
        assert "adapter" not in found.model
        return found.finetuning.adapter

    assert read({"model": "an4"}) == 16 and read({"model": "an4", "adapter": 4}) == 4
    with pytest.raises(InputError, match=r"adapter_type=tiny_attn.*linear"):
        read({"model": "an4"}, "model.adapter.adapter_type=tiny_attn")


# --- What is trained --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_adapters_are_trained_and_plain_nemo_loads_the_model(data: Path, tmp_path: Path, capsys):
    before = load_model("an4")
    path = finetuning.train(config_of("an4", data, tmp_path, "model.optim.lr=0.01"))
    said = capsys.readouterr().out
    tuned = load_model(path)
    new = changed(before.state_dict(), tuned.state_dict())
    assert new and all(f"{adapters.LAYER}tuned1." in name for name in new)
    count = sum(tensor.numel() for name, tensor in tuned.state_dict().items() if name in new)
    assert f"trained are {count:,} of " in said and "those of the adapters 'tuned1'" in said
    assert any(tensor.any() for name, tensor in tuned.state_dict().items() if name.endswith("module.3.weight"))

    from nemo.collections.asr.models import ASRModel

    plain = ASRModel.restore_from(str(path), map_location="cpu").eval()
    sounds = [row["audio_filepath"] for row in manifest.read_manifest(data / "dev_manifest.json")]
    theirs = [one.text for one in plain.transcribe(sounds, batch_size=1, verbose=False)]
    assert theirs == [one.text for one in decoding.transcribe(tuned, sounds, batch_size=1, progress=False)]

    # A second one on top of it: the first stays as it was.
    again = load_model(finetuning.train(config_of(path, data, tmp_path, "model.optim.lr=0.01", adapter={"dim": 2})))
    new = changed(tuned.state_dict(), again.state_dict())
    assert new and all(f"{adapters.LAYER}tuned2." in name for name in new)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ctc of pieces", "tdt and ctc of pieces"])
def test_new_symbols_let_the_decoders_learn_too(family: str, recognizers, data: Path, tmp_path: Path, capsys):
    for split in ("train", "dev"):
        rows = manifest.read_manifest(data / f"{split}_manifest.json")
        manifest.write_manifest(
            tmp_path / f"{split}_manifest.json", [row | {"text": row["text"] + "ß"} for row in rows]
        )
    before = load_model(recognizers[family]).state_dict()
    path = finetuning.train(config_of(recognizers[family], tmp_path, tmp_path, vocabulary="extend"))
    assert "and of the decoders, for the new symbols" in capsys.readouterr().out
    new = changed(before, load_model(path).state_dict())
    assert all(adapters.LAYER in name for name in new if name.startswith("encoder."))
    assert any(name.startswith("encoder.") for name in new)
    heads = ("decoder.", "joint.", "ctc_decoder.") if "tdt" in family else ("decoder.",)
    assert all(any(name.startswith(head) for name in new) for head in heads)


@pytest.mark.slow
def test_a_killed_one_ends_with_the_same_weights(data: Path, tmp_path: Path):
    whole, parts = (
        config_of("an4", data, tmp_path / name, "trainer.max_epochs=2", "model.optim.lr=0.01")
        for name in ("whole", "parts")
    )
    first = load_model(finetuning.train(whole)).state_dict()
    with pytest.raises(InputError, match="resumes"):
        finetuning.train(parts, callbacks=[Killed()])
    second = load_model(finetuning.train(parts)).state_dict()
    assert changed(first, second) == set()


def test_a_model_with_new_adapters_writes_what_it_wrote(data: Path, tmp_path: Path):
    base = load_model("an4").cpu()
    model = build_model(complete_config(finetuning.complete_config(config_of("an4", data, tmp_path), base)))
    assert finetuning.adopt(model, base).new == []
    sound, length = torch.randn(1, 16_000), torch.tensor([16_000])
    with torch.no_grad():
        outputs = [one.eval()(input_signal=sound, input_signal_length=length)[0] for one in (base, model)]
    assert np.allclose(*outputs, atol=1e-4)


# --- What can't be had ------------------------------------------------------------------------------------------------


def test_what_has_no_adapters_is_told(data: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no adapters for a RNNEncoder, only for ConvASREncoder and ConformerEncoder"):
        adapters.add({"encoder": {"_target_": "nemo.collections.asr.modules.RNNEncoder"}}, 32)
    for wrong in (0, -1, 1.5, "many", {"width": 3}, True, 10**6):
        with pytest.raises(InputError, match=r"finetuning\.adapter="):
            adapters.dim_of(wrong)
    assert (adapters.dim_of(None), adapters.dim_of({"dim": 3})) == (None, 3)
    with pytest.raises(InputError, match="--adapter with --freeze bn"):
        finetuning.train(config_of("an4", data, tmp_path, freeze="bn"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bad": {"_target_": "nemo.collections.asr.models.ASRModel", "dim": 3}}, "adapters.bad: .*ASRModel"),
        ({"tuned1": {"_target_": adapters.ADAPTER, "dim": 10**9}}, "adapters.tuned1.dim"),
        ({"tuned1": {"_target_": adapters.ADAPTER, "dim": 2, "adapter_strategy": {"_target_": "nemo.x"}}}, "strategy"),
        ({"../x": {"_target_": adapters.ADAPTER, "dim": 2}}, r"adapters\.\.\./x"),
        ({"tuned1": None}, "adapters.tuned1"),
    ],
)
def test_a_file_that_asks_for_other_adapters_is_refused(change: dict, words: str):
    config = OmegaConf.to_container(load_model("an4").cfg)
    with pytest.raises(InputError, match=words):
        checked(config | {"adapters": change}, Path("bad.nemo"))


# --- As one file ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", ["an4", "ctc of pieces", "tdt and ctc of pieces"])
def test_a_model_with_adapters_exports(family: str, recognizers, data: Path, tmp_path: Path):
    from asr_with_nemo.deployment import export, runtime

    base = "an4" if family == "an4" else recognizers[family]
    path = finetuning.train(config_of(base, data, tmp_path, "model.optim.lr=0.01"))
    model = load_model(path)
    for name, weights in model.named_parameters():
        if adapters.LAYER in name:
            torch.nn.init.normal_(weights, std=0.05)  # as after a long training
    export.export(model, tmp_path / "model.onnx")
    recognizer = runtime.Recognizer(tmp_path / "model.onnx")
    sounds = [row["audio_filepath"] for row in manifest.read_manifest(data / "dev_manifest.json")]
    assert export.compare(model, recognizer, sounds).holds
