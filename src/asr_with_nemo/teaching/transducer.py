"""A transducer small enough to list all its paths: the grid of frames and letters, and its drawing."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

from asr_with_nemo.teaching.drawings import GREY

BLANK = "–"
_BLUE, _ORANGE = "#3b6ea5", "#b36b00"


def paths(text: str, frames: int) -> list[str]:
    """Return all ways to write a text in so many frames: its letters in order, and a blank to leave each frame.

    Example:
        >>> paths("ab", 2)
        ['ab––', 'a–b–', '–ab–']
    """
    found = []
    for places in combinations(range(frames - 1 + len(text)), len(text)):
        moves = [BLANK] * (frames - 1 + len(text))
        for place, letter in zip(places, text, strict=True):
            moves[place] = letter
        found.append("".join(moves) + BLANK)
    return found


def timed_paths(
    text: str, frames: int, durations: Sequence[int], frame: int = 0, written: int = 0
) -> Iterator[list[tuple[str, int]]]:
    """Yield all ways of a token-and-duration transducer (TDT): (letter or blank, frames to go on), move by move.

    A blank goes on by a frame at least, and the last one leaves the recording exactly at its end.

    Example:
        >>> list(timed_paths("a", 2, [0, 1, 2]))[-1]
        [('–', 1), ('a', 0), ('–', 1)]
    """
    if frame == frames:
        if written == len(text):
            yield []
        return
    for length in durations:
        after = frame + length
        if written < len(text) and after < frames:
            for rest in timed_paths(text, frames, durations, after, written + 1):
                yield [(text[written], length), *rest]
        if 0 < length <= frames - frame:
            for rest in timed_paths(text, frames, durations, after, written):
                yield [(BLANK, length), *rest]


def grid(text: str, probabilities: np.ndarray, alpha: np.ndarray | None = None, path: str = "") -> Figure:
    """Draw a transducer's grid: frames from left to right, letters written from top to bottom.

    Args:
        text: U letters.
        probabilities: of the next letter and of the blank at each node, (T, U + 1, 2), written at the arrows; the next
            letter's is unused in the last row.
        alpha: forward probabilities, not logs, (T, U + 1), to write into the nodes; None leaves them empty.
        path: one of `paths`, drawn in blue.
    """
    frames, rows = probabilities.shape[:2]
    figure, axes = plt.subplots(figsize=(2.2 + 1.9 * frames, 1.25 * rows + 0.5))
    axes.set(xlim=(-0.9, 2 * frames + 0.4), ylim=(-1.4 * rows + 0.5, 0.9))
    axes.set_aspect("equal")
    axes.axis("off")
    taken = set(_moves(path))
    style = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 15, "shrinkB": 15, "zorder": 1}
    for frame in range(frames):
        axes.text(2 * frame, 0.65, f"frame {frame + 1}", ha="center", fontsize=9, color="0.35")
        for row in range(rows):
            x, y = 2 * frame, -1.4 * row
            for kind, end, place in (("–", (x + 2, y), (x + 1, y + 0.16)), ("↓", (x, y - 1.4), (x + 0.1, y - 0.7))):
                last = frame == frames - 1 and kind == "–"
                if (last and row < rows - 1) or (kind == "↓" and row == rows - 1):
                    continue
                on = (frame, row, kind) in taken
                axes.add_patch(
                    FancyArrowPatch((x, y), end, color=_BLUE if on else GREY, lw=2.4 if on else 1.1, **style)
                )
                symbol = text[row] if kind == "↓" else BLANK
                value = probabilities[frame, row, 0 if kind == "↓" else 1]
                align = {"ha": "left", "va": "center"} if kind == "↓" else {"ha": "center", "va": "bottom"}
                axes.text(*place, f"{symbol} {value:.2f}", fontsize=9, **align)
            end = frame == frames - 1 and row == rows - 1
            axes.add_patch(Circle((x, y), 0.34, fc="white", ec=_ORANGE if end else GREY, lw=1.4, zorder=2))
            if alpha is not None:
                axes.text(x, y, f"{alpha[frame, row]:.3f}", ha="center", va="center", fontsize=9, zorder=3)
    for row in range(rows):
        said = f"{text[:row]!r}" if row else "nothing"
        axes.text(-0.45, -1.4 * row, said, ha="right", va="center", fontsize=9, color="0.35")
    return figure


def _moves(path: str) -> Iterator[tuple[int, int, str]]:
    frame = row = 0
    for move in path:
        yield frame, row, BLANK if move == BLANK else "↓"
        frame, row = (frame + 1, row) if move == BLANK else (frame, row + 1)


def ways(text: str, frames: int, moves: Mapping[str, Sequence[tuple[str, int]]]) -> Figure:
    """Draw how kinds of transducers write the same text at the same places, one panel each: an arrow is a move.

    Args:
        text: U letters.
        frames: of the recording.
        moves: name of the kind → its moves, (letter or blank, frames to go on), as `timed_paths` yields them.
    """
    figure, panels = plt.subplots(len(moves), 1, figsize=(9, 1.75 * len(moves)), layout="constrained")
    for axes, (name, path) in zip(np.atleast_1d(panels), moves.items(), strict=True):
        axes.set(xlim=(-1.1, frames + 0.4), ylim=(-len(text) - 0.6, 0.7))
        axes.axis("off")
        axes.set_title(f"{name}: {len(path)} moves", fontsize=10)
        for row in range(len(text) + 1):
            axes.scatter(np.arange(frames), np.full(frames, -row), s=14, color="0.75", zorder=2)
            said = f"{text[:row]!r}" if row else "nothing"
            axes.text(-0.35, -row, said, ha="right", va="center", fontsize=9, color="0.35")
        frame = row = 0
        for symbol, length in path:
            end = (frame + length, row if symbol == BLANK else row + 1)
            bend = -0.25 if symbol == BLANK and length > 1 else 0
            style = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 3, "shrinkB": 3, "zorder": 3}
            colour = GREY if symbol == BLANK else _BLUE
            arc = f"arc3,rad={bend}"
            axes.add_patch(
                FancyArrowPatch((frame, -row), (end[0], -end[1]), color=colour, connectionstyle=arc, **style)
            )
            if symbol != BLANK:
                axes.text((frame + end[0]) / 2 + 0.1, -row - 0.4, symbol, fontsize=10, color=_BLUE, weight="bold")
            frame, row = end
    for frame in range(frames):
        axes.text(frame, -len(text) - 0.5, f"{frame + 1}", ha="center", va="center", fontsize=9, color="0.35")
    axes.text(-0.35, -len(text) - 0.5, "frame", ha="right", va="center", fontsize=9, color="0.35")
    return figure


def small_hybrid(tokenizer: str) -> dict:
    """Return the `model` section of a small FastConformer with an RNN-T and a CTC decoder that can listen live.

    In the sections of NeMo's published streaming hybrid, with a width of 64 in place of 512 and 2 layers in place of
    17, and no dropout. Its attention sees 70 frames back, and 6 or no frames ahead.

    Args:
        tokenizer: the folder of its SentencePiece tokenizer.
    """
    modules, width = "nemo.collections.asr.modules", 64
    return {
        "sample_rate": 16_000,
        "tokenizer": {"dir": tokenizer, "type": "bpe"},
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000,
            "features": 80,
            "window_size": 0.025,
            "window_stride": 0.01,
            "n_fft": 512,
            "normalize": "NA",  # a live model can't know the mean of what is still to come
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {
            "_target_": f"{modules}.ConformerEncoder",
            "feat_in": 80,
            "n_layers": 2,
            "d_model": width,
            "n_heads": 4,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": 32,
            "conv_kernel_size": 9,
            "causal_downsampling": True,
            "conv_context_size": "causal",
            "conv_norm_type": "layer_norm",
            "att_context_style": "chunked_limited",
            "att_context_size": [[70, 6], [70, 0]],
            **dict.fromkeys(("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att"), 0.0),
        },
        "model_defaults": {"enc_hidden": width, "pred_hidden": width},
        "decoder": {
            "_target_": f"{modules}.RNNTDecoder",
            "prednet": {"pred_hidden": width, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": f"{modules}.RNNTJoint",
            "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": width, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {"loss_name": "pytorch"},  # NeMo's default is compiled first, which takes longer than this training
        "aux_ctc": {
            "ctc_loss_weight": 0.3,
            "decoder": {
                "_target_": f"{modules}.ConvASRDecoder",
                "feat_in": width,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy"},
        },
    }
