"""Finding the source, naming its faults, and reading it in small pieces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prep_data import record, write_parquet

from medvl_jobs.errors import DataError, MedvlError, MissingInputError, SettingsError
from medvl_jobs.prep import read
from medvl_jobs.prep.read import find_source, read_rows, source_fingerprint
from medvl_jobs.prep.rows import RawRow
from medvl_jobs.settings.prep import ColumnSettings, PrepSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.open import open_storage

LOCAL = StorageSettings()


def rows_of(path: Path, **columns: str) -> list[RawRow]:
    return list(read_rows(path, path.name, ColumnSettings(**columns)))


def keys(source: Path | str) -> tuple[str, ...]:
    return find_source(PrepSettings(source=str(source)), LOCAL).keys


def fingerprint(source: Path | str, storage: StorageSettings = LOCAL) -> str:
    return source_fingerprint(PrepSettings(source=str(source)), storage)


def error_of(kind: type[MedvlError], path: Path, **columns: str) -> MedvlError:
    with pytest.raises(kind) as caught:
        rows_of(path, **columns)
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


def test_a_file_or_a_directory_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.parquet", "a.parquet", "deeper/c.parquet", ".cache/d.parquet", "_temporary/e.parquet"):
        write_parquet(tmp_path / "data" / name, [record(0)])
    (tmp_path / "data" / "README.md").write_text("no rows")
    assert keys(tmp_path / "data") == ("a.parquet", "b.parquet", "deeper/c.parquet")
    assert keys(f"{tmp_path}/data/") == ("a.parquet", "b.parquet", "deeper/c.parquet")
    assert keys(tmp_path / "data" / "a.parquet") == ("a.parquet",)
    monkeypatch.chdir(tmp_path / "data")
    assert keys("a.parquet") == ("a.parquet",)
    assert keys(".") == ("a.parquet", "b.parquet", "deeper/c.parquet")
    assert keys(f"file://{tmp_path}/data") == ("a.parquet", "b.parquet", "deeper/c.parquet")


def test_a_directory_may_be_called_like_a_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "spark.parquet" / "part-0.parquet", [record(0)])
    assert keys(tmp_path / "spark.parquet") == ("part-0.parquet",)


@pytest.mark.parametrize("name", ["missing.parquet", "missing", "empty", "texts"])
def test_a_source_that_is_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(MissingInputError) as caught:
        keys(tmp_path / name)
    assert caught.value.exit_code == 66
    assert name in caught.value.where
    assert "prep.source" in caught.value.remedy


@pytest.mark.parametrize("source", ["", "hf://datasets/x", "s3://"])
def test_a_source_that_cannot_be(source: str) -> None:
    with pytest.raises(SettingsError) as caught:
        keys(source)
    assert "storage.uri" not in str(caught.value)
    assert "prep.source" in caught.value.remedy


def test_the_fingerprint_is_of_names_and_contents_and_not_of_the_place(tmp_path: Path) -> None:
    for folder in ("one", "two", "three"):
        for name in ("a.parquet", "b.parquet"):
            write_parquet(tmp_path / folder / name, [record(0)])
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")
    assert fingerprint(tmp_path / "one/a.parquet") == fingerprint(tmp_path / "two/a.parquet")
    assert fingerprint(tmp_path / "one/a.parquet") != fingerprint(tmp_path / "one/b.parquet")
    write_parquet(tmp_path / "two" / "b.parquet", [record(1)])
    (tmp_path / "three" / "b.parquet").rename(tmp_path / "three" / "c.parquet")
    assert len({fingerprint(tmp_path / folder) for folder in ("one", "two", "three")}) == 3


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
        lambda data: data[:1000] + bytes(len(data) // 2) + data[1000 + len(data) // 2 :],
    ],
    ids=["empty", "csv", "cut footer", "half", "wrong footer length", "corrupt pages"],
)
def test_what_is_not_a_whole_parquet_file(tmp_path: Path, change: Any) -> None:
    path = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(60)])
    error = error_of(DataError, damaged(path, change))
    assert error.exit_code == 65
    assert error.where == "a.parquet"
    assert "\n" not in error.what


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
    original = read._values

    def counted(column: Any) -> list[object]:
        sizes.append(len(column))
        return original(column)

    monkeypatch.setattr(read, "_values", counted)
    rows = read_rows(path, "a", ColumnSettings())
    next(rows)
    assert sizes == [read.BATCH_ROWS] * 5, "one batch of five columns before the first row"
    assert sum(1 for _ in rows) == 199
    assert max(sizes) == read.BATCH_ROWS


@pytest.mark.parametrize("row_group_size", [50, 600])
def test_reading_holds_a_small_part_of_the_file(tmp_path: Path, row_group_size: int) -> None:
    rows = [{"image": os.urandom(30_000), "id": str(number), "caption": "text"} for number in range(600)]
    path = tmp_path / "a.parquet"
    # No reader can hold less than a page, and by default a page is 1,024 rows, however large they are.
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size, write_batch_size=16)
    del rows
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in read_rows(path, "a", ColumnSettings())]
    assert len(held) == 600
    assert max(held) < path.stat().st_size / 2


def test_s3_files_are_downloaded_one_by_one_and_removed(tmp_path: Path, s3_settings: StorageSettings) -> None:
    store = open_storage(s3_settings)
    for name in ("a.parquet", "b.parquet"):
        store.upload(write_parquet(tmp_path / name, [record(0)]), f"raw/{name}")
    prep = PrepSettings(source=f"{s3_settings.uri}/raw")
    elsewhere = s3_settings.model_copy(update={"uri": "s3://another-bucket/place"})
    source = find_source(prep, elsewhere)
    assert source.keys == ("a.parquet", "b.parquet")
    with source.local_file("a.parquet", tmp_path / "scratch") as path:
        assert len(rows_of(path)) == 1
    assert not path.exists()
    single = PrepSettings(source=f"{s3_settings.uri}/raw/b.parquet")
    assert find_source(single, elsewhere).keys == ("b.parquet",)
    assert source_fingerprint(prep, elsewhere) == source_fingerprint(prep, elsewhere)
    for missing in (f"{s3_settings.uri}/nothing", "s3://no-such-bucket-here", "s3://no-such-bucket-here/x.parquet"):
        with pytest.raises(MissingInputError):
            find_source(PrepSettings(source=missing), elsewhere)
