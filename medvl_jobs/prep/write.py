"""Parquet shards, written as rows come: bounded memory, and the same bytes for the same rows.

Row groups are small so that a reader can pick rows out of a shard without decoding all of it, and images are stored as
they are: PNG and JPEG do not compress further, the attempt costs more time than all the rest of writing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts import layout
from medvl_jobs.prep.rows import Example, RawRow, Refusal

_KEY_COLUMNS = frozenset({"example_id", "group", "width", "height", "source", "row", "id", "reason"})
ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 64 << 20
"""A row group ends here too: 64 images of the largest size that is let in would be several gigabytes."""

Deliver = Callable[[Path, str, int], None]
"""Takes a finished shard: the local file, its name under the prefix, its rows."""


@dataclass
class ShardWriter:
    """Rows of one folder as ``part-00000.parquet`` …; a folder without rows has no file."""

    scratch: Path
    folder: str
    """``train``, ``val`` or ``quarantine``."""
    schema: pa.Schema
    rows_per_shard: int
    deliver: Deliver
    _shards: int = field(default=0, init=False)
    _shard_rows: int = field(default=0, init=False)
    _pending: list[dict[str, Any]] = field(default_factory=list, init=False)
    _pending_bytes: int = field(default=0, init=False)
    _writer: Any = field(default=None, init=False)

    def add(self, row: dict[str, Any]) -> None:
        """Append one row of ``schema``."""
        self._pending.append(row)
        self._pending_bytes += len((row["image"] or {}).get("bytes") or b"")
        full = self._shard_rows + len(self._pending) >= self.rows_per_shard
        if full or len(self._pending) >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._end_row_group()
        if full:
            self._end_shard()

    def finish(self) -> None:
        """Write and deliver what is left."""
        self._end_row_group()
        self._end_shard()

    @property
    def _path(self) -> Path:
        return self.scratch / f"{self.folder}.parquet"

    def _end_row_group(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, self.schema, **_encoding(self.schema))
        self._writer.write_table(pa.Table.from_pylist(self._pending, schema=self.schema))
        self._shard_rows += len(self._pending)
        self._pending, self._pending_bytes = [], 0

    def _end_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self.deliver(self._path, f"{self.folder}/{layout.part(self._shards, 'parquet')}", self._shard_rows)
        self._path.unlink()
        self._writer, self._shard_rows, self._shards = None, 0, self._shards + 1


def prepared_row(example: Example) -> dict[str, Any]:
    """An example as a row of `contracts.records.PREPARED`."""
    return {
        "example_id": example.example_id,
        "image": {"bytes": example.image, "path": example.file_name},
        "caption": example.caption,
        "group": example.group,
        "width": example.width,
        "height": example.height,
        "facts": example.facts,
    }


def quarantine_row(row: RawRow, refusal: Refusal) -> dict[str, Any]:
    """A refused row as a row of `contracts.records.QUARANTINE`, with as much of its content as fits the types."""
    image = row.image if isinstance(row.image, dict) else {"bytes": row.image, "path": row.image}
    data, path = image.get("bytes"), image.get("path")
    kept = {"bytes": data if isinstance(data, bytes) else None, "path": path if isinstance(path, str) else None}
    return {
        "source": row.source,
        "row": row.row,
        "id": str(row.id) if isinstance(row.id, str | int) else None,
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "caption": row.caption if isinstance(row.caption, str) else None,
        "image": kept if any(value is not None for value in kept.values()) else None,
    }


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """How each column is stored. Dictionaries and min-max statistics of images or texts would only cost memory."""
    leaves = [path for column in schema for path in _leaves(column)]
    small = [path for path in leaves if path in _KEY_COLUMNS]
    return {
        "compression": {path: "none" if path == "image.bytes" else "zstd" for path in leaves},
        "use_dictionary": [path for path in small if path in {"group", "source", "reason"}],
        "write_statistics": small,
    }


def _leaves(column: pa.Field) -> list[str]:
    if pa.types.is_struct(column.type):
        return [f"{column.name}.{child.name}" for child in column.type]
    return [column.name]
