"""The strokes of figures as SVG text: sharp at every size, and coloured by the page (``theme.css``), light or dark.

All lengths are in SVG user units. A figure is `WIDTH` units wide and stands in a column of 330 to 520 CSS pixels, so
its 13-unit letters stay between 9 and 15 pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape

WIDTH = 460
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def figure(height: float, title: str, parts: Sequence[str]) -> str:
    """A whole figure; ``title`` is what a listener gets of it."""
    return (
        f'<svg class="figure" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{_plain(title)}"><title>{_plain(title)}</title>{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, kind: str = "label", *, anchor: str = "start") -> str:
    """``kind`` is a class of ``theme.css``."""
    return f'<text class="{kind}" x="{x:.4g}" y="{y:.4g}" text-anchor="{anchor}">{_plain(words)}</text>'


def _plain(words: str) -> str:
    """As XML takes it: a label may come from the data, and XML knows no control characters."""
    return escape(_NO_XML.sub("", words))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line, ``axis`` or ``grid``."""
    return f'<line class="{kind}" x1="{x1:.4g}" y1="{y1:.4g}" x2="{x2:.4g}" y2="{y2:.4g}"/>'


def ticks(top: float, wanted: int = 5) -> list[float]:
    """Round numbers from 0 to at least ``top`` in steps of 1, 2 or 5 times a power of ten, about ``wanted`` steps."""
    if top <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top / wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * wanted >= top * 0.999)
    return [round(number * step, 10) for number in range(math.ceil(top / step - 1e-9) + 1)]
