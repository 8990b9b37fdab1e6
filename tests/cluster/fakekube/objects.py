"""Create, read, change and delete by Kubernetes' rules: the HTTP API, the controllers and the kubelet all go here."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cluster.fakekube import validation
from cluster.fakekube.clock import now
from cluster.fakekube.defaults import DROPS_STATUS, decode_string_data, fill_in
from cluster.fakekube.errors import (
    Json,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    not_found,
)
from cluster.fakekube.podsecurity import check_security
from cluster.fakekube.resources import (
    JOB,
    LEASE,
    NAMESPACE,
    POD,
    SERVICE_ACCOUNT,
    Resource,
)
from cluster.fakekube.selectors import both
from cluster.fakekube.store import Store

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_KEPT = ("uid", "creationTimestamp", "name", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")


@dataclass(frozen=True)
class DeleteOptions:
    propagation: str | None = None
    grace_seconds: int | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


class Objects:
    """The semantics of the API over a `Store`. Every method raises `ApiError` and returns copies."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        found = self.store.get(resource, namespace if resource.namespaced else "", name)
        if found is None:
            raise not_found(resource.qualified, name)
        return copy.deepcopy(found)

    def find(self, resource: Resource, namespace: str, name: str) -> Json | None:
        return copy.deepcopy(self.store.get(resource, namespace if resource.namespaced else "", name))

    def list(self, resource: Resource, namespace: str = "", labels: str = "", fields: str = "") -> list[Json]:
        matches = both(labels, fields)
        every = [obj for _, obj in self.store.every(resource, namespace) if matches(obj)]
        every.sort(key=lambda obj: (obj["metadata"].get("namespace", ""), obj["metadata"]["name"]))
        return copy.deepcopy(every)

    def create(self, resource: Resource, namespace: str, obj: Json, *, dry_run: bool = False) -> Json:
        with self.store.lock:
            new = self._prepared(resource, namespace, obj)
            metadata = new["metadata"]
            if resource.namespaced:
                home = self.store.get(NAMESPACE, "", namespace)
                validation.check_namespace(home, namespace, resource, metadata["name"])
            if self.store.get(resource, metadata.get("namespace", ""), metadata["name"]):
                raise already_exists(resource.qualified, metadata["name"])
            validation.check_new(resource, new)
            new = fill_in(resource, new)
            if resource == POD:
                self._admit_pod(new)
            if "spec" in new:
                metadata["generation"] = new["metadata"]["generation"] = 1
            return copy.deepcopy(new if dry_run else self.store.put(resource, new))

    def _prepared(self, resource: Resource, namespace: str, obj: Json) -> Json:
        new = decode_string_data(resource, copy.deepcopy(obj))
        new = {"apiVersion": resource.api_version, "kind": resource.kind, **new}
        if (new["apiVersion"], new["kind"]) != (resource.api_version, resource.kind):
            raise bad_request(
                f"the object provided is unrecognized: {new['kind']} in {new['apiVersion']} does not match"
                f" {resource.kind} in {resource.api_version}"
            )
        metadata = new["metadata"] = dict(new.get("metadata") or {})
        if metadata.pop("resourceVersion", None):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if resource.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            metadata.pop("namespace", None)
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                required = [("metadata.name", "Required value: name or generateName is required")]
                raise invalid(resource.qualified_kind, "", required)
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        metadata.update({"uid": str(uuid.uuid4()), "creationTimestamp": now()})
        for field in ("managedFields", "deletionTimestamp", "selfLink", "generation"):
            metadata.pop(field, None)
        return new

    def _admit_pod(self, pod: Json) -> None:
        """The admission plugins for service accounts and for pod security."""
        spec, metadata = pod["spec"], pod["metadata"]
        account = spec["serviceAccountName"] = spec.get("serviceAccountName") or "default"
        if self.store.get(SERVICE_ACCOUNT, metadata["namespace"], account) is None:
            why = (
                f"error looking up service account {metadata['namespace']}/{account}:"
                f' serviceaccount "{account}" not found'
            )
            raise forbidden("pods", metadata["name"], why)
        check_security(self.get(NAMESPACE, "", metadata["namespace"]), pod)

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Json], Json],
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Json:
        """Read, change and write under one lock. ``change`` gets a copy; a resourceVersion in its answer must fit."""
        with self.store.lock:
            old = self.get(resource, namespace, name)
            new = self._merged(resource, old, decode_string_data(resource, change(copy.deepcopy(old))), subresource)
            if _bare(new) == _bare(old):
                return old
            validation.check_change(resource, old, new)
            if "spec" in new and new["spec"] != old.get("spec") and "generation" in old["metadata"]:
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            if dry_run:
                return new
            stored = self.store.put(resource, new)
            self._remove_when_final(resource, stored)
            return copy.deepcopy(stored)

    def replace(
        self, resource: Resource, namespace: str, name: str, obj: Json, *, subresource: str = "", dry_run: bool = False
    ) -> Json:
        """PUT. Some kinds need a resourceVersion in it."""
        if not (obj.get("metadata") or {}).get("resourceVersion") and (resource.custom or resource == LEASE):
            required = [("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")]
            raise invalid(resource.qualified_kind, name, required)
        return self.update(resource, namespace, name, lambda _: obj, subresource=subresource, dry_run=dry_run)

    def _merged(self, resource: Resource, old: Json, changed: Json, subresource: str) -> Json:
        """What may change through this door: the status through its own, everything else through the main one."""
        metadata = dict(changed.get("metadata") or {})
        name = old["metadata"]["name"]
        if metadata.get("name", name) != name:
            raise bad_request("the name of the object does not match the name on the URL")
        version = metadata.get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise conflict(resource.qualified, name)
        if metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: "
            raise conflict(resource.qualified, name, why + old["metadata"]["uid"])
        if subresource == "status":
            return {**old, "status": copy.deepcopy(changed.get("status") or {})}
        for field in _KEPT:
            metadata.pop(field, None)
            if field in old["metadata"]:
                metadata[field] = old["metadata"][field]
        if "generation" in old["metadata"]:
            metadata["generation"] = old["metadata"]["generation"]
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        new = {**changed, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
        if resource in DROPS_STATUS:
            new["status"] = old.get("status", {})
        return new

    def set_status(self, resource: Resource, obj: Json, **status: Any) -> None:
        """Merge fields into the status of an object that may be gone or another one by now; None removes a field."""

        def change(current: Json) -> Json:
            merged = {**(current.get("status") or {}), **status}
            return {**current, "status": {key: value for key, value in merged.items() if value is not None}}

        metadata = obj["metadata"]
        with self.store.lock:
            now_there = self.store.get(resource, metadata.get("namespace", ""), metadata["name"])
            if now_there is not None and now_there["metadata"]["uid"] == metadata["uid"]:
                self.update(resource, metadata.get("namespace", ""), metadata["name"], change, subresource="status")

    def delete(self, resource: Resource, namespace: str, name: str, options: DeleteOptions | None = None) -> Json:
        """Delete at once, or mark for deletion: pods end first, finalizers and the foreground policy wait."""
        options = options or DeleteOptions()
        with self.store.lock:
            obj = self.get(resource, namespace, name)
            metadata = obj["metadata"]
            for asked, field in ((options.uid, "uid"), (options.version, "resourceVersion")):
                if asked and asked != metadata[field]:
                    why = f"Precondition failed: {field} in precondition: {asked}, in object meta: {metadata[field]}"
                    raise conflict(resource.qualified, name, why)
            if options.dry_run:
                return obj
            if options.propagation is None and resource == JOB:
                options = replace(options, propagation="Orphan")  # batch/v1 kept this of its first days
            finalizers = list(metadata.get("finalizers") or [])
            if options.propagation == "Foreground" and FOREGROUND not in finalizers:
                finalizers.append(FOREGROUND)
            if options.propagation == "Orphan":
                self._orphan_dependents(metadata["uid"])
            grace = self._grace(resource, obj, options)
            if not finalizers and not grace and resource != NAMESPACE:
                self.store.remove(resource, metadata.get("namespace", ""), name)
                return obj
            if not metadata.get("deletionTimestamp") or grace != metadata.get("deletionGracePeriodSeconds"):
                marks = {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace or 0}
                obj["metadata"] = {**metadata, **marks, **({"finalizers": finalizers} if finalizers else {})}
                if resource == NAMESPACE:
                    obj["status"] = {"phase": "Terminating"}
                obj = copy.deepcopy(self.store.put(resource, obj))
            return obj

    def _grace(self, resource: Resource, obj: Json, options: DeleteOptions) -> int:
        """How long a pod may take to end. Nothing to wait for when it never started or has ended."""
        if resource != POD or obj["status"].get("phase") in ("Succeeded", "Failed") or not obj["spec"].get("nodeName"):
            return 0
        default = int(obj["spec"].get("terminationGracePeriodSeconds", 30))
        asked = default if options.grace_seconds is None else options.grace_seconds
        return min(asked, int(obj["metadata"].get("deletionGracePeriodSeconds", asked)))

    def remove_pod(self, pod: Json) -> None:
        """The kubelet's last word on a pod that was to be deleted and has ended."""
        with self.store.lock:
            metadata = pod["metadata"]
            there = self.store.get(POD, metadata["namespace"], metadata["name"])
            if there is None or there["metadata"]["uid"] != metadata["uid"]:
                return
            if there["metadata"].get("finalizers"):
                self.store.put(POD, {**there, "metadata": {**there["metadata"], "deletionGracePeriodSeconds": 0}})
            else:
                self.store.remove(POD, metadata["namespace"], metadata["name"])

    def _remove_when_final(self, resource: Resource, obj: Json) -> None:
        metadata = obj["metadata"]
        marked = metadata.get("deletionTimestamp") and not metadata.get("finalizers")
        if marked and resource != NAMESPACE and not self._grace(resource, obj, DeleteOptions()):
            self.store.remove(resource, metadata.get("namespace", ""), metadata["name"])

    def _orphan_dependents(self, uid: str) -> None:
        for (resource, namespace, name), obj in self.store.every(None):
            references = obj["metadata"].get("ownerReferences") or []
            if any(each.get("uid") == uid for each in references):
                kept = [each for each in references if each.get("uid") != uid]

                def change(current: Json, kept: list[Json] = kept) -> Json:
                    current["metadata"]["ownerReferences"] = kept
                    return current

                self.update(resource, namespace, name, change)


def _bare(obj: Json) -> Json:
    metadata = {k: v for k, v in obj["metadata"].items() if k not in ("resourceVersion", "generation", "managedFields")}
    return {**obj, "metadata": metadata}
