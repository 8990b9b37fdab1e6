"""The one smoothing of a loss curve, for the picture that train leaves and the figure of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence


def smooth(values: Sequence[float]) -> list[float]:
    """LLaMA-Factory's moving average: sₙ = w · sₙ₋₁ + (1 - w) · xₙ with s₀ = x₀.

    w = 1.8 · (sigmoid(0.05 · n) - 0.5) for n values: the longer the curve, the smoother.
    """
    weight = 1.8 * (1 / (1 + math.exp(-0.05 * len(values))) - 0.5)
    smoothed: list[float] = []
    for value in values:
        smoothed.append(weight * (smoothed[-1] if smoothed else value) + (1 - weight) * value)
    return smoothed
