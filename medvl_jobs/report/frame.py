"""What a report is a report of: one run, or two. All that `assemble` needs beside the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medvl_jobs.report.metrics import NAMES, Naming
from medvl_jobs.report.shape_making import Changes
from medvl_jobs.settings.eval import Variant
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.report import ReportSettings
from medvl_jobs.settings.run import RunSettings

NOT_OF_THE_RUN = {"chat", "live"}
"""Settings that change nothing of a run; the chat's may hold a password."""


@dataclass(frozen=True)
class Frame:
    """The names under which things are compared, and how."""

    kind: Literal["run", "runs"]
    name: str
    key: str
    names: Mapping[Variant, Naming]
    settings: dict[str, Any]
    """As they are shown: of the run, or of the second of two."""
    report: ReportSettings
    price_per_gpu_hour: float | None = None
    changes: Changes | None = None


def frame_of_run(settings: RunSettings, keys: StageKeys, changes: Changes | None = None) -> Frame:
    """Base against tuned."""
    return Frame(
        kind="run",
        name=settings.name,
        key=keys.report,
        names=NAMES,
        settings=shown_settings(settings),
        report=settings.report,
        price_per_gpu_hour=settings.plan.price_per_gpu_hour,
        changes=changes,
    )


def shown_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings that belong to the run, as JSON."""
    return settings.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
