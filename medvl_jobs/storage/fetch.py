"""An object as a local file, for what can only read files."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvl_jobs.storage.base import Storage
from medvl_jobs.storage.local import LocalStorage


@contextmanager
def fetched(storage: Storage, key: str, scratch: Path) -> Iterator[Path]:
    """The object's own file in a local store, else a copy in ``scratch`` that goes away with the block.

    Only to be read. Raises `MissingInputError`, of a local store only when the file is opened.
    """
    if isinstance(storage, LocalStorage):
        yield Path(storage.uri) / key
        return
    path = scratch / f"fetched-{uuid.uuid4().hex}"
    try:
        storage.download(key, path)
        yield path
    finally:
        path.unlink(missing_ok=True)
