"""Scheduler and kubelet of a cluster with one node: each container is a real process."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from contextlib import suppress

from cluster.fakekube.clock import now
from cluster.fakekube.errors import ApiError, Json, not_found
from cluster.fakekube.events import Recorder
from cluster.fakekube.jobs import set_condition
from cluster.fakekube.launching import Launcher
from cluster.fakekube.objects import DeleteOptions, Objects
from cluster.fakekube.pod_fields import quantity, requests_of
from cluster.fakekube.pod_volumes import VolumeFolders, Volumes
from cluster.fakekube.pod_worker import PodParts, PodWorker
from cluster.fakekube.resources import CLAIM, NODE, POD, SERVICE_ACCOUNT

NODE_NAME = "node-1"
_OVER = ("Succeeded", "Failed")


class Kubelet:
    """``unpullable`` may be changed at any time: names or patterns of images that no registry has."""

    def __init__(
        self,
        objects: Objects,
        launcher: Launcher,
        token_of: Callable[[str, str], str],
        capacity: dict[str, str],
        backoff_seconds: float,
    ) -> None:
        self.unpullable: set[str] = set()
        self.node_labels: dict[str, str] | None = None
        """None: every node selector fits."""
        self.volumes = VolumeFolders(launcher.folder)
        self._objects, self._launcher, self._token_of = objects, launcher, token_of
        self._capacity = {name: quantity(amount) for name, amount in capacity.items()}
        self._backoff = backoff_seconds
        self._scheduler = Recorder(objects, "default-scheduler")
        self._events = Recorder(objects, "kubelet")
        self._workers: dict[str, PodWorker] = {}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "",
            "lastTransitionTime": now(),
        }
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
        objects.create(NODE, "", {"metadata": {"name": NODE_NAME}, "spec": {}, "status": status})

    def step(self) -> None:
        """Bind pods that fit, and start those that are bound."""
        for pod in self._objects.list(POD):
            if pod["status"].get("phase") in _OVER or pod["metadata"]["uid"] in self._workers:
                continue
            with suppress(ApiError):
                bound = pod if pod["spec"].get("nodeName") else self._bind(pod)
                if bound is not None:
                    self._start(bound)

    def _bind(self, pod: Json) -> Json | None:
        metadata = pod["metadata"]
        gated, why = pod["spec"].get("schedulingGates"), self._misfit(pod)
        if gated or why:
            reason = "SchedulingGated" if gated else "Unschedulable"
            message = "Scheduling is blocked due to non-empty scheduling gates" if gated else why
            conditions = list(pod["status"].get("conditions") or [])
            set_condition(conditions, "PodScheduled", "False", reason, message)
            self._objects.set_status(POD, pod, conditions=conditions)
            if not gated:
                self._scheduler.warning(pod, "FailedScheduling", why)
            return None
        namespace, name = metadata["namespace"], metadata["name"]
        bound = self._objects.update(POD, namespace, name, _on_this_node)
        self._scheduler.normal(pod, "Scheduled", f"Successfully assigned {namespace}/{name} to {NODE_NAME}")
        return bound

    def _misfit(self, pod: Json) -> str:
        """Why no node takes the pod, in the scheduler's words; empty when one does."""
        for volume in pod["spec"].get("volumes") or []:
            claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if claim and self._objects.find(CLAIM, pod["metadata"]["namespace"], claim) is None:
                return f'0/1 nodes are available: persistentvolumeclaim "{claim}" not found.'
        wanted = pod["spec"].get("nodeSelector") or {}
        if self.node_labels is not None and any(self.node_labels.get(key) != value for key, value in wanted.items()):
            return "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        used = self._used()
        short = [
            f"1 Insufficient {name}"
            for name, amount in requests_of(pod).items()
            if amount and used.get(name, 0.0) + amount > self._capacity.get(name, 0.0)
        ]
        return f"0/1 nodes are available: {', '.join(sorted(short))}." if short else ""

    def _used(self) -> dict[str, float]:
        used: dict[str, float] = {}
        for _, pod in self._objects.store.every(POD):
            if pod["spec"].get("nodeName") and pod["status"].get("phase") not in _OVER:
                for name, amount in requests_of(pod).items():
                    used[name] = used.get(name, 0.0) + amount
        return used

    def _start(self, pod: Json) -> None:
        token = self._token(pod)
        folder = self._launcher.pod_folder(pod)
        parts = PodParts(
            self._objects,
            self._events,
            Volumes(pod, folder, self.volumes, self._objects),
            token,
            lambda pod, container, volumes, restart: self._launcher.launch(pod, container, volumes, restart, token),
            self._can_pull,
            self._backoff,
        )
        self._workers[pod["metadata"]["uid"]] = PodWorker(pod, parts)

    def _token(self, pod: Json) -> str:
        """Of the service account, empty when pod or account ask for none; the pod's word counts more."""
        namespace, name = pod["metadata"]["namespace"], pod["spec"]["serviceAccountName"]
        account = self._objects.find(SERVICE_ACCOUNT, namespace, name) or {}
        wanted = pod["spec"].get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        return self._token_of(namespace, name) if wanted else ""

    def _can_pull(self, image: str) -> bool:
        return not any(fnmatch.fnmatchcase(image, pattern) for pattern in tuple(self.unpullable))  # a test changes it

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        """Raises 404 without such a pod; None for one that is not on the node."""
        pod = self._objects.get(POD, namespace, name)
        return self._workers.get(pod["metadata"]["uid"])

    def evict(self, namespace: str, name: str) -> None:
        """Node pressure: DisruptionTarget, SIGTERM, after the grace SIGKILL; the pod stays there as Failed."""
        worker = self.worker(namespace, name)
        if worker is None:
            raise not_found("running pods", name)
        message = "The node was low on resource: memory."
        worker.disrupt("TerminationByKubelet", message, failed_because="Evicted")

    def drain(self, namespace: str, name: str) -> None:
        """The eviction API: DisruptionTarget, then an ordinary deletion."""
        worker = self.worker(namespace, name)
        if worker is not None and not worker.is_over:
            worker.disrupt("EvictionByEvictionAPI", "Eviction API: evicting", failed_because=None)
        self._objects.delete(POD, namespace, name, DeleteOptions())

    def kill(self, namespace: str, name: str, reason: str) -> None:
        worker = self.worker(namespace, name)
        if worker is not None:
            worker.kill(reason)

    def stop(self) -> list[str]:
        """End every process; what went wrong in the kubelet itself."""
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop_now()
        for worker in workers:
            worker.join()
        return [error for worker in workers for error in worker.errors]


def _on_this_node(pod: Json) -> Json:
    pod["spec"]["nodeName"] = NODE_NAME
    return pod
