"""JSONL: parts that begin at any line, and lines of every kind."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from unittest.mock import patch

import pytest

from medvl_jobs.errors import MissingInputError
from medvl_jobs.prep import jsonl
from medvl_jobs.prep.jsonl import line_offsets, read_jsonl
from medvl_jobs.prep.rows import RawRow, Reason
from medvl_jobs.settings.prep import ColumnSettings


def rows_of(path: Path, **columns: str) -> list[RawRow]:
    return list(read_jsonl(path, path.name, 0, 0, 1_000_000, ColumnSettings(**columns)))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def line(number: int) -> str:
    return json.dumps({"image": f"{number}.png", "id": number, "caption": f"text {number} é"}, ensure_ascii=False)


def problem_of(path: Path, text: bytes) -> str:
    """The problem of one bad line between two good ones."""
    before, row, after = rows_of(write(path, b"\n".join([line(0).encode(), text, line(2).encode()])))
    assert (before.problem, before.row, before.id) == (None, 0, 0)
    assert (after.problem, after.row, after.id) == (None, 2, 2)
    assert row.problem
    assert row.problem.reason == Reason.UNREADABLE_ROWS
    assert row == RawRow("a.jsonl", 1, None, None, None, problem=row.problem)
    return row.problem.detail


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("rows_per_part", [1, 3, 7, 100])
@pytest.mark.parametrize("begin", ["", "\ufeff", "\n", "\ufeff\r\n"])
def test_the_parts_are_the_file(tmp_path: Path, end: str, rows_per_part: int, begin: str) -> None:
    path = write(tmp_path / "a.jsonl", begin + end.join(map(line, range(7))))
    offsets = line_offsets(path, rows_per_part)
    assert len(offsets) == -(-7 // rows_per_part)
    parts = [
        list(read_jsonl(path, "a.jsonl", offset, part * rows_per_part, rows_per_part, ColumnSettings()))
        for part, offset in enumerate(offsets)
    ]
    rows = [row for part in parts for row in part]
    assert rows == [RawRow("a.jsonl", n, f"{n}.png", n, f"text {n} é") for n in range(7)] == rows_of(path)


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", " \r\n\n"])
def test_no_lines_are_no_parts(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.jsonl", text)
    assert line_offsets(path, 10) == []
    assert rows_of(path) == []


def test_columns_can_have_other_names_and_cells_any_type(tmp_path: Path) -> None:
    records = [{"key": 7, "patient": "p", "facts": {"modality": "CT"}}, {"key": "x", "image": ["a.png"]}, {"key": None}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    assert rows_of(path, id="key", group="patient") == [
        RawRow("a.jsonl", 0, None, 7, None, "p", {"modality": "CT"}),
        RawRow("a.jsonl", 1, ["a.png"], "x", None),
        RawRow("a.jsonl", 2, None, None, None),
    ]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (b"{", "not JSON"),
        (b"id,caption", "not JSON"),
        (b'{"id": 1} {"id": 2}', "not JSON"),
        (b'{"id": NaN}', "NaN is not a number"),
        (b'{"id": -Infinity}', "-Infinity is not a number"),
        (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
        (b'\xef\xbb\xbf{"id": 1}', "not JSON"),
        (rb'{"id": "\ud83d"}', "half a surrogate pair"),
        (rb'{"id": 1, "\uDE00": 2}', "half a surrogate pair"),
        (b'["id"]', "of type list"),
        (b"null", "of type NoneType"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_line_costs_one_row(tmp_path: Path, text: bytes, detail: str) -> None:
    assert detail in problem_of(tmp_path / "a.jsonl", text)


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    assert rows_of(write(tmp_path / "a.jsonl", rb'{"caption": "\ud83d\ude00"}'))[0].caption == "😀"


@pytest.mark.parametrize("length", [200, 201, 5000, 3 << 20])
def test_a_line_that_is_too_long_is_refused_and_never_held(tmp_path: Path, length: int) -> None:
    with patch.object(jsonl, "MAX_LINE_BYTES", 200):
        assert "more than 200 bytes" in problem_of(tmp_path / "a.jsonl", b"x" * length)
        assert len(line_offsets(tmp_path / "a.jsonl", 2)) == 2


def test_a_large_line_takes_a_few_times_its_size(tmp_path: Path) -> None:
    size = 99 << 20
    with (tmp_path / "a.jsonl").open("wb") as stream:
        for _ in range(3):
            stream.write(b'{"id": "')
            stream.writelines([bytes([120]) * (1 << 20)] * 99)
            stream.write(b'"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert line_offsets(tmp_path / "a.jsonl", 1) == [0, size + 11, 2 * (size + 11)]
    for row in read_jsonl(tmp_path / "a.jsonl", "a", 0, 0, 3, ColumnSettings()):
        assert isinstance(row.id, str)
        assert len(row.id) == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < 5 * size


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        line_offsets(tmp_path / "a.jsonl", 1)
    with pytest.raises(MissingInputError):
        rows_of(tmp_path / "a.jsonl")
