"""Helpers of 11_language_model: an example to look at, and what the interactive beam search shows."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asr_with_nemo.errors import InputError
from asr_with_nemo.recognition import results
from asr_with_nemo.recognition.beam import BeamSearch
from asr_with_nemo.recognition.prefix_search import Hypothesis
from asr_with_nemo.recognition.wer import ScoredUtterance
from asr_with_nemo.teaching import drawings

Beam = Mapping[str, tuple[float, float]]
"""Prefix → its probability over the paths that end in blank, and over those that end in its last letter."""
_SHOWN, _FAINT = 5, 0.02
"""Hypotheses a frame; least probability of a letter to be drawn."""


def telling(before: Sequence[ScoredUtterance], after: Sequence[ScoredUtterance], lengths: Sequence[int]) -> int:
    """Choose the utterance that shows best how a second way of decoding differs from a first one.

    Preferably the second way puts it right, and of several such it is the shortest; else one that it reads differently;
    else the shortest that has errors.

    Args:
        before, after: the same utterances, read in both ways.
        lengths: the number of frames of each.

    Returns:
        its index.
    """

    def worth(number: int) -> tuple:
        first, second = before[number], after[number]
        differs = first.hypothesis != second.hypothesis
        is_put_right = differs and second.words.errors == 0
        return is_put_right, differs, first.words.errors > 0, -lengths[number]

    return max(range(len(before)), key=worth)


def _row(text: str, ctc: float, lm: float | None, words: float | None, texts: dict[str, int]) -> list:
    parts = [None if part is None else round(part, 1) for part in (ctc, lm, words)]
    return [texts.setdefault(text, len(texts)), *parts, round(ctc + (lm or 0) + (words or 0), 1)]


def _rows(hypotheses: Sequence[Hypothesis], search: BeamSearch, texts: dict[str, int]) -> list[list]:
    alpha = search.weights.alpha
    rows = []
    for one in hypotheses[:_SHOWN]:
        lm = alpha * one.lm if alpha else None
        bonus = one.total - one.ctc - alpha * one.lm
        rows.append(_row(one.text, one.ctc, lm, bonus if alpha or search.weights.beta else None, texts))
    return rows


def piece_data(
    output: np.ndarray,
    symbols: Sequence[str],
    frame_seconds: float,
    said: str,
    plain: Sequence[Beam],
    lexicon: BeamSearch,
    with_lm: BeamSearch,
) -> dict:
    """Compute what the piece `beam` shows: one utterance searched in three ways, frame by frame.

    Args:
        output: log-probs (T, V), the blank last.
        symbols: V names of the columns, for the picture.
        frame_seconds: seconds per frame.
        said: the reference.
        plain: the beam after each frame of a search over letters, without a lexicon.
        lexicon: the search with the lexicon alone.
        with_lm: the search with the lexicon and the language model.

    Returns:
        `said`, `seconds`, `symbols`; `heard`: by frame, pairs of a symbol and its probability in percent; `texts`; and
        `ways`: for "letters", "lexicon" and "lm", rows for each frame and for the end. A row has the text's index, log
        p(CTC), alpha log p(LM), the words' bonus (each None if the way has no such part), and their sum.
    """
    texts: dict[str, int] = {}
    ways: dict[str, list[list[list]]] = {"letters": []}
    for beam in plain:
        ranked = sorted(beam.items(), key=lambda item: -sum(item[1]))[:_SHOWN]
        ways["letters"].append(
            [_row(text, float(np.log(max(sum(parts), 1e-300))), None, None, texts) for text, parts in ranked]
        )
    ways["letters"].append(ways["letters"][-1])
    for name, search in (("lexicon", lexicon), ("lm", with_lm)):
        ways[name] = [_rows(hypotheses, search, texts) for hypotheses in search.follow(output)]
        ways[name].append(_rows(search.decode(output), search, texts))
    heard = []
    for row in np.exp(output):
        order = np.argsort(-row)[:6]
        heard.append([[int(column), round(100 * float(row[column]))] for column in order if row[column] >= _FAINT])
    return {
        "said": said,
        "seconds": round(frame_seconds, 4),
        "symbols": list(symbols),
        "heard": heard,
        "texts": list(texts),
        "ways": ways,
    }


def still(data: Mapping, output: np.ndarray) -> Figure:
    """Draw a still picture of the piece: the letters over time, and what each way reads at the end."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), height_ratios=(3, 1), layout="constrained")
    drawings.letters_over_time(top, output, data["symbols"], data["seconds"])
    _endings(bottom, data)
    return figure


def _endings(axes: Axes, data: Mapping) -> None:
    names = {"letters": "no lexicon", "lexicon": "lexicon alone", "lm": "lexicon and language model"}
    lines = [("said", data["said"])]
    lines += [(name, data["texts"][data["ways"][way][-1][0][0]]) for way, name in names.items()]
    for place, (name, text) in enumerate(lines):
        axes.text(0.0, 0.85 - 0.26 * place, name, fontsize=10, color="0.4", transform=axes.transAxes)
        axes.text(0.35, 0.85 - 0.26 * place, text, fontsize=10, family="monospace", transform=axes.transAxes)
    axes.axis("off")


def read_in_ways(study: str) -> dict[str, list[list[ScoredUtterance]]]:
    """Read a study of decoders: for each way of decoding, the utterances of each seed.

    Without results it says how to make them, and returns nothing.
    """
    ways: dict[str, list[list[ScoredUtterance]]] = {}
    try:
        for result, heard in results.read_utterances(study):
            is_plain = not result["decoder"].startswith("beam")
            with_lm = result["decoder"].startswith("beam, lexicon +")
            way = "greedy" if is_plain else "lexicon + language model" if with_lm else "lexicon"
            ways.setdefault(way, []).append(heard)
    except InputError as error:
        print(error)
    return ways


def tuning_picture(study: str = "tuning") -> Figure | None:
    """Draw the errors on dev for each alpha and beta of a study's first result; None without results."""
    try:
        result = results.read_results(study)[0]
    except InputError as error:
        print(error)
        return None
    print(result["decoder"])
    figure, axes = plt.subplots(figsize=(7, 3.6))
    tuning_grid(axes, result["tuning"], 32)
    return figure


def tuning_grid(axes: Axes, trials: Sequence[Sequence[float]], width: int) -> None:
    """Draw the errors of a tuning, by alpha and beta, and mark the fewest.

    Args:
        axes: the axes to draw in.
        trials: alpha, beta, width and errors of each trial.
        width: of the beam; trials of other widths are left out.
    """
    errors = {(alpha, beta): made for alpha, beta, wide, made in trials if wide == width}
    alphas, betas = (sorted({key[place] for key in errors}) for place in (0, 1))
    table = np.array([[errors.get((alpha, beta), np.nan) for alpha in alphas] for beta in betas])
    least = np.nanmin(table)
    image = axes.imshow(table, origin="lower", aspect="auto", cmap="viridis_r", vmax=least + 30)
    for row, column in np.ndindex(table.shape):
        if table[row, column] == least:
            axes.text(column, row, f"{least:.0f}", ha="center", va="center", fontsize=9, weight="bold")
    axes.set(xticks=range(len(alphas)), xticklabels=[f"{alpha:g}" for alpha in alphas], xlabel="α")
    axes.set(yticks=range(len(betas)), yticklabels=[f"{beta:g}" for beta in betas], ylabel="β")
    axes.figure.colorbar(image, ax=axes, pad=0.02, label="errors in words", extend="max")
