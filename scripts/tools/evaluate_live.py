#!/usr/bin/env python3
"""Evaluate live recognition: its word error rate, and the delay from the end of a word to its text."""

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import kaldialign
import numpy as np
import typer

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, Decoder, LanguageModel, run
from asr_with_nemo.errors import InputError

if TYPE_CHECKING:
    from asr_with_nemo.deployment.cache_aware import CacheListener
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
        ends: end of each word, in seconds from the start of the stream, by forced alignment; empty without one.
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
        if not self.ends:
            return
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
    model: Annotated[
        str, typer.Argument(help="An .onnx file; an4, which ships with the course; or a cache-aware .nemo file.")
    ] = "an4",
    manifest: Annotated[Path, typer.Argument(help="A NeMo manifest with reference transcripts.")] = Path(
        "data/an4/test_manifest.json"
    ),
    lm: LanguageModel = None,
    silence: Annotated[float, typer.Option(help="Seconds of silence after each utterance.")] = 0.8,
    digital: Annotated[bool, typer.Option("--digital", help="Use zeros for silence, without a room's noise.")] = False,
    look_ahead: Annotated[
        str,
        typer.Option(help="Seconds that a cache-aware model hears ahead, separated by commas; by default all of its."),
    ] = "",
    decoder: Decoder = "",
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Evaluate live recognition: its word error rate, and the delay from the end of a word to its text.

    The recordings form one stream with silence in between, which arrives in chunks of 0.1 s in real time. The clock is
    simulated: it advances to each chunk's arrival, and by the measured computing time, so that an hour of audio takes
    only as long as its computing. The end of each word is the spike of its last letter in CTC's forced alignment of the
    whole file, which is usually before the end of the sound; a transducer without a CTC decoder has no delays. A
    cache-aware model is measured with each of its look-aheads.
    """
    from asr_with_nemo.recognition import evaluation
    from asr_with_nemo.recognition.results import save_measurement

    streams = Path(model).suffix in (".nemo", ".ckpt")
    if (lm is not None and streams) or ((look_ahead or decoder) and not streams):
        raise InputError(f"{model}: --lm is for .onnx files, --look-ahead and --decoder for cache-aware .nemo files")
    rows = evaluation.read_references(manifest)
    measured = []
    for way in _streaming(model, look_ahead, decoder) if streams else [_exported(model, lm)]:
        typer.echo(way.about)
        measured.append(measure(way, rows, silence, digital) | ({"look-ahead": way.look_ahead} if streams else {}))
    if output:
        about = (
            f"{len(rows)} utterances as one stream in pieces of {PIECE:g} s, with {silence:g} s of silence after each. "
            "A word appears when it stands on the screen, and stays when it also does from then on; both are counted "
            "from the spike of its last letter, by CTC's forced alignment; the letter's sound usually ends later. "
        )
        if streams:
            about += "The recogniser streams; whole files are recognised with the same look-ahead."
        else:
            about += "The recogniser hears the utterance again every 0.16 s."
        command = shlex.join(
            ["python", "scripts/tools/evaluate_live.py", model, str(manifest)]
            + ["--lm"] * (lm is not None)
            + [f"--look-ahead={look_ahead}"] * bool(look_ahead)
            + [f"--decoder={decoder}"] * bool(decoder)
        )
        title = f"Live recognition{' by a cache-aware model' if streams else ''}"
        save_measurement(output, title, about, measured, command)
        typer.echo(f"results: {output}")


@dataclass(frozen=True)
class Way:
    """A way to listen.

    Attributes:
        listener: of one stream.
        rate: of its samples, in Hz.
        about: the way it works, in words.
        transcribe: whole recordings, to their texts.
        align: a recording with its text, to its letters or pieces; None if the model can't.
        look_ahead: of a cache-aware model.
    """

    listener: "Listener | CacheListener"
    rate: int
    about: str
    transcribe: Callable[[list[np.ndarray]], list[str]]
    align: Callable[[np.ndarray, str], list] | None
    look_ahead: str = ""


def _exported(model: str, lm: str | None) -> Way:
    from asr_with_nemo.deployment import live, runtime
    from asr_with_nemo.recognition import beam, decoding

    recognizer = runtime.Recognizer(model)
    arpa = None if lm is None else decoding.language_model_path(model, lm)
    recognizer.check_decoder(search=arpa)
    search = beam.load(arpa, recognizer.labels) if arpa else None
    listener = live.Listener(recognizer, search)

    def align(samples: np.ndarray, text: str) -> list:
        return recognizer.output(recognizer.run([samples])[0]).align(text)

    return Way(
        listener,
        recognizer.sample_rate,
        listener.about,
        lambda sounds: [heard.text for heard in recognizer.transcribe(sounds, search=search)],
        align if recognizer.decoder == "ctc" else None,
    )


def _streaming(model: str, look_ahead: str, decoder: str) -> Iterator[Way]:
    from asr_with_nemo.deployment.cache_aware import StreamingModel
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.models.recognizer import decoders, describe
    from asr_with_nemo.recognition import decoding

    loaded = load_model(model)
    try:
        delays = [float(one) for one in look_ahead.split(",")] if look_ahead else describe(loaded).look_ahead
    except ValueError:
        raise InputError(f"--look-ahead {look_ahead}: expected seconds, separated by commas, as in 0.48,0.08") from None
    for delay in delays or [None]:
        streaming = StreamingModel(loaded, delay, decoder)
        listener = streaming.listener()
        yield Way(
            listener,
            streaming.sample_rate,
            listener.about,
            lambda sounds: [
                heard.text for heard in decoding.transcribe(loaded, sounds, progress=False, decoder=decoder)
            ],
            partial(decoding.align, loaded) if "ctc" in decoders(loaded) else None,
            f"{streaming.look_ahead:g} s",
        )


def measure(way: Way, rows: list[dict], silence: float, digital: bool) -> dict[str, str]:
    """Run a listener over the utterances of a manifest; print and return its figures."""
    from asr_with_nemo.recognition import transcripts

    sounds = transcripts.read([row["audio_filepath"] for row in rows], way.rate)
    wholes = way.transcribe(sounds)
    noise = np.random.default_rng(0)
    stream, spans, texts = [], [], []
    start = 0.0
    for row, samples in zip(rows, sounds, strict=True):
        hiss = noise.normal(0, 0 if digital else HISS, round(silence * way.rate)).astype(np.float32)
        stream += [samples, hiss]
        text = " ".join(row["text"].split())
        texts.append((text, [start + end for end in _ends(way, samples, text)]))
        seconds = (len(samples) + len(hiss)) / way.rate
        spans.append((start, start + seconds))
        start += seconds
    events, computed = listen(way.listener, np.concatenate(stream), way.rate)
    utterances = [
        Utterance(text, ends, whole, shown(events, *span))
        for (text, ends), whole, span in zip(texts, wholes, spans, strict=True)
    ]
    return report(utterances, start, computed)


def _ends(way: Way, samples: np.ndarray, text: str) -> list[float]:
    """Return the second of the spike of each word's last letter; an empty list if the model can't align."""
    if not way.align:
        return []
    letters = way.align(samples, text)
    letters = letters[1:] if letters[0].letter == " " else letters
    spaces = [place for place, letter in enumerate(letters) if letter.letter == " "]
    return [letters[place - 1].end for place in (*spaces, len(letters))]


def listen(
    listener: "Listener | CacheListener", sound: np.ndarray, rate: int
) -> tuple[list[tuple[float, "Heard"]], float]:
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
    delays = np.array([delay for utterance in utterances for delay in utterance.delays()]).reshape(-1, 2)
    row = {
        name: f"{counts.rate:.1%}, {counts.errors} of {counts.words}"
        for name, counts in (("WER live", live), ("WER of whole files", whole))
    }
    for name, column in (("a word appears", 0), ("a word stays", 1)) if len(delays) else ():
        for what, share in (("median", 50), ("95%", 95)):
            row[f"{name}, {what}"] = f"{np.percentile(delays[:, column], share):.2f} s"
    row["computing"] = f"{computed / duration:.1%} of the time"
    for name, value in row.items():
        typer.echo(f"{name}: {value}")
    return row


if __name__ == "__main__":
    run(main, bare=BARE_LANGUAGE_MODEL)
