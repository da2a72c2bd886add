"""Long recordings made of a corpus's utterances, with captions whose times are off: as people have them."""

import json
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.recognition.formats import clock

OFF = 2.0
"""Seconds by which the times of captions are off at most."""
_LINE_RATE = 8_000  # Hz, of a telephone
_SWAPPED = ".swapped.json"  # hidden, so that nobody takes it for a table of texts
_LOUDEST, _QUIETEST = -3.0, -13.0  # dB of full scale, of a caller's highest peak
_CLEAREST, _NOISIEST = 25.0, 5.0  # dB, from a caller's speech to the noise of the line


def join(path: Path, sounds: Iterable[np.ndarray], generator: random.Random, rate: int) -> list[tuple[float, float]]:
    """Write recordings, with a pause of 0.2 to 1.5 s before each, as one.

    Args:
        path: of the WAV; its folder is made.
        sounds: mono samples in [-1, 1], (t,), of each.
        generator: of the pauses, and of the faint noise in them.
        rate: of the samples, in Hz.

    Returns:
        start and end of each recording, in seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    places, at = [], 0
    noise = np.random.default_rng(generator.randrange(1 << 30))
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for samples in sounds:
            pause = noise.normal(0, 1e-4, round(generator.uniform(0.2, 1.5) * rate)).astype(np.float32)
            file.write(pause)
            file.write(samples)
            places.append(((at + len(pause)) / rate, (at + len(pause) + len(samples)) / rate))
            at += len(pause) + len(samples)
    return places


def write_captions(
    path: Path, texts: Sequence[str], places: Sequence[tuple[float, float]], generator: random.Random, off: float = OFF
) -> None:
    """Write captions (SRT) for places in seconds, each moved by up to `off` seconds, start and end together."""
    blocks = []
    for number, (text, place) in enumerate(zip(texts, places, strict=True), 1):
        moved = generator.uniform(-off, off)
        start, end = (clock(max(0.0, time + moved), ",") for time in place)
        blocks.append(f"{number}\n{start} --> {end}\n{text}\n")
    path.write_text("\n".join(blocks), encoding="utf-8")


def make_calls(corpus: an4.Corpus, folder: Path, utterances: int, wrong: float = 0.05, seed: int = 0) -> Path:
    """Make two evenings of telephone calls from a corpus, with captions, unless they are there.

    `folder/train/monday.wav` holds utterances of the corpus's training set, `folder/test/tuesday.wav` its test set, at
    8 kHz. Each speaker has a level and a noise of their own. Beside each is an .srt, whose lines begin with the
    speaker in capitals, and whose times are off by up to 2 s. On Monday some captions have another one's text.

    Args:
        corpus: as prepared by `an4.prepare`.
        folder: to write to.
        utterances: of Monday, at most; drawn by the seed.
        wrong: share of Monday's captions with another one's text.
        seed: of all that is drawn.

    Returns:
        the folder of this corpus and these settings, within `folder`.
    """
    finished = folder / f"{corpus.name}-{corpus.limit or 'whole'}-{utterances}-{wrong:g}-{seed}"
    if (finished / _SWAPPED).is_file():
        return finished
    made = finished.with_name(f".{finished.name}.partial")
    shutil.rmtree(made, ignore_errors=True)  # of a run that was stopped
    generator = random.Random(seed)
    for split, evening, share in (("train", "monday", wrong), ("test", "tuesday", 0.0)):
        rows = manifest.read_manifest(corpus.manifest(split))
        rows = generator.sample(rows, min(utterances, len(rows)) if split == "train" else len(rows))
        callers = {row["speaker"]: _Line(generator) for row in rows}
        wav = made / split / f"{evening}.wav"
        sounds = (callers[row["speaker"]].through(audio.load_audio(row["audio_filepath"])) for row in rows)
        places = join(wav, sounds, generator, _LINE_RATE)
        texts = [row["text"] for row in rows]
        chosen = generator.sample(range(len(texts)), round(share * len(texts)) // 2 * 2)
        for one, other in zip(chosen[::2], chosen[1::2], strict=True):
            texts[one], texts[other] = texts[other], texts[one]
        if split == "train":
            swapped = [number for number, row in enumerate(rows, 1) if row["text"] != texts[number - 1]]
            (made / _SWAPPED).write_text(json.dumps(swapped), encoding="utf-8")
        texts = [f"{row['speaker'].upper()}: {text}" for row, text in zip(rows, texts, strict=True)]
        write_captions(wav.with_suffix(".srt"), texts, places, generator)
    shutil.rmtree(finished, ignore_errors=True)  # of an older version, which noted nothing
    made.rename(finished)
    return finished


def swapped_captions(calls: Path) -> list[int]:
    """Return which of Monday's captions, counted from 1, have another one's text.

    Args:
        calls: as returned by `make_calls`.
    """
    return json.loads((calls / _SWAPPED).read_text(encoding="utf-8"))


class _Line:
    """A caller's telephone line, with its level and noise."""

    def __init__(self, generator: random.Random):
        self._peak = 10 ** (generator.uniform(_QUIETEST, _LOUDEST) / 20)
        self._below = 10 ** (-generator.uniform(_NOISIEST, _CLEAREST) / 20)
        self._noise = np.random.default_rng(generator.randrange(1 << 30))

    def through(self, samples: np.ndarray) -> np.ndarray:
        """Return speech at 16 kHz, (T,), as the other end hears it: float32, (T / 2,), at 8 kHz."""
        heard = soxr.resample(samples, audio.SAMPLE_RATE, _LINE_RATE)
        heard = heard + self._noise.normal(0, self._below * np.sqrt(np.mean(heard**2)), len(heard))
        return (self._peak * heard / max(np.abs(heard).max(), 1e-6)).astype(np.float32)
