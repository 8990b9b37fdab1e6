"""Whether a store does what the stages will ask of it, tried before anything expensive is started."""

from __future__ import annotations

import uuid

from medvl_jobs.contracts import layout
from medvl_jobs.errors import SchemaMismatchError
from medvl_jobs.storage.base import Storage


def probe(storage: Storage) -> None:
    """Write, write again on condition, read, list and delete one small object. Raises what the store raises.

    Raises `SchemaMismatchError` when the store lets two writers win where only one may: two jobs would overwrite each
    other's results.
    """
    key = layout.probe(uuid.uuid4().hex)
    storage.write_bytes(key, b"first", if_absent=True)
    try:
        second = storage.write_bytes(key, b"second", if_absent=True)
        if second or storage.read_bytes(key) != b"first" or list(storage.list_keys(key)) != [key]:
            raise SchemaMismatchError(
                "the store does not keep its promises: an object was overwritten that was to be written once",
                where=f"{storage.uri}/{key}",
                remedy="use a server that honours 'If-None-Match: *' on PutObject",
            )
    finally:
        storage.delete(key)
