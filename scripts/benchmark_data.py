#!/usr/bin/env python3
"""Measure the preparation of AN4 against the article's way, in one run."""

import json
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from asr_with_nemo import an4, audio, cli
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
        with open(folder / f"an4/{split}_manifest.json", "w") as out:
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


def main(
    archive: Annotated[Path, typer.Option(help="AN4's archive.", envvar="AN4_ARCHIVE")] = Path(
        "data/an4_sphere.tar.gz"
    ),
    repeats: Annotated[int, typer.Option(help="How often each way is run, one after the other.")] = 3,
) -> None:
    """Measure the preparation of AN4 (unpack, convert, verify, manifests) against the article's way, in one run.

    The two ways take turns on the same archive; the ratio of their best times is what to look at, since times on a busy
    machine vary. Imports and a warm-up are not counted.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: no such archive; give --archive or set AN4_ARCHIVE")
    if not audio.sox_is_here():
        raise InputError("the article's way needs SoX (Debian: apt install sox)")
    import librosa  # so that neither way pays for the import

    seconds: dict[str, list[float]] = {"article": [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        an4.prepare(Path(scratch) / "warm-up", archive=str(archive), progress=False)
        librosa.get_duration(path=next((Path(scratch) / "warm-up").rglob("*.wav")))
        for turn in range(repeats):
            for way in seconds:
                folder = Path(scratch) / f"{way}{turn}"
                started = time.perf_counter()
                if way == "ours":
                    an4.prepare(folder, archive=str(archive), progress=False)
                else:
                    the_articles_way(archive, folder)
                seconds[way].append(time.perf_counter() - started)
                print(f"turn {turn + 1}, {way}: {seconds[way][-1]:.2f} s", flush=True)
        folder = Path(scratch) / "ours0"
        started = time.perf_counter()
        again = an4.prepare(folder, archive=str(archive), progress=False)
        print(f"a second run: {time.perf_counter() - started:.2f} s, changed: {again.changed}")
    article, ours = min(seconds["article"]), min(seconds["ours"])
    print(f"{os.cpu_count()} cores; article {article:.2f} s, ours {ours:.2f} s: {article / ours:.1f} times faster")


if __name__ == "__main__":
    cli.run(main)
