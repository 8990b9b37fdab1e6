"""What the objects of a cluster say: tables from conditions and pod states to the few words that decide anything.

Pure functions over objects in the API's own JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from medvl_jobs.errors import PERMANENT

Json = dict[str, Any]

GAVE_UP = "medvl.io/gave-up"
"""Annotation with the reason, on a child that the coordinator has ended."""


class Phase(StrEnum):
    """Where a child stands."""

    QUEUED = "queued"
    """Suspended by somebody else, as Kueue does until there is room."""
    WAITING = "waiting"
    """Created, and no pod runs yet."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


_JOB = (("Complete", Phase.SUCCEEDED), ("Failed", Phase.FAILED), ("Suspended", Phase.QUEUED))
_PYTORCHJOB = (
    ("Succeeded", Phase.SUCCEEDED),
    ("Failed", Phase.FAILED),
    ("Suspended", Phase.QUEUED),
    ("Running", Phase.RUNNING),
)


def phase(child: Json) -> Phase:
    """The phase of a Job or a PyTorchJob, from its conditions; the first that is true decides."""
    true = {c["type"] for c in _status(child).get("conditions") or [] if c["status"] == "True"}
    table = _JOB if child["kind"] == "Job" else _PYTORCHJOB
    found = next((meaning for condition, meaning in table if condition in true), None)
    if found in (Phase.SUCCEEDED, Phase.FAILED):
        return found
    if gave_up(child) is not None:
        return Phase.FAILED
    if found is None and _status(child).get("ready"):
        return Phase.RUNNING
    return found or Phase.WAITING


def gave_up(child: Json) -> Json | None:
    """The last words that the coordinator has noted on a child that it has given up, if it has."""
    noted = (child["metadata"].get("annotations") or {}).get(GAVE_UP)
    return json.loads(noted) if noted else None


def failure_of(child: Json) -> str:
    """Why a child failed, in the words of its controller."""
    for condition in _status(child).get("conditions") or []:
        if condition["type"] == "Failed" and condition["status"] == "True":
            return f"{condition.get('reason', 'Failed')}: {condition.get('message', '')}".rstrip(": ")
    return "Failed"


@dataclass(frozen=True)
class LastWords:
    """What a container said as it ended."""

    exit_code: int
    reason: str
    remedy: str = ""
    finished_at: str = ""
    pod: str = ""

    @property
    def permanent(self) -> bool:
        """Whether another attempt is of no use."""
        return self.exit_code in PERMANENT


def last_words(pods: list[Json]) -> LastWords | None:
    """Of all containers of all pods that have ended badly, what the last one said; none when none has.

    Before all others one to whom trying again is of no use: the rest often fail because it has.
    """
    found = [words for pod in pods for words in _terminations(pod)]
    return max(found, key=lambda words: (words.permanent, words.finished_at), default=None)


def _terminations(pod: Json) -> Iterator[LastWords]:
    for container in _containers(pod):
        for state in ("state", "lastState"):
            ended = (container.get(state) or {}).get("terminated")
            if ended and ended["exitCode"] != 0:
                yield replace(_words(ended), pod=pod["metadata"]["name"])
                break


def _words(ended: Json) -> LastWords:
    code, text = ended["exitCode"], (ended.get("message") or "").strip()
    finished = str(ended.get("finishedAt") or "")
    try:
        said = json.loads(text.splitlines()[-1]) if text else None
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and "reason" in said:
        where = f" ({said['where']})" if said.get("where") else ""
        return LastWords(code, f"{said['reason']}{where}", str(said.get("remedy", "")), finished)
    if ended.get("reason") == "OOMKilled":
        return LastWords(code, "killed: out of memory", "raise resources.limits.memory of this stage", finished)
    return LastWords(code, text or f"{ended.get('reason') or 'Error'}, exit code {code}", "", finished)


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start."""

    reason: str
    message: str
    stuck: bool
    """Whether only a person can help; a pod that waits for room is not stuck."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


_STUCK = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
_IN_ORDER = {"ContainerCreating", "PodInitializing", "CrashLoopBackOff"}


def trouble(pod: Json) -> Trouble | None:
    """What keeps a pod from running, if anything does."""
    if not alive(pod):
        return None
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason and reason not in _IN_ORDER:
            return Trouble(reason, waiting.get("message", ""), reason in _STUCK)
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Trouble(condition.get("reason", "Unschedulable"), condition.get("message", ""), stuck=False)
    return None


def init_restarts(pod: Json) -> int:
    """How often an init container was started again. The training operator counts restarts of running pods alone."""
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or []
    return max((int(each.get("restartCount") or 0) for each in statuses), default=0)


def seconds_ready_to_start(pod: Json, now: datetime) -> float:
    """Seconds since a container could have started: the pod has its node, and what ran in it before has ended.

    Hours in a queue, 60 GB that are fetched first, a container that ran and is started again: all that is no fault.
    0 without a node.
    """
    conditions = (pod.get("status") or {}).get("conditions") or []
    bound = [c.get("lastTransitionTime") for c in conditions if c["type"] == "PodScheduled" and c["status"] == "True"]
    states = [container.get(state) or {} for container in _containers(pod) for state in ("state", "lastState")]
    ended = [(state.get("terminated") or {}).get("finishedAt") for state in states]
    times = [datetime.fromisoformat(each.replace("Z", "+00:00")) for each in (*bound, *ended) if each]
    return (now - max(times)).total_seconds() if times else 0.0


def alive(pod: Json) -> bool:
    """Whether a pod may still write; one that is being deleted may, until it is gone."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def owners(obj: Json) -> set[str]:
    """The uids of all owners."""
    return {owner["uid"] for owner in obj["metadata"].get("ownerReferences") or []}


def _containers(pod: Json) -> list[Json]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _status(child: Json) -> Json:
    return child.get("status") or {}
