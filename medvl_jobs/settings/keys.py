"""The key of every stage, a pure function of the settings.

A key is the hash of the settings that matter to a stage and of the keys that it builds on, so all keys of a run are
known before anything has run. The run must be *pinned* first (see `pipeline.pin`): the fingerprints of the source data
and of the base model are then part of the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.run import RunSettings

STAGE_VERSIONS = {"prep": 2, "train": 2, "eval": 2, "report": 2}
"""Raised by hand when a stage's code makes other output from the same settings; old results are then not reused."""

_NOT_PINNED = "the run is not pinned: call pipeline.pin.pin(settings) first"


@dataclass(frozen=True)
class StageKeys:
    """Keys of one run; where the results lie follows from them (``contracts.layout``)."""

    prep: str
    adapter: str
    """Key of the train stage, or the fingerprint of the adapter given in ``eval.adapter``."""
    eval: dict[Variant, str]
    report: str


def stage_keys(run: RunSettings) -> StageKeys:
    """All keys of a pinned run. Raises ``ValueError`` when the run is not pinned."""
    if run.model.fingerprint is None:
        raise ValueError(_NOT_PINNED)
    prep = prep_key(run)
    looking = [prep, run.model.semantic(), run.prompt.semantic()]
    adapter = run.eval.adapter_fingerprint or _key("train", run.train.semantic(), *looking)
    tuned = f"{adapter}-merged" if run.eval.merges else adapter
    about = {
        Variant.BASE: (None, None),
        Variant.TUNED: (tuned, None),
        Variant.TUNED_SHUFFLED: (tuned, run.eval.shuffle_seed),
        Variant.TUNED_BLANK: (tuned, "blank"),
        Variant.TEMPLATE: (None, "template"),
        Variant.BASE_FORMATTED: (None, {"question": run.eval.format_question}),  # whose words are free
    }
    evaluation = {variant: _key("eval", run.eval.semantic(), *looking, *about[variant]) for variant in variants(run)}
    report = _key("report", run.report.semantic(), run.name, {v.value: key for v, key in evaluation.items()})
    return StageKeys(prep, adapter, evaluation, report)


def prep_key(run: RunSettings) -> str:
    """The key of the first stage, which needs its source alone to be pinned. Raises ``ValueError`` when it is not."""
    if run.prep.source_fingerprint is None:
        raise ValueError(_NOT_PINNED)
    return _key("prep", run.prep.semantic(), run.prompt.semantic() if run.prep.llamafactory_export else None)


def variants(run: RunSettings) -> tuple[Variant, ...]:
    """What a run evaluates, in the order of the report."""
    return (Variant.BASE, Variant.TUNED, *run.eval.controls)


def _key(stage: str, *parts: object) -> str:
    return short_hash([stage, STAGE_VERSIONS[stage], *parts])
