"""The error browser: one HTML page with every utterance of an evaluation, its player, and its errors word by word.

The page needs neither a server nor a network. The sound of the utterances with the most errors is embedded, up to a
limit; the others are played from their files. Spectrograms are drawn in the browser, when one is asked for. With
another model's result on the same utterances, the page shows both side by side.
"""

import base64
import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile

from asr_with_nemo.base.files import make_writable, reason_of, write_if_changed
from asr_with_nemo.base.html import ENVIRONMENT, STYLE
from asr_with_nemo.data import audio, manifest, pauses
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.evaluation import Result
from asr_with_nemo.recognition.side_by_side import SideBySide, aligned, words_won
from asr_with_nemo.recognition.wer import Counts, ScoredUtterance, align, by_speaker, confusions, wer_interval

_SOUND = 6_000_000  # bytes of recordings in the page
_ROWS = 20_000  # utterances in the page
_LONGEST = 60.0  # seconds of an utterance that is embedded
_FRAME = audio.SAMPLE_RATE // 50  # samples in which the level is measured
_PAIRS = 40  # confusions
_UNSURE = 0.5  # a word of a lower confidence is marked
_WORD_BINS, _SECOND_BINS = (1, 2, 4, 7, 11, 21), (0, 2, 4, 8, 15, 30)  # where each bin begins
_LEVEL_BINS, _SNR_BINS = (-math.inf, -50, -40, -30, -20, -10), (-math.inf, 10, 20, 30, 40, 50)  # dBFS, dB
_WORDS = 40  # on which two models differ


def check_place(path: Path) -> None:
    """Check, before a long computation, that the page can be written.

    Raises:
        InputError: it can't, or its name doesn't end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--report {path}: the report is a web page; give it a name that ends in .html")
    try:
        make_writable(path.parent)
    except OSError as error:
        raise InputError(f"--report {path}: can't be written ({reason_of(error)})") from error


def write_page(
    result: Result,
    path: Path,
    sound_limit: int = _SOUND,
    row_limit: int = _ROWS,
    beside: SideBySide | None = None,
) -> None:
    """Write the page of an evaluation.

    Args:
        result: of `evaluation.evaluate`; its manifest and recordings must still be there.
        path: of the page.
        sound_limit: most bytes of recordings in the page; players of the others link to their files.
        row_limit: most utterances in the page: those with the most errors, or where two models differ most.
        beside: another model's result on the same utterances (`side_by_side.pair`).

    Raises:
        InputError: the page can't be written, or the manifest can't be read.
    """
    utterances = enumerate(manifest.read_manifest(result.manifest))
    sounds = [audio.clip_of(utterance) for place, utterance in utterances if place not in result.unread]
    levels = [_levels(sound) for sound in sounds]
    others = beside.others if beside else []
    order = sorted(range(len(result.rows)), key=lambda number: _rank(result.rows, others, number))[:row_limit]
    budget = _Budget(sound_limit)
    both = zip(result.rows, others, strict=False)  # none without another model
    steps = [aligned(row.reference, row.hypothesis, other.hypothesis) for row, other in both]
    utterances = [
        _utterance(result, number, sounds[number], path, budget)
        | levels[number]
        | ({"pairs": steps[number], "other": others[number].words.errors} if others else {})
        for number in order
    ]
    won = words_won(steps)
    low, high = result.ci95
    pairs = confusions(result.rows)
    page = ENVIRONMENT.get_template("error_report.html").render(
        style=STYLE,
        result=result,
        model=Path(result.model).name or "a model",
        interval=f"{low:.1%} to {high:.1%}",
        wrong=sum(bool(row.words.errors) for row in result.rows),
        speakers=_speakers(result.rows),
        words=_by_size(result.rows, [row.words.words for row in result.rows], _WORD_BINS, "words"),
        seconds=_by_size(result.rows, [one.duration for one in result.heard], _SECOND_BINS, "s"),
        levels=_by_size(result.rows, [one["level"] for one in levels], _LEVEL_BINS, "dBFS"),
        noises=_by_size(result.rows, [one["snr"] for one in levels], _SNR_BINS, "dB"),
        confusions=_confusions(pairs),
        different=len(pairs),
        ranges=[
            ("percent", "WER, %"),
            *[("seconds", "length, s")] * bool(result.heard),
            *[("level", "level, dBFS"), ("snr", "SNR, dB")] * any(one["level"] is not None for one in levels),
        ],
        utterances=utterances,
        left_out=len(result.rows) - len(utterances),
        embedded=sum(one["sound"].startswith("data:") for one in utterances),
        unsure=_UNSURE,
        has_confidence=any(one["confidence"] for one in utterances),
        beside=beside,
        won=won[:_WORDS],
        won_all=[sum(one[side] for one in won) for side in ("this", "other")],
    )
    try:
        write_if_changed(path, page)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({reason_of(error)})") from error


# --- Utterances -------------------------------------------------------------------------------------------------------


class _Budget:
    """The bytes of sound that the page may still hold."""

    def __init__(self, left: int):
        self.left = left

    def embedded(self, sound: str | audio.Clip) -> str:
        """Return an utterance's sound as the URL of an MP3; "" if it doesn't fit."""
        minutes = audio.minutes_of(sound) if self.left else None
        if minutes is None or minutes * 60 > _LONGEST:
            return ""
        packed = io.BytesIO()
        samples = audio.load_audio(sound)
        loudest = np.abs(samples).max(initial=0)
        soundfile.write(packed, samples / loudest if loudest > 1 else samples, audio.SAMPLE_RATE, format="MP3")
        content = base64.b64encode(packed.getbuffer())
        if len(content) > self.left:
            self.left = 0  # the next one may be shorter, but then every utterance would be read in vain
            return ""
        self.left -= len(content)
        return f"data:audio/mpeg;base64,{content.decode()}"


def _levels(sound: str | audio.Clip) -> dict[str, float | None]:
    """Return the level of an utterance's speech in dB of full scale, and its signal-to-noise ratio in dB.

    Both are None if its sound can't be read, or is silence.
    """
    try:
        blocks = audio.stream_audio(sound)
        powers = np.concatenate([audio.frame_powers(block, _FRAME) for block in blocks])
        found = pauses.noise_and_speech(pauses.decibels(powers))
    except InputError:
        found = None
    if found is None:
        return {"level": None, "snr": None}
    noise, speech = found
    return {"level": round(speech, 1), "snr": round(speech - noise, 1)}


def _link(sound: str | audio.Clip, page: Path) -> str:
    """Return a URL of the file of an utterance, with the part that it is."""
    path, part = (sound, "") if not isinstance(sound, audio.Clip) else (sound.path, f"#t={sound.offset:g}")
    if isinstance(sound, audio.Clip) and sound.duration is not None:
        part += f",{sound.offset + sound.duration:g}"
    return quote(os.fsencode(os.path.relpath(path, page.absolute().parent))) + part


def _rank(rows: Sequence[ScoredUtterance], others: Sequence[ScoredUtterance], number: int) -> tuple:
    """Return the place of an utterance in the page: by its errors, or with another model by their difference."""
    errors = rows[number].words.errors
    if not others:
        return -errors, number
    differ = rows[number].hypothesis != others[number].hypothesis
    return -abs(errors - others[number].words.errors), not differ, -errors, number


def _utterance(result: Result, number: int, sound: str | audio.Clip, page: Path, budget: _Budget) -> dict[str, object]:
    """Return what the page's script knows of an utterance."""
    row, counts = result.rows[number], result.rows[number].words
    heard = result.heard[number] if result.heard else None
    confidence: Sequence[float] = []
    if heard and [word.word for word in heard.words] == row.hypothesis.split():
        confidence = [round(word.confidence, 2) for word in heard.words]
    return {
        "number": number + 1,
        "file": row.file,
        "speaker": row.speaker,
        "seconds": round(heard.duration, 2) if heard else None,
        "words": counts.words,
        "counts": [counts.substitutions, counts.deletions, counts.insertions],
        "pairs": align(row.reference, row.hypothesis),
        "confidence": confidence,
        "sound": budget.embedded(sound) or _link(sound, page),
    }


# --- Tables -----------------------------------------------------------------------------------------------------------


def _line(name: str, rows: Sequence[ScoredUtterance], with_interval: bool = True) -> dict[str, object]:
    counts = sum((row.words for row in rows), Counts())
    interval = "{:.1%} to {:.1%}".format(*wer_interval(rows)) if with_interval and counts.words else ""
    return {"name": name, "counts": counts, "utterances": len(rows), "interval": interval}


def _speakers(rows: Sequence[ScoredUtterance]) -> list[dict[str, object]]:
    """Return the speakers, those with the highest WER first."""
    groups: dict[str, list[ScoredUtterance]] = {}
    for row in rows:
        groups.setdefault(row.speaker, []).append(row)
    few = len(groups) <= 100  # the interval of each of a thousand speakers would take minutes
    return [_line(name, groups[name], with_interval=few) for name in reversed(by_speaker(rows))]


def _by_size(
    rows: Sequence[ScoredUtterance], sizes: Sequence[float | None], bins: Sequence[float], unit: str
) -> list[dict[str, object]]:
    """Return the errors of the utterances of similar size, in bins; a size of None is in none."""
    lines = []
    for first, after in zip(bins, [*bins[1:], None], strict=True):
        most = math.inf if after is None else after
        some = [row for row, size in zip(rows, sizes, strict=False) if size is not None and first <= size < most]
        if some:
            last = None if after is None else after - 1 if unit == "words" else after
            name = f"{first} or more" if last is None else f"{first}" if last == first else f"{first} to {last}"
            if first == -math.inf:
                name = f"below {last}"
            name += " word" if name == "1" and unit == "words" else f" {unit}"
            lines.append(_line(name, some))
    return lines


def _confusions(pairs: Counter[tuple[str, str]]) -> list[dict[str, object]]:
    kinds = {(True, True): "substitution", (True, False): "deletion", (False, True): "insertion"}
    return [
        {"said": said, "heard": heard, "times": times, "kind": kinds[bool(said), bool(heard)]}
        for (said, heard), times in pairs.most_common(_PAIRS)
    ]
