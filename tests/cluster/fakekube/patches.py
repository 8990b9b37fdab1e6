"""The ways in which the API changes an object: JSON patch, merge patch, strategic merge patch, server-side apply."""

from __future__ import annotations

import copy
from typing import Any

from cluster.fakekube.errors import ApiError, Json, bad_request

_KEYS = {
    "containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath",
    "conditions": "type", "ownerReferences": "uid", "imagePullSecrets": "name", "secrets": "name",
    "hostAliases": "ip", "ephemeralContainers": "name", "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
}  # fmt: skip
"""Lists that a strategic merge patch merges, and by which field."""


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge(target: Any, patch: Any) -> Any:
    """As `merge_patch`, but the lists in `_KEYS` merge by their key; knows ``$patch: delete|replace``."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith(("$setElementOrder/", "$retainKeys", "$patch")):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [each for each in merged.get(name) or [] if each not in value]
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, list):
            merged[key] = _merged_list(key, merged.get(key) or [], value)
        else:
            merged[key] = strategic_merge(merged.get(key), value)
    return merged


def _merged_list(name: str, old: list[Any], patch: list[Any]) -> list[Any]:
    if name == "finalizers":
        return [*old, *(each for each in patch if each not in old)]
    key = _list_key(name, [*old, *patch])
    if key is None:
        return copy.deepcopy(patch)
    if any(each.get("$patch") == "replace" for each in patch):
        return [copy.deepcopy(each) for each in patch if each.get("$patch") != "replace"]
    merged = {each.get(key): each for each in old}
    for each in patch:
        if each.get("$patch") == "delete":
            merged.pop(each.get(key), None)
        else:
            merged[each.get(key)] = strategic_merge(merged.get(each.get(key)), each)
    return list(merged.values())


def _list_key(name: str, items: list[Any]) -> str | None:
    if not items or not all(isinstance(each, dict) for each in items):
        return None
    if name == "ports":
        return "containerPort" if any("containerPort" in each for each in items) else "port"
    return _KEYS.get(name)


def json_patch(target: Json, operations: list[Json]) -> Json:
    """RFC 6902."""
    document: Any = copy.deepcopy(target)
    for operation in operations:
        document = _apply(document, operation)
    if not isinstance(document, dict):
        raise bad_request("a JSON patch must leave an object")
    return document


def _apply(document: Any, operation: Json) -> Any:
    kind = operation["op"]
    if kind in ("copy", "move"):
        value = copy.deepcopy(_get(document, operation["from"]))
        if kind == "move":
            document = _apply(document, {"op": "remove", "path": operation["from"]})
        return _apply(document, {"op": "add", "path": operation["path"], "value": value})
    if kind == "test":
        if _get(document, operation["path"]) != operation.get("value"):
            raise ApiError(422, "Invalid", "the server rejected our request due to an error in our request")
        return document
    if operation["path"] == "":
        return operation.get("value")
    parent, last = _parent(document, operation["path"])
    if isinstance(parent, list):
        _change_list(parent, len(parent) if last == "-" else int(last), operation)
    elif kind == "remove":
        if last not in parent:
            raise ApiError(422, "Invalid", f"remove operation does not apply: no value at {operation['path']}")
        del parent[last]
    else:
        parent[last] = operation.get("value")
    return document


def _change_list(items: list[Any], index: int, operation: Json) -> None:
    if operation["op"] == "add":
        items.insert(index, operation.get("value"))
    elif operation["op"] == "replace":
        items[index] = operation.get("value")
    else:
        del items[index]


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _parent(document: Any, path: str) -> tuple[Any, str]:
    *steps, last = _steps(path)
    return _walk(document, steps, path), last


def _get(document: Any, path: str) -> Any:
    return _walk(document, _steps(path), path)


def _walk(document: Any, steps: list[str], path: str) -> Any:
    for step in steps:
        try:
            document = document[int(step)] if isinstance(document, list) else document[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise ApiError(422, "Invalid", f"the JSON patch names {path}, which does not exist") from None
    return document


def apply(current: Json, applied: Json, before: Json) -> Json:
    """Server-side apply: what this manager applied before and no longer names goes, the rest merges.

    There are no field owners and so no conflicts: the last manager wins, as with ``force``.
    """
    merged: Json = strategic_merge(strategic_merge(current, _removals(before, applied)), applied)
    return merged


def _removals(before: Any, applied: Json) -> Json:
    gone: Json = {}
    for key, old in before.items():
        if key not in applied:
            gone[key] = None
            continue
        below: Any = None
        if isinstance(old, dict) and isinstance(applied[key], dict):
            below = _removals(old, applied[key])
        elif isinstance(old, list) and isinstance(applied[key], list):
            below = _list_removals(key, old, applied[key])
        if below:
            gone[key] = below
    return gone


def _list_removals(name: str, old: list[Any], applied: list[Any]) -> list[Json]:
    key = _list_key(name, [*old, *applied])
    if key is None:
        return []
    now = {each.get(key): each for each in applied}
    gone: list[Json] = []
    for each in old:
        mine = now.get(each.get(key))
        if mine is None:
            gone.append({key: each.get(key), "$patch": "delete"})
        elif below := _removals(each, mine):
            gone.append({key: each.get(key), **below})
    return gone
