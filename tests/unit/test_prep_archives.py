"""Images in archives of every kind, whole, hostile and broken."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from prep_data import NAMES, caption_index

from medvl_jobs.errors import DataError, MissingInputError, TryAgainError
from medvl_jobs.prep import archives
from medvl_jobs.prep.archives import is_archive, read_archive
from medvl_jobs.prep.caption_index import CaptionIndex
from medvl_jobs.prep.rows import RawRow, Reason

MIB = 1 << 20
GB = 10**9
SUFFIXES = (".tar", ".tar.gz", ".tar.zst")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaptionIndex]:
    ids = [None, "", *(f"id {n}" for n in range(2, 20))]
    facts = [{"modality": "CT"}, *[None] * 19]
    captions = [f"of {name}" for name in NAMES]
    folder = tmp_path_factory.mktemp("index")
    with caption_index(folder, image=NAMES, id=ids, caption=captions, group=["p"] * 20, facts=facts) as whole:
        yield whole


def member(name: str, data: bytes = b"image", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """The bytes of an archive, with each size as its header says and each content as it is."""
    blocks = []
    for info, data in members:
        blocks += [info.tobuf(format, "utf-8", "surrogateescape"), data, bytes(-len(data) % 512)]
    return b"".join([*blocks, bytes(1024)])


def raw(type_: bytes, size: int, name: str = "header") -> bytes:
    """One block, the size in whatever way fits."""
    return member(name, type=type_, size=size)[0].tobuf(tarfile.GNU_FORMAT)


def pax(*records: bytes, type_: bytes = tarfile.XHDTYPE) -> bytes:
    content = b"".join(records)
    return raw(type_, len(content)) + content + bytes(-len(content) % 512)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = next(length for length in range(len(rest), len(rest) + 9) if len(f"{length}") + len(rest) == length)
    return f"{length}".encode() + rest


def write(path: Path, data: bytes) -> Path:
    if path.suffix in (".gz", ".tgz"):
        data = gzip.compress(data, 1)
    elif path.suffix == ".zst":
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path.write_bytes(data)
    return path


def rows_of(path: Path, index: CaptionIndex, max_file_bytes: int = MIB, **options: object) -> list[RawRow]:
    return list(read_archive(path, path.name, index, max_file_bytes, **options))


def reasons(rows: list[RawRow]) -> list[tuple[int, str | None]]:
    return [(row.row, row.problem and row.problem.reason) for row in rows]


def test_which_files_are_archives() -> None:
    assert all(map(is_archive, ("a.tar", "a.tar.gz", "a/b.tgz", "x.1.tar.zst")))
    assert not any(map(is_archive, ("a.parquet", "a.zst", "a.gz", "tar", "a.tar.bz2", "a.zip", "a.tar.zst.part")))


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".tgz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_get_the_cells_of_their_row(tmp_path: Path, index: CaptionIndex, suffix: str, format: int) -> None:
    long = "a long folder, " * 5 + "/" + "and another, " * 7
    images = [os.urandom(size) for size in (1, 511, 512, 513, 70_000)]
    members = [member(f"{long}/{n}.png", image) for n, image in enumerate(images)]
    path = write(tmp_path / f"a{suffix}", tar(member("x/", b"", type=tarfile.DIRTYPE), *members, format=format))
    assert rows_of(path, index) == [
        RawRow(path.name, 0, images[0], "0.png", "of 0.png", "p", {"modality": "CT"}),
        RawRow(path.name, 1, images[1], "1.png", "of 1.png", "p"),
        *(RawRow(path.name, n, images[n], f"id {n}", f"of {n}.png", "p") for n in range(2, 5)),
    ]


def test_an_empty_archive_has_no_rows(tmp_path: Path, index: CaptionIndex) -> None:
    for suffix in SUFFIXES:
        assert rows_of(write(tmp_path / f"a{suffix}", tar()), index) == []


def test_only_the_last_part_of_a_path_counts(tmp_path: Path, index: CaptionIndex) -> None:
    paths = ["/etc/1.png", "../../2.png", "a/../3.png", "./4.png", "C:/5.png", "1.png", "x/1.png", "..\\6.png", ".."]
    rows = rows_of(write(tmp_path / "a.tar", tar(*map(member, paths))), index)
    assert [row.id for row in rows] == ["1.png", "id 2", "id 3", "id 4", "id 5", "1.png", "1.png", None, None]
    assert reasons(rows[7:]) == [(7, Reason.UNMATCHED_IMAGE), (8, Reason.UNMATCHED_IMAGE)]
    assert os.listdir(tmp_path) == ["a.tar"]


def test_files_without_a_caption_are_told_and_cost_nothing_else(tmp_path: Path, index: CaptionIndex) -> None:
    odd = ["._1.png", ".DS_Store", "1.txt", "21.png", "\udcff.png", "עברית😀.png", "a\nb" * 100, "0.png/0"]
    names = [name for pair in zip(odd, NAMES, strict=False) for name in pair]
    rows = rows_of(write(tmp_path / "a.tar.gz", tar(*map(member, names), format=tarfile.GNU_FORMAT)), index)
    assert reasons(rows) == [(n, None if n % 2 else Reason.UNMATCHED_IMAGE) for n in range(16)]
    for row in rows[::2]:
        assert row.problem
        assert row.problem.detail.isprintable()
        assert len(row.problem.detail.encode()) < 300


def test_what_is_no_file_is_refused_and_folders_are_no_rows(tmp_path: Path, index: CaptionIndex) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
    members = [member(f"{n}.png", b"", type=kind, linkname="/etc/passwd") for n, kind in enumerate(kinds)]
    members += [member("1.png", b"", type=tarfile.DIRTYPE, size=999), member("2.png/", b""), member("3.png")]
    rows = rows_of(write(tmp_path / "a.tar", tar(*members)), index)
    assert reasons(rows) == [*((n, Reason.UNSAFE_PATH) for n in range(5)), (5, None)]
    assert rows[0].problem
    assert rows[0].problem.detail == "'0.png' is a symbolic link, not a file"


def test_members_that_are_not_wanted_are_passed_over(tmp_path: Path, index: CaptionIndex) -> None:
    members = [member(name, os.urandom(5000)) for name in NAMES[:9]]
    for suffix in SUFFIXES:
        path = write(tmp_path / f"a{suffix}", tar(*members))
        rows = rows_of(path, index)
        assert rows_of(path, index, wanted=lambda number: number in (3, 8)) == [rows[3], rows[8]]
        path = write(tmp_path / f"a{suffix}", tar(*members)[:-2000])
        assert reasons(rows_of(path, index, wanted=lambda number: number > 7)) == [(8, Reason.UNREADABLE_ROWS)]
        assert reasons(rows_of(path, index, wanted=lambda number: number < 1)) == [(0, None)]


def test_archives_that_were_joined_are_read_to_the_end(tmp_path: Path, index: CaptionIndex) -> None:
    for suffix in SUFFIXES:
        parts = [write(tmp_path / f"a{suffix}", tar(member(name)) + bytes(8192)).read_bytes() for name in NAMES[1:4]]
        (tmp_path / f"a{suffix}").write_bytes(b"".join(parts))
        assert [row.id for row in rows_of(tmp_path / f"a{suffix}", index)] == ["1.png", "id 2", "id 3"]


HUGE = {
    "base 256": raw(tarfile.REGTYPE, 50 * GB, "1.png"),
    "octal": raw(tarfile.REGTYPE, 8**11 - 1, "1.png"),
    "the largest number": raw(tarfile.REGTYPE, 256**11 - 1, "1.png"),
    "pax record": pax(record("size", str(50 * GB))) + raw(tarfile.REGTYPE, 0, "1.png"),
    "unknown type": raw(b"Z", 50 * GB, "1.png"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("huge", HUGE.values(), ids=HUGE)
def test_a_member_that_claims_to_be_huge_is_refused_and_not_held(
    tmp_path: Path, index: CaptionIndex, suffix: str, huge: bytes
) -> None:
    path = write(tmp_path / f"a{suffix}", tar(member("0.png"))[:-1024] + huge + bytes(5 * MIB))
    rows, peak = traced(lambda: rows_of(path, index, MIB))
    assert reasons(rows) == [(0, None), (1, Reason.OVERSIZED_FILE), (2, Reason.UNREADABLE_ROWS)]
    assert peak < 3 * MIB
    rows, peak = traced(lambda: rows_of(path, index, MIB, wanted=lambda number: number != 1))
    assert reasons(rows) == [(0, None), (2, Reason.UNREADABLE_ROWS)]
    assert peak < 3 * MIB


def traced(call: Callable[[], list[RawRow]]) -> tuple[list[RawRow], int]:
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_image_at_a_time_is_in_memory(tmp_path: Path, index: CaptionIndex, suffix: str) -> None:
    large = [member(f"{n}.png", bytes(size)) for n, size in enumerate([4 * MIB, 4 * MIB, 60 * MIB, 4 * MIB])]
    path = write(tmp_path / f"a{suffix}", tar(*large, *(member("x.png", b"") for _ in range(1000))))
    seen: list[tuple[int, str | None]] = []

    def read() -> list[RawRow]:
        for row in read_archive(path, path.name, index, 4 * MIB):
            seen.extend(reasons([row]))
            assert row.problem or row.image == bytes(4 * MIB)
            del row
        return []

    peak = traced(read)[1]
    assert seen[:5] == [(0, None), (1, None), (2, Reason.OVERSIZED_FILE), (3, None), (4, Reason.UNMATCHED_IMAGE)]
    assert len(seen) == 1004
    assert peak < 10 * MIB  # the image, and the one that it is compared with


LONG = {
    "long name": raw(tarfile.GNUTYPE_LONGNAME, 50 * GB),
    "pax": raw(tarfile.XHDTYPE, 50 * GB),
    "a little too long": raw(tarfile.XHDTYPE, MIB + 1),
    "negative": raw(tarfile.XHDTYPE, -512),
    "global pax": raw(tarfile.XGLTYPE, 50 * GB),
    "long link": raw(tarfile.GNUTYPE_LONGLINK, 50 * GB),
    "negative size": raw(tarfile.REGTYPE, -5 * 512),
    "chain": pax(record("path", "x")) * 2000,
}


@pytest.mark.parametrize("suffix", [".tar", ".tar.zst"])
@pytest.mark.parametrize("block", LONG.values(), ids=LONG)
def test_headers_of_absurd_length_are_not_read(tmp_path: Path, index: CaptionIndex, suffix: str, block: bytes) -> None:
    data = tar(member("0.png"))[:-1024] + block + b"1" * 3 * MIB
    rows, peak = traced(lambda: rows_of(write(tmp_path / f"a{suffix}", data), index))
    assert reasons(rows) == [(0, None), (1, Reason.UNREADABLE_ROWS)]
    assert peak < len(data) + 3 * MIB  # `write` takes one copy


@pytest.mark.parametrize(
    ("records", "detail"),
    [
        (record("size", "-1"), "it has b'-1' bytes"),
        (record("size", "1e3"), "it has b'1e3' bytes"),
        (record("size", "9" * 3000), "bytes"),
        (b"99 path=a\n", "malformed"),
        (b"0 path=a\n", "malformed"),
        (b"path=a\n", "malformed"),
        (b"10 path=ab", "malformed"),
        (b"8 path=\xff" + record("size", "5"), "malformed"),
        (b"1" * 100_000, "malformed"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_attributes_end_an_archive(tmp_path: Path, index: CaptionIndex, records: bytes, detail: str) -> None:
    data = tar(member("0.png"))[:-1024] + pax(records) + tar(member("1.png"))
    rows = rows_of(write(tmp_path / "a.tar", data), index)
    assert reasons(rows) == [(0, None), (1, Reason.UNREADABLE_ROWS)]
    assert rows[1].problem
    assert detail in rows[1].problem.detail


def test_attributes_hold_for_one_member(tmp_path: Path, index: CaptionIndex) -> None:
    one = pax(record("path", "x/1.png"), record("size", "5"), record("a", "b=c")) + raw(b"0", 0, "2.png")
    everywhere = pax(record("path", "3.png"), type_=tarfile.XGLTYPE)
    data = one + b"image" + bytes(507) + everywhere + tar(member("2.png"))
    rows = rows_of(write(tmp_path / "a.tar", data), index)
    assert [(row.id, row.image) for row in rows] == [("1.png", b"image"), ("id 2", b"image")]


def sparse(name: str, more_maps: int) -> bytes:
    """An old GNU header with ``more_maps`` blocks of map behind it and 5 bytes of content."""
    block = bytearray(raw(tarfile.GNUTYPE_SPARSE, 5, name))
    block[482] = more_maps > 0
    block[483:495] = b"%011o\0" % (50 * GB // 10)
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    maps = [bytes(504) + bytes([number + 1 < more_maps]) + bytes(7) for number in range(more_maps)]
    return b"".join([bytes(block), *maps, b"image", bytes(507)])


def test_sparse_members_are_refused_and_passed_over(tmp_path: Path, index: CaptionIndex) -> None:
    new = pax(record("GNU.sparse.major", "1"), record("GNU.sparse.realsize", str(GB))) + raw(b"0", 5, "2.png")
    data = sparse("0.png", 0) + sparse("1.png", 9) + new + b"image" + bytes(507) + tar(member("3.png"))
    rows = rows_of(write(tmp_path / "a.tar", data), index)
    assert reasons(rows) == [*((n, Reason.UNREADABLE_ROWS) for n in range(3)), (3, None)]
    endless = sparse("0.png", 9)[: 512 * 9]
    assert reasons(rows_of(write(tmp_path / "a.tar", endless), index)) == [(0, Reason.UNREADABLE_ROWS)]


SOME = [member(f"{'long, ' * 30 * (n % 2)}/{n}.png", random.Random(n).randbytes(n * 100)) for n in range(9)]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_of_an_archive_that_is_cut_off_the_rows_before_survive(
    tmp_path: Path, index: CaptionIndex, format: int
) -> None:
    data = tar(*SOME, format=format)
    path = write(tmp_path / "a.tar", data)
    whole = rows_of(path, index)
    with tarfile.open(path) as archive:
        ends = [info.offset_data + info.size for info in archive]
    for cut in range(0, len(data) - 1024 + 1, 61):
        path.write_bytes(data[:cut])
        rows = rows_of(path, index)
        assert rows[:-1] == whole[: sum(end <= cut for end in ends)]
        assert reasons(rows[-1:]) == [(len(rows) - 1, Reason.UNREADABLE_ROWS)]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_of_a_compressed_archive_that_is_cut_off_the_rows_before_survive(
    tmp_path: Path, index: CaptionIndex, suffix: str
) -> None:
    small = write(tmp_path / f"a{suffix}", tar(*SOME)).read_bytes()
    large = write(tmp_path / f"a{suffix}", tar(*(member(name, os.urandom(40_000)) for name in NAMES))).read_bytes()
    path = tmp_path / f"a{suffix}"
    for data, step, late in ((small, 13, 0), (large, 19_997, 12)):
        path.write_bytes(data)
        whole = rows_of(path, index)
        assert {row.problem for row in whole} == {None}
        cuts = [*range(0, len(data), step), *range(len(data) - 12, len(data))]
        for cut in cuts:
            path.write_bytes(data[:cut])
            rows = rows_of(path, index)
            assert rows[:-1] == whole[: len(rows) - 1]
            assert reasons(rows[-1:]) == [(len(rows) - 1, Reason.UNREADABLE_ROWS)]
        assert len(rows) > late


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_corrupt_bytes_never_raise(tmp_path: Path, index: CaptionIndex, suffix: str) -> None:
    rng = random.Random(suffix)
    path = write(tmp_path / f"a{suffix}", tar(*SOME, format=rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
    data = path.read_bytes()
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(rng.choice([1, 1, 5, 50])):
            broken[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(broken)
        numbers = [row.row for row in rows_of(path, index)]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("data", [b"", b"x", b"x" * 5000, b"<html>" * 100, b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
def test_what_is_no_archive_is_one_row(tmp_path: Path, index: CaptionIndex, suffix: str, data: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert reasons(rows_of(path, index)) == [(0, Reason.UNREADABLE_ROWS)]


def test_a_corrupt_header_does_not_end_an_archive_in_silence(tmp_path: Path, index: CaptionIndex) -> None:
    data = bytearray(tar(*map(member, NAMES)))
    data[1024 * 5 + 3] ^= 1
    rows = rows_of(write(tmp_path / "a.tar", bytes(data)), index)
    assert reasons(rows) == [*((n, None) for n in range(5)), (5, Reason.UNREADABLE_ROWS)]
    assert rows[5].problem
    assert rows[5].problem.detail == ("the archive cannot be read from file 5 on: there is no tar header: bad checksum")


class BadDisk(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_trouble_with_the_disk_is_not_the_archives_fault(tmp_path: Path, index: CaptionIndex) -> None:
    with pytest.raises(MissingInputError):
        rows_of(tmp_path / "a.tar.zst", index)
    path = write(tmp_path / "a.tar", tar(member("0.png")))
    with (
        patch.object(archives, "_open", lambda *_: BadDisk()),
        pytest.raises(TryAgainError, match="Input/output error"),
    ):
        rows_of(path, index)
    closed = CaptionIndex.open(Path(index._path))
    closed.close()
    with pytest.raises(TryAgainError):  # trouble with the index is not the archive's fault either
        rows_of(path, closed)


def test_padding_behind_gzip_is_no_fault(tmp_path: Path, index: CaptionIndex) -> None:
    path = write(tmp_path / "a.tar.gz", tar(member("1.png")))
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert reasons(rows_of(path, index)) == [(0, None)]
    path.write_bytes(path.read_bytes() + b"something else")
    assert reasons(rows_of(path, index)) == [(0, None), (1, Reason.UNREADABLE_ROWS)]


def test_another_kind_of_archive(tmp_path: Path, index: CaptionIndex) -> None:
    with pytest.raises(DataError, match="not an archive of a kind"):
        rows_of(write(tmp_path / "a.zip", b"PK"), index)
