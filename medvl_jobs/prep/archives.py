"""Images in tar archives, and their captions in parquet files: the layout of MedTrinity-25M's full release.

An archive is read from front to back and never unpacked to disk; the caption is found by the image's name.
"""

from __future__ import annotations

import errno
import gzip
import json
import re
import sqlite3
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from medvl_jobs.errors import DataError, MissingInputError
from medvl_jobs.prep.parquet import cell_values, column_names, open_parquet
from medvl_jobs.prep.rows import RawRow, Reason, Refusal
from medvl_jobs.settings.prep import ColumnSettings
from medvl_jobs.storage.files import atomic_path, os_errors

BATCH_ROWS = 1024
"""Captions copied at a time: 1.2 MB of MedTrinity's."""
_CACHE_KIB = 64 << 10
"""What SQLite may hold in memory while it builds an index, and the length of the runs that it sorts names in."""
_CELLS = ("id", "caption", "group", "facts")

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
"""Of the name and attributes before a member, which must be read whole, however long they say that they are."""
_ABOUT_NEXT = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_PASSED_OVER = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)
_BODILESS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
}
"""What has no content in the archive, whatever size its header says."""


def is_archive(name: str) -> bool:
    """Whether the file is one that `read_archive` reads, by its name."""
    return name.endswith(_SUFFIXES)


class CaptionIndex:
    """The rows of the metadata, found by file name: an SQLite file, built once and read by many processes.

    Each process must open it for itself: SQLite's connections do not survive a fork.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        """Private: see `build` and `open`."""
        self._database = database
        self._path = path
        self.rows: int
        """Of the metadata, all of them."""
        self.duplicates: int
        """Rows whose name an earlier row has; that one is found."""
        self.nameless: int
        """Rows whose name is null, empty or no text; no image can be theirs."""
        self.rows, self.duplicates, self.nameless = database.execute("SELECT * FROM counts").fetchone()

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

    def find(self, basename: str) -> Mapping[str, Any] | None:
        """The cells of the first row of this name, by role; ``None`` for a role that its file does not have."""
        query = "SELECT cells FROM captions WHERE name = ? ORDER BY rowid LIMIT 1"
        with _sqlite_errors(self._path):
            try:
                found = self._database.execute(query, (basename,)).fetchone()
            except UnicodeEncodeError:  # a name that is not UTF-8, with the surrogates that stand for its bytes
                return None
        return dict(zip(_CELLS, json.loads(found[0]), strict=True)) if found else None

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
        database.execute("CREATE TABLE captions (name TEXT, cells TEXT)")
        database.execute("BEGIN")
        for path, name in files:
            database.executemany("INSERT INTO captions VALUES (?, ?)", _named_cells(path, name, columns))
        database.execute("COMMIT")
        database.execute("CREATE INDEX by_name ON captions (name)")
        # Not count(DISTINCT name): that makes a second table of all names, where GROUP BY walks along the index.
        distinct = "SELECT count(*) FROM (SELECT 1 FROM captions WHERE name NOT NULL GROUP BY name)"
        counts = f"SELECT count(*), count(name) - ({distinct}), count(*) - count(name) FROM captions"
        database.execute(f"CREATE TABLE counts AS {counts}")
    finally:
        database.execute("PRAGMA temp_store_directory = ''")


def _named_cells(path: Path, name: str, columns: ColumnSettings) -> Iterator[tuple[str | None, str | None]]:
    """A row's name and its other cells, as JSON: of SQLite's own types a bool is a number and NaN is null."""
    with open_parquet(path, name) as file:
        wanted = column_names(file.schema_arrow.names, columns, name)
        for batch in file.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(wanted.values()))):
            absent = [None] * batch.num_rows
            cells = [cell_values(batch.column(wanted[role])) if role in wanted else absent for role in _CELLS]
            for image, *others in zip(cell_values(batch.column(wanted["image"])), *cells, strict=True):
                basename = image.rpartition("/")[2] if isinstance(image, str) else None
                yield (basename, json.dumps(others, default=_odd)) if basename else (None, None)


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


def read_archive(
    path: Path,
    name: str,
    index: CaptionIndex,
    max_file_bytes: int,
    wanted: Callable[[int], bool] = lambda number: True,
) -> Iterator[RawRow]:
    """A row for each file of the archive ``path``, called ``name``; its row number is the member's number, from 0.

    A member's path may be absolute or hold ``..``: only its last part is used, to look the caption up and as the id
    when the metadata has none, and nothing is written to disk, so no path leads anywhere. A link is refused, since what
    it stands for may lie outside of the archive, and so are a device and a file of more than ``max_file_bytes``, whose
    content is passed over and never held. Folders have a number, but are no rows. Where the archive cannot be read any
    further there is one last row that says so; of a corrupt ``.tar.zst``, up to 1 MB before that place is lost as well.

    Members whose number is not ``wanted`` are passed over. That goes for the last row too, whose number is that of the
    first member of which nothing could be told.
    """
    number = 0
    with os_errors(path), _open(path, name) as stream:
        tape = _Tape(stream, path.stat().st_size if name.endswith(".tar") else None)
        try:
            for member in _members(tape):
                if wanted(number) and not (member.isdir() or member.name.endswith("/")):
                    yield _row(name, number, member, tape, index, max_file_bytes)
                number += 1
        except _BrokenError as error:
            if wanted(number):
                detail = f"the archive cannot be read from member {number} on: {error}"
                yield _refused(name, number, Reason.UNREADABLE_ROWS, detail)


def _row(
    name: str, number: int, member: tarfile.TarInfo, tape: _Tape, index: CaptionIndex, max_file_bytes: int
) -> RawRow:
    shown = f"{member.name!r:.120}"
    if kind := _BODILESS.get(member.type):
        return _refused(name, number, Reason.UNSAFE_PATH, f"{shown} is {kind}, not a file")
    if member.issparse():
        detail = f"{shown} is stored without its holes; make the archive without tar's --sparse"
        return _refused(name, number, Reason.UNREADABLE_ROWS, detail)
    if member.size > max_file_bytes:
        detail = f"{shown} has {member.size} bytes, more than {max_file_bytes}"
        return _refused(name, number, Reason.OVERSIZED_FILE, detail)
    basename = member.name.rpartition("/")[2]
    cells = index.find(basename)
    if cells is None:
        return _refused(name, number, Reason.UNMATCHED_IMAGE, f"no row of the captions has the name of {shown}")
    if cells["id"] in (None, ""):
        cells = {**cells, "id": basename}
    return RawRow(name, number, image=tape.exactly(member.size), **cells)


def _refused(name: str, number: int, reason: Reason, detail: str) -> RawRow:
    return RawRow(name, number, None, None, None, problem=Refusal(reason, detail))


class _BrokenError(Exception):
    """The archive is cut off, corrupt, or no archive."""


class _Tape:
    """The bytes of an archive, from front to back. Whatever can be wrong with them is a `_BrokenError`."""

    def __init__(self, stream: Any, size: int | None) -> None:
        """``size`` of the stream, or ``None`` for a compressed one, in which nothing can be jumped over."""
        self._stream = stream
        self._size = size
        self.position = 0

    def read(self, size: int) -> bytes:
        """``size`` bytes, or as many as are left."""
        try:
            data: bytes = self._stream.read(size)
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the file
            raise _BrokenError(str(error)) from error
        self.position += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) < size:
            raise _BrokenError(f"it ends at byte {self.position}, inside of a member")
        return data

    def go_to(self, position: int) -> None:
        """Pass over what lies before ``position``, without holding it. The position is a stranger's word."""
        if self._size is not None:
            if position > self._size:
                raise _BrokenError(f"it ends at byte {self._size}, inside of a member")
            self._stream.seek(position)
            self.position = position
        while self.position < position:
            self.exactly(min(_CHUNK_BYTES, position - self.position))


def _members(tape: _Tape) -> Iterator[tarfile.TarInfo]:
    """The members, each with the tape at its content; what is left of that is passed over afterwards.

    Of ``tarfile`` this takes the header alone. Its own reader of streams ends in silence at a corrupt header and at a
    cut between two members, holds names and maps of holes of any length, and passes over 2^63 bytes in steps of 512
    even where the stream has ended. The end marker is passed over as by ``tar --ignore-zeros``: of archives that were
    joined with ``cat``, all but the first would be lost in silence.
    """
    records: dict[bytes, bytes] = {}
    ended = False
    while block := tape.read(tarfile.BLOCKSIZE):
        ended = not block.strip(b"\0")
        if ended:
            continue
        member = _header(block)
        if member.type in _ABOUT_NEXT or member.type in _PASSED_OVER:
            end = tape.position + _padded(member.size)
            if member.type in _ABOUT_NEXT:
                records |= _records(member, tape)
        else:
            _complete(member, block, records, tape)
            end = tape.position + _padded(member.size)
            yield member
            records = {}
        tape.go_to(end)
    if not ended:
        raise _BrokenError("it stops without tar's end marker, perhaps half-way in a download")


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _BrokenError(f"there is no tar header: {error}") from error
    if member.size < 0:
        raise _BrokenError(f"it has {member.size} bytes")
    return member


def _records(header: tarfile.TarInfo, tape: _Tape) -> dict[bytes, bytes]:
    """What a long name or a pax header says of the next member: ``path``, ``size`` and more.

    Pax records are lines like ``19 path=dir/a.png``: their own length, a key and a value.
    """
    if header.size > _MAX_HEADER_BYTES:
        raise _BrokenError(f"its name or attributes have {header.size} bytes, more than {_MAX_HEADER_BYTES}")
    content = tape.exactly(header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {b"path": content}
    records, start = {}, 0
    while start < len(content):
        length = content[start : start + 10].partition(b" ")[0]
        record = content[start : start + int(length)] if length.isdigit() else b""
        key, equals, value = record[len(length) + 1 :].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise _BrokenError("its attributes are malformed")
        records[key] = value[:-1]
        start += len(record)
    return records


def _complete(member: tarfile.TarInfo, block: bytes, records: Mapping[bytes, bytes], tape: _Tape) -> None:
    """Correct what its header ``block`` says of a member by the ``records`` before it."""
    if b"path" in records:
        member.name = records[b"path"].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if b"size" in records:
        if not re.fullmatch(rb"\d{1,20}", records[b"size"]):
            raise _BrokenError(f"it has {records[b'size']!r:.40} bytes")
        member.size = int(records[b"size"])
    if member.type in _BODILESS:
        member.size = 0
    if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse.") for key in records):
        member.sparse = b""
    goes_on = member.type == tarfile.GNUTYPE_SPARSE and block[482]
    while goes_on:  # the map of its holes, before its content and not a part of its size
        goes_on = tape.exactly(tarfile.BLOCKSIZE)[504]


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _open(path: Path, name: str) -> Any:
    if name.endswith(".tar"):
        return path.open("rb")
    if name.endswith(".zst"):
        # No buffer_size: of a stream that breaks, all that is in that buffer would be lost.
        return pa.input_stream(str(path), compression="zstd")
    if name.endswith("gz"):
        # Not by pyarrow: it refuses padding after the end, and of a broken stream it loses the last megabyte.
        return gzip.open(path)
    remedy = f"take it out of prep.archives, or pack it as one of {', '.join(_SUFFIXES)}"
    raise DataError("not an archive of a kind that can be read", where=name, remedy=remedy)
