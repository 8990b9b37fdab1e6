"""The rows of a prepared dataset, found by the lists of its sides: the one reader of its layout, and it needs no torch.

A side has rows in every part, so all parts are fetched to read one, one after the other. What needs no images reads the
ledgers instead, which are a hundredth of that.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.errors import DataError
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.fetch import fetched


@dataclass(frozen=True)
class Places:
    """Rows of one part."""

    part: str
    rows: np.ndarray
    """[R] ascending, as `rows_at` numbers them."""


def places(storage: Storage, prepared_key: str, side: str, ids: Collection[str] | None = None) -> list[Places]:
    """Where the rows of ``train`` or ``val`` are, in the order of the source; of those with ``ids`` when given.

    Raises `MissingInputError`, and `DataError` when the side is empty.
    """
    prefix = layout.prepared(prepared_key)
    data = storage.read_bytes(f"{prefix}/{layout.split_file(side)}")
    listed = pq.ParquetFile(io.BytesIO(data)).read(["part", "row"] if ids is None else None)
    if not listed.num_rows:
        raise DataError(f"the prepared dataset has no {side} rows", where=f"{storage.uri}/{prefix}")
    if ids is not None:
        listed = listed.filter(pc.is_in(listed["example_id"], value_set=pa.array(list(ids), pa.string())))
    if not listed.num_rows:
        return []
    parts = listed["part"].combine_chunks().dictionary_encode()
    numbers = parts.indices.to_numpy()
    ends = np.flatnonzero(np.diff(numbers)) + 1
    rows = np.split(listed["row"].to_numpy(), ends)
    names = parts.dictionary.take(pa.array(numbers[np.append(0, ends)])).to_pylist()
    return [Places(name, own) for name, own in zip(names, rows, strict=True)]


def read_examples(storage: Storage, prepared_key: str, where: Sequence[Places], scratch: Path) -> Iterator[pa.Table]:
    """Rows of `records.PREPARED`, a row group of a part at a time; one part at a time lies in ``scratch``."""
    yield from _read(storage, prepared_key, where, scratch, layout.EXAMPLES)


def read_ledgers(storage: Storage, prepared_key: str, where: Sequence[Places], scratch: Path) -> Iterator[pa.Table]:
    """The same rows of `records.LEDGER`: everything but the images."""
    yield from _read(storage, prepared_key, where, scratch, layout.LEDGER)


def _read(storage: Storage, prepared_key: str, where: Sequence[Places], scratch: Path, file: str) -> Iterator[pa.Table]:
    for each in where:
        with fetched(storage, f"{layout.prepared_part(prepared_key, each.part)}/{file}", scratch) as path:
            yield from rows_at(path, each.rows)


def rows_at(path: Path, rows: np.ndarray) -> Iterator[pa.Table]:
    """The rows with these numbers of a parquet file, ``rows`` [R] ascending: a table for each row group that has any.

    Trap: a part can hold more than the 2 GB that Arrow's offsets reach, a row group of ours cannot.
    """
    with pq.ParquetFile(path, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.append(0, np.cumsum(sizes))
        for group, (begin, end) in enumerate(pairwise(starts)):
            own = rows[np.searchsorted(rows, begin) : np.searchsorted(rows, end)] - begin
            if len(own):
                yield file.read_row_group(group).take(pa.array(own))
