"""Where the source is, what it is, and its rows one by one: at no time is more than a batch of them in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvl_jobs.contracts.fingerprint import short_hash
from medvl_jobs.errors import DataError, MissingInputError, SettingsError
from medvl_jobs.prep.rows import RawRow
from medvl_jobs.settings.prep import ColumnSettings, PrepSettings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.files import os_errors
from medvl_jobs.storage.local import LocalStorage
from medvl_jobs.storage.open import open_storage

BATCH_ROWS = 64
"""Rows decoded from parquet at a time."""
_BUFFER_BYTES = 1 << 20
_SOURCE_REMEDY = "set prep.source to a parquet file, a directory of them, or s3://bucket/path of either"


@dataclass(frozen=True)
class Source:
    """The parquet files of ``prep.source``; the store is the folder that they lie in."""

    storage: Storage
    keys: tuple[str, ...]
    """Sorted, and relative to the folder, so that a copy elsewhere has the same ones."""

    def uri(self, key: str) -> str:
        """Where one file lies."""
        return f"{self.storage.uri}/{key}"

    @contextmanager
    def local_file(self, key: str, scratch: Path) -> Iterator[Path]:
        """A path to one file: itself in a local store, else a download that lives as long as the ``with`` block."""
        if isinstance(self.storage, LocalStorage):
            yield Path(self.storage.uri) / key
            return
        path = scratch / "source.parquet"
        self.storage.download(key, path)
        try:
            yield path
        finally:
            path.unlink()


def find_source(prep: PrepSettings, storage: StorageSettings) -> Source:
    """The files of ``prep.source``; ``storage`` says how a bucket is reached, not where.

    Raises `SettingsError` when no source is set, `MissingInputError` when nothing or no parquet file is there.
    """
    parent, name = _parent_and_name(prep.source)
    beside = _open_folder(parent, prep.source, storage)
    if name and beside.exists(name):
        return Source(beside, (name,))
    folder = _open_folder(prep.source, prep.source, storage)
    found = list(folder.list_keys(""))
    keys = tuple(key for key in found if key.endswith(".parquet") and not _is_hidden(key))
    if not keys:
        what = f"no *.parquet among its {len(found)} files" if found else "the source does not exist, or is empty"
        raise MissingInputError(what, where=f"prep.source={prep.source}", remedy=_SOURCE_REMEDY)
    return Source(folder, keys)


def source_fingerprint(prep: PrepSettings, storage: StorageSettings) -> str:
    """Hash over the names and contents of the source's files: part of the key of everything that is made from it.

    Raises what `find_source` raises.
    """
    source = find_source(prep, storage)
    return short_hash([[key, _fingerprint(source, key)] for key in source.keys])


def read_rows(path: Path, name: str, columns: ColumnSettings) -> Iterator[RawRow]:
    """All rows of the parquet file ``path``, called ``name`` in them and in errors.

    Raises `DataError` when it is not a whole parquet file or lacks a column that must be there.
    """
    with _parquet_errors(path, name), pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        wanted = _column_names(file.schema_arrow.names, columns, name)
        row = 0
        # Both options above leave pages on disk until their turn comes; pre_buffer, on by default, keeps all of them.
        for batch in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(wanted.values()))):
            cells = {role: _values(batch.column(column)) for role, column in wanted.items()}
            for offset in range(batch.num_rows):
                yield RawRow(name, row + offset, **{role: values[offset] for role, values in cells.items()})
            row += batch.num_rows


def _parent_and_name(uri: str) -> tuple[str, str]:
    """``s3://bucket/a/b`` -> (``s3://bucket/a``, ``b``); a bucket or a root has no name."""
    if not uri:
        raise SettingsError("prep.source is not set", remedy=_SOURCE_REMEDY)
    scheme, separator, path = uri.rpartition("://")
    if not separator:
        local = Path(uri).expanduser().absolute()
        return str(local.parent), local.name
    parent, slash, name = path.rstrip("/").rpartition("/")
    return (f"{scheme}://{parent}", name) if slash else (uri, "")


def _open_folder(uri: str, source: str, storage: StorageSettings) -> Storage:
    try:
        return open_storage(storage.model_copy(update={"uri": uri}))
    except SettingsError as error:  # it speaks of storage.uri, which the user may never have set
        what = f"the source cannot be opened: {error.what.replace('storage.uri', 'prep.source')}"
        raise SettingsError(what, where=f"prep.source={source}", remedy=_SOURCE_REMEDY) from error


def _is_hidden(key: str) -> bool:
    """What other tools leave beside their data: ``.cache/…``, ``_temporary/…``."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(key).parts)


def _fingerprint(source: Source, key: str) -> str:
    stat = source.storage.stat(key)
    if stat is None:
        remedy = "start again when nobody writes to the source"
        raise MissingInputError("a source file went away while it was looked at", where=source.uri(key), remedy=remedy)
    return stat.fingerprint


def _column_names(present: list[str], columns: ColumnSettings, name: str) -> dict[str, str]:
    """Field of `RawRow` -> column, of those that the file has.

    ``group`` and ``facts`` may be absent under their default names. A name that was set by hand must be there: with a
    slip in ``prep.columns.group``, slices of one patient would silently land on both sides of the split.
    """
    defaults = ColumnSettings()
    wanted: dict[str, str] = {}
    for role, column in columns.model_dump().items():
        if column in present:
            wanted[role] = column
        elif role not in ("group", "facts") or column != getattr(defaults, role):
            what = f"the column '{column}' is missing; the file has: {', '.join(present)}"
            remedy = f"name the column that holds the {role}: prep.columns.{role}=NAME"
            raise DataError(what, where=name, remedy=remedy)
    return wanted


def _values(column: Any) -> list[object]:
    """The cells as Python values. Parquet lets text be other than UTF-8: such a cell becomes bytes, to be refused."""
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> object:
    try:
        value: object = scalar.as_py()
    except UnicodeDecodeError:
        return b"text that is not UTF-8"
    return value


@contextmanager
def _parquet_errors(path: Path, name: str) -> Iterator[None]:
    """pyarrow's errors, some of them an ``OSError`` without a number, as errors about the file ``name``."""
    with os_errors(path):
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            remedy = "make the file anew or take it out of prep.source; a download may have stopped half-way"
            raise DataError(f"not a whole parquet file: {first_line}", where=name, remedy=remedy) from error
