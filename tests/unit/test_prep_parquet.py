"""Parquet, whole or damaged, read in small pieces."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prep_data import record, write_parquet

from medvl_jobs.errors import DataError, MedvlError
from medvl_jobs.prep import parquet
from medvl_jobs.prep.parquet import RowRange, read_parquet, row_ranges
from medvl_jobs.prep.rows import RawRow, Reason
from medvl_jobs.settings.prep import ColumnSettings


def rows_of(path: Path, **columns: str) -> list[RawRow]:
    settings = ColumnSettings(**columns)
    ranges = row_ranges(path, path.name, settings, rows_per_part=1000)
    return [row for each in ranges for row in read_parquet(path, path.name, settings, each)]


def error_of(kind: type[MedvlError], path: Path, **columns: str) -> MedvlError:
    with pytest.raises(kind) as caught:
        rows_of(path, **columns)
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


def test_rows_know_where_they_are_from(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(130)])
    rows = rows_of(path)
    assert [(row.source, row.row) for row in rows] == [("a.parquet", number) for number in range(130)]
    assert [row.id for row in rows] == [record(number)["id"] for number in range(130)]
    assert rows[3].image == record(3)["image"]
    assert rows[3].group == "patient000"
    assert isinstance(rows[3].facts, dict)


def test_group_and_facts_may_be_absent_and_other_columns_are_not_read(tmp_path: Path) -> None:
    cells = {name: record(0)[name] for name in ("image", "id", "caption")}
    row = rows_of(write_parquet(tmp_path / "a.parquet", [{**cells, "notes": "x"}]))[0]
    assert (row.group, row.facts) == (None, None)


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    renamed = {"picture": b"123", "key": 7, "report": "text", "patient": "p"}
    path = write_parquet(tmp_path / "a.parquet", [renamed], picture=pa.binary(), key=pa.int64())
    row = rows_of(path, image="picture", id="key", caption="report", group="patient")[0]
    assert row == RawRow("a.parquet", 0, b"123", 7, "text", "p")


def test_one_column_may_have_two_roles(tmp_path: Path) -> None:
    row = rows_of(write_parquet(tmp_path / "a.parquet", [record(0)]), group="id")[0]
    assert row.group == row.id


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"image": None, "id": "x", "text": "y"}])
    error = error_of(DataError, path)
    assert "'caption' is missing; the file has: image, id, text" in error.what
    assert "prep.columns.caption=" in error.remedy


def test_a_group_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    error = error_of(DataError, write_parquet(tmp_path / "a.parquet", [record(0)]), group="pateint")
    assert "prep.columns.group=" in error.remedy


def damaged(path: Path, change: Any) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"id,caption\n1,x\n" * 20,
        lambda data: data[:-10],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1",
    ],
    ids=["empty", "csv", "cut footer", "half", "wrong footer length"],
)
def test_what_is_not_a_whole_parquet_file(tmp_path: Path, change: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(60)])
    error = error_of(DataError, damaged(path, change))
    assert error.exit_code == 65
    assert error.where == "a.parquet"
    assert "\n" not in error.what


def test_a_corrupt_page_costs_its_row_group_only(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(150)])
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    damaged(path, lambda data: data[:start] + b"\xff" * 20 + data[start + 20 :])
    rows = rows_of(path)
    assert [row.row for row in rows] == list(range(150))
    refused = [row.row for row in rows if row.problem]
    assert refused == list(range(50, 100))
    assert rows[50].problem
    assert rows[50].problem.reason is Reason.UNREADABLE_ROWS
    assert "row group 1 cannot be read from row 50 on" in rows[50].problem.detail
    assert rows[149].image == record(149)["image"]


def test_what_the_machine_lacks_is_not_the_files_fault() -> None:
    """A file that was read with too little memory is sound: its rows must not be refused for good."""
    assert parquet.not_the_file(pa.ArrowMemoryError("realloc failed"))
    assert parquet.not_the_file(OSError(errno.EIO, "input/output error"))
    assert not parquet.not_the_file(OSError("Corrupt snappy compressed data."))
    assert not parquet.not_the_file(pa.ArrowInvalid("no"))


def test_zero_rows_and_zero_row_groups_are_no_rows(tmp_path: Path) -> None:
    assert rows_of(write_parquet(tmp_path / "a.parquet", [])) == []
    with pq.ParquetWriter(tmp_path / "b.parquet", pq.read_schema(tmp_path / "a.parquet")):
        pass
    assert rows_of(tmp_path / "b.parquet") == []


def test_text_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    table = pa.table({"image": [b"1", b"2"], "id": ["a", "b"], "caption": pa.array([b"\xff\xfe", b"fine"])})
    caption = pa.Array.from_buffers(pa.string(), 2, table["caption"].chunk(0).buffers())
    pq.write_table(table.set_column(2, "caption", caption), tmp_path / "a.parquet")
    assert [row.caption for row in rows_of(tmp_path / "a.parquet")] == [b"text that is not UTF-8", "fine"]


def test_reading_asks_for_small_batches_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(200)])
    sizes = []
    original = parquet.cell_values

    def counted(column: Any) -> list[object]:
        sizes.append(len(column))
        return original(column)

    monkeypatch.setattr(parquet, "cell_values", counted)
    rows = read_parquet(path, "a", ColumnSettings(), RowRange(0, 4, 0))
    next(rows)
    assert sizes == [50] * 5, "one batch of five columns before the first row"
    assert sum(1 for _ in rows) == 199
    assert max(sizes) <= parquet.BATCH_ROWS


@pytest.mark.parametrize("row_group_size", [50, 600])
def test_reading_holds_a_small_part_of_the_file(tmp_path: Path, row_group_size: int) -> None:
    rows = [{"image": os.urandom(30_000), "id": str(number), "caption": "text"} for number in range(600)]
    path = tmp_path / "a.parquet"
    # No reader can hold less than a page, and by default a page is 1,024 rows, however large they are.
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size, write_batch_size=16)
    del rows
    before = pa.total_allocated_bytes()
    held = [
        pa.total_allocated_bytes() - before
        for _ in read_parquet(path, "a", ColumnSettings(), RowRange(0, 600 // row_group_size, 0))
    ]
    assert len(held) == 600
    assert max(held) < path.stat().st_size / 2
