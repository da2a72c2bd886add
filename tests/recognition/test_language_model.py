"""Transcripts become n-gram models, which are written as ARPA files and know what is likely to be said."""

import gzip
import json
import math
import random
import re
from pathlib import Path

import pytest

from asr_with_nemo.base import files
from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import beam, language_model, ngrams
from asr_with_nemo.recognition.language_model import Weights
from asr_with_nemo.recognition.ngrams import END
from tests.conftest import put, run_script
from tests.recognition.in_process import error_of

TEXTS = [
    text.split()
    for text in ("enter five nine", "enter five", "erase five nine", "go", "g l e n n", "enter six nine", "no")
]
DICTIONARY = "ENTER  EH N T ER\nFIVE  F AY V\nOH(2)  OW\nOH  OW\nZERO  Z IH R OW\n"


def corpus_texts(corpus: an4.Corpus, split: str) -> list[list[str]]:
    return [row["text"].split() for row in manifest.read_manifest(corpus.manifest(split))]


# --- Probabilities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_after_any_history_the_probabilities_sum_to_one(order: int):
    model = ngrams.build_ngrams(TEXTS, order, lexicon=["zero"])
    assert model.order == order
    words = [*model.vocabulary, END]
    assert "zero" in words and "<s>" not in words
    generator = random.Random(0)
    for _ in range(50):
        history = model.start
        for word in generator.choices(model.vocabulary, k=generator.randrange(5)):
            _, history = model.score(word, history)
        total = sum(math.exp(model.score(word, history)[0]) for word in words)
        assert total == pytest.approx(1, abs=1e-9), history


def test_what_was_heard_before_is_likelier():
    model = ngrams.build_ngrams(TEXTS, 3, lexicon=["zero"])
    assert model.log_prob(["enter", "five", "nine"]) > model.log_prob(["nine", "five", "enter"])
    five, _ = model.score("five", model.score("enter", model.start)[1])
    assert five > model.score("zero", model.score("enter", model.start)[1])[0] > -math.inf
    assert model.score("december", model.start) == (-math.inf, ())


def test_longer_histories_tell_more_of_new_texts(small_corpus: an4.Corpus):
    train, dev = (corpus_texts(small_corpus, split) for split in ("train", "dev"))
    lexicon = {word for text in dev for word in text}
    perplexities = [ngrams.build_ngrams(train, order, lexicon).perplexity(dev) for order in (1, 2)]
    assert perplexities[1] < perplexities[0] < len(lexicon | {word for text in train for word in text})


def test_discounts_are_those_of_chen_and_goodman():
    """100 bigrams seen once, 40 twice, 20 three times, 10 four times: Y = 100 / 180."""
    counts = [1] * 100 + [2] * 40 + [3] * 20 + [4] * 10
    assert ngrams._discounts(counts) == pytest.approx((0, 1 - 80 / 180, 2 - 150 / 180, 3 - 200 / 180))
    assert ngrams._discounts([1, 1, 2]) == (0, 0.5, 1, 1.5)


def test_what_no_model_can_be_made_of():
    for texts in ([], [[]], [["<s>", "go"]]):
        with pytest.raises(InputError, match="<s>, </s>"):
            ngrams.build_ngrams(texts, 2)
    with pytest.raises(InputError, match="order 0"):
        ngrams.build_ngrams(TEXTS, 0)


# --- ARPA files -------------------------------------------------------------------------------------------------------


def test_an_arpa_file_comes_back(tmp_path: Path):
    model = ngrams.build_ngrams(TEXTS, 3, ["zero"])
    for name in ("one.arpa", "other.arpa"):
        ngrams.write_arpa(ngrams.build_ngrams(TEXTS[::-1], 3, ["zero"]), tmp_path / name)
    text = (tmp_path / "one.arpa").read_text()
    assert text == (tmp_path / "other.arpa").read_text()  # neither the order of the texts nor of a set shows
    assert text.startswith("\\data\\\nngram 1=") and text.endswith("\n\\end\\\n")
    again = ngrams.read_arpa(tmp_path / "one.arpa")
    assert again.vocabulary == model.vocabulary and again.order == 3
    for words in (*TEXTS, ["zero", "nine"], []):
        assert again.log_prob(words) == pytest.approx(model.log_prob(words), abs=1e-4)


def test_an_arpa_file_of_another_program(tmp_path: Path):
    """A preamble, spaces for tabs, no weight where it is nought: as CMU's toolkit wrote AN4's own."""
    path = tmp_path / "other.arpa"
    path.write_text(
        "made by hand\n\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-0.5 </s>\n-99 <s> -0.3\n-0.4 GO\n-1.0 <unk>\n\n"
        "\\2-grams:\n-0.1 <s> GO\n\n\\end\\\n"
    )
    model = ngrams.read_arpa(path)
    assert model.vocabulary == ["GO"]
    assert model.log_prob(["GO"]) == pytest.approx(-0.6 * math.log(10))
    assert model.log_prob([]) == pytest.approx(-0.8 * math.log(10))  # backs off from <s>
    assert model.log_prob(["STOP"]) == pytest.approx(-1.8 * math.log(10))  # <unk>


def test_an_arpa_file_compressed_marked_in_capitals_and_with_an_end_too_many(tmp_path: Path):
    ngrams.write_arpa(ngrams.build_ngrams(TEXTS, 2), tmp_path / "plain.arpa")
    plain, text = ngrams.read_arpa(tmp_path / "plain.arpa"), (tmp_path / "plain.arpa").read_text()
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "bom.arpa").write_text(text, encoding="utf-8-sig")
    count = int(re.search(r"ngram 1=(\d+)", text)[1])
    twice = text.replace(f"ngram 1={count}", f"ngram 1={count + 1}").replace("\t<s>", "\t</s>\t-1\n-99\t<s>", 1)
    (tmp_path / "twice.arpa").write_text(twice)
    (tmp_path / "capitals.arpa").write_text(text.upper())
    for name in ("lm.arpa.gz", "bom.arpa", "twice.arpa"):
        assert ngrams.read_arpa(tmp_path / name).log_probs == plain.log_probs, name
        assert ngrams.is_language_model(tmp_path / name)
    assert ngrams.lowered(ngrams.read_arpa(tmp_path / "capitals.arpa")).log_probs == plain.log_probs
    labels = [" ", *"abcdefghijklmnopqrstuvwxyz"]
    assert beam.load(tmp_path / "capitals.arpa", labels).language_model.vocabulary == plain.vocabulary
    assert language_model.notes_path(tmp_path / "lm.arpa.gz").name == "lm.json"


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = b"\\data\\\nngram 1=9999999\n\\1-grams:\n" + b"-1\tgo\n" * 10**6
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(text))
    monkeypatch.setattr(files, "_SLACK", 1_000_000)
    with pytest.raises(InputError, match=r"lm\.arpa\.gz: refused, because it unpacks"):
        ngrams.read_arpa(tmp_path / "lm.arpa.gz")


def test_a_binary_file_of_kenlm_is_named_for_what_it_is(tmp_path: Path):
    start = b"mmap lm http://kheafield.com/code format version 5\n\0"
    for name, content in (("lm.binary", start + bytes(100)), ("lm.gz", gzip.compress(start + bytes(100)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}.*KenLM.*\.arpa"):
            ngrams.read_arpa(tmp_path / name)
        assert ngrams.is_language_model(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"no such .*scripts/build_lm\.py"),
        ("", "not an ARPA file"),
        ("dear friend\n", "not an ARPA file"),
        ("\\data\\\nngram 1=2\n\\1-grams:\n-1\tgo\n-1\t</s>\n", "cut short"),
        ("\\data\\\nngram 1=3\n\\1-grams:\n-1\tgo\n-1\t</s>\n\\end\\\n", "cut short"),
        ("\\data\\\nngram 1=1\n\\1-grams:\nmuch\tgo\n\\end\\\n", "line 4"),
        ("\\data\\\nngram 1=1\n\\1-grams:\n-1\tgo\n\\end\\\n", "</s>"),
        (b"\xff\xfe\x00", "ARPA"),
        (f"\\data\\\nngram {'9' * 5_000}=1\n", "line 2"),
        (f"\\data\\\nngram 1={'9' * 5_000}\n", "line 2"),
        (f"\\data\\\nngram 1=1\n\\{'9' * 5_000}-grams:\n-1\tgo\n", "line 3"),
        ("\\data\\\nngram 1=2\n\\1-grams:\nnan\tgo\n-1\t</s>\n\\end\\\n", "line 4"),
        ("\\data\\\nngram 1=2\n\\1-grams:\n-1\tgo\t1e999\n-1\t</s>\n\\end\\\n", "line 4"),
    ],
)
def test_what_is_no_arpa_file(tmp_path: Path, content: str | bytes | None, reason: str):
    with pytest.raises(InputError, match=rf"lm\.arpa.*{reason}"):
        ngrams.read_arpa(put(tmp_path / "lm.arpa", content))


@pytest.mark.slow
def test_nemo_reads_a_character_model_and_scores_alike(small_corpus: an4.Corpus, tmp_path: Path):
    import torch
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    model = language_model.make(small_corpus.manifest("train"), tmp_path / "characters.arpa", characters=True)
    theirs = NGramGPULanguageModel.from_file(tmp_path / "characters.arpa", vocab_size=len(language_model.LABELS))
    for text in ("enter five nine", "zebra's", "go"):
        tokens = language_model.to_tokens(text, language_model.LABELS)
        labels = torch.tensor([[language_model.LABELS.index(letter) for letter in text]])
        score = float(theirs.score_sentences(labels, eos=True).sum())
        assert score == pytest.approx(model.log_prob(tokens), abs=0.01)


# --- scripts/build_lm.py ----------------------------------------------------------------------------------------------


def test_the_command_makes_a_model_of_the_training_texts(small_corpus: an4.Corpus, tmp_path: Path):
    (tmp_path / "words.dic").write_text(DICTIONARY)
    train = small_corpus.manifest("train")
    done = run_script("build_lm.py", train, "lm.arpa", "--order", "2", "--lexicon", "words.dic", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = ngrams.read_arpa(tmp_path / "lm.arpa")
    said = {word for text in corpus_texts(small_corpus, "train") for word in text}
    assert set(model.vocabulary) == said | {"enter", "five", "oh", "zero"}
    notes = json.loads((tmp_path / "lm.json").read_text())
    assert (notes["unit"], notes["order"], notes["holds_dev"]) == ("word", 2, False)
    assert (notes["text"]["file"], notes["lexicon"]["words"]) == ("train_manifest.json", 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm.arpa", "lm.json", "words.dic"]


def test_held_out_texts_are_refused(small_corpus: an4.Corpus, tmp_path: Path):
    for split in ("test", "dev", "train_all"):
        with pytest.raises(InputError, match=rf"{split}_manifest\.json: .* (dev|test) set"):
            language_model.make(small_corpus.manifest(split), tmp_path / "lm.arpa")
    # Under another name, elsewhere, and among others, they are the same recordings.
    train, test = (manifest.read_manifest(small_corpus.manifest(split)) for split in ("train", "test"))
    manifest.write_manifest(tmp_path / "mine.json", [*train, test[0]])
    with pytest.raises(InputError, match=r"mine\.json: .* test set"):
        language_model.make(tmp_path / "mine.json", tmp_path / "lm.arpa", final=True)
    # So is another recording of a speaker who is to be tested.
    manifest.write_manifest(tmp_path / "mine.json", [*train, train[0] | {"speaker": test[0]["speaker"]}])
    with pytest.raises(InputError, match=r"mine\.json: .* test set"):
        language_model.make(tmp_path / "mine.json", tmp_path / "lm.arpa", final=True)
    with pytest.raises(InputError, match=r"an4_test\.transcription"):
        language_model.make(small_corpus.folder / "etc" / "an4_test.transcription", tmp_path / "lm.arpa")
    assert not (tmp_path / "lm.arpa").exists()

    language_model.make(small_corpus.manifest("train_all"), tmp_path / "final.arpa", final=True)
    assert language_model.read_notes(tmp_path / "final.arpa")["holds_dev"]


def test_weights_are_kept_beside_the_file(small_corpus: an4.Corpus, tmp_path: Path):
    train, dev, test = (small_corpus.manifest(split) for split in ("train", "dev", "test"))
    arpa = tmp_path / "lm.arpa"
    language_model.make(train, arpa)
    assert language_model.tuned_weights(arpa) is None
    language_model.check_tuning_data(arpa, dev)
    language_model.note_weights(arpa, Weights(0.8, 1.0, 32), manifest="dev_manifest.json")
    assert language_model.tuned_weights(arpa) == Weights(0.8, 1.0, 32)
    assert language_model.read_notes(arpa)["unit"] == "word"

    # A model that has seen the dev set takes over the weights of one that hasn't.
    final = tmp_path / "final.arpa"
    with pytest.raises(InputError, match=r"test_manifest\.json: .* dev manifest"):
        language_model.check_tuning_data(arpa, test)
    with pytest.raises(InputError, match=r"lm\.arpa: .*train_manifest\.json"):
        language_model.check_tuning_data(arpa, train)
    language_model.make(small_corpus.manifest("train_all"), final, final=True, weights_of=arpa)
    assert language_model.tuned_weights(final) == Weights(0.8, 1.0, 32)
    with pytest.raises(InputError, match=r"final\.arpa: .*--weights-of"):
        language_model.check_tuning_data(final, dev)
    with pytest.raises(InputError, match="order 3, .*order 2"):
        language_model.make(train, tmp_path / "other.arpa", order=2, weights_of=arpa)

    language_model.make(train, arpa)  # made again, it is another file
    assert language_model.tuned_weights(arpa) is None
    with pytest.raises(InputError, match=r"lm\.arpa: .*--tune"):
        language_model.make(train, tmp_path / "other.arpa", weights_of=arpa)


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path):
    (tmp_path / "texts.txt").write_text("enter five\n\nGo  now\n")
    (tmp_path / "lm.json").write_text('{"wer": 0.1}')
    with pytest.raises(InputError, match=r"lm\.json: .*lm\.arpa"):
        language_model.make(tmp_path / "texts.txt", tmp_path / "lm.arpa")
    assert (tmp_path / "lm.json").read_text() == '{"wer": 0.1}'
    model = language_model.make(tmp_path / "texts.txt", tmp_path / "other.arpa")
    assert model.vocabulary == ["Go", "enter", "five", "now"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.json", "lm.arpa"], r"none\.json"),
        (["texts.txt", "lm.txt"], r"lm\.txt.*\.arpa"),
        (["texts.txt", "lm.arpa", "--lexicon", "none.dic"], r"none\.dic"),
        (["texts.txt", "lm.arpa", "--lexicon", "texts.txt", "--characters"], "--lexicon or --characters"),
        (["texts.txt", "lm.arpa", "--characters", "--order", "1"], "order 1"),
        (["accents.txt", "lm.arpa", "--characters"], "'née' has 'é'"),
        (["empty.txt", "lm.arpa"], r"empty\.txt"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
):
    for name, text in (("texts.txt", "go\n"), ("accents.txt", "née\n"), ("empty.txt", "\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert re.search(f"^error: .*{reason}", error_of("build_lm.py", *arguments))
    assert not (tmp_path / "lm.arpa").exists()


@pytest.mark.slow
def test_a_model_of_what_a_recogniser_writes(model_of_pieces: Path, tmp_path: Path):
    (tmp_path / "texts.txt").write_text("go\nenter five\ngo on\n")
    done = run_script("build_lm.py", "texts.txt", "pieces.arpa", "--model", model_of_pieces, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "60 pieces" in done.stdout
    notes = language_model.read_notes(tmp_path / "pieces.arpa")
    assert (notes["unit"], notes["order"], len(notes["labels"])) == ("piece", 6, 60)
    pieces = ngrams.read_arpa(tmp_path / "pieces.arpa")
    language_model.check_tokens(tmp_path / "pieces.arpa", pieces, notes["labels"])
    assert language_model.is_of_characters(pieces)
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    theirs = NGramGPULanguageModel.from_file(tmp_path / "pieces.arpa", vocab_size=60)
    scores, _ = theirs.advance(theirs.get_init_states(1, bos=True))
    ours = [pieces.score(language_model.token_of(column), pieces.start)[0] for column in range(60)]
    assert scores[0].tolist() == pytest.approx(ours, abs=1e-3)
    # The shipped model's letters are those of the course.
    done = run_script("build_lm.py", "texts.txt", "an4.arpa", "--model", "an4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    language_model.make(tmp_path / "texts.txt", tmp_path / "letters.arpa", characters=True)
    assert (tmp_path / "an4.arpa").read_text() == (tmp_path / "letters.arpa").read_text()
    done = run_script("build_lm.py", "texts.txt", "an4.arpa", "--model", "an4", "--characters", cwd=tmp_path)
    assert done.returncode == 1 and "leave out --characters" in done.stderr


def test_words_and_characters_are_told_apart(tmp_path: Path):
    for name in ("x y z", "enter five"):
        (tmp_path / "texts.txt").write_text(f"{name}\n")
        words = language_model.make(tmp_path / "texts.txt", tmp_path / "words.arpa")
        characters = language_model.make(tmp_path / "texts.txt", tmp_path / "characters.arpa", characters=True)
        assert not language_model.is_of_characters(words)
        assert language_model.is_of_characters(characters)
        assert language_model.is_of_characters(ngrams.read_arpa(tmp_path / "characters.arpa"))
