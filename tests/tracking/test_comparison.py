"""Runs side by side: read back from what W&B's own client has written, offline and on a server on loopback."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from asr_with_nemo.errors import InputError
from asr_with_nemo.tracking import comparison, explore, report, session
from asr_with_nemo.tracking.report import RunReport
from asr_with_nemo.tracking.runs import Run, at_best, differing_settings, read_runs
from tests.tracking.conftest import Script
from tests.tracking.test_session import VARIABLES
from tests.wandb_server import WandbServer

TRAININGS = """
import numpy as np, wandb
from asr_with_nemo import tracking
from asr_with_nemo.tracking.versions import log_model
from asr_with_nemo.tracking.wandb_internals import log_input

tracking.configure_wandb()


def corpus():
    artifact = wandb.Artifact("corpus", "dataset")
    with artifact.new_file("manifest.json") as file:
        file.write("{}")
    return artifact


with wandb.init(project="ASR", name="dataset", config={"corpus": {"name": "an4"}}) as run:
    run.log({"recordings": 3})
    run.log_artifact(corpus())
WERS = [[1.0, 0.8, 0.6, 0.5, 0.55], [1.0, 0.7, 0.4, 0.3, 0.35], [1.0, 1.0, 0.9, float("nan"), 0.9]]
for number, (lr, dropout) in enumerate([(1e-3, 0.0), (3e-3, 0.1), (1e-2, 0.2)]):
    name = f"trial-{number}"
    block = {"filters": 128, "dropout": dropout}
    model = {"dropout": dropout, "blocks": [block, block], "labels": ["a", "b"], "optim": {"name": "adamw", "lr": lr}}
    config = {"name": name, "model": model}
    with wandb.init(project="ASR", name=name, group="sweep-1", tags=["short", f"t{number}"], config=config) as run:
        for epoch, wer in enumerate(WERS[number]):
            for batch in range(3):
                run.log({"train_loss": 60 / (epoch + 1) - batch, "epoch": epoch})
            run.log({"val_wer": wer, "val_loss": 30 / (epoch + 1), "epoch": epoch})
            run.log({"train_loss_epoch": 60 / (epoch + 1), "learning_rate": lr, "epoch": epoch})
        sound = np.sin(np.arange(1600) / 5).astype(np.float32)
        for wer in (1.0, 0.5):  # the newer one counts
            row = ["1.wav", wandb.Audio(sound, sample_rate=16000), "go <b>", "go on", wer]
            columns = ["FileName", "Audio", "Prediction", "Ground Truth", "WER"]
            run.log({"predictions": wandb.Table(columns, [row]), "epoch": 4})
        run.summary["size"] = 1.5 + number
        log_input(run, corpus())
        with open(f"{name}.ckpt", "w") as file:
            file.write(name)
        log_model(run, f"{name}.ckpt", "trials")
with wandb.init(project="other", name="elsewhere") as run:
    run.log({"loss": 1})
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with three trainings, another run, and one of another project, all offline; tests copy it."""
    folder = tmp_path_factory.mktemp("project")
    known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    known |= {"NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder / "config")}
    subprocess.run([sys.executable, "-c", TRAININGS], cwd=folder, env=known, check=True, timeout=120)
    return folder


@pytest.fixture
def project(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder, without a key."""
    folder = tmp_path / "project"
    shutil.copytree(kept, folder, symlinks=True)
    monkeypatch.setattr(session, "_chosen", None)
    for name in VARIABLES:
        monkeypatch.setenv(f"WANDB_{name}", "")  # so that monkeypatch knows to set it back
        monkeypatch.delenv(f"WANDB_{name}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


def names(**filters: str | int) -> list[str]:
    return [run.name for run in read_runs(progress=False, **filters).runs]


def file_of(project: Path, name: str) -> Path:
    (run,) = read_runs(name=name, progress=False).runs
    return project / run.place


# --- Reading ----------------------------------------------------------------------------------------------------------


def test_an_offline_run_is_read_whole(project: Path):
    found = read_runs(name="trial-1", progress=False)
    (run,) = found.runs
    assert found.skipped == []
    assert (run.project, run.state, run.group, run.tags) == ("ASR", "finished", "sweep-1", ["short", "t1"])
    assert run.config == {
        "name": "trial-1",
        "model.dropout": 0.1,
        "model.blocks.0.filters": 128,
        "model.blocks.0.dropout": 0.1,
        "model.blocks.1.filters": 128,
        "model.blocks.1.dropout": 0.1,
        "model.labels": '["a", "b"]',
        "model.optim.name": "adamw",
        "model.optim.lr": 3e-3,
    }
    assert run.metrics == ["learning_rate", "size", "train_loss", "train_loss_epoch", "val_loss", "val_wer"]
    assert run.epochs["val_wer"].tolist() == [1.0, 0.7, 0.4, 0.3, 0.35]
    assert run.epochs["train_loss"].tolist() == [58, 28, 18, 13, 10]  # the last one of an epoch
    assert run.epochs["size"].tolist()[-1] == 2.5  # of the summary alone
    assert 0 < run.seconds < 60
    assert list(run.tables) == ["predictions"]


def test_runs_can_be_chosen(project: Path):
    assert names() == ["dataset", "trial-0", "trial-1", "trial-2"]
    assert names(name="trial-*") == ["trial-0", "trial-1", "trial-2"]
    assert names(group="sweep-1", last=2) == ["trial-1", "trial-2"]
    assert names(sweep="sweep-1", tag="t0") == ["trial-0"]
    assert names(project="other") == ["elsewhere"]


def test_filters_that_leave_nothing_say_what_there_is(project: Path):
    with pytest.raises(
        InputError,
        match="'sweep-2'.*'short'.* dataset, trial-0, trial-1, trial-2; .* sweep-1; .* short, t0, t1, t2",
    ):
        names(group="sweep-2", tag="short")
    with pytest.raises(InputError, match="wandb: .* mine; .* ASR, other"):
        names(project="mine")
    shutil.rmtree("wandb")
    with pytest.raises(InputError, match="wandb: .*scripts/train.py"):
        names()


def test_a_corrupt_file_among_good_ones_is_named_and_skipped(project: Path):
    content = file_of(project, "trial-0").read_bytes()
    bad = {"garbage": b"no run at all " * 100, "middle": content[:2000] + b"\xff" * 200 + content[2200:], "empty": b""}
    for name, data in bad.items():
        folder = project / "wandb" / f"offline-run-20260101_000000-{name}"
        folder.mkdir()
        (folder / f"run-{name}.wandb").write_bytes(data)
    found = read_runs(name="trial*", progress=False)
    assert len(found.runs) == 3
    reasons = {Path(place).stem: why for place, why in found.skipped}
    assert re.search("corrupt .*bad header", reasons["run-garbage"])
    assert re.search("corrupt .*skipped corrupt data", reasons["run-middle"])
    assert "no run" in reasons["run-empty"]


def test_a_run_that_is_still_going_is_marked_and_one_that_was_killed(project: Path):
    file = file_of(project, "trial-2")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    runs = read_runs(name="trial*", progress=False).runs
    assert [run.state for run in runs] == ["finished", "finished", "running"]
    legend = comparison.draw_curves(runs).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["trial-1", "trial-0", "trial-2 (running)"]
    os.utime(file, (0, 0))
    runs = read_runs(name="trial*", progress=False).runs
    assert [run.state for run in runs] == ["finished", "finished", "crashed"]


def test_the_parts_of_an_interrupted_run_are_one(project: Path):
    file = file_of(project, "trial-1")
    part = project / "wandb" / "offline-run-20200101_000000-part" / file.name
    part.parent.mkdir()
    part.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    runs = read_runs(name="trial*", progress=False).runs
    assert sorted(run.name for run in runs) == ["trial-0", "trial-1", "trial-2"]
    (run,) = [run for run in runs if run.name == "trial-1"]
    assert run.state == "finished"
    assert run.epochs["val_wer"].tolist() == [1.0, 0.7, 0.4, 0.3, 0.35]


def test_a_run_copied_a_hundred_times_is_one(project: Path):
    file = file_of(project, "trial-1")
    for number in range(100):
        folder = project / "wandb" / f"offline-run-20260101_000000-{number}"
        folder.mkdir()
        shutil.copy(file, folder / f"run-{number}.wandb")
    assert len(read_runs(progress=False).runs) == 4


def test_what_a_run_took_in_and_what_it_made(project: Path):
    frame = comparison.lineage(read_runs(progress=False).runs)
    assert frame.index.tolist() == ["dataset", "trial-0", "trial-1", "trial-2"]
    assert frame["inputs"].tolist() == ["", "corpus:v0", "corpus:v0", "corpus:v0"]
    assert frame["outputs"].tolist() == ["corpus:v0", "trials:v0", "trials:v1", "trials:v2"]


# --- Tables and pictures ----------------------------------------------------------------------------------------------


def run_of(name: str, config: dict, wers: list[float], **more: object) -> Run:
    rows = [{"_step": step, "epoch": step, "val_wer": wer, "_runtime": 2.0 * step} for step, wer in enumerate(wers)]
    return Run(name, name, "ASR", "finished", "", "", config=config, history=rows, label=name, **more)


def test_only_what_differs_in_the_configs_is_shown(project: Path):
    runs = read_runs(progress=False).runs
    frame = differing_settings(runs)
    # The blocks' dropout repeats the model's, `name` repeats the run's; `corpus` is another kind of run's.
    assert list(frame) == ["model.dropout", "model.optim.lr"]
    assert frame["model.optim.lr"].tolist() == [None, 1e-3, 3e-3, 1e-2]


def test_a_key_that_a_run_lacks_differs_and_like_values_of_unlike_keys_do():
    runs = [run_of("a", {"m.lr": 0.1, "m.p": 0.1}, [1]), run_of("b", {"m.lr": 0.2, "m.p": 0.2, "m.new": None}, [1])]
    assert list(differing_settings(runs)) == ["m.lr", "m.p"]
    runs[1].config["m.new"] = True
    assert differing_settings(runs)["m.new"].tolist() == [None, True]
    assert differing_settings(runs[:1]).empty


def test_metrics_are_those_of_the_best_epoch(project: Path):
    runs = read_runs(progress=False).runs
    frame = at_best(runs)
    assert frame.index.tolist() == ["trial-1", "trial-0", "trial-2"]
    assert frame["val_wer"].tolist() == [0.3, 0.5, 0.9]
    assert frame["best epoch"].tolist() == [3, 3, 2]  # the first of the best, and NaN is none
    assert frame["last epoch"].tolist() == [4, 4, 4]
    assert frame["val_loss"].tolist() == [7.5, 7.5, 10]
    assert frame["train_loss_epoch"].tolist() == [15, 15, 20]
    assert at_best(runs, "val_loss").index.tolist() == ["trial-0", "trial-1", "trial-2"]
    assert at_best(runs, "size", maximize=True)["size"].tolist() == [3.5, 2.5, 1.5]
    assert list(comparison.table(runs))[-2:] == ["model.dropout", "model.optim.lr"]


def test_a_metric_that_no_run_has_is_an_error_that_lists_those_there_are(project: Path):
    runs = read_runs(progress=False).runs
    there = "learning_rate, recordings, size, train_loss, train_loss_epoch, val_loss, val_wer"
    for call in (at_best, comparison.draw_parallel, lambda runs, name: comparison.draw_curves(runs, [name])):
        with pytest.raises(InputError, match=f"'val_cer'.*{there}"):
            call(runs, "val_cer")


def test_a_run_without_epochs_counts_steps_and_one_that_diverged_has_no_best():
    runs = [run_of("a", {}, [0.5, 0.4]), run_of("nan", {}, [math.nan, math.nan])]
    for row in runs[0].history:
        del row["epoch"]
    frame = at_best(runs)
    assert frame.index.tolist() == ["a", "nan"]
    assert frame["best epoch"].fillna(-1).tolist() == [1, -1]
    (axes,) = comparison.draw_curves(runs[:1]).axes
    assert axes.get_xlabel() == "step"


def test_curves_lie_over_one_another_and_many_runs_stay_legible():
    runs = [run_of(f"run-{number:02}", {"lr": number}, [1, 0.9 - number / 100]) for number in range(30)]
    figure = comparison.draw_curves(runs)
    (axes,) = figure.axes
    assert axes.get_title() == "val_wer"
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*(f"run-{number:02}" for number in range(29, 19, -1)), "20 more"]
    plt.close(figure)


def test_parallel_coordinates_lead_from_the_config_to_the_metric():
    configs = [
        {"lr": lr, "data": data, "m.depth": depth}
        for lr, data, depth in ((1e-4, "/data/corpora/spoken/an4", 4), (1e-2, "an4", 8), (1e-3, "an4", None))
    ]
    runs = [run_of(f"run-{place}", config, [0.9 - place / 10]) for place, config in enumerate(configs)]
    figure = comparison.draw_parallel(runs)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["lr", "m.depth", "data", "val_wer\n(best)"]
    lines = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 4]
    assert [line[0] for line in lines] == pytest.approx([0, 1, 0.5])  # a log scale
    assert [line[1] for line in lines] == pytest.approx([0, 1, -0.12])  # a key that it lacks
    assert [line[3] for line in lines] == pytest.approx([1, 0.5, 0])
    marks = [text.get_text() for text in axes.texts]
    assert {"0.0001", "0.01", "none", "an4", "…orpora/spoken/an4", "0.7"} <= set(marks)
    plt.close(figure)
    assert comparison.draw_parallel(runs[:1]) is None
    with pytest.raises(InputError, match="'m.width'.* data, lr, m.depth"):
        comparison.draw_parallel(runs, keys=["m.width"])


# --- The scripts, offline and online ----------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "created"} for row in csv.DictReader(file)]


def test_the_script_writes_tables_and_pictures(project: Path, script: Script):
    done = script("compare_runs.py", cwd=project, NETRC="netrc", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("W&B: offline")
    assert re.search("^1 more run.* val_wer$", done.stdout, re.MULTILINE)
    for word in ("trial-1", "0.3", "model.optim.lr", "3 runs at their best epoch"):
        assert word in done.stdout
    folder = project / "runs" / "comparison"
    assert {path.name for path in folder.iterdir()} == {"runs.csv", "epochs.csv", "curves.png", "parallel.png"}
    assert [row["model.optim.lr"] for row in rows_of(folder / "runs.csv")] == ["0.003", "0.001", "0.01"]
    assert len(rows_of(folder / "epochs.csv")) == 15
    for picture in folder.glob("*.png"):
        height, width = plt.imread(picture).shape[:2]
        assert 300 < height < 1_500
        assert 500 < width < 1_500

    (project / "blocked").write_text("")
    done = script("compare_runs.py", "--output", "blocked/here", cwd=project, NETRC="netrc")
    # The last line: behind the progress bar, where reading takes long.
    assert re.match(r"error: blocked/here: .*Not a directory.*--output", done.stderr.splitlines()[-1])
    done = script("compare_runs.py", "--metric", "val_cer", cwd=project, NETRC="netrc")
    assert done.returncode == 1
    assert re.match("error: .*'val_cer'.* learning_rate, ", done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_online_the_same_call_makes_the_same(project: Path, server: WandbServer, script: Script):
    online = server.environment(project)
    assert script("sync.py", cwd=project, **online).returncode == 0
    for folder, environment in (("here", {"NETRC": "netrc"}), ("there", online)):
        done = script("compare_runs.py", "--output", folder, cwd=project, **environment)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("W&B: online, project ASR\n")
    for name in ("runs.csv", "epochs.csv"):
        assert rows_of(project / "here" / name) == rows_of(project / "there" / name)
    for name in ("curves.png", "parallel.png"):
        assert (project / "here" / name).read_bytes() == (project / "there" / name).read_bytes()

    lineage = (
        "from asr_with_nemo.tracking import comparison, runs\n"
        "print(comparison.lineage(runs.read_runs(progress=False).runs).to_csv())"
    )
    here = comparison.lineage(read_runs(progress=False).runs).to_csv()
    there = subprocess.run(
        [sys.executable, "-c", lineage],
        env=os.environ | {"WANDB_MODE": "online"} | online,
        capture_output=True,
        text=True,
    )
    assert there.stdout.rstrip() == here.rstrip()

    # W&B's public API makes a folder for each run that it is asked for.
    assert not (project / "course").exists()

    done = script("compare_runs.py", "--tag", "t1", "--group", "none", cwd=project, **online)
    assert re.match("error: .*ASR.*'none'.*'t1'.* dataset", done.stderr)
    done = script("compare_runs.py", "--project", "nowhere", cwd=project, **online)
    assert re.search("error: W&B: .*nowhere", done.stderr)
    server.run("trial-2").state = "running"
    done = script("compare_runs.py", "--last", "2", "--name", "trial*", cwd=project, **online)
    assert "2 runs at their best epoch" in done.stdout
    assert "running" in done.stdout


# --- The report -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What an HTML page holds; each element has to be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "source", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_offline_the_report_is_one_page_that_needs_nothing_else(project: Path, script: Script):
    done = script("make_report.py", cwd=project, NETRC="netrc")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("report: runs/report.html\n")
    text = (project / "runs" / "report.html").read_text()
    page = Page(text)
    assert "://" not in text.replace("http://www.w3.org", "")
    for _, attributes in page.elements:
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "3 runs. The best, trial-1, has val_wer 0.3 in epoch 3." in page.text
    for heading in ("Runs", "Training curves", "Group sweep-1", "Predictions"):
        assert heading in page.text
    # Curves of four metrics and a sweep, for light screens and for dark ones.
    assert len(page.all("img")) == len(page.all("source")) == 5
    assert all(len(picture["alt"]) > 20 for picture in page.all("img"))
    assert "trial-1 ends at 0.35" in page.all("img")[2]["alt"]
    # Two tables, sorted by a click; one has a player, and what was heard is no HTML.
    assert len(page.all("table")) == 2
    assert {"aria-sort": "none", "data-kind": "number"} in page.all("th")
    (player,) = page.all("audio")
    assert player["src"].startswith("data:audio/")
    assert "trial-1 logged: 1 recordings" in page.text
    assert "go <b>" in page.text
    assert "0.5" in page.text
    # For phones.
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_a_table_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="heard.table.json: .*wandb.Table"):
        explore.read_table(tmp_path, "heard")
    for content in ("no JSON", "[]", '{"columns": ["a"]}'):
        (tmp_path / "heard.table.json").write_text(content)
        with pytest.raises(InputError, match="heard.table.json: .*wandb.Table"):
            explore.read_table(tmp_path, "heard")


def test_the_page_says_what_it_does_not_have(project: Path):
    runs = read_runs(name="trial-0", progress=False).runs
    page = Page(report.page(RunReport("ASR", runs, table="nothing")))
    assert "None of these runs has logged a table nothing." in page.text
    assert len(page.all("img")) == 4  # there is nothing to compare a run with


@pytest.mark.slow
def test_online_the_report_is_w_and_bs_own(project: Path, server: WandbServer, script: Script):
    online = server.environment(project)
    assert script("sync.py", cwd=project, **online).returncode == 0
    done = script("make_report.py", cwd=project, **online)
    assert done.returncode == 0, done.stderr
    (made,) = server.reports.values()
    assert done.stdout.endswith(f"report: {server.url}/course/ASR/reports/Runs-of-ASR--{made.id}\n")
    assert (made.project, made.title) == ("ASR", "Runs of ASR")
    assert made.description == "3 runs. The best, trial-1, has val_wer 0.3 in epoch 3."
    headings = [block["children"][0]["text"] for block in made.spec["blocks"] if block["type"] == "heading"]
    assert headings == ["Training curves", "Runs", "Group sweep-1", "Predictions"]
    grids = [block["metadata"] for block in made.spec["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    drawn = [panel["config"]["metrics"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    assert drawn == [["train_loss_epoch"], ["val_loss"], ["val_wer"], ["learning_rate"]]
    (parallel,) = [panel["config"] for panel in panels if panel["viewType"] == "Parallel Coordinates Plot"]
    accessors = [column["accessor"] for column in parallel["columns"]]
    assert accessors == ["config:model.value.dropout", "config:model.value.optim.lr", "summary:val_wer"]
    assert '"predictions"' in json.dumps(panels[-1])
    trials = {run.id for run in server.runs.values() if run.group == "sweep-1"}
    assert grids[0]["runSets"][0]["filters"]["filters"] == []  # all runs, also those to come
    assert trials <= set(json.dumps(grids[2]["runSets"]).split('"'))

    # The same command renews it; a choice of runs is another report, and stays a choice.
    assert script("make_report.py", cwd=project, **online).returncode == 0
    assert len(server.reports) == 1
    assert script("make_report.py", "--name", "trial-1", cwd=project, **online).returncode == 0
    _, chosen = server.reports.values()
    assert chosen.title == "Runs of ASR: name trial-1"
    assert server.run("trial-1").id in json.dumps(chosen.spec["blocks"][3])
    server.fail(500, on="/graphql")
    done = script("make_report.py", cwd=project, WANDB_MODE="online", WANDB_X_GRAPHQL_RETRY_MAX="1", **online)
    assert re.match("error: W&B: .*ASR", done.stderr)
