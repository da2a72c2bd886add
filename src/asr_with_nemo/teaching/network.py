"""Drawings of the network and of its training, made from the config, and what can be counted in it."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from asr_with_nemo.teaching.drawings import GREY, arrow, box

_GIVEN, _PROLOGUE, _BLOCK, _EPILOGUE, _DECODER = "#eeeeee", "#fbe3c4", "#cfe3f7", "#fbe3c4", "#d9efd9"


def _box(axes: Axes, x: float, y: float, text: str, color: str, width: float, height: float = 0.66) -> None:
    box(axes, x, y, text, color, width, height, size=9.5)


def parts(blocks: Sequence[DictConfig]) -> list[str]:
    """Say of each block of `model.encoder.jasper` what it is: "prologue", "B1", "B2", ..., "epilogue".

    The blocks with a residual connection are those that a name such as Jasper 4x1 counts.

    Example:
        >>> parts([DictConfig({"residual": value}) for value in (False, True, True, False)])
        ['prologue', 'B1', 'B2', 'epilogue']
    """
    places = [place for place, block in enumerate(blocks) if block.residual]
    names = []
    for place, block in enumerate(blocks):
        if block.residual:
            names.append(f"B{places.index(place) + 1}")
        else:
            names.append("prologue" if not places or place < places[0] else "epilogue")
    return names


def drawing(config: DictConfig) -> Figure:
    """Draw a Jasper or QuartzNet config from the recording at the bottom to the text at the top.

    Left of each box stands the entry of the config that it is made of, right of it the shape of its output, for a
    recording whose spectrogram has T frames.
    """
    blocks = config.model.encoder.jasper
    names = parts(blocks)
    rows = [("recording", _GIVEN, "", "(t,)")]
    bands = config.model.preprocessor.features
    rows.append((f"mel spectrogram, {bands} bands", _GIVEN, "preprocessor", f"({bands}, T)"))
    frames = 1
    for number, (block, name) in enumerate(zip(blocks, names, strict=True)):
        frames *= block.stride[0]
        color = _BLOCK if name.startswith("B") else (_PROLOGUE if name == "prologue" else _EPILOGUE)
        length = "T" if frames == 1 else f"T/{frames}"
        rows.append((_words(block, name), color, f"encoder.jasper[{number}]", f"({block.filters}, {length})"))
    symbols = len(config.model.labels) + 1
    rows.append((f"1×1 convolution and log-softmax: {symbols} symbols", _DECODER, "decoder", f"({length}, {symbols})"))
    rows.append(("greedy decoding", _GIVEN, "decoding", "text"))
    figure, axes = plt.subplots(figsize=(10, 0.56 * len(rows) + 0.5))
    axes.set(xlim=(-0.3, 11.6), ylim=(-0.6, len(rows)))
    axes.axis("off")
    for x, head, where in ((1.9, "config.model", "right"), (5.4, "what it does", "center"), (8.9, "output", "left")):
        axes.text(x, len(rows) - 0.35, head, ha=where, fontsize=10, weight="bold")
    for level, (text, color, entry, shape) in enumerate(rows):
        _box(axes, 5.4, level, text, color, width=6.4)
        axes.text(1.9, level, entry, ha="right", va="center", fontsize=9.5, family="monospace")
        axes.text(8.9, level, shape, va="center", fontsize=9.5, family="monospace")
        if level:
            arrow(axes, (5.4, level - 0.67), (5.4, level - 0.3))
    for number, block in enumerate(blocks):
        if block.residual:
            arrow(axes, (2.16, number + 1.45), (2.16, number + 2.12), "tab:red", "bar,fraction=-0.45")
    kinds = {name: "B" if name.startswith("B") else name for name in names}
    for kind in dict.fromkeys(kinds.values()):
        levels = [number + 2 for number, name in enumerate(names) if kinds[name] == kind]
        label = f"{len(levels)} blocks" if kind == "B" else kind
        axes.plot([10.35, 10.45, 10.45, 10.35], np.repeat([levels[0] - 0.3, levels[-1] + 0.3], 2), color=GREY, lw=1)
        axes.text(10.55, (levels[0] + levels[-1]) / 2, label, va="center", fontsize=9.5)
    axes.text(-0.2, 0, "red: residual", fontsize=9.5, color="tab:red", va="center")
    return figure


def _words(block: DictConfig, name: str) -> str:
    sort = "separable" if block.get("separable") and block.kernel[0] > 1 else ""
    extras = [
        f"stride {block.stride[0]}" if block.stride[0] > 1 else "",
        f"dilation {block.dilation[0]}" if block.dilation[0] > 1 else "",
    ]
    name = f"{name}:" if name.startswith("B") else ""  # the brackets say the others
    said = f"{name} {block.repeat} × {sort} convolution, kernel {block.kernel[0]}, {block.filters} filters"
    return ", ".join([" ".join(said.split()), *(extra for extra in extras if extra)])


def inside(block: DictConfig, channels: int) -> Figure:
    """Draw the layers of a block, for R = 1, from its input at the left to its output at the right.

    Args:
        block: an entry of `model.encoder.jasper`.
        channels: of its input.
    """
    kernel, filters = block.kernel[0], block.filters
    layers = (
        [f"depthwise\nkernel {kernel}", f"pointwise\n{channels} → {filters}"]
        if block.get("separable")
        else [f"convolution\nkernel {kernel}\n{channels} → {filters}"]
    )
    layers += ["batch\nnorm"] + (["squeeze-\nand-excite"] if block.get("se") else [])
    figure, axes = plt.subplots(figsize=(10, 2.2))
    axes.set(xlim=(0, 2 * len(layers) + 6.2), ylim=(-1.9, 0.8))
    axes.axis("off")
    for place, text in enumerate(layers):
        _box(axes, 1.9 + 2 * place, 0, text, _BLOCK, 1.5, 0.95)
        arrow(axes, (0.68 + 2 * place if place else 0.2, 0), (1.13 + 2 * place, 0))
    x = 1.9 + 2 * len(layers)
    if block.residual:
        _box(axes, x - 0.5, 0, "+", "white", 0.4, 0.5)
        _box(axes, (x - 0.5) / 2, -1.45, f"1×1 convolution {channels} → {filters}, batch norm", "#f7d4d0", 5.6)
        arrow(axes, (0.45, 0), ((x - 0.5) / 2 - 2.82, -1.45), "tab:red", "angle,angleA=90,angleB=0")
        arrow(axes, ((x - 0.5) / 2 + 2.82, -1.45), (x - 0.5, -0.26), "tab:red", "angle,angleA=0,angleB=90")
    arrow(axes, (x - 1.35, 0), (x - 0.73 if block.residual else x - 0.2, 0))
    for place, text in enumerate(("ReLU", f"dropout\n{block.dropout:g}")):
        _box(axes, x + 0.75 + 1.9 * place, 0, text, _BLOCK, 1.3, 0.95)
        arrow(axes, (x - 0.27 if place == 0 else x + 1.42, 0), (x + 0.08 + 1.9 * place, 0))
    arrow(axes, (x + 3.32, 0), (x + 3.9, 0))
    return figure


def field(reached: Sequence[np.ndarray], names: Sequence[str], frame_seconds: float) -> Figure:
    """Draw how strongly one output frame depends on each input frame, a curve each, on a logarithmic axis.

    Args:
        reached: the sizes of the gradients, (T,) each.
        names: of the curves.
        frame_seconds: between two input frames.
    """
    figure, axes = plt.subplots(figsize=(9, 2.8))
    for sizes, name in zip(reached, names, strict=True):
        axes.semilogy(np.arange(len(sizes)) * frame_seconds, np.where(sizes > 0, sizes, np.nan), label=name)
    axes.set(xlabel="seconds", ylabel="size of the gradient")
    axes.legend(frameon=False, loc="upper right")
    return figure


def schedule(rates: Sequence[float], steps_an_epoch: int) -> Figure:
    """Draw the learning rate of each step of a training, with a grey line at the end of each epoch."""
    figure, axes = plt.subplots(figsize=(7, 2.6))
    axes.plot(range(1, len(rates) + 1), rates)
    for end in range(steps_an_epoch, len(rates) + 1, steps_an_epoch):
        axes.axvline(end, color="0.85", lw=0.8, zorder=0)
    axes.set(xlabel="step (grey: the end of an epoch)", ylabel="learning rate")
    return figure


def first_steps(steps: Sequence[tuple[float, float]]) -> Figure:
    """Draw the loss of the first steps: as it is, with the length of the recordings, and divided by that length.

    Args:
        steps: the loss of each step, and how many output frames the recordings of its batch have, in the mean.
    """
    losses, frames = np.array(steps).T
    numbers = np.arange(1, len(losses) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    left.bar(numbers, frames, color="0.85", label="frames of a recording")
    left.plot(numbers, losses, marker=".", label="CTC loss")
    left.set(title="CTC loss, and lengths", xlabel="step")
    left.legend(frameon=False)
    right.plot(numbers, losses / frames, marker=".")
    right.set(title="CTC loss per frame", xlabel="step", ylim=(0, None))
    return figure


def recipe(rows: Sequence[dict]) -> Figure:
    """Draw the WER on dev of the study `patience`, a point for each training with its 95% interval, over its epochs.

    Args:
        rows: from `recognition.results.read_results`.
    """
    figure, axes = plt.subplots(figsize=(7, 3))
    for row in rows:
        alike = [other["seed"] for other in rows if other["training"]["epochs"] == row["training"]["epochs"]]
        shift = 1 + 0.05 * (sorted(alike).index(row["seed"]) - (len(alike) - 1) / 2)  # seeds side by side
        low, high = (100 * end for end in row["ci95"])
        x = row["training"]["epochs"] * shift
        axes.plot([x, x], [low, high], color="tab:blue", lw=2, alpha=0.5)
        axes.plot(x, 100 * row["wer"], "o", color="tab:blue")
    epochs = sorted({row["training"]["epochs"] for row in rows})
    axes.set(xscale="log", xlabel="epochs of the training", ylabel="WER on dev, %", ylim=(0, None))
    axes.set_xticks(epochs, [str(count) for count in epochs])
    axes.minorticks_off()
    return figure
