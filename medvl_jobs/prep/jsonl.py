"""JSONL: one JSON object a line, read from any line on, so that several processes can share a file.

At no time is more than a line in memory. What a bad line costs is that line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

from medvl_jobs.errors import DataError
from medvl_jobs.prep.rows import RawRow, Reason, Refusal
from medvl_jobs.settings.prep import ColumnSettings
from medvl_jobs.storage.files import os_errors

MAX_LINE_BYTES = 100 << 20
"""A longer line is refused and never held: 100 MB are an image in base64 with room to spare."""

_BUFFER_BYTES = 1 << 20
_LOOKED_AT = 1000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def check_columns(path: Path, name: str, columns: ColumnSettings) -> None:
    """Refuse a column that was named by hand and that none of the first lines has. Raises `DataError`.

    With a slip in `prep.columns.group`, slices of one patient would silently land on both sides of the split.
    """
    with os_errors(path), path.open("rb", buffering=_BUFFER_BYTES) as stream:
        records = [_record(line.text) for line in islice(_lines(stream), _LOOKED_AT)]
    seen = {column for record in records if isinstance(record, dict) for column in record}
    defaults = ColumnSettings()
    for role, column in columns.model_dump().items():
        if seen and column not in seen and column != getattr(defaults, role):
            what = f"none of the first {_LOOKED_AT} lines has the column '{column}'"
            remedy = f"name the column that holds the {role}: prep.columns.{role}=NAME"
            raise DataError(what, where=name, remedy=remedy)


def line_offsets(path: Path, rows_per_part: int) -> list[int]:
    """Where each part of ``rows_per_part`` lines begins, in bytes. Blank lines do not count; no lines are no parts."""
    with os_errors(path), path.open("rb", buffering=_BUFFER_BYTES) as stream:
        return [line.offset for line in islice(_lines(stream), 0, None, rows_per_part)]


def read_jsonl(
    path: Path, name: str, offset: int, first_row: int, count: int, columns: ColumnSettings
) -> Iterator[RawRow]:
    """``count`` rows, or as many as are left, from the line at byte ``offset`` on, which is the row ``first_row``.

    ``name`` is what the file is called in them. A line that is no JSON object becomes a problem. A column that a line
    does not have is ``None``, and cells stay as they are: an image is the path to it, of an id any type.
    """
    with os_errors(path), path.open("rb", buffering=_BUFFER_BYTES) as stream:
        stream.seek(offset)
        for row, line in enumerate(islice(_lines(stream), count), first_row):
            record = _record(line.text)
            if isinstance(record, Refusal):
                yield RawRow(name, row, None, None, None, problem=record)
            else:
                cells = {role: record.get(column) for role, column in columns.model_dump().items()}
                yield RawRow(name, row, **cells)


@dataclass(frozen=True, slots=True)
class _Line:
    offset: int
    text: bytes | None
    """None when it is too long to be read."""


def _lines(stream: IO[bytes]) -> Iterator[_Line]:
    """All lines from here on but blank ones: the one place that says what a line is."""
    offset = stream.tell()
    while text := stream.readline(MAX_LINE_BYTES + 1):
        start, offset = offset, offset + len(text)
        if len(text) > MAX_LINE_BYTES:
            ended = text.endswith(b"\n")
            del text
            while not ended and (rest := stream.readline(_BUFFER_BYTES)):
                offset += len(rest)
                ended = rest.endswith(b"\n")
            yield _Line(start, None)
            continue
        if start == 0:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if not text.isspace() and text:
            yield _Line(start, text)


def _record(text: bytes | None) -> dict[str, Any] | Refusal:
    if text is None:
        problem = f"has more than {MAX_LINE_BYTES} bytes"
    else:
        try:
            record = _parsed(text)
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 at byte {error.start}"
        except UnicodeEncodeError:
            problem = "holds half a surrogate pair, which is not Unicode"
        except RecursionError:
            problem = "is nested too deeply"
        except ValueError as error:
            problem = f"is not JSON: {error}"
        else:
            if isinstance(record, dict):
                return record
            problem = f"is JSON, but of type {type(record).__name__} and not an object"
    return Refusal(Reason.UNREADABLE_ROWS, f"the line {problem}")


def _parsed(text: bytes) -> object:
    record: object = json.loads(text.decode(), parse_constant=_refuse_constant)
    if _SURROGATE_ESCAPE.search(text):
        json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair cannot be written anywhere later
    return record


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")
