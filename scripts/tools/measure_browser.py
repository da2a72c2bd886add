#!/usr/bin/env python3
"""Measure the error browser and a corpus's report in Chromium: the first paint, and a filter, with many rows."""

import json
import random
import shlex
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError

TIMES = 5
"""Times that each page is opened and filtered; the median is shown."""
VOCABULARY = [f"word{number}" for number in range(300)]
FILTERS = {"text": "word7 ", "with": "word12", "without": "word3"}
"""Fields of the error browser and what is typed into them."""
_FILTER = """async ([name, text]) => {
  const field = document.getElementById(name);
  const started = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));  // it is painted
  const taken = performance.now() - started;
  field.value = "";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  return taken;
}"""


def error_page(folder: Path, rows: int) -> Path:
    """Write the error browser of an evaluation of many utterances, which share a recording; return its path."""
    from asr_with_nemo.recognition import error_report, evaluation
    from asr_with_nemo.recognition.transcripts import Transcript, Word
    from asr_with_nemo.recognition.wer import ScoredUtterance

    words = random.Random(0)
    soundfile.write(folder / "0.wav", 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    line = {"audio_filepath": "0.wav", "duration": 1.0, "text": "x"}
    (folder / "manifest.json").write_text(f"{json.dumps(line)}\n" * rows, encoding="utf-8")
    scored, heard = [], []
    for number in range(rows):
        said = words.choices(VOCABULARY, k=words.randint(2, 14))
        text = [words.choice(VOCABULARY) if words.random() < 0.1 else word for word in said]
        scored.append(ScoredUtterance("0.wav", f"s{number % 50}", " ".join(said), " ".join(text)))
        marked = [Word(word, place / 4, place / 4 + 0.2, words.random()) for place, word in enumerate(text)]
        heard.append(Transcript(" ".join(text), marked, 4.0))
    facts = ("many", "greedy", "m.nemo", str(folder / "manifest.json"), 4.0 * rows, 60.0, "a CPU", [])
    path = folder / "errors.html"
    error_report.write_page(evaluation.Result(scored, *facts, heard=heard), path)
    return path


def report_page(folder: Path, rows: int) -> Path:
    """Prepare a corpus of many short recordings; return the path of its report."""
    from asr_with_nemo.own_data import preparation
    from asr_with_nemo.own_data.prepared import Settings

    noise, words = np.random.default_rng(0), random.Random(0)
    (folder / "source").mkdir()
    lines = ["path\ttext\tspeaker"]
    for number in range(rows):
        soundfile.write(folder / "source" / f"{number}.wav", 0.1 * noise.standard_normal(8_000), 16_000)
        lines.append(f"{number}.wav\t{' '.join(words.choices(VOCABULARY, k=2))}\ts{number % 50}")
    (folder / "source" / "table.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return preparation.prepare(folder / "source", folder / "out", Settings(), 1, progress=False).report


def measure(pages: dict[str, Path]) -> list[dict[str, str]]:
    """Open pages in Chromium and filter the utterances of the error browser; return the rows of a table.

    Raises:
        InputError: Chromium isn't installed.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        raise InputError("Chromium isn't installed; install it (Debian: apt install chromium) and run again")
    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, path in pages.items():
            paints, filters = [], []
            for _ in range(TIMES):
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                page.goto(path.as_uri(), wait_until="load")
                page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
                paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                if page.locator("#text").count():
                    filters += [page.evaluate(_FILTER, [field, text]) for field, text in FILTERS.items()]
                page.close()
            found.append(
                {
                    "page": name,
                    "size": f"{path.stat().st_size / 1e6:.1f} MB",
                    "first paint": f"{statistics.median(paints) / 1000:.2f} s",
                    "slowest": f"{max(paints) / 1000:.2f} s",
                    "a filter": f"{statistics.median(filters) / 1000:.3f} s" if filters else "",
                    "slowest filter": f"{max(filters) / 1000:.3f} s" if filters else "",
                }
            )
        browser.close()
    return found


def main(
    rows: Annotated[int, typer.Option(min=100, help="Utterances of each page.")] = 10_000,
    output: Annotated[Path | None, typer.Option(help="Write the table here (.json).", metavar="FILE")] = None,
) -> None:
    """Measure how fast the error browser (errors.html) and a corpus's report (report.html) are in Chromium.

    Example:

        python scripts/tools/measure_browser.py --output results/browser.json
    """
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        pages = {
            "errors.html": error_page(Path(scratch), rows),
            "report.html": report_page(Path(scratch), rows),
        }
        typer.echo(f"pages written in {time.perf_counter() - started:.0f} s")
        found = measure(pages)
    for row in found:
        typer.echo(", ".join(f"{name}: {value}" for name, value in row.items() if value))
    if output:
        from asr_with_nemo.recognition.results import save_measurement

        about = (
            f"The error browser of {rows:,} utterances and the report of a corpus of {rows:,} recordings, opened "
            f"{TIMES} times in Chromium: median and slowest. First paint: the first text is on the screen "
            "(first-contentful-paint). A filter: from the input of a text into a field of the error browser to the "
            "next frame. The report has no filter."
        )
        command = ["python", "scripts/tools/measure_browser.py", f"--rows={rows}"]
        save_measurement(output, "The HTML pages in a browser", about, found, shlex.join(command))
        typer.echo(f"results: {output}")


if __name__ == "__main__":
    run(main)
