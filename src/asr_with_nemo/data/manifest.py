"""NeMo manifests: one JSON object a line, `{"audio_filepath": ..., "duration": seconds, "text": ...}`.

Paths are relative to the manifest, so that a folder with its manifests can be moved. Further keys (`speaker`) are kept;
NeMo ignores them.
"""

import contextlib
import filecmp
import json
import math
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import soundfile

from asr_with_nemo.base.files import read_text, replacing
from asr_with_nemo.errors import InputError

CORPUS_NOTES = "corpus.json"
"""How a corpus was made, beside its manifests."""
REQUIRED = {"audio_filepath": str, "duration": (int, float), "text": str}
Utterance = dict
"""One line of a manifest: audio_filepath, duration in seconds, text, and what else it holds (speaker)."""


def read_manifest(path: str | os.PathLike, check_audio: bool = True) -> list[Utterance]:
    """Read a manifest; `audio_filepath` comes back absolute.

    Raises:
        InputError: the manifest isn't there or is empty, a line isn't JSON or lacks a key (with its number), or, when
            `check_audio` is set, a sound file is missing.
    """
    path = Path(path)
    missing = "no such manifest; scripts/prepare_corpus.py makes one, or scripts/prepare_an4.py for AN4"
    text = read_text(path, "a manifest", missing)
    utterances = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            utterance = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})") from error
        except RecursionError as error:
            raise InputError(f"{path}, line {number}: not an utterance, but JSON nested without end") from error
        _check(utterance, f"{path}, line {number}")
        audio = path.parent.absolute() / utterance["audio_filepath"]  # an absolute path stays as it is
        if check_audio and not audio.is_file():
            raise InputError(f"{path}, line {number}: the sound file {audio} isn't there")
        utterances.append(utterance | {"audio_filepath": str(audio)})
    if not utterances:
        raise InputError(f"{path}: the manifest is empty; expected a JSON object a line, one an utterance")
    return utterances


def _check(utterance: object, where: str) -> None:
    if not isinstance(utterance, dict):
        raise InputError(f"{where}: expected a JSON object with {', '.join(REQUIRED)}")
    for key, kind in REQUIRED.items():
        if key not in utterance:
            raise InputError(f"{where}: lacks {key!r}; expected {', '.join(REQUIRED)}")
        if not isinstance(utterance[key], kind) or isinstance(utterance[key], bool):
            raise InputError(
                f"{where}: {key!r} is {utterance[key]!r}, which is no {'text' if kind is str else 'number'}"
            )
    if not 0 < utterance["duration"] < math.inf:
        raise InputError(f"{where}: 'duration' is {utterance['duration']}; expected seconds above zero")


def write_manifest(path: str | os.PathLike, utterances: Iterable[Utterance]) -> None:
    """Write utterances as a manifest with paths relative to it. A file that already says the same is left untouched."""
    path = Path(path)
    folder = path.parent.absolute()
    lines = (
        json.dumps(u | {"audio_filepath": os.path.relpath(u["audio_filepath"], folder)}, ensure_ascii=False) + "\n"
        for u in utterances
    )
    with contextlib.suppress(FileExistsError), replacing(path) as partial:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)  # one by one: a large corpus need not fit into memory
        if path.is_file() and filecmp.cmp(partial, path, shallow=False):
            raise FileExistsError  # the same, so its date stays


def hold_out_speakers(
    utterances: list[Utterance], count: int, seed: int = 0, tries: int = 2_000
) -> tuple[list[Utterance], list[Utterance]]:
    """Split into (kept, held out) by whole speakers, about `count` utterances held out.

    Of `tries` random draws of speakers, the one that comes nearest to `count`, and among those to the whole's share of
    each group of speakers (the first letter of the speaker's name: AN4 names women f..., men m...), is taken. The order
    of the utterances is kept, and the same input gives the same split.

    Raises:
        InputError: fewer than two speakers: nothing can be held out.
    """
    by_speaker = defaultdict(int)
    for utterance in utterances:
        by_speaker[utterance["speaker"]] += 1
    if len(by_speaker) < 2:
        raise InputError(
            f"a dev set of other speakers needs at least two speakers; these {len(utterances)} utterances have "
            f"{len(by_speaker)}"
        )

    def shares(speakers: Iterable[str]) -> dict[str, float]:
        counts = defaultdict(float)
        for speaker in speakers:
            counts[speaker[:1]] += by_speaker[speaker]
        return {group: n / sum(counts.values()) for group, n in counts.items()}

    whole = shares(by_speaker)
    generator = random.Random(seed)
    best, best_cost = [], None
    for _ in range(tries):
        order = generator.sample(sorted(by_speaker), len(by_speaker))
        held, total = [], 0
        for speaker in order[:-1]:  # somebody has to be left to train on
            if not held or total + by_speaker[speaker] <= count:
                held.append(speaker)
                total += by_speaker[speaker]
        part = shares(held)
        cost = (abs(count - total), sum(abs(part.get(group, 0) - share) for group, share in whole.items()))
        if best_cost is None or cost < best_cost:
            best, best_cost = held, cost
    held = set(best)
    return [u for u in utterances if u["speaker"] not in held], [u for u in utterances if u["speaker"] in held]


def shared_with(utterances: Iterable[Utterance], others: Iterable[Utterance]) -> dict[str, list[str]]:
    """What two sets of utterances have in common: `{"recording": [...], "speaker": [...]}`, without what is empty.

    A recording is the same by its real path, a speaker by the name where both sets have names.
    """

    def keys(rows: list[Utterance]) -> dict[str, set[str]]:
        recordings = {os.path.realpath(row["audio_filepath"]) for row in rows}
        return {"recording": recordings, "speaker": {row["speaker"] for row in rows if row.get("speaker")}}

    ours, theirs = keys(list(utterances)), keys(list(others))
    return {kind: sorted(ours[kind] & theirs[kind]) for kind in ours if ours[kind] & theirs[kind]}


def check_alphabet(manifest: str | os.PathLike, utterances: Iterable[Utterance], labels: Iterable[str]) -> None:
    """Make sure that a model can spell every transcript.

    Raises:
        InputError: a transcript has letters outside `labels`, which NeMo would leave out silently.
    """
    allowed = set(labels)
    for number, utterance in enumerate(utterances, 1):
        strange = sorted(set(utterance["text"]) - allowed)
        if strange:
            raise InputError(
                f"{manifest}, utterance {number}: the text {utterance['text']!r} has {' '.join(map(repr, strange))}, "
                f"which the model's alphabet {''.join(sorted(allowed))!r} lacks; change the text or model.labels"
            )


def check_recordings(manifest: str | os.PathLike, utterances: Iterable[Utterance], sample_rate: int) -> None:
    """Make sure, by the headers alone, that a model can be trained on the recordings.

    Raises:
        InputError: a file isn't sound, is empty, has several channels, or another rate than `sample_rate` in Hz.
    """
    checked = set()  # several utterances can be cut out of one file
    for number, utterance in enumerate(utterances, 1):
        if utterance["audio_filepath"] in checked:
            continue
        checked.add(utterance["audio_filepath"])
        where = f"{manifest}, utterance {number}: {utterance['audio_filepath']}"
        try:
            info = soundfile.info(utterance["audio_filepath"])
        except soundfile.LibsndfileError as error:
            raise InputError(f"{where}: not a sound file that can be read ({error.error_string})") from error
        if info.frames == 0:
            raise InputError(f"{where}: holds no sound (zero samples); leave it out")
        if info.channels != 1 or info.samplerate != sample_rate:
            raise InputError(
                f"{where}: {info.samplerate:,} Hz with {info.channels} channel(s), where the model expects "
                f"{sample_rate:,} Hz mono; convert it: sox IN.wav -r {sample_rate} -c 1 OUT.wav"
            )


def letters_of(manifests: Iterable[str | os.PathLike]) -> list[str]:
    """The letters of the texts of some manifests, the space first, then as Unicode orders them.

    Raises:
        InputError: a manifest can't be read.
    """
    texts = (utterance["text"] for path in manifests for utterance in read_manifest(path, check_audio=False))
    return sorted(set().union(*texts))
