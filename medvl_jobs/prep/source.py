"""Where the source is, what files it consists of, and what its content is known by."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import MissingInputError, SchemaMismatchError, SettingsError
from medvl_jobs.prep.archives import is_archive
from medvl_jobs.prep.captions import is_unicode
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage

log = logging.getLogger(__name__)

_REMEDIES = {
    "prep.source": "set prep.source to a parquet or JSONL file, a directory of them, or s3://bucket/path of either",
    "prep.archives": "set prep.archives to the directory or s3://bucket/path of the *.tar, *.tar.zst or *.tar.gz files",
    "prep.image_folder": "set prep.image_folder to the directory or s3://bucket/path that the image paths start from",
}


@dataclass(frozen=True)
class FileSet:
    """Some files of a folder."""

    storage: Storage
    """The folder."""
    keys: tuple[str, ...]
    """Sorted, and relative to the folder, so that a copy elsewhere has the same ones."""

    def uri(self, key: str) -> str:
        """Where one file lies."""
        return f"{self.storage.uri}/{key}"

    @cached_property
    def marks(self) -> dict[str, tuple[object, ...]]:
        """The `mark` of each file when it was first looked at."""
        return {key: self.mark(key) for key in self.keys}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """What the content of each file is known by. Raises `MissingInputError` when one has gone."""
        marks = self.marks  # before the contents are read, so that a change meanwhile shows
        if isinstance(self.storage, LocalStorage):
            return {key: self._fingerprint(key) for key in self.keys}
        return {key: str(mark[0]) for key, mark in marks.items()}

    def changed(self, keys: Iterable[str]) -> list[str]:
        """Those of the files that somebody has written to since."""
        return [key for key in keys if self.mark(key) != self.marks[key]]

    def mark(self, key: str) -> tuple[object, ...]:
        """What changes when somebody writes to the file; of a local one without reading it."""
        if isinstance(self.storage, LocalStorage):
            with os_errors(Path(self.uri(key))):
                stat = os.stat(self.uri(key))
            return stat.st_ino, stat.st_size, stat.st_mtime_ns
        return (self._fingerprint(key),)

    def _fingerprint(self, key: str) -> str:
        stat = self.storage.stat(key)
        if stat is None:
            what = "this is not a file, or it went away while it was looked at"
            raise MissingInputError(what, where=self.uri(key), remedy="start again when nobody writes to the source")
        return stat.fingerprint


@dataclass(frozen=True)
class Source:
    """All that the rows are made of."""

    shards: FileSet
    """What rows are read from, in this order: parquet and JSONL files, or archives."""
    captions: FileSet | None = None
    """The parquet files that describe the archives' images."""
    images: Storage | None = None
    """The folder of the images that rows name by path."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash over names and contents: part of the key of everything that is made from them."""
        sets = [self.shards.fingerprints, self.captions.fingerprints if self.captions else {}, self._images()]
        return short_hash([list(each.items()) for each in sets if each])

    def require(self, planned: str | None) -> None:
        """Refuse a source that is not the one of ``planned``: its result would lie under the other one's key.

        Raises `SchemaMismatchError`.
        """
        if planned not in (None, self.fingerprint):
            raise SchemaMismatchError(
                f"the source has changed since the run was planned: it is {self.fingerprint}, not {planned}",
                where=self.shards.storage.uri,
                remedy="start the run again, or leave prep.source_fingerprint out of the settings",
            )

    def _images(self) -> dict[str, str]:
        return {key: stat.fingerprint for key, stat in self.images.list_stats("")} if self.images else {}


def find_source(prep: PrepSettings, storage: StorageSettings) -> Source:
    """The files that ``prep`` names; ``storage`` says how a bucket is reached, not where.

    Raises `SettingsError` when no source is set or two settings contradict each other, `MissingInputError` when nothing
    or no file of a known kind is there.
    """
    if prep.archives and prep.image_folder:
        remedy = "set one of the two: where the images of this source really are"
        raise SettingsError("images come from prep.archives or from prep.image_folder, not from both", remedy=remedy)
    endings = (".parquet",) if prep.archives else (".parquet", ".jsonl", ".ndjson")
    rows = _find("prep.source", prep.source, storage, endings)
    if prep.archives:
        return Source(_find("prep.archives", prep.archives, storage, ()), captions=rows)
    if prep.image_folder:
        return Source(rows, images=open_folder(prep.image_folder, "prep.image_folder", storage))
    return Source(rows)


def open_folder(uri: str, setting: str, storage: StorageSettings) -> Storage:
    """The folder that ``setting`` names, as a store. Raises `SettingsError`."""
    try:
        return open_storage(storage.model_copy(update={"uri": uri}))
    except SettingsError as error:  # it speaks of storage.uri, which the user may never have set
        what = f"the source cannot be opened: {error.what.replace('storage.uri', setting)}"
        raise SettingsError(what, where=f"{setting}={uri}", remedy=_REMEDIES[setting]) from error


def _find(setting: str, uri: str, storage: StorageSettings, endings: tuple[str, ...]) -> FileSet:
    """The file ``uri``, or those files of the folder ``uri`` that have one of the endings; none means archives."""
    parent, name = _parent_and_name(setting, uri)
    beside = open_folder(parent, setting, storage)
    if name and beside.exists(name):
        return FileSet(beside, (name,))
    folder = open_folder(uri, setting, storage)
    store = open_storage(storage).uri
    if f"{store}/".startswith(f"{folder.uri}/"):
        what = "the store lies in the folder of the source, so its own files would be read as rows"
        raise SettingsError(what, where=f"{setting}={uri}, storage.uri={storage.uri}", remedy="move one of the two")
    found = list(folder.list_keys(""))
    fits = (lambda key: key.lower().endswith(endings)) if endings else is_archive
    keys = tuple(key for key in found if fits(key) and not _is_hidden(key))
    wanted = " or ".join(f"*{ending}" for ending in endings) or "archive"
    if not keys:
        what = f"no {wanted} among its {len(found)} files" if found else "the source does not exist, or is empty"
        raise MissingInputError(what, where=f"{setting}={uri}", remedy=_REMEDIES[setting])
    if odd := [key for key in keys if not is_unicode(key)]:
        what = f"the name of a file is not UTF-8: {odd[0]!r}"
        raise SettingsError(what, where=f"{setting}={uri}", remedy="rename it")
    if len(found) > len(keys):
        log.info("%s: %d files are no %s and are left alone", uri, len(found) - len(keys), wanted)
    return FileSet(folder, keys)


def _parent_and_name(setting: str, uri: str) -> tuple[str, str]:
    """``s3://bucket/a/b`` -> (``s3://bucket/a``, ``b``); a bucket or a root has no name."""
    if not uri:
        raise SettingsError(f"{setting} is not set", remedy=_REMEDIES[setting])
    scheme, separator, path = uri.rpartition("://")
    if not separator:
        local = Path(uri).expanduser().absolute()
        return str(local.parent), local.name
    parent, slash, name = path.rstrip("/").rpartition("/")
    return (f"{scheme}://{parent}", name) if slash else (uri, "")


def _is_hidden(key: str) -> bool:
    """What other tools leave beside their data: ``.cache/…``, ``_temporary/…``."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(key).parts)
