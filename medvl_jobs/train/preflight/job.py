"""``medvl train --check``: a training up to its first step."""

from __future__ import annotations

from medvl_jobs.contracts import layout
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import scratch_folder
from medvl_jobs.storage.publish import require_manifest
from medvl_jobs.train.failures import in_our_words
from medvl_jobs.train.preflight.checks import Preflight
from medvl_jobs.train.start import start


def check(settings: RunSettings, storage: Storage, keys: StageKeys) -> str:
    """All checks, with the model loaded and nothing trained or written. Returns the table, for the first process alone.

    Raises what is refused, and what the loaders raise.
    """
    require_manifest(storage, layout.prepared(keys.prep), "prep")
    preflight = Preflight(settings, storage)
    with in_our_words(), scratch_folder("medvl-check-") as scratch:
        started = start(settings, storage, keys, scratch, preflight)
    return preflight.table() if started.ranks.rank == 0 else ""
