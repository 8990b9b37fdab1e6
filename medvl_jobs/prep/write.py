"""Parquet files, written as rows come: bounded memory, and the same bytes for the same rows.

Row groups are small so that a reader can pick rows out of a file without decoding all of it, and images are stored as
they are: PNG and JPEG do not compress further, the attempt costs more time than all the rest of writing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.prep.captions import says_nothing, wording
from medvl_jobs.prep.rows import Example, RawRow, Refusal
from medvl_jobs.prep.split import ticket

ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 64 << 20
"""A row group ends here too: 64 images of the largest size that is let in would be several gigabytes."""

_REPETITIVE = frozenset({"group", "source", "reason", "part", "group_source", "came_as", "ticket"})
_WITH_STATISTICS = _REPETITIVE | {"example_id", "width", "height", "row", "id"}
_INCOMPRESSIBLE = frozenset({"image.bytes", "pixels", "phash", "wording"})
"""Compressed already, or random."""


class TableFile:
    """A parquet file that grows by tables. It is there after `close`, with or without rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Start an empty file."""
        self.path, self.rows = path, 0
        self.schema = schema
        self._writer = pq.ParquetWriter(path, schema, **_encoding(schema))

    def write(self, table: pa.Table) -> None:
        """Append the rows as a row group of their own; none are none."""
        if table.num_rows:
            self._writer.write_table(table.cast(self.schema))
            self.rows += table.num_rows

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


class RowsFile(TableFile):
    """The same by single rows: they wait in memory until they make a row group."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Start an empty file."""
        super().__init__(path, schema)
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = 0

    def add(self, row: dict[str, Any]) -> None:
        """Append one row of the schema."""
        self._pending.append(row)
        self._pending_bytes += len((row.get("image") or {}).get("bytes") or b"")
        if len(self._pending) >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._end_row_group()

    def close(self) -> None:
        """Write what is still in memory, and the footer."""
        self._end_row_group()
        super().close()

    def _end_row_group(self) -> None:
        self.write(pa.Table.from_pylist(self._pending, schema=self.schema))
        self._pending, self._pending_bytes = [], 0


def prepared_row(example: Example) -> dict[str, Any]:
    """An example as a row of `contracts.records.PREPARED`."""
    return {
        "example_id": example.example_id,
        "image": {"bytes": example.image.data, "path": example.file_name},
        "caption": example.caption,
        "group": example.group,
        "width": example.image.width,
        "height": example.image.height,
        "facts": example.facts,
    }


def ledger_row(example: Example, split_seed: int) -> dict[str, Any]:
    """An example as a row of `contracts.records.LEDGER`."""
    image = example.image
    return {
        "example_id": example.example_id,
        "caption": example.caption,
        "group": example.group,
        "group_source": example.group_source,
        "file_name": example.file_name,
        "width": image.width,
        "height": image.height,
        "facts": example.facts,
        "came_as": image.came_as,
        "conversions": list(image.conversions),
        "pixels": image.pixels.sha256,
        "phash": image.pixels.phash,
        "green_box": image.pixels.green_box,
        "says_nothing": says_nothing(example.caption),
        "wording": wording(example.caption),
        "ticket": ticket(example.group, split_seed),
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
    return {
        "compression": {path: "none" if path in _INCOMPRESSIBLE else "zstd" for path in leaves},
        "use_dictionary": [path for path in leaves if path in _REPETITIVE],
        "write_statistics": [path for path in leaves if path in _WITH_STATISTICS],
    }


def _leaves(column: pa.Field) -> list[str]:
    if pa.types.is_struct(column.type):
        return [f"{column.name}.{child.name}" for child in column.type]
    if pa.types.is_list(column.type):
        return [f"{column.name}.list.element"]
    return [column.name]
