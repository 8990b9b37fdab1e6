"""The report's ``index.html``; see `page.look` for what it looks like and what keeps it harmless."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath

from jinja2 import Environment
from markupsafe import Markup

from medvl_jobs.page.look import environment, style
from medvl_jobs.page.words import number, quantity
from medvl_jobs.report import words
from medvl_jobs.report.metrics import VARIANT_LABELS, describe
from medvl_jobs.report.shape import Difference, MetricRow, Report

LONG_TEXT = 700
"""Characters from which on an answer is folded: a model that repeats itself must not push the others off the page."""
RUNTIME_KEYS = (
    ("predict_runtime", "seconds for all examples", 1),
    ("predict_samples_per_second", "examples per second", 3),
    ("predict_steps_per_second", "batches per second", 3),
    ("predict_model_preparation_time", "seconds to prepare the model", 4),
)
"""LLaMA-Factory's keys, what they mean, and the decimals that they deserve."""


def render(report: Report, figures: Mapping[str, str], thumbnails: Mapping[str, str]) -> str:
    """The page. ``figures`` as `figures.draw` makes them; ``thumbnails`` are ``data:`` addresses by example id."""
    settings = report["lineage"]["settings"]
    template = _environment().get_template("page.html.jinja")
    return template.render(
        report=report,
        figures={name: Markup(svg) for name, svg in figures.items()},  # drawn and escaped by figures.py
        thumbnails=thumbnails,
        style=style(),
        settings_text=json.dumps(settings, indent=2, ensure_ascii=False),
        model_name=PurePath(settings["model"]["path"]).name,
    )


@cache
def _environment() -> Environment:
    made = environment(__package__)
    made.filters |= {name: getattr(words, name) for name in ("signed", "interval", "duration", "memory", "probability")}
    made.filters |= {"number": number, "quantity": quantity, "decimals": decimals, "judgement": judgement}
    made.globals |= {
        "describe": describe,
        "variant_labels": {variant.value: label for variant, label in VARIANT_LABELS.items()},
        "runtime_keys": RUNTIME_KEYS,
        "long_text": LONG_TEXT,
    }
    return made


def decimals(row: MetricRow) -> int:
    """Percentages with one decimal, counts per image with two."""
    return 2 if describe(row["metric"]).per_image else 1


def judgement(difference: Difference, higher_is_better: bool) -> str:
    """``better`` or ``worse`` where the interval leaves out zero, else ``open``."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return "open"
    return "better" if (low > 0) == higher_is_better else "worse"
