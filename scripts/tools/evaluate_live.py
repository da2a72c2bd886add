#!/usr/bin/env python3
"""Evaluate live recognition: its word error rate, and the delay from the end of a word to its text."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import kaldialign
import numpy as np
import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, LanguageModel, run

if TYPE_CHECKING:
    from asr_with_nemo.deployment.live import Heard, Listener

PIECE = 0.1
"""Seconds of audio per chunk."""
HISS = 4e-4
"""Standard deviation of the noise of a quiet room, -68 dB, as between the words of AN4."""


@dataclass(frozen=True)
class Utterance:
    """Utterance of the stream, with its reference and hypotheses.

    Attributes:
        text: the reference.
        ends: end of each word, in seconds from the start of the stream, by forced alignment.
        whole: offline hypothesis, for the file as a whole.
        shown: live hypotheses, each the words on the screen from a moment on, including the final texts so far.
    """

    text: str
    ends: list[float]
    whole: str
    shown: list[tuple[float, list[str]]]

    @property
    def heard(self) -> list[str]:
        """Words of the last live hypothesis."""
        return self.shown[-1][1] if self.shown else []

    def delays(self) -> Iterator[tuple[float, float]]:
        """Yield, for each correct word, the seconds from its end until it first appears, and until it stays."""
        said = heard = 0
        for reference, word in kaldialign.align(self.text.split(), self.heard, ""):
            if reference and reference == word:
                stands = [_stands(words, self.heard, heard) for _, words in self.shown]
                times = [moment for moment, _ in self.shown]
                last_without = max((place for place, there in enumerate(stands) if not there), default=-1)
                yield times[stands.index(True)] - self.ends[said], times[last_without + 1] - self.ends[said]
            said += bool(reference)
            heard += bool(word)


def _stands(words: list[str], heard: list[str], place: int) -> bool:
    """Return whether word number `place` of the last hypothesis is in an earlier one."""
    number = 0
    for word, other in kaldialign.align(heard, words, ""):
        if word:
            if number == place:
                return word == other
            number += 1
    return False


def main(
    model: Annotated[str, typer.Argument(help="An .onnx file, or an4, which ships with the course.")] = "an4",
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with reference transcripts.")] = Path(
        "data/an4/test_manifest.json"
    ),
    lm: LanguageModel = None,
    silence: Annotated[float, typer.Option(help="Seconds of silence after each utterance.")] = 0.8,
    digital: Annotated[bool, typer.Option("--digital", help="Use zeros for silence, without a room's noise.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Evaluate live recognition: its word error rate, and the delay from the end of a word to its text.

    The recordings form one stream with silence in between, which arrives in chunks of 0.1 s in real time. The clock is
    simulated: it advances to each chunk's arrival, and by the measured computing time, so that an hour of audio takes
    only as long as its computing. The end of each word comes from forced alignment on the whole file.
    """
    from asr_with_nemo.deployment import live, runtime
    from asr_with_nemo.recognition import beam, decoding, evaluation, transcripts
    from asr_with_nemo.recognition.results import save_measurement

    recognizer = runtime.Recognizer(model)
    search = None if lm is None else beam.load(decoding.language_model_path(model, lm), recognizer.labels)
    rows = evaluation.read_references(manifest)
    files = [row["audio_filepath"] for row in rows]
    files_outputs = [recognizer.output(log_probs) for log_probs in recognizer.log_probs(files)]
    wholes = [heard.text for heard in recognizer.transcribe(files, search=search)]
    noise = np.random.default_rng(0)
    stream, spans, texts = [], [], []
    start = 0.0
    for row, file_output in zip(rows, files_outputs, strict=True):
        (samples,) = transcripts.read([row["audio_filepath"]], recognizer.sample_rate)
        hiss = noise.normal(0, 0 if digital else HISS, round(silence * recognizer.sample_rate)).astype(np.float32)
        stream += [samples, hiss]
        text = " ".join(row["text"].split())
        letters = file_output.align(text)
        spaces = [place for place, letter in enumerate(letters) if letter.letter == " "]
        texts.append((text, [start + letters[place - 1].end for place in (*spaces, len(letters))]))
        seconds = (len(samples) + len(hiss)) / recognizer.sample_rate
        spans.append((start, start + seconds))
        start += seconds
    listener = live.Listener(recognizer, search)
    events, computed = listen(listener, np.concatenate(stream), recognizer.sample_rate)
    utterances = [
        Utterance(text, ends, whole, shown(events, *span))
        for (text, ends), whole, span in zip(texts, wholes, spans, strict=True)
    ]
    row = report(utterances, start, computed)
    if output:
        about = (
            f"{len(rows)} utterances as one stream in pieces of {PIECE:g} s, with {silence:g} s of silence after each. "
            "A word appears when it stands on the screen, and stays when it also does from then on; both are counted "
            "from its end by forced alignment. The recogniser hears the utterance again every 0.16 s."
        )
        command = shlex.join(
            ["python", "scripts/tools/evaluate_live.py", model, str(manifest)] + ["--lm"] * (lm is not None)
        )
        save_measurement(output, "Live recognition", about, [row], command)
        typer.echo(f"results: {output}")


def listen(listener: "Listener", sound: np.ndarray, rate: int) -> tuple[list[tuple[float, "Heard"]], float]:
    """Run the listener on a stream; return its events with their times, and the seconds of computing."""
    events, clock, computed = [], 0.0, 0.0
    size = round(PIECE * rate)
    pieces = [sound[first : first + size] for first in range(0, len(sound), size)]
    for number, piece in enumerate([*pieces, None]):
        clock = max(clock, (number + 1) * PIECE)
        started = time.perf_counter()
        heard = list(listener.finish() if piece is None else listener.feed(piece))
        seconds = time.perf_counter() - started
        clock, computed = clock + seconds, computed + seconds
        events += [(clock, one) for one in heard]
    return events, computed


def shown(events: list[tuple[float, "Heard"]], start: float, end: float) -> list[tuple[float, list[str]]]:
    """Select the hypotheses for speech between two moments, each with the time at which it appeared."""
    done: list[str] = []
    moments = []
    for moment, heard in events:
        if heard.words and start <= heard.words[0].start < end:
            moments.append((moment, done + heard.text.split()))
            if heard.final:
                done = moments[-1][1]
    return moments


def report(utterances: list[Utterance], duration: float, computed: float) -> dict[str, str]:
    """Print and return the word error rates, live and of whole files, and the delays."""
    from asr_with_nemo.recognition.wer import Counts, count_errors

    live = sum((count_errors(one.text, " ".join(one.heard)) for one in utterances), Counts())
    whole = sum((count_errors(one.text, one.whole) for one in utterances), Counts())
    delays = np.array([delay for utterance in utterances for delay in utterance.delays()])  # (words, 2)
    row = {
        name: f"{counts.rate:.1%}, {counts.errors} of {counts.words}"
        for name, counts in (("WER live", live), ("WER of whole files", whole))
    }
    for name, column in (("a word appears", 0), ("a word stays", 1)):
        for what, share in (("median", 50), ("95%", 95)):
            row[f"{name}, {what}"] = f"{np.percentile(delays[:, column], share):.2f} s"
    row["computing"] = f"{computed / duration:.1%} of the time"
    for name, value in row.items():
        typer.echo(f"{name}: {value}")
    return row


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
