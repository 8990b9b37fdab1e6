"""The garbage collector: dependents of owners that are gone, foreground deletion, the content of dying namespaces."""

from __future__ import annotations

from contextlib import suppress

from cluster.fakekube.errors import ApiError, Json
from cluster.fakekube.objects import FOREGROUND, DeleteOptions, Objects
from cluster.fakekube.resources import NAMESPACE, Resource

_Identity = tuple[str, str, str, str]


class GarbageCollector:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def step(self) -> None:
        every = self._objects.store.every()
        alive = {(_identity(obj["apiVersion"], obj["kind"], obj["metadata"])) for _, obj in every}
        for (resource, namespace, name), obj in every:
            metadata = obj["metadata"]
            owners = metadata.get("ownerReferences") or []
            if owners and not any(_identity(o["apiVersion"], o["kind"], o) in alive for o in owners):
                self._delete(resource, namespace, name, metadata)
            if metadata.get("deletionTimestamp") and FOREGROUND in (metadata.get("finalizers") or []):
                self._foreground(resource, namespace, name, metadata["uid"])
            if resource == NAMESPACE and metadata.get("deletionTimestamp"):
                self._empty(name)

    def _delete(self, resource: Resource, namespace: str, name: str, metadata: Json) -> None:
        if metadata.get("deletionTimestamp"):
            return
        with suppress(ApiError):
            options = DeleteOptions(propagation="Background", uid=metadata["uid"])
            self._objects.delete(resource, namespace, name, options)

    def _foreground(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        dependents = [
            (key, obj["metadata"])
            for key, obj in self._objects.store.every()
            if any(owner.get("uid") == uid for owner in obj["metadata"].get("ownerReferences") or [])
        ]
        for (kind, where, called), metadata in dependents:
            self._delete(kind, where, called, metadata)
        if not dependents:
            with suppress(ApiError):
                self._objects.update(resource, namespace, name, _without_foreground)

    def _empty(self, namespace: str) -> None:
        content = self._objects.store.every(None, namespace)
        for (resource, where, name), obj in content:
            self._delete(resource, where, name, obj["metadata"])
        if not content:
            self._objects.store.remove(NAMESPACE, "", namespace)


def _identity(api_version: str, kind: str, named: Json) -> _Identity:
    return api_version, kind, named["name"], named["uid"]


def _without_foreground(obj: Json) -> Json:
    kept = [each for each in obj["metadata"].get("finalizers") or [] if each != FOREGROUND]
    obj["metadata"] = {**obj["metadata"], "finalizers": kept}
    return obj
