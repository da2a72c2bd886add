"""The checks of 09_inference and 10_augmentation recognise typical mistakes."""

import pytest

from asr_with_nemo.recognition.results import read_utterances
from asr_with_nemo.teaching.tasks import Wrong, augmentation, inference
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_the_course(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (300, "two-sided"),
        (367, "isn't below"),
        (400, "fewer words"),
        (368.5, "a whole one"),
        (True, "a whole one"),
        (0, "isn't"),
    ],
)
def test_words_without_an_error(answer: object, hint: str):
    assert "independent" in inference.task_1(368)
    with pytest.raises(Wrong, match=hint):
        inference.task_1(answer)


def test_the_difference_by_speakers():
    study = {(row["name"], row["seed"]): heard for row, heard in read_utterances("ablation")}
    sides = study["no SpecAugment", 0], study["the recipe", 0]
    low, high = inference._paired(*sides, by_speaker=True)
    assert "outside" in inference.task_2((low, high))
    utterances = inference._paired(*sides, by_speaker=False)
    for answer, hint in (
        ((low / 100, high / 100), "fractions"),
        ((-high, -low), "sign"),
        ((high, low), "first"),
        (utterances, "drawn utterances"),
        ((-25, 20), "Too wide"),
        ((1, 2), "Sum errors"),
        (3, "two numbers"),
    ):
        with pytest.raises(Wrong, match=hint):
            inference.task_2(answer)


def test_runs_that_differ_from_another_seed():
    right = {"no SpecAugment", "no dropout", "384 channels", "no loss in the middle"}
    right |= {"shorter time masks", "with squeeze-and-excite"}
    assert "seed" in augmentation.task_1(right)
    with_seed_0 = {"no SpecAugment", "384 channels", "no loss in the middle", "with Cutout"}
    for answer, hint in (
        (with_seed_0, "of seed 0"),
        (right - {"384 channels"}, "1 run"),
        ({"no such"}, "no run"),
        ("no dropout", "set of names"),
    ):
        with pytest.raises(Wrong, match=hint):
            augmentation.task_1(answer)


@pytest.mark.parametrize(
    ("answer", "hint"), [(4, "full width"), (8, "one frame more"), (10, "are hidden"), (9.5, "number of frames")]
)
def test_masks_for_short_commands(answer: object, hint: str):
    assert "9.7%" in augmentation.task_2(9)
    with pytest.raises(Wrong, match=hint):
        augmentation.task_2(answer)


@pytest.mark.slow
def test_the_share_that_masks_hide_is_that_of_nemo():
    import torch
    from nemo.collections.asr.modules import SpectrogramAugmentation

    torch.manual_seed(0)
    masks = SpectrogramAugmentation(freq_masks=0, time_masks=2, time_width=9)
    hidden = masks(input_spec=torch.ones(4_000, 4, 80), length=torch.full((4_000,), 80)) == 0
    assert float(hidden.float().mean()) == pytest.approx(augmentation._hidden(9), abs=0.004)
