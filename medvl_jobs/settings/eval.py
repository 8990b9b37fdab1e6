"""Settings of the eval and report stages."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from medvl_jobs.settings.section import Section, operational


class Variant(StrEnum):
    """What is evaluated. All variants run the same code on the same examples."""

    BASE = "base"
    TUNED = "tuned"
    TUNED_SHUFFLED = "tuned-shuffled"
    """The tuned model, each question with another example's image: what it scores without looking."""


class EvalSettings(Section):
    """Greedy answers to the validation split, and their scores."""

    batch_size: Annotated[int, Field(ge=1)] = operational(16)
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many validation examples; none means all."""
    adapter: str | None = operational(None)
    """Evaluate this adapter instead of training one: a directory, or a prefix in the store (``adapters/<key>``)."""
    adapter_fingerprint: str | None = operational(None)
    """Hash of that adapter. Filled in when a run is planned."""
    controls: tuple[Literal[Variant.TUNED_SHUFFLED], ...] = operational((Variant.TUNED_SHUFFLED,))
    """Variants beyond base and tuned."""
    shuffle_seed: int = operational(42)
    """Which other image a shuffled example gets."""
    flush_every: Annotated[int, Field(ge=1)] = operational(64)
    """Finished predictions are stored at least this often; a killed eval loses no more than these."""


GATE = (
    r"(?P<operator>>=|>|<=|<) *(?:(?P<variant>base|tuned-shuffled)|(?P<number>-?\d+(?:\.\d+)?))"
    r"(?P<more> *[+-] *\d+(?:\.\d+)?)?"
)
"""A condition on a score: ``>= base + 5``, ``> tuned-shuffled``, ``< 2.5``."""


class ReportSettings(Section):
    """The comparison of base and tuned."""

    gallery: Annotated[int, Field(ge=0)] = 24
    """Validation images shown with their answers."""
    thumbnail_pixels: Annotated[int, Field(ge=32)] = 224
    resamples: Annotated[int, Field(ge=100)] = 10_000
    """Bootstrap resamples over groups for the confidence intervals."""
    seed: int = 42
    gates: dict[str, Annotated[str, Field(pattern=f"^(?:{GATE})$")]] = operational({})
    """What the tuned model must reach: ``{facts_f1: ">= base + 5", rouge-l: "> 40"}``. `medvl collect` judges it."""
