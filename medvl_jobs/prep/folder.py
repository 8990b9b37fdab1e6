"""Images that lie beside the rows: a row gives a path, and a folder has the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from medvl_jobs.errors import DataError, MissingInputError, SettingsError
from medvl_jobs.prep.rows import Reason, Refusal
from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.keys import checked_key

MAX_FILE_BYTES = 500 << 20
"""Of one image as a file: none that is let in by its pixels is larger."""
_MAX_NAME_BYTES = 255
"""Of one part of a path: what file systems take."""
_MAX_PATH_BYTES = 1024
"""Of a whole path: what S3 takes."""
_SHOWN_CHARS = 120


@dataclass(frozen=True)
class ImageFolder:
    """The folder ``prep.image_folder``: a local directory or an S3 prefix. No path in a row leads out of it."""

    storage: Storage

    def read(self, path_text: str) -> bytes | Refusal:
        """The file's bytes, or why there are none. Trouble with the store itself passes through as a `MedvlError`."""
        if problem := _path_problem(path_text):
            return Refusal(Reason.UNSAFE_PATH, f"the path {_shown(path_text)} {problem}")
        try:
            return self.storage.read_bytes(_key(path_text), limit=MAX_FILE_BYTES)
        except DataError as error:
            return Refusal(Reason.OVERSIZED_FILE, f"the file {_shown(path_text)}: {error.what}")
        except MissingInputError:
            return Refusal(Reason.MISSING_IMAGE, f"there is no file {_shown(path_text)} in {self.storage.uri}")


def resolve(cell: object, folder: ImageFolder | None) -> object | Refusal:
    """The image cell of any source as what `judge.encoded_image` takes; a path is replaced by the file's bytes.

    Other types stay as they are: `judge.encoded_image` refuses them.
    """
    if isinstance(cell, list):  # Hugging Face's Sequence(Image()), and "images": […] of chat data
        if len(cell) != 1 or isinstance(cell[0], list):
            return Refusal(Reason.BAD_TYPE, f"the image is a list of {len(cell)}; a row has exactly one image")
        cell = cell[0]
    path = cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else cell
    if not isinstance(path, str):
        return cell
    if folder is None:
        detail = f"only the path {_shown(path)} is given; set prep.image_folder to the folder it is in"
        return Refusal(Reason.MISSING_IMAGE, detail)
    return folder.read(path)


def _path_problem(text: str) -> str | None:
    """Why ``text`` is no path inside a folder. Rows come from strangers, so a bad path is theirs, not the user's."""
    problem = None
    if not text.strip():
        problem = "is empty"
    elif text.startswith(("/", "~")) or re.match(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://", text):
        problem = "is absolute; it must be relative to the folder"
    elif "\\" in text:
        problem = "holds a backslash; parts are separated by '/'"
    elif ".." in text.split("/"):
        problem = "leads out of its folder with '..'"
    elif not _fits(text):
        problem = "is longer than a file system takes, or is not Unicode"
    else:
        try:
            checked_key(_key(text))
        except SettingsError as error:
            problem = f"cannot be a key: {error.what.rpartition(': ')[2]}"
    return problem


def _fits(text: str) -> bool:
    try:
        sizes = [len(part.encode()) for part in text.split("/")]
    except UnicodeEncodeError:  # half a surrogate pair, which JSON lets through
        return False
    return max(sizes) <= _MAX_NAME_BYTES and sum(sizes) + len(sizes) - 1 <= _MAX_PATH_BYTES


def _key(path_text: str) -> str:
    """``./a//b.png`` -> ``a/b.png``: the same file, and a key."""
    return PurePosixPath(path_text).as_posix()


def _shown(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"
