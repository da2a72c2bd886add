"""Conversion of recordings in any format into 16-bit mono WAVs of one sampling rate, with measurements, in parallel."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

from asr_with_nemo.base.processes import Workers
from asr_with_nemo.data import audio
from asr_with_nemo.data.sound import Sound, ends_too_early, mix_down, open_sound, speaking_channel, two_talkers
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.cues import END_OF_TIME
from asr_with_nemo.own_data.text import REPAIRABLE, Rule, doubts, outside, repaired, respelled, without_tags

_FRAME = 0.02  # seconds
_BELOW_SPEECH = 35  # dB; a frame that far below the loud ones is a pause
_MARGIN = 0.25  # seconds of a pause that remain when it is cut off
LONG_PAUSE = 1.5  # seconds before or after speech; a longer pause is reported


@dataclass(frozen=True)
class Form:
    """The target form of recordings and transcripts.

    Attributes:
        folder: the parent of the WAVs.
        rate: sampling rate in Hz.
        longest: maximum duration in seconds; a longer recording isn't read.
        rule: how transcripts are normalised.
        alphabet: the characters allowed in transcripts; None for any.
        fix: whether to cut off long pauses before and after speech, and to repair transcripts.
        split_channels: whether to take the channel that speaks, where a row doesn't name one.
    """

    folder: Path
    rate: int = audio.SAMPLE_RATE
    longest: float = 60.0
    rule: Rule = field(default_factory=Rule)
    alphabet: frozenset[str] | None = None
    fix: bool = False
    split_channels: bool = False


@dataclass(frozen=True, slots=True)
class MeasureJob:
    """A recording to convert and measure, and its transcript to normalise.

    Attributes:
        number: of its row.
        audio: a path or bytes; "" if the recording is measured already.
        wav: the output path, relative to the form's folder.
        text: the transcript as written.
        start, seconds, channel: the part to take (`sources.Entry`).
    """

    number: int
    audio: str | bytes
    wav: str
    text: str
    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Measures:
    """The measurements of a recording.

    Attributes:
        rate, channels, coding: of the source; the rate in Hz.
        source_seconds: duration of the part taken from the source.
        seconds: duration of the WAV.
        peak: the largest absolute sample, without the DC offset; 1 is full scale, which floats can exceed.
        clipped: the share of samples that stay at the largest value.
        first, last: seconds at which speech begins and ends in the WAV.
        digest: of the WAV's samples.
        cut: whether the file is shorter than its header states.
        trimmed: seconds that were cut off.
        unfinished: whether the file's header was never completed.
        talkers: whether its two channels hold two people in turn, and were mixed.
        taken: the channel that was taken, from 0; None for a mix of all.
    """

    rate: int
    channels: int
    coding: str
    source_seconds: float
    seconds: float
    peak: float
    clipped: float
    first: float
    last: float
    digest: bytes
    cut: bool
    trimmed: float
    unfinished: bool = False
    talkers: bool = False
    taken: int | None = None

    def values(self) -> tuple:
        """Return the measurements in the order of the attributes."""
        return astuple(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a job.

    Attributes:
        number: of its row.
        text: the transcript, repaired if the form says so, and normalised.
        doubts: its problems (`text.doubts`): kind → (detail, the action taken).
        measures: None if the recording was measured already, or can't be used.
        problem, detail: why it can't be used: a kind of `quality.KINDS`, and the reason.
    """

    number: int
    text: str
    doubts: dict[str, tuple[str, str]]
    measures: Measures | None = None
    problem: str = ""
    detail: str = ""


class Unusable(Exception):
    """A recording can't be converted.

    Attributes:
        problem: a kind of `quality.KINDS`.
        detail: the reason.
    """

    def __init__(self, problem: str, detail: str):
        super().__init__(f"{problem}: {detail}")
        self.problem, self.detail = problem, detail


# --- One recording ----------------------------------------------------------------------------------------------------


def convert(job: MeasureJob, form: Form) -> Measures:
    """Convert a recording to a WAV and measure it.

    Raises:
        Unusable: it can't be read, is empty, or is too long.
        OSError: the WAV can't be written.
    """
    samples, sound, cut = _read(job, form.longest)  # (T, channels)
    rate, channels = sound.rate, sound.channels
    if not np.isfinite(samples).all():
        raise Unusable("unreadable", "has samples that are NaN or infinite")
    channel = job.channel
    if channel is None and form.split_channels and channels > 1:
        channel = speaking_channel(samples, rate)
    mono = _mono(samples, channel)
    clipped = max(_flat_share(samples[:, one]) for one in (range(channels) if channel is None else [channel]))
    # Floats can exceed full scale; cut off there, they would become square waves.
    loudest = float(np.abs(mono).max(initial=0.0))
    heard = mono / loudest if loudest > 1 else mono
    resampled = soxr.resample(heard, rate, form.rate) if rate != form.rate else heard
    if not len(resampled):
        raise Unusable("no sound", "has no samples")
    first, last = _speech_span(resampled, form.rate)
    seconds = len(resampled) / form.rate
    trimmed = 0.0
    if form.fix and max(first, seconds - last) > LONG_PAUSE:
        start, end = max(0.0, first - _MARGIN), min(seconds, last + _MARGIN)
        resampled = resampled[round(start * form.rate) : round(end * form.rate)]
        first, last, trimmed = first - start, last - start, seconds - len(resampled) / form.rate
    written = np.clip(np.round(resampled * 32_768), -32_768, 32_767).astype(np.int16)
    audio.write_wav(form.folder / job.wav, written, form.rate)
    return Measures(
        rate=rate,
        channels=channels,
        coding=sound.coding,
        source_seconds=len(samples) / rate,
        seconds=len(written) / form.rate,
        peak=float(np.abs(mono - mono.mean()).max()),
        clipped=clipped,
        first=first,
        last=last,
        digest=hashlib.blake2b(written.tobytes(), digest_size=16).digest(),
        cut=cut,
        trimmed=trimmed,
        unfinished=sound.unfinished,
        talkers=channels == 2 and channel is None and two_talkers(samples, rate),
        taken=channel,
    )


def _read(job: MeasureJob, longest: float) -> tuple[np.ndarray, Sound, bool]:
    """Return samples (T, channels), at most 1 in size but for floats, the recording, and whether it is cut short."""
    if isinstance(job.audio, str) and os.path.exists(job.audio) and not os.path.isfile(job.audio):
        raise Unusable("special", "")
    if isinstance(job.audio, str) and os.path.isfile(job.audio) and not os.path.getsize(job.audio):
        raise Unusable("no sound", "the file is empty")
    try:
        with open_sound(job.audio) as sound:
            start, count = _part(job, sound)
            if count is not None and count > longest * sound.rate:
                raise Unusable("too long", f"{count / sound.rate:,.0f} seconds")
            most = int(longest * sound.rate) + 1  # some formats don't state their length
            blocks = sound.blocks(1 << 20, start, most if count is None else count)
            samples = np.concatenate([np.zeros((0, sound.channels), np.float32), *blocks])
    except InputError as error:
        name = "the recording" if isinstance(job.audio, bytes) else job.audio
        raise Unusable("unreadable", str(error).removeprefix(f"{name}: ")) from error
    if not len(samples):
        raise Unusable("no sound", "has no samples")
    if len(samples) > longest * sound.rate:
        raise Unusable("too long", f"more than {longest:g} seconds")
    return samples, sound, bool(sound.cut) or ends_too_early(sound, len(samples), count)


def _part(job: MeasureJob, sound: Sound) -> tuple[int, int | None]:
    """Return the first sample of a job's part and their number; None if the recording doesn't state its length."""
    if not abs(job.start) + abs(job.seconds or 0.0) < END_OF_TIME:  # NaN, too
        raise Unusable("bad times", f"from {job.start:g} s, {job.seconds} s long")
    start, whole = round(job.start * sound.rate), sound.frames
    count = None if job.seconds is None else round(job.seconds * sound.rate)
    if job.start < 0 or (count is not None and count <= 0):
        until = "" if job.seconds is None else f", {job.seconds:g} s long"
        raise Unusable("bad times", f"from {job.start:g} s{until}")
    if whole is None:
        return start, count
    end = start + (count or 0)
    if (start and start >= whole) or end > whole + audio.PAST_END * sound.rate:
        written = f"from {job.start:g} s" + (f" to {end / sound.rate:g} s" if count is not None else "")
        raise Unusable("past the end", f"{written}, but the recording has {whole / sound.rate:.2f} s")
    return start, whole - start if count is None else min(count, whole - start)


def _mono(samples: np.ndarray, channel: int | None) -> np.ndarray:
    """Return one channel, or a mix of all, (T,)."""
    if channel is not None and channel >= samples.shape[1]:
        raise Unusable("no sound", f"has no channel {channel + 1}, only {samples.shape[1]}")
    return mix_down(samples) if channel is None else np.ascontiguousarray(samples[:, channel])


def _flat_share(samples: np.ndarray) -> float:
    """Return the share of clipped samples: those at the largest absolute value, three or more in a row."""
    size = np.abs(samples)
    largest = size.max()
    if largest < 0.1:
        return 0.0
    top = size >= 0.9995 * largest
    return float((top[:-2] & top[1:-1] & top[2:]).sum() / len(samples)) if len(samples) > 2 else 0.0


def _speech_span(samples: np.ndarray, rate: int) -> tuple[float, float]:
    """Return where speech begins and ends in mono samples, (T,), in seconds: the frames not far below the loud ones."""
    size = max(1, round(_FRAME * rate))
    if len(samples) < size:
        return 0.0, len(samples) / rate
    powers = audio.frame_powers(samples, size)
    loud = np.nonzero(powers > np.quantile(powers, 0.95) * 10 ** (-_BELOW_SPEECH / 10))[0]
    if not len(loud):
        return 0.0, len(samples) / rate
    return int(loud[0]) * size / rate, min(len(samples), (int(loud[-1]) + 1) * size) / rate


# --- All recordings ---------------------------------------------------------------------------------------------------


def work(jobs: list[MeasureJob], form: Form) -> list[Outcome]:
    """Run jobs in this process; an unusable recording becomes an outcome with a problem.

    Raises:
        InputError: a WAV can't be written.
    """
    outcomes = []
    for job in jobs:
        text, doubtful = _transcript(job.text, form)
        measures, problem = None, ("", "")
        try:
            measures = convert(job, form) if job.audio else None
        except Unusable as error:
            problem = error.problem, error.detail
        except OSError as error:
            if error.filename != job.audio:
                raise InputError(f"{form.folder / job.wav}: can't be written ({error.strerror})") from error
            problem = ("unreadable", str(error.strerror))
        outcomes.append(Outcome(job.number, text, doubtful, measures, *problem))
    return outcomes


def _transcript(written: str, form: Form) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return a transcript normalised by the form's rule, and its problems."""
    found = doubts(written)
    written = without_tags(written)
    text = form.rule.normalise(repaired(written) if form.fix else written)
    done = {kind: (detail, "fixed" if form.fix and kind in REPAIRABLE else "") for kind, detail in found.items()}
    if form.alphabet is not None and (strange := outside(text, form.alphabet)):
        text = respelled(text, form.alphabet) if form.fix else text
        fixed = "" if outside(text, form.alphabet) else "fixed"
        done["outside alphabet"] = (" ".join(strange), fixed)
    return text, done


class Pool(Protocol):
    """Processes that run functions: joblib's executor, or a cluster (`places.ray_cluster.Pool`)."""

    def submit(self, function: Callable, *arguments: object) -> Future:
        """Run a function; the future's `result` raises `BrokenProcessPool` if its process has died."""

    def shutdown(self, *, kill_workers: bool) -> None:
        """End the processes."""


def convert_all(
    jobs: Iterable[list[MeasureJob]], form: Form, workers: int, start: Callable[[int], Pool] | None = None
) -> Iterator[list[Outcome]]:
    """Run jobs in worker processes, and yield their outcomes in order.

    Only a few batches per worker are in memory. A recording that crashes a worker is reported as unreadable, and the
    others are still converted.

    Args:
        jobs: in batches.
        form: the target form.
        workers: number of processes; with one, the jobs run in this process, unless `start` is given.
        start: starts a number of processes; by default, of this machine.

    Raises:
        InputError: a WAV can't be written.
    """
    if workers == 1 and start is None:
        yield from (work(some, form) for some in jobs)
        return
    start = start or _start
    pool = start(workers)
    pending: deque[tuple[list[MeasureJob], Future]] = deque()
    try:
        for some in jobs:
            pending.append((some, pool.submit(work, some, form)))
            while len(pending) > 3 * workers or (pending and pending[0][1].done()):
                outcomes, pool = _next(pending, pool, form, workers, start)
                yield outcomes
        while pending:
            outcomes, pool = _next(pending, pool, form, workers, start)
            yield outcomes
    finally:
        pool.shutdown(kill_workers=True)


def _start(workers: int) -> Workers:
    """Start worker processes.

    Raises:
        InputError: they don't start.
    """
    pool = Workers(workers, _without_warnings)
    try:
        pool.submit(work, [], Form(Path("."))).result()
    except BrokenProcessPool as error:
        raise InputError(f"no worker process can be started ({error}); try --workers 1") from error
    return pool


def _without_warnings() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print warnings that the report states better


def _next(
    pending: deque[tuple[list[MeasureJob], Future]],
    pool: Pool,
    form: Form,
    workers: int,
    start: Callable[[int], Pool],
) -> tuple[list[Outcome], Pool]:
    """Return the outcomes of the oldest batch, and the pool to go on with: a new one if a worker crashed."""
    jobs, future = pending.popleft()
    try:
        return future.result(), pool
    except BrokenProcessPool:
        pool.shutdown(kill_workers=True)
    outcomes = _one_by_one(jobs, form, start)
    pool = start(workers)
    for place, (some, _) in enumerate(pending):
        pending[place] = (some, pool.submit(work, some, form))
    return outcomes, pool


def _one_by_one(jobs: list[MeasureJob], form: Form, start: Callable[[int], Pool]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    pool = start(1)
    for job in jobs:
        try:
            outcomes += pool.submit(work, [job], form).result()
        except BrokenProcessPool:
            reason = "crashes the decoder"
            outcomes.append(Outcome(job.number, *_transcript(job.text, form), None, "unreadable", reason))
            pool.shutdown(kill_workers=True)
            pool = start(1)
    pool.shutdown(kill_workers=True)
    return outcomes
