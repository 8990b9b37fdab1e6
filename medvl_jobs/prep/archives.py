"""Images in tar archives, and their captions in parquet files: the layout of MedTrinity-25M's full release.

An archive is read from front to back and never unpacked to disk; the caption is found by the image's name.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvl_jobs.errors import DataError
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.parquet import not_the_file
from medvl_jobs.prep.rows import RawRow, Reason, Refusal
from medvl_jobs.storage.files import os_errors

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_CHUNK_BYTES = 1 << 18
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


def read_archive(
    path: Path,
    name: str,
    index: CaptionIndex,
    max_file_bytes: int,
    wanted: Callable[[int], bool] = lambda number: True,
) -> Iterator[RawRow]:
    """A row for each file of the archive ``path``, called ``name``; numbered from 0; folders do not count.

    A member's path may be absolute or hold ``..``: it is used to look the caption up, and its last part as the id when
    the metadata has none, and nothing is written to disk, so no path leads anywhere. A link is refused, since what
    it stands for may lie outside of the archive, and so are a device and a file of more than ``max_file_bytes``, whose
    content is passed over and never held. Where the archive cannot be read any
    further there is one last row that says so; of a corrupt ``.tar.zst``, up to 1 MB before that place is lost as well.

    Members whose number is not ``wanted`` are passed over. That goes for the last row too, whose number is that of the
    first member of which nothing could be told.
    """
    number = 0
    with os_errors(path), _open(path, name) as stream:
        tape = _Tape(stream, path.stat().st_size if name.endswith(".tar") else None)
        try:
            for member in _members(tape):
                if member.isdir() or member.name.endswith("/"):
                    continue
                if wanted(number):
                    yield _row(name, number, member, tape, index, max_file_bytes)
                number += 1
        except _BrokenError as error:
            if wanted(number):
                detail = f"the archive cannot be read from file {number} on: {error}"
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
    cells = index.find(member.name)
    if isinstance(cells, Refusal):
        return RawRow(name, number, None, None, None, problem=cells)
    if cells is None:
        return _refused(name, number, Reason.UNMATCHED_IMAGE, f"no row of the captions has the name of {shown}")
    if cells["id"] in (None, ""):
        cells = {**cells, "id": member.name.rpartition("/")[2]}
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
            if not_the_file(error):
                raise
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
        if not equals or not value.endswith(b"\n") or len(record) != int(length):
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
        return pa.input_stream(str(path), compression="zstd")
    if name.endswith("gz"):
        # Not by pyarrow: it takes zeros after the end, which some tools pad with, for a fault.
        return gzip.open(path)
    remedy = f"take it out of prep.archives, or pack it as one of {', '.join(_SUFFIXES)}"
    raise DataError("not an archive of a kind that can be read", where=name, remedy=remedy)
