"""Settings of the report stage."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from medvl_jobs.settings.section import Section, Seed, operational

GATE = (
    r"(?P<operator>>=|>|<=|<) *"
    r"(?:(?P<variant>base-formatted|base|tuned-shuffled|tuned-blank|template)|(?P<number>-?\d+(?:\.\d+)?))"
    r"(?P<more> *[+-] *\d+(?:\.\d+)?)?"
)
"""A condition on a score: ``>= base + 5``, ``> tuned-shuffled``, ``< 2.5``."""


def _condition(text: str) -> str:
    if re.fullmatch(GATE, text) is None:
        raise ValueError(
            f"'{text}' is no condition: write >=, >, <= or <, then a number or a variant, with + or - a number if need "
            'be: ">= base + 5", "> tuned-shuffled", "< 2.5"'
        )
    return text


class ReportSettings(Section):
    """The comparison of base and tuned."""

    gallery: Annotated[int, Field(ge=0)] = 24
    """Validation images shown with their answers."""
    thumbnail_pixels: Annotated[int, Field(ge=32)] = 224
    resamples: Annotated[int, Field(ge=100)] = 10_000
    """Bootstrap resamples over groups for the confidence intervals."""
    seed: Seed = 42
    gates: dict[str, Annotated[str, AfterValidator(_condition)]] = operational({})
    """What the tuned model must reach: ``{facts_f1: ">= base + 5", rouge-l: "> 40"}``. `medvl collect` judges it."""
