"""A model's outputs become the likeliest words of a lexicon."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import beam, evaluation, language_model, ngrams, prefix_search, wer
from asr_with_nemo.recognition.beam import BeamSearch, CharacterSearch, Grid
from asr_with_nemo.recognition.language_model import LABELS, Weights
from asr_with_nemo.recognition.ngrams import LanguageModel

TEXTS = ["enter five nine", "erase nine", "enter six", "go", "no", "g l e n n", "erase five six"]
WORDS = ["nine", "five", "enter", "erase", "go", "no", "six", "g", "l", "e", "n", "zero"]


@pytest.fixture(scope="module")
def words() -> LanguageModel:
    return ngrams.build_ngrams([text.split() for text in TEXTS], 2, ["zero"])


def softmax(scores: np.ndarray) -> np.ndarray:
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def outputs_of(
    text: str, generator: np.random.Generator | None = None, noise: float = 0.0, sureness: float = 8.0
) -> np.ndarray:
    """Log-probs (T, V) of a model that hears `text`, three frames a letter and a blank, more or less surely."""
    blank, path = len(LABELS), []
    for letter in text:
        path += [LABELS.index(letter)] * 3 + [blank]
    scores = np.zeros((len(path), blank + 1))
    scores[np.arange(len(path)), path] = sureness
    if generator is not None:
        scores += generator.normal(0, noise, scores.shape)
    return softmax(scores)


def greedy(log_probs: np.ndarray) -> str:
    path = (label for label, _ in itertools.groupby(log_probs.argmax(axis=1).tolist()))
    return "".join(LABELS[label] for label in path if label < len(LABELS))


# --- The search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.7, 0.4), (1.5, -1)])
@pytest.mark.parametrize("frames", [1, 4, 7])
def test_a_wide_search_sums_all_alignments(monkeypatch: pytest.MonkeyPatch, alpha: float, beta: float, frames: int):
    """Against every path of a small model, one by one."""
    monkeypatch.setattr(prefix_search, "LEAST_LETTER", 0.0)
    monkeypatch.setattr(prefix_search, "LEAST_PREFIX", 0.0)
    labels = [" ", "a", "b"]
    lm = ngrams.build_ngrams([["a", "b"], ["ab"], ["a", "a", "ab"], ["ba", "ab"]], 2, ["bb"])
    log_probs = softmax(np.random.default_rng(frames).normal(0, 1.5, (frames, 4)))
    expected: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=frames):
        text = "".join(labels[label] for label, _ in itertools.groupby(path) if label < 3)
        if all(word in lm.vocabulary for word in text.split()) and not text.startswith(" ") and "  " not in text:
            prob = np.exp(sum(log_probs[frame, label] for frame, label in enumerate(path)))
            expected[text.strip()] = expected.get(text.strip(), 0) + prob

    found = BeamSearch(labels, lm, alpha, beta, width=100_000).decode(log_probs)
    assert {hypothesis.text for hypothesis in found} == expected.keys()
    for hypothesis in found:
        said = hypothesis.text.split()
        assert hypothesis.ctc == pytest.approx(np.log(expected[hypothesis.text]), abs=1e-3)
        assert hypothesis.lm == pytest.approx(lm.log_prob(said), abs=1e-6)
        total = hypothesis.ctc + alpha * hypothesis.lm + beta * len(said)
        assert hypothesis.total == pytest.approx(total, abs=1e-6)
    totals = [hypothesis.total for hypothesis in found]
    assert totals == sorted(totals, reverse=True)


def test_clear_speech_is_heard_as_it_is(words: LanguageModel):
    for text in (*TEXTS, "zero", "n n n", ""):
        log_probs = outputs_of(text) if text else softmax(np.eye(29)[[28] * 20] * 8)
        assert greedy(log_probs) == text
        assert BeamSearch(LABELS, words).decode(log_probs)[0].text == text
    assert BeamSearch(LABELS, words).decode(np.empty((0, 29), np.float32))[0].text == ""


def test_misspelled_words_become_words(words: LanguageModel):
    search = BeamSearch(LABELS, words, alpha=0)
    assert str(search) == "beam, lexicon (beta 0, width 32)"
    generator = np.random.default_rng(0)
    log_probs = [outputs_of(text, generator, noise=3.5) for text in TEXTS * 5]
    rows = [sum(map(wer.count_errors, TEXTS * 5, texts), wer.Counts()).rate for texts in (
        [greedy(utterance) for utterance in log_probs], search.texts(log_probs)
    )]  # fmt: skip
    assert rows[1] < 0.5 * rows[0]
    assert all(word in words.vocabulary for text in search.texts(log_probs) for word in text.split())


def test_the_language_model_decides_what_sounds_alike(words: LanguageModel):
    """After "enter", five is likelier than nine."""
    log_probs = outputs_of("enter five")
    first, second = ([LABELS.index(letter) for letter in word] for word in ("five", "nine"))
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        frames = slice(24 + 4 * place, 27 + 4 * place)
        log_probs[frames, [one, other]] = np.log(0.5)
    plain, informed = (BeamSearch(LABELS, words, alpha).decode(log_probs) for alpha in (0, 1))
    assert {hypothesis.text for hypothesis in plain[:2]} == {"enter five", "enter nine"}
    assert plain[0].total == pytest.approx(plain[1].total, abs=0.5)
    assert informed[0].text == "enter five"
    assert informed[0].total > informed[1].total + 0.1


def test_beta_rules_the_number_of_words():
    lm = ngrams.build_ngrams([["go"], ["g", "o"]], 1)
    log_probs = outputs_of("go")
    log_probs[3, [LABELS.index(" "), len(LABELS)]] = np.log(0.5)  # perhaps there was a space between the letters
    few, many = (BeamSearch(LABELS, lm, 0, beta).decode(log_probs)[0].text for beta in (-5, 5))
    assert (few, many) == ("go", "g o")


def test_a_boosted_word_wins_where_it_is_expected(words: LanguageModel):
    log_probs = outputs_of("go")
    log_probs[:3, [LABELS.index("g"), LABELS.index("n")]] = np.log([0.6, 0.4])  # "go", or perhaps "no"
    search = BeamSearch(LABELS, words, 0.5, 1.0)
    boosted = search.with_boosts({"no": 4})
    assert [each.decode(log_probs)[0].text for each in (search, boosted)] == ["go", "no"]
    assert str(boosted).endswith(", 1 boosted")
    plain, raised = (next(one for one in each.decode(log_probs) if one.text == "no") for each in (search, boosted))
    assert raised.total == pytest.approx(plain.total + 4, abs=1e-6)
    assert (raised.ctc, raised.lm) == pytest.approx((plain.ctc, plain.lm), abs=1e-6)
    assert boosted.with_weights(Weights(0, 0, 8)).boosts == {"no": 4}


def test_a_name_that_the_lexicon_lacks_can_be_written_once_it_is_boosted(words: LanguageModel):
    log_probs = outputs_of("enter glenn five")
    search = BeamSearch(LABELS, words, 0.5, 1.0)
    assert "glenn" not in search.decode(log_probs)[0].text
    boosted = search.with_boosts({"glenn": 3})
    best = boosted.decode(log_probs)[0]
    assert best.text == "enter glenn five"
    # It has the probability of the least likely word, after the back-off of a history that it never followed.
    unknown, _ = words.score_unknown("glenn", words.score("enter", words.start)[1])
    least = min(words.log_probs[word,] for word in words.vocabulary)
    enter, history = words.score("enter", words.start)
    five, after = words.score("five", ())
    assert unknown == pytest.approx(least + words.backoffs[history])
    assert best.lm == pytest.approx(enter + unknown + five + words.score(ngrams.END, after)[0])
    # The search without boosts is as before, and so is one whose boosts hold the word back.
    assert search.decode(log_probs)[0].text == boosted.with_boosts({}).decode(log_probs)[0].text
    assert "glenn" not in search.with_boosts({"glenn": -3}).decode(log_probs)[0].text


def test_a_language_models_own_unknown_word_counts_for_a_boosted_one():
    likely = ngrams.LanguageModel({("<s>",): -99.0, ("</s>",): -1.0, ("go",): -3.0, ("<unk>",): -1.5}, {})
    assert likely.score_unknown("glenn", ())[0] == -1.5
    closed = ngrams.LanguageModel(likely.log_probs | {("<unk>",): -228.0}, {})  # as SRILM writes it
    assert closed.score_unknown("glenn", ())[0] == -3.0
    assert closed.knows("go") and not closed.knows("glenn") and not closed.knows("<unk>")


def test_a_boosted_phrase_has_its_bonus_as_a_whole(words: LanguageModel):
    search = BeamSearch(LABELS, words, 0.5, 1.0)
    boosted = search.with_boosts({"five six": 4})
    for said, bonus in (("erase five six", 4), ("five nine", 0), ("six five", 0), ("go five", 0)):
        plain, raised = (
            next(one for one in each.decode(outputs_of(said)) if one.text == said) for each in (search, boosted)
        )
        assert raised.total == pytest.approx(plain.total + bonus, abs=1e-6)
        assert (raised.ctc, raised.lm) == pytest.approx((plain.ctc, plain.lm), abs=1e-6)


def test_what_a_boost_cant_make_the_search_write(words: LanguageModel):
    search = BeamSearch(LABELS, words)
    with pytest.raises(InputError, match="boost 'Glenn'.*'G'.*lower case"):
        search.with_boosts({"Glenn": 1})
    with pytest.raises(InputError, match="boost 'glenn7'.*'7'$"):
        search.with_boosts({"glenn7": 1})


def test_a_word_that_the_end_cuts_off_is_left_out(words: LanguageModel):
    assert BeamSearch(LABELS, words).decode(outputs_of("enter fiv", sureness=20))[0].text == "enter"


def test_long_and_strange_sound_is_no_trouble(words: LanguageModel):
    search = BeamSearch(LABELS, words, alpha=2, beta=3)
    text = " ".join(TEXTS * 100)
    assert search.decode(outputs_of(text))[0].text == text  # 12,000 frames: e to the power of thousands
    flat = np.full((500, 29), -np.log(29), np.float32)
    assert all(word in words.vocabulary for word in search.decode(flat)[0].text.split())
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(29, dtype=np.float32)[[LABELS.index("z"), 28, LABELS.index("q")]])
    with pytest.raises(InputError, match="log-softmax"):
        search.decode(certain)


def test_a_search_can_be_watched(words: LanguageModel):
    search, log_probs = BeamSearch(LABELS, words), outputs_of("enter five")
    steps = list(search.follow(log_probs))
    assert len(steps) == len(log_probs)
    best = [hypotheses[0].text for hypotheses in steps]
    assert best[0] == "e" and best[12] == "ente" and best[-1] == "enter five"
    assert [len(text) for text in best] == sorted(len(text) for text in best)
    assert all(len(hypotheses) <= search.weights.width for hypotheses in steps)
    (last,) = (hypothesis for hypothesis in search.decode(log_probs) if hypothesis.text == best[-1])
    assert steps[-1][0].ctc == pytest.approx(last.ctc, abs=1e-3)


def test_the_work_a_frame_has_a_bound(words: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    made, child = [], BeamSearch._child
    monkeypatch.setattr(BeamSearch, "_child", lambda *arguments: made.append(child(*arguments)) or made[-1])
    generator = np.random.default_rng(0)
    log_probs = [outputs_of(text, generator, noise=2) for text in TEXTS * 10]
    search = BeamSearch(LABELS, words)
    search.texts(log_probs)
    frames = sum(map(len, log_probs))
    grown = sum(longer is not None for longer in made)
    assert 0 < grown < search.weights.width * frames / 2  # the lexicon and the pruning leave few


def test_what_a_search_cant_be_made_of(words: LanguageModel):
    with pytest.raises(InputError, match="space"):
        BeamSearch(LABELS[1:], words)
    with pytest.raises(InputError, match="äö"):
        BeamSearch([" ", "ä", "ö"], words)
    for weights in ((-1, 0, 8), (float("nan"), 0, 8), (1, 1000, 8), (1, 0, 0)):
        with pytest.raises(InputError, match=f"alpha {weights[0]:g}, beta {weights[1]:g}, width {weights[2]}"):
            BeamSearch(LABELS, words, *weights)
    with pytest.raises(InputError, match=r"\(10, 28\).*\(T, 29\)"):
        BeamSearch(LABELS, words).decode(np.zeros((10, 28), np.float32))


# --- From a file ------------------------------------------------------------------------------------------------------


def test_a_file_knows_its_search_and_its_weights(tmp_path: Path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    arpa, characters = tmp_path / "words.arpa", tmp_path / "characters.arpa"
    language_model.make(tmp_path / "texts.txt", arpa)
    language_model.make(tmp_path / "texts.txt", characters, characters=True)
    search = beam.load(arpa, LABELS)
    assert search.weights == beam.WORD_WEIGHTS
    assert str(search) == "beam, lexicon + word 3-gram (alpha 0.5, beta 0, width 32)"
    language_model.note_weights(arpa, Weights(0.8, 1.0, 64))
    assert beam.load(arpa, LABELS).weights == Weights(0.8, 1.0, 64)
    assert beam.load(arpa, LABELS, beta=0, width=8).weights == Weights(0.8, 0, 8)
    with pytest.raises(InputError, match=r"words\.arpa: .*'"):
        beam.load(arpa, [" ", "ä"])

    other = beam.load(characters, LABELS)
    assert isinstance(other, CharacterSearch)
    assert str(other) == "beam_batch, character 6-gram (alpha 0.5, beta 0, width 16)"
    for labels in (LABELS[::-1], LABELS[:-1]):
        with pytest.raises(InputError, match=r"characters\.arpa: "):
            beam.load(characters, labels)
    language_model.notes_path(characters).unlink()
    with pytest.raises(InputError, match=r"characters\.arpa: "):
        beam.load(characters, LABELS[:-1])


@pytest.mark.slow
def test_nemos_search_with_characters(tmp_path: Path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 3))
    language_model.make(tmp_path / "texts.txt", tmp_path / "characters.arpa", characters=True)
    search = beam.load(tmp_path / "characters.arpa", LABELS)
    assert search.texts([outputs_of(text) for text in TEXTS]) == TEXTS
    generator = np.random.default_rng(0)
    log_probs = [outputs_of(text, generator, noise=3.5) for text in TEXTS * 5]
    heard = [greedy(utterance) for utterance in log_probs]
    counts = [
        sum(map(wer.count_errors, TEXTS * 5, texts), wer.Counts())
        for texts in (heard, search.texts(log_probs), search.with_weights(Weights(0, 0, 16)).texts(log_probs))
    ]
    assert counts[1].errors < counts[0].errors and counts[1].errors < counts[2].errors


# --- Tuning -----------------------------------------------------------------------------------------------------------


def test_tuning_finds_weights_that_help(words: LanguageModel):
    generator = np.random.default_rng(1)
    log_probs = [outputs_of(text, generator, noise=4) for text in TEXTS * 6]
    search = BeamSearch(LABELS, words)
    grid = Grid((0, 0.5, 1, 1.5), (-1, 0, 1), (4, 32))
    tuning = evaluation.tune(search, log_probs, TEXTS * 6, grid, progress=False)
    assert len(tuning.trials) in (12, 13, 14)
    chosen, plain = (tuning.trials[weights].errors for weights in (tuning.weights, Weights(0, 0, 32)))
    assert chosen < plain
    assert chosen <= min(counts.errors for counts in tuning.trials.values()) + 5
    again = sum(map(wer.count_errors, TEXTS * 6, search.with_weights(tuning.weights).texts(log_probs)), wer.Counts())
    assert again == tuning.trials[tuning.weights]
    assert f"alpha {tuning.weights.alpha:g}" in str(tuning)
    with pytest.raises(InputError, match="texts"):
        evaluation.tune(search, log_probs[:1], [" "], grid)


class Measured:
    """A search whose errors are known beforehand: hypotheses of that many words too many."""

    def __init__(self, errors: dict[tuple[float, float], int], weights: Weights = Weights(0, 0, 8)):
        self.errors, self.weights = errors, weights

    def with_weights(self, weights: Weights) -> "Measured":
        return Measured(self.errors, weights)

    def texts(self, log_probs: list) -> list[str]:
        errors = self.errors[self.weights.alpha, self.weights.beta] + (3 if self.weights.width < 16 else 0)
        return ["go" + " no" * errors]


def test_tuning_takes_the_middle_of_a_good_region_and_not_a_lucky_point():
    errors = {(alpha, beta): 20 for alpha in range(9) for beta in range(9)}
    errors |= {(alpha, beta): 12 for alpha in (4, 5, 6) for beta in (4, 5, 6)}
    errors[1, 1] = 11
    tuning = evaluation.tune(Measured(errors), [None], ["go"], Grid(range(9), range(9), (8, 16, 32)), progress=False)
    assert tuning.weights == Weights(5, 5, 16)
    level = evaluation.tune(Measured(dict.fromkeys(errors, 7)), [None], ["go"], Grid(range(9), range(9), (16, 32)))
    assert level.weights == Weights(0, 0, 16)
