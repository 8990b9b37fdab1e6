"""The files of a source, whatever their kind, cut into pieces for workers, and read part by part.

A part is up to ``prep.rows_per_part`` consecutive rows of one file, so which rows form a part depends on the source
alone. A piece is what one worker reads in one go: one part of a parquet or JSONL file, into which a reader can jump, or
all parts of an archive, which can only be read from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from medvl_jobs.prep.archives import is_archive, read_archive
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.folder import MAX_FILE_BYTES, ImageFolder, resolve
from medvl_jobs.prep.jsonl import check_columns, line_offsets, read_jsonl
from medvl_jobs.prep.parquet import RowRange, read_parquet, row_ranges
from medvl_jobs.prep.rows import RawRow, Refusal
from medvl_jobs.prep.source import open_folder
from medvl_jobs.settings.prep import PrepSettings
from medvl_jobs.settings.storage import StorageSettings

_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class LineRange:
    """Lines of a JSONL file."""

    offset: int
    """Where the first begins, in bytes."""
    first_row: int


@dataclass(frozen=True)
class Piece:
    """What one worker reads. Plain values, for it travels to another process."""

    shard: int
    """Which file of the source, from 0."""
    name: str
    """The file's name, relative to its folder."""
    path: Path
    first_part: int
    where: RowRange | LineRange | None
    """None: all of an archive, from ``first_part`` on."""
    ends_shard: bool
    """Whether no part follows in this file."""


def is_streamed(name: str) -> bool:
    """Whether the file can only be read from its beginning, so that its parts cannot be shared out."""
    return is_archive(name)


def cut(path: Path, name: str, shard: int, prep: PrepSettings) -> list[Piece]:
    """The pieces of one file; an empty file is one empty piece. Raises `DataError` for a file that cannot be cut."""
    if is_archive(name):
        return [Piece(shard, name, path, 0, None, ends_shard=True)]
    places: list[RowRange | LineRange]
    if name.lower().endswith(_JSON_LINES):
        check_columns(path, name, prep.columns)
        offsets = line_offsets(path, prep.rows_per_part) or [0]
        places = [LineRange(offset, part * prep.rows_per_part) for part, offset in enumerate(offsets)]
    else:
        places = [*row_ranges(path, name, prep.columns, prep.rows_per_part)]
    last = len(places) - 1
    return [Piece(shard, name, path, part, place, ends_shard=part == last) for part, place in enumerate(places)]


def read_parts(
    piece: Piece, captions: Path | None, prep: PrepSettings, storage: StorageSettings
) -> Iterator[tuple[int, Iterator[RawRow]]]:
    """The number and the rows of each part of the piece, at least one. A part's rows must be taken before the next."""
    folder = None
    if prep.image_folder:
        folder = ImageFolder(open_folder(prep.image_folder, "prep.image_folder", storage))
    match piece.where:
        case RowRange():
            rows = read_parquet(piece.path, piece.name, prep.columns, piece.where)
            yield piece.first_part, _with_images(rows, folder)
        case LineRange(offset, first_row):
            rows = read_jsonl(piece.path, piece.name, offset, first_row, prep.rows_per_part, prep.columns)
            yield piece.first_part, _with_images(rows, folder)
        case None:
            yield from _archive_parts(piece, captions, prep)


def _archive_parts(piece: Piece, captions: Path | None, prep: PrepSettings) -> Iterator[tuple[int, Iterator[RawRow]]]:
    assert captions is not None
    first_row = piece.first_part * prep.rows_per_part
    with CaptionIndex.open(captions) as index:
        rows = read_archive(piece.path, piece.name, index, MAX_FILE_BYTES, wanted=lambda row: row >= first_row)
        part = None
        for part, members in groupby(rows, key=lambda row: row.row // prep.rows_per_part):
            yield part, members
        if part is None:
            yield piece.first_part, iter(())


def _with_images(rows: Iterator[RawRow], folder: ImageFolder | None) -> Iterator[RawRow]:
    """Rows whose image cell is what `judge.encoded_image` takes: paths are replaced by the files' bytes."""
    for row in rows:
        image = resolve(row.image, folder)
        if image is row.image or row.problem:
            yield row
        elif isinstance(image, Refusal):
            yield replace(row, problem=image)
        else:
            yield replace(row, image=image)
