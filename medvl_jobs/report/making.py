"""Caveats about how the answers were made: the adapter, the prompt, the engine, the code. See `caveats`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from medvl_jobs.page.words import quantity
from medvl_jobs.report.compare import not_for_all
from medvl_jobs.report.frame import Frame
from medvl_jobs.report.inputs import Evidence
from medvl_jobs.report.metrics import describe
from medvl_jobs.settings.eval import Variant

Found = Iterator[tuple[str, str]]

_GREEDY = {"temperature": (0, None), "do_sample": (False, None)}
"""Generation settings that leave the answer to the model alone."""


def about_making(evidence: Evidence, frame: Frame) -> Found:
    """Names and texts."""
    if frame.kind == "runs":
        yield from _about_runs(evidence)
        for side in (Variant.BASE, Variant.TUNED):
            yield from _about_adapter(evidence, side, f" of {frame.names[side].subject}")
    else:
        yield from _about_adapter(evidence, Variant.TUNED, "")
    yield from _about_engines(evidence)
    yield from _about_code(evidence)


def _differing(first: dict[str, Any] | None, second: dict[str, Any] | None) -> str:
    """The settings of the prompt that differ; empty where none does, or one of the two is not known."""
    first, second = first or {}, second or {}
    names = sorted({*first, *second}) if first and second else []
    return ", ".join(f"prompt.{name}" for name in names if first.get(name) != second.get(name))


def _about_runs(evidence: Evidence) -> Found:
    """What makes two runs another comparison than that of their adapters."""
    made = [evidence.answers[side].manifest for side in (Variant.BASE, Variant.TUNED)]
    if made[0].key == made[1].key:
        yield "same answers", f"The two runs share their tuned model's answers ({made[0].key}): they cannot differ."
    first, second = (each.settings for each in made)
    if changed := _differing(first.get("prompt"), second.get("prompt")):
        yield "different prompts", f"The two runs were asked with different prompts ({changed} differs)."
    if evidence.first_card is not None:
        apart = "the same image may be stored in another way, and other rows may have been trained on"
        yield "different data", f"The two runs read different prepared datasets: {apart}."


def _about_adapter(evidence: Evidence, side: Variant, whose: str) -> Found:
    """What is not known of the adapter behind one side's answers; ``whose`` it is, where there are two."""
    tuned, training = evidence.answers[side].manifest.settings, evidence.trainings.get(side)
    if tuned.get("eval", {}).get("adapter"):
        given = f"The adapter{whose} was given, not trained by the run"
        yield "foreign adapter", f"{given}: whether it has seen these validation images is not known."
        if not training:
            yield "prompt unknown", f"With which question the adapter{whose} was trained is not known either."
    if training and (changed := _differing(training.manifest.settings.get("prompt"), tuned.get("prompt"))):
        asked = f"The adapter{whose} was trained with another prompt than it was asked with ({changed} differs)"
        yield "another prompt", f"{asked}: it may do better with its own."


def _about_engines(evidence: Evidence) -> Found:
    settings = {v: given.manifest.settings.get("eval", {}) for v, given in evidence.answers.items()}
    engines = {v: each.get("engine", "transformers") for v, each in settings.items() if v.has_model}
    if "openai" in engines.values():
        servers = [settings[v].get("server", {}) for v, each in engines.items() if each == "openai"]
        canaries = {server.get("canary", 0) for server in servers}
        unpaid = "; its GPUs are not in the costs" if any(server.get("url") for server in servers) else ""
        if 0 in canaries:
            unchecked = "its log-probabilities were not compared with those of this program's own engine"
            yield "server unchecked", f"A server gave the answers, and {unchecked} (eval.server.canary is 0){unpaid}."
        else:
            few = quantity(min(canaries), "example")
            yield (
                "server",
                f"A server gave the answers; its log-probabilities were compared on {few} beforehand{unpaid}.",
            )
    if len(set(engines.values())) > 1:
        yield "different engines", "The variants were answered by different engines, which round differently."
    if drawn := sorted({name for each in settings.values() for name in _sampled(each)}):
        again = "another run gives other answers, which the intervals know nothing of"
        yield "sampling", f"Answers were drawn at random ({', '.join(drawn)}): {again}."


def _sampled(settings: dict[str, Any]) -> Iterator[str]:
    """Settings, at any depth, with which an answer is not the most likely one."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _sampled(value)
        elif name in _GREEDY and value not in _GREEDY[name]:
            yield f"{name} {value}"


def _about_code(evidence: Evidence) -> Found:
    made = [given.manifest for given in evidence.answers.values()]
    if any((each.git_sha or "").endswith("-dirty") for each in made):
        changed = "The answers were made by code with uncommitted changes"
        yield "uncommitted code", f"{changed}: the commit alone does not reproduce them."
    if len({(each.code_version, each.git_sha) for each in made}) > 1:
        yield "different code", "The variants were answered by different versions of the code (see the lineage)."
    if len({tuple(sorted(each.library_versions.items())) for each in made}) > 1:
        yield "different libraries", "The variants were answered with different library versions (see the lineage)."
    if missing := not_for_all(evidence.answers):
        labels = ", ".join(describe(name).label for name in missing)
        yield "scores left out", f"Not computed for every variant, and so left out: {labels}."
