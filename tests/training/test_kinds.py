"""A config of NeMo's for something else than training a recogniser says what it is for, and what to do with it."""

import json
from pathlib import Path

import pytest

from asr_with_nemo.data import an4
from asr_with_nemo.errors import InputError
from asr_with_nemo.training.config import complete_config, load_config
from tests.recognizers import MODULES, config_of, training_config

OTHERS = {
    "Squeezeformer": (
        {"encoder": {"_target_": f"{MODULES}.SqueezeformerEncoder"}},
        r"published\.yaml: model\.encoder is a SqueezeformerEncoder, which NeMo 3.* doesn't have; .*ConformerEncoder",
    ),
    "wav2vec": (
        {"preprocessor": {"_target_": f"{MODULES}.wav2vec_modules.ConvFeatureEncoder"}},
        r"model\.preprocessor is a ConvFeatureEncoder, which NeMo 3.* doesn't have",
    ),
    "speakers": (
        {"decoder": {"_target_": f"{MODULES}.SpeakerDecoder"}},
        r"model\.decoder is a SpeakerDecoder, which this course doesn't load again.* expected one of ConvASRDecoder",
    ),
    "Canary": ({"transf_decoder": {}, "prompt_format": "canary"}, "Canary.*speech_to_text_aed"),
    "translation": ({"transf_decoder": {"library": "nemo"}}, "translates speech.*speech_to_text_transformer"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_model_is_named(other: str, tmp_path: Path):
    sections, words = OTHERS[other]
    (tmp_path / "published.yaml").write_text(json.dumps({"model": config_of("ctc of pieces", tmp_path) | sections}))
    with pytest.raises(InputError, match=words):
        load_config(tmp_path, "published")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["~model.encoder", "~model.decoder"],
            "like one for fine-tuning or adapters.*finetune.py MODEL --manifest TRAIN --dev DEV --c",
        ),
        (["model.decoder=null"], r"not of a recogniser: it has no model\.decoder"),
        (
            ["model.tokenizer.type=agg"],
            r"for each language.*type=bpe \+model.tokenizer.dir=auto ~model.tokenizer.langs",
        ),
    ],
)
def test_what_to_do_with_it_is_said(small_corpus: an4.Corpus, tmp_path: Path, overrides: list[str], words: str):
    manifests = [small_corpus.manifest(name) for name in ("train", "dev")]
    with pytest.raises(InputError, match=words):
        complete_config(training_config(tmp_path, "ctc of pieces", *manifests, *overrides))


def test_a_config_without_a_model_is_none_whatever_is_overridden(tmp_path: Path):
    (tmp_path / "vad.yaml").write_text("dataset: x")
    with pytest.raises(InputError, match=r"vad\.yaml: has no `model:` section"):
        load_config(tmp_path, "vad", ["model.train_ds.manifest_filepath=train.json"])
