"""The fast layers give the same results as NeMo's: outputs, gradients, running statistics, and `.nemo` files."""

import copy
import json
import tarfile
from pathlib import Path

import pytest
import torch
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor, ConvASRDecoder, ConvASREncoder
from omegaconf import OmegaConf
from torch import Tensor, nn

from asr_with_nemo.training import channels_last
from asr_with_nemo.training.config import complete_config, load_config
from asr_with_nemo.training.run import build_model
from tests.conftest import ROOT, run_script

BANDS = 16


def block(filters: int, kernel: int, **changes: object) -> dict:
    """Return a block of a `jasper:` section."""
    usual = {"repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.0, "residual": False, "separable": True}
    return usual | {"filters": filters, "kernel": [kernel]} | changes


NETWORKS = {
    "Jasper with squeeze-and-excite": [
        block(24, 11, stride=[2], se=True, se_context_size=-1),
        block(24, 13, residual=True, se=True, se_context_size=-1),
        block(32, 1, se=True, se_context_size=-1),
    ],
    "QuartzNet": [
        block(24, 9, stride=[2]),
        block(24, 13, residual=True, repeat=2),
        block(20, 15, residual=True, repeat=2),
        block(20, 9, dilation=[2]),
        block(20, 7, dilation=[3]),
        block(32, 1, separable=False),
    ],
    "dense residual": [
        block(24, 5),
        block(24, 7, residual=True, residual_dense=True),
        block(24, 9, residual=True, residual_dense=True),
        block(32, 1, separable=False),
    ],
    "plain convolutions": [
        block(24, 11, separable=False, stride=[2]),
        block(24, 5, separable=False, residual=True, repeat=2),
        block(32, 5, separable=False, dilation=[2]),
    ],
    "asymmetric padding": [
        block(24, 9, stride=[2], future_context=1),
        block(24, 9, residual=True, repeat=2, future_context=2),
        block(24, 5, separable=False, future_context=0),
        block(32, 5, dilation=[2], future_context=1),
    ],
    "strided residuals": [
        block(24, 9, stride=[2], residual=True, residual_mode="stride_add"),
        block(24, 5, stride=[2], residual=True, residual_mode="stride_add", repeat=2, stride_last=True),
    ],
    "what has no fast layer": [
        block(24, 9, groups=2, se=True, se_context_size=8),
        block(24, 5, heads=4, residual=True, normalization="group", norm_groups=4),
    ],
}


class Network(nn.Module):
    """An encoder and a decoder, with the same weights each time."""

    def __init__(self, blocks: list[dict], conv_mask: bool = True, **settings: object):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = ConvASREncoder(
            jasper=OmegaConf.create(blocks), activation="relu", feat_in=BANDS, conv_mask=conv_mask, **settings
        )
        self.decoder = ConvASRDecoder(blocks[-1]["filters"], num_classes=4, vocabulary=list("abcd"))
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm1d):  # as after some training
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
                nn.init.normal_(layer.running_mean)
                nn.init.uniform_(layer.running_var, 0.5, 2)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoded, lengths = self.encoder(audio_signal=features, length=lengths)
        return self.decoder(encoder_output=encoded), lengths


def pair(blocks: list[dict], **settings: object) -> tuple[Network, Network]:
    """Return the same network twice: NeMo's own, and with fast layers."""
    fast = Network(blocks, **settings)
    assert channels_last.speed_up(fast) > 0
    return Network(blocks, **settings), fast


def features(*lengths: int, frames: int = 0) -> tuple[Tensor, Tensor]:
    """Return a batch of noise with zeros in its padding, (B, D, T) and (B,)."""
    lengths = torch.tensor(lengths)
    frames = max(frames, int(lengths.max()))
    noise = torch.randn(len(lengths), BANDS, frames, generator=torch.Generator().manual_seed(1))
    return noise * (torch.arange(frames) < lengths[:, None]).unsqueeze(1), lengths


def greatest_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


BATCHES = {
    "padded": features(61, 40, 7, frames=64),
    "one utterance": features(53),
    "one padded utterance": features(33, frames=48),
    "one frame": features(1),
    "a frame beside a long utterance": features(57, 1),
    "whole": features(48, 48),
}


# --- The same results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conv_mask", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_nemos(network: str, conv_mask: bool):
    if not conv_mask and network in ("asymmetric padding", "what has no fast layer"):
        pytest.skip("NeMo has these layers with masked convolutions only")
    plain, fast = (one.eval() for one in pair(NETWORKS[network], conv_mask=conv_mask))
    for name, (signal, lengths) in BATCHES.items():
        with torch.inference_mode():
            expected, expected_lengths = plain(signal, lengths)
            output, output_lengths = fast(signal, lengths)
        assert torch.equal(output_lengths, expected_lengths), name
        assert greatest_difference(output, expected) < 1e-4, name
        assert fast.encoder(audio_signal=signal, length=lengths)[0].shape[1] == NETWORKS[network][-1]["filters"]


@pytest.mark.parametrize("activation", ["hardtanh", "swish", "selu"])
def test_other_activations_are_nemos(activation: str):
    blocks = NETWORKS["QuartzNet"]
    networks = [Network(blocks) for _ in range(2)]
    for network in networks:
        torch.manual_seed(0)
        network.encoder = ConvASREncoder(OmegaConf.create(blocks), activation, BANDS).eval()
        network.eval()
    channels_last.speed_up(networks[1])
    plain, fast = (network(*BATCHES["padded"])[0] for network in networks)
    assert greatest_difference(plain, fast) < 1e-4


@pytest.mark.parametrize("batch", ["padded", "one utterance"])
@pytest.mark.parametrize("network", NETWORKS)
def test_training_steps_are_nemos(network: str, batch: str):
    """Two steps with plain gradient descent: losses, gradients, weights and batch norm's running statistics."""
    gradients, states, inputs, losses = [], [], [], []
    for model in pair(NETWORKS[network]):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        torch.manual_seed(6)  # a squeeze over a part of an utterance draws that part
        for _ in range(2):
            signal = BATCHES[batch][0].clone().requires_grad_()
            log_probs, lengths = model(signal, BATCHES[batch][1])
            weights = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(2))
            loss = (log_probs * weights * (torch.arange(log_probs.shape[1]) < lengths[:, None]).unsqueeze(2)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
        states.append(model.state_dict())
        inputs.append(signal.grad)
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert states[0].keys() == states[1].keys()
    for of_plain, of_fast in (gradients, states):
        for name, expected in of_plain.items():
            if expected is None:
                assert of_fast[name] is None, name
            else:
                torch.testing.assert_close(of_fast[name], expected, atol=2e-5, rtol=1e-3, msg=lambda m, n=name: n + m)
    torch.testing.assert_close(inputs[1], inputs[0], atol=2e-5, rtol=1e-3)
    counted = [value for name, value in states[1].items() if name.endswith("num_batches_tracked")]
    assert all(int(value) == 2 for value in counted)


def test_in_bf16_it_errs_no_more_than_nemo():
    plain, fast = (one.eval() for one in pair(NETWORKS["Jasper with squeeze-and-excite"]))
    with torch.inference_mode():
        exact = plain(*BATCHES["padded"])[0]
        with torch.autocast("cpu", torch.bfloat16):
            errors = [(one(*BATCHES["padded"])[0].float() - exact).abs().mean().item() for one in (plain, fast)]
    assert 0 < errors[1] < 1.5 * errors[0]


def test_a_copy_is_a_network_of_its_own():
    _, fast = pair(NETWORKS["QuartzNet"])
    fast.eval()
    before = fast(*BATCHES["padded"])[0]
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert torch.equal(fast(*BATCHES["padded"])[0], before)
    assert not torch.equal(other(*BATCHES["padded"])[0], before)


# --- Dropout ----------------------------------------------------------------------------------------------------------


def dropout_layer(p: float) -> nn.Dropout:
    network = Network([block(8, 3, dropout=p)])
    channels_last.speed_up(network)
    return next(layer for layer in network.modules() if isinstance(layer, nn.Dropout)).train()


@pytest.mark.parametrize("p", [0.002, 0.1, 0.2, 0.5, 0.999])
def test_dropout_drops_the_asked_share_and_keeps_the_scale(p: float):
    ones = torch.ones(7, 301, 333).transpose(1, 2).requires_grad_()  # not a multiple of eight
    torch.manual_seed(3)
    output = dropout_layer(p)(ones)
    dropped = (output == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=0.003)
    assert dropped == pytest.approx(p, rel=0.25)
    assert output.mean().item() == pytest.approx(1, abs=0.06 if p > 0.9 else 0.005)
    assert output[output != 0].unique().numel() == 1
    by_channel = (output == 0).float().mean((0, 2))
    by_frame = (output == 0).float().mean((0, 1))
    assert by_channel.std() < 0.03
    assert by_frame.std() < 0.03
    output.sum().backward()
    assert torch.equal(ones.grad, output.detach()), "the gradient passes where the value did"


def test_dropout_is_reproducible_by_seed():
    layer, ones = dropout_layer(0.3), torch.ones(2, 40, 50)
    outputs = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        outputs += [layer(ones), layer(ones)]
    assert torch.equal(outputs[0], outputs[4])
    assert torch.equal(outputs[1], outputs[5])
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_dropout_does_nothing_in_evaluation_or_with_a_share_of_zero():
    ones = torch.ones(2, 8, 9)
    assert torch.equal(dropout_layer(0.5).eval()(ones), ones)
    assert torch.equal(dropout_layer(0.0)(ones), ones)


# --- The mel spectrogram ----------------------------------------------------------------------------------------------


def spectrograms(signal: Tensor, lengths: Tensor, train: bool = False, **changes: object) -> tuple[Tensor, Tensor]:
    """Return NeMo's mel spectrogram and the fast one, after checking that their lengths are equal."""
    usual = {"normalize": "per_feature", "window_size": 0.02, "window_stride": 0.01, "n_fft": 512, "dither": 0.0}
    mels, frames = [], []
    for fast in (False, True):
        preprocessor = AudioToMelSpectrogramPreprocessor(sample_rate=16000, **(usual | changes)).train(train)
        if fast:
            assert channels_last.speed_up(preprocessor) == 1
        torch.manual_seed(4)  # for the dither
        mel, length = preprocessor(input_signal=signal.clone(), length=lengths)
        mels.append(mel)
        frames.append(length)
    assert torch.equal(*frames)
    assert frames[0].dtype == frames[1].dtype
    assert mels[0].dtype == mels[1].dtype
    return mels[0], mels[1]


def speech_like(*lengths: int) -> tuple[Tensor, Tensor]:
    """Return noise whose level rises and falls, (B, t) and (B,)."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(len(lengths), max(lengths), generator=generator)
    level = 0.1 * torch.sin(torch.arange(max(lengths)) / 1500).square() + 1e-3
    return noise * level, torch.tensor(lengths)


SETTINGS = {
    "the course's": {},
    "another window": {"window": "hamming", "window_size": 0.025, "features": 80},
    "a transform as long as the window": {"n_fft": 320},
    "an odd transform": {"n_fft": 511},
    "the transform that NeMo chooses": {"n_fft": None},
    "no padding": {"pad_to": 0},
    "another padding": {"pad_to": 7, "pad_value": -3.0},
    "no emphasis": {"preemph": None},
    "a guard of the type's own": {"log_zero_guard_value": "eps"},
    "dither": {"dither": 1e-3},
    # Without a fast implementation:
    "not normalised": {"normalize": None},
    "normalised over all bands": {"normalize": "all_features"},
    "no logarithm": {"log": False},
    "magnitudes": {"mag_power": 1.0},
    "exact padding": {"exact_pad": True},
    "spliced frames": {"frame_splicing": 2},
    "clamped": {"log_zero_guard_type": "clamp"},
}


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_mel_spectrogram_is_nemos(name: str, train: bool):
    expected, mel = spectrograms(*speech_like(16037, 9001, 4799), train=train, **SETTINGS[name])
    assert greatest_difference(mel, expected) < 1e-3  # of values about 1 in size


@pytest.mark.parametrize("lengths", [(16000,), (15999,), (16001,), (161,), (321, 8000), (8000, 160)])
def test_the_mel_spectrogram_of_any_length_is_nemos(lengths: tuple[int, ...]):
    expected, mel = spectrograms(*speech_like(*lengths), train=True)
    assert greatest_difference(mel, expected) < 1e-3


def test_silence_is_as_silent_as_nemos():
    expected, mel = spectrograms(torch.zeros(2, 8000), torch.tensor([8000, 4321]))
    assert greatest_difference(mel, expected) < 1e-3
    signal, lengths = speech_like(16000)
    signal[:, 7000:] = 0
    expected, mel = spectrograms(signal, lengths)
    assert greatest_difference(mel, expected) < 1e-3


def test_a_recording_without_a_whole_frame_gives_zeros_as_nemos():
    expected, mel = spectrograms(*speech_like(8000, 159, 0))
    assert not expected.isnan().any()
    assert greatest_difference(mel, expected) < 1e-3


def test_the_mel_spectrogram_keeps_its_precision_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        expected, mel = spectrograms(*speech_like(16037, 9001))
    assert greatest_difference(mel, expected) < 1e-3


# --- In and out of the way --------------------------------------------------------------------------------------------


def test_on_another_device_nemos_own_code_runs():
    """On torch's `meta` device, which computes shapes alone, a fast layer that looked at a value would fail."""
    for name, blocks in NETWORKS.items():
        if any(block.get("se") for block in blocks):
            continue  # NeMo's squeeze-and-excite asks for autocast, which this device lacks
        _, fast = pair(blocks)
        signal, lengths = BATCHES["padded"]
        log_probs, _ = fast.to("meta").train()(signal.to("meta"), lengths.to("meta"))
        assert log_probs.device.type == "meta", name
        assert log_probs.shape[::2] == (3, 5), name


def test_slow_down_undoes_it():
    plain, fast = (one.eval() for one in pair(NETWORKS["Jasper with squeeze-and-excite"]))
    assert any("forward" in vars(layer) for layer in fast.modules())
    channels_last.slow_down(fast)
    assert not any("forward" in vars(layer) for layer in fast.modules())
    assert torch.equal(fast(*BATCHES["padded"])[0], plain(*BATCHES["padded"])[0])


def test_done_twice_is_as_done_once():
    _, fast = pair(NETWORKS["QuartzNet"])
    fast.eval()
    once = fast(*BATCHES["padded"])[0]
    channels_last.speed_up(fast)
    assert torch.equal(fast(*BATCHES["padded"])[0], once)


def test_a_model_that_is_not_convolutional_stays_as_it_is():
    model = nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    assert channels_last.speed_up(model) == 0
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_a_model_saved_after_it_is_an_ordinary_nemo_file(small_corpus, tmp_path: Path):
    overrides = [f"data_dir={small_corpus.folder}", "model.width=24"]
    model = build_model(complete_config(load_config(ROOT / "configs", "quartznet_an4", overrides)))
    assert channels_last.speed_up(model) > 0
    model.save_to(str(tmp_path / "fast.nemo"))
    with tarfile.open(tmp_path / "fast.nemo") as archive:
        member = next(name for name in archive.getnames() if name.endswith("model_config.yaml"))
        assert b"asr_with_nemo" not in archive.extractfile(member).read()

    restored = EncDecCTCModel.restore_from(str(tmp_path / "fast.nemo"), map_location="cpu").eval()
    convolutions = [layer for layer in restored.encoder.modules() if isinstance(layer, nn.Conv1d)]
    assert convolutions
    assert not any("forward" in vars(layer) for layer in convolutions)
    signal, lengths = speech_like(16000, 9001)
    with torch.inference_mode():
        expected, output = (
            one(input_signal=signal, input_signal_length=lengths)[0] for one in (restored, model.eval())
        )
    assert greatest_difference(output, expected) < 1e-4


# --- The benchmark ----------------------------------------------------------------------------------------------------


@pytest.mark.proof
def test_the_benchmark_measures_both_ways_in_one_run(small_corpus, tmp_path: Path):
    arguments = ["--data-dir", small_corpus.folder, "--quick", "--output", "figures.json"]
    done = run_script("benchmarks/training.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("times faster") >= 3
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["corpus"] == "synthetic"
    assert figures["long_kernels"]["greatest_difference"] < 1e-4
    for comparison, other in (("same_network", "NeMo's way"), ("published_config", "published config")):
        for way in (other, "ours"):
            row = figures[comparison][way]
            parts = ("loading", "features", "forward", "loss", "backward", "optimiser")
            assert sum(row[part]["median"] for part in parts) == pytest.approx(row["seconds"]["median"], rel=0.01)
            assert all(row[part]["median"] > 0 for part in parts)
            assert 0 < row["of_limit"]["median"] < row["network_of_limit"]["median"]
    # A product and a sum for each weight and each of 50 outputs a second, and twice that backward.
    row = figures["published_config"]["ours"]
    assert row["gflop_a_second_of_sound"] == pytest.approx(6 * row["weights"] * 50 / 1e9, rel=0.05)
