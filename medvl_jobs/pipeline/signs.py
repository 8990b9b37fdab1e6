"""Which process says in the store how a stage is, and under which run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.live import Progress, untold
from medvl_jobs.errors import MedvlError
from medvl_jobs.pipeline.stages import Stage, stages
from medvl_jobs.settings.environment import read_environment, read_topology
from medvl_jobs.settings.keys import stage_keys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.live import LiveStatus, declare_ended
from medvl_jobs.storage.publish import read_manifest

UNITS = {"prep": "files", "train": "steps", "eval": "examples", "report": "pages"}


def signs_of_life(settings: RunSettings, storage: Storage, words: tuple[str, ...]) -> AbstractContextManager[Progress]:
    """Around the work of the stage that is started with these words: status and log in the store.

    The first of several processes or pods speaks for all. Silent are: a stage that is finished, whose maker has spoken;
    one outside of the run's graph; and prep by hand, which does not know the model, and so not which run it is of.
    """
    index = read_environment().completion_index
    if settings.model.fingerprint is None or index not in {None, "0"}:
        return nullcontext(untold)
    processes = 1 if index is None else {"prep": settings.prep.indexes, "eval": settings.eval.shards}.get(words[0], 1)
    if words[0] == "train":
        topology = read_topology()
        if topology.rank > 0:
            return nullcontext(untold)
        processes = topology.world
    keys = stage_keys(settings)
    stage = next((each for each in stages(settings, keys) if each.words == words), None)
    if stage is None or read_manifest(storage, stage.prefix) is not None:
        return nullcontext(untold)
    return LiveStatus(
        storage,
        layout.live(settings.name, keys.report, stage.name),
        UNITS[words[0]],
        every_seconds=settings.live.every_seconds,
        processes=processes,
    )


def ended(settings: RunSettings, storage: Storage, stage: Stage, error: MedvlError) -> None:
    """For the executor: a stage has failed, and may have been killed before it could say so."""
    declare_ended(storage, layout.live(settings.name, stage_keys(settings).report, stage.name), error)
