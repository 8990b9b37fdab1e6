"""One split of a prepared dataset on this machine, read by row number."""

from __future__ import annotations

from pathlib import Path

import datasets

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.errors import DataError
from medvl_jobs.storage.base import Storage

datasets.disable_progress_bars()


def open_split(storage: Storage, prepared_key: str, manifest: Manifest, split: str, scratch: Path) -> datasets.Dataset:
    """Download the parquet shards of ``train`` or ``val`` and map them into memory as Arrow.

    Rows are those of ``contracts.records.PREPARED`` with the image still encoded. Parquet has no cheap access by row
    number, Arrow files have, and a mapped file is shared by all processes of a machine.
    """
    files = [entry.path for entry in manifest.files if entry.path.startswith(f"{split}/")]
    if not files:
        raise DataError(f"the prepared dataset has no {split} rows", where=layout.prepared(prepared_key))
    local = [scratch / path for path in files]
    for path, target in zip(files, local, strict=True):
        storage.download(f"{layout.prepared(prepared_key)}/{path}", target)
    rows = datasets.Dataset.from_parquet([str(path) for path in local], cache_dir=str(scratch / "arrow"))
    return rows.cast_column("image", datasets.Image(decode=False))
