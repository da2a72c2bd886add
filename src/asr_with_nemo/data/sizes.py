"""Sizes that follow the data: what `configs/small_corpus.yaml` asks of the corpus it is trained on.

`${corpus:${data_dir},KEY}` in a config is one of `sizes`: the letters of the corpus, the width of the network, how
many epochs. All of it comes from the manifests, so it holds for any folder that has them, AN4's too.
"""

import json
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import soundfile
from omegaconf import OmegaConf

from asr_with_nemo.data import manifest
from asr_with_nemo.errors import InputError

SPLITS = ("train", "dev", "test")
STEPS = 2_500  # of a training, at the least
HOURS = 80  # of speech in all epochs together, from which on more hardly helps, and costs
FEWEST, MOST = 15, 150  # epochs
BATCH_SECONDS = 40  # of speech in a batch, about


def register() -> None:
    """Let configs say `${corpus:FOLDER,KEY}`."""
    OmegaConf.register_new_resolver("corpus", _look_up, replace=True)


def _look_up(folder: str, key: str) -> object:
    known = sizes(folder)
    if key not in known:
        raise InputError(f"${{corpus:{folder},{key}}}: no such size; there are {', '.join(known)}")
    return known[key]


def sizes(folder: str | os.PathLike) -> dict[str, object]:
    """What a model and its training should be like for the corpus whose manifests lie in a folder.

    Returns:
        labels: the letters of all transcripts, a space among them.
        sample_rate: Hz, of the WAVs.
        highest: Hz, above which there is nothing to hear (telephone speech); None for half the sample rate.
        width: channels of the network.
        repeat: sub-blocks in each of its blocks.
        dropout: the smaller the corpus, the more.
        batch_size: utterances, about `BATCH_SECONDS` together.
        epochs, check_every: of the training, and from a look at the dev set to the next.
        average: the decay of the average of the weights.
        longest: seconds of the longest utterance.
        use_cer: whether the dev set is judged by its characters: where words have no spaces between them.

    Raises:
        InputError: the folder has no such manifests.
    """
    folder = Path(folder)
    stamps = tuple(_stamp(folder / f"{split}_manifest.json") for split in SPLITS)
    return dict(_sizes(folder.absolute(), stamps))


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=4)
def _sizes(folder: Path, stamps: tuple[int, ...]) -> Mapping[str, object]:
    letters: set[str] = {" "}
    utterances = seconds = longest = words = characters = 0
    rate = None
    for split in SPLITS:
        path = folder / f"{split}_manifest.json"
        if split == "test" and not path.is_file():
            continue
        for utterance in manifest.read_manifest(path, check_audio=False):
            letters.update(utterance["text"])
            longest = max(longest, utterance["duration"])
            if split == "train":
                rate = rate or _rate_of(utterance["audio_filepath"])
                utterances += 1
                seconds += utterance["duration"]
                words += len(utterance["text"].split())
                characters += len(utterance["text"])
    hours = seconds / 3600
    batch_size = min(32, max(4, 2 ** round(math.log2(BATCH_SECONDS * utterances / seconds))))
    steps = math.ceil(utterances / batch_size)
    epochs = min(MOST, max(FEWEST, round(HOURS / hours), math.ceil(STEPS / steps)))
    return {
        "labels": sorted(letters),
        "sample_rate": rate,
        "highest": _highest(folder, rate),
        "width": 256 if hours < 0.25 else 384 if hours < 5 else 512,
        "repeat": 1 if hours < 5 else 2,
        "dropout": 0.25 if hours < 5 else 0.15,
        "batch_size": batch_size,
        "epochs": epochs,
        "check_every": max(1, min(5, epochs // 20)),
        # The average spans about the last tenth of the training.
        "average": round(min(0.998, max(0.9, 1 - 10 / (epochs * steps))), 4),
        "longest": math.ceil(longest),
        "use_cer": characters > 15 * words,
    }


def _rate_of(path: str) -> int:
    try:
        return soundfile.info(path).samplerate
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: can't be read ({error.error_string}), though a manifest names it") from error


def _highest(folder: Path, rate: int) -> int | None:
    """Half the lowest rate at which much of the speech was recorded, if that is less than the model could hear."""
    try:
        note = json.loads((folder / manifest.CORPUS_NOTES).read_text(encoding="utf-8"))
        rates = {int(source): seconds for source, seconds in note.get("source_rates", {}).items()}
    except (OSError, ValueError, AttributeError):
        return None
    total = sum(rates.values())
    common = [source for source, seconds in rates.items() if seconds >= 0.2 * total]
    return min(common) // 2 if common and min(common) < rate else None
