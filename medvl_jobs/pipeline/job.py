"""``medvl run``: pin, plan, and let an executor carry the plan out."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from enum import StrEnum
from functools import partial
from pathlib import Path

import yaml

from medvl_jobs.contracts import layout
from medvl_jobs.errors import TryAgainError
from medvl_jobs.pipeline import local
from medvl_jobs.pipeline.pin import pin
from medvl_jobs.pipeline.plan import Step, as_json, plan, show
from medvl_jobs.pipeline.signs import ended
from medvl_jobs.pipeline.stages import Stage, stages
from medvl_jobs.settings.keys import StageKeys, stage_keys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.probe import probe
from medvl_jobs.storage.publish import read_manifest

log = logging.getLogger(__name__)

LONG_ENOUGH_SECONDS = 60.0
"""An attempt that lasted longer was no failure from the start. No pause is longer either."""


class Executor(StrEnum):
    """Who carries a plan out."""

    LOCAL = "local"
    """Processes on this machine, one after the other."""
    CLUSTER = "cluster"
    """Jobs on Kubernetes, from the manifests of a plan that the chart made."""


def run(
    settings: RunSettings, storage: Storage, *, executor: Executor = Executor.LOCAL, dry_run: bool = False
) -> str | None:
    """Bring a run to its report; returns the key of the report's page, or ``None`` for a dry run.

    On a cluster the API, the rights, the store and every manifest are tried first, and what fails for a while is tried
    again for ``cluster.give_up_after_seconds``. Raises what those checks raise, and what ends a stage for good.
    """
    if executor is Executor.LOCAL or dry_run:
        return _run(settings, storage, executor, dry_run)
    patience, pause = settings.cluster.give_up_after_seconds, 1.0
    in_vain_since = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            return _run(settings, storage, executor, dry_run)
        except TryAgainError as trouble:
            if time.monotonic() - began > LONG_ENOUGH_SECONDS:  # it worked until now: this is another trouble
                in_vain_since, pause = time.monotonic(), 1.0
            if time.monotonic() + pause - in_vain_since > patience:
                raise
            log.warning("%s; starting again in %g s", trouble, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONG_ENOUGH_SECONDS)


def _run(settings: RunSettings, storage: Storage, executor: Executor, dry_run: bool) -> str | None:
    on_cluster = None
    if executor is Executor.CLUSTER:
        # Here and not above: on a laptop the client of Kubernetes need not be there.
        from medvl_jobs.pipeline.cluster import ClusterExecutor  # noqa: PLC0415

        on_cluster = ClusterExecutor(settings.cluster)
        probe(storage)
    pinned = pin(settings, storage)
    keys = stage_keys(pinned)

    def finished(stage: Stage) -> bool:
        return read_manifest(storage, stage.prefix) is not None

    steps = plan(stages(pinned, keys), finished)
    print(show(steps), flush=True)
    if on_cluster:
        on_cluster.rehearse(steps, pinned)
    if dry_run:
        return None
    _record(storage, pinned, keys, steps)
    seconds = {}
    if on_cluster:
        on_cluster.execute(steps, pinned, storage)
    else:
        seconds = _execute_here(steps, pinned, storage)
    latest = {"key": keys.report, "report": layout.report_file(pinned.name, keys.report, "index.html")}
    storage.write_bytes(layout.latest(pinned.name), (json.dumps(latest, indent=2) + "\n").encode())
    if seconds:
        print("\n".join(["", *(f"{name:<20}{spent:>8.1f} s" for name, spent in seconds.items())]), flush=True)
    return latest["report"]


def _execute_here(steps: tuple[Step, ...], pinned: RunSettings, storage: Storage) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="medvl-run-") as folder:
        path = Path(folder) / "run.yaml"
        here = pinned.model_copy(update={"prep": pinned.prep.model_copy(update={"indexes": 1})})  # no pods on a laptop
        path.write_text(_as_yaml(here), encoding="utf-8")
        return local.execute(steps, path, partial(ended, pinned, storage))


def _as_yaml(settings: RunSettings) -> str:
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _record(storage: Storage, pinned: RunSettings, keys: StageKeys, steps: tuple[Step, ...]) -> None:
    """Keep the resolved settings and the graph beside the report that they lead to, as they were at the first start."""
    prefix = layout.run(pinned.name, keys.report)
    storage.write_bytes(f"{prefix}/{layout.RUN_FILE}", _as_yaml(pinned).encode(), if_absent=True)
    graph = json.dumps(as_json(steps), indent=2) + "\n"
    storage.write_bytes(f"{prefix}/{layout.PLAN}", graph.encode(), if_absent=True)
    pointer = json.dumps({"key": keys.report}, indent=2) + "\n"
    storage.write_bytes(layout.current(pinned.name), pointer.encode())
