"""How long the intervals of a whole report take beside the textbook's loop over resamples; README.md says more."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from medvl_jobs.report.stats import Sample, Spread, spreads

SEED = 42
PAIRS = 3232
"""Validation images of the tutorial, a group each: the most draws that so many images can need."""
COLUMNS = 28 * 6 * 2
"""28 scores of 6 variants, each as a mean and as a difference from the tuned model."""
ROUNDS = 3


def textbook(values: np.ndarray, resamples: int) -> tuple[float, float]:
    """The 95 % interval of a mean: draw, average, again; one score at a time (Efron & Tibshirani 1993, ch. 13)."""
    rng = np.random.default_rng(SEED)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def ours(columns: np.ndarray, resamples: int) -> dict[str, Spread]:
    """Of all columns at once."""
    groups = [str(number) for number in range(columns.shape[1])]
    sample = Sample(groups, {str(number): column for number, column in enumerate(columns)})
    return spreads([sample], resamples=resamples, seed=SEED)[0]


def seconds_of(work: Callable[[], object]) -> float:
    """Median wall-clock seconds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def main(words: Sequence[str] | None = None) -> None:
    """Measure both and print the ratio per score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args(words)
    rng = np.random.default_rng(SEED)
    columns = rng.normal(50, 20, size=(COLUMNS, options.pairs))
    loop = seconds_of(lambda: textbook(columns[0], options.resamples))
    whole = seconds_of(lambda: ours(columns, options.resamples))
    theirs, found = textbook(columns[0], options.resamples), ours(columns, options.resamples)["0"]
    print(f"textbook, 1 score: {loop:.2f} s; medvl, {COLUMNS} scores: {whole:.2f} s")
    print(f"interval: textbook {theirs[0]:.2f} to {theirs[1]:.2f}, medvl {found.low:.2f} to {found.high:.2f}")
    result = {
        "pairs": options.pairs,
        "resamples": options.resamples,
        "textbook_seconds_per_score": round(loop, 4),
        "medvl_seconds": round(whole, 3),
        "ratio_per_score": round(loop * COLUMNS / whole, 1),
        "share_of_five_seconds": round(whole / 5, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
