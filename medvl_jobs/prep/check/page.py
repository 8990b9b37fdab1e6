"""``index.html`` of the dataset check; see `page.look` for what it looks like and what keeps it harmless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medvl_jobs.page.look import environment, style
from medvl_jobs.page.words import quantity
from medvl_jobs.prep.check.figures import histogram, lengths, share
from medvl_jobs.prep.check.groups import Group
from medvl_jobs.prep.check.words import columns, judgement, limit, percent, source_name, verdict
from medvl_jobs.prep.gates import gates
from medvl_jobs.settings.prep import PrepSettings


@dataclass(frozen=True)
class Figure:
    """A histogram and what stands below it."""

    svg: Markup
    caption: str


def render(card: dict[str, Any], prep: PrepSettings, key: str, groups: Sequence[Group], warnings: Sequence[str]) -> str:
    """The page. ``warnings``: what a person should know besides the gates."""
    passes, sentence = verdict(card, prep)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            card=card,
            key=key,
            name=source_name(prep),
            passes=passes,
            verdict=sentence,
            warnings=warnings,
            gates=gates(card, prep),
            columns=list(columns(card)),
            figures=figures(card),
            groups=groups,
            style=style(_own_style()),
        )
    )


def figures(card: dict[str, Any]) -> list[Figure]:
    """A histogram of everything that there is one of."""
    captions, sizes = card["captions"], card["images"]["longer_side_pixels"]
    tokens = captions["tokens"]
    counted = (
        "counted by the model's tokenizer" if tokens["exact"] else f"estimated at {tokens['tokens_per_word']} a word"
    )
    drawn = [
        (sizes, "Longer side of the images", "pixel", ""),
        (captions["words"], "Words of the captions", "word", ""),
        (tokens, "Tokens of the captions", "token", f" Of {quantity(tokens['rows'], 'caption')}, {counted}."),
    ]
    return [
        Figure(Markup(histogram(summary, what, f"{unit}s")), f"{what}: {lengths(summary, unit)}.{more}")
        for summary, what, unit, more in drawn
        if "histogram" in summary
    ]


@cache
def _environment() -> Environment:
    made = environment(__package__)
    made.filters |= {"quantity": quantity, "percent": percent, "limit": limit, "judgement": judgement}
    made.globals |= {"share": share}
    return made


def _own_style() -> str:
    return (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
