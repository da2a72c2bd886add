#!/usr/bin/env python3
"""Measure what joining recordings, their level and their format do to the WER: AN4's test set in each form."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from asr_with_nemo.cli import changed, run

RATE = 16_000
CODECS = {"m4a": "aac", "webm": "libopus", "opus": "libopus", "mp3": "mp3"}
"""Endings of files, and FFmpeg's names of the codecs."""
BITS = 64_000
"""A second, in these formats."""


def main(
    data_dir: Annotated[Path, typer.Option(help="Folder of the prepared AN4.")] = Path("data/an4"),
    split: Annotated[str, typer.Option(help="The set: test, or dev to tune on.")] = "test",
    model: Annotated[str, typer.Option(help="An exported model; for dev, one that hasn't trained on it.")] = "an4",
    orders: Annotated[int, typer.Option(min=1, help="Orders in which the recordings are joined.")] = 3,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures to this file (results/NAME.json), for RESULTS.md.")
    ] = None,
) -> None:
    """Measure what joining recordings, their level and their format do to the WER.

    AN4's recordings are transcribed file by file; joined to one recording in several ways, with neighbours of other
    speakers, noise and levels; as quiet files; and as copies in other formats. The parameters of data/pauses.py were
    chosen on dev.

    Example:

        python scripts/tools/evaluate_joined.py --output results/joined.json
    """
    from asr_with_nemo.data import audio, manifest
    from asr_with_nemo.deployment.runtime import Recognizer
    from asr_with_nemo.recognition import wer
    from asr_with_nemo.recognition.results import save_measurement

    recognizer = Recognizer(model)
    rows = manifest.read_manifest(data_dir / f"{split}_manifest.json")
    sounds = [audio.load_audio(row["audio_filepath"], RATE) for row in rows]
    texts = [row["text"] for row in rows]

    def errors(references: Sequence[str], recordings: Sequence[object]) -> tuple[int, int]:
        heard = recognizer.transcribe(recordings)
        counts = [wer.count_errors(one, other.text) for one, other in zip(references, heard, strict=True)]
        return sum(count.errors for count in counts), sum(count.words for count in counts)

    found = {"file by file": errors(texts, sounds)}
    for order in range(orders):
        generator = np.random.default_rng(order)
        places = generator.permutation(len(sounds))
        whole = " ".join(texts[place] for place in places)
        for name, sound in joined([sounds[place] for place in places], generator):
            wrong, words = errors([whole], [sound])
            before = found.get(name, (0, 0))
            found[name] = before[0] + wrong, before[1] + words
    for name, level in (("files at -42 dBFS", -42.0), ("files at -60 dBFS", -60.0)):
        found[name] = errors(texts, [at_level(sound, level) for sound in sounds])
    with tempfile.TemporaryDirectory() as scratch:
        for suffix, codec in CODECS.items():
            copies = [Path(scratch, f"{number}.{suffix}") for number in range(len(sounds))]
            for copy, sound in zip(copies, sounds, strict=True):
                encode(sound, copy, codec)
            found[f"files as {suffix}"] = errors(texts, copies)
    base = found["file by file"][0] / found["file by file"][1]
    lines = [
        {"": name, "WER": f"{wrong / words:.1%}", "errors": f"{wrong:,} of {words:,}"}
        | {"against file by file": f"{100 * (wrong / words - base):+.1f} points"}
        for name, (wrong, words) in found.items()
    ]
    for line in lines:
        typer.echo(json.dumps(line))
    if output:
        about = (
            f"AN4's {split} set by the model {Path(model).stem}: file by file, joined to one recording in {orders} "
            "random orders (so that neighbours are other people, with other noise), at other levels, and as copies in "
            f"other formats, of {BITS // 1000} kbit/s. A level is the power of the loudest twentieth of the frames of "
            "20 ms."
        )
        command = f"python scripts/tools/evaluate_joined.py --split {split} --orders {orders}"
        command += changed(main, data_dir=data_dir, model=model)
        save_measurement(output, "Joined recordings, quiet ones, and other formats", about, lines, command)
        typer.echo(f"results: {output}")


def joined(sounds: Sequence[np.ndarray], generator: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield recordings that consist of all sounds, (t,) each, with the names of the ways to join them."""
    yield "joined as they are", np.concatenate(sounds)
    for pause in (0.2, 0.5, 1.5):
        silence = np.zeros(round(pause * RATE), np.float32)
        yield f"joined, {pause} s of silence between", np.concatenate([x for one in sounds for x in (one, silence)])
    noise = [np.resize(one[: RATE // 5], RATE // 2) for one in sounds]
    yield (
        "joined, 0.5 s of each one's noise after it",
        np.concatenate([x for pair in zip(sounds, noise, strict=True) for x in pair]),
    )
    yield "joined, 0.1 s of quiet left around the speech", np.concatenate([trimmed(one, 0.1) for one in sounds])
    levels = 10 ** (generator.uniform(-30, 0, len(sounds)) / 20)
    louder = [one * np.float32(level) for one, level in zip(sounds, levels, strict=True)]
    yield "joined, levels that differ by up to 30 dB", np.concatenate(louder)


def trimmed(sound: np.ndarray, kept: float) -> np.ndarray:
    """Return a sound, (t,), with so many seconds of quiet before and after its speech."""
    from asr_with_nemo.data.audio import frame_powers
    from asr_with_nemo.data.pauses import loud_frames

    speech = np.flatnonzero(loud_frames(frame_powers(sound, RATE // 50))) * (RATE // 50)
    return sound[max(0, speech[0] - round(kept * RATE)) : speech[-1] + RATE // 50 + round(kept * RATE)]


def at_level(sound: np.ndarray, level: float) -> np.ndarray:
    """Return a sound, (t,), at a level in dB of full scale, with 16 bits a sample as files have them."""
    from asr_with_nemo.data.audio import frame_powers

    power = np.percentile(frame_powers(sound, RATE // 50), 95)
    return np.round(sound * 10 ** (level / 20) / np.sqrt(power) * 32768).astype(np.float32) / 32768


def encode(sound: np.ndarray, path: Path, codec: str) -> None:
    """Write a sound, (t,), by FFmpeg."""
    import av

    with av.open(str(path), "w") as file:
        rate = 48_000 if codec == "libopus" else RATE
        stream = file.add_stream(codec, rate=rate, layout="mono", bit_rate=BITS)
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.frame_size or None)
        for resampled in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(resampled))
        file.mux(stream.encode(None))


if __name__ == "__main__":
    run(main)
