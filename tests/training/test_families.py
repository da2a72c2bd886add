"""Each family of NeMo's recognisers trains from a config of its own, and the model loads again."""

from pathlib import Path

import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import describe
from asr_with_nemo.recognition import decoding
from asr_with_nemo.training.run import read_log, train
from tests.recognizers import training_config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("ctc of pieces", []),
        ("rnnt of letters", ["model.loss.loss_name=pytorch"]),  # numba compiles for 20 s
        ("tdt and ctc of pieces", []),
    ],
)
def test_a_family_trains_and_loads_again(
    family: str, overrides: list[str], small_corpus: an4.Corpus, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    manifests = [small_corpus.manifest(name) for name in ("train", "dev")]
    pieces = ["model.tokenizer.dir=auto"] if "pieces" in family else []
    config = training_config(tmp_path, family, *manifests, *pieces, *overrides, "fraction=0.2")
    path = train(config)
    said = capsys.readouterr().out
    assert ("pieces, in" in said) == bool(pieces) and "dev WER" in said

    (row,) = read_log(path.parent)
    assert {"val_wer", "train_loss_epoch", "learning_rate"} <= {key for key, value in row.items() if value == value}
    model = load_model(path)
    assert set(describe(model).decoders) == set(family.split(" of ")[0].split(" and "))
    files = [utterance["audio_filepath"] for utterance in manifest.read_manifest(small_corpus.manifest("dev"))][:2]
    texts = [found.text for found in decoding.transcribe(model, files, progress=False)]
    # A checkpoint of a model of pieces finds the tokenizer that its training has kept.
    last = load_model(path.parent / "checkpoints" / "last.ckpt")
    assert [found.text for found in decoding.transcribe(last, files, progress=False)] == texts
    assert train(config) == path and "finished" in capsys.readouterr().out
