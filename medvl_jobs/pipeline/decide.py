"""What to do next about one stage on a cluster, from what is seen and nothing else. Pure: no clock, no API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from medvl_jobs.cluster.status import (
    Json,
    LastWords,
    Phase,
    alive,
    failure_of,
    gave_up,
    init_restarts,
    last_words,
    owners,
    phase,
    seconds_ready_to_start,
    trouble,
)
from medvl_jobs.errors import GaveUpError, MedvlError, SchemaMismatchError, error_class
from medvl_jobs.page.words import quantity
from medvl_jobs.pipeline.children import ATTEMPT, GENERATION, TRIED
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.settings.cluster import ClusterSettings

INIT_RESTARTS = 5
"""With the kubelet's back-off of 10 s, 20 s, … five minutes for something like the model cache to come right."""


@dataclass(frozen=True)
class Seen:
    """Everything about one stage, read in this order: children, pods, then the store."""

    children: Sequence[Json]
    """Of this very plan, oldest first."""
    others: Sequence[Json]
    """Of other plans, that make the same output."""
    pods: Sequence[Json]
    """Of all of these, and of some that are gone."""
    finished: bool
    """Whether the output's manifest is in the store."""
    now: datetime
    podless_seconds: float = 0.0
    """How long the newest child has been seen without any pod, though nothing holds it back."""
    warning: str | None = None
    """What Kubernetes says about that."""


@dataclass(frozen=True)
class Done:
    """The stage is finished."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do but wait; why, for a person."""

    state: str
    pod: str | None = None
    """The pod whose log one may want to follow."""


@dataclass(frozen=True)
class Create:
    """Create the child of this attempt."""

    attempt: int
    """Of all attempts at this output: part of the name."""
    tried: int
    """Of those of this generation: what ``cluster.attempts`` limits."""
    why: str = ""
    """What went wrong with the attempt before."""


@dataclass(frozen=True)
class Fail:
    """The stage has failed for good."""

    error: MedvlError
    pod: Json | None = None
    """Whose log says more."""
    give_up: Json | None = None
    """The child to end, if it would go on trying for ever."""


Move = Done | Wait | Create | Fail


def decide(stage: Stage, seen: Seen, settings: ClusterSettings) -> Move:
    """The next move for a stage whose inputs are there."""
    if seen.finished:
        return Done()
    newest = seen.children[-1] if seen.children else None
    if newest and not _is_over(newest):
        return _under_way(stage, newest, _pods_of(newest, seen.pods), seen, settings)
    if other := _in_the_way(seen):
        return Wait(f"waits until {other} has ended, which makes the same")
    if newest is None:
        return Create(1, 1)
    return _after_the_end(stage, newest, _pods_of(newest, seen.pods), settings)


def _under_way(stage: Stage, child: Json, pods: list[Json], seen: Seen, settings: ClusterSettings) -> Move:
    name, words = child["metadata"]["name"], last_words(pods)
    if words and words.permanent and child["kind"] == "PyTorchJob":
        # A Job has a pod failure policy; the training operator would start the container again and again.
        error = error_class(words.exit_code)(f"{stage.name} failed: {words.reason}", where=name, remedy=words.remedy)
        return Fail(error, _speaker(words, pods), give_up=child)
    if hindered := _hindered(stage, child, pods, seen, settings):
        return hindered
    if phase(child) is Phase.QUEUED:
        return Wait(f"queued ({name} is suspended until there is room)")
    running = [pod["metadata"]["name"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    after = f", after: {words.reason}" if words else ""
    return Wait(f"runs ({name}{after})", running[0]) if running else Wait(f"starts ({name}{after})")


def _hindered(stage: Stage, child: Json, pods: list[Json], seen: Seen, settings: ClusterSettings) -> Wait | Fail | None:
    """What to do about a pod that cannot start, or that is not even made; none when nothing is in the way."""
    for pod in pods:
        if init_restarts(pod) > INIT_RESTARTS and (words := last_words([pod])):
            return _cannot_start(stage, child, pod["metadata"]["name"], words.reason)
    found = [(hindrance, pod) for pod in pods if (hindrance := trouble(pod))]
    for hindrance, pod in found:
        if hindrance.stuck and seconds_ready_to_start(pod, seen.now) > settings.give_up_after_seconds:
            return _cannot_start(stage, child, pod["metadata"]["name"], str(hindrance))
    if found:
        hindrance, pod = max(found, key=lambda each: each[0].stuck)  # room comes by itself, an image does not
        return Wait(f"waits: {hindrance}", pod["metadata"]["name"])
    if seen.podless_seconds > settings.give_up_after_seconds:
        return _cannot_start(stage, child, child["metadata"]["name"], seen.warning or "its controller makes no pod")
    return Wait(f"waits: {seen.warning}") if seen.warning else None


def _cannot_start(stage: Stage, child: Json, where: str, why: str) -> Fail:
    remedy = "mend it, then 'helm upgrade' with the mended values, or with attempt raised by one"
    return Fail(GaveUpError(f"{stage.name} cannot start: {why}", where=where, remedy=remedy), give_up=child)


def _after_the_end(stage: Stage, newest: Json, pods: list[Json], settings: ClusterSettings) -> Create | Fail:
    attempt, tried = _number(newest, ATTEMPT) + 1, _number(newest, TRIED) + 1
    noted, words = gave_up(newest), last_words(pods)
    code = noted["exit_code"] if noted else words.exit_code if words else None
    reason = noted["reason"] if noted else words.reason if words else failure_of(newest)
    remedy = noted["remedy"] if noted else words.remedy if words else ""
    succeeded = phase(newest) is Phase.SUCCEEDED
    if _number(newest, GENERATION) != settings.generation:
        before = "what an earlier generation made is gone" if succeeded else f"an earlier generation failed: {reason}"
        return Create(attempt, 1, before)
    if succeeded:
        return Fail(_left_nothing(stage, newest), _speaker(None, pods))
    where = newest["metadata"]["name"]
    kind = error_class(code) if code is not None else MedvlError
    if noted or kind.permanent:
        what = reason if noted else f"{stage.name} failed: {reason}"
        return Fail(kind(what, where=where, remedy=remedy), _speaker(words, pods))
    if tried > settings.attempts:
        what = f"{stage.name} failed in {quantity(settings.attempts, 'attempt')}, at last: {reason}"
        again = "then 'helm upgrade' with attempt raised by one"
        error = GaveUpError(what, where=where, remedy=f"{remedy}; {again}" if remedy else again)
        return Fail(error, _speaker(words, pods))
    return Create(attempt, tried, reason)


def _speaker(words: LastWords | None, pods: Sequence[Json]) -> Json | None:
    """The pod that the words are from, else the last one."""
    named = [pod for pod in pods if words and pod["metadata"]["name"] == words.pod]
    return [*pods, *named][-1] if pods else None


def _number(child: Json, label: str) -> int:
    return int(child["metadata"]["labels"].get(label, 1))


def _left_nothing(stage: Stage, child: Json) -> MedvlError:
    return SchemaMismatchError(
        f"{stage.name} ended well but left no manifest",
        where=f"{child['metadata']['name']}, {stage.prefix}",
        remedy="give all images of the chart the same version: another version has other keys",
    )


def _is_over(child: Json) -> bool:
    return phase(child) in (Phase.SUCCEEDED, Phase.FAILED)


def _in_the_way(seen: Seen) -> str | None:
    """What still makes the same output: a child of another plan, or a pod that has outlived its child."""
    for child in seen.others:
        if not _is_over(child):
            return str(child["metadata"]["name"])
    own = {child["metadata"]["uid"] for child in seen.children if not _is_over(child)}
    for pod in seen.pods:
        if alive(pod) and not owners(pod) & own:
            return str(pod["metadata"]["name"])
    return None


def _pods_of(child: Json, pods: Sequence[Json]) -> list[Json]:
    return [pod for pod in pods if child["metadata"]["uid"] in owners(pod)]
