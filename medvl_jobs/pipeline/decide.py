"""What to do next about one stage on a cluster, from what is seen and nothing else. Pure: no clock, no API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from medvl_jobs.cluster.status import (
    Json,
    Phase,
    age_seconds,
    alive,
    failure_of,
    gave_up,
    last_words,
    owners,
    phase,
    trouble,
)
from medvl_jobs.errors import GaveUpError, MedvlError, SchemaMismatchError, error_class
from medvl_jobs.pipeline.children import GENERATION
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.settings.cluster import ClusterSettings


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
    why: str = ""
    """What went wrong with the attempt before."""


@dataclass(frozen=True)
class Fail:
    """The stage has failed for good."""

    error: MedvlError
    pods: Sequence[Json] = field(default=())
    """Whose logs say more."""
    give_up: Json | None = None
    """The child to suspend, if it would go on trying for ever."""


Move = Done | Wait | Create | Fail


def decide(stage: Stage, seen: Seen, settings: ClusterSettings) -> Move:
    """The next move for a stage whose inputs are there."""
    if seen.finished:
        return Done()
    newest = seen.children[-1] if seen.children else None
    if newest and not _is_over(newest):
        return _under_way(stage, newest, _pods_of(newest, seen.pods), settings, seen.now)
    if other := _in_the_way(seen):
        return Wait(f"waits until {other} has ended, which makes the same")
    if newest is None:
        return Create(1)
    return _after_the_end(stage, seen.children, _pods_of(newest, seen.pods), settings)


def _under_way(stage: Stage, child: Json, pods: list[Json], settings: ClusterSettings, now: datetime) -> Move:
    name = child["metadata"]["name"]
    words = last_words(pods)
    if words and words.permanent and child["kind"] == "PyTorchJob":
        # A Job has a pod failure policy; the training operator would start the container again and again.
        error = error_class(words.exit_code)(f"{stage.name} failed: {words.reason}", where=name, remedy=words.remedy)
        return Fail(error, pods, give_up=child)
    state = phase(child)
    for pod in pods:
        hindrance = trouble(pod)
        if hindrance and hindrance.stuck and age_seconds(pod, now) > settings.give_up_after_seconds:
            remedy = "mend it, then 'helm upgrade' with the mended values, or with attempt raised by one"
            what = f"{stage.name} cannot start: {hindrance}"
            return Fail(GaveUpError(what, where=pod["metadata"]["name"], remedy=remedy), give_up=child)
        if hindrance:
            return Wait(f"waits: {hindrance}", pod["metadata"]["name"])
    if state is Phase.QUEUED:
        return Wait(f"queued ({name} is suspended until there is room)")
    running = [pod["metadata"]["name"] for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    if not running:
        return Wait(f"starts ({name})")
    tried = f", after: {words.reason}" if words else ""
    return Wait(f"runs ({name}{tried})", running[0])


def _after_the_end(
    stage: Stage, children: Sequence[Json], pods: list[Json], settings: ClusterSettings
) -> Create | Fail:
    newest = children[-1]
    if phase(newest) is Phase.SUCCEEDED:
        return Fail(_left_nothing(stage, newest), pods)
    noted, words = gave_up(newest), last_words(pods)
    code = noted["exit_code"] if noted else words.exit_code if words else None
    reason = noted["reason"] if noted else words.reason if words else failure_of(newest)
    remedy = noted["remedy"] if noted else words.remedy if words else ""
    generation = str(settings.generation)
    of_this_generation = [each for each in children if each["metadata"]["labels"].get(GENERATION) == generation]
    if newest not in of_this_generation:
        return Create(len(children) + 1, f"an attempt of an earlier generation failed: {reason}")
    where = newest["metadata"]["name"]
    kind = error_class(code) if code is not None else None
    if noted or (kind and words and words.permanent):
        return Fail((kind or MedvlError)(f"{stage.name} failed: {reason}", where=where, remedy=remedy), pods)
    if len(of_this_generation) >= settings.attempts:
        what = f"{stage.name} failed in {len(of_this_generation)} attempts, at last: {reason}"
        again = "then 'helm upgrade' with attempt raised by one"
        return Fail(GaveUpError(what, where=where, remedy=f"{remedy}; {again}" if remedy else again), pods)
    return Create(len(children) + 1, reason)


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
