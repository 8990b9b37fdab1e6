"""The captions of images that lie apart from them: found by an image's name, on disk, by many processes."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from medvl_jobs.errors import MissingInputError
from medvl_jobs.prep.parquet import cell_values, column_names, open_parquet
from medvl_jobs.prep.rows import Reason, Refusal
from medvl_jobs.settings.prep import ColumnSettings
from medvl_jobs.storage.files import atomic_path, os_errors

BATCH_ROWS = 1024
"""Captions copied at a time: 1.2 MB of MedTrinity's."""
_CACHE_KIB = 64 << 10
"""What SQLite may hold in memory while it builds an index, and the length of the runs that it sorts names in."""
_CELLS = ("id", "caption", "group", "facts")
_MOST_OF_ONE_NAME = 10_000


class CaptionIndex:
    """The rows of the metadata, found by file name: an SQLite file, built once and read by many processes.

    Each process must open it for itself: SQLite's connections do not survive a fork.

    For 25 million rows with captions of 1.2 KB, extrapolated from a million (1417 bytes and 14 µs a row):

    - Disk: 35 GB, of which 1.2 GB are the names in order; and 2 GB beside it while these are being sorted.
    - Memory: 0.2 GB to build it, whatever the number of rows. To use it 2 MB a process; all else is the page cache,
      which the processes share.
    - Time: 6 minutes to build it on one core, unless the disk is slower than 100 MB/s; 13 µs to find a row that the
      page cache has.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        """Private: see `build` and `open`."""
        self._database = database
        self._path = path
        self.rows: int
        """Of the metadata, all of them."""
        self.repeated: int
        """Rows whose last part of the path an earlier row has."""
        self.nameless: int
        """Rows whose name is null, empty or no text; no image can be theirs."""
        self.rows, self.repeated, self.nameless = database.execute("SELECT * FROM counts").fetchone()

    @classmethod
    def build(cls, files: Sequence[tuple[Path, str]], columns: ColumnSettings, path: Path) -> Self:
        """Index parquet files, each a path and what errors call it, as ``path``: whole, or not at all.

        Raises `DataError` for a file that is not whole, or that lacks a column.
        """
        with _sqlite_errors(path), atomic_path(path) as temporary, closing(_connect(temporary, "nolock=1")) as database:
            _fill(database, files, columns, temporary.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The index that `build` made. Raises `MissingInputError` when it did not finish."""
        try:
            return cls(_connect(path, "mode=ro&immutable=1"), path)
        except sqlite3.DatabaseError as error:
            remedy = "build it again; it is made from the captions alone"
            raise MissingInputError("there is no finished index of captions", where=str(path), remedy=remedy) from error

    def find(self, path: str) -> Mapping[str, Any] | Refusal | None:
        """The cells of the row of this image, by role; ``None`` for a role that its file does not have.

        The last part of ``path`` decides. Where rows of several folders have it, the one decides that names the most of
        the folders of ``path``; when all of them name others, nobody can know which is meant, and that is a `Refusal`.
        Of several rows that name the very same file, the first is found.
        """
        basename = path.rpartition("/")[2]
        query = "SELECT path, cells FROM captions WHERE name = ? ORDER BY rowid"
        with _sqlite_errors(self._path):
            try:
                rows = self._database.execute(query, (basename,)).fetchmany(_MOST_OF_ONE_NAME)
            except UnicodeEncodeError:  # a name that is not UTF-8, with the surrogates that stand for its bytes
                return None
        paths = dict.fromkeys(named for named, _ in rows)
        if len(paths) > 1:
            paths = dict.fromkeys(each for each in paths if f"/{path}".endswith(f"/{each.lstrip('./')}"))
            if not paths:
                detail = f"{len(rows)} captions are of files of the name {basename!r:.120}, all in other folders"
                return Refusal(Reason.AMBIGUOUS_NAME, detail)
        closest = max(paths, key=len, default=None)
        found = next((cells for named, cells in rows if named == closest), None)
        return dict(zip(_CELLS, json.loads(found), strict=True)) if found else None

    def close(self) -> None:
        """Nothing is found any more."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None)


def _fill(
    database: sqlite3.Connection, files: Sequence[tuple[Path, str]], columns: ColumnSettings, folder: Path
) -> None:
    # A file that is left half-way is thrown away, so no journal. Trap: SQLite sorts in /var/tmp if not told otherwise,
    # which in a pod is small, or read-only; and what it is told holds for the process, so it is taken back.
    scratch = str(folder.absolute()).replace("'", "''")
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
        database.execute(f"PRAGMA {setting}")
    database.execute(f"PRAGMA temp_store_directory = '{scratch}'")
    try:
        database.execute("CREATE TABLE captions (name TEXT, path TEXT, cells TEXT)")
        database.execute("BEGIN")
        for path, name in files:
            database.executemany("INSERT INTO captions VALUES (?, ?, ?)", _named_cells(path, name, columns))
        database.execute("COMMIT")
        database.execute("CREATE INDEX by_name ON captions (name)")
        # Not count(DISTINCT name): that makes a second table of all names, where GROUP BY walks along the index.
        distinct = "SELECT count(*) FROM (SELECT 1 FROM captions WHERE name NOT NULL GROUP BY name)"
        counts = f"SELECT count(*), count(name) - ({distinct}), count(*) - count(name) FROM captions"
        database.execute(f"CREATE TABLE counts AS {counts}")
    finally:
        database.execute("PRAGMA temp_store_directory = ''")


def _named_cells(path: Path, name: str, columns: ColumnSettings) -> Iterator[tuple[str | None, str | None, str | None]]:
    """A row's name, the path that it is the last part of, and the other cells.

    They are JSON, since of SQLite's own types a bool is a number and NaN is null.
    """
    with open_parquet(path, name) as file:
        wanted = column_names(file.schema_arrow.names, columns, name)
        for batch in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(wanted.values()))):
            absent = [None] * batch.num_rows
            cells = [cell_values(batch.column(wanted[role])) if role in wanted else absent for role in _CELLS]
            for image, *others in zip(cell_values(batch.column(wanted["image"])), *cells, strict=True):
                basename = image.rpartition("/")[2] if isinstance(image, str) else None
                yield (basename, image, json.dumps(others, default=_odd)) if basename else (None, None, None)


def _odd(value: object) -> dict[str, str]:
    """What JSON cannot hold, as an object in its place: of a type that `judge` refuses, and shows."""
    return {type(value).__name__: f"{value!r:.200}"}


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as the system's that are behind them: a fault in our own file is a fault of the disk."""
    with os_errors(path):
        try:
            yield
        except sqlite3.DatabaseError as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error
