"""Intervals against a slow reference, and in the direction that theory says."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import numpy as np
import pytest

from medvl_jobs.errors import DataError
from medvl_jobs.report.stats import Sample, Spread, spreads

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def _same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran before."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(5))


def mean_interval(values: np.ndarray, groups: list[str], *, resamples: int, seed: int) -> Spread:
    """Of one score."""
    return spreads([Sample(groups, {"values": values})], resamples=resamples, seed=seed)[0]["values"]


def paired_bootstrap(base: np.ndarray, tuned: np.ndarray, groups: list[str], *, resamples: int, seed: int) -> Spread:
    """Of the difference of two; each has to be whole by itself."""
    spreads([Sample(groups, {"base": base, "tuned": tuned})], resamples=1, seed=seed)
    return spreads([Sample(groups, {"difference": tuned - base})], resamples=resamples, seed=seed)[0]["difference"]


def clustered(group_count: int, size: int, within: float, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Values with a mean of 0: one effect per group plus noise ``within`` it."""
    effects = np.repeat(rng.normal(size=group_count), size)
    names = [f"patient-{i}" for i in range(group_count) for _ in range(size)]
    return effects + within * rng.normal(size=group_count * size), names


def naive(base: np.ndarray, tuned: np.ndarray, groups: list[str], resamples: int, seed: int) -> np.ndarray:
    """The definition, draw by draw: collect the examples of the drawn groups, take both means."""
    members = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    names, rng, found = sorted(members), np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = [i for g in rng.integers(len(names), size=len(names)) for i in members[names[g]]]
        found.append(tuned[chosen].mean() - base[chosen].mean())
    return np.array(found)


def test_it_is_the_slow_definition() -> None:
    groups = [f"g{i}" for i in RNG.integers(12, size=90)]
    base, tuned = RNG.normal(50, 10, size=90), RNG.normal(53, 10, size=90)
    slow = naive(base, tuned, groups, resamples=500, seed=3)
    fast = paired_bootstrap(base, tuned, groups, resamples=500, seed=3)
    assert (fast.low, fast.high) == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])), abs=1e-9)
    assert fast.share_above == np.mean(slow > 0)
    assert fast.mean == pytest.approx(tuned.mean() - base.mean())
    assert (fast.groups, fast.examples) == (len(set(groups)), 90)
    assert (fast.groups, fast.examples) == (len(set(groups)), 90)


def test_a_mean_is_a_comparison_with_nothing() -> None:
    values, groups = clustered(20, 5, within=1, rng=RNG)
    one = mean_interval(values, groups, resamples=400, seed=1)
    two = paired_bootstrap(np.zeros(100), values, groups, resamples=400, seed=1)
    assert (one.mean, one.low, one.high) == (two.mean, two.low, two.high)
    assert (one.groups, one.examples) == (20, 100)


def test_a_seed_fixes_it_and_chunks_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = clustered(30, 4, within=1, rng=RNG)
    first = mean_interval(values, groups, resamples=1000, seed=9)
    assert mean_interval(values, groups, resamples=1000, seed=9) == first
    assert mean_interval(values, groups, resamples=1000, seed=10) != first
    monkeypatch.setattr("medvl_jobs.report.stats._CELLS", 100)
    again = mean_interval(values, groups, resamples=1000, seed=9)
    assert asdict(again) == pytest.approx(asdict(first))


def test_swapping_the_two_mirrors_the_result() -> None:
    groups = [f"g{i // 3}" for i in range(60)]
    base, tuned = RNG.normal(size=60), RNG.normal(size=60)
    there = paired_bootstrap(base, tuned, groups, resamples=999, seed=2)
    back = paired_bootstrap(tuned, base, groups, resamples=999, seed=2)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.share_above == pytest.approx(1 - there.share_above)


def test_equal_models_are_a_tie() -> None:
    same = RNG.normal(size=30)
    result = paired_bootstrap(same, same, [str(i) for i in range(30)], resamples=200, seed=0)
    assert (result.mean, result.low, result.high, result.share_above) == (0, 0, 0, 0.5)


def test_a_better_model_is_seen_and_pairing_is_what_sees_it() -> None:
    """Examples differ far more than models do; on the same draws that cancels."""
    hard, groups = clustered(40, 5, within=1, rng=RNG)
    result = paired_bootstrap(10 * hard, 10 * hard + 1 + 0.1 * RNG.normal(size=200), groups, resamples=500, seed=0)
    assert result.share_above == 1.0
    assert 0.9 < result.low < result.high < 1.1


def test_dependent_examples_widen_the_interval() -> None:
    values, groups = clustered(25, 40, within=0.1, rng=RNG)
    by_group = mean_interval(values, groups, resamples=2000, seed=0)
    by_example = mean_interval(values, [str(i) for i in range(1000)], resamples=2000, seed=0)
    assert by_group.high - by_group.low > 4 * (by_example.high - by_example.low)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(11)
    hits = 0
    for seed in range(300):
        found = mean_interval(*clustered(40, 3, within=0.5, rng=rng), resamples=300, seed=seed)
        hits += found.low <= 0 <= found.high
    assert 0.89 < hits / 300 < 0.985


def test_one_group_is_a_number_and_flagged() -> None:
    result = paired_bootstrap(np.array([1.0, 2.0]), np.array([2.0, 4.0]), ["p", "p"], resamples=100, seed=0)
    assert result == Spread(1.5, 1.5, 1.5, 1.0, groups=1, examples=2)


@pytest.mark.parametrize(
    ("base", "tuned", "groups", "words"),
    [
        ([1.0, 2.0], [1.0], ["a", "b"], r"tuned has shape \(1,\)"),
        ([1.0, 2.0], [1.0, 2.0], ["a"], "groups of 1 examples"),
        ([], [], [], "groups of 0 examples"),
        ([[1.0]], [1.0], ["a"], r"base has shape \(1, 1\)"),
        ([1.0, 2.0], [1.0, np.nan], ["a", "b"], r"tuned\[1\] is nan"),
        ([np.inf, 2.0], [1.0, 2.0], ["a", "b"], r"base\[0\] is inf"),
    ],
)
def test_what_cannot_be_compared_is_refused(base: list, tuned: list, groups: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        paired_bootstrap(np.array(base), np.array(tuned), groups, resamples=10, seed=0)
