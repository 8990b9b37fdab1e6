"""``medvl collect``: bring a finished report out of the store, and judge it by its gates. For CI."""

from __future__ import annotations

import json
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError, TryAgainError
from medvl_jobs.report.gates import Judged, judge_gates
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import read_manifest


def collect(settings: RunSettings, storage: Storage, keys: StageKeys, out: Path) -> tuple[Judged, ...]:
    """Download the report of a pinned run into ``out``; returns every gate.

    Raises `TryAgainError` when the report is not there yet: that of an earlier run with other settings is none.
    """
    prefix = layout.run(settings.name, keys.report)
    manifest = read_manifest(storage, prefix)
    if manifest is None:
        raise TryAgainError(
            "the report of these settings is not there yet",
            where=f"{storage.uri}/{prefix}",
            remedy="wait for the run, or see why it stopped: kubectl logs job/<release>-coordinator-<hash>",
        )
    for entry in manifest.files:
        if entry.path.startswith("report/"):
            storage.download(f"{prefix}/{entry.path}", out / entry.path.removeprefix("report/"))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return judge_gates(report, settings.report.gates)


def require(judged: tuple[Judged, ...]) -> None:
    """Raises `DataError` when a gate was missed."""
    missed = [each for each in judged if not each.passed]
    if missed:
        raise DataError(
            f"{len(missed)} of {len(judged)} gates missed: {'; '.join(f'{m.metric} {m.condition}' for m in missed)}",
            where="report.gates",
            remedy="read the report; a gate that asks too much is changed in the settings, in view of everybody",
        )
