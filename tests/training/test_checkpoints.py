"""A training's checkpoints and model: damaged ones are named and made good; a hostile one runs nothing."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from omegaconf import OmegaConf

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.names import SUMMARY
from asr_with_nemo.training.callbacks import ReplacedCheckpoints
from asr_with_nemo.training.checkpoints import epoch_after, latest_checkpoint, read_state, starting_point, writing
from tests.conftest import ROOT, first_rows, run_script


def heard(folder: Path, data: Path, kill: str = "") -> subprocess.CompletedProcess[str]:
    """Train for two epochs, or until a kill (heard.py)."""
    overrides = [f"data_dir={data}", "exp_manager.exp_dir=runs", "trainer.max_epochs=2", "model.train_ds.batch_size=4"]
    overrides += ["trainer.accelerator=cpu", "exp_manager.checkpoint_callback_params.monitor=val_loss"]
    command = [sys.executable, str(ROOT / "tests/training/heard.py"), "heard", *overrides]
    own = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "HEARD_KILL": kill}
    folder.mkdir(exist_ok=True)
    return subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_costs_that_epoch_alone(small_corpus, tmp_path: Path):
    data = first_rows(small_corpus, tmp_path, train=12, dev=4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert heard(whole, data).returncode == 0
    for name in ("best", "last"):
        done = heard(killed, data, f"0:2:{name}")
        assert done.returncode == -signal.SIGKILL, done.stderr
        (half,) = killed.rglob(f".{name}*.partial")
        with pytest.raises(InputError, match="partial"):
            read_state(half)
        last = half.with_name("last.ckpt")
        assert latest_checkpoint(half.parent) == last and epoch_after(read_state(last)) == 1
    done = heard(killed, data)
    assert done.returncode == 0, done.stderr
    assert "resuming from the end of epoch 1" in done.stdout and "warning" not in done.stdout
    notes = [(folder / "heard/epoch2-rank0.json").read_text() for folder in (whole, killed)]
    assert notes[0] == notes[1]  # the utterances, the weights, the WER
    assert not list(killed.rglob("*.partial"))
    assert len(list(half.parent.glob("*.ckpt"))) == 2


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.fixture
def training(small_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model's training: `runs/NAME`, below `tmp_path`."""
    folder = tmp_path / "runs" / small_model.parent.name
    shutil.copytree(small_model.parent, folder)
    return folder


def again(training: Path, small_corpus, *overrides: str):
    data = f"data_dir={small_corpus.folder}"
    return run_script("train.py", data, "trainer.max_epochs=2", *overrides, cwd=training.parents[1])


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"garbage" * 99, None], ids=["empty", "garbage", "cut short"])
def test_an_earlier_checkpoint_takes_the_place_of_a_damaged_one(training: Path, content: bytes | None):
    last = training / "checkpoints" / "last.ckpt"
    assert latest_checkpoint(last.parent) == last
    last.write_bytes(last.read_bytes()[:10_000] if content is None else content)
    lines: list[str] = []
    best = latest_checkpoint(last.parent, lines.append)
    assert best.name.startswith("best-")
    assert str(last) in lines[0] and best.name in lines[1]
    best.write_bytes(b"")
    assert latest_checkpoint(last.parent, lines.append) is None
    assert "starts again" in lines[-1]


@pytest.mark.slow
def test_a_damaged_model_is_made_again_by_the_same_command(training: Path, small_model: Path, small_corpus):
    from asr_with_nemo.models.loading import load_model

    model = training / small_model.name
    model.write_bytes(model.read_bytes()[:100_000])
    (training / "checkpoints" / "last.ckpt").write_bytes(b"")
    done = again(training, small_corpus)
    assert done.returncode == 0, done.stderr
    assert f"{model.relative_to(training.parents[1])}: cut short" in done.stdout and "last.ckpt" in done.stdout
    before, after = (load_model(path).state_dict() for path in (small_model, model))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(training.glob(".lock*"))

    (training / SUMMARY).write_text("{", encoding="utf-8")
    done = again(training, small_corpus)
    assert done.returncode == 0, done.stderr
    assert json.loads((training / SUMMARY).read_text(encoding="utf-8"))["sha256"]
    done = again(training, small_corpus)
    assert "finished" in done.stdout and "warning" not in done.stdout


@pytest.mark.slow
def test_a_hostile_checkpoint_to_resume_from_runs_nothing(training: Path, small_corpus, tmp_path: Path):
    sprung = tmp_path / "sprung"
    hostile = tmp_path / "hostile.ckpt"
    state = read_state(training / "checkpoints" / "last.ckpt")
    for place in ("callbacks", "optimizer_states", "more"):
        torch.save(state | {place: Trap(sprung)}, hostile)
        with pytest.raises(InputError, match=r"hostile\.ckpt.*\w*open\b"):
            read_state(hostile)
    done = again(training, small_corpus, f"exp_manager.resume_from_checkpoint={hostile}")
    assert done.returncode == 1
    assert "hostile.ckpt" in done.stderr and "Traceback" not in done.stderr
    hostile.replace(training / "checkpoints" / "last.ckpt")  # in its own folder, too
    (training / SUMMARY).unlink()
    done = again(training, small_corpus)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout
    assert not sprung.exists()


@pytest.mark.parametrize("left_out", [(), ("dirpath", "best_model_score")])
def test_a_checkpoint_to_resume_from_can_have_nothing_removed(tmp_path: Path, left_out: tuple[str, ...]):
    """As Lightning's trainer does it, with the callback and the writer of a training."""
    folder = tmp_path / "mine" / "checkpoints"
    last = folder / "last.ckpt"

    def fit(epochs: int, start: Path | None = None) -> None:
        kept = {"filename": "best-{epoch}", "monitor": "x", "save_last": True, "enable_version_counter": False}
        trainer = pl.Trainer(
            max_epochs=epochs,
            callbacks=[ModelCheckpoint(folder, **kept, save_top_k=1)],
            plugins=[ReplacedCheckpoints(folder)],
            accelerator="cpu",
            limit_train_batches=1,
            limit_val_batches=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(Logging(), ckpt_path=start)

    fit(1)
    victims = []
    for name in ("theirs", "mine/last.ckpt", "mine/checkpoints/best-a.ckpt", "mine/checkpoints/x.d", "best-b.ckpt"):
        victim = tmp_path / name
        victim.mkdir(parents=True)
        (victim / "thesis.txt").write_text("x", encoding="utf-8")
        victims.append(f"local://{victim}")
    theirs = tmp_path / "theirs"
    victims += [str(theirs), f"file://{theirs}", f"{folder}/../../theirs", f"{theirs}/thesis.txt"]
    state = torch.load(last, weights_only=True)
    key = next(key for key in state["callbacks"] if key.startswith("ModelCheckpoint"))
    for victim in victims:
        kept = state["callbacks"][key] | dict.fromkeys(
            ("kth_best_model_path", "last_model_path", "best_model_path"), victim
        )
        kept |= {"best_k_models": {victim: torch.tensor(1e9)}, "kth_value": torch.tensor(1e9)}
        changed = {name: one for name, one in kept.items() if name not in left_out}
        torch.save(state | {"callbacks": {key: changed}}, tmp_path / "hostile.ckpt")
        fit(2, tmp_path / "hostile.ckpt")
    assert len(list(tmp_path.rglob("thesis.txt"))) == 5
    assert last.is_file() and len(list(folder.glob("best-epoch*.ckpt"))) >= 1


def test_a_callback_of_the_users_keeps_as_many_checkpoints_as_it_says(tmp_path: Path):
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    (elsewhere / "thesis").mkdir(parents=True)
    writer = ReplacedCheckpoints(folder)
    kept = ModelCheckpoint(elsewhere, filename="{step}", monitor="step", mode="max", save_top_k=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=3,
        callbacks=[kept],
        plugins=[writer],
        accelerator="cpu",
        limit_train_batches=1,
        limit_val_batches=1,
        default_root_dir=tmp_path,
        **quiet,
    )
    trainer.fit(Logging())
    (last,) = elsewhere.glob("*.ckpt")
    state = torch.load(last, weights_only=True)["callbacks"][kept.state_key]
    read = writer.load_checkpoint(last)["callbacks"][kept.state_key]
    assert read["best_k_models"].keys() == state["best_k_models"].keys() == {str(last)}  # when it is resumed
    ReplacedCheckpoints(folder).remove_checkpoint(last)  # which has written none of them
    writer.remove_checkpoint(elsewhere / "thesis")
    assert last.is_file() and (elsewhere / "thesis").is_dir()


class Logging(BoringModel):
    def validation_step(self, batch, number: int):
        done = super().validation_step(batch, number)
        self.log("x", done["x"])
        return done


def test_what_a_checkpoint_says_of_its_model_is_not_worked_out(training: Path, tmp_path: Path):
    state = read_state(training / "checkpoints" / "last.ckpt")
    name = "${multiply:'xxxxxxxxxx',999999999999}"
    for config in ({"optim": {"name": name}}, {"optim": "${optim}"}, {"optim": "${oc.env:HOME}"}):
        for cfg in (config, OmegaConf.create(config)):
            torch.save(state | {"hyper_parameters": {"cfg": cfg}}, tmp_path / "hostile.ckpt")
            settings = {"exp_manager": {"resume_from_checkpoint": str(tmp_path / "hostile.ckpt")}}
            settings |= {"model": {"optim": {"name": "adamw"}}, "trainer": {}}
            with pytest.raises(InputError, match=r"hostile\.ckpt: does not fit; model\.optim\.name is"):
                starting_point(OmegaConf.create(settings))


class FilledUp(io.FileIO):
    """A file on a disk with a little room, which writes what still fits, as a system does."""

    def __init__(self, path: Path, mode: str, room: int):
        super().__init__(path, mode)
        self.room = room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        written = super().write(bytes(data)[: self.room])
        self.room -= written
        return written


def test_a_full_disk_is_named_with_the_next_step(tmp_path: Path):
    with (
        pytest.raises(InputError, match="model.nemo.*No space left.*resumes"),
        writing("the model", Path("model.nemo")),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(RuntimeError, match="shapes"), writing("the model", Path("model.nemo")):
        raise RuntimeError("shapes differ")
    with (
        pytest.raises(InputError, match="resumes"),
        writing("a checkpoint", tmp_path / "last.ckpt"),
        open("/dev/full", "wb") as file,
    ):
        torch.save({"weights": torch.zeros(1_000_000)}, file)
    with (
        pytest.raises(InputError, match="resumes"),
        writing("a checkpoint", tmp_path / "last.ckpt"),
        FilledUp(tmp_path / "last.ckpt", "wb", room=3_000_000) as file,
    ):
        torch.save({"weights": torch.zeros(1_000_000)}, file)
