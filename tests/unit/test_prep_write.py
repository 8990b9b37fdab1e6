"""Shards: whole, small row groups, bounded memory, equal bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prep_data import png, raw

from medvl_jobs.contracts import records
from medvl_jobs.prep import write
from medvl_jobs.prep.rows import Example, Reason, Refusal
from medvl_jobs.prep.write import ShardWriter, prepared_row, quarantine_row


def example(number: int, image: bytes = b"image") -> Example:
    return Example(f"id{number}", image, "png", 40, 32, f"caption {number}", "group", "column", '{"plane": "axial"}')


def write_rows(folder: Path, examples: list[Example], rows_per_shard: int = 150) -> dict[str, tuple[int, bytes]]:
    """Name -> rows and bytes of what was delivered."""
    delivered = {}

    def deliver(path: Path, name: str, rows: int) -> None:
        delivered[name] = (rows, path.read_bytes())

    folder.mkdir(exist_ok=True)
    writer = ShardWriter(folder, "train", records.PREPARED, rows_per_shard, deliver)
    for each in examples:
        writer.add(prepared_row(each))
    writer.finish()
    assert list(folder.iterdir()) == [], "a delivered shard needs no room any more"
    return delivered


def shard(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "shard.parquet"
    path.write_bytes(data)
    return pq.ParquetFile(path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, []), (1, [1]), (149, [149]), (150, [150]), (151, [150, 1]), (400, [150, 150, 100])],
)
def test_rows_are_cut_into_shards(tmp_path: Path, rows: int, expected: list[int]) -> None:
    delivered = write_rows(tmp_path / "scratch", [example(number) for number in range(rows)])
    assert list(delivered) == [f"train/part-{number:05d}.parquet" for number in range(len(expected))]
    assert [count for count, _ in delivered.values()] == expected
    read = [row for _, data in delivered.values() for row in shard(tmp_path, data).read()["example_id"].to_pylist()]
    assert read == [f"id{number}" for number in range(rows)]


def test_a_shard_has_the_schema_small_row_groups_and_plain_images(tmp_path: Path) -> None:
    _, data = write_rows(tmp_path / "scratch", [example(number) for number in range(150)])["train/part-00000.parquet"]
    file = shard(tmp_path, data)
    assert file.schema_arrow.equals(records.PREPARED, check_metadata=True)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 64, 22]
    columns = {file.metadata.row_group(0).column(i).path_in_schema: i for i in range(file.metadata.num_columns)}
    image = file.metadata.row_group(0).column(columns["image.bytes"])
    assert (image.compression, image.is_stats_set, "PLAIN" in image.encodings) == ("UNCOMPRESSED", False, True)
    assert file.metadata.row_group(0).column(columns["caption"]).compression == "ZSTD"
    assert file.read().to_pylist()[3] == prepared_row(example(3))


def test_equal_rows_make_equal_bytes(tmp_path: Path) -> None:
    examples = [example(number, png(seed=number)) for number in range(70)]
    assert write_rows(tmp_path / "a", examples) == write_rows(tmp_path / "b", examples)


def test_large_images_end_a_row_group_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "ROW_GROUP_BYTES", 1000)
    _, data = write_rows(tmp_path / "scratch", [example(n, bytes(400)) for n in range(7)])["train/part-00000.parquet"]
    file = shard(tmp_path, data)
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
    delivered = []
    writer = ShardWriter(
        tmp_path, "quarantine", records.QUARANTINE, 10, lambda path, name, rows: delivered.append(path.read_bytes())
    )
    writer.add(quarantine_row(raw(row=7, **cells), Refusal(Reason.BAD_TYPE, "why")))
    writer.finish()
    row = shard(tmp_path, delivered[0]).read().to_pylist()[0]
    assert row == {"source": "a.parquet", "row": 7, "reason": "bad_type", "detail": "why", **kept}
