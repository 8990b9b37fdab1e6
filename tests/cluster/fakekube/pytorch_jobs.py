"""The controller of PyTorchJobs, after the training operator v1.9.4 (common/job.go, common/pod.go, pytorch/*)."""

from __future__ import annotations

import copy
from contextlib import suppress

from cluster.fakekube.clock import now, seconds_since
from cluster.fakekube.errors import ApiError, Json
from cluster.fakekube.events import Recorder
from cluster.fakekube.jobs import is_condition
from cluster.fakekube.objects import DeleteOptions, Objects
from cluster.fakekube.owners import owned_by, owner_reference
from cluster.fakekube.pytorch_env import PORT_NAME, injected, master_port, with_default_port
from cluster.fakekube.resources import POD, PYTORCH_JOB, SERVICE

_L = "training.kubeflow.org/"
_RESTARTED_BY_OPERATOR = ("OnFailure", "Always")


class PyTorchJobController:
    """Elastic jobs, gang scheduling and HPA are not here."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._events = Recorder(objects, "pytorchjob-controller")

    def step(self) -> None:
        for job in self._objects.list(PYTORCH_JOB):
            if not job["metadata"].get("deletionTimestamp"):
                with suppress(ApiError):
                    self._sync(job)

    def _sync(self, job: Json) -> None:
        status = copy.deepcopy(job.get("status") or {})
        conditions: list[Json] = status.setdefault("conditions", [])
        policy = job["spec"].get("runPolicy") or {}
        name = job["metadata"]["name"]
        if not conditions:
            self._set(job, status, "Created", f"PyTorchJob {name} is created.")
        pods = owned_by(self._objects, POD, job)
        if _finished(conditions):
            self._clean_up(job, status, pods)
            if is_condition(conditions, "Succeeded"):
                for replica in status.get("replicaStatuses", {}).values():
                    replica["succeeded"] = replica.get("succeeded", 0) + replica.pop("active", 0)
        elif policy.get("suspend"):
            self._suspend(job, status, pods)
        else:
            self._run(job, status, pods)
        self._objects.set_status(PYTORCH_JOB, job, **status)

    def _suspend(self, job: Json, status: Json, pods: list[Json]) -> None:
        self._clean_up(job, status, pods)
        for replica in status.get("replicaStatuses", {}).values():
            replica.pop("active", None)
        message = f"PyTorchJob {job['metadata']['name']} is suspended."
        if is_condition(status["conditions"], "Running"):
            self._set(job, status, "Running", message, value="False", reason="PyTorchJobSuspended")
        if not is_condition(status["conditions"], "Suspended"):
            self._set(job, status, "Suspended", message)
            self._events.normal(job, "PyTorchJobSuspended", message)

    def _run(self, job: Json, status: Json, pods: list[Json]) -> None:
        name, policy = job["metadata"]["name"], job["spec"].get("runPolicy") or {}
        if is_condition(status["conditions"], "Suspended"):
            message = f"PyTorchJob {name} is resumed."
            self._set(job, status, "Suspended", message, value="False", reason="PyTorchJobResumed")
            status["startTime"] = now()
            self._events.normal(job, "PyTorchJobResumed", message)
        exceeded = self._exceeded(job, status, pods, policy)
        if exceeded:
            status.setdefault("completionTime", now())
            self._events.normal(job, "PyTorchJobFailed", exceeded)
            self._set(job, status, "Failed", exceeded)
            self._clean_up(job, status, pods)
            return
        for role, replica in job["spec"]["pytorchReplicaSpecs"].items():
            self._reconcile_pods(job, status, pods, role, replica)
        self._conclude(job, status)

    def _exceeded(self, job: Json, status: Json, pods: list[Json], policy: Json) -> str | None:
        name = job["metadata"]["name"]
        limit, deadline = policy.get("backoffLimit"), policy.get("activeDeadlineSeconds")
        if limit is not None:
            restarts = _restarts(job, pods)
            past = restarts > 0 if limit == 0 else restarts >= limit
            before = sum(each.get("failed", 0) for each in status.get("replicaStatuses", {}).values())
            failed = sum(1 for pod in pods if pod["status"]["phase"] == "Failed")
            # The number of earlier retries is always zero in the operator: only a limit of zero ever counts here.
            if past or (failed > before and limit == 0):
                return f"Job {name} has failed because it has reached the specified backoff limit"
        if deadline is not None and "startTime" in status and seconds_since(status["startTime"]) >= deadline:
            return f"Job {name} has failed because it was active longer than specified deadline"
        return None

    def _reconcile_pods(self, job: Json, status: Json, pods: list[Json], role: str, replica: Json) -> None:
        name, kind = job["metadata"]["name"], role.lower()
        counts: dict[str, int] = {}
        count = int(replica.get("replicas", 1))
        mine = {
            int(pod["metadata"]["labels"][f"{_L}replica-index"]): pod
            for pod in pods
            if pod["metadata"]["labels"].get(f"{_L}replica-type") == kind
        }
        for index in range(max([count, *(at + 1 for at in mine)])):
            pod = mine.get(index)
            if pod is None:
                self._create_pod(job, role, replica, index)
                continue
            phase = pod["status"]["phase"]
            if index >= count:
                self._delete(job, pod)
            elif phase == "Failed":
                self._restart_or_fail(job, status, pod, role, replica.get("restartPolicy", "OnFailure"))
            if phase == "Running" and not pod["metadata"].get("deletionTimestamp"):
                counts["active"] = counts.get("active", 0) + 1
            elif phase in ("Failed", "Running"):
                counts["failed"] = counts.get("failed", 0) + 1
            elif phase == "Succeeded":
                counts["succeeded"] = counts.get("succeeded", 0) + 1
        selector = f"{_L}job-name={name},{_L}operator-name=pytorchjob-controller,{_L}replica-type={kind}"
        status.setdefault("replicaStatuses", {})[role] = {**counts, "selector": selector}
        for index in range(count):
            self._ensure_service(job, role, index)

    def _restart_or_fail(self, job: Json, status: Json, pod: Json, role: str, policy: str) -> None:
        code = _exit_code(pod)
        words = f"Pod: {pod['metadata']['namespace']}.{pod['metadata']['name']} exited with code {code}"
        self._events.normal(job, "ExitedWithCode", words)
        retryable = policy in _RESTARTED_BY_OPERATOR or (policy == "ExitCode" and code >= 128)
        if retryable:
            self._delete(job, pod)
            message = f"job {job['metadata']['name']} is restarting because {role} replica(s) failed."
            self._events.warning(job, "PyTorchJobRestarting", message)
            self._set(job, status, "Restarting", message)
        elif policy == "ExitCode":
            message = f'job "{job["metadata"]["name"]}" is failing because "{role}" replica(s) failed.'
            self._events.warning(job, "PyTorchJobFailed", message)
            self._set(job, status, "Failed", message)

    def _conclude(self, job: Json, status: Json) -> None:
        """UpdateJobStatus of the operator."""
        name, specs = job["metadata"]["name"], job["spec"]["pytorchReplicaSpecs"]
        status.setdefault("startTime", now())
        for role, spec in specs.items():
            counts = status["replicaStatuses"][role]
            wanted, succeeded = int(spec.get("replicas", 1)), counts.get("succeeded", 0)
            active, failed = counts.get("active", 0), counts.get("failed", 0)
            leads = role == "Master" or "Master" not in specs
            if leads and active:
                self._set(job, status, "Running", f"PyTorchJob {name} is running.")
            if leads and succeeded == wanted:
                message = f"PyTorchJob {name} is successfully completed."
                self._events.normal(job, "PyTorchJobSucceeded", message)
                status.setdefault("completionTime", now())
                self._set(job, status, "Succeeded", message)
                return
            if failed and wanted > succeeded + active:
                restarts = spec.get("restartPolicy", "OnFailure") != "Never"
                verb, kind = ("restarting", "Restarting") if restarts else ("failed", "Failed")
                message = f"PyTorchJob {name} is {verb} because {failed} {role} replica(s) failed."
                if not restarts:
                    status.setdefault("completionTime", now())
                self._set(job, status, kind, message)

    def _create_pod(self, job: Json, role: str, replica: Json, index: int) -> None:
        template = copy.deepcopy(replica["template"])
        metadata, spec = template.get("metadata") or {}, template["spec"]
        metadata["name"] = f"{job['metadata']['name']}-{role.lower()}-{index}"
        metadata["labels"] = {**(metadata.get("labels") or {}), **_labels(job, role, index)}
        metadata["ownerReferences"] = [owner_reference(job)]
        if spec.get("restartPolicy"):
            words = "Restart policy in pod template will be overwritten by restart policy in replica spec"
            self._events.warning(job, "SettedPodTemplateRestartPolicy", words)
        policy = replica.get("restartPolicy", "OnFailure")
        spec["restartPolicy"] = "Never" if policy == "ExitCode" else policy
        spec["containers"] = [
            with_default_port({**each, "env": [*(each.get("env") or []), *injected(job, role, index)]})
            for each in spec["containers"]
        ]
        if role == "Worker" and "Master" in job["spec"]["pytorchReplicaSpecs"]:
            spec["initContainers"] = [*(spec.get("initContainers") or []), _wait_for_master(job)]
        try:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            made = self._objects.create(POD, job["metadata"]["namespace"], pod)
        except ApiError as error:
            self._events.warning(job, "FailedCreatePod", f"Error creating: {error.message}")
            return
        self._events.normal(job, "SuccessfulCreatePod", f"Created pod: {made['metadata']['name']}")

    def _ensure_service(self, job: Json, role: str, index: int) -> None:
        name, namespace = f"{job['metadata']['name']}-{role.lower()}-{index}", job["metadata"]["namespace"]
        if self._objects.find(SERVICE, namespace, name):
            return
        labels = _labels(job, role, index)
        port = master_port(job) if "Master" in job["spec"]["pytorchReplicaSpecs"] else 23456
        spec = {"clusterIP": "None", "selector": labels, "ports": [{"name": PORT_NAME, "port": port}]}
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner_reference(job)]}
        self._objects.create(SERVICE, namespace, {"metadata": metadata, "spec": spec})
        self._events.normal(job, "SuccessfulCreateService", f"Created service: {name}")

    def _clean_up(self, job: Json, status: Json, pods: list[Json]) -> None:
        """Pods and services by the policy of a finished job, all of them of a suspended one; then the TTL."""
        policy = job["spec"].get("runPolicy") or {}
        finished, clean = _finished(status["conditions"]), policy.get("cleanPodPolicy", "None")
        for pod in pods if not finished or clean != "None" else []:
            if finished and clean == "Running" and pod["status"]["phase"] not in ("Running", "Pending"):
                continue
            self._delete(job, pod)
            with suppress(ApiError):
                self._objects.delete(SERVICE, pod["metadata"]["namespace"], pod["metadata"]["name"])
        ttl, ended = policy.get("ttlSecondsAfterFinished"), status.get("completionTime")
        # Without a completion time the operator never cleans up.
        if finished and ttl is not None and ended and seconds_since(ended) > ttl:
            metadata = job["metadata"]
            options = DeleteOptions(propagation="Background", uid=metadata["uid"])
            self._objects.delete(PYTORCH_JOB, metadata["namespace"], metadata["name"], options)

    def _delete(self, job: Json, pod: Json) -> None:
        metadata = pod["metadata"]
        if not metadata.get("deletionTimestamp"):
            with suppress(ApiError):
                self._objects.delete(POD, metadata["namespace"], metadata["name"], DeleteOptions(uid=metadata["uid"]))
                self._events.normal(job, "SuccessfulDeletePod", f"Deleted pod: {metadata['name']}")

    def _set(self, job: Json, status: Json, kind: str, message: str, *, value: str = "True", reason: str = "") -> None:
        """UpdateJobConditions: nothing after Failed; Running and Restarting replace each other; Running ends False."""
        conditions: list[Json] = status["conditions"]
        reason = reason or f"PyTorchJob{kind}"
        current = next((each for each in conditions if each["type"] == kind), None)
        if is_condition(conditions, "Failed") or (
            current and (current["status"], current["reason"]) == (value, reason)
        ):
            return
        since = current["lastTransitionTime"] if current and current["status"] == value else now()
        other = {"Restarting": "Running", "Running": "Restarting"}.get(kind)
        kept = [each for each in conditions if each["type"] not in (kind, other)]
        for each in kept:
            if kind in ("Failed", "Succeeded") and each["type"] == "Running":
                each["status"] = "False"
        made = {"type": kind, "status": value, "reason": reason, "message": message}
        status["conditions"] = [*kept, {**made, "lastUpdateTime": now(), "lastTransitionTime": since}]


def _finished(conditions: list[Json]) -> bool:
    return is_condition(conditions, "Succeeded") or is_condition(conditions, "Failed")


def _labels(job: Json, role: str, index: int) -> dict[str, str]:
    labels = {
        f"{_L}job-name": job["metadata"]["name"],
        f"{_L}operator-name": "pytorchjob-controller",
        f"{_L}replica-index": str(index),
        f"{_L}replica-type": role.lower(),
    }
    leads = role == "Master" or ("Master" not in job["spec"]["pytorchReplicaSpecs"] and index == 0)
    return {**labels, **({f"{_L}job-role": "master"} if leads else {})}


def _wait_for_master(job: Json) -> Json:
    """The operator's init container; the kubelet here knows it by its name and lets it succeed."""
    loop = f"until nslookup {job['metadata']['name']}-master-0; do sleep 2; done"
    return {"name": "init-pytorch", "image": "alpine:3.10", "command": ["sh", "-c", loop]}


def _restarts(job: Json, pods: list[Json]) -> int:
    """Of all containers of the running pods whose policy restarts in place."""
    policies = {role.lower(): each.get("restartPolicy") for role, each in job["spec"]["pytorchReplicaSpecs"].items()}
    total = 0
    for pod in pods:
        policy = policies.get(pod["metadata"]["labels"].get(f"{_L}replica-type", ""), "OnFailure") or "OnFailure"
        if pod["status"]["phase"] == "Running" and policy in ("OnFailure", "Always"):
            statuses = [
                *(pod["status"].get("initContainerStatuses") or []),
                *(pod["status"].get("containerStatuses") or []),
            ]
            total += sum(status["restartCount"] for status in statuses)
    return total


def _exit_code(pod: Json) -> int:
    """Of the container ``pytorch``; the operator's own magic number when there is none."""
    for status in pod["status"].get("containerStatuses") or []:
        if status["name"] == "pytorch" and "terminated" in status.get("state", {}):
            return int(status["state"]["terminated"]["exitCode"])
    return 0xBEEF
