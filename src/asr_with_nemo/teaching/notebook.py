"""Notebook helpers: working folder, figures with alt texts, audio players, and live training curves."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Audio, display
from matplotlib.figure import Figure

from asr_with_nemo.data import an4
from asr_with_nemo.errors import InputError

_STYLE = {
    "figure.dpi": 110,
    "figure.figsize": (9, 3),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "image.cmap": "magma",
}


def start() -> None:
    """Change to the course's folder, so that paths in a notebook are those of the commands in the README.

    Also set the course's plot style, and show texts in tables in full.

    Raises:
        InputError: the notebook isn't in the course's folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "configs" / "config.yaml").is_file() and (folder / "src" / "asr_with_nemo").is_dir():
            os.chdir(folder)
            plt.rcParams.update(_STYLE)
            pd.set_option("display.max_colwidth", None)
            return
    raise InputError(f"{here}: not in the course's folder; open the notebook from a clone of the repository")


def _mark_stand_in(figure: Figure, corpus: an4.Corpus) -> None:
    """Label a figure whose audio is synthetic, not AN4's."""
    if corpus.name != "an4":
        figure.text(0.995, 0.005, corpus.title, ha="right", va="bottom", fontsize=8, color="firebrick")


def _bundle(figure: Figure, alt: str, corpus: an4.Corpus | None) -> dict:
    """Convert a figure to arguments of IPython's `display`: a small PNG with alt text."""
    if corpus:
        _mark_stand_in(figure, corpus)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")
    plt.close(figure)
    data = {"image/png": picture.getvalue(), "text/plain": alt}
    return {"data": data, "raw": True, "metadata": {"image/png": {"alt": alt}}}


def show(figure: Figure | None, alt: str, corpus: an4.Corpus | None = None) -> None:
    """Display a figure as a small PNG with alt text, and close it.

    Args:
        figure: the figure; None if there was too little to draw, which prints a message instead.
        alt: alt text, a sentence that describes the figure.
        corpus: source of the audio; a stand-in for AN4 is named in the figure.
    """
    if figure is None:
        print(f"Too little to draw a picture of: {alt}")
        return
    bundle = _bundle(figure, alt, corpus)
    display(bundle.pop("data"), **bundle)


def play(samples: np.ndarray, sample_rate: int) -> None:
    """Display an audio player for mono samples, (t,), without autoplay."""
    display(Audio(samples, rate=sample_rate))


_PAGE = """\
<iframe data-address="{address}" width="100%" height="{height}" allow="microphone" style="border: 0"></iframe>
<p><a href="{address}" target="_blank">Open it in a tab of its own</a></p>
<script>
(() => {{
    // To a browser, localhost and 127.0.0.1 are two sites, and a page in the frame of another one gets no microphone.
    const own = window.location.hostname;
    for (const frame of document.querySelectorAll('iframe[data-address="{address}"]:not([src])')) {{
        frame.src = own === "localhost" ? "{address}".replace("127.0.0.1", own) : "{address}";
    }}
}})();
</script>"""


def show_page(address: str, height: int = 600) -> None:
    """Display a page of a server on this machine, with the microphone, and a link to it.

    Args:
        address: such as http://127.0.0.1:8000/.
        height: in pixels.
    """
    display(HTML(_PAGE.format(address=address, height=height)))


class LiveCurves(pl.Callback):
    """Draw the losses and the dev WER during training, a point per epoch, and update the plot in place."""

    def __init__(self, corpus: an4.Corpus | None = None):
        self.corpus = corpus
        self.points: list[Mapping[str, float]] = []
        self._display = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wanted = ("train_loss_epoch", "val_loss", "val_wer")
        metrics = {name: float(trainer.callback_metrics[name]) for name in wanted if name in trainer.callback_metrics}
        self.points.append({"epoch": trainer.current_epoch + 1} | metrics)
        figures = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
        alt = f"Losses and dev WER by epoch, up to epoch {trainer.current_epoch + 1}: {figures}"
        bundle = _bundle(draw_curves(self.points), alt, self.corpus)
        data = bundle.pop("data")
        if self._display is None:
            self._display = display(data, **bundle, display_id=True)
        else:
            self._display.update(data, **bundle)


def draw_curves(points: list[Mapping[str, float]]) -> Figure:
    """Draw the points of `training.read_log` or `LiveCurves`: losses on the left, dev WER on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    # Where an epoch has no validation, a log has none of these values, or nan.
    measured = [{name: value for name, value in point.items() if value == value} for point in points]
    for name, title in (("train_loss_epoch", "train"), ("val_loss", "dev")):
        rows = [(point["epoch"], point[name]) for point in measured if name in point]
        if rows:
            left.plot(*zip(*rows, strict=True), marker=".", label=title)
    left.set(title="CTC loss", xlabel="epoch")
    left.legend(frameon=False)
    rows = [(point["epoch"], 100 * point["val_wer"]) for point in measured if "val_wer" in point]
    if rows:
        right.plot(*zip(*rows, strict=True), marker=".", color="tab:green")
    right.set(title="WER on dev, %", xlabel="epoch", ylim=(0, 105))
    figure.tight_layout()
    return figure
