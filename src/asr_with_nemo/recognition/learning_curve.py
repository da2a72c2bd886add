"""Learning curves: the WER by the amount of training data, and what more data would bring.

A power law, WER = a * n^-b of n utterances, is a straight line in logarithms, and fits the error of recognisers over
orders of magnitude: J. Hestness et al., "Deep learning scaling is predictable, empirically", arXiv:1712.00409, 2017.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from asr_with_nemo.recognition.wer import Counts, ScoredUtterance, difference_of_seeds, mean_of_seeds

_RESAMPLES, _SEED = 4_000, 0
_AT_ONCE = 2_000_000  # numbers of a bootstrap in memory


@dataclass(frozen=True)
class Point:
    """A point of a learning curve.

    Attributes:
        utterances, hours: that were trained on.
        trainings: the dev set's scored utterances, of one training a seed.
    """

    utterances: int
    hours: float
    trainings: Sequence[Sequence[ScoredUtterance]]

    @property
    def counts(self) -> Counts:
        """Errors and words of all trainings together."""
        return sum((row.words for rows in self.trainings for row in rows), Counts())

    @property
    def wer(self) -> tuple[float, tuple[float, float]]:
        """The mean WER of the trainings, and its 95% interval by a bootstrap over utterances."""
        return mean_of_seeds(self.trainings)


@dataclass(frozen=True)
class Curve:
    """A fitted learning curve.

    Attributes:
        points: the smallest first.
        scale, exponent: a and b of WER = a * n^-b.
        factor: of the data that the forecast is for.
        forecast: WER with `factor` times the data of the last point.
        interval: 95% interval of the forecast, by a bootstrap over the dev set's utterances and, if there are several,
            over trainings, of both laws (`fit`). Whether they go on holding is not in it.
    """

    points: Sequence[Point]
    scale: float
    exponent: float
    factor: float
    forecast: float
    interval: tuple[float, float]

    def at(self, utterances: float) -> float:
        """Return the WER that the law gives for a number of utterances."""
        return self.scale * utterances**-self.exponent


def fit(points: Sequence[Point], factor: float = 2.0) -> Curve:
    """Fit a power law through two points or more, by least squares of the logarithms.

    Half an error is added to each count, so that a WER of 0 has a logarithm. Near 100% a WER falls along no power law,
    and the points of short trainings lie on none exactly. So the forecast is the geometric mean of two laws, one
    through all points and one through the last two, and its interval is that of both together.

    Args:
        points: of the same dev set, with the same number of trainings.
        factor: of the data of the last point, for the forecast.
    """
    points = sorted(points, key=lambda point: point.utterances)
    sizes = np.log([point.utterances for point in points])
    errors = np.array([[[row.words.errors for row in rows] for rows in point.trainings] for point in points])  # (P,S,U)
    words = np.array([row.words.words for row in points[0].trainings[0]])  # (U,)
    shown = np.exp(sizes[-1]) * factor
    whole = errors.sum((1, 2))[None], np.array([words.sum() * errors.shape[1]])
    drawn = _drawn(errors, words)
    forecasts, pooled = [], []
    for first in {0, len(points) - 2}:
        for made, (counts, total) in ((forecasts, whole), (pooled, drawn)):
            scales, exponents = _laws(sizes[first:], counts[:, first:], total)
            made.append(scales * shown**-exponents)
    scale, exponent = _laws(sizes, *whole)
    low, high = np.percentile(np.concatenate(pooled), [2.5, 97.5])
    forecast = float(np.exp(np.mean(np.log(forecasts))))
    return Curve(points, float(scale[0]), float(exponent[0]), factor, forecast, (float(low), float(high)))


def _laws(sizes: np.ndarray, errors: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a and b of each of R laws, of errors (R, P) and words (R,)."""
    rates = np.log((errors + 0.5) / np.maximum(words, 1)[:, None])  # (R, P)
    centred = sizes - sizes.mean()
    slopes = rates @ centred / (centred @ centred)
    return np.exp(rates.mean(1) - slopes * sizes.mean()), -slopes


def _drawn(errors: np.ndarray, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw utterances with replacement, the same for all points, and for each point trainings: (R, P) and (R,)."""
    generator = np.random.default_rng(_SEED)
    points, seeds, utterances = errors.shape
    some = max(1, min(_RESAMPLES, _AT_ONCE // utterances))
    parts = []
    for start in range(0, _RESAMPLES, some):
        count = min(some, _RESAMPLES - start)
        times = generator.multinomial(utterances, np.full(utterances, 1 / utterances), count)  # (R, U)
        sums = np.einsum("ru,psu->rps", times, errors)
        chosen = generator.integers(seeds, size=(count, points, seeds))
        parts.append((np.take_along_axis(sums, chosen, 2).sum(2), times @ words * seeds))
    return np.concatenate([errors for errors, _ in parts]), np.concatenate([words for _, words in parts])


# --- Words ------------------------------------------------------------------------------------------------------------


def says(curve: Curve) -> list[str]:
    """Return what a curve says of more data, a line each."""
    now, _ = curve.points[-1].wer
    low, high = curve.interval
    lines = [
        f"with {curve.factor:g} times the data and as many steps, a WER of {curve.forecast:.1%} (95% interval "
        f"{low:.1%} to {high:.1%}) instead of {now:.1%}; the law through all points is {curve.scale:.3g} * "
        f"utterances^-{curve.exponent:.2f}"
    ]
    if high < now:
        lines.append("more data of this kind would help")
    elif low > now:
        lines.append("the curve rises: the trainings are too short for it, or the texts of the larger parts are worse")
    else:
        lines.append(
            "whether more data would help can't be told from these trainings: take more seeds (--seeds), longer ones "
            "(--epochs), or a larger dev set"
        )
    if len(curve.points[-1].trainings) == 1:
        lines.append("one training a size: the interval holds the choice of dev utterances, but not that of the seed")
    if curve.points[0].wer[0] > 0.8:
        lines.append("the smallest part has a WER above 80%, which says little of the slope: raise --epochs or --parts")
    return lines


def compared(curves: Mapping[str, Curve]) -> list[str]:
    """Return which way to train wins with all of today's data, a line for each way against the best."""
    if len(curves) < 2:
        return []
    best, *others = sorted(curves, key=lambda name: curves[name].points[-1].wer[0])
    lines = []
    for other in others:
        ours, theirs = (curves[name].points[-1].trainings for name in (best, other))
        seeds = min(len(ours), len(theirs))
        difference, (low, high) = difference_of_seeds(ours[:seeds], theirs[:seeds])
        verdict = f"{best} is better" if high < 0 else f"{best} and {other} can't be told apart"
        lines.append(
            f"{verdict}: {100 * difference:+.1f} points against {other}, 95% interval {100 * low:+.1f} to "
            f"{100 * high:+.1f}"
        )
    return lines


# --- Picture ----------------------------------------------------------------------------------------------------------


def draw(curves: Mapping[str, Curve], form: str = "svg") -> bytes:
    """Draw curves with their points, intervals and forecasts, as a picture of a format that matplotlib writes."""
    from matplotlib.figure import Figure

    from asr_with_nemo.base.plots import spread

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    everything = []
    for number, (name, curve) in enumerate(curves.items()):
        colour = f"C{number}"
        hours = [point.hours for point in curve.points]
        values = [point.wer for point in curve.points]
        last = curve.points[-1]
        grid = np.geomspace(hours[0], hours[-1] * curve.factor, 50)
        law = [100 * curve.at(last.utterances * hour / last.hours) for hour in grid]
        axes.plot(grid, law, color=colour, linewidth=1, linestyle="--")
        bars = [[100 * (wer - low), 100 * (high - wer)] for wer, (low, high) in values]
        axes.errorbar(
            hours, [100 * wer for wer, _ in values], np.transpose(bars), fmt="o", color=colour, capsize=3, label=name
        )
        low, high = (100 * bound for bound in curve.interval)
        middle = 100 * curve.forecast
        reach = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
        axes.errorbar(
            [hours[-1] * curve.factor], [middle], reach, fmt="o", color=colour, mfc="white", capsize=3, alpha=0.8
        )
        everything += [low, high, *(100 * bound for _, interval in values for bound in interval)]
    axes.set_xscale("log")
    ticks = sorted({round(point.hours, 3) for curve in curves.values() for point in curve.points})
    ticks.append(round(ticks[-1] * 2, 3))
    axes.set_xticks(ticks, [f"{60 * hour:.0f} min" if hour < 2 else f"{hour:.3g} h" for hour in ticks], minor=False)
    axes.set_xticks([], minor=True)
    spread(axes, everything)
    axes.set_xlabel("speech in the training set")
    axes.set_ylabel("WER of the dev set, %")
    axes.set_title("full: trained; empty: forecast", fontsize=10)
    axes.legend()
    made = io.BytesIO()
    settings = {"metadata": {"Date": None}} if form == "svg" else {"dpi": 150}
    figure.savefig(made, format=form, **settings)
    return made.getvalue()
