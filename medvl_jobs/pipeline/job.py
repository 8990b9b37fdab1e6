"""``medvl run``: pin, plan, and let an executor carry the plan out."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import yaml

from medvl_jobs.contracts import layout
from medvl_jobs.pipeline import local
from medvl_jobs.pipeline.pin import pin
from medvl_jobs.pipeline.plan import Step, as_json, plan, show
from medvl_jobs.pipeline.stages import Stage, stages
from medvl_jobs.settings.keys import StageKeys, stage_keys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.publish import read_manifest

log = logging.getLogger(__name__)


def run(settings: RunSettings, storage: Storage, *, dry_run: bool = False) -> str | None:
    """Bring a run to its report; returns the key of the report's page, or ``None`` for a dry run."""
    pinned = pin(settings, storage)
    keys = stage_keys(pinned)

    def finished(stage: Stage) -> bool:
        return read_manifest(storage, stage.prefix) is not None

    steps = plan(stages(pinned, keys), finished)
    print(show(steps), flush=True)
    if dry_run:
        return None
    _record(storage, pinned, keys, steps)
    with tempfile.TemporaryDirectory(prefix="medvl-run-") as folder:
        path = Path(folder) / "run.yaml"
        here = pinned.model_copy(update={"prep": pinned.prep.model_copy(update={"indexes": 1})})  # no pods on a laptop
        path.write_text(_as_yaml(here), encoding="utf-8")
        seconds = local.execute(steps, path)
    latest = {"key": keys.report, "report": layout.report_file(pinned.name, keys.report, "index.html")}
    storage.write_bytes(layout.latest(pinned.name), (json.dumps(latest, indent=2) + "\n").encode())
    if seconds:
        print("\n".join(["", *(f"{name:<20}{spent:>8.1f} s" for name, spent in seconds.items())]), flush=True)
    return latest["report"]


def _as_yaml(settings: RunSettings) -> str:
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _record(storage: Storage, pinned: RunSettings, keys: StageKeys, steps: tuple[Step, ...]) -> None:
    """Keep the resolved settings and the graph beside the report that they lead to, as they were at the first start."""
    prefix = layout.run(pinned.name, keys.report)
    storage.write_bytes(f"{prefix}/{layout.RUN_FILE}", _as_yaml(pinned).encode(), if_absent=True)
    graph = json.dumps(as_json(steps), indent=2) + "\n"
    storage.write_bytes(f"{prefix}/{layout.PLAN}", graph.encode(), if_absent=True)
