"""Finished runs in the store: found by name, and their settings laid side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError, MissingInputError, SettingsError
from medvl_jobs.report.frame import NOT_OF_THE_RUN
from medvl_jobs.report.shape_making import Change, Changes
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import read_manifest

LATEST = "latest"


@dataclass(frozen=True)
class FinishedRun:
    """A run whose report is in the store."""

    name: str
    key: str
    settings: dict[str, Any]
    """Pinned, as they were."""
    stages: dict[str, str]
    """Stage -> key: ``prep``, ``train`` where it trained, ``eval-base``, …"""

    @property
    def limit(self) -> int | None:
        """The examples that were asked: the first so many of the validation split."""
        found: int | None = self.settings.get("eval", {}).get("limit")
        return found


def find_run(storage: Storage, word: str) -> FinishedRun:
    """The run called ``name``, ``name/latest`` or ``name/<run key>``.

    Raises `SettingsError` for another word, `MissingInputError` when it is not there or not finished, and `DataError`
    when its report does not say what it was made of.
    """
    name, _, key = word.strip("/").partition("/")
    if not name or "/" in key:
        raise SettingsError(f"'{word}' names no run", remedy="name it like demo, demo/latest or demo/6e188a80aa8021ea")
    if key in {"", LATEST}:
        key = _pointed(storage, layout.latest(name)) or ""
    if not key or read_manifest(storage, layout.run(name, key)) is None:
        there = sorted({each.split("/")[1] for each in storage.list_keys("runs/") if each.endswith(layout.MANIFEST)})
        raise MissingInputError(
            f"there is no finished run '{word}'",
            where=f"{storage.uri}/{layout.run(name, key) if key else layout.latest(name)}",
            remedy=f"wait for it, or name another; finished are runs of: {', '.join(there) or 'nothing'}",
        )
    where = layout.report_file(name, key, "report.json")
    try:
        lineage = json.loads(storage.read_bytes(where))["lineage"]
        stages = {str(each["stage"]): str(each["key"]) for each in lineage["stages"]}
        return FinishedRun(name, key, dict(lineage["settings"]), stages)
    except (ValueError, KeyError, TypeError) as error:
        remedy = "delete the manifest of this run and run `medvl report` again"
        raise DataError(
            f"the report has no lineage: {error!r}", where=f"{storage.uri}/{where}", remedy=remedy
        ) from error


def changes_since(storage: Storage, name: str, key: str, settings: dict[str, Any]) -> Changes | None:
    """The settings beside those of the run before; none for the first of a name, or when its settings are gone.

    ``settings`` are those of this run where `medvl run` has not recorded them: it changes a few for the stages.
    """
    before = run_before(storage, name, key)
    earlier = _recorded(storage, name, before) if before else None
    if earlier is None:
        return None
    now = _recorded(storage, name, key)
    return {"against": f"{name}/{before}", "settings": differences(earlier, settings if now is None else now)}


def _recorded(storage: Storage, name: str, key: str) -> dict[str, Any] | None:
    """The settings of a run as `medvl run` left them."""
    where = f"{layout.run(name, key)}/{layout.RUN_FILE}"
    if not storage.exists(where):
        return None
    try:
        settings = yaml.safe_load(storage.read_bytes(where))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _unreadable(f"the settings of the run are not YAML: {error}", f"{storage.uri}/{where}") from error
    if not isinstance(settings, dict):
        raise _unreadable("the settings of the run are no mapping", f"{storage.uri}/{where}")
    return settings


def run_before(storage: Storage, name: str, key: str) -> str | None:
    """The key of the newest run of the name, as it was when this one's report was first made: that is written down.

    `medvl run` moves the pointer when it is done, so a report that is made again would find itself there.
    """
    where = f"{layout.run(name, key)}/{layout.PREVIOUS}"
    if not storage.exists(where):
        newest = _pointed(storage, layout.latest(name))
        before = {"key": None if newest == key else newest}
        storage.write_bytes(where, (json.dumps(before) + "\n").encode(), if_absent=True)
    return _pointed(storage, where)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """The settings that differ, in the order of ``after``, then those that only ``before`` has."""
    old, new = (dict(_leaves({k: v for k, v in each.items() if k not in NOT_OF_THE_RUN})) for each in (before, after))
    return [
        {"setting": name, "before": old.get(name), "after": new.get(name)}
        for name in dict.fromkeys((*new, *old))
        if old.get(name) != new.get(name)
    ]


def _leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _pointed(storage: Storage, key: str) -> str | None:
    """The run key that a pointer holds; none when there is no pointer."""
    if not storage.exists(key):
        return None
    try:
        pointed = json.loads(storage.read_bytes(key))["key"]
        return None if pointed is None else str(pointed)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(f"this does not say which run it means: {error!r}", f"{storage.uri}/{key}") from error


def _unreadable(what: str, where: str) -> DataError:
    return DataError(what, where=where, remedy="delete this file: it only tells one run from another")
