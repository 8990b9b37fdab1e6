"""The rows of a side, found by its list: in order, few at a time, and from as few parts as can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prep_data import record, run_settings, write_parquet

from medvl_jobs.contracts import layout
from medvl_jobs.contracts.records import SPLIT
from medvl_jobs.errors import DataError
from medvl_jobs.model.prepared import places, read_examples, read_ledgers, rows_at
from medvl_jobs.prep import write
from medvl_jobs.prep.job import run
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage

KEY = "k"


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """90 rows in 9 parts, with row groups of three."""
    monkeypatch.setattr(write, "ROW_GROUP_ROWS", 3)
    source = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(90)], row_group_size=10)
    storage = LocalStorage(tmp_path / "store")
    run(run_settings(source, storage.uri, rows_per_part=10, llamafactory_export=False), storage, KEY)
    return storage


def test_both_sides_together_are_all_rows_in_order(prepared: Storage, tmp_path: Path) -> None:
    found = {
        side: [
            row["example_id"]
            for table in read_examples(prepared, KEY, places(prepared, KEY, side), tmp_path)
            for row in table.to_pylist()
        ]
        for side in ("train", "val")
    }
    source = [record(number)["id"] for number in range(90)]
    assert sorted(found["train"] + found["val"]) == sorted(source)
    for ids in found.values():
        assert ids == [each for each in source if each in set(ids)]


def test_no_table_is_larger_than_a_row_group(prepared: Storage, tmp_path: Path) -> None:
    """A whole part may hold more bytes of images than one Arrow array can."""
    where = places(prepared, KEY, "train")
    assert max(table.num_rows for table in read_examples(prepared, KEY, where, tmp_path)) == 3


def test_ledgers_have_the_same_rows_without_images(prepared: Storage, tmp_path: Path) -> None:
    where = places(prepared, KEY, "val")
    examples, ledgers = (
        [row["example_id"] for table in read(prepared, KEY, where, tmp_path) for row in table.to_pylist()]
        for read in (read_examples, read_ledgers)
    )
    assert examples == ledgers


def test_only_the_parts_of_the_wanted_rows_are_read(prepared: Storage, tmp_path: Path) -> None:
    wanted = [each.part for each in places(prepared, KEY, "train")][-1]
    last = read_ledgers(prepared, KEY, [places(prepared, KEY, "train")[-1]], tmp_path)
    ids = [row["example_id"] for table in last for row in table.to_pylist()]
    for part in {each.part for each in places(prepared, KEY, "train")} - {wanted}:
        prepared.delete(f"{layout.prepared_part(KEY, part)}/{layout.EXAMPLES}")
    where = places(prepared, KEY, "train", ids)
    found = [row["example_id"] for table in read_examples(prepared, KEY, where, tmp_path) for row in table.to_pylist()]
    assert found == ids
    assert places(prepared, KEY, "train", ["nobody"]) == []


def test_rows_at_the_ends_of_row_groups(prepared: Storage, tmp_path: Path) -> None:
    path = Path(prepared.uri) / f"{layout.prepared_part(KEY, '00000-00000')}/{layout.EXAMPLES}"
    for rows in ([0], [2, 3], [9], [0, 5, 9], []):
        found = [row["example_id"] for table in rows_at(path, np.array(rows, int)) for row in table.to_pylist()]
        assert found == [record(number)["id"] for number in rows]


def test_a_side_without_rows(prepared: Storage, tmp_path: Path) -> None:
    empty = write.TableFile(tmp_path / "val.parquet", SPLIT)
    empty.close()
    prepared.upload(empty.path, f"{layout.prepared(KEY)}/val.parquet")
    with pytest.raises(DataError, match="no val rows"):
        places(prepared, KEY, "val")
