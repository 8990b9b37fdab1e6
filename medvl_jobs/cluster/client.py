"""The few things that the coordinator asks of Kubernetes, with its errors in medvl's words."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import kubernetes.client
import urllib3
from kubernetes import config, watch
from kubernetes.client.exceptions import ApiException

from medvl_jobs.cluster.schema import Manifest
from medvl_jobs.cluster.status import GAVE_UP, Json
from medvl_jobs.errors import (
    AccessDeniedError,
    MedvlError,
    MissingInputError,
    SettingsError,
    TryAgainError,
)

log = logging.getLogger(__name__)

PYTORCHJOBS = ("kubeflow.org", "v1", "pytorchjobs")
REQUEST_TIMEOUT_SECONDS = (10, 60)
"""To connect, and to answer."""
WATCH_SECONDS = 300
NEEDED = (
    ("batch", "jobs", ("get", "list", "watch", "create", "patch")),
    ("kubeflow.org", "pytorchjobs", ("get", "list", "watch", "create", "patch")),
    ("", "pods", ("get", "list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "events", ("create",)),
    ("coordination.k8s.io", "leases", ("get", "create", "update")),
)
"""What the coordinator must be allowed: group, resource, verbs. The chart's Role gives just this, and the plan."""


EventType = Literal["Normal", "Warning"]


class ConflictError(TryAgainError):
    """Somebody else was there first: the object exists, or has changed since it was read. Look again."""


@dataclass(frozen=True)
class Plan:
    """The ConfigMap that the chart has made for a run."""

    name: str
    uid: str
    fullname: str
    """What the names of all objects of the release start with."""
    data: dict[str, str]

    @property
    def reference(self) -> Json:
        """The owner reference of every child. Not the controller's: see decision 0012."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": self.name,
            "uid": self.uid,
            "controller": False,
            "blockOwnerDeletion": False,
        }


class Cluster:
    """One namespace of a cluster. Every method raises what `_errors` makes of the API's answers."""

    def __init__(self, namespace: str) -> None:
        """Connect as the pod's service account, outside of a cluster as the kubeconfig says."""
        try:
            config.load_incluster_config()
        except config.ConfigException:
            try:
                config.load_kube_config()
            except config.ConfigException as error:
                remedy = "run it in a pod, or set KUBECONFIG to a file that names a cluster"
                raise SettingsError(
                    f"no cluster was found: {error}", where="--executor cluster", remedy=remedy
                ) from error
        self.namespace = namespace
        self._api = kubernetes.client.ApiClient()
        self._core = kubernetes.client.CoreV1Api(self._api)
        self._batch = kubernetes.client.BatchV1Api(self._api)
        self._custom = kubernetes.client.CustomObjectsApi(self._api)
        self._coordination = kubernetes.client.CoordinationV1Api(self._api)

    def check(self) -> None:
        """Raises `MissingInputError` without the PyTorchJob's definition, `AccessDeniedError` without a right."""
        with self._errors("the API server"):
            group, version, plural = PYTORCHJOBS
            try:
                served = self._custom.get_api_resources(group, version, _request_timeout=REQUEST_TIMEOUT_SECONDS)
                there = any(resource.name == plural for resource in served.resources)
            except ApiException as error:
                if error.status != 404:
                    raise
                there = False
        if not there:
            raise MissingInputError(
                "this cluster knows no PyTorchJob",
                where=f"{group}/{version}",
                remedy="install Kubeflow's training operator v1.9, see docs/operations.md",
            )
        lacking = [
            f"{verb} {resource}{f'.{group}' if group else ''}"
            for group, resource, verbs in NEEDED
            for verb in verbs
            if not self._may(group, resource, verb)
        ]
        if lacking:
            raise AccessDeniedError(
                f"the coordinator may not {', '.join(lacking)}",
                where=f"namespace {self.namespace}",
                remedy="give its service account the Role that the chart makes, or one with at least these rights",
            )

    def _may(self, group: str, resource: str, verb: str) -> bool:
        name, _, subresource = resource.partition("/")
        asked = {
            "group": group,
            "resource": name,
            "subresource": subresource,
            "verb": verb,
            "namespace": self.namespace,
        }
        body = {"spec": {"resourceAttributes": asked}}
        with self._errors("the API server"):
            review = kubernetes.client.AuthorizationV1Api(self._api).create_self_subject_access_review(
                body, _request_timeout=REQUEST_TIMEOUT_SECONDS
            )
        return bool(review.status.allowed)

    def plan(self, name: str) -> Plan:
        """The plan. Raises `MissingInputError` when it is gone: the release was upgraded or uninstalled."""
        with self._errors(f"ConfigMap {name}"):
            found = self._json(
                self._core.read_namespaced_config_map(name, self.namespace, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            )
        meta = found["metadata"]
        fullname = (meta.get("annotations") or {}).get("medvl.io/fullname")
        if not fullname:
            remedy = "name a ConfigMap that the chart has made, <release>-plan-<hash>"
            raise SettingsError("this is no plan: it has no annotation medvl.io/fullname", where=name, remedy=remedy)
        return Plan(name, meta["uid"], fullname, found.get("data") or {})

    def children(self, selector: str) -> list[Json]:
        """Jobs and PyTorchJobs with these labels."""
        with self._errors("Jobs"):
            jobs = self._json(
                self._batch.list_namespaced_job(
                    self.namespace, label_selector=selector, _request_timeout=REQUEST_TIMEOUT_SECONDS
                )
            )
        with self._errors("PyTorchJobs"):
            pytorchjobs = self._custom.list_namespaced_custom_object(
                *PYTORCHJOBS[:2],
                self.namespace,
                PYTORCHJOBS[2],
                label_selector=selector,
                _request_timeout=REQUEST_TIMEOUT_SECONDS,
            )
        # In a list the items do not say what they are.
        return [
            {**item, "kind": kind}
            for kind, found in (("Job", jobs), ("PyTorchJob", pytorchjobs))
            for item in found.get("items") or []
        ]

    def pods(self, selector: str) -> list[Json]:
        """Pods with these labels."""
        with self._errors("Pods"):
            found = self._json(
                self._core.list_namespaced_pod(
                    self.namespace, label_selector=selector, _request_timeout=REQUEST_TIMEOUT_SECONDS
                )
            )
        return list(found.get("items") or [])

    def create(self, manifest: Manifest) -> None:
        """Create a Job or a PyTorchJob. Raises `ConflictError` when there is one of that name."""
        with self._errors(f"{manifest['kind']} {manifest['metadata']['name']}"):
            if manifest["kind"] == "Job":
                self._batch.create_namespaced_job(self.namespace, manifest, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            else:
                self._custom.create_namespaced_custom_object(
                    *PYTORCHJOBS[:2],
                    self.namespace,
                    PYTORCHJOBS[2],
                    manifest,
                    _request_timeout=REQUEST_TIMEOUT_SECONDS,
                )

    def give_up(self, child: Json, why: Json) -> None:
        """Suspend a child for good, which ends its pods and frees its GPUs, and note why: the object stays."""
        name = child["metadata"]["name"]
        noted = {"metadata": {"annotations": {GAVE_UP: json.dumps(why)}}}
        with self._errors(f"{child['kind']} {name}"):
            if child["kind"] == "Job":
                body = {**noted, "spec": {"suspend": True}}
                self._batch.patch_namespaced_job(name, self.namespace, body, _request_timeout=REQUEST_TIMEOUT_SECONDS)
            else:
                body = {**noted, "spec": {"runPolicy": {"suspend": True}}}
                self._custom.patch_namespaced_custom_object(
                    *PYTORCHJOBS[:2],
                    self.namespace,
                    PYTORCHJOBS[2],
                    name,
                    body,
                    _request_timeout=REQUEST_TIMEOUT_SECONDS,
                )

    def tail(self, pod: Json, lines: int = 20) -> str:
        """The last lines of a pod's log; empty when there is none to be had any more."""
        name = pod["metadata"]["name"]
        try:
            return str(
                self._core.read_namespaced_pod_log(
                    name, self.namespace, tail_lines=lines, _request_timeout=REQUEST_TIMEOUT_SECONDS
                )
            )
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            return f"(the log of {name} cannot be read: {_message(error)})"

    def event(self, plan: Plan, kind: EventType, reason: str, message: str) -> None:
        """An Event on the plan. It is for people: that it cannot be written is logged, and no more."""
        now = datetime.now(UTC).isoformat()
        body = {
            "metadata": {"name": f"{plan.name}.{uuid.uuid4().hex[:16]}", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": plan.name,
                "namespace": self.namespace,
                "uid": plan.uid,
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "medvl-coordinator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._core.create_namespaced_event(self.namespace, body, _request_timeout=REQUEST_TIMEOUT_SECONDS)
        except (ApiException, urllib3.exceptions.HTTPError) as error:
            log.warning("the event %s could not be written: %s", reason, _message(error))

    # ---------------------------------------------------------------------------------------------------- the Lease

    def read_lease(self, name: str) -> Json | None:
        """The Lease, or none."""
        with self._errors(f"Lease {name}"):
            try:
                return self._json(
                    self._coordination.read_namespaced_lease(
                        name, self.namespace, _request_timeout=REQUEST_TIMEOUT_SECONDS
                    )
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

    def write_lease(self, lease: Json) -> Json:
        """Create or replace it; the API refuses a version that is not the newest with `ConflictError`."""
        name = lease["metadata"]["name"]
        with self._errors(f"Lease {name}"):
            if "resourceVersion" in lease["metadata"]:
                written = self._coordination.replace_namespaced_lease(
                    name, self.namespace, lease, _request_timeout=REQUEST_TIMEOUT_SECONDS
                )
            else:
                written = self._coordination.create_namespaced_lease(
                    self.namespace, lease, _request_timeout=REQUEST_TIMEOUT_SECONDS
                )
        return self._json(written)

    # ------------------------------------------------------------------------------------------------------ changes

    @contextmanager
    def changes(self, selector: str) -> Iterator[Bell]:
        """A bell that rings when a child or a pod with these labels changes, for as long as the block lasts."""
        bell = Bell()
        streams: Sequence[tuple[Any, tuple[str, ...]]] = (
            (self._batch.list_namespaced_job, (self.namespace,)),
            (self._core.list_namespaced_pod, (self.namespace,)),
            (self._custom.list_namespaced_custom_object, (*PYTORCHJOBS[:2], self.namespace, PYTORCHJOBS[2])),
        )
        for function, words in streams:
            threading.Thread(target=bell.watch, args=(function, words, selector), daemon=True).start()
        try:
            yield bell
        finally:
            bell.closed.set()

    def _json(self, obj: Any) -> Json:
        return dict(self._api.sanitize_for_serialization(obj))

    @contextmanager
    def _errors(self, where: str) -> Iterator[None]:
        """Turn what the client raises in the block into a `MedvlError`."""
        try:
            yield
        except ApiException as error:
            raise _translated(error, f"{where} in namespace {self.namespace}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, MedvlError):
                raise
            remedy = "it is tried again; if it stays, check the network policy and the API server"
            raise TryAgainError(f"Kubernetes does not answer: {error}", where=where, remedy=remedy) from error


class Bell:
    """Rings at every change that a watch reports. It says *that* something changed; what, is looked up anew.

    So a watch that breaks or expires costs nothing but time: it is begun again, and whoever waits looks anyway after a
    while.
    """

    def __init__(self) -> None:
        """Not rung yet."""
        self._rung, self.closed = threading.Event(), threading.Event()

    def wait(self, seconds: float) -> None:
        """Return at the next change, at the latest after so many seconds."""
        if self._rung.wait(seconds):
            self.closed.wait(0.1)  # changes come in flocks
        self._rung.clear()

    def watch(self, function: Any, words: tuple[str, ...], selector: str) -> None:
        """Report until it is closed. In a thread of its own."""
        while not self.closed.is_set():
            try:
                stream = watch.Watch().stream(
                    function,
                    *words,
                    label_selector=selector,
                    timeout_seconds=WATCH_SECONDS,
                    _request_timeout=(REQUEST_TIMEOUT_SECONDS[0], WATCH_SECONDS + 30),
                )
                for _ in stream:
                    self._rung.set()
                    if self.closed.is_set():
                        return
            except Exception as error:  # noqa: BLE001  410 Gone, a cut connection, a server that restarts: all the same
                log.debug("a watch ended: %s", error)
            self._rung.set()
            self.closed.wait(1.0)


def _translated(error: ApiException, where: str) -> MedvlError:
    said = _message(error)
    if error.status in (401, 403):
        remedy = "give the service account the Role that the chart makes (rbac), and see 'helm test'"
        return AccessDeniedError(f"Kubernetes refuses: {said}", where=where, remedy=remedy)
    if error.status == 404:
        return MissingInputError(f"Kubernetes has none: {said}", where=where, remedy="was the release uninstalled?")
    if error.status == 409:
        return ConflictError(said, where=where)
    if error.status in (400, 422):
        remedy = "correct the value of the chart that it comes from"
        return SettingsError(f"Kubernetes refuses the manifest: {said}", where=where, remedy=remedy)
    remedy = "it is tried again; if it stays, look at the API server"
    return TryAgainError(f"Kubernetes did not do it this time ({error.status}): {said}", where=where, remedy=remedy)


def _message(error: Exception) -> str:
    """The API's own sentence, out of its JSON."""
    body = getattr(error, "body", None)
    try:
        return str(json.loads(body)["message"]) if body else str(error)
    except (ValueError, KeyError, TypeError):
        return str(body or error)
