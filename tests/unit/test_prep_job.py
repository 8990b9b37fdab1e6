"""The whole stage: parquet in, a prepared dataset out, the same after any interruption."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prep_data import encode, pixels, png, png_header_only, record, run_settings, write_parquet

from medvl_jobs.contracts.manifest import Manifest
from medvl_jobs.errors import DataError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.prep.job import run
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
    return run(run_settings(source, **prep), LocalStorage(tmp_path / store), KEY)


def hashes(storage: Storage) -> dict[str, str]:
    """Every object of the dataset but the manifest, which has the time in it."""
    keys = (key for key in storage.list_keys(PREFIX) if not key.endswith("manifest.json"))
    return {key: hashlib.sha256(storage.read_bytes(key)).hexdigest() for key in keys}


def table(storage: Storage, folder: str) -> list[dict[str, Any]]:
    shards = [key for key in storage.list_keys(f"{PREFIX}/{folder}/") if key.endswith(".parquet")]
    return [row for key in shards for row in pq.read_table(io.BytesIO(storage.read_bytes(key))).to_pylist()]


def card_of(storage: Storage) -> dict[str, Any]:
    return dict(json.loads(storage.read_bytes(f"{PREFIX}/card.json")))


def test_a_sound_source_loses_nothing(tmp_path: Path) -> None:
    manifest = prepare(tmp_path, good(), rows_per_shard=20)
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
    assert manifest.inputs[0].sha256 == hashlib.sha256((tmp_path / "source.parquet").read_bytes()).hexdigest()
    rows = {entry.path: entry.rows for entry in manifest.files}
    assert rows["train/part-00000.parquet"] == 20
    assert "quarantine/part-00000.parquet" not in rows


def test_the_card_counts_everything(tmp_path: Path) -> None:
    rows = good(100)
    rows[1]["caption"], rows[2]["caption"], rows[3]["id"] = " ", "", "../x"
    rows[4]["image"]["bytes"] = png(300, 200, mode="P")
    rows[5]["facts"] = None
    prepare(tmp_path, rows)
    card = card_of(LocalStorage(tmp_path / "store"))
    assert card["rows"] == {"read": 100, "accepted": 97, "refused": 3}
    assert card["refused"] == {"caption_empty": 2, "unsafe_id": 1}
    assert card["split"]["seed"] == 42
    assert card["split"]["val_ratio"] == 0.2
    assert card["split"]["train"]["rows"] + card["split"]["val"]["rows"] == 97
    assert card["split"]["train"]["groups"] + card["split"]["val"]["groups"] == 20
    assert card["group_source"] == {
        "rows": {"column": 97, "pattern": 0, "id": 0},
        "pattern": None,
        "pattern_missed_rows": 0,
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
    prepare(tmp_path, good() + bad, max_bad_share=0.5)
    storage = LocalStorage(tmp_path / "store")
    quarantine = table(storage, "quarantine")
    assert [row["reason"] for row in quarantine] == list(BAD_ROWS)
    assert [(row["source"], row["row"]) for row in quarantine] == [("source.parquet", 60 + n) for n in range(len(bad))]
    for row, original in zip(quarantine, bad, strict=True):
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
    assert "4 of 60 rows are refused (6.7%): caption_empty: 4" in error.what
    assert "prep.max_bad_share" in error.remedy
    assert f"{PREFIX}/quarantine" in error.remedy
    assert read_manifest(storage, PREFIX) is None
    assert len(table(storage, "quarantine")) == 4
    assert card_of(storage)["rows"]["refused"] == 4
    assert prepare(tmp_path, rows, max_bad_share=4 / 60).counts["refused"] == 4


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
        run(RunSettings(prompt={"question": "What is in <image>?"}), storage, KEY)
    with pytest.raises(SettingsError, match=r"prep\.source is not set"):
        run(RunSettings(), storage, KEY)
    with pytest.raises(MissingInputError):
        run(run_settings(tmp_path / "missing.parquet"), storage, KEY)
    assert list(storage.list_keys("")) == []


def test_a_finished_dataset_is_not_made_again(tmp_path: Path) -> None:
    first = prepare(tmp_path, good())
    (tmp_path / "source.parquet").unlink()
    assert run(run_settings(tmp_path / "source.parquet"), LocalStorage(tmp_path / "store"), KEY) == first


def test_two_runs_make_the_same_bytes(tmp_path: Path) -> None:
    rows = good()
    rows[0]["caption"], rows[7]["image"]["bytes"] = "", png(mode="RGBA")
    first, second = (prepare(tmp_path, rows, store=name, rows_per_shard=25) for name in ("a", "b"))
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


# 59 images, 3 shards of examples, 1 of the quarantine, 3 files of JSON, the card, and the manifest as the 68th write.
@pytest.mark.parametrize("writes", [0, 30, 60, 62, 64, 66, 67])
def test_after_an_interruption_a_second_run_equals_a_clean_one(tmp_path: Path, writes: int) -> None:
    rows = good()
    rows[0]["caption"] = ""
    prepare(tmp_path, rows, store="clean", rows_per_shard=25)
    with pytest.raises(TryAgainError):
        run(
            run_settings(tmp_path / "source.parquet", rows_per_shard=25),
            FailingStorage(tmp_path / "store", writes),
            KEY,
        )
    assert read_manifest(LocalStorage(tmp_path / "store"), PREFIX) is None
    prepare(tmp_path, rows, rows_per_shard=25)
    assert hashes(LocalStorage(tmp_path / "store")) == hashes(LocalStorage(tmp_path / "clean"))


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
    assert "train/part-00000.parquet: " in caplog.text
    assert "accepted 60" in caplog.text


def test_the_group_pattern_is_used_and_its_misses_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{name: row[name] for name in ("image", "id", "caption")} for row in good()]
    rows[0]["id"] = "odd"
    prepare(tmp_path, rows, group_pattern=r"^(patient\d+)_")
    storage = LocalStorage(tmp_path / "store")
    assert card_of(storage)["group_source"] == {
        "rows": {"column": 0, "pattern": 59, "id": 1},
        "pattern": r"^(patient\d+)_",
        "pattern_missed_rows": 1,
    }
    assert {row["group"] for row in table(storage, "val")} <= {f"patient{number:03d}" for number in range(12)} | {"odd"}
    assert "prep.group_pattern misses their ids" in caplog.text


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    for number in range(3):
        write_parquet(
            tmp_path / "many" / f"{number}.parquet", [record(n) for n in range(number * 20, number * 20 + 21)]
        )
    run(run_settings(tmp_path / "many", llamafactory_export=False), LocalStorage(tmp_path / "many-store"), KEY)
    prepare(tmp_path, good(61), store="one-store", llamafactory_export=False)
    many, one = LocalStorage(tmp_path / "many-store"), LocalStorage(tmp_path / "one-store")
    assert table(many, "train") == table(one, "train")
    assert [(row["source"], row["row"], row["reason"]) for row in table(many, "quarantine")] == [
        ("1.parquet", 0, "duplicate_id"),
        ("2.parquet", 0, "duplicate_id"),
    ]


def test_columns_of_other_names_and_types(tmp_path: Path) -> None:
    rows = [{"scan": row["image"]["bytes"], "number": n, "text": row["caption"]} for n, row in enumerate(good())]
    source = write_parquet(tmp_path / "source.parquet", rows, scan=pa.binary(), number=pa.int64())
    columns = ColumnSettings(image="scan", id="number", caption="text")
    run(run_settings(source, columns=columns), LocalStorage(tmp_path / "store"), KEY)
    assert "0" in {row["example_id"] for row in table(LocalStorage(tmp_path / "store"), "train")}


def test_datasets_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    prepare(tmp_path, good())
    folder = tmp_path / "store" / PREFIX
    files = {side: str(folder / side / "*.parquet") for side in ("train", "val")}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded["train"].features["image"], datasets.Image)
    assert loaded["val"][0]["image"].size == (40, 32)


def test_from_bucket_to_bucket(tmp_path: Path, s3_settings: StorageSettings) -> None:
    rows = good()
    rows[0]["caption"] = ""
    prepare(tmp_path, rows, store="local")
    bucket = open_storage(s3_settings)
    bucket.upload(tmp_path / "source.parquet", "raw/source.parquet")
    settings = run_settings(f"{s3_settings.uri}/raw/source.parquet").model_copy(update={"storage": s3_settings})
    manifest = run(settings, bucket, KEY)
    assert hashes(bucket) == hashes(LocalStorage(tmp_path / "local"))
    assert manifest.inputs[0].uri == f"{s3_settings.uri}/raw/source.parquet"
    assert read_manifest(bucket, PREFIX) == manifest
