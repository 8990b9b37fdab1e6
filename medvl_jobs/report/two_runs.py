"""``medvl compare``: the tuned models of two finished runs, reported the same way as base and tuned of one."""

from __future__ import annotations

import tempfile
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import DataError, MissingInputError
from medvl_jobs.report.answers import Answers, read_answers, refuse_strangers
from medvl_jobs.report.assemble import assemble
from medvl_jobs.report.files import render
from medvl_jobs.report.frame import Frame
from medvl_jobs.report.inputs import (
    Evidence,
    Example,
    Input,
    ReadFacts,
    read_card,
    read_examples,
    read_images,
    read_log,
)
from medvl_jobs.report.metrics import Naming
from medvl_jobs.report.runs import FinishedRun, differences, find_run
from medvl_jobs.report.shape import Report
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import require_manifest

TUNED = f"eval-{Variant.TUNED}"


def compare_runs(
    storage: Storage, words: tuple[str, str], settings: RunSettings, out: Path, read_facts: ReadFacts | None = None
) -> Report:
    """Report the second run against the first one into the folder ``out``.

    Of ``settings`` only ``report`` and the price are used: no source or model need be within reach. Raises what
    `find_run` raises, and `DataError` when the two were not asked about one example in common.
    """
    first, second = (find_run(storage, word) for word in words)
    with tempfile.TemporaryDirectory(prefix="medvl-compare-") as folder:
        scratch = Path(folder)
        evidence = read_both(storage, first, second, scratch, read_facts)
        report = assemble(evidence, frame_of_runs(first, second, settings))
        shown = [item["example_id"] for item in report["gallery"]]
        images = read_images(storage, _key(second, "prep"), scratch, shown)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in render(report, images, settings.report.thumbnail_pixels).items():
        if "/" not in name:  # the figures are in the page
            (out / name).write_text(text, encoding="utf-8")
    return report


def frame_of_runs(first: FinishedRun, second: FinishedRun, settings: RunSettings) -> Frame:
    """The first run where a report of one has the base model, the second one where it has the tuned one."""
    titles = [f"{run.name}/{run.key[:8]}" for run in (first, second)]
    names = [
        Naming(f"{side}: {title}", f"Run {side}", f"run {side} ({title})")
        for side, title in zip("AB", titles, strict=True)
    ]
    return Frame(
        kind="runs",
        name=" and ".join(titles),
        key=short_hash(["compare", first.key, second.key, settings.report.semantic()]),
        names={Variant.BASE: names[0], Variant.TUNED: names[1]},
        settings=second.settings,
        report=settings.report.model_copy(update={"gates": {}}),  # those speak of base and tuned of one run
        price_per_gpu_hour=settings.plan.price_per_gpu_hour,
        changes={
            "against": f"{first.name}/{first.key}",
            "settings": differences(first.settings, second.settings),
        },
    )


def read_both(
    storage: Storage, first: FinishedRun, second: FinishedRun, scratch: Path, read_facts: ReadFacts | None
) -> Evidence:
    """The tuned answers of both to the examples that both were asked about, with the same reference and truth."""
    whole = [read_examples(storage, _key(run, "prep"), scratch, read_facts) for run in (first, second)]
    splits = [split[: run.limit] for run, split in zip((first, second), whole, strict=True)]
    known = {example.example_id: (example.caption, example.facts) for example in splits[0]}
    common = tuple(each for each in splits[1] if known.get(each.example_id) == (each.caption, each.facts))
    if not common:
        raise DataError(
            "the two runs were not asked about one example in common",
            where=f"{first.name}/{first.key} and {second.name}/{second.key}",
            remedy="compare runs with the same source and the same split: prep.val_ratio, prep.split_seed",
        )
    answers = {
        variant: _answers(storage, run, split, {example.example_id for example in common})
        for variant, run, split in zip((Variant.BASE, Variant.TUNED), (first, second), splits, strict=True)
    }
    inputs = [*_inputs(storage, first, "A"), *_inputs(storage, second, "B")]
    once = {each.prefix: each for each in reversed(inputs)}  # what both build on is named once, as the first one's
    cards = [read_card(storage, layout.prepared(_key(run, "prep"))) for run in (first, second)]
    apart = _key(first, "prep") != _key(second, "prep")
    most = max(len(split) for split in whole)
    ordered = tuple(each for each in inputs if once[each.prefix] is each)
    trainings = {
        variant: read_log(storage, each.prefix, each.manifest)
        for variant, side in ((Variant.BASE, "A"), (Variant.TUNED, "B"))
        for each in inputs
        if each.stage == f"{side} train"
    }
    return Evidence(ordered, cards[1], common, most, answers, trainings, cards[0] if apart else None)


def _answers(storage: Storage, run: FinishedRun, split: tuple[Example, ...], common: set[str]) -> Answers:
    prefix = layout.predictions(_key(run, TUNED))
    answers = read_answers(storage, prefix)
    refuse_strangers(answers, [example.example_id for example in split], prefix)
    return answers.only(common)


def _inputs(storage: Storage, run: FinishedRun, side: str) -> list[Input]:
    """What the tuned model's answers were made of; an adapter that was given has no stage of its own."""
    places = {
        "prep": (layout.prepared, "prep"),
        "train": (layout.adapter, "train"),
        TUNED: (layout.predictions, "eval"),
    }
    return [
        Input(f"{side} {stage}", place(run.stages[stage]), require_manifest(storage, place(run.stages[stage]), made_by))
        for stage, (place, made_by) in places.items()
        if stage in run.stages
    ]


def _key(run: FinishedRun, stage: str) -> str:
    if stage not in run.stages:
        what = f"the report of '{run.name}/{run.key}' names no stage {stage}"
        raise MissingInputError(what, remedy="make it again with this version of medvl: `medvl report`")
    return run.stages[stage]
