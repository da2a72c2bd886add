"""The cells that a tool writes in the notebooks: where to open one, links to its neighbours, the glossary, the map."""

from collections.abc import Sequence
from pathlib import Path

import nbformat

from asr_with_nemo.teaching import course_map, glossary

PLACES = "places"
"""Tag of the two cells, below a notebook's title, that lead to Colab and Kaggle and set up there."""
CHAIN = "chain"
"""Tag of the last cell: links to the notebooks before and after."""
GLOSSARY = "glossary"
"""Tag of the cell that lists the course's terms."""
MAP = "map"
"""Tag of the cell that lists the notebooks, with the question that each answers."""
_TAGS = {PLACES, CHAIN, GLOSSARY, MAP}


def is_written_here(cell: nbformat.NotebookNode) -> bool:
    """Return whether a tool writes the cell."""
    return bool(_TAGS & set(cell.metadata.get("tags", [])))


def badges(name: str, repository: str, minutes: float | None) -> str:
    """Return the Markdown that says how long a notebook takes and opens it, by its file's name, on Colab and Kaggle."""
    page = f"{repository}/blob/main/notebooks/{name}"
    colab = f"https://colab.research.google.com/github/{page.removeprefix('https://github.com/')}"
    kaggle = f"https://kaggle.com/kernels/welcome?src={page}"
    needed = max(1, round(minutes)) if minutes else None
    time = f"**Time:** about {needed} minute{'s' * (needed > 1)} on two CPU cores.\n\n" if needed else ""
    return (
        f"{time}[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle})"
    )


def hosted_setup(repository: str) -> str:
    """Return the first cell's code."""
    folder = repository.rstrip("/").rsplit("/", 1)[-1]
    return f"""\
# @title On Colab or Kaggle, get the course and set it up (a few minutes). Elsewhere this does nothing.
import os
import subprocess
import sys

if {{"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}} & set(os.environ) and not os.path.exists("scripts/setup_env.py"):
    if not os.path.exists("{folder}"):
        subprocess.run(["git", "clone", "--depth=1", "{repository}"], check=True)
    os.chdir("{folder}")
    sys.path.insert(0, "scripts")
    import setup_env

    setup_env.set_up_kernel()"""


def chain(name: str, course: Sequence[str]) -> str:
    """Return the Markdown of the links to the notebooks before and after `name`, in the order of `course`."""
    place = course.index(name)
    links = []
    for word, neighbour in (("Previous", place - 1), ("Next", place + 1)):
        if 0 <= neighbour < len(course):
            links.append(f"**{word}:** [{Path(course[neighbour]).stem}]({course[neighbour]})")
    if name != course[0]:
        links.append(f"[Glossary]({course[0]}#Glossary)")
    return " · ".join(links)


def with_frame(
    notebook: nbformat.NotebookNode, name: str, course: Sequence[str], repository: str
) -> nbformat.NotebookNode:
    """Write the cells of the frame, in the place of those that are there.

    The notebook's outputs stay as they are, and count as fresh as before.

    Args:
        notebook: the notebook, changed in place and returned.
        name: its file's name.
        course: the files' names of all notebooks, in reading order.
        repository: address of the repository, as a browser opens it.
    """
    cells = [cell for cell in notebook.cells if not {PLACES, CHAIN} & set(cell.metadata.get("tags", []))]
    was_run = any(cell.get("execution_count") for cell in cells)
    minutes = notebook.metadata.get("asr_with_nemo", {}).get("minutes")
    hidden = {"tags": [PLACES], "cellView": "form", "jupyter": {"source_hidden": True}}
    new = [
        nbformat.v4.new_markdown_cell(
            badges(name, repository, minutes), metadata={"tags": [PLACES]}, id="places-badges"
        ),
        nbformat.v4.new_code_cell(hosted_setup(repository), metadata=hidden, id="places-setup"),
    ]
    last = nbformat.v4.new_markdown_cell(chain(name, course), metadata={"tags": [CHAIN]}, id="chain")
    for cell in cells:
        if GLOSSARY in cell.metadata.get("tags", []):
            cell.source = glossary.markdown()
        if MAP in cell.metadata.get("tags", []):
            cell.source = course_map.markdown(course)
    notebook.cells = [*cells[:1], *new, *cells[1:], last]
    if was_run:
        number(notebook)
    return notebook


def number(notebook: nbformat.NotebookNode) -> None:
    """Count the code cells, as a run from top to bottom does."""
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
