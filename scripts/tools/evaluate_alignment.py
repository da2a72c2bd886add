#!/usr/bin/env python3
"""Measure `prepare_corpus.py --align` on a long recording whose true cuts are known: AN4's test set, joined."""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from asr_with_nemo.cli import changed, run

RATE = 16_000
OFF = 2.0
"""Seconds by which the times of the captions are off at most."""
TOUCH = 0.1
"""Seconds of a word that may be cut off: the model's own times are not more precise."""
PREPARE = Path(__file__).resolve().parents[1] / "prepare_corpus.py"


@dataclass(frozen=True)
class Spoken:
    """An utterance of the long recording: its text, where it is, and its words with their true times, in seconds."""

    text: str
    start: float
    end: float
    words: tuple[tuple[str, float, float], ...]


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared AN4.")] = Path("data/an4"),
    model: Annotated[str, typer.Option(help="The model to align with.")] = "an4",
    hours: Annotated[
        float, typer.Option(help="Length of the recording: the test set is repeated in other orders.")
    ] = 1,
    memory_hours: Annotated[
        float, typer.Option(help="Length of a second recording, whose memory is compared with the first's; 0: none.")
    ] = 10,
    swapped: Annotated[float, typer.Option(help="Share of the captions whose texts are swapped.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the order, the pauses and the times.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure how much of a long recording --align gets back as utterances with exactly the right text.

    The recording is AN4's test set, joined with pauses of 0.2 to 1.5 s. It is prepared with captions whose times are
    off by up to 2 s, with a text without times, and with captions of which some have swapped their texts. A word counts
    if it is in an utterance whose text is exactly what is said between its cuts. Then the memory that the command needs
    is measured for a much longer recording.

    Example:

        python scripts/tools/evaluate_alignment.py --output results/alignment.json
    """
    from asr_with_nemo.recognition.results import save_measurement

    utterances = read(data_dir, model)
    generator = random.Random(seed)
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for hours_long in filter(None, (hours, memory_hours)):
            folder = Path(scratch, f"{hours_long:g}")
            spoken = spoken_in(utterances, hours_long, folder / "talk.wav", generator)
            whole = list(cases(spoken, swapped, generator))
            for name, texts, timed in whole if hours_long == hours else whole[:1]:  # the longer one: for its memory
                lines.append({"": f"{hours_long:g} h, {name}", **measure(folder, texts, spoken, timed, model)})
                typer.echo(json.dumps(lines[-1]))
            (folder / "talk.wav").unlink()
    if output:
        command = f"python scripts/tools/evaluate_alignment.py --hours {hours:g} --memory-hours {memory_hours:g}"
        command += changed(main, data_dir=data_dir, model=model, swapped=swapped, seed=seed)
        save_measurement(output, "Alignment of long recordings", about(model), lines, command)
        typer.echo(f"results: {output}")


def about(model: str) -> str:
    """Return what the table of the results says above it."""
    return (
        f"`prepare_corpus.py --align {model}` on AN4's test set (its speakers are not in the model's training), joined "
        f"to a long recording with pauses of 0.2 to 1.5 s. Times are off by up to {OFF:g} s each. A word is right if "
        "it is in an utterance whose text is exactly what is said between its cuts, by the times of the recordings "
        "and, within them, of their forced alignment. The words of captions with another's text can hardly be right; "
        "the share of the words of all others is given too. Memory is the peak of the process, time that of the whole "
        "command, with other work beside it."
    )


# --- The recording and its texts --------------------------------------------------------------------------------------


def read(data_dir: Path, model: str) -> list[tuple[np.ndarray, Spoken]]:
    """Return the samples of each utterance of the test set, and its words."""
    from asr_with_nemo.data import audio, manifest
    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.recognition import decoding

    loaded, found = load_model(model), []
    for row in manifest.read_manifest(data_dir / "test_manifest.json"):
        samples = audio.load_audio(row["audio_filepath"], RATE)
        letters = decoding.align(loaded, samples, row["text"])
        words, at = [], 0
        for word in row["text"].split():
            words.append((word, letters[at].start, letters[at + len(word) - 1].end))
            at += len(word) + 1
        found.append((samples, Spoken(row["text"], 0.0, len(samples) / RATE, tuple(words))))
    return found


def spoken_in(
    utterances: Sequence[tuple[np.ndarray, Spoken]], hours: float, path: Path, generator: random.Random
) -> list[Spoken]:
    """Write the utterances, repeated in random orders, as one recording, and return where they are in it."""
    from asr_with_nemo.teaching.long_recording import join

    chosen: list[Spoken] = []

    def sounds() -> Iterator[np.ndarray]:
        seconds = 0.0
        while seconds < hours * 3600:
            for samples, one in generator.sample(utterances, len(utterances)):
                chosen.append(one)
                seconds += len(samples) / RATE + 0.85  # the mean pause
                yield samples

    places = join(path, sounds(), generator, RATE)
    return [
        replace(one, start=start, end=end, words=tuple((word, start + a, start + b) for word, a, b in one.words))
        for one, (start, end) in zip(chosen, places, strict=True)
    ]


def cases(spoken: Sequence[Spoken], swapped: float, generator: random.Random) -> Iterator[tuple[str, list[str], bool]]:
    """Yield what is measured: a name, the text of each utterance, and whether they have times."""
    right = [one.text for one in spoken]
    yield f"captions off by up to {OFF:g} s", right, True
    yield "a text without times", right, False
    wrong = list(right)
    chosen = generator.sample(range(len(right)), round(swapped * len(right)) // 2 * 2)
    for one, other in zip(chosen[::2], chosen[1::2], strict=True):
        wrong[one], wrong[other] = wrong[other], wrong[one]
    yield f"captions off, {swapped:.0%} of them with another's text", wrong, True


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(folder: Path, texts: Sequence[str], spoken: Sequence[Spoken], timed: bool, model: str) -> dict[str, str]:
    """Prepare a corpus, and return its figures, as written in the table."""
    from asr_with_nemo.teaching import long_recording

    captions, text = folder / "talk.srt", folder / "talk.txt"
    if timed:
        places = [(one.start, one.end) for one in spoken]
        long_recording.write_captions(captions, texts, places, random.Random(len(texts)), OFF)
    else:
        text.write_text("\n".join(texts) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        memory, seconds = prepare(folder, Path(scratch, "corpus"), model)
        with open(Path(scratch, "corpus", "rows.tsv"), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL))
    for path in (captions, text):
        path.unlink(missing_ok=True)
    kept = [row for row in rows if row["fate"] == "kept"]
    exact = [row for row in kept if is_exact(row, spoken)]
    found = {
        "words in exact utterances": share(words_of(exact), sum(len(one.words) for one in spoken)),
        "of captions not swapped": "",
        "utterances kept": f"{len(kept):,}",
        "of these exact": f"{len(exact) / len(kept):.1%}",
        "wrong texts found": "",
        "right ones dropped": "",
        "memory": f"{memory / 1024:,.0f} MB",
        "seconds": f"{seconds:,.0f}",
    }
    return found | of_captions(rows, exact, texts, spoken) if timed else found


def of_captions(
    rows: Sequence[dict], exact: Sequence[dict], texts: Sequence[str], spoken: Sequence[Spoken]
) -> dict[str, str]:
    """Return the figures of captions with their own text, and of those with another's.

    Args:
        rows: of the corpus.
        exact: those whose text is exact.
        texts: of the captions.
        spoken: what is said where the captions should be.
    """
    are_exact = {id(row) for row in exact}
    by_line = {int(row["place"].rsplit(" ", 1)[-1]): row for row in rows if row["place"]}
    assert len(by_line) == len(texts)
    fates = [row for _, row in sorted(by_line.items())]
    wrong = [text != one.text for text, one in zip(texts, spoken, strict=True)]
    bad = [row for row, is_wrong in zip(fates, wrong, strict=True) if is_wrong]
    good = [row for row, is_wrong in zip(fates, wrong, strict=True) if not is_wrong]
    found = {"right ones dropped": share(sum(row["fate"] != "kept" for row in good), len(good))}
    if bad:
        said = sum(len(one.words) for one, is_wrong in zip(spoken, wrong, strict=True) if not is_wrong)
        found["of captions not swapped"] = share(words_of(row for row in good if id(row) in are_exact), said)
        # A wrong text that was moved to where it is spoken is right again.
        caught = sum(row["fate"] != "kept" or id(row) in are_exact for row in bad)
        found["wrong texts found"] = share(caught, len(bad))
    return found


def words_of(rows: Iterable[dict]) -> int:
    """Return the number of words of some rows."""
    return sum(len(row["text"].split()) for row in rows)


def share(part: int, whole: int) -> str:
    """Return a share as it is written in the table.

    Example:
        >>> share(1, 8)
        '12.5% (1 of 8)'
    """
    return f"{part / whole:.1%} ({part:,} of {whole:,})"


def prepare(folder: Path, out: Path, model: str) -> tuple[float, float]:
    """Run prepare_corpus.py, and return its peak of memory in KiB and its seconds.

    Raises:
        RuntimeError: it failed.
    """
    started = time.monotonic()
    command = [sys.executable, str(PREPARE), str(folder), "--out", str(out), "--align", model, "--workers", "1"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)}:\n{log.read()[-3000:]}")
    return usage.ru_maxrss, time.monotonic() - started


def is_exact(row: dict, spoken: Sequence[Spoken]) -> bool:
    """Return whether a row's text is exactly what is said between its cuts."""
    start = float(row["start"])
    end = start + float(row["seconds"])
    said = []
    first = max(0, bisect(spoken, start, key=lambda one: one.start) - 1)
    for one in spoken[first:]:
        if one.start > end:
            break
        for word, begins, ends in one.words:
            inside = min(end, ends) - max(start, begins)
            if inside > TOUCH and inside < ends - begins - TOUCH:
                return False  # cut through
            if inside >= (ends - begins) / 2:
                said.append(word)
    return said == row["text"].split()


if __name__ == "__main__":
    run(main)
