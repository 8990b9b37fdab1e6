"""Numbers as a reader wants them."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"


def number(value: float, decimals: int = 1) -> str:
    """``83.1``, with a real minus sign, and never ``-0.0``."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace("-", MINUS)


def quantity(many: int, noun: str) -> str:
    """``1 group``, ``3,232 images``; ``noun`` is singular and takes an s."""
    return f"{many:,} {noun}" + ("" if many == 1 else "s")
