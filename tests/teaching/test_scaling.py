"""What 15_scaling shows: the ring adds up, padding is counted, small batches and a plan on paper."""

import numpy as np
import pytest
import torch

from asr_with_nemo.teaching import scaling
from asr_with_nemo.teaching.tasks import Wrong
from asr_with_nemo.teaching.tasks import scaling as tasks


@pytest.mark.parametrize(("processes", "length"), [(2, 2), (3, 7), (4, 12), (8, 5)])
def test_the_ring_adds_up_whatever_the_sizes(processes: int, length: int):
    values = list(np.random.default_rng(0).normal(size=(processes, length)))
    sums, steps = scaling.ring_all_reduce(values)
    for one in sums:
        np.testing.assert_allclose(one, np.sum(values, axis=0))
    assert len(steps) == 2 * processes - 1
    assert (steps[0] == 1).all() and (steps[-1] == processes).all()
    halfway = steps[processes - 1]
    assert ((halfway == processes).sum(axis=1) == 1).all(), "after one round, each process has one part complete"
    assert len(scaling.ring(steps).axes) == len(steps)


def test_padding_is_what_is_computed_for_nothing():
    assert scaling.padding([[2.0, 2.0], [1.0]]) == 0
    assert scaling.padding([[1.0, 2.0, 3.0]]) == pytest.approx(1 / 3)


def test_the_loss_of_a_batch_is_the_mean_of_its_utterances_whatever_their_padding():
    random = torch.Generator().manual_seed(0)
    batch = [(torch.randn(8, frames, generator=random), torch.tensor([1, 2, 1])) for frames in (40, 64)]
    network = scaling.new_decoder(8, 4)
    together = scaling.ctc_loss(network, batch)
    alone = [scaling.ctc_loss(network, [one]) for one in batch]
    assert float(together) == pytest.approx(float(sum(alone)) / 2)


def test_a_decoder_learns_and_its_points_count_steps_and_utterances():
    random = torch.Generator().manual_seed(0)
    train = [(torch.randn(8, 40, generator=random), torch.tensor([1 + number % 3])) for number in range(8)]
    points = scaling.learn(train, train, symbols=4, batch=4, rate=0.01, passes=5)
    assert [(steps, heard) for steps, heard, _ in points] == [(2 * n, 8 * n) for n in range(6)]
    assert points[-1][2] < points[0][2]
    assert points == scaling.learn(train, train, symbols=4, batch=4, rate=0.01, passes=5), "the seed decides"


def test_a_plan_moves_as_arithmetic_says():
    plan = scaling.Plan(hours=10_000, gpus=8, passes=40, speed=5_000, efficiency=1.0, price=2.0)
    assert plan.days == pytest.approx(10_000 * 3600 * 40 / (5_000 * 8) / 86_400)
    assert plan.cost == pytest.approx(plan.days * 24 * 8 * 2)
    assert plan.times("hours", 2).cost == pytest.approx(2 * plan.cost)
    assert plan.times("speed", 2).cost == pytest.approx(plan.cost / 2)
    assert plan.times("gpus", 2).cost == pytest.approx(plan.cost)
    assert plan.table()["utterances"] == "9.0 million"


def test_the_checks_know_the_usual_mistakes():
    with pytest.raises(Wrong, match="How many bytes"):
        tasks.task_1(4.5)
    with pytest.raises(Wrong, match="collecting alone"):
        tasks.task_1(1.2)
    with pytest.raises(Wrong, match="only one part"):
        tasks.task_1(36.0)
    with pytest.raises(Wrong, match="number of gigabytes"):
        tasks.task_1("2.25")
    assert "never reaches" in tasks.task_1(np.float32(2.25))
    with pytest.raises(Wrong, match="list of lists"):
        tasks.task_2(lambda durations, processes: None)
    with pytest.raises(Wrong, match="exactly one"):
        tasks.task_2(lambda durations, processes: [[0]] * processes)
    with pytest.raises(Wrong, match="at most one more"):
        tasks.task_2(lambda durations, processes: [list(range(len(durations))), *[[] for _ in range(processes - 1)]])

    def sorted_blocks(durations: list[float], processes: int) -> list[list[int]]:
        order = sorted(range(len(durations)), key=lambda place: durations[place])
        return [list(part) for part in np.array_split(order, processes)]

    def in_turn(durations: list[float], processes: int) -> list[list[int]]:
        order = sorted(range(len(durations)), key=lambda place: durations[place])
        return [order[first::processes] for first in range(processes)]

    for too_uneven in (sorted_blocks, in_turn):
        with pytest.raises(Wrong, match="Sorting helps"):
            tasks.task_2(too_uneven)
