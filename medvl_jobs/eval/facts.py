"""Score a caption's claims against what is true of the image."""

from __future__ import annotations

from typing import NamedTuple

from medvl_jobs.contracts.facts import Facts, Region

AREA_POINTS = 2.5
"""An area is right within so many percent of the image …"""
AREA_SHARE = 0.25
"""… or within this share of the true area, whichever is more."""


class Claim(NamedTuple):
    """One thing that a caption says and that is right or wrong by itself."""

    field: str
    """``modality``, ``plane``, ``body_part``, ``structure``, ``region``, ``position``, ``area`` or ``finding``."""
    value: str | float


def claims(facts: Facts) -> tuple[Claim, ...]:
    """What is stated, claim by claim, each once."""
    region = facts.region or Region("", "", 0.0)
    stated: list[tuple[str, str | float | None]] = [
        ("modality", facts.modality),
        ("plane", facts.plane),
        ("body_part", facts.body_part),
        *(("structure", name) for name in facts.structures),
        ("region", region.structure),
        ("position", region.position),
        ("area", region.area_percent),
        ("finding", facts.finding),
    ]
    return tuple(dict.fromkeys(Claim(name, value) for name, value in stated if value))


def mark(claimed: Facts, truth: Facts) -> dict[Claim, bool]:
    """Each claim with whether it is right: it is stated in the truth, or is an area close enough to the true one."""
    stated = set(claims(truth))
    return {claim: claim in stated or _right_area(claim, truth) for claim in claims(claimed)}


def _right_area(claim: Claim, truth: Facts) -> bool:
    """|claimed - true| <= max(2.5 points, 25 % of the true area)."""
    if claim.field != "area" or truth.region is None or not truth.region.area_percent:
        return False
    true = truth.region.area_percent
    return abs(float(claim.value) - true) <= max(AREA_POINTS, AREA_SHARE * true)


def score_facts(claimed: Facts, truth: Facts) -> dict[str, float]:
    """Precision, recall and F1 of the claims, each field by itself, in percent; and sides confused, as a count.

    With C the claims made, T the claims of the truth and R those of C that `mark` finds right: ``facts_precision`` =
    |R| / |C|, ``facts_recall`` = |R| / |T|, ``facts_f1`` = 2 |R| / (|C| + |T|), the harmonic mean of the two.

    - Nothing claimed is 0, 0 and 0, never left out: a model must not gain by silence.
    - The world is closed: a claim about a field that the truth leaves open, such as a nodule in a brain, is wrong.
    - A ``fact_*`` is there only for a field that the truth states: 100 when right, 0 when wrong or missing;
      ``fact_structures`` is the F1 of the two sets.
    - A truth that states nothing can judge nothing: the answer is ``{}``, whatever was claimed.
    """
    true = claims(truth)
    if not true:
        return {}
    marks = mark(claimed, truth)
    right = sum(marks.values())
    scores = {
        "facts_precision": 100 * right / len(marks) if marks else 0.0,
        "facts_recall": 100 * right / len(true),
        "facts_f1": 100 * 2 * right / (len(marks) + len(true)),
    }
    for name in dict.fromkeys(claim.field for claim in true):
        said = [is_right for claim, is_right in marks.items() if claim.field == name]
        count = len(said) + sum(claim.field == name for claim in true)
        if name == "structure":
            scores["fact_structures"] = 100 * 2 * sum(said) / count
        else:
            scores[f"fact_{name}"] = 100.0 * any(said)
    return {**scores, "laterality_errors": float(len(confused_sides(claimed, truth)))}


def confused_sides(claimed: Facts, truth: Facts) -> tuple[str, ...]:
    """Claimed structures of which the truth has the other side and not this one."""
    said, true = (
        {str(claim.value) for claim in claims(facts) if claim.field in ("structure", "region")}
        for facts in (claimed, truth)
    )
    return tuple(sorted(name for name in said - true if _other_side(name) in true))


def _other_side(name: str) -> str | None:
    side, _, rest = name.partition(" ")
    other = {"left": "right", "right": "left"}.get(side)
    return f"{other} {rest}" if other else None
