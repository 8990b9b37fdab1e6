"""``medvl logs``: the last lines of the stages of a run, out of the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from medvl_jobs.contracts import layout
from medvl_jobs.errors import MissingInputError, SettingsError, TryAgainError
from medvl_jobs.pipeline.runs import Run, find_run
from medvl_jobs.pipeline.status import look
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage

log = logging.getLogger(__name__)


def texts(settings: RunSettings, storage: Storage, names: Sequence[str] = (), *, follow: bool = False) -> Iterator[str]:
    """The log of these stages, or of all; with ``follow`` also what comes, until they are over.

    Raises `MissingInputError` when there is no such run, or no log, and `SettingsError` for an unknown stage.
    """
    found = find_run(storage, settings)
    names = _known(found, names) or [stage.name for stage in found.stages]
    shown = dict.fromkeys(names, "")
    headed = None
    over = False
    while not over:
        try:
            over = not follow or _over(storage, found, names)  # asked first: the log of one that is over is whole
            for name in names:
                text = read_log(storage, found, name)
                if not over:  # a line that is being written may yet be another: a progress bar
                    text = text[: text.rfind("\n") + 1]
                if new := added(shown[name], text):
                    yield f"==> {name} <==\n{new}" if len(names) > 1 and headed != name else new
                    headed, shown[name] = name, text
        except TryAgainError as trouble:
            if not follow:
                raise
            over = False
            log.warning("%s; looking again", trouble)
        if not over:
            time.sleep(settings.live.every_seconds)
    if not any(shown.values()):
        raise MissingInputError(
            f"there is no log of {', '.join(names)} yet",
            where=f"{storage.uri}/{found.prefix}",
            remedy="what was reused has none in this run; what has just started, or could not, may have more to say "
            "where it runs: kubectl logs, kubectl describe pod",
        )


def _over(storage: Storage, found: Run, names: Sequence[str]) -> bool:
    return all(each.over for each in look(storage, found, datetime.now(UTC)) if each.stage.name in names)


def read_log(storage: Storage, found: Run, name: str) -> str:
    """What the store has of it; empty when it has none."""
    key = f"{layout.live(found.name, found.key, name)}/{layout.LOG}"
    return storage.read_bytes(key).decode("utf-8", errors="replace") if storage.exists(key) else ""


def added(before: str, now: str) -> str:
    """What is new in a text that grows at its end and may have lost lines at its start."""
    if now.startswith(before):
        return now[len(before) :]
    first_line = now[: now.find("\n") + 1]
    start = before.find(first_line)
    while first_line and start >= 0:
        if now.startswith(before[start:]):
            return now[len(before) - start :]
        start = before.find(first_line, start + 1)
    return now


def _known(found: Run, names: Sequence[str]) -> list[str]:
    known = [stage.name for stage in found.stages]
    for name in names:
        if name not in known:
            raise SettingsError(
                f"this run has no stage '{name}'",
                where=found.prefix,
                remedy=f"its stages are {', '.join(known)}; settings are of the form section.key=value",
            )
    return list(names)
