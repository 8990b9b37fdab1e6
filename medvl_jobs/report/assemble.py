"""``report.json`` from the evidence: everything that the page and the Markdown say, as one plain dict. Pure."""

from __future__ import annotations

import math

from medvl_jobs.contracts.curve import smooth
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.report import gallery
from medvl_jobs.report.caveats import caveats
from medvl_jobs.report.compare import by_modality, overall, pair, summarise
from medvl_jobs.report.inputs import Evidence, TrainingRun
from medvl_jobs.report.shape import SCHEMA_VERSION, Cost, Data, Lineage, Report, StageLineage, Training
from medvl_jobs.report.verdict import judge
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings

_DECIMALS = 6


def assemble(evidence: Evidence, settings: RunSettings, keys: StageKeys) -> Report:
    """The whole report. The same evidence and settings give the same dict."""
    examples = evidence.examples
    paired = pair(examples, evidence.answers)
    whole = overall(paired, examples, settings.report)
    variants = [summarise(variant, given, examples, keys) for variant, given in evidence.answers.items()]
    chosen = gallery.choose(examples, settings.report)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": settings.name,
        "key": keys.report,
        "verdict": judge(whole),
        "variants": variants,
        "overall": whole,
        "modalities": by_modality(paired, examples, settings.report),
        "training": training(evidence.training) if evidence.training else None,
        "data": _data(evidence),
        "gallery": gallery.items(chosen, evidence, whole["headline"]["metric"]),
        "costs": [_cost(stage, manifest) for stage, manifest in _stages(evidence)],
        "lineage": lineage(evidence, settings),
        "caveats": caveats(evidence, settings, whole, variants),
    }


def training(run: TrainingRun) -> Training:
    """The curve, raw and smoothed, and the totals. A log step whose loss is NaN is left out of the curve."""
    lines = [line for line in run.log if line["loss"] is not None and math.isfinite(line["loss"])]
    losses = [float(line["loss"]) for line in lines]
    return {
        "steps": [int(line["current_steps"]) for line in lines],
        "loss": losses,
        "smoothed": [round(value, _DECIMALS) for value in smooth(losses)],
        "results": run.results,
        "counts": run.manifest.counts,
    }


def _data(evidence: Evidence) -> Data:
    return {
        "examples": len(evidence.examples),
        "groups": len({example.group for example in evidence.examples}),
        "validation_examples": evidence.validation_examples,
        "card": evidence.card,
    }


def _stages(evidence: Evidence) -> list[tuple[str, Manifest]]:
    trained = [("train", evidence.training.manifest)] if evidence.training else []
    evaluated = [(f"eval-{variant.value}", given.manifest) for variant, given in evidence.answers.items()]
    return [("prep", evidence.prepared), *trained, *evaluated]


def _cost(stage: str, manifest: Manifest) -> Cost:
    return {
        "stage": stage,
        "wall_seconds": round(manifest.wall_seconds, 2),
        "gpu_seconds": round(manifest.gpu_seconds, 2),
        "peak_memory_bytes": manifest.peak_memory_bytes,
    }


def lineage(evidence: Evidence, settings: RunSettings) -> Lineage:
    """Where everything comes from."""
    versions: dict[str, set[str]] = {}
    for _, manifest in _stages(evidence):
        for library, version in manifest.library_versions.items():
            versions.setdefault(library, set()).add(version)
    return {
        "stages": [_stage_lineage(stage, manifest) for stage, manifest in _stages(evidence)],
        "library_versions": {library: " / ".join(sorted(versions[library])) for library in sorted(versions)},
        "settings": settings.model_dump(mode="json"),
    }


def _stage_lineage(stage: str, manifest: Manifest) -> StageLineage:
    return {
        "stage": stage,
        "key": manifest.key,
        "code_version": manifest.code_version,
        "git_sha": manifest.git_sha,
        "image_digest": manifest.image_digest,
        "created_at": manifest.created_at.isoformat(),
    }
