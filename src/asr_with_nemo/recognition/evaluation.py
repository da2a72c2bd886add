"""Evaluation of a model on a manifest, tuning of a beam search, and results files with their utterances."""

import csv
import json
import operator
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from asr_with_nemo.base.files import check_output, replacing, write_if_changed
from asr_with_nemo.base.machine import code_commit, describe_machine, device_name, package_versions
from asr_with_nemo.base.spool import Spool, mapped
from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, sample_rate
from asr_with_nemo.models.names import model_path
from asr_with_nemo.recognition import decoding, transcripts
from asr_with_nemo.recognition.language_model import Weights
from asr_with_nemo.recognition.transcripts import Transcript
from asr_with_nemo.recognition.wer import Counts, ScoredUtterance, by_speaker, count_errors, total_errors, wer_interval

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

    from asr_with_nemo.recognition.beam import Grid, Search

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
"""Of the TSV next to a results file, with one row per utterance."""


# --- Evaluating a model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Result of evaluating a model on a manifest.

    Attributes:
        rows: scored utterances, in the manifest's order.
        corpus: "an4", "synthetic", or the name of the manifest's folder.
        decoder: "greedy", NeMo's name of another strategy, or a beam search with its language model and weights; with
            the decoder's name ("greedy, tdt") unless the model is a CTC model.
        model, manifest: paths as given ("" for a model without a file).
        duration: seconds of audio.
        seconds: computing time, from reading the files to the texts, without loading the model.
        device: name of the CPU or GPU.
        unspellable: characters of the references that the model's alphabet lacks.
        line_rate: sample rate in Hz of a simulated telephone line; None for none.
        unread: place in the manifest, from 0 → why an utterance can't be read; they aren't among the rows.
        heard: the transcripts with their words' confidences, in the manifest's order; empty if they aren't known.
    """

    rows: Sequence[ScoredUtterance]
    corpus: str
    decoder: str
    model: str
    manifest: str
    duration: float
    seconds: float
    device: str
    unspellable: list[str]
    line_rate: int | None = None
    heard: Sequence[Transcript] = ()
    unread: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def words(self) -> Counts:
        """Errors in words, summed over all utterances."""
        return total_errors(self.rows)

    @cached_property
    def characters(self) -> Counts:
        """Errors in characters, summed over all utterances."""
        return total_errors(self.rows, "character")

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
        """95% confidence interval of the WER, as fractions (`wer_interval`)."""
        return wer_interval(self.rows)

    @property
    def rtfx(self) -> float:
        """Inverse real-time factor: seconds of audio per second of computing."""
        return self.duration / self.seconds

    def as_dict(self) -> dict[str, object]:
        """Return the content of a results file; rates are fractions."""
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
            **({"unread": list(self.unread.values())} if self.unread else {}),
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
            "machine": describe_machine(self.device),
            "versions": package_versions(),
            "commit": code_commit(),
        }

    def __str__(self) -> str:
        """Format a short table for the terminal."""
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
            f"  RTFx  {self.rtfx:7.1f}  seconds of audio per second of computing, on {self.device}",
        ]
        speakers = [(speaker, counts) for speaker, counts in by_speaker(self.rows).items() if counts.words]
        if len(speakers) > 1:
            for name, (speaker, counts) in (("best", speakers[0]), ("worst", speakers[-1])):
                lines.append(f"  {name:5} {counts.rate:7.1%}  speaker {speaker}, {counts.words} words")
        if self.unread:
            first = next(iter(self.unread.values()))
            lines.append(
                f"  unread {len(self.unread):6,}  of {len(self.rows) + len(self.unread):,} utterances: {first}"
            )
        return "\n".join(lines)


def evaluate(
    model: "ASRModel",
    manifest_path: str | os.PathLike,
    batch_size: int = 16,
    model_path: str | os.PathLike = "",
    progress: bool = True,
    search: "Search | None" = None,
    line_rate: int | None = None,
    decoder: str = "",
    prompt: Mapping[str, str] | None = None,
) -> Result:
    """Transcribe a manifest and compare the hypotheses with its texts.

    The first batch is transcribed once before the clock starts, as a warm-up. An utterance that can't be read is left
    out (`Result.unread`).

    Args:
        model: from `models.loading.load_model`.
        manifest_path: some utterances may have an empty text, but not all.
        batch_size: utterances per batch.
        model_path: the model's source, for the results file.
        progress: show a progress bar.
        search: a beam search with a language model (`beam.load`); by default the model's own decoding.
        line_rate: simulate a telephone line of this sample rate in Hz (`audio.load_through`).
        decoder: "ctc", "rnnt" or "tdt", of a model that has several; by default a hybrid's transducer.
        prompt: what an attention decoder is told, as of `decoding.transcribe`.

    Raises:
        InputError: the manifest or all audio files can't be used, the manifest's texts have no words, or the model
            lacks the decoder or a slot or value of the prompt.
    """
    decoding.check_decoder(model, decoder, search)
    way = Way(
        lambda files, progress: decoding.transcribe_each(model, files, batch_size, progress, search, decoder, prompt),
        labels=alphabet(model),
        sample_rate=sample_rate(model),
        decoder=decoding.decoder_of(model, search, decoder, prompt),
        device=device_name(str(model.device)),
    )
    return measure(way, manifest_path, batch_size, model_path, progress, line_rate)


@dataclass(frozen=True)
class Way:
    """A way to transcribe: a model with its decoder, in NeMo or another runtime.

    Attributes:
        transcribe_each: takes recordings, and whether to show a progress bar; yields the transcripts, or errors, in
            order.
        labels: the letters or pieces that the model writes.
        sample_rate: of its input, in Hz.
        decoder, device: for the results file (`Result`).
    """

    transcribe_each: Callable[[Sequence[transcripts.Sound], bool], Iterator[Transcript | InputError]]
    labels: Sequence[str]
    sample_rate: int
    decoder: str
    device: str


def measure(
    way: Way,
    manifest_path: str | os.PathLike,
    batch_size: int = 16,
    model_path: str | os.PathLike = "",
    progress: bool = True,
    line_rate: int | None = None,
) -> Result:
    """As `evaluate`, for any way to transcribe. The number of utterances doesn't matter for memory."""
    references = read_references(manifest_path)

    def sound_of(utterance: manifest.Utterance) -> transcripts.Sound:
        clip = audio.clip_of(utterance)
        try:
            return audio.load_through(clip, line_rate, way.sample_rate) if line_rate else clip
        except InputError:
            return clip  # it is named when it is read

    files = mapped(references, sound_of)
    deque(way.transcribe_each(files[:batch_size], False), maxlen=0)
    started = time.perf_counter()
    utterances, heard, unread = Spool(), Spool(), {}
    results = zip(references, way.transcribe_each(files, progress), strict=True)
    for place, (utterance, result) in enumerate(results):
        if isinstance(result, InputError):
            unread[place] = str(result)
        else:
            utterances.append(utterance)
            heard.append(result)
    seconds = time.perf_counter() - started
    if not any(utterance["text"].split() for utterance in utterances):
        raise InputError(f"{manifest_path}: no utterance with words can be read ({next(iter(unread.values()))})")
    rows = make_rows(manifest_path, utterances, mapped(heard, operator.attrgetter("text")))
    letters: set[str] = set()
    for row in rows:
        letters.update(row.reference)
    return Result(
        rows,
        corpus=an4.corpus_of(manifest_path),
        decoder=way.decoder,
        model=str(model_path),
        manifest=str(manifest_path),
        duration=sum(transcript.duration for transcript in heard),
        seconds=seconds,
        device=way.device,
        unspellable=sorted(letters - {*"".join(way.labels), " "}),
        line_rate=line_rate,
        heard=heard,
        unread=unread,
    )


def read_references(manifest_path: str | os.PathLike) -> Spool[manifest.Utterance]:
    """Read a manifest with the reference texts of an evaluation.

    Raises:
        InputError: it can't be used, or its texts have no words.
    """
    utterances = Spool(manifest.each_utterance(manifest_path))
    if not any(utterance["text"].split() for utterance in utterances):
        raise InputError(f"{manifest_path}: its texts have no words, so the WER is undefined; add the reference texts")
    return utterances


def make_rows(
    manifest_path: str | os.PathLike, utterances: Sequence[manifest.Utterance], texts: Sequence[str]
) -> Spool[ScoredUtterance]:
    """Pair each utterance's reference with its hypothesis, in the manifest's order."""
    folder, rows = Path(manifest_path).parent.absolute(), Spool()
    for utterance, text in zip(utterances, texts, strict=True):
        row = ScoredUtterance(
            file=os.path.relpath(utterance["audio_filepath"], folder),
            speaker=str(utterance.get("speaker") or ""),
            reference=" ".join(utterance["text"].split()),
            hypothesis=" ".join(text.split()),
        )
        _ = row.words, row.characters  # counted once, and kept with the row
        rows.append(row)
    return rows


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 6)


def _training_of(model: str) -> dict | None:
    """Read the training summary next to the model (epochs, seed, seconds), as scripts/train.py writes it."""
    from asr_with_nemo.models.names import SUMMARY

    try:
        folder = model_path(model).resolve().parent  # a model's other name is a link
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8")) if model else None
    except (OSError, ValueError, InputError):
        return None


# --- Tuning a beam search ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuning:
    """Result of tuning a beam search.

    Attributes:
        weights: the chosen weights.
        trials: errors in words of each combination, in the order tried: first alpha and beta, then the width.
    """

    weights: Weights
    trials: dict[Weights, Counts]

    def __str__(self) -> str:
        weights, best = self.weights, min(counts.errors for counts in self.trials.values())
        chosen = self.trials[weights]
        return (
            f"tuned: alpha {weights.alpha:g}, beta {weights.beta:g}, width {weights.width}: {chosen.errors:,} errors "
            f"in {chosen.words:,} words; best of {len(self.trials)} combinations: {best:,} errors"
        )


def tune(
    search: "Search",
    log_probs: Sequence[np.ndarray],
    texts: Sequence[str],
    grid: "Grid | None" = None,
    progress: bool = True,
) -> Tuning:
    """Tune the weights of a beam search on word errors, by a grid search.

    A few errors are chance, so the single combination with the fewest errors is not the choice: the errors are smoothed
    over neighbouring alphas and betas (a Gaussian, one step wide), which finds the centre of the best region. Ties go
    to the smaller alpha, then to the beta nearest to 0. The width is then the smallest with the fewest errors.

    Args:
        search: from `beam.load`; alpha and beta are tuned at its width.
        log_probs: the acoustic model's output, (T, V) each (`decoding.log_probs`), for utterances that neither model
            was trained on.
        texts: the references.
        grid: the values to try; by default the search's own.
        progress: show a progress bar.

    Raises:
        InputError: the texts have no words.
    """
    from scipy import ndimage

    if not any(text.split() for text in texts):
        raise InputError("the texts have no words to tune on; take a manifest with reference texts")
    trials: dict[Weights, Counts] = {}

    def errors_with(weights: Weights) -> int:
        if weights not in trials:
            hypotheses = search.with_weights(weights).texts(log_probs)
            trials[weights] = sum(map(count_errors, texts, hypotheses), Counts())
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
    model: "ASRModel",
    manifest_path: str | os.PathLike,
    search: "Search",
    batch_size: int = 16,
    progress: bool = True,
) -> Tuning:
    """Tune a beam search on a model's output for a manifest; see `tune`.

    Raises:
        InputError: the manifest or an audio file can't be used, or the manifest's texts have no words.
    """
    utterances = read_references(manifest_path)
    files = [audio.clip_of(utterance) for utterance in utterances]
    log_probs = decoding.log_probs(model, files, batch_size, progress)
    return tune(search, log_probs, [utterance["text"] for utterance in utterances], progress=progress)


# --- Files ------------------------------------------------------------------------------------------------------------


def save(result: Result, path: str | os.PathLike, **more: object) -> None:
    """Write a results file and its utterances: results.json and results.tsv.

    Args:
        result: the result.
        path: the results file; ends in .json.
        more: further entries of the results file, such as the command that reproduces it.

    Raises:
        InputError: the path can't be written.
    """
    path = Path(path)
    check_output(path)
    try:
        with (
            replacing(path.with_suffix(".tsv"), only_if_changed=True) as partial,
            open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            table = csv.writer(file, delimiter="\t", lineterminator="\n")
            table.writerow(COLUMNS)
            for row in result.rows:
                counts = row.words
                rates = ("" if rate is None else f"{rate:.4f}" for rate in (counts.rate, row.characters.rate))
                numbers = (counts.words, counts.substitutions, counts.deletions, counts.insertions, *rates)
                table.writerow((row.file, row.speaker, *numbers, row.reference, row.hypothesis))
        # The results file comes last: if it exists, so do its utterances.
        write_if_changed(path, json.dumps(result.as_dict() | more, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror})") from error


def read_rows(path: str | os.PathLike) -> Spool[ScoredUtterance]:
    """Read the utterances of a results file, from the .tsv next to it.

    Raises:
        InputError: the .tsv doesn't exist, or isn't a table that `save` wrote.
    """
    path = Path(path).with_suffix(".tsv")
    fields = ("file", "speaker", "reference", "hypothesis")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, delimiter="\t", strict=True)
            missing = [name for name in fields if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: lacks the column {missing[0]!r}; expected {', '.join(COLUMNS)}")
            rows = Spool()
            for line in table:
                if None in line or None in line.values():
                    raise InputError(f"{path}, line {table.line_num}: expected {len(COLUMNS)} columns")
                rows.append(ScoredUtterance(**{name: line[name] for name in fields}))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; scripts/evaluate.py --output writes it next to its .json") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: can't be read as a table of utterances ({error})") from error
    if not rows:
        raise InputError(f"{path}: has no utterances; make it again with scripts/evaluate.py --output")
    return rows
