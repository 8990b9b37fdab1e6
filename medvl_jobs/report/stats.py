"""How sure a comparison is: the cluster bootstrap over groups.

The slices of one volume are not independent: a model that is right about one is likely right about the next. So whole
groups (patients, volumes) are drawn, not examples; drawing examples would make the intervals too narrow.

Sources: Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, ch. 13 (percentile intervals); Davison & Hinkley
1997, *Bootstrap Methods and their Application*, § 3.8 (groups); Koehn 2004, "Statistical significance tests for machine
translation evaluation" (both systems on the same draws).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvl_jobs.errors import DataError

Floats = NDArray[np.float64]

LEVELS = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""
FEWEST_GROUPS = 6
"""With fewer groups no interval is worth its name.

Where all k groups differ in one direction, no resample leaves it; chance alone does that in 2 of 2^k cases. Only from
k = 6 on (3.1 %) is that rarer than the 5 % that an interval allows itself.
"""
_CELLS = 2_000_000
"""Weights held at a time: 16 MB."""


@dataclass(frozen=True)
class Sample:
    """Some examples, and numbers about each of them."""

    groups: Sequence[str]
    """The group of each example."""
    values: Mapping[str, np.ndarray]
    """By name, one number per example: a score, or the difference of two."""


@dataclass(frozen=True)
class Spread:
    """A mean over examples with its 95 % interval."""

    mean: float
    low: float
    high: float
    share_above: float
    """Share of resamples in which the mean is above 0; an exact tie counts half."""
    groups: int
    """Trap: with 1 group every draw is the same, so ``low == mean == high`` says nothing about certainty."""
    examples: int


def spreads(samples: Sequence[Sample], *, resamples: int, seed: int) -> list[dict[str, Spread]]:
    """The spread of each number of each sample, all by the same draws, which are made once.

    Each resample draws as many groups as all samples together have, with replacement, and takes all their examples. Its
    statistic is Σ value / Σ 1 over the drawn examples that are in the sample, so that a large group weighs as much as
    it does in the mean. A sample of some of the groups (a modality) is a domain of the whole: how many of its groups
    are drawn varies as well, and a draw without any says nothing of it and is left out.

    Raises `DataError` for a number that is not finite, or one that is not there for each example.
    """
    checked = [{name: _checked(name, each, s.groups) for name, each in s.values.items()} for s in samples]
    place = {group: number for number, group in enumerate(sorted({g for sample in samples for g in sample.groups}))}
    columns, names = [], []
    for number, (sample, values) in enumerate(zip(samples, checked, strict=True)):
        member = np.array([place[group] for group in sample.groups])
        for name, weights in [(None, None), *values.items()]:  # first how many examples each group has
            columns.append(np.bincount(member, weights=weights, minlength=len(place)))
            names.append((number, name))
    sums_GC = np.stack(columns, axis=1).astype(float)
    totals_RC = np.concatenate([w_RG @ sums_GC for w_RG in _weights(len(place), resamples, seed)])
    found: list[dict[str, Spread]] = [{} for _ in samples]
    for column, (number, name) in enumerate(names):
        if name is None:
            drawn_R = totals_RC[:, column]
            continue
        means_R = totals_RC[drawn_R > 0, column] / drawn_R[drawn_R > 0]
        found[number][name] = _spread(checked[number][name], samples[number].groups, means_R)
    return found


def _spread(values: Floats, groups: Sequence[str], means_R: Floats) -> Spread:
    low, high = np.percentile(means_R, LEVELS)
    above = np.mean(means_R > 0) + np.mean(means_R == 0) / 2
    return Spread(float(values.mean()), float(low), float(high), float(above), len(set(groups)), len(groups))


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
