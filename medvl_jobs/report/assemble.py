"""``report.json`` from the evidence: everything that the page and the Markdown say, as one plain dict. Pure."""

from __future__ import annotations

import math

from medvl_jobs.contracts.curve import smooth
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.report import gallery
from medvl_jobs.report.caveats import caveats
from medvl_jobs.report.compare import compare, pair
from medvl_jobs.report.frame import Frame
from medvl_jobs.report.gates import gates_now
from medvl_jobs.report.inputs import Evidence, Input, TrainingRun
from medvl_jobs.report.profile import distribution, lengths, summarise
from medvl_jobs.report.shape import Report
from medvl_jobs.report.shape_making import Cost, Costs, Data, Lineage, StageLineage, Training
from medvl_jobs.report.verdict import judge
from medvl_jobs.settings.eval import Variant

_DECIMALS = 6


def assemble(evidence: Evidence, frame: Frame) -> Report:
    """The whole report. The same evidence and frame give the same dict."""
    examples, names = evidence.examples, frame.names
    paired = pair(examples, evidence.answers)
    whole, slicings = compare(paired, examples, names, frame.report)
    headline = whole["headline"]["metric"]
    variants = [summarise(v, given, examples, names[v]) for v, given in evidence.answers.items()]
    chosen = gallery.choose(examples, frame.report)
    return {
        "schema_version": 2,
        "kind": frame.kind,
        "name": frame.name,
        "key": frame.key,
        "verdict": judge(whole, frame),
        "gates": gates_now(whole, frame.report.gates),
        "variants": variants,
        "overall": whole,
        "slicings": slicings,
        "distribution": distribution(next(each for each in paired if each.metric == headline)),
        "lengths": lengths(examples, evidence.answers),
        "trainings": [training(variant, run) for variant, run in evidence.trainings.items() if run.log],
        "data": _data(evidence),
        "gallery": gallery.items(chosen, evidence, headline, names),
        "costs": costs(evidence, frame.price_per_gpu_hour),
        "lineage": lineage(evidence, frame),
        "caveats": caveats(evidence, frame, whole, variants),
    }


def training(variant: Variant, run: TrainingRun) -> Training:
    """The curve, raw and smoothed, and the totals. A log step whose loss is NaN is left out of the curve."""
    lines = [line for line in run.log if line["loss"] is not None and math.isfinite(line["loss"])]
    losses = [float(line["loss"]) for line in lines]
    return {
        "variant": variant.value,
        "steps": [int(line["current_steps"]) for line in lines],
        "loss": losses,
        "smoothed": [round(value, _DECIMALS) for value in smooth(losses)],
        "results": {name: value for name, value in run.results.items() if not isinstance(value, str)},
        "counts": run.manifest.counts,
    }


def _data(evidence: Evidence) -> Data:
    return {
        "examples": len(evidence.examples),
        "groups": len({example.group for example in evidence.examples}),
        "validation_examples": evidence.validation_examples,
        "card": evidence.card,
    }


def costs(evidence: Evidence, price_per_gpu_hour: float | None) -> Costs:
    """What each stage took, and all of them."""
    speeds = {
        given.manifest.key: given.results.get("predict_samples_per_second") for given in evidence.answers.values()
    }
    stages = [_cost(each.stage, each.manifest, speeds, price_per_gpu_hour) for each in evidence.inputs]
    gpu_seconds = sum(each.manifest.gpu_seconds for each in evidence.inputs)
    return {
        "price_per_gpu_hour": price_per_gpu_hour,
        "stages": stages,
        "wall_seconds": round(sum(each.manifest.wall_seconds for each in evidence.inputs), 2),
        "gpu_seconds": round(gpu_seconds, 2),
        "money": _money(gpu_seconds, price_per_gpu_hour),
    }


def _cost(stage: str, manifest: Manifest, speeds: dict[str, float | str | None], price: float | None) -> Cost:
    speed = speeds.get(manifest.key)
    return {
        "stage": stage,
        "wall_seconds": round(manifest.wall_seconds, 2),
        "gpu_seconds": round(manifest.gpu_seconds, 2),
        "money": _money(manifest.gpu_seconds, price),
        "examples_per_second": float(speed) if speed is not None else None,
        "peak_memory_bytes": manifest.peak_memory_bytes,
    }


def _money(gpu_seconds: float, price_per_gpu_hour: float | None) -> float | None:
    return None if price_per_gpu_hour is None else round(gpu_seconds / 3600 * price_per_gpu_hour, 4)


def lineage(evidence: Evidence, frame: Frame) -> Lineage:
    """Where everything comes from."""
    versions: dict[str, set[str]] = {}
    for each in evidence.inputs:
        for library, version in each.manifest.library_versions.items():
            versions.setdefault(library, set()).add(version)
    return {
        "stages": [_stage_lineage(each) for each in evidence.inputs],
        "library_versions": {library: " / ".join(sorted(versions[library])) for library in sorted(versions)},
        "settings": frame.settings,
        "changes": frame.changes,
    }


def _stage_lineage(made: Input) -> StageLineage:
    manifest = made.manifest
    return {
        "stage": made.stage,
        "key": manifest.key,
        "fingerprint": made.ref.fingerprint,
        "code_version": manifest.code_version,
        "git_sha": manifest.git_sha,
        "image_digest": manifest.image_digest,
        "created_at": manifest.created_at.isoformat(),
    }
