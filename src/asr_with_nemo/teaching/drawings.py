"""Diagrams of the course, and plots of audio, model output and beam search."""

from collections import Counter
from collections.abc import Mapping, Sequence

import librosa
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from asr_with_nemo.recognition.prefix_search import Hypothesis

GREY = "#555555"
_LEARNED, _GIVEN, _PLAIN = "#cfe3f7", "#fbe3c4", "#eeeeee"


def box(
    axes: Axes, x: float, y: float, text: str, color: str, width: float = 1.5, height: float = 0.62, size: float = 9
) -> None:
    """Draw a box of a diagram around its centre, (x, y), with a text of `size` points in it."""
    style = "round,pad=0.02,rounding_size=0.1"
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=color, ec=GREY, zorder=2))
    axes.text(x, y, text, ha="center", va="center", fontsize=size, zorder=3)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = GREY, bend: str = "") -> None:
    """Draw an arrow of a diagram, below its boxes; `bend` is a `connectionstyle` of Matplotlib's."""
    shape = {"connectionstyle": bend} if bend else {}
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, **shape}, zorder=1)


def _canvas(width: float, height: float, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=size)
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    axes.axis("off")
    return figure, axes


def pipelines() -> Figure:
    """Draw the traditional speech recognition pipeline, with separately built parts, above the end-to-end one."""
    figure, axes = _canvas(11, 3.6, (10, 3.4))
    axes.text(0.1, 3.4, "traditional: argmax Pr(audio | transcript) · Pr(transcript)", fontsize=10, weight="bold")
    top = 2.0
    for x, text, color in (
        (0.9, "recording", _PLAIN),
        (2.8, "features\n(MFCC)", _GIVEN),
        (5.6, "search", _GIVEN),
        (9.9, "transcript", _PLAIN),
    ):
        box(axes, x, top, text, color)
    for x, y, text, color in (
        (3.9, top + 0.95, "acoustic model:\nsounds ← phonemes", _LEARNED),
        (5.95, top + 0.95, "lexicon:\nphonemes ← words", _GIVEN),
        (8.0, top + 0.95, "language model:\nwords ← words", _LEARNED),
    ):
        box(axes, x, y, text, color, width=1.9)
        arrow(axes, (x, y - 0.34), (5.6 + (x - 5.95) / 4, top + 0.34))
    for start, end in ((1.68, 2.02), (3.58, 4.82), (6.38, 9.12)):
        arrow(axes, (start, top), (end, top))
    axes.text(0.1, 1.15, "end to end: argmax Pr(transcript | audio)", fontsize=10, weight="bold")
    for x, text, color, width in (
        (0.9, "recording", _PLAIN, 1.5),
        (2.8, "mel\nspectrogram", _GIVEN, 1.5),
        (6.2, "one neural network,\ntrained on recordings and their transcripts", _LEARNED, 4.6),
        (9.9, "transcript", _PLAIN, 1.5),
    ):
        box(axes, x, 0.5, text, color, width=width)
    for start, end in ((1.68, 2.02), (3.58, 3.87), (8.53, 9.12)):
        arrow(axes, (start, 0.5), (end, 0.5))
    axes.text(10.9, 3.4, "blue: learned from data", ha="right", fontsize=9, color="#3b6ea5")
    return figure


def waveform(axes: Axes, samples: np.ndarray, sample_rate: int) -> None:
    """Draw the waveform of mono samples, (t,), over seconds."""
    librosa.display.waveshow(samples, sr=sample_rate, ax=axes, color="#3b6ea5")
    axes.set(xlabel="seconds", ylabel="amplitude")


def loud_spans(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Find the speech: all audio less than 20 dB below the loudest part, as (N, 2) starts and ends in seconds."""
    return librosa.effects.split(samples, top_db=20, frame_length=sample_rate // 20, hop_length=160) / sample_rate


def mark_spans(axes: Axes, spans: Sequence[tuple[float, float]], names: Sequence[str], strong: Sequence[int]) -> None:
    """Mark named spans of seconds in a plot over time; those with an index in `strong` in another colour.

    If the numbers of spans and names differ (letters that run into one another), nothing is marked.
    """
    if len(spans) != len(names):
        return
    for number, ((start, end), name) in enumerate(zip(spans, names, strict=True)):
        color = "tab:red" if number in strong else "0.6"
        axes.axvspan(start, end, color=color, alpha=0.15, lw=0)
        axes.text(
            (start + end) / 2,
            1.02,
            name.upper(),
            transform=axes.get_xaxis_transform(),
            ha="center",
            color=color,
            fontsize=11,
        )


def spectrogram(axes: Axes, decibels: np.ndarray, sample_rate: int, hop: int, y_axis: str, top: float = 8000) -> None:
    """Draw a (mel) spectrogram in dB, (bins, frames), with a time axis in seconds and a colour bar."""
    image = librosa.display.specshow(
        decibels, sr=sample_rate, hop_length=hop, x_axis="time", y_axis=y_axis, fmax=top, ax=axes
    )
    axes.set(xlabel="seconds", ylabel="mel band, Hz" if y_axis == "mel" else "Hz")
    axes.figure.colorbar(image, ax=axes, format="%+.0f dB", pad=0.01)


def mel_spectrograms(pictures: Mapping[str, np.ndarray], frame_seconds: float = 0.01) -> Figure:
    """Draw mel spectrograms, (D, T) each, by name below each other, with the same colour scale and time axis.

    The lowest and highest few values are clipped, since a single outlier could darken all the rest.
    """
    figure, panels = plt.subplots(
        len(pictures), 1, figsize=(8, 1.5 * len(pictures)), sharex=True, squeeze=False, layout="constrained"
    )
    low, high = np.percentile(np.concatenate([picture.ravel() for picture in pictures.values()]), [1, 99.5])
    for axes, (name, picture) in zip(panels[:, 0], pictures.items(), strict=True):
        extent = (0, picture.shape[1] * frame_seconds, 0, len(picture))
        axes.imshow(picture, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, interpolation="none")
        axes.set(title=name, ylabel="mel band")
    longest = max(picture.shape[1] for picture in pictures.values())
    panels[-1, 0].set(xlabel="seconds", xlim=(0, longest * frame_seconds))
    return figure


def letters_over_time(axes: Axes, log_probs: np.ndarray, letters: Sequence[str], frame_seconds: float) -> None:
    """Draw a model's probability of each letter over time.

    Args:
        axes: the axes to draw in.
        log_probs: natural logs, (T, V).
        letters: V names of the columns; letters that never reach 1% are left out.
        frame_seconds: seconds per row.
    """
    probabilities = np.exp(log_probs)
    used = [column for column in range(len(letters)) if probabilities[:, column].max() >= 0.01]
    image = axes.imshow(
        probabilities[:, used].T,
        norm=LogNorm(0.001, 1, clip=True),
        aspect="auto",
        extent=(0, len(log_probs) * frame_seconds, len(used) - 0.5, -0.5),
        interpolation="none",
    )
    axes.set(xlabel="seconds", yticks=range(len(used)), yticklabels=[letters[column] for column in used])
    axes.figure.colorbar(image, ax=axes, pad=0.01, label="probability")


def rivals(axes: Axes, steps: Sequence[Sequence[Hypothesis]], ends: Sequence[Hypothesis], frame_seconds: float) -> None:
    """Draw how far the final hypotheses of a beam search were behind the best one, frame by frame.

    Texts share a line while they have the same prefix. A line has a gap where the beam held no prefix of its text.

    Args:
        axes: the axes to draw in.
        steps: the hypotheses after each frame, from `BeamSearch.follow`.
        ends: the final hypotheses, the best first, from `BeamSearch.decode`; one line each.
        frame_seconds: seconds per frame.
    """
    seconds = [frame_seconds * number for number in range(1, len(steps) + 2)]
    for end in ends:
        behind = []
        for hypotheses in steps:
            led_here = [one.total for one in hypotheses if f"{end.text} ".startswith(one.text)]
            behind.append(max(led_here, default=np.nan) - hypotheses[0].total)
        # The final score includes the probabilities of the last word and of the utterance's end.
        axes.plot(
            seconds, [*behind, end.total - ends[0].total], label=end.text or "(nothing)", marker="o", markevery=[-1]
        )
    axes.set(xlabel="seconds", ylabel="score behind the best")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def letter_confusions(axes: Axes, pairs: Mapping[tuple[str, str], int], groups: Sequence[str] = ()) -> None:
    """Draw the confusion matrix of spelled letters, with counts.

    Args:
        axes: the axes to draw in.
        pairs: (reference, hypothesis) → times; words of several characters share the row and column "…", deletions and
            insertions have "–".
        groups: letters that sound alike, placed together in a frame.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for (said, heard), times in pairs.items():
        counts[_as_letter(said), _as_letter(heard)] += times
    framed = "".join(groups)
    seen = {name for pair in counts for name in pair} - {*framed, "…", "–"}
    order = [*framed, *sorted(seen), "…", "–"]
    matrix = np.array([[counts[said, heard] for heard in order] for said in order])
    axes.imshow(np.where(matrix, matrix, np.nan), cmap="Blues", vmin=0)
    for row, column in np.argwhere(matrix):
        dark = matrix[row, column] > matrix.max() / 2
        axes.text(
            column, row, matrix[row, column], ha="center", va="center", fontsize=9, color="white" if dark else "black"
        )
    start = -0.5
    for group in groups:
        frame = Rectangle((start, start), len(group), len(group), fill=False, ec="tab:red", lw=1.5, clip_on=False)
        axes.add_patch(frame)
        start += len(group)
    axes.set(xticks=range(len(order)), yticks=range(len(order)), xlabel="heard", ylabel="said")
    axes.set(xticklabels=order, yticklabels=order)


def _as_letter(word: str) -> str:
    return word if len(word) == 1 else ("…" if word else "–")
