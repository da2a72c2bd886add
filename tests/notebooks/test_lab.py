"""What a reader does: `make lab`, a browser, 01_data, Run All."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import nbformat
import papermill
import pytest

from asr_with_nemo.data import an4
from tests.conftest import ROOT, free_port
from tests.notebooks.test_notebooks import run_notebooks
from tests.scripts.test_setup import setup_env

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
ALL_RUN = """() => {
    // A cell with its source hidden has a placeholder, without a number.
    const shown = '.jp-CodeCell .jp-InputPrompt:not(.jp-Placeholder-prompt)';
    const prompts = [...document.querySelectorAll(shown)].map(e => e.textContent);
    const streams = [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"]')];
    const failed = streams.some(e => e.textContent.includes('Traceback'));
    return failed || (prompts.length > 0 && prompts.every(text => /\\[\\d+\\]/.test(text)));
}"""


def is_set_up() -> bool:
    """Whether `make lab` would start at once, and not set up an environment first."""
    wanted = setup_env.digest(ROOT, setup_env.REQUIREMENTS, sys.version_info, bool(os.environ.get("UNPINNED")))
    return setup_env.ready(ROOT / ".venv/.ready", wanted, "")


class Lab(NamedTuple):
    address: str
    token: str
    folder: Path
    log: Path


@pytest.fixture
def lab(tmp_path: Path, small_corpus: an4.Corpus) -> Iterator[Lab]:
    """`make lab` on a copy of 01_data that reads a small corpus; it leaves nothing outside of the test's folder."""
    course = tmp_path / "course"
    (course / "notebooks").mkdir(parents=True)
    for name in ("configs", "results", "src"):
        (course / name).symlink_to(ROOT / name)
    papermill.execute_notebook(
        ROOT / "notebooks/01_data.ipynb",
        course / "notebooks/01_data.ipynb",
        {"data_dir": str(small_corpus.folder.parent), "utterances": 60},
        prepare_only=True,
        progress_bar=False,
        kernel_name="python3",
        language="python",
    )
    settings = tmp_path / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))  # cells out of sight are in the page too
    port = free_port()
    token = secrets.token_hex(16)
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "AN4_ARCHIVE")  # of the `make test` that runs this
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    environment |= {
        "JUPYTER_TOKEN": token,
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    log = tmp_path / "lab.log"
    command = ["make", "lab", f"PORT={port}", f"FOLDER={course}", "LAB_OPTIONS=--no-browser"]
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Lab(f"http://127.0.0.1:{port}", token, course, log)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def committed_outputs(name: str) -> dict[str, int]:
    """How many pictures and players a committed notebook shows."""
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    data = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    players = sum(entry.get("text/plain") == run_notebooks.AUDIO_NOTE for entry in data)
    return {"image/png": sum("image/png" in entry for entry in data), "player": players}


def wait_for(lab: Lab, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            httpx.get(f"{lab.address}/api")
            return
        except httpx.TransportError:
            assert time.monotonic() < deadline, lab.log.read_text()
            time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.skipif(not is_set_up(), reason="`make lab` needs .venv, which `make test` sets up")
def test_a_reader_opens_the_first_notebook_and_runs_all_of_it(lab: Lab):
    if BROWSER is None:
        pytest.skip("no Chromium or Chrome here (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    expected = committed_outputs("01_data")
    assert min(expected.values()) > 0
    wait_for(lab)
    # Without the token nobody sees anything.
    assert httpx.get(f"{lab.address}/api/contents").status_code == 403
    assert httpx.get(f"{lab.address}/lab", follow_redirects=True).url.path == "/login"

    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=BROWSER, args=options)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{lab.address}/lab/tree/notebooks/01_data.ipynb?token={lab.token}")
        page.locator(".jp-Notebook").wait_for(timeout=90_000)
        page.locator('.jp-Notebook [title^="Python 3"], .jp-KernelName:has-text("Python 3")').first.wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
        page.wait_for_function(ALL_RUN, timeout=240_000)

        errors = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
        assert not [error for error in errors if "Traceback" in error]
        pictures = page.locator(".jp-OutputArea-output img")
        widths = pictures.evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(widths) == expected["image/png"]
        assert all(width > 100 for width in widths)
        players = page.locator(".jp-OutputArea-output audio")
        assert players.count() == expected["player"]
        seconds = players.evaluate_all("players => players.map(player => player.duration)")
        assert all(0.1 < length < 30 for length in seconds), seconds
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1500)
        if folder := os.environ.get("SCREENSHOTS"):
            players.first.scroll_into_view_if_needed()
            page.screenshot(path=Path(folder) / "lab.png")
        browser.close()

    saved = nbformat.read(lab.folder / "notebooks/01_data.ipynb", as_version=4)
    outputs = [output for cell in saved.cells if cell.cell_type == "code" for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
