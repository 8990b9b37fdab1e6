"""Files first, their list last."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import medvl_jobs
from medvl_jobs.contracts.manifest import FileEntry, InputRef, Provenance
from medvl_jobs.errors import MissingInputError, SchemaMismatchError, TryAgainError
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.publish import Publication, library_versions, peak_memory_bytes, read_manifest, require_manifest

PREFIX = "prepared/ab12"
PROVENANCE = Provenance(
    stage="prep",
    key="ab12",
    inputs=(InputRef(uri="s3://bucket/raw.parquet", fingerprint="etag:0"),),
    settings={"seed": 1},
    counts={"rows": 3},
    git_sha="c0ffee",
    wall_seconds=0.5,
)


class RecordingStorage(LocalStorage):
    """Remembers the order of writes."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.written: list[str] = []

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        self.written.append(key)
        return super().write_bytes(key, data, if_absent=if_absent)

    def upload(self, path: Path, key: str) -> None:
        self.written.append(key)
        super().upload(path, key)


@pytest.fixture
def storage(tmp_path: Path) -> RecordingStorage:
    return RecordingStorage(tmp_path / "store")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_manifest_is_written_last_and_lists_what_lies_there(storage: RecordingStorage, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"parquet")
    storage.write_bytes(f"{PREFIX}/part-00000.jsonl", b"{}\n")
    publication = Publication(storage, PREFIX)
    publication.upload(tmp_path / "part", "train/part-00000.parquet", rows=1234)
    publication.write_bytes("card.json", b"draft")
    publication.write_bytes("card.json", b"{}")
    publication.adopt("part-00000.jsonl", rows=1)
    assert read_manifest(storage, PREFIX) is None

    manifest = publication.finish(PROVENANCE)

    assert storage.written[-1] == f"{PREFIX}/manifest.json"
    assert read_manifest(storage, PREFIX) == require_manifest(storage, PREFIX, "prep") == manifest
    assert manifest.files == (
        FileEntry(path="card.json", bytes=2, sha256=sha256(b"{}")),
        FileEntry(path="part-00000.jsonl", bytes=3, sha256=sha256(b"{}\n"), rows=1),
        FileEntry(path="train/part-00000.parquet", bytes=7, sha256=sha256(b"parquet"), rows=1234),
    )
    assert set(storage.list_keys(PREFIX)) == {f"{PREFIX}/{file.path}" for file in manifest.files} | {
        storage.written[-1]
    }


def test_the_manifest_says_how_it_was_made(storage: RecordingStorage) -> None:
    manifest = Publication(storage, PREFIX).finish(PROVENANCE)
    assert Provenance(**{name: getattr(manifest, name) for name in Provenance.model_fields}) == PROVENANCE
    assert manifest.code_version == medvl_jobs.__version__
    assert manifest.library_versions["pydantic"]
    assert manifest.peak_memory_bytes > 10 << 20


def test_a_second_writer_takes_the_manifest_of_the_first(storage: RecordingStorage) -> None:
    first, second = Publication(storage, PREFIX), Publication(storage, PREFIX)
    for publication in (first, second):
        publication.write_bytes("card.json", b"the same")
    theirs = first.finish(PROVENANCE)
    assert second.finish(PROVENANCE.model_copy(update={"wall_seconds": 9.0})) == theirs
    assert read_manifest(storage, PREFIX) == theirs


def test_a_second_writer_that_came_too_early_to_do_harm(storage: RecordingStorage) -> None:
    late, first = Publication(storage, PREFIX), Publication(storage, PREFIX)
    late.write_bytes("model", b"late's")
    first.write_bytes("model", b"first's")
    theirs = first.finish(PROVENANCE)
    assert late.finish(PROVENANCE) == theirs


def test_two_writers_that_overwrote_each_other_have_made_nothing(storage: RecordingStorage) -> None:
    first, second = Publication(storage, PREFIX), Publication(storage, PREFIX)
    first.write_bytes("model", b"first's")
    second.write_bytes("model", b"second's")
    first.finish(PROVENANCE)
    with pytest.raises(TryAgainError, match="two attempts wrote model"):
        second.finish(PROVENANCE)
    assert read_manifest(storage, PREFIX) is None


def test_the_manifest_cannot_be_written_by_hand(storage: RecordingStorage) -> None:
    with pytest.raises(ValueError, match="finish"):
        Publication(storage, PREFIX).write_bytes("manifest.json", b"{}")


def test_what_is_missing_cannot_be_listed(storage: RecordingStorage, tmp_path: Path) -> None:
    publication = Publication(storage, PREFIX)
    with pytest.raises(MissingInputError):
        publication.adopt("part-00000.jsonl")
    with pytest.raises(MissingInputError):
        publication.upload(tmp_path / "missing", "train/part-00000.parquet")
    assert publication.finish(PROVENANCE).files == ()


def test_a_stage_that_has_not_run_is_named(storage: RecordingStorage) -> None:
    assert read_manifest(storage, PREFIX) is None
    with pytest.raises(MissingInputError, match="medvl prep") as caught:
        require_manifest(storage, PREFIX, "prep")
    assert caught.value.where.endswith("prepared/ab12/manifest.json")


def test_the_output_of_another_stage_is_refused(storage: RecordingStorage) -> None:
    Publication(storage, PREFIX).finish(PROVENANCE)
    with pytest.raises(SchemaMismatchError, match="made by the prep stage"):
        require_manifest(storage, PREFIX, "train")


def test_a_missing_bucket_is_not_taken_for_a_stage_still_to_run(s3_settings: StorageSettings) -> None:
    nowhere = open_storage(s3_settings.model_copy(update={"uri": "s3://no-such-bucket"}))
    with pytest.raises(MissingInputError, match="no such bucket"):
        read_manifest(nowhere, PREFIX)


def test_the_environment_is_described_without_importing_it() -> None:
    versions = library_versions()
    assert versions["pyarrow"]
    assert "no-such-library" not in versions
    assert list(versions) == sorted(versions)
    assert 10 << 20 < peak_memory_bytes() < 1 << 40
