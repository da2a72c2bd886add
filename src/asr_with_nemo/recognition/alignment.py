"""Texts of a corpus to their places in long recordings: `prepare_corpus.py --align`.

A text with a time is searched near it. A text of a whole long recording is divided at the recording's pauses. Each
utterance gets a score (`segmentation.Found.score`); the cuts are made at the quietest place beside its words.
"""

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, sample_rate, seconds_per_frame
from asr_with_nemo.models.recognizer import decoders
from asr_with_nemo.own_data.sources import Entry
from asr_with_nemo.own_data.text import written_words
from asr_with_nemo.recognition import decoding, transcripts
from asr_with_nemo.recognition.segmentation import Found, Output, Segmenter, Text
from asr_with_nemo.recognition.speller import Spelled, Speller

if TYPE_CHECKING:
    from nemo.collections.asr.models import ASRModel

REACH = 10.0
"""Seconds around its time in which a text is searched."""
LEAST = 0.1
"""The score below which a text doesn't belong to its sound. Of AN4's test set, 1 of 100 right texts is below it."""
_WHOLE = 20.0  # seconds; the text of a longer recording is divided
_LONGEST, _CLEAR = 15.0, 1.0  # seconds of an utterance of such a text, and of a pause at which it is cut anyway
_STRANGE = 6.0  # nats; what sounds between two words is a word or more: not both in one utterance
_MOST_STRANGE = 10.0  # nats of it that count against the words behind it
_MARGIN = 0.4  # seconds beside the words in which the cut is made
_UNIT = 5  # words of a long text that are found or left out together, at most
_NEAR = 16  # letters that are judged together where such a text may not fit
_LEVELS = 50  # a second
_SMOOTH = 5  # of them, so that the closure of a t isn't taken for a pause
_TOGETHER = 64  # short recordings that are read ahead, so that they share batches
_SENTENCE = re.compile(r"[.!?…。！？]['\"”»)]*$")
_NEEDS_LETTERS = 200  # words, of which the model has to write some


@dataclass
class Counts:
    """What an alignment has done: numbers of texts, and what was noted of each."""

    texts: int = 0
    found: int = 0
    below: int = 0
    lost: int = 0
    spoken: Counter[str] = field(default_factory=Counter)
    moves: list[float] = field(default_factory=list)
    divided: list[str] = field(default_factory=list)
    unwritten: Counter[str] = field(default_factory=Counter)


class Aligner:
    """Finds the texts of entries in their recordings.

    Args:
        model: with a CTC decoder.
        name: of the model, for messages.
        language: of the texts (`speller.Speller`).
        reach: seconds around its time in which a text is searched.
        least: a text with a lower score gets the problem "mismatch".
        batch_size: pieces of audio per batch.
        progress: show a progress bar, in hours of sound.

    Raises:
        InputError: the model has no CTC decoder.
    """

    def __init__(
        self,
        model: "ASRModel",
        name: str = "the model",
        language: str = "",
        reach: float = REACH,
        least: float = LEAST,
        batch_size: int = 16,
        progress: bool = True,
    ):
        if "ctc" not in decoders(model):
            raise InputError(
                f"--align {name}: this model decodes with {' and '.join(decoders(model))} alone; take a CTC model, or "
                "a hybrid with a CTC decoder"
            )
        self._model, self._name, self._reach, self._least = model, name, reach, least
        self._batch_size, self._progress = batch_size, progress
        self._speller = Speller(model, language)
        self._segmenter = Segmenter(seconds_per_frame(model), len(alphabet(model)), self._speller.separator)
        self.counts = Counts()

    def align(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries of a corpus with the start and length at which their texts were found, and their scores.

        Entries that can't be aligned, because they have a problem, no text, or no file, are yielded as they are.

        Raises:
            InputError: the model can't write the texts' letters.
        """
        with tqdm(desc="aligning", unit="h", delay=1, leave=False, disable=not self._progress) as bar:
            bar.bar_format = "{desc}: {n:.2f} h of sound, {elapsed}"
            waiting: list[_Recording] = []
            for recording in _recordings(entries, self._reach):
                waiting.append(recording)
                if len(waiting) == _TOGETHER or not recording.is_short:
                    yield from self._align(waiting, bar)
                    waiting = []
            yield from self._align(waiting, bar)

    def _align(self, recordings: list["_Recording"], bar: tqdm) -> Iterator[Entry]:
        """Yield the entries of some recordings, whose sound is read together."""
        heard = [recording for recording in recordings if recording.sound is not None]
        sounds = [recording.sound for recording in heard]
        stream = _Stream(decoding.piecewise_log_probs(self._model, sounds, self._batch_size))
        number = 0
        for recording in recordings:
            if recording.sound is None:
                yield from recording.entries
                continue
            levels = _Levels(recording.start, sample_rate(self._model))
            outputs = _heard(stream.of(number), levels, bar)
            number += 1
            yield from self._of_recording(recording, outputs, levels)

    def _of_recording(self, recording: "_Recording", outputs: Iterator[Output], levels: "_Levels") -> Iterator[Entry]:
        words = [self._words(entry.text) for entry in recording.entries]
        if recording.is_long_text and not words[0].columns:  # remarks alone
            deque(outputs, maxlen=0)
            entry = recording.entries[0]
            yield replace(entry, problem="no speech", detail=entry.text[:80]) if levels.is_readable else entry
            return
        if recording.is_long_text:
            yield from self._divided(recording.entries[0], words[0], outputs, levels)
            return
        order = [place for place in _spoken_order(recording.entries, self._reach) if words[place].columns]
        texts = [Text(words[place].columns, *recording.span(recording.entries[place], self._reach)) for place in order]
        found = dict(zip(order, self._segmenter.align(texts, outputs), strict=True))
        if not levels.is_readable:
            yield from recording.entries
            return
        levels.finish()
        edges = _edges([found[place] for place in order if found[place].is_found], levels)
        cuts = dict(zip([place for place in order if found[place].is_found], edges, strict=True))
        for place, entry in enumerate(recording.entries):
            yield self._judged(entry, words[place], found.get(place), cuts.get(place))

    def _words(self, text: str) -> "_Words":
        written = written_words(text)
        spelled = [self._speller.spell(word) for word in written]
        self.counts.unwritten.update(
            word for word, one in zip(written, spelled, strict=True) if one.is_spoken and not one.columns
        )
        self.counts.spoken.update(bool(one.columns) for one in spelled if one.is_spoken)
        spoken = self.counts.spoken
        if not spoken[True] and spoken[False] >= _NEEDS_LETTERS:
            self.check()
        return _Words(written, spelled)

    def check(self) -> None:
        """Check, after some entries, that the model could write a part of their words.

        Raises:
            InputError: it couldn't write one.
        """
        if self.counts.spoken[False] and not self.counts.spoken[True]:
            strange = sorted({letter for word in self.counts.unwritten for letter in word} - set(self._speller.letters))
            raise InputError(
                f"--align {self._name}: it writes {self._speller.letters[:60]}, and the texts have "
                f"{''.join(strange)[:60]}; take a model of their language"
            )

    def _judged(self, entry: Entry, words: "_Words", found: Found | None, cut: tuple[float, float] | None) -> Entry:
        """Return an entry with the result of its alignment."""
        if found is None or not words.columns:
            return entry
        self.counts.texts += 1
        if cut is None or not found.letters.sum():
            self.counts.lost += 1
            detail = "" if found.letters.sum() else "the model can't write its letters"
            return replace(entry, score=0.0, doubts=(*entry.doubts, ("not found", detail)))
        self.counts.found += 1
        moved = None
        start, end = cut
        # Of wrong times: the cuts follow each other.
        entry = replace(entry, doubts=tuple(one for one in entry.doubts if one[0] not in ("overlap", "unsorted")))
        if entry.seconds is not None:
            moved = round(start - entry.start, 3)
            self.counts.moves.append(abs(moved))
            entry = replace(entry, start=round(start, 3), seconds=round(end - start, 3))
        return self._scored(entry, found, moved, moved is not None)

    def _scored(self, entry: Entry, found: Found, moved: float | None, is_cut: bool, fits: bool = True) -> Entry:
        """Return an entry with its score, and with a problem if it doesn't match its sound."""
        score, doubts = found.score, entry.doubts
        why = "" if fits else ", among words that don't match their sound"
        if is_cut and not (found.letters[0] and found.letters[-1]):  # any sound is taken for it, however short
            why = f", but {self._name} can't write its first or last word, so that its cut is uncertain"
        if score < self._least or why:
            self.counts.below += 1
            doubts = (*doubts, ("mismatch", f"score {score:.2f}{why}"))
        return replace(entry, score=round(score, 3), moved=moved, doubts=doubts)

    # --- Long texts ---------------------------------------------------------------------------------------------------

    def _divided(self, entry: Entry, words: "_Words", outputs: Iterator[Output], levels: "_Levels") -> Iterator[Entry]:
        """Yield the utterances of a long recording's text, and the parts of it that aren't in the sound."""
        units = words.units()
        texts = [Text([words.columns[at] for at in unit], is_loose=True) for unit in units]
        found = self._segmenter.align(texts, outputs)
        if not levels.is_readable:
            yield entry
            return
        levels.finish()
        self.counts.divided.append(entry.name)
        parts = _parts(found, self._least)
        edges = iter(_edges([part.found for part in parts if part.found.is_found], levels))
        for part in parts:
            self.counts.texts += 1
            text = words.text(part.words)
            first, last = part.words[0] + 1, part.words[-1] + 1
            one = replace(entry, text=text, place=f"{entry.place}, words {first:,} to {last:,}")
            if not part.found.is_found:
                self.counts.lost += 1
                yield replace(one, audio="", problem="not found", detail=text[:80], score=0.0)
                continue
            self.counts.found += 1
            start, end = next(edges)
            one = replace(one, start=round(start, 3), seconds=round(end - start, 3))
            yield self._scored(one, part.found, None, True, part.fits)

    # --- What is said of it -------------------------------------------------------------------------------------------

    def notes(self) -> Iterator[str]:
        """Yield what was done, a line each."""
        counts = self.counts
        kept = counts.found - counts.below
        parts = [f"{counts.texts:,} texts aligned with {self._name}: {kept:,} match their sound"]
        if counts.below:
            parts.append(f"{counts.below:,} don't, or not surely (score below {self._least:g})")
        if counts.lost:
            parts.append(f"{counts.lost:,} aren't in the sound")
        yield ", ".join(parts)
        yield (
            "the score is the probability of the text divided by that of what the model itself hears, per letter: 1 if "
            f"they are the same; --align-drop {self._least:g} leaves texts with a lower one out"
        )
        if counts.moves:
            moves = np.array(counts.moves)
            yield (
                f"times moved by {np.median(moves):.2f} s (median), {np.quantile(moves, 0.95):.2f} s (of 95%), "
                f"{moves.max():.2f} s (most)"
            )
        if counts.divided:
            yield f"texts without times, divided at the pauses: {_some(counts.divided)}"
        if counts.unwritten:
            words = [word for word, _ in counts.unwritten.most_common(4)]
            yield (
                f"{counts.unwritten.total():,} words that {self._name} can't write, any sound was taken for: "
                f"{_some(words)}; --language CODE spells numbers"
            )
        if counts.moves and counts.lost > counts.texts / 2:
            yield (
                f"most texts weren't found within {self._reach:g} s of their times: are they of this recording? "
                f"--align-reach {6 * self._reach:g} searches further"
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if names[3:] else ""
    return f"{', '.join(names[:3])}{more}"


# --- Recordings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recording:
    """The entries of a recording, and the part of it that holds them; no sound if they can't be aligned.

    Attributes:
        entries: in the order of the source.
        sound: what is read.
        start: of the sound within the recording, in seconds.
        is_short: whether it is a short recording as a whole.
        is_long_text: whether it is one text of a long recording.
    """

    entries: list[Entry]
    sound: audio.Clip | None = None
    start: float = 0.0
    is_short: bool = True
    is_long_text: bool = False

    def span(self, entry: Entry, reach: float) -> tuple[float, float]:
        """Return between which seconds of the sound an entry is searched."""
        if entry.seconds is None:
            return -math.inf, math.inf
        start = entry.start - self.start
        return start - reach, start + entry.seconds + reach


def _recordings(entries: Iterable[Entry], reach: float) -> Iterator[_Recording]:
    """Group entries that follow each other and are of one channel of one recording."""

    def key(entry: Entry) -> tuple:
        usable = isinstance(entry.audio, str) and entry.audio and entry.text.strip() and not entry.problem
        usable = usable and math.isfinite(entry.start + (entry.seconds or 0.0))
        return (entry.audio if usable else "", entry.channel, "" if entry.seconds is not None else entry.place)

    for (path, channel, whole), group in groupby(entries, key):
        some = list(group)
        if not path:
            yield _Recording(some)
            continue
        minutes = audio.minutes_of(path)
        length = None if minutes is None else 60 * minutes
        if whole and some[0].start == 0:
            is_short = length is not None and length <= _WHOLE
            yield _Recording(some, audio.Clip(path, channel=channel), 0.0, is_short, not is_short)
            continue
        start = max(0.0, min(entry.start for entry in some) - reach)
        end = max(entry.start + entry.seconds for entry in some) + reach if not whole else None
        if length is None or end is None or end >= length:
            end = None
        if length is not None and start >= length:  # "past the end" comes later
            yield _Recording(some)
            continue
        clip = audio.Clip(path, start, None if end is None else end - start, channel)
        yield _Recording(some, clip, start, False)


def _spoken_order(entries: Sequence[Entry], reach: float) -> list[int]:
    """Return the places of entries in the order in which they are spoken.

    It is that of the source, even if some times say otherwise, unless it has several tiers one below the other.
    """
    starts = [entry.start for entry in entries]
    if all(later >= earlier - reach for earlier, later in pairwise(starts)):
        return list(range(len(starts)))
    return sorted(range(len(starts)), key=starts.__getitem__)


class _Stream:
    """The pieces of several recordings, one recording at a time."""

    def __init__(self, pieces: Iterator[tuple[transcripts.Piece, np.ndarray]]):
        self._groups = groupby(pieces, key=lambda piece: piece[0].index)
        self._next = next(self._groups, None)

    def of(self, number: int) -> Iterator[tuple[transcripts.Piece, np.ndarray]]:
        """Yield the pieces of a recording; the numbers have to rise."""
        if self._next is not None and self._next[0] == number:
            yield from self._next[1]
            self._next = next(self._groups, None)


def _heard(pieces: Iterator[tuple[transcripts.Piece, np.ndarray]], levels: "_Levels", bar: tqdm) -> Iterator[Output]:
    """Yield the outputs of a recording's pieces, and note their levels; an unreadable recording ends."""
    reached = 0.0
    for piece, log_probs in pieces:
        if isinstance(piece.samples, InputError):  # the conversion reports it
            levels.is_readable = False
            continue
        end = levels.add(piece.start, piece.samples)
        bar.update((end - reached) / 3600)
        reached = end
        yield Output(piece.start, log_probs)


class _Levels:
    """The level of a recording in frames of 20 ms, a byte each; what was cut out as quiet is 0.

    Args:
        start: of the sound within the recording, in seconds.
        rate: of its samples.

    Attributes:
        is_readable: whether the recording could be read.
    """

    def __init__(self, start: float, rate: int):
        self.start, self._rate = start, rate
        self._bytes = bytearray()
        self.is_readable = True

    def add(self, start: float, samples: np.ndarray) -> float:
        """Add a piece, and return where it ends, in seconds from the start of the sound."""
        powers = audio.frame_powers(samples, self._rate // _LEVELS)
        levels = np.clip(10 * np.log10(powers + 1e-12) + 120, 0, 120).astype(np.uint8)
        place = round(start * _LEVELS)
        del self._bytes[place:]  # pieces on both sides of a short pause have its quiet
        self._bytes.extend(bytes(place - len(self._bytes)))
        self._bytes.extend(levels.tobytes())
        return start + len(samples) / self._rate

    def finish(self) -> None:
        """All pieces were added."""
        self._levels = np.frombuffer(bytes(self._bytes), np.uint8)

    @property
    def end(self) -> float:
        """Seconds of sound."""
        return len(self._levels) / _LEVELS

    def quietest(self, first: float, last: float) -> float:
        """Return the quietest place between two seconds."""
        low, high = round(first * _LEVELS), round(last * _LEVELS)
        if high - low < 2:
            return (first + last) / 2
        some = self._levels[max(0, low - _SMOOTH) : high + _SMOOTH].astype(float)
        smooth = np.convolve(some, np.ones(_SMOOTH), "same")[min(low, _SMOOTH) :][: high - low]
        least = np.flatnonzero(smooth == smooth.min()) if len(smooth) else np.array([0])
        return (low + float(np.median(least)) + 0.5) / _LEVELS


def _edges(found: Sequence[Found], levels: _Levels) -> list[tuple[float, float]]:
    """Return start and end of each utterance within the recording, cut at the quietest place beside its words."""
    cuts = []
    for place, one in enumerate(found):
        start, end = float(one.times[0, 0]), float(one.times[-1, 1])
        before = float(found[place - 1].times[-1, 1]) if place else 0.0
        after = float(found[place + 1].times[0, 0]) if place + 1 < len(found) else levels.end
        first = levels.quietest(max(before, start - _MARGIN, 0.0), start) if before < start else start
        last = levels.quietest(end, min(after, end + _MARGIN, levels.end)) if end < after else end
        cuts.append((levels.start + first, levels.start + max(last, first + 0.05)))
    return cuts


# --- Long texts -------------------------------------------------------------------------------------------------------


class _Words:
    """The words of a text, as written and as the model writes them.

    Attributes:
        columns: of the words that are spoken (`segmentation.Text.words`).
    """

    def __init__(self, written: Sequence[str], spelled: Sequence[Spelled]):
        self._written = written
        self._places = [place for place, one in enumerate(spelled) if one.is_spoken]
        self.columns = [spelled[place].columns for place in self._places]

    def units(self) -> list[range]:
        """Divide the spoken words, at the ends of sentences too, into units that are found or left out as a whole."""
        units, first = [], 0
        for at, place in enumerate(self._places):
            following = self._places[at + 1] if at + 1 < len(self._places) else len(self._written)
            ends = any(_SENTENCE.search(word) for word in self._written[place:following])
            if ends or at + 1 - first >= _UNIT or at + 1 == len(self._places):
                units.append(range(first, at + 1))
                first = at + 1
        return units

    def text(self, spoken: Sequence[int]) -> str:
        """Return the text of some spoken words in a row, with what is written between them, and behind the last."""
        first, after = self._places[spoken[0]], spoken[-1] + 1
        first = 0 if spoken[0] == 0 else first
        return " ".join(self._written[first : self._places[after] if after < len(self._places) else None])


@dataclass(frozen=True)
class _Part:
    """Some words of a long text, where they were found, and whether the words around them fit their sound, too."""

    words: range
    found: Found
    fits: bool


def _parts(found: Sequence[Found], least: float) -> list[_Part]:
    """Divide the words of a long text into utterances, and runs of words that aren't in the sound or don't fit it."""
    whole = _joined(found)
    is_found = np.isfinite(whole.times[:, 0])
    # Words of another text are found here and there, with strange sound between them.
    costs = _near(is_found * (whole.costs + np.minimum(whole.strange, _MOST_STRANGE)), whole.letters)
    fits = costs <= -math.log(max(least, 1e-9)) * _near(is_found * whole.letters, whole.letters)
    kinds = is_found * (1 + fits)  # 0: not in the sound, 1: it doesn't fit, 2: it does
    parts: list[_Part] = []
    first = 0
    for at in range(1, len(kinds) + 1):
        ends = at == len(kinds) or kinds[at] != kinds[first]
        if ends or (kinds[at] and whole.strange[at] > _STRANGE):
            part = _Part(range(first, at), _slice(whole, first, at), bool(kinds[first] == 2))
            parts += _utterances(part) if kinds[first] else [part]
            first = at
    return parts


def _near(values: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """Return, for each word, the sum of values over the words of the `_NEAR` letters around its middle."""
    ends = np.cumsum(letters)
    middles = ends - letters / 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.searchsorted(ends, middles - _NEAR / 2)
    after = np.searchsorted(ends, middles + _NEAR / 2)
    return sums[np.minimum(after + 1, len(values))] - sums[first]


def _joined(found: Sequence[Found]) -> Found:
    names = ("times", "costs", "letters", "strange")
    return Found(*(np.concatenate([getattr(one, name) for one in found]) for name in names))


def _slice(found: Found, first: int, after: int) -> Found:
    return Found(*(part[first:after] for part in (found.times, found.costs, found.letters, found.strange)))


def _utterances(part: _Part) -> list[_Part]:
    """Divide words in a row at their longest pauses, until none is longer than an utterance."""
    whole, start = part.found, part.words[0]
    pauses = whole.times[1:, 0] - whole.times[:-1, 1]
    pending, parts = [(0, len(whole.times))], []
    while pending:
        low, high = pending.pop()
        inside = pauses[low : high - 1]
        longest = low + int(inside.argmax()) + 1 if len(inside) else 0
        too_long = whole.times[high - 1, 1] - whole.times[low, 0] > _LONGEST
        if longest and (too_long or pauses[longest - 1] > _CLEAR):
            pending += [(longest, high), (low, longest)]
            continue
        parts.append(_Part(range(start + low, start + high), _slice(whole, low, high), part.fits))
    return parts
