"""Every family of NeMo's recognisers is fine-tuned: with its own vocabulary, an extended one, or a new one."""

import io
from pathlib import Path

import pytest
import sentencepiece
import torch

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, load_model
from asr_with_nemo.models.recognizer import decoders
from asr_with_nemo.recognition import decoding
from asr_with_nemo.training import finetuning, tokenizers, vocabularies
from asr_with_nemo.training.config import complete_config
from asr_with_nemo.training.run import build_model
from tests.conftest import ROOT
from tests.recognizers import FAMILIES, LETTERS, training_config

QUICK = ("trainer.max_epochs=1", "exp_manager.create_wandb_logger=false", "model.train_ds.batch_size=4")
TRANSDUCERS = [family for family in FAMILIES if family != "ctc of pieces"]


@pytest.fixture(scope="module")
def manifests(small_corpus: an4.Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Training and dev manifests of a few utterances: "plain", and "strange", whose texts have ! and ß too."""
    found = {}
    for name, ending in (("plain", ""), ("strange", "!ß")):
        folder = tmp_path_factory.mktemp(name)
        for split, count in (("train", 12), ("dev", 3)):
            rows = manifest.read_manifest(small_corpus.manifest(split))[:count]
            rows = [row | {"text": row["text"] + ending * (place % 2)} for place, row in enumerate(rows)]
            manifest.write_manifest(folder / f"{split}.json", rows)
        found[name] = (folder / "train.json", folder / "dev.json")
    return found


def config_of(model: Path, data: tuple[Path, Path], folder: Path, *overrides: str, **settings: object):
    given = [*QUICK, f"exp_manager.exp_dir={folder}", *overrides]
    return finetuning.load_config(*data, {"model": str(model)} | settings, given, ROOT / "configs")


def prepared(model: Path, data: tuple[Path, Path], folder: Path, *overrides: str, keep: bool = True, **settings):
    """Returns the base, the model before its first step, its state as it was built, and what it took over."""
    base = load_model(model).cpu()
    config = complete_config(finetuning.complete_config(config_of(model, data, folder, *overrides, **settings), base))
    tuned = build_model(config)
    fresh = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    return base, tuned, fresh, finetuning.adopt(tuned, base, keep)


# --- The vocabulary ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_with_its_own_vocabulary_a_model_starts_as_it_was(
    family: str, recognizers: dict[str, Path], manifests, tmp_path: Path
):
    base, tuned, _, adopted = prepared(recognizers[family], manifests["plain"], tmp_path)
    assert type(tuned) is type(base) and alphabet(tuned) == alphabet(base)
    assert adopted == finetuning.Adopted(alphabet(base), [])
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, tuned.state_dict()[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_an_extended_model_writes_what_it_wrote(family: str, recognizers: dict[str, Path], manifests, tmp_path: Path):
    base, tuned, fresh, adopted = prepared(
        recognizers[family], manifests["strange"], tmp_path, vocabulary=vocabularies.EXTEND
    )
    old, new = alphabet(base), alphabet(tuned)
    assert new[: len(old)] == old and set(new[len(old) :]) == {"!", "ß"}
    assert adopted == finetuning.Adopted(old, [])
    before, after, more = base.state_dict(), tuned.state_dict(), len(new) - len(old)
    by_rows = [name for name in before if before[name].shape != after[name].shape]
    assert len(by_rows) == (2 if family == "ctc of pieces" else 5 if "ctc" in family else 3)
    for name in by_rows:
        assert torch.equal(after[name][: len(old)], before[name][: len(old)]), name
        assert torch.equal(after[name][len(old) : len(new)], fresh[name][len(old) : len(new)]), name
        assert torch.equal(after[name][len(new) :], before[name][len(old) :]), name  # blank, durations
        assert len(after[name]) == len(before[name]) + more
    same = before.keys() - set(by_rows)
    assert all(torch.equal(before[name], after[name]) for name in same)


@pytest.mark.parametrize("family", TRANSDUCERS)
def test_a_new_vocabulary_keeps_the_encoder_and_the_prediction_network(
    family: str, recognizers: dict[str, Path], manifests, tmp_path: Path
):
    size = ["+model.tokenizer.size=45"] if "pieces" in family else []
    base, tuned, fresh, adopted = prepared(
        recognizers[family], manifests["strange"], tmp_path, *size, keep=False, vocabulary=vocabularies.NEW
    )
    assert {"!", "ß"} <= set("".join(alphabet(tuned))) and adopted.symbols == []
    heads = ["ctc_decoder"] if "ctc" in family else []
    assert sorted(adopted.new) == sorted([*heads, "decoder.prediction.embed", "joint"])
    before, after = base.state_dict(), tuned.state_dict()
    for name, tensor in after.items():
        is_new = name.startswith(("joint.", "ctc_decoder.", "decoder.prediction.embed."))
        assert torch.equal(tensor, fresh[name] if is_new else before[name]), name


def test_letters_for_a_transducer_of_pieces(recognizers: dict[str, Path], manifests, tmp_path: Path):
    base, tuned, _, adopted = prepared(
        recognizers["tdt and ctc of pieces"], manifests["plain"], tmp_path, vocabulary="".join(LETTERS)
    )
    assert alphabet(tuned) == LETTERS and decoders(tuned) == decoders(base) == ("tdt", "ctc")
    assert adopted.symbols == []


def test_the_pieces_of_another_tokenizer_that_both_have_keep_their_rows(
    recognizers: dict[str, Path], manifests, tmp_path: Path
):
    texts = [row["text"] for row in manifest.read_manifest(manifests["plain"][0])]
    tokenizers.make(texts, tmp_path / "mine", size=40)
    base, tuned, _, adopted = prepared(
        recognizers["rnnt of pieces"], manifests["plain"], tmp_path, vocabulary=str(tmp_path / "mine")
    )
    assert set(adopted.symbols) == set(alphabet(base)) & set(alphabet(tuned)) < set(alphabet(base))
    for symbol in adopted.symbols:
        row, other = alphabet(tuned).index(symbol), alphabet(base).index(symbol)
        assert torch.equal(tuned.decoder.prediction.embed.weight[row], base.decoder.prediction.embed.weight[other])


@pytest.mark.parametrize("family", ["rnnt of letters", "tdt of pieces"])
def test_texts_that_the_model_cannot_write_are_listed_before_anything_is_trained(
    family: str, recognizers: dict[str, Path], manifests, tmp_path: Path
):
    with pytest.raises(InputError, match=r"train\.json: 6 of 12 texts .*'!' \(6\).*--vocabulary extend") as raised:
        finetuning.train(config_of(recognizers[family], manifests["strange"], tmp_path))
    assert str(raised.value).count("' becomes '") == 5
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_symbol_that_only_the_dev_set_has(recognizers: dict[str, Path], manifests, tmp_path: Path):
    data = manifests["plain"][0], manifests["strange"][1]
    with pytest.raises(InputError, match=r"dev\.json.*'ß'.*No training text"):
        finetuning.train(config_of(recognizers["rnnt of pieces"], data, tmp_path, vocabulary=vocabularies.EXTEND))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_a_tokenizer_with_more_letters_writes_the_rest_as_before(kind: str, rule: str, small_corpus, tmp_path: Path):
    texts = [row["text"] for row in manifest.read_manifest(small_corpus.manifest("train"))]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=60,
        model_type=kind,
        normalization_rule_name=rule,
        minloglevel=2,
    )
    old = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    tokenizers.write(tokenizers.extended(written.getvalue(), ["ß", "!"]), tmp_path / "more")
    new = tokenizers.load(tmp_path / "more")
    assert new.get_piece_size() == old.get_piece_size() + 2
    assert all(new.encode(text) == old.encode(text) for text in texts)
    for text in ("ß one! aß", "!", *(f"{text} ß{text[0]}!" for text in texts)):
        assert new.decode(new.encode(text)) == text
    assert tokenizers.unwritable(new, ["ä!"]).letters == {"ä": 1}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_words_become_pieces_and_the_rest_is_written_as_before(kind: str, small_corpus, tmp_path: Path):
    texts = [row["text"] for row in manifest.read_manifest(small_corpus.manifest("train"))]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=60, model_type=kind, minloglevel=2
    )
    old = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    proto = tokenizers.with_words(tokenizers.extended(written.getvalue(), ["ß"]), ["pittsburgh", "groß"])
    tokenizers.write(tokenizers.with_words(proto, ["groß"]), tmp_path / "more")  # which is one piece already
    new = tokenizers.load(tmp_path / "more")
    assert tokenizers.pieces_of(new)[old.get_piece_size() :] == ["ß", "▁pittsburgh", "▁groß"]
    assert new.encode("one groß pittsburgh", out_type=str)[-2:] == ["▁groß", "▁pittsburgh"]
    assert new.decode(new.encode("groß one pittsburgh")) == "groß one pittsburgh"
    assert all(new.encode(text) == old.encode(text) for text in texts)


def test_words_extend_a_model_of_pieces(recognizers: dict[str, Path], manifests, tmp_path: Path):
    texts = [row["text"] for row in manifest.read_manifest(manifests["plain"][0])]
    word = max((word for text in texts for word in text.split()), key=len)
    family, settings = recognizers["rnnt of pieces"], {"vocabulary": vocabularies.EXTEND}
    base, tuned, _, adopted = prepared(family, manifests["plain"], tmp_path, words=[word], **settings)
    assert alphabet(tuned) == [*alphabet(base), f"▁{word}"]
    assert adopted == finetuning.Adopted(alphabet(base), [])
    (tmp_path / "words.txt").write_text(f"{word}\n{word}\n")
    config = config_of(family, manifests["plain"], tmp_path, words=str(tmp_path / "words.txt"), **settings)
    assert finetuning.complete_config(config, base).finetuning.words == [word]

    def told(model: Path, **given: object) -> str:
        with pytest.raises(InputError) as raised:
            finetuning.complete_config(config_of(model, manifests["plain"], tmp_path, **given), load_model(model))
        return str(raised.value)

    assert "no training text has 'zebra'" in told(family, words=["zebra"], **settings)
    assert "only with --vocabulary extend" in told(family, words=[word])
    assert "expected words" in told(family, words=[3], **settings)
    assert "this model writes letters" in told(recognizers["rnnt of letters"], words=[word], **settings)


# --- The training -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "vocabulary"),
    [
        ("ctc of pieces", vocabularies.EXTEND),
        ("rnnt of letters", vocabularies.EXTEND),
        ("rnnt and ctc of letters", None),
        ("tdt and ctc of pieces", vocabularies.NEW),
    ],
)
def test_a_family_is_fine_tuned_and_loads_again(
    family: str, vocabulary: str | None, recognizers, manifests, tmp_path: Path, capsys
):
    train, dev = manifests["strange" if vocabulary else "plain"]
    config = config_of(recognizers[family], (train, dev), tmp_path, vocabulary=vocabulary)
    path = finetuning.train(config)
    said = capsys.readouterr().out
    assert "vocabulary: " in said and "starts from" in said and "dev WER" in said
    assert ("; random are the weights of" in said) == (vocabulary == vocabularies.NEW)
    tuned = load_model(path)
    assert decoders(tuned) == decoders(load_model(recognizers[family]))
    assert ("ß" in "".join(alphabet(tuned))) == bool(vocabulary)
    sounds = [row["audio_filepath"] for row in manifest.read_manifest(dev)]
    for decoder in decoders(tuned):
        assert len(decoding.transcribe(tuned, sounds, progress=False, decoder=decoder)) == 3
    assert finetuning.train(config) == path and "finished" in capsys.readouterr().out


@pytest.mark.slow
def test_frozen_parts_rates_and_early_stopping_of_a_hybrid(recognizers, manifests, tmp_path: Path, capsys):
    section = "exp_manager.early_stopping_callback_params"
    rates = "finetuning.learning_rates={joint: 0, ctc_decoder: 0.5}"
    stopping = (f"+{section}.min_delta=1000", f"{section}.patience=1", "trainer.max_epochs=5")
    base = recognizers["tdt and ctc of pieces"]
    path = finetuning.train(config_of(base, manifests["plain"], tmp_path, rates, *stopping, freeze="encoder"))
    assert "stopped after epoch 2: val_wer" in capsys.readouterr().out
    before, after = load_model(base).state_dict(), load_model(path).state_dict()
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "ctc_decoder"}


def test_a_rate_for_a_part_that_the_model_has_not(recognizers, manifests, tmp_path: Path):
    config = config_of(recognizers["rnnt of letters"], manifests["plain"], tmp_path, learning_rates={"ctc_decoder": 1})
    with pytest.raises(InputError, match=r"learning_rates.ctc_decoder: this model has encoder and decoder and joint"):
        finetuning.train(config)


@pytest.mark.parametrize(
    ("family", "other"),
    [
        ("rnnt and ctc of letters", "ctc of pieces"),
        ("ctc of pieces", "tdt and ctc of pieces"),
        ("tdt of pieces", "rnnt of letters"),
    ],
)
def test_the_config_may_be_that_of_another_family(
    family: str, other: str, recognizers: dict[str, Path], manifests, tmp_path: Path
):
    training_config(tmp_path, other, *manifests["plain"])  # written there, as NeMo publishes them
    settings = {"model": str(recognizers[family])}
    given = [f"exp_manager.exp_dir={tmp_path}"]
    config = finetuning.load_config(*manifests["plain"], settings, given, tmp_path, "published")
    base = load_model(recognizers[family]).cpu()
    tuned = build_model(complete_config(finetuning.complete_config(config, base)))
    assert decoders(tuned) == decoders(base) and alphabet(tuned) == alphabet(base)
    assert finetuning.adopt(tuned, base).new == []
