"""A tokenizer that fits the corpus is made, checked and kept with the training."""

from pathlib import Path

import pytest

from asr_with_nemo.data import an4, manifest
from asr_with_nemo.data.training_data import TrainingData
from asr_with_nemo.errors import InputError
from asr_with_nemo.training import tokenizers
from asr_with_nemo.training.config import complete_config, take_fraction
from tests.recognizers import training_config


@pytest.fixture(scope="module")
def texts(small_corpus: an4.Corpus) -> list[str]:
    return [row["text"] for row in manifest.read_manifest(small_corpus.manifest("train"))]


@pytest.fixture
def config(small_corpus: an4.Corpus, tmp_path: Path):
    """Returns the config of a transducer of pieces, without a tokenizer, with overrides."""
    manifests = [small_corpus.manifest(name) for name in ("train", "dev")]
    return lambda *overrides: training_config(tmp_path, "rnnt of pieces", *manifests, *overrides)


def test_a_tokenizer_of_a_corpus_writes_all_its_texts(texts: list[str], tmp_path: Path):
    pieces = tokenizers.make(texts, tmp_path / "tokenizer")
    assert 20 < pieces <= tokenizers.fitting_size(texts)
    assert {file.name for file in (tmp_path / "tokenizer").iterdir()} == {
        "tokenizer.model",
        "tokenizer.vocab",
        "vocab.txt",
    }
    loaded = tokenizers.load(tmp_path / "tokenizer")
    assert loaded.get_piece_size() == pieces
    assert tokenizers.unwritable(loaded, texts).texts == 0


def test_the_same_texts_make_the_same_tokenizer(texts: list[str], tmp_path: Path):
    for name in ("one", "other"):
        tokenizers.make(texts, tmp_path / name, size=40)
    one, other = ((tmp_path / name / "tokenizer.model").read_bytes() for name in ("one", "other"))
    assert one == other


def test_the_size_grows_with_the_corpus():
    sizes = [tokenizers.fitting_size(["abc def"] * count) for count in (1, 500, 10**5)]
    assert sizes == sorted(sizes) and sizes[0] < 15 and sizes[-1] == 1024


def test_texts_that_it_cannot_write_are_counted_and_listed(texts: list[str], tmp_path: Path):
    tokenizers.make(texts, tmp_path / "tokenizer", size=40)
    found = tokenizers.unwritable(tokenizers.load(tmp_path / "tokenizer"), ["one", "größe", "Öl", *texts])
    assert (found.texts, found.total) == (2, len(texts) + 3)
    assert set(found.letters) == {"ö", "ß", "Ö"}
    assert "'größe'" in str(found) and f"2 of {len(texts) + 3}" in str(found)


def test_auto_makes_one_and_says_so(config, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    done = complete_config(config("model.tokenizer.dir=auto", "+model.tokenizer.size=45"), TrainingData())
    folder = Path(done.model.tokenizer.dir)
    assert folder.is_relative_to(tmp_path) and tokenizers.load(folder).get_piece_size() == 45
    assert "size" not in done.model.tokenizer
    said = capsys.readouterr().out
    assert "45 pieces" in said and "warning" not in said
    made = (folder / "tokenizer.model").stat().st_mtime_ns
    complete_config(config(f"model.tokenizer.dir={folder}"), TrainingData())
    assert (folder / "tokenizer.model").stat().st_mtime_ns == made

    tokenizers.keep(done, tmp_path / "run")
    assert tokenizers.load(tmp_path / "run" / "tokenizer").get_piece_size() == 45


def test_a_tokenizer_is_made_of_the_texts_that_the_training_sees(config, texts: list[str], tmp_path: Path):
    done = complete_config(config("model.tokenizer.dir=auto", "+model.tokenizer.size=35", "fraction=0.5"))
    seen = [row["text"] for row in manifest.read_manifest(take_fraction(done).model.train_ds.manifest_filepath)]
    assert len(seen) == round(len(texts) / 2)
    tokenizers.make(seen, tmp_path / "again", size=35)
    made = [Path(folder, "tokenizer.model").read_bytes() for folder in (done.model.tokenizer.dir, tmp_path / "again")]
    assert made[0] == made[1]


def test_a_text_that_the_given_tokenizer_cannot_write_is_told_before_training(
    config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tokenizers.make(["aba bab"] * 50, tmp_path / "foreign", size=6)
    complete_config(config(f"model.tokenizer.dir={tmp_path / 'foreign'}"), TrainingData())
    said = capsys.readouterr().out
    assert "train_manifest.json" in said and "dev_manifest.json" in said and "can't be written" in said


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "model.tokenizer.dir=auto"),
        (["model.tokenizer.dir=nowhere"], r"nowhere.*tokenizer\.model.*auto"),
        (["model.tokenizer.dir=auto", "model.tokenizer.type=wpe"], "type=wpe.*bpe"),
        (["model.tokenizer.dir=auto", "+model.tokenizer.size=many"], "size=many"),
        (["model.tokenizer.dir=auto", "+model.tokenizer.size=4"], r"size"),
        (["model.tokenizer.dir=auto", "model.loss.loss_name=multiblank_rnnt"], "multiblank_rnnt.*tdt"),
    ],
)
def test_a_tokenizer_that_cannot_be_had(config, overrides: list[str], words: str):
    with pytest.raises(InputError, match=words):
        complete_config(config(*overrides), TrainingData())


def test_what_is_no_sentencepiece_model(tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"tokenizer\.model"):
        tokenizers.load(tmp_path)
