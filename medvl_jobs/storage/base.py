"""What a store must do: ten byte-level methods, the same on a directory and on S3.

A key is a relative POSIX path (``prepared/ab12/card.json``). A store never knows what the bytes mean: JSON, parquet and
manifests belong to the stages. Three promises hold on every backend, and one test suite checks them on all of them:

1. An object appears whole or not at all; a reader never sees half a write.
2. ``if_absent=True`` lets exactly one of several writers win; the others get ``False``.
3. Failures arrive as :mod:`medvl_jobs.errors`, never as the backend's own exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medvl_jobs.errors import DataError


@dataclass(frozen=True)
class ObjectStat:
    """Size and identity of one object."""

    bytes: int
    fingerprint: str
    """Changes when the content changes: ``sha256:…`` of the content on a directory, ``etag:…`` on S3."""


def refuse_above(limit: int, size: int, where: str) -> None:
    """Raises `DataError` when an object has more than ``limit`` bytes."""
    if size > limit:
        raise DataError(f"it has {size} bytes, more than {limit}", where=where, remedy="take it out of the source")


class Storage(Protocol):
    """Bytes under keys. All methods raise `AccessDeniedError` and `TryAgainError` besides what they name."""

    @property
    def uri(self) -> str:
        """Where this store lies, as the user wrote it: ``s3://bucket/prefix`` or an absolute directory."""
        ...

    def read_bytes(self, key: str, *, limit: int | None = None) -> bytes:
        """The whole object. Raises `MissingInputError` when there is none.

        Raises `DataError` when it has more than ``limit`` bytes, of which none is read then.
        """
        ...

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write the object; with ``if_absent`` only when there is none. Returns whether it was written."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a local file, creating its folder. Raises `MissingInputError`."""
        ...

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file into the object. Raises `MissingInputError` when the file does not exist."""
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """Size and identity of the object, or ``None`` when there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        ...

    def list_keys(self, prefix: str) -> Iterator[str]:
        """All keys that start with ``prefix``, sorted; a prefix that holds nothing yields nothing."""
        ...

    def list_stats(self, prefix: str) -> Iterator[tuple[str, ObjectStat]]:
        """The keys of `list_keys`, each with what `stat` says of it: on S3 one request for a thousand objects."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; removing what is not there is not an error."""
        ...
