"""Recordings of any kind, measured and made into what a model is fed: 16-bit mono WAVs of one rate, by all cores."""

import hashlib
import io
import os
import re
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from joblib.externals.loky import ProcessPoolExecutor

from asr_with_nemo.data import audio
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.text import REPAIRABLE, Rule, doubts, outside, repaired, respelled

FRAME = 0.02  # seconds
BELOW_SPEECH = 35  # dB below the loud frames, from which on a frame counts as a pause
MARGIN = 0.25  # seconds of a pause that are left where one is cut off
MAX_SAMPLES = 1 << 50  # where a header says more, it doesn't know
LONG_PAUSE = 1.5  # seconds before or after speech, from which on a pause is long


@dataclass(frozen=True)
class Form:
    """What recordings are made into.

    Attributes:
        folder: where the WAVs go.
        rate: samples per second.
        longest: seconds; a longer recording isn't read.
        rule: by which transcripts are normalised.
        alphabet: that transcripts have to keep to; None for any.
        fix: whether long pauses before and after speech are cut off, and transcripts repaired.
    """

    folder: Path
    rate: int = audio.SAMPLE_RATE
    longest: float = 60.0
    rule: Rule = field(default_factory=Rule)
    alphabet: frozenset[str] | None = None
    fix: bool = False


@dataclass(frozen=True, slots=True)
class MeasureJob:
    """A recording to be made, and its transcript to be normalised.

    Attributes:
        number: of its row.
        audio: a path or bytes; "" where it has been measured already.
        wav: where it goes, relative to the form's folder.
        text: as it was written.
        start, seconds, channel: the part to take (`entries.Entry`).
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
    """What a recording is like.

    Attributes:
        rate, channels, coding: of the source.
        source_seconds: of the source's part.
        seconds: of the WAV.
        peak: the largest sample, 0 to 1, without the constant part.
        clipped: the share of samples that lie flat at the largest value.
        first, last: seconds at which speech begins and ends in the WAV.
        digest: of the WAV's samples.
        cut: whether the file is shorter than it says.
        trimmed: seconds that were cut off.
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

    def values(self) -> tuple:
        return astuple(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Attributes:
        number: of its row.
        text: the transcript, repaired if that was asked for, and normalised.
        doubts: what was wrong with it (`text.doubts`), and what was done about it: kind → (what was found, done).
        measures: None if the recording has been measured already, or can't be used.
        problem, detail: why it can't be used: a kind of `quality.KINDS`.
    """

    number: int
    text: str
    doubts: dict[str, tuple[str, str]]
    measures: Measures | None = None
    problem: str = ""
    detail: str = ""


class Unusable(Exception):
    """A recording that nothing can be made of: the kind of problem, and the detail."""


# --- One recording ----------------------------------------------------------------------------------------------------


def convert(job: MeasureJob, form: Form) -> Measures:
    """Make a recording's WAV and measure it.

    Raises:
        Unusable: it can't be read, holds nothing, or is too long.
        OSError: the WAV can't be written.
    """
    samples, rate, coding, cut = _read(job, form.longest)  # (T, channels)
    if not np.isfinite(samples).all():
        raise Unusable("unreadable", "holds values that are no numbers")
    channels = samples.shape[1]
    mono = _mono(samples, job.channel)
    clipped = max(_flat_share(samples[:, channel]) for channel in range(channels))
    resampled = soxr.resample(mono, rate, form.rate) if rate != form.rate else mono
    if not len(resampled):
        raise Unusable("no sound", "holds no samples")
    first, last = speech_span(resampled, form.rate)
    seconds = len(resampled) / form.rate
    trimmed = 0.0
    if form.fix and max(first, seconds - last) > LONG_PAUSE:
        start, end = max(0.0, first - MARGIN), min(seconds, last + MARGIN)
        resampled = resampled[round(start * form.rate) : round(end * form.rate)]
        first, last, trimmed = first - start, last - start, seconds - len(resampled) / form.rate
    written = np.clip(np.round(resampled * 32_768), -32_768, 32_767).astype(np.int16)
    audio.write_wav(form.folder / job.wav, written, form.rate)
    return Measures(
        rate=rate,
        channels=channels,
        coding=coding,
        source_seconds=len(samples) / rate,
        seconds=len(written) / form.rate,
        peak=float(np.abs(mono - mono.mean()).max()),
        clipped=clipped,
        first=first,
        last=last,
        digest=hashlib.blake2b(written.tobytes(), digest_size=16).digest(),
        cut=cut,
        trimmed=trimmed,
    )


def _read(job: MeasureJob, longest: float) -> tuple[np.ndarray, int, str, bool]:
    """Samples (T, channels) in [-1, 1], their rate, the coding, and whether the file is cut short."""
    opened = False
    try:
        with soundfile.SoundFile(io.BytesIO(job.audio) if isinstance(job.audio, bytes) else job.audio) as sound:
            opened = True
            rate, whole = sound.samplerate, sound.frames
            start = round(job.start * rate)
            count = whole - start if job.seconds is None else round(job.seconds * rate)
            if job.start < 0 or (start and start >= whole) or (job.seconds is not None and count <= 0):
                raise Unusable("no sound", f"its part from {job.start:g} s on isn't in the recording")
            count = min(count, whole - start)
            if longest * rate < count < MAX_SAMPLES:
                raise Unusable("too long", f"{count / rate:,.0f} seconds")
            if start:
                sound.seek(start)
            # Some formats don't say how long they are.
            samples = sound.read(min(count, int(longest * rate) + 1), dtype="float32", always_2d=True)
            coding = f"{sound.format} {sound.subtype}"
            cut = len(samples) < 0.95 * count < MAX_SAMPLES
            cut |= sound.format.startswith("WAV") and _says_more(sound.extra_info)
    except soundfile.LibsndfileError as error:
        samples, rate = _read_otherwise(job, longest, error.error_string)
        coding, cut = "read by SoX", opened  # SoX gives what there is of a damaged file
    if not len(samples):
        raise Unusable("no sound", "holds no samples")
    if len(samples) > longest * rate:
        raise Unusable("too long", f"more than {longest:g} seconds")
    return samples, rate, coding, cut


def _says_more(info: str) -> bool:
    """Whether a WAV's header names more data than there is; one written to a pipe names the most there can be."""
    said = re.search(r"data : (\d+) \(should be (\d+)\)", info)
    return bool(said) and int(said[2]) < int(said[1]) < 0x7FFFFF00


def _read_otherwise(job: MeasureJob, longest: float, reason: str) -> tuple[np.ndarray, int]:
    """What libsndfile can't read, read by SoX if it can: samples (T, channels) and their rate."""
    if isinstance(job.audio, bytes):
        raise Unusable("unreadable", reason)
    if os.path.getsize(job.audio) == 0:
        raise Unusable("no sound", "the file is empty")
    end = job.start + (longest + 1 if job.seconds is None else job.seconds)
    try:
        samples, rate = audio.read_with_sox(job.audio, end)
    except InputError as error:
        raise Unusable("unreadable", str(error).removeprefix(f"{job.audio}: ")) from error
    samples = samples.reshape(len(samples), -1).astype(np.float32) / 32_768
    return samples[round(job.start * rate) :], rate


def _mono(samples: np.ndarray, channel: int | None) -> np.ndarray:
    """One channel, or the mean of all, (T,); the loudest one where they cancel each other out."""
    if samples.shape[1] == 1 or channel is not None:
        if channel is not None and channel >= samples.shape[1]:
            raise Unusable("no sound", f"has {samples.shape[1]} channel(s), and no channel {channel + 1}")
        return samples[:, channel or 0]
    mean = samples.mean(axis=1)
    loudness = np.square(samples).mean(axis=0)
    if np.square(mean).mean() < 0.05 * loudness.max():
        return np.ascontiguousarray(samples[:, loudness.argmax()])
    return mean


def _flat_share(samples: np.ndarray) -> float:
    """The share of samples that stay at the largest value, three or more in a row: where a wave was cut off."""
    size = np.abs(samples)
    largest = size.max()
    if largest < 0.1:
        return 0.0
    top = size >= 0.9995 * largest
    return float((top[:-2] & top[1:-1] & top[2:]).sum() / len(samples)) if len(samples) > 2 else 0.0


def speech_span(samples: np.ndarray, rate: int) -> tuple[float, float]:
    """When speech begins and ends in mono samples, (T,), in seconds: what isn't far softer than its loud parts."""
    size = max(1, round(FRAME * rate))
    if len(samples) < size:
        return 0.0, len(samples) / rate
    powers = audio.frame_powers(samples - samples.mean(), size)
    loud = np.nonzero(powers > np.quantile(powers, 0.95) * 10 ** (-BELOW_SPEECH / 10))[0]
    if not len(loud):
        return 0.0, len(samples) / rate
    return int(loud[0]) * size / rate, min(len(samples), (int(loud[-1]) + 1) * size) / rate


# --- All of them ------------------------------------------------------------------------------------------------------


def work(jobs: list[MeasureJob], form: Form) -> list[Outcome]:
    """Do some jobs; a recording that can't be used doesn't stop the others.

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
            problem = error.args
        except OSError as error:
            if error.filename != job.audio:
                raise InputError(f"{form.folder / job.wav}: can't be written ({error.strerror})") from error
            problem = ("unreadable", str(error.strerror))
        outcomes.append(Outcome(job.number, text, doubtful, measures, *problem))
    return outcomes


def _transcript(written: str, form: Form) -> tuple[str, dict[str, tuple[str, str]]]:
    """A transcript by the form's rule, and what was doubtful in it."""
    found = doubts(written)
    if form.fix:
        written = repaired(written)
    text = form.rule.normalise(written)
    done = {kind: (detail, "fixed" if form.fix and kind in REPAIRABLE else "") for kind, detail in found.items()}
    if form.alphabet is not None and (strange := outside(text, form.alphabet)):
        text = respelled(text, form.alphabet) if form.fix else text
        fixed = "" if outside(text, form.alphabet) else "fixed"
        done["outside alphabet"] = (" ".join(strange), fixed)
    return text, done


def convert_all(jobs: Iterable[list[MeasureJob]], form: Form, workers: int) -> Iterator[list[Outcome]]:
    """Do the jobs on several cores, and give what came of them in their order.

    Only as many as are at work are held. A recording that brings a worker down is found and named, the others are done.

    Args:
        jobs: some at a time.
        form: what to make.
        workers: processes; with one, all is done in this process.

    Raises:
        InputError: a WAV can't be written.
    """
    if workers == 1:
        yield from (work(some, form) for some in jobs)
        return
    pool = _start(workers)
    pending: deque[tuple[list[MeasureJob], Future]] = deque()
    try:
        for some in jobs:
            pending.append((some, pool.submit(work, some, form)))
            while len(pending) > 3 * workers or (pending and pending[0][1].done()):
                outcomes, pool = _next(pending, pool, form, workers)
                yield outcomes
        while pending:
            outcomes, pool = _next(pending, pool, form, workers)
            yield outcomes
    finally:
        pool.shutdown(kill_workers=True)


def _start(workers: int) -> ProcessPoolExecutor:
    """Some workers, by joblib's executor.

    Python's own either forks, which hangs where there are threads, as in a notebook, or runs the user's program again.

    Raises:
        InputError: they don't start.
    """
    pool = ProcessPoolExecutor(workers, initializer=_begin)
    try:
        pool.submit(work, [], Form(Path("."))).result()
    except BrokenProcessPool as error:
        raise InputError(f"no worker process can be started ({error}); try --workers 1") from error
    return pool


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the others
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write there what the report says better


def _next(
    pending: deque[tuple[list[MeasureJob], Future]], pool: ProcessPoolExecutor, form: Form, workers: int
) -> tuple[list[Outcome], ProcessPoolExecutor]:
    """What came of the jobs that wait longest, and the pool that goes on."""
    jobs, future = pending.popleft()
    try:
        return future.result(), pool
    except BrokenProcessPool:
        pool.shutdown(kill_workers=True)
    outcomes = _one_by_one(jobs, form)
    pool = _start(workers)
    for place, (some, _) in enumerate(pending):
        pending[place] = (some, pool.submit(work, some, form))
    return outcomes, pool


def _one_by_one(jobs: list[MeasureJob], form: Form) -> list[Outcome]:
    outcomes: list[Outcome] = []
    pool = _start(1)
    for job in jobs:
        try:
            outcomes += pool.submit(work, [job], form).result()
        except BrokenProcessPool:
            reason = "brings the program that decodes it down"
            outcomes.append(Outcome(job.number, *_transcript(job.text, form), None, "unreadable", reason))
            pool.shutdown(kill_workers=True)
            pool = _start(1)
    pool.shutdown(kill_workers=True)
    return outcomes
