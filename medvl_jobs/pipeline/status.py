"""``medvl status``: how the stages of a run are, as far as they say so in the store.

Neither Kubernetes nor the machine that works is asked. So a stage that waits for a GPU only looks as if nobody had
started it, and one that was killed is only silent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Status
from medvl_jobs.errors import MedvlError, TryAgainError
from medvl_jobs.pipeline.runs import Run, find_run
from medvl_jobs.pipeline.stages import Stage
from medvl_jobs.report.words import duration
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.live import read_status

log = logging.getLogger(__name__)

SILENT_SECONDS = 60.0
MISSED_SIGNS = 4
"""So many signs of life must be missing, and for so long, before a stage is called silent."""

State = Literal["done", "reused", "working", "silent", "failed", "stopped", "waiting", "unneeded"]
_COLUMNS = ("stage", "state", "progress", "loss", "rate", "left", "host", "last sign")


@dataclass(frozen=True)
class Look:
    """One stage at one moment."""

    stage: Stage
    state: State
    status: Status | None
    waits_for: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it by itself."""
        return self.state not in {"working", "waiting"}


def texts(settings: RunSettings, storage: Storage, *, as_json: bool = False, watch: bool = False) -> Iterator[str]:
    """How the run of these settings is; with ``watch`` again and again, until its report is there.

    Raises `MissingInputError` when there is no such run. What fails for a while is tried again while one watches.
    """
    while True:
        try:
            found = find_run(storage, settings)
            looks = look(storage, found, datetime.now(UTC))
            yield (_as_json if as_json else as_text)(found, looks, storage.uri)
            if not watch or (looks and looks[-1].state == "done"):
                return
        except TryAgainError as trouble:
            if not watch:
                raise
            log.warning("%s; looking again", trouble)
        time.sleep(settings.live.every_seconds)


def look(storage: Storage, found: Run, now: datetime) -> list[Look]:
    """Every stage of the run, in the order of its graph."""
    made = {stage.name for stage in found.stages if stage.prefix and storage.exists(layout.manifest(stage.prefix))}
    statuses = {stage.name: read_status(storage, found.live(stage)) for stage in found.stages}
    whole = bool(found.stages) and found.stages[-1].name in made
    looks = []
    for stage in found.stages:
        status = statuses[stage.name]
        waits_for = tuple(name for name in stage.needs if name not in made)
        if stage.name in made:
            if status and status.state in {"failed", "stopped"}:
                status = None  # another run has made it since
            own = status is not None or stage.prefix == found.prefix
            looks.append(Look(stage, "done" if own else "reused", status))
        elif whole:
            looks.append(Look(stage, "unneeded", status))
        elif status is None or (stage.prefix and status.state == "done" and status.processes == 1):
            looks.append(Look(stage, "waiting", None, waits_for))  # what was made once is gone
        else:
            looks.append(Look(stage, _state(stage, status, now), status))
    return looks


def _state(stage: Stage, status: Status, now: datetime) -> State:
    """Of a stage without a manifest."""
    if status.state == "done":  # its first pod has; the others are at work, or it was started by hand
        return "working" if stage.prefix else "done"
    if status.state != "working":
        return status.state
    patience = max(MISSED_SIGNS * status.every_seconds, SILENT_SECONDS)
    return "silent" if (now - status.updated_at).total_seconds() > patience else "working"


def as_text(found: Run, looks: Sequence[Look], uri: str, now: datetime | None = None) -> str:
    """A table with a line for each stage, what went wrong below, and where the report is."""
    now = now or datetime.now(UTC)
    which = "the run of these settings" if found.exact else "the newest run of this name"
    table = [_COLUMNS, *(_cells(each, now) for each in looks)]
    shown = [n for n in range(len(_COLUMNS)) if any(row[n] for row in table[1:])]
    widths = {n: max(len(row[n]) for row in table) for n in shown}
    rows = ["  ".join(row[n].ljust(widths[n]) for n in shown).rstrip() for row in table]
    there = bool(looks) and looks[-1].state == "done" and looks[-1].stage.prefix == found.prefix
    report = f"report: {uri}/{found.page}" if there else "report: not there yet"
    head = f"{found.name}, {which}: {uri}/{found.prefix}"
    return "\n".join([head, "", *rows, *(line for each in looks for line in _trouble(each, now)), "", report])


def _cells(each: Look, now: datetime) -> tuple[str, ...]:
    status = each.status
    if status is None:
        return (each.stage.name, _waiting(each), *[""] * (len(_COLUMNS) - 2))
    state: str = each.state
    if each.state == "silent":
        state = f"no sign of life since {_clock(status.updated_at, now)}"
    elif each.state == "working" and status.state == "done":
        state = "working, in other pods"
    elif each.state == "working" and status.done is None:
        state = "working, starting up"
    took = (status.updated_at - status.started_at).total_seconds()
    left = duration(took).join(("took ", "")) if each.state == "done" else ""
    if each.state == "working" and status.eta_seconds is not None and status.eta is not None:
        left = f"{duration(status.eta_seconds)}, {_clock(status.eta, now)}"
    return (
        each.stage.name,
        state,
        f"{status.done:,}/{status.total:,} {status.unit}" if status.done is not None else "",
        f"{status.loss:.4g}" if status.loss is not None else "",
        f"{_three_digits(status.rate)}/s" if status.rate is not None else "",
        left,
        f"{status.host} × {status.processes}" if status.processes > 1 else status.host,
        f"{duration(max((now - status.updated_at).total_seconds(), 0.0))} ago" if each.state == "working" else "",
    )


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _waiting(each: Look) -> str:
    """For what, where that is known."""
    if not each.waits_for:
        return each.state
    more = ", …" if len(each.waits_for) > 1 else ""
    return f"waiting for {each.waits_for[0]}{more}"


def _trouble(each: Look, now: datetime) -> Iterator[str]:
    """What ended a stage, or the attempt before the one that works."""
    status = each.status
    if status is None or status.error is None or each.state in {"done", "reused", "unneeded"}:
        return
    which = f"attempt {status.attempt - 1}" if status.state == "working" else f"attempt {status.attempt}"
    error = status.error
    yield ""
    kind = "" if error["error"] == MedvlError.__name__ else f" ({error['error']}, exit code {error['exit_code']})"
    yield f"{each.stage.name}, {which}: {error['reason']}{kind}"
    for name in ("where", "remedy"):
        if error.get(name):
            yield f"  {name + ':':<7} {error[name]}"


def _clock(moment: datetime, now: datetime) -> str:
    """Local time, with the date when it is another one."""
    moment, now = moment.astimezone(), now.astimezone()
    return f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M}"


def _as_json(found: Run, looks: Sequence[Look], uri: str) -> str:
    """One line for machines."""
    stages: list[dict[str, Any]] = [
        {
            "stage": each.stage.name,
            "state": each.state,
            "prefix": each.stage.prefix,
            "needs": list(each.stage.needs),
            "status": each.status.model_dump(mode="json") if each.status else None,
        }
        for each in looks
    ]
    report = f"{uri}/{found.page}" if looks and looks[-1].state == "done" and looks[-1].stage.prefix else None
    return json.dumps(
        {
            "name": found.name,
            "key": found.key,
            "exact": found.exact,
            "run": f"{uri}/{found.prefix}",
            "stages": stages,
            "report": report,
        },
        ensure_ascii=False,
    )
