"""What the ended pods of a Job say: pure functions, the arithmetic of the Job controller."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.fakekube.errors import Json

INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Ended:
    """A pod that has ended, or was removed before it had."""

    pod: Json
    at: float
    """On the monotonic clock."""

    @property
    def succeeded(self) -> bool:
        return bool(self.pod["status"].get("phase") == "Succeeded")


@dataclass
class Tally:
    succeeded: int = 0
    failed: int = 0
    completed: set[int] = field(default_factory=set)
    failures: dict[int, int] = field(default_factory=dict)
    """Failures that count, of each index."""
    lost: set[int] = field(default_factory=set)
    """Indexes that have failed for good."""
    streak: dict[int | None, int] = field(default_factory=dict)
    """Failures since the last success; by index where each has its own limit, else under None."""
    last: dict[int | None, float] = field(default_factory=dict)
    """When the last of them was."""
    fatal: tuple[str, str] | None = None
    """Reason and message, when a pod has failed the whole Job."""


def index_of(pod: Json) -> int | None:
    text = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return None if text is None else int(text)


def tally(spec: Json, ended: list[Ended]) -> Tally:
    """Count the ended pods under the pod failure policy and the limits."""
    found = Tally()
    limit = spec.get("backoffLimitPerIndex")
    for each in sorted(ended, key=lambda e: e.at):
        index = index_of(each.pod)
        key = index if limit is not None else None
        if each.succeeded:
            found.streak[key] = 0
            if index is None or index not in found.completed:
                found.succeeded += 1
            if index is not None:
                found.completed.add(index)
            continue
        action, message = judge(spec, each.pod)
        if action == "FailJob" and found.fatal is None:
            found.fatal = ("PodFailurePolicy", message)
        if action == "Ignore":
            continue
        found.failed += 1
        found.streak[key] = found.streak.get(key, 0) + 1
        found.last[key] = each.at
        if index is not None:
            found.failures[index] = found.failures.get(index, 0) + 1
            if action == "FailIndex" or (limit is not None and found.failures[index] > limit):
                found.lost.add(index)
    return found


def judge(spec: Json, pod: Json) -> tuple[str, str]:
    """The action of the first rule that fits a failed pod, and its message."""
    metadata = pod["metadata"]
    for at, rule in enumerate((spec.get("podFailurePolicy") or {}).get("rules") or []):
        where = f"matching {rule['action']} rule at index {at}"
        for wanted in rule.get("onPodConditions") or []:
            for condition in pod["status"].get("conditions") or []:
                if (condition["type"], condition["status"]) == (wanted["type"], wanted.get("status", "True")):
                    name = f"{metadata['namespace']}/{metadata['name']}"
                    return rule["action"], f"Pod {name} has condition {wanted['type']} {where}"
        if "onExitCodes" in rule:
            found = _container_that_fits(rule["onExitCodes"], pod)
            if found:
                name = f"{metadata['namespace']}/{metadata['name']}"
                words = f"Container {found[0]} for pod {name} failed with exit code {found[1]} {where}"
                return rule["action"], words
    return "Count", ""


def _container_that_fits(rule: Json, pod: Json) -> tuple[str, int] | None:
    status = pod["status"]
    for each in [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]:
        code = ((each.get("state") or {}).get("terminated") or {}).get("exitCode", 0)
        if code == 0 or rule.get("containerName") not in (None, each["name"]):
            continue
        if (code in rule["values"]) == (rule["operator"] == "In"):
            return each["name"], code
    return None


def verdict(spec: Json, found: Tally, running_restarts: int) -> tuple[str, str] | None:
    """Why the Job has failed by now: reason and message; None while it has not."""
    if found.fatal:
        return found.fatal
    limit = spec["backoffLimit"]
    if found.failed > limit or (running_restarts and running_restarts >= limit):
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    most = spec.get("maxFailedIndexes")
    if most is not None and len(found.lost) > most:
        return "MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes"
    if found.lost and len(found.lost) + len(found.completed) >= (spec.get("completions") or 0):
        return "FailedIndexes", "Job has failed indexes"
    return None


def ranges(indexes: set[int]) -> str:
    """``0-2,4``."""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
