"""Drawings of CTC: how a path collapses, the lattice with its forward values, CTC beside transducers and attention."""

from collections.abc import Sequence
from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from asr_with_nemo.teaching.drawings import GREY, arrow, box

BLANK = "–"
_BLUE, _ORANGE = "#3b6ea5", "#b36b00"
_FILLS = {"given": "#eeeeee", "learned": "#cfe3f7", "output": "#fbe3c4"}


def _empty(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")


# --- A path -----------------------------------------------------------------------------------------------------------


def collapse_steps(path: str) -> Figure:
    """Draw how a CTC path becomes a text: its symbols, the runs merged, the blanks dropped.

    Args:
        path: a symbol per frame; "-" or "–" is the blank, a space is drawn as ␣.
    """
    symbols = path.replace("-", BLANK).replace(" ", "␣")
    runs, start = [], 0
    for symbol, run in groupby(symbols):
        length = len(list(run))
        runs.append((symbol, start, length))
        start += length
    figure, axes = plt.subplots(figsize=(9, 2.1))
    left = 3.6
    _empty(axes, left + len(symbols), 3.1)
    rows = (
        ("the path, one symbol a frame", [(symbol, place, 1) for place, symbol in enumerate(symbols)]),
        ("1. merge what repeats", runs),
        ("2. drop the blanks", [run for run in runs if run[0] != BLANK]),
    )
    colours = {symbol: f"C{number % 10}" for number, symbol in enumerate(dict.fromkeys(symbols.replace(BLANK, "")))}
    for number, (name, cells) in enumerate(rows):
        y = 2.1 - number
        axes.text(left - 0.2, y + 0.4, name, ha="right", va="center", fontsize=10)
        for symbol, place, length in cells:
            fill = {"fc": colours[symbol], "alpha": 0.3} if symbol != BLANK else {"fc": "none"}
            axes.add_patch(Rectangle((left + place + 0.04, y), length - 0.08, 0.8, ec="none", **fill))
            axes.add_patch(Rectangle((left + place + 0.04, y), length - 0.08, 0.8, fc="none", ec="0.6"))
            axes.text(left + place + length / 2, y + 0.4, symbol, ha="center", va="center", fontsize=12)
    return figure


# --- The lattice ------------------------------------------------------------------------------------------------------


def steps_into(states: Sequence[str], state: int) -> range:
    """Return the states from which CTC may come to a state of its lattice within one frame.

    Args:
        states: the blank, then each letter of the text followed by a blank.
        state: index into them.
    """
    over = state > 1 and states[state] != states[0] and states[state] != states[state - 2]
    return range(max(0, state - 1 - over), state + 1)


def _useful(states: Sequence[str], frames: int) -> np.ndarray:
    """Return which nodes (T, S) lie on a way from the beginning to the end."""
    there, onward = np.zeros((2, frames, len(states)), bool)
    there[0, :2] = onward[-1, -2:] = True
    for frame in range(1, frames):
        for state in range(len(states)):
            there[frame, state] = there[frame - 1, steps_into(states, state)].any()
            for before in steps_into(states, state):
                onward[-1 - frame, before] |= onward[-frame, state]
    return there & onward


def lattice(states: Sequence[str], alpha: np.ndarray | None, probabilities: np.ndarray) -> Figure:
    """Draw CTC's lattice for a text.

    Args:
        states: S symbols: the blank, then each letter of the text followed by a blank.
        alpha: forward probabilities, not logs, (T, S), to write into the nodes; None leaves them empty.
        probabilities: the output's probability of each state's symbol, (T, S), written below the nodes.
    """
    frames, count = probabilities.shape
    useful = _useful(states, frames)
    figure, axes = plt.subplots(figsize=(2.3 + 1.9 * frames, 0.9 * count + 0.6))
    _empty(axes, 2 * frames + 0.9, count + 0.5)
    axes.set_aspect("equal")
    where = {
        (frame, state): (1.5 + 2 * frame, count - state - 0.5) for frame in range(frames) for state in range(count)
    }
    for frame in range(1, frames):
        for state in range(count):
            for before in steps_into(states, state):
                seen = useful[frame - 1, before] and useful[frame, state]
                colour = "0.85" if not seen else (_BLUE if state - before == 2 else GREY)
                start, end = where[frame - 1, before], where[frame, state]
                style = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 17, "shrinkB": 17}
                axes.add_patch(FancyArrowPatch(start, end, color=colour, lw=1.2, zorder=1, **style))
    for (frame, state), (x, y) in where.items():
        seen = useful[frame, state]
        last = frame == frames - 1 and state >= count - 2
        fill = _FILLS["output" if last else "learned"] if seen else "white"
        axes.add_patch(Circle((x, y), 0.32, fc=fill, ec=GREY if seen else "0.8", zorder=2))
        if alpha is not None and seen:
            axes.text(x, y, f"{alpha[frame, state]:.3f}", ha="center", va="center", fontsize=9, zorder=3)
        note = {"ha": "center", "va": "top", "fontsize": 9, "color": GREY if seen else "0.7", "zorder": 3}
        backdrop = {"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8}
        axes.text(x, y - 0.34, f"p = {probabilities[frame, state]:.1f}", bbox=backdrop, **note)
    for state, symbol in enumerate(states):
        axes.text(0.7, where[0, state][1], symbol, ha="center", va="center", fontsize=14)
    for frame in range(frames):
        axes.text(where[frame, 0][0], count + 0.2, f"frame {frame + 1}", ha="center", fontsize=10)
    return figure


# --- The three kinds of models ----------------------------------------------------------------------------------------


def _box(axes: Axes, x: float, y: float, text: str, fill: str, width: float = 2.2, height: float = 0.55) -> None:
    box(axes, x, y, text, _FILLS[fill], width, height)


def _frames(axes: Axes, marked: int | None = None) -> list[float]:
    """Draw what the three kinds share, the spectrogram, the encoder and its vectors; return the vectors' places."""
    _box(axes, 2.5, 0.4, "mel spectrogram", "given", 4)
    _box(axes, 2.5, 1.4, "encoder", "learned", 4)
    arrow(axes, (2.5, 0.7), (2.5, 1.1))
    places = [0.75 + 0.7 * number for number in range(6)]
    for number, x in enumerate(places):
        arrow(axes, (x, 1.7), (x, 2.12))
        edge = {"ec": _ORANGE, "lw": 2} if number == marked else {"ec": GREY}
        axes.add_patch(Rectangle((x - 0.15, 2.15), 0.3, 0.5, fc=_FILLS["learned"], zorder=2, **edge))
    return places


def _ctc(axes: Axes) -> None:
    for x, symbol in zip(_frames(axes), f"{BLANK}g{BLANK}l{BLANK}e", strict=True):
        arrow(axes, (x, 2.67), (x, 3.2))
        _box(axes, x, 3.45, "σ", "learned", 0.32, 0.42)  # softmax
        arrow(axes, (x, 3.7), (x, 4.2))
        axes.text(x, 4.4, symbol, ha="center", va="center", fontsize=12)
    _box(axes, 2.5, 5.35, "merge repeats, drop blanks: g l e", "output", 4.2)
    arrow(axes, (2.5, 4.6), (2.5, 5.05))
    axes.text(2.5, 6.35, "CTC", ha="center", fontsize=12, weight="bold")
    axes.text(2.5, 5.95, "every frame decides for itself", ha="center", fontsize=9.5)


def _transducer(axes: Axes) -> None:
    places = _frames(axes, marked=3)
    _box(axes, 3.4, 3.55, "joint network", "learned", 2.0)
    arrow(axes, (places[3], 2.67), (3.2, 3.25), _ORANGE)
    _box(axes, 1.15, 3.55, "prediction\nnetwork", "learned", 1.6, 0.7)
    arrow(axes, (1.97, 3.55), (2.38, 3.55))
    _box(axes, 3.4, 5.15, "a letter: write it, stay\nblank: next frame", "output", 2.6, 0.8)
    arrow(axes, (3.4, 3.85), (3.4, 4.72))
    axes.text(1.15, 5.15, "so far: g l", ha="center", va="center", fontsize=9.5)
    arrow(axes, (2.08, 5.15), (1.82, 5.15))
    arrow(axes, (1.15, 4.95), (1.15, 3.95))
    axes.text(2.5, 6.35, "transducer", ha="center", fontsize=12, weight="bold")
    axes.text(2.5, 5.95, "frame by frame, knowing what is written", ha="center", fontsize=9.5)


def _attention(axes: Axes) -> None:
    for x in _frames(axes):
        arrow(axes, (x, 2.67), (2.2 + (x - 2.5) / 3 + 0.3, 3.22))
    _box(axes, 2.5, 3.55, "decoder with attention", "learned", 3.2, 0.6)
    _box(axes, 3.4, 5.15, "the next letter,\nor the end", "output", 2.2, 0.8)
    arrow(axes, (3.4, 3.88), (3.4, 4.72))
    axes.text(1.15, 5.15, "so far: g l", ha="center", va="center", fontsize=9.5)
    arrow(axes, (2.28, 5.15), (1.82, 5.15))
    arrow(axes, (1.15, 4.95), (1.15, 3.88))
    axes.text(2.5, 6.35, "attention", ha="center", fontsize=12, weight="bold")
    axes.text(2.5, 5.95, "letter by letter, looking at all frames", ha="center", fontsize=9.5)


def architectures() -> Figure:
    """Draw the three kinds of end-to-end models side by side, from the spectrogram at the bottom to the text."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.6), layout="constrained")
    for axes, draw in zip(panels, (_ctc, _transducer, _attention), strict=True):
        _empty(axes, 5, 6.7)
        draw(axes)
    return figure
