"""The tasks of 12_fine_tuning."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from asr_with_nemo.teaching.tasks import Wrong, pair, whole

_ALPHABETS = (("ab ", "ab !"), (" abc", "cäb "), ("abc", "xyz"), ("ab", "ba"))
"""Pairs of an old and a new alphabet."""


def task_1(rows: Callable[[Sequence[str], Sequence[str]], Sequence[tuple[int, int]]]) -> str:
    """Check a function that pairs the rows of a new decoder with those of an old one."""
    if not callable(rows):
        raise Wrong("Give the function itself: answer = rows.")
    for old, new in _ALPHABETS:
        given = rows(list(old), list(new))
        otherwise = "It should return a list of pairs of numbers."
        try:
            found = [pair(both, otherwise, whole) for both in given]
        except TypeError:
            raise Wrong(otherwise) from None
        letters = {(new.index(letter), old.index(letter)) for letter in new if letter in old}
        blank = (len(new), len(old))
        what = f"For {old!r} → {new!r} "
        if len(found) != len(set(found)):
            raise Wrong(f"{what}a pair comes twice: {found}.")
        if set(found) == letters:
            raise Wrong(f"{what}the letters are right, but CTC has one more output than letters. Which, and where?")
        if set(found) != letters | {blank} and {both[::-1] for both in found} == letters | {blank}:
            raise Wrong("The pairs are the wrong way round: first the row in the new decoder, then the row in the old.")
        if blank not in found and any(both in found for both in ((len(new) - 1, len(old) - 1), (0, 0), (-1, -1))):
            raise Wrong(f"{what}the blank's row is {blank}: it stands behind the last letter.")
        if set(found) != letters | {blank}:
            missing, extra = sorted((letters | {blank}) - set(found)), sorted(set(found) - letters - {blank})
            raise Wrong(f"{what}missing are {missing}, too many {extra}.")
    return "Every other row of the new decoder begins at random. finetuning.adopt does this."


class _Small(nn.Module):
    """A model with an encoder that has batch norm and dropout, and a decoder with dropout."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2))
        self.decoder = nn.Sequential(nn.Dropout(0.1), nn.Conv1d(6, 3, 1))


def task_2(hold: Callable[[nn.Module], object]) -> str:
    """Check a function that freezes a model's encoder, called before each step."""
    if not callable(hold):
        raise Wrong("Give the function itself: answer = hold.")
    torch.manual_seed(0)
    model = _Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        if step:
            model.train()  # somebody between two steps
        else:
            model.eval()  # as a loader leaves it
        hold(model)
        modes = {name: part.training for name, part in model.named_modules()}
        if not any(weights.requires_grad for weights in model.decoder.parameters()):
            raise Wrong("The decoder doesn't learn: its weights have no gradient.")
        optimizer.zero_grad()
        model.decoder(model.encoder(1 + torch.randn(2, 4, 9))).square().mean().backward()
        optimizer.step()
        after = model.state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        if any("running_" in name for name in moved):
            raise Wrong(
                "Batch norm's running mean has moved. It is no parameter: only evaluation mode holds it, "
                "and somebody has called model.train() since the last step."
            )
        if any(name.startswith("encoder.") for name in moved) or any(
            weights.grad is not None and weights.grad.any() for weights in model.encoder.parameters()
        ):
            raise Wrong("The encoder's weights have gradients, so an optimizer moves them.")
        if any(modes[name] for name in modes if name.startswith("encoder")):
            raise Wrong("A module within the encoder is in training mode: its dropout is on.")
        if not all(modes[name] for name in modes if name.startswith("decoder")):
            raise Wrong("The decoder is in evaluation mode, since the model came from a loader.")
    return "This is what finetuning.Frozen does, in every step."
