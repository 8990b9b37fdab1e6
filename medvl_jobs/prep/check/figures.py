"""Histograms of the dataset check, drawn from what the card says."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from medvl_jobs.page import svg
from medvl_jobs.page.words import quantity
from medvl_jobs.prep.check.words import NO_BREAK

_LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 450.0, 24.0, 150.0
_GAP = 2.0


def histogram(summary: dict[str, Any], what: str, unit: str) -> str:
    """Columns over the bins of ``summary``, see `card.summary`, with the bins' edges between them.

    The bins grow wider to the right, so equal columns stand for unequal ranges: the edges are written out.
    """
    bins: dict[str, int] = summary["histogram"]
    total = sum(bins.values())
    width = (_RIGHT - _LEFT) / len(bins)
    parts = [svg.line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis")]
    for number, (label, rows) in enumerate(bins.items()):
        parts += _column(_LEFT + number * width, width, rows, total, max(bins.values()), _range(label, unit))
    edges = ["0", *(label.removeprefix("<=") for label in bins if label.startswith("<="))]
    for number, edge in enumerate(edges):
        parts.append(svg.text(_LEFT + number * width, _BOTTOM + 18, edge, "tick", anchor="middle"))
    parts.append(svg.text((_LEFT + _RIGHT) / 2, _BOTTOM + 36, unit, "axis-title", anchor="middle"))
    title = f"{what}: {summary['min']:,} to {summary['max']:,} {unit}, median {summary['median']:,}"
    return svg.figure(_BOTTOM + 44, title, parts)


def _column(left: float, width: float, rows: int, total: int, most: int, meaning: str) -> Iterator[str]:
    if not rows:
        return
    height = max(1.5, (_BOTTOM - _TOP) * rows / most)
    size = f'width="{width - _GAP:.1f}" height="{height:.1f}"'
    tip = f"<title>{escape(f'{meaning}: {rows:,}')}</title>"
    yield f'<rect class="column" x="{left + _GAP / 2:.1f}" y="{_BOTTOM - height:.1f}" {size}>{tip}</rect>'
    yield svg.text(left + width / 2, _BOTTOM - height - 6, share(rows, total), anchor="middle")


def share(rows: int, total: int) -> str:
    """``12 %``, ``<1 %``: nothing that is there reads as nothing, and nothing but all as all."""
    percent = 100 * rows / total if total else 0.0
    if 0 < percent < 1:
        return f"<1{NO_BREAK}%"
    return f">99{NO_BREAK}%" if 99 < percent < 100 else f"{percent:.0f}{NO_BREAK}%"


def _range(label: str, unit: str) -> str:
    return f"{label.replace('<=', 'up to ').replace('>', 'above ')} {unit}"


def lengths(summary: dict[str, Any], unit: str) -> str:
    """``41 to 90 words, median 62, 95 % up to 74``."""
    if summary["min"] == summary["max"]:
        return f"{quantity(summary['min'], unit)} each"
    return (
        f"{summary['min']:,} to {quantity(summary['max'], unit)}, median {summary['median']:,}, "
        f"95{NO_BREAK}% up to {summary['p95']:,}"
    )
