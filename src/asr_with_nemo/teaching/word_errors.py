"""The word error rate in pictures, and recordings of computer voices to measure one on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import soxr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr_with_nemo.data import audio
from asr_with_nemo.data.espeak import Speaker, Voice

Pair = tuple[str, str]
"""(reference, hypothesis) of one step of an alignment; "" where one of them has no word."""
KINDS = {"": "correct", "S": "substitution", "D": "deletion", "I": "insertion"}
_COLORS = {"": "#444444", "S": "#b87510", "D": "#d8504d", "I": "#3b82c4"}


def kind_of(pair: Pair) -> str:
    """Return the kind of a step of an alignment: "S", "D", "I", or "" for a correct word.

    Example:
        >>> [kind_of(pair) for pair in [("one", "one"), ("two", "to"), ("three", ""), ("", "a")]]
        ['', 'S', 'D', 'I']
    """
    said, heard = pair
    if said == heard:
        return ""
    return "D" if not heard else "I" if not said else "S"


def draw_matrix(axes: Axes, cost: np.ndarray, alignment: Sequence[Pair]) -> None:
    """Draw the matrix of edit distances, and the path of an alignment through it.

    Args:
        axes: the axes to draw in.
        cost: edit distances of the first i words of the reference and the first j of the hypothesis, (R + 1, H + 1).
        alignment: the steps of the path, from the start.
    """
    path = [(0, 0)]
    for pair in alignment:
        path.append((path[-1][0] + bool(pair[0]), path[-1][1] + bool(pair[1])))
    axes.imshow(cost, cmap="Blues", vmax=2 * max(cost.max(), 1), aspect="auto")
    for (row, column), value in np.ndenumerate(cost):
        on_path = (row, column) in path
        axes.text(column, row, value, ha="center", va="center", fontsize=10, weight="bold" if on_path else "normal")
    for pair, before, after in zip(alignment, path, path[1:], strict=False):
        start, end = np.array(before[::-1], float), np.array(after[::-1], float)
        ends = {"xy": start + 0.72 * (end - start), "xytext": start + 0.28 * (end - start)}
        axes.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": _COLORS[kind_of(pair)], "lw": 2})
    said, heard = ([word for word in side if word] for side in zip(*alignment, strict=True))
    axes.set(xticks=range(len(heard) + 1), xticklabels=["(start)", *heard], xlabel="heard: the hypothesis")
    axes.set(yticks=range(len(said) + 1), yticklabels=["(start)", *said], ylabel="said: the reference")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_alignment(alignment: Sequence[Pair]) -> Figure:
    """Draw an alignment as three rows: what was said, what was heard, and the kind of error."""
    figure, axes = plt.subplots(figsize=(max(3.0, 1.1 * len(alignment) + 1), 1.3))
    axes.set(xlim=(-1.2, len(alignment) - 0.4), ylim=(2.6, -0.6))
    axes.axis("off")
    for row, name in enumerate(("said", "heard", "error")):
        axes.text(-1.1, row, name, va="center", fontsize=10, color="#777777")
    for column, pair in enumerate(alignment):
        kind = kind_of(pair)
        for row, text in enumerate((pair[0] or "–", pair[1] or "–", kind)):
            weight = "bold" if kind else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=11, color=_COLORS[kind], weight=weight)
    return figure


class Spoken(NamedTuple):
    """A text that a computer voice has said.

    Attributes:
        kind: what the text is an example of.
        text: the reference.
        voice: name of the voice.
        samples: mono at 16 kHz, (t,).
    """

    kind: str
    text: str
    voice: str
    samples: np.ndarray


def computer_voices(
    phrases: Mapping[str, Sequence[str]],
    variants: Sequence[str] = ("m1", "m3", "f2", "f4"),
    words_per_minute: int = 140,
) -> list[Spoken]:
    """Let voices of espeak-ng say texts, with a quarter of a second of a quiet room around each.

    Args:
        phrases: kind → the language in espeak-ng's name, such as "en-us", then the texts.
        variants: names of espeak-ng's voices; each says all texts.
        words_per_minute: how fast they speak.
    """
    quiet, spoken = np.random.default_rng(0), []
    with Speaker() as speaker:
        for kind, (language, *texts) in phrases.items():
            for variant in variants:
                voice = Voice(language, variant, words_per_minute=words_per_minute, word_gap=5)
                for text in texts:
                    said = speaker.say(text, voice) / np.float32(32768)
                    samples = np.pad(soxr.resample(said, speaker.rate, audio.SAMPLE_RATE), audio.SAMPLE_RATE // 4)
                    samples = samples + quiet.normal(0, 5e-4, len(samples)).astype(np.float32)
                    spoken.append(Spoken(kind, text, variant, samples))
    return spoken
