"""The objects, their versions, and the history that watches read."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster.fakekube.errors import Json, gone
from cluster.fakekube.resources import Resource
from cluster.fakekube.selectors import Matcher


@dataclass(frozen=True)
class Change:
    """One entry of the history: before is None for a new object, after is None for one that is gone."""

    version: int
    resource: Resource
    before: Json | None
    after: Json | None

    @property
    def object(self) -> Json:
        """The object as a watch shows it: a deleted one carries the version of its deletion."""
        if self.after is not None:
            return self.after
        assert self.before is not None
        return {**self.before, "metadata": {**self.before["metadata"], "resourceVersion": str(self.version)}}

    def seen_through(self, matches: Matcher) -> str | None:
        """The type of the event for a watch with this selector, None when it sees nothing."""
        was = self.before is not None and matches(self.before)
        is_now = self.after is not None and matches(self.after)
        if was and is_now:
            return "MODIFIED"
        return "ADDED" if is_now else "DELETED" if was else None


Key = tuple[Resource, str, str]
Listener = Callable[[Change], None]


class Store:
    """Objects by resource, namespace and name. Stored objects are never changed in place: readers may keep them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1
        self.oldest = 0
        self.watch_generation = 0
        """Raised to end every open watch."""
        self.listeners: list[Listener] = []
        self._objects: dict[Key, Json] = {}
        self._history: list[Change] = []

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        with self.lock:
            return self._objects.get((resource, namespace, name))

    def every(self, resource: Resource | None = None, namespace: str = "") -> list[tuple[Key, Json]]:
        """Everything, or everything of one kind, or of one namespace; in the order of creation."""
        with self.lock:
            return [
                (key, obj)
                for key, obj in self._objects.items()
                if resource in (None, key[0]) and namespace in ("", key[1])
            ]

    def put(self, resource: Resource, obj: Json) -> Json:
        """Write a new object or a new state of one, under the next version."""
        with self.changed:
            self.version += 1
            metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
            stored = copy.deepcopy({**obj, "metadata": metadata})
            key = (resource, metadata.get("namespace", ""), metadata["name"])
            self._note(Change(self.version, resource, self._objects.get(key), stored))
            self._objects[key] = stored
            return stored

    def remove(self, resource: Resource, namespace: str, name: str) -> None:
        with self.changed:
            before = self._objects.pop((resource, namespace, name))
            self.version += 1
            self._note(Change(self.version, resource, before, None))

    def _note(self, change: Change) -> None:
        self._history.append(change)
        for listener in self.listeners:
            listener(change)
        self.changed.notify_all()

    def since(self, version: int) -> list[Change]:
        """The changes after a version. Raises 410 when they are forgotten."""
        with self.lock:
            if version < self.oldest:
                raise gone(version, self.oldest)
            # Versions are the history's own indices, moved by what has been forgotten.
            return self._history[len(self._history) - (self.version - version) :] if version < self.version else []

    def forget(self) -> None:
        """Forget all old versions, as a compaction does: a watch from before answers 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version
            self._history.clear()
            self.changed.notify_all()

    def drop_watches(self) -> None:
        with self.changed:
            self.watch_generation += 1
            self.changed.notify_all()

    def wait(self, version: int, timeout: float) -> int:
        """Until something is newer than a version or the time is over; the version now."""
        with self.changed:
            if self.version <= version:
                self.changed.wait(timeout)
            return self.version

    def names(self) -> Iterator[Key]:
        with self.lock:
            return iter(list(self._objects))
