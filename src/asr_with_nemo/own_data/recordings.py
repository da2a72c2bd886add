"""Conversion of recordings in any format into 16-bit mono WAVs of one sampling rate, with measurements, in parallel."""

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

_FRAME = 0.02  # seconds
_BELOW_SPEECH = 35  # dB; a frame that far below the loud ones is a pause
_MARGIN = 0.25  # seconds of a pause that remain when it is cut off
_MAX_SAMPLES = 1 << 50  # a larger number in a header means that the length is unknown
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
    """

    folder: Path
    rate: int = audio.SAMPLE_RATE
    longest: float = 60.0
    rule: Rule = field(default_factory=Rule)
    alphabet: frozenset[str] | None = None
    fix: bool = False


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
        peak: the largest absolute sample, 0 to 1, without the DC offset.
        clipped: the share of samples that stay at the largest value.
        first, last: seconds at which speech begins and ends in the WAV.
        digest: of the WAV's samples.
        cut: whether the file is shorter than its header states.
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
    samples, rate, coding, cut = _read(job, form.longest)  # (T, channels)
    if not np.isfinite(samples).all():
        raise Unusable("unreadable", "has samples that are NaN or infinite")
    channels = samples.shape[1]
    mono = _mono(samples, job.channel)
    clipped = max(_flat_share(samples[:, channel]) for channel in range(channels))
    resampled = soxr.resample(mono, rate, form.rate) if rate != form.rate else mono
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
    """Return samples (T, channels) in [-1, 1], the sampling rate in Hz, the coding, and whether the file is cut."""
    opened = False
    if isinstance(job.audio, str) and os.path.exists(job.audio) and not os.path.isfile(job.audio):
        raise Unusable("special", "")
    try:
        with soundfile.SoundFile(io.BytesIO(job.audio) if isinstance(job.audio, bytes) else job.audio) as sound:
            opened = True
            rate, whole = sound.samplerate, sound.frames
            start = round(job.start * rate)
            count = whole - start if job.seconds is None else round(job.seconds * rate)
            if job.start < 0 or (start and start >= whole) or (job.seconds is not None and count <= 0):
                raise Unusable("no sound", f"the part from {job.start:g} s on is outside the recording")
            count = min(count, whole - start)
            if longest * rate < count < _MAX_SAMPLES:
                raise Unusable("too long", f"{count / rate:,.0f} seconds")
            if start:
                sound.seek(start)
            # Some formats don't state their length.
            samples = sound.read(min(count, int(longest * rate) + 1), dtype="float32", always_2d=True)
            coding = f"{sound.format} {sound.subtype}"
            cut = len(samples) < 0.95 * count < _MAX_SAMPLES
            cut |= sound.format.startswith("WAV") and _says_more(sound.extra_info)
    except soundfile.LibsndfileError as error:
        samples, rate = _read_otherwise(job, longest, error.error_string)
        coding, cut = "read by SoX", opened  # SoX reads a damaged file as far as it goes
    if not len(samples):
        raise Unusable("no sound", "has no samples")
    if len(samples) > longest * rate:
        raise Unusable("too long", f"more than {longest:g} seconds")
    return samples, rate, coding, cut


def _says_more(info: str) -> bool:
    """Return whether a WAV's header states more data than the file has, by libsndfile's log.

    A WAV that was written to a pipe states the maximum, and isn't truncated.
    """
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", info)
    return bool(sizes) and int(sizes[2]) < int(sizes[1]) < 0x7FFFFF00


def _read_otherwise(job: MeasureJob, longest: float, reason: str) -> tuple[np.ndarray, int]:
    """Read with SoX a file that libsndfile can't read. Returns samples (T, channels) and the sampling rate in Hz."""
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
    """Return one channel, or the mean of all, (T,); the loudest channel if they cancel each other out."""
    if samples.shape[1] == 1 or channel is not None:
        if channel is not None and channel >= samples.shape[1]:
            raise Unusable("no sound", f"has no channel {channel + 1}, only {samples.shape[1]}")
        return samples[:, channel or 0]
    mean = samples.mean(axis=1)
    loudness = np.square(samples).mean(axis=0)
    if np.square(mean).mean() < 0.05 * loudness.max():
        return np.ascontiguousarray(samples[:, loudness.argmax()])
    return mean


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
    powers = audio.frame_powers(samples - samples.mean(), size)
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
    """Run jobs in worker processes, and yield their outcomes in order.

    Only a few batches per worker are in memory. A recording that crashes a worker is reported as unreadable, and the
    others are still converted.

    Args:
        jobs: in batches.
        form: the target form.
        workers: number of processes; with one, the jobs run in this process.

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
    """Start worker processes with joblib's executor.

    Python's own either forks, which can hang if there are threads, as in a notebook, or runs the user's script again.

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
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print warnings that the report states better


def _next(
    pending: deque[tuple[list[MeasureJob], Future]], pool: ProcessPoolExecutor, form: Form, workers: int
) -> tuple[list[Outcome], ProcessPoolExecutor]:
    """Return the outcomes of the oldest batch, and the pool to go on with: a new one if a worker crashed."""
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
            reason = "crashes the decoder"
            outcomes.append(Outcome(job.number, *_transcript(job.text, form), None, "unreadable", reason))
            pool.shutdown(kill_workers=True)
            pool = _start(1)
    pool.shutdown(kill_workers=True)
    return outcomes
