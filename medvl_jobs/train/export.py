"""A merged model: base weights plus adapter (`model.merge`), for engines that load no adapter.

What the report's figures are of is the adapter beside its base: answers of the merged model can differ, see there.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.errors import SchemaMismatchError, SettingsError
from medvl_jobs.model.checkpoint import check_architecture
from medvl_jobs.model.merge import base_folder, check_merged, merge_files
from medvl_jobs.settings.keys import StageKeys
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.publish import require_manifest


def export_merged(settings: RunSettings, storage: Storage, keys: StageKeys, out: Path) -> None:
    """Write the merged model of the adapter ``keys.adapter`` to the new directory ``out``, and check it.

    Raises `MissingInputError` when the adapter is not trained or the base is not there, `SchemaMismatchError` when they
    do not belong together, `SettingsError` when ``out`` exists.
    """
    if out.exists():
        raise SettingsError("the directory to export to exists", where=str(out), remedy="name another, or remove it")
    check_architecture(settings.model)
    base = base_folder(settings.model)
    prefix = layout.adapter(keys.adapter)
    require_manifest(storage, prefix, "train")
    with tempfile.TemporaryDirectory(prefix="medvl-export-") as folder:
        adapter = Path(folder)
        for name in (layout.ADAPTER_CONFIG, layout.ADAPTER_WEIGHTS, layout.ADAPTER_BASE):
            storage.download(f"{prefix}/{name}", adapter / name)
        refuse_other_base(adapter, settings)
        identity = {"adapter": keys.adapter, "base": settings.model.path, "fingerprint": settings.model.fingerprint}
        with os_errors(out):
            merge_files(base, adapter, out, identity)
    check_merged(settings.model, out)


def refuse_other_base(adapter: Path, settings: RunSettings) -> None:
    """Raises `SchemaMismatchError` for an adapter of another base: where the shapes agree, nothing else would tell."""
    trained_on = json.loads((adapter / layout.ADAPTER_BASE).read_text(encoding="utf-8"))["fingerprint"]
    if trained_on != settings.model.fingerprint:
        raise SchemaMismatchError(
            f"the adapter was trained on base model {trained_on}, this one is {settings.model.fingerprint}",
            where=settings.model.path,
            remedy="set model.path to that base model",
        )
