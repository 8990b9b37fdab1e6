"""Events, as controllers and the kubelet record them."""

from __future__ import annotations

import time
import uuid

from cluster.fakekube.clock import now
from cluster.fakekube.errors import ApiError, Json
from cluster.fakekube.objects import Objects
from cluster.fakekube.resources import EVENT

REPEAT_SECONDS = 1.0


class Recorder:
    """Writes events; the same words about the same object again raise the count, once a second at the most."""

    def __init__(self, objects: Objects, component: str) -> None:
        self._objects, self._component = objects, component
        self._names: dict[tuple[str, str, str], str] = {}
        self._told: dict[str, float] = {}

    def normal(self, obj: Json, reason: str, message: str) -> None:
        self._record(obj, "Normal", reason, message)

    def warning(self, obj: Json, reason: str, message: str) -> None:
        self._record(obj, "Warning", reason, message)

    def _record(self, obj: Json, kind: str, reason: str, message: str) -> None:
        metadata = obj["metadata"]
        namespace = metadata.get("namespace") or "default"
        key = (metadata["uid"], reason, message)
        name = self._names.setdefault(key, f"{metadata['name']}.{uuid.uuid4().hex[:16]}")
        if time.monotonic() - self._told.get(name, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        self._told[name] = time.monotonic()
        if self._objects.find(EVENT, namespace, name):
            self._objects.update(EVENT, namespace, name, _again)
            return
        involved = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "namespace": namespace}
        event = {
            "metadata": {"name": name},
            "involvedObject": {**involved, "name": metadata["name"], "uid": metadata["uid"]},
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        try:
            self._objects.create(EVENT, namespace, event)
        except ApiError:
            return  # the namespace goes


def _again(event: Json) -> Json:
    return {**event, "count": event["count"] + 1, "lastTimestamp": now()}
