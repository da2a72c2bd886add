"""Transcripts with word times from a model's log-probabilities, and batches from audio of any length.

Decoding with NeMo (`recognition.decoding`) and without it (`deployment.runtime`) use it; it needs only NumPy.
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

from asr_with_nemo.data import audio, pauses
from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition.trellis import best_path, states_of

Sound = str | os.PathLike | audio.Clip | np.ndarray
"""An audio file, a part of one, or mono samples (t,) in [-1, 1] at the model's sample rate."""
# The headers of so many files are read for the progress bar's total.
_MOST_HEADERS = 2_000
# dB of full scale that a twentieth of the 20 ms exceed: below _QUIET, a recording is raised to _LEVEL, AN4's median.
_QUIET, _LEVEL = -35.0, -25.0
_OFFSET = 0.02  # of full scale; AN4's recordings have means of up to 0.011
# How much is read ahead, so that pieces of similar length share a batch: seconds or batches, whichever comes first.
# The first window has few batches, so that all cores soon have work; each later one has four times as many.
WINDOW_SECONDS, _FIRST_BATCHES, _MOST_BATCHES = 300.0, 4, 64


@dataclass(frozen=True)
class Word:
    """A word with its start and end in seconds from the start of the recording, and its confidence.

    `confidence`, from 0 to 1, is the product of the probabilities of its letters or pieces: by CTC, each in the frame
    where it is highest; by a transducer or an attention decoder, each when it was written.
    """

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """Transcript of one recording.

    Attributes:
        text: the decoder's text, without space around it.
        words: the words of `text` with their times.
        duration: seconds of audio.
        has_word_times: whether all times are of the words themselves; if not, some are of the stretch of speech that
            a word was heard in (`stretches`).
    """

    text: str
    words: list[Word]
    duration: float
    has_word_times: bool = True

    @property
    def stretches(self) -> list[list[Word]]:
        """The words, those together that have the same times."""
        return [list(group) for _, group in groupby(self.words, key=lambda word: (word.start, word.end))]

    @property
    def confidence(self) -> float | None:
        """The geometric mean of the words' confidences; None without words."""
        if not self.words:
            return None
        return math.exp(sum(math.log(max(word.confidence, 1e-6)) for word in self.words) / len(self.words))


class Letter(NamedTuple):
    """A letter of an alignment: start and end in seconds, and its highest probability in between."""

    letter: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Output:
    """A model's output for one recording.

    Attributes:
        log_probs: log-probabilities (T, V), a row per frame, a column per letter, and the blank last.
        labels: the letters, in the order of the columns; or subword pieces, in which ▁ is the space before a word.
        seconds: frame length.
        spell: tokenizer from a text to columns, for subword pieces; None for letters.

    Example:
        >>> probs = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])  # a, blank, b
        >>> output = Output(np.log(probs), "ab", 0.02)
        >>> output.greedy
        'ab'
        >>> [(letter.letter, letter.start, letter.end) for letter in output.align("ab")]
        [('a', 0.0, 0.02), ('b', 0.04, 0.06)]
    """

    log_probs: np.ndarray
    labels: Sequence[str]
    seconds: float
    spell: Callable[[str], list[int]] | None = None

    @property
    def greedy(self) -> str:
        """Greedy text: the most likely letter of each frame, with repeats collapsed and blanks removed."""
        text = "".join(letter.letter for letter in self._letters)
        return text.strip() if self.spell else text

    @property
    def columns(self) -> list[int]:
        """The columns of the greedy text's letters or pieces: of each frame, without repeats and blanks."""
        return [label for label, _ in self._labels]

    def transcript(self, text: str, duration: float) -> Transcript:
        """Add word times to a decoder's text, stripped, for a recording of `duration` seconds."""
        text = text.strip()
        words = _words(self._letters, duration)
        if self.spell and [word.word for word in words] != text.split():  # no spaces before punctuation marks
            letters = [letter for letter in self._letters if letter.letter != " "]
            words = _regrouped(letters, text.split(), duration) or words
        if [word.word for word in words] != text.split():  # not the greedy text: align it
            spelled = " ".join(text.split())
            words = _words(self.align(spelled), duration) if spelled else []
        return Transcript(text, words, duration)

    def align(self, text: str) -> list[Letter]:
        """Align a known text: the most likely CTC path that spells it (Viterbi).

        Returns:
            the letters of `text` in order, spaces included; for a model of subword pieces, those pieces.

        Raises:
            InputError: `text` is empty, has characters that the model lacks, or is too long for the recording.
        """
        if not text:
            raise InputError("the text to align is empty; pass the words of the recording")
        columns = self.spell(text) if self.spell else self._columns(text)
        needed = len(columns) + sum(one == other for one, other in pairwise(columns))  # a blank between repeats
        if needed > len(self.log_probs):
            raise InputError(
                f"the text to align, {text!r}, needs {needed} frames of {self.seconds:.2f} s, but the recording has "
                f"{len(self.log_probs)}; check that the text is this recording's"
            )
        path = best_path(self.log_probs, states_of(columns, self.log_probs.shape[1] - 1))
        runs = ((state // 2, frames) for state, frames in _runs(path) if state % 2)
        return [letter for place, frames in runs for letter in self._spelled(columns[place], frames)]

    def _columns(self, text: str) -> list[int]:
        strange = sorted(set(text) - set(self.labels))
        if strange:
            raise InputError(
                f"the text to align, {text!r}, has {' '.join(map(repr, strange))}, not in the model's alphabet"
            )
        return [self.labels.index(letter) for letter in text]

    @cached_property
    def _labels(self) -> list[tuple[int, range]]:
        """The columns of the greedy text with their frames."""
        return [run for run in _runs(self.log_probs.argmax(axis=1)) if run[0] < len(self.labels)]

    @cached_property
    def _letters(self) -> list[Letter]:
        return [letter for label, frames in self._labels for letter in self._spelled(label, frames)]

    def _spelled(self, label: int, frames: range) -> Iterator[Letter]:
        """Yield a letter as it is, and a subword piece with the space before it as a letter of its own."""
        for place, part in enumerate(self.labels[label].split("▁") if self.spell else [self.labels[label]]):
            if place:
                yield self._letter(" ", label, frames[:1])
            if part:
                yield self._letter(part, label, frames)

    def _letter(self, letter: str, label: int, frames: range) -> Letter:
        start, end = round(frames[0] * self.seconds, 3), round((frames[-1] + 1) * self.seconds, 3)
        return Letter(letter, start, end, math.exp(self.log_probs[frames.start : frames.stop, label].max()))


def _runs(path: np.ndarray) -> Iterator[tuple[int, range]]:
    """Yield each run of equal values in a path (T,), with its frames."""
    if not len(path):  # audio shorter than a frame
        return
    starts = np.flatnonzero(np.diff(path, prepend=path[:1] - 1))
    for value, first, after in zip(
        path[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(path)], strict=True
    ):
        yield value, range(first, after)


def _words(letters: Iterable[Letter], duration: float) -> list[Word]:
    groups = groupby(letters, key=lambda letter: letter.letter == " ")
    return [_word(list(group), duration) for is_space, group in groups if not is_space]


def _word(letters: Sequence[Letter], duration: float) -> Word:
    start, end = min(letters[0].start, duration), min(letters[-1].end, duration)
    confidence = math.prod(letter.confidence for letter in letters)
    return Word("".join(letter.letter for letter in letters), start, end, round(confidence, 4))


# --- The output of a transducer ---------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A letter or piece that a transducer wrote, at which frame, for how many frames, and with which probability."""

    piece: str
    frame: int
    frames: int
    probability: float


def from_steps(steps: Iterable[Step], seconds: float, text: str, duration: float, has_pieces: bool) -> Transcript:
    """Return the transcript of a transducer's output.

    A transducer may write several letters or pieces, even words, in one frame; their times are then the same.

    Args:
        steps: what was written, in order.
        seconds: frame length.
        text: the decoder's text; its words are those of the steps, apart from the spaces before punctuation marks.
        duration: of the recording, in seconds.
        has_pieces: whether the steps are subword pieces, in which ▁ is the space before a word.

    Example:
        >>> steps = [Step("▁go", 2, 1, 0.9), Step("al", 4, 2, 0.5), Step("▁.", 6, 1, 1.0)]
        >>> from_steps(steps, 0.08, "goal.", 0.6, has_pieces=True).words
        [Word(word='goal.', start=0.16, end=0.56, confidence=0.45)]
    """
    letters = []
    for step in steps:
        start, end = round(step.frame * seconds, 3), round((step.frame + max(step.frames, 1)) * seconds, 3)
        for place, part in enumerate(step.piece.split("▁") if has_pieces else [step.piece]):
            if place:
                letters.append(Letter(" ", start, start, step.probability))
            if part:
                letters.append(Letter(part, start, end, step.probability))
    words = _words(letters, duration)
    if [word.word for word in words] != text.split():
        words = _regrouped([letter for letter in letters if letter.letter != " "], text.split(), duration) or words
    return Transcript(text, words, duration)


def _regrouped(letters: list[Letter], words: Sequence[str], duration: float) -> list[Word]:
    """Return the words with the times of their letters; an empty list if the letters spell something else."""
    found, first = [], 0
    for word in words:
        spelled, last = "", first
        while len(spelled) < len(word) and last < len(letters):
            spelled += letters[last].letter
            last += 1
        if spelled != word:
            return []
        found.append(_word(letters[first:last], duration))
        first = last
    return found if first == len(letters) else []


# --- Sound to batches -------------------------------------------------------------------------------------------------


def batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group indexes into batches of similar length, longest first, so that a lack of memory shows at once.

    Raises:
        InputError: the batch size is below 1.

    Example:
        >>> batches([3, 9, 1, 8], batch_size=2)
        [[1, 3], [0, 2]]
    """
    if batch_size < 1:
        raise InputError(f"batch size {batch_size}: expected 1 or more")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def _read_blocks(sound: Sound, index: int, rate: int) -> Iterator[np.ndarray]:
    """Yield the samples of sound number `index` in blocks, mono float32 at `rate`, after checks.

    Raises:
        InputError: the file can't be read, or an array isn't mono float samples.
    """
    name = f"array {index}" if isinstance(sound, np.ndarray) else str(sound)
    for samples in [sound] if isinstance(sound, np.ndarray) else audio.stream_audio(sound, rate):
        if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.floating):
            raise InputError(
                f"{name}: {samples.dtype} samples of shape {samples.shape}; expected mono float samples, (T,)"
            )
        if not math.isfinite(samples.sum()) and not np.isfinite(samples).all():  # the sum takes a quarter of the time
            raise InputError(f"{name}: has samples that are not finite (NaN or infinity); export the file again")
        yield np.ascontiguousarray(samples, np.float32)


def read(sounds: Sequence[Sound], rate: int) -> list[np.ndarray]:
    """Read recordings as mono float32 samples, (t,) each, at `rate`.

    Raises:
        InputError: a file can't be read, or an array isn't mono float samples.
    """
    return [np.concatenate(list(_read_blocks(sound, index, rate))) for index, sound in enumerate(sounds)]


def recognise_audible(
    batch: Sequence[np.ndarray], rate: int, recognise: Callable[[list[np.ndarray]], list[Transcript]]
) -> list[Transcript]:
    """Recognise a batch without its silence, whose text is empty, and with quiet recordings raised.

    Silence doesn't reach the network, whose normalisation would raise its noise to the level of speech. A quiet
    recording's text would be worse: the features' logarithm has a floor, made for recordings of an ordinary level.

    Args:
        batch: mono float32 samples, (t,) each; they may be empty.
        rate: sample rate in Hz.
        recognise: the network and its decoder.
    """
    audible = list(filter(_is_audible, batch))
    heard = iter(recognise([raised(samples, rate) for samples in audible]) if audible else [])
    return [next(heard) if _is_audible(samples) else Transcript("", [], len(samples) / rate) for samples in batch]


def _is_audible(samples: np.ndarray) -> bool:
    return bool(np.abs(samples).max(initial=0) >= audio.SILENCE)


def raised(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the samples of a quiet recording, (t,), raised to an ordinary level; those of others unchanged.

    A constant that is added to all samples, as cheap sound cards do, is taken out.
    """
    powers = audio.frame_powers(samples, rate // 50)
    level = 10 * math.log10(np.percentile(powers, 95) + 1e-12) if len(powers) else 0.0
    mean, quiet = samples.mean() if len(samples) else 0.0, level < _QUIET
    if quiet or abs(mean) > _OFFSET:
        samples = samples - np.float32(mean)
    return samples * np.float32(10 ** ((_LEVEL - level) / 20)) if quiet else samples


def transcribe_each(
    sounds: Sequence[Sound],
    rate: int,
    recognise: Callable[[list[np.ndarray]], list[Transcript]],
    batch_size: int,
    progress: bool,
    threads: int = 1,
) -> Iterator[Transcript | InputError]:
    """Transcribe recordings of any length, in order; a recording that can't be read yields its error.

    At most three times `WINDOW_SECONDS` of audio and a piece are in memory, however long or many the recordings.

    Args:
        sounds: the recordings.
        rate: the model's sample rate in Hz.
        recognise: transcribes a batch of mono float32 samples, (t,) each.
        batch_size: pieces of audio per batch.
        progress: show a progress bar, which counts hours of sound.
        threads: batches recognised in parallel.
    """
    waiting: list[_Read] = []
    scale = _hours(sounds) if progress else {}
    index, reached = -1, 0.0  # of the recording that is being read, and the second up to which it is done
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(**scale, delay=1, leave=False, disable=not progress) as bar,
    ):
        apply = map if threads == 1 else pool.map
        read = windows(pieces(sounds, rate), rate, batch_size)
        if threads > 1:
            read = _ahead(read, pool)
        started = (_Window(window, recognise, batch_size, apply) for window in read)
        for window in _one_behind(started) if threads > 1 else started:
            waiting += window.heard()
            for piece in window.pieces:  # the silence between them counts, too
                index, reached = piece.index, reached if piece.index == index else 0.0
                bar.update((piece.start + piece.size / rate - reached) / 3600)
                reached = piece.start + piece.size / rate
            last = waiting[-1].index  # more pieces of it may follow
            bar.set_postfix_str(f"{last} of {len(sounds)} recordings", refresh=False)  # not before the delay
            yield from _joined(read for read in waiting if read.index < last)
            waiting = [read for read in waiting if read.index == last]
        yield from _joined(waiting)


def _hours(sounds: Sequence[Sound]) -> dict[str, object]:
    """Return the scale of the progress bar: hours of sound, with their total if the files say it."""
    total = 0.0
    for sound in sounds if len(sounds) <= _MOST_HEADERS else []:
        if isinstance(sound, np.ndarray):  # the others may be made one by one, as they are asked for
            total = 0.0
            break
        minutes = audio.minutes_of(sound)
        if minutes is None:  # unreadable, or without a length
            continue
        total += minutes / 60
    if not total:
        return {"bar_format": "{n:.2f} h of sound {elapsed}{postfix}"}
    form = "{l_bar}{bar}| {n:.2f} of {total:.2f} h of sound, {elapsed}<{remaining}{postfix}"
    return {"total": max(total, 1e-3), "bar_format": form}


def all_of(results: Iterable[Transcript | InputError]) -> list[Transcript]:
    """Collect the results of `transcribe_each`.

    Raises:
        InputError: the first error among them.
    """
    return list(without_errors(results))


def without_errors(results: Iterable[Transcript | InputError]) -> Iterator[Transcript]:
    """Yield the results of `transcribe_each`.

    Raises:
        InputError: the first error among them, when it is reached.
    """
    for result in results:
        if isinstance(result, InputError):
            raise result
        yield result


@dataclass(frozen=True)
class Piece:
    """A piece of recording number `index` from second `start` on, or the error of reading the recording."""

    index: int
    start: float
    samples: np.ndarray | InputError

    @property
    def size(self) -> int:
        """Number of samples."""
        return 0 if isinstance(self.samples, InputError) else len(self.samples)

    @property
    def is_audible(self) -> bool:
        """Whether it holds more than silence."""
        return self.size > 0 and _is_audible(self.samples)


def pieces(sounds: Iterable[Sound], rate: int) -> Iterator[Piece]:
    """Yield the pieces of recordings, cut at pauses (`data.pauses`)."""
    for index, sound in enumerate(sounds):
        try:
            blocks = _read_blocks(sound, index, rate)
            for start, samples in pauses.cut_at_pauses(blocks, rate):
                yield Piece(index, start, samples)
        except InputError as error:
            yield Piece(index, 0.0, error)


def windows(pieces: Iterable[Piece], rate: int, batch_size: int) -> Iterator[list[Piece]]:
    """Group pieces into windows, each as much as is read ahead."""
    window: list[Piece] = []
    size, enough = 0, _FIRST_BATCHES
    for piece in pieces:
        window.append(piece)
        size += piece.size
        if size >= WINDOW_SECONDS * rate or len(window) >= enough * batch_size:
            yield window
            window, size, enough = [], 0, min(4 * enough, _MOST_BATCHES)
    if window:
        yield window


@dataclass(frozen=True)
class _Read:
    """Transcript of a piece, or the error of reading its recording."""

    index: int
    start: float
    heard: Transcript | InputError


class _Window:
    """Pieces that are being recognised; in the background if `apply` is a thread pool's `map`."""

    def __init__(
        self,
        pieces: list[Piece],
        recognise: Callable[[list[np.ndarray]], list[Transcript]],
        batch_size: int,
        apply: Callable[[Callable, Iterable], Iterable],
    ):
        self.pieces = pieces
        self._heard: dict[int, Transcript | InputError] = {
            place: piece.samples for place, piece in enumerate(pieces) if isinstance(piece.samples, InputError)
        }
        readable = [place for place in range(len(pieces)) if place not in self._heard]
        self._groups = [
            [readable[index] for index in batch]
            for batch in batches([pieces[place].size for place in readable], batch_size)
        ]
        self._found = apply(lambda group: recognise([pieces[place].samples for place in group]), self._groups)

    def heard(self) -> list[_Read]:
        """Wait for all pieces and return their transcripts, in the order of the pieces."""
        heard = self._heard
        for group, texts in zip(self._groups, self._found, strict=True):
            heard.update(zip(group, texts, strict=True))
        return [_Read(piece.index, piece.start, heard[place]) for place, piece in enumerate(self.pieces)]


def _ahead(windows: Iterator[list[Piece]], pool: ThreadPoolExecutor) -> Iterator[list[Piece]]:
    """Yield the windows, reading the next one on the pool before the current one is recognised.

    So never more threads work than there are cores; with an extra thread for reading, everything took 5% longer.
    """
    upcoming = pool.submit(next, windows, None)
    while window := upcoming.result():
        upcoming = pool.submit(next, windows, None)
        yield window


def _one_behind(items: Iterable[_Window]) -> Iterator[_Window]:
    """Yield each item once the next one has started."""
    for item, _ in pairwise(chain(items, (None,))):
        yield item


def _joined(reads: Iterable[_Read]) -> Iterator[Transcript | InputError]:
    """Join the pieces of each recording."""
    for _, group in groupby(reads, key=lambda read: read.index):
        parts = list(group)
        errors = [part.heard for part in parts if isinstance(part.heard, InputError)]
        if errors:
            yield errors[0]
        else:
            yield joined([(part.start, part.heard) for part in parts])


def joined(parts: Sequence[tuple[float, Transcript]]) -> Transcript:
    """Join the transcripts of a recording's pieces, each with its start in seconds.

    Example:
        >>> parts = [(0.0, Transcript("go", [Word("go", 0.1, 0.3, 0.9)], 2.0))]
        >>> parts += [(2.0, Transcript("on", [Word("on", 0.2, 0.4, 0.8)], 1.5))]
        >>> joined(parts).text, joined(parts).words[1].start, joined(parts).duration
        ('go on', 2.2, 3.5)
    """
    if len(parts) == 1 and parts[0][0] == 0:
        return parts[0][1]
    words = [
        replace(word, start=round(start + word.start, 3), end=round(start + word.end, 3))
        for start, heard in parts
        for word in heard.words
    ]
    text = " ".join(heard.text.strip() for _, heard in parts if heard.text.strip())
    start, last = parts[-1]
    return Transcript(text, words, start + last.duration, all(heard.has_word_times for _, heard in parts))
