"""Facts against facts: what a claim is, when it is right, and what a wrong one costs."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvl_jobs.contracts.facts import PLANES, POSITIONS, Facts, Region
from medvl_jobs.eval.facts import Claim, claims, confused_sides, contradictions, invented, mark, score_facts

TRUTH = Facts(
    modality="CT",
    plane="axial",
    body_part="chest",
    structures=("right lung", "left lung", "heart"),
    region=Region("right lung", "middle-left", 20.0),
    finding="no nodule",
)
FIELDS = ("modality", "plane", "body_part", "region", "position", "area", "finding")
NAMES = ("right lung", "left lung", "heart", "right kidney", "left kidney", "lung")

regions = st.builds(
    Region,
    st.sampled_from(("", *NAMES)),
    st.sampled_from(("", *POSITIONS)),
    st.sampled_from((0.0, 0.5, 15.0, 40.0, 90.0)),
)
facts = st.builds(
    Facts,
    modality=st.sampled_from((None, "CT", "MR")),
    plane=st.sampled_from((None, *PLANES)),
    body_part=st.sampled_from((None, "chest", "brain")),
    structures=st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    region=st.none() | regions,
    finding=st.sampled_from((None, "nodule", "no nodule")),
)


def changed(**fields: object) -> Facts:
    return dataclasses.replace(TRUTH, **fields)  # type: ignore[arg-type]


def with_area(percent: float) -> Facts:
    return changed(region=Region("right lung", "middle-left", percent))


def test_claims_are_what_is_stated_each_once() -> None:
    assert claims(TRUTH) == (
        Claim("modality", "CT"),
        Claim("plane", "axial"),
        Claim("body_part", "chest"),
        Claim("structure", "right lung"),
        Claim("structure", "left lung"),
        Claim("structure", "heart"),
        Claim("region", "right lung"),
        Claim("position", "middle-left"),
        Claim("area", 20.0),
        Claim("finding", "no nodule"),
    )
    assert claims(Facts(structures=("heart", "heart"), region=Region("", "upper-left", 0.0))) == (
        Claim("structure", "heart"),
        Claim("position", "upper-left"),
    )
    assert claims(Facts()) == ()


def test_one_wrong_claim_among_ten() -> None:
    claimed = changed(plane="coronal")
    assert [claim for claim, right in mark(claimed, TRUTH).items() if not right] == [Claim("plane", "coronal")]
    scores = score_facts(claimed, TRUTH)
    assert (scores["facts_precision"], scores["facts_recall"], scores["facts_f1"]) == (90, 90, 90)
    assert [name for name in FIELDS if scores[f"fact_{name}"] == 0] == ["plane"]


def test_silence_costs_recall_and_invention_costs_precision() -> None:
    short = score_facts(Facts("CT", "axial", "chest"), TRUTH)
    assert (short["facts_precision"], short["facts_recall"]) == (100, 30)
    long = score_facts(changed(structures=(*TRUTH.structures, "liver", "spleen")), TRUTH)
    assert long["facts_precision"] == pytest.approx(100 * 10 / 12)
    assert long["facts_recall"] == 100
    assert long["fact_structures"] == pytest.approx(100 * 6 / 8)


def test_a_claim_where_the_truth_is_open_is_wrong() -> None:
    scores = score_facts(Facts("MR", finding="nodule"), Facts("MR"))
    assert scores["facts_precision"] == 50
    assert "fact_finding" not in scores


@pytest.mark.parametrize(
    ("claimed", "true", "right"),
    [
        (15, 20, True),
        (25, 20, True),
        (14.9, 20, False),
        (0.5, 3, True),
        (0.5, 3.1, False),
        (0, 2, False),
        (3, 0.5, True),
    ],
)
def test_an_area_is_right_within_a_quarter_or_two_and_a_half_points(claimed: float, true: float, right: bool) -> None:
    assert score_facts(with_area(claimed), with_area(true))["fact_area"] == 100 * right


@pytest.mark.parametrize(
    ("claimed", "true", "confused"),
    [
        (("left lung",), ("right lung",), ("left lung",)),
        (("left lung",), ("right lung", "left lung"), ()),
        (("left kidney", "right lung"), ("right kidney", "left lung"), ("left kidney", "right lung")),
        (("lung", "heart"), ("right lung",), ()),
        (("left lung",), ("heart",), ()),
    ],
)
def test_a_side_is_confused_when_only_the_other_one_is_true(
    claimed: tuple[str, ...], true: tuple[str, ...], confused: tuple[str, ...]
) -> None:
    assert confused_sides(Facts(structures=claimed), Facts(structures=true)) == confused
    assert score_facts(Facts(structures=claimed), Facts(structures=true))["laterality_errors"] == len(confused)


def test_the_regions_side_counts_once() -> None:
    wrong = Facts(structures=("left lung",), region=Region("left lung", "", 0.0))
    assert confused_sides(wrong, Facts(structures=("right lung",))) == ("left lung",)


@pytest.mark.parametrize(
    ("claimed", "true", "made_up"),
    [
        (("liver", "heart"), ("heart",), ("liver",)),
        (("left lung",), ("right lung",), ()),  # a side, not an invention
        (("left lung", "lung"), ("right lung", "heart"), ()),
        (("left lung",), ("lung",), ()),
        (("left kidney", "right kidney"), ("heart",), ("left kidney", "right kidney")),
        (("liver",), (), ()),  # the truth lists nothing
    ],
)
def test_a_structure_is_made_up_when_the_truth_has_it_on_neither_side(
    claimed: tuple[str, ...], true: tuple[str, ...], made_up: tuple[str, ...]
) -> None:
    assert invented(Facts(structures=claimed), Facts(structures=true)) == made_up


def test_the_regions_structure_is_part_of_the_truth() -> None:
    truth = Facts(structures=("heart",), region=Region("right kidney", "", 1.0))
    assert invented(Facts(structures=("left kidney",)), truth) == ()


@pytest.mark.parametrize(
    ("claimed", "true", "flips"),
    [
        ("no nodule", "nodule", 1),
        ("nodule", "no nodule", 1),
        ("normal", "nodule", 1),
        ("fracture", "normal", 1),
        ("normal", "no nodule", 0),
        ("no fracture", "normal", 0),
        ("no fracture", "nodule", 0),
        ("fracture", "nodule", 0),
        ("nodule", "nodule", 0),
        (None, "nodule", 0),
        ("nodule", None, 0),
    ],
)
def test_a_finding_is_flipped_when_one_of_the_two_denies_the_other(
    claimed: str | None, true: str | None, flips: int
) -> None:
    assert contradictions(Facts(finding=claimed), Facts(finding=true))["negation_errors"] == flips


def test_contradictions_are_of_four_kinds_and_their_sum() -> None:
    claimed = changed(modality="MR", structures=("left lung", "right lung", "liver"), finding="nodule")
    truth = changed(structures=("right lung", "heart"))
    scores = score_facts(claimed, truth)
    assert {name: value for name, value in scores.items() if name.endswith("_errors")} == {
        "laterality_errors": 1.0,
        "modality_errors": 1.0,
        "hallucination_errors": 1.0,
        "negation_errors": 1.0,
        "contradiction_errors": 4.0,
    }
    assert score_facts(Facts(), truth)["contradiction_errors"] == 0


@given(facts)
def test_the_truth_is_all_right_and_silence_all_wrong(truth: Facts) -> None:
    if not claims(truth):
        assert score_facts(truth, truth) == {}
        return
    errors = dict.fromkeys((*contradictions(truth, truth), "contradiction_errors"), 0.0)
    assert score_facts(truth, truth) == dict.fromkeys(score_facts(truth, truth), 100.0) | errors
    assert score_facts(Facts(), truth) == dict.fromkeys(score_facts(truth, truth), 0.0) | errors


@given(facts, facts)
def test_swapping_swaps_precision_and_recall(one: Facts, other: Facts) -> None:
    """An area's tolerance follows the true value; those drawn here are equal or too far apart for that to matter."""
    if not claims(one) or not claims(other):
        return
    there, back = score_facts(one, other), score_facts(other, one)
    assert there["facts_precision"] == back["facts_recall"]
    assert there["facts_recall"] == back["facts_precision"]
    assert there["facts_f1"] == back["facts_f1"]


@given(facts, facts)
def test_scores_are_percentages_and_only_of_what_the_truth_states(claimed: Facts, truth: Facts) -> None:
    scores = score_facts(claimed, truth)
    assert all(0 <= value <= 100 for value in scores.values())
    assert scores.get("contradiction_errors", 0) <= len(claims(claimed))
    stated = {"structures" if claim.field == "structure" else claim.field for claim in claims(truth)}
    assert {name.removeprefix("fact_") for name in scores if name.startswith("fact_")} == stated
