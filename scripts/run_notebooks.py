#!/usr/bin/env python3
"""Run the course's notebooks in order, and say what came out."""

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import nbformat
import papermill
import typer
from rich.console import Console
from rich.table import Table

from asr_with_nemo.base.files import replacing, write_if_changed
from asr_with_nemo.base.html import still_table
from asr_with_nemo.cli import run
from asr_with_nemo.data import an4
from asr_with_nemo.errors import InputError
from asr_with_nemo.places.repository import repository_url
from asr_with_nemo.teaching import frame

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
TUTORIAL = ("01_data", "02_features", "06_training", "09_inference")

SIZES = {"EPOCHS": "epochs", "UTTERANCES": "utterances", "SEED": "seed"}
"""Environment variable → the parameter that it sets, in every notebook that has it."""

AUDIO_NOTE = "A player stands here when the notebook runs; the committed copy carries no sound."
PAGE_NOTE = "The server's page stands here when the notebook runs; in the committed copy nobody serves it."
SOUND = re.compile(r'"data:audio/[^"]*"')
FREE_OF = re.compile(r"(/(?:home|root|tmp|Users|work|content|workspace)/[\w.@+-]+)")


class Which(StrEnum):
    """Which notebooks."""

    tutorial = "tutorial"
    course = "course"
    update = "update"
    frame = "frame"


def course() -> list[str]:
    """The notebooks' file names, in reading order."""
    return sorted(path.name for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def chosen(which: Which, names: list[str] | None = None) -> list[Path]:
    """The notebooks to run, in reading order."""
    there = [NOTEBOOKS / name for name in course()]
    if names:
        unknown = [name for name in names if name not in {path.stem for path in there}]
        if unknown:
            raise InputError(f"no notebook {', '.join(unknown)}; there are {', '.join(path.stem for path in there)}")
        return [path for path in there if path.stem in names]
    return [path for path in there if which is not Which.tutorial or path.stem in TUTORIAL]


def parameters_of(path: Path) -> set[str]:
    """The names in a notebook's `parameters` cell."""
    return set(papermill.inspect_notebook(path))


def execute(path: Path, output: Path, parameters: dict[str, object], folder: Path = NOTEBOOKS) -> float:
    """Run one notebook from top to bottom, in `folder`, and return the seconds it took.

    Beside other work, these are the seconds of computing, since the clock would count the others' too.

    Raises:
        InputError: the notebook doesn't know a parameter, or a cell failed; `output` holds it up to there.
    """
    known = parameters_of(path)
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise InputError(f"{path.name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    output.parent.mkdir(parents=True, exist_ok=True)
    started, computed = time.perf_counter(), _computed()
    try:
        papermill.execute_notebook(
            path,
            output,
            parameters,
            kernel_name="python3",
            start_timeout=600,  # seconds; a busy machine needs more than one minute
            language="python",
            cwd=folder,
            progress_bar=False,
            log_output=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # the kernel's warnings say nothing of the course
        )
    except papermill.PapermillExecutionError as error:
        raise InputError(
            f"{path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n{output} shows it in full"
        ) from error
    return min(time.perf_counter() - started, _computed() - computed)


def _computed() -> float:
    """Return the seconds that processes computed which this one has started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def without_runs() -> Iterator[Path]:
    """Make a folder of notebooks in a course in which nothing has been trained yet, but the corpora are there."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in ROOT.iterdir():
            if path.name not in {"runs", "wandb", "build", "notebooks"}:
                (Path(scratch) / path.name).symlink_to(path)
        yield Path(shutil.copytree(NOTEBOOKS, Path(scratch) / "notebooks"))


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """A digest of the code, by which a test tells that the outputs are of this very code.

    The cells that a tool writes are no part of it: they change no output.
    """
    cells = [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code"
        and "injected-parameters" not in cell.metadata.get("tags", [])
        and not frame.is_written_here(cell)
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Make a run notebook fit to be committed: no sound, progress bars, paths of a machine or notes of papermill."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [tidied for output in cell.outputs if (tidied := _tidy_output(output))]
    frame.number(notebook)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _tidy_output(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = FREE_OF.sub("…", output.text)
        return output
    data = output.get("data", {})
    if '<div id="table-' in data.get("text/html", ""):
        data["text/html"] = still_table(data["text/html"])
    for element, note in (("<audio", AUDIO_NOTE), ("<iframe", PAGE_NOTE)):
        if element in str(data.get("text/html", "")):
            return nbformat.v4.new_output("display_data", {"text/plain": note})
    for kind in ("text/plain", "text/html"):
        if kind in data:
            data[kind] = SOUND.sub('""', FREE_OF.sub("…", data[kind]))
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
            help="tutorial: the core path; course: every notebook; update: re-make the committed ones; frame: run "
            "none, but write the cells that are the same in all: badges, set-up on Colab and Kaggle, links, glossary."
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

        python scripts/run_notebooks.py frame
    """
    if which is Which.frame:
        for path in chosen(which, only):
            notebook = frame.with_frame(nbformat.read(path, as_version=4), path.name, course(), repository_url())
            write_if_changed(path, nbformat.writes(notebook) + "\n")
        return
    build = build.absolute()
    build.mkdir(parents=True, exist_ok=True)
    (build / "results.json").unlink(missing_ok=True)
    sizes = {name: int(os.environ[variable]) for variable, name in SIZES.items() if os.environ.get(variable)}
    given = dict(_parameter(item) for item in set_ or [])
    seconds: dict[str, float] = {}
    paths = chosen(which, only)
    with without_runs() if which is Which.update else contextlib.nullcontext(NOTEBOOKS) as folder:
        for number, path in enumerate(paths, 1):
            print(f"[{number}/{len(paths)}] {path.stem} ...", flush=True)
            known = parameters_of(path)
            parameters = {name: value for name, value in sizes.items() if name in known} | given
            if "build_dir" in known:
                parameters["build_dir"] = str(build)
            output = build / path.name
            seconds[path.stem] = execute(path, output, parameters, folder)
            print(f"[{number}/{len(paths)}] {path.stem} done in {seconds[path.stem] / 60:.1f} min", flush=True)
            if which is Which.update:
                _commit(path, output, seconds[path.stem] / 60)
    report(which.value, seconds, build)


def _parameter(item: str) -> tuple[str, object]:
    name, equals, value = item.partition("=")
    if not equals:
        raise InputError(f"--set {item}: expected name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _commit(path: Path, output: Path, minutes: float) -> None:
    """Put an executed notebook in the place of the committed one, tidied."""
    notebook = tidy(nbformat.read(output, as_version=4))
    with replacing(path, keep_suffix=True) as partial:  # ruff looks at the suffix
        nbformat.write(notebook, partial)
        subprocess.run([sys.executable, "-m", "ruff", "format", "-q", partial], check=True)
        notebook = nbformat.read(partial, as_version=4)
        notebook.metadata["asr_with_nemo"] = {
            "source": source_digest(notebook),
            "corpus": an4.locate(ROOT / "data").name,
            "minutes": round(minutes, 1),
        }
        nbformat.write(frame.with_frame(notebook, path.name, course(), repository_url()), partial)


if __name__ == "__main__":
    run(main)
