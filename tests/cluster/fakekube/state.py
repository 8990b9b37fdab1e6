"""Waiting for a cluster, and what it looks like when the wait was in vain."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from cluster.fakekube.errors import Json
from cluster.fakekube.logs import LogReader
from cluster.fakekube.objects import Objects
from cluster.fakekube.patches import merge_patch
from cluster.fakekube.resources import EVENT, JOB, POD, PYTORCH_JOB, Resource

if TYPE_CHECKING:
    from cluster.fakekube.cluster import Cluster

POLL_SECONDS = 0.1
TAIL_LINES = 25
Found = TypeVar("Found")


def wait(cluster: Cluster, what: str, look: Callable[[], Found | None], timeout: float) -> Found:
    """Look again at every change, and now and then without one: logs are no objects."""
    deadline = time.monotonic() + timeout
    while True:
        version = cluster.store.version
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s in vain for: {what}\n{cluster.state()}")
        cluster.store.wait(version, POLL_SECONDS)


def describe(objects: Objects, logs: LogReader, faults: list[str]) -> str:
    """Jobs, pods, the ends of their logs, the last events, and the fake's own mistakes."""
    parts: list[str] = []
    for resource in (JOB, PYTORCH_JOB):
        for obj in objects.list(resource):
            status = obj.get("status") or {}
            conditions = [f"{c['type']}={c['status']} {c.get('reason', '')}" for c in status.get("conditions") or []]
            counts = {key: value for key, value in status.items() if isinstance(value, int) and value}
            parts.append(f"{resource.kind} {obj['metadata']['name']}: {', '.join(conditions)} {counts}")
    for pod in objects.list(POD):
        parts += _pod_lines(pod, logs)
    parts.append("--- events")
    parts += event_lines(objects.list(EVENT), "")[-40:]
    parts += faults
    return "\n".join(parts)


def _pod_lines(pod: Json, logs: LogReader) -> list[str]:
    metadata, status = pod["metadata"], pod["status"]
    marks = " (to be deleted)" if metadata.get("deletionTimestamp") else ""
    lines = [f"Pod {metadata['name']}: {status.get('phase')}{marks} {status.get('reason', '')}"]
    lines += [
        f"  {c['type']}=False {c.get('reason', '')}: {c.get('message', '')}"
        for c in status.get("conditions") or []
        if c["status"] == "False" and c.get("message")
    ]
    for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        lines.append(f"  {each['name']}: {json.dumps(each['state'])} restarts={each['restartCount']}")
        tail = logs.text(pod, each["name"]).splitlines()[-TAIL_LINES:]
        lines += [f"    | {line}" for line in tail]
    return lines


def event_lines(events: list[Json], name: str) -> list[str]:
    ordered = sorted(events, key=lambda event: int(event["metadata"]["resourceVersion"]))
    return [
        f"{event['involvedObject'].get('name')}: {event.get('reason')}: {event.get('message')}"
        for event in ordered
        if name in ("", event["involvedObject"].get("name"))
    ]


def patch(objects: Objects, resource: Resource, namespace: str, name: str, change: Json) -> Json:
    return objects.update(resource, namespace, name, lambda current: merge_patch(current, change))
