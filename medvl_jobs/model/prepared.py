"""One side of a prepared dataset, part by part: the one reader of its layout, without torch and `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError
from medvl_jobs.storage.base import Storage


def split_tables(
    storage: Storage, prepared_key: str, split: str, scratch: Path, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of ``train`` or ``val`` in the order of the source, a table of `records.PREPARED` for each part.

    One part at a time is fetched into ``scratch``. Raises `MissingInputError`, and `DataError` when the side is empty.
    """
    prefix = layout.prepared(prepared_key)
    listed, fetched = scratch / layout.split_file(split), scratch / layout.EXAMPLES
    storage.download(f"{prefix}/{listed.name}", listed)
    places = pq.read_table(listed, columns=["part", "row"])
    if not places.num_rows:
        raise DataError(f"the prepared dataset has no {split} rows", where=f"{storage.uri}/{prefix}")
    for part in pc.unique(places["part"]).to_pylist():
        rows = places.filter(pc.equal(places["part"], part))["row"]
        storage.download(f"{layout.prepared_part(prepared_key, part)}/{layout.EXAMPLES}", fetched)
        yield pq.read_table(fetched, columns=columns).take(rows)
    fetched.unlink()
