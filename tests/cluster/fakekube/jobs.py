"""The controller of ``batch/v1`` Jobs."""

from __future__ import annotations

import copy
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from typing import Any

from cluster.fakekube.clock import now, seconds_since
from cluster.fakekube.errors import ApiError, Json
from cluster.fakekube.events import Recorder
from cluster.fakekube.job_tally import INDEX, Ended, Tally, index_of, ranges, tally, verdict
from cluster.fakekube.objects import DeleteOptions, Objects
from cluster.fakekube.owners import owned_by, owner_reference
from cluster.fakekube.resources import JOB, POD
from cluster.fakekube.store import Change

LONGEST_BACKOFF = 16
"""Times the first back-off."""


class JobController:
    """``backoff_seconds`` is the first delay after a failed pod; ten seconds in Kubernetes, and it doubles."""

    def __init__(self, objects: Objects, backoff_seconds: float) -> None:
        self._objects, self._backoff = objects, backoff_seconds
        self._events = Recorder(objects, "job-controller")
        self._ended: dict[str, dict[str, Ended]] = defaultdict(dict)
        self._dismissed: set[str] = set()
        """Pods that were deleted to suspend their Job: no failures."""
        objects.store.listeners.append(self._note)

    def _note(self, change: Change) -> None:
        """Remember every pod that ends; it may be gone before the next step. Kubernetes uses a finalizer for this."""
        if change.resource != POD:
            return
        pod = change.object
        owner = next((o for o in pod["metadata"].get("ownerReferences") or [] if o.get("controller")), None)
        if owner is None or owner["kind"] != "Job" or pod["metadata"]["uid"] in self._dismissed:
            return
        if change.after is None or pod["status"].get("phase") in ("Succeeded", "Failed"):
            ended = self._ended[owner["uid"]]
            ended.setdefault(pod["metadata"]["uid"], Ended(pod, time.monotonic()))

    def step(self) -> None:
        for job in self._objects.list(JOB):
            if job["metadata"].get("deletionTimestamp") or job["spec"].get("managedBy"):
                continue
            with suppress(ApiError):
                if is_finished(job):
                    self._expire(job)
                else:
                    self._sync(job)

    def _expire(self, job: Json) -> None:
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        ended = next(
            c["lastTransitionTime"] for c in job["status"]["conditions"] if c["type"] in ("Complete", "Failed")
        )
        if ttl is not None and seconds_since(ended) >= ttl:
            metadata = job["metadata"]
            options = DeleteOptions(propagation="Foreground", uid=metadata["uid"])
            self._objects.delete(JOB, metadata["namespace"], metadata["name"], options)

    def _sync(self, job: Json) -> None:
        with self._objects.store.lock:
            pods = owned_by(self._objects, POD, job)
            ended = dict(self._ended[job["metadata"]["uid"]])
        live = [pod for pod in pods if pod["metadata"]["uid"] not in ended]
        active = [pod for pod in live if not pod["metadata"].get("deletionTimestamp")]
        found = tally(job["spec"], list(ended.values()))
        conditions = list(job["status"].get("conditions") or [])
        start = job["status"].get("startTime")
        suspended = bool(job["spec"].get("suspend"))
        failure = self._failure(job, found, active, start) if not suspended else None
        if failure or self._is_complete(job, found, active):
            self._finish(job, conditions, live, failure)
        elif suspended:
            start = None
            self._suspend(job, conditions, active)
            active = []
        else:
            start = start or now()
            if is_condition(conditions, "Suspended"):
                start = now()
                set_condition(conditions, "Suspended", "False", "JobResumed", "Job resumed")
                self._events.normal(job, "Resumed", "Job resumed")
            active = active + self._start_missing(job, found, active, live)
        self._write_status(job, found, active, live, start, conditions)

    def _failure(self, job: Json, found: Tally, active: list[Json], start: str | None) -> tuple[str, str] | None:
        target = next((c for c in job["status"].get("conditions") or [] if c["type"] == "FailureTarget"), None)
        if target:
            return target["reason"], target["message"]
        deadline = job["spec"].get("activeDeadlineSeconds")
        if deadline is not None and start and seconds_since(start) >= deadline:
            return "DeadlineExceeded", "Job was active longer than specified deadline"
        restarts = 0
        if job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure":
            statuses = [s for pod in active for s in pod["status"].get("containerStatuses") or []]
            restarts = sum(status["restartCount"] for status in statuses)
        return verdict(job["spec"], found, restarts)

    def _is_complete(self, job: Json, found: Tally, active: list[Json]) -> bool:
        completions = job["spec"].get("completions")
        if completions is None:
            return found.succeeded > 0 and not active
        return found.succeeded >= int(completions)

    def _finish(self, job: Json, conditions: list[Json], live: list[Json], failure: tuple[str, str] | None) -> None:
        """The target condition first; the last word when no pod runs any more."""
        reason, message = failure or ("CompletionsReached", "Reached expected number of succeeded pods")
        set_condition(conditions, "FailureTarget" if failure else "SuccessCriteriaMet", "True", reason, message)
        for pod in live:
            self._delete_pod(job, pod)
        if not live:
            set_condition(conditions, "Failed" if failure else "Complete", "True", reason, message)
            if failure:
                self._events.warning(job, reason, message)
            else:
                self._events.normal(job, "Completed", "Job completed")

    def _suspend(self, job: Json, conditions: list[Json], active: list[Json]) -> None:
        for pod in active:
            self._dismissed.add(pod["metadata"]["uid"])
            self._delete_pod(job, pod)
        if not is_condition(conditions, "Suspended"):
            set_condition(conditions, "Suspended", "True", "JobSuspended", "Job suspended")
            self._events.normal(job, "Suspended", "Job suspended")

    def _delete_pod(self, job: Json, pod: Json) -> None:
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        with suppress(ApiError):
            self._objects.delete(POD, metadata["namespace"], metadata["name"], DeleteOptions(uid=metadata["uid"]))
            self._events.normal(job, "SuccessfulDelete", f"Deleted pod: {metadata['name']}")

    def _start_missing(self, job: Json, found: Tally, active: list[Json], live: list[Json]) -> list[Json]:
        """Create the pods that are to run now and do not; the ones that were created."""
        spec = job["spec"]
        counted = live if spec["podReplacementPolicy"] == "Failed" else active
        room = spec["parallelism"] - len(counted)
        if spec["completionMode"] == "Indexed":
            busy = {index_of(pod) for pod in counted}
            done = found.completed | found.lost
            missing: list[int | None] = [i for i in range(spec["completions"]) if i not in done and i not in busy]
        elif spec.get("completions") is None:
            missing = [] if found.succeeded else [None] * room
        else:
            missing = [None] * (spec["completions"] - found.succeeded - len(counted))
        ready = [index for index in missing if self._may_start(spec, found, index)]
        return [pod for index in ready[: max(0, room)] if (pod := self._create_pod(job, index))]

    def _may_start(self, spec: Json, found: Tally, index: int | None) -> bool:
        key = index if spec.get("backoffLimitPerIndex") is not None else None
        streak = found.streak.get(key, 0)
        if not streak:
            return True
        delay = self._backoff * min(2 ** (streak - 1), LONGEST_BACKOFF)
        return bool(time.monotonic() >= found.last[key] + delay)

    def _create_pod(self, job: Json, index: int | None) -> Json | None:
        pod = pod_of(job, index)
        try:
            made = self._objects.create(POD, job["metadata"]["namespace"], pod)
        except ApiError as error:
            self._events.warning(job, "FailedCreate", f"Error creating: {error.message}")
            return None
        self._events.normal(job, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
        return made

    def _write_status(
        self, job: Json, found: Tally, active: list[Json], live: list[Json], start: str | None, conditions: list[Json]
    ) -> None:
        fields: dict[str, Any] = {
            "active": len(active) or None,
            "ready": sum(1 for pod in active if is_condition(pod["status"].get("conditions") or [], "Ready")),
            "terminating": sum(1 for pod in live if pod["metadata"].get("deletionTimestamp")),
            "succeeded": found.succeeded or None,
            "failed": found.failed or None,
            "startTime": start,
            "conditions": conditions or None,
            "uncountedTerminatedPods": {},
        }
        if job["spec"]["completionMode"] == "Indexed":
            fields["completedIndexes"] = ranges(found.completed) or None
            if job["spec"].get("backoffLimitPerIndex") is not None:
                fields["failedIndexes"] = ranges(found.lost)
        if is_condition(conditions, "Complete"):
            fields["completionTime"] = now()
        self._objects.set_status(JOB, job, **fields)


def pod_of(job: Json, index: int | None) -> Json:
    """The pod of a Job, as its template says; with the index in name, annotation, label and environment."""
    template = copy.deepcopy(job["spec"]["template"])
    metadata, spec = template.get("metadata") or {}, template["spec"]
    name = job["metadata"]["name"]
    middle = "" if index is None else f"-{index}"
    metadata["name"] = f"{name}{middle}-{uuid.uuid4().hex[:5]}"
    metadata["ownerReferences"] = [owner_reference(job)]
    if index is not None:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), INDEX: str(index)}
        metadata["labels"] = {**metadata["labels"], INDEX: str(index)}
        spec["hostname"] = f"{name}-{index}"
        source = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
        for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
            container.setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "valueFrom": source})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def is_finished(job: Json) -> bool:
    conditions = job["status"].get("conditions") or []
    return is_condition(conditions, "Complete") or is_condition(conditions, "Failed")


def is_condition(conditions: list[Json], kind: str) -> bool:
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def set_condition(conditions: list[Json], kind: str, status: str, reason: str, message: str) -> None:
    """Change it in place or append it; nothing when it already says so."""
    for each in conditions:
        if each["type"] == kind:
            if each["status"] != status:
                each.update(status=status, reason=reason, message=message, lastTransitionTime=now())
            return
    stamp = {"lastProbeTime": now(), "lastTransitionTime": now()}
    conditions.append({"type": kind, "status": status, **stamp, "reason": reason, "message": message})
