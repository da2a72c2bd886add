"""Helpers for matplotlib figures."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter


def spread(axes: Axes, values: Iterable[float]) -> None:
    """Make the y axis logarithmic if the smallest value is positive and the largest over ten times as large.

    The differences between losses that matter are at the low end.
    """
    finite = [value for value in values if np.isfinite(value)]
    if not finite or min(finite) <= 0 or max(finite) <= 10 * min(finite):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(finite) < 300 * min(finite) else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
