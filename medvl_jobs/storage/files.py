"""Local files: written whole or not at all, and the operating system's errors in medvl's words."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medvl_jobs.errors import AccessDeniedError, MedvlError, MissingInputError, SettingsError, TryAgainError
from medvl_jobs.storage.keys import TEMPORARY

_LOCK = ".lock"
NOT_A_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""What the system says where a store says "no such object": a folder is no object, and nothing lies under a file."""


@contextmanager
def atomic_path(target: Path, commit: Callable[[Path, Path], None] = os.replace) -> Iterator[Path]:
    """A temporary path in the folder of ``target``, which the ``with`` block fills; then it becomes ``target``.

    The folder is created. A block that raises leaves nothing behind. ``commit=os.link`` raises ``FileExistsError``
    when ``target`` exists, and of several writers lets exactly one through.

    Trap: the file is made by the block with plain ``open``; ``tempfile`` would make it readable by its owner only,
    and the next stage may run as another user of the same volume.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file lies where the folder should; FileExistsError is for ``commit`` to say
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from error
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        commit(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder for the block. What killed processes have left of the same prefix is removed first.

    Each folder holds a locked file. A lock ends with its process, however that ended, and other than a process number
    it means the same in every container that shares the disk.
    """
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        remedy = "set TMPDIR to a folder with room; in a pod, mount an emptyDir at /tmp"
        raise SettingsError("there is no folder for temporary files that can be written", remedy=remedy) from error
    for left in folder.glob(f"{prefix}*/{_LOCK}"):
        with suppress(OSError), left.open("r+") as lock:  # another user's, or somebody else is removing it right now
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as name, (Path(name) / f"{_LOCK}.new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, Path(name) / _LOCK)  # only now can it be found, and it is locked
        yield Path(name)


def _flush_to_disk(path: Path) -> None:
    """Without this a crash of the machine can leave the new name with no bytes under it."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


_OTHER_PLACE = "or set storage.uri to another directory"
_SHAPE = (SettingsError, "a file lies where a folder is needed, or the reverse", f"move it away, {_OTHER_PLACE}")
_REFUSED_REMEDY = f"let this user read and write there (in a pod: securityContext.fsGroup), {_OTHER_PLACE}"
_FULL_REMEDY = "free some space or raise the quota, then start again: finished stages and parts are kept"

_MEANING: dict[int | None, tuple[type[MedvlError], str, str]] = {
    errno.ENOENT: (MissingInputError, "no such file", "check the path, or run the stage that makes it"),
    errno.EACCES: (AccessDeniedError, "the file system refuses access", _REFUSED_REMEDY),
    errno.EPERM: (AccessDeniedError, "the file system refuses access", _REFUSED_REMEDY),
    errno.EROFS: (AccessDeniedError, "the file system is read-only", f"mount it read-write, {_OTHER_PLACE}"),
    errno.ENOSPC: (TryAgainError, "no space is left on the file system", _FULL_REMEDY),
    errno.EDQUOT: (TryAgainError, "the disk quota is used up", _FULL_REMEDY),
    errno.EISDIR: _SHAPE,
    errno.ENOTDIR: _SHAPE,
    errno.ENAMETOOLONG: (SettingsError, "the name is too long for the file system", "shorten the run name"),
}
_UNKNOWN = (TryAgainError, "the file system failed", "start again; if it stays, check the disk or the network mount")


@contextmanager
def os_errors(where: Path) -> Iterator[None]:
    """Turn each ``OSError`` of the block into the `MedvlError` that fits, with ``where`` as its place."""
    try:
        yield
    except MedvlError:  # some of these are OSErrors too, and already say more than could be said here
        raise
    except OSError as error:
        kind, what, remedy = _MEANING.get(error.errno, _UNKNOWN)
        raise kind(f"{what} ({error.strerror or error})", where=str(where), remedy=remedy) from error
