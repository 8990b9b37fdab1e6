"""One split of a prepared dataset on this machine, read by row number."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa

from medvl_jobs.contracts import records
from medvl_jobs.model.prepared import places, read_examples
from medvl_jobs.storage.base import Storage

datasets.disable_progress_bars()

BATCH_ROWS = 64
"""Rows of an Arrow batch: what is mapped to read one of them."""


def open_split(storage: Storage, prepared_key: str, split: str, scratch: Path) -> datasets.Dataset:
    """The rows of ``train`` or ``val`` as a memory-mapped Arrow file, which all processes of a machine share.

    Parquet has no cheap access by row number, Arrow files have. Rows are those of ``contracts.records.PREPARED`` with
    the image still encoded. Raises what `places` raises.
    """
    path = scratch / f"{split}.arrow"
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, records.PREPARED) as writer:
        for table in read_examples(storage, prepared_key, places(storage, prepared_key, split), scratch):
            writer.write_table(table.cast(records.PREPARED), max_chunksize=BATCH_ROWS)
    return datasets.Dataset.from_file(str(path)).cast_column("image", datasets.Image(decode=False))
