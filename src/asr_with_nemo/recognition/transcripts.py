"""From a model's output over time to transcripts, and from sound of any length to batches for a model.

It is what decoding with NeMo (`decoding`) and without it (`runtime`) share, on NumPy alone.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby, pairwise
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError

Sound = str | os.PathLike | np.ndarray
"""A sound file, or mono samples (T,) in [-1, 1] at the model's rate."""
# Seconds. A recording of up to WHOLE is heard at once; a longer one is cut at a pause between the other two. Short
# pieces suit models that were trained on a few seconds and look at all of a piece at once (squeeze-and-excite,
# normalisation): on AN4's dev set, joined to one file, they made fewer errors than pieces of 10 to 20 s.
WHOLE, LONGEST_PIECE, SHORTEST_PIECE = 20.0, 8.0, 2.0
# How much is read ahead, so that pieces of about one length share a batch: seconds or batches, whichever comes first.
# Of the batches few at first, so that all cores soon have work, and four times as many each time after that.
WINDOW_SECONDS, FIRST_BATCHES, MOST_BATCHES = 300.0, 4, 64


@dataclass(frozen=True)
class Word:
    """A word, where it was heard in seconds from the start of the recording, and how sure the model is of it.

    `confidence`, from 0 to 1, is the product of its letters' probabilities, each where that letter is likeliest.
    """

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """What was heard in one recording.

    Attributes:
        text: as the decoding gives it.
        words: the words of `text` with their times.
        duration: seconds of sound.
    """

    text: str
    words: list[Word]
    duration: float


class Letter(NamedTuple):
    """A letter of an alignment, in seconds from the start of the recording, and its highest probability there."""

    letter: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Output:
    """A model's output for one recording.

    Attributes:
        log_probs: (T, V), a row a frame, a column a letter, the last the blank.
        labels: the letters, in the order of the columns; or pieces of words, in which ▁ is the space before a word.
        seconds: between two frames.
        spell: the columns that spell a text, for pieces of words; by default those of its letters.
    """

    log_probs: np.ndarray
    labels: Sequence[str]
    seconds: float
    spell: Callable[[str], list[int]] | None = None

    @property
    def greedy(self) -> str:
        """The likeliest letter of each frame, repetitions and blanks taken out."""
        text = "".join(letter.letter for letter in self._letters)
        return text.strip() if self.spell else text

    def transcript(self, text: str, duration: float) -> Transcript:
        """A transcript with word times, for a text that some decoding found and `duration` seconds of sound."""
        words = _words(self._letters, duration)
        if [word.word for word in words] != text.split():  # not a greedy text: find its own path
            spelled = " ".join(text.split())
            words = _words(self.align(spelled), duration) if spelled else []
        return Transcript(text, words, duration)

    def align(self, text: str) -> list[Letter]:
        """When each letter of a known text was said: the likeliest CTC path that spells it (Viterbi).

        Returns:
            the letters of `text` in turn, spaces among them; of a model that writes pieces of words, those pieces.

        Raises:
            InputError: `text` is empty, has letters that the model lacks, or is too long for the recording.
        """
        if not text:
            raise InputError("the text to align is empty")
        columns = self.spell(text) if self.spell else self._columns(text)
        needed = len(columns) + sum(one == other for one, other in pairwise(columns))  # a blank between twins
        if needed > len(self.log_probs):
            raise InputError(
                f"the text to align, {text!r}, needs {needed} frames of {self.seconds:.2f} s, where the recording has "
                f"{len(self.log_probs)}; is it the right text?"
            )
        runs = _runs(_viterbi(self.log_probs, columns))
        return [letter for place, frames in runs if place >= 0 for letter in self._spelled(columns[place], frames)]

    def _columns(self, text: str) -> list[int]:
        strange = sorted(set(text) - set(self.labels))
        if strange:
            raise InputError(
                f"the text to align, {text!r}, has {' '.join(map(repr, strange))}, which the model can't spell"
            )
        return [self.labels.index(letter) for letter in text]

    @cached_property
    def _letters(self) -> list[Letter]:
        runs = _runs(self.log_probs.argmax(axis=1))
        return [letter for label, frames in runs if label < len(self.labels) for letter in self._spelled(label, frames)]

    def _spelled(self, label: int, frames: range) -> Iterator[Letter]:
        """A letter as it is; a piece of words with the space before it on its own."""
        letter, first = self.labels[label], frames[:1]
        if self.spell and letter.startswith("▁"):
            yield self._letter(" ", label, first)
            letter = letter.removeprefix("▁")
        if letter:
            yield self._letter(letter, label, frames)

    def _letter(self, letter: str, label: int, frames: range) -> Letter:
        start, end = round(frames[0] * self.seconds, 3), round((frames[-1] + 1) * self.seconds, 3)
        return Letter(letter, start, end, math.exp(self.log_probs[frames.start : frames.stop, label].max()))


def _runs(path: np.ndarray) -> Iterator[tuple[int, range]]:
    """What stands in a path (T,), each with the frames in which it does so without a break."""
    starts = np.flatnonzero(np.diff(path, prepend=path[:1] - 1))
    for value, first, after in zip(
        path[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(path)], strict=True
    ):
        yield value, range(first, after)


def _viterbi(log_probs: np.ndarray, labels: list[int]) -> np.ndarray:
    """The likeliest CTC path that spells `labels`: for each frame its place in them, or -1 for a blank. (T,)"""
    frames, blank = len(log_probs), log_probs.shape[1] - 1
    states = np.full(2 * len(labels) + 1, blank)  # a blank before, between and after the letters
    states[1::2] = labels
    may_jump = np.zeros(len(states), bool)  # over a blank, from one letter to another
    may_jump[3::2] = states[3::2] != states[1:-2:2]
    steps = np.zeros((frames, len(states)), np.int8)
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probs[0, states[:2]]
    for frame in range(1, frames):
        ways = np.full((3, len(states)), -np.inf)  # to stay, to go on by one, to jump
        ways[0], ways[1, 1:], ways[2, 2:] = scores, scores[:-1], np.where(may_jump[2:], scores[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        scores = ways.max(axis=0) + log_probs[frame, states]
    state = len(states) - 1 - int(scores[-2] > scores[-1])
    path = np.empty(frames, int)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state // 2 if state % 2 else -1
        state -= int(steps[frame, state])
    return path


def _words(letters: Iterable[Letter], duration: float) -> list[Word]:
    words = []
    for is_space, group in groupby(letters, key=lambda letter: letter.letter == " "):
        if not is_space:
            spelled = list(group)
            start, end = min(spelled[0].start, duration), min(spelled[-1].end, duration)
            confidence = math.prod(letter.confidence for letter in spelled)
            words.append(Word("".join(letter.letter for letter in spelled), start, end, round(confidence, 4)))
    return words


# --- Sound to batches -------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indexes in batches of about one length, the longest first, so that too little memory shows at once.

    Raises:
        InputError: the batch size is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: expected 1 or more")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def read_blocks(sound: Sound, index: int, rate: int) -> Iterator[np.ndarray]:
    """The samples of sound number `index`, mono float32 at `rate`, block by block and checked.

    Raises:
        InputError: it can't be read, or isn't mono float samples.
    """
    name = f"array {index}" if isinstance(sound, np.ndarray) else str(sound)
    for samples in [sound] if isinstance(sound, np.ndarray) else audio.stream_audio(sound, rate):
        if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"{name}: {samples.dtype} samples of shape {samples.shape}; expected mono float samples, (T,)"
            )
        if not math.isfinite(samples.sum()) and not np.isfinite(samples).all():  # the sum takes a quarter of the time
            raise InputError(f"{name}: has samples that are no numbers (NaN or infinite); make the file again")
        yield np.ascontiguousarray(samples, np.float32)


def read(sounds: Sequence[Sound], rate: int) -> list[np.ndarray]:
    """The samples of recordings, mono float32 (t,) each, at `rate`.

    Raises:
        InputError: a file can't be read, or an array isn't mono float samples.
    """
    return [np.concatenate(list(read_blocks(sound, index, rate))) for index, sound in enumerate(sounds)]


def transcribe_each(
    sounds: Sequence[Sound],
    rate: int,
    recognise: Callable[[list[np.ndarray]], list[Transcript]],
    batch_size: int,
    progress: bool,
    threads: int = 1,
) -> Iterator[Transcript | InputError]:
    """Transcribe recordings of any length, one after the other; one that can't be read yields its error.

    At most three times `WINDOW_SECONDS` of sound and a piece are in memory, however long or many the recordings.

    Args:
        sounds: the recordings.
        rate: of the model in Hz.
        recognise: transcribes a batch of mono float32 samples, (t,) each.
        batch_size: pieces of sound at a time.
        progress: show a progress bar.
        threads: batches that are recognised at a time.
    """
    waiting: list[_Read] = []
    minutes = 0.0
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(sounds), unit="file", delay=1, leave=False, disable=not progress) as bar,
    ):
        apply = map if threads == 1 else pool.map
        read = windows(pieces(sounds, rate), rate, batch_size)
        if threads > 1:
            read = _ahead(read, pool)
        started = (_Window(window, recognise, batch_size, apply) for window in read)
        for window in _one_behind(started) if threads > 1 else started:
            waiting += window.heard()
            minutes += sum(piece.size for piece in window.pieces) / rate / 60
            bar.set_postfix_str(f"{minutes:.0f} min of sound", refresh=False)  # not before the delay
            last = waiting[-1].index  # more of it may follow
            for result in _joined(read for read in waiting if read.index < last):
                bar.update()
                yield result
            waiting = [read for read in waiting if read.index == last]
        for result in _joined(waiting):
            bar.update()
            yield result


def all_of(results: Iterable[Transcript | InputError]) -> list[Transcript]:
    """The results of `transcribe_each`, as long as there is no error among them.

    Raises:
        InputError: the first of the errors.
    """
    transcripts = []
    for result in results:
        if isinstance(result, InputError):
            raise result
        transcripts.append(result)
    return transcripts


@dataclass(frozen=True)
class Piece:
    """A stretch of recording number `index` that begins `start` seconds into it, or why it can't be read."""

    index: int
    start: float
    samples: np.ndarray | InputError

    @property
    def size(self) -> int:
        """How many samples it has."""
        return 0 if isinstance(self.samples, InputError) else len(self.samples)


def pieces(sounds: Iterable[Sound], rate: int) -> Iterator[Piece]:
    """Recordings, the long ones cut at pauses."""
    for index, sound in enumerate(sounds):
        try:
            blocks = read_blocks(sound, index, rate)
            for start, samples in audio.cut_at_pauses(blocks, rate, WHOLE, LONGEST_PIECE, SHORTEST_PIECE):
                yield Piece(index, start, samples)
        except InputError as error:
            yield Piece(index, 0.0, error)


def windows(pieces: Iterable[Piece], rate: int, batch_size: int) -> Iterator[list[Piece]]:
    """As many pieces at a time as are read ahead."""
    window: list[Piece] = []
    size, enough = 0, FIRST_BATCHES
    for piece in pieces:
        window.append(piece)
        size += piece.size
        if size >= WINDOW_SECONDS * rate or len(window) >= enough * batch_size:
            yield window
            window, size, enough = [], 0, min(4 * enough, MOST_BATCHES)
    if window:
        yield window


@dataclass(frozen=True)
class _Read:
    """What was heard in a piece."""

    index: int
    start: float
    heard: Transcript | InputError


class _Window:
    """Pieces that are being recognised, by threads if `apply` begins before it is asked for what comes out."""

    def __init__(
        self,
        pieces: list[Piece],
        recognise: Callable[[list[np.ndarray]], list[Transcript]],
        batch_size: int,
        apply: Callable[[Callable, Iterable], Iterable],
    ):
        self.pieces = pieces
        readable = [place for place, piece in enumerate(pieces) if not isinstance(piece.samples, InputError)]
        self._groups = [
            [readable[index] for index in batch]
            for batch in batches([pieces[place].size for place in readable], batch_size)
        ]
        self._found = apply(lambda group: recognise([pieces[place].samples for place in group]), self._groups)

    def heard(self) -> list[_Read]:
        """What was heard in each of the pieces, when all of them are done."""
        heard: dict[int, Transcript | InputError] = {
            place: piece.samples for place, piece in enumerate(self.pieces) if isinstance(piece.samples, InputError)
        }
        for group, texts in zip(self._groups, self._found, strict=True):
            heard.update(zip(group, texts, strict=True))
        return [_Read(piece.index, piece.start, heard[place]) for place, piece in enumerate(self.pieces)]


def _ahead(windows: Iterator[list[Piece]], pool: ThreadPoolExecutor) -> Iterator[list[Piece]]:
    """The windows, each of which is read by the pool before it recognises the one before it.

    So there are never more threads at work than cores; with a thread more for reading, all of it took 5% longer.
    """
    upcoming = pool.submit(next, windows, None)
    while window := upcoming.result():
        upcoming = pool.submit(next, windows, None)
        yield window


def _one_behind(items: Iterable[_Window]) -> Iterator[_Window]:
    """The items, each when the one after it is there already."""
    for item, _ in pairwise(chain(items, (None,))):
        yield item


def _joined(reads: Iterable[_Read]) -> Iterator[Transcript | InputError]:
    """Put the pieces of each recording together again."""
    for _, group in groupby(reads, key=lambda read: read.index):
        parts = list(group)
        errors = [part.heard for part in parts if isinstance(part.heard, InputError)]
        if errors:
            yield errors[0]
        else:
            yield joined([(part.start, part.heard) for part in parts])


def joined(parts: Sequence[tuple[float, Transcript]]) -> Transcript:
    """The transcript of a recording of those of its pieces, each with its start in seconds."""
    if len(parts) == 1:
        return parts[0][1]
    words = [
        replace(word, start=round(start + word.start, 3), end=round(start + word.end, 3))
        for start, heard in parts
        for word in heard.words
    ]
    text = " ".join(heard.text.strip() for _, heard in parts if heard.text.strip())
    start, last = parts[-1]
    return Transcript(text, words, start + last.duration)
