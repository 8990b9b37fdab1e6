"""Watches: the changes after a version, seen through a selector."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cluster.fakekube.api import Api, Request, Target, is_true
from cluster.fakekube.errors import ApiError, Json
from cluster.fakekube.selectors import both
from cluster.fakekube.store import Change

DEFAULT_SECONDS = 1800.0
BOOKMARK_SECONDS = 1.0
INITIAL_END = "k8s.io/initial-events-end"


def events(api: Api, request: Request, target: Target) -> Iterator[Json]:
    """Events until the time is over or the test drops all watches; an expired version is an event ERROR of code 410."""
    store = api.objects.store
    query = request.query
    generation = store.watch_generation
    deadline = time.monotonic() + float(query.get("timeoutSeconds") or DEFAULT_SECONDS)
    matches = both(query.get("labelSelector", ""), query.get("fieldSelector", ""))
    version = int(query.get("resourceVersion") or 0)
    bookmarks, initial = (is_true(query.get(name, "")) for name in ("allowWatchBookmarks", "sendInitialEvents"))
    if version == 0 or initial:
        version, items = api.list(request, target)
        yield from ({"type": "ADDED", "object": item} for item in items)
        if initial:
            yield _bookmark(target, version, {INITIAL_END: "true"})
    told = time.monotonic()
    while store.watch_generation == generation and time.monotonic() < deadline:
        try:
            changes = store.since(version)
        except ApiError as error:
            yield {"type": "ERROR", "object": error.status()}
            return
        for change in changes:
            version = change.version
            kind = change.seen_through(matches) if _concerns(change, target) else None
            if kind:
                yield {"type": kind, "object": change.object}
        if bookmarks and time.monotonic() - told > BOOKMARK_SECONDS:
            told = time.monotonic()
            yield _bookmark(target, version, {})
        store.wait(version, min(0.5, max(0.0, deadline - time.monotonic())))


def _concerns(change: Change, target: Target) -> bool:
    metadata = change.object["metadata"]
    if change.resource != target.resource or target.namespace not in ("", metadata.get("namespace", "")):
        return False
    return target.name in ("", metadata["name"])


def _bookmark(target: Target, version: int, annotations: dict[str, str]) -> Json:
    metadata = {"resourceVersion": str(version), "creationTimestamp": None, "annotations": annotations}
    resource = target.resource
    obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return {"type": "BOOKMARK", "object": obj}
