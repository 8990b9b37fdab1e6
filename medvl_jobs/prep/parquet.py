"""Rows of a parquet file, one by one: at no time is more than a batch of them in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.errors import DataError
from medvl_jobs.prep.rows import RawRow, Reason, Refusal
from medvl_jobs.settings.prep import ColumnSettings
from medvl_jobs.storage.files import os_errors

BATCH_ROWS = 64
"""Rows decoded from parquet at a time."""
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class RowRange:
    """Whole row groups of a parquet file."""

    first_group: int
    end_group: int
    """One past the last."""
    first_row: int


def row_ranges(path: Path, name: str, columns: ColumnSettings, rows_per_part: int) -> list[RowRange]:
    """Cut the file ``path`` into ranges of at most ``rows_per_part`` rows, or of one row group that has more.

    A file without rows is one empty range. Raises `DataError` when it is not a whole parquet file or lacks a column
    that must be there: only the footer is read.
    """
    with open_parquet(path, name) as file:
        column_names(file.schema_arrow.names, columns, name)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    ranges, start, first_row, rows = [], 0, 0, 0
    for group, size in enumerate(sizes):
        if rows and rows + size > rows_per_part:
            ranges.append(RowRange(start, group, first_row))
            start, first_row, rows = group, first_row + rows, 0
        rows += size
    return [*ranges, RowRange(start, len(sizes), first_row)]


def read_parquet(path: Path, name: str, columns: ColumnSettings, rows: RowRange) -> Iterator[RawRow]:
    """The rows of a range of the parquet file ``path``, called ``name`` in them and in errors.

    Of a row group that does not decompress, the rows that are left come out as a problem each; the rest survives.
    Raises `DataError` as `row_ranges` does.
    """
    with open_parquet(path, name) as file:
        wanted = column_names(file.schema_arrow.names, columns, name)
        first_row = rows.first_row
        for group in range(rows.first_group, rows.end_group):
            end_row = first_row + file.metadata.row_group(group).num_rows
            yield from _read_row_group(file, group, wanted, name, range(first_row, end_row))
            first_row = end_row


def _read_row_group(
    file: pq.ParquetFile, group: int, wanted: dict[str, str], name: str, numbers: range
) -> Iterator[RawRow]:
    row = numbers.start
    batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(dict.fromkeys(wanted.values())))
    while row < numbers.stop:
        try:
            batch = next(batches)
        except (pa.ArrowException, OSError, StopIteration) as error:
            if not_the_file(error):
                raise
            detail = f"row group {group} cannot be read from row {row} on: {_first_line(error)}"
            problem = Refusal(Reason.UNREADABLE_ROWS, detail)
            yield from (RawRow(name, each, None, None, None, problem=problem) for each in range(row, numbers.stop))
            return
        cells: dict[str, list[Any]] = {role: cell_values(batch.column(column)) for role, column in wanted.items()}
        for offset in range(batch.num_rows):
            yield RawRow(name, row + offset, **{role: values[offset] for role, values in cells.items()})
        row += batch.num_rows


@contextmanager
def open_parquet(path: Path, name: str) -> Iterator[pq.ParquetFile]:
    """The file ``path``, called ``name`` in errors. Raises `DataError` when it is not whole."""
    # Both options leave pages on disk until their turn comes; pre_buffer, on by default, keeps all of them in memory.
    with _parquet_errors(path, name), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        yield file


def column_names(present: list[str], columns: ColumnSettings, name: str) -> dict[str, str]:
    """Field of `RawRow` -> column, of those that the file has.

    ``group`` and ``facts`` may be absent under their default names. A name that was set by hand must be there: with a
    slip in ``prep.columns.group``, slices of one patient would silently land on both sides of the split.
    """
    defaults = ColumnSettings()
    wanted: dict[str, str] = {}
    if twice := [each for each in dict.fromkeys(columns.model_dump().values()) if present.count(each) > 1]:
        remedy = "give each column a name of its own"
        raise DataError(f"several columns have the name '{twice[0]}'", where=name, remedy=remedy)
    for role, column in columns.model_dump().items():
        if column in present:
            wanted[role] = column
        elif role not in ("group", "facts") or column != getattr(defaults, role):
            what = f"the column '{column}' is missing; the file has: {', '.join(present)}"
            remedy = f"name the column that holds the {role}: prep.columns.{role}=NAME"
            raise DataError(what, where=name, remedy=remedy)
    return wanted


def cell_values(column: Any) -> list[object]:
    """The cells as Python values. What has none becomes bytes, of a type that is refused.

    Parquet lets text be other than UTF-8, dates lie outside of Python's years, times have nanoseconds, and structs have
    two fields of one name.
    """
    try:
        values: list[object] = column.to_pylist()
    except (ValueError, OverflowError, KeyError):
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> object:
    try:
        value: object = scalar.as_py()
    except UnicodeDecodeError:
        return b"text that is not UTF-8"
    except (ValueError, OverflowError, KeyError) as error:
        return f"no value of Python: {error}".encode()
    return value


@contextmanager
def _parquet_errors(path: Path, name: str) -> Iterator[None]:
    """pyarrow's errors, some of them an ``OSError`` without a number, as errors about the file ``name``."""
    with os_errors(path):
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if not_the_file(error):
                raise
            remedy = "make the file anew or take it out of prep.source; a download may have stopped half-way"
            raise DataError(f"not a whole parquet file: {_first_line(error)}", where=name, remedy=remedy) from error


def not_the_file(error: Exception) -> bool:
    """Whether pyarrow's error is the disk's or the memory's: another attempt may read the file."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
