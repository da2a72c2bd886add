"""What goes wrong in silence: a loss that is no number, texts that can't be learned, a model of NaNs."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_with_nemo.data import manifest
from asr_with_nemo.errors import Diverged, InputError
from tests.conftest import ROOT, first_rows


@pytest.fixture(scope="module")
def data(small_corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return first_rows(small_corpus, tmp_path_factory.mktemp("data"), train=16, dev=2)


def train(data: Path, runs: Path, *overrides: str) -> Path:
    from asr_with_nemo.training import load_config
    from asr_with_nemo.training import train as begin

    own = [f"data_dir={data}", f"exp_manager.exp_dir={runs}", "exp_manager.create_wandb_logger=false", *overrides]
    return begin(load_config(ROOT / "configs", "config", own), {"exp_manager.create_wandb_logger"})


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training_and_names_the_batch(data: Path, tmp_path: Path):
    rows = manifest.read_manifest(data / "train_manifest.json")
    sound, rate = soundfile.read(rows[0]["audio_filepath"])
    sound[100] = np.nan
    bad = tmp_path / "bad.wav"
    soundfile.write(bad, sound, rate, subtype="FLOAT")
    manifest.write_manifest(tmp_path / "train_manifest.json", [rows[0] | {"audio_filepath": str(bad)}, *rows[1:]])
    manifest.write_manifest(tmp_path / "dev_manifest.json", manifest.read_manifest(data / "dev_manifest.json"))
    with pytest.raises(Diverged, match=r"epoch 1, step \d: the loss is nan") as raised:
        train(tmp_path, tmp_path / "runs", "trainer.max_epochs=2")
    assert f"{rows[0]['text']!r} (" in str(raised.value)
    assert "model.optim.lr=" in str(raised.value)
    assert not list(tmp_path.rglob("*.nemo"))
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.mark.slow
def test_texts_that_nothing_can_learn_are_counted(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = manifest.read_manifest(data / "train_manifest.json")
    long = np.concatenate([soundfile.read(row["audio_filepath"])[0] for row in rows] * 4)
    soundfile.write(tmp_path / "long.wav", long[: 16_000 * 61], 16_000)
    soundfile.write(tmp_path / "short.wav", long[:3_200], 16_000)
    soundfile.write(tmp_path / "muted.wav", np.zeros(16_000), 16_000)
    rows = [
        *rows[:3],
        rows[3] | {"audio_filepath": str(tmp_path / "muted.wav"), "duration": 1.0},
        {"audio_filepath": str(tmp_path / "long.wav"), "duration": 61.0, "text": "yes", "speaker": rows[0]["speaker"]},
        {
            "audio_filepath": str(tmp_path / "short.wav"),
            "duration": 0.2,
            "text": "a" * 9,
            "speaker": rows[0]["speaker"],
        },
    ]
    manifest.write_manifest(tmp_path / "train_manifest.json", rows)
    manifest.write_manifest(tmp_path / "dev_manifest.json", manifest.read_manifest(data / "dev_manifest.json"))
    model = train(
        tmp_path,
        tmp_path / "runs",
        "trainer.max_epochs=1",
        "+model.train_ds.max_duration=null",
        "model.train_ds.batch_size=2",
    )
    said = capsys.readouterr().out
    assert "1 of 6 utterances can't be learned" in said
    assert "short.wav (0.20 s, 9 symbols)" in said
    assert "the longest utterance has 61 s" in said
    assert f"1 of 6 recordings are digital silence, all zeros: {tmp_path / 'muted.wav'};" in said

    import torch

    from asr_with_nemo.models.loading import load_model
    from asr_with_nemo.models.saved import read_saved

    checkpoint = read_saved(next(model.parent.rglob("last.ckpt")))
    name = next(name for name in checkpoint["state_dict"] if name.endswith("weight"))
    checkpoint["state_dict"][name][:] = float("nan")
    torch.save(checkpoint, tmp_path / "diverged.ckpt")
    with pytest.raises(InputError, match=r"diverged.ckpt: its weights aren't numbers"):
        load_model(tmp_path / "diverged.ckpt")
