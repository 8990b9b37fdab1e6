"""Files of rows: whole, small row groups, bounded memory, equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prep_data import png, raw

from medvl_jobs.contracts import records
from medvl_jobs.prep import write
from medvl_jobs.prep.rows import CheckedImage, Example, Pixels, Reason, Refusal
from medvl_jobs.prep.write import RowsFile, prepared_row, quarantine_row


def example(number: int, image: bytes = b"image") -> Example:
    checked = CheckedImage(image, "png", 40, 32, (), "PNG L", Pixels(bytes(32), number, False))
    return Example(f"id{number}", checked, f"caption {number}", "group", "column", '{"plane": "axial"}')


def write_rows(path: Path, examples: list[Example]) -> pq.ParquetFile:
    file = RowsFile(path, records.PREPARED)
    for each in examples:
        file.add(prepared_row(each))
    file.close()
    assert file.rows == len(examples)
    return pq.ParquetFile(path)


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 200])
def test_rows_come_back_in_order(tmp_path: Path, rows: int) -> None:
    file = write_rows(tmp_path / "a.parquet", [example(number) for number in range(rows)])
    assert file.read()["example_id"].to_pylist() == [f"id{number}" for number in range(rows)]


def test_a_file_has_the_schema_small_row_groups_and_plain_images(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.parquet", [example(number) for number in range(150)])
    assert file.schema_arrow.equals(records.PREPARED, check_metadata=True)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 64, 22]
    columns = {file.metadata.row_group(0).column(i).path_in_schema: i for i in range(file.metadata.num_columns)}
    image = file.metadata.row_group(0).column(columns["image.bytes"])
    assert (image.compression, image.is_stats_set, "PLAIN" in image.encodings) == ("UNCOMPRESSED", False, True)
    assert file.metadata.row_group(0).column(columns["caption"]).compression == "ZSTD"
    assert file.read().to_pylist()[3] == prepared_row(example(3))


def test_equal_rows_make_equal_bytes(tmp_path: Path) -> None:
    examples = [example(number, png(seed=number)) for number in range(70)]
    for name in "ab":
        write_rows(tmp_path / name, examples)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_large_images_end_a_row_group_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "ROW_GROUP_BYTES", 1000)
    file = write_rows(tmp_path / "a.parquet", [example(n, bytes(400)) for n in range(7)])
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("cells", "kept"),
    [
        (
            {"image": {"bytes": b"1", "path": "p"}},
            {"id": "x", "caption": "text", "image": {"bytes": b"1", "path": "p"}},
        ),
        ({"image": b"1", "id": 3}, {"id": "3", "caption": "text", "image": {"bytes": b"1", "path": None}}),
        ({"image": "a.png", "id": None}, {"id": None, "caption": "text", "image": {"bytes": None, "path": "a.png"}}),
        ({"image": None, "caption": None}, {"id": "x", "caption": None, "image": None}),
        ({"image": [1], "id": 1.5, "caption": b"x"}, {"id": None, "caption": None, "image": None}),
    ],
)
def test_the_quarantine_keeps_what_came_in(tmp_path: Path, cells: dict[str, Any], kept: dict[str, Any]) -> None:
    file = RowsFile(tmp_path / "quarantine.parquet", records.QUARANTINE)
    file.add(quarantine_row(raw(row=7, **cells), Refusal(Reason.BAD_TYPE, "why")))
    file.close()
    row = pq.read_table(file.path).to_pylist()[0]
    assert row == {"source": "a.parquet", "row": 7, "reason": "bad_type", "detail": "why", **kept}
