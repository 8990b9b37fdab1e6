"""What only a directory can do wrong."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from medvl_jobs.errors import AccessDeniedError, MedvlError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.storage.keys import TEMPORARY
from medvl_jobs.storage.local import LocalStorage


def test_the_root_is_made_by_the_first_write_only(tmp_path: Path) -> None:
    root = tmp_path / "not" / "yet"
    storage = LocalStorage(root)
    with pytest.raises(MissingInputError, match="not") as caught:
        storage.read_bytes("key")
    assert "does not exist yet" in caught.value.remedy
    assert not root.exists()
    storage.write_bytes("key", b"x")
    assert storage.read_bytes("key") == b"x"


def test_the_uri_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert LocalStorage(Path("store")).uri == str(tmp_path / "store")
    assert LocalStorage(Path("~/store")).uri == "/home/somebody/store"


def test_half_written_files_are_never_listed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.write_bytes("folder/key", b"x")
    (tmp_path / "folder" / f"{TEMPORARY}left-by-a-killed-writer").write_bytes(b"half")
    assert list(storage.list_keys("")) == ["folder/key"]


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, if_absent: bool) -> None:
    storage = LocalStorage(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgainError, match="free some space"):
        storage.write_bytes("key", b"x", if_absent=if_absent)
    assert list(tmp_path.iterdir()) == []


def test_a_write_leaves_one_file_that_others_may_read(tmp_path: Path) -> None:
    umask = os.umask(0o022)
    try:
        LocalStorage(tmp_path).write_bytes("key", b"x")
        LocalStorage(tmp_path).write_bytes("other", b"x", if_absent=True)
    finally:
        os.umask(umask)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "key": 0o644,
        "other": 0o644,
    }


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for root, key in ((tmp_path / "file", "key"), (tmp_path, "file/key"), (tmp_path, "folder")):
        for if_absent in (False, True) if key != "folder" else (False,):
            with pytest.raises(SettingsError):
                LocalStorage(root).write_bytes(key, b"", if_absent=if_absent)
    assert LocalStorage(tmp_path).stat("file/key") is None
    assert LocalStorage(tmp_path / "file").stat("key") is None


def test_a_file_system_without_hard_links_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SettingsError, match="no hard links"):
        LocalStorage(tmp_path).write_bytes("key", b"", if_absent=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "expected", "words"),
    [
        (errno.EACCES, AccessDeniedError, "fsGroup"),
        (errno.EROFS, AccessDeniedError, "read-write"),
        (errno.EDQUOT, TryAgainError, "quota"),
        (errno.EIO, TryAgainError, "check the disk"),
        (errno.ENAMETOOLONG, SettingsError, "shorten"),
    ],
)
def test_errors_of_the_system_come_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[MedvlError], words: str
) -> None:
    # Raised on purpose rather than by chmod: tests in a container often run as root, whom no mode bits stop.
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    storage = LocalStorage(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", fail)
    monkeypatch.setattr(os, "replace", fail)
    for attempt in (lambda: storage.read_bytes("key"), lambda: storage.write_bytes("key", b"")):
        with pytest.raises(expected) as caught:
            attempt()
        assert words in caught.value.remedy
        assert caught.value.where == str(tmp_path / "key")


def test_a_folder_that_may_not_be_read_does_not_look_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(AccessDeniedError):
        list(LocalStorage(tmp_path).list_keys(""))
