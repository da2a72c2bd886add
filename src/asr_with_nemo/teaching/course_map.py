"""The map of the course: a table of the notebooks, with the question that each answers, and a picture."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

_STAGE, _AROUND = "#cfe3f7", "#fbe3c4"


def questions() -> Mapping[str, Mapping[str, object]]:
    """Return each notebook's `question` and `minutes`, by its stem, in reading order."""
    text = resources.files("asr_with_nemo.teaching").joinpath("course.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def markdown(course: Sequence[str]) -> str:
    """Return the map as a Markdown table, with a row for each of these notebooks' file names."""
    rows = ["| notebook | the question it answers | minutes |", "|---|---|---|"]
    for stem, about in questions().items():
        if f"{stem}.ipynb" in course:
            rows.append(f"| [{stem}]({stem}.ipynb) | {about['question']} | {about['minutes']} |")
    return "\n".join(rows)


def picture(course: Sequence[str]) -> Figure:
    """Draw the way from a recording to a service, with the numbers of the notebooks that build each part.

    Args:
        course: file names of the notebooks that there are; numbers of others are left out.
    """
    numbers = {Path(name).stem[:2] for name in course}
    figure, axes = plt.subplots(figsize=(9.5, 3.6))
    axes.set(xlim=(0, 12), ylim=(0, 4.4))
    axes.axis("off")
    stages = (
        ("recordings,\nmanifests", "01 03 16"),
        ("mel\nspectrogram", "02"),
        ("network", "06 12 13"),
        ("letters\nover time", "05 09"),
        ("text", "11"),
        ("server", "14"),
    )
    for place, (name, which) in enumerate(stages):
        x = 1 + 2 * place
        _box(axes, x, 2.2, name, which, numbers, _STAGE)
        if place:
            axes.annotate("", (x - 0.84, 2.2), (x - 1.16, 2.2), arrowprops={"arrowstyle": "-|>", "color": "#555"})
    around = ((3, 3.8, "augmentation", "10"), (5, 3.8, "tuning", "07"), (7, 3.8, "runs, versions", "08"))
    around += (
        (3, 0.6, "other models", "04"),
        (5, 0.6, "more data,\nmore GPUs", "15"),
        (8.4, 0.6, "word error rate", "04 09"),
    )
    for x, y, name, which in around:
        if numbers & set(which.split()):
            _box(axes, x, y, name, which, numbers, _AROUND)
            towards = 5 if x < 8 else 9
            axes.plot(
                [x, (x + towards) / 2],
                [y - 0.45 if y > 2 else y + 0.45, 2.75 if y > 2 else 1.65],
                color="#bbb",
                lw=1,
                zorder=0,
            )
    return figure


def _box(axes: Axes, x: float, y: float, name: str, which: str, numbers: set[str], color: str) -> None:
    shape = {"boxstyle": "round,pad=0.02,rounding_size=0.1", "fc": color, "ec": "#555"}
    width = max(1.6, 0.125 * max(map(len, name.split("\n"))) + 0.25)
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.45), width, 0.9, **shape))
    axes.text(x, y + 0.12, name, ha="center", va="center", fontsize=9.5)
    there = " · ".join(number for number in which.split() if number in numbers)
    axes.text(x, y - 0.31, there, ha="center", va="center", fontsize=9, color="#444")
