"""Gates: what a result must reach, as conditions on the scores of ``report.json``. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

from medvl_jobs.errors import SettingsError
from medvl_jobs.report.shape import Gate, Report, Slice
from medvl_jobs.report.words import exact
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.report import GATE

_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_DECIMALS = 9
"""Of a bound: 1.1 + 2.2 is 3.3, and whoever reaches it has passed."""


@dataclass(frozen=True)
class Judged:
    """One gate and how the tuned model did."""

    metric: str
    condition: str
    value: float
    """Mean of the tuned model over all examples."""
    bound: float
    """What the condition comes to in this report."""
    passed: bool

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "MISSED"
        return f"{verdict}  {self.metric} {exact(self.value)}, asked for {self.condition} ({exact(self.bound)})"


def judge_gates(report: Report, gates: Mapping[str, str]) -> tuple[Judged, ...]:
    """Every gate, in the order they are written. Raises `SettingsError` for a score that the report does not have."""
    means = {row["metric"]: row["means"] for row in report["overall"]["metrics"]}
    return tuple(_judge(metric, condition, means) for metric, condition in gates.items())


def gates_now(whole: Slice, gates: Mapping[str, str]) -> list[Gate]:
    """The same for the report itself, where a gate that cannot be judged is shown: hours of work must not end here."""
    means = {row["metric"]: row["means"] for row in whole["metrics"]}
    shown: list[Gate] = []
    for metric, condition in gates.items():
        try:
            judged = _judge(metric, condition, means)
        except SettingsError as error:
            unjudged: Gate = {
                "metric": metric,
                "condition": condition,
                "value": None,
                "bound": None,
                "passed": None,
                "note": error.what,
            }
            shown.append(unjudged)
        else:
            value, bound = round(judged.value, 4), round(judged.bound, 4)
            passed = judged.passed
            gate: Gate = {
                "metric": metric,
                "condition": condition,
                "value": value,
                "bound": bound,
                "passed": passed,
                "note": "",
            }
            shown.append(gate)
    return shown


def _judge(metric: str, condition: str, means: Mapping[str, Mapping[str, float]]) -> Judged:
    parts = re.fullmatch(GATE, condition)
    assert parts is not None, "the settings let only conditions through"
    if metric not in means:
        raise SettingsError(
            f"the report has no score '{metric}'",
            where="report.gates",
            remedy=f"use one of: {', '.join(means)}",
        )
    scores = means[metric]
    if parts["variant"] and parts["variant"] not in scores:
        raise SettingsError(
            f"the report has no variant '{parts['variant']}'",
            where=f"report.gates.{metric}",
            remedy=f"use one of: {', '.join(scores)}; more controls are evaluated with eval.controls",
        )
    start = scores[parts["variant"]] if parts["variant"] else float(parts["number"])
    more = float((parts["more"] or "0").replace(" ", ""))
    bound = round(start + more, _DECIMALS)
    value = scores[Variant.TUNED]
    return Judged(metric, condition, value, bound, bool(_COMPARE[parts["operator"]](value, bound)))
