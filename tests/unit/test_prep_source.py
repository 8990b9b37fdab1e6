"""Finding the files of a source, and what its content is known by."""

from __future__ import annotations

from pathlib import Path

import pytest
from prep_data import record, write_parquet

from medvl_jobs.errors import MissingInputError, SettingsError
from medvl_jobs.prep.source import find_source
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.open import open_storage

LOCAL = StorageSettings(uri="/elsewhere")


def keys(source: Path | str) -> tuple[str, ...]:
    return find_source(PrepSettings(source=str(source)), LOCAL).shards.keys


def fingerprint(source: Path | str, storage: StorageSettings = LOCAL) -> str:
    return find_source(PrepSettings(source=str(source)), storage).fingerprint


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


def test_the_source_may_be_a_bucket(tmp_path: Path, s3_settings: StorageSettings) -> None:
    store = open_storage(s3_settings)
    for name in ("a.parquet", "b.parquet"):
        store.upload(write_parquet(tmp_path / name, [record(0)]), f"raw/{name}")
    prep = PrepSettings(source=f"{s3_settings.uri}/raw")
    elsewhere = s3_settings.model_copy(update={"uri": "s3://another-bucket/place"})
    source = find_source(prep, elsewhere)
    assert source.shards.keys == ("a.parquet", "b.parquet")
    assert (
        source.shards.mark("a.parquet") == source.shards.mark("b.parquet") == (source.shards.fingerprints["a.parquet"],)
    )
    single = PrepSettings(source=f"{s3_settings.uri}/raw/b.parquet")
    assert find_source(single, elsewhere).shards.keys == ("b.parquet",)
    assert fingerprint(prep.source, elsewhere) == fingerprint(prep.source, elsewhere)
    for missing in (f"{s3_settings.uri}/nothing", "s3://no-such-bucket-here", "s3://no-such-bucket-here/x.parquet"):
        with pytest.raises(MissingInputError):
            find_source(PrepSettings(source=missing), elsewhere)
