"""The losses of transducers, RNN-T and token-and-duration (TDT), in plain PyTorch, for machines without CUDA.

NeMo computes TDT's only with CUDA kernels, and takes seconds a batch for RNN-T's on a CPU. A TDT reads frame t having
written u labels; it chooses a label or the blank, and a duration d: it then reads frame t + d. The blank goes on by a
frame at least. The loss is minus the log of the summed probability of all paths that write the labels and leave the
recording at its end. With a(t, u) the summed probability of the paths to (t, u):

    a(t, u) = Σ_d>0 a(t-d, u) · blank(t-d, u) · duration(t-d, u, d)
            + Σ_d a(t-d, u-1) · label(t-d, u-1) · duration(t-d, u-1, d)

Source: Xu et al., Efficient Sequence Transduction by Jointly Predicting Tokens and Durations, ICML 2023
(arXiv:2304.06795), equations 6 and 7. Here a step computes a frame for all utterances, labels and durations at once;
what one frame adds to itself (labels of duration 0) is a first-order recurrence over u, solved by a cumulative sum.
An RNN-T is a TDT whose labels have duration 0, and whose blanks have duration 1.
"""

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from asr_with_nemo.errors import InputError
from asr_with_nemo.models import nemo_internals

if TYPE_CHECKING:
    from nemo.collections.asr.losses.rnnt import RNNTLoss

_NEVER = -1e30  # log of a probability of zero, small enough for any sum, whose gradients stay finite


class TDTLoss(nn.Module):
    """The loss of each utterance of a batch, with the call of NeMo's own losses.

    Args:
        blank: the blank's output; the labels are those before it, the durations those after it.
        durations: in frames, of the last outputs; 0 is allowed, but not alone. None for an RNN-T, which has no such
            outputs.
        sigma: subtracted from the log-probabilities of labels and blank, so that long durations are preferred.
        omega: how often the loss is that of an ordinary transducer, which ignores durations; from 0 to 1.
        fastemit_lambda: how much more the gradients of labels count than those of the blank (FastEmit).
        clamp: the largest absolute gradient of an output; 0 or less for any.
        on_gpu: NeMo's loss of the same settings, which is called for tensors on a GPU.

    Raises:
        InputError: no duration is above 0, or one is negative.
    """

    def __init__(
        self,
        blank: int,
        durations: Sequence[int] | None,
        sigma: float = 0.0,
        omega: float = 0.0,
        fastemit_lambda: float = 0.0,
        clamp: float = -1.0,
        on_gpu: nn.Module | None = None,
    ):
        super().__init__()
        if durations is not None and (not durations or min(durations) < 0 or max(durations) == 0):
            raise InputError(f"durations {list(durations)}: expected frames, 0 or more, and not only 0")
        self.blank = blank
        self.durations = None if durations is None else tuple(map(int, durations))
        self.sigma = sigma
        self.omega = omega
        self.fastemit_lambda = fastemit_lambda
        self.clamp = clamp
        self.on_gpu = on_gpu
        self.reduction = None  # NeMo sets and restores it; it reduces the losses itself

    def forward(
        self, acts: torch.Tensor, labels: torch.Tensor, act_lens: torch.Tensor, label_lens: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of each utterance, (B,), in nats.

        An utterance that no path can write (durations without 0, and more labels than frames) has the loss 0.

        Args:
            acts: outputs of the joint network, (B, T, U + 1, V + 1 + D), before or after a softmax over all; of an
                RNN-T, D is 0.
            labels: (B, U), padded with anything.
            act_lens: frames of each utterance, (B,).
            label_lens: labels of each utterance, (B,).
        """
        if acts.is_cuda and self.on_gpu is not None:
            self.on_gpu.reduction = self.reduction
            return self.on_gpu(acts=acts, labels=labels, act_lens=act_lens, label_lens=label_lens)
        if self.clamp > 0 and acts.requires_grad:
            acts = acts * 1.0  # the hook is for this loss's share of the gradient alone
            acts.register_hook(lambda gradient: gradient.clamp(-self.clamp, self.clamp))
        split = self.blank + 1
        choices = acts[..., :split].log_softmax(-1)  # (B, T, U + 1, V + 1)
        columns = labels.long().clamp(0, self.blank)[:, None, :, None].expand(-1, acts.shape[1], -1, 1)
        # The sums over a lattice are in double precision: its tensors have no vocabulary, so they are small.
        blank = choices[..., self.blank].double()  # (B, T, U + 1)
        label = choices[:, :, :-1].gather(3, columns).squeeze(3).double()  # (B, T, U)
        if self.fastemit_lambda:
            label = label + self.fastemit_lambda * (label - label.detach())  # changes the gradient alone
        durations = self.durations
        if durations is None or (self.omega and random.random() < self.omega):
            durations = (0, 1)
            blank, label = (
                nn.functional.pad(blank[..., None], (1, 0), value=_NEVER),
                nn.functional.pad(label[..., None], (0, 1), value=_NEVER),
            )
        else:
            ahead = acts[..., split:].log_softmax(-1).double()  # (B, T, U + 1, D)
            blank = (blank - self.sigma)[..., None] + ahead
            label = (label - self.sigma)[..., None] + ahead[:, :, :-1]
        found = _log_likelihood(blank, label, durations, act_lens.long(), label_lens.long())
        return torch.where(found > _NEVER / 2, -found, torch.zeros_like(found)).to(acts.dtype)


def _log_likelihood(
    blank: torch.Tensor,
    label: torch.Tensor,
    durations: Sequence[int],
    act_lens: torch.Tensor,
    label_lens: torch.Tensor,
) -> torch.Tensor:
    """Sum the probabilities of all paths; return the logarithm for each utterance, (B,).

    Args:
        blank: log-probability of the blank with each duration, (B, T, U + 1, D).
        label: log-probability of the next label with each duration, (B, T, U, D).
        durations: the D durations.
        act_lens, label_lens: (B,).
    """
    batch, frames, states, _ = blank.shape
    still = [place for place, duration in enumerate(durations) if duration == 0]
    moving = [(place, duration) for place, duration in enumerate(durations) if duration > 0]
    never = blank.new_full((batch, states), _NEVER)
    start = never.clone()
    start[:, 0] = 0.0
    stays = label[..., still].logsumexp(-1).cumsum(-1) if still else None  # (B, T, U)
    alphas: list[torch.Tensor] = []
    leaving: list[torch.Tensor] = []  # of each frame, what arrives at (t + d, u), for each d: (B, U + 1, D)
    for frame in range(frames):
        arriving = [leaving[frame - duration][..., place] for place, duration in moving if frame >= duration]
        alpha = torch.stack(arriving).logsumexp(0) if arriving else never if frame else start
        if stays is not None:
            # a(u) = base(u) + a(u - 1) · c(u), all in logs: divided by the product of all c, it is a sum.
            products = nn.functional.pad(stays[:, frame], (1, 0))  # (B, U + 1)
            alpha = (alpha - products).logcumsumexp(-1) + products
        alphas.append(alpha)
        by_label = nn.functional.pad(alpha[:, :-1, None] + label[:, frame], (0, 0, 1, 0), value=_NEVER)
        leaving.append(torch.logaddexp(alpha[..., None] + blank[:, frame], by_label))
    # The last step is a blank that leaves the recording: at act_lens, from (act_lens - d, label_lens).
    table = torch.stack(alphas, 1)[..., None] + blank  # (B, T, U + 1, D)
    rows = torch.arange(batch, device=blank.device)
    ends = []
    for place, duration in moving:
        last = act_lens - duration
        value = table[rows, last.clamp(0, frames - 1), label_lens, place]
        ends.append(torch.where(last >= 0, value, never[:, 0]))
    return torch.stack(ends).logsumexp(0)


def use(loss: "RNNTLoss", durations: Sequence[int] | None, settings: Mapping) -> None:
    """Let a transducer's loss be computed here on a CPU; on a GPU it stays NeMo's.

    Args:
        loss: `model.loss`, which a fused joint network calls too.
        durations: in frames, of a TDT; None for an RNN-T.
        settings: further ones of the loss in the config (`tdt_kwargs`): sigma, omega, fastemit_lambda, clamp.
    """
    inner = nemo_internals.transducer_loss(loss)
    known = {key: settings[key] for key in ("sigma", "omega", "fastemit_lambda", "clamp") if settings.get(key)}
    nemo_internals.set_transducer_loss(loss, TDTLoss(inner.blank, durations, on_gpu=inner, **known))
