"""The layouts that a source may have: images in the rows, in a folder beside them, and in archives."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_runs import medvl
from prep_data import hashes, png, record, run_settings, write_parquet

from medvl_jobs.errors import DataError, MissingInputError, SchemaMismatchError, SettingsError
from medvl_jobs.prep.job import run
from medvl_jobs.prep.source import find_source
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage

KEY = "ab12"
FULL = {"image": "file_name", "id": "file_name", "caption": "caption"}
"""`prep.columns` of MedTrinity-25M's full release."""


def prepared(settings: RunSettings, storage: Storage | None = None) -> dict[str, dict[str, Any]]:
    """The rows of both sides, by id; the run must have made them."""
    storage = storage or open_storage(settings.storage)
    assert run(settings, storage, KEY) is not None
    parts = [key for key in storage.list_keys(f"prepared/{KEY}/parts/") if key.endswith("examples.parquet")]
    rows = [row for key in parts for row in pq.read_table(io.BytesIO(storage.read_bytes(key))).to_pylist()]
    return {row["example_id"]: row for row in rows}


def archive(path: Path, members: dict[str, bytes], compression: str | None = "zstd") -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.output_stream(str(path), compression=compression) as out:
        out.write(stream.getvalue())
    return path


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """25M_full in small: 60 images in three archives, captions in two parquet files, in another order."""
    names = [f"patient{number // 5:03d}_{number % 5}.png" for number in range(60)]
    rows = [{"file_name": name, "caption": f"Of {name}.", "source": "made"} for name in names]
    (tmp_path / "metadata").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[40:] + rows[:10]), tmp_path / "metadata" / "b.parquet")
    pq.write_table(pa.Table.from_pylist(rows[10:40]), tmp_path / "metadata" / "a.parquet")
    for number in range(3):
        members = {f"{number}/": b"", **{f"{number}/{names[n]}": png(seed=n) for n in range(number, 60, 3)}}
        archive(tmp_path / "archives" / f"{number}.tar.zst", members)
    return tmp_path


def full_settings(folder: Path, store: str = "store", **prep: Any) -> RunSettings:
    prep = {"archives": str(folder / "archives"), "columns": FULL, "group_pattern": "^(patient[0-9]+)", **prep}
    return run_settings(folder / "metadata", folder / store, **prep)


def test_archives_are_joined_with_their_captions(full: Path) -> None:
    rows = prepared(full_settings(full))
    assert len(rows) == 60
    row = rows["patient003_2.png"]
    assert (row["caption"], row["group"], row["image"]["bytes"]) == (
        "Of patient003_2.png.",
        "patient003",
        png(seed=17),
    )


def test_pods_and_workers_make_the_same_of_archives(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for indexes, workers in ((1, 1), (2, 1), (7, 1), (1, 2)):
        settings = full_settings(full, f"store-{indexes}-{workers}", indexes=indexes, workers=workers, rows_per_part=6)
        store = open_storage(settings.storage)
        for index in range(indexes):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
            run(settings, store, KEY)
        results.append(hashes(store))
    assert results[0] == results[1] == results[2] == results[3]
    assert len([key for key in results[0] if key.endswith("ledger.parquet")]) == 12


def test_an_archive_is_taken_up_where_it_was_left(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = full_settings(full, rows_per_part=6)
    store = open_storage(settings.storage)
    prepared(settings, store)
    whole = hashes(store)
    store.delete(f"prepared/{KEY}/manifest.json")
    for part in ("00001-00002", "00001-00003"):
        store.delete(f"prepared/{KEY}/parts/{part}/manifest.json")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="medvl_jobs.prep"):
        prepared(settings, store)
    assert [line for line in caplog.messages if "1 of 1 pieces" in line] == [
        f"reading {full}/archives/1.tar.zst: 1 of 1 pieces to make"
    ]
    assert hashes(store) == whole


def test_what_has_no_partner_is_counted(full: Path) -> None:
    archive(full / "archives" / "more.tar", {"stranger.png": png(), "notes.txt": b"x"}, compression=None)
    archive(full / "archives" / "empty.tar", {"only a folder/": b""}, compression=None)
    settings = full_settings(full, gates={"refused": 0.5})
    prepared(settings)
    card = json.loads(open_storage(settings.storage).read_bytes(f"prepared/{KEY}/card.json"))
    assert card["rows"] == {"read": 62, "accepted": 60, "refused": 2, "left_out": 0}
    assert card["refused"] == {"unmatched_image": 2}
    assert card["captions_apart"] == {"rows": 60, "repeated_names": 0, "nameless": 0, "images": 60}


def test_an_archive_that_was_cut_off_costs_its_end(full: Path) -> None:
    path = full / "archives" / "1.tar.zst"
    with pa.input_stream(str(path), compression="zstd") as stream:
        (full / "archives" / "1.tar").write_bytes(stream.read()[:-30_000])
    path.unlink()
    settings = full_settings(full, gates={"refused": 0.5})
    rows = prepared(settings)
    card = json.loads(open_storage(settings.storage).read_bytes(f"prepared/{KEY}/card.json"))
    assert card["refused"] == {"unreadable_rows": 1}
    assert 40 < len(rows) < 60


def test_archives_in_a_bucket(full: Path, s3_settings: StorageSettings) -> None:
    bucket = open_storage(s3_settings)
    for path in [*(full / "archives").iterdir(), *(full / "metadata").iterdir()]:
        bucket.upload(path, f"raw/{path.parent.name}/{path.name}")
    there = {"archives": f"{s3_settings.uri}/raw/archives", "columns": FULL, "group_pattern": "^(patient[0-9]+)"}
    settings = run_settings(f"{s3_settings.uri}/raw/metadata", **there)
    prepared(settings.model_copy(update={"storage": s3_settings}), bucket)
    prepared(full_settings(full))
    assert hashes(bucket) == hashes(LocalStorage(full / "store"))


def jsonl(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """60 lines of JSON and their images in folders."""
    rows = []
    for number in range(60):
        name = f"{number % 3}/{number}.png"
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(png(seed=number))
        row = {key: record(number)[key] for key in ("id", "caption", "group", "facts")}
        rows.append({**row, "image": [name] if number % 2 else name})
    jsonl(tmp_path / "rows", rows)
    return tmp_path


def line_settings(folder: Path, store: str = "store", **prep: Any) -> RunSettings:
    return run_settings(folder / "rows", folder / store, **{"image_folder": str(folder / "images"), **prep})


def test_workers_read_an_image_folder_in_a_bucket(lines: Path, s3_settings: StorageSettings) -> None:
    bucket = open_storage(s3_settings)
    for path in (lines / "images").rglob("*.png"):
        bucket.upload(path, f"raw/{path.relative_to(lines)}")
    # As a program of its own: workers have the environment, with its credentials, that their server was started in.
    reach = [f"storage.endpoint_url={s3_settings.endpoint_url}", "storage.region=us-east-1", "storage.path_style=true"]
    words = [
        f"prep.source={lines}/rows",
        f"prep.image_folder={s3_settings.uri}/raw/images",
        f"storage.uri={lines}/there",
    ]
    medvl("prep", *words, *reach, "prep.rows_per_part=20", "prep.llamafactory_export=true", "--workers", "2")
    prepared(line_settings(lines, "here", rows_per_part=20))
    there, here = (hashes(LocalStorage(lines / name)) for name in ("there", "here"))
    assert [*there.values()] == [*here.values()]


def test_jsonl_and_an_image_folder(lines: Path, tmp_path: Path) -> None:
    rows = prepared(line_settings(lines))
    assert len(rows) == 60
    assert rows["patient001_2"]["image"]["bytes"] == png(seed=7)
    source = write_parquet(tmp_path / "p" / "rows.parquet", [record(number) for number in range(60)])
    same = prepared(run_settings(source, tmp_path / "other"))
    assert rows == same, "the same rows in another layout are the same dataset"


def test_jsonl_is_the_same_for_any_number_of_workers_and_pods(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for indexes, workers in ((1, 1), (7, 1), (1, 2)):
        settings = line_settings(lines, f"store-{indexes}-{workers}", indexes=indexes, workers=workers, rows_per_part=9)
        store = open_storage(settings.storage)
        for index in range(indexes):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
            run(settings, store, KEY)
        results.append(hashes(store))
    assert results[0] == results[1] == results[2]
    assert len([key for key in results[0] if key.endswith("ledger.parquet")]) == 7


def test_paths_in_parquet_start_from_the_image_folder(lines: Path) -> None:
    rows = [{**record(number), "image": f"{number % 3}/{number}.png"} for number in range(60)]
    rows[0]["image"], rows[1]["image"] = "../../secret.png", "0/missing.png"
    source = write_parquet(lines / "paths.parquet", rows, image=pa.string())
    settings = run_settings(source, lines / "store", image_folder=str(lines / "images"), gates={"refused": 0.1})
    assert len(prepared(settings)) == 58
    card = json.loads(open_storage(settings.storage).read_bytes(f"prepared/{KEY}/card.json"))
    assert card["refused"] == {"missing_image": 1, "unsafe_path": 1}


def test_a_list_of_one_image_is_an_image(tmp_path: Path) -> None:
    rows = [{**record(number), "image": [png(seed=number)]} for number in range(60)]
    rows[4]["image"] = [png(), png()]
    source = write_parquet(tmp_path / "lists.parquet", rows, image=pa.list_(pa.binary()))
    settings = run_settings(source, tmp_path / "store")
    assert len(prepared(settings)) == 59


def test_a_slip_in_a_column_of_jsonl_is_refused(lines: Path) -> None:
    for columns in ({"group": "pateint"}, {"facts": "fakts"}, {"caption": "text"}):
        settings = line_settings(lines, columns=columns)
        with pytest.raises(DataError, match=f"has the column '{next(iter(columns.values()))}'") as caught:
            run(settings, open_storage(settings.storage), KEY)
        assert f"prep.columns.{next(iter(columns))}=" in caught.value.remedy


def test_a_column_that_is_there_and_null_is_no_slip(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    rows = [{"id": f"{n}", "image": "a.png", "caption": f"Text {n}.", "patient": None} for n in range(40)]
    jsonl(tmp_path / "rows", rows, "A.JSONL")
    settings = run_settings(
        tmp_path / "rows",
        tmp_path / "store",
        image_folder=str(tmp_path),
        columns={"group": "patient"},
        duplicates={"exact": "keep"},
    )
    assert len(prepared(settings)) == 40


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("group", pa.array([1, 2], pa.timestamp("ns"))),
        ("group", pa.array([10**15, 2], pa.duration("ns"))),
        ("group", pa.array([2**40, 1], pa.date64()).cast(pa.date32(), safe=False)),
        ("id", pa.array([2**62, 1], pa.timestamp("us"))),
        ("facts", pa.array(["[" * 100_000, None])),
        ("facts", pa.array(['{"modality": "\\ud800"}', None])),
        ("facts", pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"])),
    ],
)
def test_a_cell_of_no_use_costs_its_row_and_no_more(tmp_path: Path, column: str, values: pa.Array) -> None:
    table = pa.table(
        {
            "image": pa.array([png(seed=1), png(seed=2)]),
            "id": ["a", "b"],
            "caption": ["text", "text"],
            "group": ["a", "b"],
        }
    )
    table = table.drop_columns([column] if column in table.column_names else []).append_column(column, values)
    (tmp_path / "source").mkdir()
    pq.write_table(table, tmp_path / "source" / "odd.parquet", coerce_timestamps=None)
    write_parquet(tmp_path / "source" / "good.parquet", [record(number) for number in range(60)])
    found = prepared(run_settings(tmp_path / "source", tmp_path / "store", gates={"refused": 0.2}))
    assert len(found) >= 60


def test_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"])] * 4, names=["image", "id", "caption", "caption"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="several columns have the name 'caption'"):
        run(run_settings(tmp_path / "a.parquet", tmp_path / "store"), LocalStorage(tmp_path / "store"), KEY)


def test_the_store_may_not_lie_in_the_source(lines: Path) -> None:
    for store in (lines / "rows", lines / "rows" / "store"):
        with pytest.raises(SettingsError, match="the store lies in the folder of the source"):
            find_source(PrepSettings(source=str(lines / "rows")), StorageSettings(uri=str(store)))


def test_a_source_that_is_written_to_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_parquet(tmp_path / "a.parquet", [record(number) for number in range(60)])
    settings = run_settings(source, tmp_path / "store")
    store = open_storage(settings.storage)
    marks = iter([("before",), ("after",)])
    monkeypatch.setattr("medvl_jobs.prep.source.FileSet.mark", lambda *_: next(marks))
    with pytest.raises(SchemaMismatchError, match="written to while it was read"):
        run(settings, store, KEY)
    assert not [key for key in store.list_keys("") if key.endswith("manifest.json") and "/parts/" in key]


def test_a_file_that_changes_before_its_turn_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        rows = [record(number * 60 + row) for row in range(60)]
        write_parquet(tmp_path / "source" / f"{number}.parquet", rows)
    settings = run_settings(tmp_path / "source", tmp_path / "store")
    source = find_source(settings.prep, settings.storage)
    assert source.fingerprint
    write_parquet(tmp_path / "source" / "1.parquet", [record(900)])
    with pytest.raises(SchemaMismatchError, match="written to while it was read"):
        run(settings, open_storage(settings.storage), KEY, source)
    left = [key for key in open_storage(settings.storage).list_keys("") if key.endswith("manifest.json")]
    assert all("/parts/00000-" in key or "/images/" in key for key in left)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(MissingInputError, match="is not a file"):
        _ = find_source(PrepSettings(source=str(tmp_path)), StorageSettings(uri="elsewhere")).fingerprint


def test_a_path_without_a_folder_names_the_setting(tmp_path: Path) -> None:
    source = jsonl(tmp_path, [{"id": "a", "image": "a.png", "caption": "text"}])
    with pytest.raises(DataError, match="missing_image: 1"):
        run(run_settings(source, tmp_path / "store"), LocalStorage(tmp_path / "store"), KEY)
    quarantine = LocalStorage(tmp_path / "store").read_bytes(f"prepared/{KEY}/parts/00000-00000/quarantine.parquet")
    assert "prep.image_folder" in pq.read_table(io.BytesIO(quarantine))["detail"][0].as_py()


ODD_CAPTIONS = ["Null \x00 byte.", "שלום, עולם: CT של החזה.", "𝔄xial CT 🫁 of the chest.", "ok"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_odd_text_is_kept_or_refused_and_never_stops_anything(tmp_path: Path, kind: str) -> None:
    rows = [record(number) for number in range(60)]
    for row, caption in zip(rows, ODD_CAPTIONS, strict=False):
        row["caption"] = caption
    if kind == "parquet":
        source = write_parquet(tmp_path / "a.parquet", rows)
    else:
        for number, row in enumerate(rows):
            (tmp_path / f"{number}.png").write_bytes(row["image"]["bytes"])
        source = jsonl(tmp_path / "rows", [{**row, "image": f"{number}.png"} for number, row in enumerate(rows)])
    folder = {"image_folder": str(tmp_path)} if kind == "jsonl" else {}
    found = prepared(run_settings(source, tmp_path / "store", **folder))
    assert [found[f"patient000_{n}"]["caption"] for n in (1, 2, 3)] == ODD_CAPTIONS[1:]
    assert "patient000_0" not in found


def test_ids_of_mixed_type(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    ids: list[object] = [1, "1", 2.5, True, None, [], {}, "x", 3, *(f"more {n}" for n in range(20))]
    rows = [{"id": each, "image": "a.png", "caption": f"Text {n}.", "group": f"g{n}"} for n, each in enumerate(ids)]
    settings = run_settings(
        jsonl(tmp_path / "rows", rows),
        tmp_path / "store",
        image_folder=str(tmp_path),
        gates={"refused": 1},
        duplicates={"exact": "keep"},
    )
    assert {each for each in prepared(settings) if not each.startswith("more")} == {"1", "x", "3"}
    card = json.loads(open_storage(settings.storage).read_bytes(f"prepared/{KEY}/card.json"))
    assert card["refused"] == {"bad_type": 4, "duplicate_id": 1, "missing_id": 1}


def test_the_images_are_part_of_the_fingerprint(lines: Path, full: Path) -> None:
    def fingerprint(settings: RunSettings) -> str:
        return find_source(settings.prep, settings.storage).fingerprint

    before = fingerprint(line_settings(lines)), fingerprint(full_settings(full))
    (lines / "images" / "0" / "0.png").write_bytes(png(seed=999))
    archive(full / "archives" / "2.tar.zst", {"patient000_0.png": png()})
    after = fingerprint(line_settings(lines)), fingerprint(full_settings(full))
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_source_that_changed_since_it_was_planned_is_refused(lines: Path) -> None:
    settings = line_settings(lines, source_fingerprint="0" * 16)
    with pytest.raises(SchemaMismatchError, match="has changed since the run was planned"):
        run(settings, open_storage(settings.storage), KEY)


@pytest.mark.parametrize(
    ("prep", "error", "words"),
    [
        ({"archives": "x", "image_folder": "y"}, SettingsError, "not from both"),
        ({"archives": "nothing-here"}, MissingInputError, "does not exist"),
        ({"archives": "rows"}, MissingInputError, "no archive among its 1 files"),
        ({"archives": "hf://x"}, SettingsError, "prep.archives"),
        ({"image_folder": "hf://x"}, SettingsError, "prep.image_folder"),
    ],
)
def test_settings_that_cannot_be(
    lines: Path, monkeypatch: pytest.MonkeyPatch, prep: dict[str, str], error: type[Exception], words: str
) -> None:
    monkeypatch.chdir(lines)
    write_parquet(lines / "rows" / "a.parquet", [record(0)])
    (lines / "rows" / "rows.jsonl").unlink()
    with pytest.raises(error, match=words):
        find_source(run_settings("rows", **prep).prep, StorageSettings())
