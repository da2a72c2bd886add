"""The W&B run of a training is complete, its models can be fetched, and nothing of that changes the weights."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from asr_with_nemo.data import manifest
from asr_with_nemo.data.an4 import Corpus
from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import load_model
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.recognition import decoding
from asr_with_nemo.recognition.wer import count_errors
from asr_with_nemo.tracking import artifacts
from asr_with_nemo.tracking.corpus_artifacts import manifests_artifact
from asr_with_nemo.tracking.kept_runs import kept_files, read_records
from asr_with_nemo.tracking.versions import list_versions
from asr_with_nemo.training import run
from asr_with_nemo.training.config import load_config, overridden_keys
from asr_with_nemo.training.run import read_log
from tests.conftest import ROOT, run_script
from tests.tracking.test_artifacts import copied, run_program
from tests.wandb_server import WandbServer, read_back

SHORT = ("trainer.max_epochs=4", "tracking.predictions_every=2", "tracking.prediction_rows=3")
NAME = "jasper_4x1"


def train(folder: Path, corpus: Corpus, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    quiet = {"NETRC": str(folder / "netrc"), "WANDB_CONFIG_DIR": str(folder / "config")}
    arguments = (f"data_dir={corpus.folder}", *SHORT, *overrides)
    return run_script("train.py", *arguments, cwd=folder, **(quiet | environment))


def model_of(folder: Path, done: subprocess.CompletedProcess[str]) -> Path:
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1].removeprefix("model: ")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> tuple[Path, Path]:
    """A project with one training that had no key: its folder, and its model."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(folder, small_corpus, "tracking.keep_checkpoints=1")
    assert f"W&B: the model is wandb:{NAME}:latest\n" in done.stdout
    return folder, model_of(folder, done)


@pytest.fixture
def in_project(trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model of that project, in which this process works now, offline."""
    folder, model = trained
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    return model


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as server:
        yield server


def sounds(corpus: Corpus) -> list[str]:
    return [utterance["audio_filepath"] for utterance in manifest.read_manifest(corpus.manifest("test"))]


def same_outputs(one: str | Path, other: str | Path, corpus: Corpus) -> bool:
    models = [load_model(path) for path in (one, other)]
    outputs = [decoding.log_probs(model, sounds(corpus), progress=False) for model in models]
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(*outputs, strict=True))


def of_kind(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def resolved_config(model: Path) -> dict:
    return OmegaConf.to_container(OmegaConf.load(model.parent / "config.yaml"), resolve=True)


def summary(model: Path) -> dict:
    return json.loads((model.parent / SUMMARY).read_text())


# --- What a run holds -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_holds_config_metrics_and_what_the_model_makes_of_dev(trained: tuple[Path, Path], small_corpus: Corpus):
    folder, model = trained
    records = read_back(folder)
    configs = [record["update"] for record in of_kind(records, "config")]
    configs += [record["config"]["update"] for record in of_kind(records, "run")]
    (config,) = [config for config in configs if set(config) - {"_wandb"}]
    assert {key: value for key, value in config.items() if key != "_wandb"} == resolved_config(model)

    rows = [row["item"] for row in of_kind(records, "history")]
    for key in ("val_wer", "val_loss", "train_loss_epoch", "learning_rate", "utterances_per_second"):
        epochs = {row["epoch"] for row in rows if key in row}
        assert epochs == {0, 1, 2, 3}, key
        assert all(row[key] >= 0 for row in rows if key in row), key
    assert of_kind(records, "stats"), "the machine's state, which W&B itself adds"

    tables = [artifact for artifact in of_kind(records, "artifact") if artifact["name"].endswith("-predictions")]
    assert len(tables) == 3  # of the epochs 1, 3 and 4
    contents = {entry["path"]: Path(entry["local_path"]) for entry in tables[-1]["manifest"]["contents"]}
    table = json.loads(contents["predictions.table.json"].read_text())
    assert table["columns"] == ["File", "Audio", "Reference", "Hypothesis", "WER"]
    assert len(table["data"]) == 3
    dev = {Path(one["audio_filepath"]).name: one for one in manifest.read_manifest(small_corpus.manifest("dev"))}
    last = load_model(model.parent / "checkpoints" / "last.ckpt")
    for file, audio, reference, hypothesis, wer in table["data"]:
        assert reference == dev[file]["text"]
        assert contents[audio["path"]].read_bytes() == Path(dev[file]["audio_filepath"]).read_bytes()
        (transcript,) = decoding.transcribe(last, [dev[file]["audio_filepath"]], progress=False)
        assert hypothesis == transcript.text
        assert wer == round(count_errors(reference, hypothesis).rate, 4)


@pytest.mark.slow
def test_checkpoints_are_versions_and_lead_back_to_the_corpus(in_project: Path, small_corpus: Corpus):
    name = in_project.parent.name
    versions = list_versions(name)
    assert [version.metadata["epoch"] for version in versions] == [1, 2, 3, 4]
    assert versions[-1].answers_to("latest")
    (best,) = [version for version in versions if version.answers_to("best")]
    assert best.metadata["epoch"] == summary(in_project)["best_epoch"]
    assert best.metadata["val_wer"] == pytest.approx(summary(in_project)["best"], abs=1e-6)
    (final,) = list_versions(NAME)
    assert final.aliases == ["best", "final", "latest"]
    assert final.metadata["training"] == best.metadata["training"] == name
    assert name.endswith(final.metadata["config"][:8])

    staged = list(Path("wandb/staging/models", name).iterdir())
    assert len(staged) == len({best.number, 3})  # the best, and the last one: keep_checkpoints=1

    records = read_back(Path.cwd())
    (used,) = [artifact for artifact in of_kind(records, "artifact") if artifact.get("use_after_commit")]
    corpus = manifests_artifact([small_corpus.manifest("train_all")])
    assert (used["name"], used["digest"]) == (corpus.name, corpus.digest)


@pytest.mark.slow
def test_a_fetched_model_hears_as_the_one_that_was_logged(in_project: Path, small_corpus: Corpus):
    name = in_project.parent.name
    assert same_outputs(f"wandb:{NAME}:best", in_project, small_corpus)
    assert same_outputs(f"wandb:{name}:best", in_project, small_corpus)
    assert same_outputs(f"wandb:{name}:latest", in_project.parent / "checkpoints/last.ckpt", small_corpus)
    file = sounds(small_corpus)[0]
    done = run_script("transcribe.py", f"wandb:{NAME}:final", file, cwd=Path.cwd(), WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    done = run_script("transcribe.py", f"wandb:{NAME}:v7", file, cwd=Path.cwd(), WANDB_MODE="offline")
    assert done.returncode == 1
    assert f"there are: {NAME} (best, final, latest, v0); {name} (best, latest, " in done.stderr


@pytest.mark.slow
def test_saved_and_restored_as_in_the_article_a_model_hears_the_same(
    small_model: Path, small_corpus: Corpus, tmp_path: Path
):
    load_model(small_model).save_to(str(tmp_path / "again.nemo"))
    assert same_outputs(small_model, tmp_path / "again.nemo", small_corpus)


@pytest.mark.slow
def test_all_of_a_training_is_on_the_other_side_after_sync(
    trained: tuple[Path, Path], server: WandbServer, tmp_path: Path
):
    folder, model = trained
    project = copied(folder, tmp_path / "project")
    done = run_script("sync.py", cwd=project, **server.environment(project))
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert run.config == resolved_config(model)
    records = read_back(project)
    assert [row["_step"] for row in run.history] == [row["step"].get("num", 0) for row in of_kind(records, "history")]
    committed = [artifact for artifact in [*run.logged, *run.used] if artifact.state == "COMMITTED"]
    arrived = {(artifact.collection, artifact.digest) for artifact in committed}
    for record in of_kind(records, "artifact"):
        if all(file.is_file() for file, _ in artifacts.staged_files(record).values()):
            assert (record["name"], record["digest"]) in arrived
    assert server.content(server.artifact(f"{NAME}:best")) == {"model.nemo": model.read_bytes()}
    last = (model.parent / "checkpoints/last.ckpt").read_bytes()
    assert server.content(server.artifact(f"{model.parent.name}:latest")) == {"model.ckpt": last}
    assert [artifact.collection for artifact in run.used] == ["synthetic-manifests"]


@pytest.mark.slow
def test_online_a_training_leaves_the_same(server: WandbServer, small_corpus: Corpus, tmp_path: Path):
    online = server.environment(tmp_path)
    done = train(tmp_path, small_corpus, "trainer.max_epochs=2", **online)
    model = model_of(tmp_path, done)
    assert "W&B: online, project ASR" in done.stdout
    (run,) = server.runs.values()
    assert (run.state, run.exit_code) == ("finished", 0)
    assert run.config == resolved_config(model)
    for key in ("val_wer", "utterances_per_second"):
        assert len([row for row in run.history if key in row]) == 2
    assert run.events, "the machine's state"
    table = server.content(server.artifact(f"run-{run.id}-predictions:latest"))
    assert len(json.loads(table["predictions.table.json"])["data"]) == 3
    name = model.parent.name
    checkpoints = [one for one in run.logged if one.collection == name]
    assert [(one.state, one.metadata["epoch"]) for one in checkpoints] == [("COMMITTED", 1), ("COMMITTED", 2)]
    assert checkpoints[-1] is server.artifact(f"{name}:latest")
    assert server.artifact(f"{NAME}:best") is server.artifact(f"{NAME}:final")
    assert [artifact.collection for artifact in run.used] == ["synthetic-manifests"]

    # By name, from another folder: from the server.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = f"from asr_with_nemo import tracking; print(tracking.fetch_model('{NAME}:best'))"
    fetched = Path(run_program(elsewhere, program, **online).stdout.strip())
    assert fetched.is_relative_to(elsewhere / "wandb")
    assert same_outputs(fetched, model, small_corpus)


# --- What it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_wandb_gets_changes_nothing_of_what_is_learnt(
    trained: tuple[Path, Path], small_corpus: Corpus, tmp_path: Path
):
    _, model = trained
    without = model_of(tmp_path, train(tmp_path, small_corpus, WANDB_MODE="disabled"))
    assert not list(tmp_path.glob("wandb/*run-*"))
    assert without.parent.name == model.parent.name, "what is tracked of a training does not make it another"
    states = [load_model(path).state_dict() for path in (model, without)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0, msg=f"{name} differs")


@pytest.mark.slow
def test_a_full_disk_where_models_are_staged_costs_no_training(small_corpus: Corpus, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/models").touch()  # no folder can be made there
    done = train(tmp_path, small_corpus, WANDB_DATA_DIR=str(tmp_path / "full"))
    assert model_of(tmp_path, done).is_file()
    lines = [line for line in done.stdout.splitlines() if "is not kept" in line]
    assert len(lines) == 2  # of four checkpoints the first, and the model
    assert lines[0].startswith("W&B: the checkpoint of epoch 1 is not kept (")
    assert len([row for row in of_kind(read_back(tmp_path), "history") if "val_wer" in row["item"]]) == 4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tracking.keep_checkpoints=0", "tracking.keep_checkpoints=0: .* 1 or more"),
        ("tracking.predictions_every=often", "tracking.predictions_every=often: .* 0 or more"),
        ("+tracking.keep=3", "tracking=.*keep_checkpoints, predictions_every, prediction_rows"),
        ("tracking=3", "tracking=3"),
        ("exp_manager.wandb_logger_kwargs.log_model=some", "log_model=some"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override: str, words: str):
    with pytest.raises(InputError, match=words):
        load_config(ROOT / "configs", "config", [override])


# --- Going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_goes_on_from_a_fetched_checkpoint(trained: tuple[Path, Path], small_corpus: Corpus, tmp_path: Path):
    folder, model = trained
    project = copied(folder, tmp_path / "project")
    name = f"wandb:{model.parent.name}:latest"
    done = train(project, small_corpus, f"exp_manager.resume_from_checkpoint={name}", "trainer.max_epochs=6")
    longer = model_of(project, done)
    assert "from the end of epoch 4" in done.stdout
    assert longer.parent.name != model.parent.name
    assert [row["epoch"] for row in read_log(longer.parent)] == [4, 5]
    assert summary(longer)["epochs"] == 6
    assert summary(longer)["steps"] == summary(model)["steps"] * 6 / 4, "the optimiser's state went along"
    *_, newest = kept_files(project / "wandb")
    logged = of_kind(read_records(newest)[0], "artifact")
    used = {artifact["name"] for artifact in logged if artifact.get("use_after_commit")}
    assert used == {"synthetic-manifests", model.parent.name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "override", "words"),
    [
        ("CKPT", "trainer.max_epochs=4", r"trainer\.max_epochs above 4"),
        ("CKPT", "model.optim.name=novograd", r"model\.optim\.name.* adamw.* novograd"),
        ("CKPT", "model.repeat=2", r"encoder\.\S+"),
        ("NEMO", "seed=0", r"\.nemo .*\.ckpt"),
        ("no.ckpt", "seed=0", r"no\.ckpt"),
        ("MANIFEST", "seed=0", r"dev_manifest\.json"),
        ("wandb:nothing:best", "seed=0", r"wandb:nothing:best|nothing:best.*jasper"),
    ],
)
def test_what_it_can_not_go_on_from_is_told_before_training(
    in_project: Path, small_corpus: Corpus, tmp_path: Path, start: str, override: str, words: str
):
    files = {"CKPT": in_project.parent / "checkpoints/last.ckpt", "NEMO": in_project}
    files["MANIFEST"] = small_corpus.manifest("dev")
    overrides = [f"data_dir={small_corpus.folder}", f"exp_manager.exp_dir={tmp_path}", override]
    overrides += [f"exp_manager.resume_from_checkpoint={files.get(start, start)}"]
    overrides += ["exp_manager.create_wandb_logger=false"]
    config = load_config(ROOT / "configs", "config", overrides)
    with pytest.raises(InputError, match=words):
        run.train(config, overridden_keys(overrides))
