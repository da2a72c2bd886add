"""Pictures of the word error rate: the matrix of edit distances with its path, and an alignment word by word."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
