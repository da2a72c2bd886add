"""Texts become counts, a word error rate with its interval, and results files that can be compared."""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import jiwer
import pytest
from scipy import stats

from asr_with_nemo.base import spool
from asr_with_nemo.data import an4, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.recognition import decoding, evaluation, language_model, wer
from asr_with_nemo.recognition.transcripts import Transcript
from asr_with_nemo.recognition.wer import Counts, ScoredUtterance
from tests.conftest import put, run_script
from tests.recognition.in_process import error_of

WORDS = "a b c nine five enter erase go help rubout october twenty second yes no p l e n".split()  # noqa: SIM905


def misheard(text: str, generator: random.Random, rate: float) -> str:
    """A text with about `rate` of its words replaced, left out or doubled."""
    words = []
    for word in text.split():
        kind = generator.choice("sdi") if generator.random() < rate else ""
        words += {"s": [generator.choice(WORDS)], "d": [], "i": [word, generator.choice(WORDS)], "": [word]}[kind]
    return " ".join(words)


def some_rows(count: int = 60, seed: int = 0, rate: float = 0.3, shortest: int = 1) -> list[ScoredUtterance]:
    texts, ears = random.Random(1), random.Random(seed)
    rows = []
    for number in range(count):
        reference = " ".join(texts.choices(WORDS, k=texts.randint(shortest, 8)))
        rows.append(ScoredUtterance(f"wav/{number}.wav", f"s{number % 4}", reference, misheard(reference, ears, rate)))
    return rows


def test_a_recording_that_cannot_be_read_costs_only_itself(tmp_path: Path):
    lines = [{"audio_filepath": f"{name}.wav", "duration": 1.0, "text": name} for name in ("go", "gone", "stop")]
    (tmp_path / "m.json").write_text("".join(json.dumps(line) + "\n" for line in lines))

    for line in lines:
        (tmp_path / line["audio_filepath"]).write_bytes(b"")

    def transcribe_each(files, progress):
        for file in files:
            name = Path(str(file)).stem
            yield InputError(f"{file}: no sound") if name == "gone" else Transcript(name, [], 1.0)

    way = evaluation.Way(transcribe_each, ["a"], 16_000, "greedy", "a CPU")
    for line_rate in (None, 8_000):
        result = evaluation.measure(way, tmp_path / "m.json", line_rate=line_rate)
        assert [row.file for row in result.rows] == ["go.wav", "stop.wav"] and result.wer == 0
        assert list(result.unread) == [1] and "gone.wav: no sound" in result.as_dict()["unread"][0]
    (tmp_path / "m.json").write_text(json.dumps(lines[1]) + "\n")
    with pytest.raises(InputError, match=r"m\.json: no utterance.*gone\.wav"):
        evaluation.measure(way, tmp_path / "m.json")


# --- Counting ---------------------------------------------------------------------------------------------------------


def test_counts_agree_with_jiwer():
    rows = [row for seed in range(5) for row in some_rows(100, seed, rate=0.5, shortest=0)]
    assert any(not row.reference for row in rows) and any(not row.hypothesis for row in rows)
    for row in rows:
        words = jiwer.process_words(row.reference, row.hypothesis)
        characters = jiwer.process_characters(row.reference, row.hypothesis)
        for ours, theirs in ((row.words, words), (row.characters, characters)):
            assert ours.errors == theirs.substitutions + theirs.deletions + theirs.insertions
            assert ours.words == theirs.hits + theirs.substitutions + theirs.deletions
            # Which of several shortest ways is counted is free, but not this:
            assert ours.deletions - ours.insertions == theirs.deletions - theirs.insertions
    spoken = [row for row in rows if row.reference]
    references, hypotheses = [row.reference for row in spoken], [row.hypothesis for row in spoken]
    assert wer.total_errors(spoken).rate == pytest.approx(jiwer.wer(references, hypotheses))
    assert wer.total_errors(spoken, "character").rate == pytest.approx(jiwer.cer(references, hypotheses))


def test_counts_by_hand():
    assert wer.count_errors("g l e n n", "g l a n") == Counts(1, 1, 0, 5)
    assert wer.count_errors("go", "oh go now") == Counts(0, 0, 2, 1)
    assert wer.count_errors("", "go") == Counts(0, 0, 1, 0)
    assert wer.count_errors("go", "") == Counts(0, 1, 0, 1)
    assert wer.count_errors("", "") == Counts()
    assert wer.count_errors("a  b ", " a b") == Counts(words=2)
    assert wer.count_errors("a  b ", " a b", "character") == Counts(words=3)
    assert Counts(1, 2, 3, 12).rate == 0.5
    assert Counts(0, 0, 1, 0).rate is None


def test_what_is_confused_with_what():
    rows = [
        ScoredUtterance("1", "", "nine five nine", "five five nine"),
        ScoredUtterance("2", "", "nine go", "five oh"),
        ScoredUtterance("3", "", "", "uh"),
    ]
    assert wer.confusions(rows) == {("nine", "five"): 2, ("go", "oh"): 1, ("", "uh"): 1}
    assert wer.confusions([ScoredUtterance("1", "", "m n", "n")]) == {("m", ""): 1}
    assert wer.confusions([ScoredUtterance("1", "", "b d", "b b")], "character") == {("d", "b"): 1}
    for unit in ("word", "character"):
        counts, total = wer.confusions(some_rows(), unit), wer.total_errors(some_rows(), unit)
        assert counts.total() == total.errors
        assert sum(n for (reference, _), n in counts.items() if not reference) == total.insertions
        assert sum(n for (_, hypothesis), n in counts.items() if not hypothesis) == total.deletions


def test_confusions_of_spelled_letters_are_told_from_those_of_words():
    rows = [
        ScoredUtterance("1", "", "b d nine", "v nine"),
        ScoredUtterance("2", "", "h yes", "eight s yes"),
        ScoredUtterance("3", "", "five", "v"),
        ScoredUtterance("4", "", "go", "go uh"),
    ]
    letters = wer.of_letters(wer.confusions(rows))
    assert letters.total() == 4
    assert {said for said, _ in letters} <= {"b", "d", "h", ""}
    assert wer.of_letters({("b", "v"): 2, ("h", "eight"): 1, ("five", "v"): 3, ("", "e"): 1, ("", "uh"): 1}) == {
        ("b", "v"): 2,
        ("h", "eight"): 1,
        ("", "e"): 1,
    }


def test_errors_by_speaker_add_up():
    rows = some_rows()
    speakers = wer.by_speaker(rows)
    assert sorted(speakers) == ["s0", "s1", "s2", "s3"]
    assert sum(speakers.values(), Counts()) == wer.total_errors(rows)
    rates = [counts.rate for counts in speakers.values()]
    assert rates == sorted(rates)
    assert wer.by_speaker([replace(row, speaker="") for row in rows]) == {}


# --- Chance -----------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_rate_and_narrows_with_more_data():
    few, many = some_rows(40), some_rows(640)
    for rows in (few, many):
        low, high = wer.wer_interval(rows)
        assert low < wer.total_errors(rows).rate < high
        assert wer.wer_interval(rows) == (low, high)
    widths = [high - low for low, high in map(wer.wer_interval, (few, many))]
    assert 2 < widths[0] / widths[1] < 8  # 16 times the data, a quarter of the width


def test_the_interval_is_the_known_one_where_theory_knows_it():
    """Utterances of one word are a binomial: the interval is about rate ± 1.96 √(p(1-p)/n)."""
    rows = [ScoredUtterance(f"{number}", "", "yes", "no" if number % 5 == 0 else "yes") for number in range(400)]
    half = 1.96 * math.sqrt(0.2 * 0.8 / 400)
    assert wer.wer_interval(rows) == pytest.approx((0.2 - half, 0.2 + half), abs=0.006)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([ScoredUtterance(str(n), "", "yes", "yes") for n in range(50)], (0, 1 - 0.025 ** (1 / 50))),  # 0 to 7.1%
        ([ScoredUtterance(str(n), "", "yes", "") for n in range(50)], (0.025 ** (1 / 50), 1)),
        ([ScoredUtterance("1", "", "a b", "a b"), ScoredUtterance("2", "", "a", "a")], (0, 1 - 0.025 ** (1 / 3))),
        ([ScoredUtterance("1", "", "a b", ""), ScoredUtterance("2", "", "a", "")], (0.025 ** (1 / 3), 1)),
        ([ScoredUtterance("1", "", "a b", "a")], (1 - math.sqrt(0.975), math.sqrt(0.975))),
        ([ScoredUtterance("1", "", "a", "b b")], (0.025, 2)),
        ([ScoredUtterance("1", "", "", "")], (0, 0.975)),
    ],
)
def test_an_interval_without_spread_is_the_exact_binomial_one(
    rows: list[ScoredUtterance], expected: tuple[float, float]
):
    assert wer.wer_interval(rows) == pytest.approx(expected)
    if all(row.reference for row in rows):
        _, interval = wer.mean_of_seeds([rows, rows])
        assert interval == pytest.approx(expected)  # read twice, the words are no more


@pytest.mark.parametrize("wrong", range(10))
def test_an_interval_of_few_errors_is_no_narrower_than_the_exact_one(wrong: int):
    def rows(wrong: int) -> list[ScoredUtterance]:
        return [ScoredUtterance(str(n), "", "yes", "no" if n < wrong else "yes") for n in range(50)]

    low, high = wer.wer_interval(rows(wrong))
    exact = stats.binomtest(wrong, 50).proportion_ci(0.95, method="exact")
    assert low <= exact.low + 1e-9 and high >= exact.high - 1e-9
    assert high < wer.wer_interval(rows(wrong + 1))[1] + 0.001  # one error more is no better


def test_an_interval_with_empty_references_is_a_number():
    rows = [ScoredUtterance("1", "", "", "uh"), ScoredUtterance("2", "", "go", "go"), ScoredUtterance("3", "", "", "")]
    assert all(math.isfinite(bound) for bound in wer.wer_interval(rows))


def test_the_interval_of_very_many_utterances_is_the_same(monkeypatch: pytest.MonkeyPatch):
    generator = random.Random(0)
    words = [generator.randint(0, 9) for _ in range(4_000)]
    errors = [sum(generator.random() < 0.1 for _ in range(count)) for count in words]
    low, high = wer.rate_interval(errors, words)
    monkeypatch.setattr(wer, "_MANY", 1_000)
    assert wer.rate_interval(errors, words) == pytest.approx((low, high), abs=0.03 * (high - low))
    assert wer.rate_interval(errors, words) != (low, high)  # drawn in the other way
    differences = [generator.choice((-1, 0, 1)) for _ in words]
    low, high = wer.difference_interval(differences, words)
    assert -0.02 < low < sum(differences) / sum(words) < high < 0.02


def test_a_result_does_not_differ_from_itself():
    rows = some_rows()
    comparison = wer.compare(rows, rows[::-1])
    unseen = 1 - 0.025 ** (1 / comparison.this.words)  # of so many words, none differs: the exact bound
    assert (comparison.difference, comparison.is_significant) == (0, False)
    assert comparison.ci95 == pytest.approx((-unseen, unseen))
    assert wer.difference_of_seeds([rows, rows], [rows, rows])[1] == pytest.approx((-unseen, unseen))
    assert "+0.0 points" in str(comparison) and "not statistically significant" in str(comparison)


@pytest.mark.parametrize(("count", "significant"), [(1, False), (5, False), (6, True)])
def test_a_difference_without_spread_is_as_sure_as_its_words_are_many(count: int, significant: bool):
    """As the exact sign test: of five words that all speak for one model, none is proof; of six it is, just so."""
    right = [ScoredUtterance(str(n), "", "yes", "yes") for n in range(count)]
    wrong = [replace(row, hypothesis="no") for row in right]
    comparison = wer.compare(right, wrong)
    assert comparison.difference == -1 == comparison.ci95[0]
    assert comparison.is_significant is significant
    assert wer.compare(wrong, right).ci95 == pytest.approx(tuple(-bound for bound in comparison.ci95[::-1]))


def test_two_results_that_differ():
    bad, good = some_rows(seed=2, rate=0.5), some_rows(seed=3, rate=0.1)
    comparison = wer.compare(good, bad)
    assert comparison.ci95[0] < comparison.difference < comparison.ci95[1] < 0
    assert comparison.is_significant and "better, statistically significant" in str(comparison)
    other_way = wer.compare(bad, good)
    assert other_way.difference == -comparison.difference and "worse, statistically significant" in str(other_way)
    assert other_way.ci95 == pytest.approx((-comparison.ci95[1], -comparison.ci95[0]), abs=0.01)
    alike = wer.compare(some_rows(seed=4), some_rows(seed=5))
    assert not alike.is_significant and "not statistically significant" in str(alike)


def test_several_seeds_on_the_same_utterances():
    bad, good = ([some_rows(seed=seed, rate=rate) for seed in seeds] for rate, seeds in ((0.4, (2, 3)), (0.1, (4, 5))))
    rates = [wer.total_errors(rows).rate for rows in bad]
    mean, (low, high) = wer.mean_of_seeds(bad)
    assert mean == pytest.approx(sum(rates) / 2)
    assert low < mean < high
    # The same utterances twice are not twice as many: the interval is hardly narrower than that of one seed.
    alone = wer.wer_interval(bad[0])
    assert high - low > 0.6 * (alone[1] - alone[0])
    assert wer.mean_of_seeds([bad[0], bad[0][::-1]])[1] == pytest.approx(alone, abs=0.01)

    difference, (low, high) = wer.difference_of_seeds(good, bad)
    assert difference == pytest.approx(wer.mean_of_seeds(good)[0] - mean)
    assert low < difference < high < 0
    with pytest.raises(InputError, match="2 .* 1"):
        wer.difference_of_seeds(good, bad[:1])
    with pytest.raises(InputError, match="same manifest"):
        wer.mean_of_seeds([bad[0], bad[1][1:]])


def test_a_comparison_sees_pairs():
    """One error fewer in every third utterance is no chance, however much the utterances differ from each other."""
    rows = [ScoredUtterance(str(n), "", "a b c d e f g h", " ".join("abcdefgh"[: n % 8])) for n in range(60)]
    better = [replace(row, hypothesis=row.hypothesis + " h") if n % 3 == 0 else row for n, row in enumerate(rows)]
    comparison = wer.compare(better, rows)
    assert comparison.is_significant
    low, high = wer.wer_interval(rows)
    assert comparison.ci95[1] - comparison.ci95[0] < (high - low) / 2


def test_results_of_other_utterances_are_not_compared():
    rows = some_rows()
    for others in (rows[:-1], [*rows[:-1], replace(rows[-1], reference="something else")], [*rows, rows[0]]):
        with pytest.raises(InputError, match="same manifest"):
            wer.compare(rows, others)


# --- Results files ----------------------------------------------------------------------------------------------------


def some_result(rows: list[ScoredUtterance]) -> evaluation.Result:
    return evaluation.Result(rows, "an4", "greedy", "m.nemo", "an4/test_manifest.json", 357.0, 2.0, "a CPU", [])


def test_a_results_file_comes_back_as_it_was(tmp_path: Path):
    rows = [
        *some_rows(),
        ScoredUtterance('odd "name"\t.wav', "", "", ""),
        ScoredUtterance("ü.wav", "s9", "né'e", '"go"'),
    ]
    path = tmp_path / "results" / "mine.json"
    evaluation.save(some_result(rows), path, command="python scripts/evaluate.py m.nemo an4/test_manifest.json")
    assert evaluation.read_rows(path) == rows
    assert sorted(file.name for file in path.parent.iterdir()) == ["mine.json", "mine.tsv"]
    result = json.loads(path.read_text())
    assert result["errors"] == result["substitutions"] + result["deletions"] + result["insertions"]
    assert result["wer"] == pytest.approx(result["errors"] / result["words"], abs=1e-6)
    assert result["ci95"][0] <= result["wer"] <= result["ci95"][1]
    assert (result["utterances"], result["corpus"], result["decoder"]) == (62, "an4", "greedy")
    assert result["rtfx"] == 178.5
    assert result["command"].startswith("python scripts/evaluate.py")
    lines = path.with_suffix(".tsv").read_text().splitlines()
    assert lines[0].split("\t") == list(evaluation.COLUMNS)
    first = dict(zip(evaluation.COLUMNS, lines[1].split("\t"), strict=True))
    assert int(first["words"]) == len(rows[0].reference.split())


def test_a_results_file_that_cant_be_written(tmp_path: Path):
    with pytest.raises(InputError, match=r"ends in \.json"):
        evaluation.save(some_result(some_rows()), tmp_path / "mine.tsv")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"mine\.json"):
        evaluation.save(some_result(some_rows()), tmp_path / "taken" / "mine.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"scripts/evaluate\.py --output"),
        ("", "'file'"),
        ("file\tspeaker\treference\n1\ts\ta\n", "'hypothesis'"),
        ("file\tspeaker\treference\thypothesis\n1\ts\ta\n", "line 2"),
        ("file\tspeaker\treference\thypothesis\n", "no utterances"),
        (b"\xff\xfe\x00", "utf-8"),
    ],
)
def test_a_table_of_utterances_that_isnt_one(tmp_path: Path, content: str | bytes | None, reason: str):
    put(tmp_path / "other.tsv", content)
    with pytest.raises(InputError, match=rf"other\.tsv.*{reason}"):
        evaluation.read_rows(tmp_path / "other.json")


# --- A real model -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_measures_and_compares(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    test = small_corpus.manifest("test")
    done = run_script("evaluate.py", small_model, test, "--output", "out/mine.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "synthetic stand-in, not AN4" in done.stdout and "figures say nothing about AN4" in done.stderr
    result = json.loads((tmp_path / "out" / "mine.json").read_text())
    required = {"wer", "cer", "errors", "words", "ci95", "utterances", "corpus", "decoder", "rtfx"}
    assert required <= result.keys()
    assert (result["corpus"], result["decoder"]) == ("synthetic", "greedy")
    assert result["training"]["epochs"] == 2 and result["rtfx"] > 1

    utterances = manifest.read_manifest(test)
    rows = evaluation.read_rows(tmp_path / "out" / "mine.json")
    assert [row.reference for row in rows] == [utterance["text"] for utterance in utterances]
    assert all(row.file.startswith("wav/") for row in rows)
    transcripts = decoding.transcribe(load_model(small_model), [u["audio_filepath"] for u in utterances])
    assert [row.hypothesis for row in rows] == [" ".join(transcript.text.split()) for transcript in transcripts]
    theirs = jiwer.process_words([row.reference for row in rows], [row.hypothesis for row in rows])
    assert result["wer"] == pytest.approx(theirs.wer, abs=1e-6)
    assert result["words"] == theirs.hits + theirs.substitutions + theirs.deletions
    assert sum(speaker["errors"] for speaker in result["by_speaker"].values()) == result["errors"]

    again = run_script(
        "evaluate.py", small_model, test, "--compare", "out/mine.json", "--batch-size", "2", cwd=tmp_path
    )
    assert again.returncode == 0
    assert "+0.0 points" in again.stdout
    assert "not statistically significant (95% interval includes 0)" in again.stdout
    other = run_script(
        "evaluate.py", small_model, small_corpus.manifest("dev"), "--compare", "out/mine.json", cwd=tmp_path
    )
    assert other.returncode == 1 and "same manifest" in other.stderr


@pytest.mark.slow
def test_a_result_is_the_same_when_it_does_not_fit_into_memory(
    small_model: Path, small_corpus: an4.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, test, found = load_model(small_model), small_corpus.manifest("test"), []
    for in_memory in (spool.IN_MEMORY, 2):
        monkeypatch.setattr(spool, "IN_MEMORY", in_memory)
        for rate in (None, 8_000):
            result = evaluation.evaluate(model, test, batch_size=3, progress=False, line_rate=rate)
            evaluation.save(result, tmp_path / f"{in_memory}.json")
            rows, heard = list(result.rows), list(result.heard)
            found.append((rows, heard, result.ci95, (tmp_path / f"{in_memory}.tsv").read_bytes()))
    assert found[:2] == found[2:]


@pytest.mark.slow
def test_the_command_tunes_and_measures_with_a_language_model(
    small_model: Path, small_corpus: an4.Corpus, tmp_path: Path
):
    arpa, dev = tmp_path / "lm.arpa", small_corpus.manifest("dev")
    language_model.make(small_corpus.manifest("train"), arpa)
    done = run_script("evaluate.py", small_model, dev, "--lm", arpa, "--tune", "--output", "dev.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weights = language_model.tuned_weights(arpa)
    assert f"tuned: alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}" in done.stdout
    notes = language_model.read_notes(arpa)
    assert (notes["tuning"]["manifest"], notes["text"]["file"]) == ("dev_manifest.json", "train_manifest.json")
    result = json.loads((tmp_path / "dev.json").read_text())
    described = "beam, lexicon + word 3-gram" if weights.alpha else "beam, lexicon ("
    assert result["decoder"].startswith(described)
    assert result["errors"] == notes["tuning"]["errors"]
    assert f"--lm={arpa}" in result["command"] and f"--width={weights.width}" in result["command"]

    again = run_script(
        "evaluate.py", small_model, dev, "--lm", arpa, "--alpha", "0", "--beta=-1", "--width", "8", cwd=tmp_path
    )
    assert again.returncode == 0 and "beam, lexicon (beta -1, width 8)" in again.stdout
    boosted = ["--lm", arpa, "--boost", "quux:2", "--output", "boosted.json"]
    more = run_script("evaluate.py", small_model, dev, *boosted, cwd=tmp_path)
    assert more.returncode == 0 and ", 1 boosted" in more.stdout
    assert "--boost=quux:2" in json.loads((tmp_path / "boosted.json").read_text())["command"]
    assert language_model.tuned_weights(arpa) == weights


def test_tuning_has_its_rules(small_corpus: an4.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    arpa, final = tmp_path / "lm.arpa", tmp_path / "final.arpa"
    language_model.make(small_corpus.manifest("train"), arpa)
    language_model.make(small_corpus.manifest("train_all"), final, final=True)
    dev, test = (small_corpus.manifest(split) for split in ("dev", "test"))
    for arguments, reason in (
        ([test, "--lm", arpa, "--tune"], r"test_manifest\.json.* dev manifest"),
        ([dev, "--lm", final, "--tune"], r"final\.arpa.*--weights-of"),
        ([dev, "--lm", arpa, "--tune", "--alpha", "1"], "--tune .*--alpha"),
        ([dev, "--tune"], "--tune .*--lm"),
        ([dev, "--lm", arpa, "--tune", "--boost", "go"], "--tune .*--boost"),
        ([dev, "--boost", "go:x"], "--boost: 'go:x'"),
        ([dev, "--boost", "go", "--alpha", "1"], "--alpha .*--lm"),
        ([dev, "--width", "8"], "--width .*--lm"),
    ):
        assert re.search(f"^error: .*{reason}", error_of("evaluate.py", "missing.nemo", *arguments))


@pytest.mark.slow
def test_manifests_of_all_sorts(small_model: Path, small_corpus: an4.Corpus, tmp_path: Path):
    model = load_model(small_model)
    utterances = manifest.read_manifest(small_corpus.manifest("test"))[:3]

    def evaluate(*texts: str, **more: object) -> evaluation.Result:
        path = tmp_path / "mine" / "manifest.json"
        path.parent.mkdir(exist_ok=True)
        lines = [
            {"audio_filepath": utterance["audio_filepath"], "duration": utterance["duration"], "text": text} | more
            for utterance, text in zip(utterances, texts, strict=False)
        ]
        manifest.write_manifest(path, lines)
        return evaluation.evaluate(model, path, batch_size=2, progress=False)

    result = evaluate("go", "", "née 2")
    assert result.words.words == 3 and result.corpus == "mine"
    assert result.unspellable == ["2", "é"]
    assert result.as_dict()["by_speaker"] == {} and result.as_dict()["training"] is None
    assert "an4" not in str(result).lower()
    single = evaluate("go")
    assert 0 <= single.ci95[0] <= single.wer <= single.ci95[1]
    with pytest.raises(InputError, match=r"manifest\.json"):
        evaluate("", " ")
    assert evaluate("go", offset=0.5, duration=0.4).duration == pytest.approx(0.4)
    assert evaluate("go", duration=0.4).duration == pytest.approx(0.4)
    with pytest.raises(InputError, match="milliseconds"):
        evaluate("go", offset=1500, duration=400)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.nemo", "m.json"], r"missing\.nemo"),
        (["missing.nemo", "m.json", "--compare", "none.json"], r"none\.tsv"),
        (["missing.nemo", "m.json", "--output", "results.txt"], r"results\.txt.*\.json"),
    ],
)
def test_the_command_says_what_is_wrong_before_the_slow_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
):
    monkeypatch.chdir(tmp_path)
    assert re.search(f"^error: .*{reason}", error_of("evaluate.py", *arguments))
