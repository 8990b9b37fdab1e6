"""The whole stage: parquet in, a prepared dataset out, the same after any interruption."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prep_data import encode, hashes, pixels, png, png_header_only, record, run_settings, write_parquet

from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.errors import DataError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.prep import part
from medvl_jobs.prep.job import run
from medvl_jobs.prep.workers import workers
from medvl_jobs.settings.prep import ColumnSettings
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.publish import read_manifest

KEY = "ab12"
PREFIX = f"prepared/{KEY}"


def good(count: int = 60) -> list[dict[str, Any]]:
    return [record(number) for number in range(count)]


def prepare(tmp_path: Path, rows: list[dict[str, Any]], store: str = "store", **prep: Any) -> Manifest:
    source = write_parquet(tmp_path / "source.parquet", rows)
    return made(run_settings(source, tmp_path / store, **prep))


def made(settings: RunSettings) -> Manifest:
    manifest = run(settings, open_storage(settings.storage), KEY)
    assert manifest is not None
    return manifest


def rows_of(storage: Storage, key: str) -> list[dict[str, Any]]:
    return list(pq.read_table(io.BytesIO(storage.read_bytes(f"{PREFIX}/{key}"))).to_pylist())


def table(storage: Storage, side: str) -> list[dict[str, Any]]:
    """The rows of a side, looked up one by one."""
    places = rows_of(storage, f"{side}.parquet")
    parts = {place["part"]: rows_of(storage, f"parts/{place['part']}/examples.parquet") for place in places}
    rows = [parts[place["part"]][place["row"]] for place in places]
    assert [row["example_id"] for row in rows] == [place["example_id"] for place in places]
    return rows


def quarantine(storage: Storage) -> list[dict[str, Any]]:
    keys = [key for key in storage.list_keys(f"{PREFIX}/parts/") if key.endswith("/quarantine.parquet")]
    return [row for key in keys for row in rows_of(storage, key.removeprefix(f"{PREFIX}/"))]


def card_of(storage: Storage) -> dict[str, Any]:
    return dict(json.loads(storage.read_bytes(f"{PREFIX}/card.json")))


def test_a_sound_source_loses_nothing(tmp_path: Path) -> None:
    manifest = prepare(tmp_path, good(), rows_per_part=20)
    storage = LocalStorage(tmp_path / "store")
    train, val = table(storage, "train"), table(storage, "val")
    by_id = {row["example_id"]: row for row in train + val}
    assert len(by_id) == 60
    assert by_id["patient000_3"]["image"]["bytes"] == png(seed=3), "kept to the last bit"
    assert by_id["patient000_3"]["image"]["path"] == "patient000_3.png"
    assert json.loads(by_id["patient000_3"]["facts"])["modality"] == "CT"
    assert not {row["group"] for row in train} & {row["group"] for row in val}
    assert manifest.counts["train_rows"] == len(train) > len(val) == manifest.counts["val_rows"] > 0
    assert (manifest.stage, manifest.key, manifest.settings["prep"]["val_ratio"]) == ("prep", KEY, 0.2)
    assert manifest.inputs[0].uri == str(tmp_path / "source.parquet")
    digest = hashlib.sha256((tmp_path / "source.parquet").read_bytes()).hexdigest()
    assert manifest.inputs[0].fingerprint == f"sha256:{digest}"
    assert [each.uri for each in manifest.inputs[1:]] == [f"{PREFIX}/parts/00000-0000{part}" for part in range(2)]
    assert {entry.path: entry.rows for entry in manifest.files}["train.parquet"] == len(train)
    assert quarantine(storage) == []


def test_the_card_counts_everything(tmp_path: Path) -> None:
    rows = good(100)
    rows[1]["caption"], rows[2]["caption"], rows[3]["id"] = " ", "", "../x"
    rows[4]["image"]["bytes"] = png(300, 200, mode="P")
    rows[5]["facts"] = None
    prepare(tmp_path, rows)
    card = card_of(LocalStorage(tmp_path / "store"))
    assert card["rows"] == {"read": 100, "accepted": 97, "refused": 3, "left_out": 0}
    assert card["refused"] == {"caption_empty": 2, "unsafe_id": 1}
    assert card["split"]["seed"] == 42
    assert card["split"]["val_ratio"] == 0.2
    assert card["split"]["train"]["rows"] + card["split"]["val"]["rows"] == 97
    assert card["split"]["train"]["groups"] + card["split"]["val"]["groups"] == 20
    assert card["group_source"] == {
        "rows": {"column": 97, "pattern": 0, "id": 0},
        "pattern": None,
    }
    assert card["facts"] == {"rows": 96}
    assert card["images"]["kept_bytes"] == 96
    assert card["images"]["converted"] == {"palette_to_rgb": 1}
    assert card["images"]["longer_side_pixels"]["histogram"]["<=128"] == 96
    assert card["images"]["longer_side_pixels"]["max"] == 300
    assert card["images"]["shorter_side_pixels"]["median"] == 32
    assert card["captions"]["words"]["median"] == 7
    assert card["captions"]["characters"]["min"] == len("Axial CT of the chest, slice 0.")


BAD_ROWS: dict[str, dict[str, Any]] = {
    "undecodable_image": {"image": {"bytes": b"broken", "path": None}},
    "image_too_small": {"image": {"bytes": png(1, 1), "path": None}},
    "image_too_large": {"image": {"bytes": png_header_only(20_000, 20_000), "path": None}},
    "caption_empty": {"caption": ""},
    "caption_too_long": {"caption": "x" * 100_000},
    "unsafe_id": {"id": "../../etc/passwd"},
    "duplicate_id": {"id": "patient000_0"},
    "unsafe_caption": {"caption": "a <image> of the chest"},
    "missing_image": {"image": None},
}


def test_every_bad_row_is_quarantined_with_its_reason_and_content(tmp_path: Path) -> None:
    bad = [record(1000 + number, **cells) for number, cells in enumerate(BAD_ROWS.values())]
    prepare(tmp_path, good() + bad, gates={"refused": 0.5})
    storage = LocalStorage(tmp_path / "store")
    refused = quarantine(storage)
    assert [row["reason"] for row in refused] == list(BAD_ROWS)
    assert [(row["source"], row["row"]) for row in refused] == [("source.parquet", 60 + n) for n in range(len(bad))]
    for row, original in zip(refused, bad, strict=True):
        assert {name: row[name] for name in ("id", "caption", "image")} == {
            name: original[name] for name in ("id", "caption", "image")
        }
        assert row["detail"]
    assert card_of(storage)["refused"] == dict.fromkeys(sorted(BAD_ROWS), 1)
    assert len(table(storage, "train") + table(storage, "val")) == 60


def test_odd_but_usable_images_are_converted_and_counted(tmp_path: Path) -> None:
    odd = [png(mode="RGBA"), png(mode="P"), png(mode="I;16"), encode(pixels(), "WEBP")]
    rows = [record(100 + number, image={"bytes": data, "path": None}) for number, data in enumerate(odd)]
    prepare(tmp_path, good() + rows)
    storage = LocalStorage(tmp_path / "store")
    assert card_of(storage)["images"]["converted"] == {
        "alpha_flattened_onto_black": 1,
        "high_bit_depth_min_max_scaled": 1,
        "palette_to_rgb": 1,
        "webp_to_png": 1,
    }
    for row in table(storage, "train") + table(storage, "val"):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.mode in ("RGB", "L")
            assert image.size == (row["width"], row["height"])


def test_too_many_bad_rows_fail_and_lose_nothing(tmp_path: Path) -> None:
    rows = good()
    for row in rows[:4]:
        row["caption"] = ""
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, rows)
    error, storage = caught.value, LocalStorage(tmp_path / "store")
    assert error.exit_code == 65
    assert "4 of 60 rows cannot be used (6.7%): caption_empty: 4" in error.what
    assert "prep.gates.refused" in error.remedy
    assert f"{PREFIX}/parts/*/quarantine.parquet" in error.remedy
    assert read_manifest(storage, PREFIX) is None
    assert len(quarantine(storage)) == 4
    assert card_of(storage)["rows"]["refused"] == 4
    assert prepare(tmp_path, rows, gates={"refused": 4 / 60}).counts["refused"] == 4


@pytest.mark.parametrize(("groups", "side"), [("one", "val"), ("two", "train")])
def test_an_empty_side_fails(tmp_path: Path, groups: str, side: str) -> None:
    rows = [record(number, group=groups) for number in range(10)]
    with pytest.raises(DataError, match=f"the {side} split is empty: 1 groups") as caught:
        prepare(tmp_path, rows, val_ratio=0.999 if side == "train" else 0.001)
    assert "prep.split_seed" in caught.value.remedy
    assert read_manifest(LocalStorage(tmp_path / "store"), PREFIX) is None


def test_zero_rows_fail(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows") as caught:
        prepare(tmp_path, [])
    assert caught.value.exit_code == 65


def test_settings_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    with pytest.raises(SettingsError):
        run(run_settings("missing.parquet", group_pattern="("), storage, KEY)
    with pytest.raises(SettingsError, match="<image>"):
        run(RunSettings(prompt={"question": "What is in <image>?"}, prep={"llamafactory_export": True}), storage, KEY)
    with pytest.raises(SettingsError, match=r"prep\.source is not set"):
        run(RunSettings(), storage, KEY)
    with pytest.raises(MissingInputError):
        run(run_settings(tmp_path / "missing.parquet"), storage, KEY)
    assert list(storage.list_keys("")) == []


def test_a_finished_dataset_is_not_made_again(tmp_path: Path) -> None:
    first = prepare(tmp_path, good())
    (tmp_path / "source.parquet").unlink()
    assert made(run_settings(tmp_path / "source.parquet", tmp_path / "store")) == first


def test_two_runs_make_the_same_bytes(tmp_path: Path) -> None:
    rows = good()
    rows[0]["caption"], rows[7]["image"]["bytes"] = "", png(mode="RGBA")
    first, second = (prepare(tmp_path, rows, store=name, rows_per_part=25) for name in ("a", "b"))
    assert hashes(LocalStorage(tmp_path / "a")) == hashes(LocalStorage(tmp_path / "b"))
    assert first.files == second.files


class FailingStorage(LocalStorage):
    """Dies at the ``writes``-th write, as a killed process would: nothing is cleaned up."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self.left = writes

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TryAgainError("the store went away")

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self._count()
        return super().write_bytes(key, data, if_absent=if_absent)

    def upload(self, path: Path, key: str) -> None:
        self._count()
        super().upload(path, key)


# A part of the first: 49 images and their manifest, 3 files, its own manifest. Of the second: 10, 1, 3, 1. Then 2
# sides, what is left out, 3 files of JSON, the card, and the manifest of all as the 77th write.
@pytest.mark.parametrize("writes", [0, 30, 50, 53, 54, 60, 68, 69, 72, 75, 76])
def test_after_an_interruption_a_second_run_equals_a_clean_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    rows = good()
    rows[0]["caption"] = ""
    prepare(tmp_path, rows, store="clean", rows_per_part=50)
    storage = FailingStorage(tmp_path / "store", writes)
    with monkeypatch.context() as patch:
        patch.setattr(part, "open_storage", lambda settings: storage)
        with pytest.raises(TryAgainError):
            run(run_settings(tmp_path / "source.parquet", tmp_path / "store", rows_per_part=50), storage, KEY)
    assert read_manifest(LocalStorage(tmp_path / "store"), PREFIX) is None
    prepare(tmp_path, rows, rows_per_part=50)
    assert hashes(LocalStorage(tmp_path / "store")) == hashes(LocalStorage(tmp_path / "clean"))


def many_files(folder: Path, files: int, rows: int = 120) -> Path:
    """``files`` files with row groups of 50, two broken rows and an id that comes twice."""
    records = [record(number) for number in range(rows)]
    records[3]["caption"], records[70]["image"] = "", None
    records[90]["id"] = records[10]["id"]
    for number in range(files):
        share = records[number * rows // files : (number + 1) * rows // files]
        write_parquet(folder / f"{number:02d}.parquet", share)
    return folder


@pytest.mark.parametrize("files", [1, 3, 9])
def test_one_two_and_seven_pods_make_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    source = many_files(tmp_path / "source", files)
    results = []
    for indexes in (1, 2, 7):
        store = LocalStorage(tmp_path / f"store-{indexes}")
        settings = run_settings(source, store.uri, indexes=indexes, rows_per_part=50, gates={"refused": 0.1})
        manifests = []
        for index in reversed(range(indexes)):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
            manifests.append(run(settings, store, KEY))
        assert [manifest is not None for manifest in manifests] == [False] * (indexes - 1) + [True]
        results.append(hashes(store))
    assert results[0] == results[1] == results[2]


def test_a_pod_makes_only_what_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, store = many_files(tmp_path / "source", 1), LocalStorage(tmp_path / "store")
    settings = run_settings(source, store.uri, rows_per_part=50, gates={"refused": 0.1})
    made(settings)
    before = hashes(store)
    store.delete(f"{PREFIX}/manifest.json")
    store.delete(f"{PREFIX}/parts/00000-00001/manifest.json")
    with caplog.at_level(logging.INFO, logger="medvl_jobs.prep"):
        made(settings)
    assert "1 of 3 pieces to make" in caplog.text
    assert hashes(store) == before


@pytest.mark.parametrize("index", ["2", "-1", "x", "", None])
def test_an_index_that_is_none_of_the_pods_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str | None
) -> None:
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    if index is not None:
        monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    with pytest.raises(SettingsError, match=r"prep\.indexes is 2") as caught:
        prepare(tmp_path, good(), indexes=2)
    assert "prep.indexes" in caught.value.remedy


def test_new_limits_are_held_against_a_finished_dataset(tmp_path: Path) -> None:
    rows = good()
    rows[0]["caption"] = ""
    prepare(tmp_path, rows)
    with pytest.raises(DataError, match="1 of 60 rows cannot be used"):
        prepare(tmp_path, rows, gates={"refused": 0})
    assert prepare(tmp_path, rows).counts["refused"] == 1


def test_parts_that_another_attempt_left_half_way_are_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medvl_jobs.prep.job.make_share", lambda *_: None)
    with pytest.raises(TryAgainError, match="another prep of the same dataset"):
        prepare(tmp_path, good())


def test_what_a_killed_prep_left_in_scratch_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for name in ("medvl-prep-dead", "medvl-prep-alive", "medvl-prep-new", "other"):
        (tmp_path / "tmp" / name).mkdir(parents=True)
        (tmp_path / "tmp" / name / "data").write_text("x")
    for name in ("medvl-prep-dead", "medvl-prep-alive"):
        (tmp_path / "tmp" / name / ".lock").touch()
    with (tmp_path / "tmp" / "medvl-prep-alive" / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        prepare(tmp_path, good())
    left = sorted(path.name for path in (tmp_path / "tmp").iterdir())
    assert left == ["medvl-prep-alive", "medvl-prep-new", "other"], "what is locked, or not locked yet, is somebody's"


def test_the_first_error_does_not_wait_for_the_others() -> None:
    """Neither for those that run nor for those that wait in the pool's own queue."""
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), workers(2) as run_all:
        run_all([partial(time.sleep, 500), partial(divmod, 1, 0), *[partial(time.sleep, 500)] * 4])
    assert time.monotonic() - started < 400


def test_processes_make_the_same_bytes(tmp_path: Path) -> None:
    source = many_files(tmp_path / "source", 3)
    stores = [LocalStorage(tmp_path / name) for name in ("one", "two")]
    for count, store in enumerate(stores, start=1):
        made(run_settings(source, store.uri, workers=count, rows_per_part=50, gates={"refused": 0.1}))
    assert hashes(stores[0]) == hashes(stores[1])


def test_an_error_in_a_worker_is_the_stages_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(SettingsError):
        prepare(tmp_path, good(), workers=2)


def test_adding_rows_moves_none_across_the_split(tmp_path: Path) -> None:
    def val_ids(count: int, store: str) -> set[str]:
        prepare(tmp_path, good(count), store=store, llamafactory_export=False)
        return {row["example_id"] for row in table(LocalStorage(tmp_path / store), "val")}

    few, many = val_ids(60, "few"), val_ids(90, "many")
    assert few == {each for each in many if int(each[7:10]) < 12}


def test_without_group_and_facts_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{name: row[name] for name in ("image", "id", "caption")} for row in good()]
    with caplog.at_level(logging.INFO, logger="medvl_jobs.prep"):
        prepare(tmp_path, rows)
    storage = LocalStorage(tmp_path / "store")
    assert all(row["group"] == row["example_id"] and row["facts"] is None for row in table(storage, "train"))
    assert card_of(storage)["group_source"]["rows"]["id"] == 60
    assert "60 rows are a group of their own (they name no group)" in caplog.text
    assert "accepted 60" in caplog.text


def test_the_group_pattern_is_used_and_its_misses_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{name: row[name] for name in ("image", "id", "caption")} for row in good()]
    rows[0]["id"] = "odd"
    prepare(tmp_path, rows, group_pattern=r"^(patient\d+)_")
    storage = LocalStorage(tmp_path / "store")
    assert card_of(storage)["group_source"] == {
        "rows": {"column": 0, "pattern": 59, "id": 1},
        "pattern": r"^(patient\d+)_",
    }
    assert {row["group"] for row in table(storage, "val")} <= {f"patient{number:03d}" for number in range(12)} | {"odd"}
    assert "prep.group_pattern misses their ids" in caplog.text


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    for number in range(3):
        write_parquet(
            tmp_path / "many" / f"{number}.parquet", [record(n) for n in range(number * 20, number * 20 + 21)]
        )
    made(run_settings(tmp_path / "many", tmp_path / "many-store", llamafactory_export=False))
    prepare(tmp_path, good(61), store="one-store", llamafactory_export=False)
    many, one = LocalStorage(tmp_path / "many-store"), LocalStorage(tmp_path / "one-store")
    assert table(many, "train") == table(one, "train")
    assert rows_of(many, "left_out.parquet") == [
        {"example_id": "patient004_0", "part": "00001-00000", "row": 0, "reason": "duplicate_id"},
        {"example_id": "patient008_0", "part": "00002-00000", "row": 0, "reason": "duplicate_id"},
    ]
    assert card_of(many)["refused"] == {"duplicate_id": 2}


def test_columns_of_other_names_and_types(tmp_path: Path) -> None:
    rows = [{"scan": row["image"]["bytes"], "number": n, "text": row["caption"]} for n, row in enumerate(good())]
    source = write_parquet(tmp_path / "source.parquet", rows, scan=pa.binary(), number=pa.int64())
    columns = ColumnSettings(image="scan", id="number", caption="text")
    made(run_settings(source, tmp_path / "store", columns=columns))
    assert "0" in {row["example_id"] for row in table(LocalStorage(tmp_path / "store"), "train")}


def test_datasets_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    prepare(tmp_path, good())
    folder = tmp_path / "store" / PREFIX
    files = str(folder / "parts" / "*" / "examples.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[0]["image"].size == (40, 32)


def test_from_bucket_to_bucket(tmp_path: Path, s3_settings: StorageSettings) -> None:
    rows = good()
    rows[0]["caption"] = ""
    prepare(tmp_path, rows, store="local")
    bucket = open_storage(s3_settings)
    bucket.upload(tmp_path / "source.parquet", "raw/source.parquet")
    settings = run_settings(f"{s3_settings.uri}/raw/source.parquet").model_copy(update={"storage": s3_settings})
    manifest = made(settings)
    assert hashes(bucket) == hashes(LocalStorage(tmp_path / "local"))
    assert manifest.inputs[0].uri == f"{s3_settings.uri}/raw/source.parquet"
    assert read_manifest(bucket, PREFIX) == manifest
