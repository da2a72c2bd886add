"""The drawings of the network say what the config says."""

import matplotlib.pyplot as plt
import pytest
from omegaconf import OmegaConf

from asr_with_nemo.teaching import network
from asr_with_nemo.teaching.tasks import Wrong, training
from tests.conftest import ROOT


@pytest.fixture
def config():
    return OmegaConf.load(ROOT / "configs" / "config.yaml")


def texts(figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    plt.close(figure)
    return found


def test_each_box_names_its_entry_and_its_shape(config):
    config.model.encoder.jasper[2].dilation = [2]
    said = texts(network.drawing(config))
    assert "B2: 1 × separable convolution, kernel 15, 256 filters, dilation 2" in said
    assert "1 × separable convolution, kernel 11, 128 filters, stride 2" in said
    assert {"preprocessor", "encoder.jasper[6]", "decoder", "4 blocks", "prologue", "epilogue"} <= set(said)
    assert "(1024, T/2)" in said
    assert "(T/2, 29)" in said


def test_a_block_is_drawn_with_its_own_layers(config):
    block = config.model.encoder.jasper[1]
    assert "1×1 convolution 128 → 256, batch norm" in texts(network.inside(block, 128))
    block.separable, block.residual, block.se = False, False, False
    said = texts(network.inside(block, 128))
    assert "convolution\nkernel 13\n128 → 256" in said
    assert "+" not in said


def test_the_checks_know_the_answers_and_the_usual_mistakes(config, monkeypatch: pytest.MonkeyPatch):
    from nemo.collections.asr.parts.submodules.jasper import JasperBlock

    monkeypatch.chdir(ROOT)
    prologue, first = config.model.encoder.jasper[:2]
    block = JasperBlock(
        prologue.filters,
        first.filters,
        kernel_size=[first.kernel[0]],
        stride=[1],
        dilation=[1],
        repeat=1,
        residual=True,
        se=True,
        se_reduction_ratio=8,
    )
    right = sum(weights.numel() for weights in block.parameters())
    assert "times as many" in training.task_1(right)
    for wrong in (128 * 256 * 13, right - 33_280, right - 16_384, right + 256, right + 1, "many", True):
        with pytest.raises(Wrong):
            training.task_1(wrong)
    with pytest.raises(Wrong, match="residual"):
        training.task_1(right - 33_280)
    assert training.task_2(3).startswith("4.12 s")
    for wrong in (0, 1, 2, 4):
        with pytest.raises(Wrong):
            training.task_2(wrong)
