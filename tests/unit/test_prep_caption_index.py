"""The captions of images that lie apart: every row is found, whatever is in it, and a build is whole or nothing."""

from __future__ import annotations

import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from prep_data import NAMES, captions_parquet
from prep_data import caption_index as build

from medvl_jobs.errors import DataError, MissingInputError, TryAgainError
from medvl_jobs.prep import caption_index
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.judge import checked_caption, checked_facts, checked_id
from medvl_jobs.prep.parquet import cell_values
from medvl_jobs.prep.rows import Reason, Refusal, RefusedError
from medvl_jobs.settings.prep import ColumnSettings

COLUMNS = ColumnSettings(image="file_name", id="file_name", group="source")


def test_rows_of_several_files_are_found_by_basename(tmp_path: Path) -> None:
    one = captions_parquet(
        tmp_path / "1", file_name=["ct/a.png", "b.png"], caption=["of a", "of b"], source=["ct", None]
    )
    two = captions_parquet(tmp_path / "2", file_name=["c.png"], caption=["of c"], source=["mr"], more=[1])
    with CaptionIndex.build([(one, "1"), (two, "2")], COLUMNS, tmp_path / "new" / "index") as index:
        assert index.find("a.png") == {"id": "ct/a.png", "caption": "of a", "group": "ct", "facts": None}
        assert index.find("b.png") == {"id": "b.png", "caption": "of b", "group": None, "facts": None}
        assert index.find("c.png") == {"id": "c.png", "caption": "of c", "group": "mr", "facts": None}
        assert [index.find(name) for name in ("A.png", "", "%", "\udcff.png", "a.png\0")] == [None] * 5
        assert (index.rows, index.repeated, index.nameless) == (3, 0, 0)
    assert os.listdir(tmp_path / "new") == ["index"]


def test_folders_decide_between_rows_of_one_name(tmp_path: Path) -> None:
    names = ["ct/1.png", "./mr/1.png", "all/mr/1.png", "2.png"]
    with build(tmp_path, image=names, id=range(4), caption=["text"] * 4) as index:
        found = {path: index.find(path) for path in ("mr/1.png", "x/all/mr/1.png", "x/ct/1.png", "anywhere/2.png")}
        assert [cells["id"] for cells in found.values() if isinstance(cells, dict)] == [1, 2, 0, 3]
        for path in ("1.png", "us/1.png", "xct/1.png"):
            refusal = index.find(path)
            assert isinstance(refusal, Refusal), path
            assert refusal.reason is Reason.AMBIGUOUS_NAME


def test_of_rows_with_one_path_the_first_is_found(tmp_path: Path) -> None:
    names = ["b.png", "x/a.png", "a.png", None, "", "folder/", "y/a.png", "b.png"]
    with build(tmp_path, image=names, id=range(8), caption=["text"] * 8) as index:
        assert [index.find(name)["id"] for name in ("a.png", "b.png")] == [2, 0]
        assert (index.rows, index.repeated, index.nameless) == (8, 3, 3)
    with build(tmp_path, image=[1, 2], id=range(2), caption=["text"] * 2) as index:
        assert (index.rows, index.repeated, index.nameless) == (2, 0, 2)
    with CaptionIndex.build([], ColumnSettings(), tmp_path / "index") as index:
        assert (index.rows, index.repeated, index.nameless, index.find("a.png")) == (0, 0, 0, None)


NOT_UTF8 = pa.array([b"half a pair \xed\xa0\xbd", b"\xff"], pa.binary()).view(pa.string())
CELLS = {
    "text": ["", " ", "007", "a\0b", "\u202eRTL עברית", "😀𝔸", "e\u0301", "line\r\n\u2028end", '{"modality": "CT"}'],
    "whole numbers": [0, -1, 2**63 - 1, None],
    "large numbers": pa.array([2**64 - 1], pa.uint64()),
    "numbers": [1.0, math.nan, math.inf],
    "truth": [True, False],
    "bytes": [b"", b"text", b"\xff\0"],
    "dates": [date(2024, 2, 29)],
    "lists": [["text"], [], ["{}"]],
    "not UTF-8": NOT_UTF8,
    "facts": [{"modality": "CT", "structures": ["é"], "region": None}, {"modality": "\0"}, {"modality": None}],
    "facts with a number that is none": [{"region": {"structure": "a", "position": "b", "area_percent": math.nan}}],
    "facts that are not UTF-8": pa.StructArray.from_arrays([NOT_UTF8], ["modality"]),
}


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("role", ["id", "caption", "group", "facts"])
def test_a_cell_is_judged_as_if_it_came_straight_from_the_file(tmp_path: Path, role: str, cells: object) -> None:
    judge = {"caption": lambda cell: checked_caption(cell, 8000), "facts": checked_facts}.get(role, checked_id)

    def verdict(cell: object) -> object:
        try:
            return judge(cell)
        except RefusedError as error:
            return error.refusal.reason

    table = pa.table({"cell": cells})
    names = NAMES[: table.num_rows]
    columns = {"image": names, "id": names, "caption": names, role: cells}
    with build(tmp_path, settings=ColumnSettings(group="group", facts="facts"), **columns) as index:
        found = [(index.find(name) or {})[role] for name in names]
    assert list(map(verdict, found)) == list(map(verdict, cell_values(table["cell"])))


@pytest.mark.parametrize("cells", [[b"CT"], [date(2024, 2, 29)], pa.array([1], pa.decimal128(3, 1))], ids=repr)
def test_what_json_cannot_hold_is_never_taken_for_text(tmp_path: Path, cells: object) -> None:
    facts = pa.StructArray.from_arrays([pa.array(cells)], ["modality"])
    with build(tmp_path, image=["a"], id=cells, caption=cells, facts=facts) as index:
        row = index.find("a") or {}
    with pytest.raises(RefusedError, match="the id is of type dict"):
        checked_id(row["id"])
    with pytest.raises(RefusedError, match="the caption is of type dict"):
        checked_caption(row["caption"], 99)
    with pytest.raises(RefusedError, match="modality"):
        checked_facts(row["facts"])


@pytest.mark.parametrize("text", CELLS["text"])
def test_text_is_kept_as_it_is(tmp_path: Path, text: str) -> None:
    name = text.replace("/", "") or "a"
    with build(tmp_path, image=[name], id=[text], caption=[text], group=[text], facts=[text]) as index:
        assert index.find(name) == dict.fromkeys(("id", "caption", "group", "facts"), text)


def test_metadata_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'caption' is missing"):
        build(tmp_path, image=["a"], id=["a"])
    with pytest.raises(DataError, match="column 'patient' is missing"):
        build(tmp_path, settings=ColumnSettings(group="patient"), image=["a"], id=["a"], caption=["a"])
    path = captions_parquet(tmp_path / "metadata.parquet", image=NAMES, id=NAMES, caption=NAMES)
    data = path.read_bytes()
    for damaged in (data[:-9], b"", data[:4] + bytes(60) + data[64:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="not a whole parquet file"):
            CaptionIndex.build([(path, "metadata")], ColumnSettings(), tmp_path / "index")
    path.unlink()
    with pytest.raises(MissingInputError):
        CaptionIndex.build([(path, "metadata")], ColumnSettings(), tmp_path / "index")
    assert os.listdir(tmp_path) == []


def test_an_index_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for data in (None, b"", b"no database" * 100):
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(MissingInputError, match="no finished index"):
            CaptionIndex.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(MissingInputError):
        CaptionIndex.open(path)


def test_a_build_that_is_killed_leaves_no_index(tmp_path: Path) -> None:
    path = captions_parquet(
        tmp_path / "metadata.parquet", image=[f"{n}" for n in range(5000)], id=range(5000), caption=["x"] * 5000
    )
    code = """if True:
        import json, os, signal, sys
        from pathlib import Path
        from medvl_jobs.prep import caption_index as captions
        rows, dumps = iter(range(4000)), json.dumps
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        captions.json.dumps = lambda *a, **b: dumps(*a, **b) if next(rows, None) is not None else kill()
        captions.CaptionIndex.build([(Path(sys.argv[1]), "")], captions.ColumnSettings(), Path(sys.argv[2]))
    """
    index = tmp_path / "index"
    assert subprocess.run([sys.executable, "-c", code, path, index], check=False).returncode == -signal.SIGKILL
    with pytest.raises(MissingInputError):
        CaptionIndex.open(index)
    with CaptionIndex.build([(path, "")], ColumnSettings(), index) as whole:
        assert whole.rows == 5000


def test_a_disk_that_is_full_or_broken_is_worth_another_attempt(tmp_path: Path) -> None:
    def small(path: Path, options: str) -> sqlite3.Connection:
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA max_page_count = 8")
        return database

    columns = {"image": NAMES, "id": NAMES, "caption": ["x" * 5000] * 20}
    with patch.object(caption_index, "_connect", small), pytest.raises(TryAgainError, match="no space is left"):
        build(tmp_path, **columns)
    assert os.listdir(tmp_path) == ["metadata.parquet"]
    with build(tmp_path, **columns) as index:
        path = tmp_path / "index"
        path.write_bytes(b"\xff" * path.stat().st_size)
        with pytest.raises(TryAgainError):
            index.find("19.png")


def test_names_are_sorted_beside_the_index_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "it's scratch"
    folder.mkdir()
    connect, opened = caption_index._connect, set()

    def watched(path: Path, options: str) -> sqlite3.Connection:
        database = connect(path, options)
        database.set_progress_handler(look, 20_000)
        return database

    def look() -> int:
        for number in os.listdir("/proc/self/fd"):
            try:
                opened.add(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        return 0

    names = [f"{n * 7919 % 60_000:060}" for n in range(60_000)]
    with patch.object(caption_index, "_connect", watched), patch.object(caption_index, "_CACHE_KIB", 100):
        build(folder, image=names, id=range(60_000), caption=names).close()
    temporary = {path for path in opened if "etilqs" in path}
    assert temporary
    assert all(path.startswith(f"{folder}/") for path in temporary)


def find_some(path: Path, seed: int) -> list[object]:
    with CaptionIndex.open(path) as index:
        return [(index.find(f"{n}.png") or {}).get("id") for n in random.Random(seed).sample(range(4000), 1000)]


def test_many_processes_read_one_index(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(3000)]
    build(tmp_path, image=names, id=range(3000), caption=["x" * 1200] * 3000).close()
    (tmp_path / "index").chmod(0o444)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(find_some, [tmp_path / "index"] * 6, range(6)))
    for seed, found in enumerate(results):
        assert found == [n if n < 3000 else None for n in random.Random(seed).sample(range(4000), 1000)]
