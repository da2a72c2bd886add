"""Word error rate with its raw counts, its 95% interval, and where the errors are.

WER = (S + D + I) / N: the fewest words to substitute, delete and insert that turn the reference into the hypothesis,
over all utterances, divided by the words of all references. CER is the same over characters. Runs of spaces count as
one. Of several equally short ways, `kaldialign` takes one; another program may split the same number of errors into
S, D and I a little differently.
"""

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from asr_with_nemo import an4, audio, decoding, manifest, pretrained
from asr_with_nemo.errors import InputError
from asr_with_nemo.language_model import Weights

if TYPE_CHECKING:
    from nemo.collections.asr.models import EncDecCTCModel

    from asr_with_nemo.beam import Grid, Search

Unit = Literal["word", "character"]

RESAMPLES, SEED = 10_000, 0
"""Of the bootstrap; the seed is fixed, so that the same result has the same interval."""

COLUMNS = (
    "file",
    "speaker",
    "words",
    "substitutions",
    "deletions",
    "insertions",
    "wer",
    "cer",
    "reference",
    "hypothesis",
)
"""Of the TSV that lies beside a results file: a row an utterance."""


# --- Counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Errors, and the words (for a CER: the characters) of the reference."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0

    @property
    def errors(self) -> int:
        """S + D + I."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors a word, 0 for none; None where the reference has no words."""
        return self.errors / self.words if self.words else None

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


def _units(text: str, unit: Unit) -> list[str]:
    return text.split() if unit == "word" else list(" ".join(text.split()))


def errors(reference: str, hypothesis: str, unit: Unit = "word") -> Counts:
    """Count the errors of a hypothesis, in words or in characters (spaces included)."""
    import kaldialign

    counts = kaldialign.edit_distance(_units(reference, unit), _units(hypothesis, unit))
    return Counts(counts["sub"], counts["del"], counts["ins"], counts["ref_len"])


@dataclass(frozen=True)
class Row:
    """One utterance of an evaluation; `file` is relative to the manifest's folder, `speaker` empty where unknown."""

    file: str
    speaker: str
    reference: str
    hypothesis: str

    @cached_property
    def words(self) -> Counts:
        """Errors in words."""
        return errors(self.reference, self.hypothesis)

    @cached_property
    def characters(self) -> Counts:
        """Errors in characters."""
        return errors(self.reference, self.hypothesis, "character")


def total(rows: Sequence[Row], unit: Unit = "word") -> Counts:
    """The errors of all utterances together."""
    return sum((row.words if unit == "word" else row.characters for row in rows), Counts())


def by_speaker(rows: Sequence[Row]) -> dict[str, Counts]:
    """Errors in words by speaker, the best first; empty where the manifest names no speakers."""
    groups = defaultdict(Counts)
    for row in rows:
        if row.speaker:
            groups[row.speaker] += row.words
    return dict(sorted(groups.items(), key=lambda item: (item[1].rate or 0, item[0])))


def confusions(rows: Sequence[Row], unit: Unit = "word") -> Counter[tuple[str, str]]:
    """How often what was taken for what: (reference, hypothesis) → times.

    ("nine", "five") is a substitution, ("nine", "") a deletion, ("", "nine") an insertion. What is right isn't counted.
    """
    import kaldialign

    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        pairs = kaldialign.align(_units(row.reference, unit), _units(row.hypothesis, unit), "")
        counts.update(tuple(pair) for pair in pairs if pair[0] != pair[1])
    return counts


def of_letters(confusions: Mapping[tuple[str, str], int]) -> Counter[tuple[str, str]]:
    """Those of the confusions of words that are about a letter said by its name, a word of one letter.

    Also counted is a letter that was heard where nothing was said.
    """
    return Counter({pair: times for pair, times in confusions.items() if len(pair[0] or pair[1]) == 1})


# --- Chance -----------------------------------------------------------------------------------------------------------


def interval(rows: Sequence[Row]) -> tuple[float, float]:
    """The 95% interval of the WER, by a percentile bootstrap over utterances.

    Utterances are drawn with replacement, as many as there are, `RESAMPLES` times. Source: M. Bisani and H. Ney,
    "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004. It takes utterances as
    independent; where a speaker says many, the truth is wider.
    """
    return _bootstrap([row.words.errors for row in rows], [row.words.words for row in rows])


def _bootstrap(errors: Sequence[int], words: Sequence[int]) -> tuple[float, float]:
    from scipy import stats

    def rate(errors: np.ndarray, words: np.ndarray, axis: int = -1) -> np.ndarray:
        # A draw of nothing but empty references has no words: its rate counts as errors, not as nan.
        return errors.sum(axis) / np.maximum(words.sum(axis), 1)

    data = np.array(errors), np.array(words)
    if len(data[0]) < 2:  # every draw is the same
        return float(rate(*data)), float(rate(*data))
    result = stats.bootstrap(
        data,
        rate,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // len(data[0])),  # some megabytes at a time
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@dataclass(frozen=True)
class Comparison:
    """Two results on the same utterances.

    Attributes:
        this, other: errors in words of the two.
        ci95: 95% interval of the difference this WER - other WER, by a bootstrap over pairs of utterances.
    """

    this: Counts
    other: Counts
    ci95: tuple[float, float]

    @property
    def difference(self) -> float:
        """This WER - the other; below zero where this one is better."""
        return self.this.rate - self.other.rate

    @property
    def is_more_than_chance(self) -> bool:
        """Whether zero lies outside the 95% interval."""
        return not self.ci95[0] <= 0 <= self.ci95[1]

    def __str__(self) -> str:
        low, high = (f"{100 * bound:+.1f}" for bound in self.ci95)
        figures = f"WER {self.this.rate:.1%} against {self.other.rate:.1%}"
        if self.this.errors == self.other.errors and self.ci95 == (0, 0):
            return f"{figures}: no difference, utterance by utterance"
        figures += f": {100 * self.difference:+.1f} points, 95% interval {low} to {high}"
        if not self.is_more_than_chance:
            return f"{figures}; no difference that chance could not have made"
        return f"{figures}; {'better' if self.difference < 0 else 'worse'}, by more than chance"


def compare(rows: Sequence[Row], others: Sequence[Row]) -> Comparison:
    """Whether two results on the same utterances differ by more than chance (paired bootstrap).

    Raises:
        InputError: the two aren't of the same utterances with the same references.
    """
    ours, theirs = ({(row.file, row.reference): row for row in side} for side in (rows, others))
    if len(rows) != len(others) or ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        example = f"; {alone[0][0]} ({alone[0][1]!r}) is in one only" if alone else ""
        raise InputError(
            f"the two results are not of the same utterances ({len(rows)} and {len(others)}){example}; "
            "evaluate both models on the same manifest"
        )
    pairs = [(ours[key], theirs[key]) for key in ours]
    differences = [one.words.errors - other.words.errors for one, other in pairs]
    ci95 = _bootstrap(differences, [one.words.words for one, _ in pairs])
    return Comparison(total(rows), total(others), ci95)


def mean_of_seeds(trainings: Sequence[Sequence[Row]]) -> tuple[float, tuple[float, float]]:
    """The mean WER of several trainings on the same utterances, and its 95% interval.

    The bootstrap draws utterances, each with what all the trainings made of it: it says how far another test set might
    lead elsewhere, and not another seed. The spread of the trainings themselves says that.

    Raises:
        InputError: they aren't of the same utterances.
    """
    errors, words = (counts.sum(0) for counts in _by_utterance(trainings))
    return float(errors.sum() / words.sum()), _bootstrap(errors, words)


def difference_of_seeds(
    these: Sequence[Sequence[Row]], others: Sequence[Sequence[Row]]
) -> tuple[float, tuple[float, float]]:
    """The mean WER of some trainings minus that of others, and its 95% interval by a bootstrap over utterances.

    Raises:
        InputError: they aren't of the same utterances, or not as many on both sides.
    """
    if len(these) != len(others):
        raise InputError(f"{len(these)} trainings against {len(others)}; expected as many on both sides")
    errors, words = _by_utterance([*these, *others])
    ours, theirs = errors[: len(these)].sum(0), errors[len(these) :].sum(0)
    words = words[: len(these)].sum(0)
    return float((ours.sum() - theirs.sum()) / words.sum()), _bootstrap(ours - theirs, words)


def _by_utterance(trainings: Sequence[Sequence[Row]]) -> tuple[np.ndarray, np.ndarray]:
    """Errors and words, (trainings, utterances) each, the utterances in one order.

    Raises:
        InputError: the trainings aren't of the same utterances.
    """
    tables = [{(row.file, row.reference): row.words for row in rows} for rows in trainings]
    if any(table.keys() != tables[0].keys() for table in tables):
        raise InputError("the results are not of the same utterances; evaluate all models on the same manifest")
    order = sorted(tables[0])
    counts = [[table[key] for key in order] for table in tables]
    errors = np.array([[count.errors for count in row] for row in counts])
    return errors, np.array([[count.words for count in row] for row in counts])


# --- Evaluating a model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a model made of a manifest.

    Attributes:
        rows: an utterance each, in the manifest's order.
        corpus: "an4", "synthetic", or the name of the manifest's folder.
        decoder: "greedy", NeMo's name of another strategy, or a beam search with its language model and weights.
        model, manifest: their paths as given ("" for a model that came from no file).
        duration: seconds of sound.
        seconds: of computing, from reading the files to the texts; loading the model is not in it.
        device: what computed.
        unspellable: letters of the references that the model's alphabet lacks.
        line_rate: of the line in Hz that the sound went through; None for none.
    """

    rows: list[Row]
    corpus: str
    decoder: str
    model: str
    manifest: str
    duration: float
    seconds: float
    device: str
    unspellable: list[str]
    line_rate: int | None = None

    @cached_property
    def words(self) -> Counts:
        """Errors in words, over all utterances."""
        return total(self.rows)

    @cached_property
    def characters(self) -> Counts:
        """Errors in characters, over all utterances."""
        return total(self.rows, "character")

    @property
    def wer(self) -> float:
        """Word error rate, as a fraction."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate, as a fraction."""
        return self.characters.rate

    @cached_property
    def ci95(self) -> tuple[float, float]:
        """The 95% interval of the WER."""
        return interval(self.rows)

    @property
    def rtfx(self) -> float:
        """Seconds of sound per second of computing."""
        return self.duration / self.seconds

    def as_dict(self) -> dict[str, object]:
        """What a results file holds; rates are fractions."""
        speakers = {
            speaker: {"wer": _rounded(counts.rate), "errors": counts.errors, "words": counts.words}
            for speaker, counts in sorted(by_speaker(self.rows).items())
        }
        return {
            "wer": _rounded(self.wer),
            "cer": _rounded(self.cer),
            "errors": self.words.errors,
            "words": self.words.words,
            "ci95": [_rounded(bound) for bound in self.ci95],
            "utterances": len(self.rows),
            "corpus": self.corpus,
            "decoder": self.decoder,
            "line_rate": self.line_rate,
            "rtfx": round(self.rtfx, 1),
            "substitutions": self.words.substitutions,
            "deletions": self.words.deletions,
            "insertions": self.words.insertions,
            "character_errors": self.characters.errors,
            "characters": self.characters.words,
            "by_speaker": speakers,
            "unspellable": self.unspellable,
            "model": self.model,
            "manifest": self.manifest,
            "training": _training_of(self.model),
            "duration": round(self.duration, 2),
            "seconds": round(self.seconds, 3),
            "machine": machine(self.device),
            "versions": versions(),
            "commit": commit(),
        }

    def __str__(self) -> str:
        """A short table for the terminal."""
        title = {"an4": "AN4", "synthetic": "synthetic stand-in, not AN4"}.get(self.corpus, self.corpus)
        line = f" through a line of {self.line_rate:,} Hz" if self.line_rate else ""
        low, high = self.ci95
        words, characters = self.words, self.characters
        lines = [
            f"{title}{line}, {self.manifest}: {len(self.rows)} utterances, {self.duration:.0f} s of sound, "
            f"{self.decoder}",
            f"  WER   {self.wer:7.1%}  {words.errors:,} errors in {words.words:,} words, 95% interval {low:.1%} to "
            f"{high:.1%}",
            f"                 {words.substitutions:,} substitutions, {words.deletions:,} deletions, "
            f"{words.insertions:,} insertions",
            f"  CER   {self.cer:7.1%}  {characters.errors:,} errors in {characters.words:,} characters",
            f"  RTFx  {self.rtfx:7.1f}  seconds of sound a second of computing, on {self.device}",
        ]
        speakers = [(speaker, counts) for speaker, counts in by_speaker(self.rows).items() if counts.words]
        if len(speakers) > 1:
            for name, (speaker, counts) in (("best", speakers[0]), ("worst", speakers[-1])):
                lines.append(f"  {name:5} {counts.rate:7.1%}  speaker {speaker}, {counts.words} words")
        return "\n".join(lines)


def evaluate(
    model: "EncDecCTCModel",
    manifest_path: str | os.PathLike,
    batch_size: int = 16,
    model_path: str | os.PathLike = "",
    progress: bool = True,
    search: "Search | None" = None,
    line_rate: int | None = None,
) -> Result:
    """Transcribe a manifest and compare with its texts.

    The first batch is done once before the clock starts, because the first call of anything is slow.

    Args:
        model: as `decoding.load_model` gives it.
        manifest_path: an utterance's text may be empty, not all of them.
        batch_size: utterances at a time.
        model_path: where the model came from, for the record.
        progress: show a progress bar.
        search: a beam search with a language model (`beam.load`); by default the model's own decoding.
        line_rate: hear the recordings through a line of this rate in Hz (`audio.load_through`).

    Raises:
        InputError: the manifest or a sound file can't be used, or the manifest's texts have no word.
    """
    utterances = read_references(manifest_path)
    files = [utterance["audio_filepath"] for utterance in utterances]
    if line_rate:
        files = [audio.load_through(file, line_rate, model.cfg.preprocessor.sample_rate) for file in files]
    decoding.transcribe(model, files[:batch_size], batch_size, progress=False, search=search)
    started = time.perf_counter()
    transcripts = decoding.transcribe(model, files, batch_size, progress, search)
    seconds = time.perf_counter() - started
    rows = make_rows(manifest_path, utterances, [transcript.text for transcript in transcripts])
    return Result(
        rows,
        corpus=an4.corpus_of(manifest_path),
        decoder=decoding.decoder_of(model, search),
        model=str(model_path),
        manifest=str(manifest_path),
        duration=sum(transcript.duration for transcript in transcripts),
        seconds=seconds,
        device=device_name(str(model.device)),
        unspellable=sorted(set("".join(row.reference for row in rows)) - {*"".join(decoding.alphabet(model)), " "}),
        line_rate=line_rate,
    )


def read_references(manifest_path: str | os.PathLike) -> list[manifest.Utterance]:
    """Read a manifest to measure on.

    Raises:
        InputError: it can't be used, none of its texts has a word, or it cuts utterances out of longer files.
    """
    utterances = manifest.read_manifest(manifest_path)
    if not any(utterance["text"].split() for utterance in utterances):
        raise InputError(f"{manifest_path}: none of its texts has a word, so there is no word error rate")
    if any(utterance.get("offset") for utterance in utterances):
        raise InputError(f"{manifest_path}: cuts utterances out of longer files (offset); cut the files first")
    return utterances


def make_rows(
    manifest_path: str | os.PathLike, utterances: Sequence[manifest.Utterance], texts: Sequence[str]
) -> list[Row]:
    """What was heard beside what was said, an utterance a row."""
    folder = Path(manifest_path).parent.absolute()
    return [
        Row(
            file=os.path.relpath(utterance["audio_filepath"], folder),
            speaker=str(utterance.get("speaker") or ""),
            reference=" ".join(utterance["text"].split()),
            hypothesis=" ".join(text.split()),
        )
        for utterance, text in zip(utterances, texts, strict=True)
    ]


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 6)


def device_name(device: str = "cpu") -> str:
    """The name of what computes: of the processor, or of the GPU that torch calls `device`."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def machine(device: str) -> dict[str, object]:
    """The machine, for a results file."""
    return {"device": device, "cores": os.cpu_count(), "platform": platform.platform()}


def versions() -> dict[str, str]:
    """The versions that matter for a result."""
    packages = {name: metadata.version(name) for name in ("torch", "nemo_toolkit", "kaldialign", "scipy")}
    return {"python": platform.python_version(), **packages}


def commit() -> str | None:
    """The commit of this code, `-dirty` where files differ from it; None outside a repository."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def _training_of(model: str) -> dict | None:
    """What scripts/train.py noted beside the model: epochs, seed, seconds."""
    from asr_with_nemo import training

    try:
        folder = pretrained.model_path(model).resolve().parent  # a model's other name is a link
        return json.loads((folder / training.SUMMARY).read_text(encoding="utf-8")) if model else None
    except (OSError, ValueError, InputError):
        return None


# --- Tuning a beam search ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuning:
    """What a beam search was tuned to, and what was tried.

    Attributes:
        weights: the choice.
        trials: the errors in words of each combination that was tried: first alpha and beta, then the width.
    """

    weights: Weights
    trials: dict[Weights, Counts]

    def __str__(self) -> str:
        weights, best = self.weights, min(counts.errors for counts in self.trials.values())
        chosen = self.trials[weights]
        return (
            f"tuned: alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}: {chosen.errors:,} errors "
            f"in {chosen.words:,} words; of {len(self.trials)} combinations the luckiest made {best:,}"
        )


def tune(
    search: "Search",
    log_probs: Sequence[np.ndarray],
    texts: Sequence[str],
    grid: "Grid | None" = None,
    progress: bool = True,
) -> Tuning:
    """Choose the weights of a beam search by the word errors that they make.

    A handful of errors is chance, so the choice is not the one combination with the fewest: the errors are smoothed
    over neighbouring alphas and betas (a Gaussian, one step wide), which leads to the middle of the best region. Of
    equals the smaller alpha, then the smaller beta is taken; then the smallest width that no wider one is better than.

    Args:
        search: as `beam.load` gives it; alpha and beta are tuned at its width.
        log_probs: the outputs of utterances that neither model was made of, (T, V) each, as `decoding.log_probs` gives
            them.
        texts: what was said.
        grid: what to try; by default the search's own.
        progress: show a progress bar.

    Raises:
        InputError: the texts have no word.
    """
    from scipy import ndimage

    if not any(text.split() for text in texts):
        raise InputError("texts without a word: there are no errors to tune by")
    trials: dict[Weights, Counts] = {}

    def errors_with(weights: Weights) -> int:
        if weights not in trials:
            hypotheses = search.with_weights(weights).texts(log_probs)
            trials[weights] = sum(map(errors, texts, hypotheses), Counts())
        return trials[weights].errors

    alphas, betas, widths = grid or search.grid
    made = np.zeros((len(alphas), len(betas)))
    for row, column in tqdm(list(np.ndindex(made.shape)), desc="tuning", delay=1, leave=False, disable=not progress):
        made[row, column] = errors_with(Weights(alphas[row], betas[column], search.weights.width))
    smooth = ndimage.gaussian_filter(made, sigma=1, mode="nearest").round(6)
    row, column = min(np.ndindex(made.shape), key=lambda at: (smooth[at], alphas[at[0]], abs(betas[at[1]])))
    by_width = [Weights(alphas[row], betas[column], width) for width in sorted(widths)]
    least = min(map(errors_with, by_width))
    return Tuning(next(weights for weights in by_width if errors_with(weights) == least), trials)


def tune_on(
    model: "EncDecCTCModel",
    manifest_path: str | os.PathLike,
    search: "Search",
    batch_size: int = 16,
    progress: bool = True,
) -> Tuning:
    """As `tune`, on a model's outputs for a manifest.

    Raises:
        InputError: the manifest or a sound file can't be used, or the manifest's texts have no word.
    """
    utterances = read_references(manifest_path)
    files = [utterance["audio_filepath"] for utterance in utterances]
    log_probs = decoding.log_probs(model, files, batch_size, progress)
    return tune(search, log_probs, [utterance["text"] for utterance in utterances], progress=progress)


# --- Files ------------------------------------------------------------------------------------------------------------


def check_output(path: str | os.PathLike) -> None:
    """Make sure, before any time is lost, that a results file can be written.

    Raises:
        InputError: it can't, or its name doesn't end in .json.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"{path}: a results file's name ends in .json; the utterances go beside it, in a .tsv")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(path.name + ".partial")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: can't be written to ({error.strerror})") from error


def save(result: Result, path: str | os.PathLike, **more: object) -> None:
    """Write a results file, and the utterances beside it: results.json and results.tsv.

    Args:
        result: what to write.
        path: ends in .json.
        more: further entries of the results file, such as the command that makes it again.

    Raises:
        InputError: it can't be written there.
    """
    path = Path(path)
    check_output(path)
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(COLUMNS)
    for row in result.rows:
        counts = row.words
        rates = ("" if rate is None else f"{rate:.4f}" for rate in (counts.rate, row.characters.rate))
        numbers = (counts.words, counts.substitutions, counts.deletions, counts.insertions, *rates)
        table.writerow((row.file, row.speaker, *numbers, row.reference, row.hypothesis))
    try:
        manifest.write_if_changed(path.with_suffix(".tsv"), text.getvalue())
        # The results file comes last: where it is, the utterances are there too.
        manifest.write_if_changed(path, json.dumps(result.as_dict() | more, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def read_rows(path: str | os.PathLike) -> list[Row]:
    """Read the utterances of a results file, from the .tsv beside it.

    Raises:
        InputError: they aren't there, or aren't a table that `save` wrote.
    """
    path = Path(path).with_suffix(".tsv")
    fields = ("file", "speaker", "reference", "hypothesis")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", strict=True)
            missing = [name for name in fields if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: lacks the column {missing[0]!r}; expected {', '.join(COLUMNS)}")
            rows = []
            for line in table:
                if None in line or None in line.values():
                    raise InputError(f"{path}, line {table.line_num}: expected {len(COLUMNS)} columns")
                rows.append(Row(**{name: line[name] for name in fields}))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; scripts/evaluate.py --output writes it beside its .json") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as a table of utterances ({error})") from error
    if not rows:
        raise InputError(f"{path}: holds no utterances")
    return rows
