"""What is kept of a training is what the network gave, and watching changes nothing."""

import json
from pathlib import Path

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from asr_with_nemo.teaching import learning
from tests.conftest import ROOT
from tests.teaching.test_piece_watch_it_learn import watched


def test_the_probabilities_survive_the_packing():
    one = watched("G L", "g l")
    packed = json.loads(json.dumps(learning.packed(one)))
    assert packed["rows"] == ["␣", "g", "l", learning.BLANK]
    for moment, kept in zip(one.moments, packed["moments"], strict=True):
        columns = [0, 7, 12, 28]
        exact = np.clip(np.exp(moment.log_probs[:, columns].T), 1e-3, 1)
        assert learning.levels(kept) == pytest.approx(exact, rel=0.13)
        assert len(kept["path"]) == 40
        assert "\\" not in "".join(kept["levels"])


def test_a_network_that_has_decided_nothing_has_rows_too():
    one = watched("G L", "g l")
    for moment in one.moments:
        moment.log_probs = np.full_like(moment.log_probs, -np.log(29))
    packed = learning.packed(one)
    assert len(packed["rows"]) >= 3
    plt.close(learning.strip(packed))


def test_the_loss_is_that_of_all_paths():
    log_probs = np.log(np.array([[0.7, 0.1, 0.2], [0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], dtype=np.float32))
    assert np.exp(-learning.ctc_loss(log_probs, "ab", "ab")) == pytest.approx(0.507, abs=1e-4)  # as 05_ctc counts it


def result(*errors: int) -> dict:
    """A results file of speakers with 100 words each."""
    speakers = {f"speaker {number}": {"errors": count, "words": 100} for number, count in enumerate(errors)}
    words = 100 * len(errors)
    return {"name": "a", "wer": sum(errors) / words, "errors": sum(errors), "words": words, "by_speaker": speakers}


def test_a_verdict_compares_speaker_by_speaker():
    easy_to_hard = result(10, 20, 40, 60, 80)
    assert learning.verdict(easy_to_hard, result(13, 24, 44, 66, 83)).endswith(": more than chance explains")
    assert "-4.0 points" in learning.verdict(easy_to_hard, result(13, 24, 44, 66, 83))
    assert learning.verdict(easy_to_hard, result(50, 10, 45, 50, 75)).endswith("don't decide it")
    with pytest.raises(ValueError, match="different speakers"):
        learning.verdict(easy_to_hard, result(1))


def test_the_strip_has_a_map_for_each_moment():
    figure = learning.strip(learning.packed(watched("G L", "g l")), columns=2)
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in maps] == [
        "before the training\n(nothing)",
        "epoch 1\n(nothing)",
        "epoch 2\ng l",
    ]
    plt.close(figure)


@pytest.mark.slow
def test_watching_changes_nothing(small_corpus, tmp_path: Path):
    from asr_with_nemo.models.saved import read_saved
    from asr_with_nemo.training import load_config, train

    weights = []
    for name in ("plain", "watched"):
        overrides = [f"data_dir={small_corpus.folder}", "trainer.max_epochs=2", "exp_manager.create_wandb_logger=false"]
        config = load_config(ROOT / "configs", "config", [*overrides, f"exp_manager.exp_dir={tmp_path / name}"])
        seen = learning.recordings(small_corpus)
        more: list[pl.Callback] = [learning.Watch(seen, steps=(2, 3))] if name == "watched" else []
        model = train(config, {"exp_manager.create_wandb_logger"}, more)
        weights.append(read_saved(model.parent / "checkpoints" / "last.ckpt")["state_dict"])
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    moments = seen[0].moments
    assert [moment.step for moment in moments][:3] == [0, 2, 3]
    assert [moment.epoch for moment in moments if moment.dev_wer is not None] == [1, 2]
    assert moments[0].loss > moments[-1].loss


def test_the_committed_training_reads_as_it_was_written():
    content = learning.read(ROOT / "results" / "learning.json")
    assert content["command"].startswith("python scripts/tools/watch_learning.py")
    for recording in content["recordings"]:
        for moment in recording["moments"]:
            assert {len(row) for row in moment["levels"]} == {len(moment["path"])}
            assert len(moment["levels"]) == len(recording["rows"])


def test_what_06_training_says_of_the_committed_training_is_so():
    spelled, held_out = learning.read(ROOT / "results" / "learning.json")["recordings"]
    epochs = [moment for moment in spelled["moments"] if moment["wer"] is not None]
    seen = [dict(zip(spelled["rows"], learning.levels(moment), strict=True)) for moment in epochs]
    first = learning.levels(spelled["moments"][0])
    assert first.max() < 0.05  # nothing is preferred
    assert (seen[0][learning.BLANK] > 0.5).mean() > 0.85
    assert not epochs[0]["text"].strip() and epochs[0]["text"]  # spaces alone
    assert "t" in epochs[3]["text"] and "g" not in epochs[3]["text"]
    assert epochs[-1]["text"] == spelled["text"]
    middle, last = seen[7], seen[-1]
    assert middle["m"].max() > 0.2
    assert max((last[letter] > 0.5).sum() for letter in "glen") <= 3
    losses = [[moment["loss"] for moment in one["moments"]] for one in (spelled, held_out)]
    assert losses[0][-1] < 0.1
    lowest = losses[1].index(min(losses[1]))
    assert lowest < len(losses[1]) / 2  # the stranger's loss stops early,
    assert max(losses[1][lowest:]) > 1.2 * min(losses[1])  # and rises again
