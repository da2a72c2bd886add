"""The checks of 13_beyond_ctc's tasks."""

from collections.abc import Callable
from math import comb

from asr_with_nemo.teaching.tasks import Wrong

_FRAMES, _LETTERS = 12, 20


def task_1(answer: object) -> str:
    """Check the number of paths of a transducer, and of CTC, for a text of 20 different letters in 12 frames."""
    transducer = comb(_FRAMES - 1 + _LETTERS, _LETTERS)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("Give two numbers: (paths of the transducer, paths of CTC).")
    ours, ctc = answer
    if ctc != 0:
        raise Wrong("CTC writes at most one letter a frame. Are there enough frames?")
    if ours == comb(_FRAMES + _LETTERS, _LETTERS):
        raise Wrong("Almost: the last move is always the blank that leaves the last frame, so it can't be chosen.")
    if ours != transducer:
        raise Wrong("A path has a blank for each frame and all the letters; only the last blank has a fixed place.")
    return f"{transducer:,} ways, and not one for CTC: 20 letters don't fit into 12 frames."


def task_2(answer: object) -> str:
    """Check a function that decodes greedily: `decode(choose, frames, most)`."""
    if not callable(answer):
        raise Wrong("Give the function itself: answer = decode.")
    for frames, most, rule, expected in _CASES:
        asked: list[tuple[int, str]] = []
        got = _run(answer, rule, frames, most, asked)
        if got != expected:
            raise Wrong(
                f"With {frames} frames and at most {most} letters in each, it should write {expected!r}, not {got!r}."
            )
        questions = _questions(rule, frames, most)
        if len(asked) > questions:
            raise Wrong(
                f"With {frames} frames and at most {most} letters in each, it asks {len(asked)} times where "
                f"{questions} are enough. Does it ask again in a frame that is full?"
            )
    return "The limit matters: a transducer that never chooses the blank would write for ever."


def _run(decode: Callable, rule: Callable[[int, str], str], frames: int, most: int, asked: list) -> str:
    def choose(frame: int, written: str) -> str:
        asked.append((frame, written))
        if not 0 <= frame < frames:
            raise Wrong(f"It asks about frame {frame}; they are numbered from 0 to {frames - 1}.")
        if len(asked) > 10 * frames * (most + 1):
            raise Wrong("It doesn't end. After how many letters must it go on to the next frame?")
        return rule(frame, written)

    got = decode(choose, frames, most)
    return "".join(got) if isinstance(got, list) else str(got)


def _questions(rule: Callable[[int, str], str], frames: int, most: int) -> int:
    """Return how many questions greedy decoding asks that leaves a full frame at once."""
    asked, written = 0, ""
    for frame in range(frames):
        for _ in range(most):
            asked, letter = asked + 1, rule(frame, written)
            if letter == "–":
                break
            written += letter
    return asked


_CASES = (
    (4, 10, lambda frame, written: "glenn"[len(written)] if len(written) < [1, 3, 3, 5][frame] else "–", "glenn"),
    (3, 2, lambda frame, written: "a", "aaaaaa"),
    (3, 5, lambda frame, written: "–" if frame != 1 or written else "b", "b"),
)
