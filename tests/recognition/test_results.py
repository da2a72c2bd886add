"""What runs measured lies in a file each, and the tables are made of those."""

import importlib.util
import json
from pathlib import Path

import pytest
import typer
from omegaconf import OmegaConf

from asr_with_nemo.cli import BARE_LANGUAGE_MODEL, _with_values
from asr_with_nemo.data import an4
from asr_with_nemo.errors import DownloadFailed, InputError
from asr_with_nemo.models.names import ASSETS, BUILT_IN, model_path
from asr_with_nemo.recognition import wer
from asr_with_nemo.recognition.results import (
    gains,
    learning_curves,
    paired_differences,
    read_epochs,
    read_results,
    read_utterances,
    study_differences,
    study_markdown,
    study_table,
)
from tests.conftest import ROOT, run_script

STUDY = """
tried:
  title: What was tried
  split: test
  decoders: {{greedy: [], beam: [--lm={arpa}]}}
  runs:
    - {{name: One epoch, overrides: [trainer.max_epochs=1], seeds: [0]}}
    - name: Two epochs, made before
      command: [evaluate.py, {model}, {manifest}]
  others:
    - {{name: Somebody else, wer: 7.4%, errors: 57 of 773, url: https://example.org/results}}
"""


@pytest.mark.slow
def test_a_study_is_run_once_and_ends_in_a_table(
    small_corpus: an4.Corpus, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arpa, study = tmp_path / "words.arpa", tmp_path / "configs" / "study.yaml"
    run_script("build_lm.py", small_corpus.manifest("train"), arpa, "--order", "2", cwd=tmp_path)
    study.parent.mkdir()
    study.write_text(STUDY.format(arpa=arpa, model=small_model, manifest=small_corpus.manifest("test")))
    arguments = ["tried", "--file", study, "--data-dir", small_corpus.folder, "--results", tmp_path / "results"]
    done = run_script("tools/run_study.py", *arguments, cwd=tmp_path, WANDB_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr

    files = {path.name for path in (tmp_path / "results" / "tried").iterdir()}
    names = ("one-epoch-seed0-greedy", "one-epoch-seed0-beam", "two-epochs-made-before")
    of_epochs = {"one-epoch-seed0.epochs.csv"}
    assert files == {f"{name}.{suffix}" for name in names for suffix in ("json", "tsv")} | of_epochs
    again = run_script("tools/run_study.py", *arguments, cwd=tmp_path)
    assert (again.returncode, again.stdout.count("skipped")) == (0, 2)

    monkeypatch.chdir(tmp_path)
    rows = read_results("tried")
    assert list(read_epochs("tried")["epoch"]) == [1]
    assert [(row["name"], row["seed"], row["decoder"].split(",")[0]) for row in rows] == [
        ("One epoch", 0, "greedy"),
        ("One epoch", 0, "beam"),
        ("Two epochs, made before", None, "greedy"),
    ]
    text = study_markdown("tried")
    for row in rows:
        assert f"| {row['errors']} of {row['words']} |" in text
        assert row["command"] in text
    assert "python scripts/train.py trainer.max_epochs=1 seed=0" in text
    assert "| Somebody else |" in text
    assert "https://example.org/results" in text
    assert list(study_table("tried").index) == [
        ("One epoch", "0"),
        ("One epoch", "0"),
        ("Two epochs, made before", ""),
        ("Somebody else", ""),
    ]
    assert study_table("tried").loc[("Somebody else", ""), "WER"] == "7.4%"

    for row, heard in read_utterances("tried"):
        assert wer.total_errors(heard).errors == row["errors"]
    (_, of_beam), (_, of_other) = study_differences("tried")
    assert [of_beam.this.errors, of_other.this.errors] == [row["errors"] for row in rows[1:]]
    assert of_beam.other == of_other.other == wer.total_errors(read_utterances("tried")[0][1])

    for path in (tmp_path / "results" / "tried").glob("one-epoch-*.json"):
        path.unlink()
    assert len(read_results("tried")) == 1
    with pytest.raises(InputError, match=r"'One epoch'.*run_study\.py tried"):
        study_differences("tried")


STARTS = """
starts:
  title: Two starts
  overrides: [trainer.max_epochs=1]
  before: [[build_lm.py, {train}, {arpa}]]
  runs:
    - {{name: the start, overrides: [], seeds: [0]}}  # the training of the study above, if that was run
    - {{name: "from scratch, 50%", overrides: [fraction=0.5], seeds: [1]}}
    - {{name: "from the start, 50%", from: the start, overrides: [fraction=0.5], seeds: [1]}}
"""


@pytest.mark.slow
def test_a_run_may_start_from_anothers_model(small_corpus: an4.Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study, folder = tmp_path / "configs" / "study.yaml", tmp_path / "results"
    study.parent.mkdir()
    arpa = tmp_path / "before.arpa"
    study.write_text(STARTS.format(train=small_corpus.manifest("train"), arpa=arpa))
    arguments = ["starts", "--file", study, "--data-dir", small_corpus.folder, "--results", folder]
    done = run_script("tools/run_study.py", *arguments, cwd=tmp_path, WANDB_MODE="disabled")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("starts from runs/jasper_4x1-") == 1
    assert arpa.is_file()

    monkeypatch.chdir(tmp_path)
    start, scratch, tuned = read_results("starts")
    assert (start["training"]["fraction"], scratch["training"]["fraction"]) == (1, 0.5)
    assert (scratch["training"]["start"], Path(tuned["training"]["start"]).name) == (None, "jasper_4x1.nemo")
    assert "finetune.py runs/jasper_4x1-" in tuned["command"]
    curves = learning_curves("starts")
    assert list(zip(curves["start"], curves["fraction"], strict=True)) == [
        ("from scratch", 0.5),
        ("from the start", 0.5),
    ]
    assert list(curves["wer"]) == pytest.approx([scratch["wer"], tuned["wer"]], abs=1e-6)
    assert all(curves["low"] <= curves["wer"]) and all(curves["wer"] <= curves["high"])
    (gain,) = gains("starts").itertuples()
    assert gain.difference == pytest.approx(tuned["wer"] - scratch["wer"], abs=1e-6)
    assert gain.low <= gain.difference <= gain.high


def test_the_tables_are_what_the_files_say(tmp_path: Path):
    pages = [ROOT / "RESULTS.md", ROOT / "README.md", ASSETS / "README.md"]
    before = [page.read_text() for page in pages]
    done = run_script("tools/make_results.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for page, text in zip(pages, before, strict=True):
        assert page.read_text() == text, f"{page.name} is stale: run scripts/tools/make_results.py"


def test_a_result_of_this_code_can_be_made_again():
    for path in (ROOT / "results").glob("*/*.json"):
        row = json.loads(path.read_text())
        if path.parent.name == "gpu":  # what scripts/tools/check_gpu.py found, which is no evaluation
            assert row["command"].startswith("python scripts/tools/check_gpu.py ") and len(row["commit"]) == 12, path
            continue
        assert row["errors"] == row["substitutions"] + row["deletions"] + row["insertions"], path
        assert row["wer"] == pytest.approx(row["errors"] / row["words"], abs=1e-6), path
        assert row["ci95"][0] <= row["wer"] <= row["ci95"][1], path
        assert row["command"].startswith("python scripts/"), path


def test_runs_are_compared_over_the_seeds_that_both_have(tmp_path: Path):
    table = paired_differences("ablation", ROOT / "results").set_index("run")
    without = table.loc["no SpecAugment"]
    assert (without.seeds, len(without["each"])) == (1, 1)
    assert without.difference == pytest.approx(without["each"][0])
    assert without.low < without.difference < without.high < 0
    surer = paired_differences("ablation", ROOT / "results", confidence=0.999).set_index("run").loc["no SpecAugment"]
    assert surer.low < without.low and surer.high > without.high
    assert "the recipe" not in table.index
    assert paired_differences("ablation", tmp_path).empty


def test_a_study_without_results_says_how_to_make_them(tmp_path: Path):
    with pytest.raises(InputError, match=r"run_study\.py patience"):
        read_results("patience", tmp_path)


STUDIES = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "study.yaml"))
COMMANDS = [(study, run["command"]) for study, plan in STUDIES.items() for run in plan["runs"] if "command" in run]


@pytest.mark.parametrize(("study", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[1])
def test_the_commands_of_the_studies_are_ones_that_their_scripts_take(study: str, words: list[str]):
    script, *arguments = words
    path = ROOT / "scripts" / script
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(path.stem, path))
    module.__spec__.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    given = _with_values([*arguments, "--output", "results.json"], BARE_LANGUAGE_MODEL)
    context = typer.main.get_command(app).make_context(script, given)
    assert context.params["manifest"].name == f"{STUDIES[study]['split']}_manifest.json"
    assert context.params["output"].name == "results.json"


@pytest.mark.slow
def test_the_pretrained_models_of_the_study_are_ones_that_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for variable in ("NGC_MODELS_URL", "HF_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("ASR_MODELS", str(tmp_path))
    named = [run["command"][1] for run in STUDIES["pretrained"]["runs"]]
    assert len(named) == len(set(named)) == 4
    for name in named:
        if name not in BUILT_IN:
            with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1"):  # not: no such model
                model_path(name, progress=False)
