"""Which examples a step sees, and how they are dealt."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl_jobs.errors import DataError
from medvl_jobs.settings.train import TrainSettings
from medvl_jobs.train.batches import Lengths, Schedule, cost


def lengths(*tokens: int) -> Lengths:
    array = np.array(tokens)
    return Lengths(array, array // 2, array // 4)


def random_lengths(count: int, longest: int = 200) -> Lengths:
    return lengths(*np.random.default_rng(count).integers(16, longest + 1, count))


def train(**values: object) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 2, "batch_size": 4, "max_tokens": 200, "batch_tokens": 400} | values)


@given(
    count=st.integers(8, 70),
    processes=st.integers(1, 5),
    batch=st.integers(1, 9),
    budget=st.sampled_from([None, 200, 400, 3000]),
    packing=st.booleans(),
)
def test_every_epoch_sees_every_example_once_in_passes_that_all_processes_share(
    count: int, processes: int, batch: int, budget: int | None, packing: bool
) -> None:
    data = random_lengths(count)
    wanted = train(batch_size=batch, batch_tokens=budget, packing=packing and budget is not None)
    schedule = Schedule(data, wanted, processes)
    seen: Counter[int] = Counter()
    for step in schedule:
        assert len({len(share) for share in step.micro_batches}) == 1
        for share in step.micro_batches:
            for micro_batch in share:
                assert micro_batch
                size = cost([int(data.tokens[each]) for each in micro_batch], packing=wanted.packing)
                assert size <= budget if budget else len(micro_batch) <= batch
                seen.update(micro_batch)
    assert max(seen.values()) <= 2
    assert seen.total() == 2 * (count - count % processes)  # some sit out where processes cannot have equally many
    assert schedule[len(schedule) - 1].epoch == pytest.approx(2)


def composition(schedule: Schedule) -> list[list[int]]:
    return [sorted(e for share in step.micro_batches for each in share for e in each) for step in schedule]


def test_a_step_sees_the_same_examples_however_they_are_dealt() -> None:
    """So neither the budget nor packing nor the number of processes is part of the adapter's key."""
    data = random_lengths(52)
    one = composition(Schedule(data, train(batch_size=8), 1))
    assert one == composition(Schedule(data, train(batch_size=8, batch_tokens=None), 1))
    assert one == composition(Schedule(data, train(batch_size=8, packing=True), 1))
    assert one == composition(Schedule(data, train(batch_size=2), 4))
    assert one == composition(Schedule(data, train(batch_size=1, gradient_accumulation=4), 2))


def test_the_seed_decides_the_order_and_epochs_differ() -> None:
    data = random_lengths(40)
    steps = composition(Schedule(data, train(), 1))
    assert steps == composition(Schedule(data, train(), 1))
    assert steps != composition(Schedule(data, train(seed=43), 1))
    assert steps[: len(steps) // 2] != steps[len(steps) // 2 :]


def test_steps_are_counted_as_the_tutorial_counts_them() -> None:
    """12,931 examples, 32 on each of 4 GPUs, accumulated over 8: 13 steps an epoch, 39 in all (LLaMA-Factory)."""
    data = random_lengths(12_931)
    tutorial = train(epochs=3, batch_size=32, gradient_accumulation=8, batch_tokens=None)
    schedule = Schedule(data, tutorial, 4)
    assert len(schedule) == 39
    assert schedule[12].totals.examples == 12_928 - 12 * 1024
    assert len(Schedule(data, train(epochs=0.5, batch_size=1), 1)) == 6466


def test_those_who_sit_out_are_others_in_every_epoch() -> None:
    schedule = Schedule(random_lengths(11), train(batch_size=2, epochs=8), 4)
    assert [step.totals.examples for step in schedule] == [8] * 8
    seen = {e for step in schedule for share in step.micro_batches for each in share for e in each}
    assert seen == set(range(11))


def test_like_lengths_share_a_pass_and_padding_falls() -> None:
    data = random_lengths(64)
    drawn = Schedule(data, train(batch_size=16, batch_tokens=None), 1).totals(8).padding_share
    grouped = Schedule(data, train(batch_size=16), 1).totals(8).padding_share
    packed = Schedule(data, train(batch_size=16, packing=True), 1).totals(8).padding_share
    assert packed == 0
    assert grouped < drawn / 2


def test_totals_add_up() -> None:
    data = random_lengths(30)
    schedule = Schedule(data, train(), 2)
    totals = schedule.totals(len(schedule))
    assert totals.examples == 60
    assert totals.tokens == 2 * data.tokens.sum()
    assert totals.labels == 2 * data.labels.sum()
    assert totals.image_tokens == 2 * data.images.sum()
    assert schedule.totals(0).tokens == 0


def test_a_process_can_begin_in_the_middle() -> None:
    schedule = Schedule(random_lengths(30), train(), 2)
    whole = list(schedule.of_process(1))
    skipped = sum(len(schedule[number].micro_batches[1]) for number in range(3))
    assert list(schedule.of_process(1, first_step=3)) == whole[skipped:]


def test_fewer_examples_than_processes_are_refused() -> None:
    with pytest.raises(DataError, match="3 examples are too few for 4 processes"):
        Schedule(lengths(20, 30, 40), train(), 4)
