"""What `Storage` promises, on every backend."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medvl_jobs.errors import DataError, MissingInputError, SchemaMismatchError, SettingsError
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.probe import probe

ODD_KEYS = [
    "a b/c d.txt",
    "lésion/μm 肺.json",
    "a+b/1+1=2",
    "100%/%41%2F",
    "q?x=1#y",
    "tilde~/com,ma;'\"&<>",
    "-/--",
    ".hid/.den",
]
REFUSED_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "../up",
    "a/../../up",
    "a/..",
    "a/./b",
    "a//b",
    "a/",
    "a\x00b",
    ".medvl-tmp-x",
    "a/.medvl-tmp-x",
]
MIB = 1 << 20


def test_what_is_written_is_read_back(storage: Storage) -> None:
    assert storage.write_bytes("a/b.bin", bytes(range(256))) is True
    assert storage.read_bytes("a/b.bin") == bytes(range(256))
    assert storage.exists("a/b.bin")


def test_a_second_write_replaces_the_first(storage: Storage) -> None:
    storage.write_bytes("key", b"long content")
    assert storage.write_bytes("key", b"new") is True
    assert storage.read_bytes("key") == b"new"


def test_an_object_may_be_empty(storage: Storage) -> None:
    storage.write_bytes("empty", b"")
    assert storage.read_bytes("empty") == b""
    assert storage.exists("empty")
    found = storage.stat("empty")
    assert found is not None
    assert found.bytes == 0


@pytest.mark.parametrize("key", ODD_KEYS)
def test_keys_are_taken_literally(storage: Storage, key: str, tmp_path: Path) -> None:
    storage.write_bytes(key, key.encode())
    storage.download(key, tmp_path / "copy")
    assert list(storage.list_keys("")) == [key]
    assert storage.read_bytes(key) == (tmp_path / "copy").read_bytes() == key.encode()
    storage.delete(key)
    assert not storage.exists(key)


@pytest.mark.parametrize("key", REFUSED_KEYS)
def test_keys_that_could_leave_the_store_are_refused(storage: Storage, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for attempt in (
        lambda: storage.read_bytes(key),
        lambda: storage.write_bytes(key, b""),
        lambda: storage.write_bytes(key, b"", if_absent=True),
        lambda: storage.download(key, tmp_path / "copy"),
        lambda: storage.upload(tmp_path / "file", key),
        lambda: storage.stat(key),
        lambda: storage.exists(key),
        lambda: storage.delete(key),
    ):
        with pytest.raises(SettingsError):
            attempt()
    assert list(storage.list_keys("")) == []


@pytest.mark.parametrize("prefix", ["/", "/etc", "../", "a/../b"])
def test_prefixes_that_could_leave_the_store_are_refused(storage: Storage, prefix: str) -> None:
    with pytest.raises(SettingsError):
        list(storage.list_keys(prefix))


# --- if_absent ---


def test_if_absent_writes_only_the_first_time(storage: Storage) -> None:
    assert storage.write_bytes("deep/key", b"first", if_absent=True) is True
    assert storage.write_bytes("deep/key", b"second", if_absent=True) is False
    assert storage.read_bytes("deep/key") == b"first"


def test_if_absent_lets_exactly_one_of_many_writers_win(storage: Storage) -> None:
    writers = 8
    together = threading.Barrier(writers)

    def write(number: int, key: str) -> bool:
        together.wait(timeout=30)
        return storage.write_bytes(key, f"{number}".encode(), if_absent=True)

    with ThreadPoolExecutor(writers) as pool:
        for key in (f"race-{number}" for number in range(3)):
            won = list(pool.map(write, range(writers), [key] * writers))
            assert won.count(True) == 1
            assert storage.read_bytes(key) == f"{won.index(True)}".encode()
    assert list(storage.list_keys("")) == ["race-0", "race-1", "race-2"]


# --- listing ---


def test_an_object_above_the_limit_is_not_read(storage: Storage) -> None:
    storage.write_bytes("a", b"12345")
    assert storage.read_bytes("a", limit=5) == b"12345"
    with pytest.raises(DataError, match="5 bytes, more than 4"):
        storage.read_bytes("a", limit=4)


def test_listing_is_sorted_and_goes_by_string_prefix(storage: Storage) -> None:
    # "-" < "." < "/" < "0": the order of strings is not the order of folders, and an S3 server may give the latter.
    keys = ["run-1/x", "run/1", "run/a/b", "run.txt", "run0", "other"]
    for key in keys:
        storage.write_bytes(key, b"")
    assert list(storage.list_keys("")) == sorted(keys)
    assert list(storage.list_stats("")) == [(key, storage.stat(key)) for key in sorted(keys)]
    assert [key for key, _ in storage.list_stats("run/")] == ["run/1", "run/a/b"]
    assert list(storage.list_keys("run")) == sorted(keys[:5])
    assert list(storage.list_keys("run/")) == ["run/1", "run/a/b"]
    assert list(storage.list_keys("run/a/b")) == ["run/a/b"]
    assert list(storage.list_keys("run/a/b/")) == []
    assert list(storage.list_keys("nothing")) == []


def test_an_empty_store_lists_nothing(storage: Storage) -> None:
    assert list(storage.list_keys("")) == []
    assert list(storage.list_keys("a/b")) == []


# --- what is missing ---


def test_reading_what_is_missing(storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes("folder/object", b"")
    for key in ("missing", "folder/missing", "folder"):
        assert storage.stat(key) is None
        assert not storage.exists(key)
        for attempt in (lambda k=key: storage.read_bytes(k), lambda k=key: storage.download(k, tmp_path / "copy")):
            with pytest.raises(MissingInputError) as caught:
                attempt()
            assert key in caught.value.where
            assert caught.value.remedy


def test_a_store_that_nobody_wrote_to_is_empty(storage: Storage) -> None:
    assert storage.stat("key") is None
    with pytest.raises(MissingInputError):
        storage.read_bytes("key")


def test_deleting_twice_is_not_an_error(storage: Storage) -> None:
    storage.write_bytes("folder/key", b"x")
    storage.delete("folder/key")
    storage.delete("folder/key")
    storage.delete("never/was")
    assert not storage.exists("folder/key")
    assert list(storage.list_keys("")) == []


# --- files ---


def test_a_large_file_goes_up_and_comes_down_whole(storage: Storage, tmp_path: Path) -> None:
    source, copy = tmp_path / "source.bin", tmp_path / "new" / "folder" / "copy.bin"
    source.write_bytes(os.urandom(20 * MIB + 7))
    storage.upload(source, "adapters/ab/model.safetensors")
    storage.download("adapters/ab/model.safetensors", copy)
    assert copy.read_bytes() == source.read_bytes()
    found = storage.stat("adapters/ab/model.safetensors")
    assert found is not None
    assert found.bytes == 20 * MIB + 7


def test_upload_and_download_replace_what_was_there(storage: Storage, tmp_path: Path) -> None:
    storage.write_bytes("key", b"old and longer")
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "copy").write_bytes(b"something else")
    storage.upload(tmp_path / "source", "key")
    storage.download("key", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == storage.read_bytes("key") == b"new"


def test_a_download_that_fails_leaves_no_file_and_no_part_of_one(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "kept").write_bytes(b"from before")
    for name in ("new", "kept"):
        with pytest.raises(MissingInputError):
            storage.download("missing", folder / name)
    assert [path.name for path in folder.iterdir()] == ["kept"]
    assert (folder / "kept").read_bytes() == b"from before"


def test_an_upload_of_a_file_that_is_missing(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError) as caught:
        storage.upload(tmp_path / "missing.parquet", "key")
    assert "missing.parquet" in caught.value.where
    assert not storage.exists("key")


# --- identity ---


def test_the_fingerprint_follows_the_content(storage: Storage) -> None:
    seen = []
    for content in (b"one", b"two", b"one"):
        storage.write_bytes("key", content)
        found = storage.stat("key")
        assert found is not None
        assert found.bytes == 3
        seen.append(found.fingerprint)
    assert seen[0] == seen[2] != seen[1]
    assert all(fingerprint.partition(":")[0] in ("sha256", "etag") for fingerprint in seen)


# --- the probe ---


def test_a_store_that_keeps_its_promises_passes_the_probe_and_is_left_clean(storage: Storage) -> None:
    probe(storage)
    assert list(storage.list_keys("")) == []


def test_a_store_that_lets_two_writers_win_does_not(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write = storage.write_bytes
    monkeypatch.setattr(storage, "write_bytes", lambda key, data, if_absent: write(key, data))
    with pytest.raises(SchemaMismatchError, match="does not keep its promises"):
        probe(storage)
    assert list(storage.list_keys("")) == []
