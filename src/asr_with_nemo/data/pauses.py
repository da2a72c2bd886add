"""Cut recordings at their pauses into pieces like the utterances that models are trained on.

The course's networks normalise each piece as a whole, so that silence in it changes how its speech looks to them; and
they were trained on a few seconds with little silence around. AN4's test set, joined to one recording, has 10% to 17%
of its words wrong when it is cut into pieces of 2 to 8 s at their quietest places. Cut as here it has 6%, as file by
file, where silence is between the utterances; 8% where other people follow each other without a pause, each with
another noise; and more where their levels differ, or words are close to each other (scripts/tools/evaluate_joined.py,
with which the lengths below were chosen on dev). Overlapping pieces, whose words are merged by their times, did worse.
A neural voice detector (Silero VAD 6) was better where the pauses are of 0.2 s and worse where they are longer; it
takes longer than the recognition.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from asr_with_nemo.data.audio import frame_powers

WHOLE = 20.0
"""Seconds up to which a recording is one piece, unless it has pauses of `CLEAR`."""
CLEAR, PAUSE = 1.0, 0.4
"""Seconds of quiet at which a recording of up to `WHOLE` is cut, and a longer one."""
LONGEST, SHORTEST = 5.0, 2.0
"""Seconds within which a piece of a long recording is cut at its quietest place if it has no pause."""
_NEAR = 10.0
"""Seconds of a longer recording in which noise and speech are measured: the next speaker may be louder, or quieter."""
_KEPT = 0.3
"""Seconds of quiet that are kept before and after the speech of a piece; AN4's recordings have as much."""
_FRAMES = 50
"""Frames a second in which the level is measured."""
_DIGITAL_SILENCE = -90.0
"""dB of full scale below which a frame tells nothing of the noise: padding, or a microphone that is off."""
_RISE, _SHARE, _STEADY = 20.0, 0.3, 3.0
"""Speech is `_RISE` dB above the noise, or `_SHARE` of the way to the loudest; less than `_STEADY` dB is all noise."""


def cut_at_pauses(blocks: Iterable[np.ndarray], sample_rate: int) -> Iterator[tuple[float, np.ndarray]]:
    """Split a stream of samples at pauses into pieces that fit a model; the quiet between them is left out.

    A recording of up to `WHOLE` seconds is cut only at pauses of `CLEAR` seconds, and quiet of that length at its ends
    is left out. A longer one is cut at pauses of `PAUSE` seconds, and where there is none, at the quietest place
    between `SHORTEST` and `LONGEST` seconds after the start of the piece. What is quiet is measured against the noise
    of the whole recording, or of the next 10 seconds of a longer one. The pieces before and after a short pause both
    have its quiet: networks hear a word worse that begins or ends with its piece.

    Yields:
        (start in seconds, mono samples (t,)). If the end of the recording is left out, the last one is without samples
        and starts there, so that the recording's length is known.
    """
    frame = sample_rate // _FRAMES
    seconds = WHOLE  # that are looked at
    blocks = iter(blocks)
    buffer, powers = np.zeros(0, np.float32), np.zeros(0)
    start = 0  # samples before the buffer
    whole = None  # whether the recording is not longer than WHOLE
    while True:
        while len(buffer) <= seconds * sample_rate and (block := next(blocks, None)) is not None:
            buffer = np.concatenate([buffer, block]) if len(buffer) else block
            powers = np.concatenate([powers, frame_powers(buffer[len(powers) * frame :], frame)])
        ends = len(buffer) <= seconds * sample_rate
        whole = ends if whole is None else whole
        seconds = WHOLE if whole else _NEAR
        if not len(buffer):
            break
        if whole and start == 0 and len(powers) < _FRAMES:  # less than a second has no pauses
            yield 0.0, buffer
            return
        first, stop, onward = _next_piece(powers[: round(seconds * _FRAMES)], ends, whole)
        size = len(buffer) if ends and stop >= len(powers) else stop * frame
        if first < stop:
            yield (start + first * frame) / sample_rate, buffer[first * frame : size]
        done = size if onward >= stop else onward * frame
        buffer, powers, start = buffer[done:], powers[onward:], start + done
        if first == stop and ends and not len(buffer):
            yield start / sample_rate, buffer


def _next_piece(powers: np.ndarray, ends: bool, whole: bool) -> tuple[int, int, int]:
    """Find the next piece of a stream by the powers of its next frames, (T,).

    Args:
        powers: of the whole recording, or of the next `_NEAR` seconds.
        ends: whether the stream ends with them.
        whole: whether they are the whole recording, or what is left of it.

    Returns:
        its first frame, the frame after its last, and the frame from which the next piece is looked for: pieces on both
        sides of a short pause have the whole of it. The same frame three times for quiet up to there.
    """
    count, kept = len(powers), round(_KEPT * _FRAMES)
    pause = round((CLEAR if whole else PAUSE) * _FRAMES)
    longest = count if whole else round(LONGEST * _FRAMES)
    loud = np.flatnonzero(loud_frames(powers))
    if not len(loud):
        silent = count if ends else count - kept
        return silent, silent, silent
    first = max(0, int(loud[0]) - kept) if loud[0] > pause else 0
    if first:
        return first, first, first  # the quiet before it
    gaps = np.diff(loud, append=count) - 1 if ends else np.diff(loud) - 1  # (len(loud),): frames of quiet after each
    for place in np.flatnonzero(gaps > pause):
        stop = int(loud[place]) + 1
        if stop <= longest:
            gap = int(gaps[place])
            after = stop + kept  # a pause is longer
            return 0, after, min(after, stop + gap - kept) if place + 1 < len(loud) else after
        break
    if ends and count <= longest:
        return 0, count, count
    stop = _quietest(powers, round(SHORTEST * _FRAMES), longest)
    return 0, stop, stop


def decibels(powers: np.ndarray) -> np.ndarray:
    """Return the levels of frames of some powers, (T,), in dB of full scale."""
    return 10 * np.log10(powers + 1e-12)


def noise_and_speech(levels: np.ndarray) -> tuple[float, float] | None:
    """Return the levels of the noise and of the speech in frames of some levels (`decibels`), (T,).

    They are the 5th and the 95th percentile of all frames but those of digital silence; None if there is no other. The
    difference is an estimate of the signal-to-noise ratio, too low where nobody pauses.
    """
    real = levels[levels > _DIGITAL_SILENCE]
    if not len(real):
        return None
    noise, loudest = np.percentile(real, [5, 95])
    return float(noise), float(loudest)


def loud_frames(powers: np.ndarray) -> np.ndarray:
    """Return which frames of some powers, (T,), may be speech, (T,)."""
    levels = decibels(powers)
    found = noise_and_speech(levels)
    if found is None:
        return np.zeros(len(levels), bool)
    noise, loudest = found
    if loudest - noise < _STEADY and (levels > _DIGITAL_SILENCE).all():
        return np.zeros(len(levels), bool)
    return levels > noise + min(_RISE, _SHARE * (loudest - noise))


def _quietest(powers: np.ndarray, first: int, after: int) -> int:
    """Return the frame in the middle of the quietest 0.3 s between two frames."""
    width = 3 * _FRAMES // 10
    return first + int(np.convolve(powers[first:after], np.ones(width), "valid").argmin()) + width // 2
