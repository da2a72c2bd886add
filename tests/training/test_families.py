"""Each family of NeMo's recognisers trains from a config of its own, and the model loads again."""

import shutil
from pathlib import Path

import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.recognizer import describe
from asr_with_nemo.recognition import decoding
from asr_with_nemo.training import tokenizers
from asr_with_nemo.training.config import load_config
from asr_with_nemo.training.run import read_log, train
from tests.conftest import ROOT, first_rows
from tests.recognizers import training_config


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ctc of pieces", "rnnt of letters", "tdt and ctc of pieces"])
def test_a_family_trains_and_loads_again(family: str, small_corpus: an4.Corpus, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    manifests = [small_corpus.manifest(name) for name in ("train", "dev")]
    pieces = ["model.tokenizer.dir=auto"] if "pieces" in family else []
    config = training_config(tmp_path, family, *manifests, *pieces, "fraction=0.2")
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


@pytest.mark.slow
def test_the_recipe_of_a_hybrid_learns_and_both_decoders_write(small_corpus: an4.Corpus, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    given = [f"data_dir={small_corpus.folder}", f"exp_manager.exp_dir={tmp_path}", "trainer.max_epochs=3"]
    given += ["model.width=64", "fraction=0.5"]
    path = train(load_config(ROOT / "configs", "transducer_an4", given))
    log = read_log(path.parent)
    assert log[-1]["train_loss_epoch"] < log[0]["train_loss_epoch"] and {"val_loss", "val_wer"} <= log[-1].keys()
    model = load_model(path)
    assert describe(model).decoders == ("rnnt", "ctc")
    files = [row["audio_filepath"] for row in manifest.read_manifest(small_corpus.manifest("dev"))][:2]
    for decoder in ("rnnt", "ctc"):
        assert len(decoding.transcribe(model, files, progress=False, decoder=decoder)) == 2


@pytest.mark.slow
def test_a_training_does_not_go_on_with_another_tokenizer(small_corpus: an4.Corpus, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    data = first_rows(small_corpus, tmp_path, train=8, dev=2)
    manifests = [data / f"{name}_manifest.json" for name in ("train", "dev")]
    texts = [row["text"] for row in manifest.read_manifest(small_corpus.manifest("train"))]
    tokenizers.make(texts, tmp_path / "mine", size=40)
    tokenizers.make([text[::-1] for text in texts], tmp_path / "other", size=40)
    assert len({tokenizers.load(tmp_path / name).get_piece_size() for name in ("mine", "other")}) == 1

    def config(name: str, *overrides: str):
        own = (f"model.tokenizer.dir={tmp_path / name}", *overrides)
        return training_config(tmp_path, "ctc of pieces", *manifests, *own)

    run = train(config("mine")).parent
    start = f"exp_manager.resume_from_checkpoint={run}/checkpoints/last.ckpt"
    with pytest.raises(InputError, match=rf"tokenizer {run}/tokenizer.*dir={tmp_path}/other"):
        train(config("other", start, "trainer.max_epochs=2"))
    shutil.rmtree(run / "tokenizer")  # the checkpoint's config has the pieces too
    with pytest.raises(InputError, match=rf"tokenizer {tmp_path}/mine.*dir={tmp_path}/other"):
        train(config("other", start, "trainer.max_epochs=2"))
    assert len(read_log(train(config("mine", start, "trainer.max_epochs=2")).parent)) == 1
