"""What the report says of numbers besides `page.words`; the page and the Markdown say it the same way."""

from __future__ import annotations

import json
from typing import Any, Literal

from medvl_jobs.page.words import number
from medvl_jobs.report.shape import Difference, Estimate

_MINUTE, _HOUR = 60, 3600


def signed(value: float, decimals: int = 1) -> str:
    """``+4.2``, ``-1.0`` or ``0.0``."""
    sign = "+" if round(value, decimals) > 0 else ""
    return sign + number(value, decimals)


def shown(value: float, decimals: int = 1) -> str:
    """`number`, with more decimals where a value that is not zero would read as zero: ``0.03``."""
    while value and not round(value, decimals):
        decimals += 1
    return number(value, decimals)


def exact(value: float) -> str:
    """As ``report.json`` has it: ``45``, ``44.996``."""
    return number(value, 4).rstrip("0").rstrip(".")


def interval(estimate: Estimate | Difference, decimals: int = 1) -> str:
    """``71.2 to 80.0``, or ``0.03 to 8.1``: whether zero lies outside must be seen. Empty when it is unknown."""
    low, high = estimate["low"], estimate["high"]
    return "" if low is None or high is None else f"{shown(low, decimals)} to {shown(high, decimals)}"


def duration(seconds: float) -> str:
    """``8.4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if round(seconds, 1) < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def memory(size_bytes: int) -> str:
    """``1.4 GB``, in powers of ten like the labels on memory requests."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def probability(share: float) -> str:
    """``97.3 %``; the ends are not certainties, only rarer than the resamples can show."""
    if share > 0.999:
        return "more than 99.9 %"
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def judgement(difference: Difference, higher_is_better: bool | None) -> Literal["better", "worse", "open"]:
    """What the interval says; ``open`` where it holds zero, is unknown, or neither direction is the better one."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high or higher_is_better is None:
        return "open"
    return "better" if (low > 0) == higher_is_better else "worse"


def value_text(value: Any) -> str:
    """A setting's value on one line; a dash for none."""
    return (
        "–" if value is None else value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    )
