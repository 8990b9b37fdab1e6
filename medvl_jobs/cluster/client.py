"""The few things that the coordinator asks of Kubernetes, with its errors in medvl's words."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import kubernetes.client
import urllib3
from kubernetes import config
from kubernetes.client.exceptions import ApiException

from medvl_jobs.cluster.schema import Manifest
from medvl_jobs.cluster.status import GAVE_UP, Json
from medvl_jobs.cluster.watching import Bell
from medvl_jobs.errors import AccessDeniedError, MedvlError, MissingInputError, SettingsError, TryAgainError

log = logging.getLogger(__name__)

KINDS = {"Job": ("batch", "v1", "jobs"), "PyTorchJob": ("kubeflow.org", "v1", "pytorchjobs")}
"""Kinds of the children: group, version, plural."""
TIMEOUT_SECONDS = (10, 60)
"""To connect, and to answer."""
NEEDED = (
    ("batch", "jobs", ("get", "list", "watch", "create", "patch")),
    ("kubeflow.org", "pytorchjobs", ("get", "list", "watch", "create", "patch")),
    ("", "pods", ("get", "list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "events", ("create", "list")),
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
        """The owner reference of all that is made for the run. Not the controller's: see decision 0012."""
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": self.name,
            "uid": self.uid,
            "controller": False,
            "blockOwnerDeletion": False,
        }


class Cluster:
    """One namespace of a cluster. Every method raises what `_call` makes of the API's answers."""

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
        self._custom = kubernetes.client.CustomObjectsApi(self._api)
        self._leases = kubernetes.client.CoordinationV1Api(self._api)

    def check(self) -> None:
        """Raises `MissingInputError` without the PyTorchJob's definition, `AccessDeniedError` without a right."""
        group, version, plural = KINDS["PyTorchJob"]
        try:
            served = self._call(f"{group}/{version}", self._custom.get_api_resources, group, version)["resources"]
        except MissingInputError:
            served = []
        if plural not in [resource["name"] for resource in served]:
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
        asked = {"group": group, "resource": name, "subresource": subresource, "verb": verb}
        body = {"spec": {"resourceAttributes": {**asked, "namespace": self.namespace}}}
        review = kubernetes.client.AuthorizationV1Api(self._api).create_self_subject_access_review
        return bool(self._call("SelfSubjectAccessReview", review, body)["status"]["allowed"])

    def plan(self, name: str) -> Plan:
        """The plan. Raises `MissingInputError` when it is gone: the release was upgraded or uninstalled."""
        found = self._call(f"ConfigMap {name}", self._core.read_namespaced_config_map, name, self.namespace)
        meta = found["metadata"]
        fullname = (meta.get("annotations") or {}).get("medvl.io/fullname")
        if not fullname:
            remedy = "name a ConfigMap that the chart has made, <release>-plan-<hash>"
            raise SettingsError("this is no plan: it has no annotation medvl.io/fullname", where=name, remedy=remedy)
        return Plan(name, meta["uid"], fullname, found.get("data") or {})

    def children(self, selector: str) -> list[Json]:
        """Jobs and PyTorchJobs with these labels."""
        found = []
        for kind in KINDS:
            place = self._place(kind)
            listed = self._call(f"{kind}s", self._custom.list_namespaced_custom_object, *place, label_selector=selector)
            found += [{**item, "kind": kind} for item in listed.get("items") or []]  # an item does not say what it is
        return found

    def pods(self, selector: str) -> list[Json]:
        """Pods with these labels."""
        listed = self._call("Pods", self._core.list_namespaced_pod, self.namespace, label_selector=selector)
        return list(listed.get("items") or [])

    def create(self, manifest: Manifest, *, dry_run: bool = False) -> None:
        """Create a child, or let the API server and its webhooks judge it. Raises `ConflictError` when it is there."""
        words = {"dry_run": "All"} if dry_run else {}
        what = f"{manifest['kind']} {manifest['metadata']['name']}"
        place = self._place(manifest["kind"])
        self._call(what, self._custom.create_namespaced_custom_object, *place, manifest, **words)

    def give_up(self, child: Json, why: Json) -> None:
        """Let a child's own controller end it, which frees its GPUs, and note why: the object stays to be read.

        Its time is up from now on. It is not suspended: Kueue would let it run again.
        """
        over: Json = {"activeDeadlineSeconds": 1}
        spec = over if child["kind"] == "Job" else {"runPolicy": over}
        body = {"metadata": {"annotations": {GAVE_UP: json.dumps(why)}}, "spec": spec}
        place = (*self._place(child["kind"]), child["metadata"]["name"])
        self._call(f"{child['kind']} {place[-1]}", self._custom.patch_namespaced_custom_object, *place, body)

    def tail(self, pod: Json, lines: int = 20) -> str:
        """The last lines of the main container's log; why there are none, when it cannot be had any more."""
        name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
        words = {"container": container, "tail_lines": lines, "_request_timeout": TIMEOUT_SECONDS}
        try:  # as bytes: the client fails on a log that is not UTF-8
            answer = self._core.read_namespaced_pod_log(name, self.namespace, **words, _preload_content=False)
            return str(answer.data.decode("utf-8", "replace"))
        except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            return f"(the log of {name} cannot be read: {_message(error)})"

    # ------------------------------------------------------------------------------------------------------- events

    def warning(self, child: Json) -> str | None:
        """The newest warning about an object, such as why its pods are refused."""
        about = f"involvedObject.uid={child['metadata']['uid']},type=Warning"
        listed = self._call("Events", self._core.list_namespaced_event, self.namespace, field_selector=about)
        found = listed.get("items") or []
        newest = max(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "", default=None)
        return f"{newest.get('reason')}: {newest.get('message')}" if newest else None

    def event(self, plan: Plan, kind: EventType, reason: str, message: str) -> None:
        """An Event on the plan. It is for people: that it cannot be written is logged, and no more."""
        now = datetime.now(UTC).isoformat()
        about = {"apiVersion": "v1", "kind": "ConfigMap", "name": plan.name, "uid": plan.uid}
        body = {
            "metadata": {"name": f"{plan.name}.{uuid.uuid4().hex[:16]}", "namespace": self.namespace},
            "involvedObject": {**about, "namespace": self.namespace},
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "medvl-coordinator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._call(f"Event {reason}", self._core.create_namespaced_event, self.namespace, body)
        except MedvlError as error:
            log.warning("the event %s could not be written: %s", reason, error.what)

    # ---------------------------------------------------------------------------------------------------- the Lease

    def read_lease(self, name: str) -> Json | None:
        """The Lease, or none."""
        try:
            return self._call(f"Lease {name}", self._leases.read_namespaced_lease, name, self.namespace)
        except MissingInputError:
            return None

    def write_lease(self, lease: Json) -> Json:
        """Create or replace it; the API refuses a version that is not the newest with `ConflictError`."""
        name = lease["metadata"]["name"]
        if "resourceVersion" in lease["metadata"]:
            replace = self._leases.replace_namespaced_lease
            return self._call(f"Lease {name}", replace, name, self.namespace, lease)
        return self._call(f"Lease {name}", self._leases.create_namespaced_lease, self.namespace, lease)

    # ------------------------------------------------------------------------------------------------------ changes

    @contextmanager
    def changes(self, selector: str) -> Iterator[Bell]:
        """A bell that rings when a child or a pod with these labels changes, for as long as the block lasts."""
        with Bell().watching(
            [
                *((self._custom.list_namespaced_custom_object, self._place(kind)) for kind in KINDS),
                (self._core.list_namespaced_pod, (self.namespace,)),
            ],
            selector,
        ) as bell:
            yield bell

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        group, version, plural = KINDS[kind]
        return group, version, self.namespace, plural

    def _call(self, what: str, function: Callable[..., Any], *words: Any, **named: Any) -> Json:
        """The API's answer about ``what``, as JSON; what the client raises becomes a `MedvlError`."""
        where = f"{what}, namespace {self.namespace}"
        try:
            answer = function(*words, **named, _request_timeout=TIMEOUT_SECONDS)
        except ApiException as error:
            raise _translated(error, where) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:  # ValueError: an answer cut off
            remedy = "it is tried again; if it stays, check the network policy and the API server"
            raise TryAgainError(f"Kubernetes does not answer: {error}", where=where, remedy=remedy) from error
        return dict(self._api.sanitize_for_serialization(answer))


def _translated(error: ApiException, where: str) -> MedvlError:
    said = _message(error)
    if error.status in (401, 403):
        return _refused(said, where)
    if error.status == 404:
        return MissingInputError(f"Kubernetes has none: {said}", where=where, remedy="was the release uninstalled?")
    if error.status == 409:
        return ConflictError(said, where=where)
    if error.status in (400, 422):
        remedy = "correct the value of the chart that it comes from"
        return SettingsError(f"Kubernetes refuses the manifest: {said}", where=where, remedy=remedy)
    remedy = "it is tried again; if it stays, look at the API server"
    return TryAgainError(f"Kubernetes did not do it this time ({error.status}): {said}", where=where, remedy=remedy)


def _refused(said: str, where: str) -> MedvlError:
    """Quotas and admission webhooks answer 403 as well."""
    if "exceeded quota" in said:
        return TryAgainError(f"Kubernetes has no room: {said}", where=where, remedy="raise the quota, or wait")
    if "denied the request" in said:
        return SettingsError(f"Kubernetes refuses the manifest: {said}", where=where, remedy="see the policy it names")
    remedy = "give the service account the Role that the chart makes (rbac), and see 'helm test'"
    return AccessDeniedError(f"Kubernetes refuses: {said}", where=where, remedy=remedy)


def _message(error: Exception) -> str:
    """The API's own sentence, out of its JSON."""
    body = getattr(error, "body", None)
    try:
        return str(json.loads(body)["message"]) if body else str(error)
    except (ValueError, KeyError, TypeError):
        return str(body or error)
