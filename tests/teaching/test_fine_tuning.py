"""The tasks and helpers of 11_language_model and 12_fine_tuning."""

import pytest
from torch import nn

from asr_with_nemo.teaching.fine_tuning import last_epoch
from asr_with_nemo.teaching.tasks import Wrong, fine_tuning, language_model


def test_of_a_training_the_last_epoch_is_said(capsys: pytest.CaptureFixture):
    with last_epoch():
        print(
            "machine: cpu\nstarts from x.nemo; of 29 letters the decoder has 28, new: '!'\nepoch 1/2  a\nepoch 2/2  b"
        )
    assert capsys.readouterr().out == "of 29 letters the decoder has 28, new: '!'\nepoch 2/2  b\n"
    with pytest.raises(ValueError, match="broken"), last_epoch():
        print("epoch 1/2  a")
        raise ValueError("broken")
    assert capsys.readouterr().out == "epoch 1/2  a\n"


def letters(old: list[str], new: list[str]) -> list[tuple[int, int]]:
    return [(new.index(letter), old.index(letter)) for letter in new if letter in old]


@pytest.mark.parametrize(
    ("rows", "hint"),
    [
        (letters, "one more output"),
        (lambda old, new: [*letters(old, new), (len(new) - 1, len(old) - 1)], "behind the last letter|twice"),
        (lambda old, new: [(b, a) for a, b in letters(old, new)] + [(len(old), len(new))], "wrong way|missing"),
        (lambda old, new: [*letters(old, new), (len(new), len(old)), (0, 99)], "too many"),
        ([(0, 0)], "the function itself"),
        (lambda old, new: None, "a list of pairs"),
        (lambda old, new: [0, 1], "a list of pairs"),
    ],
)
def test_rows_that_are_wrong_are_told(rows, hint: str):
    with pytest.raises(Wrong, match=hint):
        fine_tuning.task_1(rows)


def evaluates(model: nn.Module) -> None:
    model.train()
    model.encoder.eval()


def without_gradients(model: nn.Module) -> None:
    model.train()
    model.encoder.requires_grad_(False)


def all_frozen(model: nn.Module) -> None:
    model.requires_grad_(False)
    model.eval()


def decoder_evaluates(model: nn.Module) -> None:
    model.eval()
    model.encoder.requires_grad_(False)


@pytest.mark.parametrize(
    ("hold", "hint"),
    [
        (evaluates, "have gradients"),
        (without_gradients, "running mean has moved"),
        (all_frozen, "decoder"),
        (decoder_evaluates, "decoder is in evaluation mode"),
    ],
)
def test_an_encoder_that_is_not_frozen_is_told(hold, hint: str):
    with pytest.raises(Wrong, match=hint):
        fine_tuning.task_2(hold)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ((2.0, 2.5), "upside down"),
        ((0.4, 2.5), "α: at 0.4"),
        ((0.5, -2.5), "wrong sign"),
        ((0.5, 1), "β: at 1"),
        (0.5, "pair"),
    ],
)
def test_wrong_weights_are_told(answer, hint: str):
    with pytest.raises(Wrong, match=hint):
        language_model.task_1(answer)


def test_a_wrong_lexicon_is_told():
    with pytest.raises(Wrong, match="'nin' is no word"):
        language_model.task_2(lambda text, letter, words: letter != "x")
    with pytest.raises(Wrong, match="no word begins with 'x'"):
        language_model.task_2(lambda text, letter, words: True)
