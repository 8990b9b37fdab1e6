"""How sure a comparison is: the cluster bootstrap over groups.

The slices of one volume are not independent: a model that is right about one is likely right about the next. So whole
groups (patients, volumes) are drawn, not examples; drawing examples would make the intervals too narrow.

Sources: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, ch. 13 (percentile intervals); Davison & Hinkley
1997, *Bootstrap Methods and their Application*, § 3.8 (groups); Koehn 2004, "Statistical significance tests for machine
translation evaluation" (both systems on the same draws).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvl_jobs.errors import DataError

Floats = NDArray[np.float64]

LEVELS = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""
_CELLS = 2_000_000
"""Weights held at a time: 16 MB."""


@dataclass(frozen=True)
class Interval:
    """A mean over examples with its 95 % interval."""

    mean: float
    low: float
    high: float
    groups: int
    """Trap: with 1 group every draw is the same, so ``low == mean == high`` says nothing about certainty."""
    examples: int


@dataclass(frozen=True)
class Comparison:
    """Tuned against base on the same examples."""

    mean_base: float
    mean_tuned: float
    difference: float
    """``mean_tuned - mean_base``, with its 95 % interval from ``low`` to ``high``."""
    low: float
    high: float
    probability_tuned_better: float
    """Share of resamples in which the difference is above 0; an exact tie counts half."""
    groups: int
    """Trap: with 1 group every draw is the same, so ``low == difference == high`` says nothing about certainty."""
    examples: int


def paired_bootstrap(
    base: np.ndarray, tuned: np.ndarray, groups: Sequence[str], *, resamples: int, seed: int
) -> Comparison:
    """Compare two scores per example, paired by their place; ``groups`` names the group of each example.

    Each resample draws as many groups as there are, with replacement, and takes all their examples. Its statistic is
    Σ (tuned - base) / Σ 1 over the drawn examples, so that a large group weighs as much as it does in the mean.
    """
    base, tuned = _checked("base", base, groups), _checked("tuned", tuned, groups)
    differences = _resampled_means(tuned - base, groups, resamples, seed)
    low, high = np.percentile(differences, LEVELS)
    return Comparison(
        mean_base=float(base.mean()),
        mean_tuned=float(tuned.mean()),
        difference=float((tuned - base).mean()),
        low=float(low),
        high=float(high),
        probability_tuned_better=float(np.mean(differences > 0) + np.mean(differences == 0) / 2),
        groups=len(set(groups)),
        examples=len(groups),
    )


def mean_interval(values: np.ndarray, groups: Sequence[str], *, resamples: int, seed: int) -> Interval:
    """The mean of one score with its 95 % interval, by the same draws as `paired_bootstrap`."""
    values = _checked("values", values, groups)
    low, high = np.percentile(_resampled_means(values, groups, resamples, seed), LEVELS)
    return Interval(float(values.mean()), float(low), float(high), len(set(groups)), len(groups))


def _resampled_means(values: Floats, groups: Sequence[str], resamples: int, seed: int) -> Floats:
    """The mean over the examples of each resample: (weights @ sums) / (weights @ counts), one column per group."""
    _, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    counts = np.bincount(member).astype(float)
    sums_and_counts_G2 = np.stack([np.bincount(member, weights=values), counts], axis=1)
    totals_R2 = np.concatenate([w_RG @ sums_and_counts_G2 for w_RG in _weights(len(counts), resamples, seed)])
    return np.asarray(totals_R2[:, 0] / totals_R2[:, 1])


def _weights(groups: int, resamples: int, seed: int) -> Iterator[Floats]:
    """How often each resample draws each group, in chunks of resamples.

    Rows are multinomial (n = groups, p = 1 / groups). Counting drawn numbers is several times as fast as
    ``Generator.multinomial``, which makes one binomial draw per cell.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // groups)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn_RG = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
        yield np.bincount(drawn_RG.ravel(), minlength=count * groups).reshape(count, groups).astype(float)


def _checked(name: str, values: np.ndarray, groups: Sequence[str]) -> Floats:
    """The values as one finite number per example, or a `DataError` that says which is not."""
    array = np.asarray(values, dtype=float)
    if array.shape != (len(groups),) or not len(groups):
        raise DataError(
            f"{name} has shape {array.shape} for the groups of {len(groups)} examples",
            remedy="give one score and one group per example, and at least one example",
        )
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise DataError(
            f"{name}[{wrong[0]}] is {array[wrong[0]]}, and {len(wrong)} of {len(array)} scores are no finite numbers",
            remedy="score an example that failed as 0 instead of leaving it open",
        )
    return array
