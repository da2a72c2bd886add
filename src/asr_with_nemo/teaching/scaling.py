"""What changes with several processes and much data, small enough to watch: the ring, padding, and a plan on paper."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from asr_with_nemo.teaching.drawings import GREY

_BLUE, _ORANGE = "#3b6ea5", "#b36b00"


def ring_all_reduce(values: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Add up arrays of several processes as a ring does it: each sends a part to its neighbour, again and again.

    In the first half, each part makes all hops but one around the ring and collects what all have; in the second, the
    complete parts do.

    Args:
        values: an array of equal length for each process.

    Returns:
        what each process has in the end, and for each step the number of processes that are contained in each part,
        (processes, parts).

    Example:
        >>> sums, steps = ring_all_reduce([np.array([1.0, 2.0]), np.array([10.0, 20.0])])
        >>> [one.tolist() for one in sums], len(steps)
        ([[11.0, 22.0], [11.0, 22.0]], 3)
    """
    count = len(values)
    parts = [np.array_split(np.asarray(value, dtype=float), count) for value in values]
    contained = np.ones((count, count), dtype=int)
    steps = [contained.copy()]
    for step in range(2 * count - 2):
        adding = step < count - 1
        # What all send in a step, they had before it.
        sent = [(part := (process - step) % count, parts[process][part]) for process in range(count)]
        numbers = [contained[process, part] for process, (part, _) in enumerate(sent)]
        for process, (part, content) in enumerate(sent):
            neighbour = (process + 1) % count
            parts[neighbour][part] = parts[neighbour][part] + content if adding else content
            contained[neighbour, part] = contained[neighbour, part] + numbers[process] if adding else numbers[process]
        steps.append(contained.copy())
    return [np.concatenate(one) for one in parts], steps


def ring(steps: Sequence[np.ndarray]) -> Figure:
    """Draw the steps of `ring_all_reduce`: a map each, a row per process, a column per part of the gradient."""
    count = len(steps[0])
    figure, axes = plt.subplots(1, len(steps), figsize=(1.35 * len(steps), 2.3), sharey=True, layout="constrained")
    for number, (one, contained) in enumerate(zip(axes, steps, strict=True)):
        one.imshow(contained, cmap="Blues", vmin=0, vmax=1.4 * count)
        for process in range(count):
            for part in range(count):
                strong = "bold" if number and contained[process, part] != steps[number - 1][process, part] else "normal"
                one.text(part, process, contained[process, part], ha="center", va="center", fontsize=10, weight=strong)
        one.set_title("start" if number == 0 else f"step {number}", fontsize=10)
        one.set_xticks([])
        one.set_yticks(range(count), [f"process {process}" for process in range(count)], fontsize=10)
        one.tick_params(length=0)
    return figure


def padding(batches: Iterable[Sequence[float]]) -> float:
    """Return the share of the frames of batches that is padding: every utterance is as long as its batch's longest.

    Args:
        batches: durations of their utterances.

    Example:
        >>> round(padding([[1.0, 3.0]]), 2)
        0.33
    """
    batches = [list(batch) for batch in batches]
    computed = sum(len(batch) * max(batch) for batch in batches)
    return 1 - sum(map(sum, batches)) / computed


def draw_batches(ways: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw a few batches of each way to make them: a bar per utterance, its padding in grey."""
    figure, axes = plt.subplots(1, len(ways), figsize=(3.2 * len(ways), 3.4), sharex=True, layout="constrained")
    for one, (name, batches) in zip(np.atleast_1d(axes), ways.items(), strict=True):
        place = 0.0
        for batch in batches:
            rows = place + np.arange(len(batch))
            one.barh(rows, max(batch), color="#cccccc", height=0.8)
            one.barh(rows, batch, color=_BLUE, height=0.8)
            place += len(batch) + 1.5
        one.set_title(name, fontsize=11)
        one.set_xlabel("seconds")
        one.set_yticks([])
        one.invert_yaxis()
        one.spines[["top", "right", "left"]].set_visible(False)
    return figure


# --- What a bigger batch costs ----------------------------------------------------------------------------------------


def new_decoder(channels: int, symbols: int, seed: int = 0) -> torch.nn.Sequential:
    """Return an untrained decoder, from encoded frames, (N, channels, T), to log-probabilities, (N, symbols, T).

    Symbol 0 is the blank, which it prefers, as every model learns to first; so the curves begin where learning does.
    """
    torch.manual_seed(seed)
    layer = torch.nn.Conv1d(channels, symbols, 1)
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_()
        layer.bias[0] = 3.0
    return torch.nn.Sequential(layer, torch.nn.LogSoftmax(dim=1))


def ctc_loss(network: torch.nn.Module, batch: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Return the mean CTC loss of utterances, (encoded (channels, T), symbols (U,)) each, the blank as symbol 0."""
    encoded, texts = zip(*batch, strict=True)
    frames = torch.tensor([one.shape[1] for one in encoded])
    padded = torch.nn.utils.rnn.pad_sequence([one.T for one in encoded], batch_first=True).mT
    log_probs = network(padded).permute(2, 0, 1)
    lengths = torch.tensor([len(text) for text in texts])
    losses = torch.nn.functional.ctc_loss(
        log_probs, torch.cat(texts), frames, lengths, reduction="none", zero_infinity=True
    )
    return losses.mean()


def learn(
    train: Sequence[tuple[torch.Tensor, torch.Tensor]],
    held_out: Sequence[tuple[torch.Tensor, torch.Tensor]],
    symbols: int,
    batch: int,
    rate: float,
    passes: int,
    seed: int = 0,
) -> list[tuple[int, int, float]]:
    """Train `new_decoder` by Adam; return (steps, utterances, held-out loss) at the beginning and after each pass."""
    network = new_decoder(train[0][0].shape[0], symbols, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    order = np.random.default_rng(seed)
    steps, points = 0, []
    for number in range(passes + 1):
        with torch.no_grad():
            points.append((steps, number * len(train), float(ctc_loss(network, held_out))))
        if number == passes:
            return points
        shuffled = order.permutation(len(train))
        for start in range(0, len(train), batch):
            optimizer.zero_grad()
            ctc_loss(network, [train[place] for place in shuffled[start : start + batch]]).backward()
            optimizer.step()
            steps += 1
    return points


def draw_learning(curves: Mapping[str, Sequence[Sequence[tuple[int, int, float]]]]) -> Figure:
    """Draw the curves of `learn`, several seeds by name, over the utterances heard and over the steps made."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for number, (name, seeds) in enumerate(curves.items()):
        for seed, points in enumerate(seeds):
            steps, heard, losses = np.array(points[1:]).T
            for one, x in zip(axes, (heard, steps), strict=True):
                one.plot(x, losses, color=f"C{number}", alpha=0.8, label=name if seed == 0 else None)
    axes[0].set_xlabel("utterances heard")
    axes[1].set_xlabel("steps")
    axes[1].set_xscale("log")
    axes[0].set_ylabel("held-out loss")
    axes[1].legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


# --- A plan on paper --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A training that is too large to try: what is known of it, and what follows.

    Attributes:
        hours: of sound in the corpus.
        gpus: that train.
        passes: over the corpus.
        speed: seconds of sound that one GPU trains on in a second.
        efficiency: share of that which is left when all the GPUs wait for each other.
        price: of an hour of a GPU.
        seconds_an_utterance: its mean duration.
        bytes_a_second: of sound as it is stored.
        reading: seconds of sound that one CPU core reads and decodes in a second.
    """

    hours: float
    gpus: int
    passes: int = 40
    speed: float = 5_000
    efficiency: float = 0.9
    price: float = 3.0
    seconds_an_utterance: float = 4.0
    bytes_a_second: float = 16_000
    reading: float = 1_300

    @property
    def days(self) -> float:
        """Duration of the training."""
        return self.hours * 3600 * self.passes / (self.speed * self.gpus * self.efficiency) / 86_400

    @property
    def cost(self) -> float:
        """Price of the training, in the unit of `price`."""
        return self.days * 24 * self.gpus * self.price

    @property
    def terabytes(self) -> float:
        """What the corpus takes on a disk."""
        return self.hours * 3600 * self.bytes_a_second / 1e12

    @property
    def utterances(self) -> float:
        """Rows of the manifest."""
        return self.hours * 3600 / self.seconds_an_utterance

    @property
    def cores(self) -> int:
        """CPU cores that read and decode as fast as the GPUs train."""
        return math.ceil(self.speed * self.gpus * self.efficiency / self.reading)

    def table(self) -> dict[str, str]:
        """Return the plan's figures in words."""
        return {
            "utterances": f"{self.utterances / 1e6:.1f} million",
            "on disk": f"{self.terabytes:.2f} TB",
            "CPU cores that only read": f"{self.cores}",
            "duration of the training": f"{self.days:.1f} days" if self.days >= 1 else f"{24 * self.days:.1f} hours",
            "GPU hours": f"{self.days * 24 * self.gpus:,.0f}",
            "price": f"{self.cost:,.0f}",
        }

    def times(self, name: str, factor: float) -> "Plan":
        """Return the plan with one figure multiplied."""
        return replace(self, **{name: type(getattr(self, name))(getattr(self, name) * factor)})


def draw_influence(plan: Plan, names: Mapping[str, str], factor: float = 2) -> Figure:
    """Draw how a plan's price moves if one of its figures is `factor` times as large, or as small.

    Args:
        plan: the plan.
        names: attributes of the plan, with what to call them.
        factor: above 1.
    """
    figure, axes = plt.subplots(figsize=(6.5, 0.5 * len(names) + 1.2), layout="constrained")
    for row, name in enumerate(names):
        less, more = (plan.times(name, by).cost for by in (1 / factor, factor))
        axes.plot([less, more], [row, row], color=GREY, linewidth=2, zorder=1)
        axes.scatter([less], [row], color=_BLUE, zorder=2, label="halved" if row == 0 else None)
        axes.scatter([more], [row], color=_ORANGE, zorder=2, label="doubled" if row == 0 else None)
    axes.axvline(plan.cost, color=GREY, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), names.values())
    axes.set_xlabel("price")
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    axes.legend(fontsize=9, frameon=False)
    return figure
