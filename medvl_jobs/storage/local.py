"""A store in a local directory: the default on a laptop, and a mounted volume on a cluster."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from medvl_jobs.errors import MissingInputError, SettingsError
from medvl_jobs.storage.base import ObjectStat, refuse_above
from medvl_jobs.storage.files import NOT_A_FILE, atomic_path, os_errors
from medvl_jobs.storage.keys import TEMPORARY, checked_key, checked_prefix


class LocalStorage:
    """Objects are files under ``root``. The first write creates ``root``; until then the store is empty."""

    def __init__(self, root: Path) -> None:
        """``root`` may be relative to the working directory and may begin with ``~``."""
        self._root = root.expanduser().absolute()

    @property
    def uri(self) -> str:
        """The absolute directory."""
        return str(self._root)

    def read_bytes(self, key: str, *, limit: int | None = None) -> bytes:
        """See `Storage.read_bytes`."""
        path = self._path(key)
        with os_errors(path):
            try:
                if limit is not None:
                    refuse_above(limit, path.stat().st_size, str(path))
                return path.read_bytes()
            except NOT_A_FILE as error:
                raise self._missing(path) from error

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """See `Storage.write_bytes`. Raises `SettingsError` when a folder or file lies in the way."""
        path = self._path(key)
        with os_errors(path):
            try:
                with atomic_path(path, _link if if_absent else os.replace) as temporary:
                    temporary.write_bytes(data)
            except FileExistsError:
                return False
        return True

    def download(self, key: str, path: Path) -> None:
        """See `Storage.download`."""
        source = self._path(key)
        with os_errors(path):
            if not source.is_file():
                raise self._missing(source)
            with atomic_path(path) as temporary:
                shutil.copyfile(source, temporary)

    def upload(self, path: Path, key: str) -> None:
        """See `Storage.upload`."""
        target = self._path(key)
        with os_errors(path):
            stream = path.open("rb")
        with stream, os_errors(target), atomic_path(target) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(stream, copy, length=1 << 20)

    def stat(self, key: str) -> ObjectStat | None:
        """See `Storage.stat`. Reads the whole file, since a modification time says nothing about the content."""
        path = self._path(key)
        with os_errors(path):
            if not path.is_file():  # to open a pipe would be to wait for ever
                return None
            try:
                # One open file for both numbers: a writer may replace the path between two looks at it.
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    return ObjectStat(os.fstat(stream.fileno()).st_size, f"sha256:{digest}")
            except NOT_A_FILE:
                return None

    def exists(self, key: str) -> bool:
        """See `Storage.exists`."""
        path = self._path(key)
        with os_errors(path):
            return path.is_file()

    def list_keys(self, prefix: str) -> Iterator[str]:
        """See `Storage.list_keys`."""
        # The prefix may end inside a name (``prepared/ab``), so the walk starts at the last whole folder of it.
        folder = self._root / checked_prefix(prefix).rpartition("/")[0]
        with os_errors(folder):
            keys = [
                (Path(base) / name).relative_to(self._root).as_posix()
                for base, _, names in os.walk(folder, onerror=_raise_unless_missing)
                for name in names
                if not name.startswith(TEMPORARY)
            ]
        yield from sorted(key for key in keys if key.startswith(prefix))

    def list_stats(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        """See `Storage.list_stats`. Reads every file whole; one that goes away meanwhile is not listed."""
        for key in self.list_keys(prefix):
            if (stat := self.stat(key)) is not None:
                yield key, stat

    def delete(self, key: str) -> None:
        """See `Storage.delete`. Empty folders stay: removing them would race with a writer that just made them."""
        path = self._path(key)
        with os_errors(path), suppress(*NOT_A_FILE):
            path.unlink()

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _missing(self, path: Path) -> MissingInputError:
        if self._root.is_dir():
            remedy = "run the stage that makes it, or check storage.uri"
        else:
            remedy = f"storage.uri names {self._root}, which does not exist yet: run an earlier stage, or correct it"
        return MissingInputError("no such object in the local store", where=str(path), remedy=remedy)


def _link(temporary: Path, target: Path) -> None:
    """`os.link`, which unlike `os.replace` never replaces."""
    try:
        os.link(temporary, target)
    except OSError as error:
        # EPERM is how vfat and some network and FUSE mounts say it; the write before it has proved the permission.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        remedy = "set storage.uri to a directory on a local disk or an NFS volume, or to an S3 bucket"
        raise SettingsError("the file system has no hard links", where=str(target.parent), remedy=remedy) from error


def _raise_unless_missing(error: OSError) -> None:
    """For `os.walk`, which by default swallows every error: a folder that may not be read would look empty."""
    if not isinstance(error, NOT_A_FILE):
        raise error
