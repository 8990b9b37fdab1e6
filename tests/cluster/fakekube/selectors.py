"""Label and field selectors, as functions over an object."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from cluster.fakekube.errors import Json, bad_request

Matcher = Callable[[Json], bool]
_SET = re.compile(r"^(\S+)\s+(in|notin)\s*\(([^)]*)\)$")
_EQUAL = re.compile(r"^([^=!\s]+)\s*(==|=|!=)\s*(\S*)$")
_FIELDS = re.compile(
    r"^(metadata\.(name|namespace)|status\.(phase|podIP|successful)|spec\.(nodeName|restartPolicy|schedulerName)"
    r"|involvedObject\.\w+|reason|type|reportingComponent|source)$"
)


def label_matcher(selector: str) -> Matcher:
    """``a=b,c!=d,e in (f,g),h notin (i),j,!k``."""
    parts = [_label_part(part.strip()) for part in re.split(r",(?![^(]*\))", selector) if part.strip()]
    return lambda obj: all(part(obj["metadata"].get("labels") or {}) for part in parts)


def _label_part(part: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(part):
        key, operator, text = found.groups()
        values = {value.strip() for value in text.split(",")}
        if operator == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(part):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if re.fullmatch(r"!\s*[\w./-]+", part):
        absent = part[1:].strip()
        return lambda labels: absent not in labels
    if re.fullmatch(r"[\w./-]+", part):
        return lambda labels: part in labels
    raise bad_request(f"unable to parse requirement: {part}")


def field_matcher(selector: str) -> Matcher:
    """``metadata.name=x,status.phase!=Running``: paths that Kubernetes indexes; others are refused as it does."""
    wanted: list[tuple[str, str, str]] = []
    for part in filter(None, selector.split(",")):
        found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", part)
        if not found or not _FIELDS.match(found.group(1)):
            raise bad_request(f"field label not supported: {part}")
        wanted.append((found.group(1), found.group(2), found.group(3)))
    return lambda obj: all((_at(obj, path) == value) == (operator != "!=") for path, operator, value in wanted)


def _at(obj: Json, path: str) -> str:
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def both(labels: str, fields: str) -> Matcher:
    by_label, by_field = label_matcher(labels), field_matcher(fields)
    return lambda obj: by_label(obj) and by_field(obj)
