"""The notebooks run from top to bottom, alone, and what is committed is fresh and clean."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from asr_with_nemo.base.html import html_table
from asr_with_nemo.data import an4
from asr_with_nemo.errors import InputError
from asr_with_nemo.own_data.demo import NOTICE
from asr_with_nemo.places.repository import repository_url
from asr_with_nemo.teaching import frame
from tests.conftest import ROOT, run_script

sys.path.insert(0, str(ROOT / "scripts"))
import run_notebooks

NOTEBOOKS = [ROOT / "notebooks" / name for name in run_notebooks.course()]
SMALL = {"UTTERANCES": "60", "EPOCHS": "2", "SEED": "0"}


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def committed(request) -> tuple[Path, nbformat.NotebookNode]:
    return request.param, nbformat.read(request.param, as_version=4)


def test_the_core_path_is_there():
    assert [path.stem for path in run_notebooks.chosen(run_notebooks.Which.tutorial)] == list(run_notebooks.TUTORIAL)


def test_outputs_are_of_the_text_that_stands_there(committed):
    path, notebook = committed
    recorded = notebook.metadata.get("asr_with_nemo", {})
    assert recorded.get("source") == run_notebooks.source_digest(notebook), f"{path.name} is stale: run make notebooks"
    assert recorded["corpus"] == "an4"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("00_start", ["AN4: 'g l e n n'"]),
        ("01_data", ["SoX and the package agree on every sample: True", "checksum as in the header: True"]),
        ("02_features", ["correlation:        1.000000"]),
        ("03_explore", ["W&B: offline", "0 of 948 recordings are too short"]),
        ("04_pretrained", ["Model QuartzNet15x5Base-En was not found", "ready: an4"]),
        (
            "05_ctc",
            ["the same: True", "the same as by listing: True", "all three the same: True", "frames rightly: True"],
        ),
        (
            "09_inference",
            ["both the same: True", "of sound, greedy", "'with masks': 0", "0 errors in  50 words: 0.0% to 7.1%"],
        ),
        ("10_augmentation", ["fewer errors: ", "still clear of zero: ", "without against with:"]),
        ("11_language_model", ["the parts add up to the score: True"]),
        (
            "12_fine_tuning",
            [
                "the encoder is the one that it was: True",
                "the decoder is a new one: True",
                "mode in a training step: model training, preprocessor training, encoder training, decoder training",
            ],
        ),
        (
            "13_beyond_ctc",
            ["the same as by listing: True", "    the same: True", "\nthe same: True", "whole file: 8 of 8"],
        ),
        (
            "14_deployment",
            [
                "the same network within rounding: no",
                "the texts are the same: True",
                "imported of torch and NeMo: neither",
                "os.system, which is neither NeMo's nor torch's",
                "would be written outside of the folder",
            ],
        ),
        (
            "15_scaling",
            [
                "equal within rounding: True",
                "every process has the sum: True",
                "started by torchrun",
                "largest difference of any weight from the undisturbed training: 0.0",
            ],
        ),
        ("16_your_own_data", ["speakers in more than one split: none"]),
    ],
)
def test_what_the_notebooks_check_holds_in_the_committed_outputs(name: str, checks: list[str]):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    shown = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    for check in checks:
        assert check in shown
    assert "False" not in shown


def test_committed_copies_are_small_and_clean(committed):
    path, notebook = committed
    assert path.stat().st_size < 2_000_000
    for cell in code_cells(notebook):
        for output in cell.outputs:
            text = json.dumps(output)
            assert output.output_type != "error"
            assert "<audio" not in text
            if 'class=\\"asr-piece\\"' not in text:  # these hold their still picture
                assert "base64," not in text
            assert "data:audio" not in text
            assert not run_notebooks.FREE_OF.search(text), f"{path.name}: a path of a machine in {text[:200]}"
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 20, f"{path.name}: a picture without a text"


def test_cells_are_small_and_each_has_its_prose(committed):
    path, notebook = committed
    for cell in code_cells(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 13, f"{path.name}: a cell of {len(lines)} lines: {lines[0]}"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    for link in re.findall(r"\]\(([\w./]+\.ipynb)\)", "\n".join(cell.source for cell in notebook.cells)):
        assert (path.parent / link).is_file(), f"{path.name} links to {link}, which isn't there"


def test_each_opens_on_colab_and_kaggle(committed):
    path, notebook = committed
    before = nbformat.writes(notebook)
    again = frame.with_frame(notebook, path.name, run_notebooks.course(), repository_url())
    assert nbformat.writes(again) == before, f"{path.name}: run python scripts/run_notebooks.py frame"
    address = repository_url().removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{address}/blob/main/notebooks/{path.name}" in notebook.cells[1].source


def test_the_address_of_the_repository_is_one_setting(committed):
    path, notebook = committed
    digest = run_notebooks.source_digest(notebook)
    moved = frame.with_frame(notebook, path.name, run_notebooks.course(), "https://github.com/somebody/asr")
    assert len(moved.cells) == len(nbformat.read(path, as_version=4).cells)
    assert repository_url() not in nbformat.writes(moved)
    assert '"clone", "--depth=1", "https://github.com/somebody/asr"' in moved.cells[2].source
    assert 'os.chdir("asr")' in moved.cells[2].source
    assert run_notebooks.source_digest(moved) == digest  # the outputs are as fresh as before


def test_the_first_cell_does_nothing_but_on_colab_and_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    before = list(sys.path)
    exec(frame.hosted_setup("https://example.org/never-asked"), {})
    assert sys.path == before
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


def test_the_readmes_map_leads_to_sections_that_are_there():
    rows = re.findall(r"^\| .+ \| (\d\d_\w+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for name, section in rows:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert re.search(rf"^##? (\d+ · )?{re.escape(section)}$", text, re.MULTILINE), (
            f"{name} has no section {section!r}"
        )


def test_a_parameter_that_the_notebook_does_not_know_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="no parameter epoch; it has .*epochs"):
        run_notebooks.execute(ROOT / "notebooks/06_training.ipynb", tmp_path / "out.ipynb", {"epoch": 3})


def test_the_tool_that_makes_the_committed_copies_strips_sound_paths_and_bars():
    cell = nbformat.v4.new_code_cell("play()")
    cell.outputs = [
        nbformat.v4.new_output("display_data", {"text/html": '<audio src="data:...">', "text/plain": "<Audio>"}),
        nbformat.v4.new_output("display_data", {"text/html": '<iframe src="http://127.0.0.1:1/">'}),
        nbformat.v4.new_output("stream", name="stderr", text="50%|#####"),
        nbformat.v4.new_output("stream", name="stdout", text="made /home/someone/course/data"),
    ]
    injected = nbformat.v4.new_code_cell("epochs = 1", metadata={"tags": ["injected-parameters"]})
    notebook = run_notebooks.tidy(nbformat.v4.new_notebook(cells=[injected, cell]))
    (kept,) = notebook.cells
    assert [output.output_type for output in kept.outputs] == ["display_data", "display_data", "stream"]
    notes = [output.data for output in kept.outputs[:2]]
    assert notes == [{"text/plain": run_notebooks.AUDIO_NOTE}, {"text/plain": run_notebooks.PAGE_NOTE}]
    assert "someone" not in kept.outputs[2].text


def test_a_table_of_players_stays_a_table_without_them(tmp_path: Path):
    rows = [{"File": f"{number}.wav", "Sound": tmp_path / f"{number}.wav"} for number in range(5)]
    for row in rows:
        row["Sound"].write_bytes(b"sound")
    cell = nbformat.v4.new_code_cell("browse()")
    cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": html_table(rows, page=2)})]
    (kept,) = run_notebooks.tidy(nbformat.v4.new_notebook(cells=[cell])).cells
    html = kept.outputs[0].data["text/html"]
    assert re.findall(r"<td>(.*?)</td>", html) == ["0.wav", "▶", "1.wav", "▶"]
    assert "<th" in html
    assert "The first 2 of 5 rows." in html
    for gone in ("<script", "<audio", "<button", "<input", "data:"):
        assert gone not in html


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A copy of all that notebooks need, so that what they make lies in none of the user's folders."""
    for name in ("notebooks", "scripts", "configs", "results"):
        shutil.copytree(ROOT / name, tmp_path / "course" / name)
    (tmp_path / "course" / "src").symlink_to(ROOT / "src")
    return tmp_path / "course"


def run_notebooks_of(course: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    without_a_network = {"NGC_MODELS_URL": "http://127.0.0.1:9", "ASR_MODELS": str(course / "models")}
    return run_script(
        str(course / "scripts" / "run_notebooks.py"), *arguments, cwd=course, **SMALL, **without_a_network
    )


@pytest.mark.slow
def test_the_tutorial_runs_and_ends_in_its_table(tmp_path: Path, course: Path, small_corpus):
    # No network, no account, no AN4: the built-in corpus, in a size that takes seconds.
    build = tmp_path / "build"
    data = f"data_dir={small_corpus.folder.parent}"
    done = run_notebooks_of(course, "tutorial", "--build", build, "--set", data)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((build / "tutorial.json").read_text())
    assert summary["corpus"] == "synthetic"
    assert summary["epochs"] == 2
    assert set(summary["notebooks"]) == set(run_notebooks.TUTORIAL)
    assert summary["test"]["words"] > 0
    assert len(summary["test"]["ci95"]) == 2
    for word in ("NOT AN4", "WER on test", "01_data", "minutes"):
        assert word in done.stdout
    for name in run_notebooks.TUTORIAL:
        shown = (build / f"{name}.ipynb").read_text()
        assert "synthetic stand-in, not AN4" in shown
    assert not list((course / "notebooks").glob("partial*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("00_start", [], ["there is no my_voice.wav", "levels:", "Task 2: no answer yet"]),
        ("03_explore", [], ["W&B: offline"]),
        (
            "04_pretrained",
            ['models=["QuartzNet15x5Base-En"]'],
            ["when there is a network: QuartzNet15x5Base-En", "S 1 + D 1 + I 1 = 3 errors", "an4: WER"],
        ),
        ("05_ctc", [], ["the same: True", "all three the same: True", "frames rightly: True"]),
        ("07_sweeps", ["live_trials=2", "live_epochs=1"], ["2 of 2 trials", "beyond chance", "Task 2: no answer yet"]),
        ("08_tracking", ["steps=2", "train_epochs=1"], ["both the same: True", "short_jasper:v0", "shipped:v1"]),
        ("10_augmentation", [], ["another seed alone: ", "after 2 epochs, without against with:"]),
        ("11_language_model", [], ["the parts add up to the score: True", "by torch's CTC loss"]),
        (
            "12_fine_tuning",
            ["base_epochs=2", "language_epochs=5"],
            [
                "the encoder is the one that it was: True",
                "the decoder is a new one: True",
                "keep_letters: true",
                "mode in a training step: model training, preprocessor training, encoder training, decoder training",
            ],
        ),
        (
            "13_beyond_ctc",
            ["steps=30"],
            ["the same as by listing: True", "live = whole file: 8 of 8", "Task 2: no answer yet"],
        ),
        (
            "14_deployment",
            [],
            [
                "the texts are the same: True",
                "imported of torch and NeMo: neither",
                "exit status 0",
                "os.system, which is neither NeMo's nor torch's",
                "Task 2: no answer yet",
            ],
        ),
        (
            "15_scaling",
            ["heard=16", "seeds=1", "passes=2"],
            [
                "equal within rounding: True",
                "every process has the sum: True",
                "largest difference of any weight from the undisturbed training: 0.0",
                "Task 2: no answer yet",
            ],
        ),
        (
            "16_your_own_data",
            ["data_dir=data", "epochs=5"],
            [NOTICE, "'kept': 301", "speakers in more than one split: none", "WER", "Task 2: no answer yet"],
        ),
    ],
)
def test_a_notebook_beside_the_tutorial_runs_alone(
    name: str, settings: list[str], words: list[str], tmp_path: Path, course: Path, small_corpus: an4.Corpus
):
    build = tmp_path / "build"
    settings = [f"data_dir={small_corpus.folder.parent}", *settings]
    options = [word for setting in settings for word in ("--set", setting)]
    done = run_notebooks_of(course, "course", "--only", name, "--build", build, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    notebook = nbformat.read(build / f"{name}.ipynb", as_version=4)
    shown = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    is_an4s = "an4.prepare" in "".join(cell.source for cell in code_cells(notebook))
    for word in words + ["synthetic stand-in, not AN4"] * is_an4s:
        assert word in shown
