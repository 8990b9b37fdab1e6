"""The published schema is that of the code, and reports keep to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from report_data import World, mark_claims, world

from medvl_jobs.report.schema import json_schema
from medvl_jobs.report.shape import SCHEMA_VERSION
from medvl_jobs.settings.eval import Variant

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


def published() -> str:
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def test_it_is_up_to_date() -> None:
    """If a change is meant, raise `SCHEMA_VERSION`: ``PYTHONPATH=.:tests python tests/unit/test_report_schema.py``."""
    assert PUBLISHED.read_text(encoding="utf-8") == published()
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$defs"]["Slicing"]["description"]
    assert json_schema()["$defs"]["Difference"]["properties"]["probability_better"]["description"]


def everything() -> World:
    controls = ("tuned-shuffled", "tuned-blank", "template", "base-formatted")
    gates = {"facts_f1": ">= base + 5", "nonsense": "> 1"}
    made = world(
        eval={"controls": controls}, report={"gates": gates, "resamples": 100}, plan={"price_per_gpu_hour": 2.5}
    )
    mark_claims(made)
    return made


def least() -> World:
    made = world(groups=1, per_group=2, eval={"controls": (), "adapter": "adapters/feed"}, report={"gallery": 0})
    made.log = None
    made.forget(Variant.TUNED, made.examples[0].example_id)
    return made


@pytest.mark.parametrize("made", [everything(), least()], ids=["everything", "least"])
def test_reports_keep_to_it(made: World) -> None:
    validator = Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    report: Any = json.loads(json.dumps(made.report(), allow_nan=False))
    assert [error.message for error in validator.iter_errors(report)] == []
    assert report["schema_version"] == SCHEMA_VERSION
    del report["verdict"]["learned"]
    report["overall"]["headline"]["gain"]["value"] = "much"
    assert len(list(validator.iter_errors(report))) == 2


if __name__ == "__main__":
    PUBLISHED.write_text(published(), encoding="utf-8")
