"""Each private name of another library still exists, and has the effect that the package relies on."""

import json
import random
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.parts.preprocessing.perturb import AudioAugmentor, GainPerturbation, WhiteNoisePerturbation
from nemo.collections.asr.parts.preprocessing.segment import AudioSegment
from nemo.collections.asr.parts.submodules.spectr_augment import SpecCutout
from nemo.collections.common.parts.preprocessing import manifest
from torch import nn

from asr_with_nemo.models import nemo_internals


def test_samples_of_a_segment_are_replaced():
    segment = AudioSegment(np.zeros(100, dtype=np.float32), 16000)
    nemo_internals.set_samples(segment, np.ones(50, dtype=np.float32))
    assert segment.num_samples == 50
    assert segment.samples.all()


def test_the_perturbations_of_an_augmentor_come_in_order():
    first, second = GainPerturbation(), WhiteNoisePerturbation()
    augmentor = AudioAugmentor(perturbations=[(1.0, first), (0.5, second)])
    assert nemo_internals.perturbations(augmentor) == [first, second]


def test_cutout_draws_from_the_given_generator():
    cutout, ones = SpecCutout(rect_masks=3, rect_time=9, rect_freq=9), torch.ones(1, 40, 50)
    masked = []
    for _ in range(2):
        nemo_internals.set_random(cutout, random.Random(0))
        masked.append(cutout(input_spec=ones.clone()))
    assert not masked[0].all()
    assert torch.equal(*masked)


def test_a_name_that_is_gone_is_an_error():
    with pytest.raises(AttributeError, match="SimpleNamespace.*_rng"):
        nemo_internals.set_random(SimpleNamespace(), random.Random(0))


def test_nemo_knows_that_a_model_is_being_restored():
    with pytest.raises(KeyError), nemo_internals.restoring(EncDecCTCModel):
        assert EncDecCTCModel._is_model_being_restored()
        raise KeyError
    assert not EncDecCTCModel._is_model_being_restored()


class Line(pl.LightningModule):
    """A model of one weight, with a fused optimizer."""

    def __init__(self, let_clip: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.let_clip = let_clip

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.weight - batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.parameters(), fused=True)
        if self.let_clip:
            nemo_internals.let_clip(optimizer)
        return optimizer

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.ones(2))


def test_lightning_clips_the_gradients_of_a_fused_optimizer(tmp_path):
    def fit(let_clip: bool) -> float:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        quiet["enable_checkpointing"] = False
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=2,
            precision="bf16-mixed",
            gradient_clip_val=1.0,
            default_root_dir=tmp_path,
            **quiet,
        )
        model = Line(let_clip)
        trainer.fit(model)
        return model.weight.item()

    with pytest.raises(RuntimeError, match="clip"):
        fit(let_clip=False)
    assert fit(let_clip=True) > 0


def test_processes_wait_as_long_as_they_are_let(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        nemo_internals.let_wait(timedelta(minutes=7))
        gloo = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
        assert gloo.options._timeout == timedelta(minutes=7)
    finally:
        torch.distributed.destroy_process_group()


def test_tensors_are_interpolated_in_place():
    tensors = [torch.tensor([0.0, 4.0]), torch.tensor([1.0])]
    nemo_internals.interpolate(tensors, [torch.tensor([1.0, 0.0]), torch.tensor([3.0])], 0.25)
    assert [tensor.tolist() for tensor in tensors] == [[0.25, 3.0], [1.5]]


def test_batch_norm_of_any_dimension_is_known():
    assert all(nemo_internals.is_batch_norm(layer(4)) for layer in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm))
    assert not nemo_internals.is_batch_norm(nn.LayerNorm(4))


def test_yaml_is_read_with_numbers_and_without_objects():
    import yaml

    loader = nemo_internals.yaml_loader()
    assert yaml.load("dither: 1e-5", Loader=loader) == {"dither": 1e-5}
    with pytest.raises(yaml.YAMLError, match="python/object"):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=loader)


def test_a_loop_adds_up_its_rows():
    def step(state: list[torch.Tensor], row: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        return [state[0] + row], state[0] * 2

    found = nemo_internals.scan(step, [torch.zeros(2)], torch.arange(6.0).view(3, 2))
    assert found.tolist() == [[0, 0], [0, 2], [4, 8]]


ROWS = [
    {"audio_filepath": "wav/a.wav", "duration": 1, "text": "yes"},
    {"audio_filepath": "a.wav", "duration": 1.5, "text": "", "offset": 0.5, "speaker": "ann", "lang": "en", "score": 1},
    {"audio_filepath": "/other/b.wav", "duration": 1, "text": "yes", "orig_sample_rate": 8000, "orig_sr": 1},
    {"audio_filepath": "wav/../a.wav", "duration": 1, "normalized_text": "yes"},
    {"audio_filename": "wav/a.wav", "duration": 1, "text": "yes", "token_labels": [1, 2]},
    {"audio_filepath": "wav/a.wav", "duration": 1, "text": "yes", "rttm_filepath": "wav/a.wav", "task": "asr"},
    {"audio_filepath": ["wav/a.wav", "a.wav"], "duration": 1, "text": "yes"},
    {"audio_filepath": "s3://bucket/a.wav", "duration": 1, "text": "yes"},
    {"audio_filepath": "a.wav", "video_filepath": "a.wav", "duration": 1, "text": "yes", "video_file": "b"},
    {"audio_filepath": "wav/./a.wav", "duration": 1, "text": "yes", "audio_file": "b", "context": "c", "answer": "d"},
]


@pytest.mark.parametrize("name", ["train_manifest.json", "tarred_audio_manifest.json"])
def test_rows_are_read_quickly_as_nemo_reads_them(tmp_path: Path, name: str):
    for file in ("wav/a.wav", "a.wav"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    path = tmp_path / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    nemos = list(manifest.item_iter(str(path)))
    with nemo_internals.rows_read_quickly():
        quick = list(manifest.item_iter(str(path)))
        path.write_text('{"audio_filepath": "a.wav", "text": "no duration"}\n')
        with pytest.raises(ValueError, match="duration"):
            list(manifest.item_iter(str(path)))
    assert quick == nemos
    assert vars(manifest)["__parse_item"].__module__ == manifest.__name__  # it is NeMo's again
