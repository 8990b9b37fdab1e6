"""Conditions on scores, and the command that judges a finished report by them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from medvl_jobs.errors import DataError, SettingsError
from medvl_jobs.report.collect import require
from medvl_jobs.report.gates import judge_gates
from medvl_jobs.settings.report import ReportSettings

REPORT: Any = {
    "overall": {
        "metrics": [
            {"metric": "facts_f1", "means": {"base": 40.0, "tuned": 46.0, "tuned-shuffled": 30.0}},
            {"metric": "laterality_errors", "means": {"base": 0.5, "tuned": 0.25}},
        ]
    }
}


@pytest.mark.parametrize(
    ("metric", "condition", "bound", "passed"),
    [
        ("facts_f1", ">= base + 5", 45.0, True),
        ("facts_f1", ">= base + 6", 46.0, True),
        ("facts_f1", "> base + 6", 46.0, False),
        ("facts_f1", ">=base+6.5", 46.5, False),
        ("facts_f1", "> tuned-shuffled", 30.0, True),
        ("facts_f1", "> tuned-shuffled + 20", 50.0, False),
        ("facts_f1", "> 45.5", 45.5, True),
        ("laterality_errors", "<= base - 0.2", 0.3, True),
        ("laterality_errors", "< 0.25", 0.25, False),
    ],
)
def test_conditions(metric: str, condition: str, bound: float, passed: bool) -> None:
    (judged,) = judge_gates(REPORT, ReportSettings(gates={metric: condition}).gates)
    assert (judged.bound, judged.passed) == (pytest.approx(bound), passed)
    assert ("passed" if passed else "MISSED") in str(judged)


@pytest.mark.parametrize("condition", ["base + 5", ">= best", ">= base * 2", "== 3", ">= base + ", ""])
def test_what_is_no_condition_is_refused_with_the_settings(condition: str) -> None:
    with pytest.raises(ValidationError, match=r"is no condition: write >=, >"):
        ReportSettings(gates={"facts_f1": condition})


def test_a_score_or_a_variant_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match="no score 'factsf1'"):
        judge_gates(REPORT, {"factsf1": "> 1"})
    with pytest.raises(SettingsError, match="no variant 'tuned-shuffled'") as caught:
        judge_gates(REPORT, {"laterality_errors": "< tuned-shuffled"})
    assert caught.value.remedy.startswith("use one of: base, tuned;")


def test_a_bound_that_is_reached_is_passed_and_told_exactly() -> None:
    report: Any = {"overall": {"metrics": [{"metric": "facts_f1", "means": {"base": 1.1, "tuned": 3.3}}]}}
    (judged,) = judge_gates(report, {"facts_f1": ">= base + 2.2"})
    assert 1.1 + 2.2 > 3.3
    assert str(judged) == "passed  facts_f1 3.3, asked for >= base + 2.2 (3.3)"
    report["overall"]["metrics"][0]["means"]["tuned"] = 44.9967
    (judged,) = judge_gates(report, {"facts_f1": ">= 45"})
    assert str(judged) == "MISSED  facts_f1 44.9967, asked for >= 45 (45)"


def test_one_missed_gate_is_enough() -> None:
    require(judge_gates(REPORT, {"facts_f1": "> 1"}))
    require(())
    with pytest.raises(DataError, match="1 of 2 gates missed: facts_f1 > 99"):
        require(judge_gates(REPORT, {"facts_f1": "> 99", "laterality_errors": "< 1"}))


def test_a_gate_changes_no_key() -> None:
    assert ReportSettings(gates={"facts_f1": "> 1"}).semantic() == ReportSettings().semantic()
