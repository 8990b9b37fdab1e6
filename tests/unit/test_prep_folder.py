"""Images that lie beside the rows: which paths are followed, and what becomes of each kind of cell."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from prep_data import png

from medvl_jobs.errors import AccessDeniedError, TryAgainError
from medvl_jobs.prep.folder import ImageFolder, resolve
from medvl_jobs.prep.judge import encoded_image
from medvl_jobs.prep.rows import Reason, Refusal
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage


@pytest.fixture
def folder(storage: Storage) -> ImageFolder:
    storage.write_bytes("a/1.png", b"one")
    return ImageFolder(storage)


@pytest.fixture
def local(tmp_path: Path) -> ImageFolder:
    (tmp_path / "secret").write_bytes(b"not yours")
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"one")
    return ImageFolder(LocalStorage(tmp_path / "images"))


def refusal(value: object) -> Refusal:
    assert isinstance(value, Refusal)
    return value


def test_a_file_is_read_and_a_missing_one_is_told(folder: ImageFolder) -> None:
    assert folder.read("a/1.png") == b"one"
    assert folder.read("./a//1.png") == b"one"
    for path in ("a/2.png", "a", "a/1.png/2.png"):
        missing = refusal(folder.read(path))
        assert missing.reason == Reason.MISSING_IMAGE
        assert f"'{path}'" in missing.detail


@pytest.mark.parametrize(
    "path",
    [
        "",
        "  ",
        ".",
        "/etc/passwd",
        "../secret",
        "a/../../secret",
        "a/..",
        "..",
        "a\\..\\secret",
        "C:/secret",
        "~/secret",
        "file:///etc/passwd",
        "s3://bucket/key",
        "a\x00.png",
        "a\n.png",
        "\ud800.png",
        ".medvl-tmp-1",
        "a" * 256,
        "a/" * 600 + "1.png",
    ],
)
def test_a_path_that_could_lead_elsewhere(local: ImageFolder, path: str) -> None:
    unsafe = refusal(local.read(path))
    assert unsafe.reason == Reason.UNSAFE_PATH
    assert len(unsafe.detail) < 300
    assert unsafe.detail.isprintable()


@pytest.mark.parametrize("error", [AccessDeniedError, TryAgainError])
def test_trouble_with_the_store_is_not_the_rows(local: ImageFolder, error: type[Exception]) -> None:
    with patch.object(LocalStorage, "read_bytes", side_effect=error("no")), pytest.raises(error):
        local.read("a/1.png")


@pytest.mark.parametrize(
    "cell",
    ["a/1.png", {"path": "a/1.png"}, {"bytes": None, "path": "a/1.png"}, ["a/1.png"], [{"path": "a/1.png"}]],
    ids=str,
)
def test_a_path_becomes_the_files_bytes(local: ImageFolder, cell: object) -> None:
    assert resolve(cell, local) == b"one"
    missing = refusal(resolve(cell, None))
    assert missing.reason == Reason.MISSING_IMAGE
    assert missing.detail == "only the path 'a/1.png' is given; set prep.image_folder to the folder it is in"


@pytest.mark.parametrize("with_folder", [True, False])
def test_bytes_stay(local: ImageFolder, with_folder: bool) -> None:
    data = png()
    for cell in (data, {"bytes": data, "path": "a/1.png"}, {"bytes": data, "path": None}, [data], [{"bytes": data}]):
        image = resolve(cell, local if with_folder else None)
        assert encoded_image(image) == data


@pytest.mark.parametrize("cell", [[], ["a/1.png", "a/1.png"], [["a/1.png"]]], ids=str)
def test_a_row_has_one_image(local: ImageFolder, cell: object) -> None:
    assert refusal(resolve(cell, local)).reason == Reason.BAD_TYPE


@pytest.mark.parametrize("cell", [None, b"", 7, {}, {"bytes": None, "path": None}, [None]], ids=str)
def test_what_is_no_image_is_left_to_the_judge(local: ImageFolder, cell: object) -> None:
    assert resolve(cell, local) == (cell[0] if isinstance(cell, list) else cell)
