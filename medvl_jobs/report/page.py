"""The report's ``index.html``; see `page.look` for what it looks like and what keeps it harmless."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import chain
from pathlib import PurePath

from jinja2 import Environment
from markupsafe import Markup

from medvl_jobs.page.look import environment, script, style
from medvl_jobs.page.words import number, quantity
from medvl_jobs.report import words
from medvl_jobs.report.caveats import FEW_GROUPS
from medvl_jobs.report.marks import marked
from medvl_jobs.report.metrics import IN_PARTS, describe
from medvl_jobs.report.shape import Report
from medvl_jobs.report.stats import FEWEST_GROUPS

LONG_TEXT = 700
"""Characters from which on an answer is folded: a model that repeats itself must not push the others off the page."""
RUNTIME_KEYS = (
    ("predict_runtime", "seconds for all examples", 1),
    ("predict_samples_per_second", "examples per second", 3),
    ("predict_steps_per_second", "batches per second", 3),
    ("predict_model_preparation_time", "seconds to prepare the model", 4),
)
"""LLaMA-Factory's keys, what they mean, and the decimals that they deserve."""
CORPUS_KEYS = (
    ("predict_sacrebleu", "BLEU of the whole corpus, sacrebleu", 2),
    ("predict_distinct_1", "different words among all words, in percent", 1),
    ("predict_distinct_2", "different word pairs among all word pairs, in percent", 1),
    ("predict_length_ratio", "words of all answers per word of all references", 2),
)
"""Numbers about all answers of a variant together: they have no value per example, and so no interval."""
SIGNATURE = "predict_sacrebleu_signature"
FAMILIES = (
    ("facts", "Facts: all claims of an answer, against the truth"),
    ("field", "Single facts: share of the images on which it is right, where the truth states it"),
    ("errors", "Mistakes, counted: who says little makes few"),
    ("text", "Overlap with the reference, as LLaMA-Factory computes it; unrelated captions of one style reach 50"),
    ("thinkless", "The same without a leading think block, where an answer or a reference has one"),
    ("standard", "Overlap with the reference, as rouge-score and sacrebleu compute it"),
)  # fmt: skip


def render(report: Report, figures: Mapping[str, str], thumbnails: Mapping[str, str]) -> str:
    """The page. ``figures`` as `figures.draw` makes them; ``thumbnails`` are ``data:`` addresses by example id."""
    settings = report["lineage"]["settings"]
    model_name = PurePath(settings["model"]["path"]).name
    sides = ("base", "tuned") if report["kind"] == "run" else ("run A", "run B")
    filtering, permission = script(__package__, "gallery.js")
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            figures={name: Markup(svg) for name, svg in figures.items()},  # drawn and escaped by figures.py
            thumbnails=thumbnails,
            style=style(),
            script=filtering,
            permission=permission,
            settings_text=json.dumps(settings, indent=2, ensure_ascii=False),
            title=model_name if report["kind"] == "run" else report["name"],
            sides=sides,
            modalities=sorted({item["modality"] for item in report["gallery"]}),
            errors=sorted(set(chain.from_iterable(item["errors"] for item in report["gallery"]))),
        )
    )


@cache
def _environment() -> Environment:
    made = environment(__package__)
    said = ("signed", "exact", "interval", "duration", "memory", "probability", "judgement", "value_text")
    made.filters |= {name: getattr(words, name) for name in said}
    made.filters |= {"number": number, "quantity": quantity}
    made.globals |= {
        "describe": describe,
        "marked": marked,
        "families": FAMILIES,
        "runtime_keys": RUNTIME_KEYS,
        "corpus_keys": CORPUS_KEYS,
        "signature": SIGNATURE,
        "long_text": LONG_TEXT,
        "in_parts": IN_PARTS,
        "fewest_groups": FEWEST_GROUPS,
        "few_groups": FEW_GROUPS,
    }
    return made
