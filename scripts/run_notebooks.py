#!/usr/bin/env python3
"""Run the course's notebooks in order, and say what came out."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import nbformat
import papermill
import typer
from rich.console import Console
from rich.table import Table

from asr_with_nemo.base.files import replacing, write_if_changed
from asr_with_nemo.cli import run
from asr_with_nemo.data import an4
from asr_with_nemo.errors import InputError
from asr_with_nemo.places.repository import repository_url

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
TUTORIAL = ("01_data", "02_features", "05_training", "08_inference")
PLACES = "places"
"""The tag of the two cells, below a notebook's title, that lead to Colab and Kaggle and set up there."""

SIZES = {"EPOCHS": "epochs", "UTTERANCES": "utterances", "SEED": "seed"}
"""Environment variable → the parameter that it sets, in every notebook that has it."""

AUDIO_NOTE = "A player stands here when the notebook runs; the committed copy carries no sound."
PAGE_NOTE = "The server's page stands here when the notebook runs; in the committed copy nobody serves it."
FREE_OF = re.compile(r"(/(?:home|root|tmp|Users|work|content|workspace)/[\w.@+-]+)")


class Which(StrEnum):
    """Which notebooks."""

    tutorial = "tutorial"
    course = "course"
    update = "update"
    places = "places"


def chosen(which: Which, names: list[str] | None = None) -> list[Path]:
    """The notebooks to run, in reading order."""
    there = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if names:
        unknown = [name for name in names if name not in {path.stem for path in there}]
        if unknown:
            raise InputError(f"no notebook {', '.join(unknown)}; there are {', '.join(path.stem for path in there)}")
        return [path for path in there if path.stem in names]
    return [path for path in there if which is not Which.tutorial or path.stem in TUTORIAL]


def parameters_of(path: Path) -> set[str]:
    """The names in a notebook's `parameters` cell."""
    return set(papermill.inspect_notebook(path))


def execute(path: Path, output: Path, parameters: dict[str, object]) -> float:
    """Run one notebook from top to bottom, in its own folder, and return the seconds it took.

    Raises:
        InputError: the notebook doesn't know a parameter, or a cell failed; `output` holds it up to there.
    """
    known = parameters_of(path)
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise InputError(f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        papermill.execute_notebook(
            path,
            output,
            parameters,
            kernel_name="python3",
            language="python",
            cwd=path.parent,
            progress_bar=False,
            log_output=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # the kernel's warnings say nothing of the course
        )
    except papermill.PapermillExecutionError as error:
        raise InputError(
            f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n{output} shows it in full"
        ) from error
    return time.perf_counter() - started


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """A digest of what the reader sees and runs, by which a test tells that the outputs are of this very text.

    The cells for Colab and Kaggle are no part of it: they change no output.
    """
    cells = [
        (cell.cell_type, cell.source)
        for cell in notebook.cells
        if not {"injected-parameters", PLACES} & set(cell.metadata.get("tags", []))
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Make a run notebook fit to be committed: no sound, progress bars, paths of a machine or notes of papermill."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [tidied for output in cell.outputs if (tidied := _tidy_output(output))]
    _number(notebook)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _number(notebook: nbformat.NotebookNode) -> None:
    """Count the code cells, as a run from top to bottom does."""
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number


def badges(name: str, repository: str) -> str:
    """The Markdown that opens a notebook, by its file's name, on Colab and on Kaggle."""
    page = f"{repository}/blob/main/notebooks/{name}"
    colab = f"https://colab.research.google.com/github/{page.removeprefix('https://github.com/')}"
    kaggle = f"https://kaggle.com/kernels/welcome?src={page}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle})\n\n"
        "There, the first cell gets the course and sets it up, which takes minutes. Elsewhere it does nothing."
    )


def hosted_setup(repository: str) -> str:
    """The first cell's code."""
    folder = repository.rstrip("/").rsplit("/", 1)[-1]
    return f"""\
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


def with_places(notebook: nbformat.NotebookNode, name: str, repository: str) -> nbformat.NotebookNode:
    """Put the cells for Colab and Kaggle below a notebook's title, in the place of those that are there.

    Its outputs stay as they are, and count as fresh as before.
    """
    cells = [cell for cell in notebook.cells if PLACES not in cell.metadata.get("tags", [])]
    was_run = any(cell.get("execution_count") for cell in cells)
    marked = {"tags": [PLACES]}
    new = [
        nbformat.v4.new_markdown_cell(badges(name, repository), metadata=marked, id="places-badges"),
        nbformat.v4.new_code_cell(hosted_setup(repository), metadata=marked, id="places-setup"),
    ]
    notebook.cells = [*cells[:1], *new, *cells[1:]]
    if was_run:
        _number(notebook)
    return notebook


def _tidy_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = FREE_OF.sub("…", output.text)
        return output
    data = output.get("data", {})
    for element, note in (("<audio", AUDIO_NOTE), ("<iframe", PAGE_NOTE)):
        if element in str(data.get("text/html", "")):
            return nbformat.v4.new_output("display_data", {"text/plain": note})
    for kind in ("text/plain", "text/html"):
        if kind in data:
            data[kind] = FREE_OF.sub("…", data[kind])
    output.pop("transient", None)
    return output


def report(title: str, seconds: dict[str, float], build: Path) -> dict:
    """Print the table at the end of a run and write it as JSON; returns what was written."""
    summary: dict = {"corpus": None, "epochs": None, "test": None}
    results = build / "results.json"
    if results.is_file():
        summary["test"] = json.loads(results.read_text())
        summary["corpus"] = summary["test"]["corpus"]
        summary["epochs"] = summary["test"].get("epochs")
    summary["notebooks"] = {name: round(value, 1) for name, value in seconds.items()}
    write_if_changed(build / f"{title}.json", json.dumps(summary, indent=1) + "\n")

    table = Table(title=f"make {title}")
    table.add_column("notebook")
    table.add_column("minutes", justify="right")
    for name, value in seconds.items():
        table.add_row(name, f"{value / 60:.1f}")
    table.add_row("together", f"{sum(seconds.values()) / 60:.1f}", style="bold")
    console = Console(width=min(100, Console().width))
    console.print(table)
    if summary["test"]:
        test = summary["test"]
        corpus = "AN4" if summary["corpus"] == "an4" else "the built-in synthetic corpus, NOT AN4"
        console.print(
            f"corpus: {corpus}\nepochs: {summary['epochs']}\n"
            f"WER on test: {test['wer']:.1%} ({test['errors']} of {test['words']} words wrong; "
            f"95% interval {test['ci95'][0]:.1%} to {test['ci95'][1]:.1%})",
            highlight=False,
        )
    return summary


def main(
    which: Annotated[
        Which,
        typer.Argument(
            help="tutorial: the core path; course: every notebook; update: re-make the committed ones; places: run "
            "none, but give each its badges and first cell for Colab and Kaggle."
        ),
    ] = Which.tutorial,
    only: Annotated[list[str] | None, typer.Option(help="Only this notebook, say 01_data; may be repeated.")] = None,
    build: Annotated[Path, typer.Option(help="Where the executed copies go.")] = ROOT / "build",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A notebook's parameter, name=value (as JSON, else text).")
    ] = None,
) -> None:
    """Run the course's notebooks in order, into build/, with a line each, and a table at the end.

    The environment variables EPOCHS, UTTERANCES and SEED set the sizes in every notebook that has them.

    Examples:

        python scripts/run_notebooks.py

        EPOCHS=50 python scripts/run_notebooks.py

        python scripts/run_notebooks.py update --only 02_features

        python scripts/run_notebooks.py places
    """
    if which is Which.places:
        for path in chosen(which, only):
            _write(path, with_places(nbformat.read(path, as_version=4), path.name, repository_url()))
        return
    build = build.absolute()
    build.mkdir(parents=True, exist_ok=True)
    (build / "results.json").unlink(missing_ok=True)
    sizes = {name: int(os.environ[variable]) for variable, name in SIZES.items() if os.environ.get(variable)}
    given = dict(_parameter(item) for item in set_ or [])
    seconds: dict[str, float] = {}
    paths = chosen(which, only)
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.stem} ...", flush=True)
        known = parameters_of(path)
        parameters = {name: value for name, value in sizes.items() if name in known} | given
        if "build_dir" in known:
            parameters["build_dir"] = str(build)
        output = build / path.name
        seconds[path.stem] = execute(path, output, parameters)
        print(f"[{number}/{len(paths)}] {path.stem} done in {seconds[path.stem] / 60:.1f} min", flush=True)
        if which is Which.update:
            _commit(path, output)
    report(which.value, seconds, build)


def _parameter(item: str) -> tuple[str, object]:
    name, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"--set {item}: expected name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _commit(path: Path, output: Path) -> None:
    """Put an executed notebook in the place of the committed one, tidied."""
    notebook = nbformat.read(output, as_version=4)
    corpus = an4.locate(ROOT / "data").name
    with replacing(path, keep_suffix=True) as partial:  # ruff looks at the suffix
        nbformat.write(with_places(tidy(notebook), path.name, repository_url()), partial)
        subprocess.run([sys.executable, "-m", "ruff", "format", "-q", partial], check=True)
        notebook = nbformat.read(partial, as_version=4)
        notebook.metadata["asr_with_nemo"] = {"source": source_digest(notebook), "corpus": corpus}
        nbformat.write(notebook, partial)


def _write(path: Path, notebook: nbformat.NotebookNode) -> None:
    write_if_changed(path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    run(main)
