#!/usr/bin/env python3
"""Measure what is done with AN4 before training against the article's way, in one run."""

import json
import os
import tarfile
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from asr_with_nemo.cli import run
from asr_with_nemo.data import an4, audio, manifest
from asr_with_nemo.errors import InputError


def the_articles_way(archive: Path, folder: Path) -> None:
    """Unpack; a SoX process a file, by its package; a manifest line a transcript, with librosa's duration; no check."""
    import librosa
    import sox

    with tarfile.open(archive) as tar:
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    spheres = sorted(folder.rglob("*.sph"))
    for sphere in tqdm(spheres, "SoX, a process a file", delay=1):
        sox.Transformer().build(str(sphere), str(sphere.with_suffix(".wav")))
    for split, name in an4.SPLITS.items():
        with open(folder / f"an4/{split}_manifest.json", "w", encoding="utf-8") as out:
            lines = (folder / f"an4/etc/an4_{split}.transcription").read_text().splitlines()
            for line in tqdm(lines, f"{split} manifest", delay=1):
                text, _, file_id = line.removesuffix(")").rpartition("(")
                text = text.replace("<s>", "").replace("</s>", "").strip().lower()
                wav = next(
                    (folder / "an4/wav" / name).glob(
                        f"{file_id[file_id.find('-') + 1 : file_id.rfind('-')]}/{file_id}.wav"
                    )
                )
                entry = {"audio_filepath": str(wav), "duration": librosa.get_duration(path=wav), "text": text}
                out.write(json.dumps(entry) + "\n")


def the_articles_pictures(wavs: list[Path], folder: Path) -> None:
    """A spectrogram and a mel spectrogram a file, computed by librosa and drawn and written by matplotlib."""
    import librosa
    import matplotlib.pyplot as plt
    import numpy as np

    for wav in tqdm(wavs, "two figures a file", delay=1):
        samples, rate = librosa.load(wav, sr=None)
        loudness = librosa.amplitude_to_db(np.abs(librosa.stft(samples)), ref=np.max)
        mel = librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=rate), ref=np.max)
        for picture, y_axis in ((loudness, "log"), (mel, "mel")):
            figure, axes = plt.subplots()
            image = librosa.display.specshow(picture, sr=rate, x_axis="time", y_axis=y_axis, ax=axes)
            figure.colorbar(image, ax=axes, format="%+2.0f dB")
            figure.savefig(folder / f"{wav.stem}-{y_axis}.png")
            plt.close(figure)


class Part(StrEnum):
    """What is measured."""

    preparation = "preparation"
    pictures = "pictures"


def main(
    archive: Annotated[Path, typer.Option(help="AN4's archive.", envvar="AN4_ARCHIVE")] = Path(
        "data/an4_sphere.tar.gz"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="How often each way is run, one after the other.")] = 3,
    part: Annotated[
        list[Part] | None, typer.Option(help="Measure only this part; may be repeated. By default, all.")
    ] = None,
    figures: Annotated[
        int, typer.Option(min=1, help="Recordings that are drawn the article's way at a time; ours draws them all.")
    ] = 10,
) -> None:
    """Measure what is done with AN4 before training against the article's way, in one run.

    The preparation (unpack, convert, verify, manifests), and the pictures of the training set's table (a spectrogram
    and a mel spectrogram of each recording, from WAV to PNG). The two ways take turns on the same data; the ratio of
    their best times is what to look at, since times on a busy machine vary. Imports and a warm-up are not counted.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: no such archive; give --archive or set AN4_ARCHIVE")
    parts = part or list(Part)
    if Part.preparation in parts and not audio.sox_is_here():
        raise InputError("the article's way needs SoX (Debian: apt install sox)")
    with tempfile.TemporaryDirectory() as scratch:
        corpus = an4.prepare(Path(scratch) / "warm-up", archive=str(archive), progress=False)
        if Part.preparation in parts:
            compare_preparation(archive, corpus, repeats, Path(scratch))
        if Part.pictures in parts:
            compare_pictures(corpus, repeats, figures, Path(scratch))


def compare_preparation(archive: Path, corpus: an4.Corpus, repeats: int, scratch: Path) -> None:
    """Print the times of both ways to prepare the corpus."""
    import librosa  # so that neither way pays for the import

    librosa.get_duration(path=corpus.example.with_suffix(".wav"))
    seconds: dict[str, list[float]] = {"article": [], "ours": []}
    for turn in range(repeats):
        for way in seconds:
            folder = scratch / f"{way}{turn}"
            started = time.perf_counter()
            if way == "ours":
                an4.prepare(folder, archive=str(archive), progress=False)
            else:
                the_articles_way(archive, folder)
            seconds[way].append(time.perf_counter() - started)
            print(f"preparation, turn {turn + 1}, {way}: {seconds[way][-1]:.2f} s", flush=True)
    started = time.perf_counter()
    again = an4.prepare(scratch / "ours0", archive=str(archive), progress=False)
    print(f"a second run: {time.perf_counter() - started:.2f} s, changed: {again.changed}")
    article, ours = min(seconds["article"]), min(seconds["ours"])
    print(f"{os.cpu_count()} cores; article {article:.2f} s, ours {ours:.2f} s: {article / ours:.1f} times faster")


def compare_pictures(corpus: an4.Corpus, repeats: int, figures: int, scratch: Path) -> None:
    """Print the times a recording of both ways to draw the training set."""
    import matplotlib

    from asr_with_nemo.tracking.pictures import make_pictures

    matplotlib.use("agg")
    wavs = [Path(row["audio_filepath"]) for row in manifest.read_manifest(corpus.manifest("train_all"))]
    some = wavs[:: -(-len(wavs) // figures)]
    for way in ("warm-up", "article"):
        (scratch / f"{way}-pictures").mkdir()
    the_articles_pictures(some[:1], scratch / "warm-up-pictures")
    make_pictures(some[:1], scratch / "warm-up-pictures", progress=False)
    seconds: dict[str, list[float]] = {"article": [], "ours": []}
    for turn in range(repeats):
        started = time.perf_counter()
        the_articles_pictures(some, scratch / "article-pictures")
        seconds["article"].append((time.perf_counter() - started) / len(some))
        folder = scratch / f"ours{turn}-pictures"
        started = time.perf_counter()
        make_pictures(wavs, folder, progress=False)
        seconds["ours"].append((time.perf_counter() - started) / len(wavs))
        times = ", ".join(f"{way} {1000 * values[-1]:.1f} ms" for way, values in seconds.items())
        print(f"pictures, turn {turn + 1}, a recording of {len(some)} and of {len(wavs)}: {times}", flush=True)
    started = time.perf_counter()
    make_pictures(wavs, folder, progress=False)
    print(f"a second run: {time.perf_counter() - started:.2f} s for {len(wavs)} recordings")
    article, ours = min(seconds["article"]), min(seconds["ours"])
    print(
        f"{os.cpu_count()} cores; article {1000 * article:.0f} ms a recording, ours {1000 * ours:.1f} ms: "
        f"{article / ours:.0f} times faster"
    )


if __name__ == "__main__":
    run(main)
