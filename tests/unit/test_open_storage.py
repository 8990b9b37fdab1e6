"""From the setting to the store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.open import open_storage


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/store", "/data/store"),
        ("file:///data/my%20store", "/data/my store"),
        ("file://localhost/data", "/data"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket/q?x#y", "s3://bucket/q?x#y"),
    ],
)
def test_the_store_knows_where_it_lies(uri: str, expected: str) -> None:
    assert open_storage(StorageSettings(uri=uri)).uri == expected


def test_a_relative_directory_begins_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage(StorageSettings()).uri == str(tmp_path / "medvl-store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["", "gs://bucket", "s3:/bucket", "s3://", "s3:///key", "s3://b/../c", "file://host/x"])
def test_what_names_no_store_is_refused_with_a_remedy(uri: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_storage(StorageSettings(uri=uri))
    assert caught.value.remedy


def test_a_local_run_never_imports_boto3(tmp_path: Path) -> None:
    program = f"""
import sys
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage import publish
storage = open_storage(StorageSettings(uri={str(tmp_path)!r}))
storage.write_bytes("key", b"x")
publish.library_versions()
print(sorted({{"boto3", "botocore", "torch", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
