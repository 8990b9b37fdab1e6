"""Find a run in the store again, with nothing but the store's address and the run's name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError, MissingInputError
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.live import read_status

_FINGERPRINTS = (("prep", "source_fingerprint"), ("model", "fingerprint"), ("eval", "adapter_fingerprint"))


@dataclass(frozen=True)
class Run:
    """A run that was started at some time."""

    name: str
    key: str
    exact: bool
    """Whether it is of the settings that were asked for, and not only the newest of the name."""
    stages: tuple[Stage, ...]
    """All that it needs, in order; one without a prefix was started by hand, and what it makes is not known here."""

    @property
    def prefix(self) -> str:
        """Where it lies."""
        return layout.run(self.name, self.key)

    @property
    def page(self) -> str:
        """Key of its report."""
        return layout.report_file(self.name, self.key, layout.PAGE)

    def live(self, stage: Stage) -> str:
        """Where a stage says how it is."""
        return layout.live(self.name, self.key, stage.name)


def find_run(storage: Storage, settings: RunSettings) -> Run:
    """The run of these settings, or else the newest of their name.

    Neither source nor model is read: what they are, the newest run of the name has written down. Raises
    `MissingInputError` when there is none of that name, and names those that are there, and `DataError` when what it
    has written down is damaged.
    """
    name = settings.name
    keys = _keys_under(storage, f"{layout.runs(name)}/")
    if not keys:
        others = _keys_under(storage, f"{layout.runs()}/")
        there = f"set name to one of those that are there: {', '.join(others)}" if others else "there is no run at all"
        raise MissingInputError(
            f"there is no run '{name}' here",
            where=f"{storage.uri}/{layout.runs()}",
            remedy=f"{there}; or correct storage.uri. A run is there from the moment that it has found its input",
        )
    newest = _newest(storage, name, keys)
    key = _key_of(storage, settings, newest)
    exact = key in keys
    found = key if key is not None and exact else newest
    return Run(name, found, exact, _stages(storage, name, found))


def _keys_under(storage: Storage, prefix: str) -> list[str]:
    """Names of the folders there."""
    rests = (key.removeprefix(prefix) for key in storage.list_keys(prefix))
    return sorted({rest.split("/")[0] for rest in rests if "/" in rest})


def _newest(storage: Storage, name: str, keys: Sequence[str]) -> str:
    """The one started last, or of runs that nothing points to the last one that gave a sign of life."""
    for pointer in (layout.current(name), layout.latest(name)):
        found = _read(storage, pointer)
        if isinstance(found, dict) and found.get("key") in keys:
            return str(found["key"])
    return max(keys, key=lambda key: _last_sign(storage, name, key))


def _last_sign(storage: Storage, name: str, key: str) -> datetime:
    statuses = (read_status(storage, layout.live(name, key, stage)) for stage in _live_stages(storage, name, key))
    return max((status.updated_at for status in statuses if status), default=datetime.min.replace(tzinfo=UTC))


def _key_of(storage: Storage, settings: RunSettings, newest: str) -> str | None:
    """The key of these settings, if they read what the newest run has read; none when that is not known."""
    key = f"{layout.run(settings.name, newest)}/{layout.RUN_FILE}"
    if not storage.exists(key):
        return None
    sections = {}
    try:
        known: dict[str, Any] = yaml.safe_load(storage.read_bytes(key))
        for section, field in _FINGERPRINTS:
            given = getattr(settings, section)
            if getattr(given, field) is None:
                given = given.model_copy(update={field: known[section][field]})
            sections[section] = given
        return stage_keys(settings.model_copy(update=sections)).report
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise _damaged(storage, key) from error


def _stages(storage: Storage, name: str, key: str) -> tuple[Stage, ...]:
    """As the run has written them down, or else those that have given a sign of life."""
    graph = f"{layout.run(name, key)}/{layout.PLAN}"
    if plan := _read(storage, graph):
        try:
            return tuple(
                Stage(step["stage"], tuple(step["command"][1:]), step["prefix"], tuple(step["needs"])) for step in plan
            )
        except (TypeError, KeyError) as error:
            raise _damaged(storage, graph) from error
    return tuple(Stage(stage, (), "") for stage in _live_stages(storage, name, key))


def _live_stages(storage: Storage, name: str, key: str) -> Iterable[str]:
    return _keys_under(storage, layout.live(name, key, ""))


def _read(storage: Storage, key: str) -> Any:
    """JSON; none where there is none."""
    if not storage.exists(key):
        return None
    try:
        return json.loads(storage.read_bytes(key))
    except ValueError as error:
        raise _damaged(storage, key) from error


def _damaged(storage: Storage, key: str) -> DataError:
    remedy = "delete it: 'medvl run' writes it again, and reuses what is finished"
    return DataError("what the run has written down is damaged", where=f"{storage.uri}/{key}", remedy=remedy)
