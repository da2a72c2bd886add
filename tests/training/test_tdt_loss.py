"""TDT's loss on the CPU is the sum over all paths, and trains a model."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asr_with_nemo.errors import InputError
from asr_with_nemo.training.tdt_loss import TDTLoss, use

BLANK = 3  # after the labels 0, 1 and 2


def outputs(durations: list[int], frames: int = 4, labels: int = 2, batch: int = 1) -> torch.Tensor:
    shape = (batch, frames, labels + 1, BLANK + 1 + len(durations))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def by_all_paths(acts: torch.Tensor, labels: list[int], durations: list[int], sigma: float = 0.0) -> float:
    """Minus the log of the summed probability, one path after the other; acts (T, U + 1, V + 1 + D)."""
    frames = len(acts)
    choices = (acts[..., : BLANK + 1].log_softmax(-1) - sigma).exp()
    ahead = acts[..., BLANK + 1 :].softmax(-1)

    def rest(frame: int, written: int) -> float:
        """The summed probability of all ways from here to the end."""
        if frame == frames:
            return float(written == len(labels))
        if frame > frames:
            return 0.0
        total = 0.0
        for place, duration in enumerate(durations):
            goes = float(ahead[frame, written, place])
            if duration:
                total += float(choices[frame, written, BLANK]) * goes * rest(frame + duration, written)
            # A label may not leave the recording: only a blank does.
            if written < len(labels) and frame + duration < frames:
                chance = float(choices[frame, written, labels[written]])
                total += chance * goes * rest(frame + duration, written + 1)
        return total

    return -math.log(rest(0, 0))


@pytest.mark.parametrize("durations", [[0, 1, 2], [0, 1, 2, 3, 4], [1, 2], [2, 0, 1], [1], [0, 3, 1], [0, 2, 3]])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_the_loss_is_that_of_all_paths(durations: list[int], sigma: float):
    acts = outputs(durations, frames=5)
    loss = TDTLoss(BLANK, durations, sigma=sigma)
    found = loss(acts, torch.tensor([[2, 0]]), torch.tensor([5]), torch.tensor([2]))
    assert found.item() == pytest.approx(by_all_paths(acts[0], [2, 0], durations, sigma), rel=1e-9)


def test_padding_changes_nothing():
    durations = [0, 1, 2]
    acts = outputs(durations, frames=6, labels=3, batch=3)
    labels = torch.tensor([[1, 2, 0], [0, 99, -1], [77, 77, 77]])
    lengths, written = torch.tensor([6, 4, 5]), torch.tensor([3, 1, 0])
    found = TDTLoss(BLANK, durations)(acts, labels, lengths, written)
    for row in range(3):
        here = acts[row, : lengths[row], : written[row] + 1]
        expected = by_all_paths(here, labels[row, : written[row]].tolist(), durations)
        assert found[row].item() == pytest.approx(expected, rel=1e-9)


def test_a_softmax_before_changes_nothing():
    acts = outputs([0, 1, 2])
    loss = TDTLoss(BLANK, [0, 1, 2])
    rest = torch.tensor([[2, 0]]), torch.tensor([4]), torch.tensor([2])
    assert loss(acts.log_softmax(-1), *rest).item() == pytest.approx(loss(acts, *rest).item())


def test_with_omega_it_is_the_loss_of_an_ordinary_transducer():
    from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch

    acts = outputs([0, 1, 2], frames=6, labels=3, batch=2).float()
    rest = {
        "labels": torch.tensor([[1, 2, 0], [0, 1, 1]]),
        "act_lens": torch.tensor([6, 5]),
        "label_lens": torch.tensor([3, 2]),
    }
    ordinary = RNNTLossPytorch(blank=BLANK, reduction="none")(acts=acts[..., : BLANK + 1], **rest)
    torch.testing.assert_close(TDTLoss(BLANK, [0, 1, 2], omega=1.0)(acts, **rest), ordinary)


@pytest.mark.parametrize("fastemit", [0.0, 0.01])
def test_the_loss_of_an_ordinary_transducer_and_its_gradient_are_nemos(fastemit: float):
    from nemo.collections.asr.losses.rnnt import RNNTLoss

    acts = outputs([], frames=6, labels=3, batch=2).float()
    rest = {
        "targets": torch.tensor([[1, 2, 0], [0, 1, 1]]),
        "input_lengths": torch.tensor([6, 5]),
        "target_lengths": torch.tensor([3, 2]),
    }
    found = []
    for ours in (False, True):
        settings = {"fastemit_lambda": fastemit}
        loss = RNNTLoss(BLANK, loss_name="warprnnt_numba", loss_kwargs=dict(settings), reduction="mean_batch")
        if ours:
            use(loss, None, settings)
        given = acts.clone().requires_grad_()
        value = loss(log_probs=given.log_softmax(-1), **rest)
        found.append((value, torch.autograd.grad(value, given)[0]))
    if not fastemit:  # NeMo's value counts the labels more too, ours its gradient alone
        torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


def test_durations_that_are_certain_make_it_an_ordinary_transducer_too():
    """Labels of duration 0 and blanks of duration 1: what a TDT chooses whose durations follow from the label."""
    from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch

    from asr_with_nemo.training.tdt_loss import _NEVER, _log_likelihood

    acts = outputs([0, 1], frames=6, labels=2)
    choices = acts[..., : BLANK + 1].log_softmax(-1)
    never = torch.full_like(choices[..., 0], _NEVER)
    blank = torch.stack([never, choices[..., BLANK]], -1)
    label = torch.stack([torch.stack([choices[:, :, 0, 2], choices[:, :, 1, 0]], -1), never[:, :, :2]], -1)
    found = _log_likelihood(blank, label, [0, 1], torch.tensor([6]), torch.tensor([2]))
    ordinary = RNNTLossPytorch(blank=BLANK, reduction="none")(
        acts=acts[..., : BLANK + 1].float(),
        labels=torch.tensor([[2, 0]]),
        act_lens=torch.tensor([6]),
        label_lens=torch.tensor([2]),
    )
    assert -found.item() == pytest.approx(ordinary.item(), rel=1e-5)


@pytest.mark.parametrize("durations", [[0, 1, 2], [1, 3]])
def test_the_gradient_is_the_slope(durations: list[int]):
    acts = outputs(durations, frames=4, labels=2, batch=2).requires_grad_()
    loss = TDTLoss(BLANK, durations, sigma=0.02)
    rest = torch.tensor([[2, 0], [1, 1]]), torch.tensor([4, 3]), torch.tensor([2, 1])
    assert torch.autograd.gradcheck(lambda a: loss(a, *rest), (acts,))


def test_the_gradient_can_be_clamped_and_labels_can_count_more():
    acts = outputs([0, 1, 2]).requires_grad_()
    rest = torch.tensor([[2, 0]]), torch.tensor([4]), torch.tensor([2])

    def gradient(**settings: float) -> torch.Tensor:
        return torch.autograd.grad(TDTLoss(BLANK, [0, 1, 2], **settings)(acts, *rest).sum(), acts)[0]

    plain = gradient()
    torch.testing.assert_close(gradient(clamp=0.05), plain.clamp(-0.05, 0.05))
    faster = gradient(fastemit_lambda=0.5)
    assert faster[0, 0, 0, 2] < plain[0, 0, 0, 2] < 0  # the first label is raised more
    assert TDTLoss(BLANK, [0, 1, 2], fastemit_lambda=0.5)(acts, *rest) == TDTLoss(BLANK, [0, 1, 2])(acts, *rest)


def test_long_utterances_stay_finite():
    durations = [0, 1, 2, 3, 4]
    acts = (outputs(durations, frames=150, labels=100).float() * 10).requires_grad_()
    labels = torch.randint(0, BLANK, (1, 100), generator=torch.Generator().manual_seed(0))
    loss = TDTLoss(BLANK, durations)(acts, labels, torch.tensor([150]), torch.tensor([100]))
    loss.sum().backward()
    assert loss.isfinite().all() and acts.grad.isfinite().all() and acts.grad.abs().sum() > 0


def test_a_text_that_no_path_can_write_counts_nothing():
    acts = outputs([1, 2], frames=2, labels=4).requires_grad_()
    loss = TDTLoss(BLANK, [1, 2])(acts, torch.tensor([[0, 1, 2, 0]]), torch.tensor([2]), torch.tensor([4]))
    loss.sum().backward()
    assert loss.item() == 0 and acts.grad.abs().sum() == 0


@pytest.mark.parametrize("durations", [[], [0], [-1, 1]])
def test_durations_that_lead_nowhere(durations: list[int]):
    with pytest.raises(InputError, match="durations"):
        TDTLoss(BLANK, durations)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["tdt of pieces", "tdt and ctc of pieces"])
def test_it_trains_a_model(family: str, pieces_of_words: Path):
    from asr_with_nemo.training import tdt_loss
    from tests import recognizers

    model = recognizers.build(family, pieces_of_words)
    kwargs = dict(model.cfg.loss.tdt_kwargs)
    tdt_loss.use(model.loss, kwargs.pop("durations"), kwargs | {"omega": 0.0})
    model.preprocessor.featurizer.dither = 0.0
    model.setup_optimization({"name": "adam", "lr": 0.02, "sched": None})
    # A step reads its number and what to log of a Trainer; here it has none of its own.
    model._trainer = SimpleNamespace(global_step=0, log_every_n_steps=100, sanity_checking=False)
    model.log = model.log_dict = lambda *_, **__: None
    optimizer, generator = torch.optim.Adam(model.parameters(), 0.02), torch.Generator().manual_seed(0)
    signals = torch.randn(2, 16_000, generator=generator)
    labels = torch.randint(3, 60, (2, 6), generator=generator)
    batch = signals, torch.tensor([16_000, 12_000]), labels, torch.tensor([6, 4])
    losses = []
    for step in range(4):
        optimizer.zero_grad()
        loss = model.training_step(batch, step)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
